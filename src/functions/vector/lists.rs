//! Columns of vectors: lists of numbers, whatever the list and the number.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeListArray, Float32Array, GenericListArray, OffsetSizeTrait,
    PrimitiveArray, new_null_array,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float16Type, Float32Type, Int8Type, UInt8Type};
use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use half::slice::HalfFloatSliceExt;

use crate::files::item;

/// What the type of a column says of its vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    /// One number of a vector.
    pub(super) item: FieldRef,
    pub(super) list: List,
}

/// How many numbers the vectors of a column have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// All of them so many.
    Fixed(i32),
    /// Each its own.
    Variable,
    /// Each its own, with 64-bit offsets.
    Large,
}

impl Kind {
    /// `None` for what is no list of numbers.
    pub(super) fn of(data_type: &DataType) -> Option<Self> {
        let item = item(data_type)?;
        let list = match data_type {
            DataType::FixedSizeList(_, length) => List::Fixed(*length),
            DataType::List(_) => List::Variable,
            _ => List::Large,
        };
        let is_number = item.data_type().is_numeric() || item.data_type().is_null();
        is_number.then(|| Self { item: Arc::clone(item), list })
    }

    pub(super) fn data_type(&self) -> DataType {
        let item = Arc::clone(&self.item);
        match self.list {
            List::Fixed(length) => DataType::FixedSizeList(item, length),
            List::Variable => DataType::List(item),
            List::Large => DataType::LargeList(item),
        }
    }

    /// The same with other numbers.
    pub(super) fn with_numbers(&self, numbers: DataType) -> Self {
        let item = if *self.item.data_type() == numbers {
            Arc::clone(&self.item)
        } else {
            Arc::new(Field::new(self.item.name(), numbers, self.item.is_nullable()))
        };
        Self { item, list: self.list }
    }

    /// Whether vectors of the type are computed in f64: where f32 cannot hold their numbers.
    pub(super) fn is_double(&self) -> bool {
        use DataType::{Float16, Float32, Int8, Int16, Null, UInt8, UInt16};
        !matches!(self.item.data_type(), Null | Float16 | Float32 | Int8 | UInt8 | Int16 | UInt16)
    }

    /// The numbers that it is computed in.
    pub(super) fn working(&self) -> DataType {
        if self.is_double() { DataType::Float64 } else { DataType::Float32 }
    }

    /// What two vectors make together, place by place: as many numbers as either says there are, of the type of both or of the
    /// one that is computed in.
    pub(super) fn joined(&self, other: &Self) -> Self {
        let list = match (self.list, other.list) {
            (List::Fixed(length), _) | (_, List::Fixed(length)) => List::Fixed(length),
            (List::Large, _) | (_, List::Large) => List::Large,
            _ => List::Variable,
        };
        let numbers = if self.item.data_type() == other.item.data_type() {
            self.item.data_type().clone()
        } else if self.is_double() {
            self.working()
        } else {
            other.working()
        };
        Self { list, ..self.with_numbers(numbers) }
    }
}

/// One argument of a function: a column of lists, or one list for every row.
struct Lists {
    lists: ArrayRef,
    is_constant: bool,
}

impl Lists {
    fn of_argument(argument: &ColumnarValue) -> Result<Self> {
        Ok(match argument {
            ColumnarValue::Array(lists) => Self { lists: Arc::clone(lists), is_constant: false },
            ColumnarValue::Scalar(value) => Self { lists: value.to_array()?, is_constant: true },
        })
    }

    /// What the rows have in their lists, and the first of it by the count of all: a batch may be a few rows of a long column.
    fn used(&self) -> Result<(ArrayRef, usize)> {
        fn between<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> (&ArrayRef, Range<usize>) {
            let offsets = lists.value_offsets();
            (lists.values(), offsets[0].as_usize()..offsets[lists.len()].as_usize())
        }
        let (values, range) = match self.lists.data_type() {
            DataType::FixedSizeList(_, _) => {
                let lists = self.lists.as_fixed_size_list();
                let start = lists.value_offset(0) as usize;
                (lists.values(), start..start + lists.len() * lists.value_length() as usize)
            }
            DataType::List(_) => between(self.lists.as_list::<i32>()),
            DataType::LargeList(_) => between(self.lists.as_list::<i64>()),
            other => return exec_err!("{other} is not a list"),
        };
        Ok((values.slice(range.start, range.len()), range.start))
    }

    /// Where the values of a row are by the count of all; `None` for NULL.
    fn row(&self, row: usize) -> Option<Range<usize>> {
        fn between<O: OffsetSizeTrait>(lists: &GenericListArray<O>, row: usize) -> Range<usize> {
            let offsets = lists.value_offsets();
            offsets[row].as_usize()..offsets[row + 1].as_usize()
        }
        let row = if self.is_constant { 0 } else { row };
        if self.lists.is_null(row) {
            return None;
        }
        Some(match self.lists.data_type() {
            DataType::FixedSizeList(_, _) => {
                let lists = self.lists.as_fixed_size_list();
                let start = lists.value_offset(row) as usize;
                start..start + lists.value_length() as usize
            }
            DataType::List(_) => between(self.lists.as_list::<i32>(), row),
            _ => between(self.lists.as_list::<i64>(), row),
        })
    }
}

/// One argument of a function: a column of vectors, or one vector for every row, with its numbers as `T`.
pub(super) struct Vectors<T: ArrowPrimitiveType> {
    lists: Lists,
    /// All numbers, and the first of them by the list's own count.
    values: PrimitiveArray<T>,
    first: usize,
    /// How many each row has, where the rows lie one after the other without a NULL among their numbers.
    width: Option<usize>,
}

impl<T: ArrowPrimitiveType> Vectors<T> {
    pub(super) fn of_argument(argument: &ColumnarValue) -> Result<Self> {
        Self::of(Lists::of_argument(argument)?)
    }

    pub(super) fn of_column(column: &ArrayRef) -> Result<Self> {
        Self::of(Lists { lists: Arc::clone(column), is_constant: false })
    }

    fn of(lists: Lists) -> Result<Self> {
        let (values, first) = lists.used()?;
        let values = read(&values, &T::DATA_TYPE)?.as_primitive::<T>().clone();
        let width = match lists.lists.data_type() {
            DataType::FixedSizeList(_, length) => Some(*length as usize),
            _ if lists.is_constant => Some(values.len()),
            _ => None,
        };
        let width = width.filter(|_| values.null_count() == 0);
        Ok(Self { lists, values, first, width })
    }

    /// The vector of a row; `None` for NULL.
    pub(super) fn get(&self, row: usize) -> Result<Option<&[T::Native]>> {
        if let Some(width) = self.width {
            let row = if self.is_constant() { 0 } else { row };
            let is_there = self.nulls().is_none_or(|nulls| nulls.is_valid(row));
            return Ok(is_there.then(|| &self.values.values()[row * width..][..width]));
        }
        let Some(Range { start, end }) = self.lists.row(row) else { return Ok(None) };
        let (start, end) = (start - self.first, end - self.first);
        if let Some(nulls) = self.values.nulls().filter(|nulls| nulls.null_count() > 0)
            && nulls.slice(start, end - start).null_count() > 0
        {
            return exec_err!("a vector has a NULL among its values");
        }
        Ok(Some(&self.values.values()[start..end]))
    }

    /// All numbers of the rows one after the other and how many each row has, where that is how they lie and no vector has a NULL
    /// among them; a row that is NULL has any.
    pub(super) fn block(&self) -> Option<(&[T::Native], usize)> {
        Some((self.values.values().as_ref(), self.width?))
    }

    pub(super) fn nulls(&self) -> Option<&NullBuffer> {
        self.lists.lists.nulls()
    }

    pub(super) fn is_constant(&self) -> bool {
        self.lists.is_constant
    }
}

/// Numbers of another type. Arrow's cast looks at each whether it fits; where all do, this takes a fifth to a tenth of its time.
fn read(numbers: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    Ok(match (numbers.data_type(), to) {
        (DataType::Float16, DataType::Float32) => {
            let numbers = numbers.as_primitive::<Float16Type>();
            let mut wide = vec![0.0; numbers.len()];
            numbers.values().convert_to_f32_slice(&mut wide);
            Arc::new(Float32Array::new(wide.into(), numbers.nulls().cloned()))
        }
        (DataType::Int8, DataType::Float32) => {
            Arc::new(numbers.as_primitive::<Int8Type>().unary::<_, Float32Type>(f32::from))
        }
        (DataType::UInt8, DataType::Float32) => {
            Arc::new(numbers.as_primitive::<UInt8Type>().unary::<_, Float32Type>(f32::from))
        }
        _ => cast(numbers, to)?,
    })
}

/// One argument of a function: two vectors for each row, or two for every row.
pub(super) struct Pairs {
    lists: Lists,
    /// All vectors, and the first of them by the list's own count.
    vectors: Vectors<Float32Type>,
    first: usize,
}

impl Pairs {
    pub(super) fn of_argument(argument: &ColumnarValue) -> Result<Self> {
        let lists = Lists::of_argument(argument)?;
        let (vectors, first) = lists.used()?;
        Ok(Self { lists, vectors: Vectors::of_column(&vectors)?, first })
    }

    /// The two of a row; `None` for NULL.
    pub(super) fn get(&self, row: usize) -> Result<Option<(&[f32], &[f32])>> {
        let Some(Range { start, end }) = self.lists.row(row) else { return Ok(None) };
        if end - start != 2 {
            return exec_err!("a list of {} vectors where two are wanted", end - start);
        }
        let start = start - self.first;
        match (self.vectors.get(start)?, self.vectors.get(start + 1)?) {
            (Some(a), Some(b)) => Ok(Some((a, b))),
            _ => exec_err!("a NULL where two vectors are wanted"),
        }
    }
}

/// A column of vectors that is made row by row.
pub(super) struct Made<T: ArrowPrimitiveType> {
    kind: Kind,
    values: Vec<T::Native>,
    ends: Vec<usize>,
    valid: Vec<bool>,
    numbers: PhantomData<T>,
}

impl<T: ArrowPrimitiveType> Made<T> {
    pub(super) fn new(kind: Kind, rows: usize) -> Self {
        let width = if let List::Fixed(length) = kind.list { length as usize } else { 0 };
        Self {
            kind,
            values: Vec::with_capacity(rows * width),
            ends: Vec::with_capacity(rows),
            valid: Vec::with_capacity(rows),
            numbers: PhantomData,
        }
    }

    /// The column of so many rows: `row` adds the numbers of one, or says that it is NULL.
    pub(super) fn filled(
        mut self,
        rows: usize,
        mut row: impl FnMut(usize, &mut Vec<T::Native>) -> Result<bool>,
    ) -> Result<ArrayRef> {
        for number in 0..rows {
            if row(number, &mut self.values)? {
                self.end_row();
            } else {
                self.null();
            }
        }
        self.finish()
    }

    /// What was added to the values since the last row is a row.
    fn end_row(&mut self) {
        self.ends.push(self.values.len());
        self.valid.push(true);
    }

    fn null(&mut self) {
        if let List::Fixed(length) = self.kind.list {
            self.values.resize(self.values.len() + length as usize, T::Native::default());
        }
        self.ends.push(self.values.len());
        self.valid.push(false);
    }

    /// The column, its numbers in the type that they have there, rounded to it.
    fn finish(self) -> Result<ArrayRef> {
        let values: ArrayRef = Arc::new(PrimitiveArray::<T>::new(self.values.into(), None));
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let numbers = self.kind.item.data_type();
        let values = match numbers {
            // Of `[]`, which has none.
            DataType::Null => new_null_array(numbers, values.len()),
            _ => cast_with_options(&values, numbers, &options)
                .map_err(|error| exec_datafusion_err!("a number is beyond what {numbers} can be ({error})"))?,
        };
        let (item, nulls) = (Arc::clone(&self.kind.item), NullBuffer::from(self.valid));
        let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
        let lengths = || {
            let starts = std::iter::once(0).chain(self.ends.iter().copied());
            self.ends.iter().zip(starts).map(|(end, start)| end - start)
        };
        Ok(match self.kind.list {
            List::Fixed(length) => {
                let rows = self.ends.len();
                Arc::new(FixedSizeListArray::try_new_with_length(item, length, values, nulls, rows)?)
            }
            List::Variable => {
                Arc::new(GenericListArray::<i32>::try_new(item, OffsetBuffer::from_lengths(lengths()), values, nulls)?)
            }
            List::Large => {
                Arc::new(GenericListArray::<i64>::try_new(item, OffsetBuffer::from_lengths(lengths()), values, nulls)?)
            }
        })
    }
}

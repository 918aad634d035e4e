//! Vectors to vectors, place by place: of the same type, wherever that can hold the numbers.

use std::ops::{Add, Mul, Sub};

use datafusion::arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, PrimitiveArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt64Type};
use datafusion::common::{ScalarValue, exec_datafusion_err, exec_err, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::lists::{Kind, List, Made, Vectors};
use super::measures::{Number, norm};
use crate::kernels::Path;

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Scale,
    Normalize,
    Slice,
}

impl Arithmetic {
    /// The type of the vectors that are made; `scalars` are the arguments that are literals.
    pub(super) fn return_kind(self, kinds: &[Kind], scalars: &[Option<&ScalarValue>]) -> Result<Kind> {
        let kind = &kinds[0];
        match self {
            Self::Add | Self::Subtract | Self::Multiply => {
                let other = &kinds[1];
                match (kind.list, other.list) {
                    (List::Fixed(a), List::Fixed(b)) if a != b => {
                        plan_err!("vectors of {a} and of {b} values do not go together")
                    }
                    _ => Ok(kind.joined(other)),
                }
            }
            // Bytes that are scaled are no bytes.
            Self::Scale | Self::Normalize if kind.item.data_type().is_floating() => Ok(kind.clone()),
            Self::Scale | Self::Normalize => Ok(kind.with_numbers(kind.working())),
            Self::Slice => match kind.list {
                List::Fixed(length) => sliced_kind(kind, length, scalars),
                _ => Ok(kind.clone()),
            },
        }
    }

    /// One vector of the kind for each of so many rows.
    pub(super) fn column(self, args: &[ColumnarValue], kinds: &[Kind], kind: &Kind, rows: usize) -> Result<ArrayRef> {
        match (self, kind.item.data_type()) {
            // Every digit stays, where Float64 has none for it.
            (_, DataType::Int64) => return self.made_exactly::<Int64Type>(args, kind, rows),
            (_, DataType::UInt64) => return self.made_exactly::<UInt64Type>(args, kind, rows),
            _ => {}
        }
        if kind.is_double() || kinds.iter().any(Kind::is_double) {
            self.made::<Float64Type>(args, kind, rows)
        } else {
            self.made::<Float32Type>(args, kind, rows)
        }
    }

    fn made<T: ArrowPrimitiveType<Native: Number>>(
        self,
        args: &[ColumnarValue],
        kind: &Kind,
        rows: usize,
    ) -> Result<ArrayRef> {
        let (vectors, made) = (Vectors::<T>::of_argument(&args[0])?, Made::<T>::new(kind.clone(), rows));
        match self {
            Self::Add => pairs(&vectors, &args[1], rows, made, each(T::Native::add)),
            Self::Subtract => pairs(&vectors, &args[1], rows, made, each(T::Native::sub)),
            Self::Multiply => pairs(&vectors, &args[1], rows, made, each(T::Native::mul)),
            Self::Scale => {
                let factors = cast(&args[1].to_array(rows)?, &T::DATA_TYPE)?;
                let factors: &PrimitiveArray<T> = factors.as_primitive();
                made.filled(rows, |row, values| {
                    let Some(vector) = vectors.get(row)?.filter(|_| factors.is_valid(row)) else { return Ok(false) };
                    let factor = factors.value(row);
                    values.extend(vector.iter().map(|&x| x * factor));
                    Ok(true)
                })
            }
            Self::Normalize => {
                let path = Path::chosen()?;
                made.filled(rows, |row, values| {
                    let Some(vector) = vectors.get(row)? else { return Ok(false) };
                    let length = norm(path, vector);
                    // A vector of zeros has no direction, and stays what it is.
                    let is_zero = length == T::Native::default();
                    values.extend(vector.iter().map(|&x| if is_zero { x } else { x / length }));
                    Ok(true)
                })
            }
            Self::Slice => sliced::<T>(args, kind, rows),
        }
    }

    /// Of whole numbers, which are an error beyond their type.
    fn made_exactly<T: ArrowPrimitiveType>(self, args: &[ColumnarValue], kind: &Kind, rows: usize) -> Result<ArrayRef> {
        let operator = match self {
            Self::Add => T::Native::add_checked,
            Self::Subtract => T::Native::sub_checked,
            Self::Multiply => T::Native::mul_checked,
            Self::Slice => return sliced::<T>(args, kind, rows),
            Self::Scale | Self::Normalize => return internal_err!("vectors of {} that are scaled", T::DATA_TYPE),
        };
        let joined = |a: &[T::Native], b: &[T::Native], values: &mut Vec<T::Native>| {
            for (&x, &y) in a.iter().zip(b) {
                let beyond =
                    |_| exec_datafusion_err!("a number is beyond what {} can be ({x:?} and {y:?})", T::DATA_TYPE);
                values.push(operator(x, y).map_err(beyond)?);
            }
            Ok(())
        };
        pairs(&Vectors::<T>::of_argument(&args[0])?, &args[1], rows, Made::<T>::new(kind.clone(), rows), joined)
    }
}

/// Floats of two vectors, place by place.
fn each<N: Copy>(join: impl Fn(N, N) -> N) -> impl Fn(&[N], &[N], &mut Vec<N>) -> Result<()> {
    move |a, b, values| {
        values.extend(a.iter().zip(b).map(|(&x, &y)| join(x, y)));
        Ok(())
    }
}

/// The slices of vectors of a fixed length: `start` and `count` decide their type.
fn sliced_kind(kind: &Kind, length: i32, scalars: &[Option<&ScalarValue>]) -> Result<Kind> {
    let (Some(Some(start)), Some(Some(count))) = (scalars.get(1), scalars.get(2)) else {
        return plan_err!(
            "start and count are literals where vectors have a fixed length, because they decide the type"
        );
    };
    let list = match (whole(start), whole(count)) {
        (Some(start), Some(count)) => range(start, count, length as usize)?.len(),
        // NULL.
        _ => 0,
    };
    // Arrow loses rows of vectors that have a fixed length of 0.
    let list = if list == 0 { List::Variable } else { List::Fixed(list as i32) };
    Ok(Kind { list, ..kind.clone() })
}

/// So many values of each vector from a start, as far as there are any.
fn sliced<T: ArrowPrimitiveType>(args: &[ColumnarValue], kind: &Kind, rows: usize) -> Result<ArrayRef> {
    let vectors = Vectors::<T>::of_argument(&args[0])?;
    let (starts, counts) = (whole_column(&args[1], rows)?, whole_column(&args[2], rows)?);
    let (starts, counts) = (starts.as_primitive::<Int64Type>(), counts.as_primitive::<Int64Type>());
    Made::<T>::new(kind.clone(), rows).filled(rows, |row, values| {
        let is_known = starts.is_valid(row) && counts.is_valid(row);
        let Some(vector) = vectors.get(row)?.filter(|_| is_known) else { return Ok(false) };
        values.extend_from_slice(&vector[range(starts.value(row), counts.value(row), vector.len())?]);
        Ok(true)
    })
}

/// Two vectors of each row.
fn pairs<T: ArrowPrimitiveType>(
    vectors: &Vectors<T>,
    others: &ColumnarValue,
    rows: usize,
    made: Made<T>,
    join: impl Fn(&[T::Native], &[T::Native], &mut Vec<T::Native>) -> Result<()>,
) -> Result<ArrayRef> {
    let others = Vectors::<T>::of_argument(others)?;
    made.filled(rows, |row, values| {
        let (Some(a), Some(b)) = (vectors.get(row)?, others.get(row)?) else { return Ok(false) };
        if a.len() != b.len() {
            return exec_err!("vectors of {} and of {} values do not go together", a.len(), b.len());
        }
        join(a, b, values)?;
        Ok(true)
    })
}

/// The places of a slice, from 0: `count` of them from `start`, which counts from 1, as far as there are any.
fn range(start: i64, count: i64, length: usize) -> Result<std::ops::Range<usize>> {
    if count < 0 {
        return exec_err!("{count} is no number of values");
    }
    let end = start.saturating_add(count).saturating_sub(1).clamp(0, length as i64) as usize;
    let start = start.saturating_sub(1).clamp(0, length as i64) as usize;
    Ok(start.min(end)..end)
}

/// The whole number of a literal; `None` for NULL.
fn whole(value: &ScalarValue) -> Option<i64> {
    match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(number) => number,
        _ => None,
    }
}

fn whole_column(argument: &ColumnarValue, rows: usize) -> Result<ArrayRef> {
    Ok(cast(&argument.to_array(rows)?, &DataType::Int64)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_as_far_as_there_is_something() {
        let of = |start, count| range(start, count, 5).map_err(|error| error.to_string());
        assert_eq!(of(1, 3), Ok(0..3));
        assert_eq!(of(4, 9), Ok(3..5));
        // As in substr, what lies before the first counts.
        assert_eq!(of(-1, 3), Ok(0..1));
        assert_eq!(of(6, 2), Ok(5..5));
        assert_eq!(of(i64::MAX, i64::MAX), Ok(5..5));
        assert_eq!(of(i64::MIN, 1), Ok(0..0));
        assert!(of(1, -1).is_err());
    }
}

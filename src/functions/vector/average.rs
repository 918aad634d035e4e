//! `vector_avg` and `vector_sum`: many vectors to one, added up in Float64.

use std::collections::HashSet;
use std::mem::{size_of, take};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, UInt64Type};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, DocSection, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
};

use super::Argument;
use super::lists::{Kind, Made, Vectors};
use crate::kernels::{Path, add_to_sum};

/// One of the two functions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct VectorTotal {
    is_average: bool,
    signature: Signature,
}

impl VectorTotal {
    pub(crate) fn average() -> Self {
        Self::new(true)
    }

    pub(crate) fn sum() -> Self {
        Self::new(false)
    }

    fn new(is_average: bool) -> Self {
        Self { is_average, signature: super::signature([Argument::Vector]) }
    }

    /// The vectors that are made of those of a type: Float64 of what is computed in it, else Float32.
    fn made(&self, types: &[DataType]) -> Result<Kind> {
        let kind = super::vectors_of(self.name(), types)?;
        Ok(kind.with_numbers(kind.working()))
    }

    fn totals(&self, return_field: &Field) -> Result<Totals> {
        match Kind::of(return_field.data_type()) {
            Some(made) => {
                Ok(Totals { name: self.name().to_owned(), is_average: self.is_average, made, groups: Vec::new() })
            }
            None => exec_err!("{} of {}", self.name(), return_field.data_type()),
        }
    }
}

impl AggregateUDFImpl for VectorTotal {
    fn name(&self) -> &str {
        if self.is_average { "vector_avg" } else { "vector_sum" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(super::coerced_vectors(types))
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(self.made(types)?.data_type())
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let sum = DataType::new_list(DataType::Float64, true);
        let field = |name: &str, data_type| Arc::new(Field::new(format!("{}[{name}]", args.name), data_type, true));
        Ok(if args.is_distinct {
            vec![field("vectors", DataType::new_list(sum, true))]
        } else {
            vec![field("sum", sum), field("count", DataType::UInt64)]
        })
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let totals = self.totals(&args.return_field)?;
        Ok(if args.is_distinct {
            Box::new(Distinct { totals, seen: HashSet::new() })
        } else {
            Box::new(One { totals })
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.totals(&args.return_field)?))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn documentation(&self) -> Option<&Documentation> {
        static AVERAGE: std::sync::LazyLock<Documentation> = std::sync::LazyLock::new(|| documentation(true));
        static SUM: std::sync::LazyLock<Documentation> = std::sync::LazyLock::new(|| documentation(false));
        Some(if self.is_average { &AVERAGE } else { &SUM })
    }
}

fn documentation(is_average: bool) -> Documentation {
    let (name, what, example) = match is_average {
        true => ("vector_avg", "average", "[2,3]"),
        false => ("vector_sum", "sum", "[4,6]"),
    };
    let description = format!(
        "The {what} of vectors of one length, place by place, added up in Float64: Float64 where they are, else Float32. NULL vectors \
         are left out; no vector gives NULL; vectors of different lengths are an error."
    );
    let section = DocSection { include: true, label: "Vector Functions", description: None };
    let example = format!(
        "SELECT vector_text({name}(v)) FROM (VALUES (vector('[1,2]')), (vector('[3,4]'))) AS t(v); -- {example}"
    );
    Documentation::builder(section, description, format!("{name}(vector)"))
        .with_sql_example(format!("```sql\n{example}\n```"))
        .with_argument("vector", "a list of numbers")
        .build()
}

/// One sum for each group.
#[derive(Debug)]
struct Totals {
    name: String,
    is_average: bool,
    made: Kind,
    groups: Vec<Total>,
}

/// Of one group.
#[derive(Debug, Default)]
struct Total {
    sum: Vec<f64>,
    count: u64,
}

impl Total {
    /// The sum, as long as a vector that is now to be added or taken off.
    fn sum_for(&mut self, name: &str, length: usize) -> Result<&mut [f64]> {
        if self.count == 0 {
            self.sum.clear();
            self.sum.resize(length, 0.0);
        }
        if self.sum.len() != length {
            return exec_err!("{name}: vectors of {} and of {length} values in one group", self.sum.len());
        }
        Ok(&mut self.sum)
    }
}

impl Totals {
    /// Calls `take` with each vector of some rows that counts, in the numbers that it is computed in.
    fn each(
        &mut self,
        column: &ArrayRef,
        rows: impl Iterator<Item = usize>,
        mut take: impl FnMut(&mut Self, usize, Numbers<'_>) -> Result<()>,
    ) -> Result<()> {
        let is_double = Kind::of(column.data_type()).is_some_and(|kind| kind.is_double());
        if is_double {
            let vectors = Vectors::<Float64Type>::of_column(column)?;
            for row in rows {
                if let Some(vector) = vectors.get(row)? {
                    take(self, row, Numbers::Double(vector))?;
                }
            }
        } else {
            let vectors = Vectors::<Float32Type>::of_column(column)?;
            for row in rows {
                if let Some(vector) = vectors.get(row)? {
                    take(self, row, Numbers::Single(vector))?;
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        column: &ArrayRef,
        rows: impl Iterator<Item = usize>,
        group_of: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let path = Path::chosen()?;
        self.each(column, rows, |totals, row, vector| {
            let total = &mut totals.groups[group_of(row)];
            vector.add_to(path, total.sum_for(&totals.name, vector.len())?);
            total.count += 1;
            Ok(())
        })
    }

    /// Adds sums of groups to sums of groups.
    fn merge(&mut self, states: &[ArrayRef], group_of: impl Fn(usize) -> usize) -> Result<()> {
        let path = Path::chosen()?;
        let counts = states[1].as_primitive::<UInt64Type>().clone();
        self.each(&states[0], 0..counts.len(), |totals, row, vector| {
            let count = counts.value(row);
            if count > 0 {
                let total = &mut totals.groups[group_of(row)];
                vector.add_to(path, total.sum_for(&totals.name, vector.len())?);
                total.count += count;
            }
            Ok(())
        })
    }

    /// What the function gives for some groups.
    fn values(&self, groups: &[Total]) -> Result<ArrayRef> {
        Made::<Float64Type>::new(self.made.clone(), groups.len()).filled(groups.len(), |group, values| {
            let Total { sum, count } = &groups[group];
            if *count == 0 {
                return Ok(false);
            }
            let divisor = if self.is_average { *count as f64 } else { 1.0 };
            values.extend(sum.iter().map(|x| x / divisor));
            Ok(true)
        })
    }
}

/// A vector in the numbers that it is computed in.
#[derive(Clone, Copy)]
enum Numbers<'a> {
    Single(&'a [f32]),
    Double(&'a [f64]),
}

impl Numbers<'_> {
    fn len(self) -> usize {
        match self {
            Self::Single(vector) => vector.len(),
            Self::Double(vector) => vector.len(),
        }
    }

    fn add_to(self, path: Path, sum: &mut [f64]) {
        match self {
            Self::Single(vector) => add_to_sum(path, sum, vector),
            Self::Double(vector) => add_to_sum(path, sum, vector),
        }
    }

    fn widened(self) -> Vec<f64> {
        match self {
            Self::Single(vector) => vector.iter().map(|&x| f64::from(x)).collect(),
            Self::Double(vector) => vector.to_vec(),
        }
    }
}

/// The sums and counts of groups, as the next phase takes them.
fn states(groups: Vec<Total>) -> Vec<ArrayRef> {
    let counts = UInt64Array::from_iter_values(groups.iter().map(|total| total.count));
    let sums = ListArray::from_iter_primitive::<Float64Type, _, _>(
        groups.into_iter().map(|total| (total.count > 0).then(|| total.sum.into_iter().map(Some))),
    );
    vec![Arc::new(sums), Arc::new(counts)]
}

impl GroupsAccumulator for Totals {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Total::default);
        let counts = |row: &usize| opt_filter.is_none_or(|filter| filter.is_valid(*row) && filter.value(*row));
        self.add(&values[0], (0..values[0].len()).filter(counts), |row| group_indices[row])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        self.values(&groups)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(states(emit_to.take_needed(&mut self.groups)))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.groups.resize_with(total_num_groups, Total::default);
        self.merge(values, |row| group_indices[row])
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut each =
            Self { name: self.name.clone(), is_average: self.is_average, made: self.made.clone(), groups: Vec::new() };
        let groups: Vec<usize> = (0..rows).collect();
        each.update_batch(values, &groups, opt_filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        let sums: usize = self.groups.iter().map(|total| total.sum.capacity() * size_of::<f64>()).sum();
        self.groups.capacity() * size_of::<Total>() + sums
    }
}

/// The same for one group, from which rows of a window are taken off again.
#[derive(Debug)]
struct One {
    totals: Totals,
}

impl One {
    fn total(&mut self) -> &mut Total {
        self.totals.groups.resize_with(1, Total::default);
        &mut self.totals.groups[0]
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.total();
        self.totals.add(&values[0], 0..values[0].len(), |_| 0)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.total();
        ScalarValue::try_from_array(&self.totals.values(&self.totals.groups)?, 0)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + GroupsAccumulator::size(&self.totals)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let total = take(self.total());
        states(vec![total]).iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.total();
        self.totals.merge(states, |_| 0)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.total();
        self.totals.each(&values[0], 0..values[0].len(), |totals, _, vector| {
            let total = &mut totals.groups[0];
            let sum = total.sum_for(&totals.name, vector.len())?;
            sum.iter_mut().zip(vector.widened()).for_each(|(sum, x)| *sum -= x);
            total.count -= 1;
            Ok(())
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}

/// The same for vectors that count once, whatever their number.
#[derive(Debug)]
struct Distinct {
    totals: Totals,
    /// The bits of their numbers in Float64, -0 as 0.
    seen: HashSet<Vec<u64>>,
}

impl Distinct {
    fn see(&mut self, column: &ArrayRef) -> Result<()> {
        let seen = &mut self.seen;
        self.totals.each(column, 0..column.len(), |_, _, vector| {
            seen.insert(vector.widened().into_iter().map(|x| (x + 0.0).to_bits()).collect());
            Ok(())
        })
    }
}

impl Accumulator for Distinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.see(&values[0])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut total = Total::default();
        // In an order that does not depend on hashes, because sums of floats do.
        let mut vectors: Vec<&Vec<u64>> = self.seen.iter().collect();
        vectors.sort_unstable();
        for vector in vectors {
            let sum = total.sum_for(&self.totals.name, vector.len())?;
            sum.iter_mut().zip(vector).for_each(|(sum, bits)| *sum += f64::from_bits(*bits));
            total.count += 1;
        }
        ScalarValue::try_from_array(&self.totals.values(&[total])?, 0)
    }

    fn size(&self) -> usize {
        let vectors: usize =
            self.seen.iter().map(|vector| size_of::<Vec<u64>>() + vector.capacity() * size_of::<u64>()).sum();
        size_of::<Self>() + vectors
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let numbers = |vector: Vec<u64>| vector.into_iter().map(|bits| Some(f64::from_bits(bits))).collect::<Vec<_>>();
        let vectors = take(&mut self.seen).into_iter().map(|vector| Some(numbers(vector)));
        let vectors = ListArray::from_iter_primitive::<Float64Type, _, _>(vectors);
        let one = datafusion::common::utils::SingleRowListArrayBuilder::new(Arc::new(vectors));
        Ok(vec![one.build_list_scalar()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states[0].as_list::<i32>();
        (0..lists.len()).filter(|&row| lists.is_valid(row)).try_for_each(|row| self.see(&lists.value(row)))
    }
}

//! `int8_ranges(vector)`: the least and the greatest number at each place of many vectors, for `quantize_int8`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float32Type};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Documentation, ReversedUDAF, Signature};
use datafusion_macros::user_doc;

use super::Argument;
use super::lists::{Kind, Made, Vectors};
use crate::files::item;

/// The type of the vectors in a list of ranges.
pub(super) fn kind_of(ranges: &DataType) -> Option<Kind> {
    item(ranges).and_then(|vectors| Kind::of(vectors.data_type()))
}

#[user_doc(
    doc_section(label = "Vector Functions"),
    description = "The ranges of vectors, which `quantize_int8` takes: a list of two vectors of Float32, the least number at each \
place and the greatest. NULL vectors are left out, and so is NaN; no vector gives NULL; vectors of different lengths are an error.",
    syntax_example = "int8_ranges(vector)",
    sql_example = r#"```sql
SELECT int8_ranges(v) FROM (VALUES (vector('[1,5]')), (vector('[3,4]'))) AS t(v); -- [[1.0, 4.0], [3.0, 5.0]]
```"#,
    argument(name = "vector", description = "a list of numbers"),
    related_udf(name = "quantize_int8")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Int8Ranges {
    signature: Signature,
}

impl Int8Ranges {
    pub(crate) fn new() -> Self {
        Self { signature: super::signature([Argument::Vector]) }
    }
}

fn ranges_of(vectors: &Kind) -> DataType {
    DataType::new_list(vectors.with_numbers(DataType::Float32).data_type(), true)
}

impl AggregateUDFImpl for Int8Ranges {
    fn name(&self) -> &str {
        "int8_ranges"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(super::coerced_vectors(types))
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(ranges_of(&super::vectors_of(self.name(), types)?))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let name = format!("{}[ranges]", args.name);
        Ok(vec![Arc::new(Field::new(name, args.return_field.data_type().clone(), true))])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match kind_of(args.return_field.data_type()) {
            Some(made) => Ok(Box::new(Ends { made, ends: None })),
            None => exec_err!("int8_ranges of {}", args.return_field.data_type()),
        }
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

/// The least and the greatest number at each place so far.
#[derive(Debug)]
struct Ends {
    made: Kind,
    ends: Option<[Vec<f32>; 2]>,
}

impl Ends {
    fn widen(&mut self, column: &ArrayRef) -> Result<()> {
        let vectors = Vectors::<Float32Type>::of_column(column)?;
        for row in 0..column.len() {
            let Some(vector) = vectors.get(row)? else { continue };
            let [starts, ends] =
                self.ends.get_or_insert_with(|| [vec![f32::NAN; vector.len()], vec![f32::NAN; vector.len()]]);
            if starts.len() != vector.len() {
                return exec_err!(
                    "int8_ranges: vectors of {} and of {} values in one group",
                    starts.len(),
                    vector.len()
                );
            }
            // The smaller of a number and NaN is the number.
            starts.iter_mut().zip(vector).for_each(|(start, x)| *start = start.min(*x));
            ends.iter_mut().zip(vector).for_each(|(end, x)| *end = end.max(*x));
        }
        Ok(())
    }
}

impl Accumulator for Ends {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.widen(&values[0])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let Some(ends) = &self.ends else { return ScalarValue::try_new_null(&ranges_of(&self.made)) };
        let vectors = Made::<Float32Type>::new(self.made.clone(), ends.len()).filled(ends.len(), |row, values| {
            values.extend_from_slice(&ends[row]);
            Ok(true)
        })?;
        Ok(SingleRowListArrayBuilder::new(vectors).with_nullable(true).build_list_scalar())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.ends.iter().flatten().map(|ends| ends.capacity() * size_of::<f32>()).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    /// Ranges are as wide as the vectors that their ends are.
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states[0].as_list::<i32>();
        (0..lists.len()).filter(|&row| lists.is_valid(row)).try_for_each(|row| self.widen(&lists.value(row)))
    }
}

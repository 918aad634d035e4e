//! `cosine_similarity(a, b)`: the cosine of the angle between two vectors.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float32Array};
use datafusion::arrow::datatypes::{DataType, Field, Float32Type};
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion_macros::user_doc;

#[user_doc(
    doc_section(label = "Embedding Functions"),
    description = "Cosine of the angle between two vectors of equal length, from -1 to 1 (Float32). NULL gives NULL, \
different lengths are an error, a vector of zeros gives 0.",
    syntax_example = "cosine_similarity(a, b)",
    sql_example = r#"```sql
> SELECT title, cosine_similarity(embed(body), embed('cheap flights')) AS score
  FROM 'docs.parquet' ORDER BY score DESC NULLS LAST LIMIT 10;
```"#,
    argument(name = "a", description = "FixedSizeList, List or LargeList of numbers; Float32 is read as it is."),
    argument(name = "b", description = "The same."),
    related_udf(name = "embed")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CosineSimilarity {
    signature: Signature,
}

impl CosineSimilarity {
    pub(super) fn new() -> Self {
        let list = DataType::new_list(DataType::Float32, true);
        // UserDefined decides. Nullary lets a call without arguments reach our own error, and Exact is an example of a
        // call, without which SHOW FUNCTIONS would not list the function.
        let kinds = vec![TypeSignature::UserDefined, TypeSignature::Nullary, TypeSignature::Exact(vec![list; 2])];
        Self { signature: Signature::one_of(kinds, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for CosineSimilarity {
    fn name(&self) -> &str {
        "cosine_similarity"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// A wrong type stays as it is and is refused by [`Self::return_type`]: an error made here would be buried in
    /// DataFusion's list of candidate functions.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let coerced: Option<Vec<_>> = types.iter().map(coerce).collect();
        Ok(coerced.unwrap_or_else(|| types.to_vec()))
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [a, b] = types else {
            return plan_err!("cosine_similarity takes two vectors, got {} arguments", types.len());
        };
        for (number, data_type) in [(1, a), (2, b)] {
            if coerce(data_type).is_none() {
                return plan_err!("cosine_similarity: argument {number} is {data_type}, not a list of numbers");
            }
        }
        match (a, b) {
            // Known before a row is read: say so before a row is embedded.
            (DataType::FixedSizeList(_, a), DataType::FixedSizeList(_, b)) if a != b => {
                plan_err!("cosine_similarity: vectors of {a} and of {b} values cannot be compared")
            }
            _ => Ok(DataType::Float32),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { args.number_rows };
        let (a, b) = (Vectors::new(&args.args[0])?, Vectors::new(&args.args[1])?);
        let scores = (0..rows).map(|row| match (a.get(row), b.get(row)) {
            (Some(a), Some(b)) => cosine(a, b).map(Some),
            _ => Ok(None),
        });
        let scores: Float32Array = scores.collect::<Result<_>>()?;
        if all_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&scores, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(scores)))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

/// The type in which an argument is read: lists of Float32 as they are, other lists of numbers cast to them; `None` for
/// anything else.
fn coerce(data_type: &DataType) -> Option<DataType> {
    let float = |item: &Field| Arc::new(item.clone().with_data_type(DataType::Float32));
    match data_type {
        DataType::Null => Some(DataType::new_list(DataType::Float32, true)),
        DataType::FixedSizeList(item, _) if *item.data_type() == DataType::Float32 => Some(data_type.clone()),
        // DataFusion casts a FixedSizeList of other numbers to a List, not to another FixedSizeList.
        DataType::FixedSizeList(item, _) | DataType::List(item) if is_number(item.data_type()) => {
            Some(DataType::List(float(item)))
        }
        DataType::LargeList(item) if is_number(item.data_type()) => Some(DataType::LargeList(float(item))),
        _ => None,
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric() || data_type.is_null()
}

/// One argument: a column of vectors, or one vector for every row.
struct Vectors {
    lists: ArrayRef,
    values: Float32Array,
    constant: bool,
}

impl Vectors {
    fn new(argument: &ColumnarValue) -> Result<Self> {
        let (lists, constant) = match argument {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let values = match lists.data_type() {
            DataType::FixedSizeList(_, _) => lists.as_fixed_size_list().values(),
            DataType::List(_) => lists.as_list::<i32>().values(),
            DataType::LargeList(_) => lists.as_list::<i64>().values(),
            other => return exec_err!("cosine_similarity: {other} is not a list"),
        };
        let values = values.as_primitive::<Float32Type>().clone();
        Ok(Self { lists, values, constant })
    }

    /// The vector of a row; `None` for NULL.
    fn get(&self, row: usize) -> Option<Vector<'_>> {
        let row = if self.constant { 0 } else { row };
        if self.lists.is_null(row) {
            return None;
        }
        let (start, end) = match self.lists.data_type() {
            DataType::FixedSizeList(_, _) => {
                let lists = self.lists.as_fixed_size_list();
                (lists.value_offset(row) as usize, (lists.value_offset(row) + lists.value_length()) as usize)
            }
            DataType::List(_) => {
                let offsets = self.lists.as_list::<i32>().value_offsets();
                (offsets[row] as usize, offsets[row + 1] as usize)
            }
            _ => {
                let offsets = self.lists.as_list::<i64>().value_offsets();
                (offsets[row] as usize, offsets[row + 1] as usize)
            }
        };
        let nulls = self.values.nulls().filter(|nulls| nulls.null_count() > 0);
        let has_null = nulls.is_some_and(|nulls| (start..end).any(|i| nulls.is_null(i)));
        Some(Vector { values: &self.values.values()[start..end], has_null })
    }
}

/// One vector.
#[derive(Clone, Copy)]
struct Vector<'a> {
    values: &'a [f32],
    has_null: bool,
}

fn cosine(a: Vector<'_>, b: Vector<'_>) -> Result<f32> {
    let (a, b) = match (a, b) {
        (Vector { has_null: true, .. }, _) | (_, Vector { has_null: true, .. }) => {
            return exec_err!("cosine_similarity: a vector has a NULL among its values");
        }
        (a, b) if a.values.len() != b.values.len() => {
            let (a, b) = (a.values.len(), b.values.len());
            return exec_err!("cosine_similarity: vectors of {a} and of {b} values cannot be compared");
        }
        (a, b) => (a.values, b.values),
    };
    let [dot, a_square, b_square] = sums(a, b);
    // Squares that leave the normal range of f32 have lost digits: take the long way.
    let normal = |x: f32| x.is_normal() && x > 1e-30;
    if normal(a_square) && normal(b_square) {
        return Ok((dot / (a_square.sqrt() * b_square.sqrt())).clamp(-1.0, 1.0));
    }
    let product = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    let lengths = product(a, a).sqrt() * product(b, b).sqrt();
    Ok(if lengths == 0.0 { 0.0 } else { (product(a, b) / lengths).clamp(-1.0, 1.0) as f32 })
}

/// `a . b`, `a . a` and `b . b`, each in 16 lanes, so that the compiler vectorises them and the order is fixed.
fn sums(a: &[f32], b: &[f32]) -> [f32; 3] {
    const LANES: usize = 16;
    let mut lanes = [[0.0f32; LANES]; 3];
    let mut add = |a: &[f32], b: &[f32]| {
        for (i, (&x, &y)) in a.iter().zip(b).enumerate() {
            lanes[0][i] += x * y;
            lanes[1][i] += x * x;
            lanes[2][i] += y * y;
        }
    };
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        add(a, b);
    }
    add(a_rest, b_rest);
    lanes.map(|lanes| lanes.iter().sum())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(values: &[f32]) -> Vector<'_> {
        Vector { values, has_null: false }
    }

    proptest! {
        #[test]
        fn matches_the_formula_in_f64(pairs in prop::collection::vec((-9.0f32..9.0, -9.0f32..9.0), 1..70)) {
            let (a, b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let product = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
            let twin = product(&a, &b) / (product(&a, &a).sqrt() * product(&b, &b).sqrt());
            let score = cosine(vector(&a), vector(&b)).expect("equal lengths");
            prop_assert!((f64::from(score) - twin).abs() < 1e-5 || twin.is_nan());
        }
    }

    #[test]
    fn extremes_are_finite_and_zero_gives_zero() {
        let score = |a: &[f32], b: &[f32]| cosine(vector(a), vector(b)).expect("equal lengths");
        assert_eq!(score(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
        assert_eq!(score(&[], &[]), 0.0);
        assert_eq!(score(&[1e30, 0.0], &[1e30, 0.0]), 1.0);
        assert_eq!(score(&[1e-30, 0.0], &[-1e-30, 0.0]), -1.0);
        assert_eq!(score(&[3.0, 4.0], &[3.0, 4.0]), 1.0);
        assert!(score(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
    }
}

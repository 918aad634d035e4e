//! Distances of binary vectors: lists of bytes whose bits are the places, as `quantize.rs` makes them.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float32Array};
use datafusion::arrow::datatypes::{DataType, UInt8Type};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::lists::{Kind, List, Vectors};

/// What is measured between two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum BitDistance {
    /// Bits that differ.
    Hamming,
    /// One less the share of bits in both among those in either; one where neither has a bit.
    Jaccard,
}

impl BitDistance {
    pub(super) fn return_type(kinds: &[Kind]) -> Result<DataType> {
        match kinds {
            [Kind { list: List::Fixed(a), .. }, Kind { list: List::Fixed(b), .. }] if a != b => {
                plan_err!("vectors of {a} and of {b} bytes cannot be compared")
            }
            _ => Ok(DataType::Float32),
        }
    }

    pub(super) fn column(self, args: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
        let (a, b) = (Vectors::<UInt8Type>::of_argument(&args[0])?, Vectors::<UInt8Type>::of_argument(&args[1])?);
        let distance = |row| -> Result<Option<f32>> {
            let (Some(a), Some(b)) = (a.get(row)?, b.get(row)?) else { return Ok(None) };
            if a.len() != b.len() {
                return exec_err!("vectors of {} and of {} bytes cannot be compared", a.len(), b.len());
            }
            Ok(Some(self.of(a, b)))
        };
        Ok(Arc::new((0..rows).map(distance).collect::<Result<Float32Array>>()?))
    }

    fn of(self, a: &[u8], b: &[u8]) -> f32 {
        match self {
            Self::Hamming => ones(a, b, |x, y| x ^ y) as f32,
            Self::Jaccard => match ones(a, b, |x, y| x & y) {
                0 => 1.0,
                both => 1.0 - both as f32 / ones(a, b, |x, y| x | y) as f32,
            },
        }
    }
}

/// Bits that are set, eight bytes at once.
fn ones(a: &[u8], b: &[u8], join: impl Fn(u64, u64) -> u64) -> u32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let whole = a.iter().zip(b).map(|(&x, &y)| join(u64::from_le_bytes(x), u64::from_le_bytes(y)).count_ones());
    let rest = a_rest.iter().zip(b_rest).map(|(&x, &y)| join(x.into(), y.into()).count_ones());
    whole.sum::<u32>() + rest.sum::<u32>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_counted_one_by_one(pairs in prop::collection::vec((any::<u8>(), any::<u8>()), 0..40)) {
            let (a, b): (Vec<u8>, Vec<u8>) = pairs.iter().copied().unzip();
            let bits = |bytes: &[u8]| bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)).collect::<Vec<_>>();
            let pairs: Vec<_> = bits(&a).into_iter().zip(bits(&b)).collect();
            let count = |of: fn(&&(u8, u8)) -> bool| pairs.iter().filter(of).count() as f32;
            prop_assert_eq!(BitDistance::Hamming.of(&a, &b), count(|(x, y)| x != y));
            let (both, either) = (count(|(x, y)| x & y == 1), count(|(x, y)| x | y == 1));
            prop_assert_eq!(BitDistance::Jaccard.of(&a, &b), if both == 0.0 { 1.0 } else { 1.0 - both / either });
        }
    }
}

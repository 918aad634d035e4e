//! Smaller vectors: a bit or a byte for each number, as sentence-transformers' `quantize_embeddings` makes them.

use datafusion::arrow::array::{ArrayRef, ArrowPrimitiveType};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Int8Type, UInt8Type};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::lists::{Kind, List, Made, Pairs, Vectors};
use super::ranges;
use crate::kernels::{Path, Real, to_bytes};

/// Steps between the ends of a range.
const STEPS: f32 = 255.0;

/// To what a number is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Quantize {
    /// A bit, set where it is above 0: eight to a byte, the first in the highest bit.
    Binary,
    /// An `i8`: where it lies in the range of its place.
    Int8,
}

impl Quantize {
    /// The vectors that are made; `types` are those of all arguments.
    pub(super) fn return_kind(self, kind: &Kind, types: &[DataType]) -> Result<Kind> {
        match self {
            Self::Binary => {
                let list = match kind.list {
                    List::Fixed(length) => List::Fixed((length + 7) / 8),
                    other => other,
                };
                Ok(Kind { list, ..kind.with_numbers(DataType::UInt8) })
            }
            Self::Int8 => {
                let ranges = types.get(1).and_then(ranges::kind_of);
                match (kind.list, ranges.as_ref().map(|ranges| ranges.list)) {
                    (List::Fixed(length), Some(List::Fixed(other))) if length != other => {
                        plan_err!("vectors of {length} values, and ranges of {other}")
                    }
                    _ => Ok(ranges
                        .map_or_else(|| kind.clone(), |ranges| kind.joined(&ranges))
                        .with_numbers(DataType::Int8)),
                }
            }
        }
    }

    /// One vector of the kind for each of so many rows.
    pub(super) fn column(self, args: &[ColumnarValue], kind: &Kind, made: &Kind, rows: usize) -> Result<ArrayRef> {
        if kind.is_double() {
            self.made::<Float64Type>(args, made, rows)
        } else {
            self.made::<Float32Type>(args, made, rows)
        }
    }

    fn made<T: ArrowPrimitiveType<Native: Real>>(
        self,
        args: &[ColumnarValue],
        made: &Kind,
        rows: usize,
    ) -> Result<ArrayRef> {
        let vectors = Vectors::<T>::of_argument(&args[0])?;
        match self {
            Self::Binary => Made::<UInt8Type>::new(made.clone(), rows).filled(rows, |row, bytes| {
                let Some(vector) = vectors.get(row)? else { return Ok(false) };
                bytes.extend(pack(vector.iter().map(|&x| x > T::Native::default())));
                Ok(true)
            }),
            Self::Int8 => {
                let (path, ranges, mut steps) = (Path::chosen()?, Pairs::of_argument(&args[1])?, Steps::default());
                Made::<Int8Type>::new(made.clone(), rows).filled(rows, |row, bytes| {
                    let (Some(vector), Some((starts, ends))) = (vectors.get(row)?, ranges.get(row)?) else {
                        return Ok(false);
                    };
                    if vector.len() != starts.len() {
                        return exec_err!("vectors of {} values, and ranges of {}", vector.len(), starts.len());
                    }
                    let (steps, before) = (steps.between(starts, ends)?, bytes.len());
                    bytes.resize(before + vector.len(), 0);
                    to_bytes(path, vector, starts, steps, &mut bytes[before..]);
                    Ok(true)
                })
            }
        }
    }
}

/// How far apart the bytes of each place are, for the ranges that were asked for last: mostly one pair for all rows.
#[derive(Default)]
struct Steps {
    starts: Vec<f32>,
    ends: Vec<f32>,
    steps: Vec<f32>,
}

impl Steps {
    fn between(&mut self, starts: &[f32], ends: &[f32]) -> Result<&[f32]> {
        if self.starts == starts && self.ends == ends {
            return Ok(&self.steps);
        }
        if starts.len() != ends.len() {
            return exec_err!("{} minimums and {} maximums", starts.len(), ends.len());
        }
        for (place, (start, end)) in starts.iter().zip(ends).enumerate() {
            if !(start.is_finite() && end.is_finite() && start <= end) {
                return exec_err!("{start} to {end} is no range (place {})", place + 1);
            }
        }
        // A range of one number has steps too, of any size.
        let step = |(start, end): (&f32, &f32)| if start == end { 1.0 } else { (end - start) / STEPS };
        self.steps = starts.iter().zip(ends).map(step).collect();
        (self.starts, self.ends) = (starts.to_vec(), ends.to_vec());
        Ok(&self.steps)
    }
}

fn pack(bits: impl ExactSizeIterator<Item = bool>) -> Vec<u8> {
    let mut bytes = vec![0; bits.len().div_ceil(8)];
    bits.enumerate().for_each(|(place, bit)| bytes[place / 8] |= u8::from(bit) << (7 - place % 8));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_is_the_highest_bit() {
        let bits = [true, false, false, false, false, false, false, true, true];
        assert_eq!(pack(bits.into_iter()), [0b1000_0001, 0b1000_0000]);
        assert_eq!(pack([].into_iter()), [0u8; 0]);
    }

    #[test]
    fn ranges_have_two_ends() {
        let mut steps = Steps::default();
        assert_eq!(steps.between(&[0.0, -1.0], &[510.0, -1.0]).expect("ranges"), [2.0, 1.0]);
        for (starts, ends) in
            [(&[1.0][..], &[0.5][..]), (&[f32::NAN], &[1.0]), (&[0.0], &[f32::INFINITY]), (&[0.0], &[])]
        {
            assert!(steps.between(starts, ends).is_err(), "{starts:?} {ends:?}");
        }
        assert_eq!(steps.between(&[], &[]).expect("none"), [0.0f32; 0]);
    }
}

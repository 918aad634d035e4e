//! Vectors to a number each: distances of two, and the length of one.

use std::ops::Div;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::lists::{Kind, List, Vectors};
use crate::kernels::{Path, Real, Sum, Widened, sums};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Measure {
    L1Distance,
    L2Distance,
    NegativeInnerProduct,
    Norm,
}

impl Measure {
    fn sum(self) -> Sum {
        match self {
            Self::L1Distance => Sum::Differences,
            Self::L2Distance => Sum::Squares,
            Self::NegativeInnerProduct | Self::Norm => Sum::Products,
        }
    }

    /// What is made of the sum.
    fn of_sum<T: Number>(self, sum: T) -> T {
        match self {
            Self::L1Distance => sum,
            Self::L2Distance | Self::Norm => sum.root(),
            Self::NegativeInnerProduct => T::default() - sum,
        }
    }

    pub(super) fn return_type(self, kinds: &[Kind]) -> Result<DataType> {
        if let [Kind { list: List::Fixed(a), .. }, Kind { list: List::Fixed(b), .. }] = kinds
            && a != b
        {
            return plan_err!("vectors of {a} and of {b} values cannot be compared");
        }
        Ok(if kinds.iter().any(Kind::is_double) { DataType::Float64 } else { DataType::Float32 })
    }

    /// One number for each of so many rows.
    pub(super) fn column(self, args: &[ColumnarValue], kind: &DataType, rows: usize) -> Result<ArrayRef> {
        match kind {
            DataType::Float64 => self.measured::<Float64Type>(args, rows),
            _ => self.measured::<Float32Type>(args, rows),
        }
    }

    fn measured<T: ArrowPrimitiveType<Native: Number>>(self, args: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
        let a = Vectors::<T>::of_argument(&args[0])?;
        let other = args.get(1).map(Vectors::<T>::of_argument).transpose()?;
        let b = other.as_ref().unwrap_or(&a);
        let path = Path::chosen()?;
        if self == Self::Norm {
            let measure = |row| -> Result<_> { Ok(a.get(row)?.map(|vector| norm(path, vector))) };
            return Ok(Arc::new((0..rows).map(measure).collect::<Result<PrimitiveArray<T>>>()?));
        }
        let sum = self.sum();
        if let (Some((a_values, width)), Some((b_values, b_width))) = (a.block(), b.block())
            && width == b_width
            && !(a.is_constant() && b.is_constant())
        {
            let mut measures = vec![T::Native::default(); rows];
            sums(path, sum, a_values, b_values, width, &mut measures);
            measures.iter_mut().for_each(|measure| *measure = self.of_sum(*measure));
            return Ok(Arc::new(PrimitiveArray::<T>::new(measures.into(), nulls(&a, b, rows))));
        }
        let measure = |row| -> Result<Option<T::Native>> {
            let (Some(a), Some(b)) = (a.get(row)?, b.get(row)?) else { return Ok(None) };
            if a.len() != b.len() {
                return exec_err!("vectors of {} and of {} values cannot be compared", a.len(), b.len());
            }
            let mut measure = [T::Native::default()];
            sums(path, sum, a, b, a.len(), &mut measure);
            Ok(Some(self.of_sum(measure[0])))
        };
        Ok(Arc::new((0..rows).map(measure).collect::<Result<PrimitiveArray<T>>>()?))
    }
}

/// The rows where either is NULL.
fn nulls<T: ArrowPrimitiveType>(a: &Vectors<T>, b: &Vectors<T>, rows: usize) -> Option<NullBuffer> {
    let of = |vectors: &Vectors<T>| match vectors.nulls() {
        Some(nulls) if vectors.is_constant() => {
            Some(if nulls.is_null(0) { NullBuffer::new_null(rows) } else { NullBuffer::new_valid(rows) })
        }
        nulls => nulls.cloned(),
    };
    NullBuffer::union(of(a).as_ref(), of(b).as_ref())
}

/// The length of a vector.
pub(super) fn norm<T: Number>(path: Path, vector: &[T]) -> T {
    let mut square = [T::default()];
    sums(path, Sum::Products, vector, vector, vector.len(), &mut square);
    if square[0].has_all_digits() {
        return square[0].root();
    }
    // A sum of nothing is -0.
    T::narrowed((vector.iter().map(|x| x.widened().powi(2)).sum::<f64>() + 0.0).sqrt())
}

/// What a measure is computed in.
pub(super) trait Number: Real + Widened + Div<Output = Self> {
    fn root(self) -> Self;
    fn narrowed(wide: f64) -> Self;
    /// Whether a sum of squares is where squares have lost none of their digits.
    fn has_all_digits(self) -> bool;
}

impl Number for f32 {
    fn root(self) -> Self {
        self.sqrt()
    }

    fn narrowed(wide: f64) -> Self {
        wide as f32
    }

    fn has_all_digits(self) -> bool {
        self.is_finite() && self > 1e-30
    }
}

impl Number for f64 {
    fn root(self) -> Self {
        self.sqrt()
    }

    fn narrowed(wide: f64) -> Self {
        wide
    }

    fn has_all_digits(self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_extremes_are_right() {
        let path = Path::chosen().expect("a path");
        assert_eq!(norm(path, &[3.0f32, 4.0]), 5.0);
        assert_eq!(norm(path, &[3e37f32, 4e37]), 5e37);
        assert!((norm(path, &[3e-37f32, 4e-37]) / 5e-37 - 1.0).abs() < 1e-6);
        assert_eq!(norm(path, &[0.0f32; 3]), 0.0);
        assert_eq!(norm::<f64>(path, &[]), 0.0);
        assert!(norm(path, &[f32::NAN]).is_nan());
        assert_eq!(norm(path, &[f32::INFINITY]), f32::INFINITY);
    }
}

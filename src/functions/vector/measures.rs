//! Vectors to a number each: distances of two, and the length of one.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::lists::{Kind, List, Vectors};
use crate::kernels::{Path, Real, Sum, Widened, products, row_of, sums};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Measure {
    L1Distance,
    L2Distance,
    NegativeInnerProduct,
    /// A Float32, whatever the numbers.
    CosineSimilarity,
    Norm,
}

impl Measure {
    pub(super) fn return_type(self, kinds: &[Kind]) -> Result<DataType> {
        if let [Kind { list: List::Fixed(a), .. }, Kind { list: List::Fixed(b), .. }] = kinds
            && a != b
        {
            return plan_err!("vectors of {a} and of {b} values cannot be compared");
        }
        let is_double = kinds.iter().any(Kind::is_double) && self != Self::CosineSimilarity;
        Ok(if is_double { DataType::Float64 } else { DataType::Float32 })
    }

    /// One number for each of so many rows.
    pub(super) fn column(self, args: &[ColumnarValue], kinds: &[Kind], rows: usize) -> Result<ArrayRef> {
        let measures = if kinds.iter().any(Kind::is_double) {
            self.measured::<Float64Type>(args, rows)?
        } else {
            self.measured::<Float32Type>(args, rows)?
        };
        Ok(cast(&measures, &self.return_type(kinds)?)?)
    }

    fn measured<T: ArrowPrimitiveType<Native: Number>>(self, args: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
        let path = Path::chosen()?;
        let first = || Vectors::<T>::of_argument(&args[0]);
        match self {
            Self::Norm => {
                let a = first()?;
                let measure = |row| -> Result<_> { Ok(a.get(row)?.map(|vector| norm(path, vector))) };
                Ok(Arc::new((0..rows).map(measure).collect::<Result<PrimitiveArray<T>>>()?))
            }
            Self::CosineSimilarity => cosines::<T>(path, args, rows),
            Self::L1Distance => summed(path, Sum::Differences, &first()?, &args[1], rows, |sum, _, _| sum),
            Self::L2Distance => summed(path, Sum::Squares, &first()?, &args[1], rows, l2_distance),
            Self::NegativeInnerProduct => {
                summed(path, Sum::Products, &first()?, &args[1], rows, |sum, _, _| T::Native::default() - sum)
            }
        }
    }
}

/// What is made of a sum over the places of two vectors and of these, for each of so many rows.
fn summed<T: ArrowPrimitiveType<Native: Number>>(
    path: Path,
    sum: Sum,
    a: &Vectors<T>,
    other: &ColumnarValue,
    rows: usize,
    measure: impl Fn(T::Native, &[T::Native], &[T::Native]) -> T::Native,
) -> Result<ArrayRef> {
    let b = &Vectors::<T>::of_argument(other)?;
    if let Some(blocks) = Blocks::of(a, b) {
        let mut measures = vec![T::Native::default(); rows];
        sums(path, sum, blocks.a, blocks.b, blocks.width, &mut measures);
        for (row, sum) in measures.iter_mut().enumerate() {
            let (a, b) = blocks.row(row);
            *sum = measure(*sum, a, b);
        }
        return Ok(Arc::new(PrimitiveArray::<T>::new(measures.into(), nulls(a, b, rows))));
    }
    each_pair(a, b, rows, |a, b| {
        let mut summed = [T::Native::default()];
        sums(path, sum, a, b, a.len(), &mut summed);
        measure(summed[0], a, b)
    })
}

/// The cosines of the angles between vectors.
fn cosines<T: ArrowPrimitiveType<Native: Number>>(path: Path, args: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
    let (a, b) = (Vectors::<T>::of_argument(&args[0])?, Vectors::of_argument(&args[1])?);
    let Some(blocks) = Blocks::of(&a, &b) else {
        return each_pair(&a, &b, rows, |a, b| {
            let mut sums = [[T::Native::default(); 3]];
            products(path, a, b, a.len(), &mut sums);
            cosine(sums[0], a, b)
        });
    };
    let mut sums = vec![[T::Native::default(); 3]; rows];
    products(path, blocks.a, blocks.b, blocks.width, &mut sums);
    let cosine = |(row, sums)| {
        let (a, b) = blocks.row(row);
        cosine(sums, a, b)
    };
    let cosines: Vec<T::Native> = sums.into_iter().enumerate().map(cosine).collect();
    Ok(Arc::new(PrimitiveArray::<T>::new(cosines.into(), nulls(&a, &b, rows))))
}

/// The numbers of two columns and how many of them a row has, where all can be computed at once.
struct Blocks<'a, N> {
    a: &'a [N],
    b: &'a [N],
    width: usize,
}

impl<'a, N> Blocks<'a, N> {
    fn of<T: ArrowPrimitiveType<Native = N>>(a: &'a Vectors<T>, b: &'a Vectors<T>) -> Option<Self> {
        let ((a_values, width), (b_values, b_width)) = (a.block()?, b.block()?);
        let are_alike = width == b_width && !(a.is_constant() && b.is_constant());
        are_alike.then_some(Self { a: a_values, b: b_values, width })
    }

    /// The two vectors of a row.
    fn row(&self, row: usize) -> (&[N], &[N]) {
        (row_of(self.a, self.width, row), row_of(self.b, self.width, row))
    }
}

/// A number of two vectors of one length, for each of so many rows.
fn each_pair<T: ArrowPrimitiveType>(
    a: &Vectors<T>,
    b: &Vectors<T>,
    rows: usize,
    measure: impl Fn(&[T::Native], &[T::Native]) -> T::Native,
) -> Result<ArrayRef> {
    let each = |row| -> Result<Option<T::Native>> {
        let (Some(a), Some(b)) = (a.get(row)?, b.get(row)?) else { return Ok(None) };
        if a.len() != b.len() {
            return exec_err!("vectors of {} and of {} values cannot be compared", a.len(), b.len());
        }
        Ok(Some(measure(a, b)))
    };
    Ok(Arc::new((0..rows).map(each).collect::<Result<PrimitiveArray<T>>>()?))
}

/// The cosine of the angle between two vectors by their products; of one without a direction 0.
fn cosine<T: Number>([product, a_square, b_square]: [T; 3], a: &[T], b: &[T]) -> T {
    let cosine = if a_square.has_all_digits() && b_square.has_all_digits() {
        (product / (a_square.root() * b_square.root())).widened()
    } else {
        let ((a, a_length), (b, b_length)) = (direction(a), direction(b));
        if a_length == 0.0 || b_length == 0.0 {
            return T::default();
        }
        a.zip(b).map(|(x, y)| x * y).sum::<f64>()
    };
    T::narrowed(cosine.clamp(-1.0, 1.0))
}

/// The length of the difference of two vectors by the sum of its squares.
fn l2_distance<T: Number>(sum: T, a: &[T], b: &[T]) -> T {
    if sum.has_all_digits() {
        return sum.root();
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(x, y)| x.widened() - y.widened()).collect();
    T::narrowed(direction(&differences).1)
}

/// The vector of length 1 in the same direction, and the length: whatever the size of the numbers, squares keep their digits beside
/// that of the largest.
fn direction<T: Number>(vector: &[T]) -> (impl Iterator<Item = f64>, f64) {
    let numbers = || vector.iter().map(|x| x.widened());
    let largest = numbers().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let scale = if largest == 0.0 { 1.0 } else { largest };
    let length = if largest.is_infinite() && !numbers().any(f64::is_nan) {
        f64::INFINITY
    } else {
        // A sum of nothing is -0.
        (numbers().map(|x| (x / scale).powi(2)).sum::<f64>() + 0.0).sqrt()
    };
    (numbers().map(move |x| x / scale / length), length * scale)
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
    if square[0].has_all_digits() { square[0].root() } else { T::narrowed(direction(vector).1) }
}

/// What a measure is computed in.
pub(super) trait Number: Real + Widened {
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
        self.is_finite() && self > 1e-290
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [[0.0; 3]];
        products(Path::chosen().expect("a path"), a, b, a.len(), &mut sums);
        cosine(sums[0], a, b)
    }

    proptest! {
        #[test]
        fn cosines_are_what_the_formula_says(pairs in prop::collection::vec((-9.0f32..9.0, -9.0f32..9.0), 1..70)) {
            let (a, b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let product = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
            let twin = product(&a, &b) / (product(&a, &a).sqrt() * product(&b, &b).sqrt());
            let score = score(&a, &b);
            prop_assert!((f64::from(score) - twin).abs() < 1e-5 || twin.is_nan());
        }
    }

    #[test]
    fn cosines_of_extremes_are_finite_and_zero_gives_zero() {
        assert_eq!(score(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
        assert_eq!(score(&[], &[]), 0.0);
        assert_eq!(score(&[1e30, 0.0], &[1e30, 0.0]), 1.0);
        assert!((score(&[1e30, 1e30], &[1e-30, 0.0]) - 0.5f32.sqrt()).abs() < 1e-6);
        assert!(score(&[f32::INFINITY, 1.0], &[1.0, 1.0]).is_nan());
        assert_eq!(score(&[1e-30, 0.0], &[-1e-30, 0.0]), -1.0);
        assert_eq!(score(&[3.0, 4.0], &[3.0, 4.0]), 1.0);
        assert!(score(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
    }

    #[test]
    fn lengths_of_extremes_are_right() {
        let path = Path::chosen().expect("a path");
        assert_eq!(norm(path, &[3.0f32, 4.0]), 5.0);
        assert_eq!(norm(path, &[3e37f32, 4e37]), 5e37);
        assert!((norm(path, &[3e-37f32, 4e-37]) / 5e-37 - 1.0).abs() < 1e-6);
        assert_eq!(norm(path, &[0.0f32; 3]), 0.0);
        assert_eq!(norm::<f64>(path, &[]), 0.0);
        assert!(norm::<f64>(path, &[]).is_sign_positive());
        assert!((norm::<f64>(path, &[3e200, 4e200]) / 5e200 - 1.0).abs() < 1e-12);
        assert!((norm::<f64>(path, &[3e-200, 4e-200]) / 5e-200 - 1.0).abs() < 1e-12);
        assert!(norm(path, &[f64::INFINITY, f64::NAN]).is_nan());
        assert!(norm(path, &[f32::NAN]).is_nan());
        assert_eq!(norm(path, &[f32::INFINITY]), f32::INFINITY);
    }
}

//! Arithmetic of vectors as SQL has them: sums over the places of two, and sums of many.

use std::ops::{Add, Div, Mul, Sub};

use super::path::per_path;
use super::rows::LANES;

/// A number that vectors are computed in.
pub(crate) trait Real:
    Copy
    + Default
    + PartialOrd
    + From<f32>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// `a * b + c`, in one rounding where the path has the instruction.
    fn fused<const FMA: bool>(a: Self, b: Self, c: Self) -> Self;
    /// Without its sign.
    fn size(self) -> Self;
    /// Its whole part, or the end of a `u8`'s range that lies nearest; of NaN 0.
    fn byte(self) -> u8;
}

macro_rules! real {
    ($($number:ty)*) => {$(
        impl Real for $number {
            #[inline(always)]
            fn fused<const FMA: bool>(a: Self, b: Self, c: Self) -> Self {
                if FMA { a.mul_add(b, c) } else { a * b + c }
            }

            #[inline(always)]
            fn size(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn byte(self) -> u8 {
                self as u8
            }
        }
    )*};
}

real!(f32 f64);

/// What is added up over the places of two vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    /// `x * y`
    Products,
    /// `(x - y)^2`
    Squares,
    /// `|x - y|`
    Differences,
}

per_path! {
    /// One sum for each row of `out`: `a` and `b` are `[out, width]` each, or one of them a single row for all.
    pub(crate) fn sums<T: Real>(sum: Sum, a: &[T], b: &[T], width: usize, out: &mut [T]) = sums_body;
}

#[inline(always)]
fn sums_body<const FMA: bool, T: Real>(sum: Sum, a: &[T], b: &[T], width: usize, out: &mut [T]) {
    match sum {
        Sum::Products => each(a, b, width, out, |lane, x, y| T::fused::<FMA>(x, y, lane)),
        Sum::Squares => each(a, b, width, out, |lane, x, y| T::fused::<FMA>(x - y, x - y, lane)),
        Sum::Differences => each(a, b, width, out, |lane, x, y| lane + (x - y).size()),
    }
}

#[inline(always)]
fn each<T: Real>(a: &[T], b: &[T], width: usize, out: &mut [T], join: impl Fn(T, T, T) -> T) {
    for (row, out) in out.iter_mut().enumerate() {
        *out = over_places(row_of(a, width, row), row_of(b, width, row), &join);
    }
}

/// A row of some, or the one that stands for all.
#[inline(always)]
pub(crate) fn row_of<T>(rows: &[T], width: usize, row: usize) -> &[T] {
    if rows.len() == width { rows } else { &rows[row * width..][..width] }
}

/// In [`LANES`] lanes, so that the order of additions is the same on every path.
#[inline(always)]
fn over_places<T: Real>(a: &[T], b: &[T], join: &impl Fn(T, T, T) -> T) -> T {
    let mut lanes = [T::default(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] = join(lanes[i], a[i], b[i]);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane = join(*lane, x, y);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = lanes[i] + lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

per_path! {
    /// `a . b`, `a . a` and `b . b` for each row of `out`: of `a` and `b` as in [`sums`].
    pub(crate) fn products<T: Real>(a: &[T], b: &[T], width: usize, out: &mut [[T; 3]]) = products_body;
}

#[inline(always)]
fn products_body<const FMA: bool, T: Real>(a: &[T], b: &[T], width: usize, out: &mut [[T; 3]]) {
    let (a_square, b_square) = (square_of_single::<FMA, T>(a, width), square_of_single::<FMA, T>(b, width));
    for (row, out) in out.iter_mut().enumerate() {
        let (a, b) = (row_of(a, width, row), row_of(b, width, row));
        // One sum after the other: of three in one loop the compiler makes no vector instructions, and a row stays in the cache.
        *out = [
            over_places(a, b, &|lane, x, y| T::fused::<FMA>(x, y, lane)),
            if let Some(square) = a_square { square } else { square::<FMA, T>(a) },
            if let Some(square) = b_square { square } else { square::<FMA, T>(b) },
        ];
    }
}

/// A call in a closure might be compiled without a path's instructions.
#[inline(always)]
fn square_of_single<const FMA: bool, T: Real>(rows: &[T], width: usize) -> Option<T> {
    if rows.len() == width { Some(square::<FMA, T>(rows)) } else { None }
}

#[inline(always)]
fn square<const FMA: bool, T: Real>(row: &[T]) -> T {
    over_places(row, row, &|lane, x, y| T::fused::<FMA>(x, y, lane))
}

per_path! {
    /// Adds a vector to a sum in f64, place by place.
    pub(crate) fn add_to_sum<T: Widened>(sum: &mut [f64], vector: &[T]) = add_to_sum_body;
}

/// A number that a sum in f64 takes.
pub(crate) trait Widened: Copy {
    fn widened(self) -> f64;
}

impl Widened for f32 {
    #[inline(always)]
    fn widened(self) -> f64 {
        self.into()
    }
}

impl Widened for f64 {
    #[inline(always)]
    fn widened(self) -> f64 {
        self
    }
}

#[inline(always)]
fn add_to_sum_body<const FMA: bool, T: Widened>(sum: &mut [f64], vector: &[T]) {
    for (sum, x) in sum.iter_mut().zip(vector) {
        *sum += x.widened();
    }
}

per_path! {
    /// How many whole steps each place of a vector lies above its start, 0 to 255, less 128.
    pub(crate) fn to_bytes<T: Real>(vector: &[T], starts: &[f32], steps: &[f32], bytes: &mut [i8]) = to_bytes_body;
}

#[inline(always)]
fn to_bytes_body<const FMA: bool, T: Real>(vector: &[T], starts: &[f32], steps: &[f32], bytes: &mut [i8]) {
    for (byte, (&x, (&start, &step))) in bytes.iter_mut().zip(vector.iter().zip(starts.iter().zip(steps))) {
        // Of a byte, 128 less is its highest bit turned.
        *byte = (((x - T::from(start)) / T::from(step)).byte() ^ 0x80).cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::Path;
    use super::*;

    fn row(seed: usize, width: usize) -> Vec<f32> {
        (0..width).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 7.0 - 1.5).collect()
    }

    #[test]
    fn sums_match_their_formulas_on_every_path() {
        for width in [0, 1, 3, 15, 16, 17, 48, 384, 1000] {
            let (a, b): (Vec<f32>, Vec<f32>) =
                ((1..6).flat_map(|n| row(n, width)).collect(), (7..12).flat_map(|n| row(n, width)).collect());
            for path in Path::available() {
                for sum in [Sum::Products, Sum::Squares, Sum::Differences] {
                    let twin = |a: &[f32], b: &[f32]| -> f64 {
                        let pairs = a.iter().zip(b).map(|(&x, &y)| (f64::from(x), f64::from(y)));
                        match sum {
                            Sum::Products => pairs.map(|(x, y)| x * y).sum(),
                            Sum::Squares => pairs.map(|(x, y)| (x - y).powi(2)).sum(),
                            Sum::Differences => pairs.map(|(x, y)| (x - y).abs()).sum(),
                        }
                    };
                    let mut out = [f32::NAN; 5];
                    sums(path, sum, &a, &b, width, &mut out);
                    for (n, &out) in out.iter().enumerate() {
                        let twin = twin(&a[n * width..][..width], &b[n * width..][..width]);
                        assert!((f64::from(out) - twin).abs() < 1e-3, "{path} {sum:?} {width}: {out} {twin}");
                    }
                    let mut one = [f32::NAN; 5];
                    sums(path, sum, &a, &b[..width], width, &mut one);
                    let mut other = [f32::NAN; 5];
                    sums(path, sum, &b[..width], &a, width, &mut other);
                    assert_eq!(one, other, "{path} {sum:?} {width}");
                    assert_eq!(one[0], out[0]);
                }
            }
        }
    }

    #[test]
    fn products_match_their_formulas_on_every_path() {
        for width in [0, 1, 15, 16, 17, 384, 1000] {
            let (a, b) = (row(1, width), row(8, width));
            let twin = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
            for path in Path::available() {
                let rows = [a.clone(), b.clone()].concat();
                let mut out = [[f32::NAN; 3]; 2];
                products(path, &rows, &b, width, &mut out);
                let twins = [[twin(&a, &b), twin(&a, &a), twin(&b, &b)], [twin(&b, &b); 3]];
                for (out, twin) in out.into_iter().flatten().zip(twins.into_iter().flatten()) {
                    assert!((f64::from(out) - twin).abs() < 1e-3, "{path} {width}: {out} {twin}");
                }
            }
        }
    }

    #[test]
    fn all_paths_add_in_one_order() {
        let (a, b) = (row(1, 384), row(2, 384));
        let of = |path| {
            let mut out = [0.0f32];
            // Differences are rounded alike with and without fused products.
            sums(path, Sum::Differences, &a, &b, 384, &mut out);
            out[0].to_bits()
        };
        let all: Vec<u32> = Path::available().into_iter().map(of).collect();
        assert!(all.iter().all(|bits| *bits == all[0]), "{all:?}");
    }

    #[test]
    fn bytes_are_the_same_on_every_path() {
        let (vector, starts) = (row(3, 100), row(5, 100));
        let steps: Vec<f32> = (0..100).map(|i| (i + 1) as f32 / 4000.0).collect();
        let wide: Vec<f64> = vector.iter().map(|&x| x.into()).collect();
        for path in Path::available() {
            let (mut bytes, mut of_wide) = (vec![0; 100], vec![0; 100]);
            to_bytes(path, &vector, &starts, &steps, &mut bytes);
            to_bytes(path, &wide, &starts, &steps, &mut of_wide);
            for i in 0..100 {
                let twin = ((vector[i] - starts[i]) / steps[i]).floor().clamp(0.0, 255.0) - 128.0;
                assert_eq!(f32::from(bytes[i]), twin, "{path} {i}");
                assert!((i16::from(bytes[i]) - i16::from(of_wide[i])).abs() <= 1, "{path} {i}");
            }
        }
    }

    #[test]
    fn sums_of_vectors_are_exact_in_f64() {
        for path in Path::available() {
            let mut sum = vec![0.0; 19];
            for _ in 0..1000 {
                add_to_sum(path, &mut sum, &[0.1f32; 19]);
            }
            assert!(sum.iter().all(|x| (x - 1000.0 * f64::from(0.1f32)).abs() < 1e-9), "{path}: {sum:?}");
            add_to_sum(path, &mut sum, &[1.0f64; 19]);
            assert!(sum.iter().all(|x| (x - 1.0 - 1000.0 * f64::from(0.1f32)).abs() < 1e-9), "{path}: {sum:?}");
        }
    }
}

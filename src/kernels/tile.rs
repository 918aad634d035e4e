//! Micro-kernels: a tile of a matrix product with its sums in registers.
//!
//! `out[i][j] = sum over k of x[i][k] * w[k][j]` for a few rows of `x` and one to four registers of columns. Each sum runs
//! over `k` from first to last whatever the tile's height, so a row's result does not depend on its neighbours (I1).

use super::path::{Path, fused};
use super::rows::LANES;

/// A matrix inside a slice: where it starts and how far apart its rows are.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

/// Most rows of a tile that is this many values wide: the sums, the weights and one input must fit the registers.
pub(super) fn tallest(path: Path, width: usize) -> usize {
    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 if width <= 2 * LANES => 12,
        _ => 6,
    }
}

/// Multiplies `height` rows of `x`, `depth` values each, with `w`, `[depth, width]`, into `out`.
///
/// `width` is a multiple of 16, at most 64; `height` is at most [`tallest`] of it.
pub(super) fn multiply(
    path: Path,
    x: View<'_>,
    w: View<'_>,
    (height, depth, width): (usize, usize, usize),
    out: &mut [f32],
    out_stride: usize,
) {
    assert!(width.is_multiple_of(LANES) && (LANES..=4 * LANES).contains(&width), "whole registers");
    assert!((1..=tallest(path, width)).contains(&height) && depth > 0, "a tile's height");
    assert!(x.values.len() >= (height - 1) * x.stride + depth, "every input of the tile");
    assert!(w.values.len() >= (depth - 1) * w.stride + width, "every weight of the tile");
    assert!(out.len() >= (height - 1) * out_stride + width, "every output of the tile");
    match path {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the path exists only where the processor has its instructions (Path::available); the shapes were
        // just checked.
        Path::Avx512 => unsafe { avx512::multiply(x, w, (height, depth, width), out, out_stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Path::Avx2 => unsafe { avx2::multiply(x, w, (height, depth, width), out, out_stride) },
        Path::Portable => portable(x, w, (height, depth, width), out, out_stride),
    }
}

/// The tile in plain Rust, one row and 16 columns at a time, which fits the 16 registers of every target.
fn portable(
    x: View<'_>,
    w: View<'_>,
    (height, depth, width): (usize, usize, usize),
    out: &mut [f32],
    out_stride: usize,
) {
    for row in 0..height {
        let inputs = &x.values[row * x.stride..][..depth];
        for left in (0..width).step_by(LANES) {
            let mut sums = [0.0f32; LANES];
            for (k, &a) in inputs.iter().enumerate() {
                for (sum, &w) in sums.iter_mut().zip(&w.values[k * w.stride + left..][..LANES]) {
                    *sum = fused::<false>(a, w, *sum);
                }
            }
            out[row * out_stride + left..][..LANES].copy_from_slice(&sums);
        }
    }
}

/// Calls `kernel::<ROWS, REGISTERS>` for a height that is only known now.
#[cfg(target_arch = "x86_64")]
macro_rules! by_height {
    ($height:expr, $registers:literal, [$($rows:literal)*], $arguments:tt) => {
        match $height {
            $($rows => by_height!(@call $rows, $registers, $arguments),)*
            height => unreachable!("a tile of {height} rows"),
        }
    };
    (@call $rows:literal, $registers:literal, ($($argument:expr),*)) => {
        kernel::<$rows, $registers>($($argument),*)
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::View;

    /// # Safety
    /// The processor has AVX-512 F; the slices hold the tile.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn multiply(
        x: View<'_>,
        w: View<'_>,
        (height, depth, width): (usize, usize, usize),
        out: &mut [f32],
        out_stride: usize,
    ) {
        let (x, w, out) =
            ((x.values.as_ptr(), x.stride), (w.values.as_ptr(), w.stride), (out.as_mut_ptr(), out_stride));
        // SAFETY: the caller vouches for the slices; ROWS is the height and 16 * REGISTERS the width.
        unsafe {
            match width / 16 {
                1 => by_height!(height, 1, [1 2 3 4 5 6 7 8 9 10 11 12], (x, w, depth, out)),
                2 => by_height!(height, 2, [1 2 3 4 5 6 7 8 9 10 11 12], (x, w, depth, out)),
                3 => by_height!(height, 3, [1 2 3 4 5 6], (x, w, depth, out)),
                _ => by_height!(height, 4, [1 2 3 4 5 6], (x, w, depth, out)),
            }
        }
    }

    /// `ROWS` rows by `REGISTERS` registers of 16 columns. A function of its own, never inlined: inside one big `match`
    /// the compiler spills the sums.
    ///
    /// # Safety
    /// `x` holds `ROWS` rows of `depth` values, `w` `depth` rows and `out` `ROWS` rows of `16 * REGISTERS`.
    #[target_feature(enable = "avx512f")]
    #[inline(never)]
    unsafe fn kernel<const ROWS: usize, const REGISTERS: usize>(
        (x, x_stride): (*const f32, usize),
        (mut w, w_stride): (*const f32, usize),
        depth: usize,
        (out, out_stride): (*mut f32, usize),
    ) {
        let mut sums = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
        for k in 0..depth {
            // SAFETY: k < depth, row < ROWS, j < REGISTERS.
            unsafe {
                let mut columns = [_mm512_setzero_ps(); REGISTERS];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = _mm512_loadu_ps(w.add(j * 16));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*x.add(row * x_stride + k));
                    for (sum, &column) in sums.iter_mut().zip(&columns) {
                        *sum = _mm512_fmadd_ps(a, column, *sum);
                    }
                }
                w = w.add(w_stride);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(out.add(row * out_stride + j * 16), sum) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::View;

    /// 16 columns at a time: 6 rows x 2 registers of sums, 2 weights and an input fill 15 of 16 registers.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; the slices hold the tile.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply(
        x: View<'_>,
        w: View<'_>,
        (height, depth, width): (usize, usize, usize),
        out: &mut [f32],
        out_stride: usize,
    ) {
        let x = (x.values.as_ptr(), x.stride);
        for left in (0..width).step_by(16) {
            // SAFETY: the caller vouches for the slices; left + 16 <= width.
            unsafe {
                let (w, out) = ((w.values.as_ptr().add(left), w.stride), (out.as_mut_ptr().add(left), out_stride));
                by_height!(height, 2, [1 2 3 4 5 6], (x, w, depth, out));
            }
        }
    }

    /// `ROWS` rows by `REGISTERS` registers of 8 columns.
    ///
    /// # Safety
    /// `x` holds `ROWS` rows of `depth` values, `w` `depth` rows and `out` `ROWS` rows of `8 * REGISTERS`.
    #[target_feature(enable = "avx2,fma")]
    #[inline(never)]
    unsafe fn kernel<const ROWS: usize, const REGISTERS: usize>(
        (x, x_stride): (*const f32, usize),
        (mut w, w_stride): (*const f32, usize),
        depth: usize,
        (out, out_stride): (*mut f32, usize),
    ) {
        let mut sums = [[_mm256_setzero_ps(); REGISTERS]; ROWS];
        for k in 0..depth {
            // SAFETY: k < depth, row < ROWS, j < REGISTERS.
            unsafe {
                let mut columns = [_mm256_setzero_ps(); REGISTERS];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = _mm256_loadu_ps(w.add(j * 8));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = _mm256_set1_ps(*x.add(row * x_stride + k));
                    for (sum, &column) in sums.iter_mut().zip(&columns) {
                        *sum = _mm256_fmadd_ps(a, column, *sum);
                    }
                }
                w = w.add(w_stride);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe { _mm256_storeu_ps(out.add(row * out_stride + j * 8), sum) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761 + seed * 40_503) % 2001) as f32 / 1000.0 - 1.0).collect()
    }

    #[test]
    fn every_tile_matches_the_twin_and_writes_nothing_else() {
        for path in Path::available() {
            for width in [16, 32, 48, 64] {
                for height in 1..=tallest(path, width) {
                    for depth in [1, 2, 17, 64] {
                        let (x_stride, w_stride, out_stride) = (depth + 3, width + 5, width + 2);
                        let x = values((height - 1) * x_stride + depth, 1);
                        let w = values((depth - 1) * w_stride + width, 2);
                        let mut out = vec![9.0; height * out_stride];
                        let (xv, wv) = (View { values: &x, stride: x_stride }, View { values: &w, stride: w_stride });
                        multiply(path, xv, wv, (height, depth, width), &mut out, out_stride);
                        for (row, out) in out.chunks(out_stride).enumerate() {
                            for (j, &y) in out[..width].iter().enumerate() {
                                let twin: f64 = (0..depth)
                                    .map(|k| f64::from(x[row * x_stride + k]) * f64::from(w[k * w_stride + j]))
                                    .sum();
                                let wrong = (f64::from(y) - twin).abs();
                                assert!(wrong < 1e-4, "{path:?} {height}x{width}x{depth}: {y} not {twin}");
                            }
                            assert_eq!(out[width..], [9.0, 9.0]);
                        }
                    }
                }
            }
        }
    }
}

//! Micro-kernels: a tile of a matrix product with its sums in registers.
//!
//! `out[i][j] = sum over k of x[i][k] * w[k][j]` for a few rows of `x` and one to four registers of columns. Each sum runs
//! over `k` from first to last whatever the tile's height, so a row's result does not depend on its neighbours (I1).

use super::path::{Path, fused};
use super::rows::LANES;

/// A matrix inside a slice: where it starts and how far apart its rows are.
///
/// The inputs of the low precisions come in words of 32 bits: a word holds two bf16 or four int8 values of neighbouring k.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a, T = f32> {
    pub(super) values: &'a [T],
    pub(super) stride: usize,
}

/// Height, depth (in f32 values or in words) and width of a tile.
pub(super) type Shape = (usize, usize, usize);

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
pub(super) fn multiply(path: Path, x: View<'_>, w: View<'_>, shape: Shape, out: &mut [f32], out_stride: usize) {
    check(path, x, w, shape, out.len(), out_stride);
    match path {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the path exists only where the processor has its instructions (Path::available); the shapes were
        // just checked.
        Path::Avx512 => unsafe { avx512::multiply(x, w, shape, out, out_stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Path::Avx2 => unsafe { avx2::multiply(x, w, shape, out, out_stride) },
        Path::Portable => portable(x, w, shape, out, out_stride),
    }
}

/// The same for words of two bf16 values: `out[i][j] = sum over words of x . w`, added up in f32.
/// Only where [`Path::has_bf16`].
pub(super) fn multiply_bf16(
    path: Path,
    x: View<'_, u32>,
    w: View<'_, u32>,
    shape: Shape,
    out: &mut [f32],
    out_stride: usize,
) {
    check(path, x, w, shape, out.len(), out_stride);
    assert!(path.has_bf16(), "a processor with bf16 products");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instructions are there and the shapes fit, as was just checked.
    unsafe {
        avx512::multiply_bf16(x, w, shape, out, out_stride);
    }
}

/// The same for words of four int8 values, unsigned in `x` and signed in `w`, added up in i32.
/// Only where [`Path::has_int8`].
pub(super) fn multiply_int8(
    path: Path,
    x: View<'_, u32>,
    w: View<'_, u32>,
    shape: Shape,
    out: &mut [i32],
    out_stride: usize,
) {
    check(path, x, w, shape, out.len(), out_stride);
    assert!(path.has_int8(), "a processor with int8 products");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instructions are there and the shapes fit, as was just checked.
    unsafe {
        avx512::multiply_int8(x, w, shape, out, out_stride);
    }
}

/// Panics unless the views and the output hold the tile: the micro-kernels rely on it.
fn check<T>(path: Path, x: View<'_, T>, w: View<'_, T>, (height, depth, width): Shape, out: usize, out_stride: usize) {
    assert!(width.is_multiple_of(LANES) && (LANES..=4 * LANES).contains(&width), "whole registers");
    assert!((1..=tallest(path, width)).contains(&height) && depth > 0, "a tile's height");
    assert!(x.values.len() >= (height - 1) * x.stride + depth, "every input of the tile");
    assert!(w.values.len() >= (depth - 1) * w.stride + width, "every weight of the tile");
    assert!(out >= (height - 1) * out_stride + width, "every output of the tile");
}

/// The tile in plain Rust, one row and 16 columns at a time, which fits the 16 registers of every target.
fn portable(x: View<'_>, w: View<'_>, (height, depth, width): Shape, out: &mut [f32], out_stride: usize) {
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
    ($kernel:ident, $height:expr, $registers:literal, [$($rows:literal)*], $arguments:tt) => {
        match $height {
            $($rows => by_height!(@call $kernel, $rows, $registers, $arguments),)*
            height => unreachable!("a tile of {height} rows"),
        }
    };
    (@call $kernel:ident, $rows:literal, $registers:literal, ($($argument:expr),*)) => {
        $kernel::<$rows, $registers>($($argument),*)
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Shape, View};

    /// Writes a micro-kernel and the choice of its height and width.
    ///
    /// A kernel is `ROWS` rows by `REGISTERS` registers of 16 columns: a function of its own, never inlined, because inside
    /// one big `match` the compiler spills the sums.
    macro_rules! micro_kernel {
        ($choose:ident, $kernel:ident, $feature:literal, $input:ty, $output:ty,
         $zero:expr, |$load:ident| $loaded:expr, |$one:ident| $repeated:expr,
         |$sum:ident, $a:ident, $b:ident| $product:expr, |$place:ident, $stored:ident| $store:expr) => {
            /// # Safety
            /// The processor has the features; the slices hold the tile.
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $choose(
                x: View<'_, $input>,
                w: View<'_, $input>,
                (height, depth, width): Shape,
                out: &mut [$output],
                out_stride: usize,
            ) {
                let (x, w) = ((x.values.as_ptr(), x.stride), (w.values.as_ptr(), w.stride));
                let out = (out.as_mut_ptr(), out_stride);
                // SAFETY: the caller vouches for the slices; ROWS is the height and 16 * REGISTERS the width.
                unsafe {
                    match width / 16 {
                        1 => by_height!($kernel, height, 1, [1 2 3 4 5 6 7 8 9 10 11 12], (x, w, depth, out)),
                        2 => by_height!($kernel, height, 2, [1 2 3 4 5 6 7 8 9 10 11 12], (x, w, depth, out)),
                        3 => by_height!($kernel, height, 3, [1 2 3 4 5 6], (x, w, depth, out)),
                        _ => by_height!($kernel, height, 4, [1 2 3 4 5 6], (x, w, depth, out)),
                    }
                }
            }

            /// # Safety
            /// `x` holds `ROWS` rows of `depth`, `w` `depth` rows and `out` `ROWS` rows of `16 * REGISTERS`.
            #[target_feature(enable = $feature)]
            #[inline(never)]
            unsafe fn $kernel<const ROWS: usize, const REGISTERS: usize>(
                (x, x_stride): (*const $input, usize),
                (mut w, w_stride): (*const $input, usize),
                depth: usize,
                (out, out_stride): (*mut $output, usize),
            ) {
                let mut sums = [[$zero; REGISTERS]; ROWS];
                for k in 0..depth {
                    // SAFETY: k < depth, row < ROWS, j < REGISTERS.
                    unsafe {
                        let columns: [_; REGISTERS] = std::array::from_fn(|j| {
                            let $load = w.add(j * 16);
                            $loaded
                        });
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let $one = *x.add(row * x_stride + k);
                            let $a = $repeated;
                            for (sum, &$b) in sums.iter_mut().zip(&columns) {
                                let $sum = *sum;
                                *sum = $product;
                            }
                        }
                        w = w.add(w_stride);
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (j, &$stored) in sums.iter().enumerate() {
                        // SAFETY: as above.
                        unsafe {
                            let $place = out.add(row * out_stride + j * 16);
                            $store;
                        }
                    }
                }
            }
        };
    }

    micro_kernel!(
        multiply,
        kernel_f32,
        "avx512f",
        f32,
        f32,
        _mm512_setzero_ps(),
        |from| _mm512_loadu_ps(from),
        |one| _mm512_set1_ps(one),
        |sum, a, b| _mm512_fmadd_ps(a, b, sum),
        |to, sum| _mm512_storeu_ps(to, sum)
    );

    micro_kernel!(
        multiply_bf16,
        kernel_bf16,
        "avx512f,avx512bf16",
        u32,
        f32,
        _mm512_setzero_ps(),
        |from| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())),
        |one| transmute::<__m512i, __m512bh>(_mm512_set1_epi32(one as i32)),
        |sum, a, b| _mm512_dpbf16_ps(sum, a, b),
        |to, sum| _mm512_storeu_ps(to, sum)
    );

    micro_kernel!(
        multiply_int8,
        kernel_int8,
        "avx512f,avx512vnni",
        u32,
        i32,
        _mm512_setzero_si512(),
        |from| _mm512_loadu_si512(from.cast()),
        |one| _mm512_set1_epi32(one as i32),
        |sum, a, b| _mm512_dpbusd_epi32(sum, a, b),
        |to, sum| _mm512_storeu_si512(to.cast(), sum)
    );
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Shape, View};

    /// 16 columns at a time: 6 rows x 2 registers of sums, 2 weights and an input fill 15 of 16 registers.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; the slices hold the tile.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply(
        x: View<'_>,
        w: View<'_>,
        (height, depth, width): Shape,
        out: &mut [f32],
        out_stride: usize,
    ) {
        let x = (x.values.as_ptr(), x.stride);
        for left in (0..width).step_by(16) {
            // SAFETY: the caller vouches for the slices; left + 16 <= width.
            unsafe {
                let (w, out) = ((w.values.as_ptr().add(left), w.stride), (out.as_mut_ptr().add(left), out_stride));
                by_height!(kernel, height, 2, [1 2 3 4 5 6], (x, w, depth, out));
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

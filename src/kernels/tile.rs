//! Micro-kernels: a tile of a matrix product with its sums in registers.
//!
//! `out[i][j] = sum over k of x[i][k] * w[k][j]` for a few rows of `x` and one to four registers of columns. Each sum runs
//! over `k` from first to last whatever the tile's height, so a row's result does not depend on its neighbours (I1).

use super::path::{Instructions, Path, fused};
use super::rows::LANES;

/// Two neighbouring bf16 values of a row, the first in the low half.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Bf16Pair(pub(super) u32);

/// Four neighbouring int8 values of a row, the first in the lowest byte: unsigned in `x`, signed in `w`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Int8Quad(pub(super) u32);

/// What a micro-kernel reads at a time: one or more neighbouring values of `k` in 32 bits.
pub(super) trait Operand: Copy + Default + Sync + 'static {
    /// Values of `k` in one operand.
    const VALUES: usize;

    /// `out = start + x w` for `height` rows of `x`, `depth` operands each, and `w`, `[depth, width]`.
    ///
    /// `width` is a multiple of 16, at most 64; `height` is at most [`tallest`] of it. f32 and bf16 add up in f32, beginning
    /// with `start`; int8 adds up in i32, exact, from zero, and converts the sum to f32: its sums are of whole steps, which
    /// are scaled before anything can be added. Panics on a path without instructions for the operand.
    fn multiply(path: Path, factors: Factors<'_, Self>, shape: Shape, out: &mut [f32], out_stride: usize);
}

/// What a tile is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors<'a, T> {
    pub(super) x: View<'a, T>,
    pub(super) w: View<'a, T>,
    /// `[height, width]`; with a stride of 0 one row is for all. int8 does not read it.
    pub(super) start: View<'a, f32>,
}

/// The start of a plain product.
pub(super) const ZEROS: View<'static, f32> = View { values: &[0.0; 4 * LANES], stride: 0 };

/// A matrix inside a slice: where it starts and how far apart its rows are.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a, T> {
    pub(super) values: &'a [T],
    pub(super) stride: usize,
}

/// Height, depth in operands, and width of a tile.
pub(super) type Shape = (usize, usize, usize);

/// Most rows of a tile that is this many values wide: the sums, the weights and one input must fit the registers.
pub(super) fn tallest(path: Path, width: usize) -> usize {
    match path.instructions() {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if width <= 2 * LANES => 12,
        _ => 6,
    }
}

impl Operand for f32 {
    const VALUES: usize = 1;

    fn multiply(path: Path, factors: Factors<'_, Self>, shape: Shape, out: &mut [f32], out_stride: usize) {
        check(path, factors, shape, out.len(), out_stride);
        match path.instructions() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a path is the proof that the processor has its instructions; the shapes were
            // just checked.
            Instructions::Avx512 => unsafe { avx512::multiply_f32(factors, shape, out, out_stride) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Instructions::Avx2 => unsafe { avx2::multiply_f32(factors, shape, out, out_stride) },
            Instructions::Portable => portable(factors, shape, out, out_stride),
        }
    }
}

impl Operand for Bf16Pair {
    const VALUES: usize = 2;

    fn multiply(path: Path, factors: Factors<'_, Self>, shape: Shape, out: &mut [f32], out_stride: usize) {
        check(path, factors, shape, out.len(), out_stride);
        assert!(path.has_bf16(), "a processor with bf16 products");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: only the AVX-512 path has bf16 products, where the processor has them; the shapes were just checked.
        unsafe {
            avx512::multiply_bf16(factors, shape, out, out_stride);
        }
    }
}

impl Operand for Int8Quad {
    const VALUES: usize = 4;

    fn multiply(path: Path, factors: Factors<'_, Self>, shape: Shape, out: &mut [f32], out_stride: usize) {
        check(path, factors, shape, out.len(), out_stride);
        assert!(path.has_int8(), "a processor with int8 products");
        match path.instructions() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instructions are there and the shapes fit, as was just checked.
            Instructions::Avx512 => unsafe { avx512::multiply_int8(factors, shape, out, out_stride) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Instructions::Avx2 => unsafe { avx2::multiply_int8(factors, shape, out, out_stride) },
            Instructions::Portable => unreachable!("has_int8 is false there"),
        }
    }
}

/// Panics unless the views and the output hold the tile: the micro-kernels rely on it.
fn check<T>(path: Path, factors: Factors<'_, T>, (height, depth, width): Shape, out: usize, out_stride: usize) {
    let Factors { x, w, start } = factors;
    assert!(width.is_multiple_of(LANES) && (LANES..=4 * LANES).contains(&width), "whole registers");
    assert!((1..=tallest(path, width)).contains(&height) && depth > 0, "a tile's height");
    let holds = |length: usize, rows: usize, stride: usize, width: usize| {
        (rows - 1).checked_mul(stride).and_then(|last| last.checked_add(width)).is_some_and(|end| end <= length)
    };
    assert!(holds(x.values.len(), height, x.stride, depth), "every input of the tile");
    assert!(holds(w.values.len(), depth, w.stride, width), "every weight of the tile");
    assert!(holds(start.values.len(), height, start.stride, width), "every start of the tile");
    assert!(holds(out, height, out_stride, width), "every output of the tile");
}

/// The tile in plain Rust, one row and 16 columns at a time, which fits the 16 registers of every target.
fn portable(factors: Factors<'_, f32>, (height, depth, width): Shape, out: &mut [f32], out_stride: usize) {
    let Factors { x, w, start } = factors;
    for row in 0..height {
        let inputs = &x.values[row * x.stride..][..depth];
        for left in (0..width).step_by(LANES) {
            let mut sums = [0.0f32; LANES];
            sums.copy_from_slice(&start.values[row * start.stride + left..][..LANES]);
            for (k, &a) in inputs.iter().enumerate() {
                for (sum, &w) in sums.iter_mut().zip(&w.values[k * w.stride + left..][..LANES]) {
                    *sum = fused::<false>(a, w, *sum);
                }
            }
            out[row * out_stride + left..][..LANES].copy_from_slice(&sums);
        }
    }
}

/// Writes a micro-kernel and the choice of its height and width.
///
/// A kernel is `ROWS` rows by `REGISTERS` registers of `LANES` columns: a function of its own, never inlined, because inside
/// one big `match` the compiler spills the sums. `heights` lists, for each number of registers, the heights that exist.
#[cfg(target_arch = "x86_64")]
macro_rules! micro_kernel {
    ($choose:ident = $kernel:ident, $feature:literal, $operand:ty, $lanes:literal lanes,
     heights [$($registers:literal: [$($rows:literal)*]),*],
     start |$first:ident| $started:expr,
     load |$from:ident| $loaded:expr,
     repeat |$one:ident| $repeated:expr,
     add |$sum:ident, $a:ident, $b:ident| $product:expr,
     store |$to:ident, $total:ident| $store:expr) => {
        /// # Safety
        /// The processor has the features; the slices hold the tile.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn $choose(
            factors: Factors<'_, $operand>,
            (height, depth, width): Shape,
            out: &mut [f32],
            out_stride: usize,
        ) {
            let Factors { x, w, start } = factors;
            const WIDEST: usize = [$($registers),*][[$($registers),*].len() - 1] * $lanes;
            let x = (x.values.as_ptr(), x.stride);
            for left in (0..width).step_by(WIDEST) {
                // SAFETY: the caller vouches for the slices, and left < width.
                unsafe {
                    let w = (w.values.as_ptr().add(left), w.stride);
                    let start = (start.values.as_ptr().add(left), start.stride);
                    let out = (out.as_mut_ptr().add(left), out_stride);
                    match ((width - left).min(WIDEST) / $lanes, height) {
                        $($(($registers, $rows) => $kernel::<$rows, $registers>(x, w, start, depth, out),)*)*
                        (registers, height) => unreachable!("a tile of {height} rows and {registers} registers"),
                    }
                }
            }
        }

        /// # Safety
        /// The processor has the features; `x` holds `ROWS` rows of `depth`, `w` `depth` rows, `start` and `out` `ROWS` rows
        /// of `REGISTERS` registers.
        #[target_feature(enable = $feature)]
        #[inline(never)]
        unsafe fn $kernel<const ROWS: usize, const REGISTERS: usize>(
            (x, x_stride): (*const $operand, usize),
            (mut w, w_stride): (*const $operand, usize),
            (start, start_stride): (*const f32, usize),
            depth: usize,
            (out, out_stride): (*mut f32, usize),
        ) {
            // SAFETY: row < ROWS, j < REGISTERS.
            let mut sums: [[_; REGISTERS]; ROWS] = unsafe {
                std::array::from_fn(|row| {
                    std::array::from_fn(|j| {
                        let $first = start.add(row * start_stride + j * $lanes);
                        $started
                    })
                })
            };
            for k in 0..depth {
                // SAFETY: k < depth, row < ROWS, j < REGISTERS.
                unsafe {
                    let columns: [_; REGISTERS] = std::array::from_fn(|j| {
                        let $from = w.add(j * $lanes);
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
                }
                // Past the last row there may be nothing to point at.
                w = w.wrapping_add(w_stride);
            }
            for (row, sums) in sums.iter().enumerate() {
                for (j, &$total) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let $to = out.add(row * out_stride + j * $lanes);
                        $store;
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Bf16Pair, Factors, Int8Quad, Shape};

    micro_kernel!(
        multiply_f32 = kernel_f32, "avx512f", f32, 16 lanes,
        heights [1: [1 2 3 4 5 6 7 8 9 10 11 12], 2: [1 2 3 4 5 6 7 8 9 10 11 12], 3: [1 2 3 4 5 6], 4: [1 2 3 4 5 6]],
        start |first| _mm512_loadu_ps(first),
        load |from| _mm512_loadu_ps(from),
        repeat |one| _mm512_set1_ps(one),
        add |sum, a, b| _mm512_fmadd_ps(a, b, sum),
        store |to, sum| _mm512_storeu_ps(to, sum)
    );

    micro_kernel!(
        multiply_bf16 = kernel_bf16, "avx512f,avx512bf16", Bf16Pair, 16 lanes,
        heights [1: [1 2 3 4 5 6 7 8 9 10 11 12], 2: [1 2 3 4 5 6 7 8 9 10 11 12], 3: [1 2 3 4 5 6], 4: [1 2 3 4 5 6]],
        start |first| _mm512_loadu_ps(first),
        load |from| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())),
        repeat |one| transmute::<__m512i, __m512bh>(_mm512_set1_epi32(one.0 as i32)),
        add |sum, a, b| _mm512_dpbf16_ps(sum, a, b),
        store |to, sum| _mm512_storeu_ps(to, sum)
    );

    micro_kernel!(
        multiply_int8 = kernel_int8, "avx512f,avx512vnni", Int8Quad, 16 lanes,
        heights [1: [1 2 3 4 5 6 7 8 9 10 11 12], 2: [1 2 3 4 5 6 7 8 9 10 11 12], 3: [1 2 3 4 5 6], 4: [1 2 3 4 5 6]],
        start |_first| _mm512_setzero_si512(),
        load |from| _mm512_loadu_si512(from.cast()),
        repeat |one| _mm512_set1_epi32(one.0 as i32),
        add |sum, a, b| _mm512_dpbusd_epi32(sum, a, b),
        store |to, sum| _mm512_storeu_ps(to, _mm512_cvtepi32_ps(sum))
    );
}

/// 16 columns at a time: 6 rows x 2 registers of sums, 2 weights and an input fill 15 of 16 registers.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Factors, Int8Quad, Shape};

    micro_kernel!(
        multiply_f32 = kernel_f32, "avx2,fma", f32, 8 lanes,
        heights [2: [1 2 3 4 5 6]],
        start |first| _mm256_loadu_ps(first),
        load |from| _mm256_loadu_ps(from),
        repeat |one| _mm256_set1_ps(one),
        add |sum, a, b| _mm256_fmadd_ps(a, b, sum),
        store |to, sum| _mm256_storeu_ps(to, sum)
    );

    micro_kernel!(
        multiply_int8 = kernel_int8, "avx2,fma,avxvnni", Int8Quad, 8 lanes,
        heights [2: [1 2 3 4 5 6]],
        start |_first| _mm256_setzero_si256(),
        load |from| _mm256_loadu_si256(from.cast()),
        repeat |one| _mm256_set1_epi32(one.0 as i32),
        add |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b),
        store |to, sum| _mm256_storeu_ps(to, _mm256_cvtepi32_ps(sum))
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<u32> {
        (0..n).map(|i| ((i + 1) * 2_654_435_761 + seed * 40_503) as u32).collect()
    }

    /// Compares every tile of a path with sums in f64. `make` turns any 32 bits into an operand, `product` is what two
    /// operands add to a sum.
    fn compare<T: Operand>(path: Path, make: fn(u32) -> T, product: fn(T, T) -> f64) {
        for width in [16, 32, 48, 64] {
            for (height, depth) in (1..=tallest(path, width)).flat_map(|height| [1, 2, 17, 64].map(|d| (height, d))) {
                let (x_stride, w_stride, out_stride) = (depth + 3, width + 5, width + 2);
                let x: Vec<T> = numbers((height - 1) * x_stride + depth, 1).into_iter().map(make).collect();
                let w: Vec<T> = numbers((depth - 1) * w_stride + width, 2).into_iter().map(make).collect();
                let first = |i: usize| if T::VALUES == Int8Quad::VALUES { 0.0 } else { i as f32 };
                let start: Vec<f32> = (0..width + height).map(first).collect();
                let mut out = vec![9.0; height * out_stride];
                let factors = Factors {
                    x: View { values: &x[..], stride: x_stride },
                    w: View { values: &w[..], stride: w_stride },
                    start: View { values: &start[..], stride: 1 },
                };
                T::multiply(path, factors, (height, depth, width), &mut out, out_stride);
                for (row, out) in out.chunks(out_stride).enumerate() {
                    for (j, &y) in out[..width].iter().enumerate() {
                        let terms = (0..depth).map(|k| product(x[row * x_stride + k], w[k * w_stride + j]));
                        let twin = terms.clone().sum::<f64>() + f64::from(start[row + j]);
                        let size = terms.map(f64::abs).sum::<f64>() + f64::from(start[row + j]);
                        let wrong = (f64::from(y) - twin).abs();
                        assert!(wrong <= 1e-6 * size, "{path} {height}x{width}x{depth}: {y} not {twin}");
                    }
                    assert_eq!(out[width..], [9.0, 9.0], "nothing else is written");
                }
            }
        }
    }

    #[test]
    fn every_tile_matches_the_twin_and_writes_nothing_else() {
        let f32 = |bits| (bits as i32) as f32 / 2e9;
        for path in Path::available() {
            compare::<f32>(path, f32, |x, w| f64::from(x) * f64::from(w));
            if path.has_bf16() {
                // Values between 1/2 and 1, of both signs.
                compare::<Bf16Pair>(
                    path,
                    |bits| Bf16Pair(bits & 0x807f_807f | 0x3f00_3f00),
                    |x, w| {
                        let values = |pair: Bf16Pair| [pair.0 << 16, pair.0 & 0xffff_0000].map(f32::from_bits);
                        values(x).into_iter().zip(values(w)).map(|(x, w)| f64::from(x) * f64::from(w)).sum()
                    },
                );
            }
            if path.has_int8() {
                compare::<Int8Quad>(path, Int8Quad, |x, w| {
                    let (x, w) = (x.0.to_le_bytes(), w.0.to_le_bytes());
                    x.into_iter().zip(w).map(|(x, w)| f64::from(x) * f64::from(w as i8)).sum()
                });
            }
        }
    }

    #[test]
    fn the_largest_int8_sums_are_exact() {
        for path in Path::available().into_iter().filter(|path| path.has_int8()) {
            // 4096 inputs of 255 times weights of -127.
            let (x, w) = (vec![Int8Quad(u32::MAX); 1024], vec![Int8Quad(0x8181_8181); 1024 * 16]);
            let mut out = vec![0.0; 16];
            let (x, w) = (View { values: &x[..], stride: 1024 }, View { values: &w[..], stride: 16 });
            Int8Quad::multiply(path, Factors { x, w, start: ZEROS }, (1, 1024, 16), &mut out, 16);
            assert_eq!(out, [(4096 * 255 * -127) as f32; 16], "{path}");
        }
    }
}

//! Micro-kernels: a tile of a matrix product with its sums in registers.
//!
//! `out[i][j] = sum over k of x[i][k] * w[k][j]` for a few rows of `x` and one to four registers of columns. Each sum runs
//! over `k` from first to last whatever the tile's height, so a row's result does not depend on its neighbours (I1).

use super::path::{Instructions, Path, fused, per_path};
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

/// An operand of a lower precision, whose values can be multiplied as f32 where the path has no instructions for it.
pub(super) trait Narrow: Operand {
    /// Rows up to which widening the weights tile by tile, in registers, costs less than doing so once in memory.
    const FEW_ROWS: usize;

    /// One of its values, as a weight.
    fn value(self, number: usize) -> f32;

    /// What [`Operand::multiply`] of f32 gives for weights widened by [`widen`], to the bit, without them in memory: `x` is
    /// `[height, depth * VALUES]`. Panics on the portable path.
    fn multiply_widening(path: Path, factors: Factors<'_, f32, Self>, shape: Shape, out: &mut [f32], out_stride: usize);
}

per_path! {
    /// Weights `[depth, width]` as f32, `[depth * VALUES, width]`.
    pub(super) fn widen<T: Narrow>(weights: &[T], width: usize, out: &mut [f32]) = widen_body;
}

#[inline(always)]
fn widen_body<const FMA: bool, T: Narrow>(weights: &[T], width: usize, out: &mut [f32]) {
    for (weights, out) in weights.chunks_exact(width).zip(out.chunks_exact_mut(width * T::VALUES)) {
        for (number, out) in out.chunks_exact_mut(width).enumerate() {
            out.iter_mut().zip(weights).for_each(|(out, weight)| *out = weight.value(number));
        }
    }
}

/// What a tile is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors<'a, X, W = X> {
    pub(super) x: View<'a, X>,
    pub(super) w: View<'a, W>,
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

/// Writes [`Narrow::multiply_widening`] by its two kernels.
macro_rules! widening {
    ($kernel:ident) => {
        fn multiply_widening(
            path: Path,
            factors: Factors<'_, f32, Self>,
            shape: Shape,
            out: &mut [f32],
            out_stride: usize,
        ) {
            check(path, factors, shape, out.len(), out_stride);
            match path.instructions() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a path is the proof that the processor has its instructions; the shapes were just checked.
                Instructions::Avx512 => unsafe { avx512::$kernel(factors, shape, out, out_stride) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Instructions::Avx2 => unsafe { avx2::$kernel(factors, shape, out, out_stride) },
                Instructions::Portable => unreachable!("weights are widened in memory there"),
            }
        }
    };
}

impl Narrow for Bf16Pair {
    const FEW_ROWS: usize = 24;

    #[inline(always)]
    fn value(self, number: usize) -> f32 {
        f32::from_bits(if number == 0 { self.0 << 16 } else { self.0 & 0xffff_0000 })
    }

    widening!(widen_bf16);
}

impl Narrow for Int8Quad {
    const FEW_ROWS: usize = 24;

    #[inline(always)]
    fn value(self, number: usize) -> f32 {
        f32::from((self.0 >> (8 * number)) as u8 as i8)
    }

    widening!(widen_int8);
}

/// Panics unless the views and the output hold the tile: the micro-kernels rely on it.
fn check<X: Operand, W: Operand>(
    path: Path,
    factors: Factors<'_, X, W>,
    (height, depth, width): Shape,
    out: usize,
    out_stride: usize,
) {
    let Factors { x, w, start } = factors;
    assert!(width.is_multiple_of(LANES) && (LANES..=4 * LANES).contains(&width), "whole registers");
    assert!((1..=tallest(path, width)).contains(&height) && depth > 0, "a tile's height");
    let holds = |length: usize, rows: usize, stride: usize, width: usize| {
        (rows - 1).checked_mul(stride).and_then(|last| last.checked_add(width)).is_some_and(|end| end <= length)
    };
    assert!(holds(x.values.len(), height, x.stride, depth * W::VALUES / X::VALUES), "every input of the tile");
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
    ($choose:ident = $kernel:ident, $feature:literal, $input:ty, $weight:ty, $lanes:literal lanes,
     heights [$($registers:literal: [$($rows:literal)*]),*],
     start |$first:ident| $started:expr,
     load |$from:ident, $number:ident in [$($value:literal)*]| $loaded:expr,
     repeat |$one:ident| $repeated:expr,
     add |$sum:ident, $a:ident, $b:ident| $product:expr,
     store |$to:ident, $total:ident| $store:expr) => {
        /// # Safety
        /// The processor has the features; the slices hold the tile.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn $choose(
            factors: Factors<'_, $input, $weight>,
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
        /// The processor has the features; `x` holds `ROWS` rows of as many inputs as `depth` weights have values for, `w` `depth`
        /// rows, `start` and `out` `ROWS` rows of `REGISTERS` registers.
        #[target_feature(enable = $feature)]
        #[inline(never)]
        unsafe fn $kernel<const ROWS: usize, const REGISTERS: usize>(
            (x, x_stride): (*const $input, usize),
            (mut w, w_stride): (*const $weight, usize),
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
            const VALUES: usize = [$($value),*].len();
            for k in 0..depth {
                $({
                    const $number: usize = $value;
                    // SAFETY: k < depth, row < ROWS, j < REGISTERS.
                    unsafe {
                        let columns: [_; REGISTERS] = std::array::from_fn(|j| {
                            let $from = w.add(j * $lanes);
                            $loaded
                        });
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let $one = *x.add(row * x_stride + k * VALUES + $number);
                            let $a = $repeated;
                            for (sum, &$b) in sums.iter_mut().zip(&columns) {
                                let $sum = *sum;
                                *sum = $product;
                            }
                        }
                    }
                })*
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
        multiply_f32 = kernel_f32, "avx512f", f32, f32, 16 lanes,
        heights [1: [1 2 3 4 5 6 7 8 9 10 11 12], 2: [1 2 3 4 5 6 7 8 9 10 11 12], 3: [1 2 3 4 5 6], 4: [1 2 3 4 5 6]],
        start |first| _mm512_loadu_ps(first),
        load |from, NUMBER in [0]| _mm512_loadu_ps(from),
        repeat |one| _mm512_set1_ps(one),
        add |sum, a, b| _mm512_fmadd_ps(a, b, sum),
        store |to, sum| _mm512_storeu_ps(to, sum)
    );

    micro_kernel!(
        multiply_bf16 = kernel_bf16, "avx512f,avx512bf16", Bf16Pair, Bf16Pair, 16 lanes,
        heights [1: [1 2 3 4 5 6 7 8 9 10 11 12], 2: [1 2 3 4 5 6 7 8 9 10 11 12], 3: [1 2 3 4 5 6], 4: [1 2 3 4 5 6]],
        start |first| _mm512_loadu_ps(first),
        load |from, NUMBER in [0]| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())),
        repeat |one| transmute::<__m512i, __m512bh>(_mm512_set1_epi32(one.0 as i32)),
        add |sum, a, b| _mm512_dpbf16_ps(sum, a, b),
        store |to, sum| _mm512_storeu_ps(to, sum)
    );

    micro_kernel!(
        multiply_int8 = kernel_int8, "avx512f,avx512vnni", Int8Quad, Int8Quad, 16 lanes,
        heights [1: [1 2 3 4 5 6 7 8 9 10 11 12], 2: [1 2 3 4 5 6 7 8 9 10 11 12], 3: [1 2 3 4 5 6], 4: [1 2 3 4 5 6]],
        start |_first| _mm512_setzero_si512(),
        load |from, NUMBER in [0]| _mm512_loadu_si512(from.cast()),
        repeat |one| _mm512_set1_epi32(one.0 as i32),
        add |sum, a, b| _mm512_dpbusd_epi32(sum, a, b),
        store |to, sum| _mm512_storeu_ps(to, _mm512_cvtepi32_ps(sum))
    );

    micro_kernel!(
        widen_bf16 = kernel_widen_bf16, "avx512f", f32, Bf16Pair, 16 lanes,
        heights [1: [1 2 3 4 5 6 7 8 9 10 11 12], 2: [1 2 3 4 5 6 7 8 9 10 11 12], 3: [1 2 3 4 5 6], 4: [1 2 3 4 5 6]],
        start |first| _mm512_loadu_ps(first),
        load |from, NUMBER in [0 1]| {
            let words = _mm512_loadu_si512(from.cast());
            _mm512_castsi512_ps(match NUMBER {
                0 => _mm512_slli_epi32::<16>(words),
                _ => _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32)),
            })
        },
        repeat |one| _mm512_set1_ps(one),
        add |sum, a, b| _mm512_fmadd_ps(a, b, sum),
        store |to, sum| _mm512_storeu_ps(to, sum)
    );

    micro_kernel!(
        widen_int8 = kernel_widen_int8, "avx512f", f32, Int8Quad, 16 lanes,
        heights [1: [1 2 3 4 5 6 7 8 9 10 11 12], 2: [1 2 3 4 5 6 7 8 9 10 11 12], 3: [1 2 3 4 5 6], 4: [1 2 3 4 5 6]],
        start |first| _mm512_loadu_ps(first),
        load |from, NUMBER in [0 1 2 3]| {
            let words = _mm512_loadu_si512(from.cast());
            let high = _mm512_slli_epi32::<{ 24 - 8 * NUMBER as u32 }>(words);
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(high))
        },
        repeat |one| _mm512_set1_ps(one),
        add |sum, a, b| _mm512_fmadd_ps(a, b, sum),
        store |to, sum| _mm512_storeu_ps(to, sum)
    );
}

/// 16 columns at a time: 6 rows x 2 registers of sums, 2 weights and an input fill 15 of 16 registers.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Bf16Pair, Factors, Int8Quad, Shape};

    micro_kernel!(
        multiply_f32 = kernel_f32, "avx2,fma", f32, f32, 8 lanes,
        heights [2: [1 2 3 4 5 6]],
        start |first| _mm256_loadu_ps(first),
        load |from, NUMBER in [0]| _mm256_loadu_ps(from),
        repeat |one| _mm256_set1_ps(one),
        add |sum, a, b| _mm256_fmadd_ps(a, b, sum),
        store |to, sum| _mm256_storeu_ps(to, sum)
    );

    micro_kernel!(
        multiply_int8 = kernel_int8, "avx2,fma,avxvnni", Int8Quad, Int8Quad, 8 lanes,
        heights [2: [1 2 3 4 5 6]],
        start |_first| _mm256_setzero_si256(),
        load |from, NUMBER in [0]| _mm256_loadu_si256(from.cast()),
        repeat |one| _mm256_set1_epi32(one.0 as i32),
        add |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b),
        store |to, sum| _mm256_storeu_ps(to, _mm256_cvtepi32_ps(sum))
    );

    micro_kernel!(
        widen_bf16 = kernel_widen_bf16, "avx2,fma", f32, Bf16Pair, 8 lanes,
        heights [2: [1 2 3 4 5 6]],
        start |first| _mm256_loadu_ps(first),
        load |from, NUMBER in [0 1]| {
            let words = _mm256_loadu_si256(from.cast());
            _mm256_castsi256_ps(match NUMBER {
                0 => _mm256_slli_epi32::<16>(words),
                _ => _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32)),
            })
        },
        repeat |one| _mm256_set1_ps(one),
        add |sum, a, b| _mm256_fmadd_ps(a, b, sum),
        store |to, sum| _mm256_storeu_ps(to, sum)
    );

    micro_kernel!(
        widen_int8 = kernel_widen_int8, "avx2,fma", f32, Int8Quad, 8 lanes,
        heights [2: [1 2 3 4 5 6]],
        start |first| _mm256_loadu_ps(first),
        load |from, NUMBER in [0 1 2 3]| {
            let words = _mm256_loadu_si256(from.cast());
            let high = _mm256_slli_epi32::<{ 24 - 8 * NUMBER as i32 }>(words);
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(high))
        },
        repeat |one| _mm256_set1_ps(one),
        add |sum, a, b| _mm256_fmadd_ps(a, b, sum),
        store |to, sum| _mm256_storeu_ps(to, sum)
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

    /// Compares weights that are widened in registers with those that are in memory.
    fn compare_widening<T: Narrow>(path: Path, make: fn(u32) -> T) {
        for width in [16, 32, 48, 64] {
            for (height, depth) in (1..=tallest(path, width)).flat_map(|height| [1, 2, 17, 64].map(|d| (height, d))) {
                let inputs = depth * T::VALUES;
                let x: Vec<f32> =
                    numbers(height * inputs, 1).into_iter().map(|bits| bits as i32 as f32 / 2e9).collect();
                let w: Vec<T> = numbers(depth * width, 2).into_iter().map(make).collect();
                let start: Vec<f32> = (0..width).map(|i| i as f32).collect();
                let (x, start) = (View { values: &x[..], stride: inputs }, View { values: &start[..], stride: 0 });
                let mut out = [(); 2].map(|()| vec![f32::NAN; height * width]);
                let factors = Factors { x, w: View { values: &w[..], stride: width }, start };
                T::multiply_widening(path, factors, (height, depth, width), &mut out[0], width);
                let mut wide = vec![f32::NAN; inputs * width];
                widen(path, &w, width, &mut wide);
                let factors = Factors { x, w: View { values: &wide[..], stride: width }, start };
                f32::multiply(path, factors, (height, inputs, width), &mut out[1], width);
                assert_eq!(out[0], out[1], "{path} {height}x{width}x{depth}");
            }
        }
    }

    #[test]
    fn weights_widened_in_registers_give_the_bits_of_those_in_memory() {
        for path in Path::available().into_iter().filter(|path| path.instructions() != Instructions::Portable) {
            compare_widening(path, |bits| Bf16Pair(bits & 0x807f_807f | 0x3f00_3f00));
            compare_widening(path, Int8Quad);
        }
        let (pair, quad) = (Bf16Pair::join(-1.5, 2.0), Int8Quad(0x81_7f_ff_01));
        assert_eq!([0, 1].map(|number| pair.value(number)), [-1.5, 2.0]);
        assert_eq!([0, 1, 2, 3].map(|number| quad.value(number)), [1.0, -1.0, 127.0, -127.0]);
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

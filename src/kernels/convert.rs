//! f32 rows -> the rows of a lower precision, in words of 32 bits as the micro-kernels read them.
//!
//! A word holds two bf16 values or four int8 values that are neighbours in a row; a row ends in a whole word, its rest
//! being zero. Every row is converted on its own: an int8 row has its own steps, so that no text depends on another (I1).

use super::path::{Instructions, Path, fused, per_path};
use super::rows::{LANES, ROUND, add_up, largest};
use super::tile::{Bf16Pair, Int8Quad, Narrow, Operand};

/// Converted rows and what belongs to them, kept between products.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    /// `[rows, inputs / 2 rounded up]`
    pub(super) pairs: Vec<Bf16Pair>,
    /// `[rows, inputs / 4 rounded up]`
    pub(super) quads: Vec<Int8Quad>,
    /// `[rows]`, of `quads`.
    pub(super) steps: Vec<Steps>,
    /// The same values widened again, where the processor has no instructions for the precision: as many in a row as its words
    /// hold.
    pub(super) widened: Vec<f32>,
}

/// What the int8 numbers of a row stand for: `value = scale * (number - zero)`, the numbers being 0 to 255.
///
/// The zero lies where the row's values need it: what comes out of a GELU is hardly ever below zero, and would use half of
/// the numbers only if zero were in the middle.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Steps {
    pub(super) scale: f32,
    /// A whole number.
    pub(super) zero: f32,
}

/// The bf16 nearest to a value, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded as u16 }
}

impl Bf16Pair {
    /// Two values, rounded.
    #[inline(always)]
    pub(super) fn join(low: f32, high: f32) -> Self {
        Self(u32::from(to_bf16(low)) | u32::from(to_bf16(high)) << 16)
    }
}

/// Rounds rows of `width` values to bf16. `pairs` is `[rows, width / 2 rounded up]`.
pub(super) fn rows_to_bf16(path: Path, rows: &[f32], width: usize, pairs: &mut [Bf16Pair]) {
    match path.instructions() {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if width.is_multiple_of(LANES) && path.has_bf16() => {
            assert_eq!(rows.len(), pairs.len() * Bf16Pair::VALUES, "a pair for every two values");
            // SAFETY: a path is the proof that the processor has its instructions, and it has BF16, as was just asked.
            unsafe { x86::rows_to_bf16(rows, pairs) }
        }
        _ => plain_rows_to_bf16(path, rows, width, pairs),
    }
}

per_path! {
    /// The same in plain Rust.
    fn plain_rows_to_bf16(rows: &[f32], width: usize, pairs: &mut [Bf16Pair]) = rows_to_bf16_body;
}

#[inline(always)]
fn rows_to_bf16_body<const FMA: bool>(rows: &[f32], width: usize, pairs: &mut [Bf16Pair]) {
    for (row, pairs) in rows.chunks_exact(width).zip(pairs.chunks_exact_mut(width.div_ceil(Bf16Pair::VALUES))) {
        let (whole, rest) = row.as_chunks::<{ Bf16Pair::VALUES }>();
        for (&[low, high], pair) in whole.iter().zip(pairs.iter_mut()) {
            *pair = Bf16Pair::join(low, high);
        }
        if let (&[last], Some(pair)) = (rest, pairs.last_mut()) {
            *pair = Bf16Pair::join(last, 0.0);
        }
    }
}

/// Rounds rows to int8, each value times the factor of its column. `quads` is `[rows, columns / 4 rounded up]`.
pub(super) fn rows_to_int8(path: Path, rows: &[f32], factors: &[f32], quads: &mut [Int8Quad], steps: &mut [Steps]) {
    match path.instructions() {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if factors.len().is_multiple_of(LANES) => {
            assert_eq!(rows.len(), quads.len() * Int8Quad::VALUES, "a quad for every four values");
            assert_eq!(rows.len(), steps.len() * factors.len(), "steps for every row");
            // SAFETY: a path is the proof that the processor has its instructions.
            unsafe { x86::rows_to_int8(rows, factors, quads, steps) }
        }
        _ => plain_rows_to_int8(path, rows, factors, quads, steps),
    }
}

per_path! {
    /// The same in plain Rust: the compiler does not find the instruction that narrows a register to bytes.
    fn plain_rows_to_int8(rows: &[f32], factors: &[f32], quads: &mut [Int8Quad], steps: &mut [Steps]) = rows_to_int8_body;
}

#[inline(always)]
fn rows_to_int8_body<const FMA: bool>(rows: &[f32], factors: &[f32], quads: &mut [Int8Quad], steps: &mut [Steps]) {
    let (width, per_row) = (factors.len(), factors.len().div_ceil(Int8Quad::VALUES));
    for ((row, quads), steps) in rows.chunks_exact(width).zip(quads.chunks_exact_mut(per_row)).zip(steps) {
        let (per_step, found) = find_steps(row, factors);
        *steps = found;
        let number = |x: f32, factor: f32| fused::<FMA>(x * factor, per_step, ROUND + found.zero).to_bits() as u8;
        let columns = row.chunks(Int8Quad::VALUES).zip(factors.chunks(Int8Quad::VALUES));
        for ((x, factors), quad) in columns.zip(quads.iter_mut()) {
            let mut bytes = [0; Int8Quad::VALUES];
            bytes.iter_mut().zip(x).zip(factors).for_each(|((byte, &x), &factor)| *byte = number(x, factor));
            *quad = Int8Quad(u32::from_le_bytes(bytes));
        }
    }
}

/// The steps of a row, and how many there are to 1. NaN if a value is NaN or infinite.
#[inline(always)]
fn find_steps(row: &[f32], factors: &[f32]) -> (f32, Steps) {
    // Zero belongs to the range, so that zero is exact. Least values are kept with their sign turned.
    let (mut least, mut most) = ([0.0f32; LANES], [0.0f32; LANES]);
    // Zero unless a value is NaN or infinite, then NaN: a comparison alone would pass over it.
    let mut wrong = [0.0f32; LANES];
    let mut add = |x: &[f32], factors: &[f32]| {
        for ((((least, most), wrong), &x), &factor) in
            least.iter_mut().zip(&mut most).zip(&mut wrong).zip(x).zip(factors)
        {
            let x = x * factor;
            *least = if -x > *least { -x } else { *least };
            *most = if x > *most { x } else { *most };
            *wrong += x * 0.0;
        }
    };
    // The length of a whole chunk is known when this is compiled, so that it is one register.
    let ((row, row_rest), (factors, factors_rest)) = (row.as_chunks::<LANES>(), factors.as_chunks::<LANES>());
    row.iter().zip(factors).for_each(|(x, factors)| add(x, factors));
    add(row_rest, factors_rest);
    let (least, most) = (-largest(least), largest(most));
    let range = most - least + add_up(wrong);
    if range < 1e-30 {
        // Nothing but zeros, or so little that 1 / range would overflow.
        return (0.0, Steps::default());
    }
    // 254 steps and half a step of margin at both ends: no rounding can leave 0 to 255.
    let per_step = 254.0 / range;
    (per_step, Steps { scale: range / 254.0, zero: (0.5 - least * per_step) + ROUND - ROUND })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Bf16Pair, Int8Quad, LANES, Operand, ROUND, Steps, find_steps};

    /// Rows of whole registers.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn rows_to_bf16(rows: &[f32], pairs: &mut [Bf16Pair]) {
        const PAIRS: usize = LANES / Bf16Pair::VALUES;
        for (x, pairs) in rows.as_chunks::<LANES>().0.iter().zip(pairs.as_chunks_mut::<PAIRS>().0) {
            // SAFETY: x holds 16 values of 4 bytes, pairs 8 words.
            unsafe {
                let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr()));
                _mm256_storeu_si256(pairs.as_mut_ptr().cast(), transmute::<__m256bh, __m256i>(rounded));
            }
        }
    }

    /// Rows of whole registers.
    #[target_feature(enable = "avx512f")]
    pub(super) fn rows_to_int8(rows: &[f32], factors: &[f32], quads: &mut [Int8Quad], steps: &mut [Steps]) {
        const QUADS: usize = LANES / Int8Quad::VALUES;
        let width = factors.len();
        for ((row, quads), steps) in
            rows.chunks_exact(width).zip(quads.chunks_exact_mut(width / Int8Quad::VALUES)).zip(steps)
        {
            let (per_step, found) = find_steps(row, factors);
            *steps = found;
            let (per_step, zero) = (_mm512_set1_ps(per_step), _mm512_set1_ps(ROUND + found.zero));
            let columns = row.as_chunks::<LANES>().0.iter().zip(factors.as_chunks::<LANES>().0);
            for ((x, factors), quads) in columns.zip(quads.as_chunks_mut::<QUADS>().0) {
                // SAFETY: x and factors hold 16 values, quads 16 bytes.
                unsafe {
                    let x = _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(factors.as_ptr()));
                    let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(_mm512_fmadd_ps(x, per_step, zero)));
                    _mm_storeu_si128(quads.as_mut_ptr().cast(), bytes);
                }
            }
        }
    }
}

/// Pairs as f32.
pub(super) fn widen_bf16(pairs: &[Bf16Pair], out: &mut Vec<f32>) {
    out.clear();
    out.extend(pairs.iter().flat_map(|pair| [0, 1].map(|number| pair.value(number))));
}

/// Rows of quads, `[rows, width]`, as f32 of whole numbers, each row's zero taken off.
pub(super) fn widen_int8(quads: &[Int8Quad], width: usize, steps: &mut [Steps], out: &mut Vec<f32>) {
    out.clear();
    for (row, steps) in quads.chunks_exact(width).zip(steps) {
        out.extend(row.iter().flat_map(|quad| quad.0.to_le_bytes()).map(|byte| f32::from(byte) - steps.zero));
        steps.zero = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of every size, both signs, with denormals among them.
    fn values(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| {
                let size = 10f32.powi((i * 7 % 78) as i32 - 40);
                (((i * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0) * size
            })
            .collect()
    }

    #[test]
    fn bf16_rows_are_the_nearest_values_on_every_path() {
        for width in [1usize, 2, 15, 16, 17, 48] {
            let rows = values(3 * width);
            for path in Path::available() {
                let mut pairs = vec![Bf16Pair::default(); 3 * width.div_ceil(2)];
                rows_to_bf16(path, &rows, width, &mut pairs);
                let mut widened = Vec::new();
                widen_bf16(&pairs, &mut widened);
                let widened = widened.chunks_exact(width.next_multiple_of(2)).flat_map(|row| &row[..width]);
                for (x, y) in rows.iter().zip(widened) {
                    // Instructions for bf16 take denormals for zero.
                    let wrong = (x - y).abs();
                    assert!(wrong <= x.abs() / 256.0 || wrong < f32::MIN_POSITIVE, "{path:?} width {width}: {x} {y}");
                }
            }
        }
    }

    #[test]
    fn int8_rows_are_within_half_a_step_on_every_path() {
        for width in [1usize, 3, 4, 15, 16, 17, 48, 400] {
            let factors: Vec<f32> = (0..width).map(|i| 0.5 + (i % 7) as f32).collect();
            for shape in [|x: f32| x, |x: f32| x.abs(), |x: f32| -x.abs(), |_| 0.0, |_| 3.0, |x: f32| x * 1e-25] {
                let rows: Vec<f32> =
                    (0..3 * width).map(|i| shape(((i * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0)).collect();
                for path in Path::available() {
                    let mut quads = vec![Int8Quad::default(); 3 * width.div_ceil(4)];
                    let (mut steps, mut widened) = (vec![Steps::default(); 3], Vec::new());
                    rows_to_int8(path, &rows, &factors, &mut quads, &mut steps);
                    widen_int8(&quads, width.div_ceil(4), &mut steps, &mut widened);
                    let widened = widened.chunks_exact(width.next_multiple_of(4)).flat_map(|row| &row[..width]);
                    for (i, (x, number)) in rows.iter().zip(widened).enumerate() {
                        let (x, scale) = (x * factors[i % width], steps[i / width].scale);
                        let wrong = (x - number * scale).abs();
                        assert!(wrong <= 0.501 * scale, "{path:?} width {width}: {x} became {number} x {scale}");
                    }
                }
            }
        }
    }
}

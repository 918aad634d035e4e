//! f32 rows -> the rows of a lower precision, in words of 32 bits as the micro-kernels read them.
//!
//! A word holds two bf16 values or four int8 values that are neighbours in a row; a row ends in a whole word, its rest
//! being zero. Every row is converted on its own: int8 rows have a scale each, so that no text depends on another (I1).

use super::path::{Path, fused, per_path};
use super::rows::LANES;

/// Values in a word of bf16.
pub(super) const BF16_PER_WORD: usize = 2;
/// Values in a word of int8.
pub(super) const INT8_PER_WORD: usize = 4;
/// int8 inputs are stored unsigned, this much above their value.
pub(super) const INT8_OFFSET: i32 = 128;

/// Converted rows and what belongs to them, kept between products.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    /// `[rows, words]`
    pub(super) words: Vec<u32>,
    /// `[rows]`: what an int8 step is worth.
    pub(super) scales: Vec<f32>,
    /// `[rows, inputs]`: the same values widened again, where the processor has no instructions for the precision.
    pub(super) widened: Vec<f32>,
}

/// The bf16 nearest to a value, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded as u16 }
}

/// The value of a bf16.
#[inline(always)]
pub(super) fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

per_path! {
    /// Rounds rows of `width` values to bf16. `words` is `[rows, width / 2 rounded up]`.
    pub(super) fn rows_to_bf16(rows: &[f32], width: usize, words: &mut [u32]) = rows_to_bf16_body;
}

#[inline(always)]
fn rows_to_bf16_body<const FMA: bool>(rows: &[f32], width: usize, words: &mut [u32]) {
    for (row, words) in rows.chunks_exact(width).zip(words.chunks_exact_mut(width.div_ceil(BF16_PER_WORD))) {
        let (pairs, rest) = row.as_chunks::<BF16_PER_WORD>();
        for (&[low, high], word) in pairs.iter().zip(words.iter_mut()) {
            *word = u32::from(to_bf16(low)) | u32::from(to_bf16(high)) << 16;
        }
        if let (&[last], Some(word)) = (rest, words.last_mut()) {
            *word = u32::from(to_bf16(last));
        }
    }
}

/// Rounds rows of `width` values to int8, with a scale each. `words` is `[rows, width / 4 rounded up]`.
pub(super) fn rows_to_int8(path: Path, rows: &[f32], width: usize, words: &mut [u32], scales: &mut [f32]) {
    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 if width.is_multiple_of(LANES) => {
            let lengths = (words.len() / (width / INT8_PER_WORD)).min(scales.len());
            assert_eq!(rows.len(), lengths * width, "words and a scale for every row");
            // SAFETY: the path exists only where the processor has AVX-512 F (Path::available).
            unsafe { x86::rows_to_int8(rows, width, words, scales) }
        }
        _ => plain_rows_to_int8(path, rows, width, words, scales),
    }
}

per_path! {
    /// The same in plain Rust: the compiler does not find the instruction that narrows a register to bytes.
    fn plain_rows_to_int8(rows: &[f32], width: usize, words: &mut [u32], scales: &mut [f32]) = rows_to_int8_body;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{INT8_OFFSET, INT8_PER_WORD, LANES, largest};

    /// Rows of whole registers.
    #[target_feature(enable = "avx512f")]
    pub(super) fn rows_to_int8(rows: &[f32], width: usize, words: &mut [u32], scales: &mut [f32]) {
        const WORDS: usize = LANES / INT8_PER_WORD;
        let magic = _mm512_set1_ps(12_582_912.0 + INT8_OFFSET as f32);
        for ((row, words), scale) in
            rows.chunks_exact(width).zip(words.chunks_exact_mut(width / INT8_PER_WORD)).zip(scales)
        {
            let largest = largest(row);
            *scale = largest / 127.0;
            let steps = _mm512_set1_ps(if largest > 0.0 { 127.0 / largest } else { 0.0 });
            for (x, words) in row.as_chunks::<LANES>().0.iter().zip(words.as_chunks_mut::<WORDS>().0) {
                // SAFETY: x holds 16 values, words 16 bytes.
                unsafe {
                    let rounded = _mm512_fmadd_ps(_mm512_loadu_ps(x.as_ptr()), steps, magic);
                    let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(rounded));
                    _mm_storeu_si128(words.as_mut_ptr().cast(), bytes);
                }
            }
        }
    }
}

#[inline(always)]
fn rows_to_int8_body<const FMA: bool>(rows: &[f32], width: usize, words: &mut [u32], scales: &mut [f32]) {
    let per_row = width.div_ceil(INT8_PER_WORD);
    for ((row, words), scale) in rows.chunks_exact(width).zip(words.chunks_exact_mut(per_row)).zip(scales) {
        let largest = largest(row);
        *scale = largest / 127.0;
        let steps = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
        let step = |x: f32| fused::<FMA>(x, steps, 12_582_912.0 + INT8_OFFSET as f32).to_bits() as u8;
        for (x, word) in row.chunks(INT8_PER_WORD).zip(words.iter_mut()) {
            let mut bytes = [INT8_OFFSET as u8; INT8_PER_WORD];
            bytes.iter_mut().zip(x).for_each(|(byte, &x)| *byte = step(x));
            *word = u32::from_le_bytes(bytes);
        }
    }
}

/// The largest magnitude of a row; NaN if there is one in it, or an infinity.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    // Zero unless a value is NaN or infinite, then NaN: a comparison alone would pass over it.
    let mut wrong = [0.0f32; LANES];
    let mut add = |x: &[f32]| {
        for ((max, wrong), &x) in lanes.iter_mut().zip(&mut wrong).zip(x) {
            *max = if x.abs() > *max { x.abs() } else { *max };
            *wrong += x * 0.0;
        }
    };
    // The length of a whole chunk is known when this is compiled, so that it is one register.
    let (chunks, rest) = row.as_chunks::<LANES>();
    chunks.iter().for_each(|chunk| add(chunk));
    add(rest);
    lanes.into_iter().fold(0.0f32, |a, b| if b > a { b } else { a }) + wrong.into_iter().sum::<f32>()
}

/// Words of bf16 as f32 rows.
pub(super) fn widen_bf16(words: &[u32], width: usize, out: &mut Vec<f32>) {
    out.clear();
    for row in words.chunks_exact(width.div_ceil(BF16_PER_WORD)) {
        let values = row.iter().flat_map(|word| [from_bf16(*word as u16), from_bf16((word >> 16) as u16)]);
        out.extend(values.take(width));
    }
}

/// Words of int8 as f32 rows of whole steps, the offset taken off.
pub(super) fn widen_int8(words: &[u32], width: usize, out: &mut Vec<f32>) {
    out.clear();
    for row in words.chunks_exact(width.div_ceil(INT8_PER_WORD)) {
        let values = row.iter().flat_map(|word| word.to_le_bytes()).map(|byte| (i32::from(byte) - INT8_OFFSET) as f32);
        out.extend(values.take(width));
    }
}

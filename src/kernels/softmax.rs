//! Scores -> softmax weights, row by row.
//!
//! A row is turned into `e^(scale * (score - largest))`; the division by what it adds up to is left to whoever uses the
//! weights, because a weighed sum is divided faster than its weights.

use super::path::{Instructions, Path, fused, per_path};
use super::rows::{LANES, add_up, exp2_negative, largest};
use super::tile::{Bf16Pair, Operand};

/// The shape of a block of scores, and what they are multiplied with first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmax {
    /// Scores of a row that count; past them its weights are zero or next to it.
    pub(super) tokens: usize,
    /// Length of a row: the tokens in whole registers.
    pub(super) stride: usize,
    pub(super) scale: f32,
}

impl Softmax {
    /// Turns `scores`, `[rows, stride]`, into weights and notes what each row adds up to.
    pub(super) fn apply(self, path: Path, scores: &mut [f32], totals: &mut [f32]) {
        let totals = self.totals(scores, totals);
        match path.instructions() {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => {
                let place = scores.as_mut_ptr();
                // SAFETY: a path is the proof that the processor has its instructions; there is a
                // row for every total, and the weights take the place of the scores.
                unsafe { x86::soften(self, place, totals, place) }
            }
            _ => soften(path, self, scores, totals),
        }
    }

    /// The same with weights rounded to bf16, `[rows, stride / 2]`. Only where the path has bf16.
    pub(super) fn apply_bf16(self, path: Path, scores: &[f32], totals: &mut [f32], weights: &mut [Bf16Pair]) {
        let totals = self.totals(scores, totals);
        assert!(path.has_bf16(), "a processor with bf16 products");
        assert!(weights.len() >= scores.len() / Bf16Pair::VALUES, "a pair for every two scores");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: only the AVX-512 path has bf16, where the processor has it; there is a row for every total and place for
        // the weights, as was just checked.
        unsafe {
            x86::soften_bf16(self, scores.as_ptr(), totals, weights.as_mut_ptr());
        }
    }

    /// The totals of these rows. Panics unless the rows are whole: the kernels rely on it.
    fn totals<'a>(&self, scores: &[f32], totals: &'a mut [f32]) -> &'a mut [f32] {
        assert!(self.tokens > 0 && self.stride == self.tokens.next_multiple_of(LANES), "whole registers");
        assert!(scores.len().is_multiple_of(self.stride), "whole rows");
        &mut totals[..scores.len() / self.stride]
    }
}

per_path! {
    /// [`Softmax::apply`] in plain Rust.
    fn soften(softmax: Softmax, scores: &mut [f32], totals: &mut [f32]) = soften_body;
}

#[inline(always)]
fn soften_body<const FMA: bool>(softmax: Softmax, scores: &mut [f32], totals: &mut [f32]) {
    let scale = softmax.scale * std::f32::consts::LOG2_E;
    for (scores, total) in scores.chunks_exact_mut(softmax.stride).zip(totals) {
        // Past the last token a score must count for nothing.
        scores[softmax.tokens..].fill(f32::NEG_INFINITY);
        let (chunks, _) = scores.as_chunks_mut::<LANES>();
        let mut most = [f32::NEG_INFINITY; LANES];
        for chunk in chunks.iter() {
            for (max, &s) in most.iter_mut().zip(chunk) {
                *max = if s > *max { s } else { *max };
            }
        }
        // The largest score is taken off first, so nothing overflows.
        let shift = -largest(most) * scale;
        let mut totals = [0.0f32; LANES];
        for chunk in chunks {
            for (sum, s) in totals.iter_mut().zip(chunk) {
                *s = exp2_negative::<FMA>(fused::<FMA>(*s, scale, shift));
                *sum += *s;
            }
        }
        *total = add_up(totals);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Bf16Pair, LANES, Operand, Softmax};

    /// Writes a softmax: 2^x is `p(f) * 2^(x - f)`, f being what is above the whole number below x, with a polynomial fitted
    /// to 2^f on [0, 1) with the least largest relative error, highest coefficient first.
    macro_rules! soften {
        ($name:ident, $feature:literal, $to:ty, $coefficients:expr, |$place:ident, $weights:ident| $store:expr) => {
            /// # Safety
            /// The processor has the features. There is a row of `stride` scores for every total, `stride` being the tokens
            /// in whole registers; `to` has place for their weights, or is where the scores are.
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $name(softmax: Softmax, scores: *const f32, totals: &mut [f32], to: *mut $to) {
                // The lanes of the last register that are tokens.
                let last = softmax.stride - LANES;
                let there = u16::MAX >> (softmax.stride - softmax.tokens);
                let scale = _mm512_set1_ps(softmax.scale * std::f32::consts::LOG2_E);
                for (row, total) in totals.iter_mut().enumerate() {
                    // SAFETY: row is below the number of totals, at < stride, and the stride is whole registers.
                    unsafe {
                        let scores = scores.add(row * softmax.stride);
                        let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
                        let mut most = _mm512_mask_loadu_ps(lowest, there, scores.add(last));
                        for at in (0..last).step_by(LANES) {
                            most = _mm512_max_ps(_mm512_loadu_ps(scores.add(at)), most);
                        }
                        // The largest score is taken off first, so nothing overflows.
                        let shift = _mm512_mul_ps(_mm512_set1_ps(-_mm512_reduce_max_ps(most)), scale);
                        let mut sum = _mm512_setzero_ps();
                        for at in (0..softmax.stride).step_by(LANES) {
                            let x = _mm512_fmadd_ps(_mm512_loadu_ps(scores.add(at)), scale, shift);
                            let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF }>(x);
                            let mut p = _mm512_set1_ps($coefficients[0]);
                            for &c in &$coefficients[1..] {
                                p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
                            }
                            let there = if at == last { there } else { u16::MAX };
                            let $weights = _mm512_maskz_scalef_ps(there, p, x);
                            sum = _mm512_add_ps(sum, $weights);
                            let $place = to.add((row * softmax.stride + at) / <$to>::VALUES);
                            $store;
                        }
                        *total = _mm512_reduce_add_ps(sum);
                    }
                }
            }
        };
    }

    const EXP2: [f32; 6] = [0.001_877_576_7, 0.008_989_341, 0.055_826_318, 0.240_153_61, 0.693_153_1, 0.999_999_94];
    /// Relative error 8e-5, a fiftieth of what rounding to bf16 costs.
    const ROUGH_EXP2: [f32; 4] = [0.078_024_52, 0.226_067_17, 0.695_833_5, 0.999_925_2];

    soften!(soften, "avx512f,avx512dq", f32, EXP2, |place, weights| _mm512_storeu_ps(place, weights));

    soften!(soften_bf16, "avx512f,avx512dq,avx512bf16", Bf16Pair, ROUGH_EXP2, |place, weights| {
        _mm256_storeu_si256(place.cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(weights)));
    });
}

#[cfg(test)]
mod tests {
    use super::super::convert::widen_bf16;
    use super::*;

    #[test]
    fn weights_match_the_formula_for_any_length() {
        for tokens in [1, 2, 15, 16, 17, 31, 32, 33, 100] {
            let softmax = Softmax { tokens, stride: tokens.next_multiple_of(LANES), scale: 0.3 };
            let score = |i: usize| ((i * 2_654_435_761) % 4001) as f32 / 20.0 - 100.0;
            let scores: Vec<f32> = (0..3 * softmax.stride).map(score).collect();
            for path in Path::available() {
                let (mut weights, mut totals) = (scores.clone(), vec![0.0; 4]);
                softmax.apply(path, &mut weights, &mut totals);
                check(softmax, &scores, &weights, &totals, 1e-6);
                if path.has_bf16() {
                    let (mut pairs, mut weights) = (vec![Bf16Pair::default(); scores.len() / 2], Vec::new());
                    softmax.apply_bf16(path, &scores, &mut totals, &mut pairs);
                    widen_bf16(&pairs, &mut weights);
                    check(softmax, &scores, &weights, &totals, 1.0 / 256.0);
                }
            }
        }
    }

    /// Compares with the formula in f64: the naive twin.
    fn check(softmax: Softmax, scores: &[f32], weights: &[f32], totals: &[f32], error: f64) {
        let rows = scores.chunks(softmax.stride).zip(weights.chunks(softmax.stride));
        for ((scores, weights), &total) in rows.zip(totals) {
            let scores = &scores[..softmax.tokens];
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let twin = |score: f32| (f64::from(softmax.scale) * f64::from(score - most)).exp();
            let sum: f64 = scores.iter().map(|&score| twin(score)).sum();
            for (&weight, &score) in weights.iter().zip(scores) {
                let wrong = (f64::from(weight / total) - twin(score) / sum).abs();
                assert!(wrong <= error, "{} tokens: {weight} / {total} for {score}", softmax.tokens);
            }
            assert!(weights[softmax.tokens..].iter().all(|&weight| weight < 1e-37), "nothing past the last token");
        }
    }

    #[test]
    fn not_a_number_stays_in_its_row() {
        let softmax = Softmax { tokens: 20, stride: 32, scale: 1.0 };
        for path in Path::available() {
            let (mut scores, mut totals) = (vec![1.0; 3 * 32], vec![0.0; 3]);
            scores[32] = f32::NAN;
            scores[64] = f32::INFINITY;
            softmax.apply(path, &mut scores, &mut totals);
            assert!((totals[0] - 20.0).abs() < 1e-4, "{path}: {totals:?}");
            assert!(totals[1].is_nan() && totals[2].is_nan(), "{path}: {totals:?}");
        }
    }
}

//! Attention of one text: `softmax(q k^T / sqrt(d)) v`, head by head, on the tokens of that text alone.
//!
//! No padding and no mask: a text's rows are all it sees. Query rows are taken in blocks, so the scores need
//! `BLOCK x tokens` values and never `tokens x tokens`.

use super::path::{Path, fused, per_path};
use super::rows::{LANES, add_up, exp};

/// Query rows per block.
const BLOCK: usize = 32;

/// The shape of a model's attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    /// Number of heads.
    pub(crate) heads: usize,
    /// Width of one head.
    pub(crate) head: usize,
}

/// Room for the scores of one block and the transposed keys of one head, kept between texts.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    /// `[BLOCK, tokens]`, one row per query, `tokens` rounded up to whole lanes.
    scores: Vec<f32>,
    /// `[head, tokens]`: keys turned so that the scores of 16 tokens are added up at once.
    keys: Vec<f32>,
}

impl Attention {
    /// Attends within one text. `qkv` is `[tokens, 3 * heads * head]` (queries, keys, values side by side), `out` is
    /// `[tokens, heads * head]`.
    pub(crate) fn apply(&self, path: Path, qkv: &[f32], scores: &mut Scores, out: &mut [f32]) {
        let hidden = self.heads * self.head;
        let tokens = out.len() / hidden;
        assert_eq!(qkv.len(), tokens * 3 * hidden, "queries, keys and values of every token");
        let stride = tokens.next_multiple_of(LANES);
        scores.scores.resize(BLOCK * stride, 0.0);
        scores.keys.resize(self.head * stride, 0.0);
        for head in 0..self.heads {
            attend(path, *self, head, qkv, scores, out);
        }
    }
}

per_path! {
    /// One head of one text.
    fn attend(shape: Attention, number: usize, qkv: &[f32], room: &mut Scores, out: &mut [f32]) = attend_body;
}

#[inline(always)]
fn attend_body<const FMA: bool>(shape: Attention, number: usize, qkv: &[f32], room: &mut Scores, out: &mut [f32]) {
    let Attention { heads, head } = shape;
    let hidden = heads * head;
    let tokens = out.len() / hidden;
    let stride = tokens.next_multiple_of(LANES);
    let at = |token: usize, part: usize| token * 3 * hidden + part * hidden + number * head;
    let scale = 1.0 / (head as f32).sqrt();

    for token in 0..tokens {
        for (i, &k) in qkv[at(token, 1)..][..head].iter().enumerate() {
            room.keys[i * stride + token] = k;
        }
    }
    for i in 0..head {
        room.keys[i * stride + tokens..(i + 1) * stride].fill(0.0);
    }
    for first in (0..tokens).step_by(BLOCK) {
        let block = BLOCK.min(tokens - first);
        for (row, scores) in room.scores.chunks_exact_mut(stride).take(block).enumerate() {
            let query = &qkv[at(first + row, 0)..][..head];
            score::<FMA>(query, &room.keys, scale, scores);
            softmax::<FMA>(&mut scores[..tokens]);
        }
        for (row, scores) in room.scores.chunks_exact(stride).take(block).enumerate() {
            let out = &mut out[(first + row) * hidden + number * head..][..head];
            weigh::<FMA>(&scores[..tokens], |token| &qkv[at(token, 2)..][..head], out);
        }
    }
}

/// `scores[t] = scale * sum over i of query[i] * keys[i][t]`, 64 tokens at a time so that the sums stay in registers.
#[inline(always)]
fn score<const FMA: bool>(query: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) {
    const WIDE: usize = 4 * LANES;
    let stride = scores.len();
    let wide = stride / WIDE * WIDE;
    for t in (0..wide).step_by(WIDE) {
        score_lanes::<FMA, WIDE>(query, keys, stride, t, scale, scores);
    }
    for t in (wide..stride).step_by(LANES) {
        score_lanes::<FMA, LANES>(query, keys, stride, t, scale, scores);
    }
}

#[inline(always)]
fn score_lanes<const FMA: bool, const N: usize>(
    query: &[f32],
    keys: &[f32],
    stride: usize,
    t: usize,
    scale: f32,
    scores: &mut [f32],
) {
    let mut sums = [0.0f32; N];
    for (i, &q) in query.iter().enumerate() {
        for (sum, &k) in sums.iter_mut().zip(&keys[i * stride + t..][..N]) {
            *sum = fused::<FMA>(q, k, *sum);
        }
    }
    for (score, &sum) in scores[t..t + N].iter_mut().zip(&sums) {
        *score = sum * scale;
    }
}

/// Softmax in place. The largest score is taken off first, so nothing overflows.
#[inline(always)]
fn softmax<const FMA: bool>(scores: &mut [f32]) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in scores.chunks(LANES) {
        for (max, &s) in largest.iter_mut().zip(chunk) {
            *max = if s > *max { s } else { *max };
        }
    }
    let max = largest.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let mut totals = [0.0f32; LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (total, s) in totals.iter_mut().zip(chunk) {
            *s = exp::<FMA>(*s - max);
            *total += *s;
        }
    }
    let scale = 1.0 / add_up(totals);
    for s in scores {
        *s *= scale;
    }
}

/// `out = sum over tokens of weight[t] * value(t)`.
#[inline(always)]
fn weigh<'a, const FMA: bool>(weights: &[f32], value: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
    let chunks = out.len() / LANES * LANES;
    for i in (0..chunks).step_by(LANES) {
        let mut sums = [0.0f32; LANES];
        for (token, &w) in weights.iter().enumerate() {
            for (sum, &v) in sums.iter_mut().zip(&value(token)[i..i + LANES]) {
                *sum = fused::<FMA>(w, v, *sum);
            }
        }
        out[i..i + LANES].copy_from_slice(&sums);
    }
    for (i, out) in out.iter_mut().enumerate().skip(chunks) {
        let mut sum = 0.0;
        for (token, &w) in weights.iter().enumerate() {
            sum = fused::<FMA>(w, value(token)[i], sum);
        }
        *out = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761) % 4001) as f32 / 1000.0 - 2.0).collect()
    }

    /// Attention as the formula says, in f64: the naive twin.
    fn twin(qkv: &[f32], heads: usize, head: usize, tokens: usize) -> Vec<f64> {
        let hidden = heads * head;
        let at =
            |t: usize, part: usize, h: usize, i: usize| f64::from(qkv[t * 3 * hidden + part * hidden + h * head + i]);
        let mut out = vec![0.0; tokens * hidden];
        for h in 0..heads {
            for q in 0..tokens {
                let score =
                    |k: usize| (0..head).map(|i| at(q, 0, h, i) * at(k, 1, h, i)).sum::<f64>() / (head as f64).sqrt();
                let weights: Vec<f64> = (0..tokens).map(|k| score(k).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..head {
                    let sum: f64 = weights.iter().enumerate().map(|(k, w)| w * at(k, 2, h, i)).sum();
                    out[q * hidden + h * head + i] = sum / total;
                }
            }
        }
        out
    }

    #[test]
    fn attention_matches_the_twin_for_odd_lengths_and_heads() {
        for (heads, head) in [(1, 1), (3, 16), (4, 8), (2, 33), (12, 32)] {
            for tokens in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130] {
                let qkv = values(tokens * 3 * heads * head);
                let expected = twin(&qkv, heads, head, tokens);
                for path in Path::available() {
                    let mut out = vec![f32::NAN; tokens * heads * head];
                    // Old contents of the room must not leak into the result.
                    let mut room = Scores { scores: vec![f32::NAN; 7], keys: vec![f32::NAN; 9999] };
                    Attention { heads, head }.apply(path, &qkv, &mut room, &mut out);
                    for (y, twin) in out.iter().zip(&expected) {
                        assert!(
                            (f64::from(*y) - twin).abs() < 2e-5,
                            "{path:?} {heads}x{head}, {tokens} tokens: {y} not {twin}"
                        );
                    }
                }
            }
        }
    }
}

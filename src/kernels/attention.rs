//! Attention of one text: `softmax(q k^T / sqrt(d)) v`, head by head, on the tokens of that text alone.
//!
//! No padding and no mask: a text's rows are all it sees. Query rows are taken in blocks, so the scores need
//! `BLOCK x tokens` values and never `tokens x tokens`.

use std::ops::Range;

use super::path::{Path, per_path};
use super::rows::{LANES, add_up, exp_negative};
use super::tile::{self, View};

/// Query rows per block: the scores of a block and the keys of a head stay in the second-level cache.
const BLOCK: usize = 48;
/// Tokens per tile of scores.
const WIDE: usize = 4 * LANES;

/// The shape of a model's attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    /// Number of heads.
    pub(crate) heads: usize,
    /// Width of one head.
    pub(crate) head: usize,
}

/// Room for one head of one text, kept between texts.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    /// `[BLOCK, stride]`: one row per query, one column per token, `stride` being whole registers.
    scores: Vec<f32>,
    /// `[head, stride]`: keys turned, so that the scores of many tokens are added up at once.
    keys: Vec<f32>,
    /// `[BLOCK]`: what a query's weights add up to.
    totals: Vec<f32>,
}

impl Attention {
    /// Attends within one text. `qkv` is `[tokens, 3 * heads * head]` (queries, keys, values side by side), `out` is
    /// `[tokens, heads * head]`.
    pub(crate) fn apply(&self, path: Path, qkv: &[f32], room: &mut Scores, out: &mut [f32]) {
        let hidden = self.heads * self.head;
        let tokens = out.len() / hidden;
        assert_eq!(qkv.len(), tokens * 3 * hidden, "queries, keys and values of every token");
        let stride = tokens.next_multiple_of(LANES);
        grow(&mut room.scores, BLOCK * stride);
        grow(&mut room.keys, self.head * stride);
        grow(&mut room.totals, BLOCK);
        for number in 0..self.heads {
            let head = Head { first: number * self.head, width: self.head, hidden, tokens, stride };
            turn_keys(path, qkv, &head, &mut room.keys);
            for first in (0..tokens).step_by(BLOCK) {
                let block = first..tokens.min(first + BLOCK);
                head.score(path, qkv, block.clone(), room);
                soften(path, &head, block.len(), room);
                head.weigh(path, qkv, block, room, out);
            }
        }
    }
}

/// Makes a buffer long enough; what is in it does not matter.
fn grow(buffer: &mut Vec<f32>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
}

/// One head of one text.
struct Head {
    /// Its first column among the queries, the keys and the values.
    first: usize,
    width: usize,
    hidden: usize,
    tokens: usize,
    /// Length of a row of scores.
    stride: usize,
}

impl Head {
    /// `scores[q][t] = query q . key t`, tile by tile.
    fn score(&self, path: Path, qkv: &[f32], block: Range<usize>, room: &mut Scores) {
        let rows = 3 * self.hidden;
        for left in (0..self.stride).step_by(WIDE) {
            let width = WIDE.min(self.stride - left);
            let keys = View { values: &room.keys[left..], stride: self.stride };
            for top in block.clone().step_by(tile::tallest(path, width)) {
                let height = tile::tallest(path, width).min(block.end - top);
                let queries = View { values: &qkv[top * rows + self.first..], stride: rows };
                let out = &mut room.scores[(top - block.start) * self.stride + left..];
                tile::multiply(path, queries, keys, (height, self.width, width), out, self.stride);
            }
        }
    }

    /// `out[q] = sum over tokens of weight[q][t] * value t, over the total of the weights`.
    fn weigh(&self, path: Path, qkv: &[f32], block: Range<usize>, room: &mut Scores, out: &mut [f32]) {
        let rows = 3 * self.hidden;
        let whole = self.width / LANES * LANES;
        for left in (0..whole).step_by(2 * LANES) {
            let width = (2 * LANES).min(whole - left);
            let values = View { values: &qkv[2 * self.hidden + self.first + left..], stride: rows };
            for top in block.clone().step_by(tile::tallest(path, width)) {
                let height = tile::tallest(path, width).min(block.end - top);
                let weights = View { values: &room.scores[(top - block.start) * self.stride..], stride: self.stride };
                let out = &mut out[top * self.hidden + self.first + left..];
                tile::multiply(path, weights, values, (height, self.tokens, width), out, self.hidden);
            }
        }
        for query in block.clone() {
            let weights = &room.scores[(query - block.start) * self.stride..][..self.tokens];
            let out = &mut out[query * self.hidden + self.first..][..self.width];
            // Columns past whole registers, in models with odd heads.
            for (column, out) in out.iter_mut().enumerate().skip(whole) {
                let value = |token: usize| qkv[token * rows + 2 * self.hidden + self.first + column];
                *out = weights.iter().enumerate().map(|(token, &w)| w * value(token)).sum();
            }
            let scale = 1.0 / room.totals[query - block.start];
            out.iter_mut().for_each(|out| *out *= scale);
        }
    }
}

per_path! {
    /// Turns the keys of a head, zero past the last token.
    fn turn_keys(qkv: &[f32], head: &Head, keys: &mut [f32]) = turn_keys_body;
}

#[inline(always)]
fn turn_keys_body<const FMA: bool>(qkv: &[f32], head: &Head, keys: &mut [f32]) {
    let first = head.hidden + head.first;
    let keys = &mut keys[..head.width * head.stride];
    // Token by token: a key is read in one go, and the lines that it is spread over stay in the first-level cache.
    for token in 0..head.tokens {
        let key = &qkv[token * 3 * head.hidden + first..][..head.width];
        for (i, &key) in key.iter().enumerate() {
            keys[i * head.stride + token] = key;
        }
    }
    for row in keys.chunks_exact_mut(head.stride) {
        row[head.tokens..].fill(0.0);
    }
}

per_path! {
    /// Turns scores into weights: `e^(scale * (score - largest))`, and their totals.
    fn soften(head: &Head, queries: usize, room: &mut Scores) = soften_body;
}

#[inline(always)]
fn soften_body<const FMA: bool>(head: &Head, queries: usize, room: &mut Scores) {
    let scale = 1.0 / (head.width as f32).sqrt();
    for (scores, total) in room.scores.chunks_exact_mut(head.stride).zip(&mut room.totals).take(queries) {
        // Past the last token a score must count for nothing.
        scores[head.tokens..].fill(f32::NEG_INFINITY);
        let (chunks, _) = scores.as_chunks_mut::<LANES>();
        let mut largest = [f32::NEG_INFINITY; LANES];
        for chunk in chunks.iter() {
            for (max, &s) in largest.iter_mut().zip(chunk) {
                *max = if s > *max { s } else { *max };
            }
        }
        // The largest score is taken off first, so nothing overflows.
        let max = largest.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        let mut totals = [0.0f32; LANES];
        for chunk in chunks {
            for (sum, s) in totals.iter_mut().zip(chunk) {
                *s = exp_negative::<FMA>(scale * (*s - max));
                *sum += *s;
            }
        }
        *total = add_up(totals);
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
                    let mut room = Scores { scores: vec![f32::NAN; 7], keys: vec![f32::NAN; 9999], totals: Vec::new() };
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

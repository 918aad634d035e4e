//! Attention of one text: `softmax(q k^T / sqrt(d)) v`, head by head, on the tokens of that text alone.
//!
//! No padding and no mask: a text's rows are all it sees. Query rows are taken in blocks, so the scores need
//! `BLOCK x tokens` values and never `tokens x tokens`. Both products run on the micro-kernels: the keys of a head are
//! turned, and its values packed, into what a micro-kernel reads as weights. In bf16 queries, keys, values and softmax
//! weights are rounded; sums stay f32.

use super::convert::rows_to_bf16;
use super::path::{Path, per_path};
use super::rows::LANES;
use super::softmax::Softmax;
use super::tile::{self, Bf16Pair, Factors, Operand, View};

/// Query rows per block: the scores of a block and the keys of a head stay in the second-level cache.
const BLOCK: usize = 48;
/// Columns of the widest tile.
const WIDE: usize = 4 * LANES;

/// The shape of a model's attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    /// Number of heads.
    pub(crate) heads: usize,
    /// Width of one head.
    pub(crate) head: usize,
    /// Whether the products are bf16, where the path has instructions for it; f32 elsewhere.
    pub(crate) bf16: bool,
}

/// Room for one head of one text, kept between texts.
#[derive(Debug, Default)]
pub(crate) struct AttentionRoom {
    f32: HeadRoom<f32>,
    bf16: HeadRoom<Bf16Pair>,
}

/// `depth` counts operands, `stride` is the number of tokens in whole registers, `wide` a head's width in whole registers.
#[derive(Debug, Default)]
struct HeadRoom<T> {
    /// `[tokens, 2 * hidden / T::VALUES]`: queries and keys of all heads, if they are rounded.
    rows: Vec<T>,
    /// `[depth, stride]`: keys turned, so that the scores of many tokens are added up at once.
    keys: Vec<T>,
    /// `[stride / T::VALUES, wide]`: the values of as many neighbouring tokens as an operand holds side by side.
    values: Vec<T>,
    /// `[BLOCK, stride]`: one row per query, one column per token.
    scores: Vec<f32>,
    /// `[BLOCK, stride / T::VALUES]`: what softmax makes of the scores, if they are rounded.
    weights: Vec<T>,
    /// `[BLOCK]`: what a query's weights add up to.
    totals: Vec<f32>,
    /// `[BLOCK, wide]`: the values of a block, weighed.
    weighed: Vec<f32>,
}

/// What attention needs of an operand beside its product.
trait AttentionOperand: Operand {
    /// The queries and keys of all heads, `[tokens, at least 2 * hidden / VALUES]`, in `room` if they have to be rounded.
    fn queries_and_keys<'a>(path: Path, qkv: &'a [f32], hidden: usize, room: &'a mut Vec<Self>) -> View<'a, Self>;

    /// Joins a token's values with the next token's if an operand holds two; past the last token they are zero.
    fn join(token: &[f32], next: Option<&[f32]>, joined: &mut [Self]);

    /// Softmax of scores, but for the division by the totals. The weights are in `room` if they are rounded.
    fn soften<'a>(
        softmax: Softmax,
        path: Path,
        scores: &'a mut [f32],
        totals: &mut [f32],
        room: &'a mut Vec<Self>,
    ) -> View<'a, Self>;
}

impl AttentionOperand for f32 {
    fn queries_and_keys<'a>(_: Path, qkv: &'a [f32], hidden: usize, _: &'a mut Vec<Self>) -> View<'a, Self> {
        View { values: qkv, stride: 3 * hidden }
    }

    #[inline(always)]
    fn join(token: &[f32], _: Option<&[f32]>, joined: &mut [Self]) {
        joined.iter_mut().zip(token).for_each(|(joined, &x)| *joined = x);
    }

    fn soften<'a>(
        softmax: Softmax,
        path: Path,
        scores: &'a mut [f32],
        totals: &mut [f32],
        _: &'a mut Vec<Self>,
    ) -> View<'a, Self> {
        softmax.apply(path, scores, totals);
        View { values: scores, stride: softmax.stride }
    }
}

impl AttentionOperand for Bf16Pair {
    fn queries_and_keys<'a>(path: Path, qkv: &'a [f32], hidden: usize, room: &'a mut Vec<Self>) -> View<'a, Self> {
        let tokens = qkv.len() / (3 * hidden);
        grow(room, tokens * hidden);
        for (row, rounded) in qkv.chunks_exact(3 * hidden).zip(room.chunks_exact_mut(hidden)) {
            rows_to_bf16(path, &row[..2 * hidden], 2 * hidden, rounded);
        }
        View { values: &room[..tokens * hidden], stride: hidden }
    }

    #[inline(always)]
    fn join(token: &[f32], next: Option<&[f32]>, joined: &mut [Self]) {
        match next {
            Some(next) => {
                let pairs = token.iter().zip(next);
                joined.iter_mut().zip(pairs).for_each(|(joined, (&low, &high))| *joined = Self::join(low, high));
            }
            None => joined.iter_mut().zip(token).for_each(|(joined, &low)| *joined = Self::join(low, 0.0)),
        }
    }

    fn soften<'a>(
        softmax: Softmax,
        path: Path,
        scores: &'a mut [f32],
        totals: &mut [f32],
        room: &'a mut Vec<Self>,
    ) -> View<'a, Self> {
        grow(room, scores.len() / Self::VALUES);
        softmax.apply_bf16(path, scores, totals, room);
        View { values: room, stride: softmax.stride / Self::VALUES }
    }
}

impl Attention {
    /// Attends within one text. `qkv` is `[tokens, 3 * heads * head]` (queries, keys, values side by side), `out` is
    /// `[tokens, heads * head]`. `go_on` is asked between blocks; when it says no, `out` is left unfinished.
    pub(crate) fn apply(
        &self,
        path: Path,
        qkv: &[f32],
        room: &mut AttentionRoom,
        out: &mut [f32],
        go_on: &dyn Fn() -> bool,
    ) {
        assert_eq!(qkv.len(), 3 * out.len(), "queries, keys and values of every token");
        if out.is_empty() {
            return;
        }
        // A pair must not belong to two heads.
        if self.bf16 && path.has_bf16() && self.head.is_multiple_of(Bf16Pair::VALUES) {
            self.attend(path, qkv, &mut room.bf16, out, go_on);
        } else {
            self.attend(path, qkv, &mut room.f32, out, go_on);
        }
    }

    fn attend<T: AttentionOperand>(
        &self,
        path: Path,
        qkv: &[f32],
        room: &mut HeadRoom<T>,
        out: &mut [f32],
        go_on: &dyn Fn() -> bool,
    ) {
        let (width, hidden) = (self.head, self.heads * self.head);
        let tokens = out.len() / hidden;
        let (wide, stride) = (width.next_multiple_of(LANES), tokens.next_multiple_of(LANES));
        let HeadRoom { rows, keys, values, scores, weights, totals, weighed } = room;
        let depth = width / T::VALUES;
        grow(keys, depth * stride);
        grow(values, stride / T::VALUES * wide);
        grow(scores, BLOCK * stride);
        grow(totals, BLOCK);
        grow(weighed, BLOCK * wide);
        let softmax = Softmax { tokens, stride, scale: 1.0 / (width as f32).sqrt() };
        let rows = T::queries_and_keys(path, qkv, hidden, rows);
        for first_column in (0..hidden).step_by(width) {
            let head = Head { first_column, width, wide, hidden, tokens, stride };
            turn_keys(path, rows, &head, keys);
            pack_values::<T>(path, qkv, &head, values);
            for first in (0..tokens).step_by(BLOCK) {
                if !go_on() {
                    return;
                }
                let height = BLOCK.min(tokens - first);
                let queries = View { values: &rows.values[first * rows.stride + first_column / T::VALUES..], ..rows };
                multiply(path, queries, View { values: keys, stride }, (height, depth, stride), scores);
                let weights = T::soften(softmax, path, &mut scores[..height * stride], totals, weights);
                // Past the last token weights and values count for nothing.
                let depth = tokens.div_ceil(T::VALUES);
                multiply(path, weights, View { values, stride: wide }, (height, depth, wide), weighed);
                finish(path, &head, first, &weighed[..height * wide], totals, out);
            }
        }
    }
}

/// Makes a buffer long enough; what is in it does not matter.
fn grow<T: Operand>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
}

/// One head of one text.
struct Head {
    /// Its first column among the queries, the keys and the values.
    first_column: usize,
    width: usize,
    /// The width in whole registers.
    wide: usize,
    hidden: usize,
    tokens: usize,
    /// The number of tokens in whole registers.
    stride: usize,
}

/// `out = x w`, tile by tile; `out` is `[height, width]`.
fn multiply<T: Operand>(
    path: Path,
    x: View<'_, T>,
    w: View<'_, T>,
    (height, depth, width): tile::Shape,
    out: &mut [f32],
) {
    for left in (0..width).step_by(WIDE) {
        let wide = WIDE.min(width - left);
        let w = View { values: &w.values[left..], stride: w.stride };
        for top in (0..height).step_by(tile::tallest(path, wide)) {
            let high = tile::tallest(path, wide).min(height - top);
            let x = View { values: &x.values[top * x.stride..], stride: x.stride };
            let factors = Factors { x, w, start: tile::ZEROS };
            T::multiply(path, factors, (high, depth, wide), &mut out[top * width + left..], width);
        }
    }
}

/// Turns the keys of a head, zero past the last token. `rows` are the queries and keys of all heads.
fn turn_keys<T: Operand>(path: Path, rows: View<'_, T>, head: &Head, keys: &mut [T]) {
    const { assert!(size_of::<T>() == size_of::<u32>(), "squares are turned in 32 bits") };
    let (first, depth) = ((head.hidden + head.first_column) / T::VALUES, head.width / T::VALUES);
    let keys = &mut keys[..depth * head.stride];
    let turned = match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => {
            let (tokens, columns) = (head.tokens / LANES * LANES, depth / LANES * LANES);
            assert!(tokens == 0 || rows.values.len() >= (tokens - 1) * rows.stride + first + depth, "every key");
            for (token, column) in
                (0..tokens).step_by(LANES).flat_map(|t| (0..columns).step_by(LANES).map(move |c| (t, c)))
            {
                // SAFETY: the path exists only where the processor has AVX-512 F (Path::available). 16 tokens from `token`
                // have 16 operands each from `column`, as was just checked, and so do 16 rows of keys from `column`.
                unsafe {
                    let from = rows.values.as_ptr().add(token * rows.stride + first + column);
                    let to = keys.as_mut_ptr().add(column * head.stride + token);
                    x86::turn(from.cast(), rows.stride, to.cast(), head.stride);
                }
            }
            (tokens, columns)
        }
        _ => (0, 0),
    };
    // What is no whole square, token by token: a key is read in one go.
    for token in 0..head.tokens {
        let key = &rows.values[token * rows.stride + first..][..depth];
        let done = if token < turned.0 { turned.1 } else { 0 };
        for (i, &key) in key.iter().enumerate().skip(done) {
            keys[i * head.stride + token] = key;
        }
    }
    for row in keys.chunks_exact_mut(head.stride) {
        row[head.tokens..].fill(T::default());
    }
}

per_path! {
    /// Packs the values of a head, zero past the last token; columns past the last one are not used.
    fn pack_values<T: AttentionOperand>(qkv: &[f32], head: &Head, values: &mut [T]) = pack_values_body;
}

#[inline(always)]
fn pack_values_body<const FMA: bool, T: AttentionOperand>(qkv: &[f32], head: &Head, values: &mut [T]) {
    let first = 2 * head.hidden + head.first_column;
    for (tokens, joined) in qkv.chunks(3 * head.hidden * T::VALUES).zip(values.chunks_exact_mut(head.wide)) {
        let next = tokens.get(3 * head.hidden + first..).map(|row| &row[..head.width]);
        T::join(&tokens[first..][..head.width], next, joined);
    }
}

per_path! {
    /// Divides weighed rows by the totals and writes them to the text's queries from `first` on.
    fn finish(head: &Head, first: usize, weighed: &[f32], totals: &[f32], out: &mut [f32]) = finish_body;
}

#[inline(always)]
fn finish_body<const FMA: bool>(head: &Head, first: usize, weighed: &[f32], totals: &[f32], out: &mut [f32]) {
    let rows = out.chunks_exact_mut(head.hidden).skip(first);
    for ((weighed, total), out) in weighed.chunks_exact(head.wide).zip(totals).zip(rows) {
        let scale = 1.0 / total;
        let out = &mut out[head.first_column..][..head.width];
        out.iter_mut().zip(weighed).for_each(|(out, x)| *out = x * scale);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::array;

    use super::LANES;

    /// Turns a square of 16 x 16 words.
    ///
    /// # Safety
    /// The processor has AVX-512 F; `from` has 16 rows of 16 words, `from_stride` words apart, and `to` place for them.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn turn(from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
        let row = |i: usize| {
            // SAFETY: i < 16.
            unsafe { _mm512_loadu_si512(from.add(i * from_stride).cast()) }
        };
        let rows: [__m512i; LANES] = array::from_fn(row);
        // Pairs of rows, then fours: `fours[4 * g + c]` has, in its lane `l`, column `4 * l + c` of the rows from `4 * g`.
        let pairs: [__m512i; LANES] = array::from_fn(|i| match (rows[i & !1], rows[i | 1]) {
            (a, b) if i & 1 == 0 => _mm512_unpacklo_epi32(a, b),
            (a, b) => _mm512_unpackhi_epi32(a, b),
        });
        let fours: [__m512i; LANES] =
            array::from_fn(|i| match (pairs[i & !3 | (i >> 1 & 1)], pairs[i & !3 | (i >> 1 & 1) | 2]) {
                (a, b) if i & 1 == 0 => _mm512_unpacklo_epi64(a, b),
                (a, b) => _mm512_unpackhi_epi64(a, b),
            });
        for c in 0..4 {
            // Lanes of even and of odd number, of the upper and of the lower rows.
            let even = |a, b| _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
            let odd = |a, b| _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
            let (upper, lower) = ((fours[c], fours[4 + c]), (fours[8 + c], fours[12 + c]));
            let evens = (even(upper.0, upper.1), even(lower.0, lower.1));
            let odds = (odd(upper.0, upper.1), odd(lower.0, lower.1));
            let columns = [even(evens.0, evens.1), even(odds.0, odds.1), odd(evens.0, evens.1), odd(odds.0, odds.1)];
            for (l, column) in columns.into_iter().enumerate() {
                // SAFETY: 4 * l + c < 16.
                unsafe { _mm512_storeu_si512(to.add((4 * l + c) * to_stride).cast(), column) };
            }
        }
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
    fn not_a_number_in_one_token_reaches_only_the_heads_that_saw_it() {
        let (heads, head, tokens) = (2, 16, 20);
        for (path, bf16) in Path::available().into_iter().flat_map(|path| [(path, false), (path, true)]) {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut qkv = values(tokens * 3 * heads * head);
                // The value of token 3, first head.
                qkv[3 * 3 * heads * head + 2 * heads * head] = bad;
                let mut out = vec![0.0; tokens * heads * head];
                Attention { heads, head, bf16 }.apply(path, &qkv, &mut AttentionRoom::default(), &mut out, &|| true);
                for row in out.chunks(heads * head) {
                    assert!(!row[0].is_finite(), "{path} bf16 {bf16} {bad}");
                    assert!(row[head..].iter().all(|y| y.is_finite()), "{path} bf16 {bf16} {bad}");
                }
            }
        }
    }

    #[test]
    fn a_text_without_tokens_is_no_text() {
        Attention { heads: 2, head: 16, bf16: false }.apply(
            Path::Portable,
            &[],
            &mut AttentionRoom::default(),
            &mut [],
            &|| true,
        );
    }

    #[test]
    fn attention_matches_the_twin_for_odd_lengths_and_heads() {
        for (heads, head) in [(1, 1), (3, 16), (4, 8), (2, 33), (12, 32)] {
            for tokens in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130] {
                let qkv = values(tokens * 3 * heads * head);
                let expected = twin(&qkv, heads, head, tokens);
                for (path, bf16) in Path::available().into_iter().flat_map(|path| [(path, false), (path, true)]) {
                    let mut out = vec![f32::NAN; tokens * heads * head];
                    // Old contents of the room must not leak into the result.
                    let mut room = AttentionRoom::default();
                    room.f32.keys.resize(9999, f32::NAN);
                    room.f32.values.resize(9999, f32::NAN);
                    room.f32.scores.resize(7, f32::NAN);
                    let poison = Bf16Pair(0x7fc0_7fc0);
                    for buffer in [&mut room.bf16.keys, &mut room.bf16.values, &mut room.bf16.weights] {
                        buffer.resize(9999, poison);
                    }
                    Attention { heads, head, bf16 }.apply(path, &qkv, &mut room, &mut out, &|| true);
                    let error = if bf16 && path.has_bf16() { 2e-2 } else { 2e-5 };
                    for (y, twin) in out.iter().zip(&expected) {
                        assert!(
                            (f64::from(*y) - twin).abs() < error,
                            "{path:?} {heads}x{head}, {tokens} tokens: {y} not {twin}"
                        );
                    }
                }
            }
        }
    }
}

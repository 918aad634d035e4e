//! Attention of one text: `softmax(scale q k^T + bias) v`, head by head, on the tokens of that text alone.
//!
//! No padding and no mask of padding: a text's rows are all it sees. Query rows are taken in blocks, and of the keys those
//! that the block may see, so the scores need `BLOCK x tokens` values at most and never `tokens x tokens`. Both products
//! run on the micro-kernels: the keys of a head are turned, and its values packed, into what a micro-kernel reads as
//! weights. In bf16 queries, keys, values and softmax weights are rounded; sums stay f32.

use super::convert::rows_to_bf16;
use super::path::{Instructions, Path, fused, per_path};
use super::rows::LANES;
use super::softmax::Softmax;
use super::tile::{self, Bf16Pair, Factors, Operand, View};

/// Most query rows per block: the scores of a block and the keys of a head stay in the second-level cache.
const BLOCK: usize = 48;
/// Most scores of a block, unless it would have fewer rows than a tile.
const SCORES: usize = 1 << 17;
/// Fewest query rows per block: those of the tallest tile.
const TILE: usize = 12;
/// Columns of the widest tile.
const WIDE: usize = 4 * LANES;

/// The shape of a layer's attention.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    /// Number of heads that ask.
    pub(crate) heads: usize,
    /// Number of heads that are asked: each has `heads / key_heads` neighbours among the queries.
    pub(crate) key_heads: usize,
    /// Width of one head.
    pub(crate) head: usize,
    /// What the products of queries and keys are multiplied with.
    pub(crate) scale: f32,
    /// How far a token sees.
    pub(crate) reach: Reach,
    /// What is added to a score for the distance between its tokens.
    pub(crate) bias: Option<Bias>,
    /// Whether the products are bf16, where the path has instructions for it; f32 elsewhere.
    pub(crate) bf16: bool,
}

/// How many tokens before and after itself a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Tokens before.
    pub(crate) before: usize,
    /// Tokens after: none where attention is causal.
    pub(crate) after: usize,
}

impl Reach {
    /// Every token sees the whole text.
    pub(crate) const WHOLE: Self = Self { before: usize::MAX, after: usize::MAX };
}

/// What is added to a score, for the distance from the query to the key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Bias {
    /// ALiBi: minus the distance, whatever its sign, times the head's slope.
    Slopes(Vec<f32>),
    /// A learned table `[heads, 2 * farthest + 1]`, by the distance from `-farthest` to `farthest`; beyond, its ends.
    Table {
        /// The largest distance that has a value of its own.
        farthest: usize,
        /// Row by row.
        values: Vec<f32>,
    },
}

impl Bias {
    /// Writes what a head adds for every distance from `-last` to `last`.
    pub(crate) fn write(&self, head: usize, last: usize, line: &mut Vec<f32>) {
        line.clear();
        let distances = -(last as isize)..=last as isize;
        match self {
            Self::Slopes(slopes) => line.extend(distances.map(|d| -slopes[head] * d.unsigned_abs() as f32)),
            Self::Table { farthest, values } => {
                let row = &values[head * (2 * farthest + 1)..][..2 * farthest + 1];
                let farthest = *farthest as isize;
                line.extend(distances.map(|d| row[(d.clamp(-farthest, farthest) + farthest) as usize]));
            }
        }
    }
}

/// Buffers for one head of one text, kept between texts.
#[derive(Debug, Default)]
pub(crate) struct AttentionScratch {
    f32: HeadScratch<f32>,
    bf16: HeadScratch<Bf16Pair>,
}

/// `depth` counts operands, `stride` is the number of tokens in whole registers, `wide` a head's width in whole registers.
#[derive(Debug, Default)]
struct HeadScratch<T> {
    /// `[tokens, (heads + key_heads) * head / T::VALUES]`: queries and keys of all heads, if they are rounded.
    rows: Vec<T>,
    /// `[depth, stride]`: keys turned, so that the scores of many tokens are added up at once.
    keys: Vec<T>,
    /// `[stride / T::VALUES, wide]`: the values of as many neighbouring tokens as an operand holds side by side.
    values: Vec<T>,
    /// `[block, stride]`: one row per query, one column per token.
    scores: Vec<f32>,
    /// `[BLOCK, stride / T::VALUES]`: what softmax makes of the scores, if they are rounded.
    weights: Vec<T>,
    /// `[BLOCK]`: what a query's weights add up to.
    totals: Vec<f32>,
    /// `[BLOCK, wide]`: the values of a block, weighed.
    weighed: Vec<f32>,
    /// `[2 * tokens - 1]`: what a head adds for a distance.
    line: Vec<f32>,
}

/// What attention needs of an operand beside its product.
trait AttentionOperand: Operand {
    /// The first `width` columns of rows of `stride` values, queries and keys, in `scratch` if they have to be rounded.
    fn queries_and_keys<'a>(path: Path, qkv: View<'a, f32>, width: usize, scratch: &'a mut Vec<Self>)
    -> View<'a, Self>;

    /// Joins a token's values with the next token's if an operand holds two; past the last token they are zero.
    fn join(token: &[f32], next: Option<&[f32]>, joined: &mut [Self]);

    /// Softmax of scores, but for the division by the totals. The weights are in `scratch` if they are rounded.
    fn soften<'a>(
        softmax: Softmax,
        path: Path,
        scores: &'a mut [f32],
        totals: &mut [f32],
        scratch: &'a mut Vec<Self>,
    ) -> View<'a, Self>;
}

impl AttentionOperand for f32 {
    fn queries_and_keys<'a>(_: Path, qkv: View<'a, f32>, _: usize, _: &'a mut Vec<Self>) -> View<'a, Self> {
        qkv
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
    fn queries_and_keys<'a>(
        path: Path,
        qkv: View<'a, f32>,
        width: usize,
        scratch: &'a mut Vec<Self>,
    ) -> View<'a, Self> {
        let (tokens, stride) = (qkv.values.len() / qkv.stride, width / Self::VALUES);
        grow(scratch, tokens * stride);
        for (row, rounded) in qkv.values.chunks_exact(qkv.stride).zip(scratch.chunks_exact_mut(stride)) {
            rows_to_bf16(path, &row[..width], width, rounded);
        }
        View { values: &scratch[..tokens * stride], stride }
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
        scratch: &'a mut Vec<Self>,
    ) -> View<'a, Self> {
        grow(scratch, scores.len() / Self::VALUES);
        softmax.apply_bf16(path, scores, totals, scratch);
        View { values: scratch, stride: softmax.stride / Self::VALUES }
    }
}

impl Attention {
    /// Width of a row of queries, keys and values: `heads + 2 * key_heads` heads side by side.
    pub(crate) fn row(&self) -> usize {
        (self.heads + 2 * self.key_heads) * self.head
    }

    /// Attends within one text. `qkv` is `[tokens, row()]` (the queries of all heads, then the keys, then the values), `out`
    /// is `[tokens, heads * head]`. `go_on` is asked between blocks; when it says no, `out` is left unfinished.
    pub(crate) fn apply(
        &self,
        path: Path,
        qkv: &[f32],
        scratch: &mut AttentionScratch,
        out: &mut [f32],
        go_on: &dyn Fn() -> bool,
    ) {
        assert_eq!(
            qkv.len() * self.heads * self.head,
            out.len() * self.row(),
            "queries, keys and values of every token"
        );
        if out.is_empty() {
            return;
        }
        // A pair must not belong to two heads.
        if self.bf16 && path.has_bf16() && self.head.is_multiple_of(Bf16Pair::VALUES) {
            self.attend(path, qkv, &mut scratch.bf16, out, go_on);
        } else {
            self.attend(path, qkv, &mut scratch.f32, out, go_on);
        }
    }

    fn attend<T: AttentionOperand>(
        &self,
        path: Path,
        qkv: &[f32],
        scratch: &mut HeadScratch<T>,
        out: &mut [f32],
        go_on: &dyn Fn() -> bool,
    ) {
        let shape = HeadShape::new(self, out.len() / (self.heads * self.head));
        let HeadShape { width, wide, tokens, stride, .. } = shape;
        let HeadScratch { rows, keys, values, scores, weights, totals, weighed, line } = scratch;
        grow(keys, width / T::VALUES * stride);
        grow(values, stride / T::VALUES * wide);
        grow(scores, shape.block * stride);
        grow(totals, BLOCK);
        grow(weighed, BLOCK * wide);
        let asking = (self.heads + self.key_heads) * width;
        let rows = T::queries_and_keys(path, View { values: qkv, stride: self.row() }, asking, rows);
        for head in 0..self.heads {
            let group = self.heads / self.key_heads;
            if head % group == 0 {
                let key_head = head / group;
                turn_keys(path, rows, (self.heads + key_head) * width, &shape, keys);
                pack_values::<T>(path, qkv, (self.heads + self.key_heads + key_head) * width, &shape, values);
            }
            if let Some(bias) = &self.bias {
                bias.write(head, tokens - 1, line);
            }
            for first in (0..tokens).step_by(shape.block) {
                if !go_on() {
                    return;
                }
                let block = Block::new(self.reach, &shape, first);
                let queries = View { values: &rows.values[first * rows.stride + head * width / T::VALUES..], ..rows };
                let seen = View { values: &keys[block.low..], stride };
                multiply(path, queries, seen, (block.height, width / T::VALUES, block.stride), scores);
                let scores = &mut scores[..block.height * block.stride];
                let scale = self.prepare(path, &block, line, scores);
                let softmax = Softmax { tokens: block.seen, stride: block.stride, scale };
                let weights = T::soften(softmax, path, scores, totals, weights);
                // Past the last token weights and values count for nothing.
                let depth = block.seen.div_ceil(T::VALUES);
                let seen = View { values: &values[block.low / T::VALUES * wide..], stride: wide };
                multiply(path, weights, seen, (block.height, depth, wide), weighed);
                let region = Region { stride: self.heads * width, column: head * width, width, wide };
                finish(path, region, first, &weighed[..block.height * wide], totals, out);
            }
        }
    }

    /// Adds the bias to a block's scores and hides what its queries do not see. Gives what the scores are yet to be
    /// multiplied with.
    fn prepare(&self, path: Path, block: &Block, line: &[f32], scores: &mut [f32]) -> f32 {
        if self.bias.is_some() {
            add_bias(path, block, self.scale, line, scores);
        }
        if self.reach != Reach::WHOLE {
            block.hide(self.reach, scores);
        }
        if self.bias.is_some() { 1.0 } else { self.scale }
    }
}

/// The numbers that all heads of a text share.
struct HeadShape {
    /// Width of a head.
    width: usize,
    /// The width in whole registers.
    wide: usize,
    /// Width of a row of queries, keys and values.
    row: usize,
    tokens: usize,
    /// The number of tokens in whole registers.
    stride: usize,
    /// Query rows per block.
    block: usize,
}

impl HeadShape {
    fn new(attention: &Attention, tokens: usize) -> Self {
        let width = attention.head;
        let (wide, stride) = (width.next_multiple_of(LANES), tokens.next_multiple_of(LANES));
        let seen = attention.reach.before.saturating_add(attention.reach.after).saturating_add(BLOCK).min(stride);
        let block = (SCORES / seen / TILE * TILE).clamp(TILE, BLOCK);
        Self { width, wide, row: attention.row(), tokens, stride, block }
    }
}

/// A block of queries and the keys that some of them see.
struct Block {
    /// The first query.
    first: usize,
    /// Queries.
    height: usize,
    /// The first key, at the start of a register.
    low: usize,
    /// Keys.
    seen: usize,
    /// The keys in whole registers.
    stride: usize,
    tokens: usize,
}

impl Block {
    fn new(reach: Reach, shape: &HeadShape, first: usize) -> Self {
        let HeadShape { tokens, stride, .. } = *shape;
        let height = shape.block.min(tokens - first);
        let low = first.saturating_sub(reach.before) / LANES * LANES;
        let high = (first + height).saturating_add(reach.after).min(tokens);
        let seen = (high.next_multiple_of(LANES).min(stride)).min(tokens) - low;
        Self { first, height, low, seen, stride: seen.next_multiple_of(LANES), tokens }
    }

    /// Takes away the scores of keys that a query does not see.
    fn hide(&self, reach: Reach, scores: &mut [f32]) {
        for (query, scores) in (self.first..).zip(scores.chunks_exact_mut(self.stride)) {
            let from = query.saturating_sub(reach.before).max(self.low) - self.low;
            let to = query.saturating_add(reach.after).saturating_add(1).min(self.tokens) - self.low;
            scores[..from].fill(f32::NEG_INFINITY);
            scores[to..].fill(f32::NEG_INFINITY);
        }
    }
}

per_path! {
    /// `score * scale + bias`, the bias of distance 0 being in the middle of the line.
    fn add_bias(block: &Block, scale: f32, line: &[f32], scores: &mut [f32]) = add_bias_body;
}

#[inline(always)]
fn add_bias_body<const FMA: bool>(block: &Block, scale: f32, line: &[f32], scores: &mut [f32]) {
    for (query, scores) in (block.first..).zip(scores.chunks_exact_mut(block.stride)) {
        let line = &line[block.tokens - 1 + block.low - query..][..block.seen];
        scores.iter_mut().zip(line).for_each(|(score, &bias)| *score = fused::<FMA>(*score, scale, bias));
    }
}

/// Makes a buffer long enough; what is in it does not matter.
fn grow<T: Operand>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
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

/// Turns the keys of a head, which begin at `column` of `rows`, zero past the last token.
fn turn_keys<T: Operand>(path: Path, rows: View<'_, T>, column: usize, head: &HeadShape, keys: &mut [T]) {
    const { assert!(size_of::<T>() == size_of::<u32>(), "squares are turned in 32 bits") };
    let (first, depth) = (column / T::VALUES, head.width / T::VALUES);
    let keys = &mut keys[..depth * head.stride];
    let turned = match path.instructions() {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => {
            let (tokens, columns) = (head.tokens / LANES * LANES, depth / LANES * LANES);
            assert!(tokens == 0 || rows.values.len() >= (tokens - 1) * rows.stride + first + depth, "every key");
            for (token, column) in
                (0..tokens).step_by(LANES).flat_map(|t| (0..columns).step_by(LANES).map(move |c| (t, c)))
            {
                // SAFETY: a path is the proof that the processor has its instructions. 16 tokens from `token`
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
    /// Packs the values of a head, which begin at `column`, zero past the last token; columns past the last one are not used.
    fn pack_values<T: AttentionOperand>(qkv: &[f32], column: usize, head: &HeadShape, values: &mut [T]) = pack_values_body;
}

#[inline(always)]
fn pack_values_body<const FMA: bool, T: AttentionOperand>(
    qkv: &[f32],
    column: usize,
    head: &HeadShape,
    values: &mut [T],
) {
    for (tokens, joined) in qkv.chunks(head.row * T::VALUES).zip(values.chunks_exact_mut(head.wide)) {
        let next = tokens.get(head.row + column..).map(|row| &row[..head.width]);
        T::join(&tokens[column..][..head.width], next, joined);
    }
}

/// Where a head's result goes.
#[derive(Clone, Copy)]
struct Region {
    /// Width of an output row.
    stride: usize,
    column: usize,
    width: usize,
    /// Width of a weighed row.
    wide: usize,
}

per_path! {
    /// Divides weighed rows by the totals and writes them to the text's queries from `first` on.
    fn finish(region: Region, first: usize, weighed: &[f32], totals: &[f32], out: &mut [f32]) = finish_body;
}

#[inline(always)]
fn finish_body<const FMA: bool>(region: Region, first: usize, weighed: &[f32], totals: &[f32], out: &mut [f32]) {
    let rows = out.chunks_exact_mut(region.stride).skip(first);
    for ((weighed, total), out) in weighed.chunks_exact(region.wide).zip(totals).zip(rows) {
        let scale = 1.0 / total;
        let out = &mut out[region.column..][..region.width];
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

    fn plain(heads: usize, head: usize, bf16: bool) -> Attention {
        let scale = 1.0 / (head as f32).sqrt();
        Attention { heads, key_heads: heads, head, scale, reach: Reach::WHOLE, bias: None, bf16 }
    }

    /// Attention as the formula says, in f64: the naive twin.
    fn twin(attention: &Attention, qkv: &[f32], tokens: usize) -> Vec<f64> {
        let Attention { heads, key_heads, head, reach, .. } = *attention;
        let at = |t: usize, h: usize, i: usize| f64::from(qkv[t * attention.row() + h * head + i]);
        let bias = |h: usize, q: usize, k: usize| match &attention.bias {
            None => 0.0,
            Some(Bias::Slopes(slopes)) => -f64::from(slopes[h]) * q.abs_diff(k) as f64,
            Some(Bias::Table { farthest, values }) => {
                let distance = (k as isize - q as isize).clamp(-(*farthest as isize), *farthest as isize);
                f64::from(values[h * (2 * farthest + 1) + (distance + *farthest as isize) as usize])
            }
        };
        let mut out = vec![0.0; tokens * heads * head];
        for h in 0..heads {
            let key_head = heads + h / (heads / key_heads);
            for q in 0..tokens {
                let seen = q.saturating_sub(reach.before)..q.saturating_add(reach.after).saturating_add(1).min(tokens);
                let score = |k: usize| {
                    let product: f64 = (0..head).map(|i| at(q, h, i) * at(k, key_head, i)).sum();
                    (product * f64::from(attention.scale) + bias(h, q, k)).exp()
                };
                let weights: Vec<f64> = seen.clone().map(score).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..head {
                    let weighed = seen.clone().zip(&weights).map(|(k, w)| w * at(k, key_head + key_heads, i));
                    out[q * heads * head + h * head + i] = weighed.sum::<f64>() / total;
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
                plain(heads, head, bf16).apply(path, &qkv, &mut AttentionScratch::default(), &mut out, &|| true);
                for row in out.chunks(heads * head) {
                    assert!(!row[0].is_finite(), "{path} bf16 {bf16} {bad}");
                    assert!(row[head..].iter().all(|y| y.is_finite()), "{path} bf16 {bf16} {bad}");
                }
            }
        }
    }

    #[test]
    fn a_text_without_tokens_is_no_text() {
        plain(2, 16, false).apply(Path::portable(), &[], &mut AttentionScratch::default(), &mut [], &|| true);
    }

    #[test]
    fn attention_matches_the_twin_for_odd_lengths_and_heads() {
        for (heads, head) in [(1, 1), (3, 16), (4, 8), (2, 33), (12, 32)] {
            for tokens in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130] {
                compare(&plain(heads, head, false), tokens);
            }
        }
    }

    #[test]
    fn reach_groups_and_bias_match_the_twin() {
        let reaches = [(usize::MAX, 0), (0, 0), (3, 3), (20, 0), (64, 64), (500, 500)];
        let table = |heads: usize, farthest| Bias::Table { farthest, values: values(heads * (2 * farthest + 1)) };
        for (heads, key_heads, head) in [(4, 4, 16), (4, 2, 8), (6, 1, 32), (2, 1, 33)] {
            let biases = [None, Some(Bias::Slopes(vec![0.5, 0.1, 0.01, 0.3, 0.2, 0.7])), Some(table(heads, 20))];
            for ((before, after), bias) in
                reaches.iter().flat_map(|&reach| biases.iter().map(move |b| (reach, b.clone())))
            {
                for tokens in [1, 2, 17, 48, 49, 150] {
                    let reach = Reach { before, after };
                    compare(
                        &Attention { key_heads, reach, bias: bias.clone(), scale: 0.2, ..plain(heads, head, false) },
                        tokens,
                    );
                }
            }
        }
    }

    /// Compares with the twin on every path, in f32 and in bf16.
    fn compare(attention: &Attention, tokens: usize) {
        let qkv = values(tokens * attention.row());
        let expected = twin(attention, &qkv, tokens);
        for (path, bf16) in Path::available().into_iter().flat_map(|path| [(path, false), (path, true)]) {
            let attention = Attention { bf16, ..attention.clone() };
            let mut out = vec![f32::NAN; expected.len()];
            // Old contents of the scratch must not leak into the result.
            let mut scratch = AttentionScratch::default();
            scratch.f32.keys.resize(9999, f32::NAN);
            scratch.f32.values.resize(9999, f32::NAN);
            scratch.f32.scores.resize(7, f32::NAN);
            let poison = Bf16Pair(0x7fc0_7fc0);
            for buffer in [&mut scratch.bf16.keys, &mut scratch.bf16.values, &mut scratch.bf16.weights] {
                buffer.resize(9999, poison);
            }
            attention.apply(path, &qkv, &mut scratch, &mut out, &|| true);
            let error = if bf16 && path.has_bf16() { 3e-2 } else { 2e-5 };
            for (y, twin) in out.iter().zip(&expected) {
                assert!(
                    (f64::from(*y) - twin).abs() < error,
                    "{path:?} {attention:?}, {tokens} tokens: {y} not {twin}"
                );
            }
        }
    }
}

//! Matrix products with a weight matrix that is packed once.
//!
//! A weight matrix `[n, k]` (PyTorch's layout: one row per output) is stored in *panels* of [`PANEL`] outputs, and inside
//! a panel input by input, so that a micro-kernel reads it front to back. A tile of up to [`TILE_ROWS`] rows by one panel
//! has its sums in registers. Each sum runs over `k` from first to last whatever the tile's height, so a row's result
//! does not depend on its neighbours.
//!
//! Three arithmetics, chosen matrix by matrix:
//!
//! | arithmetic | weights | inputs | sums |
//! |---|---|---|---|
//! | f32 | f32 | f32 | f32 |
//! | bf16 | bf16 | rounded to bf16 | f32 |
//! | int8 | int8, a scale per output | int8, a scale per row | i32, exact |
//!
//! Where the processor has no instructions for bf16 or int8, the rounded values are widened to f32 again and multiplied
//! there: the same rounding, so the same class of result, at the speed of f32.

use super::convert::{
    self, BF16_PER_WORD, Converted, INT8_OFFSET, INT8_PER_WORD, from_bf16, rows_to_bf16, rows_to_int8, to_bf16,
};
use super::path::{Path, per_path};
use super::rows::{Activation, activate};
use super::tile::{self, View};

/// Outputs per panel: four AVX-512 registers.
const PANEL: usize = 64;
/// Rows per tile: 6 x 4 sums, 4 weights and one input fill 29 of the 32 AVX-512 registers.
const TILE_ROWS: usize = 6;

/// The sums of one tile.
type Tile<T = f32> = [[T; PANEL]; TILE_ROWS];

/// In which numbers a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    F32,
    Bf16,
    Int8,
}

/// A weight matrix with its bias, ready for [`PackedMatrix::multiply`].
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    path: Path,
    arithmetic: Arithmetic,
    /// Width of an input row, `k`.
    inputs: usize,
    /// Width of an output row, `n`.
    outputs: usize,
    weights: Panels,
    /// `[panels * PANEL]`, zero past the last output, as are the next two.
    bias: Vec<f32>,
    /// int8: what a step of a weight is worth, per output.
    scales: Vec<f32>,
    /// int8: what the inputs' offset adds to a sum, per output, negative.
    offsets: Vec<i32>,
}

/// Packed weights, `[panels][depth][PANEL]`.
#[derive(Debug)]
enum Panels {
    /// One value per entry; bf16 and int8 too, where they are widened.
    F32(Vec<f32>),
    /// Two bf16 or four int8 values of neighbouring inputs per entry.
    Words(Vec<u32>),
}

/// What happens to a sum before it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// `sum + bias`
    Bias,
    /// `activation(sum + bias)`
    Activate(Activation),
    /// `sum + bias + residual`, the residual shaped like the output.
    Add(&'a [f32]),
}

impl PackedMatrix {
    /// Packs `weight`, `[outputs, inputs]` row by row, and `bias`, `[outputs]`.
    pub(crate) fn pack(path: Path, arithmetic: Arithmetic, weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        let outputs = bias.len();
        assert_eq!(weight.len(), outputs * inputs, "a weight matrix is [outputs, inputs]");
        let padded = outputs.next_multiple_of(PANEL);
        let mut packed = Self {
            path,
            arithmetic,
            inputs,
            outputs,
            weights: Panels::F32(Vec::new()),
            bias: bias.to_vec(),
            scales: vec![0.0; padded],
            offsets: vec![0; padded],
        };
        packed.bias.resize(padded, 0.0);
        packed.weights = match arithmetic {
            Arithmetic::F32 => Panels::F32(panels(weight, inputs, |w: [f32; 1]| w[0])),
            Arithmetic::Bf16 if path.has_bf16() => {
                let word = |w: [f32; BF16_PER_WORD]| u32::from(to_bf16(w[0])) | u32::from(to_bf16(w[1])) << 16;
                Panels::Words(panels(weight, inputs, word))
            }
            Arithmetic::Bf16 => Panels::F32(panels(weight, inputs, |w: [f32; 1]| from_bf16(to_bf16(w[0])))),
            Arithmetic::Int8 => {
                let steps = packed.round_to_int8(weight);
                if path.has_int8() {
                    let word = |w: [f32; INT8_PER_WORD]| u32::from_le_bytes(w.map(|w| w as i8 as u8));
                    Panels::Words(panels(&steps, inputs, word))
                } else {
                    Panels::F32(panels(&steps, inputs, |w: [f32; 1]| w[0]))
                }
            }
        };
        packed
    }

    /// Rounds weights to whole steps of -127 to 127, and notes scales and offsets.
    fn round_to_int8(&mut self, weight: &[f32]) -> Vec<f32> {
        let mut steps = Vec::with_capacity(weight.len());
        for (output, row) in weight.chunks_exact(self.inputs).enumerate() {
            let scale = row.iter().fold(0.0f32, |max, w| max.max(w.abs())) / 127.0;
            steps.extend(row.iter().map(|w| if scale > 0.0 { (w / scale).round_ties_even() } else { 0.0 }));
            let total: f32 = steps[output * self.inputs..].iter().sum();
            self.scales[output] = scale;
            self.offsets[output] = -INT8_OFFSET * total as i32;
        }
        steps
    }

    /// `out = epilogue(x W^T)` for `x` of `[rows, inputs]` and `out` of `[rows, outputs]`.
    pub(crate) fn multiply(&self, x: &[f32], converted: &mut Converted, epilogue: Epilogue<'_>, out: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "whole input rows");
        assert_eq!(out.len(), rows * self.outputs, "one output row per input row");
        if let Epilogue::Add(residual) = epilogue {
            assert_eq!(residual.len(), out.len(), "a residual is shaped like the output");
        }
        self.convert(x, rows, converted);
        let x = if self.arithmetic == Arithmetic::F32 { x } else { &converted.widened };
        // Panels outside, rows inside: a panel (at most a few hundred KiB) is read from the second-level cache for every
        // tile, the rows of a model batch from there too.
        let (mut tile, mut whole): (Tile, Tile<i32>) = ([[0.0; PANEL]; TILE_ROWS], [[0; PANEL]; TILE_ROWS]);
        for first in (0..self.outputs).step_by(PANEL) {
            for top in (0..rows).step_by(TILE_ROWS) {
                let height = TILE_ROWS.min(rows - top);
                match &self.weights {
                    Panels::F32(weights) => {
                        let (x, w, depth) = views(x, weights, self.inputs, top, first);
                        tile::multiply(self.path, x, w, (height, depth, PANEL), tile.as_flattened_mut(), PANEL);
                        if self.arithmetic == Arithmetic::Int8 {
                            self.scale_widened(&converted.scales[top..], first, &mut tile);
                        }
                    }
                    Panels::Words(weights) if self.arithmetic == Arithmetic::Bf16 => {
                        let depth = self.inputs.div_ceil(BF16_PER_WORD);
                        let (x, w, depth) = views(&converted.words, weights, depth, top, first);
                        tile::multiply_bf16(self.path, x, w, (height, depth, PANEL), tile.as_flattened_mut(), PANEL);
                    }
                    Panels::Words(weights) => {
                        let depth = self.inputs.div_ceil(INT8_PER_WORD);
                        let (x, w, depth) = views(&converted.words, weights, depth, top, first);
                        tile::multiply_int8(self.path, x, w, (height, depth, PANEL), whole.as_flattened_mut(), PANEL);
                        let (offsets, scales) = (&self.offsets[first..][..PANEL], &self.scales[first..][..PANEL]);
                        scale(self.path, &whole, offsets, scales, &converted.scales[top..][..height], &mut tile);
                    }
                }
                let place = Place { top, height, first, width: PANEL.min(self.outputs - first), stride: self.outputs };
                store(self.path, &mut tile, &self.bias[first..][..PANEL], epilogue, place, out);
            }
        }
    }

    /// Brings the inputs into this matrix's arithmetic.
    fn convert(&self, x: &[f32], rows: usize, converted: &mut Converted) {
        let Converted { words, scales, widened } = converted;
        match self.arithmetic {
            Arithmetic::F32 => {}
            Arithmetic::Bf16 => {
                words.resize(rows * self.inputs.div_ceil(BF16_PER_WORD), 0);
                rows_to_bf16(self.path, x, self.inputs, words);
            }
            Arithmetic::Int8 => {
                words.resize(rows * self.inputs.div_ceil(INT8_PER_WORD), 0);
                scales.resize(rows, 0.0);
                rows_to_int8(self.path, x, self.inputs, words, scales);
            }
        }
        if matches!(self.weights, Panels::F32(_)) {
            match self.arithmetic {
                Arithmetic::F32 => {}
                Arithmetic::Bf16 => convert::widen_bf16(words, self.inputs, widened),
                Arithmetic::Int8 => convert::widen_int8(words, self.inputs, widened),
            }
        }
    }

    /// Scales sums of whole steps that were added up in f32.
    fn scale_widened(&self, rows: &[f32], first: usize, tile: &mut Tile) {
        for (sums, row) in tile.iter_mut().zip(rows) {
            for (sum, scale) in sums.iter_mut().zip(&self.scales[first..]) {
                *sum *= row * scale;
            }
        }
    }
}

/// Packs rows of weights into panels, `N` neighbouring inputs to an entry, zero where there is no weight.
fn panels<const N: usize, T: Clone + Default>(weight: &[f32], inputs: usize, entry: impl Fn([f32; N]) -> T) -> Vec<T> {
    let depth = inputs.div_ceil(N);
    let outputs = weight.len() / inputs;
    let mut packed = vec![T::default(); outputs.div_ceil(PANEL) * depth * PANEL];
    for (output, row) in weight.chunks_exact(inputs).enumerate() {
        let panel = &mut packed[output / PANEL * depth * PANEL..][..depth * PANEL];
        for (k, values) in row.chunks(N).enumerate() {
            let mut whole = [0.0; N];
            whole[..values.len()].copy_from_slice(values);
            panel[k * PANEL + output % PANEL] = entry(whole);
        }
    }
    packed
}

/// The inputs from row `top` on and the panel of output `first`.
fn views<'a, T>(
    x: &'a [T],
    weights: &'a [T],
    depth: usize,
    top: usize,
    first: usize,
) -> (View<'a, T>, View<'a, T>, usize) {
    let x = View { values: &x[top * depth..], stride: depth };
    let w = View { values: &weights[first * depth..][..depth * PANEL], stride: PANEL };
    (x, w, depth)
}

/// Where a tile lies in the output.
#[derive(Clone, Copy)]
struct Place {
    top: usize,
    height: usize,
    first: usize,
    width: usize,
    stride: usize,
}

per_path! {
    /// int8 sums to f32: takes the inputs' offset off and multiplies with both scales.
    fn scale(whole: &Tile<i32>, offsets: &[i32], scales: &[f32], rows: &[f32], tile: &mut Tile) = scale_body;
}

#[inline(always)]
fn scale_body<const FMA: bool>(whole: &Tile<i32>, offsets: &[i32], scales: &[f32], rows: &[f32], tile: &mut Tile) {
    for ((whole, tile), &row) in whole.iter().zip(tile).zip(rows) {
        for (((&sum, out), &offset), &scale) in whole.iter().zip(tile).zip(offsets).zip(scales) {
            *out = (sum + offset) as f32 * (row * scale);
        }
    }
}

per_path! {
    /// Applies the epilogue to a tile and writes it to its place.
    fn store(tile: &mut Tile, bias: &[f32], epilogue: Epilogue<'_>, place: Place, out: &mut [f32]) = store_body;
}

#[inline(always)]
fn store_body<const FMA: bool>(tile: &mut Tile, bias: &[f32], epilogue: Epilogue<'_>, place: Place, out: &mut [f32]) {
    let bias = bias.first_chunk::<PANEL>().expect("bias is padded to whole panels");
    for (i, sums) in tile.iter().take(place.height).enumerate() {
        let at = (place.top + i) * place.stride + place.first;
        let here = at..at + place.width;
        let residual = match epilogue {
            Epilogue::Add(residual) => &residual[here.clone()],
            Epilogue::Bias | Epilogue::Activate(_) => &[],
        };
        let out = &mut out[here];
        // A whole panel is written in place; the rest of the last one goes through a copy. Without a residual something has
        // to stand in its place, and is not read.
        match (out.first_chunk_mut::<PANEL>(), residual.first_chunk::<PANEL>()) {
            (Some(out), residual) => finish::<FMA>(sums, bias, epilogue, residual.unwrap_or(bias), out),
            (None, _) => {
                let (mut padded, mut finished) = ([0.0; PANEL], [0.0; PANEL]);
                padded[..residual.len()].copy_from_slice(residual);
                finish::<FMA>(sums, bias, epilogue, &padded, &mut finished);
                out.copy_from_slice(&finished[..place.width]);
            }
        }
    }
}

/// One row of a tile: sums to results. One loop per function, so that each is vectorised.
#[inline(always)]
fn finish<const FMA: bool>(
    sums: &[f32; PANEL],
    bias: &[f32; PANEL],
    epilogue: Epilogue<'_>,
    residual: &[f32; PANEL],
    out: &mut [f32; PANEL],
) {
    match epilogue {
        Epilogue::Bias => each(out, |j| sums[j] + bias[j]),
        Epilogue::Add(_) => each(out, |j| sums[j] + bias[j] + residual[j]),
        Epilogue::Activate(Activation::Gelu) => each(out, |j| activate::<FMA>(Activation::Gelu, sums[j] + bias[j])),
        Epilogue::Activate(Activation::RoughGelu) => {
            each(out, |j| activate::<FMA>(Activation::RoughGelu, sums[j] + bias[j]));
        }
        Epilogue::Activate(Activation::GeluTanh) => {
            each(out, |j| activate::<FMA>(Activation::GeluTanh, sums[j] + bias[j]));
        }
        Epilogue::Activate(Activation::Relu) => each(out, |j| activate::<FMA>(Activation::Relu, sums[j] + bias[j])),
        Epilogue::Activate(Activation::Silu) => each(out, |j| activate::<FMA>(Activation::Silu, sums[j] + bias[j])),
    }
}

#[inline(always)]
fn each(out: &mut [f32; PANEL], value: impl Fn(usize) -> f32) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = value(j);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761 + seed * 40_503) % 2001) as f32 / 1000.0 - 1.0).collect()
    }

    /// One sum after the other in f64: the naive twin.
    fn twin(x: &[f32], weight: &[f32], bias: &[f32], k: usize) -> Vec<f64> {
        x.chunks(k)
            .flat_map(|row| {
                weight.chunks(k).zip(bias).map(|(w, &b)| {
                    row.iter().zip(w).map(|(&a, &w)| f64::from(a) * f64::from(w)).sum::<f64>() + f64::from(b)
                })
            })
            .collect()
    }

    #[test]
    fn products_match_the_twin_around_the_tile_edges() {
        for (n, k) in [(1, 1), (63, 5), (64, 16), (65, 17), (130, 48), (384, 384)] {
            let (weight, bias) = (values(n * k, 1), values(n, 2));
            for rows in [1, 2, 5, 6, 7, 12, 13] {
                let (x, residual) = (values(rows * k, 3), values(rows * n, 4));
                let expected = twin(&x, &weight, &bias, k);
                for path in Path::available() {
                    let matrix = PackedMatrix::pack(path, Arithmetic::F32, &weight, &bias, k);
                    let mut room = Converted::default();
                    let mut out = vec![f32::NAN; rows * n];
                    matrix.multiply(&x, &mut room, Epilogue::Bias, &mut out);
                    for (y, twin) in out.iter().zip(&expected) {
                        assert!(
                            (f64::from(*y) - twin).abs() < 1e-5 * k as f64,
                            "{path:?} {rows}x{n}x{k}: {y} not {twin}"
                        );
                    }
                    let plain = out.clone();
                    matrix.multiply(&x, &mut room, Epilogue::Add(&residual), &mut out);
                    assert!(out.iter().zip(&plain).zip(&residual).all(|((y, p), r)| *y == p + r));
                    matrix.multiply(&x, &mut room, Epilogue::Activate(Activation::Relu), &mut out);
                    assert!(out.iter().zip(&plain).all(|(y, p)| *y == p.max(0.0)));
                }
            }
        }
    }

    /// What a precision may lose: the rounding of both factors, relative to the sizes that are multiplied.
    #[test]
    fn lower_precisions_stay_within_their_rounding_on_every_path() {
        for (n, k) in [(1, 1), (63, 5), (65, 18), (130, 48), (64, 384)] {
            let (weight, bias, x) = (values(n * k, 1), values(n, 2), values(7 * k, 3));
            let expected = twin(&x, &weight, &bias, k);
            for (arithmetic, step) in [(Arithmetic::Bf16, 1.0 / 256.0), (Arithmetic::Int8, 1.0 / 100.0)] {
                let results = Path::available().into_iter().map(|path| {
                    let matrix = PackedMatrix::pack(path, arithmetic, &weight, &bias, k);
                    let mut out = vec![f32::NAN; 7 * n];
                    matrix.multiply(&x, &mut Converted::default(), Epilogue::Bias, &mut out);
                    for (y, twin) in out.iter().zip(&expected) {
                        let wrong = (f64::from(*y) - twin).abs();
                        assert!(
                            wrong < step * (k as f64).sqrt() * 2.0,
                            "{path:?} {arithmetic:?} {n}x{k}: {y} not {twin}"
                        );
                    }
                    out
                });
                let results: Vec<_> = results.collect();
                // Paths round alike, so they differ by the order of additions only.
                for other in &results[1..] {
                    for (a, b) in results[0].iter().zip(other) {
                        assert!((a - b).abs() < 1e-4, "{arithmetic:?} {n}x{k}: paths give {a} and {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_product() {
        let (n, k) = (130, 384);
        let x = values(20 * k, 3);
        for path in Path::available() {
            for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                let matrix = PackedMatrix::pack(path, arithmetic, &values(n * k, 1), &values(n, 2), k);
                let mut room = Converted::default();
                let mut whole = vec![0.0; 20 * n];
                matrix.multiply(&x, &mut room, Epilogue::Activate(Activation::Gelu), &mut whole);
                for rows in 1..20 {
                    for top in [0, 20 - rows] {
                        let mut part = vec![0.0; rows * n];
                        let inputs = &x[top * k..(top + rows) * k];
                        matrix.multiply(inputs, &mut room, Epilogue::Activate(Activation::Gelu), &mut part);
                        let same = part == whole[top * n..(top + rows) * n];
                        assert!(same, "{path:?} {arithmetic:?}: {rows} rows from {top}");
                    }
                }
            }
        }
    }

    #[test]
    fn not_a_number_stays_in_its_row() {
        let (n, k) = (70, 33);
        let mut x = values(3 * k, 3);
        x[k + 4] = f32::NAN;
        x[2 * k] = f32::INFINITY;
        for path in Path::available() {
            for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                let matrix = PackedMatrix::pack(path, arithmetic, &values(n * k, 1), &values(n, 2), k);
                let mut out = vec![0.0; 3 * n];
                matrix.multiply(&x, &mut Converted::default(), Epilogue::Bias, &mut out);
                assert!(out[..n].iter().all(|y| y.is_finite()), "{path:?} {arithmetic:?}");
                assert!(out[n..2 * n].iter().all(|y| y.is_nan()), "{path:?} {arithmetic:?}");
                assert!(out[2 * n..].iter().all(|y| !y.is_finite()), "{path:?} {arithmetic:?}");
            }
        }
    }
}

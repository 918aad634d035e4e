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
//! | int8 | int8, a scale per output | int8, scale and zero per row | i32, exact |
//!
//! Where the processor has no instructions for bf16 or int8, the rounded values are widened to f32 and multiplied there: the same
//! rounding, so the same class of result. In memory weights are always as small as their precision; they are widened a panel at a
//! time for many rows, which then read it from the second-level cache, and in registers for a few rows, which wait for memory.
//!
//! int8 has one scale for a whole row, so a column whose values are far larger than the others' costs all of them their
//! precision. Where the ranges of the input columns are known, they are *smoothed*: a column is divided, and its weights
//! are multiplied, by the square root of (range of the inputs / range of the weights), which splits the difficulty between
//! the two.

use std::cell::RefCell;

use parking_lot::Mutex;

use super::convert::{Converted, Steps, rows_to_bf16, rows_to_int8, widen_bf16, widen_int8};
use super::path::{Instructions, Path, fused, per_path};
use super::rows::{Activation, ROUND, activate};
use super::team::Team;
use super::tile::{self, Bf16Pair, Factors, Int8Quad, Narrow, Operand, Shape, View};

/// Outputs per panel: four AVX-512 registers.
const PANEL: usize = 64;
/// Gates per panel of a gated matrix: the other half are the outputs that they let through.
const HALF: usize = PANEL / 2;
/// Rows per tile: 6 x 4 sums, 4 weights and one input fill 29 of the 32 AVX-512 registers.
const TILE_ROWS: usize = 6;

/// The sums of one tile.
type Tile = [[f32; PANEL]; TILE_ROWS];

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
    /// Whether every output is a product of two sums.
    gated: bool,
    panels: Panels,
    columns: Columns,
    /// int8: what the input columns are multiplied with, `[inputs]`.
    factors: Vec<f32>,
}

/// Most inputs of an int8 product: the sum of more products of 255 and 127 might not fit 32 bits.
const MOST_INT8_INPUTS: usize = 65_536;

/// Packed weights, `[panels][depth][PANEL]`.
#[derive(Debug)]
enum Panels {
    F32(Vec<f32>),
    Bf16(Vec<Bf16Pair>),
    Int8(Vec<Int8Quad>),
}

/// What belongs to the outputs, `[panels * PANEL]` each, zero past the last output.
#[derive(Debug)]
struct Columns {
    bias: Vec<f32>,
    /// int8: what a step of a weight is worth.
    scales: Vec<f32>,
    /// int8: the sum of an output's weights, which an input row's zero is taken off with.
    totals: Vec<f32>,
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
    /// `activation(gate) * (sum + bias)`, of a matrix that is gated.
    Gate(Activation),
}

impl PackedMatrix {
    /// Packs `weight`, `[outputs, inputs]` row by row, and `bias`, `[outputs]`. `ranges`, `[inputs]`, are the largest
    /// magnitudes of the input columns, where they are known: only int8 makes use of them.
    pub(crate) fn pack(
        path: Path,
        arithmetic: Arithmetic,
        weight: &[f32],
        bias: &[f32],
        ranges: Option<&[f32]>,
    ) -> Self {
        let outputs = bias.len();
        let inputs = weight.len() / outputs;
        assert_eq!(weight.len(), outputs * inputs, "a weight matrix is [outputs, inputs]");
        assert!(ranges.is_none_or(|ranges| ranges.len() == inputs), "a range for every input");
        let arithmetic = match arithmetic {
            Arithmetic::Int8 if inputs > MOST_INT8_INPUTS => Arithmetic::F32,
            fits => fits,
        };
        let mut columns = Columns { bias: bias.to_vec(), scales: Vec::new(), totals: Vec::new() };
        let mut factors = Vec::new();
        let panels = match arithmetic {
            Arithmetic::F32 => Panels::F32(panels(weight, inputs, |w| w[0])),
            Arithmetic::Bf16 => Panels::Bf16(panels(weight, inputs, |w| Bf16Pair::join(w[0], w[1]))),
            Arithmetic::Int8 => {
                factors = ranges.map_or_else(|| vec![1.0; inputs], |ranges| smoothing_factors(weight, ranges));
                let steps = columns.round_to_int8(weight, &factors);
                let quad = |w: [f32; 4]| Int8Quad(u32::from_le_bytes(w.map(|w| w as i8 as u8)));
                Panels::Int8(panels(&steps, inputs, quad))
            }
        };
        for column in [&mut columns.bias, &mut columns.scales, &mut columns.totals] {
            column.resize(outputs.next_multiple_of(PANEL), 0.0);
        }
        Self { path, arithmetic, inputs, outputs, gated: false, panels, columns, factors }
    }

    /// Packs two weight matrices, one under the other, `[2 * outputs, inputs]`, for [`Epilogue::Gate`]: the first gives the
    /// gates of what the second gives. A panel has both, so that they meet in a tile.
    pub(crate) fn pack_gated(
        path: Path,
        arithmetic: Arithmetic,
        weight: &[f32],
        bias: &[f32],
        ranges: Option<&[f32]>,
    ) -> Self {
        let (outputs, inputs) = (bias.len() / 2, weight.len() / bias.len());
        let (mut woven, mut woven_bias) = (Vec::new(), Vec::new());
        for first in (0..outputs).step_by(HALF) {
            for start in [first, outputs + first] {
                let rows = start..start + HALF.min(outputs - first);
                woven.extend_from_slice(&weight[rows.start * inputs..rows.end * inputs]);
                woven_bias.extend_from_slice(&bias[rows]);
                woven_bias.resize(woven_bias.len().next_multiple_of(HALF), 0.0);
                woven.resize(woven_bias.len() * inputs, 0.0);
            }
        }
        Self { outputs, gated: true, ..Self::pack(path, arithmetic, &woven, &woven_bias, ranges) }
    }

    /// Bytes of the packed weights.
    pub(crate) fn size(&self) -> usize {
        match &self.panels {
            Panels::F32(panels) => size_of_val(panels.as_slice()),
            Panels::Bf16(panels) => size_of_val(panels.as_slice()),
            Panels::Int8(panels) => size_of_val(panels.as_slice()),
        }
    }

    /// `out = epilogue(x W^T)` for `x` of `[rows, inputs]` and `out` of `[rows, outputs]`. A team shares the panels: what comes out is
    /// the same to the bit.
    pub(crate) fn multiply(
        &self,
        x: &[f32],
        converted: &mut Converted,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
        team: Option<&Team>,
    ) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "whole input rows");
        assert_eq!(out.len(), rows * self.outputs, "one output row per input row");
        assert_eq!(self.gated, matches!(epilogue, Epilogue::Gate(_)), "a gated matrix is for gates");
        if let Epilogue::Add(residual) = epilogue {
            assert_eq!(residual.len(), out.len(), "a residual is shaped like the output");
        }
        self.convert(x, rows, converted);
        let Converted { pairs, quads, steps, widened } = converted;
        let run = Run { matrix: self, rows, steps, epilogue };
        let team = team.filter(|team| team.has_helpers());
        match &self.panels {
            Panels::F32(weights) => run.panels(x, weights, f32::multiply, out, team),
            Panels::Bf16(weights) if self.path.has_bf16() => run.panels(pairs, weights, Operand::multiply, out, team),
            Panels::Bf16(weights) => run.widened_panels(widened, weights, out, team),
            Panels::Int8(weights) if self.path.has_int8() => run.panels(quads, weights, Operand::multiply, out, team),
            Panels::Int8(weights) => run.widened_panels(widened, weights, out, team),
        }
    }

    /// The weights of a panel, `[depth, PANEL]`.
    fn panel<'a, W: Operand>(&self, weights: &'a [W], panel: usize) -> &'a [W] {
        let size = self.inputs.div_ceil(W::VALUES) * PANEL;
        &weights[panel * size..][..size]
    }

    /// The outputs of a panel: the first one, and how many.
    fn outputs_of(&self, panel: usize) -> (usize, usize) {
        let width = if self.gated { HALF } else { PANEL };
        (panel * width, width.min(self.outputs - panel * width))
    }

    /// Brings the inputs into this matrix's arithmetic.
    fn convert(&self, x: &[f32], rows: usize, converted: &mut Converted) {
        let Converted { pairs, quads, steps, widened } = converted;
        match self.arithmetic {
            Arithmetic::F32 => {}
            Arithmetic::Bf16 => {
                pairs.resize(rows * self.inputs.div_ceil(Bf16Pair::VALUES), Bf16Pair::default());
                rows_to_bf16(self.path, x, self.inputs, pairs);
                if !self.path.has_bf16() {
                    widen_bf16(pairs, widened);
                }
            }
            Arithmetic::Int8 => {
                quads.resize(rows * self.inputs.div_ceil(Int8Quad::VALUES), Int8Quad::default());
                steps.resize(rows, Steps::default());
                rows_to_int8(self.path, x, &self.factors, quads, steps);
                if !self.path.has_int8() {
                    widen_int8(quads, self.inputs.div_ceil(Int8Quad::VALUES), steps, widened);
                }
            }
        }
    }
}

impl Columns {
    /// Rounds weights, times the factor of their input, to whole steps of -127 to 127; notes what a step is worth and what
    /// an output's steps add up to.
    fn round_to_int8(&mut self, weight: &[f32], factors: &[f32]) -> Vec<f32> {
        let mut steps = Vec::with_capacity(weight.len());
        for row in weight.chunks_exact(factors.len()) {
            let smoothed = || row.iter().zip(factors).map(|(w, factor)| w / factor);
            let scale = smoothed().fold(0.0f32, |max, w| max.max(w.abs())) / 127.0;
            let per_step = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let first = steps.len();
            steps.extend(smoothed().map(|w| (w * per_step + ROUND) - ROUND));
            self.scales.push(scale);
            self.totals.push(steps[first..].iter().sum());
        }
        steps
    }
}

/// What input columns are multiplied with, and their weights divided by, see the head of this file.
fn smoothing_factors(weight: &[f32], ranges: &[f32]) -> Vec<f32> {
    // A column that is never used, or never weighted, shall not get an infinite factor.
    const LEAST: f32 = 1e-5;
    let weight_ranges = column_ranges(weight, ranges.len());
    weight_ranges.iter().zip(ranges).map(|(w, x)| (w.max(LEAST) / x.max(LEAST)).sqrt()).collect()
}

/// The largest magnitude of each column of rows of `width` values.
pub(crate) fn column_ranges(rows: &[f32], width: usize) -> Vec<f32> {
    let mut ranges = vec![0.0f32; width];
    for row in rows.chunks_exact(width) {
        ranges.iter_mut().zip(row).for_each(|(range, x)| *range = range.max(x.abs()));
    }
    ranges
}

/// Packs rows of weights into panels. `operand` joins the first of four neighbouring inputs, as many as it holds; past the
/// last input they are zero.
fn panels<T: Operand>(weight: &[f32], inputs: usize, operand: impl Fn([f32; 4]) -> T) -> Vec<T> {
    let depth = inputs.div_ceil(T::VALUES);
    let outputs = weight.len() / inputs;
    let mut packed = vec![T::default(); outputs.div_ceil(PANEL) * depth * PANEL];
    for (output, row) in weight.chunks_exact(inputs).enumerate() {
        let panel = &mut packed[output / PANEL * depth * PANEL..][..depth * PANEL];
        for (k, values) in row.chunks(T::VALUES).enumerate() {
            let mut whole = [0.0; 4];
            whole[..values.len()].copy_from_slice(values);
            panel[k * PANEL + output % PANEL] = operand(whole);
        }
    }
    packed
}

/// One product.
#[derive(Clone, Copy)]
struct Run<'a> {
    matrix: &'a PackedMatrix,
    rows: usize,
    /// int8: of every input row.
    steps: &'a [Steps],
    epilogue: Epilogue<'a>,
}

/// Multiplies a tile.
type Product<X, W> = fn(Path, Factors<'_, X, W>, Shape, &mut [f32], usize);

/// Computes one panel of a run: which one, and where its outputs go.
type OnePanel<'r, 'a> = &'r (dyn Fn(Run<'a>, usize, Place, &mut [f32]) + Sync);

thread_local! {
    /// A panel whose weights are widened.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Run<'a> {
    /// Panels outside, rows inside: a panel (at most a few hundred KiB) is read from the second-level cache for every tile, the rows
    /// of a model batch from there too.
    fn panels<X: Operand, W: Operand>(
        self,
        x: &[X],
        weights: &[W],
        product: Product<X, W>,
        out: &mut [f32],
        team: Option<&Team>,
    ) {
        let one = |run: Self, panel: usize, place: Place, out: &mut [f32]| {
            run.panel(panel, x, run.matrix.panel(weights, panel), product, place, out);
        };
        self.each_panel(out, team, &one);
    }

    /// The same for weights that have no instructions.
    fn widened_panels<W: Narrow>(self, x: &[f32], weights: &[W], out: &mut [f32], team: Option<&Team>) {
        let path = self.matrix.path;
        if self.rows <= W::FEW_ROWS && path.instructions() != Instructions::Portable {
            return self.panels(x, weights, W::multiply_widening, out, team);
        }
        let one = |run: Self, panel: usize, place: Place, out: &mut [f32]| {
            let weights = run.matrix.panel(weights, panel);
            WIDE.with_borrow_mut(|wide| {
                wide.resize(weights.len() * W::VALUES, 0.0);
                tile::widen(path, weights, PANEL, wide);
                run.panel(panel, x, wide, f32::multiply, place, out);
            });
        };
        self.each_panel(out, team, &one);
    }

    /// Calls `one` for each panel, with where its outputs go.
    fn each_panel(self, out: &mut [f32], team: Option<&Team>, one: OnePanel<'_, 'a>) {
        if let Some(team) = team {
            return self.shared_panels(out, team, one);
        }
        for panel in 0..self.matrix.columns.bias.len() / PANEL {
            let (first, width) = self.matrix.outputs_of(panel);
            one(self, panel, Place { first, width, stride: self.matrix.outputs }, out);
        }
    }

    /// Each panel by whoever of the team has time, in a place of its own first.
    fn shared_panels(self, out: &mut [f32], team: &Team, one: OnePanel<'_, 'a>) {
        let (alone, residual) = match self.epilogue {
            Epilogue::Add(residual) => (Run { epilogue: Epilogue::Bias, ..self }, Some(residual)),
            _ => (self, None),
        };
        let (stride, out) = (self.matrix.outputs, Mutex::new(out));
        team.run((self.matrix.columns.bias.len() / PANEL) as u32, &|panel| {
            let (first, width) = self.matrix.outputs_of(panel);
            let mut own = vec![0.0; self.rows * width];
            one(alone, panel, Place { first: 0, width, stride: width }, &mut own);
            let mut out = out.lock();
            for (row, own) in own.chunks_exact(width).enumerate() {
                let out = &mut out[row * stride + first..][..width];
                match residual {
                    Some(residual) => {
                        let residual = &residual[row * stride + first..][..width];
                        out.iter_mut()
                            .zip(own.iter().zip(residual))
                            .for_each(|(out, (x, residual))| *out = x + residual);
                    }
                    None => out.copy_from_slice(own),
                }
            }
        });
    }

    /// The outputs of one panel, `weights` of `[depth, PANEL]`, tile after tile.
    fn panel<X: Operand, W: Operand>(
        self,
        panel: usize,
        x: &[X],
        weights: &[W],
        product: Product<X, W>,
        place: Place,
        out: &mut [f32],
    ) {
        let PackedMatrix { path, arithmetic, columns, .. } = self.matrix;
        let (depth, first) = (weights.len() / PANEL, panel * PANEL);
        let x_stride = depth * W::VALUES / X::VALUES;
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        let w = View { values: weights, stride: PANEL };
        let columns = TileColumns {
            bias: &columns.bias[first..][..PANEL],
            scales: &columns.scales[first..][..PANEL],
            totals: &columns.totals[first..][..PANEL],
        };
        // Whole steps are scaled before the bias comes to them.
        let start = match arithmetic {
            Arithmetic::Int8 => tile::ZEROS,
            Arithmetic::F32 | Arithmetic::Bf16 => View { values: columns.bias, stride: 0 },
        };
        for top in (0..self.rows).step_by(TILE_ROWS) {
            let region = Region { top, height: TILE_ROWS.min(self.rows - top), place };
            let factors = Factors { x: View { values: &x[top * x_stride..], stride: x_stride }, w, start };
            let shape = (region.height, depth, PANEL);
            match (arithmetic, self.epilogue) {
                (Arithmetic::F32 | Arithmetic::Bf16, Epilogue::Bias) if place.width == PANEL => {
                    product(*path, factors, shape, &mut out[region.at(0)..], place.stride);
                }
                (Arithmetic::F32 | Arithmetic::Bf16, epilogue) => {
                    product(*path, factors, shape, tile.as_flattened_mut(), PANEL);
                    store(*path, &tile, epilogue, region, out);
                }
                (Arithmetic::Int8, epilogue) => {
                    product(*path, factors, shape, tile.as_flattened_mut(), PANEL);
                    let steps = &self.steps[top..][..region.height];
                    store_steps(*path, &tile, steps, columns, epilogue, region, out);
                }
            }
        }
    }
}

/// The [`Columns`] of one tile.
#[derive(Clone, Copy)]
struct TileColumns<'a> {
    bias: &'a [f32],
    scales: &'a [f32],
    totals: &'a [f32],
}

/// Where the outputs of a panel lie in rows of `stride` values.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    width: usize,
    stride: usize,
}

/// Where a tile lies in the output.
#[derive(Clone, Copy)]
struct Region {
    top: usize,
    height: usize,
    place: Place,
}

per_path! {
    /// Applies the epilogue to a tile, whose sums have the bias in them, and writes it to its place.
    fn store(tile: &Tile, epilogue: Epilogue<'_>, region: Region, out: &mut [f32]) = store_body;
}

#[inline(always)]
fn store_body<const FMA: bool>(tile: &Tile, epilogue: Epilogue<'_>, region: Region, out: &mut [f32]) {
    let row = |i: usize| {
        let sums = &tile[i];
        move |j: usize| sums[j]
    };
    finish::<FMA, _>(row, epilogue, region, out);
}

per_path! {
    /// The same for sums of whole steps: `scale of row * scale of column * (sum - zero of row * total of column) + bias`.
    fn store_steps(
        tile: &Tile,
        steps: &[Steps],
        columns: TileColumns<'_>,
        epilogue: Epilogue<'_>,
        region: Region,
        out: &mut [f32],
    ) = store_steps_body;
}

#[inline(always)]
fn store_steps_body<const FMA: bool>(
    tile: &Tile,
    steps: &[Steps],
    columns: TileColumns<'_>,
    epilogue: Epilogue<'_>,
    region: Region,
    out: &mut [f32],
) {
    let bias = columns.bias.first_chunk::<PANEL>().expect("a whole panel");
    let scales = columns.scales.first_chunk::<PANEL>().expect("a whole panel");
    let totals = columns.totals.first_chunk::<PANEL>().expect("a whole panel");
    let row = |i: usize| {
        let (sums, Steps { scale, zero }) = (&tile[i], steps[i]);
        move |j: usize| {
            let sum = fused::<FMA>(-zero, totals[j], sums[j]);
            fused::<FMA>(sum, scale * scales[j], bias[j])
        }
    };
    finish::<FMA, _>(row, epilogue, region, out);
}

/// Applies the epilogue to the rows of a tile, `row(i)(j)` being their values. One loop over all rows per arm, so that each
/// is vectorised and keeps its constants in registers.
#[inline(always)]
fn finish<const FMA: bool, V: Fn(usize) -> f32>(
    row: impl Fn(usize) -> V,
    epilogue: Epilogue<'_>,
    region: Region,
    out: &mut [f32],
) {
    // Every activation has loops of its own.
    macro_rules! activated {
        ($($activation:ident),*) => {
            match epilogue {
                Epilogue::Bias => region.write(out, row),
                Epilogue::Add(residual) => region.write(out, |i| {
                    let (value, residual) = (row(i), region.read(residual, i));
                    move |j| value(j) + residual[j]
                }),
                $(Epilogue::Activate(Activation::$activation) => region.write(out, |i| {
                    let value = row(i);
                    move |j| activate::<FMA>(Activation::$activation, value(j))
                }),
                Epilogue::Gate(Activation::$activation) => region.write_half(out, |i| {
                    let value = row(i);
                    move |j| activate::<FMA>(Activation::$activation, value(j)) * value(j + HALF)
                }),)*
            }
        };
    }
    activated!(Gelu, RoughGelu, GeluTanh, Relu, Silu, QuickGelu, Tanh);
}

impl Region {
    fn at(&self, i: usize) -> usize {
        (self.top + i) * self.place.stride + self.place.first
    }

    /// Row `i` of the tile in `from`, in whole panels.
    #[inline(always)]
    fn read(&self, from: &[f32], i: usize) -> [f32; PANEL] {
        let from = &from[self.at(i)..];
        from.first_chunk().copied().unwrap_or_else(|| {
            let mut padded = [0.0; PANEL];
            padded[..from.len()].copy_from_slice(from);
            padded
        })
    }

    /// Writes the rows of the tile.
    #[inline(always)]
    fn write<V: Fn(usize) -> f32>(&self, out: &mut [f32], row: impl Fn(usize) -> V) {
        self.write_columns::<PANEL, V>(out, row);
    }

    /// Writes the rows of a gated tile.
    #[inline(always)]
    fn write_half<V: Fn(usize) -> f32>(&self, out: &mut [f32], row: impl Fn(usize) -> V) {
        self.write_columns::<HALF, V>(out, row);
    }

    #[inline(always)]
    fn write_columns<const WIDTH: usize, V: Fn(usize) -> f32>(&self, out: &mut [f32], row: impl Fn(usize) -> V) {
        for i in 0..self.height {
            let value = row(i);
            let out = &mut out[self.at(i)..][..self.place.width];
            // A whole panel is written in place, the rest of the last one goes through a copy.
            if let Some(out) = out.first_chunk_mut::<WIDTH>() {
                out.iter_mut().enumerate().for_each(|(j, out)| *out = value(j));
            } else {
                let padded: [f32; WIDTH] = std::array::from_fn(value);
                out.copy_from_slice(&padded[..self.place.width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

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
                    let matrix = PackedMatrix::pack(path, Arithmetic::F32, &weight, &bias, None);
                    let mut room = Converted::default();
                    let mut out = vec![f32::NAN; rows * n];
                    matrix.multiply(&x, &mut room, Epilogue::Bias, &mut out, None);
                    for (y, twin) in out.iter().zip(&expected) {
                        assert!(
                            (f64::from(*y) - twin).abs() < 1e-5 * k as f64,
                            "{path:?} {rows}x{n}x{k}: {y} not {twin}"
                        );
                    }
                    let plain = out.clone();
                    matrix.multiply(&x, &mut room, Epilogue::Add(&residual), &mut out, None);
                    assert!(out.iter().zip(&plain).zip(&residual).all(|((y, p), r)| *y == p + r));
                    matrix.multiply(&x, &mut room, Epilogue::Activate(Activation::Relu), &mut out, None);
                    assert!(out.iter().zip(&plain).all(|(y, p)| *y == p.max(0.0)));
                }
            }
        }
    }

    #[test]
    fn gated_products_match_the_plain_ones() {
        for (n, k) in [(1, 1), (31, 5), (32, 16), (33, 17), (100, 48)] {
            let (weight, bias, x) = (values(2 * n * k, 1), values(2 * n, 2), values(7 * k, 3));
            for path in Path::available() {
                for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                    let mut room = Converted::default();
                    let (mut both, mut out) = (vec![f32::NAN; 7 * 2 * n], vec![f32::NAN; 7 * n]);
                    let plain = PackedMatrix::pack(path, arithmetic, &weight, &bias, None);
                    plain.multiply(&x, &mut room, Epilogue::Bias, &mut both, None);
                    let gated = PackedMatrix::pack_gated(path, arithmetic, &weight, &bias, None);
                    gated.multiply(&x, &mut room, Epilogue::Gate(Activation::Relu), &mut out, None);
                    for (out, both) in out.chunks(n).zip(both.chunks(2 * n)) {
                        let twin = both[..n].iter().zip(&both[n..]).map(|(gate, y)| gate.max(0.0) * y);
                        assert!(out.iter().zip(twin).all(|(y, twin)| *y == twin), "{path} {arithmetic:?} {n}x{k}");
                    }
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
                    let matrix = PackedMatrix::pack(path, arithmetic, &weight, &bias, None);
                    let mut out = vec![f32::NAN; 7 * n];
                    matrix.multiply(&x, &mut Converted::default(), Epilogue::Bias, &mut out, None);
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
        let (n, k, most) = (130, 384, 50);
        let x = values(most * k, 3);
        for path in Path::available() {
            for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                let matrix = PackedMatrix::pack(path, arithmetic, &values(n * k, 1), &values(n, 2), None);
                let mut room = Converted::default();
                let mut whole = vec![0.0; most * n];
                matrix.multiply(&x, &mut room, Epilogue::Activate(Activation::Gelu), &mut whole, None);
                for rows in (1..20).chain([24, 25, 30, 49]) {
                    for top in [0, most - rows] {
                        let mut part = vec![0.0; rows * n];
                        let inputs = &x[top * k..(top + rows) * k];
                        matrix.multiply(inputs, &mut room, Epilogue::Activate(Activation::Gelu), &mut part, None);
                        let same = part == whole[top * n..(top + rows) * n];
                        assert!(same, "{path:?} {arithmetic:?}: {rows} rows from {top}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_team_gives_the_bits_of_one() {
        let (n, k, team) = (200, 384, Team::default());
        let (x, residual) = (values(40 * k, 3), values(40 * n, 5));
        let mut differing = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| team.help());
            while !team.has_helpers() {
                thread::yield_now();
            }
            for path in Path::available() {
                for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                    let plain = PackedMatrix::pack(path, arithmetic, &values(n * k, 1), &values(n, 2), None);
                    let gated =
                        PackedMatrix::pack_gated(path, arithmetic, &values(2 * n * k, 1), &values(2 * n, 2), None);
                    for rows in [1, 7, 20, 40] {
                        for (matrix, epilogue) in [
                            (&plain, Epilogue::Bias),
                            (&plain, Epilogue::Add(&residual[..rows * n])),
                            (&plain, Epilogue::Activate(Activation::Gelu)),
                            (&gated, Epilogue::Gate(Activation::Silu)),
                        ] {
                            let product = |team| {
                                let mut out = vec![0.0; rows * n];
                                matrix.multiply(&x[..rows * k], &mut Converted::default(), epilogue, &mut out, team);
                                out
                            };
                            if product(Some(&team)) != product(None) {
                                differing.push(format!("{path:?} {arithmetic:?} {epilogue:?}: {rows} rows"));
                            }
                        }
                    }
                }
            }
            team.end();
        });
        assert!(differing.is_empty(), "{differing:?}");
    }

    /// One input column is 50 times larger than the others, as behind a layer norm: without smoothing its step is
    /// everyone's step.
    #[test]
    fn ranges_make_int8_several_times_more_exact_where_one_column_is_large() {
        let (n, k, rows) = (70, 64, 5);
        let (weight, bias) = (values(n * k, 1), values(n, 2));
        let mut x = values(rows * k, 3);
        x.iter_mut().skip(7).step_by(k).for_each(|large| *large *= 50.0);
        let twin = twin(&x, &weight, &bias, k);
        for path in Path::available() {
            let error = |ranges: Option<&[f32]>| {
                let matrix = PackedMatrix::pack(path, Arithmetic::Int8, &weight, &bias, ranges);
                let mut out = vec![0.0; rows * n];
                matrix.multiply(&x, &mut Converted::default(), Epilogue::Bias, &mut out, None);
                out.iter().zip(&twin).map(|(&y, twin)| (f64::from(y) - twin).powi(2)).sum::<f64>().sqrt()
            };
            let (plain, smoothed) = (error(None), error(Some(&column_ranges(&x, k))));
            assert!(smoothed * 2.0 < plain, "{path}: {smoothed} smoothed, {plain} without");
        }
    }

    #[test]
    fn not_a_number_stays_in_its_row() {
        let (n, k) = (70, 33);
        let mut x = values(3 * k, 3);
        x[k + 4] = f32::NAN;
        x[2 * k] = f32::INFINITY;
        let residual = values(3 * n, 4);
        let activations = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];
        let mut epilogues = vec![Epilogue::Bias, Epilogue::Add(&residual)];
        epilogues.extend(activations.map(Epilogue::Activate));
        for path in Path::available() {
            for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                let matrix = PackedMatrix::pack(path, arithmetic, &values(n * k, 1), &values(n, 2), None);
                for &epilogue in &epilogues {
                    let mut out = vec![0.0; 3 * n];
                    matrix.multiply(&x, &mut Converted::default(), epilogue, &mut out, None);
                    assert!(out[..n].iter().all(|y| y.is_finite()), "{path} {arithmetic:?} {epilogue:?}");
                    assert!(out[n..2 * n].iter().all(|y| y.is_nan()), "{path} {arithmetic:?} {epilogue:?}");
                    // An activation may turn minus infinity into 0.
                    let lost = |y: &f32| !y.is_finite() || matches!(epilogue, Epilogue::Activate(_));
                    assert!(out[2 * n..].iter().all(lost), "{path} {arithmetic:?} {epilogue:?}");
                }
            }
        }
    }
}

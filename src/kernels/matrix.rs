//! Matrix products with a weight matrix that is packed once.
//!
//! A weight matrix `[n, k]` (PyTorch's layout: one row per output) is stored in *panels* of [`PANEL`] outputs, and inside
//! a panel input by input, so that a micro-kernel reads it front to back. A micro-kernel makes a *tile* of up to
//! [`TILE_ROWS`] rows by one panel, with the sums in registers. Each sum runs over `k` from first to last whatever the
//! tile's height, so a row's result does not depend on its neighbours.

use super::path::{Path, per_path};
use super::rows::{Activation, activate};
use super::tile::{self, View};

/// Outputs per panel: four AVX-512 registers.
const PANEL: usize = 64;
/// Rows per tile: 6 x 4 sums, 4 weights and one input fill 29 of the 32 AVX-512 registers.
const TILE_ROWS: usize = 6;

/// The sums of one tile, `[TILE_ROWS][PANEL]`.
type Tile = [[f32; PANEL]; TILE_ROWS];

/// A weight matrix with its bias, ready for [`PackedMatrix::multiply`].
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    /// Width of an input row, `k`.
    inputs: usize,
    /// Width of an output row, `n`.
    outputs: usize,
    /// `[panels][inputs][PANEL]`, zero past the last output.
    weights: Vec<f32>,
    /// `[panels * PANEL]`, zero past the last output.
    bias: Vec<f32>,
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
    pub(crate) fn pack(weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        let outputs = bias.len();
        assert_eq!(weight.len(), outputs * inputs, "a weight matrix is [outputs, inputs]");
        let panels = outputs.div_ceil(PANEL);
        let mut packed = vec![0.0; panels * inputs * PANEL];
        for (output, row) in weight.chunks_exact(inputs.max(1)).enumerate() {
            let panel = &mut packed[output / PANEL * inputs * PANEL..][..inputs * PANEL];
            for (input, &w) in row.iter().enumerate() {
                panel[input * PANEL + output % PANEL] = w;
            }
        }
        let mut padded_bias = bias.to_vec();
        padded_bias.resize(panels * PANEL, 0.0);
        Self { inputs, outputs, weights: packed, bias: padded_bias }
    }

    /// `out = epilogue(x W^T)` for `x` of `[rows, inputs]` and `out` of `[rows, outputs]`.
    pub(crate) fn multiply(&self, path: Path, x: &[f32], epilogue: Epilogue<'_>, out: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "whole input rows");
        assert_eq!(out.len(), rows * self.outputs, "one output row per input row");
        if let Epilogue::Add(residual) = epilogue {
            assert_eq!(residual.len(), out.len(), "a residual is shaped like the output");
        }
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        // Panels outside, rows inside: a panel (at most a few hundred KiB) is read from the second-level cache for every
        // tile, the rows of a model batch from there too.
        for (number, panel) in self.weights.chunks_exact(self.inputs * PANEL).enumerate() {
            let first = number * PANEL;
            let width = PANEL.min(self.outputs - first);
            let bias = &self.bias[first..first + PANEL];
            for top in (0..rows).step_by(TILE_ROWS) {
                let height = TILE_ROWS.min(rows - top);
                let inputs = &x[top * self.inputs..(top + height) * self.inputs];
                let (x, w) = (View { values: inputs, stride: self.inputs }, View { values: panel, stride: PANEL });
                tile::multiply(path, x, w, (height, self.inputs, PANEL), tile.as_flattened_mut(), PANEL);
                let place = Place { top, height, first, width, stride: self.outputs };
                store(path, &mut tile, bias, epilogue, place, out);
            }
        }
    }
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
    /// Applies the epilogue to a tile and writes it to its place.
    fn store(tile: &mut Tile, bias: &[f32], epilogue: Epilogue<'_>, place: Place, out: &mut [f32]) = store_body;
}

#[inline(always)]
fn store_body<const FMA: bool>(tile: &mut Tile, bias: &[f32], epilogue: Epilogue<'_>, place: Place, out: &mut [f32]) {
    for (i, sums) in tile.iter_mut().take(place.height).enumerate() {
        let at = (place.top + i) * place.stride + place.first;
        for (sum, &b) in sums.iter_mut().zip(bias) {
            *sum += b;
        }
        match epilogue {
            Epilogue::Bias => {}
            // One loop per function, so that each is vectorised.
            Epilogue::Activate(Activation::Gelu) => activate_row::<FMA>(Activation::Gelu, sums),
            Epilogue::Activate(Activation::GeluTanh) => activate_row::<FMA>(Activation::GeluTanh, sums),
            Epilogue::Activate(Activation::Relu) => activate_row::<FMA>(Activation::Relu, sums),
            Epilogue::Activate(Activation::Silu) => activate_row::<FMA>(Activation::Silu, sums),
            Epilogue::Add(residual) => {
                for (sum, &r) in sums.iter_mut().zip(&residual[at..at + place.width]) {
                    *sum += r;
                }
            }
        }
        out[at..at + place.width].copy_from_slice(&sums[..place.width]);
    }
}

#[inline(always)]
fn activate_row<const FMA: bool>(activation: Activation, sums: &mut [f32; PANEL]) {
    for sum in sums {
        *sum = activate::<FMA>(activation, *sum);
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
            let matrix = PackedMatrix::pack(&weight, &bias, k);
            for rows in [1, 2, 5, 6, 7, 12, 13] {
                let (x, residual) = (values(rows * k, 3), values(rows * n, 4));
                let expected = twin(&x, &weight, &bias, k);
                for path in Path::available() {
                    let mut out = vec![f32::NAN; rows * n];
                    matrix.multiply(path, &x, Epilogue::Bias, &mut out);
                    for (y, twin) in out.iter().zip(&expected) {
                        assert!(
                            (f64::from(*y) - twin).abs() < 1e-5 * k as f64,
                            "{path:?} {rows}x{n}x{k}: {y} not {twin}"
                        );
                    }
                    let plain = out.clone();
                    matrix.multiply(path, &x, Epilogue::Add(&residual), &mut out);
                    assert!(out.iter().zip(&plain).zip(&residual).all(|((y, p), r)| *y == p + r));
                    matrix.multiply(path, &x, Epilogue::Activate(Activation::Relu), &mut out);
                    assert!(out.iter().zip(&plain).all(|(y, p)| *y == p.max(0.0)));
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_product() {
        let (n, k) = (130, 384);
        let matrix = PackedMatrix::pack(&values(n * k, 1), &values(n, 2), k);
        let x = values(20 * k, 3);
        for path in Path::available() {
            let mut whole = vec![0.0; 20 * n];
            matrix.multiply(path, &x, Epilogue::Activate(Activation::Gelu), &mut whole);
            for rows in 1..20 {
                for top in [0, 20 - rows] {
                    let mut part = vec![0.0; rows * n];
                    let inputs = &x[top * k..(top + rows) * k];
                    matrix.multiply(path, inputs, Epilogue::Activate(Activation::Gelu), &mut part);
                    assert_eq!(part, whole[top * n..(top + rows) * n], "{path:?}: {rows} rows from {top}");
                }
            }
        }
    }

    #[test]
    fn not_a_number_stays_in_its_row() {
        let (n, k) = (70, 33);
        let matrix = PackedMatrix::pack(&values(n * k, 1), &values(n, 2), k);
        let mut x = values(3 * k, 3);
        x[k + 4] = f32::NAN;
        x[2 * k] = f32::INFINITY;
        for path in Path::available() {
            let mut out = vec![0.0; 3 * n];
            matrix.multiply(path, &x, Epilogue::Activate(Activation::Gelu), &mut out);
            assert!(out[..n].iter().all(|y| y.is_finite()));
            assert!(out[n..2 * n].iter().all(|y| y.is_nan()));
        }
    }
}

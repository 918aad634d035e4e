//! Tokens -> one row per token, on this crate's kernels.
//!
//! A model batch is flat: the tokens of all its texts end to end. Matrices run over all rows at once, attention runs
//! text by text, so there is no padding and no mask.

use super::architecture::{Architecture, LayerShape, Positions};
use super::backend::{Backend, BatchShape, CPU_BATCH_TOKENS, Pass};
use super::batch::FlatBatch;
use super::head::Head;
use super::parts::{EmbeddingParts, HalfNorms, LayerParts, Linear, Reader};
use super::scratch::Scratch;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::{
    Activation, Arithmetic, Attention, Converted, Epilogue, Norm, PackedMatrix, Path, Rotary, Team, column_ranges,
};
use crate::options::Precision;

/// Rows that go through the feed-forward part at a time: its wide rows are the largest there are, and a text of 32 000
/// tokens would need hundreds of megabytes for them.
const FEED_FORWARD_ROWS: usize = 1024;

/// The CPU, on this crate's kernels.
#[derive(Debug)]
pub(crate) struct Cpu {
    encoder: CpuEncoder,
    head: Head,
}

impl Cpu {
    /// Reads and packs the weights. An error if a lower precision moves this model's rows too far.
    pub(crate) fn load(
        architecture: &Architecture,
        weights: &Weights,
        precision: Precision,
        head: Head,
    ) -> Result<Self> {
        Ok(Self { encoder: CpuEncoder::load(architecture, weights, precision)?, head })
    }
}

impl Backend for Cpu {
    fn vectors(&self, batch: &FlatBatch, pass: &Pass<'_>, scratch: &mut Scratch) -> Result<Vec<f32>> {
        let states = self.encoder.forward(batch, scratch, pass.go_on)?;
        let vectors = self.head.vectors(states, batch.starts(), pass);
        scratch.shrink(batch.tokens());
        Ok(vectors)
    }

    fn size(&self) -> usize {
        self.encoder.size() + self.head.size()
    }

    fn shape(&self) -> BatchShape {
        BatchShape::Flat
    }

    fn batch_tokens(&self) -> usize {
        CPU_BATCH_TOKENS
    }

    /// Helpers come within some microseconds, in which a core reads some hundred KiB.
    fn gains_by_help(&self) -> bool {
        self.encoder.layers_size() >= 1 << 20
    }
}

/// An encoder of any architecture.
#[derive(Debug)]
struct CpuEncoder {
    path: Path,
    hidden: usize,
    /// Width of the rows between the two products of the feed-forward part.
    width: usize,
    /// Of the feed-forward part.
    epilogue: Epilogue<'static>,
    embeddings: Embeddings,
    rotary: Vec<Rotary>,
    layers: Vec<Layer>,
    last_norm: Option<Norm>,
}

#[derive(Debug)]
struct Embeddings {
    /// `[vocabulary, width]`
    words: Vec<f32>,
    width: usize,
    /// `[rows, width]`, and which row a token has.
    positions: Option<(Vec<f32>, Positions)>,
    norm: Option<Norm>,
    projection: Option<PackedMatrix>,
}

#[derive(Debug)]
struct Layer {
    qkv: PackedMatrix,
    query_key_norms: Option<(Norm, Norm)>,
    /// Which of the encoder's.
    rotary: Option<usize>,
    attention: Attention,
    out: PackedMatrix,
    attention_norms: HalfNorms,
    wide: PackedMatrix,
    narrow: PackedMatrix,
    feed_forward_norms: HalfNorms,
}

impl CpuEncoder {
    fn load(architecture: &Architecture, weights: &Weights, precision: Precision) -> Result<Self> {
        let reader = Reader::new(architecture, weights);
        let path = Path::chosen()?;
        let pack = Packing::new(architecture, path, precision, &reader)?;
        let mut encoder = Self {
            path,
            hidden: architecture.hidden,
            width: architecture.feed_forward.width,
            epilogue: pack.epilogue(),
            embeddings: Embeddings::new(reader.embeddings()?, architecture, &pack),
            rotary: Vec::new(),
            layers: Vec::new(),
            last_norm: None,
        };
        let exact = Packing { precision: Precision::F32, ..pack.clone() };
        let mut trial = None;
        for (number, shape) in architecture.layers.iter().enumerate() {
            let parts = reader.layer(number)?;
            if number == 0 {
                // The file has the heads that config.json says: now the tables may be made.
                encoder.rotary = rotary_tables(architecture);
                trial = (precision != Precision::F32).then(|| Trial::start(&encoder, architecture));
            }
            let layer = match &mut trial {
                Some(trial) => {
                    let ranges = trial.run_exact(&encoder, &exact.layer(&parts, *shape, &Ranges::default()));
                    let ranges = if precision == Precision::Int8 { ranges } else { Ranges::default() };
                    let layer = pack.layer(&parts, *shape, &ranges);
                    trial.run_rounded(&encoder, &layer);
                    layer
                }
                None => pack.layer(&parts, *shape, &Ranges::default()),
            };
            encoder.layers.push(layer);
        }
        encoder.last_norm = reader.last_norm()?;
        if let Some(trial) = trial {
            trial.judge(&encoder, precision)?;
        }
        Ok(encoder)
    }

    /// Bytes of the weights in memory.
    fn size(&self) -> usize {
        let floats = |values: &[f32]| size_of_val(values);
        let positions = self.embeddings.positions.as_ref().map_or(0, |(rows, _)| floats(rows));
        let projection = self.embeddings.projection.as_ref().map_or(0, PackedMatrix::size);
        let tables: usize = self.rotary.iter().map(|rotary| floats(rotary.table().0) * 2).sum();
        floats(&self.embeddings.words) + positions + projection + tables + self.layers_size()
    }

    /// Bytes of the weights that every token is multiplied with.
    fn layers_size(&self) -> usize {
        let layer = |layer: &Layer| [&layer.qkv, &layer.out, &layer.wide, &layer.narrow].map(PackedMatrix::size);
        self.layers.iter().flat_map(layer).sum()
    }

    /// Runs one model batch and gives the last rows, `[tokens, hidden]`, in the scratch. `go_on` is asked between
    /// layers and blocks of attention.
    fn forward<'r>(&self, batch: &FlatBatch, scratch: &'r mut Scratch, go_on: &dyn Fn() -> bool) -> Result<&'r [f32]> {
        self.begin(batch.ids(), batch.starts(), scratch);
        for layer in &self.layers {
            self.run(layer, batch.starts(), scratch, go_on);
            if !go_on() {
                return Err(Error::Cancelled);
            }
        }
        if let Some(norm) = &self.last_norm {
            norm.apply(self.path, &mut scratch.states);
        }
        Ok(&scratch.states)
    }

    /// Looks the tokens up.
    fn begin(&self, ids: &[u32], starts: &[usize], scratch: &mut Scratch) {
        let Scratch { states, normed, converted, team, .. } = scratch;
        states.resize(ids.len() * self.hidden, 0.0);
        let Some(projection) = &self.embeddings.projection else {
            return self.embeddings.look_up(self.path, ids, starts, states);
        };
        normed.resize(ids.len() * self.embeddings.width, 0.0);
        self.embeddings.look_up(self.path, ids, starts, normed);
        Product { converted, team: team.as_deref() }.of(projection, normed, Epilogue::Bias, states);
    }

    /// One layer; when `go_on` says no, its rows are left unfinished.
    fn run(&self, layer: &Layer, starts: &[usize], scratch: &mut Scratch, go_on: &dyn Fn() -> bool) {
        self.attend(layer, starts, scratch, go_on);
        if !go_on() {
            return;
        }
        let Scratch { states, normed, context, summed, wide, converted, team, .. } = scratch;
        let mut product = Product { converted, team: team.as_deref() };
        summed.resize(states.len(), 0.0);
        self.add(&layer.out, &layer.attention_norms, context, &mut product, states, summed);
        let rows = self.before(&layer.feed_forward_norms, summed, normed);
        let size = FEED_FORWARD_ROWS * self.hidden;
        for ((rows, summed), states) in rows.chunks(size).zip(summed.chunks(size)).zip(states.chunks_mut(size)) {
            wide.resize(rows.len() / self.hidden * self.width, 0.0);
            product.of(&layer.wide, rows, self.epilogue, wide);
            self.add(&layer.narrow, &layer.feed_forward_norms, wide, &mut product, summed, states);
        }
    }

    /// Queries, keys and values of all rows, then attention text by text.
    fn attend(&self, layer: &Layer, starts: &[usize], scratch: &mut Scratch, go_on: &dyn Fn() -> bool) {
        let Scratch { states, normed, qkv, context, attention, converted, team, .. } = scratch;
        let (path, stride) = (self.path, layer.attention.row());
        let (heads, head) = (layer.attention.heads, layer.attention.head);
        let (q_width, kv_width) = (heads * head, layer.attention.key_heads * head);
        let tokens = states.len() / self.hidden;
        qkv.resize(tokens * stride, 0.0);
        context.resize(tokens * q_width, 0.0);
        let rows = self.before(&layer.attention_norms, states, normed);
        Product { converted, team: team.as_deref() }.of(&layer.qkv, rows, Epilogue::Bias, qkv);
        if let Some((query, key)) = &layer.query_key_norms {
            query.apply_within(path, qkv, stride, 0..q_width);
            key.apply_within(path, qkv, stride, q_width..q_width + kv_width);
        }
        for text in starts.windows(2) {
            let qkv = &mut qkv[text[0] * stride..text[1] * stride];
            if let Some(kind) = layer.rotary {
                self.rotary[kind].apply(path, qkv, stride, heads + layer.attention.key_heads, head);
            }
            layer.attention.apply(path, qkv, attention, &mut context[text[0] * q_width..text[1] * q_width], go_on);
        }
    }

    /// What a half of a layer reads: the rows, or the rows normalised.
    fn before<'r>(&self, norms: &HalfNorms, rows: &'r [f32], normed: &'r mut Vec<f32>) -> &'r [f32] {
        let Some(norm) = &norms.before else { return rows };
        normed.clear();
        normed.extend_from_slice(rows);
        norm.apply(self.path, normed);
        normed
    }

    /// What a half of a layer gives, see [`Norms`](super::names::Norms).
    fn add(
        &self,
        matrix: &PackedMatrix,
        norms: &HalfNorms,
        x: &[f32],
        product: &mut Product<'_>,
        residual: &[f32],
        out: &mut [f32],
    ) {
        match &norms.inside {
            None => product.of(matrix, x, Epilogue::Add(residual), out),
            Some(norm) => {
                let epilogue = if norms.twice { Epilogue::Add(residual) } else { Epilogue::Bias };
                product.of(matrix, x, epilogue, out);
                norm.apply(self.path, out);
                out.iter_mut().zip(residual).for_each(|(out, x)| *out += x);
            }
        }
        if let Some(norm) = &norms.after {
            norm.apply(self.path, out);
        }
    }
}

/// What the products of a pass share.
struct Product<'a> {
    converted: &'a mut Converted,
    team: Option<&'a Team>,
}

impl Product<'_> {
    fn of(&mut self, matrix: &PackedMatrix, x: &[f32], epilogue: Epilogue<'_>, out: &mut [f32]) {
        matrix.multiply(x, self.converted, epilogue, out, self.team);
    }
}

impl Embeddings {
    fn new(parts: EmbeddingParts, architecture: &Architecture, pack: &Packing) -> Self {
        Self {
            words: parts.words,
            width: architecture.embeddings.width,
            positions: parts.positions.zip(architecture.embeddings.positions),
            norm: parts.norm,
            // Run once per token, so its precision costs nothing.
            projection: parts.projection.map(|linear| pack.exact(&linear)),
        }
    }

    /// Word, plus position and type where the model has them, normalised.
    fn look_up(&self, path: Path, ids: &[u32], starts: &[usize], out: &mut [f32]) {
        let width = self.width;
        for (row, &id) in out.chunks_exact_mut(width).zip(ids) {
            row.copy_from_slice(&self.words[id as usize * width..][..width]);
        }
        if let Some((rows, positions)) = &self.positions {
            for text in starts.windows(2) {
                let positions = positions.of(&ids[text[0]..text[1]]);
                for (row, position) in out[text[0] * width..].chunks_exact_mut(width).zip(positions) {
                    row.iter_mut().zip(&rows[position * width..][..width]).for_each(|(x, p)| *x += p);
                }
            }
        }
        if let Some(norm) = &self.norm {
            norm.apply(path, out);
        }
    }
}

impl Positions {
    /// The row of each token of a text.
    pub(super) fn of(self, ids: &[u32]) -> impl Iterator<Item = usize> {
        let mut next = self.first;
        ids.iter().map(move |&id| {
            if self.uncounted == Some(id) {
                return self.first - 1;
            }
            next += 1;
            // Nothing is beyond the table, whatever a text begins with.
            (next - 1).min(self.rows - 1)
        })
    }
}

/// What it takes to pack the weights of a layer.
#[derive(Clone)]
struct Packing {
    path: Path,
    precision: Precision,
    gated: bool,
    activation: Activation,
    attention: Attention,
}

impl Packing {
    fn new(architecture: &Architecture, path: Path, precision: Precision, reader: &Reader<'_>) -> Result<Self> {
        let shape = &architecture.attention;
        let activation = match (architecture.feed_forward.activation, precision) {
            (Activation::Gelu, Precision::Bf16 | Precision::Int8) => Activation::RoughGelu,
            (exact, _) => exact,
        };
        let attention = Attention {
            heads: shape.heads,
            key_heads: shape.key_heads,
            head: shape.head,
            scale: shape.scale,
            reach: crate::kernels::Reach::WHOLE,
            bias: reader.bias()?,
            bf16: false,
        };
        Ok(Self { path, precision, gated: architecture.feed_forward.gated, activation, attention })
    }

    fn epilogue(&self) -> Epilogue<'static> {
        if self.gated { Epilogue::Gate(self.activation) } else { Epilogue::Activate(self.activation) }
    }

    fn layer(&self, parts: &LayerParts, shape: LayerShape, ranges: &Ranges) -> Layer {
        let arithmetic = match self.precision {
            Precision::F32 => Arithmetic::F32,
            Precision::Bf16 => Arithmetic::Bf16,
            Precision::Int8 => Arithmetic::Int8,
        };
        let wide = match self.gated {
            false => self.matrix(arithmetic, &parts.wide, ranges.wide.as_deref()),
            true => {
                let Linear { weight, bias } = &parts.wide;
                PackedMatrix::pack_gated(self.path, arithmetic, weight, bias, ranges.wide.as_deref())
            }
        };
        Layer {
            qkv: self.matrix(arithmetic, &parts.qkv, ranges.qkv.as_deref()),
            query_key_norms: parts.query_key_norms.clone(),
            rotary: shape.rotary,
            attention: Attention {
                reach: shape.reach,
                bf16: self.precision != Precision::F32,
                ..self.attention.clone()
            },
            out: self.matrix(arithmetic, &parts.out, None),
            attention_norms: parts.attention_norms.clone(),
            wide,
            narrow: self.matrix(arithmetic, &parts.narrow, None),
            feed_forward_norms: parts.feed_forward_norms.clone(),
        }
    }

    fn matrix(&self, arithmetic: Arithmetic, linear: &Linear, ranges: Option<&[f32]>) -> PackedMatrix {
        PackedMatrix::pack(self.path, arithmetic, &linear.weight, &linear.bias, ranges)
    }

    fn exact(&self, linear: &Linear) -> PackedMatrix {
        self.matrix(Arithmetic::F32, linear, None)
    }
}

/// The largest magnitudes of the columns that two products of a layer read, `[hidden]` each, where they are known.
///
/// What comes out of a norm has a few columns that are several times larger than the others, in every layer the same:
/// they are what int8 hurts most. On 400 package descriptions the mean cosine to f32 is 0.9983 without ranges and 0.9995
/// with them. The inputs of the other two products have no such columns, and lose by it.
#[derive(Debug, Default)]
struct Ranges {
    qkv: Option<Vec<f32>>,
    wide: Option<Vec<f32>>,
}

/// Runs made-up texts through the layers of a model, exactly and rounded, while it is loaded: it tells the [`Ranges`] of
/// the layers, and whether the precision is safe for this model.
///
/// Large columns lie in the weights and show with any input: made-up texts find the same as real ones.
struct Trial {
    starts: Vec<usize>,
    exact: Scratch,
    rounded: Scratch,
}

impl Trial {
    /// Texts of the run, and tokens of each.
    const SHAPE: (usize, usize) = (8, 16);
    /// A model whose rows turn further than this is refused, see the README for what real models reach.
    const LEAST_COSINE: f64 = 0.95;

    /// Looks up tokens from all over the vocabulary.
    fn start(encoder: &CpuEncoder, architecture: &Architecture) -> Self {
        let (texts, length) = Self::SHAPE;
        let length = length.min(architecture.positions);
        // Multiples of 2^32 / golden ratio spread evenly over all 32-bit numbers.
        let spread = |i: usize| u64::from((i as u32).wrapping_mul(2_654_435_761));
        let vocabulary = architecture.vocabulary as u64;
        let ids: Vec<u32> = (0..texts * length).map(|i| ((spread(i) * vocabulary) >> 32) as u32).collect();
        let starts: Vec<usize> = (0..=texts).map(|i| i * length).collect();
        let (mut exact, mut rounded) = (Scratch::default(), Scratch::default());
        encoder.begin(&ids, &starts, &mut exact);
        encoder.begin(&ids, &starts, &mut rounded);
        Self { starts, exact, rounded }
    }

    /// Runs the next layer exactly.
    fn run_exact(&mut self, encoder: &CpuEncoder, layer: &Layer) -> Ranges {
        let scratch = &mut self.exact;
        let rows = encoder.before(&layer.attention_norms, &scratch.states, &mut scratch.normed);
        let qkv = column_ranges(rows, encoder.hidden);
        encoder.run(layer, &self.starts, scratch, &|| true);
        let rows = encoder.before(&layer.feed_forward_norms, &scratch.summed, &mut scratch.normed);
        Ranges { qkv: Some(qkv), wide: Some(column_ranges(rows, encoder.hidden)) }
    }

    /// Runs the next layer as it will be run.
    fn run_rounded(&mut self, encoder: &CpuEncoder, layer: &Layer) {
        encoder.run(layer, &self.starts, &mut self.rounded, &|| true);
    }

    /// Compares the average rows of the texts.
    fn judge(mut self, encoder: &CpuEncoder, precision: Precision) -> Result<()> {
        for scratch in [&mut self.exact, &mut self.rounded] {
            if let Some(norm) = &encoder.last_norm {
                norm.apply(encoder.path, &mut scratch.states);
            }
        }
        let texts = self.starts.windows(2).map(|text| text[0] * encoder.hidden..text[1] * encoder.hidden);
        let cosines = texts.map(|text| {
            let (exact, rounded) = (&self.exact.states[text.clone()], &self.rounded.states[text]);
            cosine(&sum_of_rows(exact, encoder.hidden), &sum_of_rows(rounded, encoder.hidden))
        });
        let mean = cosines.sum::<f64>() / (self.starts.len() - 1) as f64;
        if mean >= Self::LEAST_COSINE {
            return Ok(());
        }
        Err(Error::Setting(format!(
            "embed.precision: {precision} moves the vectors of this model too far (mean cosine {mean:.4} to f32 on made-up \
             texts, at least {} is asked for); use f32{}",
            Self::LEAST_COSINE,
            if precision == Precision::Int8 { ", or try bf16" } else { "" }
        )))
    }
}

fn sum_of_rows(rows: &[f32], width: usize) -> Vec<f64> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    sum
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn rotary_tables(architecture: &Architecture) -> Vec<Rotary> {
    let shapes = architecture.rotary.iter();
    shapes.map(|shape| Rotary::new(&shape.frequencies, shape.scale, architecture.positions)).collect()
}

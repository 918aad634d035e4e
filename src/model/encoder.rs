//! Tokens -> one row per token, on this crate's kernels.
//!
//! A model batch is flat: the tokens of all its texts end to end. Matrices run over all rows at once, attention runs
//! text by text, so there is no padding and no mask.

use super::description::BertConfig;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::{
    Activation, Arithmetic, Attention, AttentionRoom, Converted, Epilogue, LayerNorm, PackedMatrix, Path, column_ranges,
};
use crate::options::Precision;

/// Activations of one worker, kept from batch to batch so that a warm worker allocates nothing but the vectors it gives.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// `[tokens, hidden]`: the rows that go from layer to layer.
    pub(super) states: Vec<f32>,
    /// `[tokens, 3 * hidden]`: queries, keys and values side by side.
    qkv: Vec<f32>,
    /// `[tokens, hidden]`
    context: Vec<f32>,
    /// `[tokens, hidden]`
    summed: Vec<f32>,
    /// `[tokens, intermediate]`
    wide: Vec<f32>,
    attention: AttentionRoom,
    converted: Converted,
}

#[cfg(test)]
impl Room {
    /// Where the largest buffers lie and how long they may grow: the same as long as nothing is allocated again.
    pub(super) fn allocated(&self) -> Vec<(*const f32, usize)> {
        let buffers = [&self.states, &self.qkv, &self.context, &self.summed, &self.wide];
        buffers.into_iter().map(|buffer| (buffer.as_ptr(), buffer.capacity())).collect()
    }
}

/// The encoder of a BERT.
#[derive(Debug)]
pub(crate) struct BertEncoder {
    path: Path,
    hidden: usize,
    intermediate: usize,
    attention: Attention,
    activation: Activation,
    embeddings: Embeddings,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Embeddings {
    /// `[vocabulary, hidden]`
    words: Vec<f32>,
    /// `[positions, hidden]`, the row of token type 0 already added: a text alone has no other type.
    positions: Vec<f32>,
    norm: LayerNorm,
}

#[derive(Debug)]
struct Layer {
    qkv: PackedMatrix,
    attention_out: PackedMatrix,
    attention_norm: LayerNorm,
    widen: PackedMatrix,
    narrow: PackedMatrix,
    norm: LayerNorm,
}

impl BertEncoder {
    /// Reads and packs the weights.
    pub(crate) fn load(config: &BertConfig, weights: &Weights, precision: Precision) -> Result<Self> {
        let hidden = config.hidden_size;
        let activation =
            config.activation().ok_or_else(|| Error::Model(format!("hidden_act {}", config.hidden_act)))?;
        let activation = match (activation, precision) {
            (Activation::Gelu, Precision::Bf16 | Precision::Int8) => Activation::RoughGelu,
            (exact, _) => exact,
        };
        let path = Path::chosen()?;
        let mut encoder = Self {
            path,
            hidden,
            intermediate: config.intermediate_size,
            attention: Attention {
                heads: config.num_attention_heads,
                head: hidden / config.num_attention_heads,
                bf16: precision != Precision::F32,
            },
            activation,
            embeddings: Embeddings::load(config, weights)?,
            layers: Vec::new(),
        };
        let mut calibration = (precision == Precision::Int8).then(|| Calibration::start(&encoder, config));
        for number in 0..config.num_hidden_layers {
            let weights = LayerReader { config, weights, number }.read()?;
            let ranges = match &mut calibration {
                Some(calibration) => calibration.run(&encoder, &weights.pack(path, Precision::F32, &Ranges::default())),
                None => Ranges::default(),
            };
            encoder.layers.push(weights.pack(path, precision, &ranges));
        }
        Ok(encoder)
    }

    /// Runs one model batch and gives the last rows, `[tokens, hidden]`, in the room. `go_on` is asked between
    /// layers and blocks of attention.
    pub(crate) fn forward<'r>(
        &self,
        ids: &[u32],
        starts: &[usize],
        room: &'r mut Room,
        go_on: &dyn Fn() -> bool,
    ) -> Result<&'r [f32]> {
        self.begin(ids, starts, room);
        for layer in &self.layers {
            self.run(layer, starts, room, go_on);
            if !go_on() {
                return Err(Error::Cancelled);
            }
        }
        Ok(&room.states)
    }

    /// Makes the room large enough and looks the tokens up.
    fn begin(&self, ids: &[u32], starts: &[usize], room: &mut Room) {
        let (tokens, hidden) = (ids.len(), self.hidden);
        room.states.resize(tokens * hidden, 0.0);
        room.qkv.resize(tokens * 3 * hidden, 0.0);
        room.context.resize(tokens * hidden, 0.0);
        room.summed.resize(tokens * hidden, 0.0);
        room.wide.resize(tokens * self.intermediate, 0.0);
        self.embeddings.look_up(self.path, ids, starts, &mut room.states);
    }

    /// One layer; when `go_on` says no, its rows are left unfinished. `x = norm(x + attention(x))`, then `x = norm(x + narrow(activation(widen(x))))`.
    fn run(&self, layer: &Layer, starts: &[usize], room: &mut Room, go_on: &dyn Fn() -> bool) {
        let (path, hidden) = (self.path, self.hidden);
        let Room { states, qkv, context, summed, wide, attention, converted } = room;
        layer.qkv.multiply(states, converted, Epilogue::Bias, qkv);
        for text in starts.windows(2) {
            let qkv = &qkv[text[0] * 3 * hidden..text[1] * 3 * hidden];
            self.attention.apply(path, qkv, attention, &mut context[text[0] * hidden..text[1] * hidden], go_on);
        }
        if !go_on() {
            return;
        }
        layer.attention_out.multiply(context, converted, Epilogue::Add(states), summed);
        layer.attention_norm.apply(path, summed);
        layer.widen.multiply(summed, converted, Epilogue::Activate(self.activation), wide);
        layer.narrow.multiply(wide, converted, Epilogue::Add(summed), states);
        layer.norm.apply(path, states);
    }
}

impl Embeddings {
    fn load(config: &BertConfig, weights: &Weights) -> Result<Self> {
        let hidden = config.hidden_size;
        let table = |name: &str, rows| weights.tensor(&format!("embeddings.{name}.weight"), &[rows, hidden]);
        let types = table("token_type_embeddings", config.type_vocab_size)?;
        let mut positions = table("position_embeddings", config.max_position_embeddings)?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types).for_each(|(x, t)| *x += t);
        }
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            positions,
            norm: layer_norm(config, weights, "embeddings.LayerNorm")?,
        })
    }

    /// Word plus position plus type, normalised.
    fn look_up(&self, path: Path, ids: &[u32], starts: &[usize], out: &mut [f32]) {
        let hidden = self.norm.weight.len();
        for text in starts.windows(2) {
            let rows = out[text[0] * hidden..text[1] * hidden].chunks_exact_mut(hidden);
            let positions = self.positions.chunks_exact(hidden);
            assert!(text[1] - text[0] <= positions.len(), "a position for every token");
            for ((row, position), &id) in rows.zip(positions).zip(&ids[text[0]..text[1]]) {
                let word = &self.words[id as usize * hidden..][..hidden];
                for ((x, w), p) in row.iter_mut().zip(word).zip(position) {
                    *x = w + p;
                }
            }
        }
        self.norm.apply(path, out);
    }
}

/// The largest magnitudes of the columns that two products of a layer read, `[hidden]` each, where they are known.
///
/// What comes out of a layer norm has a few columns that are several times larger than the others, in every layer the same:
/// they are what int8 hurts most. On 400 package descriptions the mean cosine to f32 is 0.9983 without ranges and 0.9995
/// with them. The inputs of the other two products have no such columns, and lose by it.
#[derive(Debug, Default)]
struct Ranges {
    qkv: Option<Vec<f32>>,
    widen: Option<Vec<f32>>,
}

/// Tells the [`Ranges`] of a model by running its layers in f32 on made-up texts.
///
/// The columns lie in the weights and show with any input: made-up texts find the same as real ones.
struct Calibration {
    starts: Vec<usize>,
    room: Room,
}

impl Calibration {
    /// Texts of the run, and tokens of each.
    const SHAPE: (usize, usize) = (8, 16);

    /// Looks up tokens from all over the vocabulary.
    fn start(encoder: &BertEncoder, config: &BertConfig) -> Self {
        let (texts, length) = Self::SHAPE;
        let length = length.min(config.max_position_embeddings);
        // Multiples of 2^32 / golden ratio spread evenly over all 32-bit numbers.
        let spread = |i: usize| u64::from((i as u32).wrapping_mul(2_654_435_761));
        let ids: Vec<u32> =
            (0..texts * length).map(|i| ((spread(i) * config.vocab_size as u64) >> 32) as u32).collect();
        let mut calibration = Self { starts: (0..=texts).map(|i| i * length).collect(), room: Room::default() };
        encoder.begin(&ids, &calibration.starts, &mut calibration.room);
        calibration
    }

    /// Runs the next layer.
    fn run(&mut self, encoder: &BertEncoder, layer: &Layer) -> Ranges {
        let qkv = Some(column_ranges(&self.room.states, encoder.hidden));
        encoder.run(layer, &self.starts, &mut self.room, &|| true);
        Ranges { qkv, widen: Some(column_ranges(&self.room.summed, encoder.hidden)) }
    }
}

/// The weights of one layer as they are in the file, to be packed once or, for int8, twice.
struct LayerWeights {
    qkv: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    norm: LayerNorm,
}

/// A linear layer, or several of the same shape, one under the other, so that they are one product.
struct Linear {
    /// `[outputs, inputs]`
    weight: Vec<f32>,
    /// `[outputs]`
    bias: Vec<f32>,
}

impl LayerWeights {
    fn pack(&self, path: Path, precision: Precision, ranges: &Ranges) -> Layer {
        let arithmetic = match precision {
            Precision::F32 => Arithmetic::F32,
            Precision::Bf16 => Arithmetic::Bf16,
            Precision::Int8 => Arithmetic::Int8,
        };
        let pack = |linear: &Linear, ranges: Option<&[f32]>| {
            PackedMatrix::pack(path, arithmetic, &linear.weight, &linear.bias, ranges)
        };
        Layer {
            qkv: pack(&self.qkv, ranges.qkv.as_deref()),
            attention_out: pack(&self.attention_out, None),
            attention_norm: self.attention_norm.clone(),
            widen: pack(&self.widen, ranges.widen.as_deref()),
            narrow: pack(&self.narrow, None),
            norm: self.norm.clone(),
        }
    }
}

/// What it takes to read one layer.
struct LayerReader<'a> {
    config: &'a BertConfig,
    weights: &'a Weights,
    number: usize,
}

impl LayerReader<'_> {
    fn read(&self) -> Result<LayerWeights> {
        let (hidden, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let parts = ["attention.self.query", "attention.self.key", "attention.self.value"];
        Ok(LayerWeights {
            qkv: self.linear(&parts, hidden, hidden)?,
            attention_out: self.linear(&["attention.output.dense"], hidden, hidden)?,
            attention_norm: self.norm("attention.output.LayerNorm")?,
            widen: self.linear(&["intermediate.dense"], intermediate, hidden)?,
            narrow: self.linear(&["output.dense"], hidden, intermediate)?,
            norm: self.norm("output.LayerNorm")?,
        })
    }

    fn name(&self, part: &str) -> String {
        format!("encoder.layer.{}.{part}", self.number)
    }

    fn linear(&self, parts: &[&str], outputs: usize, inputs: usize) -> Result<Linear> {
        let mut linear = Linear { weight: Vec::new(), bias: Vec::new() };
        for part in parts {
            linear.weight.extend(self.weights.tensor(&format!("{}.weight", self.name(part)), &[outputs, inputs])?);
            linear.bias.extend(self.weights.tensor(&format!("{}.bias", self.name(part)), &[outputs])?);
        }
        Ok(linear)
    }

    fn norm(&self, part: &str) -> Result<LayerNorm> {
        layer_norm(self.config, self.weights, &self.name(part))
    }
}

fn layer_norm(config: &BertConfig, weights: &Weights, name: &str) -> Result<LayerNorm> {
    let tensor = |part: &str| weights.tensor(&format!("{name}.{part}"), &[config.hidden_size]);
    Ok(LayerNorm { weight: tensor("weight")?, bias: tensor("bias")?, epsilon: config.layer_norm_eps as f32 })
}

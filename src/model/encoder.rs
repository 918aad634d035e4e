//! Tokens -> one row per token, on this crate's kernels.
//!
//! A model batch is flat: the tokens of all its texts end to end. Matrices run over all rows at once, attention runs
//! text by text, so there is no padding and no mask.

use super::description::BertConfig;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::{Activation, Attention, Epilogue, LayerNorm, PackedMatrix, Path, Scores};

/// Activations of one worker, kept from batch to batch so that a warm worker allocates nothing.
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
    scores: Scores,
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
    pub(crate) fn load(config: &BertConfig, weights: &Weights) -> Result<Self> {
        let hidden = config.hidden_size;
        let activation =
            config.activation().ok_or_else(|| Error::Model(format!("hidden_act {}", config.hidden_act)))?;
        let layers = (0..config.num_hidden_layers).map(|i| Layer::load(config, weights, i));
        Ok(Self {
            path: Path::detect(),
            hidden,
            intermediate: config.intermediate_size,
            attention: Attention { heads: config.num_attention_heads, head: hidden / config.num_attention_heads },
            activation,
            embeddings: Embeddings::load(config, weights)?,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Runs one model batch and gives the last rows, `[tokens, hidden]`, in the room. `go_on` is asked before each layer.
    pub(crate) fn forward<'r>(
        &self,
        ids: &[u32],
        starts: &[usize],
        room: &'r mut Room,
        go_on: &dyn Fn() -> bool,
    ) -> Result<&'r [f32]> {
        let (tokens, hidden) = (ids.len(), self.hidden);
        room.states.resize(tokens * hidden, 0.0);
        room.qkv.resize(tokens * 3 * hidden, 0.0);
        room.context.resize(tokens * hidden, 0.0);
        room.summed.resize(tokens * hidden, 0.0);
        room.wide.resize(tokens * self.intermediate, 0.0);
        self.embeddings.look_up(self.path, ids, starts, &mut room.states);
        for layer in &self.layers {
            if !go_on() {
                return Err(Error::Cancelled);
            }
            self.run(layer, starts, room);
        }
        Ok(&room.states)
    }

    /// One layer: `x = norm(x + attention(x))`, then `x = norm(x + narrow(activation(widen(x))))`.
    fn run(&self, layer: &Layer, starts: &[usize], room: &mut Room) {
        let (path, hidden) = (self.path, self.hidden);
        let Room { states, qkv, context, summed, wide, scores } = room;
        layer.qkv.multiply(path, states, Epilogue::Bias, qkv);
        for text in starts.windows(2) {
            let qkv = &qkv[text[0] * 3 * hidden..text[1] * 3 * hidden];
            self.attention.apply(path, qkv, scores, &mut context[text[0] * hidden..text[1] * hidden]);
        }
        layer.attention_out.multiply(path, context, Epilogue::Add(states), summed);
        layer.attention_norm.apply(path, summed);
        layer.widen.multiply(path, summed, Epilogue::Activate(self.activation), wide);
        layer.narrow.multiply(path, wide, Epilogue::Add(summed), states);
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

impl Layer {
    fn load(config: &BertConfig, weights: &Weights, number: usize) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{number}.{part}");
        Ok(Self {
            qkv: linear(
                weights,
                &[&name("attention.self.query"), &name("attention.self.key"), &name("attention.self.value")],
                hidden,
                hidden,
            )?,
            attention_out: linear(weights, &[&name("attention.output.dense")], hidden, hidden)?,
            attention_norm: layer_norm(config, weights, &name("attention.output.LayerNorm"))?,
            widen: linear(weights, &[&name("intermediate.dense")], intermediate, hidden)?,
            narrow: linear(weights, &[&name("output.dense")], hidden, intermediate)?,
            norm: layer_norm(config, weights, &name("output.LayerNorm"))?,
        })
    }
}

/// Packs one or more linear layers of the same shape side by side, so that they are one product.
fn linear(weights: &Weights, names: &[&str], outputs: usize, inputs: usize) -> Result<PackedMatrix> {
    let (mut weight, mut bias) = (Vec::new(), Vec::new());
    for name in names {
        weight.extend(weights.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
        bias.extend(weights.tensor(&format!("{name}.bias"), &[outputs])?);
    }
    Ok(PackedMatrix::pack(&weight, &bias, inputs))
}

fn layer_norm(config: &BertConfig, weights: &Weights, name: &str) -> Result<LayerNorm> {
    let tensor = |part: &str| weights.tensor(&format!("{name}.{part}"), &[config.hidden_size]);
    Ok(LayerNorm { weight: tensor("weight")?, bias: tensor("bias")?, epsilon: config.layer_norm_eps as f32 })
}

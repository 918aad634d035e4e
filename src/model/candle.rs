//! The encoder on other devices than this crate's CPU kernels, by candle's tensors.
//!
//! Devices want rectangles: a model batch is padded to its longest text and masked. The vectors agree with the CPU path
//! within the precision, not to the bit. Here every part is written as its formula says, which makes this the naive twin
//! of `encoder.rs` on candle's CPU device. What crosses the bus is the tokens, one row per text, and nothing per token.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::{layer_norm, rms_norm, softmax_last_dim};

use super::architecture::{Architecture, Embeddings, LayerShape, Positions};
use super::backend::{Backend, BatchShape, CPU_BATCH_TOKENS, Pass};
use super::batch::FlatBatch;
use super::head::Head;
use super::parts::{HalfNorms, LayerParts, Linear, Reader};
use super::pooling::PoolingMode;
use super::rope::RotaryShape;
use super::scratch::Scratch;
use super::weights::Weights;
use crate::error::Error;
use crate::kernels::{self, Activation, Bias, Reach};
use crate::options::Precision;

/// An encoder of any architecture on a candle device.
#[derive(Debug)]
pub(crate) struct CandleEncoder {
    device: Device,
    /// Of weights and activations.
    dtype: DType,
    hidden: usize,
    /// Width of an attention head.
    head_width: usize,
    /// `[vocabulary, width]`
    words: Tensor,
    width: usize,
    /// `[rows, width]`, and which row a token has.
    positions: Option<(Tensor, Positions)>,
    embeddings_norm: Option<Norm>,
    projection: Option<Product>,
    /// Cosines and sines of each kind of layer, `[positions, pairs]`.
    rotary: Vec<(Tensor, Tensor)>,
    bias: Option<Bias>,
    activation: Activation,
    gated: bool,
    layers: Vec<Layer>,
    last_norm: Option<Norm>,
    head: Head,
}

#[derive(Debug)]
struct Layer {
    shape: LayerShape,
    qkv: Product,
    heads: usize,
    key_heads: usize,
    query_key_norms: Option<(Norm, Norm)>,
    out: Product,
    attention_norms: Norms,
    wide: Product,
    narrow: Product,
    feed_forward_norms: Norms,
}

/// `x W^T + b`
#[derive(Debug)]
struct Product {
    /// `[inputs, outputs]`
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct Norm {
    centred: bool,
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

#[derive(Debug)]
struct Norms {
    before: Option<Norm>,
    inside: Option<Norm>,
    twice: bool,
    after: Option<Norm>,
}

/// Opens the device that a setting asks for.
pub(crate) fn open_device(device: crate::options::Device) -> crate::error::Result<Device> {
    match device {
        crate::options::Device::Cuda(ordinal) => Device::new_cuda(ordinal),
        crate::options::Device::Metal => Device::new_metal(0),
        _ => Ok(Device::Cpu),
    }
    .map_err(|error| Error::Device(format!("embed.device: {device} cannot be used: {error}")))
}

/// Puts weights on a device.
struct Placing<'a> {
    device: &'a Device,
    dtype: DType,
}

impl Placing<'_> {
    fn tensor(&self, values: &[f32], shape: &[usize]) -> Result<Tensor> {
        Tensor::from_slice(values, shape, self.device)?.to_dtype(self.dtype)
    }

    fn product(&self, linear: &Linear) -> Result<Product> {
        let outputs = linear.bias.len();
        let weight = self.tensor(&linear.weight, &[outputs, linear.weight.len() / outputs])?;
        Ok(Product { weight: weight.t()?.contiguous()?, bias: self.tensor(&linear.bias, &[outputs])? })
    }

    fn norm(&self, norm: &kernels::Norm) -> Result<Norm> {
        let kernels::Norm { centred, weight, bias, epsilon } = norm;
        Ok(Norm {
            centred: *centred,
            weight: self.tensor(weight, &[weight.len()])?,
            bias: self.tensor(bias, &[bias.len()])?,
            epsilon: *epsilon,
        })
    }

    fn norms(&self, norms: &HalfNorms) -> Result<Norms> {
        let norm = |norm: &Option<kernels::Norm>| norm.as_ref().map(|norm| self.norm(norm)).transpose();
        let (before, inside, after) = (norm(&norms.before)?, norm(&norms.inside)?, norm(&norms.after)?);
        Ok(Norms { before, inside, twice: norms.twice, after })
    }

    /// Cosines and sines, `[positions, pairs]`.
    fn rotary(&self, shape: &RotaryShape, positions: usize) -> Result<(Tensor, Tensor)> {
        let rotary = kernels::Rotary::new(&shape.frequencies, shape.scale, positions);
        let (cos, sin, pairs) = rotary.table();
        let shape = [rotary.positions(), pairs];
        Ok((self.tensor(cos, &shape)?, self.tensor(sin, &shape)?))
    }

    fn layer(&self, mut parts: LayerParts, architecture: &Architecture, shape: LayerShape) -> Result<Layer> {
        scale_queries(&mut parts, architecture);
        let norms = parts.query_key_norms.as_ref();
        Ok(Layer {
            shape,
            qkv: self.product(&parts.qkv)?,
            heads: architecture.attention.heads,
            key_heads: architecture.attention.key_heads,
            query_key_norms: norms
                .map(|(query, key)| Ok::<_, candle_core::Error>((self.norm(query)?, self.norm(key)?)))
                .transpose()?,
            out: self.product(&parts.out)?,
            attention_norms: self.norms(&parts.attention_norms)?,
            wide: self.product(&parts.wide)?,
            narrow: self.product(&parts.narrow)?,
            feed_forward_norms: self.norms(&parts.feed_forward_norms)?,
        })
    }
}

/// The scores are scaled once and for all, in what makes a query.
fn scale_queries(parts: &mut LayerParts, architecture: &Architecture) {
    let scale = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= architecture.attention.scale);
    match &mut parts.query_key_norms {
        Some((query, _)) => {
            scale(&mut query.weight);
            scale(&mut query.bias);
        }
        None => {
            let Linear { weight, bias } = &mut parts.qkv;
            let queries = architecture.attention.heads * architecture.attention.head;
            let inputs = weight.len() / bias.len();
            scale(&mut weight[..queries * inputs]);
            scale(&mut bias[..queries]);
        }
    }
}

impl CandleEncoder {
    /// Puts the weights on the device, in f32 or bf16.
    pub(crate) fn load(
        architecture: &Architecture,
        weights: &Weights,
        device: &Device,
        precision: Precision,
        head: Head,
    ) -> crate::error::Result<Self> {
        let dtype = if precision == Precision::F32 { DType::F32 } else { DType::BF16 };
        let reader = Reader::new(architecture, weights);
        let placing = Placing { device, dtype };
        let parts = reader.embeddings()?;
        let Embeddings { width, positions, .. } = architecture.embeddings;
        let mut layers = Vec::new();
        for (number, &shape) in architecture.layers.iter().enumerate() {
            layers.push(placing.layer(reader.layer(number)?, architecture, shape).map_err(failed)?);
        }
        let mut rotary = Vec::new();
        for shape in &architecture.rotary {
            rotary.push(placing.rotary(shape, architecture.positions).map_err(failed)?);
        }
        let rows = |values: &[f32]| placing.tensor(values, &[values.len() / width, width]).map_err(failed);
        Ok(Self {
            device: device.clone(),
            dtype,
            hidden: architecture.hidden,
            head_width: architecture.attention.head,
            words: rows(&parts.words)?,
            width,
            positions: parts.positions.as_deref().map(rows).transpose()?.zip(positions),
            embeddings_norm: parts.norm.map(|norm| placing.norm(&norm)).transpose().map_err(failed)?,
            projection: parts.projection.map(|linear| placing.product(&linear)).transpose().map_err(failed)?,
            rotary,
            bias: reader.bias()?,
            activation: architecture.feed_forward.activation,
            gated: architecture.feed_forward.gated,
            layers,
            last_norm: reader.last_norm()?.map(|norm| placing.norm(&norm)).transpose().map_err(failed)?,
            head,
        })
    }

    /// The pooled rows, `[texts, modes * hidden]`.
    fn run(&self, batch: &FlatBatch, unpooled: usize) -> Result<Vec<f32>> {
        let mut states = self.look_up(batch)?;
        let mut masks = Masks { batch, encoder: self, made: Vec::new() };
        let bias = self.bias.as_ref().map(|bias| self.distances(bias, batch.longest())).transpose()?;
        for layer in &self.layers {
            let x = layer.attention_norms.before(&states)?;
            let x = self.attend(layer, &x, masks.of(layer.shape.reach)?, bias.as_ref())?;
            states = layer.attention_norms.add(&layer.out.apply(&x)?, &states)?;
            let x = layer.wide.apply(&layer.feed_forward_norms.before(&states)?)?;
            let x = if self.gated {
                let width = x.dim(D::Minus1)? / 2;
                (activate(&x.narrow(D::Minus1, 0, width)?, self.activation)? * x.narrow(D::Minus1, width, width)?)?
            } else {
                activate(&x, self.activation)?
            };
            states = layer.feed_forward_norms.add(&layer.narrow.apply(&x)?, &states)?;
        }
        if let Some(norm) = &self.last_norm {
            states = norm.apply(&states)?;
        }
        let pooled: Vec<_> =
            self.head.pooling.0.iter().map(|mode| self.pool(*mode, &states, batch, unpooled)).collect::<Result<_>>()?;
        Tensor::cat(&pooled, 1)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
    }

    /// The first rows, `[texts, longest, hidden]`; what is padding has the row of token 0.
    fn look_up(&self, batch: &FlatBatch) -> Result<Tensor> {
        let (texts, longest) = (batch.texts(), batch.longest());
        let (mut padded, mut rows) = (vec![0u32; texts * longest], vec![0u32; texts * longest]);
        for (i, ids) in batch.each().enumerate() {
            padded[i * longest..][..ids.len()].copy_from_slice(ids);
            if let Some((_, positions)) = &self.positions {
                let rows = rows[i * longest..].iter_mut();
                rows.zip(positions.of(ids)).for_each(|(row, position)| *row = position as u32);
            }
        }
        let mut x = self.rows(&self.words, padded, longest)?;
        if let Some((table, _)) = &self.positions {
            x = (x + self.rows(table, rows, longest)?)?;
        }
        if let Some(norm) = &self.embeddings_norm {
            x = norm.apply(&x)?;
        }
        match &self.projection {
            Some(projection) => projection.apply(&x),
            None => Ok(x),
        }
    }

    /// Rows of a table, `[texts, longest, width]`.
    fn rows(&self, table: &Tensor, ids: Vec<u32>, longest: usize) -> Result<Tensor> {
        let texts = ids.len() / longest;
        let ids = Tensor::from_vec(ids, texts * longest, &self.device)?;
        table.index_select(&ids, 0)?.reshape((texts, longest, self.width))
    }

    /// What is added to the scores for the distance of two tokens, `[1, heads, longest, longest]`.
    fn distances(&self, bias: &Bias, longest: usize) -> Result<Tensor> {
        let heads = self.layers.first().map_or(0, |layer| layer.heads);
        let mut scores = Vec::with_capacity(heads * longest * longest);
        let mut line = vec![0.0; 2 * longest - 1];
        for head in 0..heads {
            bias.write(head, longest - 1, &mut line);
            (0..longest).for_each(|query| scores.extend_from_slice(&line[longest - 1 - query..][..longest]));
        }
        self.tensor(scores, &[1, heads, longest, longest])
    }

    /// Values that were made for this batch.
    fn tensor(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
        Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.dtype)
    }

    /// One row per text, `[texts, hidden]`. Where nothing is left to pool, as `pooling.rs` has it.
    fn pool(&self, mode: PoolingMode, states: &Tensor, batch: &FlatBatch, unpooled: usize) -> Result<Tensor> {
        let (texts, longest) = (batch.texts(), batch.longest());
        let mut weights = vec![0.0f32; texts * longest];
        for (text, weights) in batch.each().zip(weights.chunks_exact_mut(longest)) {
            mode.weigh(text.len(), unpooled, weights);
        }
        if mode != PoolingMode::Max {
            return self.tensor(weights, &[texts, 1, longest])?.matmul(states)?.squeeze(1);
        }
        // What is not pooled is lower than everything.
        weights.iter_mut().for_each(|weight| *weight = if *weight > 0.0 { 0.0 } else { f32::NEG_INFINITY });
        states.broadcast_add(&self.tensor(weights, &[texts, longest, 1])?)?.max(1)
    }

    /// `[texts, longest, heads * head]`
    fn attend(&self, layer: &Layer, x: &Tensor, mask: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Tensor> {
        let (texts, longest, _) = x.dims3()?;
        let (q_width, kv_width) = (layer.heads * self.head_width, layer.key_heads * self.head_width);
        let qkv = layer.qkv.apply(x)?;
        let mut query = qkv.narrow(2, 0, q_width)?.contiguous()?;
        let mut key = qkv.narrow(2, q_width, kv_width)?.contiguous()?;
        let value = qkv.narrow(2, q_width + kv_width, kv_width)?.contiguous()?;
        if let Some((query_norm, key_norm)) = &layer.query_key_norms {
            (query, key) = (query_norm.apply_within(&query)?, key_norm.apply_within(&key)?);
        }
        let (mut query, mut key) = (self.split(&query, layer.heads)?, self.split(&key, layer.key_heads)?);
        if let Some(kind) = layer.shape.rotary {
            (query, key) = (self.rotate(kind, &query)?, self.rotate(kind, &key)?);
        }
        let value = self.split(&value, layer.key_heads)?;
        let (key, value) = (repeated(&key, layer.heads)?, repeated(&value, layer.heads)?);
        let mut scores = query.matmul(&key.t()?)?;
        for added in bias.into_iter().chain(mask) {
            scores = scores.broadcast_add(added)?;
        }
        softmax_last_dim(&scores)?.matmul(&value)?.transpose(1, 2)?.contiguous()?.reshape((texts, longest, q_width))
    }

    /// `[texts, longest, heads * head]` -> `[texts, heads, longest, head]`
    fn split(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let (texts, longest, _) = x.dims3()?;
        x.reshape((texts, longest, heads, self.head_width))?.transpose(1, 2)?.contiguous()
    }

    /// Rotates pairs of a head's values by the token's position.
    fn rotate(&self, kind: usize, x: &Tensor) -> Result<Tensor> {
        let (cos, sin) = &self.rotary[kind];
        let (longest, pairs) = (x.dim(2)?, cos.dim(1)?);
        let (cos, sin) = (cos.narrow(0, 0, longest)?, sin.narrow(0, 0, longest)?);
        let (low, high) = (x.narrow(3, 0, pairs)?, x.narrow(3, pairs, pairs)?);
        let rotated_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let rotated_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        let rest = x.narrow(3, 2 * pairs, self.head_width - 2 * pairs)?;
        Tensor::cat(&[rotated_low, rotated_high, rest], 3)?.contiguous()
    }
}

impl Backend for CandleEncoder {
    fn vectors(&self, batch: &FlatBatch, pass: &Pass<'_>, _scratch: &mut Scratch) -> crate::error::Result<Vec<f32>> {
        if !(pass.go_on)() {
            return Err(Error::Cancelled);
        }
        let width = self.head.pooling.0.len() * self.hidden;
        // A text without tokens has no row to be padded.
        let pooled = match batch.longest() {
            0 => vec![0.0; batch.texts() * width],
            _ => self.run(batch, pass.unpooled).map_err(failed)?,
        };
        let pool = |text: usize, row: &mut [f32]| row.copy_from_slice(&pooled[text * width..][..width]);
        Ok(self.head.finish(batch.texts(), pass.dimensions, pool))
    }

    /// A device's memory is not this machine's.
    fn size(&self) -> usize {
        0
    }

    fn shape(&self) -> BatchShape {
        BatchShape::Rectangle
    }

    /// A GPU is told each of hundreds of steps, which takes microseconds however many tokens there are.
    fn batch_tokens(&self) -> usize {
        if self.device.is_cpu() { CPU_BATCH_TOKENS } else { 8192 }
    }

    fn gains_by_help(&self) -> bool {
        false
    }
}

/// What is added to the scores, so that a token sees only those within a layer's reach and no padding: made once per batch
/// for each reach that the layers have, `[texts, 1, 1 or longest, longest]`. Nothing where every token sees all others.
struct Masks<'a> {
    batch: &'a FlatBatch,
    encoder: &'a CandleEncoder,
    made: Vec<(Reach, Option<Tensor>)>,
}

impl Masks<'_> {
    fn of(&mut self, reach: Reach) -> Result<Option<&Tensor>> {
        let known = self.made.iter().position(|(known, _)| *known == reach);
        let at = match known {
            Some(at) => at,
            None => {
                self.made.push((reach, self.make(reach)?));
                self.made.len() - 1
            }
        };
        Ok(self.made[at].1.as_ref())
    }

    fn make(&self, reach: Reach) -> Result<Option<Tensor>> {
        let (texts, longest) = (self.batch.texts(), self.batch.longest());
        if reach == Reach::WHOLE && self.batch.tokens() == texts * longest {
            return Ok(None);
        }
        // Where a token sees the whole text, all of them see the same.
        let queries = if reach == Reach::WHOLE { 1 } else { longest };
        let mut mask = Vec::with_capacity(texts * queries * longest);
        for text in self.batch.each() {
            for query in 0..queries {
                mask.extend(
                    (0..longest).map(|key| if sees(reach, text.len(), query, key) { 0.0 } else { f32::NEG_INFINITY }),
                );
            }
        }
        self.encoder.tensor(mask, &[texts, 1, queries, longest]).map(Some)
    }
}

/// Whether a token of a text sees another. Padding sees the first token, so that its row is a number.
fn sees(Reach { before, after }: Reach, length: usize, query: usize, key: usize) -> bool {
    match query < length || length == 0 {
        true => key < length.max(1) && key.saturating_add(before) >= query && key <= query.saturating_add(after),
        false => key == 0,
    }
}

/// `[texts, key heads, longest, head]` -> `[texts, heads, longest, head]`: each group of heads has the same keys.
fn repeated(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (texts, key_heads, longest, head) = x.dims4()?;
    let x = x.unsqueeze(2)?.broadcast_as((texts, key_heads, heads / key_heads, longest, head))?;
    x.contiguous()?.reshape((texts, heads, longest, head))
}

impl Product {
    /// `[.., inputs]` -> `[.., outputs]`. The rows of all texts are one matrix: a product for each text would copy the weights.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        shape.last_mut().into_iter().for_each(|width| *width = outputs);
        x.reshape((x.elem_count() / inputs, inputs))?.matmul(&self.weight)?.broadcast_add(&self.bias)?.reshape(shape)
    }
}

impl Norm {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match self.centred {
            true => layer_norm(x, &self.weight, &self.bias, self.epsilon),
            false => rms_norm(x, &self.weight, self.epsilon)?.broadcast_add(&self.bias),
        }
    }

    /// Normalises parts of rows as rows of their own.
    fn apply_within(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.elem_count();
        self.apply(&x.reshape((x.elem_count() / width, width))?)?.reshape(x.shape())
    }
}

impl Norms {
    fn before(&self, x: &Tensor) -> Result<Tensor> {
        self.before.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.apply(x))
    }

    /// What a half of a layer gives for `x`, see [`Norms`](super::names::Norms).
    fn add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let mut sum = if self.twice || self.inside.is_none() { (x + residual)? } else { x.clone() };
        if let Some(norm) = &self.inside {
            sum = (norm.apply(&sum)? + residual)?;
        }
        self.after.as_ref().map_or_else(|| Ok(sum.clone()), |norm| norm.apply(&sum))
    }
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let logistic = |x: &Tensor, slope: f64| x / ((x * -slope)?.exp()? + 1.0)?;
    match activation {
        Activation::Gelu | Activation::RoughGelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Silu => logistic(x, 1.0),
        Activation::QuickGelu => logistic(x, 1.702),
        Activation::Tanh => x.tanh(),
    }
}

fn failed(error: candle_core::Error) -> Error {
    Error::Device(format!("device: {error}"))
}

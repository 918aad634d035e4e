//! The encoder on other devices than this crate's CPU kernels, by candle's tensors.
//!
//! Devices want rectangles: a model batch is padded to its longest text and masked. The vectors agree with the CPU path
//! within the precision, not to the bit. Here every part is written as its formula says, which makes this the naive twin
//! of `encoder.rs` on candle's CPU device.

use candle_core::{D, Device, Result, Tensor};

use super::Room;
use super::architecture::{Architecture, Embeddings, LayerShape, Positions};
use super::parts::{HalfNorms, LayerParts, Linear, Reader};
use super::weights::Weights;
use crate::error::Error;
use crate::kernels::{self, Activation, Bias, Reach};

/// An encoder of any architecture on a candle device.
#[derive(Debug)]
pub(crate) struct CandleEncoder {
    device: Device,
    hidden: usize,
    head: usize,
    /// `[vocabulary, width]`
    words: Tensor,
    width: usize,
    /// `[rows, width]`, and which row a token has.
    positions: Option<(Tensor, Positions)>,
    embeddings_norm: Option<Norm>,
    projection: Option<Product>,
    /// Cosines and sines of each kind of layer, `[places, pairs]`.
    rotary: Vec<(Tensor, Tensor)>,
    bias: Option<Bias>,
    scale: f64,
    activation: Activation,
    gated: bool,
    layers: Vec<Layer>,
    last_norm: Option<Norm>,
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
    epsilon: f64,
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
}

impl Placing<'_> {
    fn tensor(&self, values: &[f32], shape: &[usize]) -> Result<Tensor> {
        Tensor::from_slice(values, shape, self.device)
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
            epsilon: f64::from(*epsilon),
        })
    }

    fn norms(&self, norms: &HalfNorms) -> Result<Norms> {
        let norm = |norm: &Option<kernels::Norm>| norm.as_ref().map(|norm| self.norm(norm)).transpose();
        let (before, inside, after) = (norm(&norms.before)?, norm(&norms.inside)?, norm(&norms.after)?);
        Ok(Norms { before, inside, twice: norms.twice, after })
    }

    fn layer(&self, parts: &LayerParts, architecture: &Architecture, shape: LayerShape) -> Result<Layer> {
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

impl CandleEncoder {
    /// Puts the weights on the device.
    pub(crate) fn load(architecture: &Architecture, weights: &Weights, device: &Device) -> crate::error::Result<Self> {
        let reader = Reader::new(architecture, weights);
        let placing = Placing { device };
        let parts = reader.embeddings()?;
        let Embeddings { width, positions, .. } = architecture.embeddings;
        let mut layers = Vec::new();
        for (number, &shape) in architecture.layers.iter().enumerate() {
            layers.push(placing.layer(&reader.layer(number)?, architecture, shape).map_err(failed)?);
        }
        let turned = |shape: &super::rope::RotaryShape| {
            let rotary = kernels::Rotary::new(&shape.frequencies, shape.scale, architecture.places);
            let (cos, sin, pairs) = rotary.table();
            let shape = [rotary.places(), pairs];
            Ok((placing.tensor(cos, &shape)?, placing.tensor(sin, &shape)?))
        };
        let rotary = architecture.rotary.iter().map(turned).collect::<Result<_>>().map_err(failed)?;
        let rows = |values: &[f32]| placing.tensor(values, &[values.len() / width, width]).map_err(failed);
        Ok(Self {
            device: device.clone(),
            hidden: architecture.hidden,
            head: architecture.attention.head,
            words: rows(&parts.words)?,
            width,
            positions: parts.positions.as_deref().map(rows).transpose()?.zip(positions),
            embeddings_norm: parts.norm.map(|norm| placing.norm(&norm)).transpose().map_err(failed)?,
            projection: parts.projection.map(|linear| placing.product(&linear)).transpose().map_err(failed)?,
            rotary,
            bias: reader.bias()?,
            scale: f64::from(architecture.attention.scale),
            activation: architecture.feed_forward.activation,
            gated: architecture.feed_forward.gated,
            layers,
            last_norm: reader.last_norm()?.map(|norm| placing.norm(&norm)).transpose().map_err(failed)?,
        })
    }

    /// Runs one model batch and gives the last rows, `[tokens, hidden]`, without the padding.
    pub(crate) fn forward<'r>(
        &self,
        ids: &[u32],
        starts: &[usize],
        room: &'r mut Room,
    ) -> crate::error::Result<&'r [f32]> {
        let longest = starts.windows(2).map(|text| text[1] - text[0]).max().unwrap_or(0);
        room.states.clear();
        if longest > 0 {
            let rows = self.run(ids, starts, longest).map_err(failed)?;
            for (i, text) in starts.windows(2).enumerate() {
                let length = text[1] - text[0];
                room.states.extend_from_slice(&rows[i * longest * self.hidden..][..length * self.hidden]);
            }
        }
        Ok(&room.states)
    }

    fn run(&self, ids: &[u32], starts: &[usize], longest: usize) -> Result<Vec<f32>> {
        let mut states = self.look_up(ids, starts, longest)?;
        for layer in &self.layers {
            let mask = self.mask(layer, starts, longest)?;
            let x = layer.attention_norms.before(&states)?;
            let x = self.attend(layer, &x, &mask)?;
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
        states.flatten_all()?.to_vec1()
    }

    /// The first rows, `[texts, longest, hidden]`; what is padding has the row of token 0.
    fn look_up(&self, ids: &[u32], starts: &[usize], longest: usize) -> Result<Tensor> {
        let texts = starts.len() - 1;
        let (mut padded, mut places) = (vec![0u32; texts * longest], vec![0u32; texts * longest]);
        for (i, text) in starts.windows(2).enumerate() {
            let ids = &ids[text[0]..text[1]];
            padded[i * longest..][..ids.len()].copy_from_slice(ids);
            if let Some((_, positions)) = &self.positions {
                let places = places[i * longest..].iter_mut();
                places.zip(positions.of(ids)).for_each(|(place, row)| *place = row as u32);
            }
        }
        let rows = |table: &Tensor, ids: Vec<u32>| {
            let ids = Tensor::from_vec(ids, texts * longest, &self.device)?;
            table.index_select(&ids, 0)?.reshape((texts, longest, self.width))
        };
        let mut x = rows(&self.words, padded)?;
        if let Some((table, _)) = &self.positions {
            x = (x + rows(table, places)?)?;
        }
        if let Some(norm) = &self.embeddings_norm {
            x = norm.apply(&x)?;
        }
        match &self.projection {
            Some(projection) => projection.apply(&x),
            None => Ok(x),
        }
    }

    /// What is added to the scores, `[texts, heads, longest, longest]`: the bias of the distance, and minus infinity where a
    /// token does not see another.
    fn mask(&self, layer: &Layer, starts: &[usize], longest: usize) -> Result<Tensor> {
        let Reach { before, after } = layer.shape.reach;
        let texts = starts.len() - 1;
        let mut mask = Vec::with_capacity(texts * layer.heads * longest * longest);
        let mut lines = vec![vec![0.0; 2 * longest - 1]; layer.heads];
        if let Some(bias) = &self.bias {
            lines.iter_mut().enumerate().for_each(|(head, line)| bias.write(head, longest - 1, line));
        }
        for text in starts.windows(2) {
            let length = text[1] - text[0];
            for (line, query) in lines.iter().flat_map(|line| (0..longest).map(move |query| (line, query))) {
                mask.extend((0..longest).map(|key| {
                    // Padding sees the first token, so that its row is a number.
                    let seen = key < length && key + before.min(longest) >= query && key <= query.saturating_add(after);
                    let seen = if query < length { seen } else { key == 0 };
                    if seen { line[longest - 1 + key - query] } else { f32::NEG_INFINITY }
                }));
            }
        }
        Tensor::from_vec(mask, (texts, layer.heads, longest, longest), &self.device)
    }

    /// `[texts, longest, heads * head]`
    fn attend(&self, layer: &Layer, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (texts, longest, _) = x.dims3()?;
        let (asking, asked) = (layer.heads * self.head, layer.key_heads * self.head);
        let qkv = layer.qkv.apply(x)?;
        let mut query = qkv.narrow(2, 0, asking)?.contiguous()?;
        let mut key = qkv.narrow(2, asking, asked)?.contiguous()?;
        let value = qkv.narrow(2, asking + asked, asked)?.contiguous()?;
        if let Some((query_norm, key_norm)) = &layer.query_key_norms {
            (query, key) = (query_norm.apply_within(&query)?, key_norm.apply_within(&key)?);
        }
        let split =
            |x: Tensor, heads: usize| x.reshape((texts, longest, heads, self.head))?.transpose(1, 2)?.contiguous();
        let repeat = |x: Tensor| {
            let group = layer.heads / layer.key_heads;
            let x = x.unsqueeze(2)?.broadcast_as((texts, layer.key_heads, group, longest, self.head))?;
            x.contiguous()?.reshape((texts, layer.heads, longest, self.head))
        };
        let (mut query, mut key) = (split(query, layer.heads)?, split(key, layer.key_heads)?);
        if let Some(kind) = layer.shape.rotary {
            (query, key) = (self.turn(kind, &query)?, self.turn(kind, &key)?);
        }
        let (key, value) = (repeat(key)?, repeat(split(value, layer.key_heads)?)?);
        let scores = ((query.matmul(&key.t()?.contiguous()?)? * self.scale)? + mask)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&value)?.transpose(1, 2)?.contiguous()?.reshape((texts, longest, asking))
    }

    /// Turns pairs of a head's values by the token's place.
    fn turn(&self, kind: usize, x: &Tensor) -> Result<Tensor> {
        let (cos, sin) = &self.rotary[kind];
        let (longest, pairs) = (x.dim(2)?, cos.dim(1)?);
        let (cos, sin) = (cos.narrow(0, 0, longest)?, sin.narrow(0, 0, longest)?);
        let (low, high) = (x.narrow(3, 0, pairs)?, x.narrow(3, pairs, pairs)?);
        let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        let rest = x.narrow(3, 2 * pairs, self.head - 2 * pairs)?;
        Tensor::cat(&[turned_low, turned_high, rest], 3)?.contiguous()
    }
}

impl Product {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Norm {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let x = if self.centred { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x.clone() };
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + self.epsilon)?.sqrt()?;
        x.broadcast_div(&scale)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
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

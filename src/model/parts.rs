//! An encoder's parts as its file has them, in f32: what `encoder.rs` packs and `candle.rs` puts on a device.

use super::architecture::{Architecture, Distance};
use super::names::{Names, Norms};
use super::weights::Weights;
use crate::error::Result;
use crate::kernels::{Bias, Norm};

/// A linear layer, or several one under the other, so that they are one product.
pub(super) struct Linear {
    /// `[outputs, inputs]`
    pub(super) weight: Vec<f32>,
    /// `[outputs]`, zero where the model has none.
    pub(super) bias: Vec<f32>,
}

/// The tables and what follows them.
pub(super) struct EmbeddingParts {
    /// `[vocabulary, width]`
    pub(super) words: Vec<f32>,
    /// `[rows, width]`, the row of token type 0 already added.
    pub(super) positions: Option<Vec<f32>>,
    pub(super) norm: Option<Norm>,
    pub(super) projection: Option<Linear>,
}

/// One layer.
pub(super) struct LayerParts {
    /// Queries, keys and values, one under the other.
    pub(super) qkv: Linear,
    /// Of queries and of keys.
    pub(super) query_key_norms: Option<(Norm, Norm)>,
    pub(super) out: Linear,
    pub(super) attention_norms: HalfNorms,
    /// The gate first, where there is one.
    pub(super) wide: Linear,
    pub(super) narrow: Linear,
    pub(super) feed_forward_norms: HalfNorms,
}

/// The norms around a half of a layer, see [`Norms`].
#[derive(Debug, Clone)]
pub(super) struct HalfNorms {
    pub(super) before: Option<Norm>,
    pub(super) inside: Option<Norm>,
    pub(super) twice: bool,
    pub(super) after: Option<Norm>,
}

/// Reads the parts of one model.
pub(super) struct Reader<'a> {
    architecture: &'a Architecture,
    weights: &'a Weights,
    /// What this file calls its tensors.
    names: &'static Names,
    /// What comes before every name: `bert.` in checkpoints that had a task head, for instance.
    prefix: String,
}

impl<'a> Reader<'a> {
    /// Finds out what the file calls its tensors.
    pub(super) fn new(architecture: &'a Architecture, weights: &'a Weights) -> Self {
        let found = architecture.names.iter().find_map(|names| {
            let prefix = names.words.iter().find_map(|words| weights.prefix_of(words))?;
            // All spellings of a family may call the words alike: the layers tell them apart.
            let tells = |part: &&'static str| weights.has(&format!("{prefix}{}0.{part}.weight", names.layer));
            let norms = names.query_key_norms.map(|norms| norms.query);
            let fits =
                architecture.layers.is_empty() || names.qkv.iter().chain(names.wide).chain(norms.iter()).all(tells);
            fits.then_some((names, prefix))
        });
        // Where nothing fits, the error is that the first spelling's tensors are missing.
        let (names, prefix) = found.unwrap_or_else(|| {
            let names = architecture.names.last().expect("an architecture has names");
            (names, names.words.iter().find_map(|words| weights.prefix_of(words)).unwrap_or_default())
        });
        Self { architecture, weights, names, prefix }
    }

    pub(super) fn embeddings(&self) -> Result<EmbeddingParts> {
        let shape = &self.architecture.embeddings;
        let (width, hidden) = (shape.width, self.architecture.hidden);
        let table = |name: &str, rows| self.weights.tensor(&format!("{}{name}", self.prefix), &[rows, width]);
        let types = match shape.types {
            0 => vec![0.0; width],
            rows => table(self.names.types, rows)?,
        };
        let mut words = self.words(width)?;
        let mut positions = shape.positions.map(|positions| table(self.names.positions, positions.rows)).transpose()?;
        for row in positions.as_mut().unwrap_or(&mut words).chunks_exact_mut(width) {
            row.iter_mut().zip(&types).for_each(|(x, t)| *x += t);
        }
        let projection = (width != hidden).then(|| self.linear("", &[self.names.projection], &[hidden], width, true));
        Ok(EmbeddingParts {
            words,
            positions,
            norm: self.names.embeddings_norm.map(|name| self.norm(name, width)).transpose()?,
            projection: projection.transpose()?,
        })
    }

    /// The table of words, each row scaled as the model scales it.
    fn words(&self, width: usize) -> Result<Vec<f32>> {
        if self.architecture.layers.is_empty() {
            return self.weights.static_words();
        }
        let full = |name: &&str| format!("{}{name}", self.prefix);
        let named = self.names.words.iter().map(full).find(|name| self.weights.has(name));
        let name = named.unwrap_or_else(|| full(&self.names.words[0]));
        let mut words = self.weights.table(&name, &[self.architecture.vocabulary, width])?;
        let scale = self.architecture.embeddings.scale;
        if scale != 1.0 {
            words.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(words)
    }

    pub(super) fn layer(&self, number: usize) -> Result<LayerParts> {
        let Architecture { hidden, attention, feed_forward, layers, .. } = self.architecture;
        let start = format!("{}{number}.", self.names.layer);
        let (asking, asked) = (attention.heads * attention.head, attention.key_heads * attention.head);
        let query_key_norms = self.names.query_key_norms.map(|norms| {
            let (query, key) = if norms.by_head { (attention.head, attention.head) } else { (asking, asked) };
            Ok((
                self.norm(&format!("{start}{}", norms.query), query)?,
                self.norm(&format!("{start}{}", norms.key), key)?,
            ))
        });
        let width = feed_forward.width;
        let wide_outputs: &[usize] = if feed_forward.gated { &[width, width] } else { &[width] };
        let mut wide = self.linear(&start, self.names.wide, wide_outputs, *hidden, feed_forward.wide_bias)?;
        if self.names.gate_last {
            wide.weight.rotate_left(width * hidden);
            wide.bias.rotate_left(width);
        }
        Ok(LayerParts {
            qkv: self.linear(&start, self.names.qkv, &[asking, asked, asked], *hidden, attention.bias)?,
            query_key_norms: query_key_norms.transpose()?,
            out: self.linear(&start, &[self.names.out], &[*hidden], asking, attention.out_bias)?,
            attention_norms: self.half(&start, self.names.attention_norms, layers[number].bare)?,
            wide,
            narrow: self.linear(&start, &[self.names.narrow], &[*hidden], width, feed_forward.narrow_bias)?,
            feed_forward_norms: self.half(&start, self.names.feed_forward_norms, false)?,
        })
    }

    /// The norm after the last layer.
    pub(super) fn last_norm(&self) -> Result<Option<Norm>> {
        let name = self.names.last_norm.filter(|_| !self.architecture.layers.is_empty());
        name.map(|name| self.norm(name, self.architecture.hidden)).transpose()
    }

    /// What attention adds to a score for a distance.
    pub(super) fn bias(&self) -> Result<Option<Bias>> {
        let heads = self.architecture.attention.heads;
        match &self.architecture.attention.distance {
            Distance::None => Ok(None),
            Distance::Slopes(slopes) => Ok(Some(Bias::Slopes(slopes.clone()))),
            &Distance::Buckets { rows, buckets, farthest } => {
                let table = self.weights.tensor(&format!("{}{}", self.prefix, self.names.buckets), &[rows, heads])?;
                let last = farthest as isize;
                let value = |head: usize| {
                    let table = &table;
                    (-last..=last).map(move |distance| table[bucket(distance, buckets, farthest) * heads + head])
                };
                Ok(Some(Bias::Table { farthest, values: (0..heads).flat_map(value).collect() }))
            }
        }
    }

    /// A linear layer of `outputs` one under the other, which the file has in one tensor or in several.
    fn linear(&self, start: &str, names: &[&str], outputs: &[usize], inputs: usize, bias: bool) -> Result<Linear> {
        let total = outputs.iter().sum();
        let parts = if names.len() == 1 { vec![total] } else { outputs.to_vec() };
        let mut linear = Linear { weight: Vec::new(), bias: Vec::new() };
        for (name, outputs) in names.iter().zip(parts) {
            let name = format!("{}{start}{name}", self.prefix);
            linear.weight.extend(self.weights.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            if bias {
                linear.bias.extend(self.weights.tensor(&format!("{name}.bias"), &[outputs])?);
            }
        }
        linear.bias.resize(total, 0.0);
        Ok(linear)
    }

    fn half(&self, start: &str, names: Norms, bare: bool) -> Result<HalfNorms> {
        let hidden = self.architecture.hidden;
        let norm = |name: Option<&str>| name.map(|name| self.norm(&format!("{start}{name}"), hidden)).transpose();
        let before = names.before.filter(|_| !bare);
        let (before, inside, after) = (norm(before)?, norm(names.inside)?, norm(names.after)?);
        Ok(HalfNorms { before, inside, twice: names.twice, after })
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let shape = self.architecture.norm;
        let tensor = |part: &str| self.weights.tensor(&format!("{}{name}.{part}", self.prefix), &[width]);
        let mut weight = tensor("weight")?;
        if shape.less_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        let bias = if shape.bias { tensor("bias")? } else { vec![0.0; width] };
        Ok(Norm { centred: shape.centred, weight, bias, epsilon: shape.epsilon })
    }
}

/// The row of a table of distances: those after a token in the upper half; near ones have a row each, farther ones share
/// rows that grow with the logarithm.
fn bucket(distance: isize, buckets: usize, farthest: usize) -> usize {
    let half = buckets / 2;
    let after = if distance > 0 { half } else { 0 };
    let (distance, exact) = (distance.unsigned_abs(), half / 2);
    if distance < exact {
        return after + distance;
    }
    // In f32, step by step as transformers computes it: at a power of 2 the last bit decides.
    let steps = (distance as f32 / exact as f32).ln() / (farthest as f64 / exact as f64).ln() as f32;
    let far = exact + (steps * (half - exact) as f32) as usize;
    after + far.min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_exact_near_by_and_shared_far_away() {
        let row = |distance| bucket(distance, 32, 128);
        assert_eq!([0, -1, -7, -8, -11, -12, -16].map(row), [0, 1, 7, 8, 8, 9, 10]);
        assert_eq!([1, 7, 8, 64, 127, 128, 5000].map(row), [17, 23, 24, 30, 31, 31, 31]);
    }
}

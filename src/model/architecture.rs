//! What an encoder is made of, as data: one description for every architecture.
//!
//! `families.rs` fills it in from `config.json`, `encoder.rs` and `candle.rs` run it. A new architecture is a new way to
//! fill this in; only a new *part* is a new piece of code.

use super::names::Names;
use super::rope::RotaryShape;
use crate::kernels::{Activation, Reach};

/// An encoder: table of words, layers, last norm.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// `model_type`, or `static`.
    pub(crate) name: String,
    /// Rows of the table of words.
    pub(crate) vocabulary: usize,
    /// Width of a token's row between the layers.
    pub(crate) hidden: usize,
    /// Before the first layer.
    pub(crate) embeddings: Embeddings,
    /// What every norm of the model is.
    pub(crate) norm: NormShape,
    /// What every layer attends with.
    pub(crate) attention: AttentionShape,
    /// What every layer has after attention.
    pub(crate) feed_forward: FeedForward,
    /// Where layers differ: one entry per layer.
    pub(crate) layers: Vec<LayerShape>,
    /// The kinds of rotary positions that the layers choose from.
    pub(crate) rotary: Vec<RotaryShape>,
    /// Most tokens of a text.
    pub(crate) positions: usize,
    /// What the tensors are called, where checkpoints have several ways: the first that the file has counts.
    pub(crate) names: &'static [Names],
}

impl Architecture {
    /// Whether its positions are all it has: a table, or positions that change beyond them.
    pub(super) fn ends(&self) -> bool {
        self.embeddings.positions.is_some() || self.rotary.iter().any(|rotary| !rotary.holds_beyond)
    }
}

/// Tokens -> the first rows.
#[derive(Debug)]
pub(crate) struct Embeddings {
    /// Width of the table of words; where it is not the hidden width, a projection follows.
    pub(crate) width: usize,
    /// What a word's row is multiplied with.
    pub(crate) scale: f32,
    /// Rows of the table of token types, 0 for none. A text alone has type 0 throughout.
    pub(crate) types: usize,
    /// Learned positions, if the model has them.
    pub(crate) positions: Option<Positions>,
}

/// A table of positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Positions {
    /// Rows of the table.
    pub(crate) rows: usize,
    /// The row of a text's first token.
    pub(crate) first: usize,
    /// A token that has the row before the first and is not counted, wherever it comes.
    pub(crate) uncounted: Option<u32>,
}

/// One kind of normalisation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormShape {
    /// Layer normalisation; else the root mean square.
    pub(crate) centred: bool,
    /// Whether there is a bias.
    pub(crate) bias: bool,
    /// Whether the file has the weight less 1.
    pub(crate) less_one: bool,
    pub(crate) epsilon: f32,
}

/// Heads and what they look at.
#[derive(Debug, Clone)]
pub(crate) struct AttentionShape {
    pub(crate) heads: usize,
    /// Heads of keys and values.
    pub(crate) key_heads: usize,
    /// Width of a head.
    pub(crate) head: usize,
    /// What the products of queries and keys are multiplied with.
    pub(crate) scale: f32,
    /// Whether queries, keys and values have a bias.
    pub(crate) bias: bool,
    /// Whether the product after attention has one.
    pub(crate) out_bias: bool,
    /// What is added to a score for the distance of its tokens.
    pub(crate) distance: Distance,
}

/// What is added to a score for the distance of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Distance {
    None,
    /// ALiBi: a slope per head.
    Slopes(Vec<f32>),
    /// A learned table `[rows, heads]`, of which distances share rows: half of `buckets` for each direction, wider ones the
    /// farther, up to `farthest`.
    Buckets {
        rows: usize,
        buckets: usize,
        farthest: usize,
    },
}

/// The two products after attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FeedForward {
    /// Width between the two.
    pub(crate) width: usize,
    pub(crate) activation: Activation,
    /// Whether the first is two: what is activated lets the other through.
    pub(crate) gated: bool,
    /// Whether the first has a bias.
    pub(crate) wide_bias: bool,
    /// Whether the second has one.
    pub(crate) narrow_bias: bool,
}

/// What one layer has of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerShape {
    pub(crate) reach: Reach,
    /// Which of the model's rotary positions, if any.
    pub(crate) rotary: Option<usize>,
    /// Whether attention reads what comes in without a norm before it.
    pub(crate) bare: bool,
}

//! What a device has to do: a model batch in, finished vectors out.

use std::fmt::Debug;

use super::batch::FlatBatch;
use super::scratch::Scratch;
use crate::error::Result;

/// A model's arithmetic on one device: encoder, pooling and the steps after it.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Runs one model batch and gives `[texts, dimensions]`.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`](crate::Error::Cancelled) where `pass.go_on` says no, and what the device says.
    fn vectors(&self, batch: &FlatBatch, pass: &Pass<'_>, scratch: &mut Scratch) -> Result<Vec<f32>>;

    /// Bytes of the weights in this machine's memory.
    fn size(&self) -> usize;

    /// The batches that it runs best.
    fn shape(&self) -> BatchShape;

    /// Tokens of a batch that it runs best, where no setting says another number.
    fn batch_tokens(&self) -> usize;
}

/// Tokens of a batch on the CPU: the activations of a small model stay in a core's second-level cache.
pub(crate) const CPU_BATCH_TOKENS: usize = 512;

/// How a batch is run.
pub(crate) struct Pass<'a> {
    /// First tokens of each text that are read and not pooled.
    pub(crate) unpooled: usize,
    /// Length of a vector: all of the model's, or the first so many.
    pub(crate) dimensions: usize,
    /// Asked between layers; when it says no, the pass stops.
    pub(crate) go_on: &'a dyn Fn() -> bool,
}

/// What a device does with a batch, and so which texts should share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchShape {
    /// Takes the tokens as they are: any texts may share a batch.
    Flat,
    /// Pads every text to the longest: texts of like lengths should share a batch.
    #[cfg_attr(not(any(test, feature = "candle")), expect(dead_code, reason = "no device is built in that pads"))]
    Rectangle,
}

impl BatchShape {
    /// Texts of one class may share a batch: so that at most half of a rectangle is padding, the power of two above their
    /// length.
    pub(crate) fn class(self, tokens: usize) -> u32 {
        match self {
            Self::Flat => 0,
            Self::Rectangle => tokens.next_power_of_two().trailing_zeros(),
        }
    }

    /// Tokens that a device computes for two batches in one pass; `None` where their texts should not share one.
    pub(crate) fn tokens_together(self, a: &FlatBatch, b: &FlatBatch) -> Option<usize> {
        match self {
            Self::Flat => Some(a.tokens() + b.tokens()),
            Self::Rectangle => {
                let longest = a.longest().max(b.longest());
                let is_one_class = [a, b].iter().all(|batch| self.class(batch.longest()) == self.class(longest));
                is_one_class.then(|| (a.texts() + b.texts()) * longest.next_power_of_two())
            }
        }
    }

    /// Tokens that a device computes for a batch with one more text of so many tokens.
    pub(crate) fn tokens_with(self, batch: &FlatBatch, tokens: usize) -> usize {
        match self {
            Self::Flat => batch.tokens() + tokens,
            // The class bounds the longest, without a look at each text.
            Self::Rectangle => (batch.texts() + 1) * tokens.next_power_of_two(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectangle_is_at_most_half_padding_and_within_its_budget() {
        let shape = BatchShape::Rectangle;
        let batch: FlatBatch = [[0; 5].as_slice(), &[0; 8]].into_iter().collect();
        assert_eq!([1, 2, 3, 4, 5, 8, 9].map(|tokens| shape.class(tokens)), [0, 1, 2, 2, 3, 3, 4]);
        assert_eq!((shape.tokens_with(&batch, 7), BatchShape::Flat.tokens_with(&batch, 7)), (24, 20));
        assert!([1, 100, 5000].iter().all(|&tokens| BatchShape::Flat.class(tokens) == 0));
        let others: [FlatBatch; 2] =
            [[[0; 6].as_slice()].into_iter().collect(), [[0; 9].as_slice()].into_iter().collect()];
        assert_eq!(others.each_ref().map(|other| shape.tokens_together(&batch, other)), [Some(24), None]);
        assert_eq!(
            others.each_ref().map(|other| BatchShape::Flat.tokens_together(&batch, other)),
            [Some(19), Some(22)]
        );
    }
}

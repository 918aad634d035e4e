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

    /// Whether a lone text is done sooner where threads help that have nothing else to do.
    fn gains_by_help(&self) -> bool;
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
    /// Texts of one class may share a batch: so that a fifth of a rectangle is padding at most, the length that theirs is
    /// rounded up to.
    pub(crate) fn class(self, tokens: usize) -> u32 {
        match self {
            Self::Flat => 0,
            Self::Rectangle => rounded(tokens) as u32,
        }
    }

    /// Tokens that a device computes for two batches in one pass; `None` where their texts should not share one: where more
    /// than half of it would be padding.
    pub(crate) fn tokens_together(self, a: &FlatBatch, b: &FlatBatch) -> Option<usize> {
        let tokens = a.tokens() + b.tokens();
        match self {
            Self::Flat => Some(tokens),
            Self::Rectangle => {
                let rectangle = (a.texts() + b.texts()) * rounded(a.longest().max(b.longest()));
                (rectangle <= 2 * tokens).then_some(rectangle)
            }
        }
    }

    /// Tokens that a device computes for a batch with one more text of so many tokens.
    pub(crate) fn tokens_with(self, batch: &FlatBatch, tokens: usize) -> usize {
        match self {
            Self::Flat => batch.tokens() + tokens,
            // The class bounds the longest, without a look at each text.
            Self::Rectangle => (batch.texts() + 1) * rounded(tokens),
        }
    }
}

/// The next of four lengths to a power of two; short ones are what they are.
fn rounded(tokens: usize) -> usize {
    tokens.next_multiple_of((tokens.next_power_of_two() / 8).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectangle_has_little_padding_and_stays_within_its_budget() {
        let shape = BatchShape::Rectangle;
        let batch: FlatBatch = [[0; 5].as_slice(), &[0; 5]].into_iter().collect();
        assert_eq!([0, 1, 4, 5, 8, 9, 16, 17, 100, 256].map(|n| shape.class(n)), [0, 1, 4, 5, 8, 10, 16, 20, 112, 256]);
        for tokens in 1..3000 {
            let padded = shape.class(tokens) as usize;
            assert!(padded >= tokens && (padded - tokens) * 5 < padded, "{tokens} in {padded}");
            assert!(shape.class(tokens) <= shape.class(tokens + 1));
        }
        assert_eq!((shape.tokens_with(&batch, 9), BatchShape::Flat.tokens_with(&batch, 9)), (30, 19));
        let of = |tokens: usize| -> FlatBatch { [vec![0; tokens].as_slice()].into_iter().collect() };
        let others = [of(6), of(20), of(200)];
        assert_eq!(others.each_ref().map(|other| shape.tokens_together(&batch, other)), [Some(18), Some(60), None]);
        let together = others.each_ref().map(|other| BatchShape::Flat.tokens_together(&batch, other));
        assert_eq!(together, [Some(16), Some(30), Some(210)]);
    }
}

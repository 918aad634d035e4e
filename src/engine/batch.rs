//! Tokens -> model batches under a token budget.
//!
//! Texts stay in the order in which they came.

use crate::cache::Key;
use crate::model::{BatchShape, FlatBatch};

/// The texts of one forward pass, and what becomes of their vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    /// What the model takes.
    pub(super) flat: FlatBatch,
    /// Which texts were cut.
    pub(super) cut: Vec<bool>,
    /// Under what the vectors are kept, where they are: of every text or of none.
    pub(super) keys: Vec<Key>,
}

/// How large a model batch may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most tokens; a longer text is alone in its batch.
    pub(super) tokens: usize,
    /// Most texts, 0 for any number.
    pub(super) texts: usize,
    /// What of a batch the device computes.
    pub(super) shape: BatchShape,
}

impl Limits {
    /// Whether two batches may share a pass.
    pub(super) fn allow(self, a: &FlatBatch, b: &FlatBatch) -> bool {
        let fits = self.shape.tokens_together(a, b).is_some_and(|tokens| tokens <= self.tokens);
        fits && (self.texts == 0 || a.texts() + b.texts() <= self.texts)
    }
}

impl Batch {
    /// A batch without texts.
    pub(super) fn new() -> Self {
        Self { flat: FlatBatch::new(), cut: Vec::new(), keys: Vec::new() }
    }

    /// Number of texts.
    pub(super) fn texts(&self) -> usize {
        self.flat.texts()
    }

    /// Number of texts that were cut.
    pub(super) fn truncated(&self) -> usize {
        self.cut.iter().filter(|cut| **cut).count()
    }

    /// Whether a text of so many tokens may join.
    pub(super) fn has_room(&self, limits: Limits, tokens: usize) -> bool {
        let fits = limits.shape.tokens_with(&self.flat, tokens) <= limits.tokens
            && (limits.texts == 0 || self.texts() < limits.texts);
        self.texts() == 0 || fits
    }

    /// Adds a text.
    pub(super) fn push(&mut self, ids: &[u32], truncated: bool, key: Option<Key>) {
        self.flat.push(ids);
        self.cut.push(truncated);
        self.keys.extend(key);
    }
}

/// Texts whose vectors may be kept. They are held, because one whose vector is not right after all has to be computed.
#[derive(Debug)]
pub(super) struct KeptBatch {
    /// End to end.
    texts: String,
    /// Where each text ends.
    ends: Vec<usize>,
    pub(super) keys: Vec<Key>,
}

impl KeptBatch {
    /// Texts that are read at once.
    const MOST_TEXTS: usize = 256;
    /// Bytes of their texts.
    const MOST_BYTES: usize = 1 << 20;

    /// A batch without texts.
    pub(super) fn new() -> Self {
        Self { texts: String::new(), ends: Vec::new(), keys: Vec::new() }
    }

    /// Whether another text may join.
    pub(super) fn has_room(&self) -> bool {
        self.keys.len() < Self::MOST_TEXTS && self.texts.len() < Self::MOST_BYTES
    }

    /// Adds a text.
    pub(super) fn push(&mut self, text: &str, key: Key) {
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
        self.keys.push(key);
    }

    /// A text by its number.
    pub(super) fn text(&self, at: usize) -> &str {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.texts[start..self.ends[at]]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn batches_hold_every_text_in_order_within_the_budget(
            texts in prop::collection::vec((prop::collection::vec(0u32..9, 1..30), any::<bool>()), 0..60),
            tokens in 1usize..60,
            most_texts in 0usize..5,
        ) {
            let limits = Limits { tokens, texts: most_texts, shape: BatchShape::Flat };
            let mut batches = vec![Batch::new()];
            for (ids, cut) in &texts {
                if !batches.last().expect("one").has_room(limits, ids.len()) {
                    batches.push(Batch::new());
                }
                batches.last_mut().expect("one").push(ids, *cut, None);
            }
            let mut next = 0;
            for batch in &batches {
                let first = next;
                for ids in batch.flat.each() {
                    prop_assert_eq!(ids, &texts[next].0[..]);
                    next += 1;
                }
                prop_assert_eq!(batch.truncated(), texts[first..next].iter().filter(|(_, cut)| *cut).count());
                prop_assert!(batch.flat.tokens() <= tokens || batch.texts() == 1);
                prop_assert!(most_texts == 0 || batch.texts() <= most_texts);
            }
            prop_assert_eq!(next, texts.len());
            // No batch could have taken the first text of the next one.
            for pair in batches.windows(2) {
                let fits = pair[0].flat.tokens() + pair[1].flat.starts()[1] <= tokens;
                prop_assert!(!fits || pair[0].texts() == most_texts);
            }
        }
    }
}

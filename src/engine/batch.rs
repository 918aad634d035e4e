//! Tokens -> model batches under a token budget.
//!
//! A model batch is flat: the tokens of its texts end to end, and where each text starts. Texts stay in order; nothing
//! is sorted, because nothing is padded.

/// What one forward pass takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    /// Number of the first text.
    pub(super) first: usize,
    /// Tokens of every text, end to end.
    pub(super) ids: Vec<u32>,
    /// Text `i` is `ids[starts[i]..starts[i + 1]]`.
    pub(super) starts: Vec<usize>,
    /// Texts that were cut.
    pub(super) truncated: usize,
}

impl Batch {
    fn new(first: usize) -> Self {
        Self { first, ids: Vec::new(), starts: vec![0], truncated: 0 }
    }

    /// Number of texts.
    pub(super) fn texts(&self) -> usize {
        self.starts.len() - 1
    }
}

/// Cuts a sequence of texts into model batches.
#[derive(Debug)]
pub(super) struct Batcher {
    batch: Batch,
    most_tokens: usize,
    most_texts: usize,
}

impl Batcher {
    /// At most `batch_tokens` tokens and `batch_size` texts (0: any number) per batch; a longer text is alone in its own.
    pub(super) fn new(batch_tokens: usize, batch_size: usize) -> Self {
        let most_texts = if batch_size == 0 { usize::MAX } else { batch_size };
        Self { batch: Batch::new(0), most_tokens: batch_tokens, most_texts }
    }

    /// Adds the next text, and gives the batch before it if the text did not fit any more.
    pub(super) fn push(&mut self, ids: &[u32], truncated: bool) -> Option<Batch> {
        let full = self.batch.ids.len() + ids.len() > self.most_tokens || self.batch.texts() == self.most_texts;
        let before = if full && self.batch.texts() > 0 {
            let next = Batch::new(self.batch.first + self.batch.texts());
            Some(std::mem::replace(&mut self.batch, next))
        } else {
            None
        };
        self.batch.ids.extend_from_slice(ids);
        self.batch.starts.push(self.batch.ids.len());
        self.batch.truncated += usize::from(truncated);
        before
    }

    /// The last batch, if there is anything in it.
    pub(super) fn finish(self) -> Option<Batch> {
        (self.batch.texts() > 0).then_some(self.batch)
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
            most_tokens in 1usize..60,
            batch_size in 0usize..5,
        ) {
            let mut batcher = Batcher::new(most_tokens, batch_size);
            let mut batches: Vec<_> = texts.iter().filter_map(|(ids, cut)| batcher.push(ids, *cut)).collect();
            batches.extend(batcher.finish());
            let mut next = 0;
            for batch in &batches {
                prop_assert_eq!(batch.first, next);
                for bounds in batch.starts.windows(2) {
                    prop_assert_eq!(&batch.ids[bounds[0]..bounds[1]], &texts[next].0[..]);
                    next += 1;
                }
                let cut = texts[batch.first..next].iter().filter(|(_, cut)| *cut).count();
                prop_assert_eq!(batch.truncated, cut);
                prop_assert!(batch.ids.len() <= most_tokens || batch.texts() == 1);
                prop_assert!(batch_size == 0 || batch.texts() <= batch_size);
            }
            prop_assert_eq!(next, texts.len());
            // No batch could have taken the first text of the next one.
            for pair in batches.windows(2) {
                let fits = pair[0].ids.len() + pair[1].starts[1] <= most_tokens;
                prop_assert!(!fits || pair[0].texts() == batch_size);
            }
        }
    }
}

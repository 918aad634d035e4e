//! What a worker keeps between model batches.

use std::sync::Arc;

use crate::kernels::{AttentionScratch, Converted, Team};

/// Activations of one worker, kept from batch to batch so that a warm worker allocates nothing but the vectors it gives.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// `[tokens, hidden]`: the rows that go from layer to layer.
    pub(super) states: Vec<f32>,
    /// `[tokens, hidden]`: the same rows after a norm that comes before a half of a layer.
    pub(super) normed: Vec<f32>,
    /// `[tokens, (heads + 2 * key heads) * head]`: queries, keys and values side by side.
    pub(super) qkv: Vec<f32>,
    /// `[tokens, heads * head]`
    pub(super) context: Vec<f32>,
    /// `[tokens, hidden]`: the rows between the halves of a layer.
    pub(super) summed: Vec<f32>,
    /// `[FEED_FORWARD_ROWS, width of the feed-forward part]`
    pub(super) wide: Vec<f32>,
    pub(super) attention: AttentionScratch,
    pub(super) converted: Converted,
    /// Who shares the products of this pass, while they have nothing else to do.
    pub(crate) team: Option<Arc<Team>>,
}

impl Scratch {
    /// Tokens beyond which a batch was one long text: what it needed is given back.
    const MOST_KEPT: usize = 4096;

    /// Frees what only the last batch needed.
    pub(super) fn shrink(&mut self, tokens: usize) {
        if tokens > Self::MOST_KEPT {
            *self = Self { team: self.team.take(), ..Self::default() };
        }
    }
}

#[cfg(test)]
impl Scratch {
    /// Where the largest buffers lie and how long they may grow: the same as long as nothing is allocated again.
    pub(super) fn allocated(&self) -> Vec<(*const f32, usize)> {
        let buffers = [&self.states, &self.qkv, &self.context, &self.summed, &self.wide];
        buffers.into_iter().map(|buffer| (buffer.as_ptr(), buffer.capacity())).collect()
    }
}

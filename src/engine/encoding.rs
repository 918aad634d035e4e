//! What the model batches of a stream need to become vectors, wherever they are.

use std::sync::{Arc, OnceLock};

use super::batch::{Batch, Limits};
use super::call::{Call, Machine};
use super::counters::Counters;
use super::running::Running;
use crate::cache::Space;
use crate::error::{Error, Result};
use crate::model::{Found, Model, Pass, Scratch};

/// One call of a query on this machine: model, limits, where its vectors are kept, and who counts.
pub(super) struct Encoding {
    pub(super) running: Arc<Running>,
    pub(super) call: Call,
    pub(super) machine: Machine,
    /// The model under whose fingerprint vectors are kept, and no other.
    pub(super) found: Arc<Found>,
    /// With the first text whose vector has to be computed.
    pub(super) loaded: OnceLock<Loaded>,
    /// Where vectors are kept, if they are.
    pub(super) space: Option<Arc<Space>>,
    pub(super) prompt: String,
    pub(super) max_tokens: usize,
    pub(super) dimensions: usize,
    /// The session's, for this model, and the stream's own.
    pub(super) counters: [Arc<Counters>; 2],
}

impl Encoding {
    /// The model, loaded now if nobody needed it before.
    pub(super) fn loaded(&self) -> Result<&Loaded> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = Loaded::new(&self.call, &self.machine, &self.found, self.max_tokens)?;
        Ok(self.loaded.get_or_init(|| loaded))
    }

    /// One forward pass, `[texts, dimensions]`. What comes out is kept.
    pub(super) fn encode(&self, batch: &Batch, scratch: &mut Scratch, go_on: &dyn Fn() -> bool) -> Result<Vec<f32>> {
        let Loaded { model, unpooled, .. } = self.loaded()?;
        let pass = Pass { unpooled: *unpooled, dimensions: self.dimensions, go_on };
        let vectors = model.encode(&batch.flat, &pass, scratch)?;
        if let Some(space) = &self.space {
            space.put(&batch.keys, &batch.cut, &vectors);
        }
        Ok(vectors)
    }

    pub(super) fn count(&self, count: impl Fn(&Counters)) {
        self.counters.iter().for_each(|counters| count(counters));
    }
}

impl Drop for Encoding {
    fn drop(&mut self) {
        // The query is over: from here on a loss of power costs nothing of it.
        if let Some(space) = &self.space {
            space.sync();
        }
    }
}

/// A model that is in memory as long as a query uses it.
pub(super) struct Loaded {
    pub(super) model: Arc<Model>,
    /// Tokens of the prompt, where the model does not pool them.
    unpooled: usize,
    pub(super) limits: Limits,
}

impl Loaded {
    pub(super) fn new(call: &Call, machine: &Machine, found: &Found, max_tokens: usize) -> Result<Self> {
        let model = machine.load(call, found)?;
        let least = model.special_tokens() + 1;
        if (1..least).contains(&call.max_tokens) {
            return Err(Error::Setting(format!(
                "embed.max_tokens: {} leaves no room for text beside the special tokens of model \"{}\"; at least {least}",
                call.max_tokens, model.description.name
            )));
        }
        let options = &machine.options;
        let limits = Limits { tokens: options.batch_tokens, texts: options.batch_size, shape: model.shape() };
        Ok(Self { unpooled: model.unpooled(call.role, max_tokens)?, model, limits })
    }
}

//! What the model batches of a stream need to become vectors, wherever they are.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::batch::{Batch, KeptBatch, Limits};
use super::call::{Call, Machine};
use super::counters::Counters;
use super::running::Running;
use crate::cache::{Kept, Space};
use crate::error::{Error, Result};
use crate::model::{Allowance, FlatBatch, Found, Model, Pass, Scratch, Tokens};

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

    /// text -> tokens, cut to the limit where that is allowed, and whether it was.
    pub(super) fn tokenize(&self, text: &str) -> Result<(Tokens, bool)> {
        let Self { running, prompt, max_tokens, call, machine, .. } = self;
        let model = &self.loaded()?.model;
        let start = Instant::now();
        let go_on = || running.go_on();
        let allowance = Allowance { memory: machine.memory(), go_on: &go_on };
        let tokens = model.tokenize(prompt, text, *max_tokens, &allowance)?;
        self.count(|counters| counters.tokenized(start.elapsed()));
        let is_cut = tokens.full_length > *max_tokens;
        if is_cut && !call.truncate {
            return Err(too_long(text, model.count_tokens(prompt, text, &allowance)?, *max_tokens));
        }
        Ok((tokens, is_cut))
    }

    /// One forward pass, `[texts, dimensions]`, whoever's texts they are.
    pub(super) fn pass(&self, texts: &FlatBatch, scratch: &mut Scratch, go_on: &dyn Fn() -> bool) -> Result<Vec<f32>> {
        let Loaded { model, unpooled, .. } = self.loaded()?;
        model.encode(texts, &Pass { unpooled: *unpooled, dimensions: self.dimensions, go_on }, scratch)
    }

    /// The vectors of a batch are there, after so much of a pass: they are kept, and counted. Of a pass that several batches of a
    /// session share the session counts one.
    pub(super) fn done(&self, batch: &Batch, vectors: &[f32], time: Duration, is_first_of_session: bool) {
        if let Some(space) = &self.space {
            space.put(&batch.keys, &batch.cut, vectors, &self.machine.access);
        }
        let [session, stream] = &self.counters;
        session.texts(batch, time);
        stream.texts(batch, time);
        stream.pass();
        if is_first_of_session {
            session.pass();
        }
    }

    /// Whether texts of both may share a pass: with one model, and what else decides its vectors.
    pub(super) fn shares_passes_with(&self, other: &Self) -> bool {
        let (Some(a), Some(b)) = (self.loaded.get(), other.loaded.get()) else { return false };
        Arc::ptr_eq(&a.model, &b.model) && (a.unpooled, self.dimensions) == (b.unpooled, other.dimensions)
    }

    /// Whether this is of the same session, as far as it counts.
    pub(super) fn counts_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counters[0], &other.counters[0])
    }

    /// Vectors that are kept, `[texts, dimensions]`, computed where they are not right.
    pub(super) fn read(&self, batch: &KeptBatch, scratch: &mut Scratch, go_on: &dyn Fn() -> bool) -> Result<Vec<f32>> {
        let Some(space) = &self.space else { return Ok(Vec::new()) };
        let Kept { mut vectors, cut } = space.read(&batch.keys);
        let bytes = self.dimensions * size_of::<f32>();
        self.count(|counters| cut.iter().flatten().for_each(|&is_cut| counters.cached(bytes, is_cut)));
        let (mut rows, mut computed) = (Vec::new(), Batch::new());
        for row in (0..cut.len()).filter(|&row| cut[row].is_none()) {
            let (tokens, is_cut) = self.tokenize(batch.text(row))?;
            if !computed.has_room(self.loaded()?.limits, tokens.ids.len()) {
                self.fill(&mut vectors, &rows, &computed, scratch, go_on)?;
                (rows, computed) = (Vec::new(), Batch::new());
            }
            rows.push(row);
            computed.push(&tokens.ids, is_cut, Some(batch.keys[row]));
        }
        self.fill(&mut vectors, &rows, &computed, scratch, go_on)?;
        Ok(vectors)
    }

    /// Computes the vectors of some rows.
    fn fill(
        &self,
        vectors: &mut [f32],
        rows: &[usize],
        batch: &Batch,
        scratch: &mut Scratch,
        go_on: &dyn Fn() -> bool,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let computed = self.pass(&batch.flat, scratch, go_on)?;
        self.done(batch, &computed, start.elapsed(), true);
        for (&row, vector) in rows.iter().zip(computed.chunks_exact(self.dimensions)) {
            vectors[row * self.dimensions..][..self.dimensions].copy_from_slice(vector);
        }
        Ok(())
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
            let (got, name) = (call.max_tokens, &model.description.name);
            let message = format!(
                "embed.max_tokens: {got} leaves no room for text beside the special tokens of model \"{name}\"; at least {least}"
            );
            return Err(Error::Limit { setting: "embed.max_tokens", got, limit: least, message });
        }
        let options = &machine.options;
        let tokens = if options.batch_tokens == 0 { model.batch_tokens() } else { options.batch_tokens };
        let limits = Limits { tokens, texts: options.batch_size, shape: model.shape() };
        Ok(Self { unpooled: model.unpooled(call.prompt(&model.description), max_tokens)?, model, limits })
    }
}

/// The error of `embed.truncate = false`, with enough of the text to find its row.
fn too_long(text: &str, got: usize, limit: usize) -> Error {
    let start: String = text.chars().take(40).collect();
    let message = format!(
        "text of {got} tokens is longer than the limit of {limit} and embed.truncate is false; it begins {start:?} \
         (find such rows with embed_tokens(text) > {limit}, or SET embed.truncate = true)"
    );
    Error::Limit { setting: "embed.truncate", got, limit, message }
}

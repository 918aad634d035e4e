//! Texts -> tokens -> model batches -> encoder -> vectors.
//!
//! | file | what |
//! |---|---|
//! | `query.rs` | one query: each distinct text once, and a stream's access to that |
//! | `batch.rs` | tokens -> model batches under a token budget |
//! | `model_batch.rs` | a model batch on its way to its vectors, wanted by any number of streams |
//! | `pool.rs` | the process's workers; the only place that starts threads |
//! | `counters.rs` | what `embed_models()` and EXPLAIN ANALYZE show |
//!
//! A stream tokenises on its caller's thread and hands every full model batch to the pool at once, so that tokenising
//! overlaps with encoding and one stream keeps every worker busy.

mod batch;
mod counters;
mod model_batch;
mod pool;
mod query;

pub use counters::Counts;
pub(crate) use counters::{Counters, ModelUse};
pub(crate) use model_batch::{Slot, values_of};
pub(crate) use query::{BATCHES_PER_WORKER, Feed, Query};

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::access::Access;
use crate::cache::{Cache, Space, SpaceKey, VectorLimits};
use crate::error::{Error, Result};
use crate::model::{self, Allowance, Description, Found, Model, Place, Role};
use crate::options::{Device, EmbedOptions};
use counters::Registry;
use pool::Lane;

/// Most vectors of literals that one session remembers, see [`Session::embed_literal`]: a few MiB.
const REMEMBERED_LITERALS: usize = 4096;

/// What the embed functions of one SessionContext share.
#[derive(Debug, Default)]
pub(crate) struct Session {
    registry: Registry,
    lanes: Mutex<HashMap<(Device, usize), Arc<Lane>>>,
    /// Raised by [`Session::cancel`]: a call that began under an older number stops.
    generation: Arc<AtomicU64>,
    literals: Mutex<HashMap<LiteralKey, Vec<f32>>>,
    access: RwLock<Access>,
}

/// What a literal's vector depends on (I1).
#[derive(Debug, PartialEq, Eq, Hash)]
struct LiteralKey {
    text: String,
    role: Role,
    options: EmbedOptions,
    /// [`Found::number`]: changed files give another vector.
    model: u64,
}

/// One call of `embed` or a sister: which model, which role, under which settings.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The settings, `model` being the call's own.
    pub(crate) options: EmbedOptions,
    /// Which prompt goes before each text.
    pub(crate) role: Role,
    /// What the session may do to come by the model, and whom it tells; `options.offline` is in it.
    pub(crate) access: Access,
    /// Model batches in flight.
    pub(crate) concurrency: usize,
    /// The model as it was when the call was planned; `None` where that is not known, and it is taken as it is now.
    pub(crate) planned: Option<Arc<Found>>,
}

impl Call {
    /// The model of this call.
    pub(crate) fn model(&self) -> Result<Arc<Found>> {
        match &self.planned {
            Some(found) => Ok(Arc::clone(found)),
            None => model::find(&self.options.model, &self.access),
        }
    }

    /// The call with the model as it is now, whatever becomes of its files until it runs.
    pub(crate) fn planned(self) -> Result<Self> {
        Ok(Self { planned: Some(self.model()?), ..self })
    }

    /// What the model's small files say.
    pub(crate) fn describe(&self) -> Result<Arc<Description>> {
        Ok(Arc::clone(&self.model()?.description))
    }

    /// Length of a vector: the model's, or `embed.dimensions` of it.
    pub(crate) fn dimensions(&self, description: &Description) -> Result<usize> {
        match self.options.dimensions {
            0 => Ok(description.dim),
            wanted if wanted <= description.dim => Ok(wanted),
            wanted => Err(Error::Setting(format!(
                "embed.dimensions: {wanted} is more than the {} of model \"{}\"",
                description.dim, description.name
            ))),
        }
    }

    /// Truncation length: the model's, or `embed.max_tokens` where the model has that many positions.
    fn max_tokens(&self, description: &Description) -> Result<usize> {
        let positions = description.architecture.places;
        match self.options.max_tokens {
            0 => Ok(description.max_tokens),
            wanted if wanted <= positions => Ok(wanted),
            wanted => Err(Error::Setting(format!(
                "embed.max_tokens: {wanted} is more than the {positions} positions of model \"{}\"",
                description.name
            ))),
        }
    }

    fn place(&self) -> Place {
        Place { device: self.options.device.resolve(), precision: self.options.precision }
    }

    /// Where the vectors of this call are kept, if they are.
    fn space(&self, model: &Found, dimensions: usize, max_tokens: usize) -> Result<Option<Arc<Space>>> {
        let EmbedOptions { cache, cache_size, truncate, .. } = &self.options;
        if cache.is_empty() {
            return Ok(None);
        }
        let Description { name, .. } = &*model.description;
        let fingerprint = model.fingerprint(&self.access)?;
        let limits = VectorLimits { max_tokens, dimensions, truncate: *truncate };
        let prompt = model.description.prompt(self.role);
        let key = SpaceKey::new(name, fingerprint, self.place(), &crate::kernel_path()?, prompt, limits);
        Ok(Some(Cache::open(cache)?.space(key, *cache_size as u64)))
    }

    fn load(&self, model: &Found) -> Result<Arc<Model>> {
        model.load(&self.access, self.place(), self.options.model_memory)
    }
}

impl Session {
    /// What the session may do to come by a model, and whom it tells, for a call that is to stay offline or not.
    pub(crate) fn access(&self, offline: bool) -> Access {
        self.access.read().unwrap_or_else(PoisonError::into_inner).clone().and_offline(offline)
    }

    /// From now on, for what is planned from now on.
    pub(crate) fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
    }

    /// The share of the pool of calls on this device that may have so many batches at once: one for all queries that say the
    /// same, so that those that say something else, or run elsewhere, neither lend nor borrow of it.
    fn lane(&self, device: Device, concurrency: usize) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry((device, concurrency)).or_insert_with(|| Arc::new(Lane::new(concurrency)));
        Arc::clone(lane)
    }

    /// Vectors of a column of texts, `[rows, dimensions]`; the row of a NULL is zero. Equal texts go through the model once.
    pub(crate) fn embed(&self, call: &Call, rows: &[Option<&str>]) -> Result<Vec<f32>> {
        if rows.iter().all(Option::is_none) {
            return Ok(vec![0.0; rows.len() * call.dimensions(&*call.describe()?)?]);
        }
        let query = Query::start(self, usize::MAX);
        let mut feed = query.feed(self, call, Arc::default())?;
        let slots = rows.iter().map(|row| row.map(|text| feed.push(text)).transpose()).collect::<Result<Vec<_>>>()?;
        feed.wait(&slots)
    }

    /// The vector of a literal. Planning folds the same literal again and again, so the session remembers them.
    pub(crate) fn embed_literal(&self, call: &Call, text: &str) -> Result<Vec<f32>> {
        let call = &call.clone().planned()?;
        let model = call.model()?.number;
        let key = LiteralKey { text: text.to_owned(), role: call.role, options: call.options.clone(), model };
        let remembered = || self.literals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vector) = remembered().get(&key) {
            return Ok(vector.clone());
        }
        let vector = self.embed(call, &[Some(text)])?;
        let mut literals = remembered();
        if literals.len() == REMEMBERED_LITERALS {
            // More than any query has: what planning needs again is remembered again.
            literals.clear();
        }
        literals.insert(key, vector.clone());
        Ok(vector)
    }

    /// Number of tokens of each text before truncation, special tokens counted, prompt not.
    pub(crate) fn count_tokens(&self, call: &Call, rows: &[Option<&str>]) -> Result<Vec<Option<i64>>> {
        if rows.iter().all(Option::is_none) {
            return Ok(vec![None; rows.len()]);
        }
        let model = call.load(&*call.model()?)?;
        let generation = self.generation.load(Ordering::Relaxed);
        let go_on = || self.generation.load(Ordering::Relaxed) == generation;
        let allowance = Allowance { memory: call.options.memory, go_on: &go_on };
        let count = |text: &str| {
            if !go_on() {
                return Err(Error::Cancelled);
            }
            model.count_tokens("", text, &allowance).map(|tokens| tokens as i64)
        };
        rows.iter().map(|row| row.map(count).transpose()).collect()
    }

    /// Makes every running call return [`Error::Cancelled`] soon: workers look between the layers of a model.
    pub(crate) fn cancel(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// What was done so far with each model of this session.
    pub(crate) fn usage(&self) -> Vec<ModelUse> {
        self.registry.usage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_that_of_a_device_and_a_limit() {
        let session = Session::default();
        let cpu = session.lane(Device::Cpu, 1);
        let others = [(Device::Cpu, 8), (Device::Cuda(0), 1), (Device::Cuda(0), 2), (Device::Cuda(1), 2)];
        let others = others.map(|(device, limit)| session.lane(device, limit));
        // Whatever came after it, the first is as it was, and it is the one of all who ask for the same.
        assert!(Arc::ptr_eq(&cpu, &session.lane(Device::Cpu, 1)));
        assert_eq!((cpu.room(), others.each_ref().map(|lane| lane.room())), (1, [8, 1, 2, 2]));
        assert!(!Arc::ptr_eq(&cpu, &Session::default().lane(Device::Cpu, 1)), "every session has its own");
    }
}

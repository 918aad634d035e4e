//! What `embed_models()` shows: exact counts for each model of a session, kept when a model is unloaded.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use crate::model::{Description, Place, kernel_path};
use crate::options::Device;

/// The models that a session used, in the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Registry {
    here: Mutex<Vec<Entry>>,
    /// On other machines, by which one, for this session.
    elsewhere: Mutex<Vec<ModelUse>>,
}

/// One model at one place.
#[derive(Debug)]
struct Entry {
    description: Arc<Description>,
    place: Place,
    counters: Arc<Counters>,
}

/// Running counts: of one model at one place in a session, or of one stream of a query.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    embedded: AtomicU64,
    null: AtomicU64,
    duplicate: AtomicU64,
    cached: AtomicU64,
    cached_bytes: AtomicU64,
    truncated: AtomicU64,
    tokens: AtomicU64,
    batches: AtomicU64,
    tokenize_ns: AtomicU64,
    encode_ns: AtomicU64,
    wait_ns: AtomicU64,
}

/// One row of `embed_models()`: what a model is, where it ran, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModelUse {
    /// The executor of a cluster, or `None` for this process.
    pub(crate) executor: Option<String>,
    pub(crate) model: String,
    pub(crate) source: String,
    pub(crate) revision: Option<String>,
    pub(crate) architecture: String,
    pub(crate) dim: usize,
    /// `None` where the model takes texts of any length.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) device: String,
    pub(crate) precision: String,
    /// Only the CPU's arithmetic is this crate's own.
    pub(crate) kernels: Option<String>,
    pub(crate) counts: Counts,
}

/// What was done up to one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Texts that went through a model.
    pub rows_embedded: u64,
    /// Rows without a text.
    pub rows_null: u64,
    /// Rows that took the vector of an equal text.
    pub rows_duplicate: u64,
    /// Texts whose vector was kept from before, see [`EmbedOptions::cache`](crate::EmbedOptions::cache).
    pub rows_cached: u64,
    /// Bytes of those vectors.
    pub bytes_cached: u64,
    /// Texts that were cut to the limit.
    pub rows_truncated: u64,
    /// Tokens that went through a model.
    pub tokens: u64,
    /// Forward passes.
    pub model_batches: u64,
    /// Time spent on tokens.
    pub tokenize_time: Duration,
    /// Time spent in forward passes, summed over workers.
    pub encode_time: Duration,
    /// Time that queries waited for vectors, summed over partitions.
    pub wait_time: Duration,
}

impl Counts {
    /// Rows that have what they came for: a vector, or NULL.
    pub fn rows(&self) -> u64 {
        self.rows_embedded + self.rows_null + self.rows_duplicate + self.rows_cached
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rows_embedded: self.rows_embedded + other.rows_embedded,
            rows_null: self.rows_null + other.rows_null,
            rows_duplicate: self.rows_duplicate + other.rows_duplicate,
            rows_cached: self.rows_cached + other.rows_cached,
            bytes_cached: self.bytes_cached + other.bytes_cached,
            rows_truncated: self.rows_truncated + other.rows_truncated,
            tokens: self.tokens + other.tokens,
            model_batches: self.model_batches + other.model_batches,
            tokenize_time: self.tokenize_time + other.tokenize_time,
            encode_time: self.encode_time + other.encode_time,
            wait_time: self.wait_time + other.wait_time,
        }
    }
}

/// What was done since `other`.
impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            rows_embedded: self.rows_embedded - other.rows_embedded,
            rows_null: self.rows_null - other.rows_null,
            rows_duplicate: self.rows_duplicate - other.rows_duplicate,
            rows_cached: self.rows_cached - other.rows_cached,
            bytes_cached: self.bytes_cached - other.bytes_cached,
            rows_truncated: self.rows_truncated - other.rows_truncated,
            tokens: self.tokens - other.tokens,
            model_batches: self.model_batches - other.model_batches,
            tokenize_time: self.tokenize_time - other.tokenize_time,
            encode_time: self.encode_time - other.encode_time,
            wait_time: self.wait_time - other.wait_time,
        }
    }
}

impl ModelUse {
    fn new(description: &Description, place: Place, counts: Counts) -> Self {
        Self {
            executor: None,
            model: description.name.clone(),
            source: description.source.to_owned(),
            revision: description.revision.clone(),
            architecture: description.architecture().to_owned(),
            dim: description.dim,
            max_tokens: description.limit(),
            device: place.device.to_string(),
            precision: place.precision.to_string(),
            kernels: (place.device == Device::Cpu).then(|| kernel_path().ok()).flatten(),
            counts,
        }
    }

    /// Adds what the same model has done at the same place to what is known of it already.
    #[cfg(feature = "cluster")]
    pub(crate) fn add_to(self, all: &mut Vec<Self>) {
        match all.iter_mut().find(|other| self.is_same(other)) {
            Some(known) => known.counts = known.counts + self.counts,
            None => all.push(self),
        }
    }

    /// Whether all but the counts is the same; the executor, which differs most, first.
    #[cfg(feature = "cluster")]
    fn is_same(&self, other: &Self) -> bool {
        #[rustfmt::skip]
        let Self { executor, model, source, revision, architecture, dim, max_tokens, device, precision, kernels, counts: _ } = self;
        (executor, model, source, revision) == (&other.executor, &other.model, &other.source, &other.revision)
            && (architecture, dim, max_tokens) == (&other.architecture, &other.dim, &other.max_tokens)
            && (device, precision, kernels) == (&other.device, &other.precision, &other.kernels)
    }
}

impl Registry {
    /// The counters of a model at a place.
    pub(super) fn counters(&self, description: &Arc<Description>, place: Place) -> Arc<Counters> {
        let mut models = self.here.lock();
        if let Some(entry) = models.iter().find(|entry| entry.is_of(description, place)) {
            return Arc::clone(&entry.counters);
        }
        let counters = Arc::new(Counters::default());
        models.push(Entry { description: Arc::clone(description), place, counters: Arc::clone(&counters) });
        counters
    }

    /// Every model of this process with its counts.
    pub(super) fn usage(&self) -> Vec<ModelUse> {
        let models = self.here.lock();
        models.iter().map(|entry| ModelUse::new(&entry.description, entry.place, entry.counters.counts())).collect()
    }

    /// Every model with what it did on other machines.
    pub(super) fn usage_elsewhere(&self) -> Vec<ModelUse> {
        self.elsewhere.lock().clone()
    }

    /// Another machine has done something for the session.
    #[cfg(feature = "cluster")]
    pub(super) fn add(&self, other: ModelUse) {
        other.add_to(&mut self.elsewhere.lock());
    }
}

impl Entry {
    fn is_of(&self, description: &Description, place: Place) -> bool {
        let known = &self.description;
        self.place == place && (&known.name, &known.revision) == (&description.name, &description.revision)
    }
}

impl Counters {
    /// The texts of a batch are done, after so much of a pass.
    pub(super) fn texts(&self, batch: &Batch, time: Duration) {
        add(&self.embedded, batch.texts() as u64);
        add(&self.truncated, batch.truncated() as u64);
        add(&self.tokens, batch.flat.tokens() as u64);
        add(&self.encode_ns, time.as_nanos() as u64);
    }

    /// A pass with texts of ours is done.
    pub(super) fn pass(&self) {
        add(&self.batches, 1);
    }

    /// A text was turned into tokens.
    pub(super) fn tokenized(&self, time: Duration) {
        add(&self.tokenize_ns, time.as_nanos() as u64);
    }

    /// A row took the vector of an equal text.
    pub(super) fn duplicate(&self) {
        add(&self.duplicate, 1);
    }

    /// The vector of a text, of so many bytes, was kept from before.
    pub(super) fn cached(&self, bytes: usize, is_cut: bool) {
        add(&self.cached, 1);
        add(&self.cached_bytes, bytes as u64);
        add(&self.truncated, u64::from(is_cut));
    }

    /// A row has no text.
    pub(crate) fn null(&self) {
        add(&self.null, 1);
    }

    /// A stream waited for vectors.
    pub(super) fn waited(&self, time: Duration) {
        add(&self.wait_ns, time.as_nanos() as u64);
    }

    /// The counts at this moment.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            rows_embedded: read(&self.embedded),
            rows_null: read(&self.null),
            rows_duplicate: read(&self.duplicate),
            rows_cached: read(&self.cached),
            bytes_cached: read(&self.cached_bytes),
            rows_truncated: read(&self.truncated),
            tokens: read(&self.tokens),
            model_batches: read(&self.batches),
            tokenize_time: time(&self.tokenize_ns),
            encode_time: time(&self.encode_ns),
            wait_time: time(&self.wait_ns),
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn time(counter: &AtomicU64) -> Duration {
    Duration::from_nanos(read(counter))
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

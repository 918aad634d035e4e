//! What `embed_models()` shows: exact counts for each model of a session, kept when a model is unloaded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::model::{Description, Place};

/// The models that a session used, in the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Vec<Entry>>);

/// One model at one place.
#[derive(Debug)]
struct Entry {
    description: Arc<Description>,
    place: Place,
    counters: Arc<Counters>,
}

/// Running counts of one model at one place.
#[derive(Debug, Default)]
pub(super) struct Counters {
    embedded: AtomicU64,
    duplicate: AtomicU64,
    truncated: AtomicU64,
    tokens: AtomicU64,
    batches: AtomicU64,
    encode_ns: AtomicU64,
}

/// One row of `embed_models()`.
#[derive(Debug)]
pub(crate) struct ModelUse {
    /// What the model's files say.
    pub(crate) description: Arc<Description>,
    /// Where it ran.
    pub(crate) place: Place,
    /// What it did.
    pub(crate) counts: Counts,
}

/// Counts of one model since the session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Texts that went through the model.
    pub(crate) rows_embedded: i64,
    /// Rows that took the vector of an equal text.
    pub(crate) rows_duplicate: i64,
    /// Texts that were cut to the limit.
    pub(crate) rows_truncated: i64,
    /// Tokens that went through the model.
    pub(crate) tokens: i64,
    /// Forward passes.
    pub(crate) model_batches: i64,
    /// Time spent in forward passes, summed over workers.
    pub(crate) encode_ms: i64,
}

impl Registry {
    /// The counters of a model at a place.
    pub(super) fn counters(&self, description: &Arc<Description>, place: Place) -> Arc<Counters> {
        let mut models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |entry: &&Entry| {
            let known = &entry.description;
            entry.place == place && (&known.name, &known.revision) == (&description.name, &description.revision)
        };
        if let Some(entry) = models.iter().find(same) {
            return Arc::clone(&entry.counters);
        }
        let counters = Arc::new(Counters::default());
        models.push(Entry { description: Arc::clone(description), place, counters: Arc::clone(&counters) });
        counters
    }

    /// Every model with its counts.
    pub(super) fn usage(&self) -> Vec<ModelUse> {
        let models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |entry: &Entry| ModelUse {
            description: Arc::clone(&entry.description),
            place: entry.place,
            counts: entry.counters.counts(),
        };
        models.iter().map(row).collect()
    }
}

impl Counters {
    /// A model batch is done.
    pub(super) fn batch(&self, texts: usize, truncated: usize, tokens: usize, time: Duration) {
        self.embedded.fetch_add(texts as u64, Ordering::Relaxed);
        self.truncated.fetch_add(truncated as u64, Ordering::Relaxed);
        self.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.encode_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Rows took the vector of an equal text.
    pub(super) fn duplicates(&self, rows: usize) {
        self.duplicate.fetch_add(rows as u64, Ordering::Relaxed);
    }

    fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        Counts {
            rows_embedded: read(&self.embedded),
            rows_duplicate: read(&self.duplicate),
            rows_truncated: read(&self.truncated),
            tokens: read(&self.tokens),
            model_batches: read(&self.batches),
            encode_ms: read(&self.encode_ns) / 1_000_000,
        }
    }
}

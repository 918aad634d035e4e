//! A model batch on its way: open, then handed to the pool, then done.
//!
//! Several streams of one query may wait for the vectors of the same batch, because equal texts go through the model once.
//! So a batch belongs to whoever wants a text of it: any of them can submit it while it is open, and it stops when nobody
//! wants it any more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use super::batch::{Batch, Limits};
use super::pool::Pool;
use super::query::Shared;
use crate::cache::Key;
use crate::error::{Error, Result};

/// A model batch that several streams may share.
#[derive(Debug)]
pub(super) struct ModelBatch {
    state: Mutex<State>,
    /// Slots that were handed out and are still held. Goes up only under the lock of `state`.
    wanted: AtomicUsize,
    /// `[texts, dimensions]`, or why there are none.
    vectors: OnceLock<Result<Vec<f32>>>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    wakers: Vec<Waker>,
}

#[derive(Debug)]
enum Stage {
    /// Takes more texts.
    Open(Batch),
    /// In the pool's hands, or done.
    Submitted,
    /// Stopped because nobody wanted it: a new request for one of its texts needs another batch.
    Abandoned,
}

/// Where one text's vector is.
#[derive(Debug)]
pub(crate) enum Slot {
    /// In a model batch, when that is done.
    Batched(Claim),
    /// Kept from before.
    Kept(Arc<[f32]>),
}

/// The place of one text's vector in a model batch, wanted until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    batch: Arc<ModelBatch>,
    index: usize,
}

/// What a memo keeps of a slot: a place that nobody has to want.
#[derive(Debug)]
pub(super) enum Remembered {
    Batched(Arc<ModelBatch>, usize),
    Kept(Arc<[f32]>),
}

impl ModelBatch {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { stage: Stage::Open(Batch::new()), wakers: Vec::new() }),
            wanted: AtomicUsize::new(0),
            vectors: OnceLock::new(),
        })
    }

    /// Adds a text, if the batch is open and has room for it.
    pub(super) fn push(
        self: &Arc<Self>,
        limits: Limits,
        ids: &[u32],
        truncated: bool,
        key: Option<Key>,
    ) -> Option<Slot> {
        let mut state = self.lock();
        match &mut state.stage {
            Stage::Open(batch) if batch.has_room(limits, ids.len()) => {
                batch.push(ids, truncated, key);
                Some(self.slot(batch.texts() - 1))
            }
            _ => None,
        }
    }

    /// Another claim on text `index`, unless the batch was abandoned.
    fn claim(self: &Arc<Self>, index: usize) -> Option<Slot> {
        let state = self.lock();
        (!matches!(state.stage, Stage::Abandoned)).then(|| self.slot(index))
    }

    /// The caller holds the lock.
    fn slot(self: &Arc<Self>, index: usize) -> Slot {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        Slot::Batched(Claim { batch: Arc::clone(self), index })
    }

    pub(super) fn is_done(&self) -> bool {
        self.vectors.get().is_some()
    }

    /// Wakes this task when the batch is done, or at once.
    pub(super) fn wake_when_done(&self, waker: &Waker) {
        let mut state = self.lock();
        if self.is_done() {
            waker.wake_by_ref();
        } else if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
    }

    /// Hands the batch to the pool, if that was not done before.
    pub(super) fn submit(self: &Arc<Self>, shared: &Arc<Shared>) {
        let batch = {
            let mut state = self.lock();
            match std::mem::replace(&mut state.stage, Stage::Submitted) {
                Stage::Open(batch) => batch,
                other => {
                    state.stage = other;
                    return;
                }
            }
        };
        shared.started();
        let job = Job { model_batch: Arc::clone(self), shared: Arc::clone(shared) };
        Pool::global().submit(shared.lane(), move |room| {
            let start = Instant::now();
            let go_on = || job.shared.go_on() && job.model_batch.is_wanted();
            let vectors = if go_on() { job.shared.encode(&batch, room, &go_on) } else { Err(Error::Cancelled) };
            if vectors.is_ok() {
                job.shared.count(|counters| counters.batch(&batch, start.elapsed()));
            }
            job.model_batch.finish(vectors);
        });
    }

    /// Waits on this thread until the batch is done. It was submitted.
    pub(super) fn wait(&self) {
        while !self.is_done() {
            self.wake_when_done(&Waker::from(Arc::new(Unpark(thread::current()))));
            if !self.is_done() {
                thread::park();
            }
        }
    }

    /// Whether anybody waits for it still. When not, nobody will: the next one who asks gets nothing.
    fn is_wanted(&self) -> bool {
        if self.wanted.load(Ordering::Relaxed) > 0 {
            return true;
        }
        let mut state = self.lock();
        let wanted = self.wanted.load(Ordering::Relaxed) > 0;
        if !wanted {
            state.stage = Stage::Abandoned;
        }
        wanted
    }

    fn finish(&self, vectors: Result<Vec<f32>>) {
        let wakers = {
            let mut state = self.lock();
            // The first result stands.
            let _ = self.vectors.set(vectors);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch in the pool: however its work ends, those who wait for it are told.
struct Job {
    model_batch: Arc<ModelBatch>,
    shared: Arc<Shared>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.shared.finished();
        if !self.model_batch.is_done() {
            let lost = "embed: a worker stopped in the middle of a model batch. This is a bug";
            self.model_batch.finish(Err(Error::Device(lost.to_owned())));
        }
    }
}

impl Slot {
    /// Whether the vector is there, or the reason why it never will be.
    pub(crate) fn is_done(&self) -> bool {
        self.batch().is_none_or(|batch| batch.is_done())
    }

    /// The batch that the vector comes from; `None` where it is there already.
    pub(super) fn batch(&self) -> Option<&Arc<ModelBatch>> {
        match self {
            Self::Batched(claim) => Some(&claim.batch),
            Self::Kept(_) => None,
        }
    }

    pub(super) fn remembered(&self) -> Remembered {
        match self {
            Self::Batched(claim) => Remembered::Batched(Arc::clone(&claim.batch), claim.index),
            Self::Kept(vector) => Remembered::Kept(Arc::clone(vector)),
        }
    }

    /// The vector of a batch that is done, or one that was kept.
    fn vector(&self, dimensions: usize) -> Result<&[f32]> {
        let Claim { batch, index } = match self {
            Self::Batched(claim) => claim,
            Self::Kept(vector) => return Ok(vector),
        };
        match batch.vectors.get() {
            Some(Ok(vectors)) => Ok(&vectors[index * dimensions..][..dimensions]),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::Device("embed: a vector was read before it was there. This is a bug".to_owned())),
        }
    }
}

impl Remembered {
    /// The slot of another row with this text; `None` where the batch was abandoned.
    pub(super) fn claim(&self) -> Option<Slot> {
        match self {
            Self::Batched(batch, index) => batch.claim(*index),
            Self::Kept(vector) => Some(Slot::Kept(Arc::clone(vector))),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.batch.wanted.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Vectors that are there, `[rows, dimensions]`; a row without a slot is zero.
pub(crate) fn values_of(slots: &[Option<Slot>], dimensions: usize) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(slots.len() * dimensions);
    for slot in slots {
        match slot {
            Some(slot) => values.extend_from_slice(slot.vector(dimensions)?),
            None => values.resize(values.len() + dimensions, 0.0),
        }
    }
    Ok(values)
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I6, from the batches to the Arrow buffer.
    #[test]
    fn vectors_are_put_together_in_one_allocation() {
        let kept: Arc<[f32]> = Arc::from([1.0, 2.0]);
        let slots: Vec<_> = (0..1000).map(|i| (i % 3 > 0).then(|| Slot::Kept(Arc::clone(&kept)))).collect();
        let made = allocation_counter::measure(|| drop(values_of(&slots, 2)));
        assert_eq!(made.count_total, 1);
    }
}

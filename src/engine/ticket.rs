//! The ticket of a model batch: open, then handed to a lane, then done.
//!
//! Several streams of one query may wait for the vectors of the same batch, because equal texts go through the model once.
//! So a batch belongs to whoever wants a text of it: any of them can close it and hand it to a lane, and it stops when nobody
//! wants it any more.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::batch::{Batch, KeptBatch, Limits};
use super::encoding::Encoding;
use super::lane::{self, Share, Turn};
use crate::cache::Key;
use crate::error::{Error, Result};
use crate::model::{FlatBatch, Scratch};

/// A model batch on its way to its vectors, which several streams may share.
#[derive(Debug)]
pub(super) struct Ticket {
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
    Open(Texts),
    /// In a lane's hands, or done.
    Submitted,
    /// Stopped because nobody wanted it: a new request for one of its texts needs another batch.
    Abandoned,
}

/// What has to be done for the vectors of a ticket.
#[derive(Debug)]
enum Texts {
    /// A forward pass.
    Computed(Batch),
    /// Reading them where they are kept.
    Kept(KeptBatch),
}

/// Where one text's vector is, when the ticket is done: wanted until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    ticket: Arc<Ticket>,
    index: usize,
}

/// What a memo keeps of a slot: a place that nobody has to want.
#[derive(Debug)]
pub(super) struct Remembered {
    ticket: Arc<Ticket>,
    index: usize,
}

impl Ticket {
    /// For texts that have to be computed.
    pub(super) fn to_compute() -> Arc<Self> {
        Self::open(Texts::Computed(Batch::new()))
    }

    /// For texts whose vectors may be kept.
    pub(super) fn to_read() -> Arc<Self> {
        Self::open(Texts::Kept(KeptBatch::new()))
    }

    fn open(texts: Texts) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { stage: Stage::Open(texts), wakers: Vec::new() }),
            wanted: AtomicUsize::new(0),
            vectors: OnceLock::new(),
        })
    }

    /// Adds a text to compute, if the batch is open and has room for it.
    pub(super) fn push(
        self: &Arc<Self>,
        limits: Limits,
        ids: &[u32],
        truncated: bool,
        key: Option<Key>,
    ) -> Option<Slot> {
        let mut state = self.state.lock();
        match &mut state.stage {
            Stage::Open(Texts::Computed(batch)) if batch.has_room(limits, ids.len()) => {
                batch.push(ids, truncated, key);
                Some(self.slot(batch.texts() - 1))
            }
            _ => None,
        }
    }

    /// Adds a text whose vector may be kept, if the batch is open and has room for it.
    pub(super) fn push_kept(self: &Arc<Self>, text: &str, key: Key) -> Option<Slot> {
        let mut state = self.state.lock();
        match &mut state.stage {
            Stage::Open(Texts::Kept(batch)) if batch.has_room() => {
                batch.push(text, key);
                Some(self.slot(batch.keys.len() - 1))
            }
            _ => None,
        }
    }

    /// Another claim on text `index`, unless the batch was abandoned.
    fn claim(self: &Arc<Self>, index: usize) -> Option<Slot> {
        let state = self.state.lock();
        (!matches!(state.stage, Stage::Abandoned)).then(|| self.slot(index))
    }

    /// The caller holds the lock.
    fn slot(self: &Arc<Self>, index: usize) -> Slot {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        Slot { ticket: Arc::clone(self), index }
    }

    pub(super) fn is_done(&self) -> bool {
        self.vectors.get().is_some()
    }

    /// Wakes this task when the batch is done, or at once.
    pub(super) fn wake_when_done(&self, waker: &Waker) {
        let mut state = self.state.lock();
        if self.is_done() {
            waker.wake_by_ref();
        } else if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
    }

    /// Takes no more texts from now on: gives what a lane has to run, `None` if somebody did this before.
    pub(super) fn close(self: &Arc<Self>, encoding: &Arc<Encoding>, share: &Arc<Share>) -> Option<Job> {
        let mut state = self.state.lock();
        let texts = match std::mem::replace(&mut state.stage, Stage::Submitted) {
            Stage::Open(texts) => texts,
            other => {
                state.stage = other;
                return None;
            }
        };
        encoding.running.started();
        let (ticket, encoding, share) = (Arc::clone(self), Some(Arc::clone(encoding)), Arc::clone(share));
        let part = Part { texts, ticket, encoding, vectors: None };
        Some(Job { part, share, others: Vec::new(), together: FlatBatch::new() })
    }

    /// Waits on this thread until the batch is done. A lane has it.
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
        let mut state = self.state.lock();
        let wanted = self.wanted.load(Ordering::Relaxed) > 0;
        if !wanted {
            state.stage = Stage::Abandoned;
        }
        wanted
    }

    fn finish(&self, vectors: Result<Vec<f32>>) {
        let wakers = {
            let mut state = self.state.lock();
            // The first result stands.
            let _ = self.vectors.set(vectors);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Whole texts and their query, in a lane. However the work ends, those who wait for it are told.
struct Part {
    texts: Texts,
    ticket: Arc<Ticket>,
    /// Until the work is done.
    encoding: Option<Arc<Encoding>>,
    vectors: Option<Result<Vec<f32>>>,
}

impl Part {
    /// Whether anybody waits for it still.
    fn go_on(&self) -> bool {
        self.encoding.as_ref().is_some_and(|encoding| encoding.running.go_on()) && self.ticket.is_wanted()
    }

    /// Texts to compute, and with what.
    fn computed(&self) -> Option<(&Batch, &Arc<Encoding>)> {
        match &self.texts {
            Texts::Computed(batch) => Some((batch, self.encoding.as_ref()?)),
            Texts::Kept(_) => None,
        }
    }

    /// Lets `others` run now and then.
    fn run(&mut self, scratch: &mut Scratch, others: &dyn Fn()) {
        let Some(encoding) = &self.encoding else { return };
        let others = Others::new(others);
        let go_on = || {
            others.run();
            self.go_on()
        };
        self.vectors = Some(match &self.texts {
            _ if !self.go_on() => Err(Error::Cancelled),
            Texts::Computed(batch) => {
                let start = Instant::now();
                let vectors = encoding.pass(&batch.flat, scratch, &go_on);
                if let Ok(vectors) = &vectors {
                    encoding.done(batch, vectors, others.time_without(start), true);
                }
                vectors
            }
            Texts::Kept(batch) => encoding.read(batch, scratch, &go_on),
        });
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // The model goes before anybody is told: who waits may want its memory next.
        if let Some(encoding) = self.encoding.take() {
            encoding.running.finished();
        }
        let lost = "embed: a worker stopped in the middle of a model batch. This is a bug";
        self.ticket.finish(self.vectors.take().unwrap_or_else(|| Err(Error::Device(lost.to_owned()))));
    }
}

/// What a worker runs in the middle of a pass, and how long that took: it is not the pass's time.
struct Others<'a> {
    run: &'a dyn Fn(),
    took: Cell<Duration>,
}

impl<'a> Others<'a> {
    fn new(run: &'a dyn Fn()) -> Self {
        Self { run, took: Cell::default() }
    }

    fn run(&self) {
        let start = Instant::now();
        (self.run)();
        self.took.set(self.took.get() + start.elapsed());
    }

    /// The time since then that was not theirs.
    fn time_without(&self, start: Instant) -> Duration {
        start.elapsed().saturating_sub(self.took.get())
    }
}

/// What a lane runs at once: the texts of a query, and those of others that come along in the same pass.
pub(super) struct Job {
    part: Part,
    share: Arc<Share>,
    others: Vec<Part>,
    /// The tokens of all of them, if there are others.
    together: FlatBatch,
}

impl Job {
    /// One pass for all parts that somebody waits for.
    fn run_together(&mut self, scratch: &mut Scratch, others: &dyn Fn()) {
        let mut parts: Vec<&mut Part> = std::iter::once(&mut self.part).chain(&mut self.others).collect();
        parts.retain_mut(|part| {
            let is_wanted = part.go_on();
            if !is_wanted {
                part.vectors = Some(Err(Error::Cancelled));
            }
            is_wanted
        });
        let (start, between) = (Instant::now(), Others::new(others));
        let Some(passed) = pass(&parts, scratch, &between) else { return };
        match passed {
            Ok(vectors) => give(&mut parts, &vectors, between.time_without(start)),
            // What is wrong with one is not the others' affair; of those whom nobody waits for nothing is computed.
            Err(_) => parts.into_iter().for_each(|part| part.run(scratch, others)),
        }
    }
}

/// One pass over the texts of parts; `None` without any.
fn pass(parts: &[&mut Part], scratch: &mut Scratch, others: &Others<'_>) -> Option<Result<Vec<f32>>> {
    let mut texts = FlatBatch::new();
    parts.iter().filter_map(|part| part.computed()).for_each(|(batch, _)| texts.append(&batch.flat));
    let (_, encoding) = parts.first()?.computed()?;
    let go_on = || {
        others.run();
        parts.iter().any(|part| part.go_on())
    };
    Some(encoding.pass(&texts, scratch, &go_on))
}

/// Gives each part its vectors, and its share of the time.
fn give(parts: &mut [&mut Part], vectors: &[f32], time: Duration) {
    let all: usize = parts.iter().filter_map(|part| part.computed()).map(|(batch, _)| batch.flat.tokens()).sum();
    let mut rest = vectors;
    for at in 0..parts.len() {
        let Some((batch, encoding)) = parts[at].computed() else { continue };
        let (own, others) = rest.split_at(batch.texts() * encoding.dimensions);
        let of_session = |part: &&mut Part| part.computed().is_some_and(|(_, other)| other.counts_with(encoding));
        let is_first = !parts[..at].iter().any(of_session);
        encoding.done(batch, own, time.mul_f64(batch.flat.tokens() as f64 / all as f64), is_first);
        rest = others;
        parts[at].vectors = Some(Ok(own.to_vec()));
    }
}

impl lane::Job for Job {
    fn share(&self) -> &Arc<Share> {
        &self.share
    }

    fn turn(&self) -> Option<&Turn> {
        self.part.encoding.as_ref().map(|encoding| &encoding.running.turn)
    }

    fn cost(&self) -> u64 {
        match &self.part.texts {
            Texts::Computed(batch) => batch.flat.tokens() as u64,
            Texts::Kept(batch) => batch.keys.len() as u64,
        }
    }

    fn takes(&self, other: &Self) -> bool {
        let (Some((batch, encoding)), Some((others, theirs))) = (self.part.computed(), other.part.computed()) else {
            return false;
        };
        let own = if self.others.is_empty() { &batch.flat } else { &self.together };
        let allow = |encoding: &Encoding| {
            let limits = encoding.loaded.get().map(|loaded| loaded.limits);
            limits.is_some_and(|limits| {
                // A lone text would come as late as the batch of an export that it takes along.
                let is_long = others.flat.tokens() > own.tokens().max(limits.tokens / 8);
                !is_long && limits.allow(own, &others.flat)
            })
        };
        encoding.shares_passes_with(theirs) && allow(encoding) && allow(theirs)
    }

    fn take(&mut self, other: Self) {
        if let (true, Some((batch, _))) = (self.others.is_empty(), self.part.computed()) {
            self.together = batch.flat.clone();
        }
        if let Some((batch, _)) = other.part.computed() {
            self.together.append(&batch.flat);
        }
        self.others.push(other.part);
    }

    fn wants_help(&self) -> bool {
        let lone = self.part.computed().filter(|(batch, _)| batch.texts() == 1 && self.others.is_empty());
        lone.and_then(|(_, encoding)| encoding.loaded.get()).is_some_and(|loaded| loaded.model.gains_by_help())
    }

    fn run(mut self, scratch: &mut Scratch, others: &dyn Fn()) {
        match self.others.is_empty() {
            true => self.part.run(scratch, others),
            false => self.run_together(scratch, others),
        }
    }
}

impl Slot {
    /// Whether the vector is there, or the reason why it never will be.
    pub(crate) fn is_done(&self) -> bool {
        self.ticket.is_done()
    }

    /// The batch that the vector comes from.
    pub(super) fn ticket(&self) -> &Arc<Ticket> {
        &self.ticket
    }

    pub(super) fn remembered(&self) -> Remembered {
        Remembered { ticket: Arc::clone(&self.ticket), index: self.index }
    }

    /// The vector of a batch that is done.
    fn vector(&self, dimensions: usize) -> Result<&[f32]> {
        match self.ticket.vectors.get() {
            Some(Ok(vectors)) => Ok(&vectors[self.index * dimensions..][..dimensions]),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::Device("embed: a vector was read before it was there. This is a bug".to_owned())),
        }
    }
}

impl Remembered {
    /// The slot of another row with this text; `None` where the batch was abandoned.
    pub(super) fn claim(&self) -> Option<Slot> {
        self.ticket.claim(self.index)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.ticket.wanted.fetch_sub(1, Ordering::Relaxed);
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
        let ticket = Ticket::to_compute();
        ticket.finish(Ok(vec![1.0, 2.0]));
        let slots: Vec<_> = (0..1000).map(|i| (i % 3 > 0).then(|| ticket.slot(0))).collect();
        let made = allocation_counter::measure(|| drop(values_of(&slots, 2)));
        assert_eq!(made.count_total, 1);
    }
}

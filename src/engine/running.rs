//! What of a query its model batches have to know: whether it goes on, and how many of them are on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::lane::Turn;

/// A query that runs.
#[derive(Debug)]
pub(super) struct Running {
    /// The session's, raised by a cancellation.
    generation: Arc<AtomicU64>,
    /// The generation when the query began: another one means that it was cancelled.
    started_at: u64,
    in_flight: AtomicUsize,
    /// When its next batch has its turn.
    pub(super) turn: Turn,
}

impl Running {
    /// A query that begins now.
    pub(super) fn start(generation: &Arc<AtomicU64>) -> Self {
        let started_at = generation.load(Ordering::Relaxed);
        Self { generation: Arc::clone(generation), started_at, in_flight: AtomicUsize::new(0), turn: Turn::default() }
    }

    /// Whether the query was not cancelled.
    pub(super) fn go_on(&self) -> bool {
        self.generation.load(Ordering::Relaxed) == self.started_at
    }

    /// Model batches that a lane has and has not given back.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A batch went to its lane.
    pub(super) fn started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A batch came back.
    pub(super) fn finished(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

//! How far the jobs of a session are.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What tasks have done, and what there is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Work {
    /// Tasks that have ended well.
    pub tasks: u64,
    /// Tasks of all jobs so far; they are cut as Ballista's static planner does.
    pub all_tasks: u64,
    /// Rows that have what they came for: a vector, or NULL.
    pub rows: u64,
    /// Tokens that went through a model for them.
    pub tokens: u64,
    /// Executors at this moment.
    pub executors: u64,
}

/// How far a job is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Of all jobs of the session.
    all: Arc<Mutex<Work>>,
    /// Of this one, and in the sum already.
    own: Work,
}

impl Progress {
    /// Of a job that begins, in the sum of all.
    pub(super) fn new(all: &Arc<Mutex<Work>>, tasks: u64) -> Self {
        all.lock().all_tasks += tasks;
        Self { all: Arc::clone(all), own: Work::default() }
    }

    pub(super) fn is_at(&mut self, now: Work) {
        let before = std::mem::replace(&mut self.own, now);
        let mut all = self.all.lock();
        // A scheduler forgets jobs in time.
        all.tasks += now.tasks.saturating_sub(before.tasks);
        all.rows += now.rows.saturating_sub(before.rows);
        all.tokens += now.tokens.saturating_sub(before.tokens);
        all.executors = now.executors;
    }
}

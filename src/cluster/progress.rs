//! How far the jobs of a session are.

use std::sync::Arc;

use parking_lot::Mutex;

/// What tasks have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Tasks that have ended well.
    pub tasks: u64,
    /// Rows that got a vector there.
    pub rows: u64,
    /// Tokens that went through a model for them.
    pub tokens: u64,
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
    pub(super) fn new(all: &Arc<Mutex<Work>>) -> Self {
        Self { all: Arc::clone(all), own: Work::default() }
    }

    pub(super) fn is_at(&mut self, now: Work) {
        let before = std::mem::replace(&mut self.own, now);
        let mut all = self.all.lock();
        // A scheduler forgets jobs in time.
        all.tasks += now.tasks.saturating_sub(before.tasks);
        all.rows += now.rows.saturating_sub(before.rows);
        all.tokens += now.tokens.saturating_sub(before.tokens);
    }
}

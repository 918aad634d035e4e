//! How far the jobs of a session are.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::front::Done;

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

/// The jobs of a session.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<BTreeMap<u64, Done>>);

/// How far one of them is.
#[derive(Debug)]
pub(super) struct Progress {
    jobs: Arc<Jobs>,
    number: u64,
}

impl Jobs {
    pub(super) fn begin(jobs: &Arc<Self>) -> Progress {
        let mut all = jobs.0.lock();
        let number = all.len() as u64;
        all.insert(number, Done::default());
        Progress { jobs: Arc::clone(jobs), number }
    }

    pub(super) fn work(&self) -> Work {
        let all = self.0.lock();
        all.values().fold(Work::default(), |Work { tasks, rows, tokens }, done| Work {
            tasks: tasks + done.tasks,
            rows: rows + done.rows,
            tokens: tokens + done.tokens,
        })
    }
}

impl Progress {
    pub(super) fn is_at(&self, done: Done) {
        self.jobs.0.lock().insert(self.number, done);
    }
}

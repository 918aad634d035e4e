//! The process's workers: one per core at most, shared by every session and partition.
//!
//! A worker runs a whole forward pass on one thread: many passes side by side scale better than one pass spread over
//! threads. Each worker keeps its own room for activations.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::model::Room;

/// One session's share of the pool: how many of its model batches may run at once.
#[derive(Debug, Default)]
pub(super) struct Lane {
    limit: AtomicUsize,
    /// Changed under the pool's lock only.
    running: AtomicUsize,
}

impl Lane {
    /// At most so many batches at once, at least one.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit.max(1), Ordering::Relaxed);
    }

    fn has_room(&self) -> bool {
        self.running.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
    }
}

type Work = Box<dyn FnOnce(&mut Room) + Send>;

struct Task {
    lane: Arc<Lane>,
    work: Work,
}

/// The workers and what waits for them.
pub(super) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    most_workers: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    workers: usize,
    idle: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("most_workers", &self.most_workers).finish_non_exhaustive()
    }
}

impl Pool {
    /// The pool of the process. Its workers start when there is work for them.
    pub(super) fn global() -> &'static Self {
        static POOL: LazyLock<Pool> = LazyLock::new(|| Pool {
            state: Mutex::default(),
            changed: Condvar::new(),
            most_workers: thread::available_parallelism().map_or(1, usize::from),
        });
        &POOL
    }

    /// Most workers that will ever run.
    pub(super) fn most_workers(&self) -> usize {
        self.most_workers
    }

    /// Runs `work` on a worker as soon as its lane has room, first come first served.
    pub(super) fn submit(&'static self, lane: &Arc<Lane>, work: impl FnOnce(&mut Room) + Send + 'static) {
        let mut state = self.lock();
        state.queue.push_back(Task { lane: Arc::clone(lane), work: Box::new(work) });
        if state.idle == 0 && state.workers < self.most_workers {
            let name = format!("embed-{}", state.workers);
            // Without a thread to be had, the workers that run already take the task in their turn.
            if thread::Builder::new().name(name).spawn(|| self.work()).is_ok() {
                state.workers += 1;
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What a worker does all its life.
    fn work(&self) {
        let mut room = Room::default();
        let mut state = self.lock();
        loop {
            let Some(Task { lane, work }) = state.next() else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            // A panic is a bug, but one call's: its channel closes and the call reports it. The worker lives on.
            if catch_unwind(AssertUnwindSafe(|| work(&mut room))).is_err() {
                room = Room::default();
            }
            state = self.lock();
            lane.running.fetch_sub(1, Ordering::Relaxed);
            // The lane has room again for a task that others passed over.
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the first task whose lane has room.
    fn next(&mut self) -> Option<Task> {
        let at = self.queue.iter().position(|task| task.lane.has_room())?;
        let task = self.queue.remove(at)?;
        task.lane.running.fetch_add(1, Ordering::Relaxed);
        Some(task)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lane_never_runs_more_than_its_limit() {
        let lane = Arc::new(Lane::default());
        lane.set_limit(1);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (sender, receiver) = mpsc::channel();
        for i in 0..20 {
            let (running, most, sender) = (Arc::clone(&running), Arc::clone(&most), sender.clone());
            Pool::global().submit(&lane, move |_| {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
                sender.send(i).expect("the test waits");
            });
        }
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_panic_costs_one_task_and_no_worker() {
        let lane = Arc::new(Lane::default());
        lane.set_limit(64);
        let (sender, receiver) = mpsc::channel();
        for i in 0..50 {
            let sender = sender.clone();
            Pool::global().submit(&lane, move |_| {
                if i % 5 == 0 {
                    std::panic::resume_unwind(Box::new("quiet"));
                }
                sender.send(i).expect("the test waits");
            });
        }
        drop(sender);
        assert_eq!(receiver.iter().count(), 40);
        assert!(Pool::global().lock().workers <= Pool::global().most_workers);
    }
}

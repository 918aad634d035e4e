//! The process's workers: one per core at most, shared by every session and partition.
//!
//! A worker runs a whole forward pass on one thread: many passes side by side scale better than one pass spread over
//! threads. Each worker keeps its own room for activations.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::model::Room;

/// A share of the pool: how many of its model batches may run at once. The limit never changes, so whoever asks for another
/// one asks for another lane.
#[derive(Debug)]
pub(super) struct Lane {
    limit: usize,
    /// Changed under the pool's lock only.
    running: AtomicUsize,
}

impl Lane {
    /// At most so many batches at once, at least one.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), running: AtomicUsize::new(0) }
    }

    /// Batches that may start now.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.running.load(Ordering::Relaxed))
    }
}

type Work = Box<dyn FnOnce(&mut Room) + Send>;

/// Starts a worker of the pool, which is the number-th.
type Spawn = Box<dyn Fn(&'static Pool, usize) -> io::Result<()> + Send + Sync>;

struct Task {
    lane: Arc<Lane>,
    work: Work,
}

/// The workers and what waits for them.
pub(super) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    most_workers: usize,
    spawn: Spawn,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    workers: usize,
    /// Workers that wait, those included that were called and have not woken yet.
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
        static POOL: LazyLock<Pool> = LazyLock::new(|| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            Pool::new(cores, Box::new(start_thread))
        });
        &POOL
    }

    fn new(most_workers: usize, spawn: Spawn) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), most_workers, spawn }
    }

    /// Most workers that will ever run.
    pub(super) fn most_workers(&self) -> usize {
        self.most_workers
    }

    /// Runs `work` on a worker as soon as its lane has room, first come first served.
    ///
    /// Where the process may have no thread at all, the caller's does the work before this returns: slower, and nobody waits
    /// for a worker that never comes.
    pub(super) fn submit(&'static self, lane: &Arc<Lane>, work: impl FnOnce(&mut Room) + Send + 'static) {
        let mut state = self.lock();
        state.queue.push_back(Task { lane: Arc::clone(lane), work: Box::new(work) });
        // Without a thread to be had, the workers that run already take the task in their turn.
        if state.lacks_workers() && state.workers < self.most_workers && (self.spawn)(self, state.workers).is_ok() {
            state.workers += 1;
        }
        if state.workers == 0 {
            return self.help(state);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What a worker does all its life.
    fn work(&self) {
        let mut room = Room::default();
        let mut state = self.lock();
        loop {
            let Some(task) = state.next() else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            state = self.run(state, task, &mut room);
        }
    }

    /// Does a worker's work on this thread as long as there is no worker. What is left then waits for room in a lane, and
    /// whoever gives that room looks for it.
    fn help<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let mut room = Room::default();
        while state.workers == 0
            && let Some(task) = state.next()
        {
            state = self.run(state, task, &mut room);
        }
    }

    /// Runs a task that was taken from the queue, without the lock.
    fn run<'a>(&'a self, state: MutexGuard<'a, State>, task: Task, room: &mut Room) -> MutexGuard<'a, State> {
        drop(state);
        let Task { lane, work } = task;
        // No input makes work panic. One that does is a bug, but one call's: the call reports it, the worker lives on, and the
        // host's panic hook has its say, which is Rust's own where the host has none.
        if catch_unwind(AssertUnwindSafe(|| work(room))).is_err() {
            *room = Room::default();
        }
        let state = self.lock();
        lane.running.fetch_sub(1, Ordering::Relaxed);
        // The lane has room again for a task that others passed over.
        self.changed.notify_one();
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a worker on a thread of its own.
fn start_thread(pool: &'static Pool, number: usize) -> io::Result<()> {
    let thread = thread::Builder::new().name(format!("embed-{number}"));
    thread.spawn(|| pool.work()).map(|_| ())
}

impl State {
    /// Takes the first task whose lane has room.
    fn next(&mut self) -> Option<Task> {
        let at = self.queue.iter().position(|task| task.lane.room() > 0)?;
        let task = self.queue.remove(at)?;
        task.lane.running.fetch_add(1, Ordering::Relaxed);
        Some(task)
    }

    /// Whether more tasks could run now than there are workers that wait.
    fn lacks_workers(&self) -> bool {
        let mut lanes: Vec<(&Arc<Lane>, usize)> = Vec::new();
        let mut could_run = 0;
        for task in &self.queue {
            let known = lanes.iter().position(|(lane, _)| Arc::ptr_eq(lane, &task.lane));
            let at = known.unwrap_or_else(|| {
                lanes.push((&task.lane, task.lane.room()));
                lanes.len() - 1
            });
            let room = &mut lanes[at].1;
            could_run += usize::from(*room > 0);
            *room = room.saturating_sub(1);
            if could_run > self.idle {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A pool of its own, whose workers this function starts.
    fn pool(
        workers: usize,
        spawn: impl Fn(&'static Pool, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> &'static Pool {
        Box::leak(Box::new(Pool::new(workers, Box::new(spawn))))
    }

    fn no_thread(_: &'static Pool, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    #[test]
    fn a_lane_never_runs_more_than_its_limit() {
        let lane = Arc::new(Lane::new(1));
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
        let lane = Arc::new(Lane::new(64));
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

    #[test]
    fn without_any_thread_the_caller_does_the_work() {
        let pool = pool(4, no_thread);
        let lane = Arc::new(Lane::new(2));
        let (sender, receiver) = mpsc::channel();
        for i in 0..5 {
            let sender = sender.clone();
            pool.submit(&lane, move |_| {
                if i == 2 {
                    std::panic::resume_unwind(Box::new("quiet"));
                }
                sender.send((i, thread::current().id())).expect("the test waits");
            });
            // It is done when submit returns.
            assert_eq!(receiver.try_recv().ok(), (i != 2).then(|| (i, thread::current().id())));
        }
        assert_eq!((pool.lock().queue.len(), lane.room()), (0, 2));
    }

    #[test]
    fn a_full_lane_without_any_thread_is_worked_off_by_who_fills_it() {
        let pool = pool(4, no_thread);
        let lane = Arc::new(Lane::new(1));
        let (sender, receiver) = mpsc::channel();
        let other = sender.clone();
        let inner = Arc::clone(&lane);
        pool.submit(&lane, move |_| {
            // Submitted while the lane is full: this one cannot run, and its caller must not wait for it.
            pool.submit(&inner, move |_| other.send("second").expect("the test waits"));
            sender.send("first").expect("the test waits");
        });
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn threads_that_come_later_take_over() {
        let there_are_threads = Arc::new(AtomicBool::new(false));
        let may_spawn = Arc::clone(&there_are_threads);
        let pool = pool(1, move |pool, number| match may_spawn.load(Ordering::SeqCst) {
            true => start_thread(pool, number),
            false => no_thread(pool, number),
        });
        let lane = Arc::new(Lane::new(1));
        let (sender, receiver) = mpsc::channel();
        let ran_on = || {
            let sender = sender.clone();
            pool.submit(&lane, move |_| sender.send(thread::current().id()).expect("the test waits"));
            receiver.recv().expect("it runs")
        };
        assert_eq!(ran_on(), thread::current().id());
        there_are_threads.store(true, Ordering::SeqCst);
        let worker = ran_on();
        assert_ne!(worker, thread::current().id());
        there_are_threads.store(false, Ordering::SeqCst);
        assert_eq!(ran_on(), worker);
    }

    #[test]
    fn two_tasks_in_a_row_start_a_second_worker_though_one_is_idle() {
        let pool = pool(2, start_thread);
        let lane = Arc::new(Lane::new(2));
        let (sender, receiver) = mpsc::channel();
        let first = sender.clone();
        pool.submit(&lane, move |_| first.send(()).expect("the test waits"));
        receiver.recv().expect("it runs");
        while pool.lock().idle == 0 {
            thread::yield_now();
        }
        // Each waits for the other: one worker alone never gets on.
        let both = Arc::new(Barrier::new(2));
        for _ in 0..2 {
            let (both, sender) = (Arc::clone(&both), sender.clone());
            pool.submit(&lane, move |_| {
                both.wait();
                sender.send(()).expect("the test waits");
            });
        }
        for _ in 0..2 {
            receiver.recv_timeout(Duration::from_secs(60)).expect("both run");
        }
    }

    #[test]
    fn no_worker_starts_for_tasks_that_their_lane_keeps_waiting() {
        let (full, free) = (Arc::new(Lane::new(1)), Arc::new(Lane::new(2)));
        let task = |lane: &Arc<Lane>| Task { lane: Arc::clone(lane), work: Box::new(|_| ()) };
        let mut state = State { queue: [task(&full), task(&full), task(&full)].into(), workers: 1, idle: 1 };
        assert!(!state.lacks_workers(), "one of them can run, and one worker is idle");
        state.queue.push_back(task(&free));
        assert!(state.lacks_workers());
        state.idle = 2;
        assert!(!state.lacks_workers());
        state.queue.extend([task(&free), task(&free)]);
        assert!(state.lacks_workers());
        state.idle = 3;
        assert!(!state.lacks_workers());
    }
}

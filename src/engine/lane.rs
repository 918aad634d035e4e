//! A device's workers and what waits for them: one lane per device in the process, shared by every session and partition.
//!
//! A worker runs a whole forward pass on one thread: many passes side by side scale better than one pass spread over
//! threads. Each worker keeps its own scratch for activations. The exception is a lone text while nobody else has anything to do:
//! one core does not read weights as fast as memory gives them, so the workers that wait help with its products.
//!
//! Whose turn it is: each query has a clock of its own, which each of its jobs moves on by what it costs, and the job at the lowest
//! time is next. A query that begins starts at the time of the job that runs, so a text of a small query is behind no job of a
//! long one that waits, and of many queries each gets its turn. Nor does it wait for the end of one that runs: between two layers of a long
//! job a worker runs a short one that waits. (text-embeddings-inference, for one, has one queue, first in, first out.)
//! A job that is taken out of the queue takes others along that may share its pass, whoever's they are, as long as they do not make
//! it much longer: nobody waits for them, so a lone text is not late for it, and the more wait the fuller the passes are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::model::{Scratch, Team};

/// Whole texts with the query that they belong to: what a lane's queue holds, and one forward pass at a time.
pub(super) trait Job: Send + 'static {
    /// Whose room it takes.
    fn share(&self) -> &Arc<Share>;

    /// Whose turn it takes.
    fn turn(&self) -> Option<&Turn>;

    /// How far it moves that on.
    fn cost(&self) -> u64;

    /// Whether another one may come along in the same pass.
    fn takes(&self, other: &Self) -> bool;

    /// Takes another one along.
    fn take(&mut self, other: Self);

    /// Whether it is done sooner where workers help that have nothing else to do.
    fn wants_help(&self) -> bool;

    /// Runs it, and lets `others` run now and then. However it ends, whoever waits for it is told.
    fn run(self, scratch: &mut Scratch, others: &dyn Fn());
}

/// What a job costs at most that runs in the middle of a longer one, between two of its layers: so a text of a small query does not
/// wait for the end of an export's batch.
const SHORT: u64 = 64;

/// The clock of a query: when its next job has its turn. Changed under the lane's lock only.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU64);

/// A session's share of a lane: how many of its jobs may run at once. The limit never changes, so whoever asks for another one
/// has another share.
#[derive(Debug)]
pub(super) struct Share {
    limit: usize,
    /// Changed under the lane's lock only.
    running: AtomicUsize,
}

impl Share {
    /// At most so many jobs at once, at least one.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), running: AtomicUsize::new(0) }
    }

    /// Jobs that may start now.
    pub(super) fn free(&self) -> usize {
        self.limit.saturating_sub(self.running.load(Ordering::Relaxed))
    }
}

/// Starts a worker of the lane, which is the number-th.
type Spawn<J> = Box<dyn Fn(&'static Lane<J>, usize) -> io::Result<()> + Send + Sync>;

/// See the head of this file.
pub(super) struct Lane<J: Job> {
    state: Mutex<State<J>>,
    /// Short jobs in the queue. Changed under the lock only.
    short: AtomicUsize,
    changed: Condvar,
    most_workers: usize,
    spawn: Spawn<J>,
}

struct State<J: Job> {
    /// With the times of their turns, in the order in which they came.
    queue: VecDeque<(u64, J)>,
    /// The time of the job that was taken last.
    now: u64,
    workers: usize,
    /// Workers that wait, those included that were called and have not woken yet.
    idle: usize,
    /// Workers that run jobs of their own.
    busy: usize,
    /// Whom workers may help that wait, and how many more of them.
    team: Option<(Arc<Team>, usize)>,
}

impl<J: Job> fmt::Debug for Lane<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("most_workers", &self.most_workers).finish_non_exhaustive()
    }
}

impl<J: Job> Lane<J> {
    /// A lane for the whole life of the process. Its workers, one per core at most, start when there is work for them.
    pub(super) fn start() -> &'static Self {
        Self::start_with(thread::available_parallelism().map_or(1, usize::from), start_thread)
    }

    fn start_with(
        most_workers: usize,
        spawn: impl Fn(&'static Self, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> &'static Self {
        let state = Mutex::new(State { queue: VecDeque::new(), now: 0, workers: 0, idle: 0, busy: 0, team: None });
        let (short, changed) = Default::default();
        Box::leak(Box::new(Self { state, short, changed, most_workers, spawn: Box::new(spawn) }))
    }

    /// Most workers that will ever run.
    pub(super) fn most_workers(&self) -> usize {
        self.most_workers
    }

    /// Runs a job on a worker as soon as it is its turn and its share has room.
    ///
    /// Where the process may have no thread at all, the caller's does the work before this returns: slower, and nobody waits
    /// for a worker that never comes.
    pub(super) fn submit(&'static self, job: J) {
        let mut state = self.state.lock();
        state.push(job);
        self.short.store(state.short(), Ordering::Relaxed);
        // Without a thread to be had, the workers that run already take the job in their turn.
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
    fn work(&'static self) {
        let (mut scratch, spare) = <(Scratch, RefCell<Scratch>)>::default();
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.next(|_| true) {
                let team = self.gather(&mut state, &job);
                scratch.team.clone_from(&team);
                let is_long = job.cost() > SHORT;
                let others = || {
                    if is_long {
                        self.run_short(&spare)
                    }
                };
                state.busy += 1;
                state = self.run(state, job, &mut scratch, &others);
                state.busy -= 1;
                if let Some(team) = team {
                    team.end();
                    scratch.team = None;
                    state.team.take_if(|(other, _)| Arc::ptr_eq(other, &team));
                }
            } else if let Some(team) = state.joined() {
                MutexGuard::unlocked(&mut state, || team.help());
            } else {
                state.idle += 1;
                self.changed.wait(&mut state);
                state.idle -= 1;
            }
        }
    }

    /// Calls workers to a job that nobody else has anything to do beside, as many as its share has room for.
    fn gather(&'static self, state: &mut State<J>, job: &J) -> Option<Arc<Team>> {
        if !job.wants_help() || !state.queue.is_empty() || state.busy > 0 {
            return None;
        }
        let helpers = job.share().free().min(self.most_workers.saturating_sub(1));
        while state.workers <= helpers && (self.spawn)(self, state.workers).is_ok() {
            state.workers += 1;
        }
        let team = (helpers > 0).then(Arc::<Team>::default)?;
        state.team = Some((Arc::clone(&team), helpers));
        (0..helpers.min(state.idle)).for_each(|_| {
            self.changed.notify_one();
        });
        Some(team)
    }

    /// Does a worker's work on this thread as long as there is no worker. What is left then waits for room in a share, and
    /// whoever gives that room looks for it.
    fn help<'a>(&'a self, mut state: MutexGuard<'a, State<J>>) {
        let mut scratch = Scratch::default();
        while state.workers == 0
            && let Some(job) = state.next(|_| true)
        {
            state = self.run(state, job, &mut scratch, &|| ());
        }
    }

    /// Runs a short job, if one waits, in the middle of another.
    fn run_short(&self, scratch: &RefCell<Scratch>) {
        if self.short.load(Ordering::Relaxed) == 0 {
            return;
        }
        // It is free: in the middle of a short one none runs.
        let Ok(mut scratch) = scratch.try_borrow_mut() else { return };
        let mut state = self.state.lock();
        if let Some(job) = state.next(|job| job.cost() <= SHORT) {
            drop(self.run(state, job, &mut scratch, &|| ()));
        }
    }

    /// Runs a job that was taken from the queue, without the lock.
    fn run<'a>(
        &'a self,
        state: MutexGuard<'a, State<J>>,
        job: J,
        scratch: &mut Scratch,
        others: &dyn Fn(),
    ) -> MutexGuard<'a, State<J>> {
        self.short.store(state.short(), Ordering::Relaxed);
        drop(state);
        let share = Arc::clone(job.share());
        // No input makes a job panic. One that does is a bug, but one call's: the call reports it, the worker lives on, and the
        // host's panic hook has its say, which is Rust's own where the host has none.
        if catch_unwind(AssertUnwindSafe(|| job.run(scratch, others))).is_err() {
            *scratch = Scratch::default();
        }
        let state = self.state.lock();
        share.running.fetch_sub(1, Ordering::Relaxed);
        // The share has room again for a job that others passed over.
        self.changed.notify_one();
        state
    }
}

/// Starts a worker on a thread of its own.
fn start_thread<J: Job>(lane: &'static Lane<J>, number: usize) -> io::Result<()> {
    let thread = thread::Builder::new().name(format!("embed-{number}"));
    thread.spawn(|| lane.work()).map(|_| ())
}

impl<J: Job> State<J> {
    /// Queues a job behind those of its query.
    fn push(&mut self, job: J) {
        let time = job.turn().map_or(self.now, |turn| {
            let time = turn.0.load(Ordering::Relaxed).max(self.now);
            turn.0.store(time + job.cost(), Ordering::Relaxed);
            time
        });
        self.queue.push_back((time, job));
    }

    /// Short jobs that wait.
    fn short(&self) -> usize {
        self.queue.iter().filter(|(_, job)| job.cost() <= SHORT).count()
    }

    /// Takes the job whose turn it is, of those that may be and whose shares have room, and others along.
    fn next(&mut self, may_be: impl Fn(&J) -> bool) -> Option<J> {
        let can_run = self.queue.iter().enumerate().filter(|(_, (_, job))| job.share().free() > 0 && may_be(job));
        let (at, _) = can_run.min_by_key(|(_, (time, _))| *time)?;
        let (time, mut job) = self.queue.remove(at)?;
        self.now = self.now.max(time);
        job.share().running.fetch_add(1, Ordering::Relaxed);
        let mut at = 0;
        while let Some((_, other)) = self.queue.get(at) {
            match job.takes(other) {
                true => job.take(self.queue.remove(at)?.1),
                false => at += 1,
            }
        }
        Some(job)
    }

    /// A team that wants one more, and has one more now.
    fn joined(&mut self) -> Option<Arc<Team>> {
        let (team, wanted) = self.team.as_mut().filter(|(_, wanted)| *wanted > 0)?;
        *wanted -= 1;
        Some(Arc::clone(team))
    }

    /// Whether more jobs could run now than there are workers that wait.
    fn lacks_workers(&self) -> bool {
        let mut shares: Vec<(&Arc<Share>, usize)> = Vec::new();
        let mut could_run = 0;
        for (_, job) in &self.queue {
            let known = shares.iter().position(|(share, _)| Arc::ptr_eq(share, job.share()));
            let at = known.unwrap_or_else(|| {
                shares.push((job.share(), job.share().free()));
                shares.len() - 1
            });
            let free = &mut shares[at].1;
            could_run += usize::from(*free > 0);
            *free = free.saturating_sub(1);
            if could_run > self.idle {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A job of a share, and what it does.
    struct Task {
        share: Arc<Share>,
        cost: u64,
        wants_help: bool,
        work: Box<Work>,
    }

    type Work = dyn FnOnce(&mut Scratch, &dyn Fn()) + Send;

    impl Job for Task {
        fn share(&self) -> &Arc<Share> {
            &self.share
        }

        fn turn(&self) -> Option<&Turn> {
            None
        }

        fn cost(&self) -> u64 {
            self.cost
        }

        fn takes(&self, _: &Self) -> bool {
            false
        }

        fn take(&mut self, _: Self) {}

        fn wants_help(&self) -> bool {
            self.wants_help
        }

        fn run(self, scratch: &mut Scratch, others: &dyn Fn()) {
            (self.work)(scratch, others);
        }
    }

    type Lane = super::Lane<Task>;

    fn task(share: &Arc<Share>, work: impl FnOnce() + Send + 'static) -> Task {
        Task { share: Arc::clone(share), cost: 1, wants_help: false, work: Box::new(|_, _| work()) }
    }

    fn no_thread(_: &'static Lane, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    #[test]
    fn a_share_never_runs_more_than_its_limit() {
        let lane = Lane::start();
        let share = Arc::new(Share::new(1));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (sender, receiver) = mpsc::channel();
        for i in 0..20 {
            let (running, most, sender) = (Arc::clone(&running), Arc::clone(&most), sender.clone());
            lane.submit(task(&share, move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
                sender.send(i).expect("the test waits");
            }));
        }
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_panic_costs_one_job_and_no_worker() {
        let lane = Lane::start();
        let share = Arc::new(Share::new(64));
        let (sender, receiver) = mpsc::channel();
        for i in 0..50 {
            let sender = sender.clone();
            lane.submit(task(&share, move || {
                if i % 5 == 0 {
                    std::panic::resume_unwind(Box::new("quiet"));
                }
                sender.send(i).expect("the test waits");
            }));
        }
        drop(sender);
        assert_eq!(receiver.iter().count(), 40);
        assert!(lane.state.lock().workers <= lane.most_workers);
    }

    #[test]
    fn without_any_thread_the_caller_does_the_work() {
        let lane = Lane::start_with(4, no_thread);
        let share = Arc::new(Share::new(2));
        let (sender, receiver) = mpsc::channel();
        for i in 0..5 {
            let sender = sender.clone();
            lane.submit(task(&share, move || {
                if i == 2 {
                    std::panic::resume_unwind(Box::new("quiet"));
                }
                sender.send((i, thread::current().id())).expect("the test waits");
            }));
            // It is done when submit returns.
            assert_eq!(receiver.try_recv().ok(), (i != 2).then(|| (i, thread::current().id())));
        }
        assert_eq!((lane.state.lock().queue.len(), share.free()), (0, 2));
    }

    #[test]
    fn a_full_share_without_any_thread_is_worked_off_by_who_fills_it() {
        let lane = Lane::start_with(4, no_thread);
        let share = Arc::new(Share::new(1));
        let (sender, receiver) = mpsc::channel();
        let other = sender.clone();
        let inner = Arc::clone(&share);
        lane.submit(task(&share, move || {
            // Submitted while the share is full: this one cannot run, and its caller must not wait for it.
            lane.submit(task(&inner, move || other.send("second").expect("the test waits")));
            sender.send("first").expect("the test waits");
        }));
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn threads_that_come_later_take_over() {
        let there_are_threads = Arc::new(AtomicBool::new(false));
        let may_spawn = Arc::clone(&there_are_threads);
        let lane = Lane::start_with(1, move |lane, number| match may_spawn.load(Ordering::SeqCst) {
            true => start_thread(lane, number),
            false => no_thread(lane, number),
        });
        let share = Arc::new(Share::new(1));
        let (sender, receiver) = mpsc::channel();
        let ran_on = || {
            let sender = sender.clone();
            lane.submit(task(&share, move || sender.send(thread::current().id()).expect("the test waits")));
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
    fn two_jobs_in_a_row_start_a_second_worker_though_one_is_idle() {
        let lane = Lane::start_with(2, start_thread);
        let share = Arc::new(Share::new(2));
        let (sender, receiver) = mpsc::channel();
        let first = sender.clone();
        lane.submit(task(&share, move || first.send(()).expect("the test waits")));
        receiver.recv().expect("it runs");
        while lane.state.lock().idle == 0 {
            thread::yield_now();
        }
        // Each waits for the other: one worker alone never gets on.
        let both = Arc::new(Barrier::new(2));
        for _ in 0..2 {
            let (both, sender) = (Arc::clone(&both), sender.clone());
            lane.submit(task(&share, move || {
                both.wait();
                sender.send(()).expect("the test waits");
            }));
        }
        for _ in 0..2 {
            receiver.recv_timeout(Duration::from_secs(60)).expect("both run");
        }
    }

    #[test]
    fn no_worker_starts_for_jobs_that_their_share_keeps_waiting() {
        let (full, free) = (Arc::new(Share::new(1)), Arc::new(Share::new(2)));
        let task = |share: &Arc<Share>| task(share, || ());
        let mut state = State { queue: VecDeque::new(), now: 0, workers: 1, idle: 1, busy: 0, team: None };
        [task(&full), task(&full), task(&full)].into_iter().for_each(|task| state.push(task));
        assert!(!state.lacks_workers(), "one of them can run, and one worker is idle");
        state.push(task(&free));
        assert!(state.lacks_workers());
        state.idle = 2;
        assert!(!state.lacks_workers());
        [task(&free), task(&free)].into_iter().for_each(|task| state.push(task));
        assert!(state.lacks_workers());
        state.idle = 3;
        assert!(!state.lacks_workers());
    }

    /// Of a query, with a cost; several may share a pass.
    struct Texts {
        share: Arc<Share>,
        turn: Arc<Turn>,
        cost: u64,
        names: Vec<&'static str>,
        done: mpsc::Sender<Vec<&'static str>>,
    }

    impl Job for Texts {
        fn share(&self) -> &Arc<Share> {
            &self.share
        }

        fn turn(&self) -> Option<&Turn> {
            Some(&self.turn)
        }

        fn cost(&self) -> u64 {
            self.cost
        }

        fn takes(&self, other: &Self) -> bool {
            self.cost + other.cost <= 10
        }

        fn take(&mut self, other: Self) {
            self.cost += other.cost;
            self.names.extend(other.names);
        }

        fn wants_help(&self) -> bool {
            false
        }

        fn run(self, _: &mut Scratch, _: &dyn Fn()) {
            self.done.send(self.names).expect("the test waits");
        }
    }

    /// Jobs by the query that they are of, all queued before the first one runs, and in which passes they ran.
    fn passes(jobs: &[(usize, u64, &'static str)]) -> Vec<Vec<&'static str>> {
        let (done, passes) = mpsc::channel();
        let share = Arc::new(Share::new(1));
        let turns = [(); 4].map(|()| Arc::new(Turn::default()));
        let mut state = State { queue: VecDeque::new(), now: 0, workers: 0, idle: 0, busy: 0, team: None };
        for &(query, cost, name) in jobs {
            let turn = Arc::clone(&turns[query]);
            state.push(Texts { share: Arc::clone(&share), turn, cost, names: vec![name], done: done.clone() });
        }
        drop(done);
        while let Some(job) = state.next(|_| true) {
            job.run(&mut Scratch::default(), &|| ());
            share.running.fetch_sub(1, Ordering::Relaxed);
        }
        passes.iter().collect()
    }

    #[test]
    fn a_small_query_is_behind_one_job_of_a_long_one_and_of_many_each_has_its_turn() {
        let long = [(0, 10, "a1"), (0, 10, "a2"), (0, 10, "a3")];
        assert_eq!(passes(&[&long[..], &[(1, 9, "b1")]].concat()), [["a1"], ["b1"], ["a2"], ["a3"]]);
        let two = [(0, 10, "a1"), (0, 10, "a2"), (1, 10, "b1"), (1, 10, "b2"), (2, 10, "c1")];
        assert_eq!(passes(&two), [["a1"], ["b1"], ["c1"], ["a2"], ["b2"]]);
    }

    #[test]
    fn a_pass_takes_along_what_has_room_in_it() {
        let jobs = [(0, 4, "a1"), (1, 4, "b1"), (2, 4, "c1"), (3, 2, "d1"), (1, 6, "b2")];
        assert_eq!(passes(&jobs), [vec!["a1", "b1", "d1"], vec!["c1", "b2"]]);
    }

    /// Threads that have a part of a lone text each.
    fn threads_of(scratch: &Scratch) -> usize {
        let threads = Mutex::new(HashSet::new());
        if let Some(team) = &scratch.team {
            while !team.has_helpers() {
                thread::yield_now();
            }
            // Nobody has both.
            let both = Barrier::new(2);
            team.run(2, &|_| {
                both.wait();
                threads.lock().insert(thread::current().id());
            });
        }
        threads.into_inner().len()
    }

    #[test]
    fn whoever_waits_helps_with_a_lone_text_as_far_as_its_session_may() {
        let (sender, receiver) = mpsc::channel();
        for (workers, limit, threads) in [(2, 2, 2), (2, 1, 0), (1, 2, 0), (4, 2, 2)] {
            let lane = Lane::start_with(workers, start_thread);
            let share = Arc::new(Share::new(limit));
            for _ in 0..20 {
                let sender = sender.clone();
                let work = move |scratch: &mut Scratch, _: &dyn Fn()| {
                    sender.send(threads_of(scratch)).expect("the test waits");
                };
                while lane.state.lock().busy > 0 {
                    thread::yield_now();
                }
                lane.submit(Task { wants_help: true, work: Box::new(work), ..task(&share, || ()) });
                let had = receiver.recv_timeout(Duration::from_secs(60)).expect("it runs");
                assert_eq!(had, threads, "{workers} workers, {limit} at once");
            }
        }
    }

    #[test]
    fn a_short_job_runs_in_the_middle_of_a_long_one() {
        let lane = Lane::start_with(1, start_thread);
        let share = Arc::new(Share::new(2));
        let (sender, receiver) = mpsc::channel();
        let (inner, outer) = (Arc::clone(&share), sender.clone());
        let long = move |_: &mut Scratch, others: &dyn Fn()| {
            others();
            for (cost, name) in [(SHORT + 1, "another long one"), (SHORT, "short"), (1, "shorter")] {
                let sender = sender.clone();
                let work = move |_: &mut Scratch, others: &dyn Fn()| {
                    // None in the middle of those.
                    others();
                    sender.send(name).expect("the test waits");
                };
                lane.submit(Task { cost, work: Box::new(work), ..task(&inner, || ()) });
            }
            others();
            outer.send("half").expect("the test waits");
            (0..3).for_each(|_| others());
            outer.send("long").expect("the test waits");
        };
        lane.submit(Task { cost: 500, work: Box::new(long), ..task(&share, || ()) });
        let order: Vec<_> = receiver.iter().take(5).collect();
        assert_eq!(order, ["short", "half", "shorter", "long", "another long one"]);
    }
}

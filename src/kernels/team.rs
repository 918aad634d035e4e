//! Threads that share the work of one: a lone text is bound by the weights that have to be read for it, and one core does not read as
//! fast as the memory gives.
//!
//! The one that leads has work in *parts*, product after product; those that help take parts as they come and wait, busy, for the
//! next product, for a few microseconds each time.

use std::cell::UnsafeCell;
use std::fmt;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::yield_now;

/// Looks at what there is to do before the thread lets others run.
const SPINS: usize = 2_000;

/// What somebody does with the part of a number.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// One that leads, and those that help.
pub(crate) struct Team {
    /// Parts that there are, in the upper half, and that were taken, in the lower one: who takes one knows with it that there is one.
    parts: AtomicU64,
    /// Parts that are done.
    done: AtomicUsize,
    helpers: AtomicUsize,
    has_failed: AtomicBool,
    is_over: AtomicBool,
    /// Of the parts that there are.
    work: UnsafeCell<*const Work<'static>>,
}

// SAFETY: `work` is written by the one that leads, while there is no part to take, and read by whoever has taken one.
unsafe impl Send for Team {}
// SAFETY: as above.
unsafe impl Sync for Team {}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("helpers", &self.helpers).finish_non_exhaustive()
    }
}

impl Default for Team {
    /// Of one that leads.
    fn default() -> Self {
        let nothing: &Work<'static> = &|_| ();
        Self {
            parts: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            helpers: AtomicUsize::new(0),
            has_failed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            work: UnsafeCell::new(nothing),
        }
    }
}

impl Team {
    /// Whether anybody helps.
    pub(crate) fn has_helpers(&self) -> bool {
        self.helpers.load(Ordering::Relaxed) > 0
    }

    /// Does `work` for each of so many parts, with those that help, and returns when all are done. For the one that leads only.
    ///
    /// # Panics
    ///
    /// Where the work of a part does, after all of them.
    pub(crate) fn run(&self, parts: u32, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. Nobody calls it who has not taken a part, and this waits for all of them.
        let work = unsafe { std::mem::transmute::<&Work<'_>, &Work<'static>>(work) };
        // SAFETY: all parts that there were are taken and done, so nobody reads it.
        unsafe { *self.work.get() = work };
        self.done.store(0, Ordering::Relaxed);
        self.parts.store(u64::from(parts) << 32, Ordering::Release);
        while self.take_one() {}
        let mut spins = 0;
        while self.done.load(Ordering::Acquire) < parts as usize {
            pause(&mut spins);
        }
        assert!(!self.has_failed.load(Ordering::Relaxed), "a part of a product panicked");
    }

    /// Takes a part and does it; `false` where there is none.
    fn take_one(&self) -> bool {
        let is_left = |parts: u64| (parts & u64::from(u32::MAX)) < parts >> 32;
        if !is_left(self.parts.load(Ordering::Relaxed)) {
            return false;
        }
        let parts = self.parts.fetch_add(1, Ordering::AcqRel);
        if !is_left(parts) {
            return false;
        }
        // SAFETY: written before there were parts, and the one that leads waits for this one to be done.
        let work = unsafe { &**self.work.get() };
        if catch_unwind(AssertUnwindSafe(|| work(parts as u32 as usize))).is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }

    /// Helps until the one that leads has no more work.
    pub(crate) fn help(&self) {
        self.helpers.fetch_add(1, Ordering::Relaxed);
        let mut spins = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            match self.take_one() {
                true => spins = 0,
                false => pause(&mut spins),
            }
        }
        self.helpers.fetch_sub(1, Ordering::Relaxed);
    }

    /// There is no more work.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Waits for what comes within microseconds, and for what does not without being in anybody's way.
fn pause(spins: &mut usize) {
    match *spins < SPINS {
        true => {
            *spins += 1;
            spin_loop();
        }
        false => yield_now(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;

    #[test]
    fn every_part_is_done_once_whoever_helps() {
        for helpers in 0..4 {
            let team = Team::default();
            thread::scope(|scope| {
                for _ in 0..helpers {
                    scope.spawn(|| team.help());
                }
                for parts in (0..200).chain([5_000]) {
                    let done: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
                    team.run(parts, &|part| {
                        done[part].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(
                        done.iter().all(|done| done.load(Ordering::Relaxed) == 1),
                        "{parts} parts, {helpers} helpers"
                    );
                }
                team.end();
            });
            assert!(!team.has_helpers());
        }
    }

    #[test]
    fn a_part_that_panics_ends_with_the_others() {
        let team = Team::default();
        let done = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| team.help());
            let run = || {
                team.run(50, &|part| {
                    if part % 7 == 0 {
                        std::panic::resume_unwind(Box::new("quiet"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            };
            catch_unwind(AssertUnwindSafe(run)).expect_err("a part did");
            team.end();
        });
        assert_eq!(done.load(Ordering::Relaxed), 42);
    }
}

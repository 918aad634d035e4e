//! What running statements need to know, and where their results go.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::prelude::SessionContext;
use parking_lot::Mutex;

use super::args::Args;
use super::failure::Failure;
use super::output::Output;
use super::print::{Format, Printer, Shape};
use super::progress::Progress;
use super::screen::View;
use crate::files::{Stores, Writes};

/// Bytes written between two looks at whether the job was cancelled.
const PIECE: usize = 16 * 1024;

/// What running statements need to know. Cheap to clone; every job has one.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) ctx: SessionContext,
    /// What the statements write.
    pub(crate) writes: Writes,
    pub(crate) output: Arc<Output>,
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    pub(crate) view: View,
    cancelled: Arc<AtomicBool>,
    progress: Arc<Mutex<Option<Progress>>>,
    /// What was said in this session and is not said again.
    said: Arc<Mutex<HashSet<String>>>,
}

impl Job {
    pub(crate) fn new(ctx: SessionContext, writes: Writes, output: Arc<Output>, args: &Args) -> Self {
        let (cancelled, progress, said) = (Arc::default(), Arc::default(), Arc::default());
        let (format, quiet, view) = (args.format, args.quiet, args.view());
        Self { ctx, writes, output, format, quiet, view, cancelled, progress, said }
    }

    /// What turns a result into bytes, for where results go now.
    pub(crate) fn printer(&self, shape: Shape) -> Printer {
        let settings = self.ctx.state().config_options().format.clone();
        Printer::new(self.format, shape, !self.quiet, settings, self.output.screen(self.view))
    }

    /// Whether something was not said in this session before.
    pub(crate) fn is_news(&self, what: &str) -> bool {
        self.said.lock().insert(what.to_owned())
    }

    /// What is known of the stores that the statements reach.
    pub(crate) fn stores(&self) -> Arc<Stores> {
        self.ctx.state_ref().read().config().get_extension().unwrap_or_default()
    }

    /// The same for a new job: the last one may still be unwinding with its cancelled flag set.
    pub(crate) fn again(&self) -> Self {
        Self { cancelled: Arc::default(), progress: Arc::default(), ..self.clone() }
    }

    /// Stops what the job does, as soon as each part of it looks.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.writes.stop();
        crate::cancel(&self.ctx);
    }

    /// Writes a piece of the result; a job left behind after Ctrl-C says nothing more.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        for piece in bytes.chunks(PIECE) {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
            let mut progress = self.progress.lock();
            let write = || self.output.write(piece);
            progress.as_ref().map_or_else(write, |progress| progress.suspend(write))?;
            if self.output.is_paging() {
                *progress = None;
            }
        }
        Ok(())
    }

    /// Shows how far the running statement is until the result is dropped, however the statement ends.
    pub(crate) fn shows(&self, progress: Option<Progress>) -> Shown<'_> {
        *self.progress.lock() = progress;
        Shown(&self.progress)
    }
}

/// See [`Job::shows`].
pub(crate) struct Shown<'a>(&'a Mutex<Option<Progress>>);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

//! How far a query is that takes longer than a second: rows, tokens per second and time left, for people only.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

#[cfg(feature = "cluster")]
use crate::cluster::Cluster;
use crate::files::Stores;
use crate::{Expected, counts};

/// A query that is done sooner shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// A server that fails for less is no news: what failed is tried again.
const LASTS: Duration = Duration::from_secs(2);

/// Time between two looks at the counters.
const INTERVAL: Duration = Duration::from_millis(200);

/// The line on standard error, gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    /// What ends the thread that draws, and the thread.
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Drop for Progress {
    /// The line is gone before anything else is written.
    fn drop(&mut self) {
        if let Some((end, thread)) = self.drawing.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}

impl Progress {
    /// Watches the stores, and the calls of embed in a plan that now begins to run, if there is one already; `None` where nobody
    /// would see it.
    pub(crate) fn watch(
        ctx: &SessionContext,
        stores: Arc<Stores>,
        plan: Option<&Arc<dyn ExecutionPlan>>,
        quiet: bool,
    ) -> Option<Self> {
        if quiet || !io::stderr().is_terminal() {
            return None;
        }
        let expected = plan.map(Expected::of).unwrap_or_default();
        let bar = ProgressBar::hidden();
        let (end, ended) = channel();
        let (ctx, shown) = (ctx.clone(), bar.clone());
        // A thread, because a worker that a plain call of embed holds polls no timers.
        let thread = thread::Builder::new().name("progress".to_owned());
        let thread = thread.spawn(move || draw(&ctx, &stores, &shown, &expected, &ended)).ok()?;
        Some(Self { bar, drawing: Some((end, thread)) })
    }

    /// Writes to the terminal without the line in between.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }
}

/// What the statements of a session have done, here and on its cluster.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    rows: u64,
    tokens: u64,
    /// Of a cluster: tasks that have ended and all there are, and executors at this moment.
    tasks: u64,
    all_tasks: u64,
    executors: u64,
}

impl Done {
    fn of(ctx: &SessionContext) -> Self {
        let here = counts(ctx);
        let done = Self { rows: here.rows(), tokens: here.tokens, ..Self::default() };
        #[cfg(feature = "cluster")]
        if let Some(cluster) = ctx.state_ref().read().config().get_extension::<Cluster>() {
            let there = cluster.work();
            let (rows, tokens) = (done.rows + there.rows, done.tokens + there.tokens);
            let (tasks, all_tasks, executors) = (there.tasks, there.all_tasks, there.executors);
            return Self { rows, tokens, tasks, all_tasks, executors };
        }
        done
    }

    /// What was done since then.
    fn since(self, before: Self) -> Self {
        Self {
            rows: self.rows - before.rows,
            tokens: self.tokens - before.tokens,
            tasks: self.tasks - before.tasks,
            all_tasks: self.all_tasks - before.all_tasks,
            executors: self.executors,
        }
    }

    /// Tasks and who does them, where there are some.
    fn tasks(self) -> Option<String> {
        let Self { tasks, all_tasks, executors, .. } = self;
        let plural = if executors == 1 { "" } else { "s" };
        (all_tasks > 0).then(|| format!("{tasks}/{} tasks, {executors} executor{plural}", all_tasks.max(tasks)))
    }
}

/// Keeps the line true until the other end of `ended` is gone.
fn draw(ctx: &SessionContext, stores: &Stores, bar: &ProgressBar, expected: &Expected, ended: &Receiver<()>) {
    let (start, before) = (Instant::now(), Done::of(ctx));
    let mut wait = PATIENCE;
    while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        let done = Done::of(ctx).since(before);
        let tokens = done.tokens as f64 / start.elapsed().as_secs_f64();
        let trouble = stores.trouble().filter(|(_, since, _)| *since > LASTS);
        let trouble =
            trouble.map(|(store, since, what)| format!("{store}: {what} for {} s, trying again", since.as_secs()));
        let is_news = expected.operators > 0 || done.all_tasks > 0 || trouble.is_some();
        let speed = (expected.operators > 0).then(|| format!("{tokens:.0} tokens/s"));
        let left = expected.rows.is_none().then(|| left(start.elapsed(), done)).flatten();
        let parts = speed.into_iter().chain(done.tasks()).chain(left).chain(trouble);
        bar.set_message(parts.collect::<Vec<_>>().join(", "));
        bar.set_position(done.rows);
        if wait == PATIENCE && is_news {
            show(bar, expected);
            wait = INTERVAL;
        }
    }
    bar.finish_and_clear();
}

/// The time that the tasks of a cluster will still take, if each takes what one took so far.
fn left(spent: Duration, done: Done) -> Option<String> {
    let rest = done.all_tasks.checked_sub(done.tasks)?;
    let left = (done.tasks > 0 && rest > 0).then(|| spent.mul_f64(rest as f64 / done.tasks as f64))?;
    Some(format!("{} left", HumanDuration(Duration::from_secs(left.as_secs()))))
}

/// Makes the line visible: with a bar and the time left where the number of rows is known, else with a sign of life; without a
/// call of embed it has what is to be said of stores, and nothing else.
fn show(bar: &ProgressBar, expected: &Expected) {
    let template = match expected.rows {
        // What is wide is cut at the edge of the window, whatever its size becomes.
        _ if expected.operators == 0 => "{wide_msg}",
        Some(_) => "embed {bar:10} {human_pos}/{human_len} rows, {eta} left, {wide_msg}",
        None => "embed {spinner} {human_pos} rows, {elapsed}, {wide_msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if let Some(rows) = expected.rows {
        bar.set_length(rows);
    }
    bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
}

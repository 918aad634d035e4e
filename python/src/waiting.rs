//! Work that takes long: without the GIL, and Ctrl-C stops it.

use std::process;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::physical_plan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion_embed::cluster::Cluster;
use datafusion_embed::{Expected, counts};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::errors::of_query;

/// How often Python is asked whether somebody has pressed Ctrl-C, and told how far the work is.
const LOOKS: Duration = Duration::from_millis(100);

/// Does work on another thread while this one waits; where Ctrl-C was pressed, `cancel` makes it end.
pub(crate) fn wait<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send, cancel: impl Fn()) -> PyResult<T> {
    wait_and_look(py, work, cancel, |_| Ok(()))
}

/// The same for a step of a statement of a session.
pub(crate) fn wait_for<T: Send>(
    py: Python<'_>,
    ctx: &SessionContext,
    step: impl Future<Output = Result<T, DataFusionError>> + Send,
) -> PyResult<T> {
    let runtime = runtime()?;
    let done = wait(py, || runtime.block_on(step), || datafusion_embed::cancel(ctx))?;
    done.map_err(|error| of_query(&error))
}

/// All rows of a query. `look` is called with the rows that are embedded so far, and how many there will be, or None; of a query
/// that embeds nothing it hears nothing.
pub(crate) fn rows(
    py: Python<'_>,
    ctx: &SessionContext,
    query: DataFrame,
    look: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<RecordBatch>> {
    let runtime = runtime()?;
    let task = Arc::new(query.task_ctx());
    let plan = wait_for(py, ctx, query.create_physical_plan())?;
    let (expected, before) = (Expected::of(&plan), embedded(ctx));
    let look = |_: Python<'_>| match look {
        Some(look) if expected.operators > 0 => look.call1((embedded(ctx) - before, expected.rows)).map(|_| ()),
        _ => Ok(()),
    };
    let run = || runtime.block_on(physical_plan::collect(plan, task));
    wait_and_look(py, run, || datafusion_embed::cancel(ctx), look)?.map_err(|error| of_query(&error))
}

/// Rows that the statements of a session have embedded so far, here and on its cluster.
fn embedded(ctx: &SessionContext) -> u64 {
    let there = ctx.state_ref().read().config().get_extension::<Cluster>().map_or(0, |cluster| cluster.work().rows);
    counts(ctx).rows() + there
}

/// The same where `look` is called again and again meanwhile; where that fails the work ends too.
pub(crate) fn wait_and_look<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> T + Send,
    cancel: impl Fn(),
    mut look: impl FnMut(Python<'_>) -> PyResult<()>,
) -> PyResult<T> {
    check_process()?;
    thread::scope(|scope| {
        let (done, hears) = channel();
        let hears = Mutex::new(hears);
        scope.spawn(move || {
            // Whoever waits is there until this ends.
            let _ = done.send(work());
        });
        let mut stopped = None;
        loop {
            match py.detach(|| hears.lock().map_err(|_| RecvTimeoutError::Disconnected)?.recv_timeout(LOOKS)) {
                Ok(result) => return stopped.map_or(Ok(result), Err),
                Err(RecvTimeoutError::Timeout) => {
                    if stopped.is_none()
                        && let Err(error) = py.check_signals().and_then(|()| look(py))
                    {
                        cancel();
                        stopped = Some(error);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(PyRuntimeError::new_err("the work ended by a panic, which is a bug"));
                }
            }
        }
    })
}

/// A child of fork has none of the threads that its parent had, and would wait for them for ever.
///
/// # Errors
///
/// `RuntimeError` in a process that was forked off one in which something ran.
pub(crate) fn check_process() -> PyResult<()> {
    static FIRST: OnceLock<u32> = OnceLock::new();
    let (first, here) = (*FIRST.get_or_init(process::id), process::id());
    if first == here {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!(
        "datafusion_embed was used in process {first}, of which this one, {here}, was forked: its threads are not here; use \
         multiprocessing's start method 'spawn', or use the package for the first time in the child"
    )))
}

/// The runtime of all sessions.
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_multi_thread().enable_all().build());
    runtime.as_ref().map_err(|error| PyRuntimeError::new_err(format!("no threads: {error}")))
}

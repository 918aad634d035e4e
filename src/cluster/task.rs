//! What is done around a task on an executor: its parts get their numbers, its files are looked for before the first row, and
//! its errors say where they happened.
//!
//! A scheduler (Ballista 55) tries a task again whose error is one of input or output, and of any other fails the job. So errors of
//! stores become such errors here.

use std::error::Error as StdError;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_core::serde::scheduler::TaskKey;
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use datafusion::arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::object_store;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Protection;
use super::cancel::{Known, watched};
use super::front::used;
use super::pool::Pool;
use super::said::marked;
use super::task_files::TaskFilesExec;
use super::terms::Terms;
use super::work_folder::{is_full, no_room};
use crate::cache::arithmetic;
use crate::engine::{Session, SessionEntry};
use crate::files::{read_by_rows, scanned};
use crate::options::Device;
use crate::plan::has_calls;

/// Files of a task that an error names, at most.
const NAMED: usize = 2;

/// The time in which the scheduler hears that an executor takes no more tasks, before it hears that one has failed there.
const HEARS: Duration = Duration::from_secs(1);

/// What stands before an error that went through several hands, and says nothing of it.
const AROUND: [&str; 4] = ["External error: ", "DataFusion error: ", "Arrow error: ", "Execution error: "];

/// Runs tasks as Ballista does, with what this file adds.
pub(super) struct Tasks {
    inner: DefaultExecutionEngine,
    executor: Arc<Executor>,
}

/// The executor of all its tasks.
#[derive(Debug)]
struct Executor {
    /// For people.
    name: String,
    /// Where results wait.
    folder: PathBuf,
    protection: Protection,
    device: Device,
    full: Arc<Full>,
    known: Arc<Known>,
}

/// Hears that there is no room for results any more.
#[derive(Debug, Default)]
pub(super) struct Full {
    /// Why, for people.
    reason: OnceLock<String>,
    heard: Notify,
}

impl Full {
    /// Waits for it, and gives the reason between its marks.
    pub(super) async fn happens(&self) -> String {
        self.heard.notified().await;
        marked(self.reason().unwrap_or_default())
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    fn happen(&self, reason: String) {
        self.reason.get_or_init(|| reason);
        self.heard.notify_one();
    }
}

impl Tasks {
    /// Of an executor whose results wait in a folder.
    pub(super) fn new(name: String, folder: PathBuf, protection: Protection, device: Device) -> Self {
        let inner = DefaultExecutionEngine::with_client_pool(Arc::new(Pool::default()));
        let (full, known) = Default::default();
        let executor = Executor { name, folder, protection, device, full, known };
        Self { inner, executor: Arc::new(executor) }
    }

    /// Who hears of a full folder.
    pub(super) fn full(&self) -> Arc<Full> {
        Arc::clone(&self.executor.full)
    }

    /// Who hears of tasks that come, and that are cancelled.
    pub(super) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.executor.known)
    }
}

impl ExecutionEngine for Tasks {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        global_output_partition_ids: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let plan = plan.transform_up(|node| match node.downcast_ref::<TaskFilesExec>() {
            Some(files) => {
                let files = files.numbered(global_output_partition_ids.clone());
                Ok(Transformed::yes(Arc::new(files) as Arc<dyn ExecutionPlan>))
            }
            None => Ok(Transformed::no(node)),
        });
        let Transformed { data: plan, transformed: exports, .. } = plan?;
        let plan = read_by_rows(plan)?;
        let whereabouts = Whereabouts { files: files(&plan), executor: Arc::clone(&self.executor) };
        self.executor.check_terms(&plan, config.options()).map_err(|error| whereabouts.marked(error))?;
        let token = CancellationToken::new();
        let plan = watched(plan, &token)?;
        let (key, ids) = (TaskKey { job_id: job_id.clone(), stage_id, task_id }, global_output_partition_ids);
        let inner = self.inner.create_query_stage_exec(job_id, stage_id, task_id, ids, plan, work_dir, config)?;
        // The workers are those of all tasks, and what is counted is what this one does.
        let session = Session::of(config.options()).unwrap_or_default().with_own_counters();
        Ok(Arc::new(Task { key, inner, whereabouts, exports, session: Arc::new(session), token }))
    }
}

impl Executor {
    /// An error for a task whose job did not show the token, and for one with another arithmetic.
    fn check_terms(&self, plan: &Arc<dyn ExecutionPlan>, options: &ConfigOptions) -> Result<()> {
        let terms = options.extensions.get::<Terms>().cloned().unwrap_or_default();
        if !self.protection.is_met_by(&terms.token) {
            return exec_err!("a task without the token of the cluster is not run");
        }
        if terms.arithmetic.is_empty() || !has_calls(plan)? {
            return Ok(());
        }
        let here = arithmetic(self.device)?;
        match here == terms.arithmetic {
            true => Ok(()),
            false => exec_err!(
                "this machine computes with {here}, and the statement with {}: vectors would differ in their last bits; SET \
                 embed.mixed_arithmetic = true allows it",
                terms.arithmetic
            ),
        }
    }
}

/// A file of a plan, and how long it was where the statement was planned.
#[derive(Debug)]
struct ReadFile {
    path: String,
    size: u64,
    /// Whether it should be on this machine.
    is_local: bool,
}

/// The files that a plan reads.
fn files(plan: &Arc<dyn ExecutionPlan>) -> Vec<ReadFile> {
    let mut files = Vec::new();
    // The closure never fails.
    let _ = plan.apply(|node| {
        let Some(scan) = scanned(node) else { return Ok(TreeNodeRecursion::Continue) };
        let store = scan.object_store_url.as_str();
        let is_local = store.starts_with("file:");
        for file in scan.file_groups.iter().flat_map(|group| group.files()) {
            let path = format!("{}{}", if is_local { "/" } else { store }, file.object_meta.location);
            files.push(ReadFile { path, size: file.object_meta.size, is_local });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    files
}

/// What a task reads, and where.
#[derive(Debug)]
struct Whereabouts {
    files: Vec<ReadFile>,
    executor: Arc<Executor>,
}

#[derive(Debug)]
struct Task {
    key: TaskKey,
    inner: Arc<dyn QueryStageExecutor>,
    whereabouts: Whereabouts,
    /// Whether it writes files of an export.
    exports: bool,
    /// What the task does is counted there.
    session: Arc<Session>,
    /// What is spawned for it hears that it is over.
    token: CancellationToken,
}

impl Display for Task {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Whereabouts {
    /// An error for a file that is another one here than where the statement was planned.
    fn check_files(&self) -> Result<()> {
        for ReadFile { path, size, .. } in self.files.iter().filter(|file| file.is_local) {
            let here = match fs::metadata(path) {
                Ok(file) if file.len() == *size => continue,
                Ok(file) => format!("has {} bytes here, and {size} where the statement was planned", file.len()),
                Err(error) => error.to_string(),
            };
            return Err(exec_datafusion_err!(
                "file {path:?}: {here}: all machines of a cluster have to have the same files, in a shared folder or in a store"
            ));
        }
        Ok(())
    }

    /// The same error for the scheduler: one that it tries again, or not, with what a person is to read.
    fn marked(&self, error: DataFusionError) -> DataFusionError {
        // Of a lost executor, or of a job that was stopped: the scheduler knows what to do.
        let is_its_own =
            |error: &BallistaError| matches!(error, BallistaError::FetchFailed(..) | BallistaError::Cancelled);
        if has(&error, |error| error.downcast_ref().is_some_and(is_its_own)) {
            return error;
        }
        let text = error.strip_backtrace();
        let mut text = text.as_str();
        while let Some(rest) = AROUND.iter().find_map(|around| text.strip_prefix(around)) {
            text = rest;
        }
        let text = format!("executor {}: {text}{}", self.executor.name, self.named_files());
        let text = marked(&text);
        match has(&error, is_passing) {
            true => DataFusionError::IoError(io::Error::other(text)),
            false => DataFusionError::Execution(text),
        }
    }

    /// The files of the task, for its error.
    fn named_files(&self) -> String {
        let mut paths: Vec<_> = self.files.iter().map(|file| Path::new(&file.path)).collect();
        paths.dedup();
        let named = paths.iter().take(NAMED).map(|path| format!("{path:?}")).collect::<Vec<_>>().join(", ");
        match paths.len() {
            0 => String::new(),
            count if count > NAMED => format!(" (in a task that reads {named} and {} more)", count - NAMED),
            _ => format!(" (in a task that reads {named})"),
        }
    }
}

impl Task {
    /// The same task, counted in its own session.
    fn counted(&self, context: &TaskContext) -> Arc<TaskContext> {
        let mut config = context.session_config().clone();
        config.options_mut().extensions.insert(SessionEntry(Arc::clone(&self.session)));
        Arc::new(TaskContext::new(
            context.task_id(),
            context.session_id(),
            config,
            context.scalar_functions().clone(),
            context.higher_order_functions().clone(),
            context.aggregate_functions().clone(),
            context.window_functions().clone(),
            context.runtime_env(),
        ))
    }

    /// Takes the executor out of the cluster if it has no more room: other tasks would fail here too. What an export writes is
    /// elsewhere, and as full there for the others.
    async fn look_for_room(&self, error: &DataFusionError) {
        let Executor { name, folder, full, .. } = self.whereabouts.executor.as_ref();
        let probed = folder.clone();
        let is_own = !self.exports && has(error, is_full_disk);
        if !is_own && !spawn_blocking(move || is_full(&probed)).await.unwrap_or(false) {
            return;
        }
        full.happen(format!("executor {name}: work folder {folder:?}: no space left on the device"));
        sleep(HEARS).await;
    }
}

/// Whether an error is that of a disk without room.
fn is_full_disk(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(no_room)
}

/// Whether something below an error is so.
fn has(error: &DataFusionError, is_so: impl Fn(&(dyn StdError + 'static)) -> bool) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if is_so(error) {
            return true;
        }
        next = below(error);
    }
    false
}

/// What an error is about; Ballista's (55) and some of Arrow's do not say.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(ArrowError::IoError(_, error)) = error.downcast_ref() {
        return Some(error);
    }
    match error.downcast_ref::<BallistaError>() {
        Some(BallistaError::ArrowError(error)) => Some(error.as_ref()),
        Some(BallistaError::DataFusionError(error)) => Some(error.as_ref()),
        Some(BallistaError::IoError(error)) => Some(error),
        _ => error.source(),
    }
}

/// Whether an error is of a disk, a store or a network, and may be gone elsewhere or later.
fn is_passing(error: &(dyn StdError + 'static)) -> bool {
    match error.downcast_ref::<object_store::Error>() {
        Some(object_store::Error::Generic { .. } | object_store::Error::JoinError { .. }) => true,
        Some(_) => false,
        None => error.is::<io::Error>(),
    }
}

#[async_trait]
impl QueryStageExecutor for Task {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        let _running = self.whereabouts.executor.known.begins(&self.key, &self.token)?;
        self.whereabouts.check_files().map_err(|error| self.whereabouts.marked(error))?;
        let done = self.inner.execute_query_stage(task_id, self.counted(&context)).await;
        if let Err(error) = &done
            && has(error, is_passing)
        {
            self.look_for_room(error).await;
        }
        done.map_err(|error| self.whereabouts.marked(error))
    }

    /// Those of the operators, and behind them what the models did.
    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        let mut metrics = self.inner.collect_plan_metrics();
        metrics.push(used(&self.session.usage()));
        metrics
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.inner.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.inner.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.inner.collect_column_stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_gone_later_is_tried_again() {
        let generic = |source: &str| object_store::Error::Generic { store: "S3", source: source.into() };
        let passing = [
            DataFusionError::ObjectStore(Box::new(generic("503"))),
            DataFusionError::IoError(io::Error::other("no space")),
            BallistaError::ArrowError(Box::new(ArrowError::IoError("full".into(), io::Error::other("full"))))
                .into_datafusion(),
            BallistaError::DataFusionError(Box::new(DataFusionError::IoError(io::Error::other("full"))))
                .into_datafusion(),
            DataFusionError::Context("reading".into(), Box::new(DataFusionError::External(Box::new(generic("reset"))))),
        ];
        for error in passing {
            assert!(has(&error, is_passing), "{error:?}");
        }
        let missing = object_store::Error::NotFound { path: "x".into(), source: "404".into() };
        for error in [DataFusionError::Execution("a text".into()), DataFusionError::ObjectStore(Box::new(missing))] {
            assert!(!has(&error, is_passing), "{error:?}");
        }
    }
}

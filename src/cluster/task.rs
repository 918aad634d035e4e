//! What is done around a task on an executor: its parts get their numbers, its files are looked for before the first row, and
//! its errors say where they happened.
//!
//! A scheduler (Ballista 55) tries a task again whose error is one of input or output, and of any other fails the job; and what a
//! client gets of it is the debug text of several layers. So errors of stores become such errors here, and what is to be read
//! stands between two marks.

use std::error::Error as StdError;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use datafusion::common::exec_datafusion_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::object_store;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::export::TaskFilesExec;
use crate::files::scanned;

const BEGINS: &str = "embedsql-says-";
const ENDS: &str = "-embedsql-said";

/// Runs tasks as Ballista does, with what this file adds.
pub(super) struct Tasks {
    inner: DefaultExecutionEngine,
    /// Of the executor, for people.
    name: String,
}

impl Tasks {
    pub(super) fn new(inner: DefaultExecutionEngine, name: String) -> Self {
        Self { inner, name }
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
        let plan = plan.data()?;
        let files = local_files(&plan);
        let ids = global_output_partition_ids;
        let inner = self.inner.create_query_stage_exec(job_id, stage_id, task_id, ids, plan, work_dir, config)?;
        Ok(Arc::new(Task { inner, files, executor: self.name.clone() }))
    }
}

/// A file on this machine, or not, and how long it was where the statement was planned.
#[derive(Debug)]
struct LocalFile {
    path: String,
    size: u64,
}

/// The local files that a plan reads.
fn local_files(plan: &Arc<dyn ExecutionPlan>) -> Vec<LocalFile> {
    let mut files = Vec::new();
    // The closure never fails.
    let _ = plan.apply(|node| {
        let scan = scanned(node).filter(|scan| scan.object_store_url.as_str().starts_with("file:"));
        for file in scan.iter().flat_map(|scan| &scan.file_groups).flat_map(|group| group.files()) {
            let path = format!("/{}", file.object_meta.location);
            files.push(LocalFile { path, size: file.object_meta.size });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    files
}

#[derive(Debug)]
struct Task {
    inner: Arc<dyn QueryStageExecutor>,
    files: Vec<LocalFile>,
    executor: String,
}

impl Display for Task {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Task {
    /// An error for a file that is another one here than where the statement was planned.
    fn check_files(&self) -> Result<()> {
        for LocalFile { path, size } in &self.files {
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
        let text = format!("executor {}: {}", self.executor, error.strip_backtrace());
        let text = format!("{BEGINS}{}{ENDS}", utf8_percent_encode(&text, NON_ALPHANUMERIC));
        match has(&error, is_passing) {
            true => DataFusionError::IoError(io::Error::other(text)),
            false => DataFusionError::Execution(text),
        }
    }
}

/// Whether something below an error is so.
fn has(error: &DataFusionError, is_so: impl Fn(&(dyn StdError + 'static)) -> bool) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if is_so(error) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Whether an error is of a disk, a store or a network, and may be gone elsewhere or later.
fn is_passing(error: &(dyn StdError + 'static)) -> bool {
    match error.downcast_ref::<object_store::Error>() {
        Some(object_store::Error::Generic { .. } | object_store::Error::JoinError { .. }) => true,
        Some(_) => false,
        None => error.is::<io::Error>(),
    }
}

/// The error of a job that failed, as a person is to read it.
pub(super) fn told(text: &str) -> DataFusionError {
    let marked = text.split_once(BEGINS).and_then(|(_, rest)| rest.split_once(ENDS));
    match marked {
        Some((text, _)) => DataFusionError::Execution(percent_decode_str(text).decode_utf8_lossy().into_owned()),
        None => DataFusionError::Execution(text.to_owned()),
    }
}

#[async_trait]
impl QueryStageExecutor for Task {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        self.check_files().map_err(|error| self.marked(error))?;
        self.inner.execute_query_stage(task_id, context).await.map_err(|error| self.marked(error))
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.inner.collect_plan_metrics()
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
    fn an_error_comes_through_the_layers_as_it_is_to_be_read() {
        let text = "a \"quoted\" text,\nof two lines";
        let marked = format!("{BEGINS}{}{ENDS}", utf8_percent_encode(text, NON_ALPHANUMERIC));
        let error = BallistaError::DataFusionError(Box::new(DataFusionError::Execution(marked)));
        let through = format!("Job failed: Task failed due to runtime execution error: {error:?}");
        assert_eq!(told(&through).strip_backtrace(), format!("Execution error: {text}"));
        assert!(told("Job failed: no executors").to_string().contains("no executors"));
    }

    #[test]
    fn what_may_be_gone_later_is_tried_again() {
        let generic = |source: &str| object_store::Error::Generic { store: "S3", source: source.into() };
        let passing = [
            DataFusionError::ObjectStore(Box::new(generic("503"))),
            DataFusionError::IoError(io::Error::other("no space")),
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

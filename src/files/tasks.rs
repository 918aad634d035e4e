//! An export in parts, each of which is written by a task of a cluster, on whatever machine.
//!
//! Whoever asks for the export begins its run and completes it. The name of a file says which part it is of: a task that runs
//! again writes the same files again. As long as the list of the run is there its files count for nothing (`marks.rs`), and where
//! it fails the list stays, because nobody knows when the last of its tasks has ended.

use std::sync::Arc;

use datafusion::config::ConfigNonZeroUsize;
use datafusion::datasource::file_format::csv::CsvSink;
use datafusion::datasource::file_format::json::JsonSink;
use datafusion::datasource::file_format::parquet::ParquetSink;
use datafusion::datasource::physical_plan::FileSink;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::object_store::path::Path;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use super::csv::{TextSink, with_texts};
use super::export::ExportSink;
use super::marks::RunId;
use super::partitions::named_partitions;
use super::run::{Record, Run};
use super::run_store::{Names, RunStore, with_store};
use super::sink::{WholeSink, whole};
use crate::error::Error;

/// What a task has to know of an export to write a part of it: data, as a plan is.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// With DataFusion's own sink; its input is nobody's concern.
    pub(crate) sink: DataSinkExec,
    /// The address of the store.
    pub(crate) store: String,
    /// The id of the run.
    pub(crate) run: String,
    pub(crate) partition_by: Vec<String>,
    /// Whether files keep the columns that their folders are named by.
    pub(crate) keeps_partitions: bool,
    /// How DataFusion ends a name, and how it is to end.
    pub(crate) rename: Option<(String, String)>,
}

/// What a task has written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Paths in the store.
    pub(crate) files: Vec<String>,
    pub(crate) rows: u64,
}

impl Parts {
    /// Writes a part; of one without rows nothing.
    pub(crate) async fn write(
        &self,
        part: u64,
        mut data: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<Written> {
        let first = loop {
            match data.next().await.transpose()? {
                None => return Ok(Written::default()),
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => break batch,
            }
        };
        let data = RecordBatchStreamAdapter::new(data.schema(), stream::iter([Ok(first)]).chain(data));
        let data = named_partitions(Box::pin(data), &self.partition_by, self.keeps_partitions)?;
        let Some(run) = RunId::of(&format!("{}_", self.run)) else {
            return Err(Error::Write(format!("{:?} is the id of no run", self.run)).into());
        };
        let inside = context.runtime_env().object_store(ObjectStoreUrl::parse(&self.store)?)?;
        let (names, files) = (Names { run, part: Some(part), rename: self.rename.clone() }, Arc::<Done>::default());
        let store = RunStore { inside, names, files: Arc::clone(&files) as Arc<dyn Record> };
        // One file, however the rows come: those of a task that runs again are the same file.
        let mut config = context.session_config().clone();
        config.options_mut().execution.minimum_parallel_output_files = ConfigNonZeroUsize::try_new(1)?;
        config.options_mut().execution.soft_max_rows_per_output_file = ConfigNonZeroUsize::try_new(usize::MAX)?;
        let alone = TaskContext::default().with_session_config(config).with_runtime(context.runtime_env());
        let sink = as_here(self.sink.clone());
        let rows = sink.sink().write_all(data, &with_store(&alone, store)).await?;
        let files = files.0.lock().iter().map(ToString::to_string).collect();
        Ok(Written { files, rows })
    }
}

/// The files that a task has completed.
#[derive(Debug, Default)]
struct Done(Mutex<Vec<Path>>);

impl Record for Done {
    fn enter(&self, _: Path) -> datafusion::object_store::Result<()> {
        Ok(())
    }

    fn leave(&self, file: Path, is_whole: bool) {
        self.0.lock().extend(is_whole.then_some(file));
    }
}

/// The sink below those of this crate, which are not written down in plans.
fn plain(exec: &DataSinkExec) -> DataSinkExec {
    if let Some(whole) = exec.sink().downcast_ref::<WholeSink>() {
        return plain(&whole.exec);
    }
    match exec.sink().downcast_ref::<TextSink>() {
        Some(TextSink(csv)) => {
            let sink = CsvSink::new(csv.config().clone(), csv.writer_options().clone());
            DataSinkExec::new(Arc::clone(exec.input()), Arc::new(sink), exec.sort_order().clone())
        }
        None => exec.clone(),
    }
}

/// With those of this crate.
fn as_here(plain: DataSinkExec) -> DataSinkExec {
    let node: Arc<dyn ExecutionPlan> = Arc::new(plain.clone());
    let node = whole(with_texts(node).data).data;
    node.downcast_ref::<DataSinkExec>().cloned().unwrap_or(plain)
}

/// An export that may be written in parts.
#[derive(Debug, Clone)]
pub(crate) struct SharedExport(ExportSink);

impl SharedExport {
    /// The one that a plan's sink is; `None` too for one whose files only this process can write: DataFusion (55.2) has no bytes for
    /// sinks of Arrow files, and what OPTIONS say of a store is known here alone.
    pub(crate) fn of(exec: &DataSinkExec) -> Option<Self> {
        let export = exec.sink().downcast_ref::<ExportSink>()?;
        let plain = plain(&export.exec);
        let sink = plain.sink();
        let is_told = sink.is::<ParquetSink>() || sink.is::<CsvSink>() || sink.is::<JsonSink>();
        let is_known = export.export.url.get_url().password().is_none();
        (is_told && is_known).then(|| Self(export.clone()))
    }

    /// Where it writes, for people.
    pub(crate) fn target(&self) -> &str {
        &self.0.export.work.target
    }

    /// Begins its run.
    pub(crate) async fn begin(&self, context: &Arc<TaskContext>) -> Result<SharedRun> {
        let Self(sink) = self;
        let run = sink.begin(context).await?;
        let parts = Parts {
            sink: plain(&sink.exec),
            store: sink.export.url.object_store().as_str().to_owned(),
            run: run.id().as_str().to_owned(),
            partition_by: sink.export.partition_by.clone(),
            keeps_partitions: sink.keeps_partitions(context),
            rename: sink.export.rename.clone(),
        };
        Ok(SharedRun { run, parts })
    }
}

/// The run of an export that is written in parts.
#[derive(Debug)]
pub(crate) struct SharedRun {
    run: Run,
    pub(crate) parts: Parts,
}

impl SharedRun {
    /// From now on others write files of the run.
    pub(crate) fn share(&self) {
        self.run.files().share();
    }

    /// A file is one of the export.
    pub(crate) fn add(&self, file: &str) -> Result<()> {
        let file = Path::parse(file)?;
        self.run.files().enter(file.clone())?;
        self.run.files().leave(file, true);
        Ok(())
    }

    /// Removes the files of tasks that nobody told of.
    pub(crate) async fn remove_others(&self) -> Result<()> {
        Ok(self.run.remove_others().await?)
    }

    /// Completes it.
    pub(crate) async fn complete(self, context: &Arc<TaskContext>) -> Result<()> {
        self.run.remove_others().await?;
        ExportSink::complete(self.run, context).await
    }
}

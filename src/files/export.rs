//! The sink of a statement that writes into a folder: one run, whose files have its id, around DataFusion's own sink.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};

use super::below::Below;
use super::partitions::named_partitions;
use super::run::{Folder, Record, Run, Work};
use super::run_store::{Names, RunStore, with_store};
use super::writes::Writes;

/// A folder that a statement writes into.
#[derive(Debug, Clone)]
pub(super) struct Export {
    pub(super) url: ListingTableUrl,
    pub(super) work: Work,
    pub(super) partition_by: Vec<String>,
    /// Whether files keep the columns that their folders are named by; the setting decides where the statement does not.
    pub(super) keeps_partitions: Option<bool>,
    /// How names of data end there.
    pub(super) endings: Vec<String>,
    /// How DataFusion ends a name, and how it is to end.
    pub(super) rename: Option<(String, String)>,
}

/// Puts the sink of a plan, which has one, into a run.
pub(super) fn with_run(
    plan: Arc<dyn ExecutionPlan>,
    export: &Export,
    writes: &Writes,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let Some(exec) = node.downcast_ref::<DataSinkExec>() else { return Ok(Transformed::no(node)) };
        let schema = with_nulls(exec.sink().schema(), &export.partition_by);
        let sink = ExportSink { exec: exec.clone(), schema, export: export.clone(), writes: writes.clone() };
        let exec = DataSinkExec::new(Arc::clone(exec.input()), Arc::new(sink), exec.sort_order().clone());
        Ok(Transformed::yes(Arc::new(exec) as Arc<dyn ExecutionPlan>))
    })
    .data()
}

/// DataFusion (55.2) says of a table that it has no NULL in its partition columns, and would refuse one before it is written.
fn with_nulls(schema: &Schema, partition_by: &[String]) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let is_nullable = field.is_nullable() || partition_by.contains(field.name());
        field.as_ref().clone().with_nullable(is_nullable)
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// A sink that writes a folder, in one run.
#[derive(Debug, Clone)]
pub(super) struct ExportSink {
    /// The sink inside; it is kept with its node because the node lends it only.
    pub(super) exec: DataSinkExec,
    schema: SchemaRef,
    pub(super) export: Export,
    writes: Writes,
}

impl ExportSink {
    pub(super) fn keeps_partitions(&self, context: &TaskContext) -> bool {
        let execution = &context.session_config().options().execution;
        self.export.keeps_partitions.unwrap_or(execution.keep_partition_by_columns)
    }

    /// Begins its run.
    pub(super) async fn begin(&self, context: &TaskContext) -> Result<Run> {
        let Export { url, work, endings, .. } = &self.export;
        let address = url.object_store();
        let inside = context.runtime_env().object_store(&address)?;
        let below = self.writes.store(address.as_str());
        let folder = Folder {
            below: below.unwrap_or_else(|| Below::Other(inside, address.as_str().to_owned())),
            root: url.prefix().clone(),
            endings: endings.clone(),
            subfolders: !context.session_config().options().execution.listing_table_ignore_subdirectory,
        };
        Run::begin(folder, work.clone(), &self.writes).await
    }

    /// Completes it.
    pub(super) async fn complete(run: Run, context: &TaskContext) -> Result<()> {
        run.complete().await?;
        // What this session knows of folders is old.
        if let Some(listings) = context.runtime_env().cache_manager.get_list_files_cache() {
            listings.clear();
        }
        Ok(())
    }
}

#[async_trait]
impl DataSink for ExportSink {
    fn metrics(&self) -> Option<MetricsSet> {
        self.exec.sink().metrics()
    }

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(&self, data: SendableRecordBatchStream, context: &Arc<TaskContext>) -> Result<u64> {
        let Export { url, partition_by, rename, .. } = &self.export;
        let run = self.begin(context).await?;
        let inside = context.runtime_env().object_store(url.object_store())?;
        let names = Names { run: run.id().clone(), part: None, rename: rename.clone() };
        let store = RunStore { inside, names, files: Arc::clone(run.files()) as Arc<dyn Record> };
        let data = named_partitions(data, partition_by, self.keeps_partitions(context))?;
        let rows = self.exec.sink().write_all(data, &with_store(context, store)).await?;
        Self::complete(run, context).await?;
        Ok(rows)
    }
}

impl DisplayAs for ExportSink {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.exec.sink().fmt_as(format, f)
    }
}

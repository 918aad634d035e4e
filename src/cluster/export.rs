//! A folder that tasks write, each its own files.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::TryStreamExt;

use super::Cluster;
use super::job::Submission;
use super::task_files::TaskFilesExec;
use crate::files::SharedExport;

/// What COPY gives, as everywhere.
pub(super) fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("count", DataType::UInt64, false)]))
}

/// Runs an export whose files are written on a cluster, and gives the number of its rows.
pub(super) async fn exported(
    cluster: Cluster,
    input: Arc<dyn ExecutionPlan>,
    export: SharedExport,
    context: Arc<TaskContext>,
    metrics: ExecutionPlanMetricsSet,
) -> Result<RecordBatch> {
    let context = &context;
    let run = export.begin(context).await?;
    let files: Arc<dyn ExecutionPlan> = Arc::new(TaskFilesExec::new(input, run.parts.clone()));
    let plan: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(files));
    let job = Submission::new(&cluster, &plan, context, &metrics);
    run.share();
    let written: Result<Vec<RecordBatch>> = async { job.results().await?.try_collect().await }.await;
    let written = match written {
        Ok(written) => written,
        Err(error) => {
            // Of those that come later the list takes care.
            if let Err(more) = run.remove_others().await {
                log::warn!("files of an export that failed could not be removed: {more}");
            }
            return Err(error);
        }
    };
    let mut rows = 0;
    for batch in &written {
        for file in batch.column(0).as_string::<i32>().iter().flatten() {
            run.add(file)?;
        }
        rows += batch.column(1).as_primitive::<UInt64Type>().values().iter().sum::<u64>();
    }
    run.complete(context).await?;
    let rows: ArrayRef = Arc::new(UInt64Array::from(vec![rows]));
    Ok(RecordBatch::try_new(count_schema(), vec![rows])?)
}

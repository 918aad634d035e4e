//! Sinks that finish a file only when all rows reached it.
//!
//! DataFusion's file sinks (55.2) take the end of their input for its success: when the input fails, the channel to each
//! writer is closed, the writers complete their files, and only then is the error reported. A COPY that failed at row
//! 60 000 leaves a valid file of the rows before it, under the final name and in the place of an older file.
//!
//! Here the input of a sink never ends by an error: it stays silent, the error takes another way, and the sink is
//! dropped in the middle of its work. A dropped upload removes what it has staged.

use std::fmt::{self, Formatter};
use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use futures::StreamExt;
use tokio::sync::oneshot;

/// Makes every sink of a plan (COPY, INSERT) finish its files only when all rows reached them.
#[derive(Debug)]
pub struct WholeSinks;

impl PhysicalOptimizerRule for WholeSinks {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| Ok(whole(node))).data()
    }

    fn name(&self) -> &str {
        "whole_sinks"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The node with its sink in a [`WholeSink`], if it has one.
pub(super) fn whole(node: Arc<dyn ExecutionPlan>) -> Transformed<Arc<dyn ExecutionPlan>> {
    match node.downcast_ref::<DataSinkExec>() {
        Some(exec) if !exec.sink().is::<WholeSink>() => {
            let sink = Arc::new(WholeSink { exec: exec.clone() });
            Transformed::yes(Arc::new(DataSinkExec::new(exec.input().clone(), sink, exec.sort_order().clone())))
        }
        _ => Transformed::no(node),
    }
}

/// A sink that is dropped, and not ended, when its input fails.
#[derive(Debug)]
pub(super) struct WholeSink {
    /// The sink inside; it is kept with its node because the node lends it only.
    pub(super) exec: DataSinkExec,
}

#[async_trait]
impl DataSink for WholeSink {
    fn metrics(&self) -> Option<MetricsSet> {
        self.exec.sink().metrics()
    }

    fn schema(&self) -> &SchemaRef {
        self.exec.sink().schema()
    }

    async fn write_all(&self, data: SendableRecordBatchStream, context: &Arc<TaskContext>) -> Result<u64> {
        let (data, failure) = without_failure(data);
        tokio::select! {
            written = self.exec.sink().write_all(data, context) => written,
            Ok(error) = failure => Err(error),
        }
    }
}

impl DisplayAs for WholeSink {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.exec.sink().fmt_as(format, f)
    }
}

/// The stream up to its first error, where it stays pending for ever; the error comes out of the channel.
fn without_failure(data: SendableRecordBatchStream) -> (SendableRecordBatchStream, oneshot::Receiver<DataFusionError>) {
    let (sender, failure) = oneshot::channel();
    let mut sender = Some(sender);
    let schema = data.schema();
    let batches = data.then(move |batch| {
        let sender = if batch.is_err() { sender.take() } else { None };
        async move {
            match batch {
                Ok(batch) => Ok(batch),
                Err(error) => {
                    // Nobody listens when the sink itself has failed before.
                    let _ = sender.map(|sender| sender.send(error));
                    pending().await
                }
            }
        }
    });
    (Box::pin(RecordBatchStreamAdapter::new(schema, batches)), failure)
}

//! Plans as bytes between the processes of a cluster: the operators and functions of this crate, over Ballista's.

use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalPlanNode;
use prost::Message;

use super::task_files::TaskFilesExec;
use crate::EmbedCodec;
use crate::files::Parts;
use crate::marked::Mark;

/// What scheduler, executors and clients have to have for plans of this crate.
pub fn codec() -> Arc<dyn PhysicalExtensionCodec> {
    Arc::new(EmbedCodec::over(Arc::new(FilesCodec(BallistaPhysicalExtensionCodec::default()))))
}

const BROKEN: &str = "the files of an export in the plan cannot be read";

/// Before what this codec writes.
const MARK: Mark = Mark::new("embedsql files", 1, BROKEN);

/// The files that tasks write, over Ballista's own.
#[derive(Debug)]
struct FilesCodec(BallistaPhysicalExtensionCodec);

impl PhysicalExtensionCodec for FilesCodec {
    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(exec) = node.downcast_ref::<TaskFilesExec>() else { return self.0.try_encode(node, buf, converter) };
        let Parts { sink, store, run, partition_by, keeps_partitions, rename } = exec.parts();
        // The sink alone: its input is that of the operator.
        let nothing = Arc::new(EmptyExec::new(sink.input().schema()));
        let alone = replace_children_if_necessary(Arc::new(sink.clone()), vec![nothing])?;
        let (from, to) = rename.clone().unwrap_or_default();
        let message = FilesMessage {
            sink: Some(converter.execution_plan_to_proto(&alone, self)?),
            store: store.clone(),
            run: run.clone(),
            partition_by: partition_by.clone(),
            keeps_partitions: *keeps_partitions,
            rename_from: from,
            rename_to: to,
        };
        buf.extend(MARK.write(&message));
        Ok(())
    }

    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(message) = MARK.read::<FilesMessage>(buf)? else {
            return self.0.try_decode(buf, inputs, context, converter);
        };
        let broken = |what: &str| exec_datafusion_err!("{BROKEN}: {what}");
        let [input] = inputs else { return exec_err!("the files of an export have {} inputs, not 1", inputs.len()) };
        let sink = message.sink.as_ref().ok_or_else(|| broken("it has no sink"))?;
        let sink = converter.proto_to_execution_plan(sink, &PhysicalPlanDecodeContext::new(context, self))?;
        let sink = sink.downcast_ref::<DataSinkExec>().cloned().ok_or_else(|| broken("it has another sink"))?;
        let parts = Parts {
            sink,
            store: message.store,
            run: message.run,
            partition_by: message.partition_by,
            keeps_partitions: message.keeps_partitions,
            rename: Some((message.rename_from, message.rename_to)).filter(|(from, _)| !from.is_empty()),
        };
        Ok(Arc::new(TaskFilesExec::new(Arc::clone(input), parts)))
    }
}

/// [`Parts`]
#[derive(Clone, PartialEq, Message)]
struct FilesMessage {
    #[prost(message, optional, tag = "1")]
    sink: Option<PhysicalPlanNode>,
    #[prost(string, tag = "2")]
    store: String,
    #[prost(string, tag = "3")]
    run: String,
    #[prost(string, repeated, tag = "4")]
    partition_by: Vec<String>,
    #[prost(bool, tag = "5")]
    keeps_partitions: bool,
    #[prost(string, tag = "6")]
    rename_from: String,
    #[prost(string, tag = "7")]
    rename_to: String,
}

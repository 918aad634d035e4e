//! The operator of a task that writes files of an export, where it has embedded: no vector crosses the network.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::stream;

use crate::files::{Parts, Written};
use crate::plan::only_input;

/// Writes each partition of its input into files of its own, and gives their names and the number of rows.
#[derive(Debug, Clone)]
pub(super) struct TaskFilesExec {
    input: Arc<dyn ExecutionPlan>,
    parts: Parts,
    /// Which parts of the export the partitions are, where they are not all that there are.
    numbers: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl TaskFilesExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, parts: Parts) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(written_schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self { input, parts, numbers: None, properties }
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The same for some parts of the export.
    pub(super) fn numbered(&self, numbers: Vec<usize>) -> Self {
        Self { numbers: Some(numbers), ..self.clone() }
    }
}

fn written_schema() -> SchemaRef {
    let (file, rows) = (Field::new("file", DataType::Utf8, true), Field::new("rows", DataType::UInt64, false));
    Arc::new(Schema::new(vec![file, rows]))
}

/// A row for each file, and one with the number of rows.
fn written_batch(Written { files, rows }: &Written) -> Result<RecordBatch> {
    let names: ArrayRef = Arc::new(files.iter().map(Some).chain([None]).collect::<StringArray>());
    let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(files.iter().map(|_| 0).chain([*rows])));
    Ok(RecordBatch::try_new(written_schema(), vec![names, numbers])?)
}

impl DisplayAs for TaskFilesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "TaskFilesExec: ")?;
        self.parts.sink.sink().fmt_as(DisplayFormatType::Default, f)
    }
}

impl ExecutionPlan for TaskFilesExec {
    fn name(&self) -> &'static str {
        "TaskFilesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_input(self.name(), children)?;
        Ok(Arc::new(Self { numbers: self.numbers.clone(), ..Self::new(input, self.parts.clone()) }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let part = match &self.numbers {
            Some(numbers) => numbers.get(partition).copied(),
            None => Some(partition),
        };
        let Some(part) = part else { return internal_err!("partition {partition} is no part of the export") };
        let data = self.input.execute(partition, Arc::clone(&context))?;
        let parts = self.parts.clone();
        let written = async move { written_batch(&parts.write(part as u64, data, &context).await?) };
        Ok(Box::pin(RecordBatchStreamAdapter::new(written_schema(), stream::once(written))))
    }
}

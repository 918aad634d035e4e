//! The operator whose input runs on a cluster: its rows are the results of a job.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::Cluster;
use super::export::{count_schema, exported};
use super::job::Submission;
use crate::files::SharedExport;
use crate::plan::only_input;

/// Runs its input as a job, and gives its rows partition after partition; of an export, whose files the tasks write, their number.
#[derive(Debug)]
pub(super) struct ClusterExec {
    cluster: Cluster,
    input: Arc<dyn ExecutionPlan>,
    export: Option<SharedExport>,
    /// Whether executors that compute differently may share it.
    is_mixed: bool,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ClusterExec {
    pub(super) fn new(cluster: Cluster, input: Arc<dyn ExecutionPlan>, export: Option<SharedExport>) -> Self {
        let is_one = input.output_partitioning().partition_count() == 1;
        let equivalences = match &export {
            Some(_) => EquivalenceProperties::new(count_schema()),
            None if is_one => input.equivalence_properties().clone(),
            // What holds within a partition holds no more where there were several.
            None => EquivalenceProperties::new(input.schema()),
        };
        let emission = if export.is_some() { EmissionType::Final } else { input.pipeline_behavior() };
        let one = Partitioning::UnknownPartitioning(1);
        let properties = Arc::new(PlanProperties::new(equivalences, one, emission, input.boundedness()));
        Self { cluster, input, export, is_mixed: false, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The same, which executors that compute differently may share, or not.
    pub(super) fn mixed(self, is_mixed: bool) -> Self {
        Self { is_mixed, ..self }
    }
}

impl DisplayAs for ClusterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: scheduler={}", self.name(), self.cluster.address())?;
        if self.is_mixed {
            f.write_str(", mixed arithmetic")?;
        }
        self.export.iter().try_for_each(|export| write!(f, ", folder={}", export.target()))
    }
}

impl ExecutionPlan for ClusterExec {
    fn name(&self) -> &'static str {
        if self.export.is_some() { "ClusterExportExec" } else { "ClusterExec" }
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
        Ok(Arc::new(Self::new(self.cluster.clone(), input, self.export.clone()).mixed(self.is_mixed)))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (cluster, input, metrics) = (&self.cluster, &self.input, &self.metrics);
        let rows = match self.export.clone() {
            Some(export) => {
                let (cluster, input, metrics) = (cluster.clone(), Arc::clone(input), metrics.clone());
                stream::once(exported(cluster, input, export, context, metrics)).boxed()
            }
            None => {
                let submission = Submission::new(cluster, input, &context, metrics);
                stream::once(submission.results()).try_flatten().boxed()
            }
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    /// What was embedded there, once it is done.
    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

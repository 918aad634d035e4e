//! The operator: its input's columns, and behind them one vector column per call.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::equivalence::ProjectionMapping;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, Metric, MetricValue, MetricsSet, Time,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    ReplaceChildrenOptions, SendableRecordBatchStream, apply_expression_roots,
};
use parking_lot::Mutex;

use super::execution::{Kept, PlanId};
use super::input::only_input;
use super::planned::PlannedCall;
use super::stream::{EmbedStream, StreamCall};
#[cfg(feature = "cluster")]
use crate::engine::Machine;
use crate::engine::{Counters, Session};
use crate::options::EmbedOptions;

/// Runs calls of `embed` over its input, in the input's order and partitioning.
///
/// It asks for no repartitioning: the engine's workers are the parallelism, and one partition keeps all of them busy.
#[derive(Debug, Clone)]
pub(crate) struct EmbedExec {
    pub(super) input: Arc<dyn ExecutionPlan>,
    pub(super) calls: Vec<PlannedCall>,
    properties: Arc<PlanProperties>,
    /// Reads the input's partitions one after the other into one of its own.
    pub(super) joins_partitions: bool,
    pub(super) plan: PlanId,
    /// Whether its partitions run on several machines.
    #[cfg(feature = "cluster")]
    is_spread: bool,
    kept: Arc<Kept>,
    streams: Arc<Mutex<Vec<StreamCounters>>>,
    /// Rows and batches that left.
    metrics: ExecutionPlanMetricsSet,
}

/// Partition and counters of a stream that was opened.
type StreamCounters = (usize, Arc<Counters>);

impl EmbedExec {
    pub(super) fn try_new(input: Arc<dyn ExecutionPlan>, calls: Vec<PlannedCall>, plan: PlanId) -> Result<Self> {
        let properties = properties(&input, &calls, false)?;
        let metrics = ExecutionPlanMetricsSet::new();
        let (kept, streams) = (Kept::of(plan), Arc::default());
        Ok(Self {
            input,
            calls,
            properties,
            joins_partitions: false,
            plan,
            #[cfg(feature = "cluster")]
            is_spread: false,
            kept,
            streams,
            metrics,
        })
    }

    /// The same operator, for a plan whose partitions run on several machines: of one a single file has parts.
    #[cfg(feature = "cluster")]
    pub(super) fn spread(&self, is_spread: bool) -> Self {
        Self { is_spread, ..self.clone() }
    }

    /// The same operator, with the fingerprints of its models.
    #[cfg(feature = "cluster")]
    pub(super) fn with_fingerprints(&self, machine: &Machine) -> Result<Self> {
        let mut calls = self.calls.clone();
        for planned in &mut calls {
            planned.identity = planned.identity.whole(&planned.call, machine)?;
        }
        Ok(Self { calls, ..self.clone() })
    }

    /// The same operator, reading its input's partitions in their order.
    pub(super) fn joining_partitions(&self) -> Result<Self> {
        let properties = properties(&self.input, &self.calls, true)?;
        Ok(Self { properties, joins_partitions: true, ..self.clone() })
    }

    pub(super) fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let new = Self::try_new(input, self.calls.clone(), self.plan)?;
        #[cfg(feature = "cluster")]
        let new = new.spread(self.is_spread);
        if self.joins_partitions { new.joining_partitions() } else { Ok(new) }
    }
}

/// Keeps every property of the input's columns, but for those that hold within a partition where partitions are joined.
fn properties(
    input: &Arc<dyn ExecutionPlan>,
    calls: &[PlannedCall],
    joins_partitions: bool,
) -> Result<Arc<PlanProperties>> {
    let inputs = input.schema();
    let fields = inputs.fields().iter().cloned().chain(calls.iter().map(|call| Arc::clone(&call.field)));
    let schema = Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), inputs.metadata().clone()));
    let mapping = ProjectionMapping::try_new(inputs.fields().iter().enumerate().map(itself), &inputs)?;
    let mut equivalences = input.equivalence_properties().project(&mapping, schema);
    let mut partitioning = input.output_partitioning().clone();
    if joins_partitions && partitioning.partition_count() > 1 {
        equivalences.clear_orderings();
        equivalences.clear_per_partition_constants();
    }
    if joins_partitions {
        partitioning = Partitioning::UnknownPartitioning(1);
    }
    Ok(Arc::new(PlanProperties::new(equivalences, partitioning, input.pipeline_behavior(), input.boundedness())))
}

/// A column of the input under its own name.
fn itself((index, field): (usize, &FieldRef)) -> (Arc<dyn PhysicalExpr>, String) {
    (Arc::new(Column::new(field.name(), index)), field.name().clone())
}

impl DisplayAs for EmbedExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = matches!(format, DisplayFormatType::TreeRender);
        if !tree {
            f.write_str("EmbedExec: ")?;
        }
        for (i, PlannedCall { function, text, field, call, .. }) in self.calls.iter().enumerate() {
            let name = field.name();
            if tree {
                writeln!(f, "{name}={function}({text})")?;
                writeln!(f, "model={}", call.model)?;
                writeln!(f, "precision={}", call.precision)?;
            } else {
                let comma = if i == 0 { "" } else { ", " };
                let (model, precision) = (&call.model, call.precision);
                write!(f, "{comma}{name}={function}({text}), model={model}, precision={precision}")?;
            }
        }
        Ok(())
    }
}

/// What was done, as EXPLAIN ANALYZE shows it.
pub(super) fn add_counts(metrics: &mut MetricsSet, partition: Option<usize>, counters: &Counters) {
    let counts = counters.counts();
    let mut push = |value| metrics.push(Arc::new(Metric::new(value, partition)));
    for (name, number) in [
        ("rows_embedded", counts.rows_embedded),
        ("rows_null", counts.rows_null),
        ("rows_cached", counts.rows_cached),
        ("bytes_cached", counts.bytes_cached),
        ("rows_duplicate", counts.rows_duplicate),
        ("rows_truncated", counts.rows_truncated),
        ("tokens", counts.tokens),
        ("model_batches", counts.model_batches),
    ] {
        let count = Count::new();
        count.add(number as usize);
        push(MetricValue::Count { name: name.into(), count });
    }
    for (name, duration) in
        [("tokenize_time", counts.tokenize_time), ("encode_time", counts.encode_time), ("wait_time", counts.wait_time)]
    {
        // No time would be shown as a nanosecond.
        if !duration.is_zero() {
            let time = Time::new();
            time.add_duration(duration);
            push(MetricValue::Time { name: name.into(), time });
        }
    }
}

impl ExecutionPlan for EmbedExec {
    fn name(&self) -> &'static str {
        "EmbedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![!self.joins_partitions]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        #[cfg(feature = "cluster")]
        return vec![self.is_spread];
        #[cfg(not(feature = "cluster"))]
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.calls.iter().map(|call| &call.text), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_input(self.name(), children)?;
        match options.children_properties {
            ChildrenPropertiesMode::Keep => Ok(Arc::new(Self {
                input,
                streams: Arc::default(),
                metrics: ExecutionPlanMetricsSet::new(),
                ..(*self).clone()
            })),
            ChildrenPropertiesMode::Recompute => Ok(Arc::new(self.with_input(input)?)),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let partitions = if self.joins_partitions {
            (0..self.input.output_partitioning().partition_count()).collect()
        } else {
            vec![partition]
        };
        // Without the functions' settings a plan runs with their defaults.
        let config = context.session_config().options();
        let session = Session::of(config).unwrap_or_default();
        let machine = session.machine(config, &EmbedOptions::default());
        let counters = Arc::<Counters>::default();
        self.streams.lock().push((partition, Arc::clone(&counters)));
        let calls = self
            .calls
            .iter()
            .map(|call| StreamCall::new(call.clone(), machine.clone(), Arc::clone(&counters)))
            .collect();
        let execution = self.kept.execution(&context, &session, machine.memory());
        let input = (&self.input, partitions);
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        Ok(Box::pin(EmbedStream::new(input, self.schema(), calls, execution, context, baseline)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = self.metrics.clone_inner();
        let streams = self.streams.lock();
        streams.iter().for_each(|(partition, counters)| add_counts(&mut metrics, Some(*partition), counters));
        Some(metrics)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(if self.joins_partitions { None } else { partition })]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = inputs[0].as_ref().clone();
        statistics.total_byte_size = Precision::Absent;
        statistics.column_statistics.extend(self.calls.iter().map(|_| ColumnStatistics::new_unknown()));
        Ok(Arc::new(statistics))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(child_pushdown_result))
    }
}

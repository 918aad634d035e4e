//! Which part of a plan runs on the cluster, and a session that plans so.

use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::config::BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK;
use ballista_core::extension::SessionConfigExt;
use ballista_core::optimizer::with_ballista_optimizer_rules;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, not_impl_err, plan_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{Expr, LogicalPlan, PlanType, StringifiedPlan};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable, replace_children_if_necessary};
use datafusion::prelude::SessionConfig;

use super::Cluster;
use super::exec::ClusterExec;
use crate::EmbedOptions;
use crate::files::{SharedExport, VectorScans, is_of_files, known_here_only, scanned};
use crate::plan::{LiteralsExec, without_file_order};
use crate::state::rebuild;

/// Tasks of a stage, where nobody says how many: enough for a few executors to be busy to the end, and for one that is lost to
/// cost little.
const TASKS: usize = 32;

/// Bytes of a file that is read in parts, by several tasks: some hundred short texts, which keep a core busy for a second.
const LEAST_PART: usize = 16 << 10;

/// Plans as another planner does, and hands what reads files to a cluster.
#[derive(Debug)]
struct ClusterPlanner {
    inner: Arc<dyn QueryPlanner + Send + Sync>,
    cluster: Cluster,
}

/// The configuration of a session whose plans are cut into stages that run on different machines, as Ballista has it.
pub(crate) fn prepared(config: SessionConfig) -> SessionConfig {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let is_said = config.target_partitions() != cores;
    let config = config.upgrade_for_ballista();
    let mut config = config.set_usize(BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, 1);
    // Ballista prefers merge joins, which fail where an outer one has a further condition (DataFusion 55.2). Of a hash join both sides are
    // dealt out by their keys: collected, the left side's rows without a match would come from every task.
    let optimizer = &mut config.options_mut().optimizer;
    optimizer.prefer_hash_join = true;
    optimizer.hash_join_single_partition_threshold = 0;
    optimizer.hash_join_single_partition_threshold_rows = 0;
    optimizer.repartition_file_min_size = LEAST_PART;
    if is_said { config } else { config.with_target_partitions(TASKS) }
}

/// Gives a session that has a cluster the planner, around the one that it has, and the rules of Ballista.
pub(crate) fn install(state: &mut SessionState) {
    let Some(cluster) = state.config().get_extension::<Cluster>() else { return };
    rebuild(state, |former, builder| {
        let inner = Arc::clone(former.query_planner());
        let builder = builder.with_query_planner(Arc::new(ClusterPlanner { inner, cluster: cluster.as_ref().clone() }));
        let builder = builder.with_optimizer_rules(with_ballista_optimizer_rules(former.optimizers()));
        // One operator that reads several partitions in their order is no part of a stage, and a stage has DataFusion's scans.
        let mut rules = without_file_order(former.physical_optimizers());
        rules.retain(|rule| rule.name() != VectorScans.name());
        builder.with_physical_optimizer_rules(rules)
    });
}

#[async_trait]
impl QueryPlanner for ClusterPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planned = self.inner.create_physical_plan(plan, session).await?;
        if !reads_files(plan)? {
            return Ok(planned);
        }
        let embed = session.config_options().extensions.get::<EmbedOptions>();
        let is_mixed = embed.is_some_and(|embed| embed.mixed_arithmetic);
        let dealer = Dealer { cluster: self.cluster.clone(), is_mixed };
        match plan {
            LogicalPlan::Explain(explain) if !matches!(*explain.plan, LogicalPlan::Copy(_) | LogicalPlan::Dml(_)) => {
                let inside = self.inner.create_physical_plan(&explain.plan, session).await?;
                dealer.explained(planned, inside)
            }
            LogicalPlan::Explain(_) => Ok(planned),
            _ => dealer.distributed(planned),
        }
    }
}

/// Puts the parts of a plan on a cluster.
struct Dealer {
    cluster: Cluster,
    /// Whether executors that compute differently may share them.
    is_mixed: bool,
}

impl Dealer {
    /// What of a plan is not done here runs there.
    fn distributed(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        // Literals are computed here, before anything is handed in.
        if let Some(literals) = plan.downcast_ref::<LiteralsExec>() {
            let inside = self.distributed(Arc::clone(&literals.input))?;
            return replace_children_if_necessary(plan, vec![inside]);
        }
        if let Some(sink) = plan.downcast_ref::<DataSinkExec>() {
            return match SharedExport::of(sink) {
                Some(export) => {
                    let (literals, input) = match sink.input().downcast_ref::<LiteralsExec>() {
                        Some(literals) => (Some(Arc::clone(sink.input())), &literals.input),
                        None => (None, sink.input()),
                    };
                    let input = dealt_out(side_by_side(input))?;
                    let rows =
                        Arc::new(ClusterExec::new(self.cluster.clone(), input, Some(export)).mixed(self.is_mixed));
                    literals.map_or(Ok(rows.clone() as _), |exec| replace_children_if_necessary(exec, vec![rows]))
                }
                // A file has one writer.
                None => {
                    let rows = self.distributed(Arc::clone(sink.input()))?;
                    replace_children_if_necessary(plan, vec![rows])
                }
            };
        }
        if plan.is::<AnalyzeExec>() {
            let inside = plan.children().into_iter().map(|child| self.distributed(Arc::clone(child)));
            let inside = inside.collect::<Result<Vec<_>>>()?;
            return replace_children_if_necessary(plan, inside);
        }
        self.on_cluster(plan)
    }

    fn on_cluster(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(ClusterExec::new(self.cluster.clone(), dealt_out(plan)?, None).mixed(self.is_mixed)))
    }

    /// An EXPLAIN whose plan is that of the cluster.
    fn explained(
        &self,
        explain: Arc<dyn ExecutionPlan>,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(shown) = explain.downcast_ref::<ExplainExec>() else { return Ok(explain) };
        let plan = self.distributed(plan)?;
        let texts = shown.stringified_plans().iter().map(|text| {
            let is_tree = text.plan.starts_with('┌');
            let displayed = displayable(plan.as_ref());
            match text.plan_type {
                PlanType::FinalPhysicalPlan if is_tree => {
                    StringifiedPlan::new(PlanType::FinalPhysicalPlan, displayed.tree_render().to_string())
                }
                PlanType::FinalPhysicalPlan => {
                    StringifiedPlan::new(PlanType::FinalPhysicalPlan, displayed.indent(shown.verbose()).to_string())
                }
                _ => text.clone(),
            }
        });
        Ok(Arc::new(ExplainExec::new(shown.schema(), texts.collect(), shown.verbose())))
    }
}

/// A plan as Ballista (55.0) deals it out to tasks without a change of its rows.
///
/// # Errors
///
/// For one of which it would not, and one that reads what only this session can.
fn dealt_out(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        if let Some(what) = scanned(&node).and_then(known_here_only) {
            return plan_err!(
                "{what}: a cluster does not have it: give its executors an environment, or run this without --cluster"
            );
        }
        // Beside files in a UNION a row without a source is lost, or is waited for, for ever.
        if node.is::<PlaceholderRowExec>() || node.is::<EmptyExec>() {
            return as_memory(node);
        }
        if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
            && gives_left_rows(*join.join_type())
            && join.right().output_partitioning().partition_count() > 1
        {
            // Of a left row without a match one task has to know: joined partitions would still be dealt out, one to a task.
            let one = Partitioning::Hash(vec![lit(0)], 1);
            let right: Arc<dyn ExecutionPlan> = Arc::new(RepartitionExec::try_new(Arc::clone(join.right()), one)?);
            let children = vec![Arc::clone(join.left()), right];
            return Ok(Transformed::yes(replace_children_if_necessary(node, children)?));
        }
        if let Some(join) = node.downcast_ref::<HashJoinExec>()
            && *join.partition_mode() == PartitionMode::CollectLeft
            && gives_left_rows(*join.join_type())
            && !join.null_aware
            && join.right().output_partitioning().partition_count() > 1
        {
            return plan_err!(
                "this join collects its left side, which a cluster cannot do: SET \
                 datafusion.optimizer.hash_join_single_partition_threshold = 0, and the same with _rows"
            );
        }
        Ok(Transformed::no(node))
    })
    .data()
}

/// Whether a join gives rows of its left side by what all of its right side is.
fn gives_left_rows(join: JoinType) -> bool {
    matches!(join, JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark)
}

/// A source of no row, or of one, as rows in memory.
fn as_memory(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    // The column of a row without a source is NULL, whatever is said of it, and nobody reads it.
    let fields =
        node.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let schema = Arc::new(Schema::new(fields));
    let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let rows = match node.is::<EmptyExec>() {
        true => Vec::new(),
        false => vec![RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?],
    };
    let source = MemorySourceConfig::try_new_exec(&[rows], schema, None)?;
    Ok(Transformed::yes(source))
}

/// The partitions that a sink for all rows would read one after the other.
fn side_by_side(input: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match input.downcast_ref::<CoalescePartitionsExec>().filter(|coalesce| coalesce.fetch().is_none()) {
        Some(coalesce) => Arc::clone(coalesce.input()),
        None => Arc::clone(input),
    }
}

fn is_filtered_window(expr: &Expr) -> bool {
    matches!(expr, Expr::WindowFunction(function) if function.params.filter.is_some())
}

/// Whether a plan reads files, which a cluster reads; what reads nothing, or what this session alone has, runs here.
///
/// # Errors
///
/// For one that reads both.
fn reads_files(plan: &LogicalPlan) -> Result<bool> {
    let (mut files, mut own) = (None, None);
    let (mut is_recursive, mut filters_window) = (false, false);
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let provider = source_as_provider(&scan.source)?;
            let name = scan.table_name.to_string();
            let place = if is_of_files(provider.as_ref()) { &mut files } else { &mut own };
            place.get_or_insert(name);
        }
        is_recursive |= matches!(node, LogicalPlan::RecursiveQuery(_));
        node.apply_expressions(|expr| {
            filters_window |= expr.exists(|expr| Ok(is_filtered_window(expr)))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    match (&files, &own) {
        (Some(files), _) if is_recursive => {
            not_impl_err!("WITH RECURSIVE over \"{files}\" does not run on a cluster; run it without --cluster")
        }
        // Bytes of a plan (DataFusion 55.2) do not have it, and all rows would count.
        (Some(files), _) if filters_window => not_impl_err!(
            "FILTER of a window function over \"{files}\" does not run on a cluster; write CASE WHEN ... THEN ... END as its argument, \
             or run it without --cluster"
        ),
        (Some(files), Some(own)) => plan_err!(
            "table \"{own}\" is of this session alone, and \"{files}\" is read on a cluster: write the rows of the former to a file \
             first, by COPY (SELECT ...) TO 'rows.parquet', and read that"
        ),
        _ => Ok(files.is_some()),
    }
}

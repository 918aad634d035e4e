//! The physical rule that keeps rows in their order.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};

use super::exec::EmbedExec;

/// Keeps rows in their order where DataFusion would mix them to make cheap expressions parallel.
///
/// Above an [`EmbedExec`] a chain of filters and projections deals no rows out to partitions, and below it none of those of
/// a scan: the engine's workers are the parallelism. So a file keeps its order, and so does a sort below late columns: of a
/// sort under computed columns DataFusion forgets that it is the query's. Where the partitions of a chain over a scan come
/// together again, they are read one after the other.
#[derive(Debug)]
pub(super) struct FileOrder;

/// The rules of a session whose plans are cut into stages: an operator that reads several partitions, where only one is seen, has no
/// place there.
#[cfg(feature = "cluster")]
pub(crate) fn without_file_order(
    rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>],
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    rules.iter().filter(|rule| rule.name() != FileOrder.name()).cloned().collect()
}

impl PhysicalOptimizerRule for FileOrder {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if !plan.exists(|plan| Ok(plan.is::<EmbedExec>()))? {
            return Ok(plan);
        }
        plan.transform_down(dealt_and_collected)?.data.transform_down(come_together).data()
    }

    fn name(&self) -> &'static str {
        "embed_file_order"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Takes the dealer out of a chain, and lets a filter between two calls collect few rows.
fn dealt_and_collected(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let undealt = if has_embed(&plan) { undealt(&plan)? } else { None };
    let changed = undealt.is_some();
    let plan = undealt.unwrap_or(plan);
    if let Some(exec) = plan.downcast_ref::<EmbedExec>()
        && let Some(filter) = exec.input.downcast_ref::<FilterExec>()
        && has_embed(filter.input())
        && filter.batch_size() > BETWEEN_CALLS
    {
        let input = Arc::new(filter.with_batch_size(BETWEEN_CALLS)?);
        return Ok(Transformed::yes(Arc::new(exec.with_input(input)?)));
    }
    Ok(Transformed::new(plan, changed, TreeNodeRecursion::Continue))
}

/// Reads the partitions of a chain over a scan one after the other where they come together. A limit stays where it is.
fn come_together(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if let Some(coalesce) = plan.downcast_ref::<CoalescePartitionsExec>()
        && !coalesce.input().boundedness().is_unbounded()
        && let Some(chain) = joined(coalesce.input())?
    {
        let limited = coalesce.fetch().map(|_| with_input(&plan, Arc::clone(&chain))).transpose()?;
        return Ok(Transformed::new(limited.unwrap_or(chain), true, TreeNodeRecursion::Jump));
    }
    Ok(Transformed::no(plan))
}

/// Rows that a filter on vectors collects for the next call: a filter gives nothing before it has a whole record batch, and a
/// LIMIT above should not wait for thousands of vectors.
const BETWEEN_CALLS: usize = 64;

/// A filter, a projection or an [`EmbedExec`]: a link of a chain.
fn is_link(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<ProjectionExec>() || plan.is::<FilterExec>() || plan.is::<EmbedExec>()
}

/// What rows are dealt out by, one after the other.
fn dealer(plan: &Arc<dyn ExecutionPlan>) -> Option<&RepartitionExec> {
    let deal = plan.downcast_ref::<RepartitionExec>()?;
    let one = deal.input().output_partitioning().partition_count() == 1;
    (one && matches!(deal.partitioning(), Partitioning::RoundRobinBatch(_))).then_some(deal)
}

/// Whether a chain has an [`EmbedExec`].
fn has_embed(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<EmbedExec>() || (is_link(plan) || dealer(plan).is_some()) && has_embed(plan.children()[0])
}

/// Whether a chain ends at a scan.
fn is_scan_chain(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.children().is_empty() || is_link(plan) && is_scan_chain(plan.children()[0])
}

fn with_input(plan: &Arc<dyn ExecutionPlan>, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(plan).replace_children(vec![input], options)
}

/// A chain without the dealer in it; `None` if it has none.
fn undealt(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(deal) = dealer(plan) {
        let input = deal.input();
        return Ok((has_embed(input) || is_scan_chain(input)).then(|| Arc::clone(input)));
    }
    if !is_link(plan) {
        return Ok(None);
    }
    undealt(plan.children()[0])?.map(|input| with_input(plan, input)).transpose()
}

/// A chain over a scan whose topmost [`EmbedExec`] reads its partitions in order; `None` if it is no such chain.
fn joined(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(exec) = plan.downcast_ref::<EmbedExec>() {
        return Ok(if is_scan_chain(&exec.input) { Some(Arc::new(exec.joining_partitions()?)) } else { None });
    }
    if !is_link(plan) {
        return Ok(None);
    }
    joined(plan.children()[0])?.map(|input| with_input(plan, input)).transpose()
}

//! The physical rule that spreads the side of a join which is looked at row by row over all cores.
//!
//! A table in memory has the partitions that it was made in: one of two may be empty, and a small table is a single record batch.
//! DataFusion 55.2 takes them as they are, so that a join of such a table with itself, `a JOIN b ON a.v <-> b.v < 0.3`, runs on one
//! core. Its batches are cut into smaller ones too, because a join without an equality writes each row of the other side as often as
//! a batch has rows, and 8 192 copies of a vector are in no cache.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::join_selection::JoinSelection;
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayFormatType, ExecutionPlan, Partitioning, SendableRecordBatchStream, replace_children_if_necessary,
};
use futures::StreamExt;

use super::pages::{Rule, is};

/// Rows of a table that is left as it is, with its rows in their order: all its pairs are compared in no time.
const FEW: usize = 1_000;

/// The rule; it is for plans that say which side is which, and that have not been made to fit their partitions yet.
#[derive(Debug)]
pub(super) struct Probes;

impl Probes {
    /// Puts the rule behind the one that decides the sides.
    pub(super) fn among(mut rules: Vec<Rule>) -> Vec<Rule> {
        if let Some(place) = rules.iter().position(is::<JoinSelection>) {
            rules.insert(place + 1, Arc::new(Self));
        }
        rules
    }
}

impl PhysicalOptimizerRule for Probes {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let shares = Shares {
            partitions: config.execution.target_partitions.max(1),
            // A join without an equality takes smaller ones together again: those that go more than ten times into a batch.
            rows: config.execution.batch_size.get() / 11 + 1,
        };
        let join =
            |node: Arc<dyn ExecutionPlan>| match probed(&node).map(|side| shares.spread(side)).transpose()?.flatten() {
                Some(side) => {
                    let built = Arc::clone(node.children()[0]);
                    replace_children_if_necessary(node, vec![built, side]).map(Transformed::yes)
                }
                None => Ok(Transformed::no(node)),
            };
        plan.transform_up(join).data()
    }

    fn name(&self) -> &'static str {
        "probes"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The side of a join that is looked at row by row, in whatever partitions it has.
fn probed(node: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let is_any = node.is::<NestedLoopJoinExec>() || node.is::<CrossJoinExec>();
    let collects = |join: &HashJoinExec| *join.partition_mode() == PartitionMode::CollectLeft;
    if is_any || node.downcast_ref::<HashJoinExec>().is_some_and(collects) { Some(node.children()[1]) } else { None }
}

/// How the rows of a table are shared out.
struct Shares {
    partitions: usize,
    /// Of a batch, at least, where a partition has more.
    rows: usize,
}

impl Shares {
    /// The same rows in even partitions; `None` where they are, or are no table's in memory.
    fn spread(&self, node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if node.is::<ProjectionExec>() || node.is::<FilterExec>() {
            let below = self.spread(node.children()[0])?;
            return below.map(|below| replace_children_if_necessary(Arc::clone(node), vec![below])).transpose();
        }
        let Some(table) = node.downcast_ref::<DataSourceExec>().and_then(memory) else { return Ok(None) };
        let batches: Vec<&RecordBatch> =
            table.partitions().iter().flatten().filter(|batch| batch.num_rows() > 0).collect();
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        if rows < FEW {
            return Ok(None);
        }
        let share = rows.div_ceil(self.partitions);
        let pieces = (share / self.rows).max(1);
        let most = share.div_ceil(pieces);
        let of = |partition: &Vec<RecordBatch>| partition.iter().map(RecordBatch::num_rows).sum::<usize>();
        let is_even = table.partitions().iter().map(of).max() <= Some(share + share / 8);
        if is_even && batches.iter().all(|batch| batch.num_rows() <= 2 * most) {
            return Ok(None);
        }
        let parts = self.cut(&batches, share, most);
        let table = MemorySourceConfig::try_new(&parts, table.original_schema(), table.projection().clone())?;
        Ok(Some(DataSourceExec::from_data_source(Pieces(table))))
    }

    /// Batches of so many rows at most, in partitions of so many.
    fn cut(&self, batches: &[&RecordBatch], share: usize, most: usize) -> Vec<Vec<RecordBatch>> {
        let mut parts = vec![Vec::new(); self.partitions];
        let (mut part, mut room) = (0, share);
        for batch in batches {
            let mut start = 0;
            while start < batch.num_rows() {
                let rows = most.min(room).min(batch.num_rows() - start);
                parts[part].push(batch.slice(start, rows));
                (start, room) = (start + rows, room - rows);
                if room == 0 {
                    (part, room) = (part + 1, share);
                }
            }
        }
        parts
    }
}

/// What a scan reads, where that is a table in memory whose rows have no order and no limit.
fn memory(scan: &DataSourceExec) -> Option<&MemorySourceConfig> {
    let table = scan.data_source().downcast_ref::<MemorySourceConfig>()?;
    (table.sort_information().is_empty() && table.fetch().is_none()).then_some(table)
}

/// A table in memory that lets others run before each batch.
///
/// A join looks for minutes at what it has been given and gives way to nobody. The task of its next partition may wait for just this
/// thread: tokio runs a task that another one has woken on the thread of that one, and no other thread takes it from there.
#[derive(Debug)]
struct Pieces(MemorySourceConfig);

impl DataSource for Pieces {
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = self.0.open(partition, context)?;
        let schema = batches.schema();
        let batches = batches.then(async |batch| {
            tokio::task::yield_now().await;
            batch
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as(kind, f)
    }

    fn output_partitioning(&self) -> Partitioning {
        self.0.output_partitioning()
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        self.0.eq_properties()
    }

    fn scheduling_type(&self) -> SchedulingType {
        SchedulingType::Cooperative
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.0.partition_statistics(partition)
    }

    fn with_fetch(&self, _: Option<usize>) -> Option<Arc<dyn DataSource>> {
        None
    }

    fn fetch(&self) -> Option<usize> {
        None
    }

    fn try_swapping_with_projection(&self, _: &ProjectionExprs) -> Result<Option<Arc<dyn DataSource>>> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.0.apply_expressions(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::arrow::record_batch::RecordBatch;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::Shares;

    proptest! {
        #[test]
        fn every_row_is_there_once_and_in_its_place(lengths in vec(1usize..40, 1..12), partitions in 1usize..9, rows in 1usize..20) {
            let all: usize = lengths.iter().sum();
            let mut next = 0;
            let batch = |length: &usize| {
                let ids = Int64Array::from_iter_values(next..next + *length as i64);
                next += *length as i64;
                RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef)]).expect("a batch")
            };
            let batches: Vec<RecordBatch> = lengths.iter().map(batch).collect();
            let share = all.div_ceil(partitions);
            let most = share.div_ceil((share / rows).max(1));
            let parts = Shares { partitions, rows }.cut(&batches.iter().collect::<Vec<_>>(), share, most);
            prop_assert_eq!(parts.len(), partitions);
            let ids = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
            let found: Vec<i64> = parts.iter().flatten().flat_map(ids).collect();
            prop_assert_eq!(found, (0..all as i64).collect::<Vec<_>>());
            for part in &parts {
                prop_assert!(part.iter().map(RecordBatch::num_rows).sum::<usize>() <= share);
                prop_assert!(part.iter().all(|batch| batch.num_rows() <= most));
            }
        }
    }
}

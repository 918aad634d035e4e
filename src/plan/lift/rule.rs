//! The rule itself: through the tree, inputs first, and what is made of a plan where that fails.
//!
//! ```text
//! limit
//!     SELECT id, embed(body) AS e FROM docs LIMIT 5
//! before
//!     Projection: docs.id, embed(docs.body) AS e
//!       Limit: skip=0, fetch=5
//!         TableScan: docs projection=[id, body], fetch=5
//! after
//!     Projection: docs.id, __embed_1 AS e
//!       Embed: embed(__embed_0) AS __embed_1
//!         Projection: docs.id, docs.body AS __embed_0
//!           Limit: skip=0, fetch=5
//!             TableScan: docs projection=[id, body], fetch=5
//! ```
//!
//! ```text
//! anything else
//!     COPY (SELECT id, embed(body) AS e FROM docs) TO 'vectors.parquet'
//! before
//!     CopyTo: format=parquet output_url=vectors.parquet options: ()
//!       Projection: docs.id, embed(docs.body) AS e
//!         TableScan: docs projection=[id, body]
//! after
//!     CopyTo: format=parquet output_url=vectors.parquet options: ()
//!       Projection: docs.id, __embed_1 AS e
//!         Embed: embed(__embed_0) AS __embed_1
//!           Projection: docs.id, docs.body AS __embed_0
//!             TableScan: docs projection=[id, body]
//! ```
//!
//! ```text
//! recursive query
//!     WITH RECURSIVE more AS (SELECT body FROM docs UNION ALL SELECT body FROM more WHERE embed(body) IS NOT NULL)
//!     SELECT body FROM more
//! before
//!     SubqueryAlias: more
//!       RecursiveQuery: is_distinct=false
//!         TableScan: docs projection=[body]
//!         Filter: embed(more.body) IS NOT NULL
//!           TableScan: more projection=[body]
//! after
//!     SubqueryAlias: more
//!       RecursiveQuery: is_distinct=false
//!         TableScan: docs projection=[body]
//!         Filter: embed(more.body) IS NOT NULL
//!           TableScan: more projection=[body]
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, WriteOp};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{OptimizerContext, OptimizerRule};

use super::columns::same_columns;
use super::join::defers;
use super::lifted::Lifted;
use super::lifter::Lifter;
use super::scan::without_calls;
use super::union::UnionInput;
use crate::plan::calls::plan_has_call;

/// Moves the calls of `embed` in an optimized plan into [`EmbedNode`](crate::plan::node::EmbedNode)s, as late as their rows
/// allow.
///
/// Gives the same rows, names, qualifiers and types. Where it would not, and where there is nothing to lift, the plan stays
/// as it is; lifting a lifted plan changes nothing.
pub(in crate::plan) fn lift(plan: &LogicalPlan) -> Result<LogicalPlan> {
    if !plan_has_call(plan) {
        return Ok(plan.clone());
    }
    settle(lifted(plan), plan)
}

/// The plan with its calls lifted, `None` where there is nothing to lift.
fn lifted(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    let mut lifter = Lifter::of(plan);
    let lifted = lifter.root(plan.clone())?;
    if !lifter.has_named() {
        return Ok(None);
    }
    // Columns that were carried along and are not needed any more leave where they can.
    let lifted = OptimizeProjections::new().rewrite(lifted, &OptimizerContext::new())?.data;
    Ok(Some(lifted).filter(|lifted| same_columns(plan.schema(), lifted.schema())))
}

/// Whether a rule that fails is an error of the query, see `fail_on_broken_rule`.
static FAILS: AtomicBool = AtomicBool::new(false);

/// From now on a rule that fails is an error of the query that it failed on, in the whole process: for tests, which would
/// not see a query that is only slow.
#[cfg(feature = "stages")]
pub(crate) fn fail_on_broken_rule() {
    FAILS.store(true, Ordering::Relaxed);
}

/// What is planned: without a lifted plan the one that is there, which gives the same rows more slowly. A rule that fails is
/// a bug, and the log says so.
pub(super) fn settle(lifted: Result<Option<LogicalPlan>>, plan: &LogicalPlan) -> Result<LogicalPlan> {
    match lifted {
        Ok(lifted) => Ok(lifted.unwrap_or_else(|| plan.clone())),
        Err(error) if FAILS.load(Ordering::Relaxed) => {
            Err(error.context("embed: calls could not be lifted. This is a bug"))
        }
        Err(error) => {
            log::warn!("embed: calls could not be lifted, so the query may embed more rows than it gives: {error}");
            Ok(plan.clone())
        }
    }
}

/// Whether a node keeps plain calls, in itself and below.
fn keeps_calls(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::RecursiveQuery(_) => true,
        // DataFusion reads the conditions and values of these out of the logical plan.
        LogicalPlan::Dml(dml) => !matches!(dml.op, WriteOp::Insert(_) | WriteOp::Ctas),
        _ => false,
    }
}

impl Lifter {
    /// A plan with all its columns.
    fn root(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let schema = Arc::clone(plan.schema());
        let lifted = self.lift(plan, false)?;
        self.complete(lifted, &schema)
    }

    /// Lifts what a node reads, and leaves nothing there.
    fn input(&mut self, input: &mut Arc<LogicalPlan>, defer: bool) -> Result<Lifted> {
        self.lift(Arc::unwrap_or_clone(std::mem::take(input)), defer)
    }

    /// Lifts a plan, of which conditions may be deferred or not.
    fn lift(&mut self, plan: LogicalPlan, defer: bool) -> Result<Lifted> {
        if !plan_has_call(&plan) || keeps_calls(&plan) {
            return Ok(Lifted::complete(plan));
        }
        let plan = plan.map_uncorrelated_subqueries(|subquery| self.root(subquery).map(Transformed::yes))?.data;
        match plan {
            LogicalPlan::Projection(mut projection) => {
                let input = self.input(&mut projection.input, defer)?;
                self.projection(projection, input)
            }
            LogicalPlan::Filter(mut filter) => {
                let input = self.input(&mut filter.input, defer)?;
                self.filter(filter.predicate, input, defer)
            }
            LogicalPlan::SubqueryAlias(mut alias) => {
                let before = Arc::clone(alias.input.schema());
                let input = self.input(&mut alias.input, defer)?;
                self.subquery_alias(&alias, &before, input)
            }
            LogicalPlan::Join(mut join) => {
                let (left_defers, right_defers) = defers(&join);
                let left = self.input(&mut join.left, left_defers)?;
                let right = self.input(&mut join.right, right_defers)?;
                self.join(join, left, right, defer)
            }
            other => self.lift_complete(other),
        }
    }

    /// Lifts a plan that defers nothing: what it gives depends on which rows it gets.
    fn lift_complete(&mut self, plan: LogicalPlan) -> Result<Lifted> {
        match plan {
            LogicalPlan::Sort(mut sort) => {
                let input = self.input(&mut sort.input, false)?;
                self.sort(sort, input)
            }
            LogicalPlan::Limit(mut limit) => {
                let mut lifted = self.input(&mut limit.input, false)?;
                limit.input = Arc::new(lifted.plan);
                lifted.plan = LogicalPlan::Limit(limit);
                Ok(lifted)
            }
            LogicalPlan::Union(mut union) => {
                let inputs = std::mem::take(&mut union.inputs).into_iter().map(|input| self.union_input(input));
                let inputs = inputs.collect::<Result<_>>()?;
                self.union(&union, inputs)
            }
            LogicalPlan::Aggregate(mut aggregate) => {
                let input = self.input(&mut aggregate.input, false)?;
                self.aggregate(aggregate, input)
            }
            LogicalPlan::Window(mut window) => {
                let input = self.input(&mut window.input, false)?;
                self.window(window, input)
            }
            LogicalPlan::TableScan(scan) => Ok(Lifted::complete(LogicalPlan::TableScan(without_calls(scan)?))),
            other => Ok(Lifted::complete(other.map_children(|input| self.root(input).map(Transformed::yes))?.data)),
        }
    }

    fn union_input(&mut self, mut input: Arc<LogicalPlan>) -> Result<UnionInput> {
        let before = Arc::clone(input.schema());
        Ok(UnionInput { lifted: self.input(&mut input, false)?, before })
    }
}

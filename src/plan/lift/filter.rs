//! Filter: conditions without a call run first, then those with one, in the order written, each on the rows that the ones
//! before it have left.
//!
//! ```text
//! filter
//!     SELECT id FROM docs WHERE embed(title) IS NOT NULL AND embed(body) IS NOT NULL AND id < 10
//! before
//!     Projection: docs.id
//!       Filter: docs.id < Int64(10) AND embed(docs.title) IS NOT NULL AND embed(docs.body) IS NOT NULL
//!         TableScan: docs projection=[id, title, body]
//! after
//!     Projection: docs.id
//!       Filter: __embed_1 IS NOT NULL
//!         Projection: docs.id, __embed_1
//!           Embed: embed(docs.body) AS __embed_1
//!             Filter: __embed_0 IS NOT NULL
//!               Projection: docs.id, docs.body, __embed_0
//!                 Embed: embed(docs.title) AS __embed_0
//!                   Filter: docs.id < Int64(10)
//!                     TableScan: docs projection=[id, title, body]
//! ```

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan};

use super::lifted::Lifted;
use super::lifter::Lifter;
use crate::plan::calls::{can_be_late, has_call};

impl Lifter {
    /// `defer` says that a join above leaves fewer rows: conditions with a call are left to it.
    pub(super) fn filter(&mut self, predicate: Expr, mut input: Lifted, defer: bool) -> Result<Lifted> {
        let conditions = split_conjunction_owned(input.resolve(predicate)?);
        let (mut deferred, here): (Vec<_>, Vec<_>) =
            conditions.into_iter().partition(|condition| defer && can_be_late(condition));
        self.restrict(&mut input, here)?;
        input.deferred.append(&mut deferred);
        Ok(input)
    }

    /// Leaves the rows that meet the conditions that were deferred to here.
    pub(super) fn restrict_by_deferred(&mut self, lifted: &mut Lifted) -> Result<()> {
        let deferred = std::mem::take(&mut lifted.deferred);
        self.restrict(lifted, deferred)
    }

    /// Leaves the rows that meet conditions over the plan's columns: first those without a call, then those with one in their
    /// order, so that each runs on the rows that the ones before it have left.
    fn restrict(&mut self, lifted: &mut Lifted, conditions: Vec<Expr>) -> Result<()> {
        let (costly, mut waiting): (Vec<_>, Vec<_>) = conditions.into_iter().partition(has_call);
        for condition in costly {
            let condition = lifted.resolve(condition)?;
            if has_call(&condition) {
                lifted.plan = filtered(std::mem::take(&mut waiting), std::mem::take(&mut lifted.plan))?;
            }
            waiting.push(self.compute_one(lifted, condition)?);
        }
        lifted.plan = filtered(waiting, std::mem::take(&mut lifted.plan))?;
        Ok(())
    }
}

/// The rows of a plan that meet all conditions.
fn filtered(conditions: Vec<Expr>, plan: LogicalPlan) -> Result<LogicalPlan> {
    match conjunction(conditions) {
        Some(predicate) => Ok(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?)),
        None => Ok(plan),
    }
}

//! Join: passes late columns of both sides on, and runs conditions with calls on the rows that it leaves.
//!
//! ```text
//! inner join
//!     SELECT d.id, d.e FROM (SELECT id, embed(body) AS e FROM docs) AS d
//!     JOIN notes ON d.id = notes.id
//! before
//!     Projection: d.id, d.e
//!       Inner Join: d.id = notes.id
//!         SubqueryAlias: d
//!           Projection: docs.id, embed(docs.body) AS e
//!             TableScan: docs projection=[id, body]
//!         TableScan: notes projection=[id]
//! after
//!     Projection: d.id, __embed_2 AS e
//!       Embed: embed(__embed_1) AS __embed_2
//!         Projection: d.id, d.__embed_0 AS __embed_1
//!           Inner Join: d.id = notes.id
//!             SubqueryAlias: d
//!               Projection: docs.id, docs.body AS __embed_0
//!                 TableScan: docs projection=[id, body]
//!             TableScan: notes projection=[id]
//! ```
//!
//! ```text
//! outer join
//!     SELECT notes.id, d.e, d.f FROM notes
//!     LEFT JOIN (SELECT id, embed(body) AS e, embed(coalesce(title, 'none')) AS f FROM docs) AS d ON d.id = notes.id
//! before
//!     Projection: notes.id, d.e, d.f
//!       Left Join: notes.id = d.id
//!         TableScan: notes projection=[id]
//!         SubqueryAlias: d
//!           Projection: docs.id, embed(docs.body) AS e, embed(CASE WHEN docs.title IS NOT NULL THEN docs.title ELSE Utf8View("none") END) AS f
//!             TableScan: docs projection=[id, title, body]
//! after
//!     Projection: notes.id, __embed_4 AS e, d.f
//!       Embed: embed(__embed_3) AS __embed_4
//!         Projection: notes.id, d.f, d.__embed_0 AS __embed_3
//!           Left Join: notes.id = d.id
//!             TableScan: notes projection=[id]
//!             Projection: d.id, d.__embed_0, __embed_2 AS f
//!               Embed: embed(CASE WHEN d.__embed_1 IS NOT NULL THEN d.__embed_1 ELSE Utf8View("none") END) AS __embed_2
//!                 SubqueryAlias: d
//!                   Projection: docs.id, docs.body AS __embed_0, docs.title AS __embed_1
//!                     TableScan: docs projection=[id, title, body]
//! ```
//!
//! ```text
//! join condition
//!     SELECT docs.id FROM docs
//!     JOIN notes ON docs.id = notes.id AND cosine_similarity(embed(body), embed(note)) > 0.5::FLOAT
//! before
//!     Projection: docs.id
//!       Inner Join: docs.id = notes.id Filter: cosine_similarity(embed(docs.body), embed(notes.note)) > Float32(0.5)
//!         TableScan: docs projection=[id, body]
//!         TableScan: notes projection=[id, note]
//! after
//!     Projection: docs.id
//!       Filter: cosine_similarity(__embed_0, __embed_1) > Float32(0.5)
//!         Projection: docs.id, __embed_0, __embed_1
//!           Embed: embed(docs.body) AS __embed_0, embed(notes.note) AS __embed_1
//!             Inner Join: docs.id = notes.id
//!               TableScan: docs projection=[id, body]
//!               TableScan: notes projection=[id, note]
//! ```

use std::sync::Arc;

use datafusion::common::JoinType::{
    self, Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi,
};
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Join, LogicalPlan};

use super::columns::with_columns;
use super::lifted::Lifted;
use super::lifter::Lifter;
use crate::plan::calls::{can_be_late, is_strict};

/// Whether the conditions of the left and of the right input are left to the join: it keeps few of their rows, and makes no
/// NULLs of them.
pub(super) fn defers(join: &Join) -> (bool, bool) {
    let has_keys = !join.on.is_empty();
    let left = has_keys && matches!(join.join_type, Inner | LeftSemi | LeftAnti);
    let right = has_keys && matches!(join.join_type, Inner | RightSemi | RightAnti);
    (left, right)
}

/// Which sides the join fills with NULLs where there is no match.
fn fills_with_nulls(join_type: JoinType) -> (bool, bool) {
    (matches!(join_type, Right | Full), matches!(join_type, Left | Full))
}

/// Which sides' columns the join has.
fn gives(join_type: JoinType) -> (bool, bool) {
    let left = !matches!(join_type, RightSemi | RightAnti | RightMark);
    let right = !matches!(join_type, LeftSemi | LeftAnti | LeftMark);
    (left, right)
}

impl Lifter {
    /// `defer` says that a join above leaves fewer rows: conditions with a call are left to it.
    pub(super) fn join(&mut self, mut join: Join, mut left: Lifted, mut right: Lifted, defer: bool) -> Result<Lifted> {
        for (l, r) in &mut join.on {
            *l = self.compute_one(&mut left, std::mem::take(l))?;
            *r = self.compute_one(&mut right, std::mem::take(r))?;
        }
        let mut deferred = self.join_condition(&mut join, &mut left, &mut right)?;
        deferred.append(&mut left.deferred);
        deferred.append(&mut right.deferred);
        let (left_has_nulls, right_has_nulls) = fills_with_nulls(join.join_type);
        if left_has_nulls {
            self.compute_what_is_not_strict(&mut left)?;
        }
        if right_has_nulls {
            self.compute_what_is_not_strict(&mut right)?;
        }
        let (gives_left, gives_right) = gives(join.join_type);
        let plan = joined(join, std::mem::take(&mut left.plan), std::mem::take(&mut right.plan))?;
        let mut lifted = Lifted { deferred, ..Lifted::complete(plan) };
        for side in [gives_left.then_some(left), gives_right.then_some(right)].into_iter().flatten() {
            lifted.late.extend(side.late);
            lifted.computed.extend(side.computed);
        }
        if !defer {
            self.restrict_by_deferred(&mut lifted)?;
        }
        Ok(lifted)
    }

    /// Leaves the part of the join's condition that it has to see itself, over the columns of its inputs, and gives the part
    /// that is left to its rows.
    fn join_condition(&mut self, join: &mut Join, left: &mut Lifted, right: &mut Lifted) -> Result<Vec<Expr>> {
        let Some(condition) = join.filter.take() else { return Ok(Vec::new()) };
        let condition = right.resolve(left.resolve(condition)?)?;
        let has_keys = !join.on.is_empty();
        if has_keys && join.join_type == Inner {
            // After the keys have met: fewer rows, and texts of both sides.
            let (above, here): (Vec<_>, Vec<_>) = split_conjunction_owned(condition).into_iter().partition(can_be_late);
            join.filter = conjunction(here);
            return Ok(above);
        }
        join.filter = Some(if has_keys {
            // Few pairs get here, and they must be seen before the join's NULLs are made.
            condition
        } else {
            // A call of the condition belongs to the side that has its text.
            let condition = self.compute_one(left, condition)?;
            self.compute_one(right, condition)?
        });
        Ok(Vec::new())
    }

    /// Computes the late columns that would not be NULL where an outer join fills their side with NULLs.
    fn compute_what_is_not_strict(&mut self, lifted: &mut Lifted) -> Result<()> {
        lifted.computed.retain(|(expr, _)| is_strict(expr));
        let (strict, others) = std::mem::take(&mut lifted.late).into_iter().partition(|(_, expr)| is_strict(expr));
        lifted.late = strict;
        let (columns, exprs): (Vec<_>, Vec<_>) = others.into_iter().unzip();
        let computed = columns.into_iter().zip(self.compute(lifted, exprs)?).collect();
        lifted.plan = with_columns(std::mem::take(&mut lifted.plan), computed)?;
        Ok(())
    }
}

/// The join of other inputs.
fn joined(join: Join, left: LogicalPlan, right: LogicalPlan) -> Result<LogicalPlan> {
    let join = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        join.on,
        join.filter,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    Ok(LogicalPlan::Join(join))
}

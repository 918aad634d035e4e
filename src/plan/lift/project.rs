//! Projection: an expression with a call becomes late, and the columns that it needs are carried along.
//!
//! ```text
//! projection
//!     SELECT id, embed(concat(title, body)) AS e FROM docs
//! before
//!     Projection: docs.id, embed(concat(docs.title, docs.body)) AS e
//!       TableScan: docs projection=[id, title, body]
//! after
//!     Projection: docs.id, __embed_2 AS e
//!       Embed: embed(concat(__embed_0, __embed_1)) AS __embed_2
//!         Projection: docs.id, docs.title AS __embed_0, docs.body AS __embed_1
//!           TableScan: docs projection=[id, title, body]
//! ```

use std::collections::HashMap;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Projection};

use super::columns::{named_as, project, with_columns};
use super::lifted::Lifted;
use super::lifter::Lifter;
use crate::plan::calls::{has_call, late_part};

impl Lifter {
    pub(super) fn projection(&mut self, projection: Projection, mut input: Lifted) -> Result<Lifted> {
        let (mut columns, mut exprs, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for (expr, field) in projection.expr.into_iter().zip(projection.schema.iter()) {
            let (expr, column) = (input.resolve(expr)?, Column::from(field));
            if let Some(expr) = late_part(&expr) {
                late.push((column, expr.clone()));
            } else {
                columns.push(column);
                exprs.push(expr);
            }
        }
        let exprs = named_as(self.compute(&mut input, exprs)?, &columns);
        let mut carrier = Carrier { exprs, carried: HashMap::new() };
        for (_, expr) in &mut late {
            *expr = carrier.carry(self, input.resolve(std::mem::take(expr))?)?;
        }
        let mut deferred = std::mem::take(&mut input.deferred);
        for condition in &mut deferred {
            *condition = carrier.carry(self, input.resolve(std::mem::take(condition))?)?;
        }
        // Calls that ran already may have left a late expression without one: it is computed here after all.
        let (late, done): (Vec<_>, Vec<_>) = late.into_iter().partition(|(_, expr)| has_call(expr));
        let plan = with_columns(project(carrier.exprs, input.plan)?, done)?;
        Ok(Lifted { late, deferred, ..Lifted::complete(plan) })
    }
}

/// The expressions of a projection, with those that it carries along for what is late above it.
struct Carrier {
    exprs: Vec<Expr>,
    /// Columns of the input, and what they are called above.
    carried: HashMap<Column, Column>,
}

impl Carrier {
    /// Writes an expression over the input's columns over those of the projection, which carries what it lacks.
    fn carry(&mut self, lifter: &mut Lifter, expr: Expr) -> Result<Expr> {
        let carried = expr.transform(|expr| {
            Ok(match expr {
                Expr::Column(needed) => Transformed::yes(Expr::Column(self.column(lifter, needed))),
                other => Transformed::no(other),
            })
        });
        carried.map(|expr| expr.data)
    }

    /// A column of the input above the projection: as it is where the projection has it, or else under a new name.
    fn column(&mut self, lifter: &mut Lifter, needed: Column) -> Column {
        if let Some(carried) = self.carried.get(&needed) {
            return carried.clone();
        }
        let expr = Expr::Column(needed.clone());
        let carried = if self.exprs.contains(&expr) {
            needed.clone()
        } else {
            let name = lifter.name();
            self.exprs.push(expr.alias(&name));
            Column::new_unqualified(name)
        };
        self.carried.insert(needed, carried.clone());
        carried
    }
}

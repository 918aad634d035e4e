//! A rewritten plan and what it lacks: what goes up through the tree.

use std::collections::HashMap;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::replace_col;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// A rewritten plan and what it lacks.
pub(super) struct Lifted {
    pub(super) plan: LogicalPlan,
    /// Columns that the plan does not have: for each an expression over those it has.
    pub(super) late: Vec<(Column, Expr)>,
    /// Expressions that the plan has as columns already.
    pub(super) computed: Vec<(Expr, Column)>,
    /// Conditions over the original columns that the rows have still to meet.
    pub(super) deferred: Vec<Expr>,
}

impl Lifted {
    /// A plan that lacks nothing.
    pub(super) fn complete(plan: LogicalPlan) -> Self {
        Self { plan, late: Vec::new(), computed: Vec::new(), deferred: Vec::new() }
    }

    /// Writes an expression over the original columns over those of the plan.
    pub(super) fn resolve(&self, expr: Expr) -> Result<Expr> {
        let over_plan = expr.transform_down(|expr| Ok(self.late_expression(expr)))?.data;
        over_plan.transform_down(|expr| Ok(self.computed_column(expr))).map(|expr| expr.data)
    }

    /// The expression of a late column; other expressions as they are.
    fn late_expression(&self, expr: Expr) -> Transformed<Expr> {
        let Expr::Column(column) = &expr else { return Transformed::no(expr) };
        match self.late.iter().find(|(late, _)| late == column) {
            Some((_, late)) => Transformed::new(late.clone(), true, TreeNodeRecursion::Jump),
            None => Transformed::no(expr),
        }
    }

    /// The column of an expression that is computed already; other expressions as they are.
    fn computed_column(&self, expr: Expr) -> Transformed<Expr> {
        match self.computed.iter().find(|(computed, _)| *computed == expr) {
            Some((_, column)) => Transformed::new(Expr::Column(column.clone()), true, TreeNodeRecursion::Jump),
            None => Transformed::no(expr),
        }
    }

    /// The same over a plan whose columns have other names.
    pub(super) fn renamed(self, plan: LogicalPlan, names: &HashMap<Column, Column>) -> Result<Self> {
        let names: HashMap<&Column, &Column> = names.iter().collect();
        let mut lifted = Self::complete(plan);
        for (column, expr) in self.late {
            lifted.late.push((renamed(column, &names), replace_col(expr, &names)?));
        }
        for (expr, column) in self.computed {
            lifted.computed.push((replace_col(expr, &names)?, renamed(column, &names)));
        }
        for condition in self.deferred {
            lifted.deferred.push(replace_col(condition, &names)?);
        }
        Ok(lifted)
    }
}

fn renamed(column: Column, names: &HashMap<&Column, &Column>) -> Column {
    names.get(&column).map_or(column, |&name| name.clone())
}

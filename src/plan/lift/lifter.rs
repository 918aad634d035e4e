//! One application of the rule: it names the columns that the rule adds, and runs calls in Embed nodes.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan};

use super::columns::{as_exprs, columns_of, named, named_as, project, same_columns};
use super::lifted::Lifted;
use crate::plan::calls::Extractor;
use crate::plan::execution::PlanId;
use crate::plan::node::EmbedNode;

/// What the columns that the rule adds begin with.
const PREFIX: &str = "__embed_";

/// One application of the rule. The files of this folder that are called like a node have what it does with that node, given
/// the node's lifted inputs; `rule.rs` goes through the tree.
pub(super) struct Lifter {
    /// Number of the first column that this application may add, and of the next.
    first: usize,
    next: usize,
    plan: PlanId,
}

impl Lifter {
    /// For a plan that may have been lifted before.
    pub(super) fn of(plan: &LogicalPlan) -> Self {
        let first = names_used(plan);
        Self { first, next: first, plan: PlanId::new() }
    }

    /// Whether a column was added.
    pub(super) fn has_named(&self) -> bool {
        self.next != self.first
    }

    /// A new name for a column.
    pub(super) fn name(&mut self) -> String {
        self.next += 1;
        format!("{PREFIX}{}", self.next - 1)
    }

    /// Gives a lifted plan the columns of a schema, computing those that are late.
    pub(super) fn complete(&mut self, mut lifted: Lifted, schema: &DFSchema) -> Result<LogicalPlan> {
        if lifted.late.is_empty() && same_columns(lifted.plan.schema(), schema) {
            return Ok(lifted.plan);
        }
        let columns = columns_of(schema);
        let exprs = self.compute(&mut lifted, as_exprs(&columns))?;
        project(named_as(exprs, &columns), lifted.plan)
    }

    /// [`Self::compute`] for one expression.
    pub(super) fn compute_one(&mut self, lifted: &mut Lifted, expr: Expr) -> Result<Expr> {
        Ok(self.compute(lifted, vec![expr])?.remove(0))
    }

    /// [`Self::compute`] for the expression of a column, which keeps its name.
    pub(super) fn compute_named(&mut self, lifted: &mut Lifted, expr: Expr, column: &Column) -> Result<Expr> {
        let computed = self.compute_one(lifted, expr.clone())?;
        Ok(if computed == expr { expr } else { named(computed, column) })
    }

    /// Writes expressions over the columns of the plan, running the calls in them: the plan gets Embed nodes on top.
    pub(super) fn compute(&mut self, lifted: &mut Lifted, exprs: Vec<Expr>) -> Result<Vec<Expr>> {
        let mut exprs = exprs.into_iter().map(|expr| lifted.resolve(expr)).collect::<Result<Vec<_>>>()?;
        loop {
            let schema = Arc::clone(lifted.plan.schema());
            let mut extractor = Extractor { schema: &schema, taken: Vec::new(), next_name: &mut || self.name() };
            exprs = exprs.into_iter().map(|expr| extractor.extract(expr)).collect::<Result<_>>()?;
            if extractor.taken.is_empty() {
                return Ok(exprs);
            }
            let (calls, names) = extractor.taken.into_iter().map(|taken| (taken.call, taken.column)).unzip();
            self.run(lifted, calls, names)?;
        }
    }

    /// Puts an Embed node on top of the plan: from here on the calls are computed.
    fn run(&self, lifted: &mut Lifted, calls: Vec<Expr>, names: Vec<String>) -> Result<()> {
        lifted.computed.extend(calls.iter().cloned().zip(names.iter().map(Column::new_unqualified)));
        let input = std::mem::take(&mut lifted.plan);
        let node = EmbedNode::try_new(input, calls, names, self.plan)?;
        lifted.plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(())
    }
}

/// Numbers of the columns that the rule has named in a plan, 0 for none.
fn names_used(plan: &LogicalPlan) -> usize {
    let mut used = 0;
    // The closure never fails.
    let _ = plan.apply_with_subqueries(|node| {
        for field in node.schema().fields() {
            let number = field.name().strip_prefix(PREFIX).and_then(|number| number.parse::<usize>().ok());
            used = used.max(number.map_or(0, |number| number.saturating_add(1)));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    used
}

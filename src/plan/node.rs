//! The logical node: its input's columns, and behind them one vector column per call.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, UserDefinedLogicalNodeCore};

use super::calls;
use super::execution::PlanId;

/// Runs calls of `embed` over its input.
#[derive(Debug, Clone)]
pub(crate) struct EmbedNode {
    pub(super) input: LogicalPlan,
    /// Each a call of `embed` or a sister.
    pub(super) calls: Vec<Expr>,
    /// The column of each call.
    pub(super) names: Vec<String>,
    schema: DFSchemaRef,
    /// Not of what the node is: the same one in another plan is equal.
    pub(super) plan: PlanId,
}

impl EmbedNode {
    pub(super) fn try_new(input: LogicalPlan, calls: Vec<Expr>, names: Vec<String>, plan: PlanId) -> Result<Self> {
        let mut fields: Vec<_> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        for (call, name) in calls.iter().zip(&names) {
            if calls::parts(call).is_none() {
                return plan_err!("{call} is not a call of embed");
            }
            let field = call.to_field(input.schema())?.1.as_ref().clone().with_name(name);
            fields.push((None, Arc::new(field)));
        }
        let schema = DFSchema::new_with_metadata(
            fields,
            input.schema().metadata().clone().into_iter().collect::<HashMap<_, _>>(),
        )?;
        Ok(Self { input, calls, names, schema: Arc::new(schema), plan })
    }
}

impl UserDefinedLogicalNodeCore for EmbedNode {
    fn name(&self) -> &str {
        "Embed"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.calls.clone()
    }

    /// A predicate on a vector stays above.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.names.iter().cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Embed: ")?;
        for (i, (call, name)) in self.calls.iter().zip(&self.names).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{call} AS {name}")?;
        }
        Ok(())
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Self::try_new(input, exprs, self.names.clone(), self.plan),
            _ => plan_err!("an Embed node has one input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let inputs = self.input.schema().fields().len();
        // What the calls read is added by DataFusion.
        Some(vec![output_columns.iter().copied().filter(|&column| column < inputs).collect()])
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }
}

impl PartialEq for EmbedNode {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input && self.calls == other.calls && self.names == other.names
    }
}

impl Eq for EmbedNode {}

impl Hash for EmbedNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.calls.hash(state);
        self.names.hash(state);
    }
}

impl PartialOrd for EmbedNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

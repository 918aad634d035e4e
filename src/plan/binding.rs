//! What binds the machines that run a plan, where there are several: the files of its models, and the vectors in it.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;

use super::exec::EmbedExec;
use crate::engine::Session;
use crate::functions::WrittenFunction;
use crate::options::EmbedOptions;

/// Whether a plan computes vectors of its rows: by the operator, or by plain functions.
pub(crate) fn has_calls(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let is_call = |expr: &Arc<dyn PhysicalExpr>| {
        let function = expr.downcast_ref::<ScalarFunctionExpr>().and_then(|call| WrittenFunction::of(call.fun()));
        matches!(function, Some(WrittenFunction::Embed(call)) if call.literals.is_none())
    };
    Ok(plan.exists(|node| Ok(node.is::<EmbedExec>()))? || has_expression(plan, is_call)?)
}

/// Whether a plan has vectors in it that were computed where it was planned: those of literals.
pub(crate) fn has_vectors(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    has_expression(plan, |expr| {
        let value = expr.downcast_ref::<Literal>().map(Literal::value);
        let function = expr.downcast_ref::<ScalarFunctionExpr>().and_then(|call| WrittenFunction::of(call.fun()));
        let is_over_literal = matches!(function, Some(WrittenFunction::Embed(call)) if call.literals.is_some());
        is_over_literal || matches!(value, Some(ScalarValue::FixedSizeList(_)))
    })
}

/// Whether an expression of a plan is so.
fn has_expression(plan: &Arc<dyn ExecutionPlan>, is_so: impl Fn(&Arc<dyn PhysicalExpr>) -> bool) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        node.apply_expressions(&mut |expr| {
            found |= expr.exists(|expr| Ok(is_so(expr)))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// The same plan with the fingerprints of its models, which whoever runs it compares with those of its own.
pub(crate) fn with_fingerprints(
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let session = Session::of(config).unwrap_or_default();
    let machine = session.machine(config, &EmbedOptions::default());
    plan.transform_up(|node| match node.downcast_ref::<EmbedExec>() {
        Some(exec) => Ok(Transformed::yes(Arc::new(exec.with_fingerprints(&machine)?) as Arc<dyn ExecutionPlan>)),
        None => Ok(Transformed::no(node)),
    })
    .data()
}

//! What binds the machines that run a plan, where there are several: the files of the models, and the arithmetic.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_plan::ExecutionPlan;

use super::exec::EmbedExec;
use crate::engine::Session;
use crate::options::EmbedOptions;

/// Whether a plan runs calls of `embed` over columns.
pub(crate) fn has_calls(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    plan.exists(|node| Ok(node.is::<EmbedExec>()))
}

/// Whether a plan has vectors in it that were computed where it was planned: those of literals.
pub(crate) fn has_vectors(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        node.apply_expressions(&mut |expr| {
            found |= expr.exists(|expr| {
                let value = expr.downcast_ref::<Literal>().map(Literal::value);
                Ok(matches!(value, Some(ScalarValue::FixedSizeList(_))))
            })?;
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

/// The same plan, which a machine that computes otherwise refuses to run.
pub(crate) fn with_arithmetic(plan: Arc<dyn ExecutionPlan>, arithmetic: &str) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| match node.downcast_ref::<EmbedExec>() {
        Some(exec) => {
            Ok(Transformed::yes(Arc::new(exec.with_arithmetic(Some(arithmetic.into()))) as Arc<dyn ExecutionPlan>))
        }
        None => Ok(Transformed::no(node)),
    })
    .data()
}

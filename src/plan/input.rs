//! The input of an operator that has one.

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;

/// The input that an operator of this name gets.
///
/// # Errors
///
/// Internal ones: for none, and for several.
pub(crate) fn only_input(name: &str, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    let count = inputs.len();
    match <[_; 1]>::try_from(inputs) {
        Ok([input]) => Ok(input),
        Err(_) => internal_err!("{name} has one input, not {count}"),
    }
}

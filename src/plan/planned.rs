//! A call in a physical plan: all of it can be written down.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::physical_expr::PhysicalExpr;

use crate::engine::{Call, Planned};

/// A call with its text over the operator's input.
#[derive(Debug, Clone)]
pub(super) struct PlannedCall {
    /// `embed` or a sister.
    pub(super) function: String,
    pub(super) text: Arc<dyn PhysicalExpr>,
    /// The column that it gives.
    pub(super) field: FieldRef,
    pub(super) call: Call,
    /// What the model's small files said when this was planned, see [`Planned`].
    pub(super) description: String,
    /// Of the model's files, where it was known when this was planned.
    pub(super) fingerprint: Option<String>,
}

impl PlannedCall {
    /// What whoever runs it has to come to as well.
    pub(super) fn planned(&self) -> Planned {
        let (description, fingerprint) = (self.description.clone(), self.fingerprint.clone());
        Planned { dimensions: self.dimensions(), description, fingerprint }
    }

    /// Length of a vector.
    pub(super) fn dimensions(&self) -> usize {
        match self.field.data_type() {
            DataType::FixedSizeList(_, dimensions) => *dimensions as usize,
            _ => 0,
        }
    }
}

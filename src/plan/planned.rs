//! A call in a physical plan: all of it can be written down.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::physical_expr::PhysicalExpr;

use crate::engine::{Call, Identity, Planned};

/// A call with its text over the operator's input.
#[derive(Debug, Clone)]
pub(super) struct PlannedCall {
    /// `embed` or a sister.
    pub(super) function: String,
    pub(super) text: Arc<dyn PhysicalExpr>,
    /// The column that it gives.
    pub(super) field: FieldRef,
    pub(super) call: Call,
    /// Of the model when this was planned.
    pub(super) identity: Identity,
}

impl PlannedCall {
    /// What whoever runs it has to come to as well.
    pub(super) fn planned(&self) -> Planned {
        Planned { dimensions: self.dimensions(), identity: Some(self.identity.clone()) }
    }

    /// Length of a vector.
    pub(super) fn dimensions(&self) -> usize {
        match self.field.data_type() {
            DataType::FixedSizeList(_, dimensions) => *dimensions as usize,
            _ => 0,
        }
    }
}

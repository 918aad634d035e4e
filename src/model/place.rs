//! Where a model runs.

use crate::options::{Device, Precision};

/// Where a model runs and in which arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// A real device, never `auto`.
    pub(crate) device: Device,
    /// Arithmetic of the encoder.
    pub(crate) precision: Precision,
}

//! One integration binary: every further one would link DataFusion again.

mod invariants;
mod support;

//! One integration binary: every further one would link DataFusion again.

mod errors;
#[cfg(feature = "hub")]
mod hub;
mod invariants;
#[cfg(feature = "cli")]
mod program;
#[cfg(feature = "cli")]
mod repl;
#[cfg(feature = "cli")]
mod scripts;
mod slt;
mod support;
mod tidy;
mod types;

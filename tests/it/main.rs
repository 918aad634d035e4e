//! One integration binary: every further one would link DataFusion again.

mod access;
mod cache;
#[cfg(all(feature = "cluster", feature = "cli", unix))]
mod cluster;
#[cfg(feature = "cluster")]
mod codec;
#[cfg(all(feature = "cli", unix))]
mod copy;
mod corpus;
mod dml;
mod errors;
mod evil;
mod files;
mod folders;
#[cfg(feature = "hub")]
mod hub;
mod identity;
mod invariants;
mod late;
mod limits;
#[cfg(feature = "cli")]
mod mistakes;
mod models;
mod pages;
mod plan;
#[cfg(feature = "cli")]
mod program;
mod reading;
#[cfg(feature = "cli")]
mod repl;
#[cfg(feature = "cli")]
mod scripts;
#[cfg(any(feature = "hub", feature = "stores"))]
mod servers;
mod slt;
#[cfg(all(feature = "stores", feature = "cli", unix))]
mod stores;
mod structure;
mod support;
mod tidy;
mod types;
mod vector_files;
mod vectors;

//! What the optimizer may do with `embed()`: calls leave their expressions and run where the fewest rows pass.
//!
//! | file | what |
//! |---|---|
//! | `lift/` | the rule: a plan with calls in its expressions -> the same plan with [`node::EmbedNode`]s |
//! | `literals.rs` | calls over literals: out of planning, and computed before everything else |
//! | `calls.rs` | how a call is found in an expression and taken out of it |
//! | `node.rs` | the logical node: its input, and one column per call |
//! | `planned.rs` | a call in a physical plan |
//! | `planner.rs` | the logical node -> the operator; the planner that a session gets |
//! | `exec.rs` | the operator [`exec::EmbedExec`]: schema, statistics, metrics |
//! | `binding.rs` | what binds the machines that run a plan: the files of its models, and the vectors in it |
//! | `codec.rs` | a physical plan with such operators and functions as bytes, for engines of more than one machine |
//! | `file_order.rs` | the physical rule that keeps rows in their order |
//! | `pages.rs` | the physical rule that keeps a LIMIT around its own rows |
//! | `probes.rs` | the physical rule that spreads the probed side of a join over all cores |
//! | `expected.rs` | the rows that a plan will embed, for whoever shows how far it is |
//! | `input.rs` | the input of an operator that has one |
//! | `stream.rs` | one partition of it: texts to the engine, vectors back in order |
//! | `execution.rs` | what the operators of one execution share |
//! | `dml.rs` | DELETE and UPDATE: the rule, the logical node, and the check of what is left to DataFusion |
//! | `membership.rs` | subqueries in their conditions, written so that DataFusion answers exactly |
//! | `statement.rs` | a statement's text to its plan: operators for vectors, RESET of settings that are not DataFusion's |
//! | `change.rs` | the rows of a table in memory by number, and the sink that changes them |
//!
//! DataFusion moves an expression as if it cost nothing: into scans, below filters and sorts, twice into a sort key. So the
//! rule runs last, on the plan that DataFusion has optimized, inside the session's planner: a planner that cannot plan the
//! node never sees it, and plain functions run.
//!
//! DELETE and UPDATE are here because their conditions may have calls too, and DataFusion loses conditions.

#[cfg(feature = "cluster")]
mod binding;
mod calls;
mod change;
#[cfg(feature = "cluster")]
mod codec;
mod dml;
mod exec;
mod execution;
mod expected;
mod file_order;
mod input;
mod lift;
mod literals;
mod membership;
mod node;
mod pages;
mod planned;
mod planner;
mod probes;
mod statement;
mod stream;

#[cfg(feature = "cluster")]
pub(crate) use binding::{has_calls, has_vectors, with_fingerprints};
#[cfg(feature = "cluster")]
pub use codec::EmbedCodec;
pub use expected::Expected;
#[cfg(feature = "cluster")]
pub(crate) use file_order::without_file_order;
#[cfg(feature = "cluster")]
pub(crate) use input::only_input;
#[cfg(feature = "stages")]
pub(crate) use lift::fail_on_broken_rule;
#[cfg(feature = "cluster")]
pub(crate) use literals::LiteralsExec;
pub use planner::EmbedPlanner;
pub(crate) use planner::{install, rules_of_session};
pub use statement::{create_logical_plan, reset_settings, sql_to_statement};

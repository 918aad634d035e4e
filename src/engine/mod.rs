//! Texts -> tokens -> model batches -> backend -> vectors.
//!
//! | file | what |
//! |---|---|
//! | `call.rs` | one call: what of it decides a vector, and what the machine decides that runs it |
//! | `session.rs` | what the functions of one session share, and how they find it |
//! | `identity.rs` | what a plan was made with: whoever runs it has to come to the same |
//! | `query.rs` | one query: each distinct text once |
//! | `feed.rs` | a stream's access to its query: texts in, slots out |
//! | `ahead.rs` | tokens of texts that come next, for a device that outruns a stream |
//! | `batch.rs` | tokens -> model batches under a token budget |
//! | `ticket.rs` | a model batch on its way to its vectors, wanted by any number of streams |
//! | `encoding.rs` | what a model batch needs to become vectors |
//! | `running.rs` | what of a query its model batches have to know |
//! | `lane.rs` | the workers of a device; the only place that starts threads |
//! | `counters.rs` | what `embed_models()` and EXPLAIN ANALYZE show |
//!
//! A stream tokenises on its caller's thread (for a GPU on all cores, a few hundred texts ahead) and hands every full model batch to its device's lane at once, so that tokenising
//! overlaps with encoding and one stream keeps every worker busy.
//!
//! # Many queries at once
//!
//! text-embeddings-inference has one queue, first in, first out, out of which batches are cut by a budget of tokens. The budget is the
//! same here; the rest differs, because beside searches an export of hours may run:
//!
//! * **Whose turn it is** is by query: each has a clock that its batches move on, and a query that begins is behind none of another's
//!   batches that wait. Between two layers of a long batch a worker runs a short one.
//! * **A batch takes along** what waits and fits, of any query and session, but never so much that it is much later itself. Nobody waits
//!   for others to come, so there is no timer; what a pass costs and counts is dealt out to those whose texts were in it.
//! * **A lone text** while nothing else waits has all idle workers help with its products.
//! * **An error** of a shared pass is nobody's: each query's texts run again alone, and it stays with the one whose it is.
//!
//! | lives | from | to |
//! |---|---|---|
//! | lane, loaded model | first use in the process | the end of it; a model until its memory is wanted |
//! | session | `register` | the last context, plan or configuration that has it |
//! | query with its memo | the first stream of an execution | the last stream and the plan's next execution |
//! | feed | the first text of a stream | the stream's end |
//! | ticket | its first text | the last slot, and the memo's |
//! | slot | its row goes in | its row leaves |

mod ahead;
mod batch;
mod call;
mod counters;
mod encoding;
mod feed;
mod identity;
mod lane;
mod query;
mod running;
mod session;
mod ticket;

pub(crate) use call::{Call, Machine};
pub(crate) use counters::Counters;
pub use counters::Counts;
#[cfg(feature = "cluster")]
pub(crate) use counters::ModelUse;
pub(crate) use feed::{BATCHES_PER_WORKER, Feed};
pub(crate) use identity::{Identity, Planned};
pub(crate) use query::Query;
pub(crate) use session::{Session, SessionEntry};
pub(crate) use ticket::{Slot, values_of};

//! The hub as a source of models, and the cache folder that its tools share.
//!
//! | file | what |
//! |---|---|
//! | `commit.rs` | one commit of a model: which files it has, and where each is |
//! | `repository.rs` | a model's folder in the cache |
//! | `download.rs` | one file from the hub into the cache: part files, locks, tries |
//! | `etag.rs` | whether what came is what the hub announced |
//! | `client.rs` | requests, and where a redirect may take the token |
//! | `failure.rs` | why nothing came |
//! | `environment.rs` | what the hub's tools read from the environment |

mod client;
mod commit;
mod download;
mod environment;
mod etag;
mod failure;
mod repository;

pub(super) use commit::Commit;
pub(super) use repository::stored;

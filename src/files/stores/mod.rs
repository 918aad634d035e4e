//! Stores: what an address such as `s3://bucket/docs.parquet` leads to, and with which credentials.
//!
//! ```text
//! address --> settings: OPTIONS, environment, profile --> client --> explained errors --> Whole --> reading/, export
//! ```
//!
//! | file | what |
//! |---|---|
//! | `address.rs` | what an address says: the cloud, the store, the path inside |
//! | `rules.rs` | which stores a session may reach |
//! | `settings.rs` | what is said of a store, and by whom: OPTIONS before the environment before files |
//! | `environment.rs` | what this machine says |
//! | `profile.rs` | the files of the AWS tools |
//! | `credentials.rs` | who we are there, in which order that is looked for, and what was looked for in vain |
//! | `client.rs` | a client of object_store from all that |
//! | `wire.rs` | the requests below a client: what a server says, and when it is given up |
//! | `remote.rs` | a store whose errors say what happened and what to do |
//! | `http.rs` | single files of web servers |
//! | `lengths.rs` | their answers, with a length and decoded |
//! | `objects.rs` | the objects below an address, for who waits on a thread |
//! | `masks.rs` | no text that anybody sees has a secret |
//! | `registry.rs` | the stores of a session, opened when a statement names them |

mod address;
#[cfg(feature = "stores")]
mod client;
#[cfg(feature = "stores")]
mod credentials;
#[cfg(feature = "stores")]
mod environment;
#[cfg(feature = "stores")]
mod http;
#[cfg(feature = "stores")]
mod lengths;
mod masks;
#[cfg(feature = "stores")]
mod objects;
#[cfg(feature = "stores")]
mod profile;
mod registry;
#[cfg(feature = "stores")]
mod remote;
mod rules;
mod settings;
#[cfg(feature = "stores")]
mod wire;

pub(in crate::files) use address::{Address, Cloud, listing_url, shown_store};
pub use masks::masked_statement;
#[cfg(feature = "stores")]
pub(crate) use objects::{Objects, Version};
pub use registry::Stores;
pub(in crate::files) use settings::Options;

//! Servers that tests run against: stores of objects, the hub, the web.
//!
//! | file | what |
//! |---|---|
//! | `server.rs` | a server that answers by a function, with a record of its requests and faults by order |
//! | `faults.rs` | what can go wrong, and for which requests |
//! | `message.rs` | requests and answers of HTTP |
//! | `object.rs` | a file that a server has, and the parts of it that are asked for |
//! | `http.rs` | files of a plain web server |
//! | `gcs.rs` | Google's store |
//! | `proxy.rs` | passes on to another server, with that record and those faults |
//! | `process.rs` | a server that is a program of others, see `.ci/servers` |
//! | `s3.rs` | Amazon's store, by moto |
//! | `azure.rs` | Microsoft's store, by azurite |
//! | `nginx.rs` | a web server that many run |
//! | `xml.rs` | what stores say |
//! | `tests.rs` | each of them by the clients of object_store |

pub(crate) mod faults;
pub(crate) mod message;
pub(crate) mod object;
pub(crate) mod server;

#[cfg(all(feature = "stores", feature = "hub", unix))]
pub(crate) mod azure;
#[cfg(feature = "stores")]
pub(crate) mod gcs;
#[cfg(feature = "stores")]
pub(crate) mod http;
#[cfg(all(feature = "stores", unix))]
pub(crate) mod nginx;
#[cfg(all(feature = "stores", unix))]
pub(crate) mod process;
#[cfg(feature = "stores")]
pub(crate) mod proxy;
#[cfg(all(feature = "stores", unix))]
pub(crate) mod s3;
#[cfg(feature = "stores")]
mod tests;
#[cfg(feature = "stores")]
mod xml;

//! Servers that tests run against: stores of objects, the hub, the web.
//!
//! | file | what |
//! |---|---|
//! | `server` | a server that answers by a function, with a record of its requests and faults by order |
//! | `faults` | what can go wrong, and for which requests |
//! | `message` | requests and answers of HTTP |
//! | `object` | a file that a server has, and the parts of it that are asked for |
//! | `http` | files of a plain web server |
//! | `gcs` | Google's store |
//! | `proxy` | passes on to another server, with that record and those faults |
//! | `process` | a server that is a program of others, see `.ci/servers` |
//! | `s3` | Amazon's store, by moto |
//! | `azure` | Microsoft's store, by azurite |
//! | `xml` | what stores say |
//! | `tests` | each of them by the clients of object_store |

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
pub(crate) mod process;
#[cfg(feature = "stores")]
pub(crate) mod proxy;
#[cfg(all(feature = "stores", unix))]
pub(crate) mod s3;
#[cfg(feature = "stores")]
mod tests;
#[cfg(feature = "stores")]
mod xml;

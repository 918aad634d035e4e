//! Where the files of a model come from. The hub is a source too, in a folder of its own.
//!
//! | file | what |
//! |---|---|
//! | `source.rs` | what every source can say |
//! | `bundled.rs` | compiled in |
//! | `directory.rs` | a directory of this machine |
//! | `store.rs` | an address of a store, whose files are kept here |

mod bundled;
mod directory;
mod source;
#[cfg(feature = "stores")]
mod store;

pub(crate) use bundled::is_bundled;
pub(super) use bundled::{Bundled, SHORT_NAME};
#[cfg(feature = "hub")]
pub(super) use directory::is_there;
pub(super) use directory::{Directory, dangling};
pub(crate) use source::Stored;
pub(super) use source::{Location, Source};
#[cfg(feature = "stores")]
pub(super) use store::InStore;

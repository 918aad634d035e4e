//! What every source of models can say.

use std::fmt;
use std::path::PathBuf;

use crate::access::Access;
use crate::error::Result;

/// Where the files of one model come from.
///
/// A source is pinned to one state of the model when it is made, as far as its place knows states: a commit, a list of files with
/// their sizes and etags. It brings what describes the model then, where that can be known: planning reads those
/// files, and never the weights. Everything else it brings when it is asked for it, by its name: so no list is asked for
/// here, which not every place has.
pub(in crate::model) trait Source: fmt::Debug + Send + Sync {
    /// What people read as `source`: `bundled`, `directory`, `hub` or `store`.
    fn kind(&self) -> &'static str;

    /// The name under which the model was asked for, without `@revision`.
    fn name(&self) -> &str;

    /// The state that this is; `None` where the files may be changed in their place.
    fn revision(&self) -> Option<&str>;

    /// How an error names the model.
    fn label(&self) -> String;

    /// Where a file is. One that is elsewhere is fetched now, if `access` allows that, and checked before it is given. `None` only
    /// where it is known that the model has no such file: many are optional, and a model without one gives other vectors.
    fn locate(&self, path: &str, access: &Access) -> Result<Option<Location>>;

    /// Whether nobody can change the files as long as this process runs.
    fn is_fixed(&self) -> bool {
        false
    }
}

/// Where a file of a model is now.
#[derive(Debug)]
pub(in crate::model) enum Location {
    /// In the program itself, with its SHA-256.
    Memory { bytes: &'static [u8], hash: &'static [u8; 32] },
    /// On this machine, where anybody may change it.
    Disk(PathBuf),
}

/// A model that is here without the network.
#[derive(Debug)]
pub(crate) struct Stored {
    /// What `embed.model` takes.
    pub(crate) name: String,
    /// [`Source::kind`].
    pub(crate) kind: &'static str,
    /// [`Source::revision`].
    pub(crate) revision: String,
    /// Bytes of its files.
    pub(crate) bytes: u64,
}

//! The store below a [`Whole`](super::Whole): here, and nowhere else, files of a store are removed.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::path::Path;
use datafusion::object_store::{Error, ObjectStore, ObjectStoreExt, Result};

use super::staged::{Staged, left_over};
use super::target::{Target, shown};

/// A store that a [`Whole`](super::Whole) completes files in.
#[derive(Debug, Clone)]
pub(super) enum Below {
    /// Completes a file by a rename.
    Local(LocalFileSystem),
    /// Completes an object itself; with the address that its objects have.
    Other(Arc<dyn ObjectStore>, String),
}

impl Below {
    pub(super) fn store(&self) -> &dyn ObjectStore {
        match self {
            Self::Local(store) => store,
            Self::Other(store, _) => store.as_ref(),
        }
    }

    /// The local file of a location.
    pub(super) fn file(&self, location: &Path) -> Option<PathBuf> {
        match self {
            Self::Local(store) => store.path_to_filesystem(location).ok(),
            Self::Other(..) => None,
        }
    }

    /// A location as people know it.
    pub(super) fn name(&self, location: &Path) -> String {
        match self {
            Self::Local(_) => self.file(location).map_or_else(|| location.to_string(), |file| shown(&file)),
            Self::Other(_, url) => format!("{url}{location}"),
        }
    }

    /// Writes a small file of our own in the place of an older one. A local file comes back open, with the lock that says that
    /// its writer lives.
    pub(super) async fn put(&self, location: &Path, bytes: Vec<u8>) -> Result<Option<File>> {
        let Some(file) = self.file(location) else {
            self.store().put(location, bytes.into()).await?;
            return Ok(None);
        };
        let name = self.name(location);
        tokio::task::spawn_blocking(move || {
            put_file(&file, &bytes).map(Some).map_err(|error| failed(&name, error.to_string()))
        })
        .await?
    }

    /// Removes a file; one that is gone already is no error.
    pub(super) async fn remove(&self, location: &Path) -> Result<()> {
        match self.store().delete(location).await {
            Err(Error::NotFound { .. }) => Ok(()),
            removed => removed,
        }
    }

    /// Removes a local file at once, for who cannot wait; `false` where it takes a store to do it.
    pub(super) fn remove_now(&self, location: &Path) -> bool {
        let Some(file) = self.file(location) else { return false };
        // It may have gone already.
        let _ = fs::remove_file(file);
        true
    }
}

fn put_file(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<File> {
    let Target::File(target) = Target::of(path)? else {
        return Err(std::io::Error::other("is no file that another could replace"));
    };
    left_over(&target);
    let (staged, mut file) = Staged::create(&target)?;
    match file.write_all(bytes).and_then(|()| staged.finish()) {
        Ok(()) => Ok(file),
        Err(error) => {
            staged.discard();
            Err(error)
        }
    }
}

/// An error about a file, as people know it.
pub(super) fn failed(name: &str, what: String) -> Error {
    Error::Generic { store: "Whole", source: format!("file {name:?}: {what}").into() }
}

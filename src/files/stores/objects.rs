//! The objects below an address, for whoever waits on a thread of his own and not in a task: a model's files.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::thread;

use datafusion::object_store::path::Path;
use datafusion::object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::address::{Address, Cloud};
use super::registry::Stores;
use crate::error::{Error, Result};
use crate::files::marks::etag;
use crate::files::target::shown_error;

/// What an object is at a moment: another content has another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) size: u64,
    /// What the store calls this content, and when it is from where the store calls it nothing.
    pub(crate) etag: Option<String>,
}

/// The objects below an address.
#[derive(Debug)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    root: Path,
    is_web: bool,
    /// What the store's connections live on.
    runtime: Option<Runtime>,
}

impl Drop for Objects {
    fn drop(&mut self) {
        // Whoever drops this may be a task, which may not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Objects {
    /// # Errors
    ///
    /// [`Error::Read`] for an address that cannot be reached by these stores, or has a query or an encoded slash.
    pub(crate) fn open(stores: &Stores, name: &str) -> Result<Self> {
        let Some(address) = Address::of(name).transpose()? else {
            return Err(Error::Read(format!("{name:?} is no address of a store")));
        };
        if !address.request.is_empty() {
            return Err(Error::Read(format!(
                "address {:?}: several files are read there, by names below it: it can have no query and no encoded slash",
                address.to_string()
            )));
        }
        let url = Url::parse(&address.store).map_err(|error| Error::Read(error.to_string()))?;
        let (store, root, is_web) = (stores.open(&url)?, address.key()?, address.cloud == Cloud::Web);
        // Last: a task, which may wait for nothing, must not drop it.
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Read(format!("{}: {error}", address.store)))?;
        Ok(Self { store, root, is_web, runtime: Some(runtime) })
    }

    /// All objects, by their paths below the address; `None` where the store cannot say which there are.
    pub(crate) fn list(&self) -> Result<Option<BTreeMap<String, Version>>> {
        if self.is_web {
            return Ok(None);
        }
        let found: Vec<ObjectMeta> = self.wait(self.store.list(Some(&self.root)).try_collect())?;
        let path = |meta: &ObjectMeta| {
            let path = meta.location.as_ref().strip_prefix(self.root.as_ref())?;
            Some(path.trim_start_matches('/').to_owned())
        };
        Ok(Some(found.into_iter().filter_map(|meta| Some((path(&meta)?, version(&meta)))).collect()))
    }

    /// What an object is; `None` where there is none.
    pub(crate) fn look(&self, path: &str) -> Result<Option<Version>> {
        let location = self.at(path)?;
        match self.wait(async { Ok(self.store.head(&location).await) })? {
            Ok(meta) => Ok(Some(version(&meta))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(Error::Read(shown_error(&error))),
        }
    }

    /// Writes an object's bytes, and says how many there are so far; gives what it was.
    pub(crate) fn fetch(
        &self,
        path: &str,
        mut to: impl Write + Send,
        mut told: impl FnMut(u64) + Send,
    ) -> Result<Version> {
        let location = self.at(path)?;
        self.wait(async {
            let found = self.store.get(&location).await?;
            let version = version(&found.meta);
            let (mut bytes, mut received) = (found.into_stream(), 0);
            while let Some(piece) = bytes.try_next().await? {
                to.write_all(&piece).map_err(|error| StoreError::Generic { store: "disk", source: Box::new(error) })?;
                received += piece.len() as u64;
                told(received);
            }
            Ok(version)
        })
    }

    fn at(&self, path: &str) -> Result<Path> {
        let root = self.root.as_ref();
        let path = if root.is_empty() { path.to_owned() } else { format!("{root}/{path}") };
        Path::parse(&path).map_err(|error| Error::Read(format!("{path:?}: {error}")))
    }

    /// Waits on a thread of its own: the caller's may be one of a runtime, on which nobody may wait.
    fn wait<T: Send>(&self, operation: impl Future<Output = datafusion::object_store::Result<T>> + Send) -> Result<T> {
        let Some(runtime) = &self.runtime else { return Err(Error::Read("the store is closed".to_owned())) };
        let done = thread::scope(|scope| scope.spawn(|| runtime.block_on(operation)).join());
        match done {
            Ok(done) => done.map_err(|error| Error::Read(shown_error(&error))),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn version(meta: &ObjectMeta) -> Version {
    let modified = || Some(format!("modified {}", meta.last_modified.timestamp()));
    Version { size: meta.size, etag: etag(meta).or_else(modified) }
}

//! What a name in a statement stands for: a file, a folder, or all files that match a pattern.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::path::Path as ObjectPath;
use datafusion::object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};
use futures::TryStreamExt;

use super::pattern::{Pattern, is_hidden, is_pattern};
use crate::error::Error;
use crate::files::home::expand_home;
use crate::files::stores::{Address, Cloud, Options, Stores, listing_url};
use crate::files::target::{normal, shown, shown_error};

/// Where files are.
#[derive(Debug, Clone)]
pub(super) struct FileSet {
    /// As it was written, for messages.
    pub(super) name: String,
    pub(super) store: ObjectStoreUrl,
    /// The file, or the folder that all files are below.
    root: ObjectPath,
    kind: Kind,
    /// Where it is no local one.
    pub(super) address: Option<Address>,
}

#[derive(Debug, Clone)]
enum Kind {
    File,
    Folder,
    /// With the path that it would be, were it none; of a store, which is asked for that first.
    Pattern(Pattern, Option<ObjectPath>),
}

impl FileSet {
    /// What exists is meant literally, whatever characters it has; anything else may be a pattern. Whether there is anything
    /// is found out by [`FileSet::files`].
    ///
    /// # Errors
    ///
    /// [`Error::Read`] for a pipe or a device, and for a pattern that is none.
    pub(super) fn of(name: &str) -> Result<Self> {
        if let Some(address) = Address::of(name).transpose()? {
            return Ok(Self::remote(name, address)?);
        }
        match name.split_once("://") {
            Some((scheme, _)) if scheme != "file" => {
                let url = ListingTableUrl::parse(name)?;
                let kind = if url.is_collection() { Kind::Folder } else { Kind::File };
                Ok(Self {
                    name: name.to_owned(),
                    store: url.object_store(),
                    root: url.prefix().clone(),
                    kind,
                    address: None,
                })
            }
            // An address is encoded, and no pattern.
            Some(_) => {
                let path = ListingTableUrl::parse(name)?.get_url().to_file_path();
                let path = path.map_err(|()| Error::Read(format!("{name:?} is the address of no local file")))?;
                Ok(Self::local(name, &path, "")?)
            }
            None => {
                let path = std::path::absolute(Path::new(expand_home(name).as_ref()))?;
                let (literal, rest) = split(&normal(&path));
                // std takes the slash away that says that a folder is meant.
                let rest = if rest.is_empty() || !name.ends_with('/') { rest } else { format!("{rest}/") };
                Ok(Self::local(name, &literal, &rest)?)
            }
        }
    }

    fn remote(name: &str, address: Address) -> std::result::Result<Self, Error> {
        let store = ObjectStoreUrl::parse(&address.store).map_err(|error| Error::Read(format!("{name:?}: {error}")))?;
        let is_web = address.cloud == Cloud::Web;
        if is_web && address.is_folder() {
            return Err(Error::Read(format!("{address}: a web server lists no files: name one of them")));
        }
        // Its query may be a secret.
        let name = if is_web { address.to_string() } else { name.to_owned() };
        if !is_web && is_pattern(&address.path) {
            let (folder, pattern) = literal(&address.path);
            let root = ObjectPath::parse(folder).map_err(|error| Error::Read(format!("{name:?}: {error}")))?;
            // What is no pattern is a name.
            if let Ok(pattern) = Pattern::new(pattern) {
                let kind = Kind::Pattern(pattern, address.key().ok());
                return Ok(Self { name, store, root, kind, address: Some(address) });
            }
        }
        let (root, kind) = (address.key()?, if address.is_folder() { Kind::Folder } else { Kind::File });
        Ok(Self { name, store, root, kind, address: Some(address) })
    }

    /// The same as OPTIONS say of its store.
    pub(super) fn with_options(mut self, stores: Option<&Stores>, options: &Options) -> Result<Self> {
        if let (Some(address), Some(stores)) = (&self.address, stores) {
            self.store = stores.stated(address, options.clone())?;
        }
        Ok(self)
    }

    /// Its store.
    pub(super) fn open(&self, state: &dyn Session) -> Result<Arc<dyn ObjectStore>> {
        let store = state.runtime_env().object_store(&self.store)?;
        if let (Some(address), Some(stores)) = (&self.address, state.config().get_extension::<Stores>()) {
            stores.add_request(&self.store, address)?;
        }
        Ok(store)
    }

    fn local(name: &str, path: &Path, rest: &str) -> std::result::Result<Self, Error> {
        let kind = match fs::metadata(path) {
            _ if is_pattern(rest) => Kind::Pattern(Pattern::new(rest)?, None),
            Ok(found) if rest.is_empty() && found.is_dir() => Kind::Folder,
            Ok(found) if rest.is_empty() && !found.is_file() => {
                return Err(Error::Read(format!(
                    "{name:?} is a pipe or a device, which can be read once only: write it to a file first"
                )));
            }
            // A folder that is still to be made.
            _ if name.ends_with('/') => Kind::Folder,
            _ => Kind::File,
        };
        let path = if is_pattern(rest) { path.to_owned() } else { path.join(rest.trim_end_matches('/')) };
        let root = ObjectPath::from_absolute_path(&path).map_err(|error| Error::Read(format!("{name:?}: {error}")))?;
        Ok(Self { name: name.to_owned(), store: ObjectStoreUrl::local_filesystem(), root, kind, address: None })
    }

    /// An error about it, which names it once.
    fn told(&self, error: &StoreError) -> String {
        let text = shown_error(error);
        let is_named = self.address.as_ref().is_some_and(|address| text.starts_with(&address.store));
        if is_named { text } else { format!("{:?}: {text}", self.name) }
    }

    fn is_web(&self) -> bool {
        self.address.as_ref().is_some_and(|address| address.cloud == Cloud::Web)
    }

    /// Whether it may have more than one file.
    pub(super) fn is_collection(&self) -> bool {
        !matches!(self.kind, Kind::File)
    }

    /// The file, or the folder that all files are below.
    pub(super) fn root(&self) -> &ObjectPath {
        &self.root
    }

    /// The set as DataFusion knows it; of a pattern the folder that it begins in.
    pub(super) fn url(&self) -> Result<ListingTableUrl> {
        listing_url(&self.store, &self.root, self.is_collection())
    }

    /// The files that are there now, in the order of their names.
    pub(super) async fn files(&self, store: &dyn ObjectStore, config: &ConfigOptions) -> Result<Vec<ObjectMeta>> {
        let is_flat = config.execution.listing_table_ignore_subdirectory;
        let found = match &self.kind {
            Kind::File => match store.head(&self.root).await {
                Err(StoreError::NotFound { .. }) if self.is_web() => {
                    return Err(Error::Read(format!("{}: there is no such file", self.name)).into());
                }
                // Other stores have no folders, only names that begin alike.
                Err(StoreError::NotFound { .. }) => self.folder(store, is_flat).await,
                file => file.map(|file| vec![file]),
            },
            Kind::Folder => self.folder(store, is_flat).await,
            Kind::Pattern(pattern, literal) => match literal {
                Some(literal) if let Ok(file) = store.head(literal).await => Ok(vec![file]),
                _ => pattern.files(store, &self.root).await,
            },
        };
        let mut files = found.map_err(|error| Error::Read(self.told(&error)))?;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        files.dedup_by(|a, b| a.location == b.location);
        Ok(files)
    }

    /// The files that have something in them: others leave empty ones in folders as marks.
    pub(super) async fn data_files(&self, store: &dyn ObjectStore, config: &ConfigOptions) -> Result<Vec<ObjectMeta>> {
        let mut files = self.files(store, config).await?;
        files.retain(|file| file.size > 0 || matches!(self.kind, Kind::File));
        Ok(files)
    }

    async fn folder(&self, store: &dyn ObjectStore, is_flat: bool) -> std::result::Result<Vec<ObjectMeta>, StoreError> {
        let prefix = Some(&self.root).filter(|root| !root.as_ref().is_empty());
        let mut files: Vec<ObjectMeta> = store.list(prefix).try_collect().await?;
        // What consoles leave where a folder was made: an empty object of the folder's name.
        let above = files.iter().filter_map(|file| Some(file.location.as_ref().rsplit_once('/')?.0.to_owned()));
        let folders: BTreeSet<String> = above.collect();
        files.retain(|file| file.size > 0 || file.location != self.root && !folders.contains(file.location.as_ref()));
        files.retain(|file| {
            let names: Vec<_> = file.location.prefix_match(&self.root).into_iter().flatten().collect();
            let folders = names.len().saturating_sub(1);
            let mut plain = names[..folders].iter().filter(|name| !name.as_ref().contains('='));
            let is_below = is_flat && plain.next().is_some();
            !is_below && !names.iter().enumerate().any(|(place, name)| is_hidden(name.as_ref(), place < folders))
        });
        Ok(files)
    }
}

/// The folder that a pattern begins in, and the pattern.
fn literal(path: &str) -> (&str, &str) {
    let start = path.find(['*', '?', '[', '{']).unwrap_or(path.len());
    path[..start].rsplit_once('/').map_or(("", path), |(folder, _)| (folder, &path[folder.len() + 1..]))
}

/// The part of a path that exists, and the rest.
fn split(path: &Path) -> (PathBuf, String) {
    let there = path.ancestors().find(|path| fs::symlink_metadata(path).is_ok()).unwrap_or(Path::new("/"));
    let rest = path.strip_prefix(there).unwrap_or(path);
    (there.to_owned(), rest.to_string_lossy().into_owned())
}

/// Whether the files of a store are on other machines.
pub(super) fn is_away(store: &dyn ObjectStore) -> bool {
    Address::of(&store.to_string()).is_some()
}

/// A file as people know it: a local one by its path, and one of a store that [`Stores`] has opened, which is displayed as its
/// address, by that.
pub(super) fn shown_file(store: &dyn ObjectStore, file: &ObjectPath) -> String {
    match Address::of(&store.to_string()) {
        Some(Ok(address)) => address.shown(file),
        _ => shown(&Path::new("/").join(file.as_ref())),
    }
}

//! A folder of vectors: its spaces.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use super::access;
use super::format::check_format;
use super::key::{DESCRIPTION, SpaceKey};
use super::space::Space;
use super::upkeep::{self, Upkeep};
use super::usage::CacheUse;
use crate::error::{Error, Result};

/// A folder of vectors, shared by the sessions of this process.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(super) directory: PathBuf,
    spaces: Mutex<HashMap<String, Arc<Space>>>,
}

fn unusable(directory: &str, error: &io::Error) -> Error {
    Error::Setting(format!("embed.cache: \"{directory}\" cannot be used: {error}; give a folder that can be written"))
}

static CACHES: LazyLock<Mutex<BTreeMap<PathBuf, Arc<Cache>>>> = LazyLock::new(Mutex::default);

impl Cache {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, spaces: Mutex::default() }
    }

    /// Opens a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the folder cannot be used at all, or is one of another format.
    pub(crate) fn open(directory: &str) -> Result<Arc<Self>> {
        access::create_cache(Path::new(directory)).map_err(|error| unusable(directory, &error))?;
        let path = fs::canonicalize(directory).map_err(|error| unusable(directory, &error))?;
        // Under the lock: several streams of a query begin at once.
        let mut caches = CACHES.lock();
        check_format(&path, directory)?;
        let cache = caches.entry(path.clone()).or_insert_with(|| Arc::new(Self::new(path)));
        Ok(Arc::clone(cache))
    }

    /// The vectors of a space, with what other processes added since it was asked for last. Beyond `most_bytes` the oldest
    /// of the folder are removed, 0 being any number.
    pub(crate) fn space(&self, key: SpaceKey, most_bytes: u64) -> Arc<Space> {
        let folder = key.folder();
        let space = {
            let mut spaces = self.spaces.lock();
            let new = || Arc::new(Space::new(self.directory.join(&folder), key));
            Arc::clone(spaces.entry(folder.clone()).or_insert_with(new))
        };
        if most_bytes > 0
            && upkeep::bytes_below(&self.directory) > most_bytes
            && let Ok(Some(upkeep)) = Upkeep::try_begin(&self.directory)
        {
            upkeep.evict(most_bytes, Space::part_of(most_bytes));
        }
        space.limit(most_bytes);
        space.join();
        space.refresh();
        space
    }

    /// Ends what this process writes: a query that runs begins another segment.
    pub(super) fn end_segments(&self) {
        let spaces: Vec<_> = self.spaces.lock().values().cloned().collect();
        spaces.iter().for_each(|space| space.end_segment());
    }

    /// Every space of the folder, by model.
    pub(super) fn usage(&self) -> Vec<CacheUse> {
        let mut found: Vec<_> = self.all().map(|space| space.usage()).collect();
        found.sort_by(|a, b| (&a.model, &a.precision, &a.prompt).cmp(&(&b.model, &b.precision, &b.prompt)));
        found
    }

    /// Every space of the folder, as it is now.
    fn all(&self) -> impl Iterator<Item = Arc<Space>> {
        let folders = upkeep::spaces(&self.directory).unwrap_or_default().into_iter();
        let spaces = folders.filter_map(|folder| self.found(&folder));
        spaces.inspect(|space| space.refresh())
    }

    /// Reads every vector and gives how many are right and how many are not.
    pub(super) fn verify(&self) -> (u64, u64) {
        self.all().fold((0, 0), |(right, wrong), space| {
            let (more_right, more_wrong) = space.verify();
            (right + more_right, wrong + more_wrong)
        })
    }

    /// The space of a folder that describes itself.
    fn found(&self, folder: &Path) -> Option<Arc<Space>> {
        let name = folder.file_name()?.to_str()?;
        if let Some(space) = self.spaces.lock().get(name) {
            return Some(Arc::clone(space));
        }
        let key: SpaceKey = serde_json::from_str(&access::text(&folder.join(DESCRIPTION)).ok()?).ok()?;
        Some(Arc::new(Space::new(folder.to_owned(), key)))
    }
}

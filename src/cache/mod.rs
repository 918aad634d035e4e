//! Vectors on disk, by what they depend on: never computed twice, in any query, by any process that shares the folder.
//!
//! A *space* is a folder for everything a vector depends on but its text: model files, precision, prompt, limits, the
//! class of arithmetic. In a space a vector has the hash of its text as its key. Vectors are only ever added, in segments
//! that one process writes alone: nothing is changed in place, so readers and writers need not agree on anything. Who
//! removes segments or joins small ones holds a lock, and leaves those alone that somebody writes.
//!
//! | file | what |
//! |---|---|
//! | `key.rs` | what a vector depends on beside its text |
//! | `segment.rs` | a pair of files: keys, and vectors with checksums |
//! | `space.rs` | the segments of one space, and where a key is |
//! | `numbers.rs` | what of this crate a vector depends on |
//! | `upkeep.rs` | removing the oldest vectors, joining small segments |
//! | `access.rs` | who may read what is made |
//!
//! A vector counts only if its checksum is right; whatever else is found there is a miss.
//!
//! Why no embedded database: measured on this work (`benches/README.md`), redb and LMDB gave silently wrong values for
//! flipped bytes and LMDB ended the process by a signal, redb and fjall let one process in, fjall did not open at all where
//! a file was cut, and all of them were several times slower. The price is an index in memory, some 50 bytes a vector.

mod access;
mod key;
mod numbers;
mod segment;
mod space;
mod upkeep;

pub(crate) use key::{SpaceKey, VectorLimits};
pub(crate) use segment::{Kept, Key};
pub(crate) use space::Space;
pub use upkeep::Pruned;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use upkeep::{LOCK_FILE, Upkeep};

/// The file that says what the folder is, and in which format.
const FORMAT_FILE: &str = "FORMAT";
const FORMAT: &str = "datafusion-embed vectors 2\n";
/// How the file begins in any format.
const ANY_FORMAT: &str = "datafusion-embed vectors ";

/// A folder of vectors, shared by the sessions of this process.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    spaces: Mutex<HashMap<String, Arc<Space>>>,
}

/// What a folder holds for one model under one set of settings, and what it did for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheUse {
    /// Name of the model.
    pub model: String,
    /// SHA-256 over its configuration, tokenizer and weights.
    pub fingerprint: String,
    /// Arithmetic of the vectors.
    pub precision: String,
    /// Device that computed them.
    pub device: String,
    /// The prompt before every text.
    pub prompt: String,
    /// Length of a vector.
    pub dim: usize,
    /// Truncation length.
    pub max_tokens: usize,
    /// Vectors.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Vectors that queries of this process found.
    pub hits: u64,
    /// Vectors that they did not find.
    pub misses: u64,
    /// Vectors that were there and not right; they count as misses too.
    pub damaged: u64,
}

/// What a folder of [`EmbedOptions::cache`](crate::EmbedOptions::cache) holds, by model.
///
/// # Errors
///
/// [`Error::Setting`] where it is no such folder.
pub fn cache_usage(directory: &str) -> Result<Vec<CacheUse>> {
    Ok(existing(directory)?.usage())
}

/// Reads every vector of a folder, and gives how many are right and how many are damaged.
///
/// # Errors
///
/// [`Error::Setting`] where it is no such folder.
pub fn verify_cache(directory: &str) -> Result<(u64, u64)> {
    Ok(existing(directory)?.verify())
}

/// Removes the oldest vectors of a folder until it holds no more than `most_bytes`, and gives what it holds then. What a
/// process is writing stays.
///
/// # Errors
///
/// [`Error::Setting`] where it is no such folder, or nothing can be removed from it.
pub fn prune_cache(directory: &str, most_bytes: u64) -> Result<Pruned> {
    let cache = existing(directory)?;
    cache.end_segments();
    let upkeep = Upkeep::begin(&cache.directory)
        .map_err(|error| Error::Setting(format!("cache \"{directory}\": nothing can be removed: {error}")))?;
    Ok(upkeep.evict(most_bytes, 0))
}

/// Removes all vectors of a folder, also of one in another format, and gives what it holds then. What a process is writing
/// stays, and so does every file that is none of the cache's.
///
/// # Errors
///
/// [`Error::Setting`] where it is no such folder, or nothing can be removed from it.
pub fn clear_cache(directory: &str) -> Result<Pruned> {
    let path = Path::new(directory);
    let format = access::text(&path.join(FORMAT_FILE)).unwrap_or_default();
    if format == FORMAT || !format.starts_with(ANY_FORMAT) {
        return prune_cache(directory, 0);
    }
    let mut left = Upkeep::of_another_format(path).evict(0, 0);
    if left.stayed.is_empty()
        && let Err(error) = fs::remove_file(path.join(FORMAT_FILE))
    {
        left.stayed.push(format!("{}: {error}", path.join(FORMAT_FILE).display()));
    }
    Ok(left)
}

/// What a folder holds, nothing where none was made yet.
pub(crate) fn usage_so_far(directory: &str) -> Result<Vec<CacheUse>> {
    let is_new = match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_new { Ok(Vec::new()) } else { cache_usage(directory) }
}

/// A folder that is there already: looking at it makes none.
fn existing(directory: &str) -> Result<Arc<Cache>> {
    if !Path::new(directory).join(FORMAT_FILE).is_file() {
        return Err(not_found(directory));
    }
    Cache::open(directory)
}

fn not_found(directory: &str) -> Error {
    Error::Setting(format!("cache \"{directory}\" not found: it is no folder of embed.cache"))
}

static CACHES: LazyLock<Mutex<BTreeMap<PathBuf, Arc<Cache>>>> = LazyLock::new(Mutex::default);

impl Cache {
    /// Opens a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the folder cannot be used at all, or is one of another format.
    pub(crate) fn open(directory: &str) -> Result<Arc<Self>> {
        let unusable = |error: io::Error| {
            Error::Setting(format!(
                "embed.cache: \"{directory}\" cannot be used: {error}; give a folder that can be written"
            ))
        };
        access::create_cache(Path::new(directory)).map_err(unusable)?;
        let path = fs::canonicalize(directory).map_err(unusable)?;
        // Under the lock: several streams of a query begin at once.
        let mut caches = lock(&CACHES);
        check_format(&path, directory)?;
        let cache =
            caches.entry(path.clone()).or_insert_with(|| Arc::new(Self { directory: path, spaces: Mutex::default() }));
        Ok(Arc::clone(cache))
    }

    /// The vectors of a space, with what other processes added since it was asked for last. Beyond `most_bytes` the oldest
    /// of the folder are removed, 0 being any number.
    pub(crate) fn space(&self, key: SpaceKey, most_bytes: u64) -> Arc<Space> {
        let folder = key.folder();
        let space = {
            let mut spaces = lock(&self.spaces);
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
    fn end_segments(&self) {
        let spaces: Vec<_> = lock(&self.spaces).values().cloned().collect();
        spaces.iter().for_each(|space| space.end_segment());
    }

    /// Every space of the folder, by model.
    fn usage(&self) -> Vec<CacheUse> {
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
    fn verify(&self) -> (u64, u64) {
        self.all().fold((0, 0), |(right, wrong), space| {
            let (more_right, more_wrong) = space.verify();
            (right + more_right, wrong + more_wrong)
        })
    }

    /// The space of a folder that describes itself.
    fn found(&self, folder: &Path) -> Option<Arc<Space>> {
        let name = folder.file_name()?.to_str()?;
        if let Some(space) = lock(&self.spaces).get(name) {
            return Some(Arc::clone(space));
        }
        let key: SpaceKey = serde_json::from_str(&access::text(&folder.join(space::DESCRIPTION)).ok()?).ok()?;
        Some(Arc::new(Space::new(folder.to_owned(), key)))
    }
}

/// Makes a folder again that was removed while it was in use, and says what it is.
fn mark_again(directory: &Path) -> io::Result<()> {
    if directory.join(FORMAT_FILE).exists() {
        return Ok(());
    }
    access::create_cache(directory)?;
    check_format(directory, &directory.display().to_string()).map_err(|error| io::Error::other(error.to_string()))
}

/// Looks what the folder is, and writes it where it is new.
fn check_format(path: &Path, shown: &str) -> Result<()> {
    let file = path.join(FORMAT_FILE);
    let refuse = |what: &str| {
        Error::Setting(format!(
            "embed.cache: \"{shown}\" {what}; give another folder, or remove this one (embedsql cache clear)"
        ))
    };
    match access::text(&file) {
        Ok(format) if format == FORMAT => Ok(()),
        Ok(format) => {
            let first: String = format.lines().next().unwrap_or_default().chars().take(60).collect();
            Err(refuse(&format!("has the format \"{first}\" and not \"{}\"", FORMAT.trim_end())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Another process may begin at the same moment.
            let is_foreign = |name: &OsStr| !name.to_string_lossy().starts_with(FORMAT_FILE) && name != LOCK_FILE;
            if fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| is_foreign(&entry.file_name()))) {
                // It may have begun a space since the file was looked for.
                return match access::text(&file) {
                    Ok(format) if format == FORMAT => Ok(()),
                    _ => Err(refuse("has files of something else in it")),
                };
            }
            let written = access::write(path, FORMAT_FILE, FORMAT.as_bytes());
            written.map_err(|error| refuse(&format!("cannot be written: {error}")))
        }
        Err(error) => Err(refuse(&format!("cannot be read: {error}"))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

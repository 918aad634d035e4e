//! Vectors on disk, by what they depend on: never computed twice, in any query, by any process that shares the folder.
//!
//! Queries read and write a folder by [`EmbedOptions::cache`](crate::EmbedOptions::cache); what is public here is for whoever
//! looks after it.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use datafusion::prelude::SessionContext;
//! use datafusion_embed::{EmbedOptions, cache, register_with};
//!
//! let folder = tempfile::tempdir()?;
//! let folder = folder.path().to_string_lossy();
//! let ctx = SessionContext::new();
//! register_with(&ctx, EmbedOptions::default().model("tests/fixtures/tiny-bert").cache(&*folder))?;
//! ctx.sql("SELECT embed(concat('text ', value)) FROM generate_series(1, 3)").await?.collect().await?;
//!
//! let kept = &cache::usage(&folder)?[0];
//! assert_eq!((kept.entries, kept.misses, kept.precision.as_str()), (3, 3, "f32"));
//! assert_eq!(cache::verify(&folder)?, (3, 0));
//! # datafusion::error::Result::<()>::Ok(())
//! # }).unwrap();
//! ```
//!
//! # How it works
//!
//! A *space* is a folder for everything a vector depends on but its text: model files, precision, prompt, limits, the
//! class of arithmetic. In a space a vector has the hash of its text as its key. Vectors are only ever added, in segments
//! that one process writes alone: nothing is changed in place, so readers and writers need not agree on anything. Who
//! removes segments or joins small ones holds a lock, and leaves those alone that somebody writes.
//!
//! | file | what |
//! |---|---|
//! | `folder.rs` | a folder of vectors: its spaces |
//! | `format.rs` | what a folder is known by |
//! | `key.rs` | what a vector depends on beside its text |
//! | `segment.rs` | a pair of files: keys, and vectors with checksums |
//! | `space.rs` | the segments of one space, and where a key is |
//! | `numbers.rs` | what of this crate a vector depends on |
//! | `upkeep.rs` | removing the oldest vectors, joining small segments |
//! | `usage.rs` | what a folder holds, and what it did for this process |
//! | `access.rs` | who may read what is made |
//!
//! A vector counts only if its checksum is right; whatever else is found there is a miss.
//!
//! Why no embedded database: measured on this work (`benches/README.md`), redb and LMDB gave silently wrong values for
//! flipped bytes and LMDB ended the process by a signal, redb and fjall let one process in, fjall did not open at all where
//! a file was cut, and all of them were several times slower. The price is an index in memory, some 50 bytes a vector.

mod access;
mod folder;
mod format;
mod key;
mod numbers;
mod segment;
mod space;
mod upkeep;
mod usage;

pub(crate) use folder::Cache;
#[cfg(feature = "cluster")]
pub(crate) use key::arithmetic;
pub(crate) use key::{SpaceKey, VectorLimits};
pub(crate) use segment::Key;
pub(crate) use space::{Kept, Space};
pub use upkeep::Pruned;
pub use usage::CacheUse;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use format::{ANY_FORMAT, FORMAT, FORMAT_FILE};
use upkeep::Upkeep;

/// What a folder of [`EmbedOptions::cache`](crate::EmbedOptions::cache) holds, by model.
///
/// # Errors
///
/// [`Error::Setting`] where it is no such folder.
pub fn usage(directory: &str) -> Result<Vec<CacheUse>> {
    Ok(existing(directory)?.usage())
}

/// Reads every vector of a folder, and gives how many are right and how many are damaged.
///
/// # Errors
///
/// [`Error::Setting`] where it is no such folder.
pub fn verify(directory: &str) -> Result<(u64, u64)> {
    Ok(existing(directory)?.verify())
}

/// Removes the oldest vectors of a folder until it holds no more than `most_bytes`, and gives what it holds then. What a
/// process is writing stays.
///
/// # Errors
///
/// [`Error::Setting`] where it is no such folder, or nothing can be removed from it.
pub fn prune(directory: &str, most_bytes: u64) -> Result<Pruned> {
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
pub fn clear(directory: &str) -> Result<Pruned> {
    let path = Path::new(directory);
    let format = access::text(&path.join(FORMAT_FILE)).unwrap_or_default();
    if format == FORMAT || !format.starts_with(ANY_FORMAT) {
        return prune(directory, 0);
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
    if is_new { Ok(Vec::new()) } else { usage(directory) }
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

#[cfg(test)]
mod tests;

//! The segments of one space, and where a key is.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::segment::{self, Key, Keys, Segment, Writer};
use super::{CacheUse, SpaceKey, lock, tell};

/// The file that says what a space is for.
pub(super) const DESCRIPTION: &str = "space.json";
/// Entries after which a segment ends: what eviction removes at once.
const MOST_ENTRIES: u32 = 1 << 16;
/// How much work a loss of power may cost. What a killed process wrote stays in any case.
const SYNC_EVERY: Duration = Duration::from_secs(2);

/// The vectors that have everything in common but their text.
#[derive(Debug)]
pub(crate) struct Space {
    folder: PathBuf,
    key: SpaceKey,
    index: RwLock<Index>,
    /// The segments of other processes, as far as they were read.
    followed: Mutex<HashMap<String, Followed>>,
    writing: Mutex<Writing>,
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
}

#[derive(Debug, Default)]
struct Index {
    places: HashMap<Key, Place>,
    /// `None` where the files are gone.
    segments: Vec<Option<Arc<Segment>>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u32,
    index: u32,
}

/// A segment whose keys are in the index.
#[derive(Debug)]
struct Followed {
    segment: u32,
    /// `None` where this process writes it, or where it cannot be read.
    keys: Option<Keys>,
}

#[derive(Debug, Default)]
struct Writing {
    writer: Option<(Writer, u32)>,
    /// Whether nothing more is written until the next query, and whether that was told.
    stopped: bool,
    told: bool,
    /// When the first vector was written that a loss of power would cost; `None` where there is none.
    unsynced_since: Option<Instant>,
    /// Bytes after which a segment ends, 0 for any.
    most_bytes: u64,
}

impl Space {
    pub(super) fn new(folder: PathBuf, key: SpaceKey) -> Self {
        Self {
            folder,
            key,
            index: RwLock::default(),
            followed: Mutex::default(),
            writing: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// The key of a text in any space.
    pub(crate) fn key_of(text: &str) -> Key {
        *Sha256::digest(text).first_chunk().expect("16 of 32 bytes")
    }

    /// The vector of a text, if it is there and right.
    pub(crate) fn get(&self, key: &Key) -> Option<Vec<f32>> {
        let vector = self.look(key);
        let counter = if vector.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        vector
    }

    fn look(&self, key: &Key) -> Option<Vec<f32>> {
        let found = {
            let index = self.read();
            let place = index.places.get(key).copied();
            place.and_then(|place| Some((place.index, Arc::clone(index.segments[place.segment as usize].as_ref()?))))
        };
        let (index, segment) = found?;
        let vector = segment.read(index, key, self.key.dimensions);
        if vector.is_none() {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            // The next one that is computed takes its place.
            self.write().places.remove(key);
        }
        vector
    }

    /// Keeps vectors, `[keys, dimensions]`. Where that is not possible it is told once, and the rest of the process goes on
    /// without.
    pub(crate) fn put(&self, keys: &[Key], vectors: &[f32]) {
        let mut writing = lock(&self.writing);
        if writing.stopped || keys.is_empty() {
            return;
        }
        match self.add(&mut writing, keys, vectors) {
            Ok((segment, first)) => {
                let mut index = self.write();
                for (i, key) in keys.iter().enumerate() {
                    index.places.insert(*key, Place { segment, index: first + i as u32 });
                }
            }
            Err(error) => {
                if !writing.told {
                    let directory = self.folder.parent().unwrap_or(&self.folder).display();
                    tell(&format!(
                        "cache \"{directory}\" cannot be written: {error}; vectors are not kept, queries go on"
                    ));
                }
                // What was written in part has no key, or no place in a segment that goes on.
                *writing = Writing { stopped: true, told: true, most_bytes: writing.most_bytes, ..Writing::default() };
            }
        }
    }

    /// Adds to this process's segment, or to a new one; gives where.
    fn add(&self, writing: &mut Writing, keys: &[Key], vectors: &[f32]) -> io::Result<(u32, u32)> {
        let is_full = |writer: &Writer, most: u64| {
            writer.entries >= MOST_ENTRIES || (most > 0 && writer.bytes >= most) || !self.is_there(&writer.name)
        };
        let most_bytes = writing.most_bytes;
        if let Some((writer, _)) = writing.writer.take_if(|(writer, _)| is_full(writer, most_bytes)) {
            writer.sync()?;
        }
        if writing.writer.is_none() {
            let writer = Writer::create(&self.folder, self.key.dimensions)?;
            self.describe()?;
            let segment = self.take_in(Some(Segment::open(&self.folder, &writer.name)?));
            lock(&self.followed).insert(writer.name.clone(), Followed { segment, keys: None });
            writing.writer = Some((writer, segment));
        }
        let (writer, segment) = writing.writer.as_mut().expect("just made");
        let first = writer.entries;
        writer.add(keys, vectors)?;
        if writing.unsynced_since.get_or_insert_with(Instant::now).elapsed() >= SYNC_EVERY {
            writer.sync()?;
            writing.unsynced_since = None;
        }
        Ok((*segment, first))
    }

    /// Whether a segment's keys have not been removed by somebody.
    fn is_there(&self, name: &str) -> bool {
        self.folder.join(name).with_extension("keys").exists()
    }

    /// Writes what the space is for.
    fn describe(&self) -> io::Result<()> {
        let file = self.folder.join(DESCRIPTION);
        if file.exists() {
            return Ok(());
        }
        let part = file.with_extension(format!("{}.part", std::process::id()));
        fs::write(&part, serde_json::to_vec_pretty(&self.key)?)?;
        fs::rename(part, file)
    }

    /// What was written survives a loss of power from here on.
    pub(crate) fn sync(&self) {
        let writing = &mut *lock(&self.writing);
        if let (Some((writer, _)), Some(_)) = (&writing.writer, writing.unsynced_since.take()) {
            // The next write tells what is wrong.
            let _ = writer.sync();
        }
    }

    /// Reads the keys that others added, and lets go of segments that are gone. Begins to write again where that failed.
    pub(super) fn refresh(&self) {
        let names = names(&self.folder);
        let mut followed = lock(&self.followed);
        followed.retain(|name, old| {
            let is_there = names.contains(name);
            if !is_there {
                self.write().segments[old.segment as usize] = None;
            }
            is_there
        });
        for name in names {
            let followed = followed.entry(name.clone()).or_insert_with(|| self.follow(&name));
            let Some(keys) = &mut followed.keys else { continue };
            // What cannot be read is not there.
            let Ok((first, keys)) = keys.more() else { continue };
            let mut index = self.write();
            for (i, key) in keys.into_iter().enumerate() {
                index.places.insert(key, Place { segment: followed.segment, index: first.saturating_add(i as u32) });
            }
        }
        drop(followed);
        lock(&self.writing).stopped = false;
    }

    /// A segment of another process, or of one before this.
    fn follow(&self, name: &str) -> Followed {
        let opened = Keys::open(&self.folder, name, self.key.dimensions)
            .and_then(|keys| Ok((keys, Segment::open(&self.folder, name)?)));
        let (keys, segment) = opened.ok().unzip();
        Followed { segment: self.take_in(segment), keys }
    }

    fn take_in(&self, segment: Option<Segment>) -> u32 {
        let mut index = self.write();
        index.segments.push(segment.map(Arc::new));
        index.segments.len() as u32 - 1
    }

    /// Lets segments end early, so that few of them make up what the folder may hold.
    pub(super) fn limit(&self, most_bytes: u64) {
        lock(&self.writing).most_bytes = most_bytes.div_ceil(8);
    }

    /// What the space holds, and what it did for this process.
    pub(super) fn usage(&self) -> CacheUse {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheUse {
            model: self.key.model.clone(),
            fingerprint: self.key.fingerprint.clone(),
            precision: self.key.precision.clone(),
            device: self.key.device.clone(),
            prompt: self.key.prompt.clone(),
            dim: self.key.dimensions,
            max_tokens: self.key.max_tokens,
            entries: self.read().places.len() as u64,
            bytes: segment::bytes_of(&self.folder),
            hits: read(&self.hits),
            misses: read(&self.misses),
            damaged: read(&self.damaged),
        }
    }

    /// Reads every vector; gives how many are right and how many are not.
    pub(super) fn verify(&self) -> (u64, u64) {
        let keys: Vec<Key> = self.read().places.keys().copied().collect();
        let right = keys.iter().filter(|key| self.look(key).is_some()).count() as u64;
        (right, keys.len() as u64 - right)
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The segments in a folder, oldest first.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let keys = entries.filter(|path| path.extension().is_some_and(|extension| extension == "keys"));
    let mut names: Vec<_> = keys.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

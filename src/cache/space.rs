//! The segments of one space, and where a key is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use sha2::{Digest, Sha256};

use super::access;
use super::format::mark_again;
use super::key::{DESCRIPTION, SpaceKey};
use super::segment::{self, Key, OnDisk, Segment, Shape, Writer, take};
use super::upkeep::{self, Upkeep};
use super::usage::CacheUse;
use crate::access::{Access, Event};

/// Entries after which a segment ends: some 400 MB of usual vectors.
const MOST_ENTRIES: u64 = 1 << 18;
/// The part of `embed.cache_size` that one segment may have.
const PARTS: u64 = 16;
/// Segments that this process writes at once, in different spaces; with two open files each.
const MOST_WRITERS: usize = 8;
/// How much work a loss of power may cost. What a killed process wrote stays in any case.
const SYNC_EVERY: Duration = Duration::from_secs(2);

/// The vectors that have everything in common but their text.
#[derive(Debug)]
pub(crate) struct Space {
    folder: PathBuf,
    key: SpaceKey,
    shape: Shape,
    index: RwLock<Index>,
    /// The segments whose keys are in the index, by name.
    followed: Mutex<HashMap<String, Followed>>,
    writing: Arc<Mutex<Writing>>,
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
}

/// Where every key is.
#[derive(Debug, Default)]
struct Index {
    locations: HashMap<Key, Location>,
    /// `None` where the files are gone and no key leads to the number any more.
    segments: Vec<Option<Arc<Segment>>>,
    /// Numbers of those.
    free: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Location {
    segment: u32,
    index: u32,
}

/// Entries of a segment that lie one after the other, and the rows that they are for.
struct Run {
    segment: Arc<Segment>,
    /// The first.
    index: u32,
    rows: Vec<usize>,
}

/// A segment whose keys are in the index.
#[derive(Debug)]
struct Followed {
    segment: u32,
    /// Keys that were read; all there ever will be where this process wrote it.
    read: u64,
}

#[derive(Debug, Default)]
struct Writing {
    writer: Option<(Writer, u32)>,
    /// Whether nothing more is written until the next query.
    stopped: bool,
    /// When the first vector was written that a loss of power would cost; `None` where there is none.
    unsynced_since: Option<Instant>,
    /// Bytes that the whole folder may hold, 0 for any.
    most_bytes: u64,
}

/// What was read under some keys.
#[derive(Debug)]
pub(crate) struct Kept {
    /// `[keys, dimensions]`; zero where nothing right was found.
    pub(crate) vectors: Vec<f32>,
    /// Whether the text of each key was cut; `None` where nothing right was found.
    pub(crate) cut: Vec<Option<bool>>,
}

/// What was found under a key.
enum Look {
    /// Its values, and whether its text was cut.
    Right(bool),
    /// Nothing, or nothing that can be read now.
    Nothing,
    Damaged,
}

/// What spaces of this process write, beginning with those that began a segment first.
static WRITERS: Mutex<VecDeque<Weak<Mutex<Writing>>>> = Mutex::new(VecDeque::new());

impl Space {
    pub(super) fn new(folder: PathBuf, key: SpaceKey) -> Self {
        Self {
            folder,
            shape: key.shape(),
            key,
            index: RwLock::default(),
            followed: Mutex::default(),
            writing: Arc::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// The key of a text in any space.
    pub(crate) fn key_of(text: &str) -> Key {
        *Sha256::digest(text).first_chunk().expect("16 of 32 bytes")
    }

    /// Whether there may be a vector under a key: [`Space::read`] finds out.
    pub(crate) fn may_have(&self, key: &Key) -> bool {
        let is_known = self.index().locations.contains_key(key);
        if !is_known {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        is_known
    }

    /// Reads vectors, those that were written one after the other at once.
    pub(crate) fn read(&self, keys: &[Key]) -> Kept {
        let width = self.shape.values;
        let mut kept = Kept { vectors: vec![0.0; keys.len() * width], cut: vec![None; keys.len()] };
        let mut bytes = Vec::new();
        for Run { segment, index, rows } in self.runs(keys) {
            if segment.read(index, rows.len(), self.shape, &mut bytes).is_err() {
                continue;
            }
            for (entry, row) in bytes.chunks_exact(self.shape.entry()).zip(rows) {
                kept.cut[row] = take(self.shape, &keys[row], entry, &mut kept.vectors[row * width..][..width]);
            }
        }
        // One by one, and with care, what was not right or not where it was.
        for (row, key) in keys.iter().enumerate() {
            if kept.cut[row].is_none()
                && let Look::Right(is_cut) = self.look(key, &mut bytes, &mut kept.vectors[row * width..][..width])
            {
                kept.cut[row] = Some(is_cut);
            }
        }
        let hits = kept.cut.iter().flatten().count() as u64;
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(keys.len() as u64 - hits, Ordering::Relaxed);
        kept
    }

    /// Where keys are, in runs of neighbours.
    fn runs(&self, keys: &[Key]) -> Vec<Run> {
        let index = self.index();
        let locations = keys.iter().enumerate().filter_map(|(row, key)| Some((*index.locations.get(key)?, row)));
        let mut locations: Vec<(Location, usize)> = locations.collect();
        locations.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        let mut next = None;
        for (location, row) in locations {
            match runs.last_mut() {
                Some(run) if next == Some(location) => run.rows.push(row),
                _ => {
                    let Some(segment) = index.segment(location) else { continue };
                    runs.push(Run { segment, index: location.index, rows: vec![row] });
                }
            }
            next = Some(Location { index: location.index.saturating_add(1), ..location });
        }
        runs
    }

    fn look(&self, key: &Key, bytes: &mut Vec<u8>, values: &mut [f32]) -> Look {
        for _ in 0..3 {
            let Some((location, segment)) = self.index().find(key) else { return Look::Nothing };
            match segment.read(location.index, 1, self.shape, bytes) {
                Ok(()) => {
                    if let Some(is_cut) = take(self.shape, key, bytes, values) {
                        return Look::Right(is_cut);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !segment.has_keys() => {
                    // Another process removed the segment, or joined it to others.
                    self.update();
                    continue;
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Look::Nothing,
                Err(_) => {}
            }
            self.damaged.fetch_add(1, Ordering::Relaxed);
            // The next one that is computed takes its place.
            self.write().remove(key, location);
            return Look::Damaged;
        }
        Look::Nothing
    }

    /// Keeps vectors, `[keys, dimensions]`; `cut` says which texts were cut. Where that is not possible the session
    /// is told once, and the rest of the query goes on without.
    pub(crate) fn put(&self, keys: &[Key], cut: &[bool], vectors: &[f32], session: &Access) {
        let mut writing = self.writing.lock();
        if writing.stopped || keys.is_empty() {
            return;
        }
        if let Err(error) = self.add(&mut writing, keys, cut, vectors) {
            // What was written in part has no key, or no place in a segment that goes on.
            *writing = Writing { stopped: true, most_bytes: writing.most_bytes, ..Writing::default() };
            drop(writing);
            let cache = format!("cache \"{}\" cannot be written", self.directory().display());
            let trouble = Event::CacheTrouble(format!("{cache}: {error}; vectors are not kept, queries go on"));
            session.tell_once(&cache, &trouble);
        }
    }

    /// Adds to this process's segment, and to new ones where that is full.
    fn add(&self, writing: &mut Writing, mut keys: &[Key], mut cut: &[bool], mut vectors: &[f32]) -> io::Result<()> {
        while !keys.is_empty() {
            let most_entries = match writing.most_bytes {
                0 => MOST_ENTRIES,
                most => self.shape.entries_of(Self::part_of(most)).clamp(1, MOST_ENTRIES),
            };
            let (writer, segment) = self.writer(writing, most_entries)?;
            let first = writer.entries;
            let count = keys.len().min((most_entries - u64::from(first)) as usize);
            let (now, later) = keys.split_at(count);
            writer.add(now, &cut[..count], &vectors[..count * self.shape.values])?;
            self.write().insert(*segment, first, now);
            (keys, cut, vectors) = (later, &cut[count..], &vectors[count * self.shape.values..]);
        }
        if writing.unsynced_since.get_or_insert_with(Instant::now).elapsed() >= SYNC_EVERY {
            writing.sync()?;
        }
        Ok(())
    }

    /// This process's segment, another one where it is full or was removed.
    fn writer<'a>(&self, writing: &'a mut Writing, most_entries: u64) -> io::Result<&'a mut (Writer, u32)> {
        if let Some((writer, _)) = &writing.writer
            && (u64::from(writer.entries) >= most_entries || !keys_of(&self.folder, &writer.name).exists())
        {
            writing.end()?;
        }
        if writing.writer.is_none() {
            mark_again(self.directory())?;
            self.make_room(writing.most_bytes)?;
            close_a_writer(&self.writing);
            let writer = Writer::create(&self.folder, self.shape, None)?;
            self.describe()?;
            let segment = self.write().take_in(Segment::new(&self.folder, &writer.name));
            self.followed.lock().insert(writer.name.clone(), Followed { segment, read: u64::MAX });
            writer.publish()?;
            writing.writer = Some((writer, segment));
        }
        Ok(writing.writer.as_mut().expect("just made"))
    }

    /// Removes the oldest vectors of the folder, so that another segment fits.
    fn make_room(&self, most_bytes: u64) -> io::Result<()> {
        if most_bytes == 0 {
            return Ok(());
        }
        let (part, directory) = (Self::part_of(most_bytes), self.directory());
        let most = most_bytes.saturating_sub(part);
        if upkeep::bytes_below(directory) <= most {
            return Ok(());
        }
        let (bytes, why) = match Upkeep::try_begin(directory) {
            Ok(Some(upkeep)) => {
                let left = upkeep.evict(most, part);
                (left.bytes, left.stayed.into_iter().next().unwrap_or_default())
            }
            // Somebody else makes room in this moment.
            Ok(None) => return Ok(()),
            Err(error) => (upkeep::bytes_below(directory), error.to_string()),
        };
        self.update();
        match bytes > most_bytes {
            true => Err(io::Error::other(format!(
                "it holds {bytes} bytes of the {most_bytes} of embed.cache_size, and none of them can be removed: {why}"
            ))),
            false => Ok(()),
        }
    }

    /// Bytes of a segment where the folder may hold so many: a single writer goes beyond the limit by no more than that.
    pub(super) fn part_of(most_bytes: u64) -> u64 {
        most_bytes.div_ceil(PARTS)
    }

    /// Writes what the space is for.
    fn describe(&self) -> io::Result<()> {
        match self.folder.join(DESCRIPTION).exists() {
            true => Ok(()),
            false => access::write(&self.folder, DESCRIPTION, &serde_json::to_vec_pretty(&self.key)?),
        }
    }

    /// What was written survives a loss of power from here on.
    pub(crate) fn sync(&self) {
        // The next write tells what is wrong.
        let _ = self.writing.lock().sync();
    }

    /// Ends this process's segment, so that it can be removed.
    pub(super) fn end_segment(&self) {
        let _ = self.writing.lock().end();
    }

    /// Joins small segments where there are many.
    pub(super) fn join(&self) {
        let most_bytes = match self.writing.lock().most_bytes {
            0 => u64::MAX,
            most => Self::part_of(most),
        };
        upkeep::join_where_many(self.directory(), &self.folder, self.shape, most_bytes);
    }

    /// Takes in what others changed. Begins to write again where that failed.
    pub(super) fn refresh(&self) {
        self.update();
        self.writing.lock().stopped = false;
    }

    /// Reads the keys that others added, and lets go of segments that are gone with all their keys.
    fn update(&self) {
        let mut followed = self.followed.lock();
        for _ in 0..3 {
            // Where the folder cannot be looked at now, what is known goes on.
            let Ok(on_disk) = self.on_disk() else { return };
            self.let_go(&mut followed, &on_disk);
            if on_disk.iter().all(|segment| self.follow(&mut followed, segment)) {
                return;
            }
            // One went meanwhile: joined, maybe, to one that is not in the list.
        }
    }

    /// The segments in the folder. A system lists a folder little by little, and while segments are joined it may show neither
    /// the old ones nor the new: what is given lacks nothing that an earlier look has shown.
    fn on_disk(&self) -> io::Result<Vec<OnDisk>> {
        let mut before = segment::list(&self.folder)?;
        for _ in 0..5 {
            let now = segment::list(&self.folder)?;
            let names: HashSet<&str> = now.iter().map(|segment| segment.name.as_str()).collect();
            if before.iter().all(|segment| names.contains(segment.name.as_str())) {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    fn let_go(&self, followed: &mut HashMap<String, Followed>, on_disk: &[OnDisk]) {
        let names: HashSet<&str> = on_disk.iter().map(|segment| segment.name.as_str()).collect();
        let mut gone = HashSet::new();
        followed.retain(|name, known| {
            // A segment of this process that is about to be shown has no such file yet.
            let is_there = names.contains(name.as_str()) || known.read == u64::MAX && self.is_begun(name);
            if !is_there {
                gone.insert(known.segment);
            }
            is_there
        });
        if !gone.is_empty() {
            self.write().let_go(&gone);
        }
    }

    fn is_begun(&self, name: &str) -> bool {
        // In this order: the one becomes the other.
        keys_of(&self.folder, name).with_extension("new").exists() || keys_of(&self.folder, name).exists()
    }

    /// Takes in the new keys of a segment; `false` where it is gone.
    fn follow(&self, followed: &mut HashMap<String, Followed>, on_disk: &OnDisk) -> bool {
        let read = followed.get(&on_disk.name).map_or(0, |known| known.read);
        if read >= on_disk.entries {
            return true;
        }
        let keys = access::open(&on_disk.path("keys")).and_then(|mut file| segment::read_keys(&mut file, read));
        let (shape, keys) = match keys {
            Ok(found) => found,
            // What cannot be read now is not there now.
            Err(error) => return error.kind() != io::ErrorKind::NotFound,
        };
        if shape != self.shape {
            return true;
        }
        let mut index = self.write();
        let known = followed.entry(on_disk.name.clone()).or_insert_with(|| {
            let segment = index.take_in(Segment::new(&self.folder, &on_disk.name));
            Followed { segment, read: 0 }
        });
        index.insert(known.segment, u32::try_from(read).unwrap_or(u32::MAX), &keys);
        known.read += keys.len() as u64;
        true
    }

    /// Remembers how much the folder may hold.
    pub(super) fn limit(&self, most_bytes: u64) {
        self.writing.lock().most_bytes = most_bytes;
    }

    /// What the space holds, and what it did for this process.
    pub(super) fn usage(&self) -> CacheUse {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let segments = segment::list(&self.folder).unwrap_or_default();
        CacheUse {
            model: self.key.model.clone(),
            fingerprint: self.key.fingerprint.clone(),
            precision: self.key.precision.clone(),
            device: self.key.device.clone(),
            prompt: self.key.prompt.clone(),
            dim: self.key.dimensions,
            max_tokens: self.key.max_tokens,
            entries: self.index().locations.len() as u64,
            bytes: segments.iter().map(OnDisk::bytes).sum(),
            hits: read(&self.hits),
            misses: read(&self.misses),
            damaged: read(&self.damaged),
        }
    }

    /// Reads every vector; gives how many are right and how many are damaged.
    pub(super) fn verify(&self) -> (u64, u64) {
        let keys: Vec<Key> = self.index().locations.keys().copied().collect();
        let (mut right, mut damaged) = (0, 0);
        let (mut bytes, mut values) = (Vec::new(), vec![0.0; self.shape.values]);
        for key in keys {
            match self.look(&key, &mut bytes, &mut values) {
                Look::Right(_) => right += 1,
                Look::Damaged => damaged += 1,
                Look::Nothing => {}
            }
        }
        (right, damaged)
    }

    /// How many keys the index has room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.index().locations.capacity()
    }

    /// The cache's folder.
    fn directory(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write()
    }
}

impl Index {
    fn find(&self, key: &Key) -> Option<(Location, Arc<Segment>)> {
        let location = *self.locations.get(key)?;
        Some((location, self.segment(location)?))
    }

    fn segment(&self, location: Location) -> Option<Arc<Segment>> {
        self.segments[location.segment as usize].as_ref().map(Arc::clone)
    }

    /// Forgets a key, unless it was found elsewhere meanwhile.
    fn remove(&mut self, key: &Key, location: Location) {
        if self.locations.get(key) == Some(&location) {
            self.locations.remove(key);
        }
    }

    /// The number of a segment.
    fn take_in(&mut self, segment: Segment) -> u32 {
        let segment = Some(Arc::new(segment));
        if let Some(free) = self.free.pop() {
            self.segments[free as usize] = segment;
            return free;
        }
        self.segments.push(segment);
        self.segments.len() as u32 - 1
    }

    /// Adds keys of a segment, the first being number `first` of it.
    fn insert(&mut self, segment: u32, first: u32, keys: &[Key]) {
        for (i, key) in keys.iter().enumerate() {
            self.locations.insert(*key, Location { segment, index: first.saturating_add(i as u32) });
        }
    }

    /// Lets go of segments with all that is known of them.
    fn let_go(&mut self, gone: &HashSet<u32>) {
        self.locations.retain(|_, location| !gone.contains(&location.segment));
        if self.locations.capacity() > 4 * self.locations.len() {
            self.locations.shrink_to(2 * self.locations.len());
        }
        for &segment in gone {
            self.segments[segment as usize] = None;
            self.free.push(segment);
        }
    }
}

impl Writing {
    fn sync(&mut self) -> io::Result<()> {
        match (&self.writer, self.unsynced_since.take()) {
            (Some((writer, _)), Some(_)) => writer.sync(),
            _ => Ok(()),
        }
    }

    /// Lets go of the segment: from here on it is finished.
    fn end(&mut self) -> io::Result<()> {
        let synced = self.sync();
        self.writer = None;
        synced
    }
}

/// Ends the oldest segment that this process writes, where it writes too many, before `of` begins one.
fn close_a_writer(of: &Arc<Mutex<Writing>>) {
    let mut writers = WRITERS.lock();
    let is_other = |known: &Weak<Mutex<Writing>>| !Weak::ptr_eq(known, &Arc::downgrade(of));
    writers.retain(|known| known.strong_count() > 0 && is_other(known));
    for _ in 0..writers.len() {
        if writers.len() < MOST_WRITERS {
            break;
        }
        let Some(oldest) = writers.pop_front() else { break };
        let Some(writing) = oldest.upgrade() else { continue };
        // One that is busy in this moment is not waited for: it may be waiting here.
        match writing.try_lock() {
            Some(mut writing) => drop(writing.end()),
            None => writers.push_back(oldest),
        }
    }
    writers.push_back(Arc::downgrade(of));
}

fn keys_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.keys"))
}

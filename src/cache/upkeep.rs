//! What processes do to a folder in turns: remove what is oldest, join what is small, sweep up what was left behind.
//!
//! Whoever does it holds a lock of the whole folder, and touches only segments that are finished. Readers and writers
//! need no lock: a segment that is made of others is complete before those go, and who finds one gone looks again.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::access;
use super::format::LOCK_FILE;
use super::key::DESCRIPTION;
use super::segment::{self, Key, Newest, OnDisk, Shape, Writer, hold, list, read_keys, split_name};

/// How long a command waits for another process that holds the lock: a join takes about a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Small segments that a space may have before they are joined.
const MOST_SMALL: usize = 64;
/// What is joined at once at most, so that a query that happens to do it does not wait: so many segments, and bytes.
const MOST_JOINED: usize = 4096;
const MOST_JOINED_BYTES: u64 = 64 << 20;
/// The age of a staged file that nobody is writing any more, for a file of a few hundred bytes.
const ABANDONED: Duration = Duration::from_secs(60);

/// What a folder of vectors holds after some were to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Bytes of the vectors that are there now.
    pub bytes: u64,
    /// What was to go and is still there, and why, a line for each.
    pub stayed: Vec<String>,
}

/// The right to remove and join segments of a folder, for one at a time.
#[derive(Debug)]
pub(super) struct Upkeep {
    directory: PathBuf,
    /// `None` in a folder of another format, which has no such file.
    _lock: Option<File>,
}

impl Upkeep {
    /// `None` where another thread or process is at it.
    pub(super) fn try_begin(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(LOCK_FILE);
        if path.exists() {
            access::check_is_file(&path)?;
        }
        let lock = access::options(directory).write(true).create(true).truncate(false).open(path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { directory: directory.to_owned(), _lock: Some(lock) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(segment::no_locks(&error)),
        }
    }

    /// Waits for another thread or process that is at it.
    pub(super) fn begin(directory: &Path) -> io::Result<Self> {
        let pause = Duration::from_millis(50);
        for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
            if let Some(upkeep) = Self::try_begin(directory)? {
                return Ok(upkeep);
            }
            thread::sleep(pause);
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process is busy with it; try again later"))
    }

    /// For a folder of another format, from which all goes.
    pub(super) fn of_another_format(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), _lock: None }
    }

    /// Removes the oldest vectors of the folder until the rest fits; what a process is writing stays. Segments of up to
    /// `grain` bytes go as a whole, of a larger one the newest vectors stay that fit.
    pub(super) fn evict(&self, most_bytes: u64, grain: u64) -> Pruned {
        let (segments, mut stayed) = self.segments();
        let mut held = Vec::new();
        let sizes: Vec<u64> = segments.iter().map(OnDisk::bytes).collect();
        let mut bytes: u64 = sizes.iter().sum();
        for (segment, size) in segments.iter().zip(sizes) {
            if bytes <= most_bytes {
                break;
            }
            let room = if size > grain { most_bytes.saturating_sub(bytes - size) } else { 0 };
            match shrink(segment, room) {
                Ok(left) => bytes = bytes - size + left,
                // Removed by hand, in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => bytes -= size,
                Err(error) => held.push(format!("{}: {error}", segment.path("keys").display())),
            }
        }
        for space in spaces(&self.directory).unwrap_or_default() {
            sweep(&space);
        }
        // Newer ones may have gone in their place.
        if bytes > most_bytes {
            stayed.extend(held);
        }
        Pruned { bytes, stayed }
    }

    /// Every segment of the folder, oldest first, and what cannot be looked at.
    fn segments(&self) -> (Vec<OnDisk>, Vec<String>) {
        let (mut segments, mut unread) = (Vec::new(), Vec::new());
        let spaces = spaces(&self.directory).unwrap_or_else(|error| {
            unread.push(format!("{}: {error}", self.directory.display()));
            Vec::new()
        });
        for folder in spaces {
            match list(&folder) {
                Ok(found) => segments.extend(found),
                Err(error) => unread.push(format!("{}: {error}", folder.display())),
            }
        }
        segments.sort_by(|a, b| a.name.cmp(&b.name));
        (segments, unread)
    }

    /// Joins the small segments of a space, oldest first, to such of up to `most_bytes`. Only neighbours in age are joined, so
    /// that the oldest vectors go first after that too.
    pub(super) fn join(&self, folder: &Path, shape: Shape, most_bytes: u64) -> io::Result<()> {
        let most_bytes = most_bytes.min(MOST_JOINED_BYTES);
        let (mut group, mut bytes, mut work, mut count) = (Vec::new(), 0, 0, 0);
        for segment in list(folder)? {
            let size = shape.bytes(segment.entries);
            let is_small = is_small(&segment, shape, most_bytes);
            if !is_small || bytes + size > most_bytes {
                join_all(&group, folder, shape)?;
                group.clear();
                bytes = 0;
            }
            if !is_small {
                continue;
            }
            (bytes, work, count) = (bytes + size, work + size, count + 1);
            if work > MOST_JOINED_BYTES || count > MOST_JOINED {
                break;
            }
            group.push(segment);
        }
        join_all(&group, folder, shape)?;
        sweep(folder);
        Ok(())
    }
}

/// Joins the small segments of a space where there are many. Where that cannot be done the space is as good as before.
pub(super) fn join_where_many(directory: &Path, folder: &Path, shape: Shape, most_bytes: u64) {
    let segments = list(folder).unwrap_or_default();
    if segments.iter().filter(|segment| is_small(segment, shape, most_bytes)).count() > MOST_SMALL
        && let Ok(Some(upkeep)) = Upkeep::try_begin(directory)
    {
        let _ = upkeep.join(folder, shape, most_bytes);
    }
}

/// Whether a few of such a segment fit into one of `most_bytes`.
fn is_small(segment: &OnDisk, shape: Shape, most_bytes: u64) -> bool {
    shape.bytes(segment.entries) <= most_bytes.min(MOST_JOINED_BYTES) / 4
}

/// Makes one segment of those that are finished.
fn join_all(group: &[OnDisk], folder: &Path, shape: Shape) -> io::Result<()> {
    let members: Vec<_> = group.iter().filter_map(|segment| Some((segment, finished_keys(segment, shape)?))).collect();
    let [_, .., (last, _)] = members.as_slice() else { return Ok(()) };
    let keys = members.iter().flat_map(|(segment, keys)| keys.iter().map(|key| (*key, segment.name.as_str())));
    let newest: Newest<'_> = keys.collect();
    let mut writer = Writer::create(folder, shape, Some(last.time() + 1))?;
    let mut copied = Vec::with_capacity(members.len());
    for (segment, keys) in &members {
        match writer.copy(segment, keys, 0, &newest) {
            Ok(()) => copied.push(*segment),
            // Its vectors are lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => copied.push(*segment),
            Err(error) => {
                writer.discard();
                return Err(error);
            }
        }
    }
    complete(writer)?;
    copied.into_iter().for_each(|segment| drop(segment.remove()));
    Ok(())
}

/// The keys of a segment that nobody writes, none where they cannot be read ever; `None` where it has to stay.
fn finished_keys(segment: &OnDisk, shape: Shape) -> Option<Vec<Key>> {
    match read_keys(&mut segment.hold().ok()?, 0) {
        Ok((found, keys)) if found == shape => Some(keys),
        Ok(_) => Some(Vec::new()),
        Err(error) => matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof).then(Vec::new),
    }
}

/// Shows a segment that was made of others to everybody, and gives its bytes.
fn complete(writer: Writer) -> io::Result<u64> {
    if writer.entries == 0 {
        writer.discard();
        return Ok(0);
    }
    let shown = writer.sync().and_then(|()| writer.publish());
    let writer = or_discarded(writer, shown)?;
    // Its name is on disk before those of the others go; not every system can open a folder.
    let _ = File::open(writer.folder()).and_then(|folder| folder.sync_all());
    Ok(writer.bytes())
}

/// The writer, if what was done with it went well.
fn or_discarded(writer: Writer, done: io::Result<()>) -> io::Result<Writer> {
    if let Err(error) = done {
        writer.discard();
        return Err(error);
    }
    Ok(writer)
}

/// Leaves up to `most_bytes` of a segment, its newest vectors, and gives what is left.
fn shrink(segment: &OnDisk, most_bytes: u64) -> io::Result<u64> {
    let mut keys = segment.hold()?;
    // On a full disk there is no room for the rest: all of it goes.
    let left = if most_bytes > 0 { rewrite(segment, &mut keys, most_bytes).unwrap_or(0) } else { 0 };
    segment.remove()?;
    Ok(left)
}

fn rewrite(segment: &OnDisk, keys: &mut File, most_bytes: u64) -> io::Result<u64> {
    let (shape, keys) = read_keys(keys, 0)?;
    let first = keys.len().saturating_sub(shape.entries_of(most_bytes) as usize);
    let mut writer = Writer::create(&segment.folder, shape, Some(segment.time() + 1))?;
    let copied = writer.copy(segment, &keys, first, &Newest::new());
    complete(or_discarded(writer, copied)?)
}

/// The folders of spaces in a cache's folder. What somebody else put there is none.
pub(super) fn spaces(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut spaces = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_hash = name.to_str().is_some_and(|name| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit()));
        if is_hash && entry.file_type()?.is_dir() {
            spaces.push(entry.path());
        }
    }
    Ok(spaces)
}

/// Bytes of all segments of a cache's folder.
pub(super) fn bytes_below(directory: &Path) -> u64 {
    let spaces = spaces(directory).unwrap_or_default();
    spaces.iter().flat_map(|space| list(space).unwrap_or_default()).map(|segment| segment.bytes()).sum()
}

/// Removes what killed processes left in the folder of a space, and the folder if it has nothing else.
fn sweep(folder: &Path) {
    let (mut is_empty, mut described) = (true, None);
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    // Without its `.new` a `.vectors` is left behind as well.
    files.sort();
    for path in files {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name == DESCRIPTION {
            described = access::text(&path).ok();
        } else if !(is_left_behind(&path, name) && fs::remove_file(&path).is_ok()) {
            is_empty = false;
        }
    }
    if !is_empty {
        return;
    }
    let _ = fs::remove_file(folder.join(DESCRIPTION));
    if fs::remove_dir(folder).is_err()
        && let Some(description) = described
    {
        // Somebody began a segment in this moment.
        let _ = access::write(folder, DESCRIPTION, description.as_bytes());
    }
}

/// Whether nobody will ever need this file of a space.
fn is_left_behind(path: &Path, name: &str) -> bool {
    match split_name(name) {
        // Its writer would hold a lock.
        Some((_, "new")) => hold(path).is_ok(),
        // In this order: the one becomes the other.
        Some((_, "vectors")) => !path.with_extension("new").exists() && !path.with_extension("keys").exists(),
        Some(_) => false,
        None => {
            let is_part = name.starts_with("space.") && name.ends_with(".part");
            is_part && age(path).is_some_and(|age| age > ABANDONED)
        }
    }
}

fn age(path: &Path) -> Option<Duration> {
    fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

//! A segment: two files that one process writes from front to back.
//!
//! `NAME.keys` is a header and then the keys, 16 bytes each; `NAME.vectors` has, in the same order, one entry for each of
//! them: the values as little-endian f32, a word of flags, and a checksum over space, key, values and flags. An entry is
//! written before its key, so that a key that is there has its vector, and a process that is killed leaves at most half an
//! entry, which nobody reads. The writer holds a lock on the keys: the system releases it when the process ends, however it
//! ends. Until a segment may be read its keys are called `NAME.new`, so that a `NAME.keys` without a lock is finished.
//!
//! A name is a time, a process and a number, and is never used twice: whoever has an old name finds that segment or none.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};

use super::access;

/// 128 bits of a text's hash: what foresees one of them could as well foresee SHA-256.
pub(crate) type Key = [u8; KEY];

/// Bytes of a key.
const KEY: usize = 16;
const MAGIC: &[u8; 8] = b"dfembed2";
/// Magic, the values of a vector, and the space.
const HEADER: usize = 32;
/// Bytes of the flags of an entry.
const FLAGS: usize = 4;
/// The flag of a text that was cut.
const CUT: u32 = 1;
/// Bytes of a checksum.
const SUM: usize = 8;
/// Most files that this process keeps open to read vectors from.
const MOST_OPEN: usize = 16;
/// Bytes that are copied at once where segments are joined.
const COPIED_AT_ONCE: usize = 1 << 20;

/// What the segments of a space have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Values of a vector.
    pub(super) values: usize,
    /// Hash of what the space is for: an entry of another space is never right.
    pub(super) space: [u8; 16],
}

/// A segment to read from. Its file is open as long as it is among those of the process that were read last.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: RwLock<Option<Arc<File>>>,
    /// Since the last look for a file to close.
    was_read: AtomicBool,
    /// Locked because reading moves the file's position, where the system has no reads at a place.
    #[cfg_attr(unix, expect(dead_code, reason = "only other systems need it"))]
    position: Mutex<()>,
}

/// The segments whose files are open, beginning with those that were opened first.
static OPEN: Mutex<VecDeque<Weak<Segment>>> = Mutex::new(VecDeque::new());

/// A segment that this process writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) name: String,
    folder: PathBuf,
    shape: Shape,
    keys: File,
    vectors: File,
    pub(super) entries: u32,
}

/// A segment on disk.
#[derive(Debug, Clone)]
pub(super) struct OnDisk {
    pub(super) folder: PathBuf,
    /// Begins with the time at which it was begun, so that names sort by age.
    pub(super) name: String,
    /// How many keys it has.
    pub(super) entries: u64,
}

impl Shape {
    /// Bytes of an entry of `NAME.vectors`.
    pub(super) fn entry(self) -> usize {
        self.values * size_of::<f32>() + FLAGS + SUM
    }

    /// Bytes on disk of so many vectors in one segment.
    pub(super) fn bytes(self, entries: u64) -> u64 {
        HEADER as u64 + entries * (KEY + self.entry()) as u64
    }

    /// How many vectors a segment of so many bytes has.
    pub(super) fn entries_of(self, bytes: u64) -> u64 {
        bytes.saturating_sub(HEADER as u64) / (KEY + self.entry()) as u64
    }

    fn header(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&(self.values as u64).to_le_bytes());
        header[16..].copy_from_slice(&self.space);
        header
    }

    fn from_header(header: [u8; HEADER]) -> io::Result<Self> {
        let values = u64::from_le_bytes(header[8..16].try_into().map_err(io::Error::other)?);
        let space = header[16..].try_into().map_err(io::Error::other)?;
        match header.starts_with(MAGIC) && values <= 1 << 24 {
            true => Ok(Self { values: values as usize, space }),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// 64 bits of SHA-256 over all that makes an entry right: a key that was changed has no vector either.
    fn checksum(self, key: &Key, entry: &[u8]) -> [u8; SUM] {
        let hash = Sha256::new().chain_update(self.space).chain_update(key).chain_update(entry).finalize();
        *hash.first_chunk().expect("8 of 32 bytes")
    }

    /// The values and flags of an entry, if its checksum is right.
    fn right<'a>(self, key: &Key, entry: &'a [u8]) -> Option<(&'a [u8], u32)> {
        let (body, sum) = entry.split_last_chunk::<SUM>()?;
        let (values, flags) = body.split_last_chunk::<FLAGS>()?;
        (self.checksum(key, body) == *sum).then(|| (values, u32::from_le_bytes(*flags)))
    }
}

/// Writes the values of an entry that was read; gives whether its text was cut, and `None` unless its checksum is right.
pub(super) fn take(shape: Shape, key: &Key, entry: &[u8], values: &mut [f32]) -> Option<bool> {
    let (bytes, flags) = shape.right(key, entry)?;
    values.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(value, &b)| *value = f32::from_le_bytes(b));
    Some(flags & CUT != 0)
}

impl Segment {
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        let path = path_of(folder, name, "vectors");
        Self { path, file: RwLock::default(), was_read: AtomicBool::new(false), position: Mutex::new(()) }
    }

    /// Reads the bytes of `count` vectors from `index` on, all of them or none. An error says that the file cannot be opened.
    pub(super) fn read(
        self: &Arc<Self>,
        index: u32,
        count: usize,
        shape: Shape,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        let file = self.opened()?;
        bytes.resize(count * shape.entry(), 0);
        if self.read_at(&file, bytes, u64::from(index) * shape.entry() as u64).is_err() {
            bytes.clear();
        }
        Ok(())
    }

    /// Whether its keys are still there.
    pub(super) fn has_keys(&self) -> bool {
        self.path.with_extension("keys").exists()
    }

    /// The file, opened now if it is not.
    fn opened(self: &Arc<Self>) -> io::Result<Arc<File>> {
        if !self.was_read.load(Ordering::Relaxed) {
            self.was_read.store(true, Ordering::Relaxed);
        }
        if let Some(file) = self.file.read().as_ref() {
            return Ok(Arc::clone(file));
        }
        let mut open = OPEN.lock();
        let mut own = self.file.write();
        if let Some(file) = own.as_ref() {
            return Ok(Arc::clone(file));
        }
        close_some(&mut open);
        let file = Arc::new(access::open(&self.path)?);
        *own = Some(Arc::clone(&file));
        open.push_back(Arc::downgrade(self));
        Ok(file)
    }

    #[cfg(unix)]
    #[expect(clippy::unused_self, reason = "other systems need it")]
    fn read_at(&self, file: &File, bytes: &mut [u8], place: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, place)
    }

    #[cfg(not(unix))]
    fn read_at(&self, mut file: &File, bytes: &mut [u8], place: u64) -> io::Result<()> {
        let _held = self.position.lock();
        file.seek(SeekFrom::Start(place))?;
        file.read_exact(bytes)
    }
}

/// Closes files until one more may be opened: those first that nobody read since they were looked at last.
fn close_some(open: &mut VecDeque<Weak<Segment>>) {
    let mut spared = 0;
    while open.len() >= MOST_OPEN
        && let Some(first) = open.pop_front()
    {
        // A segment that is let go of has closed its file.
        let Some(segment) = first.upgrade() else { continue };
        if spared < MOST_OPEN && segment.was_read.swap(false, Ordering::Relaxed) {
            spared += 1;
            open.push_back(first);
        } else {
            *segment.file.write() = None;
        }
    }
}

impl Writer {
    /// Begins a segment that is as old as `time` in nanoseconds, that of now if there is none. Nobody sees it yet.
    pub(super) fn create(folder: &Path, shape: Shape, time: Option<u64>) -> io::Result<Self> {
        // Several may begin within one tick of the clock.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let mut tries = 0;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{:016x}-{:x}-{count:x}", time.unwrap_or_else(now), process::id());
            match Self::try_create(folder, shape, name) {
                // Who removes what was left behind took the file before it was locked, or the folder that was empty.
                Err(error) if tries < 3 && matches!(error.kind(), io::ErrorKind::NotFound) => tries += 1,
                result => return result,
            }
        }
    }

    fn try_create(folder: &Path, shape: Shape, name: String) -> io::Result<Self> {
        access::create_below(folder)?;
        let new = path_of(folder, &name, "new");
        let open = |path: &Path| access::options(folder).append(true).create_new(true).open(path);
        let mut keys = open(&new)?;
        // Where the system has no locks nothing is ever removed, see `OnDisk::hold`.
        let taken = matches!(keys.try_lock(), Err(TryLockError::WouldBlock));
        if taken || !new.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let vectors = open(&path_of(folder, &name, "vectors"))?;
        keys.write_all(&shape.header())?;
        Ok(Self { name, folder: folder.to_owned(), shape, keys, vectors, entries: 0 })
    }

    /// From here on others may read it.
    pub(super) fn publish(&self) -> io::Result<()> {
        fs::rename(path_of(&self.folder, &self.name, "new"), path_of(&self.folder, &self.name, "keys"))
    }

    /// Removes what nobody has seen.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(path_of(&self.folder, &self.name, "vectors"));
        let _ = fs::remove_file(path_of(&self.folder, &self.name, "new"));
    }

    /// Adds vectors; `cut` says which texts were cut. After an error nothing more can be added: part of them may be there.
    pub(super) fn add(&mut self, keys: &[Key], cut: &[bool], vectors: &[f32]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(self.shape.entry() * keys.len());
        for ((key, &is_cut), vector) in keys.iter().zip(cut).zip(vectors.chunks_exact(self.shape.values)) {
            let start = bytes.len();
            bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
            bytes.extend(if is_cut { CUT } else { 0 }.to_le_bytes());
            let sum = self.shape.checksum(key, &bytes[start..]);
            bytes.extend(sum);
        }
        self.append(keys, &bytes)
    }

    fn append(&mut self, keys: &[Key], entries: &[u8]) -> io::Result<()> {
        self.vectors.write_all(entries)?;
        self.keys.write_all(keys.as_flattened())?;
        self.entries += keys.len() as u32;
        Ok(())
    }

    /// Adds the entries of a segment from number `first` on: those that are right and that `newest` has for it.
    pub(super) fn copy(&mut self, from: &OnDisk, keys: &[Key], first: usize, newest: &Newest<'_>) -> io::Result<()> {
        let size = self.shape.entry();
        let mut file = BufReader::with_capacity(COPIED_AT_ONCE, access::open(&from.path("vectors"))?);
        file.seek(SeekFrom::Start(first as u64 * size as u64))?;
        let (mut entry, mut copied, mut bytes) = (vec![0; size], Vec::new(), Vec::new());
        for key in &keys[first..] {
            // Where the file ends early the rest is lost already.
            if file.read_exact(&mut entry).is_err() {
                break;
            }
            if self.shape.right(key, &entry).is_none() || newest.get(key).is_some_and(|name| **name != from.name) {
                continue;
            }
            copied.push(*key);
            bytes.extend_from_slice(&entry);
            if bytes.len() >= COPIED_AT_ONCE {
                self.append(&copied, &bytes)?;
                copied.clear();
                bytes.clear();
            }
        }
        self.append(&copied, &bytes)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of both files.
    pub(super) fn bytes(&self) -> u64 {
        self.shape.bytes(u64::from(self.entries))
    }

    /// What was written survives a loss of power from here on.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.vectors.sync_data()?;
        self.keys.sync_data()
    }
}

/// In which segment a key was written last, by name, for keys that are in several.
pub(super) type Newest<'a> = HashMap<Key, &'a str>;

impl OnDisk {
    pub(super) fn path(&self, extension: &str) -> PathBuf {
        path_of(&self.folder, &self.name, extension)
    }

    /// Bytes of both files.
    pub(super) fn bytes(&self) -> u64 {
        let size = |extension| fs::metadata(self.path(extension)).map_or(0, |metadata| metadata.len());
        size("keys") + size("vectors")
    }

    /// The time in its name.
    pub(super) fn time(&self) -> u64 {
        u64::from_str_radix(&self.name[..16], 16).unwrap_or_default()
    }

    /// Its keys, if it is finished: nobody writes it any more, and nobody ever will. An error says why it cannot be touched.
    pub(super) fn hold(&self) -> io::Result<File> {
        hold(&self.path("keys"))
    }

    /// Removes the files of a segment that is held. The keys first: without them nobody looks for the vectors.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(self.path("keys"))?;
        fs::remove_file(self.path("vectors")).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    }
}

/// Opens a file of keys that no process writes.
pub(super) fn hold(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "a running process is writing it"))
        }
        Err(TryLockError::Error(error)) => Err(no_locks(&error)),
    }
}

/// Nothing is removed where nobody can say that it is not being written.
pub(super) fn no_locks(error: &io::Error) -> io::Error {
    let told = format!(
        "the file system has no locks, which would say whether a process is writing ({error}); remove the folder itself when \
         none is"
    );
    io::Error::new(error.kind(), told)
}

/// The header of a file of keys, and the keys from number `first` on.
pub(super) fn read_keys(file: &mut File, first: u64) -> io::Result<(Shape, Vec<Key>)> {
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    let shape = Shape::from_header(header)?;
    file.seek(SeekFrom::Start(HEADER as u64 + first * KEY as u64))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((shape, bytes.as_chunks::<KEY>().0.to_vec()))
}

/// The segments in the folder of a space, oldest first; none where it is not there.
pub(super) fn list(folder: &Path) -> io::Result<Vec<OnDisk>> {
    let files = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let mut segments = Vec::new();
    for file in files {
        let file = file?;
        let name = file.file_name();
        let Some((name, "keys")) = name.to_str().and_then(split_name) else { continue };
        // One that goes in this moment is not there.
        let Ok(metadata) = file.metadata() else { continue };
        let entries = metadata.len().saturating_sub(HEADER as u64) / KEY as u64;
        segments.push(OnDisk { folder: folder.to_owned(), name: name.to_owned(), entries });
    }
    segments.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(segments)
}

/// The name and extension of a file that belongs to a segment; `None` for any other.
pub(super) fn split_name(file: &str) -> Option<(&str, &str)> {
    let (name, extension) = file.split_once('.')?;
    let mut parts = name.split('-');
    let has_time = parts.next().is_some_and(|time| time.len() == 16 && is_hex(time));
    let ours =
        has_time && parts.next().is_some_and(is_hex) && parts.next().is_some_and(is_hex) && parts.next().is_none();
    (ours && matches!(extension, "keys" | "vectors" | "new")).then_some((name, extension))
}

fn is_hex(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn path_of(folder: &Path, name: &str, extension: &str) -> PathBuf {
    folder.join(format!("{name}.{extension}"))
}

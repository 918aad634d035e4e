//! One file of a model, opened, and whether its bytes are those that were read before.

use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

/// What an error says of a file that is not what it was.
pub(super) const CHANGED: &str = "changed while the model was in use; run the statement again";

/// How much of a file has one hash, see [`Blocks`].
pub(super) const BLOCK: usize = 64 << 10;

/// What the file system says of a file. Other bytes under the same stamp are possible, where they are written within one
/// tick of its clock: only [`Blocks`] are sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and the time of the last change in seconds and nanoseconds, which no tool can set back.
    #[cfg(unix)]
    node: (u64, u64, i64, i64),
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            node: (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of the file that is at a path now.
    pub(super) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::new)
    }
}

/// The hashes of a file's blocks, which tell a second reading from the first, whatever part of the file it wants.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) length: u64,
    pub(super) hashes: Vec<u64>,
}

/// How the readings of a model's files are compared, all by one.
#[derive(Debug, Clone, Default)]
pub(super) struct Comparison {
    /// Hashes blocks; its keys are random, so that nobody can make a block that passes for another.
    hasher: RandomState,
    /// Raised where a file is not what it was.
    changed: Arc<AtomicBool>,
}

impl Comparison {
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        self.hasher.hash_one(bytes)
    }

    /// Notes that a file is not what it was.
    pub(super) fn fail(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Whether a file was found not to be what it was.
    pub(super) fn failed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }
}

/// A file of a model, opened.
#[derive(Debug)]
pub(crate) struct ModelFile(Content);

#[derive(Debug)]
enum Content {
    Memory(&'static [u8]),
    Disk(DiskFile),
}

#[derive(Debug)]
struct DiskFile {
    /// Locked because reading moves the file's position.
    file: Mutex<File>,
    stamp: Stamp,
    /// What its bytes have to be, where all of them were read before.
    blocks: Option<Arc<Blocks>>,
    comparison: Comparison,
}

impl ModelFile {
    /// A file that is in the program.
    pub(super) fn in_memory(bytes: &'static [u8]) -> Self {
        Self(Content::Memory(bytes))
    }

    /// Opens a file that is one: opening a pipe would wait for whoever writes into it.
    pub(super) fn open(path: &Path, comparison: &Comparison) -> io::Result<Self> {
        require_regular(&fs::metadata(path)?)?;
        let file = File::open(path)?;
        // It may be another one by now.
        let metadata = file.metadata()?;
        require_regular(&metadata)?;
        let (stamp, comparison) = (Stamp::new(&metadata), comparison.clone());
        Ok(Self(Content::Disk(DiskFile { file: Mutex::new(file), stamp, blocks: None, comparison })))
    }

    /// The same file, whose bytes have to be these.
    pub(super) fn compared_with(mut self, known: Option<Arc<Blocks>>) -> Self {
        if let Content::Disk(file) = &mut self.0 {
            file.blocks = known;
        }
        self
    }

    /// What the file system said of it when it was opened; nothing of one in the program.
    pub(super) fn stamp(&self) -> Option<&Stamp> {
        match &self.0 {
            Content::Memory(_) => None,
            Content::Disk(file) => Some(&file.stamp),
        }
    }

    /// Its bytes, in number.
    pub(crate) fn len(&self) -> u64 {
        match &self.0 {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Disk(file) => file.stamp.length,
        }
    }

    /// Some of its bytes, checked against what they were where all of the file was read before.
    pub(crate) fn read(&self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        match &self.0 {
            Content::Memory(bytes) => {
                let start = start as usize;
                let part = start.checked_add(length).and_then(|end| bytes.get(start..end));
                part.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Content::Disk(file) => match &file.blocks {
                None => file.read(start, length),
                Some(blocks) => file.read_compared(blocks, start, length),
            },
        }
    }

    /// Whether the file is what it was when it was opened, as far as the file system says.
    pub(super) fn is_unchanged(&self) -> bool {
        match &self.0 {
            Content::Memory(_) => true,
            Content::Disk(file) => file.file.lock().metadata().is_ok_and(|now| Stamp::new(&now) == file.stamp),
        }
    }
}

impl DiskFile {
    fn read(&self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut file = self.file.lock();
        let mut bytes = vec![0; length];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the whole blocks that the part lies in, because only those have a hash.
    fn read_compared(&self, blocks: &Blocks, start: u64, length: usize) -> io::Result<Vec<u8>> {
        let first = start / BLOCK as u64;
        let begin = first * BLOCK as u64;
        let end = (start + length as u64).next_multiple_of(BLOCK as u64).min(blocks.length);
        let wanted = end.checked_sub(begin).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut bytes = self.read(begin, wanted as usize)?;
        let known = blocks.hashes.iter().skip(first as usize);
        if !bytes.chunks(BLOCK).zip(known).all(|(block, known)| self.comparison.hash(block) == *known) {
            self.comparison.fail();
            return Err(io::Error::other(CHANGED));
        }
        let before = (start - begin) as usize;
        if bytes.len() < before.saturating_add(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.drain(..before);
        bytes.truncate(length);
        Ok(bytes)
    }
}

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let kind = if kind.is_dir() { "a directory" } else { "a pipe, a socket or a device" };
    Err(io::Error::other(format!("it is {kind}, and a model's files are plain files")))
}

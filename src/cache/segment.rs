//! A segment: two files that one process writes from front to back.
//!
//! `NAME.keys` is a header and then the keys, 16 bytes each; `NAME.vectors` has, in the same order, the values as
//! little-endian f32 and a checksum over key and values, 8 bytes. A vector is written before its key, so that a key that
//! is there has its vector, and a process that is killed leaves at most half an entry, which nobody reads. The writer holds
//! a lock on the keys: the system releases it when the process ends, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
#[cfg(not(unix))]
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// 128 bits of a text's hash: what foresees one of them could as well foresee SHA-256.
pub(crate) type Key = [u8; 16];

const MAGIC: &[u8; 8] = b"dfembed1";
/// Magic and the values of a vector.
const HEADER: usize = 16;
/// Bytes of a checksum.
const SUM: usize = 8;

/// A segment to read from.
#[derive(Debug)]
pub(super) struct Segment {
    vectors: File,
    /// Locked because reading moves the file's position, where the system has no reads at a place.
    #[cfg_attr(unix, expect(dead_code, reason = "only other systems need it"))]
    position: Mutex<()>,
}

/// A segment's keys while they are read: from where the last look ended.
#[derive(Debug)]
pub(super) struct Keys {
    file: File,
    read: u64,
}

/// A segment that this process writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) name: String,
    keys: File,
    vectors: File,
    pub(super) entries: u32,
    pub(super) bytes: u64,
}

/// A segment on disk, by its name: what eviction looks at.
#[derive(Debug)]
pub(super) struct OnDisk {
    /// Begins with the time at which it was begun.
    pub(super) name: String,
    pub(super) bytes: u64,
    keys: PathBuf,
}

impl Segment {
    pub(super) fn open(folder: &Path, name: &str) -> io::Result<Self> {
        let vectors = File::open(folder.join(name).with_extension("vectors"))?;
        Ok(Self { vectors, position: Mutex::new(()) })
    }

    /// Reads vector `index`, `values` long; `None` unless its checksum is right.
    pub(super) fn read(&self, index: u32, key: &Key, values: usize) -> Option<Vec<f32>> {
        let size = values * size_of::<f32>() + SUM;
        let mut bytes = vec![0; size];
        self.read_at(&mut bytes, u64::from(index) * size as u64).ok()?;
        let (vector, sum) = bytes.split_last_chunk::<SUM>()?;
        let right = checksum(key, vector) == *sum;
        right.then(|| vector.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], place: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.vectors, bytes, place)
    }

    #[cfg(not(unix))]
    fn read_at(&self, bytes: &mut [u8], place: u64) -> io::Result<()> {
        let _held = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = &self.vectors;
        file.seek(SeekFrom::Start(place))?;
        file.read_exact(bytes)
    }
}

impl Keys {
    /// Opens the keys of a segment whose vectors have so many values.
    pub(super) fn open(folder: &Path, name: &str, values: usize) -> io::Result<Self> {
        let mut file = File::open(folder.join(name).with_extension("keys"))?;
        let mut header = [0; HEADER];
        file.read_exact(&mut header)?;
        match header == self::header(values) {
            true => Ok(Self { file, read: 0 }),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The keys that came since the last look, with the index of the first.
    pub(super) fn more(&mut self) -> io::Result<(u32, Vec<Key>)> {
        let first = self.read;
        self.file.seek(SeekFrom::Start(HEADER as u64 + first * size_of::<Key>() as u64))?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        let keys = bytes.as_chunks::<{ size_of::<Key>() }>().0.to_vec();
        self.read += keys.len() as u64;
        Ok((u32::try_from(first).unwrap_or(u32::MAX), keys))
    }
}

impl Writer {
    /// Begins a segment.
    pub(super) fn create(folder: &Path, values: usize) -> io::Result<Self> {
        // Several may begin within one tick of the clock.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{now:016x}-{:x}-{count:x}", process::id());
        fs::create_dir_all(folder)?;
        let open = |extension| {
            OpenOptions::new().append(true).create_new(true).open(folder.join(&name).with_extension(extension))
        };
        let vectors = open("vectors")?;
        let mut keys = open("keys")?;
        // Where the system has no locks nothing is removed as long as it is new, see `OnDisk::remove`.
        let _ = keys.try_lock();
        keys.write_all(&header(values))?;
        Ok(Self { name, keys, vectors, entries: 0, bytes: HEADER as u64 })
    }

    /// Adds vectors. After an error nothing more can be added: part of them may be there.
    pub(super) fn add(&mut self, keys: &[Key], vectors: &[f32]) -> io::Result<()> {
        let values = vectors.len() / keys.len().max(1);
        let mut bytes = Vec::with_capacity(size_of_val(vectors) + SUM * keys.len());
        for (key, vector) in keys.iter().zip(vectors.chunks_exact(values)) {
            let start = bytes.len();
            bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
            let sum = checksum(key, &bytes[start..]);
            bytes.extend(sum);
        }
        self.vectors.write_all(&bytes)?;
        self.keys.write_all(keys.as_flattened())?;
        self.entries += keys.len() as u32;
        self.bytes += (bytes.len() + size_of_val(keys)) as u64;
        Ok(())
    }

    /// What was written survives a loss of power from here on.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.vectors.sync_data()?;
        self.keys.sync_data()
    }
}

impl OnDisk {
    /// Removes the segment, unless its writer is alive.
    pub(super) fn remove(&self) -> bool {
        let free = OpenOptions::new().write(true).open(&self.keys).is_ok_and(|file| file.try_lock().is_ok());
        // The keys first: without them nobody looks for the vectors.
        free && fs::remove_file(&self.keys).is_ok() && {
            let _ = fs::remove_file(self.keys.with_extension("vectors"));
            true
        }
    }
}

/// Every segment of the spaces below a folder.
pub(super) fn all_below(directory: &Path) -> Vec<OnDisk> {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries(directory).filter(|path| path.is_dir()).flat_map(|space| entries(&space).collect::<Vec<_>>());
    let keys = files.filter(|path| path.extension().is_some_and(|extension| extension == "keys"));
    let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let segment = |keys: PathBuf| OnDisk {
        name: keys.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: size(&keys) + size(&keys.with_extension("vectors")),
        keys,
    };
    keys.map(segment).collect()
}

/// Bytes of a folder's segments.
pub(super) fn bytes_of(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn header(values: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..].copy_from_slice(&(values as u64).to_le_bytes());
    header
}

/// 64 bits of SHA-256 over a key and the bytes of its vector: a key that was changed has no vector either.
fn checksum(key: &Key, bytes: &[u8]) -> [u8; SUM] {
    let hash = Sha256::new().chain_update(key).chain_update(bytes).finalize();
    *hash.first_chunk().expect("8 of 32 bytes")
}

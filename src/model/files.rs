//! Where the files of a model come from, and that they stay the same while they are used.
//!
//! A model's files are looked at more than once: small files when a query is planned, weights when its first text comes, all
//! of them when the vectors are kept. [`ModelFiles`] is one moment of them: what a file was when it was first looked at, it
//! has to be at every later look, else the look is an error. So the description, the tokenizer, the weights and the
//! fingerprint of a model are always those of the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::options::BUNDLED_NAME;

/// What people call it.
const SHORT_NAME: &str = "all-MiniLM-L6-v2";

/// A text file larger than this is no file of a model.
const MOST_TEXT: u64 = 512 << 20;
/// How much of a file has one hash, see [`Blocks`].
const BLOCK: usize = 64 << 10;

/// The bundled model's files by their path, with their SHA-256; empty where it is not compiled in. Written by `build.rs`.
mod bundled {
    include!(concat!(env!("OUT_DIR"), "/bundled.rs"));
}

/// Whether this name is served by the model that is compiled in.
pub(crate) fn is_bundled(name: &str) -> bool {
    name == BUNDLED_NAME && !bundled::FILES.is_empty()
}

/// The name under which a model is known: the bundled model has a short one too, with or without `@revision`.
///
/// A folder of that very name goes before it, as in sentence-transformers: whoever saved a model of his own under the name of
/// the one that he began with, and stands beside it, means his own.
pub(super) fn full_name(name: &str) -> String {
    match name.strip_prefix(SHORT_NAME) {
        Some(rest) if (rest.is_empty() || rest.starts_with('@')) && fs::symlink_metadata(name).is_err() => {
            format!("{BUNDLED_NAME}{rest}")
        }
        _ => name.to_owned(),
    }
}

/// The models that are here without the network: name, source, revision and bytes of their files.
pub(crate) fn stored() -> Vec<(String, &'static str, Option<String>, u64)> {
    let bytes = bundled::FILES.iter().map(|(_, _, bytes)| bytes.len() as u64).sum();
    let bundled = (BUNDLED_NAME.to_owned(), "bundled", Some(bundled::REVISION.to_owned()), bytes);
    let bundled = is_bundled(BUNDLED_NAME).then_some(bundled);
    #[cfg(feature = "hub")]
    let fetched = super::hub::stored().map(|(name, commit, bytes)| (name, "hub", Some(commit), bytes));
    #[cfg(not(feature = "hub"))]
    let fetched = None;
    bundled.into_iter().chain(fetched).collect()
}

/// A model's files as they were at one moment: found, and each opened when somebody wants it.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    /// The name under which the model was asked for, without `@revision`.
    pub(crate) name: String,
    /// Commit of the hub, or hash of the bundled weights; a plain directory has none.
    pub(crate) revision: Option<String>,
    origin: Origin,
    /// What was looked at, by its path in the model.
    seen: Mutex<BTreeMap<String, Seen>>,
    /// Hashes blocks; its keys are random, so that nobody can make a block that passes for another.
    hasher: RandomState,
    /// Raised where a file is not what it was.
    changed: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Origin {
    Bundled,
    Directory(PathBuf),
    #[cfg(feature = "hub")]
    Hub(Box<super::hub::Commit>),
}

/// What a path of a model was when it was looked at first.
#[derive(Debug)]
struct Seen {
    /// Where it is; `None` where there was nothing.
    place: Option<(PathBuf, Stamp)>,
    /// Where all of it was read.
    blocks: Option<Arc<Blocks>>,
    /// Where only its beginning was read: its hash.
    beginning: Option<u64>,
}

/// What the file system says of a file. Other bytes under the same stamp are possible, where they are written within one
/// tick of its clock: only [`Blocks`] are sure.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and the time of the last change in seconds and nanoseconds, which no tool can set back.
    #[cfg(unix)]
    node: (u64, u64, i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            node: (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The hashes of a file's blocks, which tell a second reading from the first, whatever part of the file it wants.
#[derive(Debug, PartialEq, Eq)]
struct Blocks {
    length: u64,
    hashes: Vec<u64>,
}

/// A file of a model, opened.
#[derive(Debug)]
pub(crate) struct ModelFile(Content);

#[derive(Debug)]
enum Content {
    Static(&'static [u8]),
    File {
        /// Locked because reading moves the file's position.
        file: Mutex<File>,
        stamp: Stamp,
        /// What its bytes have to be, where all of them were read before.
        blocks: Option<Arc<Blocks>>,
        hasher: RandomState,
        changed: Arc<AtomicBool>,
    },
}

impl ModelFiles {
    /// Finds a model: bundled name, then existing directory, then hub id.
    pub(crate) fn find(name: &str, offline: bool) -> Result<Self> {
        let name = &full_name(name);
        if is_bundled(name) {
            return Ok(Self::of(name, Some(bundled::REVISION.to_owned()), Origin::Bundled));
        }
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Self::of(name, None, Origin::Directory(path.to_owned())));
        }
        if path.is_symlink() && !path.exists() {
            return Err(Error::Model(format!("model directory \"{name}\" {}", dangling(path))));
        }
        match hub_id(name) {
            Some((id, revision)) => Self::find_on_hub(id, revision, offline),
            None => Err(Error::Model(format!(
                "model \"{name}\" not found (not a bundled name, not a directory, not a hub id owner/name[@revision]); \
                 bundled is \"{BUNDLED_NAME}\", in short \"{SHORT_NAME}\""
            ))),
        }
    }

    fn of(name: &str, revision: Option<String>, origin: Origin) -> Self {
        Self {
            name: name.to_owned(),
            revision,
            origin,
            seen: Mutex::default(),
            hasher: RandomState::new(),
            changed: Arc::default(),
        }
    }

    #[cfg(feature = "hub")]
    fn find_on_hub(id: &str, revision: Option<&str>, offline: bool) -> Result<Self> {
        let commit = super::hub::Commit::open(id, revision, offline)?;
        Ok(Self::of(id, Some(commit.hash().to_owned()), Origin::Hub(Box::new(commit))))
    }

    #[cfg(not(feature = "hub"))]
    fn find_on_hub(id: &str, _revision: Option<&str>, _offline: bool) -> Result<Self> {
        Err(Error::Model(format!(
            "model \"{id}\" is not a bundled name or a directory, and this build cannot reach the hub; \
             build with feature \"hub\", or give a model directory"
        )))
    }

    /// Where the files come from: `bundled`, `directory` or `hub`.
    pub(crate) fn source(&self) -> &'static str {
        match self.origin {
            Origin::Bundled => "bundled",
            Origin::Directory(_) => "directory",
            #[cfg(feature = "hub")]
            Origin::Hub(_) => "hub",
        }
    }

    /// How an error names the model.
    pub(crate) fn label(&self) -> String {
        match &self.origin {
            Origin::Bundled => format!("bundled model \"{}\"", self.name),
            Origin::Directory(path) => format!("model directory \"{}\"", path.display()),
            #[cfg(feature = "hub")]
            Origin::Hub(commit) => format!("hub model \"{}@{}\"", self.name, commit.hash()),
        }
    }

    /// Whether the files are those that were looked at before, as far as the file system says.
    pub(super) fn is_current(&self) -> bool {
        !self.changed.load(Ordering::Relaxed) && self.first_changed().is_none()
    }

    /// An error if a file is not what it was.
    pub(super) fn require_current(&self) -> Result<()> {
        self.first_changed().map_or(Ok(()), |path| Err(self.changed(&path)))
    }

    /// The first file that is not what it was.
    fn first_changed(&self) -> Option<String> {
        let seen = self.seen();
        let changed = seen.iter().find(|(path, seen)| match &seen.place {
            Some((place, stamp)) => {
                fs::metadata(place).map(|metadata| Stamp::of(&metadata)).ok().as_ref() != Some(stamp)
            }
            // One that came later, or cannot be looked at.
            None => !matches!(self.locate(path, true), Ok(None)),
        });
        changed.map(|(path, _)| path.clone())
    }

    /// Whether the model has a file. Weights of a hub model are fetched now, unless `offline`.
    pub(crate) fn has(&self, path: &str, offline: bool) -> Result<bool> {
        if let Origin::Bundled = self.origin {
            return Ok(bundled_file(path).is_some());
        }
        let place = self.locate(path, offline)?;
        if place.is_none() {
            self.note(path, None)?;
        }
        Ok(place.is_some())
    }

    /// Opens a file, `None` where the model has no such file. Weights of a hub model are fetched now, unless `offline`.
    pub(crate) fn open(&self, path: &str, offline: bool) -> Result<Option<ModelFile>> {
        if let Origin::Bundled = self.origin {
            return Ok(bundled_file(path).map(|(_, bytes)| ModelFile(Content::Static(bytes))));
        }
        let Some(place) = self.locate(path, offline)? else {
            self.note(path, None)?;
            return Ok(None);
        };
        let (file, stamp) = open_regular(&place).map_err(|error| self.unreadable(path, &error))?;
        self.note(path, Some((place, stamp.clone())))?;
        let blocks = self.seen().get(path).and_then(|seen| seen.blocks.clone());
        let (hasher, changed) = (self.hasher.clone(), Arc::clone(&self.changed));
        Ok(Some(ModelFile(Content::File { file: Mutex::new(file), stamp, blocks, hasher, changed })))
    }

    /// Where a file is, if it is there.
    fn locate(&self, path: &str, offline: bool) -> Result<Option<PathBuf>> {
        #[cfg(not(feature = "hub"))]
        let _ = offline;
        match &self.origin {
            Origin::Bundled => Ok(None),
            Origin::Directory(directory) => {
                let file = directory.join(path);
                match is_there(&file, directory) {
                    Ok(is_there) => Ok(is_there.then_some(file)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Model(format!(
                        "{}: {path} {error}; put the file there, or remove the link",
                        self.label()
                    ))),
                    Err(error) => Err(self.unreadable(path, &error)),
                }
            }
            #[cfg(feature = "hub")]
            Origin::Hub(commit) => commit.file(path, offline),
        }
    }

    /// Notes what a path is, or compares it with what it was.
    fn note(&self, path: &str, place: Option<(PathBuf, Stamp)>) -> Result<()> {
        let mut seen = self.seen();
        match seen.get(path) {
            Some(before) if before.place != place => {
                drop(seen);
                Err(self.changed(path))
            }
            Some(_) => Ok(()),
            None => {
                seen.insert(path.to_owned(), Seen { place, blocks: None, beginning: None });
                Ok(())
            }
        }
    }

    /// Notes the bytes that a file begins with, where no more of it is read, or compares them with what they were.
    pub(super) fn note_beginning(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let hash = self.hasher.hash_one(bytes);
        let mut seen = self.seen();
        let Some(known) = seen.get_mut(path) else { return Ok(()) };
        if known.beginning.is_some_and(|before| before != hash) {
            drop(seen);
            return Err(self.changed(path));
        }
        known.beginning = Some(hash);
        Ok(())
    }

    /// Reads a whole file once more from its first byte, so that every later reading is of the same bytes, and gives its
    /// SHA-256; `None` where the model has no such file.
    pub(super) fn hash(&self, path: &str, offline: bool) -> Result<Option<[u8; 32]>> {
        if let Origin::Bundled = self.origin {
            return Ok(bundled_file(path).map(|(hash, _)| *hash));
        }
        let Some(file) = self.open(path, offline)? else { return Ok(None) };
        let mut hash = Sha256::new();
        let mut hashes = Vec::new();
        let length = file.len();
        for start in (0..length).step_by(BLOCK) {
            let block = file.read(start, BLOCK.min((length - start) as usize));
            let block = block.map_err(|error| self.unreadable(path, &error))?;
            hash.update(&block);
            hashes.push(self.hasher.hash_one(block.as_slice()));
        }
        self.keep_blocks(path, &file, Blocks { length, hashes })?;
        Ok(Some(hash.finalize().into()))
    }

    /// Whether every later reading of what was read is of the same bytes, see [`ModelFiles::hash`].
    pub(super) fn is_fixed(&self) -> bool {
        matches!(self.origin, Origin::Bundled)
    }

    /// Keeps what a whole file was, if it stayed what it was while it was read.
    fn keep_blocks(&self, path: &str, file: &ModelFile, blocks: Blocks) -> Result<()> {
        if !file.is_unchanged() {
            return Err(self.changed(path));
        }
        if let Some(seen) = self.seen().get_mut(path) {
            seen.blocks.get_or_insert_with(|| Arc::new(blocks));
        }
        Ok(())
    }

    /// The whole text of a small file, `None` where the model has no such file.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>> {
        // Small files came when the model was found.
        let Some(file) = self.open(path, true)? else { return Ok(None) };
        let length = file.len();
        if length > MOST_TEXT {
            return Err(Error::Model(format!(
                "{}: {path} has {length} bytes, a text file of a model has at most {MOST_TEXT}",
                self.label()
            )));
        }
        let bytes = file.read(0, length as usize).map_err(|error| self.unreadable(path, &error))?;
        let hashes = bytes.chunks(BLOCK).map(|block| self.hasher.hash_one(block)).collect();
        self.keep_blocks(path, &file, Blocks { length, hashes })?;
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|_| Error::Model(format!("{}: {path} is not UTF-8 text", self.label())))
    }

    /// The text of a file that every model must have.
    pub(crate) fn require_text(&self, path: &str) -> Result<String> {
        self.text(path)?.ok_or_else(|| self.missing(path))
    }

    /// A JSON file read into its type, `None` where the model has no such file.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(text) = self.text(path)? else { return Ok(None) };
        let value = serde_json::from_str(&text);
        value.map(Some).map_err(|error| Error::Model(format!("{}: {path}: {error}", self.label())))
    }

    /// The error for a file that is not there.
    pub(crate) fn missing(&self, path: &str) -> Error {
        let needed = ["config.json", "tokenizer.json", "model.safetensors"];
        let looked_for =
            if needed.contains(&path) { format!(" (looked for {})", needed.join(", ")) } else { String::new() };
        Error::Model(format!("{}: {path} not found{looked_for}", self.label()))
    }

    /// The error for a file that cannot be read.
    pub(crate) fn unreadable(&self, path: &str, error: &io::Error) -> Error {
        Error::Model(format!("{}: {path}: {error}", self.label()))
    }

    /// The error for a file that is not what it was.
    fn changed(&self, path: &str) -> Error {
        self.changed.store(true, Ordering::Relaxed);
        Error::Model(format!("{}: {path} {CHANGED}", self.label()))
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ModelFile {
    /// Its bytes, in number.
    pub(crate) fn len(&self) -> u64 {
        match &self.0 {
            Content::Static(bytes) => bytes.len() as u64,
            Content::File { stamp, .. } => stamp.length,
        }
    }

    /// Some of its bytes, checked against what they were where all of the file was read before.
    pub(crate) fn read(&self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        match &self.0 {
            Content::Static(bytes) => {
                let start = start as usize;
                let part = start.checked_add(length).and_then(|end| bytes.get(start..end));
                part.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Content::File { file, blocks: None, .. } => read_at(file, start, length),
            Content::File { file, blocks: Some(blocks), hasher, changed, .. } => {
                let first = start / BLOCK as u64;
                let begin = first * BLOCK as u64;
                let end = (start + length as u64).next_multiple_of(BLOCK as u64).min(blocks.length);
                let wanted = end.checked_sub(begin).ok_or(io::ErrorKind::UnexpectedEof)?;
                let mut bytes = read_at(file, begin, wanted as usize)?;
                let known = blocks.hashes.iter().skip(first as usize);
                if !bytes.chunks(BLOCK).zip(known).all(|(block, known)| hasher.hash_one(block) == *known) {
                    changed.store(true, Ordering::Relaxed);
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
    }

    /// Whether the file is what it was when it was opened, as far as the file system says.
    fn is_unchanged(&self) -> bool {
        match &self.0 {
            Content::Static(_) => true,
            Content::File { file, stamp, .. } => {
                let now = lock(file).metadata().map(|metadata| Stamp::of(&metadata));
                now.is_ok_and(|now| now == *stamp)
            }
        }
    }
}

/// What an error says of a file that is not what it was.
const CHANGED: &str = "changed while the model was in use; run the statement again";

fn read_at(file: &Mutex<File>, start: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut file = lock(file);
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file of the bundled model: its SHA-256 and its bytes.
fn bundled_file(path: &str) -> Option<(&'static [u8; 32], &'static [u8])> {
    let file = bundled::FILES.iter().find(|(name, _, _)| *name == path);
    file.map(|(_, hash, bytes)| (hash, *bytes))
}

/// Opens a file that is one: opening a pipe would wait for whoever writes into it.
fn open_regular(path: &Path) -> io::Result<(File, Stamp)> {
    require_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    // It may be another one by now.
    let metadata = file.metadata()?;
    require_regular(&metadata)?;
    Ok((file, Stamp::of(&metadata)))
}

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let kind = if kind.is_dir() { "a directory" } else { "a pipe, a socket or a device" };
    Err(io::Error::other(format!("it is {kind}, and a model's files are plain files")))
}

/// Whether something is at a path below a folder. A link that leads nowhere is an error and no missing file: whoever made it
/// meant the model to have the file.
pub(super) fn is_there(path: &Path, root: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut parts = path.ancestors().take_while(|part| *part != root);
            match parts.find(|part| part.is_symlink() && !part.exists()) {
                Some(link) => Err(io::Error::new(io::ErrorKind::NotFound, dangling(link))),
                None => Ok(false),
            }
        }
        Err(error) => Err(error),
    }
}

/// What an error says of a link that leads nowhere.
fn dangling(link: &Path) -> String {
    let target = fs::read_link(link).unwrap_or_default();
    format!("is a link to \"{}\", which is not there", target.display())
}

/// Splits `owner/name[@revision]`; `None` for anything else, a path with dots or more slashes for instance.
fn hub_id(name: &str) -> Option<(&str, Option<&str>)> {
    let (id, revision) = match name.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (name, None),
    };
    let (owner, model) = id.split_once('/')?;
    let word = |text: &str| {
        !text.is_empty()
            && !text.starts_with(['.', '-'])
            && !text.contains("..")
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let fine = |text: &str| !text.is_empty() && text.split('/').all(word);
    (word(owner) && word(model) && revision.is_none_or(fine)).then_some((id, revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_owner_and_name() {
        assert_eq!(hub_id("BAAI/bge-small-en-v1.5"), Some(("BAAI/bge-small-en-v1.5", None)));
        assert_eq!(hub_id("a/b@refs/pr/1"), Some(("a/b", Some("refs/pr/1"))));
        for wrong in ["", "x", "./models/x", "../x/y", "/abs/path", "a/b/c", "a/", "/b", "a/b@", "a/b@../c", "a b/c"] {
            assert_eq!(hub_id(wrong), None, "{wrong}");
        }
    }

    /// A file of several blocks in a model directory.
    fn directory() -> (tempfile::TempDir, Vec<u8>) {
        let folder = tempfile::tempdir().expect("temporary directory");
        let bytes: Vec<u8> = (0..3 * BLOCK + 1000).map(|i| (i % 251) as u8).collect();
        fs::write(folder.path().join("file"), &bytes).expect("written");
        (folder, bytes)
    }

    #[test]
    fn what_was_read_once_is_read_again_or_is_an_error() {
        let (folder, bytes) = directory();
        let files = ModelFiles::find(&folder.path().display().to_string(), true).expect("a directory");
        let hash = files.hash("file", true).expect("readable").expect("there");
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&bytes)));
        let file = files.open("file", true).expect("unchanged").expect("there");
        let last = bytes.len();
        for range in [0..last, 0..1, 5..BLOCK, BLOCK - 1..BLOCK + 1, 2 * BLOCK..3 * BLOCK, 3 * BLOCK + 7..last, 9..9] {
            assert_eq!(
                file.read(range.start as u64, range.len()).expect("the same"),
                bytes[range.clone()],
                "{range:?}"
            );
        }
        for (start, length) in [(0, last + 1), (last as u64, 1), (10 * BLOCK as u64, 1)] {
            assert!(file.read(start, length).is_err(), "{start}..+{length} is past the end");
        }
        // Opened before, so that nothing tells but the bytes.
        let mut other = bytes.clone();
        other[BLOCK] ^= 1;
        File::options()
            .write(true)
            .open(folder.path().join("file"))
            .and_then(|mut file| io::Write::write_all(&mut file, &other))
            .expect("written");
        assert_eq!(file.read(0, BLOCK).expect("the same"), bytes[..BLOCK]);
        let error = file.read(BLOCK as u64 + 1, 1).expect_err("another block").to_string();
        assert!(error.contains("changed while the model was in use"), "{error}");
        assert!(!files.is_current());
        // Back again, but somebody may have read the other bytes meanwhile: it is found anew.
        fs::write(folder.path().join("file"), &bytes).expect("written");
        assert!(!files.is_current());
    }

    /// What somebody does in a model's folder.
    type Change = fn(&Path);

    #[test]
    fn a_file_that_comes_goes_or_changes_its_length_is_noticed() {
        let changes: [(&str, Change); 4] = [
            ("file", |folder| fs::write(folder.join("file"), "short").expect("written")),
            ("file", |folder| fs::remove_file(folder.join("file")).expect("removed")),
            ("file", |folder| fs::rename(folder.join("other"), folder.join("file")).expect("renamed")),
            ("more", |folder| fs::write(folder.join("more"), "").expect("written")),
        ];
        for (path, change) in changes {
            let (folder, bytes) = directory();
            fs::write(folder.path().join("other"), &bytes).expect("written");
            let files = ModelFiles::find(&folder.path().display().to_string(), true).expect("a directory");
            files.hash("file", true).expect("readable");
            assert!(files.text("more").expect("readable").is_none());
            // What nobody looked at may change.
            fs::write(folder.path().join("foreign"), "x").expect("written");
            assert!(files.is_current());
            change(folder.path());
            assert!(!files.is_current());
            let error = files.require_current().expect_err("changed").to_string();
            assert!(error.contains(&format!("{path} changed")) && error.contains("run the statement again"), "{error}");
        }
    }

    #[test]
    fn a_beginning_is_what_it_was() {
        let (folder, _) = directory();
        let files = ModelFiles::find(&folder.path().display().to_string(), true).expect("a directory");
        files.open("file", true).expect("there");
        files.note_beginning("file", b"header").expect("the first");
        files.note_beginning("file", b"header").expect("the same");
        files.note_beginning("file", b"others").expect_err("another");
    }

    #[test]
    fn the_hashes_of_the_build_are_those_of_the_bundled_files() {
        for (path, hash, bytes) in bundled::FILES {
            assert_eq!(*hash, <[u8; 32]>::from(Sha256::digest(bytes)), "{path}: SHA256SUMS is not of this file");
        }
    }

    #[test]
    fn an_unknown_name_says_what_was_looked_for() {
        let message = ModelFiles::find("no-such-model", true).expect_err("not there").to_string();
        assert!(message.contains("\"no-such-model\" not found") && message.contains("owner/name"), "{message}");
    }
}

//! The files of a model at one moment, and the only way to what is made of them.
//!
//! A model's files are looked at more than once: small files when a query is planned, weights when its first text comes, all
//! of them when the vectors are kept. A [`Snapshot`] is one moment of them: what a file was when it was first looked at, it
//! has to be at every later look, else the look is an error. So the description, the tokenizer, the weights and the
//! fingerprint of a model are always those of the same bytes.

use std::collections::BTreeMap;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::model_file::{BLOCK, Blocks, CHANGED, Comparison, ModelFile, Stamp};
use super::sources::{Location, Source};
use crate::access::Access;
use crate::error::{Error, Result};

/// A text file larger than this is no file of a model.
const MOST_TEXT: u64 = 512 << 20;

/// The files of a model at one moment: each is found and opened when somebody wants it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    source: Box<dyn Source>,
    /// What was looked at, by its path in the model.
    seen: Mutex<BTreeMap<String, Seen>>,
    comparison: Comparison,
}

/// The files of a snapshot, for somebody who may do so much to come by them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files<'a> {
    snapshot: &'a Snapshot,
    access: &'a Access,
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

impl Snapshot {
    /// The files as they are from now on.
    pub(super) fn new(source: Box<dyn Source>) -> Self {
        Self { source, seen: Mutex::default(), comparison: Comparison::default() }
    }

    /// The files of a model by its name, as they are now.
    #[cfg(any(test, feature = "stages"))]
    pub(super) fn find(name: &str, access: &Access) -> Result<Self> {
        Ok(Self::new(super::origin::Origin::of(name, access)?.open(access)?))
    }

    /// The files, for somebody with this access.
    pub(super) fn files<'a>(&'a self, access: &'a Access) -> Files<'a> {
        Files { snapshot: self, access }
    }

    /// Where the files come from.
    pub(super) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// How an error names the model.
    pub(crate) fn label(&self) -> String {
        self.source.label()
    }

    /// Whether the files are those that were looked at before, as far as the file system says.
    pub(super) fn is_current(&self) -> bool {
        !self.comparison.failed() && self.first_changed().is_none()
    }

    /// An error if a file is not what it was.
    pub(super) fn require_current(&self) -> Result<()> {
        self.first_changed().map_or(Ok(()), |path| Err(self.changed(&path)))
    }

    /// The first file that is not what it was.
    fn first_changed(&self) -> Option<String> {
        let access = Access::local();
        let seen = self.seen.lock();
        let changed = seen.iter().find(|(path, seen)| match &seen.place {
            Some((place, stamp)) => Stamp::of(place).as_ref() != Some(stamp),
            // One that came later, or cannot be looked at.
            None => !matches!(self.source.locate(path, &access), Ok(None)),
        });
        changed.map(|(path, _)| path.clone())
    }

    /// Notes what a path is, or compares it with what it was.
    fn note(&self, path: &str, place: Option<(PathBuf, Stamp)>) -> Result<()> {
        let mut seen = self.seen.lock();
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
        let hash = self.comparison.hash(bytes);
        let mut seen = self.seen.lock();
        let Some(known) = seen.get_mut(path) else { return Ok(()) };
        if known.beginning.is_some_and(|before| before != hash) {
            drop(seen);
            return Err(self.changed(path));
        }
        known.beginning = Some(hash);
        Ok(())
    }

    /// Keeps what a whole file was, if it stayed what it was while it was read.
    fn keep_blocks(&self, path: &str, file: &ModelFile, blocks: Blocks) -> Result<()> {
        if !file.is_unchanged() {
            return Err(self.changed(path));
        }
        if let Some(seen) = self.seen.lock().get_mut(path) {
            seen.blocks.get_or_insert_with(|| Arc::new(blocks));
        }
        Ok(())
    }

    /// Opens a file of this machine, which has to be what it was.
    fn open_on_disk(&self, path: &str, place: &Path) -> Result<ModelFile> {
        let file = ModelFile::open(place, &self.comparison).map_err(|error| self.unreadable(path, &error))?;
        self.note(path, file.stamp().map(|stamp| (place.to_owned(), stamp.clone())))?;
        let blocks = self.seen.lock().get(path).and_then(|seen| seen.blocks.clone());
        Ok(file.compared_with(blocks))
    }

    /// The error for a file that is not there.
    pub(crate) fn missing(&self, path: &str) -> Error {
        let needed = ["config.json", "tokenizer.json", "model.safetensors"];
        let looked_for =
            if needed.contains(&path) { format!(" (looked for {})", needed.join(", ")) } else { String::new() };
        Error::Model(format!("{}: {path} not found{looked_for}", self.label()))
    }

    /// The error for a file that cannot be read.
    fn unreadable(&self, path: &str, error: &io::Error) -> Error {
        Error::Model(format!("{}: {path}: {error}", self.label()))
    }

    /// The error for a file that is not what it was.
    fn changed(&self, path: &str) -> Error {
        self.comparison.fail();
        Error::Model(format!("{}: {path} {CHANGED}", self.label()))
    }
}

impl Deref for Files<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        self.snapshot
    }
}

impl Files<'_> {
    /// Where a file is, `None` where the model has none. What is elsewhere is fetched now, where that is allowed.
    fn locate(&self, path: &str) -> Result<Option<Location>> {
        let location = self.source.locate(path, self.access)?;
        if location.is_none() {
            self.note(path, None)?;
        }
        Ok(location)
    }

    /// Whether the model has a file.
    pub(crate) fn has(&self, path: &str) -> Result<bool> {
        Ok(self.locate(path)?.is_some())
    }

    /// Opens a file, `None` where the model has no such file.
    pub(crate) fn open(&self, path: &str) -> Result<Option<ModelFile>> {
        match self.locate(path)? {
            None => Ok(None),
            Some(Location::Memory { bytes, .. }) => Ok(Some(ModelFile::in_memory(bytes))),
            Some(Location::Disk(place)) => self.open_on_disk(path, &place).map(Some),
        }
    }

    /// Reads a whole file once more from its first byte, so that every later reading is of the same bytes, and gives its
    /// SHA-256; `None` where the model has no such file.
    pub(super) fn hash(&self, path: &str) -> Result<Option<[u8; 32]>> {
        let place = match self.locate(path)? {
            None => return Ok(None),
            Some(Location::Memory { hash, .. }) => return Ok(Some(*hash)),
            Some(Location::Disk(place)) => place,
        };
        let file = self.open_on_disk(path, &place)?;
        let mut hash = Sha256::new();
        let mut hashes = Vec::new();
        let length = file.len();
        for start in (0..length).step_by(BLOCK) {
            let block = file.read(start, BLOCK.min((length - start) as usize));
            let block = block.map_err(|error| self.unreadable(path, &error))?;
            hash.update(&block);
            hashes.push(self.comparison.hash(&block));
        }
        self.keep_blocks(path, &file, Blocks { length, hashes })?;
        Ok(Some(hash.finalize().into()))
    }

    /// The whole text of a small file, `None` where the model has no such file.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let length = file.len();
        if length > MOST_TEXT {
            return Err(Error::Model(format!(
                "{}: {path} has {length} bytes, a text file of a model has at most {MOST_TEXT}",
                self.label()
            )));
        }
        let bytes = file.read(0, length as usize).map_err(|error| self.unreadable(path, &error))?;
        let hashes = bytes.chunks(BLOCK).map(|block| self.comparison.hash(block)).collect();
        self.keep_blocks(path, &file, Blocks { length, hashes })?;
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|_| Error::Model(format!("{}: {path} is not UTF-8 text", self.label())))
    }

    /// A JSON file read into its type, `None` where the model has no such file.
    pub(crate) fn json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(text) = self.text(path)? else { return Ok(None) };
        let value = serde_json::from_str(&text);
        value.map(Some).map_err(|error| Error::Model(format!("{}: {path}: {error}", self.label())))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// A file of several blocks in a model directory.
    fn directory() -> (tempfile::TempDir, Vec<u8>) {
        let folder = tempfile::tempdir().expect("temporary directory");
        let bytes: Vec<u8> = (0..3 * BLOCK + 1000).map(|i| (i % 251) as u8).collect();
        fs::write(folder.path().join("file"), &bytes).expect("written");
        (folder, bytes)
    }

    fn snapshot_of(folder: &tempfile::TempDir) -> Snapshot {
        Snapshot::find(&folder.path().display().to_string(), &Access::local()).expect("a directory")
    }

    #[test]
    fn what_was_read_once_is_read_again_or_is_an_error() {
        let (folder, bytes) = directory();
        let (snapshot, access) = (snapshot_of(&folder), Access::local());
        let files = snapshot.files(&access);
        let hash = files.hash("file").expect("readable").expect("there");
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&bytes)));
        let file = files.open("file").expect("unchanged").expect("there");
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
            let (snapshot, access) = (snapshot_of(&folder), Access::local());
            let files = snapshot.files(&access);
            files.hash("file").expect("readable");
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
        let (snapshot, access) = (snapshot_of(&folder), Access::local());
        let files = snapshot.files(&access);
        files.open("file").expect("there");
        files.note_beginning("file", b"header").expect("the first");
        files.note_beginning("file", b"header").expect("the same");
        files.note_beginning("file", b"others").expect_err("another");
    }
}

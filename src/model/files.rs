//! Where the files of a model come from: compiled in, a directory, or the hub.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The model that `embed` uses when nothing else is said. Compiled in by the feature `bundled-model`.
pub(crate) const BUNDLED_NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// The bundled model's files by their path, empty where it is not compiled in. Written by `build.rs`.
mod bundled {
    include!(concat!(env!("OUT_DIR"), "/bundled.rs"));
}

/// Whether this name is served by the model that is compiled in.
pub(crate) fn is_bundled(name: &str) -> bool {
    name == BUNDLED_NAME && !bundled::FILES.is_empty()
}

/// The models that are here without the network: name, source, revision and bytes of their files.
pub(crate) fn stored() -> Vec<(String, &'static str, Option<String>, u64)> {
    let bytes = bundled::FILES.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let bundled = (BUNDLED_NAME.to_owned(), "bundled", Some(bundled::REVISION.to_owned()), bytes);
    let bundled = is_bundled(BUNDLED_NAME).then_some(bundled);
    #[cfg(feature = "hub")]
    let fetched = super::hub::stored().map(|(name, commit, bytes)| (name, "hub", Some(commit), bytes));
    #[cfg(not(feature = "hub"))]
    let fetched = None;
    bundled.into_iter().chain(fetched).collect()
}

/// A model's files, found but not read.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    /// The name under which the model was asked for, without `@revision`.
    pub(crate) name: String,
    /// Commit of the hub, or hash of the bundled weights; a plain directory has none.
    pub(crate) revision: Option<String>,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Bundled,
    Directory(PathBuf),
    #[cfg(feature = "hub")]
    Hub(Box<super::hub::Snapshot>),
}

/// The bytes of a weight file: compiled in, or a file to read from.
pub(crate) enum Bytes {
    Static(&'static [u8]),
    File(PathBuf),
}

impl ModelFiles {
    /// Finds a model: bundled name, then existing directory, then hub id.
    pub(crate) fn find(name: &str, offline: bool) -> Result<Self> {
        if is_bundled(name) {
            let revision = Some(bundled::REVISION.to_owned());
            return Ok(Self { name: name.to_owned(), revision, origin: Origin::Bundled });
        }
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Self { name: name.to_owned(), revision: None, origin: Origin::Directory(path.to_owned()) });
        }
        match hub_id(name) {
            Some((id, revision)) => Self::find_on_hub(id, revision, offline),
            None => Err(Error::Model(format!(
                "model \"{name}\" not found (not a bundled name, not a directory, not a hub id owner/name[@revision])"
            ))),
        }
    }

    #[cfg(feature = "hub")]
    fn find_on_hub(id: &str, revision: Option<&str>, offline: bool) -> Result<Self> {
        let snapshot = super::hub::Snapshot::open(id, revision, offline)?;
        let revision = Some(snapshot.commit().to_owned());
        Ok(Self { name: id.to_owned(), revision, origin: Origin::Hub(Box::new(snapshot)) })
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
            Origin::Hub(snapshot) => format!("hub model \"{}@{}\"", self.name, snapshot.commit()),
        }
    }

    /// The bytes of a file, or where to read them; `None` where the model has no such file. Weights of a hub model are
    /// fetched now, unless `offline`.
    pub(crate) fn find_file(&self, path: &str, offline: bool) -> Result<Option<Bytes>> {
        #[cfg(not(feature = "hub"))]
        let _ = offline;
        match &self.origin {
            Origin::Bundled => {
                let file = bundled::FILES.iter().find(|(name, _)| *name == path);
                Ok(file.map(|(_, bytes)| Bytes::Static(bytes)))
            }
            Origin::Directory(directory) => {
                let file = directory.join(path);
                Ok(file.exists().then_some(Bytes::File(file)))
            }
            #[cfg(feature = "hub")]
            Origin::Hub(snapshot) => Ok(snapshot.file(path, offline)?.map(Bytes::File)),
        }
    }

    /// SHA-256 of a file, `None` where the model has no such file.
    pub(super) fn hash(&self, path: &str, offline: bool) -> Result<Option<[u8; 32]>> {
        let mut hash = Sha256::new();
        match self.find_file(path, offline)? {
            None => return Ok(None),
            Some(Bytes::Static(bytes)) => hash.update(bytes),
            Some(Bytes::File(file)) => {
                let copied = fs::File::open(file).and_then(|mut file| io::copy(&mut file, &mut HashWriter(&mut hash)));
                copied.map_err(|error| self.unreadable(path, &error))?;
            }
        }
        Ok(Some(hash.finalize().into()))
    }

    /// The whole text of a small file, `None` where the model has no such file.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>> {
        // Small files came when the model was found.
        let bytes = match self.find_file(path, true)? {
            None => return Ok(None),
            Some(Bytes::Static(bytes)) => bytes.to_vec(),
            Some(Bytes::File(file)) => fs::read(file).map_err(|error| self.unreadable(path, &error))?,
        };
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
}

/// Hashes what is written to it.
struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

    #[test]
    fn an_unknown_name_says_what_was_looked_for() {
        let message = ModelFiles::find("no-such-model", true).expect_err("not there").to_string();
        assert!(message.contains("\"no-such-model\" not found") && message.contains("owner/name"), "{message}");
    }
}

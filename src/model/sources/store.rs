//! A model in a store, `s3://bucket/models/mine`: its files are kept in a folder of this machine, as long as the store has the same.
//!
//! The folder is the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`), below `datafusion-embed/models`, and in it one for each
//! address. Beside a file lies what the store said of it, by which it is known whether the store has another one by now; beside
//! nothing lies that there is none.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::source::{Location, Source, Stored};
use crate::access::{Access, Download, Event};
use crate::error::{Error, Result};
use crate::files::{Objects, Staged, Version, cache_home, write_whole};

/// Why a store is not asked.
const OFFLINE: &str = "the network is not to be used (embed.offline)";

/// What says in a folder whose files they are.
const ADDRESS: &str = ".address";

/// What the store had when it was asked last, for when the network is not to be used.
const LISTING: &str = ".listing";

/// A model in a store.
#[derive(Debug)]
pub(in crate::model) struct InStore {
    name: String,
    folder: PathBuf,
    /// `None` where the network is not to be used.
    objects: Option<Objects>,
    /// Its files, where the store can list them.
    listing: Option<BTreeMap<String, Version>>,
    /// A hash of that.
    revision: Option<String>,
    /// What was asked for by name; `None` where the store has no such file.
    asked: Mutex<BTreeMap<String, Option<Version>>>,
    /// What of that the store has not, as long as nothing is noted of it.
    absent: Mutex<Vec<String>>,
}

impl InStore {
    /// The model as the store has it now, or as it was kept where the network is not to be used.
    pub(in crate::model) fn open(name: &str, access: &Access) -> Result<Self> {
        let stores = access.stores(name);
        let name = name.trim_end_matches('/').to_owned();
        let folder = folder_of(&name);
        let wrong = |error: Error| Error::Model(format!("model {name:?}: {error}"));
        let (objects, listing) = if access.is_offline() {
            (None, fs::read(folder.join(LISTING)).ok().and_then(|text| serde_json::from_slice(&text).ok()))
        } else {
            let opened = Objects::open(&stores, &name).map_err(wrong)?;
            let listing = opened.list().map_err(wrong)?;
            (Some(opened), listing)
        };
        if listing.as_ref().is_some_and(BTreeMap::is_empty) {
            return Err(Error::Model(format!("model {name:?}: there is nothing at this address")));
        }
        let revision = listing.as_ref().map(revision_of);
        let model =
            Self { name, folder, objects, listing, revision, asked: Mutex::default(), absent: Mutex::default() };
        model
            .keep_listing()
            .map_err(|error| Error::Model(format!("cache {:?} cannot be written: {error}", model.folder)))?;
        Ok(model)
    }

    /// The models that are kept here.
    pub(in crate::model) fn stored() -> Vec<Stored> {
        let folders = fs::read_dir(models_folder()).into_iter().flatten().flatten().map(|entry| entry.path());
        let model = |folder: PathBuf| {
            let name = fs::read_to_string(folder.join(ADDRESS)).ok()?;
            Some(Stored { name, kind: "store", revision: String::new(), bytes: size_of(&folder) })
        };
        folders.filter_map(model).collect()
    }

    /// What the store has under a path, or had when it was kept.
    fn version(&self, path: &str) -> Result<Option<Version>> {
        if let Some(listing) = &self.listing {
            return Ok(listing.get(path).cloned());
        }
        if let Some(known) = self.asked.lock().get(path) {
            return Ok(known.clone());
        }
        let version = match &self.objects {
            Some(objects) => objects.look(path).map_err(|error| self.wrong(path, &error.to_string()))?,
            None => self.kept(path).ok_or_else(|| self.not_kept(path))?,
        };
        self.asked.lock().insert(path.to_owned(), version.clone());
        if version.is_none() {
            self.absent.lock().push(path.to_owned());
        }
        Ok(version)
    }

    /// What the store said when the file was kept; inside, `None` is that it has none.
    fn kept(&self, path: &str) -> Option<Option<Version>> {
        serde_json::from_slice(&fs::read(self.note(path)).ok()?).ok()
    }

    fn is_kept(&self, path: &str, version: &Version) -> bool {
        let size = fs::metadata(self.folder.join(path)).map(|metadata| metadata.len());
        self.kept(path).as_ref() == Some(&Some(version.clone())) && size.is_ok_and(|size| size == version.size)
    }

    fn note(&self, path: &str) -> PathBuf {
        self.folder.join(format!("{path}.version"))
    }

    fn keep_listing(&self) -> io::Result<()> {
        let (Some(_), Some(listing)) = (&self.objects, &self.listing) else { return Ok(()) };
        fs::create_dir_all(&self.folder)?;
        write_whole(&self.folder, LISTING, &serde_json::to_vec(listing)?, fs::OpenOptions::new())
    }

    fn keep_note(&self, path: &str, version: Option<&Version>) -> io::Result<()> {
        let note = self.note(path);
        let (Some(folder), Some(name)) = (note.parent(), note.file_name().and_then(|name| name.to_str())) else {
            return Ok(());
        };
        fs::create_dir_all(folder)?;
        write_whole(folder, name, &serde_json::to_vec(&version)?, fs::OpenOptions::new())
    }

    /// What the store was found not to have, for when the network is not to be used; without it the store is asked again. Of an
    /// address with no file at all nothing is kept.
    fn keep_absences(&self) {
        if self.objects.is_none() || !self.folder.join(ADDRESS).is_file() {
            return;
        }
        for path in self.absent.lock().drain(..) {
            if self.kept(&path) != Some(None) {
                let _ = self.keep_note(&path, None);
            }
        }
    }

    fn fetch(&self, path: &str, version: &Version, access: &Access) -> Result<()> {
        let Some(objects) = &self.objects else {
            return Err(self.not_kept(path));
        };
        let on_disk = |error: io::Error| self.wrong(path, &format!("cannot be kept in {:?}: {error}", self.folder));
        let target = self.folder.join(path);
        fs::create_dir_all(target.parent().unwrap_or(&self.folder)).map_err(on_disk)?;
        write_whole(&self.folder, ADDRESS, self.name.as_bytes(), fs::OpenOptions::new()).map_err(on_disk)?;
        let (staged, mut file) = Staged::create(&target).map_err(on_disk)?;
        let tell = |received: u64, done: bool| {
            let (file, total) = (path.to_owned(), Some(version.size));
            access.tell(&Event::Download(Download { file, received, total, done }));
        };
        let fetched = objects.fetch(path, &mut file, |received| tell(received, false));
        let fetched = fetched.map_err(|error| self.wrong(path, &error.to_string())).and_then(|found| {
            let length = file.flush().and_then(|()| file.metadata()).map_err(on_disk)?.len();
            match found == *version && length == version.size {
                true => Ok(()),
                false => Err(self.wrong(
                    path,
                    &format!(
                        "has {length} bytes, and the store said {}: it was changed meanwhile; run the statement again",
                        version.size
                    ),
                )),
            }
        });
        // What lies there is not what was said of it any more, until it is said of the new one.
        let kept = fetched.and_then(|()| match fs::remove_file(self.note(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on_disk(error)),
            _ => staged.finish().and_then(|()| self.keep_note(path, Some(version))).map_err(on_disk),
        });
        match &kept {
            Ok(()) => tell(version.size, true),
            Err(_) => staged.discard(),
        }
        kept
    }

    fn not_kept(&self, path: &str) -> Error {
        self.wrong(path, &format!("is not kept here and {OFFLINE}; fetch it once with the network"))
    }

    fn wrong(&self, path: &str, what: &str) -> Error {
        Error::Model(format!("model {:?}: {path}: {what}", self.name))
    }
}

impl Source for InStore {
    fn kind(&self) -> &'static str {
        "store"
    }

    fn name(&self) -> &str {
        &self.name
    }

    /// A hash of the names, sizes and etags of all files.
    fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    fn label(&self) -> String {
        format!("model {:?}", self.name)
    }

    fn locate(&self, path: &str, access: &Access) -> Result<Option<Location>> {
        let file = self.folder.join(path);
        let version = self.version(path)?;
        // A weight file that can run code is only ever looked for, never fetched.
        if let Some(version) =
            version.as_ref().filter(|version| !path.ends_with(".bin") && !self.is_kept(path, version))
        {
            self.fetch(path, version, access)?;
        }
        self.keep_absences();
        Ok(version.map(|_| Location::Disk(file)))
    }
}

/// Where models are kept.
fn models_folder() -> PathBuf {
    cache_home().join("datafusion-embed/models")
}

/// Where the files of a model at this address are kept.
fn folder_of(name: &str) -> PathBuf {
    let last = name.rsplit('/').next().unwrap_or_default();
    let plain: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    models_folder().join(format!("{plain}-{}", hex(&Sha256::digest(name))))
}

/// Bytes of all files below a folder.
fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(
            |entry| {
                if entry.path().is_dir() {
                    size_of(&entry.path())
                } else {
                    entry.metadata().map_or(0, |file| file.len())
                }
            },
        )
        .sum()
}

fn revision_of(listing: &BTreeMap<String, Version>) -> String {
    let text = serde_json::to_vec(listing).unwrap_or_default();
    hex(&Sha256::digest(text))
}

/// The first bytes of a hash.
fn hex(hash: &[u8]) -> String {
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

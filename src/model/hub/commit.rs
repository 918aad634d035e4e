//! One commit of a model on the hub: which files it has, and where each is.
//!
//! A model is pinned to one commit when it is found: the commit that `@revision` names, the one that the cache folder
//! has for it, or the one that the hub has now. What is in the cache is used without asking the network again.
//!
//! Many files are optional, and a model without one gives other vectors. So "the commit has no such file" is only ever said
//! where that is known: from the hub's list of its files, which is kept in the cache, or from the mark that the hub's own
//! tools leave where they asked for a file in vain. Other tools fetch only the files that they read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::client::Client;
use super::download::Wanted;
use super::environment::{self, cache_directory};
use super::repository::Repository;
use crate::access::Access;
use crate::error::{Error, Result};
use crate::model::sources::{Location, Source, is_bundled, is_there};

/// Files that no plan needs, and that can be large.
const WITH_THE_WEIGHTS: [&str; 2] = ["tokenizer.json", "vocab.json"];

/// Files that are looked for and may be missing without a list that says so: what matters of them has another name here, or
/// its own error.
const MAY_BE_UNKNOWN: [&str; 4] =
    ["adapter_config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];

/// Why the hub is not asked.
const OFFLINE: &str = "the network is not to be used (embed.offline or HF_HUB_OFFLINE)";

/// One commit of a model on the hub, in the cache folder or about to come there.
#[derive(Debug)]
pub(in crate::model) struct Commit {
    id: String,
    /// The revision that was asked for; `main` where none was.
    revision: String,
    commit: String,
    repository: Repository,
    /// The commit's folder in the cache.
    directory: PathBuf,
    /// Every file of the commit; `None` where only the cache could be asked, and another tool filled it.
    listing: Option<BTreeSet<String>>,
    /// Why the hub was not asked for that list, or did not give it.
    unlisted: String,
}

impl Commit {
    /// Finds the commit of a revision (`main` where none is given) and brings its small files.
    ///
    /// A commit never changes, so its list of files is kept beside it in the cache: with it nobody has to be asked again,
    /// and a file that is not there yet is not taken for one that does not exist.
    pub(in crate::model) fn open(id: &str, revision: Option<&str>, access: &Access) -> Result<Self> {
        let revision = revision.unwrap_or("main");
        let repository = Repository::of(id);
        let commit = repository.commit_of(revision);
        let cached = commit.map(|commit| Self::cached(id, revision, commit, repository));
        match cached {
            Some(commit) if is_offline(access) => Ok(commit),
            Some(commit) if commit.listing.is_some() => {
                commit.fetch_small_files(access)?;
                Ok(commit)
            }
            None if is_offline(access) => Err(not_cached(id, revision)),
            cached => {
                // What another tool put into the cache is pinned to its commit, and completed.
                let wanted = cached.as_ref().map_or(revision, |commit| &commit.commit);
                match (ask_hub(&Client::new(), id, wanted), cached) {
                    (Ok((commit, listing)), _) => Self::listed(id, revision, commit, listing, access),
                    (Err(error), Some(commit)) => Ok(Self { unlisted: error.to_string(), ..commit }),
                    (Err(error), None) => Err(error),
                }
            }
        }
    }

    /// A commit that the cache has.
    fn cached(id: &str, revision: &str, commit: String, repository: Repository) -> Self {
        let (directory, listing) = (repository.directory_of(&commit), repository.listing_of(&commit));
        let (id, revision, unlisted) = (id.to_owned(), revision.to_owned(), OFFLINE.to_owned());
        Self { id, revision, commit, repository, directory, listing, unlisted }
    }

    /// A commit that the hub described just now: keeps what it said and brings the small files.
    fn listed(id: &str, revision: &str, commit: String, listing: BTreeSet<String>, access: &Access) -> Result<Self> {
        let commit = Self { listing: Some(listing), ..Self::cached(id, revision, commit, Repository::of(id)) };
        commit.fetch_small_files(access)?;
        let kept = commit.repository.keep(revision, &commit.commit, commit.listing.iter().flatten());
        kept.map_err(|error| {
            Error::Model(format!("cache \"{}\" cannot be written: {error}", cache_directory().display()))
        })?;
        Ok(commit)
    }

    /// Where a file of the commit is, fetched if it is not there yet; `None` where the commit has no such file.
    fn file(&self, path: &str, access: &Access) -> Result<Option<PathBuf>> {
        let local = self.directory.join(path);
        let found = is_there(&local, &self.directory);
        if let Ok(true) = found {
            return Ok(Some(local));
        }
        let is_listed = self.listing.as_ref().is_some_and(|listing| listing.contains(path));
        // A weight file that can run code is only ever looked for, never fetched.
        if is_listed && path.ends_with(".bin") {
            return Ok(Some(local));
        }
        if is_listed && !is_offline(access) {
            return self.fetch(&Client::new(), path, access).map(Some);
        }
        if let Err(error) = found {
            return Err(self.incomplete(path, &error.to_string()));
        }
        if is_listed {
            return Err(Error::Model(format!(
                "model \"{}@{}\": {path} is not in the cache yet and {OFFLINE}; fetch it once with the network",
                self.id, self.commit
            )));
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_missing = || self.repository.is_marked_missing(&self.commit, path);
        if self.listing.is_some() || MAY_BE_UNKNOWN.contains(&name) || is_missing() {
            return Ok(None);
        }
        let what = "is not in the cache, which another tool filled, and whether the model has one only the hub knows";
        Err(self.incomplete(path, &format!("{what}: {}", self.unlisted)))
    }

    /// The error for a file that the cache should have and has not.
    fn incomplete(&self, path: &str, what: &str) -> Error {
        let revision = if self.revision == "main" { String::new() } else { format!("@{}", self.revision) };
        Error::Model(format!(
            "model \"{id}@{}\": {path} {what}; fetch it once with the network (embedsql models pull {id}{revision}), or give \
             the folder \"{}\" as the model directory, which is read as it stands",
            self.commit,
            self.directory.display(),
            id = self.id,
        ))
    }

    /// Fetches every small file that describes the model.
    fn fetch_small_files(&self, access: &Access) -> Result<()> {
        let missing = |path: &&String| !self.directory.join(path).exists();
        let wanted: Vec<_> = self.listing.iter().flatten().filter(|path| is_small(path)).filter(missing).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let client = Client::new();
        wanted.into_iter().try_for_each(|path| self.fetch(&client, path, access).map(drop))
    }

    /// Fetches a file into the cache, and gives its place in the commit.
    fn fetch(&self, client: &Client, path: &str, access: &Access) -> Result<PathBuf> {
        let wanted = Wanted {
            client,
            access,
            file: path,
            url: client.file_of(&self.id, &self.commit, path),
            blobs: self.repository.blobs(),
            locks: self.repository.locks(),
        };
        let blob = wanted.fetch();
        let place = blob.and_then(|blob| Ok(self.repository.place(&self.commit, path, &blob)?));
        place.map_err(|failure| client.error(&self.id, &self.commit, Some(path), &failure))
    }
}

impl Source for Commit {
    fn kind(&self) -> &'static str {
        "hub"
    }

    fn name(&self) -> &str {
        &self.id
    }

    /// The commit's hash.
    fn revision(&self) -> Option<&str> {
        Some(&self.commit)
    }

    fn label(&self) -> String {
        format!("hub model \"{}@{}\"", self.id, self.commit)
    }

    fn locate(&self, path: &str, access: &Access) -> Result<Option<Location>> {
        Ok(self.file(path, access)?.map(Location::Disk))
    }
}

/// Whether a file describes the model, and is not large.
fn is_small(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let comes_later = WITH_THE_WEIGHTS.contains(&name) || name.ends_with(".safetensors.index.json");
    path.matches('/').count() <= 1 && name.ends_with(".json") && !comes_later
}

/// Whether the hub is not to be asked, by the session or by the environment.
fn is_offline(access: &Access) -> bool {
    access.is_offline() || environment::is_offline()
}

/// What the hub says of a revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The commit and the file list of a revision, from the hub.
fn ask_hub(client: &Client, id: &str, revision: &str) -> Result<(String, BTreeSet<String>)> {
    let info: std::result::Result<Info, _> = client.json(&client.description_of(id, revision));
    let info = info.map_err(|failure| client.error(id, revision, None, &failure))?;
    let inside = |path: &String| !path.starts_with('/') && path.split('/').all(|part| part != "..");
    let files = info.siblings.into_iter().map(|file| file.rfilename).filter(inside).collect();
    if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(Error::Model(format!("hub: model \"{id}@{revision}\": \"{}\" is not a commit", info.sha)));
    }
    Ok((info.sha, files))
}

/// The error for a model that is not here and may not be fetched.
fn not_cached(id: &str, revision: &str) -> Error {
    let bundled = if is_bundled(id) { "; without @revision it is the model that is compiled in" } else { "" };
    Error::Model(format!(
        "model \"{id}@{revision}\" is not in the cache \"{}\" and {OFFLINE}; fetch it once with the network, or give a \
         model directory{bundled}",
        cache_directory().display()
    ))
}

//! The hub's cache folder and downloads.
//!
//! A model is pinned to one commit when it is found: the commit that `@revision` names, the one that the cache folder
//! has for it, or the one that the hub has now. What is in the cache is used without asking the network again.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};

/// How far the download of one file is, see [`observe_downloads`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Download {
    /// Path of the file inside the model.
    pub file: String,
    /// Bytes received so far.
    pub received: u64,
    /// Bytes of the whole file, where the hub says.
    pub total: Option<u64>,
    /// Whether this is the file's last report.
    pub done: bool,
}

type Observer = Arc<dyn Fn(&Download) + Send + Sync>;

static OBSERVER: RwLock<Option<Observer>> = RwLock::new(None);

/// Calls `observer` while model files come from the hub, from the thread that waits for them: the library itself prints
/// nothing. One observer per process; a later one takes the place of the former.
pub fn observe_downloads(observer: Arc<dyn Fn(&Download) + Send + Sync>) {
    *OBSERVER.write().unwrap_or_else(PoisonError::into_inner) = Some(observer);
}

/// One commit of a model on the hub, in the cache folder or about to come there.
#[derive(Debug)]
pub(crate) struct Snapshot {
    id: String,
    commit: String,
    /// The commit's folder in the cache.
    directory: PathBuf,
    /// Every file of the commit; `None` where only the cache could be asked, and another tool filled it.
    listing: Option<BTreeSet<String>>,
}

impl Snapshot {
    /// Finds the commit of a revision (`main` where none is given) and brings its small files.
    ///
    /// A commit never changes, so its list of files is kept beside it in the cache: with it nobody has to be asked again,
    /// and a file that is not there yet is not taken for one that does not exist.
    pub(crate) fn open(id: &str, revision: Option<&str>, offline: bool) -> Result<Self> {
        let offline = offline || offline_by_environment();
        let revision = revision.unwrap_or("main");
        let cached = cached_commit(id, revision).map(|commit| Self::cached(id, commit));
        match cached {
            Some(snapshot) if offline => Ok(snapshot),
            Some(snapshot) if snapshot.listing.is_some() => {
                snapshot.fetch_small_files()?;
                Ok(snapshot)
            }
            None if offline => Err(Error::Model(format!(
                "model \"{id}@{revision}\" is not in the cache \"{}\" and the network is not to be used \
                 (embed.offline or HF_HUB_OFFLINE); fetch it once with the network, or give a model directory",
                cache_directory().display()
            ))),
            cached => {
                // What another tool put into the cache is pinned to its commit, and used as it is without the hub.
                let wanted = cached.as_ref().map_or(revision, |snapshot| &snapshot.commit);
                match (ask_hub(id, wanted), cached) {
                    (Ok((commit, listing)), _) => Self::listed(id, revision, commit, listing),
                    (Err(_), Some(snapshot)) if snapshot.looks_whole() => Ok(snapshot),
                    (Err(error), _) => Err(error),
                }
            }
        }
    }

    /// A commit that the cache has.
    fn cached(id: &str, commit: String) -> Self {
        let listing = fs::read_to_string(listing_file(id, &commit)).ok();
        let listing = listing.map(|text| text.lines().map(str::to_owned).collect());
        let directory = repo_directory(id).join("snapshots").join(&commit);
        Self { id: id.to_owned(), commit, directory, listing }
    }

    /// A commit that the hub described just now: keeps what it said and brings the small files.
    fn listed(id: &str, revision: &str, commit: String, listing: BTreeSet<String>) -> Result<Self> {
        let snapshot = Self { listing: Some(listing), ..Self::cached(id, commit) };
        snapshot.fetch_small_files()?;
        snapshot.keep(revision).map_err(|error| {
            Error::Model(format!("cache \"{}\" cannot be written: {error}", cache_directory().display()))
        })?;
        Ok(snapshot)
    }

    /// Whether the files that every model has are in the cache.
    fn looks_whole(&self) -> bool {
        ["config.json", "tokenizer.json"].iter().all(|file| self.directory.join(file).exists())
    }

    /// The commit's hash.
    pub(crate) fn commit(&self) -> &str {
        &self.commit
    }

    /// A file of the commit, fetched if it is not there yet; `None` where the commit has no such file.
    pub(crate) fn file(&self, path: &str, offline: bool) -> Result<Option<PathBuf>> {
        let local = self.directory.join(path);
        if local.exists() {
            return Ok(Some(local));
        }
        if !self.listing.as_ref().is_some_and(|listing| listing.contains(path)) {
            return Ok(None);
        }
        // A weight file that can run code is only ever looked for, never fetched.
        if path.ends_with(".bin") {
            return Ok(Some(local));
        }
        if offline || offline_by_environment() {
            return Err(Error::Model(format!(
                "model \"{}@{}\": {path} is not in the cache yet and the network is not to be used (embed.offline or \
                 HF_HUB_OFFLINE); fetch it once with the network",
                self.id, self.commit
            )));
        }
        self.fetch(&api_repo(&self.id, &self.commit)?, path).map(Some)
    }

    /// Fetches every file that describes the model.
    fn fetch_small_files(&self) -> Result<()> {
        let small = |path: &&String| {
            path.matches('/').count() <= 1 && path.ends_with(".json") && !path.ends_with(".safetensors.index.json")
        };
        let missing = |path: &&String| !self.directory.join(path).exists();
        let wanted: Vec<_> = self.listing.iter().flatten().filter(small).filter(missing).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let repo = api_repo(&self.id, &self.commit)?;
        wanted.into_iter().try_for_each(|path| self.fetch(&repo, path).map(drop))
    }

    /// Notes in the cache which commit the revision is, and the commit's files.
    fn keep(&self, revision: &str) -> io::Result<()> {
        Cache::new(cache_directory()).repo(repo_at(&self.id, revision)).create_ref(&self.commit)?;
        let file = listing_file(&self.id, &self.commit);
        fs::create_dir_all(file.parent().unwrap_or(&file))?;
        let listing: Vec<_> = self.listing.iter().flatten().map(String::as_str).collect();
        // Written whole or not at all: another process may read it.
        let part = file.with_extension(format!("{}.part", process::id()));
        fs::write(&part, listing.join("\n"))?;
        fs::rename(part, file)
    }

    /// Fetches a file, from where a download before broke off.
    ///
    /// The tries are made here: hf-hub's own ones begin at byte 0 when the first try of a resumed download brings nothing,
    /// and append that to the part that is there.
    fn fetch(&self, repo: &ApiRepo, path: &str) -> Result<PathBuf> {
        let mut pauses = [300, 600, 1200].map(Duration::from_millis).into_iter();
        loop {
            let report = Report(Download { file: path.to_owned(), received: 0, total: None, done: false });
            let error = match repo.download_with_progress(path, report) {
                Ok(file) => return Ok(file),
                Err(error) => error,
            };
            match pauses.next().filter(|_| !is_refusal(&error.to_string())) {
                Some(pause) => thread::sleep(pause),
                None => return Err(hub_error(&self.id, &self.commit, Some(path), &error)),
            }
        }
    }
}

/// The commits in the cache folder that have weights: id, commit, bytes of the files.
pub(super) fn stored() -> impl Iterator<Item = (String, String, u64)> {
    let entries = |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().flatten();
    entries(cache_directory()).flat_map(move |repo| {
        let folder = repo.file_name().to_string_lossy().into_owned();
        let name = folder.strip_prefix("models--").map(|name| name.replacen("--", "/", 1));
        entries(repo.path().join("snapshots")).filter_map(move |commit| {
            let (bytes, has_weights) = contents(&commit.path());
            let commit = commit.file_name().to_string_lossy().into_owned();
            name.clone().filter(|_| has_weights).map(|name| (name, commit, bytes))
        })
    })
}

/// Bytes of a folder's files, and whether weights are among them.
fn contents(directory: &Path) -> (u64, bool) {
    let (mut bytes, mut has_weights) = (0, false);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // The files are links into the folder of contents; the folders are no links, so this ends.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let inner = contents(&entry.path());
            (bytes, has_weights) = (bytes + inner.0, has_weights || inner.1);
        } else if let Ok(metadata) = fs::metadata(entry.path()) {
            bytes += metadata.len();
            has_weights |= entry.path().extension().is_some_and(|extension| extension == "safetensors");
        }
    }
    (bytes, has_weights)
}

/// Passes hf-hub's progress on to the observer.
struct Report(Download);

impl Report {
    fn tell(&self) {
        if let Some(observer) = OBSERVER.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            observer(&self.0);
        }
    }
}

impl Progress for Report {
    fn init(&mut self, size: usize, _filename: &str) {
        self.0.total = Some(size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.0.received += size as u64;
        self.tell();
    }

    fn finish(&mut self) {
        self.0.done = true;
        self.tell();
    }
}

/// The commit and the file list of a revision, from the hub.
fn ask_hub(id: &str, revision: &str) -> Result<(String, BTreeSet<String>)> {
    let info = api_repo(id, revision)?.info().map_err(|error| hub_error(id, revision, None, &error))?;
    let inside = |path: &String| !path.starts_with('/') && path.split('/').all(|part| part != "..");
    let files = info.siblings.into_iter().map(|file| file.rfilename).filter(inside).collect();
    if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(Error::Model(format!("hub: model \"{id}@{revision}\": \"{}\" is not a commit", info.sha)));
    }
    Ok((info.sha, files))
}

fn api_repo(id: &str, revision: &str) -> Result<ApiRepo> {
    let cache = Cache::new(cache_directory());
    let token = env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()).or_else(|| cache.token());
    let mut builder = ApiBuilder::from_cache(cache).with_progress(false).with_retries(0).with_token(token);
    if let Ok(endpoint) = env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let api = builder.build().map_err(|error| hub_error(id, revision, None, &error))?;
    Ok(api.repo(repo_at(id, revision)))
}

fn repo_at(id: &str, revision: &str) -> Repo {
    Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned())
}

fn hub_error(id: &str, revision: &str, file: Option<&str>, error: &ApiError) -> Error {
    let text = error.to_string();
    let what =
        file.map_or_else(|| format!("model \"{id}@{revision}\""), |file| format!("model \"{id}@{revision}\": {file}"));
    let next = if has_status(&text, 401) || has_status(&text, 403) {
        "the name is wrong, or the model needs a token: set HF_TOKEN, or log in with the hub's own tool"
    } else if has_status(&text, 404) {
        "there is no such model or revision"
    } else {
        "the hub could not be reached; give a model directory, or try again with the network"
    };
    Error::Model(format!("hub: {what}: {text}; {next}"))
}

/// Whether hf-hub's error is an answer with this status; a number alone could be a port.
fn has_status(error: &str, status: u16) -> bool {
    error.contains(&format!("status: {status}"))
}

/// Whether another try would get the same answer.
fn is_refusal(error: &str) -> bool {
    [401, 403, 404].iter().any(|&status| has_status(error, status))
}

/// `HF_HUB_OFFLINE`, read here because hf-hub does not.
fn offline_by_environment() -> bool {
    let value = env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    matches!(value.as_str(), "1" | "true" | "yes" | "on")
}

/// The folder that every tool of the hub uses.
fn cache_directory() -> PathBuf {
    let set = |key: &str| env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")) {
        return directory;
    }
    if let Some(home) = set("HF_HOME") {
        return home.join("hub");
    }
    let cache = set("XDG_CACHE_HOME").unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache"));
    cache.join("huggingface").join("hub")
}

fn repo_directory(id: &str) -> PathBuf {
    cache_directory().join(repo_at(id, "main").folder_name())
}

/// Where this crate keeps the list of a commit's files, beside the folders of the hub's own tools.
fn listing_file(id: &str, commit: &str) -> PathBuf {
    repo_directory(id).join("listings").join(commit)
}

/// The commit that the cache folder has for a revision: a branch or tag it noted, or the commit itself.
fn cached_commit(id: &str, revision: &str) -> Option<String> {
    let directory = repo_directory(id);
    if let Ok(commit) = fs::read_to_string(directory.join("refs").join(revision)) {
        return Some(commit.trim().to_owned());
    }
    directory.join("snapshots").join(revision).is_dir().then(|| revision.to_owned())
}

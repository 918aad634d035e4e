//! The hub's cache folder and downloads.
//!
//! A model is pinned to one commit when it is found: the commit that `@revision` names, the one that the cache folder
//! has for it, or the one that the hub has now. What is in the cache is used without asking the network.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
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
    revision: String,
    commit: String,
    /// The commit's folder in the cache.
    directory: PathBuf,
    offline: bool,
    /// The files of the commit, known once the hub was asked.
    remote: OnceLock<Remote>,
}

#[derive(Debug)]
struct Remote {
    repo: ApiRepo,
    files: HashSet<String>,
}

impl Snapshot {
    /// Finds the commit of a revision (`main` where none is given) and brings its small files.
    pub(crate) fn open(id: &str, revision: Option<&str>, offline: bool) -> Result<Self> {
        let offline = offline || offline_by_environment();
        let revision = revision.unwrap_or("main").to_owned();
        let snapshot = |commit: String| Self {
            directory: repo_directory(id).join("snapshots").join(&commit),
            id: id.to_owned(),
            revision: revision.clone(),
            commit,
            offline,
            remote: OnceLock::new(),
        };
        let cached = cached_commit(id, &revision).map(snapshot);
        match cached {
            // modules.json comes last of the small files, so where it is the others are.
            Some(snapshot) if offline || snapshot.directory.join("modules.json").exists() => Ok(snapshot),
            _ if offline => Err(Error::Model(format!(
                "model \"{id}@{revision}\" is not in the cache \"{}\" and the network is not to be used \
                 (embed.offline or HF_HUB_OFFLINE); fetch it once with the network, or give a model directory",
                cache_directory().display()
            ))),
            _ => {
                let (commit, files) = ask_hub(id, &revision)?;
                let snapshot = snapshot(commit);
                snapshot.fetch_small_files(files)?;
                Ok(snapshot)
            }
        }
    }

    /// The commit's hash.
    pub(crate) fn commit(&self) -> &str {
        &self.commit
    }

    /// A file of the commit, fetched if it is not there yet; `None` where the commit has no such file.
    pub(crate) fn file(&self, path: &str) -> Result<Option<PathBuf>> {
        let local = self.directory.join(path);
        if local.exists() {
            return Ok(Some(local));
        }
        // Small files came with the snapshot: one that is not there does not exist. Weights come when they are needed.
        let weights =
            path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json") || path.ends_with(".bin");
        if self.offline || !weights {
            return Ok(None);
        }
        let remote = match self.remote.get() {
            Some(remote) => remote,
            None => {
                let (_, files) = ask_hub(&self.id, &self.commit)?;
                let remote = Remote { repo: self.repo()?, files };
                self.remote.get_or_init(|| remote)
            }
        };
        // A weight file that can run code is only ever looked for, never fetched.
        if !remote.files.contains(path) || path.ends_with(".bin") {
            return Ok(remote.files.contains(path).then_some(local));
        }
        self.fetch(&remote.repo, path).map(Some)
    }

    /// Fetches every file that describes the model, `modules.json` last, and notes which commit the revision is.
    fn fetch_small_files(&self, files: HashSet<String>) -> Result<()> {
        let repo = self.repo()?;
        let small = |path: &&String| {
            path.matches('/').count() <= 1 && path.ends_with(".json") && !path.ends_with(".safetensors.index.json")
        };
        let mut wanted: Vec<_> = files.iter().filter(small).cloned().collect();
        wanted.sort_by_key(|path| (path == "modules.json", path.clone()));
        for path in wanted {
            if !self.directory.join(&path).exists() {
                self.fetch(&repo, &path)?;
            }
        }
        let repo_cache = Cache::new(cache_directory()).repo(repo_at(&self.id, &self.revision));
        let noted = repo_cache.create_ref(&self.commit);
        noted.map_err(|error| Error::Model(format!("cache \"{}\": {error}", cache_directory().display())))?;
        let _ = self.remote.set(Remote { repo, files });
        Ok(())
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
                None => return Err(hub_error(&self.id, &self.revision, Some(path), &error)),
            }
        }
    }

    fn repo(&self) -> Result<ApiRepo> {
        api_repo(&self.id, &self.commit)
    }
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
fn ask_hub(id: &str, revision: &str) -> Result<(String, HashSet<String>)> {
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

/// The commit that the cache folder has for a revision: a branch or tag it noted, or the commit itself.
fn cached_commit(id: &str, revision: &str) -> Option<String> {
    let directory = repo_directory(id);
    if let Ok(commit) = fs::read_to_string(directory.join("refs").join(revision)) {
        return Some(commit.trim().to_owned());
    }
    directory.join("snapshots").join(revision).is_dir().then(|| revision.to_owned())
}

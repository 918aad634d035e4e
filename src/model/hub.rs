//! The hub's commits, and the cache folder that its tools share.
//!
//! A model is pinned to one commit when it is found: the commit that `@revision` names, the one that the cache folder
//! has for it, or the one that the hub has now. What is in the cache is used without asking the network again.
//!
//! Many files are optional, and a model without one gives other vectors. So "the commit has no such file" is only ever said
//! where that is known: from the hub's list of its files, which is kept in the cache, or from the mark that the hub's own
//! tools leave where they asked for a file in vain. Other tools fetch only the files that they read.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use super::download::{Client, Failure, Source, Token};
pub use super::download::{Download, observe_downloads};
use super::files::is_there;
use crate::error::{Error, Result};

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
pub(crate) struct Commit {
    id: String,
    /// The revision that was asked for; `main` where none was.
    revision: String,
    commit: String,
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
    pub(crate) fn open(id: &str, revision: Option<&str>, offline: bool) -> Result<Self> {
        let offline = offline || offline_by_environment();
        let revision = revision.unwrap_or("main");
        let cached = cached_commit(id, revision).map(|commit| Self::cached(id, revision, commit));
        match cached {
            Some(commit) if offline => Ok(commit),
            Some(commit) if commit.listing.is_some() => {
                commit.fetch_small_files()?;
                Ok(commit)
            }
            None if offline => Err(not_cached(id, revision)),
            cached => {
                // What another tool put into the cache is pinned to its commit, and completed.
                let wanted = cached.as_ref().map_or(revision, |commit| &commit.commit);
                match (ask_hub(&client(), id, wanted), cached) {
                    (Ok((commit, listing)), _) => Self::listed(id, revision, commit, listing),
                    (Err(error), Some(commit)) => Ok(Self { unlisted: error.to_string(), ..commit }),
                    (Err(error), None) => Err(error),
                }
            }
        }
    }

    /// A commit that the cache has.
    fn cached(id: &str, revision: &str, commit: String) -> Self {
        let listing = fs::read_to_string(listing_file(id, &commit)).ok();
        let listing = listing.map(|text| text.lines().map(str::to_owned).collect());
        let directory = repo_directory(id).join("snapshots").join(&commit);
        let (id, revision, unlisted) = (id.to_owned(), revision.to_owned(), OFFLINE.to_owned());
        Self { id, revision, commit, directory, listing, unlisted }
    }

    /// A commit that the hub described just now: keeps what it said and brings the small files.
    fn listed(id: &str, revision: &str, commit: String, listing: BTreeSet<String>) -> Result<Self> {
        let commit = Self { listing: Some(listing), ..Self::cached(id, revision, commit) };
        commit.fetch_small_files()?;
        commit.keep(revision).map_err(|error| {
            Error::Model(format!("cache \"{}\" cannot be written: {error}", cache_directory().display()))
        })?;
        Ok(commit)
    }

    /// The commit's hash.
    pub(crate) fn hash(&self) -> &str {
        &self.commit
    }

    /// A file of the commit, fetched if it is not there yet; `None` where the commit has no such file.
    pub(crate) fn file(&self, path: &str, offline: bool) -> Result<Option<PathBuf>> {
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
        if is_listed && !(offline || offline_by_environment()) {
            return self.fetch(&client(), path).map(Some);
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
        if self.listing.is_some() || MAY_BE_UNKNOWN.contains(&name) || self.is_marked_missing(path) {
            return Ok(None);
        }
        let what = "is not in the cache, which another tool filled, and whether the model has one only the hub knows";
        Err(self.incomplete(path, &format!("{what}: {}", self.unlisted)))
    }

    /// Whether a tool of the hub noted that the commit has no such file.
    fn is_marked_missing(&self, path: &str) -> bool {
        repo_directory(&self.id).join(".no_exist").join(&self.commit).join(path).exists()
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
    fn fetch_small_files(&self) -> Result<()> {
        let small = |path: &&String| {
            let name = path.rsplit('/').next().unwrap_or_default();
            let later = WITH_THE_WEIGHTS.contains(&name) || name.ends_with(".safetensors.index.json");
            path.matches('/').count() <= 1 && name.ends_with(".json") && !later
        };
        let missing = |path: &&String| !self.directory.join(path).exists();
        let wanted: Vec<_> = self.listing.iter().flatten().filter(small).filter(missing).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let client = client();
        wanted.into_iter().try_for_each(|path| self.fetch(&client, path).map(drop))
    }

    /// Notes in the cache which commit the revision is, and the commit's files.
    fn keep(&self, revision: &str) -> io::Result<()> {
        let listing: Vec<_> = self.listing.iter().flatten().map(String::as_str).collect();
        write_whole(&listing_file(&self.id, &self.commit), &listing.join("\n"))?;
        write_whole(&repo_directory(&self.id).join("refs").join(revision), &self.commit)
    }

    /// Fetches a file into the cache, and gives its place in the commit.
    fn fetch(&self, client: &Client, path: &str) -> Result<PathBuf> {
        let source = Source {
            file: path,
            url: format!("{}/{}/resolve/{}/{}", client.endpoint, self.id, self.commit, escaped(path)),
            blobs: repo_directory(&self.id).join("blobs"),
            locks: cache_directory().join(".locks").join(folder_name(&self.id)),
        };
        let blob = client.fetch(&source);
        let place = blob.and_then(|blob| Ok(self.place(path, &blob)?));
        place.map_err(|failure| hub_error(client, &self.id, &self.commit, Some(path), &failure))
    }

    /// Gives a blob its place in the commit.
    fn place(&self, path: &str, blob: &Path) -> io::Result<PathBuf> {
        let place = self.directory.join(path);
        fs::create_dir_all(place.parent().unwrap_or(&place))?;
        // A link may be left whose blob somebody deleted. Another thread may be about to remove it too.
        if !place.exists() && place.is_symlink() {
            fs::remove_file(&place).or_else(|error| if place.is_symlink() { Err(error) } else { Ok(()) })?;
        }
        let up = "../".repeat(2 + path.matches('/').count());
        let name = blob.file_name().unwrap_or_default();
        match link(&Path::new(&up).join("blobs").join(name), blob, &place) {
            // Another process was faster.
            Err(_) if place.exists() => Ok(place),
            result => result.map(|()| place),
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

/// Links as the hub's own tools do, so that they can use the cache and clean it.
#[cfg(unix)]
fn link(relative: &Path, _blob: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, place)
}

/// Where links need a right that few users have, the file itself moves, as with the hub's own tools.
#[cfg(windows)]
fn link(relative: &Path, blob: &Path, place: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(relative, place).or_else(|_| fs::rename(blob, place))
}

/// Writes a file whole or not at all: another process may read it, and another thread of this one write it.
fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(file.parent().unwrap_or(file))?;
    let mut part = file.as_os_str().to_owned();
    part.push(format!(".{}-{}.part", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let written = fs::write(&part, text).and_then(|()| fs::rename(&part, file));
    if written.is_err() {
        // Nobody else has this name; where it cannot be removed the first error says why.
        let _ = fs::remove_file(&part);
    }
    written
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
    let url = format!("{}/api/models/{id}/revision/{}", client.endpoint, revision.replace('/', "%2F"));
    let info: Info = client.json(&url).map_err(|failure| hub_error(client, id, revision, None, &failure))?;
    let inside = |path: &String| !path.starts_with('/') && path.split('/').all(|part| part != "..");
    let files = info.siblings.into_iter().map(|file| file.rfilename).filter(inside).collect();
    if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(Error::Model(format!("hub: model \"{id}@{revision}\": \"{}\" is not a commit", info.sha)));
    }
    Ok((info.sha, files))
}

/// A path as part of an address.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn client() -> Client {
    let endpoint = env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
    Client::new(endpoint.trim_end_matches('/').to_owned(), token())
}

/// The token where every tool of the hub looks for it.
fn token() -> Option<Token> {
    let token = |text: &str, origin: String| {
        let value = text.trim().to_owned();
        (!value.is_empty()).then_some(Token { value, origin })
    };
    let variable = env::var("HF_TOKEN").ok().and_then(|text| token(&text, "HF_TOKEN".to_owned()));
    variable.or_else(|| {
        let file = variable_path("HF_TOKEN_PATH").unwrap_or_else(|| hub_home().join("token"));
        token(&fs::read_to_string(&file).ok()?, file.display().to_string())
    })
}

/// The error for a model that is not here and may not be fetched.
fn not_cached(id: &str, revision: &str) -> Error {
    let bundled = if super::is_bundled(id) { "; without @revision it is the model that is compiled in" } else { "" };
    Error::Model(format!(
        "model \"{id}@{revision}\" is not in the cache \"{}\" and {OFFLINE}; fetch it once with the network, or give a \
         model directory{bundled}",
        cache_directory().display()
    ))
}

fn hub_error(client: &Client, id: &str, revision: &str, file: Option<&str>, failure: &Failure) -> Error {
    let what =
        file.map_or_else(|| format!("model \"{id}@{revision}\""), |file| format!("model \"{id}@{revision}\": {file}"));
    let next = match (failure, &client.token) {
        (Failure::Status(401 | 403), None) => "the model is gated or private, or the name is wrong; set HF_TOKEN, or \
                                               log in with the hub's own tool (hf auth login)"
            .to_owned(),
        (Failure::Status(401 | 403), Some(token)) => format!(
            "the token from {} was refused; ask for access on {}/{id}, or set HF_TOKEN to a token that has it",
            token.origin, client.endpoint
        ),
        (Failure::Status(404), _) => "there is no such model or revision".to_owned(),
        (Failure::Damaged { .. }, _) => "try again on another network, or give a model directory".to_owned(),
        (Failure::Held, _) => "wait for that process or end it, then try again".to_owned(),
        (Failure::Cache(_), _) => {
            format!("make room or get the right to write in \"{}\", or set HF_HOME", cache_directory().display())
        }
        _ => "the hub could not be reached; give a model directory, or try again with the network".to_owned(),
    };
    Error::Model(format!("hub: {what}: {failure}; {next}"))
}

/// `HF_HUB_OFFLINE`, as the hub's own tools read it.
fn offline_by_environment() -> bool {
    let value = env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    matches!(value.as_str(), "1" | "true" | "yes" | "on")
}

/// A path from the environment.
fn variable_path(key: &str) -> Option<PathBuf> {
    env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder of the hub's tools.
fn hub_home() -> PathBuf {
    variable_path("HF_HOME").unwrap_or_else(|| {
        let cache = variable_path("XDG_CACHE_HOME");
        cache.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache")).join("huggingface")
    })
}

/// The folder of the models that every tool of the hub uses.
fn cache_directory() -> PathBuf {
    let set = variable_path("HF_HUB_CACHE").or_else(|| variable_path("HUGGINGFACE_HUB_CACHE"));
    set.unwrap_or_else(|| hub_home().join("hub"))
}

fn folder_name(id: &str) -> String {
    format!("models--{}", id.replace('/', "--"))
}

fn repo_directory(id: &str) -> PathBuf {
    cache_directory().join(folder_name(id))
}

/// Where this crate keeps the list of a commit's files, beside the folders of the hub's own tools.
fn listing_file(id: &str, commit: &str) -> PathBuf {
    repo_directory(id).join("listings").join(commit)
}

/// The commit that the cache folder has for a revision: a branch or tag it noted, or the commit itself.
fn cached_commit(id: &str, revision: &str) -> Option<String> {
    let directory = repo_directory(id);
    let noted = directory.join("refs").join(revision);
    // A pipe there would keep us waiting. Another tool may be about to write it, and it is empty for a moment.
    if noted.is_file()
        && let Ok(commit) = fs::read_to_string(noted)
        && is_commit(commit.trim())
    {
        return Some(commit.trim().to_owned());
    }
    directory.join("snapshots").join(revision).is_dir().then(|| revision.to_owned())
}

/// Whether this can be the name of a commit, and so of a folder.
fn is_commit(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_commit_is_a_plain_name() {
        for name in ["0123456789abcdef0123456789abcdef01234567", "v1.0_a-b"] {
            assert!(is_commit(name), "{name}");
        }
        for name in ["", "..", ".hidden", "../../etc", "a/b", "a\\b", "a b"] {
            assert!(!is_commit(name), "{name:?}");
        }
    }

    #[test]
    fn threads_that_write_the_same_file_do_not_meet() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let file = folder.path().join("refs/main");
        let write = || (0..200).try_for_each(|_| write_whole(&file, "0123"));
        thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
            writers.into_iter().for_each(|writer| writer.join().expect("no panic").expect("written"));
        });
        let left: Vec<_> = fs::read_dir(folder.path().join("refs")).expect("folder").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(fs::read_to_string(file).expect("file"), "0123");
    }
}

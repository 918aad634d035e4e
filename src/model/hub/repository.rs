//! A model's folder in the cache that the hub's tools share: commits, the revisions that name them, and their files.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::environment::cache_directory;
use crate::files::write_whole;
use crate::model::sources::Stored;

/// A model's folder in the cache.
#[derive(Debug)]
pub(super) struct Repository {
    directory: PathBuf,
    /// Where the hub's tools keep the locks of its files.
    locks: PathBuf,
}

impl Repository {
    /// The folder of a model by its id.
    pub(super) fn of(id: &str) -> Self {
        let (cache, name) = (cache_directory(), format!("models--{}", id.replace('/', "--")));
        Self { directory: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that the cache has for a revision: a branch or tag it noted, or the commit itself.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        let noted = self.note_of(revision);
        // A pipe there would keep us waiting. Another tool may be about to write it, and it is empty for a moment.
        if noted.is_file()
            && let Ok(commit) = fs::read_to_string(noted)
            && is_commit(commit.trim())
        {
            return Some(commit.trim().to_owned());
        }
        self.directory_of(revision).is_dir().then(|| revision.to_owned())
    }

    /// Where the files of a commit are.
    pub(super) fn directory_of(&self, commit: &str) -> PathBuf {
        self.directory.join("snapshots").join(commit)
    }

    /// Every file that a commit has, where that was kept.
    pub(super) fn listing_of(&self, commit: &str) -> Option<BTreeSet<String>> {
        let text = fs::read_to_string(self.listing_file(commit)).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }

    /// Notes which commit a revision is, and the commit's files.
    pub(super) fn keep<'a>(
        &self,
        revision: &str,
        commit: &str,
        listing: impl Iterator<Item = &'a String>,
    ) -> io::Result<()> {
        let listing: Vec<_> = listing.map(String::as_str).collect();
        write_file(&self.listing_file(commit), &listing.join("\n"))?;
        write_file(&self.note_of(revision), commit)
    }

    /// Whether a tool of the hub noted that a commit has no such file.
    pub(super) fn is_marked_missing(&self, commit: &str, path: &str) -> bool {
        self.directory.join(".no_exist").join(commit).join(path).exists()
    }

    /// Where the contents of all files are, whatever commit they are of.
    pub(super) fn blobs(&self) -> PathBuf {
        self.directory.join("blobs")
    }

    /// Where the locks of those are.
    pub(super) fn locks(&self) -> PathBuf {
        self.locks.clone()
    }

    /// Gives a blob its place in a commit.
    pub(super) fn place(&self, commit: &str, path: &str, blob: &Path) -> io::Result<PathBuf> {
        let place = self.directory_of(commit).join(path);
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

    /// Where this crate keeps the list of a commit's files, beside the folders of the hub's own tools.
    fn listing_file(&self, commit: &str) -> PathBuf {
        self.directory.join("listings").join(commit)
    }

    /// Where the hub's tools note which commit a revision is.
    fn note_of(&self, revision: &str) -> PathBuf {
        self.directory.join("refs").join(revision)
    }
}

/// The commits in the cache that have weights.
pub(in crate::model) fn stored() -> impl Iterator<Item = Stored> {
    entries(cache_directory()).flat_map(|repository| {
        let folder = repository.file_name().to_string_lossy().into_owned();
        let name = folder.strip_prefix("models--").map(|name| name.replacen("--", "/", 1));
        let commits = entries(repository.path().join("snapshots"));
        commits.filter_map(move |commit| stored_commit(name.clone()?, &commit))
    })
}

/// A commit's folder, if there are weights in it.
fn stored_commit(name: String, commit: &fs::DirEntry) -> Option<Stored> {
    let (bytes, has_weights) = contents(&commit.path());
    let revision = commit.file_name().to_string_lossy().into_owned();
    has_weights.then_some(Stored { name, kind: "hub", revision, bytes })
}

/// What is in a folder; nothing where it cannot be read.
fn entries(directory: PathBuf) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

/// Bytes of a folder's files, and whether weights are among them.
fn contents(directory: &Path) -> (u64, bool) {
    let (mut bytes, mut has_weights) = (0, false);
    for entry in entries(directory.to_owned()) {
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

/// Writes a file whole or not at all, in a folder that may have to be made.
fn write_file(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    write_whole(folder, &name, text.as_bytes(), OpenOptions::new())
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
        let write = || (0..200).try_for_each(|_| write_file(&file, "0123"));
        thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
            writers.into_iter().for_each(|writer| writer.join().expect("no panic").expect("written"));
        });
        let left: Vec<_> = fs::read_dir(folder.path().join("refs")).expect("folder").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(fs::read_to_string(file).expect("file"), "0123");
    }
}

//! The folder of an executor: results wait there to be fetched.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Before the number of a process.
const PREFIX: &str = "embedsql-executor-";

/// Locked as long as the process of a folder lives.
const LOCK: &str = ".lock";

/// What is written to see whether there is room: results come in pieces larger than that.
const PIECE: usize = 64 << 10;

/// A folder of this process, which goes with it however it is told to end; what one that was killed left goes with the next.
pub(super) struct WorkFolder {
    path: PathBuf,
    _lock: File,
}

impl WorkFolder {
    /// Below another folder.
    pub(super) fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        let wrong = |error: io::Error| Error::Write(format!("work folder {path:?}: {error}"));
        fs::create_dir_all(parent).map_err(wrong)?;
        remove_deserted(parent);
        fs::create_dir_all(&path).map_err(wrong)?;
        let lock = File::create(path.join(LOCK)).map_err(wrong)?;
        lock.try_lock().map_err(|error| wrong(error.into()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            log::warn!("folder {:?} could not be removed: {error}", self.path);
        }
    }
}

/// Whether there is no room for results in a folder.
pub(super) fn is_full(folder: &Path) -> bool {
    let path = folder.join(".room");
    let written = File::create(&path).and_then(|mut file| file.write_all(&[0; PIECE]).and_then(|()| file.sync_all()));
    // If it is not there it takes no room.
    let _ = fs::remove_file(path);
    written.is_err_and(|error| no_room(&error))
}

/// Whether an error is that of a disk without room.
pub(super) fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Removes the folders of processes that were killed.
fn remove_deserted(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let lock = File::open(entry.path().join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok())
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            log::warn!("folder {:?} could not be removed: {error}", entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_and_what_others_use_stays() {
        let parent = tempfile::TempDir::new().expect("a folder");
        let at = |name: &str| parent.path().join(name);
        for name in ["embedsql-executor-x", "embedsql-executor-y", "embedsql-executor-z", "other"] {
            fs::create_dir(at(name)).expect("a folder");
        }
        fs::write(at("embedsql-executor-x/.lock"), "").expect("written");
        let lock = File::create(at("embedsql-executor-y/.lock")).expect("a lock");
        lock.try_lock().expect("free");
        let own = WorkFolder::new(parent.path()).expect("a folder");
        assert!(!is_full(own.path()));
        assert!(!at("embedsql-executor-x").exists());
        // One that is just being made has no lock yet.
        assert!(["embedsql-executor-y", "embedsql-executor-z", "other"].iter().all(|name| at(name).exists()));
        let path = own.path().to_owned();
        drop(own);
        assert!(!path.exists());
    }
}

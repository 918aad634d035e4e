//! Where results go: standard output, or a file that appears only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::Failure;

/// The destination of all results of this run.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None` is standard output.
    file: Option<Mutex<File>>,
    /// The file under construction and its final name; absent for standard output, devices and pipes.
    staged: Option<Staged>,
}

#[derive(Debug)]
struct Staged {
    temporary: PathBuf,
    target: PathBuf,
}

impl Output {
    /// Opens the destination before anything runs, so that a wrong path costs no work.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self { file: None, staged: None });
        };
        let wrong = |e: io::Error| Failure::Usage(format!("--output {path:?}: {e}"));
        if fs::metadata(path).is_ok_and(|m| m.is_dir()) {
            return Err(Failure::Usage(format!("--output {path:?}: is a directory")));
        }
        // /dev/null, a named pipe: there is nothing to rename.
        if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            let file = OpenOptions::new().write(true).open(path).map_err(wrong)?;
            return Ok(Self { file: Some(Mutex::new(file)), staged: None });
        }
        // Behind a symbolic link, replace the file and not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let temporary = temporary_name(&target).map_err(wrong)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(wrong)?;
        Ok(Self { file: Some(Mutex::new(file)), staged: Some(Staged { temporary, target }) })
    }

    /// Writes all of `bytes`.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        match &self.file {
            Some(file) => file.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes)?,
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()?;
            }
        }
        Ok(())
    }

    /// All results are written: gives the file its name.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        if let (Some(file), Some(staged)) = (&self.file, &self.staged) {
            // A full disk may only show here.
            file.lock().unwrap_or_else(PoisonError::into_inner).sync_all()?;
            fs::rename(&staged.temporary, &staged.target)?;
        }
        Ok(())
    }

    /// Something failed: removes what was written and leaves an older file as it was.
    ///
    /// Takes no lock, because a write may hang in it.
    pub(crate) fn discard(&self) {
        if let Some(staged) = &self.staged {
            let _ = fs::remove_file(&staged.temporary);
        }
    }
}

/// A name beside the target, because a rename must stay within one file system.
fn temporary_name(target: &Path) -> io::Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| io::Error::other("names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(target.with_file_name(temporary))
}

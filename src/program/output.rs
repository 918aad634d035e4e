//! Where results go: standard output, or a file that appears only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use parking_lot::Mutex;

use super::failure::{Failure, warn};
use crate::files::{Doubtful, Staged, Target, left_over};

/// The destination of all results of this run.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None` is standard output.
    file: Option<Mutex<File>>,
    /// The file under construction; absent for standard output, devices and pipes.
    staged: Option<Staged>,
}

impl Output {
    /// Opens the destination before anything runs, so that a wrong path costs no work.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self { file: None, staged: None });
        };
        let wrong = |e: io::Error| Failure::Usage(format!("--output {path:?}: {e}"));
        match Target::of(path).map_err(wrong)? {
            Target::Folder => Err(wrong(io::Error::other("is a directory"))),
            Target::Stream(stream) => Self::stream(&stream).map_err(wrong),
            Target::File(target) => {
                Doubtful::warning(&left_over(&target)).iter().for_each(|warning| warn(warning));
                let (staged, file) = Staged::create(&target).map_err(wrong)?;
                Ok(Self { file: Some(Mutex::new(file)), staged: Some(staged) })
            }
        }
    }

    /// `/dev/null`, a named pipe: there is nothing to rename.
    fn stream(path: &Path) -> io::Result<Self> {
        // A file behind a descriptor has an end that is not ours to guess, except that of our own standard output.
        if !fs::metadata(path)?.is_file() {
            return Ok(Self { file: Some(Mutex::new(OpenOptions::new().write(true).open(path)?)), staged: None });
        }
        match is_standard_output(path) {
            true => Ok(Self { file: None, staged: None }),
            false => Err(io::Error::other("is a file that is open already: name the file, or /dev/stdout")),
        }
    }

    /// Writes all of `bytes`.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        match &self.file {
            Some(file) => file.lock().write_all(bytes)?,
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
            file.lock().sync_all()?;
            staged.finish()?;
        }
        Ok(())
    }

    /// Something failed: removes what was written and leaves an older file as it was.
    ///
    /// Takes no lock, because a write may hang in it.
    pub(crate) fn discard(&self) {
        if let Some(staged) = &self.staged {
            staged.discard();
        }
    }
}

/// Whether a path of a descriptor is that of our standard output.
fn is_standard_output(path: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    path.file_name().is_some_and(|name| name == "1") && folder(path) == folder(Path::new("/dev/fd/1"))
}

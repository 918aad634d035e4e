//! Where results go: standard output, or a file that appears only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::failure::{Failure, warn};
use super::pager::Pager;
use super::screen::{Screen, View};
use crate::files::{Doubtful, Staged, Target, left_over};

/// The destination of all results of this run.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// `None` is standard output.
    file: Option<Mutex<File>>,
    /// The file under construction; absent for standard output, devices and pipes.
    staged: Option<Staged>,
    /// What a long result goes through on its way to a terminal.
    pager: Mutex<Option<Pager>>,
}

impl Output {
    /// Opens the destination before anything runs, so that a wrong path costs no work.
    fn open(asked_by: &str, path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let wrong = |e: io::Error| Failure::Usage(format!("{asked_by} {path:?}: {e}"));
        match Target::of(path).map_err(wrong)? {
            Target::Folder => Err(wrong(io::Error::other("is a directory"))),
            Target::Stream(stream) => Self::stream(&stream).map_err(wrong),
            Target::File(target) => {
                Doubtful::warning(&left_over(&target)).iter().for_each(|warning| warn(warning));
                let (staged, file) = Staged::create(&target).map_err(wrong)?;
                Ok(Self { file: Some(Mutex::new(file)), staged: Some(staged), ..Self::default() })
            }
        }
    }

    /// `/dev/null`, a named pipe: there is nothing to rename.
    fn stream(path: &Path) -> io::Result<Self> {
        // A file behind a descriptor has an end that is not ours to guess, except that of our own standard output.
        if !fs::metadata(path)?.is_file() {
            let file = OpenOptions::new().write(true).open(path)?;
            return Ok(Self { file: Some(Mutex::new(file)), ..Self::default() });
        }
        match is_standard_output(path) {
            true => Ok(Self::default()),
            false => Err(io::Error::other("is a file that is open already: name the file, or /dev/stdout")),
        }
    }

    /// The terminal that results are shown on, if they are.
    pub(crate) fn screen(&self, view: View) -> Option<Screen> {
        self.file.is_none().then(|| Screen::of(view)).flatten()
    }

    /// Writes all of `bytes`.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        match &self.file {
            Some(file) => file.lock().write_all(bytes)?,
            None => match self.pager.lock().as_mut() {
                Some(pager) => print(&pager.take(bytes)?)?,
                None => print(bytes)?,
            },
        }
        Ok(())
    }

    /// From here on results that are longer than the screen go to a pager, until the end of the page.
    pub(crate) fn begin_page(&self, view: View) {
        *self.pager.lock() = self.screen(view).map(|screen| Pager::new(screen.height));
    }

    /// What was held back for a pager is shown now: nobody wants to wait longer.
    pub(crate) fn stop_holding(&self) -> Result<(), Failure> {
        match self.pager.lock().as_mut() {
            Some(pager) => Ok(print(&pager.stop_holding())?),
            None => Ok(()),
        }
    }

    /// Waits until a pager is closed; what was too short for one is shown.
    pub(crate) fn end_page(&self) -> Result<(), Failure> {
        self.stop_holding()?;
        let pager = self.pager.lock().take();
        pager.into_iter().for_each(Pager::end);
        Ok(())
    }

    /// Is the terminal a pager's?
    pub(crate) fn is_paging(&self) -> bool {
        self.pager.lock().as_ref().is_some_and(Pager::is_paging)
    }

    /// All results are written: gives the file its name.
    fn finish(&self) -> Result<(), Failure> {
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

/// The destinations that are not complete, for whoever ends the program.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unfinished(Arc<Mutex<Vec<Arc<Output>>>>);

impl Unfinished {
    /// Opens a destination that is one of them until it is finished; an error names the flag or command that asked for it.
    pub(crate) fn open(&self, asked_by: &str, path: Option<&Path>) -> Result<Arc<Output>, Failure> {
        let output = Arc::new(Output::open(asked_by, path)?);
        self.0.lock().push(output.clone());
        Ok(output)
    }

    /// All results are written to this one, or it is removed.
    pub(crate) fn finish(&self, output: &Arc<Output>, results: Result<(), Failure>) -> Result<(), Failure> {
        let result = results.and_then(|()| output.finish());
        if result.is_err() {
            output.discard();
        }
        self.0.lock().retain(|other| !Arc::ptr_eq(other, output));
        result
    }

    /// Something failed: removes what was written to all of them.
    pub(crate) fn discard(&self) {
        self.0.lock().drain(..).for_each(|output| output.discard());
    }
}

/// To standard output, at once.
fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Whether a path of a descriptor is that of our standard output.
fn is_standard_output(path: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    path.file_name().is_some_and(|name| name == "1") && folder(path) == folder(Path::new("/dev/fd/1"))
}

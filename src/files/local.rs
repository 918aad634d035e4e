//! Local files of a statement: written beside their targets, and renamed when they are whole.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::object_store::{Error, MultipartUpload, PutMode, PutPayload, PutResult, Result, UploadPart};
use parking_lot::Mutex;

use super::staged::{Staged, kin, left_over};
use super::target::{Target, shown};
use super::writes::{Begun, Ledger, Unfinished, Writes, ended};

/// How often a folder may vanish between its making and the making of a file in it.
const MOST_TRIES: usize = 3;

impl Unfinished for Staged {
    fn discard(&self) {
        Staged::discard(self);
    }
}

/// Writes a file at once.
pub(super) async fn put(writes: &Writes, path: PathBuf, payload: PutPayload, mode: PutMode) -> Result<PutResult> {
    let (of, epoch) = (writes.clone(), writes.epoch());
    let put = blocking(move || {
        let open = Open::begin(&of, &path, epoch)?;
        open.write(0, &payload)?;
        open.complete(&mode)
    });
    writes.noted(put.await)
}

/// Begins a file that comes in parts.
pub(super) async fn begin(writes: &Writes, path: PathBuf) -> Result<Box<dyn MultipartUpload>> {
    let (of, epoch) = (writes.clone(), writes.epoch());
    let open = writes.noted(blocking(move || Open::begin(&of, &path, epoch)).await)?;
    Ok(Box::new(Upload { open: Some(Arc::new(open)), offset: 0 }))
}

/// A file under construction. It goes away with this, unless it was completed.
#[derive(Debug)]
struct Open {
    staged: Arc<Staged>,
    file: Mutex<File>,
    begun: Begun,
}

impl Open {
    /// What the file replaces is settled now: behind a symbolic link the file, and not the link.
    fn begin(writes: &Writes, path: &Path, epoch: u64) -> Result<Self> {
        writes.check(epoch)?;
        let target = match Target::of(path) {
            Ok(Target::File(target)) => target,
            Ok(Target::Folder) => return Err(failed(path, "is a folder")),
            Ok(Target::Stream(_)) => return Err(failed(path, "is no file that another could replace")),
            Err(error) => return Err(failed(path, error)),
        };
        writes.sweep(kin(&target), || left_over(&target));
        let (staged, file, begun) =
            writes.enter(epoch, |ledger| create(&target, ledger).map_err(|error| failed(&target, error)))?;
        Ok(Self { staged, file: Mutex::new(file), begun })
    }

    fn write(&self, offset: u64, data: &PutPayload) -> Result<()> {
        let mut file = self.file.lock();
        let written = file.seek(SeekFrom::Start(offset)).and_then(|_| data.iter().try_for_each(|x| file.write_all(x)));
        written.map_err(|error| failed(self.staged.target(), error))
    }

    fn complete(&self, mode: &PutMode) -> Result<PutResult> {
        self.begun.check()?;
        let target = self.staged.target();
        let named = match mode {
            PutMode::Create => self.staged.finish_new(),
            _ => self.staged.finish(),
        };
        named.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Error::AlreadyExists { path: target.display().to_string(), source: Box::new(error) }
            }
            _ => failed(target, error),
        })?;
        self.begun.complete(shown(target));
        Ok(PutResult { e_tag: None, version: None })
    }
}

/// Makes a staged file, and the folders above it that are not there.
fn create(target: &Path, ledger: &mut Ledger) -> io::Result<(Staged, File)> {
    let mut tries = 1;
    loop {
        match Staged::create(target) {
            Err(error) if error.kind() == ErrorKind::NotFound && tries < MOST_TRIES => ledger.make_folders(target)?,
            result => return result,
        }
        tries += 1;
    }
}

/// A file that comes in parts.
#[derive(Debug)]
struct Upload {
    /// Until it is completed or aborted.
    open: Option<Arc<Open>>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let offset = self.offset;
        self.offset += data.content_length() as u64;
        let open = self.open.clone();
        Box::pin(async move {
            let open = open.ok_or_else(ended)?;
            blocking(move || open.begun.writes().noted(open.write(offset, &data))).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let open = self.open.take().ok_or_else(ended)?;
        blocking(move || open.begun.writes().noted(open.complete(&PutMode::Overwrite))).await
    }

    /// Aborting what has ended is no error: who gave up because of one wants to tell that one.
    async fn abort(&mut self) -> Result<()> {
        self.open = None;
        Ok(())
    }
}

fn failed(path: &Path, what: impl Display) -> Error {
    Error::Generic { store: "LocalFileSystem", source: format!("file {path:?}: {what}").into() }
}

/// Work on files, which would hold a thread that other tasks wait for.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

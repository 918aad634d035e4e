//! One file from the hub into the cache.
//!
//! A file is received beside its place, checked against the hash that the hub gives as its etag, and only then renamed to
//! it: whatever is in the cache is whole, also where a process was killed. The hub's own tools lock the same files, so
//! that of many processes one downloads and the others wait for it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, continues};
use super::etag::Etag;
use super::failure::Failure;
use crate::access::{Access, Download, Event};

/// How long to wait for another process that downloads the same file and receives nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// One file on the hub, the folders of the cache that it comes through, and who waits for it.
pub(super) struct Wanted<'a> {
    pub(super) client: &'a Client,
    pub(super) access: &'a Access,
    pub(super) file: &'a str,
    pub(super) url: String,
    pub(super) blobs: PathBuf,
    pub(super) locks: PathBuf,
}

impl Wanted<'_> {
    /// Brings the file into the cache, from where a download before broke off, and gives its blob.
    pub(super) fn fetch(&self) -> Result<PathBuf, Failure> {
        let mut pauses = [300, 600, 1200].map(Duration::from_millis).into_iter();
        let mut damaged = false;
        loop {
            let failure = match self.try_fetch() {
                Ok(blob) => return Ok(blob),
                Err(failure) => failure,
            };
            match failure {
                // Once more from the first byte; a second time would be the same.
                Failure::Damaged { .. } if !damaged => damaged = true,
                Failure::Network(_) | Failure::Status(408 | 429 | 500..) => match pauses.next() {
                    Some(pause) => thread::sleep(pause),
                    None => return Err(failure),
                },
                _ => return Err(failure),
            }
        }
    }

    fn try_fetch(&self) -> Result<PathBuf, Failure> {
        let etag = self.client.etag(&self.url)?;
        fs::create_dir_all(&self.blobs)?;
        fs::create_dir_all(&self.locks)?;
        let blob = self.blobs.join(&etag.name);
        let _lock = lock(&self.locks.join(format!("{}.lock", etag.name)), &blob, PATIENCE)?;
        // Of another process, another commit or another tool: looked at once, when it gets its place in this commit.
        if blob.exists() {
            if etag.mismatch(&blob)?.is_none() {
                return Ok(blob);
            }
            fs::remove_file(&blob)?;
        }
        let part = part(&blob);
        let mut report = Download { file: self.file.to_owned(), received: 0, total: None, done: false };
        self.receive(&etag, &part, &mut report)?;
        if let Some(got) = etag.mismatch(&part)? {
            fs::remove_file(&part)?;
            return Err(Failure::Damaged { expected: etag.name, got });
        }
        fs::rename(part, &blob)?;
        report.done = true;
        self.tell(&report);
        Ok(blob)
    }

    /// Receives what a part file lacks.
    fn receive(&self, etag: &Etag, part: &Path, report: &mut Download) -> Result<(), Failure> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(part)?;
        report.received = file.seek(SeekFrom::End(0))?;
        let response = match self.client.get(&self.url, report.received) {
            // The part has every byte already, or too many: its hash tells.
            Err(Failure::Status(416)) if report.received > 0 && etag.is_hash => return Ok(file.sync_all()?),
            Err(Failure::Status(416)) if report.received > 0 => {
                file.set_len(0)?;
                return Err(Failure::network("the part that is there cannot be continued"));
            }
            answer => answer?,
        };
        if !continues(&response, report.received) {
            file.set_len(0)?;
            report.received = file.seek(SeekFrom::Start(0))?;
        }
        report.total = response.body().content_length().map(|rest| report.received + rest);
        self.tell(report);
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = body.read(&mut buffer).map_err(Failure::network)?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count])?;
            report.received += count as u64;
            self.tell(report);
        }
        // What gets the blob's name is on the disk, also where the power goes off.
        Ok(file.sync_all()?)
    }

    fn tell(&self, report: &Download) {
        self.access.tell(&Event::Download(report.clone()));
    }
}

/// Where a blob is received.
fn part(blob: &Path) -> PathBuf {
    blob.with_extension("download")
}

/// Takes the lock of a blob, and waits as long as whoever has it goes on.
///
/// The system releases the lock of a process that ends, however it ends.
fn lock(path: &Path, blob: &Path, patience: Duration) -> Result<File, Failure> {
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
    let mut seen = 0;
    let mut since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A file system without locks: the hash still tells what came out wrong.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) if since.elapsed() >= patience => return Err(Failure::Held(patience)),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(100)),
        }
        // This crate's part, and that of the hub's Python tools.
        let now = size(&part(blob)) + size(&blob.with_extension("incomplete"));
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

/// Bytes of a file, 0 where there is none.
fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_another_process_ends_when_it_does_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, blob) = (directory.path().join("lock"), directory.path().join("blob"));
        let patience = Duration::from_secs(1);
        let held = lock(&path, &blob, patience).expect("free");
        // As long as bytes come, the wait goes on past the patience.
        let begun = Instant::now();
        let part = part(&blob);
        let grow = thread::spawn(move || {
            for length in 1..=15 {
                fs::write(&part, vec![0; length]).expect("written");
                thread::sleep(Duration::from_millis(100));
            }
        });
        assert!(matches!(lock(&path, &blob, patience), Err(Failure::Held(_))));
        assert!(begun.elapsed() >= 2 * patience, "{:?}", begun.elapsed());
        grow.join().expect("no panic");
        drop(held);
        assert!(lock(&path, &blob, patience).is_ok());
    }
}

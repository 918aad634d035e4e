//! Local files that get their name only when they are whole, and only as long as their statement runs.
//!
//! When a statement is stopped, DataFusion's tasks end in any order: a writer may see the end of its input, because the task
//! that fed it is gone already, and complete a file that lacks the rest (55.2). Here a file that was begun before a stop
//! cannot be completed after it.
//!
//! What a statement makes is known by its path, and nothing else is ever removed: object_store's own staging names
//! (`vectors.parquet#1`) could as well be a user's, and a listing of a folder does not say whose a file is.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::future::ready;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::staged::{Doubtful, Kin, Place, Staged, is_staged, kin, left_over, place};

/// How often a folder may vanish between its making and the making of a file in it.
const MOST_TRIES: usize = 3;

/// The local file system, see the head of this file. Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct WholeFiles {
    local: LocalFileSystem,
    written: Arc<Written>,
}

/// What statements write.
#[derive(Debug, Default)]
struct Written {
    /// Jobs that began and that were stopped: odd from a stop to the next beginning.
    epoch: AtomicU64,
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    /// Files under construction, of whatever statement.
    staged: BTreeSet<PathBuf>,
    // Of the statement that runs, or ran last:
    completed: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    swept: BTreeSet<Kin>,
    doubtful: Vec<Doubtful>,
    trouble: Option<String>,
}

impl WholeFiles {
    /// A job begins.
    pub(crate) fn begin(&self) {
        let epoch = &self.written.epoch;
        epoch.fetch_add(epoch.load(Ordering::SeqCst) % 2, Ordering::SeqCst);
    }

    /// A statement of the job begins.
    pub(crate) fn next_statement(&self) {
        let mut ledger = self.written.ledger();
        let staged = std::mem::take(&mut ledger.staged);
        *ledger = Ledger { staged, ..Ledger::default() };
    }

    /// What runs is stopped: call before anything of it is dropped.
    pub(crate) fn stop(&self) {
        let epoch = &self.written.epoch;
        epoch.fetch_add(1 + epoch.load(Ordering::SeqCst) % 2, Ordering::SeqCst);
    }

    /// Stops, and removes what is unfinished: files, and folders that were made for them and are empty. Nobody need be there
    /// to do it later: a thread may still be inside the model when the program ends.
    pub(crate) fn discard(&self) {
        self.stop();
        let mut ledger = self.written.ledger();
        for file in std::mem::take(&mut ledger.staged) {
            let _ = fs::remove_file(file);
        }
        while let Some(folder) = ledger.folders.pop() {
            // Fails where there is something in it, as it should.
            let _ = fs::remove_dir(folder);
        }
    }

    /// The files that the last statement has completed.
    pub(crate) fn completed(&self) -> Vec<PathBuf> {
        self.written.ledger().completed.clone()
    }

    /// What went wrong first when the last statement wrote a file: DataFusion may only say that something did.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.written.ledger().trouble.clone()
    }

    /// The unfinished files of other runs that the last statement found and left alone.
    pub(crate) fn take_doubtful(&self) -> Vec<Doubtful> {
        std::mem::take(&mut self.written.ledger().doubtful)
    }
}

impl Written {
    /// Held for moments only, never while a file is written.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error unless the statement of this epoch runs still.
    fn check(&self, epoch: u64) -> Result<()> {
        if epoch.is_multiple_of(2) && epoch == self.epoch.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(generic("the statement was stopped"))
    }

    /// Remembers what went wrong.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Generic { source, .. }) = &result {
            self.ledger().trouble.get_or_insert_with(|| source.to_string());
        }
        result
    }

    /// Begins a file. What it replaces is settled now: behind a symbolic link the file, and not the link.
    fn open(self: Arc<Self>, path: &FilePath, epoch: u64) -> Result<Open> {
        self.check(epoch)?;
        let target = match place(path) {
            Ok(Place::File(target)) => target,
            Ok(Place::Folder) => return Err(failed(path, "is a folder")),
            Ok(Place::Stream(_)) => return Err(failed(path, "is no file that another could replace")),
            Err(error) => return Err(failed(path, error)),
        };
        self.sweep(&target);
        let (staged, file) = {
            let mut ledger = self.ledger();
            // Under the lock: whoever stops the statement afterwards finds the file in the ledger.
            self.check(epoch)?;
            ledger.create(&target).map_err(|error| failed(&target, error))?
        };
        Ok(Open { staged, file: Mutex::new(file), epoch, written: self })
    }

    /// Removes what killed runs have left, once per statement and folder.
    fn sweep(&self, target: &FilePath) {
        if self.ledger().swept.insert(kin(target)) {
            let doubtful = left_over(target);
            self.ledger().doubtful.extend(doubtful);
        }
    }
}

impl Ledger {
    /// Begins a file, and remembers it.
    fn create(&mut self, target: &FilePath) -> io::Result<(Staged, File)> {
        let mut tries = 1;
        let (staged, file) = loop {
            match Staged::create(target) {
                Err(error) if error.kind() == ErrorKind::NotFound && tries < MOST_TRIES => self.make_folders(target)?,
                result => break result?,
            }
            tries += 1;
        };
        self.staged.insert(staged.path().to_owned());
        Ok((staged, file))
    }

    /// Makes the folders above a file that are not there, and remembers which.
    fn make_folders(&mut self, file: &FilePath) -> io::Result<()> {
        let missing: Vec<_> = file.ancestors().skip(1).take_while(|folder| !folder.is_dir()).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => self.folders.push(folder.to_owned()),
                // Another process was faster.
                Err(_) if folder.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A file of a statement under construction. It goes away with this, unless it was completed.
#[derive(Debug)]
struct Open {
    staged: Staged,
    file: Mutex<File>,
    epoch: u64,
    written: Arc<Written>,
}

impl Open {
    fn write(&self, offset: u64, data: &PutPayload) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.seek(SeekFrom::Start(offset)).and_then(|_| data.iter().try_for_each(|x| file.write_all(x)));
        written.map_err(|error| failed(self.staged.target(), error))
    }

    fn complete(&self, mode: &PutMode) -> Result<PutResult> {
        self.written.check(self.epoch)?;
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
        let mut ledger = self.written.ledger();
        ledger.staged.remove(self.staged.path());
        ledger.completed.push(target.to_owned());
        Ok(PutResult { e_tag: None, version: None })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.written.ledger().staged.remove(self.staged.path()) {
            self.staged.discard();
        }
    }
}

impl Display for WholeFiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.local.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for WholeFiles {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) || !options.attributes.is_empty() {
            // It refuses these.
            return self.local.put_opts(location, payload, options).await;
        }
        let path = self.local.path_to_filesystem(location)?;
        let (written, epoch) = (Arc::clone(&self.written), self.written.epoch.load(Ordering::SeqCst));
        let put = blocking(move || {
            let open = written.open(&path, epoch)?;
            open.write(0, &payload)?;
            open.complete(&options.mode)
        });
        self.written.noted(put.await)
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        if !options.attributes.is_empty() {
            // It refuses these.
            return self.local.put_multipart_opts(to, options).await;
        }
        let path = self.local.path_to_filesystem(to)?;
        let (written, epoch) = (Arc::clone(&self.written), self.written.epoch.load(Ordering::SeqCst));
        let open = self.written.noted(blocking(move || written.open(&path, epoch)).await)?;
        Ok(Box::new(Upload { open: Some(Arc::new(open)), offset: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.local.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.local.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|location| location.and_then(|_| Err(refused("delete")))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.local.list(prefix).try_filter(|file| ready(is_whole(file))).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.local.list_with_offset(prefix, offset).try_filter(|file| ready(is_whole(file))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.local.list_with_delimiter(prefix).await?;
        found.objects.retain(is_whole);
        Ok(found)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(refused("copy"))
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(refused("rename"))
    }
}

/// No statement deletes, copies or renames files. One that did would have to say which files are its own.
fn refused(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "WholeFiles".to_owned() }
}

fn is_whole(file: &ObjectMeta) -> bool {
    !file.location.filename().is_some_and(is_staged)
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "LocalFileSystem", source: source.into() }
}

fn failed(path: &FilePath, what: impl Display) -> Error {
    generic(format!("file {path:?}: {what}"))
}

/// Work on files, which would hold a thread that other tasks wait for.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// An upload of a statement.
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
            blocking(move || open.written.noted(open.write(offset, &data))).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let open = self.open.take().ok_or_else(ended)?;
        blocking(move || open.written.noted(open.complete(&PutMode::Overwrite))).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.open.take().map(drop).ok_or_else(ended)
    }
}

fn ended() -> Error {
    generic("the upload has ended already")
}

#[cfg(test)]
mod tests {
    use datafusion::object_store::ObjectStoreExt;
    use tempfile::TempDir;

    use super::*;

    fn at(folder: &TempDir, name: &str) -> Path {
        Path::from_absolute_path(folder.path().join(name)).expect("a path")
    }

    fn names(folder: &FilePath) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// An upload with a part.
    async fn begun(store: &WholeFiles, path: &Path) -> Box<dyn MultipartUpload> {
        let mut upload = store.put_multipart(path).await.expect("an upload");
        upload.put_part("some rows".into()).await.expect("a part");
        upload
    }

    #[tokio::test]
    async fn what_was_begun_before_a_stop_gets_no_name_after_it() {
        let folder = TempDir::new().expect("a folder");
        let store = WholeFiles::default();
        store.begin();
        begun(&store, &at(&folder, "whole")).await.complete().await.expect("whole");
        let mut first = begun(&store, &at(&folder, "first")).await;
        let mut second = begun(&store, &at(&folder, "second")).await;
        store.stop();
        first.complete().await.expect_err("stopped");
        store.put(&at(&folder, "small"), "rows".into()).await.expect_err("stopped");
        store.put_multipart(&at(&folder, "large")).await.expect_err("stopped");
        store.begin();
        second.complete().await.expect_err("of a statement before");
        begun(&store, &at(&folder, "next")).await.complete().await.expect("whole");
        store.put(&at(&folder, "small"), "rows".into()).await.expect("whole");
        assert_eq!(names(folder.path()), ["next", "small", "whole"]);
    }

    #[tokio::test]
    async fn what_is_unfinished_is_removed_by_its_path() {
        let folder = TempDir::new().expect("a folder");
        let store = WholeFiles::default();
        store.begin();
        let dropped = begun(&store, &at(&folder, "dropped")).await;
        begun(&store, &at(&folder, "aborted")).await.abort().await.expect("aborted");
        let _kept = begun(&store, &at(&folder, "a/b/kept")).await;
        let beside = begun(&WholeFiles::default(), &at(&folder, "a/b/kept")).await;
        assert_eq!(names(folder.path()).len(), 2);
        drop(dropped);
        assert_eq!(names(folder.path()), ["a"]);
        store.discard();
        // Another program's stays, and so does the folder.
        assert_eq!(names(&folder.path().join("a/b")).len(), 1);
        drop(beside);
        let _deep = begun(&store_of_now(&store), &at(&folder, "a/c/d/deep")).await;
        store.discard();
        assert_eq!(names(&folder.path().join("a")), ["b"]);
    }

    /// The same store in a new statement.
    fn store_of_now(store: &WholeFiles) -> WholeFiles {
        store.begin();
        store.next_statement();
        store.clone()
    }

    #[tokio::test]
    async fn parts_are_where_they_belong_and_unfinished_files_are_not_listed() {
        let folder = TempDir::new().expect("a folder");
        let store = WholeFiles::default();
        let mut upload = store.put_multipart(&at(&folder, "x")).await.expect("an upload");
        let (first, second) = (upload.put_part("one ".into()), upload.put_part("two".into()));
        second.await.expect("written");
        first.await.expect("written");
        let listed = async || {
            let folder = at(&folder, "");
            let all: Vec<_> = store.list(Some(&folder)).try_collect().await.expect("a list");
            let level = store.list_with_delimiter(Some(&folder)).await.expect("a list").objects;
            let after = store.list_with_offset(Some(&folder), &folder).try_collect::<Vec<_>>().await.expect("a list");
            [all.len(), level.len(), after.len()]
        };
        assert_eq!(listed().await, [0; 3]);
        upload.complete().await.expect("whole");
        upload.complete().await.expect_err("twice");
        upload.put_part("three".into()).await.expect_err("too late");
        assert_eq!(listed().await, [1; 3]);
        assert_eq!(fs::read_to_string(folder.path().join("x")).expect("readable"), "one two");
        assert_eq!(store.completed(), [folder.path().join("x")]);
    }

    #[tokio::test]
    async fn modes_are_those_of_the_local_file_system() {
        let folder = TempDir::new().expect("a folder");
        let store = WholeFiles::default();
        let path = at(&folder, "x");
        let put = async |text: &'static str, mode: PutMode| store.put_opts(&path, text.into(), mode.into()).await;
        put("new", PutMode::Create).await.expect("nothing there");
        assert!(matches!(put("second", PutMode::Create).await, Err(Error::AlreadyExists { .. })));
        let version = datafusion::object_store::UpdateVersion { e_tag: None, version: None };
        assert!(matches!(put("third", PutMode::Update(version)).await, Err(Error::NotImplemented { .. })));
        assert_eq!(fs::read_to_string(folder.path().join("x")).expect("readable"), "new");
        put("fourth", PutMode::Overwrite).await.expect("replaced");
        store.delete(&path).await.expect_err("nothing is deleted");
        store.rename(&path, &at(&folder, "y")).await.expect_err("nothing is renamed");
        store.copy(&path, &at(&folder, "y")).await.expect_err("nothing is copied");
        assert_eq!(names(folder.path()), ["x"]);
        assert_eq!(fs::read_to_string(folder.path().join("x")).expect("readable"), "fourth");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_keeps_its_rights_and_a_link_stays() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = TempDir::new().expect("a folder");
        let store = WholeFiles::default();
        let file = folder.path().join("file");
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
        symlink("file", folder.path().join("link")).expect("a link");
        store.put(&at(&folder, "link"), "new".into()).await.expect("written");
        assert!(folder.path().join("link").is_symlink());
        assert_eq!(fs::read_to_string(&file).expect("readable"), "new");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        fs::create_dir(folder.path().join("folder")).expect("made");
        store.put(&at(&folder, "folder"), "new".into()).await.expect_err("a folder");
        assert!(store.trouble().is_some_and(|trouble| trouble.ends_with("folder\": is a folder")));
        assert_eq!(names(folder.path()), ["file", "folder", "link"]);
    }
}

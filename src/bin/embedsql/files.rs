//! Local files that get their name only as long as their statement runs.
//!
//! When a statement is stopped, DataFusion's tasks end in any order: a writer may see the end of its input, because the task
//! that fed it is gone already, and complete a file that lacks the rest (55.2). Here a file that was begun before a stop
//! cannot be completed after it, and its staging file goes away with it.

use std::fmt::{self, Display, Formatter};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use futures::stream::BoxStream;

/// Statements that began and that were stopped: odd from a stop to the next beginning.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// A statement begins.
pub(crate) fn begin() {
    EPOCH.fetch_add(EPOCH.load(Ordering::SeqCst) % 2, Ordering::SeqCst);
}

/// What runs is stopped: call before anything of it is dropped.
pub(crate) fn stop() {
    EPOCH.fetch_add(1 + EPOCH.load(Ordering::SeqCst) % 2, Ordering::SeqCst);
}

/// An error unless the statement of this epoch runs still.
fn check(epoch: u64) -> Result<()> {
    if epoch.is_multiple_of(2) && epoch == EPOCH.load(Ordering::SeqCst) {
        return Ok(());
    }
    Err(Error::Generic { store: "LocalFileSystem", source: "the statement was stopped".into() })
}

/// The local file system, see the head of this file.
#[derive(Debug, Default)]
pub(crate) struct WholeFiles(LocalFileSystem);

impl Display for WholeFiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for WholeFiles {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        check(EPOCH.load(Ordering::SeqCst))?;
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let epoch = EPOCH.load(Ordering::SeqCst);
        let upload = self.0.put_multipart_opts(to, options).await?;
        Ok(Box::new(WholeUpload { upload, epoch }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

/// An upload of a statement.
#[derive(Debug)]
struct WholeUpload {
    upload: Box<dyn MultipartUpload>,
    epoch: u64,
}

#[async_trait]
impl MultipartUpload for WholeUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        check(self.epoch)?;
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use datafusion::object_store::ObjectStoreExt;

    use super::*;

    /// One test for all, because the epoch is the program's.
    #[tokio::test]
    async fn what_was_begun_before_a_stop_gets_no_name_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| Path::from_absolute_path(folder.path().join(name)).expect("a path");
        let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let store = WholeFiles::default();
        let upload = async |name: &str| {
            let mut upload = store.put_multipart(&path(name)).await.expect("an upload");
            upload.put_part("some rows".into()).await.expect("a part");
            upload
        };
        begin();
        upload("whole").await.complete().await.expect("whole");
        let (mut first, mut second) = (upload("first").await, upload("second").await);
        stop();
        first.complete().await.expect_err("stopped");
        store.put(&path("small"), "rows".into()).await.expect_err("stopped");
        begin();
        second.complete().await.expect_err("of a statement before");
        upload("next").await.complete().await.expect("whole");
        store.put(&path("small"), "rows".into()).await.expect("whole");
        drop((first, second));
        // Staging files are removed by other threads.
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            if files() == 3 {
                return;
            }
        }
        panic!("{} files", files());
    }
}

//! Objects of other stores: a store shows none before it is whole, and forgets the parts of an upload when it is told to.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::writes::{Begun, Unfinished, Writes, ended};

/// An object of a store that a statement writes.
pub(super) struct Object<'a> {
    pub(super) store: &'a Arc<dyn ObjectStore>,
    pub(super) location: &'a Path,
    /// As people know it.
    pub(super) name: String,
}

impl Object<'_> {
    /// Writes the object at once. One that is under way when its statement is stopped may still come to its end: it is whole.
    pub(super) async fn put(self, writes: &Writes, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        writes.check(writes.epoch())?;
        let put = writes.noted(self.store.put_opts(self.location, payload, options).await)?;
        writes.add_completed(self.name);
        Ok(put)
    }

    /// Begins an object that comes in parts.
    pub(super) async fn begin(self, writes: &Writes, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let epoch = writes.epoch();
        writes.check(epoch)?;
        let pending = writes.noted(self.begun(writes, options).await)?;
        let (slot, (), begun) = writes.enter(epoch, |_| Ok((Slot(Mutex::new(Some(pending))), ())))?;
        Ok(Box::new(Upload { slot, begun, name: self.name }))
    }

    /// Begins it on a task of its own: who waits may be stopped meanwhile, and nobody would know of it. Where nobody takes it, it is
    /// aborted.
    async fn begun(&self, writes: &Writes, options: PutMultipartOptions) -> Result<Pending> {
        let (store, location, of) = (Arc::clone(self.store), self.location.clone(), writes.clone());
        let (hand, taken) = oneshot::channel();
        let begin = async move {
            let upload = store.put_multipart_opts(&location, options).await;
            let pending = upload.map(|upload| Pending { upload: Some(upload), runtime: Handle::current(), writes: of });
            drop(hand.send(pending));
        };
        writes.add_abort(Handle::current().spawn(begin));
        taken.await.map_err(|_| ended())?
    }
}

/// An upload that has not ended: where this is dropped, its store is told to forget it.
#[derive(Debug)]
struct Pending {
    /// Until it has ended.
    upload: Option<Box<dyn MultipartUpload>>,
    runtime: Handle,
    writes: Writes,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(mut upload) = self.upload.take() {
            let abort = async move {
                if let Err(error) = upload.abort().await {
                    log::warn!("an unfinished upload could not be aborted: {error}");
                }
            };
            self.writes.add_abort(self.runtime.spawn(abort));
        }
    }
}

/// Where an upload is found by whoever ends it first.
#[derive(Debug)]
struct Slot(Mutex<Option<Pending>>);

impl Slot {
    fn take(&self) -> Option<Pending> {
        self.0.lock().take()
    }
}

impl Unfinished for Slot {
    fn discard(&self) {
        drop(self.take());
    }
}

/// An object that comes in parts.
#[derive(Debug)]
struct Upload {
    slot: Arc<Slot>,
    begun: Begun,
    name: String,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut pending = self.slot.0.lock();
        let part = pending.as_mut().and_then(|pending| pending.upload.as_mut()).map(|upload| upload.put_part(data));
        let writes = self.begun.writes().clone();
        Box::pin(async move { writes.noted(part.ok_or_else(ended)?.await) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.begun.check()?;
        let mut pending = self.slot.take().ok_or_else(ended)?;
        let upload = pending.upload.as_mut().ok_or_else(ended)?;
        let completed = self.begun.writes().noted(upload.complete().await)?;
        pending.upload = None;
        self.begun.complete(self.name.clone());
        Ok(completed)
    }

    /// Aborting what has ended is no error: who gave up because of one wants to tell that one.
    async fn abort(&mut self) -> Result<()> {
        let upload = self.slot.take().and_then(|mut pending| pending.upload.take());
        match upload {
            Some(mut upload) => upload.abort().await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::object_store::memory::InMemory;
    use datafusion::object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, ObjectMeta, ObjectStoreExt, RenameOptions,
    };
    use futures::TryStreamExt;
    use futures::stream::BoxStream;

    use super::*;
    use crate::files::Whole;

    /// A store in memory that remembers which uploads it was told to forget, and fails to complete those named `broken`.
    #[derive(Debug, Default, Clone)]
    struct Remote {
        objects: Arc<InMemory>,
        aborted: Arc<Mutex<Vec<String>>>,
    }

    #[derive(Debug)]
    struct RemoteUpload {
        inside: Box<dyn MultipartUpload>,
        location: String,
        aborted: Arc<Mutex<Vec<String>>>,
    }

    #[async_trait]
    impl MultipartUpload for RemoteUpload {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            self.inside.put_part(data)
        }

        async fn complete(&mut self) -> Result<PutResult> {
            match self.location.as_str() {
                "broken" => Err(ended()),
                _ => self.inside.complete().await,
            }
        }

        async fn abort(&mut self) -> Result<()> {
            // As a request takes a moment.
            tokio::task::yield_now().await;
            self.aborted.lock().push(self.location.clone());
            Ok(())
        }
    }

    impl std::fmt::Display for Remote {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.objects.fmt(f)
        }
    }

    #[async_trait]
    impl ObjectStore for Remote {
        async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.objects.put_opts(location, payload, options).await
        }

        async fn put_multipart_opts(
            &self,
            location: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            let inside = self.objects.put_multipart_opts(location, options).await?;
            let aborted = Arc::clone(&self.aborted);
            Ok(Box::new(RemoteUpload { inside, location: location.to_string(), aborted }))
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.objects.get_opts(location, options).await
        }

        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.objects.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.objects.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.objects.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.objects.copy_opts(from, to, options).await
        }

        async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
            self.objects.rename_opts(from, to, options).await
        }
    }

    fn whole(remote: &Remote, writes: &Writes) -> Whole {
        let url = ObjectStoreUrl::parse("s3://bucket").expect("a URL");
        Whole::over(Arc::new(remote.clone()), &url, writes)
    }

    /// An upload with a part.
    async fn begun(store: &Whole, name: &str) -> Box<dyn MultipartUpload> {
        let mut upload = store.put_multipart(&Path::from(name)).await.expect("an upload");
        upload.put_part("some rows".into()).await.expect("a part");
        upload
    }

    async fn names(remote: &Remote) -> Vec<String> {
        let mut found: Vec<ObjectMeta> = remote.objects.list(None).try_collect().await.expect("a list");
        found.sort_by(|a, b| a.location.cmp(&b.location));
        found.into_iter().map(|object| object.location.to_string()).collect()
    }

    fn aborted(remote: &Remote) -> Vec<String> {
        let mut aborted = remote.aborted.lock().clone();
        aborted.sort();
        aborted
    }

    #[tokio::test]
    async fn an_upload_is_completed_or_aborted() {
        let (remote, writes) = (Remote::default(), Writes::default());
        let store = whole(&remote, &writes);
        let mut upload = begun(&store, "whole").await;
        upload.complete().await.expect("whole");
        upload.complete().await.expect_err("twice");
        upload.put_part("more".into()).await.expect_err("too late");
        store.put(&Path::from("small"), "rows".into()).await.expect("whole");
        drop(begun(&store, "dropped").await);
        begun(&store, "given up").await.abort().await.expect("aborted");
        let mut broken = begun(&store, "broken").await;
        broken.complete().await.expect_err("broken");
        broken.abort().await.expect("it was aborted already");
        writes.settle().await;
        assert_eq!(names(&remote).await, ["small", "whole"]);
        assert_eq!(aborted(&remote), ["broken", "dropped", "given up"]);
        assert_eq!(writes.completed(), ["s3://bucket/whole", "s3://bucket/small"]);
        assert_eq!(writes.trouble().as_deref(), Some("the upload has ended already"));
    }

    #[tokio::test]
    async fn what_was_begun_before_a_stop_is_aborted() {
        let (remote, writes) = (Remote::default(), Writes::default());
        let store = whole(&remote, &writes);
        writes.begin();
        let mut seen = begun(&store, "sees the end").await;
        let mut later = begun(&store, "wakes up later").await;
        // Held by a thread that is inside the model.
        let mut held = begun(&store, "held").await;
        writes.stop();
        seen.complete().await.expect_err("stopped");
        drop(seen);
        store.put(&Path::from("small"), "rows".into()).await.expect_err("stopped");
        store.put_multipart(&Path::from("large")).await.expect_err("stopped");
        writes.begin();
        later.complete().await.expect_err("of a statement before");
        begun(&store, "next").await.complete().await.expect("whole");
        writes.discard();
        writes.settle().await;
        held.put_part("more".into()).await.expect_err("discarded");
        held.complete().await.expect_err("discarded");
        assert_eq!(names(&remote).await, ["next"]);
        assert_eq!(aborted(&remote), ["held", "sees the end", "wakes up later"]);
    }

    #[tokio::test]
    async fn nothing_of_a_store_is_deleted() {
        let (remote, writes) = (Remote::default(), Writes::default());
        remote.objects.put(&Path::from("mine"), "precious".into()).await.expect("whole");
        let store = whole(&remote, &writes);
        store.delete(&Path::from("mine")).await.expect_err("nothing is deleted");
        store.rename(&Path::from("mine"), &Path::from("yours")).await.expect_err("nothing is renamed");
        drop(begun(&store, "mine").await);
        writes.discard();
        writes.settle().await;
        let found = store.get(&Path::from("mine")).await.expect("there").bytes().await.expect("readable");
        assert_eq!(found.as_ref(), b"precious");
    }
}

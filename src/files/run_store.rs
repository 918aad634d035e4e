//! The store that the sink of a run writes to: files get the names of the run, and are remembered.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};
use futures::stream::BoxStream;
use url::Url;

use super::marks::RunId;
use super::run::Record;
use super::writes::ended;

/// The same, but all files are in this store.
pub(super) fn with_store(context: &TaskContext, store: RunStore) -> Arc<TaskContext> {
    let mut runtime: RuntimeEnv = context.runtime_env().as_ref().clone();
    runtime.object_store_registry = Arc::new(OneStore(Arc::new(store)));
    let config = context.session_config().clone();
    Arc::new(TaskContext::default().with_session_config(config).with_runtime(Arc::new(runtime)))
}

#[derive(Debug)]
struct OneStore(Arc<RunStore>);

impl ObjectStoreRegistry for OneStore {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, _: &Url) -> Result<Arc<dyn ObjectStore>> {
        Ok(Arc::clone(&self.0) as Arc<dyn ObjectStore>)
    }
}

/// What the files of a run are called.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) run: RunId,
    /// Which part of the run writes them, where there are several.
    pub(super) part: Option<u64>,
    pub(super) rename: Option<(String, String)>,
}

impl Names {
    /// What DataFusion's name becomes.
    fn location(&self, location: &Path) -> Path {
        let name = location.filename().and_then(|name| self.run.name(name, self.part));
        let Some(name) = name else { return location.clone() };
        let name = match &self.rename {
            Some((from, to)) => name.replacen(&format!(".{from}"), &format!(".{to}"), 1),
            None => name,
        };
        super::marks::parent(location).join(name)
    }
}

/// A store that gives the files which it writes the names of a run, and remembers them.
#[derive(Debug)]
pub(super) struct RunStore {
    pub(super) inside: Arc<dyn ObjectStore>,
    pub(super) names: Names,
    pub(super) files: Arc<dyn Record>,
}

impl Display for RunStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.inside.fmt(f)
    }
}

type StoreResult<T> = datafusion::object_store::Result<T>;

/// Completes a file. On a task of its own: who waits for it may be stopped, and then nobody would know whether the file is there.
async fn completed<T: Send + 'static>(
    files: &Arc<dyn Record>,
    location: Path,
    completing: impl Future<Output = StoreResult<T>> + Send + 'static,
) -> StoreResult<T> {
    files.enter(location.clone())?;
    let files = Arc::clone(files);
    tokio::spawn(async move {
        let result = completing.await;
        files.leave(location, result.is_ok());
        result
    })
    .await?
}

#[async_trait]
impl ObjectStore for RunStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        let (inside, location) = (Arc::clone(&self.inside), self.names.location(location));
        let put = {
            let location = location.clone();
            async move { inside.put_opts(&location, payload, options).await }
        };
        completed(&self.files, location, put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let location = self.names.location(location);
        let upload = self.inside.put_multipart_opts(&location, options).await?;
        Ok(Box::new(RunUpload { upload: Some(upload), location, files: Arc::clone(&self.files) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.inside.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.inside.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inside.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inside.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inside.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> StoreResult<()> {
        self.inside.rename_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct RunUpload {
    /// Until it is completed or aborted.
    upload: Option<Box<dyn MultipartUpload>>,
    location: Path,
    files: Arc<dyn Record>,
}

#[async_trait]
impl MultipartUpload for RunUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.upload.as_mut() {
            Some(upload) => upload.put_part(data),
            None => Box::pin(async { Err(ended()) }),
        }
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let mut upload = self.upload.take().ok_or_else(ended)?;
        completed(&self.files, self.location.clone(), async move { upload.complete().await }).await
    }

    async fn abort(&mut self) -> StoreResult<()> {
        match self.upload.take() {
            Some(mut upload) => upload.abort().await,
            None => Ok(()),
        }
    }
}

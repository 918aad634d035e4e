//! The sink of a statement that writes into a folder: one run, whose files have its id, around DataFusion's own sink.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use futures::stream::BoxStream;
use url::Url;

use super::below::Below;
use super::marks::RunId;
use super::partitions::named_partitions;
use super::run::{Folder, Run, RunFiles, Work};
use super::writes::{Writes, ended};

/// A folder that a statement writes into.
#[derive(Debug, Clone)]
pub(super) struct Export {
    pub(super) url: ListingTableUrl,
    pub(super) work: Work,
    pub(super) partition_by: Vec<String>,
    /// Whether files keep the columns that their folders are named by; the setting decides where the statement does not.
    pub(super) keeps_partitions: Option<bool>,
    /// How names of data end there.
    pub(super) endings: Vec<String>,
    /// How DataFusion ends a name, and how it is to end.
    pub(super) rename: Option<(&'static str, &'static str)>,
}

/// Puts the sink of a plan, which has one, into a run.
pub(super) fn with_run(
    plan: Arc<dyn ExecutionPlan>,
    export: &Export,
    writes: &Writes,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let Some(exec) = node.downcast_ref::<DataSinkExec>() else { return Ok(Transformed::no(node)) };
        let schema = with_nulls(exec.sink().schema(), &export.partition_by);
        let sink = ExportSink { exec: exec.clone(), schema, export: export.clone(), writes: writes.clone() };
        let exec = DataSinkExec::new(Arc::clone(exec.input()), Arc::new(sink), exec.sort_order().clone());
        Ok(Transformed::yes(Arc::new(exec) as Arc<dyn ExecutionPlan>))
    })
    .data()
}

/// DataFusion (55.2) says of a table that it has no NULL in its partition columns, and would refuse one before it is written.
fn with_nulls(schema: &Schema, partition_by: &[String]) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let is_nullable = field.is_nullable() || partition_by.contains(field.name());
        field.as_ref().clone().with_nullable(is_nullable)
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

#[derive(Debug)]
struct ExportSink {
    /// The sink inside; it is kept with its node because the node lends it only.
    exec: DataSinkExec,
    schema: SchemaRef,
    export: Export,
    writes: Writes,
}

#[async_trait]
impl DataSink for ExportSink {
    fn metrics(&self) -> Option<MetricsSet> {
        self.exec.sink().metrics()
    }

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(&self, data: SendableRecordBatchStream, context: &Arc<TaskContext>) -> Result<u64> {
        let Export { url, work, partition_by, keeps_partitions, endings, rename } = &self.export;
        let execution = &context.session_config().options().execution;
        let runtime = context.runtime_env();
        let address = url.object_store();
        let inside = runtime.object_store(&address)?;
        let below = self.writes.store(address.as_str());
        let folder = Folder {
            below: below.unwrap_or_else(|| Below::Other(Arc::clone(&inside), address.as_str().to_owned())),
            root: url.prefix().clone(),
            endings: endings.clone(),
            subfolders: !execution.listing_table_ignore_subdirectory,
        };
        let keeps = keeps_partitions.unwrap_or(execution.keep_partition_by_columns);
        let run = Run::begin(folder, work.clone(), &self.writes).await?;
        let store = RunStore { inside, run: run.id().clone(), files: Arc::clone(run.files()), rename: *rename };
        let data = named_partitions(data, partition_by, keeps)?;
        let rows = self.exec.sink().write_all(data, &with_store(context, store)).await?;
        run.complete().await?;
        // What this session knows of folders is old.
        if let Some(listings) = runtime.cache_manager.get_list_files_cache() {
            listings.clear();
        }
        Ok(rows)
    }
}

impl DisplayAs for ExportSink {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.exec.sink().fmt_as(format, f)
    }
}

/// The same, but all files are in this store.
fn with_store(context: &TaskContext, store: RunStore) -> Arc<TaskContext> {
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

/// A store that gives the files which it writes the id of a run, and remembers them.
#[derive(Debug)]
struct RunStore {
    inside: Arc<dyn ObjectStore>,
    run: RunId,
    files: Arc<RunFiles>,
    rename: Option<(&'static str, &'static str)>,
}

impl RunStore {
    /// What DataFusion's name becomes.
    fn location(&self, location: &Path) -> Path {
        let Some(name) = location.filename().and_then(|name| self.run.name(name)) else { return location.clone() };
        let name = match self.rename {
            Some((from, to)) => name.replacen(&format!(".{from}"), &format!(".{to}"), 1),
            None => name,
        };
        super::marks::parent(location).join(name)
    }
}

impl Display for RunStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.inside.fmt(f)
    }
}

type StoreResult<T> = datafusion::object_store::Result<T>;

/// Completes a file. On a task of its own: who waits for it may be stopped, and then nobody would know whether the file is there.
async fn completed<T: Send + 'static>(
    files: &Arc<RunFiles>,
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
        let (inside, location) = (Arc::clone(&self.inside), self.location(location));
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
        let location = self.location(location);
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
    files: Arc<RunFiles>,
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

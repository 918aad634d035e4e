//! How files of text are read by a query: decoded, whole where they must be, and with the place in the file where it went wrong.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::config::CsvOptions;
#[cfg(feature = "cluster")]
use datafusion::common::not_impl_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::ObjectStore;
use datafusion::object_store::path::Path;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use encoding_rs::Encoding;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};

use super::blame;
use super::bytes::look;
use super::decode::Decoded;
use super::file_set::shown_file;
use crate::error::Error;

/// What a file of text is.
#[derive(Debug, Clone)]
pub(super) enum Text {
    Csv(Box<CsvOptions>),
    Lines,
    Array,
}

/// DataFusion's source of a text format, with what it lacks.
#[derive(Clone)]
pub(super) struct TextSource {
    pub(super) inner: Arc<dyn FileSource>,
    pub(super) text: Text,
    /// Whether a part of a file can be read for itself.
    pub(super) splits: bool,
    /// How files are to be decoded; their compression is undone with it.
    pub(super) encoding: Option<&'static Encoding>,
    pub(super) compression: FileCompressionType,
}

impl TextSource {
    fn with_inner(&self, inner: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self { inner, ..self.clone() })
    }
}

impl FileSource for TextSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let (store, compression) = decoded(store, self.compression, self.encoding);
        let inner = self.inner.create_file_opener(Arc::clone(&store), config, partition)?;
        let schema = Arc::clone(self.inner.table_schema().file_schema());
        let witness = Witness { store, compression, text: self.text.clone(), schema };
        Ok(Arc::new(Opener { inner, witness: Arc::new(witness) }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, rows: usize) -> Arc<dyn FileSource> {
        self.with_inner(self.inner.with_batch_size(rows))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(format, f)
    }

    fn supports_repartitioning(&self) -> bool {
        self.splits && self.encoding.is_none() && self.inner.supports_repartitioning()
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.inner.try_pushdown_projection(projection)?.map(|inner| self.with_inner(inner)))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    /// As DataFusion's own source, where that reads the same.
    #[cfg(feature = "cluster")]
    fn try_to_proto(
        &self,
        base: &FileScanConfig,
        context: &datafusion::physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<datafusion_proto::protobuf::PhysicalPlanNode>> {
        if self.encoding.is_some() || matches!(self.text, Text::Array) {
            return not_impl_err!(
                "the bytes of a plan cannot say that a file is a JSON array, or what its encoding is"
            );
        }
        self.inner.try_to_proto(base, context)
    }
}

/// The store that gives a format's files as UTF-8, and the compression that is left.
pub(super) fn decoded(
    store: Arc<dyn ObjectStore>,
    compression: FileCompressionType,
    encoding: Option<&'static Encoding>,
) -> (Arc<dyn ObjectStore>, FileCompressionType) {
    match encoding {
        Some(encoding) => (Arc::new(Decoded { store, compression, encoding }), FileCompressionType::UNCOMPRESSED),
        None => (store, compression),
    }
}

struct Opener {
    inner: Arc<dyn FileOpener>,
    witness: Arc<Witness>,
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let location = file.object_meta.location.clone();
        let (witness, path) = (Arc::clone(&self.witness), location.clone());
        let opened = self.inner.open(file)?.or_else(async move |error| Err(witness.explained(&path, error).await));
        let witness = Arc::clone(&self.witness);
        let explained = opened.map_ok(move |rows| {
            let rows = rows.or_else(move |error| {
                let (witness, location) = (Arc::clone(&witness), location.clone());
                async move { Err::<RecordBatch, _>(witness.explained(&location, error).await) }
            });
            rows.boxed()
        });
        Ok(explained.boxed())
    }
}

/// What must be known to look into a file again.
struct Witness {
    store: Arc<dyn ObjectStore>,
    compression: FileCompressionType,
    text: Text,
    schema: SchemaRef,
}

impl Witness {
    /// The error with the file's name and what is wrong where, as far as that is found.
    async fn explained(&self, location: &Path, error: DataFusionError) -> DataFusionError {
        let root = error.find_root();
        if !matches!(root, DataFusionError::ArrowError(..) | DataFusionError::External(_)) {
            return error;
        }
        let message = blame::bare(&error);
        let found = self.found(location, message.clone()).await.unwrap_or(message);
        Error::Read(format!("file {:?}: {found}", shown_file(location))).into()
    }

    async fn found(&self, location: &Path, message: String) -> Option<String> {
        let (store, schema) = (self.store.as_ref(), Arc::clone(&self.schema));
        if let Text::Csv(options) = self.text.clone() {
            let look = look(store, location, self.compression, move |reader| {
                Ok(blame::csv(reader, &options, &schema, &message))
            });
            return look.await.ok().flatten();
        }
        let found = look(store, location, self.compression, |reader| Ok(blame::json(reader))).await.ok().flatten();
        if found.is_some() || matches!(self.text, Text::Array) {
            return found;
        }
        let look = look(store, location, self.compression, move |reader| Ok(blame::json_value(reader, &schema)));
        look.await.ok().flatten()
    }
}

//! How files of text are read by a query: decoded, whole where they must be, and with the place in the file where it went wrong.

use std::fmt::{self, Formatter};
#[cfg(feature = "cluster")]
use std::str::FromStr;
use std::sync::Arc;

#[cfg(feature = "cluster")]
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::datatypes::{Fields, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::config::CsvOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
#[cfg(feature = "cluster")]
use datafusion::common::{exec_err, parsers::CompressionTypeVariant};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
#[cfg(feature = "cluster")]
use datafusion::datasource::physical_plan::FileScanConfigBuilder;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::ObjectStore;
use datafusion::object_store::path::Path;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan, PhysicalExpr};
#[cfg(feature = "cluster")]
use datafusion_proto::protobuf;
use encoding_rs::Encoding;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};

use super::blame;
use super::bytes::look;
use super::cells::Cells;
use super::decode::Decoded;
use super::file_set::shown_file;
use super::json::{Objects, with_fields};
use super::rows::{lines, pieces, rows};
#[cfg(feature = "cluster")]
use super::scans::{BROKEN, TextMessage};
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
    /// How files are to be decoded.
    pub(super) encoding: Option<&'static Encoding>,
    pub(super) compression: FileCompressionType,
    /// What JSON objects have beside the columns, where these are all that they had when it was looked for.
    pub(super) beside: Option<Fields>,
    /// How many rows a record batch has at most.
    pub(super) rows: usize,
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
        _: &FileScanConfig,
        _: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let (store, compression) = decoded(store, self.compression, self.encoding);
        let (table, text) = (self.inner.table_schema(), self.text.clone());
        let schema = Arc::clone(table.file_schema());
        let projection = match self.inner.projection() {
            Some(projection) => SplitProjection::new(&schema, projection),
            None => SplitProjection::unprojected(table),
        };
        let columns = projection.file_indices.clone();
        let file = TextFile { store, compression, text, schema, columns, beside: self.beside.clone(), rows: self.rows };
        let file = Arc::new(file);
        let rows = ProjectionOpener::try_new(projection, Arc::clone(&file) as Arc<dyn FileOpener>, &file.schema)?;
        Ok(Arc::new(Explained { rows, file }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, rows: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { inner: self.inner.with_batch_size(rows), rows, ..self.clone() })
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

    #[cfg(feature = "cluster")]
    fn try_to_proto(
        &self,
        base: &FileScanConfig,
        context: &datafusion::physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<protobuf::PhysicalPlanNode>> {
        let scan = self.inner.try_to_proto(base, context)?;
        scan.map(|scan| Ok(self.message()?.beside(scan))).transpose()
    }
}

#[cfg(feature = "cluster")]
impl TextSource {
    /// In the bytes of a plan.
    fn message(&self) -> Result<TextMessage> {
        let csv = match &self.text {
            Text::Csv(options) => Some(protobuf::CsvFormat { options: Some(options.as_ref().try_into()?) }),
            Text::Lines | Text::Array => None,
        };
        let beside = self.beside.clone().map(|fields| protobuf::Schema::try_from(&Schema::new(fields)));
        Ok(TextMessage {
            csv,
            is_array: matches!(self.text, Text::Array),
            splits: self.splits,
            encoding: self.encoding.map(|encoding| encoding.name().to_owned()),
            compression: self.compression.get_variant().to_string(),
            beside: beside.transpose()?,
            rows: self.rows as u64,
        })
    }

    /// What the bytes of a plan say, over DataFusion's own source.
    fn read(message: TextMessage, inner: Arc<dyn FileSource>) -> Result<Self> {
        let encoding = message.known_encoding()?;
        let text = match message.csv.and_then(|csv| csv.options) {
            Some(options) => Text::Csv(Box::new((&options).try_into()?)),
            None if message.is_array => Text::Array,
            None => Text::Lines,
        };
        let beside = message.beside.map(|schema| Schema::try_from(&schema)).transpose()?;
        Ok(Self {
            inner,
            text,
            splits: message.splits,
            encoding,
            compression: FileCompressionType::from(CompressionTypeVariant::from_str(&message.compression)?),
            beside: beside.map(|schema| schema.fields().clone()),
            rows: message.rows as usize,
        })
    }
}

/// The scan of text files in the bytes of a plan, over DataFusion's; `None` where they are somebody else's.
#[cfg(feature = "cluster")]
pub(crate) fn read_scan(buf: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(message) = TextMessage::read(buf)? else { return Ok(None) };
    let Some(config) = inputs.first().and_then(scanned) else { return exec_err!("{BROKEN}: it scans no files") };
    let source = TextSource::read(message, Arc::clone(&config.file_source))?;
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build();
    Ok(Some(DataSourceExec::from_data_source(config)))
}

/// The scan of files that a plan is.
pub(crate) fn scanned(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
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

/// Opens files of text, and finds what is wrong with one.
struct TextFile {
    store: Arc<dyn ObjectStore>,
    compression: FileCompressionType,
    text: Text,
    schema: SchemaRef,
    /// Those that are read, by their numbers in the schema.
    columns: Vec<usize>,
    beside: Option<Fields>,
    rows: usize,
}

impl FileOpener for TextFile {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let (store, compression) = (Arc::clone(&self.store), self.compression);
        if let Text::Csv(options) = &self.text {
            let begins = file.range.as_ref().is_none_or(|range| range.start == 0);
            let has_header = begins && options.has_header.unwrap_or(true);
            let terminator = options.terminator.unwrap_or(b'\n');
            let cells = Cells::new(&self.schema, &self.columns, options.as_ref().clone(), has_header, self.rows)?;
            let opened = async move { Ok(rows(pieces(store, file, compression, terminator).await?, cells)) };
            return Ok(opened.boxed());
        }
        let objects = Objects::new(&self.schema, &self.columns, self.beside.as_ref(), self.rows)?;
        let is_array = matches!(self.text, Text::Array);
        let opened = async move {
            let pieces = if is_array {
                lines(look(store.as_ref(), &file.object_meta.location, compression, Ok).await?)
            } else {
                pieces(store, file, compression, b'\n').await?
            };
            Ok(rows(pieces, objects))
        };
        Ok(opened.boxed())
    }
}

impl TextFile {
    /// The error with the file's name and what is wrong where, as far as that is found.
    async fn explained(&self, location: &Path, error: DataFusionError) -> DataFusionError {
        let root = error.find_root();
        if !matches!(root, DataFusionError::ArrowError(..) | DataFusionError::External(_) | DataFusionError::IoError(_))
        {
            return error;
        }
        let message = blame::bare(&error);
        let found = self.found(location, message.clone()).await.unwrap_or(message);
        Error::Read(format!("file {:?}: {found}", shown_file(self.store.as_ref(), location))).into()
    }

    async fn found(&self, location: &Path, message: String) -> Option<String> {
        let (store, compression) = (self.store.as_ref(), self.compression);
        if let Text::Csv(options) = self.text.clone() {
            let schema = Arc::clone(&self.schema);
            let look =
                look(store, location, compression, move |reader| Ok(blame::csv(reader, &options, &schema, &message)));
            return look.await.ok().flatten();
        }
        let invalid = look(store, location, compression, |reader| Ok(blame::json(reader))).await.ok().flatten();
        if invalid.is_some() {
            return invalid;
        }
        let schema = Arc::new(with_fields(&self.schema, self.beside.as_ref()));
        let is_array = matches!(self.text, Text::Array);
        let look = look(store, location, compression, move |reader| {
            Ok(blame::json_value(reader, is_array, &schema, &message))
        });
        look.await.ok().flatten()
    }
}

/// Rows with the place in the file where it went wrong.
struct Explained {
    rows: Arc<dyn FileOpener>,
    file: Arc<TextFile>,
}

impl FileOpener for Explained {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let location = file.object_meta.location.clone();
        let (witness, path) = (Arc::clone(&self.file), location.clone());
        let opened = self.rows.open(file)?.or_else(async move |error| Err(witness.explained(&path, error).await));
        let witness = Arc::clone(&self.file);
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

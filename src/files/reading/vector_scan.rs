//! Parquet files whose vectors are read as a block of numbers, where DataFusion's reader looks at each number of each list.
//!
//! A scan of vectors that asks for nothing but rows gets a source of its own, late, when DataFusion has decided what it pushes into a
//! scan: one with a condition, a limit or an order keeps DataFusion's. So does a file whose columns are not of the table's types, and
//! in a file of other vectors (see `vector_pages.rs`) the rest of a row group is read by parquet's own reader.
//!
//! DataFusion gives each partition a part of a file's bytes, and reads the row groups that begin in it: of a file with one, all of it by
//! one core. Here a partition has the rows of these bytes, where no vector is NULL, so that the pages before them need not be read.

use std::fmt;
use std::future::ready;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::config::ConfigOptions;
use datafusion::common::internal_datafusion_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::DefaultParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{
    FileOpenFuture, FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetFileReaderFactory,
    ParquetSource,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::ObjectStore;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelector};
use datafusion::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use datafusion::parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::RowGroupMetaData;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::vector_pages::{Came, Shape, VectorPages, Vectors};

/// What is read at once of a file on this machine, where another read costs little: so much stays in the processor's cache until it
/// is looked at, and its memory is used again. Of other stores a row group is one request.
const BYTES_AT_ONCE: u64 = 4 << 20;

/// The rule that gives scans of vectors their source.
#[derive(Debug)]
pub(crate) struct VectorScans;

impl PhysicalOptimizerRule for VectorScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let scan = node.downcast_ref::<DataSourceExec>().and_then(|scan| scan.data_source().downcast_ref());
            Ok(match scan.and_then(of_vectors) {
                Some(scan) => Transformed::yes(DataSourceExec::from_data_source(scan) as Arc<dyn ExecutionPlan>),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "vector_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The same scan with this file's source; `None` where it stays.
fn of_vectors(scan: &FileScanConfig) -> Option<FileScanConfig> {
    let inner = scan.file_source().downcast_ref::<ParquetSource>()?;
    let table = inner.table_schema();
    let projection = inner.projection()?;
    let split = SplitProjection::new(table.file_schema(), projection);
    let is_vector =
        |index: &usize| matches!(table.file_schema().field(*index).data_type(), DataType::FixedSizeList(_, _));
    // What a scan says of itself beside its columns are conditions and orders.
    let says_more = !AsSaid(inner).to_string().is_empty();
    if scan.limit.is_some()
        || says_more
        || !table.virtual_columns().is_empty()
        || !split.file_indices.iter().any(is_vector)
    {
        return None;
    }
    let source = VectorSource { inner: inner.clone(), split, batch_size: None };
    Some(FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(source)).build())
}

struct AsSaid<'a>(&'a ParquetSource);

impl fmt::Display for AsSaid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_extra(DisplayFormatType::Default, f)
    }
}

/// DataFusion's source, with files of vectors read by this file.
#[derive(Debug, Clone)]
struct VectorSource {
    inner: ParquetSource,
    /// Columns of the files, and what is made of them.
    split: SplitProjection,
    batch_size: Option<usize>,
}

impl FileSource for VectorSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.inner.create_file_opener(store, scan, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let others = self.inner.create_morselizer(Arc::clone(&store), scan, partition)?;
        let factory = self.inner.parquet_file_reader_factory().cloned();
        let file_schema = self.inner.table_schema().file_schema();
        let files = Files {
            factory: factory.unwrap_or_else(|| Arc::new(DefaultParquetFileReaderFactory::new(store))),
            partition,
            metrics: self.inner.metrics().clone(),
            schema: Arc::new(file_schema.project(&self.split.file_indices)?),
            at_once: if scan.object_store_url.as_str().starts_with("file:") { BYTES_AT_ONCE } else { u64::MAX },
            batch_size: self.batch_size.ok_or_else(|| internal_datafusion_err!("a scan without a batch size"))?,
        };
        let split = (self.split.clone(), Arc::clone(file_schema));
        Ok(Box::new(Choice { others, files: Arc::new(files), split }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        let inner = self.inner.with_batch_size(batch_size);
        let inner = inner.downcast_ref::<ParquetSource>().unwrap_or(&self.inner).clone();
        Arc::new(Self { inner, batch_size: Some(batch_size), split: self.split.clone() })
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

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}

/// Which reader a file gets.
#[derive(Debug)]
struct Choice {
    others: Box<dyn Morselizer>,
    files: Arc<Files>,
    /// With the columns of the files as the table has them.
    split: (SplitProjection, SchemaRef),
}

impl Morselizer for Choice {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let other = self.others.plan_file(file.clone())?;
        // Which rows are read may be said there.
        if !file.extensions.is_empty() {
            return Ok(other);
        }
        Ok(Box::new(Look { other, file, files: Arc::clone(&self.files), split: self.split.clone() }))
    }
}

/// A file that is to be looked at.
struct Look {
    other: Box<dyn MorselPlanner>,
    file: PartitionedFile,
    files: Arc<Files>,
    split: (SplitProjection, SchemaRef),
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("file", &self.file.object_meta.location).finish_non_exhaustive()
    }
}

impl MorselPlanner for Look {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        Ok(Some(MorselPlan::new().with_pending_planner(async move {
            let Self { other, file, files, split: (split, file_schema) } = *self;
            let Some(scan) = files.scan(&file).await? else { return Ok(other) };
            let opener = ProjectionOpener::try_new(split, Arc::new(Opened(scan)), &file_schema)?;
            let rows = opener.open(file)?.await?;
            Ok(Box::new(Ready { rows }) as Box<dyn MorselPlanner>)
        })))
    }
}

/// The rows of a file.
struct Ready {
    rows: BoxStream<'static, Result<RecordBatch>>,
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ready")
    }
}

impl MorselPlanner for Ready {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        Ok(Some(MorselPlan::new().with_morsels(vec![self])))
    }
}

impl Morsel for Ready {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        self.rows
    }
}

/// What all files of a partition have in common.
struct Files {
    factory: Arc<dyn ParquetFileReaderFactory>,
    partition: usize,
    metrics: ExecutionPlanMetricsSet,
    /// The columns that are read, of the table's types.
    schema: SchemaRef,
    batch_size: usize,
    /// Bytes of a column that are read at once.
    at_once: u64,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Files {
    fn reader(&self, file: &PartitionedFile) -> Result<Box<dyn AsyncFileReader>> {
        Ok(self.factory.create_reader(self.partition, file.clone(), None, &self.metrics)?)
    }

    /// How a file is read; `None` where it is not read here.
    async fn scan(self: Arc<Self>, file: &PartitionedFile) -> Result<Option<Arc<Scan>>> {
        let parquet = self.reader(file)?.get_metadata(None).await?;
        let found = ArrowReaderMetadata::try_new(Arc::clone(&parquet), ArrowReaderOptions::new())?;
        let leaves = parquet.file_metadata().schema_descr();
        let mut types: Vec<FieldRef> = found.schema().fields().to_vec();
        let (mut vectors, mut others) = (Vec::new(), Vec::new());
        for (place, field) in self.schema.fields().iter().enumerate() {
            let Some((root, there)) = found.schema().fields().find(field.name()) else { return Ok(None) };
            let leaf = (0..leaves.num_columns()).find(|leaf| leaves.get_column_root_idx(*leaf) == root);
            let shape = leaf.and_then(|leaf| Some((leaf, Shape::of(field.data_type(), &leaves.column(leaf))?)));
            match shape.filter(|_| there.data_type() == field.data_type()) {
                Some((leaf, shape)) => vectors.push(Vector { place, leaf, shape }),
                None if is_read_as(there.data_type(), field.data_type()) => {
                    types[root] = Arc::new(Field::clone(there).with_data_type(field.data_type().clone()));
                    others.push((place, root));
                }
                None => return Ok(None),
            }
        }
        let vectors_are_whole = |group: &RowGroupMetaData| {
            vectors.iter().all(|vector| vector.shape.has_all(group.column(vector.leaf), group.num_rows() as usize))
        };
        let may_part = parquet.row_groups().iter().all(vectors_are_whole);
        let groups = parquet.row_groups().iter().map(|group| part_of(group, file, may_part)).enumerate();
        // A column of a row group without rows may have no bytes that could be asked for.
        let parts = groups.map(|(group, rows)| Part { group, rows }).filter(|part| !part.rows.is_empty()).collect();
        // The order of the file, which is that of the reader's columns.
        others.sort_by_key(|(_, root)| *root);
        let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(types)));
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(&parquet), options)?;
        let file = file.clone();
        Ok((!vectors.is_empty()).then(|| Arc::new(Scan { files: self, file, metadata, parts, vectors, others })))
    }
}

/// Rows of a row group that are read for a part of a file: those of its bytes, or else all where it begins.
fn part_of(group: &RowGroupMetaData, file: &PartitionedFile, may_part: bool) -> Range<usize> {
    let rows = group.num_rows() as usize;
    let Some(range) = &file.range else { return 0..rows };
    let first = group.column(0);
    let start = first.dictionary_page_offset().unwrap_or(first.data_page_offset());
    if !may_part {
        return if (range.start..range.end).contains(&start) { 0..rows } else { 0..0 };
    }
    // What ends behind the file would be nobody's.
    let length = group.compressed_size().min(file.object_meta.size as i64 - start).max(1);
    let row_at = |place: i64| ((place - start).clamp(0, length) as u128 * rows as u128 / length as u128) as usize;
    row_at(range.start)..row_at(range.end)
}

/// Whether parquet's reader gives a column of a type as another.
fn is_read_as(there: &DataType, wanted: &DataType) -> bool {
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    there == wanted || is_text(there) && is_text(wanted)
}

type Builder = ParquetRecordBatchStreamBuilder<Box<dyn AsyncFileReader>>;

/// How a file is read.
struct Scan {
    files: Arc<Files>,
    file: PartitionedFile,
    metadata: ArrowReaderMetadata,
    /// What is read, in the order of the file.
    parts: Vec<Part>,
    vectors: Vec<Vector>,
    /// Where each other column goes, and which of the file it is.
    others: Vec<(usize, usize)>,
}

/// Rows of a row group.
struct Part {
    group: usize,
    rows: Range<usize>,
}

/// A column of vectors.
struct Vector {
    /// Where it goes.
    place: usize,
    leaf: usize,
    shape: Shape,
}

impl Scan {
    fn rows_of(&self, group: usize) -> usize {
        self.metadata.metadata().row_group(group).num_rows() as usize
    }

    /// Parquet's own reader.
    fn generic(&self) -> Result<Builder> {
        let reader = self.files.reader(&self.file)?;
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, self.metadata.clone());
        Ok(builder.with_batch_size(self.files.batch_size))
    }

    /// The same of the rows that are read.
    fn selected(&self, builder: Builder) -> Builder {
        let builder = builder.with_row_groups(self.parts.iter().map(|part| part.group).collect());
        if self.parts.iter().all(|part| part.rows.len() == self.rows_of(part.group)) {
            return builder;
        }
        let selectors = self.parts.iter().flat_map(|Part { group, rows }| {
            let behind = self.rows_of(*group) - rows.end;
            [RowSelector::skip(rows.start), RowSelector::select(rows.len()), RowSelector::skip(behind)]
        });
        builder.with_row_selection(selectors.filter(|selector| selector.row_count > 0).collect::<Vec<_>>().into())
    }

    fn mask_of_leaf(&self, leaf: usize) -> ProjectionMask {
        ProjectionMask::leaves(self.metadata.parquet_schema(), [leaf])
    }

    fn start(self: Arc<Self>) -> Result<Reading> {
        let roots = ProjectionMask::roots(self.metadata.parquet_schema(), self.others.iter().map(|(_, root)| *root));
        let others = match self.others.is_empty() {
            true => None,
            false => Some(self.selected(self.generic()?.with_projection(roots)).build()?),
        };
        let vectors = self.vectors.iter().map(|_| {
            let reader = Reader { idle: Some(self.files.reader(&self.file)?), coming: None };
            Ok(Column { reader, part: 0, done: 0, at: At::Start })
        });
        let vectors = vectors.collect::<Result<_>>()?;
        let left = self.parts.iter().map(|part| part.rows.len()).sum();
        Ok(Reading { others, vectors, left, scan: self })
    }
}

/// One file, to be opened once more.
struct Opened(Arc<Scan>);

impl FileOpener for Opened {
    fn open(&self, _: PartitionedFile) -> Result<FileOpenFuture> {
        let scan = Arc::clone(&self.0);
        Ok(Box::pin(async move {
            let rows = futures::stream::try_unfold(scan.start()?, async |mut reading: Reading| {
                Ok(reading.next().await?.map(|batch| (batch, reading)))
            });
            Ok(rows.boxed())
        }))
    }
}

/// A file that is being read.
struct Reading {
    scan: Arc<Scan>,
    others: Option<ParquetRecordBatchStream<Box<dyn AsyncFileReader>>>,
    vectors: Vec<Column>,
    /// Rows that are not read yet.
    left: usize,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if self.left == 0 {
            return Ok(None);
        }
        let Self { scan, others, vectors, left } = self;
        let others = match others {
            Some(stream) => Some(stream.try_next().await?.ok_or_else(too_few)?),
            None => None,
        };
        let rows = others.as_ref().map_or(scan.files.batch_size, RecordBatch::num_rows).min(*left);
        *left -= rows;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; scan.files.schema.fields().len()];
        for (vector, column) in scan.vectors.iter().zip(vectors) {
            columns[vector.place] = Some(column.next(scan, vector, rows).await?);
        }
        for ((place, _), column) in scan.others.iter().zip(others.iter().flat_map(RecordBatch::columns)) {
            columns[*place] = Some(Arc::clone(column));
        }
        let columns = columns.into_iter().flatten().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&scan.files.schema), columns, &options)?))
    }
}

/// A file that is damaged.
fn too_few() -> DataFusionError {
    ParquetError::EOF("fewer rows than the footer says".to_owned()).into()
}

/// A column of vectors that is being read.
struct Column {
    reader: Reader,
    /// Which part of the file, and how many of its rows are read.
    part: usize,
    done: usize,
    at: At,
}

/// Reads the next part while one is looked at.
struct Reader {
    idle: Option<Box<dyn AsyncFileReader>>,
    coming: Option<BoxFuture<'static, Read>>,
}

/// The reader again, and what it read.
type Read = (Box<dyn AsyncFileReader>, ParquetResult<Bytes>);

impl Reader {
    /// Begins to read, if there is anything.
    async fn begin(&mut self, range: Option<Range<u64>>) {
        if let Some(coming) = self.coming.take() {
            // Of a row group that was left before its end.
            self.idle = Some(coming.await.0);
        }
        let Some((range, mut reader)) = range.and_then(|range| Some((range, self.idle.take()?))) else { return };
        let mut coming = async move {
            let bytes = reader.get_bytes(range).await;
            (reader, bytes)
        }
        .boxed();
        // A file on this machine is read by another thread, which the first look sets to work.
        self.coming = Some(match (&mut coming).now_or_never() {
            Some(done) => ready(done).boxed(),
            None => coming,
        });
    }

    /// What it began to read.
    async fn take(&mut self) -> Result<Bytes> {
        let (reader, bytes) = self.coming.take().ok_or_else(too_few)?.await;
        self.idle = Some(reader);
        // Of a file that has been cut meanwhile.
        Some(bytes?).filter(|bytes| !bytes.is_empty()).ok_or_else(too_few)
    }
}

/// Where in a row group.
enum At {
    Start,
    Pages(Box<VectorPages>),
    /// In what parquet's own reader reads, with what is left of its last batch.
    Rest(ParquetRecordBatchStream<Box<dyn AsyncFileReader>>, Option<ArrayRef>),
}

impl Column {
    /// So many rows, of one row group or several.
    async fn next(&mut self, scan: &Scan, vector: &Vector, rows: usize) -> Result<ArrayRef> {
        let mut read: Vec<ArrayRef> = Vec::new();
        let mut missing = rows;
        while missing > 0 {
            let part = scan.parts.get(self.part).ok_or_else(too_few)?;
            let wanted = missing.min(part.rows.len() - self.done);
            if wanted == 0 {
                (self.part, self.done, self.at) = (self.part + 1, 0, At::Start);
                continue;
            }
            if let Some(vectors) = self.read(scan, vector, part, wanted).await? {
                missing -= vectors.len();
                self.done += vectors.len();
                read.push(vectors);
            }
        }
        let read: Vec<&dyn Array> = read.iter().map(AsRef::as_ref).filter(|part| !part.is_empty()).collect();
        Ok(concat(&read)?)
    }

    /// So many rows of a part at most; `None` where it goes on elsewhere.
    async fn read(&mut self, scan: &Scan, vector: &Vector, part: &Part, wanted: usize) -> Result<Option<ArrayRef>> {
        match &mut self.at {
            At::Start => {
                let column = scan.metadata.metadata().row_group(part.group).column(vector.leaf);
                let pages = VectorPages::new(&vector.shape, column, scan.rows_of(part.group), part.rows.start);
                self.reader.begin(pages.missing(scan.files.at_once)).await;
                self.at = At::Pages(Box::new(pages));
                Ok(None)
            }
            At::Pages(pages) => {
                let mut vectors = Vectors::new(&vector.shape, wanted);
                let mut came = pages.read(&mut vectors, wanted)?;
                while came == Came::ToMissing {
                    // More at once where a page is larger than a part.
                    let most = scan.files.at_once.max(pages.kept());
                    pages.give(self.reader.take().await?);
                    self.reader.begin(pages.missing(most)).await;
                    came = pages.read(&mut vectors, wanted)?;
                }
                if came == Came::ToEnd {
                    return Err(too_few());
                }
                if came == Came::ToOther {
                    let rest = scan.generic()?.with_projection(scan.mask_of_leaf(vector.leaf));
                    let before = part.rows.start + self.done + vectors.rows();
                    self.at = At::Rest(rest.with_row_groups(vec![part.group]).with_offset(before).build()?, None);
                }
                Ok(Some(vectors.finish()?))
            }
            At::Rest(stream, left) => match left.take() {
                Some(batch) => {
                    let taken = batch.len().min(wanted);
                    *left = (taken < batch.len()).then(|| batch.slice(taken, batch.len() - taken));
                    Ok(Some(batch.slice(0, taken)))
                }
                None => {
                    let batch = stream.try_next().await?.ok_or_else(too_few)?;
                    *left = Some(Arc::clone(batch.column(0)));
                    Ok(None)
                }
            },
        }
    }
}

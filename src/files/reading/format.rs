//! A format with its options: how the columns of a file are found, and how files are scanned.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::config::{CsvOptions, JsonOptions};
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::file_format::{FileFormat, FileMeta};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::physical_plan::ExecutionPlan;
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use futures::{StreamExt, TryStreamExt};

use super::adapted::AdaptedSource;
use super::blame;
use super::bytes::{Answers, look};
use super::csv;
use super::file_set::{is_away, shown_file};
use super::json;
use super::partitions::Partitions;
use super::schema::{Named, merged};
use super::text::{Text, TextSource, decoded, scanned};
use crate::error::Error;

/// Bytes from which the columns of all text files of a table are inferred, shared among them.
const LOOKED_AT: u64 = 16 << 20;

/// Bytes that are looked at of each, however many they are.
const LEAST_LOOKED_AT: u64 = 256 << 10;

/// The option that names the encoding of text files.
const ENCODING: &str = "format.encoding";

/// A format with its options.
#[derive(Debug, Clone)]
pub(super) struct Format {
    /// DataFusion's, which also writes.
    pub(super) inner: Arc<dyn FileFormat>,
    /// `None` is UTF-8.
    encoding: Option<&'static Encoding>,
    /// What files have beside the columns of their table, where those were inferred: the columns of their folders.
    beside: Option<Fields>,
    /// Whether a CSV file has line breaks in its texts, and whether a JSON file is an array.
    known: Answers<bool>,
    /// The columns of an Arrow file.
    schemas: Answers<SchemaRef>,
}

impl Format {
    /// A format by the name that STORED AS has.
    pub(super) fn new(state: &SessionState, name: &str, mut options: HashMap<String, String>) -> Result<Self> {
        let encoding = options.remove(ENCODING).map(|label| encoding(&label)).transpose()?.flatten();
        let Some(factory) = state.get_file_format_factory(name) else {
            let problem = format!("Unable to create table with format {name}! Could not find FileFormat.");
            return Err(DataFusionError::Configuration(problem));
        };
        let inner = factory.create(state, &options)?;
        Ok(Self { inner, encoding, beside: None, known: Answers::default(), schemas: Answers::default() })
    }

    /// The same, for texts in UTF-16 if the first of the files begins like one.
    pub(super) async fn by_first_bytes(self, store: &Arc<dyn ObjectStore>, files: &[ObjectMeta]) -> Result<Self> {
        let Some(first) = files.first().filter(|file| self.is_text() && self.encoding.is_none() && file.size > 1)
        else {
            return Ok(self);
        };
        let begin = look(store.as_ref(), &first.location, self.compression(), |mut reader| {
            let mut begin = [0; 2];
            reader.read_exact(&mut begin)?;
            Ok(begin)
        });
        // A file that cannot be read says so when its columns are looked for.
        let encoding = match begin.await.unwrap_or_default() {
            [0xff, 0xfe] => Some(UTF_16LE),
            [0xfe, 0xff] => Some(UTF_16BE),
            _ => None,
        };
        Ok(Self { encoding, ..self })
    }

    fn csv(&self) -> Option<&CsvOptions> {
        self.inner.downcast_ref::<CsvFormat>().map(CsvFormat::options)
    }

    fn json(&self) -> Option<&JsonOptions> {
        self.inner.downcast_ref::<JsonFormat>().map(JsonFormat::options)
    }

    fn is_text(&self) -> bool {
        self.csv().is_some() || self.json().is_some()
    }

    pub(super) fn compression(&self) -> FileCompressionType {
        self.inner.compression_type().unwrap_or(FileCompressionType::UNCOMPRESSED)
    }

    /// The columns of all files together, but for those of their folders.
    pub(super) async fn columns(
        &mut self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
        partitions: &Partitions,
    ) -> Result<SchemaRef> {
        let share = (LOOKED_AT / (files.len().max(1) as u64)).max(LEAST_LOOKED_AT);
        let together = state.config_options().execution.meta_fetch_concurrency.get();
        let columns = futures::stream::iter(files).map(async |file| {
            let schema = self
                .columns_of(state, store, file, share)
                .await
                .map_err(|error| in_file(store.as_ref(), file, error))?;
            Ok::<Named, DataFusionError>((shown_file(store.as_ref(), &file.location), schema))
        });
        let columns: Vec<Named> = columns.boxed().buffered(together).try_collect().await?;
        if self.csv().is_some() {
            check_headers(&columns)?;
        }
        if !self.is_text() && !self.inner.is::<ParquetFormat>() && !self.inner.is::<ArrowFormat>() {
            check_same(&columns)?;
        }
        let merged = merged(&columns, self.is_text())?;
        let merged = if self.is_text() { readable(&merged) } else { merged };
        if self.csv().is_some() {
            return Ok(merged);
        }
        // Some programs write the columns of folders into the files too.
        let is_inside = |place: &usize| partitions.folders.iter().all(|(name, _)| name != merged.field(*place).name());
        let (inside, outside): (Vec<usize>, Vec<usize>) = (0..merged.fields().len()).partition(is_inside);
        self.beside = Some(merged.project(&outside)?.fields);
        Ok(Arc::new(merged.project(&inside)?))
    }

    async fn columns_of(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        file: &ObjectMeta,
        share: u64,
    ) -> Result<SchemaRef> {
        let (texts, compression) = decoded(Arc::clone(store), self.compression(), self.encoding);
        if let Some(options) = self.csv() {
            let has_header = options.has_header.unwrap_or(state.config_options().catalog.has_header);
            let options = options.clone().with_has_header(has_header);
            let schema = csv_columns(texts.as_ref(), compression, &file.location, options, share).await?;
            return Ok(Arc::new(schema));
        }
        if let Some(options) = self.json().cloned() {
            let is_array = self.is_array(texts.as_ref(), compression, file).await?;
            let most = options.schema_infer_max_rec;
            let look = look(texts.as_ref(), &file.location, compression, move |reader| {
                json::infer(reader, is_array, most, share)
            });
            return Ok(Arc::new(look.await?));
        }
        self.own_columns(state, store, file).await
    }

    /// What a file says itself.
    async fn own_columns(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        file: &ObjectMeta,
    ) -> Result<SchemaRef> {
        let look = self.inner.infer_schema(state, store, std::slice::from_ref(file));
        self.schemas.of(file, look).await
    }

    async fn is_array(
        &self,
        store: &dyn ObjectStore,
        compression: FileCompressionType,
        file: &ObjectMeta,
    ) -> Result<bool> {
        match self.json() {
            Some(options) if !options.newline_delimited => Ok(true),
            Some(_) => self.known.of(file, look(store, &file.location, compression, json::is_array)).await,
            None => Ok(false),
        }
    }

    /// What is known about the rows of a file without reading them.
    pub(super) async fn facts(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: SchemaRef,
        file: &ObjectMeta,
    ) -> Result<FileMeta> {
        let facts = self.inner.infer_stats_and_ordering(state, store, schema, file).await;
        facts.map_err(|error| in_file(store.as_ref(), file, error))
    }

    /// The plan that scans files.
    pub(super) async fn plan(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        config: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let files: Vec<ObjectMeta> =
            config.file_groups.iter().flat_map(|group| group.iter()).map(|file| file.object_meta.clone()).collect();
        let (format, text, splits): (Arc<dyn FileFormat>, _, _) = if let Some(options) = self.csv() {
            let splits = self.csv_splits(state, store, options, &files).await?;
            let has_header = options.has_header.unwrap_or(state.config_options().catalog.has_header);
            let options = options.clone().with_has_header(has_header).with_newlines_in_values(!splits);
            (Arc::new(CsvFormat::default().with_options(options.clone())), Text::Csv(Box::new(options)), splits)
        } else if let Some(options) = self.json() {
            let is_array = self.are_arrays(store, &files).await?;
            let options = JsonOptions { newline_delimited: !is_array, ..options.clone() };
            let text = if is_array { Text::Array } else { Text::Lines };
            (Arc::new(JsonFormat::default().with_options(options)), text, !is_array)
        } else {
            let plan = self.inner.create_physical_plan(state, config).await?;
            return if self.inner.is::<ArrowFormat>() {
                self.adapted(state, store, plan, &files).await
            } else {
                Ok(plan)
            };
        };
        let source = format.file_source(config.file_source.table_schema().clone());
        let source = match config.file_source.projection() {
            Some(projection) => source.try_pushdown_projection(projection)?.unwrap_or(source),
            None => source,
        };
        let config = FileScanConfigBuilder::from(config).with_source(source).build();
        let plan = format.create_physical_plan(state, config).await?;
        let Some(config) = scanned(&plan) else { return Ok(plan) };
        let source = TextSource {
            inner: Arc::clone(&config.file_source),
            text,
            splits,
            encoding: self.encoding,
            compression: self.compression(),
            beside: self.beside.clone(),
            rows: state.config().batch_size(),
        };
        let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// The plan of a scan of Arrow files, which may have other columns than their table.
    async fn adapted(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        plan: Arc<dyn ExecutionPlan>,
        files: &[ObjectMeta],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(config) = scanned(&plan) else { return Ok(plan) };
        let together = state.config_options().execution.meta_fetch_concurrency.get();
        let schemas = futures::stream::iter(files).map(async |file| {
            let schema =
                self.own_columns(state, store, file).await.map_err(|error| in_file(store.as_ref(), file, error))?;
            Ok::<_, DataFusionError>((file.location.clone(), schema))
        });
        let schemas: HashMap<Path, SchemaRef> = schemas.boxed().buffered(together).try_collect().await?;
        if schemas.values().all(|schema| kinds(schema) == kinds(config.file_schema())) {
            return Ok(plan);
        }
        let source = AdaptedSource { inner: Arc::clone(&config.file_source), schemas: Arc::new(schemas) };
        Ok(DataSourceExec::from_data_source(
            FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build(),
        ))
    }

    /// Whether files may be read in parts: if nobody says so, they are looked through once, unless they are small or few enough to
    /// be read whole anyway.
    async fn csv_splits(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        options: &CsvOptions,
        files: &[ObjectMeta],
    ) -> Result<bool> {
        let config = state.config_options();
        if let Some(has_breaks) = options.newlines_in_values {
            return Ok(!has_breaks);
        }
        let size: u64 = files.iter().map(|file| file.size).sum();
        let is_whole = config.catalog.newlines_in_values
            || config.execution.target_partitions < 2
            || !config.optimizer.repartition_file_scans
            || size < config.optimizer.repartition_file_min_size as u64
            // It would come over the network twice.
            || is_away(store.as_ref())
            // A quote in a comment is none.
            || options.comment.is_some()
            || self.encoding.is_some()
            || self.compression().is_compressed();
        if is_whole {
            return Ok(false);
        }
        for file in files {
            let options = options.clone();
            let look = look(store.as_ref(), &file.location, FileCompressionType::UNCOMPRESSED, move |reader| {
                csv::has_quoted_breaks(reader, &options)
            });
            if self.known.of(file, look).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the files are arrays; those of both kinds cannot be read together.
    async fn are_arrays(&self, store: &Arc<dyn ObjectStore>, files: &[ObjectMeta]) -> Result<bool> {
        let (texts, compression) = decoded(Arc::clone(store), self.compression(), self.encoding);
        let mut first = None;
        for file in files {
            let is_array = self.is_array(texts.as_ref(), compression, file).await?;
            match first {
                None => first = Some((is_array, file)),
                Some((other, _)) if other == is_array => {}
                Some((_, first)) => {
                    return Err(Error::Read(format!(
                        "{:?} and {:?}: one is a JSON array and the other an object per line, which cannot be read together: \
                         name them apart, and use UNION ALL",
                        shown_file(store.as_ref(), &first.location),
                        shown_file(store.as_ref(), &file.location)
                    ))
                    .into());
                }
            }
        }
        Ok(first.is_some_and(|(is_array, _)| is_array))
    }
}

/// The columns of a CSV file, or what is wrong with it and in which line.
async fn csv_columns(
    store: &dyn ObjectStore,
    compression: FileCompressionType,
    file: &Path,
    options: CsvOptions,
    share: u64,
) -> Result<Schema> {
    let (of_infer, most) = (options.clone(), options.schema_infer_max_rec);
    let columns = look(store, file, compression, move |reader| match most {
        Some(most) => csv::infer(reader, &of_infer, most),
        None => csv::infer_from_bytes(reader, &of_infer, share),
    });
    let error = match columns.await {
        Err(error) => error,
        columns => return columns,
    };
    let message = blame::bare(&error);
    let found = look(store, file, compression, {
        let options = options.clone();
        move |reader| Ok(Arc::new(csv::infer(reader, &options, 0)?))
    });
    let Ok(header) = found.await else { return Err(error) };
    let found = look(store, file, compression, move |reader| Ok(blame::csv(reader, &options, &header, &message)));
    Err(found.await.ok().flatten().map_or(error, |found| Error::Read(found).into()))
}

fn encoding(label: &str) -> Result<Option<&'static Encoding>> {
    match Encoding::for_label(label.trim().as_bytes()) {
        Some(encoding) => Ok(Some(encoding).filter(|encoding| *encoding != UTF_8)),
        None => Err(Error::Read(format!(
            "{ENCODING} {label:?} is no known encoding (such as utf-8, latin1, windows-1252, utf-16, shift_jis)"
        ))
        .into()),
    }
}

/// The error of a file with its name, if it lacks it.
fn in_file(store: &dyn ObjectStore, file: &ObjectMeta, error: DataFusionError) -> DataFusionError {
    let name = shown_file(store, &file.location);
    let message = blame::bare(&error);
    if message.contains(&format!("{name:?}")) || message.starts_with(&name) {
        return error;
    }
    Error::Read(format!("file {name:?}: {message}")).into()
}

/// The cells of CSV files have no names: they are read by their place in the row.
fn check_headers(files: &[Named]) -> std::result::Result<(), Error> {
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    let Some((first, schema)) = files.first() else { return Ok(()) };
    let expected = names(schema);
    match files.iter().find(|(_, schema)| names(schema) != expected) {
        None => Ok(()),
        Some((file, schema)) => Err(Error::Read(format!(
            "the columns of {first:?} are {}, and those of {file:?} are {}: read them apart, and use UNION ALL BY NAME",
            expected.join(", "),
            names(schema).join(", ")
        ))),
    }
}

/// Files of a host's own format are read as they are, column by column.
fn check_same(files: &[Named]) -> std::result::Result<(), Error> {
    let Some((first, schema)) = files.first() else { return Ok(()) };
    match files.iter().find(|(_, other)| kinds(other) != kinds(schema)) {
        None => Ok(()),
        Some((file, other)) => Err(Error::Read(format!(
            "the columns of {first:?} are {}, and those of {file:?} are {}, which are read together from Parquet and Arrow files \
             only: read them apart, and use UNION ALL BY NAME",
            kinds(schema),
            kinds(other)
        ))),
    }
}

fn kinds(schema: &Schema) -> String {
    let kinds = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
    kinds.collect::<Vec<_>>().join(", ")
}

/// A column without a value so far may have a text later, which a column of NULLs would lose.
fn readable(schema: &Schema) -> SchemaRef {
    let text = |field: &Arc<Field>| match field.data_type() {
        DataType::Null => Field::new(field.name(), DataType::Utf8, true),
        _ => field.as_ref().clone(),
    };
    Arc::new(Schema::new_with_metadata(schema.fields().iter().map(text).collect::<Vec<_>>(), schema.metadata().clone()))
}

//! Parquet files of vectors, which sessions of ours read as blocks of numbers, against DataFusion's own reader.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::TreeNode;
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, Encoding, ZstdLevel};
use datafusion::parquet::file::properties::{WriterProperties, WriterVersion};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use datafusion_embed::SessionOptions;
use proptest::prelude::*;

/// A file and how it is read.
#[derive(Debug, Clone)]
struct Case {
    /// Whether each vector is there.
    rows: Vec<bool>,
    width: usize,
    numbers: DataType,
    /// Whether the type says that vectors, and their numbers, may be NULL.
    nullable: (bool, bool),
    /// A number of a vector that is NULL, by its place among all.
    hole: Option<usize>,
    /// As a list of any length, for which DataFusion's reader is right.
    is_variable: bool,
    group: usize,
    page: usize,
    version: WriterVersion,
    compression: Compression,
    encoding: Option<Encoding>,
    has_dictionary: bool,
    batch: usize,
    partitions: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let rows = prop_oneof![
        2 => (0usize..400).prop_map(|rows| vec![true; rows]),
        2 => prop::collection::vec(any::<bool>(), 0..400),
        1 => prop::collection::vec(prop::bool::weighted(0.01), 0..400),
    ];
    let numbers = prop_oneof![Just(DataType::Float32), Just(DataType::Float64), Just(DataType::Float16)];
    let file = (
        prop_oneof![Just(1usize), 1usize..6, Just(8), Just(37)],
        numbers,
        any::<(bool, bool)>(),
        prop_oneof![9 => Just(None), 1 => (0usize..2000).prop_map(Some)],
        prop::bool::weighted(0.1),
    );
    let compression = prop_oneof![
        2 => Just(Compression::UNCOMPRESSED),
        1 => Just(Compression::ZSTD(ZstdLevel::default())),
        1 => Just(Compression::SNAPPY),
    ];
    let writer = (
        1usize..500,
        1usize..3000,
        prop_oneof![Just(WriterVersion::PARQUET_1_0), Just(WriterVersion::PARQUET_2_0)],
        compression,
        prop_oneof![3 => Just(None), 1 => Just(Some(Encoding::BYTE_STREAM_SPLIT))],
        prop::bool::weighted(0.3),
    );
    (rows, file, writer, 1usize..300, 1usize..5).prop_map(|(mut rows, file, writer, batch, partitions)| {
        let (width, numbers, nullable, hole, is_variable) = file;
        let (group, page, version, compression, encoding, has_dictionary) = writer;
        if !nullable.0 {
            rows.fill(true);
        }
        let hole = hole.filter(|_| nullable.1);
        Case {
            rows,
            width,
            numbers,
            nullable,
            hole,
            is_variable,
            group,
            page,
            version,
            compression,
            encoding,
            has_dictionary,
            batch,
            partitions,
        }
    })
}

/// Vectors of random numbers; `salt` tells columns apart.
fn vectors(case: &Case, salt: usize) -> ArrayRef {
    let count = case.rows.len() * case.width;
    let number = |place: usize| ((place + 1) * (salt + 7) * 2_654_435_761 % 100_003) as f32 / 1000.0 - 50.0;
    let values = (0..count).map(|place| (case.hole != Some(place)).then(|| number(place)));
    let values = cast(&(Arc::new(values.collect::<Float32Array>()) as ArrayRef), &case.numbers).expect("numbers");
    let item = Arc::new(Field::new("item", case.numbers.clone(), case.nullable.1));
    let nulls = case.nullable.0.then(|| NullBuffer::from(case.rows.clone()));
    if case.is_variable {
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(case.width, case.rows.len()));
        return Arc::new(ListArray::new(item, offsets, values, nulls));
    }
    let length = case.width as i32;
    Arc::new(FixedSizeListArray::try_new_with_length(item, length, values, nulls, case.rows.len()).expect("vectors"))
}

fn batch(case: &Case) -> RecordBatch {
    let ids = 0..case.rows.len() as i64;
    let texts = StringArray::from_iter(ids.clone().map(|id| (id % 7 > 0).then(|| format!("text {}", id % 50))));
    let columns: [(&str, ArrayRef, bool); 4] = [
        ("v", vectors(case, 1), case.nullable.0),
        ("text", Arc::new(texts), true),
        ("id", Arc::new(Int64Array::from_iter_values(ids)), false),
        ("w", vectors(case, 2), case.nullable.0),
    ];
    let field =
        |(name, column, nullable): &(&str, ArrayRef, bool)| Field::new(*name, column.data_type().clone(), *nullable);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column, _)| column).collect()).expect("a batch")
}

fn write(case: &Case, path: &Path) -> RecordBatch {
    let batch = batch(case);
    let mut properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(case.group))
        .set_data_page_size_limit(case.page)
        .set_write_batch_size(case.page.min(64))
        .set_writer_version(case.version)
        .set_compression(case.compression)
        .set_dictionary_enabled(case.has_dictionary);
    if let Some(encoding) = case.encoding {
        for column in ["v", "w"] {
            properties = properties.set_column_encoding(
                vec![column, "list", "item"].into_iter().map(String::from).collect::<Vec<_>>().into(),
                encoding,
            );
        }
    }
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties.build())).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    batch
}

/// Whether a statement's scan is DataFusion's own.
async fn is_datafusions(ctx: &SessionContext, sql: &str) -> bool {
    let plan = ctx.sql(sql).await.expect(sql).create_physical_plan().await.expect(sql);
    let is_own = |scan: &FileScanConfig| scan.file_source().is::<ParquetSource>();
    plan.exists(|node| {
        let scan = node.downcast_ref::<DataSourceExec>().and_then(|scan| scan.data_source().downcast_ref());
        Ok(scan.is_some_and(is_own))
    })
    .expect("a plan")
}

async fn one(ctx: &SessionContext, sql: &str) -> RecordBatch {
    let frame = ctx.sql(sql).await.expect(sql);
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.expect(sql);
    concat_batches(batches.first().map_or(&schema, |batch| batch.schema_ref()), &batches).expect("one schema")
}

/// Both sessions give the same rows for some statements over the file `t`.
async fn same(case: &Case, statements: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.parquet");
    let written = write(case, &path);
    let mut options = SessionOptions::default();
    options.config = options.config.with_target_partitions(case.partitions).with_batch_size(case.batch);
    options.config.options_mut().optimizer.repartition_file_min_size = 1;
    let ours = datafusion_embed::session(options).expect("a session");
    let theirs = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let name = path.to_str().expect("a path");
    theirs.register_parquet("t", name, ParquetReadOptions::default()).await.expect("registered");
    for sql in statements {
        let (here, there) = (sql.replace("{t}", &format!("'{name}'")), sql.replace("{t}", "t"));
        assert_eq!(is_datafusions(&ours, &here).await, case.is_variable, "{here}");
        let (here, there) = (one(&ours, &here).await, one(&theirs, &there).await);
        assert_eq!(here.num_rows(), written.num_rows());
        for (name, (a, b)) in here.schema().fields().iter().zip(here.columns().iter().zip(there.columns())) {
            let row = (0..a.len()).find(|&row| a.slice(row, 1) != b.slice(row, 1));
            assert_eq!(
                row,
                None,
                "{sql}: {name} of {} rows: {:?}",
                a.len(),
                row.map(|row| (a.slice(row, 1), b.slice(row, 1)))
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn rows_are_those_of_datafusions_reader(case in case()) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let statements = [
            "SELECT * FROM {t} ORDER BY -id",
            "SELECT id, w FROM {t} ORDER BY -id",
            "SELECT w, text, id, v FROM {t} ORDER BY -id",
            "SELECT array_length(v) AS length FROM {t} ORDER BY length",
        ];
        runtime.block_on(same(&case, &statements));
    }
}

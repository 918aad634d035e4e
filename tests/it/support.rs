//! What the integration tests share: sessions, runs, and how a vector column is read.

use std::collections::BTreeMap;
use std::fs;
#[cfg(unix)]
use std::io;
use std::path::Path;
use std::sync::Arc;
#[cfg(unix)]
use std::thread;

use datafusion::arrow::array::{Array, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema};
use datafusion::arrow::util::display::array_value_to_string;
#[cfg(feature = "cluster")]
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
#[cfg(feature = "cluster")]
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_embed::{Access, EmbedOptions};

/// A new session with `embed`, SELECT from file names, and SHOW.
pub(crate) fn session(target_partitions: usize, batch_size: usize) -> SessionContext {
    let config = layout(target_partitions, batch_size).with_information_schema(true);
    let ctx = SessionContext::new_with_config(config).enable_url_table();
    datafusion_embed::register(&ctx).expect("register");
    ctx
}

/// Everything but the network is allowed, and nobody is told.
pub(crate) fn offline() -> Access {
    Access::default().with_offline(true)
}

/// A configuration for a layout.
pub(crate) fn layout(target_partitions: usize, batch_size: usize) -> SessionConfig {
    // A plan that cannot be lifted would be slow and nothing else.
    datafusion_embed::stages::fail_on_broken_rule();
    SessionConfig::new().with_target_partitions(target_partitions).with_batch_size(batch_size)
}

/// A new session with `embed` on a model so small that thousands of texts take a moment.
pub(crate) fn tiny_session(target_partitions: usize, batch_size: usize) -> SessionContext {
    let ctx = SessionContext::new_with_config(layout(target_partitions, batch_size));
    datafusion_embed::register_with(&ctx, tiny_options()).expect("registered");
    ctx
}

/// The settings of [`tiny_session`].
pub(crate) fn tiny_options() -> EmbedOptions {
    EmbedOptions::default().model("tests/fixtures/tiny-bert")
}

/// Says that a test is skipped, because a program is not there.
#[cfg(unix)]
pub(crate) fn skipped(program: &str, next: &str) {
    let test = thread::current();
    let line = format!("SKIPPED: {}: {program} is not here ({next})\n", test.name().unwrap_or("a test"));
    // Not by a macro: the harness would keep what a test that passes prints that way.
    io::Write::write_all(&mut io::stderr(), line.as_bytes()).expect("standard error");
}

/// Copies a folder with all that is below it, into one that may be there.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a new file")),
        }
    }
}

/// Texts that went through a model of this session.
pub(crate) async fn embedded(ctx: &SessionContext) -> i64 {
    count(ctx, "SELECT coalesce(sum(rows_embedded), 0) FROM embed_models()").await
}

/// Rows as text, cell by cell.
pub(crate) fn rows_as_text(batches: &[RecordBatch], cell: impl Fn(&dyn Array, usize) -> String) -> Vec<String> {
    let row = |batch: &RecordBatch, row: usize| {
        batch.columns().iter().map(|column| cell(column, row)).collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|r| row(batch, r)).collect::<Vec<_>>()).collect()
}

/// [`rows_of`] in the order of the text.
pub(crate) fn sorted_rows(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = rows_of(batches);
    rows.sort();
    rows
}

/// Rows as text, every bit of a vector in it.
pub(crate) fn rows_of(batches: &[RecordBatch]) -> Vec<String> {
    let cell = |column: &dyn Array, row: usize| match column.data_type() {
        _ if column.is_null(row) => "NULL".to_owned(),
        DataType::FixedSizeList(_, _) => {
            let vector = column.as_fixed_size_list().value(row);
            vector.as_primitive::<Float32Type>().values().iter().map(|x| format!("{:08x}", x.to_bits())).collect()
        }
        DataType::Float32 => format!("{:08x}", column.as_primitive::<Float32Type>().value(row).to_bits()),
        _ => array_value_to_string(column, row).expect("a value"),
    };
    rows_as_text(batches, cell)
}

/// Runs a statement and gives its rows.
pub(crate) async fn run(ctx: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    let frame = ctx.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    frame.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The plan of a query.
pub(crate) async fn physical(ctx: &SessionContext, sql: &str) -> Arc<dyn ExecutionPlan> {
    ctx.sql(sql).await.expect(sql).create_physical_plan().await.expect(sql)
}

/// The bytes of a plan.
#[cfg(feature = "cluster")]
pub(crate) fn bytes_of(plan: Arc<dyn ExecutionPlan>) -> Result<Vec<u8>> {
    use datafusion_proto::bytes::physical_plan_to_bytes_with_extension_codec;
    let bytes = physical_plan_to_bytes_with_extension_codec(plan, &datafusion_embed::EmbedCodec::default())?;
    Ok(bytes.to_vec())
}

/// The plan in bytes, as a session reads it that did not make it.
#[cfg(feature = "cluster")]
pub(crate) fn plan_from(bytes: &[u8], ctx: &SessionContext) -> Result<Arc<dyn ExecutionPlan>> {
    use datafusion_proto::bytes::physical_plan_from_bytes_with_extension_codec;
    let codec = datafusion_embed::EmbedCodec::default();
    physical_plan_from_bytes_with_extension_codec(bytes, &ctx.task_ctx(), &codec)
}

/// Runs a query that one session plans in another one, which gets nothing of it but bytes.
#[cfg(feature = "cluster")]
pub(crate) async fn run_elsewhere(
    here: &SessionContext,
    there: &SessionContext,
    sql: &str,
) -> Result<Vec<RecordBatch>> {
    let plan = here.sql(sql).await?.create_physical_plan().await?;
    collect(plan_from(&bytes_of(plan)?, there)?, there.task_ctx()).await
}

/// Runs a query of one Int64 value.
pub(crate) async fn count(ctx: &SessionContext, sql: &str) -> i64 {
    let batches = run(ctx, sql).await;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).expect("a row");
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

/// The bits of the vectors of a query `id, vector`, by id; `None` for NULL.
pub(crate) async fn vectors_by_id(ctx: &SessionContext, sql: &str) -> BTreeMap<i64, Option<Vec<u32>>> {
    let mut found = BTreeMap::new();
    for batch in run(ctx, sql).await {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let vectors = batch.column(1).as_fixed_size_list();
        for row in 0..batch.num_rows() {
            let vector = vectors.is_valid(row).then(|| {
                let values = vectors.value(row);
                values.as_primitive::<Float32Type>().values().iter().map(|x| x.to_bits()).collect()
            });
            assert!(found.insert(ids.value(row), vector).is_none(), "an id comes once");
        }
    }
    found
}

/// A table `texts(id, body)` in memory, in record batches of the given size.
pub(crate) fn register_texts(ctx: &SessionContext, texts: &[Option<String>], batch_rows: usize) {
    use datafusion::arrow::array::Int64Array;
    use datafusion::datasource::MemTable;

    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("body", DataType::Utf8, true)]));
    let ids: Vec<i64> = (0..texts.len() as i64).collect();
    let batches: Vec<_> = ids
        .chunks(batch_rows)
        .zip(texts.chunks(batch_rows))
        .map(|(ids, texts)| {
            let columns: Vec<Arc<dyn Array>> =
                vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(texts.iter().collect::<StringArray>())];
            RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch")
        })
        .collect();
    let table = MemTable::try_new(schema, vec![batches]).expect("a table");
    ctx.register_table("texts", Arc::new(table)).expect("registered");
}

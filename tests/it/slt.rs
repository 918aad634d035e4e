//! `tests/slt/*.slt`: SQL and what it must give, each file in a new session at several partition counts and batch sizes.
//!
//! A cell is printed as DataFusion prints it, NULL as `NULL` and the empty string as `(empty)`. An error is matched against
//! the text that a program sees.

use std::path::PathBuf;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionContext;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tempfile::TempDir;

use crate::support::session;

/// A session as sqllogictest sees it.
struct Database {
    ctx: SessionContext,
    /// Where the rows of its tables go, so that they are files; or they stay in memory.
    folder: Option<TempDir>,
}

impl Database {
    fn new(ctx: SessionContext) -> Self {
        Self { ctx, folder: None }
    }

    /// What was a table in memory is one in a file.
    async fn move_tables(&self, folder: &TempDir) -> Result<()> {
        let state = self.ctx.state();
        let default = &state.config_options().catalog;
        let schema = self.ctx.catalog(&default.default_catalog).and_then(|c| c.schema(&default.default_schema));
        let schema = schema.expect("the schema of a session");
        for name in schema.table_names() {
            let table = schema.table(&name).await?.expect("a table that is listed");
            if !table.is::<MemTable>() {
                continue;
            }
            let file = folder.path().join(format!("{name}.parquet")).display().to_string();
            for sql in [
                format!("COPY \"{name}\" TO '{file}'"),
                format!("DROP TABLE \"{name}\""),
                format!("CREATE EXTERNAL TABLE \"{name}\" STORED AS PARQUET LOCATION '{file}'"),
            ] {
                self.ctx.sql(&sql).await?.collect().await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl AsyncDB for Database {
    type Error = DataFusionError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>> {
        let frame = self.ctx.sql(sql).await?;
        let types: Vec<_> = frame.schema().fields().iter().map(|field| column_type(field.data_type())).collect();
        let batches = frame.collect().await?;
        if let Some(folder) = &self.folder {
            self.move_tables(folder).await?;
        }
        if types.is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        let mut rows = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                rows.push(cells(batch, row)?);
            }
        }
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "datafusion-embed"
    }
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        data_type if data_type.is_integer() => DefaultColumnType::Integer,
        data_type if data_type.is_floating() => DefaultColumnType::FloatingPoint,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    }
}

fn cells(batch: &RecordBatch, row: usize) -> Result<Vec<String>> {
    let cell = |column: &dyn Array| -> Result<String> {
        if column.is_null(row) {
            return Ok("NULL".to_owned());
        }
        let text = array_value_to_string(column, row)?;
        Ok(if text.is_empty() { "(empty)".to_owned() } else { text })
    };
    batch.columns().iter().map(|column| cell(column)).collect()
}

/// The files, in the order of their names.
fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("tests/slt").expect("the folder of this test");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "slt")).collect();
    files.sort();
    assert!(!files.is_empty(), "no .slt file in tests/slt");
    files
}

/// A row as words, and the numbers in it that are no whole ones.
fn words_and_numbers(row: &str) -> (Vec<&str>, Vec<f64>) {
    let is_edge = |c: char| c.is_whitespace() || "[],{}".contains(c);
    let words = row.split(is_edge).filter(|word| !word.is_empty());
    let (numbers, words): (Vec<_>, Vec<_>) = words.partition(|word| word.contains('.') && word.parse::<f64>().is_ok());
    (words, numbers.iter().filter_map(|number| number.parse().ok()).collect())
}

/// Rows that are the same but for the last digits of their numbers.
fn about_the_same(_: sqllogictest::Normalizer, actual: &[Vec<String>], expected: &[String]) -> bool {
    let is_same = |(actual, expected): (&Vec<String>, &String)| {
        let actual = actual.join(" ");
        let ((words, numbers), (others, expected)) = (words_and_numbers(&actual), words_and_numbers(expected));
        let near = numbers.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 2e-5 * b.abs().max(1.0));
        words == others && numbers.len() == expected.len() && near
    };
    actual.len() == expected.len() && actual.iter().zip(expected).all(is_same)
}

/// Everything once over the path of the GPUs, on candle's CPU device: what compares bits or names the device is left out.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_device_path() {
    for file in files() {
        let connect = || async {
            let ctx = session(2, 7);
            ctx.sql("SET embed.device = 'candle'").await?.collect().await?;
            Ok(Database::new(ctx))
        };
        let mut runner = Runner::new(connect);
        runner.add_label("candle");
        runner.with_validator(about_the_same);
        if let Err(error) = runner.run_file_async(&file).await {
            panic!("on candle's CPU device: {error}");
        }
    }
}

/// The same on a cluster, with all tables in files.
#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster() {
    // What ran is counted by executor there, see tests/it/cluster.rs.
    for file in files().into_iter().filter(|file| !file.ends_with("models.slt")) {
        let connect = || async {
            let folder = Some(TempDir::new()?);
            Ok(Database { ctx: crate::cluster::session_there(), folder })
        };
        let mut runner = Runner::new(connect);
        runner.add_label("cluster");
        if let Err(error) = runner.run_file_async(&file).await {
            panic!("on a cluster: {error}");
        }
    }
}

async fn run_files(target_partitions: usize) {
    for file in files() {
        for batch_size in [1, 7, 8192] {
            let connect = || async { Ok(Database::new(session(target_partitions, batch_size))) };
            let mut runner = Runner::new(connect);
            // Types are checked as well: an integer that became text prints the same.
            runner.with_column_validator(sqllogictest::strict_column_validator);
            if let Err(error) = runner.run_file_async(&file).await {
                panic!("{target_partitions} partitions, batches of {batch_size}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_1_partition() {
    run_files(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_2_partitions() {
    run_files(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_8_partitions() {
    run_files(8).await;
}

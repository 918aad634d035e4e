//! How fast vectors are written, and read again, by how they are stored: no model runs.
//!
//! The rows are in memory, in two partitions of record batches of 8192: an id, and a vector whose values look like those of a model
//! (`--dim`), or the vectors of a Parquet file with a column `v` (`--file`), which are what sizes should be measured on.
//! *before* is DataFusion's way with dictionaries off, which is how this crate wrote until 0.1: zstd, statistics by page, one row
//! group after the other. `cpu` is what all cores together took for it.
//!
//! `cargo bench --bench export -- --rows 1000000 --dim 256`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use std::{env, fs};

use datafusion::arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use datafusion_embed::SessionOptions;

mod account;
use account::account;

const BATCH: usize = 8192;

/// Name, options of COPY, and whether the session writes as before.
const WAYS: [(&str, &str, bool); 6] = [
    ("before", "'compression' 'zstd(3)', 'statistics_enabled' 'page'", true),
    ("default", "", false),
    ("zstd(3)", "'vector_compression' 'zstd(3)'", false),
    ("byte_stream_split, zstd(1)", "'vector_encoding' 'byte_stream_split'", false),
    ("float16", "'vector_storage' 'float16'", false),
    ("float16, byte_stream_split", "'vector_storage' 'float16', 'vector_encoding' 'byte_stream_split'", false),
];

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a bench shows its numbers")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let text = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    let number = |name: &str, otherwise: usize| text(name).map_or(otherwise, |n| n.parse().expect("a number"));
    let (rows, dim) = (number("--rows", if is_bench { 1_000_000 } else { 1000 }), number("--dim", 256));
    let folder = tempfile::tempdir().expect("a folder");
    let batches = match text("--file") {
        Some(file) => from_file(&file).await?,
        None => made_up(rows, dim),
    };
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let repeat = if is_bench { 3 } else { 1 };
    println!("{rows} rows, {}", batches[0].schema().field(1).data_type());
    println!("| stored | write s | its cpu s | MB | read s |\n|---|---|---|---|---|");
    for (name, options, is_before) in WAYS {
        let (mut written, mut read) = (Vec::new(), Vec::new());
        let file = folder.path().join("v.parquet");
        for _ in 0..repeat {
            written.push(write(&batches, &file, options, is_before).await?);
            read.push(scan(&file).await?);
        }
        written.sort_by(|a, b| a.0.total_cmp(&b.0));
        read.sort_by(f64::total_cmp);
        let (seconds, cpu) = written[repeat / 2];
        let size = fs::metadata(&file).expect("written").len() as f64 / 1e6;
        println!("| {name} | {seconds:.2} | {cpu:.2} | {size:.1} | {:.2} |", read[repeat / 2]);
    }
    Ok(())
}

fn session(is_before: bool) -> Result<SessionContext> {
    let mut options = SessionOptions::default();
    options.config = options.config.with_target_partitions(2);
    if is_before {
        let parquet = &mut options.config.options_mut().execution.parquet;
        let datafusion = datafusion::common::config::ParquetOptions::default();
        parquet.maximum_parallel_row_group_writers = datafusion.maximum_parallel_row_group_writers;
        parquet.maximum_buffered_record_batches_per_stream = datafusion.maximum_buffered_record_batches_per_stream;
    }
    datafusion_embed::session(options)
}

/// Seconds and those of all cores together.
async fn write(batches: &[RecordBatch], file: &Path, options: &str, is_before: bool) -> Result<(f64, f64)> {
    let ctx = session(is_before)?;
    let (left, right) = batches.split_at(batches.len() / 2);
    let table = MemTable::try_new(batches[0].schema(), vec![left.to_vec(), right.to_vec()])?;
    ctx.register_table("t", Arc::new(table))?;
    let options = if options.is_empty() { String::new() } else { format!("OPTIONS ({options})") };
    let (start, busy) = (Instant::now(), account("self", "cpu"));
    ctx.sql(&format!("COPY (SELECT id, v FROM t) TO '{}' {options}", file.display())).await?.collect().await?;
    Ok((start.elapsed().as_secs_f64(), account("self", "cpu") - busy))
}

/// Seconds to read all vectors.
async fn scan(file: &Path) -> Result<f64> {
    let ctx = session(false)?;
    let start = Instant::now();
    ctx.sql(&format!("SELECT count(v), max(v[1]) FROM '{}'", file.display())).await?.collect().await?;
    Ok(start.elapsed().as_secs_f64())
}

async fn from_file(file: &str) -> Result<Vec<RecordBatch>> {
    let ctx = session(false)?;
    ctx.sql(&format!("SELECT row_number() OVER () AS id, v FROM '{file}'")).await?.collect().await
}

/// Vectors of length 1 with the spread of a model's.
fn made_up(rows: usize, dim: usize) -> Vec<RecordBatch> {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vector = DataType::FixedSizeList(Arc::clone(&item), dim as i32);
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("v", vector, true)]));
    let (mut state, scale) = (0x9e37_79b9_7f4a_7c15_u64, 1.0 / (dim as f32).sqrt());
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // The sum of four is round enough.
        let parts = [0, 16, 32, 48].map(|shift| ((state >> shift) & 0xffff) as f32 / 32768.0 - 1.0);
        parts.iter().sum::<f32>() * 0.87 * scale
    };
    let batch = |start: usize| {
        let length = BATCH.min(rows - start);
        let ids: Int64Array = (start as i64..(start + length) as i64).collect();
        let values: Float32Array = (0..length * dim).map(|_| next()).collect::<Vec<f32>>().into();
        let vectors = FixedSizeListArray::new(Arc::clone(&item), dim as i32, Arc::new(values), None);
        let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(vectors)];
        RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch")
    };
    (0..rows).step_by(BATCH).map(batch).collect()
}

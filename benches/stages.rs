//! Each stage alone, on one thread: where the time of `embed(text)` goes.
//!
//! Texts are the bodies of `sql/docs.parquet`, as they come. Items are tokens, so the counters read tokens per second.
//! Left out: DataFusion itself, Parquet, and the pool that runs several batches at once; `benches/sql.rs` has them.
//!
//! `cargo bench --bench stages`

use datafusion::arrow::array::AsArray;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use datafusion_embed::Precision;
use datafusion_embed::stages::{ModelBatch, Stages};
use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

/// The first 64 bodies of the sample.
fn texts() -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let batches = runtime.block_on(async {
        let ctx = SessionContext::new();
        ctx.register_parquet("docs", "sql/docs.parquet", ParquetReadOptions::default()).await?;
        ctx.sql("SELECT body FROM docs WHERE body IS NOT NULL ORDER BY id LIMIT 64").await?.collect().await
    });
    let batches = batches.expect("sql/docs.parquet");
    batches.iter().flat_map(|batch| batch.column(0).as_string_view().iter().flatten()).map(str::to_owned).collect()
}

#[divan::bench]
fn texts_to_tokens(bencher: divan::Bencher<'_, '_>) {
    let stages = Stages::load(Precision::F32).expect("the bundled model");
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let tokens = stages.tokenize(&texts).expect("tokens").tokens();
    bencher.counter(ItemsCount::new(tokens)).bench_local(|| stages.tokenize(&texts));
}

/// Planning a query without `embed`, in a session that has it and in one that does not: what being there costs.
#[divan::bench(args = [false, true])]
fn planning_without_embed(bencher: divan::Bencher<'_, '_>, registered: bool) {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let ctx = SessionContext::new();
    if registered {
        datafusion_embed::register(&ctx).expect("registered");
    }
    let sql = "SELECT lang, count(*), max(id) FROM docs JOIN topics USING (topic) WHERE id % 3 = 1 GROUP BY lang ORDER BY lang";
    let prepare = async {
        ctx.register_parquet("docs", "sql/docs.parquet", ParquetReadOptions::default()).await?;
        ctx.sql("CREATE TABLE topics AS SELECT DISTINCT topic FROM docs").await?.collect().await
    };
    runtime.block_on(prepare).expect("sql/docs.parquet");
    let plan = || async { ctx.sql(sql).await?.create_physical_plan().await };
    bencher.bench_local(|| runtime.block_on(plan()).expect("a plan"));
}

/// Model batches of different lengths: what is lost on small ones is what `embed.batch_tokens` is there for.
#[divan::bench(args = [1, 4, 16, 64])]
fn tokens_to_vectors(bencher: divan::Bencher<'_, '_>, batch_size: usize) {
    let mut stages = Stages::load(Precision::F32).expect("the bundled model");
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let batch = stages.tokenize(&texts[..batch_size]).expect("tokens");
    bencher.counter(ItemsCount::new(batch.tokens())).bench_local(|| stages.encode(&batch));
}

/// Tokens per text of one model batch of 512: what attention, which grows with a text's square, adds.
const LENGTHS: [usize; 6] = [8, 32, 64, 128, 256, 512];

#[divan::bench(args = LENGTHS)]
fn lengths_in_f32(bencher: divan::Bencher<'_, '_>, tokens: usize) {
    encode_texts_of(bencher, Precision::F32, tokens);
}

#[divan::bench(args = LENGTHS)]
fn lengths_in_bf16(bencher: divan::Bencher<'_, '_>, tokens: usize) {
    encode_texts_of(bencher, Precision::Bf16, tokens);
}

#[divan::bench(args = LENGTHS)]
fn lengths_in_int8(bencher: divan::Bencher<'_, '_>, tokens: usize) {
    encode_texts_of(bencher, Precision::Int8, tokens);
}

fn encode_texts_of(bencher: divan::Bencher<'_, '_>, precision: Precision, tokens: usize) {
    let mut stages = Stages::load(precision).expect("the bundled model");
    let batch = ModelBatch::made_up(512 / tokens, tokens);
    bencher.counter(ItemsCount::new(batch.tokens())).bench_local(|| stages.encode(&batch));
}

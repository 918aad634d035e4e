//! Vectors that are kept: what keeping them costs a cold run, and what a warm run gains.
//!
//! * *cold*: `COPY (SELECT id, embed(body) ...)` with all-MiniLM-L6-v2, without a folder and with an empty one, in turns;
//!   the ratio is of the medians.
//! * *half-warm*: the same where every other text is there already.
//! * *warm*: the look-ups alone, with `max(v[1])` in the place of a sink, and the export to Parquet; a static model of 384 dimensions filled
//!   the folder, because computing a million vectors is not what is measured.
//!
//! Left out: a cold page cache, and the hash of the model's files, which a process computes once (in *cold* it is
//! inside). `cargo bench --bench cache -- --rows 320 --entries 1000000`

use std::path::Path;
use std::time::Instant;
use std::{env, fs};

use datafusion::error::Result;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_embed::{EmbedOptions, cache, register_with};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let bench = arguments.iter().any(|argument| argument == "--bench");
    let number = |name: &str, otherwise: usize| {
        let value = arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
        value.map_or(otherwise, |n| n.parse().expect("a number"))
    };
    let (rows, repeat) = (number("--rows", if bench { 320 } else { 4 }), if bench { 5 } else { 1 });
    let entries = number("--entries", if bench { 1_000_000 } else { 1000 });
    let folder = tempfile::tempdir().expect("a folder");
    cold(folder.path(), rows, repeat).await?;
    warm(folder.path(), entries).await
}

/// A session with a folder, `None` for none, and a model, empty for the bundled one.
fn session(cache: Option<&Path>, model: &str) -> Result<SessionContext> {
    let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2)).enable_url_table();
    let mut options = EmbedOptions::default().cache(cache.map(|path| path.display().to_string()).unwrap_or_default());
    if !model.is_empty() {
        options = options.model(model);
    }
    register_with(&ctx, options)?;
    Ok(ctx)
}

async fn seconds(ctx: &SessionContext, sql: &str) -> Result<f64> {
    let start = Instant::now();
    ctx.sql(sql).await?.collect().await?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::print_stdout, reason = "a bench shows its numbers")]
async fn cold(folder: &Path, rows: usize, repeat: usize) -> Result<()> {
    let copy = |filter: &str| {
        let out = folder.join("out.parquet");
        format!(
            "COPY (SELECT id, embed(body) FROM 'sql/docs.parquet' WHERE id <= {rows} {filter}) TO '{}'",
            out.display()
        )
    };
    // The model is loaded before the clock starts.
    seconds(&session(None, "")?, &copy("AND id = 1")).await?;
    let (mut without, mut with, mut half) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..repeat {
        without.push(seconds(&session(None, "")?, &copy("")).await?);
        with.push(seconds(&session(Some(&folder.join(format!("cold{run}"))), "")?, &copy("")).await?);
        let cache = folder.join(format!("half{run}"));
        seconds(&session(Some(&cache), "")?, &copy("AND id % 2 = 0")).await?;
        half.push(seconds(&session(Some(&cache), "")?, &copy("")).await?);
    }
    let (without, with, half) = (median(without), median(with), median(half));
    println!("{rows} rows, all-MiniLM-L6-v2, 2 partitions, median of {repeat}");
    println!(
        "without a folder {without:.3} s, cold {with:.3} s ({:.3}), half-warm {half:.3} s ({:.3})",
        with / without,
        half / without
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a bench shows its numbers")]
async fn warm(folder: &Path, entries: usize) -> Result<()> {
    let (model, cache) = (folder.join("model"), folder.join("warm"));
    static_model(&model);
    let (model, texts) = (model.display().to_string(), folder.join("texts.parquet").display().to_string());
    let rows = format!("SELECT i AS id, concat('text ', i) AS body FROM generate_series(1, {entries}) AS t(i)");
    seconds(&session(None, &model)?, &format!("COPY ({rows}) TO '{texts}'")).await?;
    let look = format!("SELECT max(v[1]) FROM (SELECT embed(body) AS v FROM '{texts}')");
    let export =
        format!("COPY (SELECT id, embed(body) AS v FROM '{texts}') TO '{}'", folder.join("v.parquet").display());
    let filled = seconds(&session(Some(&cache), &model)?, &look).await?;
    let usage = &cache::usage(&cache.display().to_string())?[0];
    let (looked, exported) = (
        seconds(&session(Some(&cache), &model)?, &look).await?,
        seconds(&session(Some(&cache), &model)?, &export).await?,
    );
    let rate = |seconds: f64| usage.entries as f64 / seconds;
    println!("{} entries of {} values, 2 partitions", usage.entries, usage.dim);
    println!(
        "filled at {:.0} rows/s, looked up at {:.0} rows/s, exported at {:.0} rows/s",
        rate(filled),
        rate(looked),
        rate(exported)
    );
    println!("{:.0} bytes on disk per vector", usage.bytes as f64 / usage.entries as f64);
    Ok(())
}

/// A model2vec model whose tokens are the digits.
fn static_model(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("written");
    let vocabulary: serde_json::Map<_, _> = ["[UNK]", "text", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
        .into_iter()
        .enumerate()
        .map(|(i, token)| (token.to_owned(), i.into()))
        .collect();
    let tokens = vocabulary.len();
    write(
        "modules.json",
        json!([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}])
            .to_string(),
    );
    write("tokenizer.json", json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": true}]},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    }).to_string());
    let header = json!({"embeddings": {"dtype": "F32", "shape": [tokens, 384], "data_offsets": [0, tokens * 384 * 4]}})
        .to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..tokens * 384).flat_map(|i| ((i * 2_654_435_761 % 2001) as f32 / 1000.0 - 1.0).to_le_bytes()));
    fs::write(folder.join("model.safetensors"), bytes).expect("written");
}

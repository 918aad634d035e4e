//! DataFusion's own SQL test files, with and without this crate in the session: the same answers and the same plans.
//!
//! The files come with the package datafusion-sqllogictest, which cargo fetches and nobody builds. There is no `embed` in
//! them, so that what lifts it must not show. Statements are run in two sessions side by side and their results compared,
//! errors included; what the files themselves expect is DataFusion's business.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_embed::register;
use serde_json::Value;
use sqllogictest::{DefaultColumnType, Record, parse_file};

use crate::support::rows_as_text;

/// How the names of the files begin that are run.
const TOPICS: &[&str] = &[
    "aggregate",
    "alias",
    "case",
    "coalesce",
    "count_star",
    "cse",
    "cte",
    "distinct_on",
    // Conditions that DataFusion does not lose. The plans in delete.slt and update.slt are ours on purpose.
    "dml_delete",
    "dml_update",
    "eliminate",
    "explain.",
    "expr",
    "filter",
    "functional",
    "group",
    "in_list",
    "intersection",
    "join",
    "lateral",
    "limit",
    "null_aware",
    "order",
    "predicates",
    "projection",
    "propagate",
    "push_down",
    "pwmj",
    "qualify",
    "same_column",
    "select",
    "simplify",
    "sort",
    "subquery",
    "topk",
    "type_coercion",
    "union",
    "unnest",
    "wildcard",
    "window",
];

/// What gives another answer each time, or leaves something behind.
const SKIPPED: &[&str] =
    &["random()", "now()", "uuid()", "current_", "scratch", "explain analyze", "copy ", "show ", "information_schema"];

/// The folder of the files, fetched if need be.
fn folder() -> PathBuf {
    let directory = tempfile::tempdir().expect("temporary directory");
    let manifest = directory.path().join("Cargo.toml");
    let text = "[package]\nname = \"corpus\"\nversion = \"0.0.0\"\n[lib]\npath = \"lib.rs\"\n\
                [dependencies]\ndatafusion-sqllogictest = \"=55.2.0\"\n[workspace]\n";
    fs::write(&manifest, text).expect("a manifest");
    fs::write(directory.path().join("lib.rs"), "").expect("a source");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version", "1", "--manifest-path"];
    let output = Command::new(cargo).args(arguments).arg(&manifest).output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "datafusion-sqllogictest").expect("the package");
    PathBuf::from(package["manifest_path"].as_str().expect("a path")).with_file_name("test_files")
}

fn session(with_embed: bool) -> SessionContext {
    datafusion_embed::stages::fail_on_broken_rule();
    let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(4));
    if with_embed {
        register(&ctx).expect("registered");
    }
    ctx
}

/// Rows as sorted text; sums of floats depend on the order of their parts in the last digits.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let cell = |column: &dyn Array, row: usize| {
        let text = array_value_to_string(column, row).unwrap_or_else(|error| error.to_string());
        match text.parse::<f64>() {
            Ok(number) if column.data_type().is_floating() => format!("{number:.9e}"),
            _ => text,
        }
    };
    let mut rows = rows_as_text(batches, cell);
    rows.sort();
    rows
}

async fn answer(ctx: &SessionContext, sql: &str) -> Result<Vec<String>, String> {
    // The kind of an error: the rest names operators by number, or functions that there are.
    let message = |error: DataFusionError| {
        let text = error.strip_backtrace();
        text.split(':').next().unwrap_or_default().to_owned()
    };
    let frame = ctx.sql(sql).await.map_err(message)?;
    let mut rows = frame.collect().await.map(|batches| rows(&batches)).map_err(message)?;
    // EXPLAIN VERBOSE lists the rules that ran; these are ours.
    rows.retain(|row| {
        !row.starts_with("physical_plan after embed_file_order|SAME TEXT AS ABOVE")
            && !row.starts_with("logical_plan after embed_row_changes|SAME TEXT AS ABOVE")
            && !row.contains("logical_plan after embed_literals|SAME TEXT AS ABOVE")
    });
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fetches DataFusion's test files; .ci/run runs it"]
async fn statements_without_embed_give_the_same_answers_and_plans() {
    let folder = folder();
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("test files").map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.ends_with(".slt") && TOPICS.iter().any(|topic| name.starts_with(topic))
    });
    files.sort();
    let (mut answers, mut plans, mut failures, mut different) = (0, 0, 0, Vec::new());
    for file in &files {
        let Ok(records) = parse_file::<DefaultColumnType>(file) else { continue };
        let (plain, with_embed) = (session(false), session(true));
        for record in records {
            let (Record::Statement { sql, .. } | Record::Query { sql, .. }) = record else { continue };
            let lower = sql.to_lowercase();
            if SKIPPED.iter().any(|skipped| lower.contains(skipped)) {
                continue;
            }
            let (expected, found) = (answer(&plain, &sql).await, answer(&with_embed, &sql).await);
            match expected {
                expected if expected != found => {
                    different.push(format!("{}: {sql}\n{found:.2000?}\nnot {expected:.2000?}", file.display()));
                }
                Ok(_) if lower.starts_with("explain") => plans += 1,
                Ok(_) => answers += 1,
                Err(_) => failures += 1,
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    // What reads files that the package leaves out fails in both sessions; most does not.
    assert!(
        answers > 3000 && plans > 500,
        "{answers} answers, {plans} plans, {failures} errors in {} files",
        files.len()
    );
}

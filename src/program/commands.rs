//! `embedsql models` and `embedsql cache`: what is here, fetching ahead, trying one out; what a folder of vectors holds,
//! whether it is right, and how it gets smaller. Printed as results are, in any format.

use std::io::{self, Write};
use std::sync::Arc;

use clap::CommandFactory;
use clap_complete::Shell;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::common::config::FormatOptions;

use super::args::{Args, CacheAction, ModelsAction};
use super::downloads;
use super::failure::Failure;
use super::output::{Output, Unfinished};
use super::print::{Printer, Shape};
use super::screen::View;
use crate::Access;
use crate::cache::{self, CacheUse, Pruned};
use crate::models::{self, ModelCheck, PrecisionCheck};

/// Does what `embedsql models` asks for.
pub(crate) fn models(args: &Args, action: Option<&ModelsAction>) -> Result<(), Failure> {
    let access = downloads::access(args.quiet, |_| {});
    written(args, |output| match action {
        None => print(args, output, &list_models()?),
        Some(ModelsAction::Pull { name }) => print(args, output, &pull(name, &access)?),
        Some(ModelsAction::Check { name }) => check(args, output, name, &access),
    })
}

/// Opens the output for what is written to it, and finishes it if that went well.
fn written(args: &Args, write: impl FnOnce(&Output) -> Result<(), Failure>) -> Result<(), Failure> {
    let outputs = Unfinished::default();
    let output = outputs.open("--output", args.output.as_deref())?;
    outputs.finish(&output, write(&output))
}

/// The models of this machine.
pub(crate) fn list_models() -> Result<RecordBatch, Failure> {
    let known = models::known();
    rows(&[
        ("model", known.iter().map(|model| Some(model.name.clone())).collect()),
        ("source", known.iter().map(|model| Some(model.source.clone())).collect()),
        ("revision", known.iter().map(|model| model.revision.clone()).collect()),
        ("size", known.iter().map(|model| (model.bytes > 0).then(|| size(model.bytes))).collect()),
        ("loaded", known.iter().map(|model| Some(model.loaded.join(", ")).filter(|l| !l.is_empty())).collect()),
    ])
}

fn pull(name: &str, access: &Access) -> Result<RecordBatch, Failure> {
    let revision = models::pull(name, access).map_err(failed)?;
    rows(&[("model", vec![Some(name.to_owned())]), ("revision", vec![revision])])
}

/// Two tables: what the model is, and how it does in each precision.
fn check(args: &Args, output: &Output, name: &str, access: &Access) -> Result<(), Failure> {
    let check = models::check(name, access).map_err(failed)?;
    let facts = facts(&check);
    let (names, values): (Vec<_>, Vec<_>) = facts.into_iter().map(|(name, value)| (Some(name), Some(value))).unzip();
    print(args, output, &rows(&[("property", names), ("value", values)])?)?;
    let rows = rows(&[
        ("precision", check.precisions.iter().map(|(precision, _)| Some(precision.to_string())).collect()),
        ("cosine_mean", found(&check, |found| format!("{:.6}", found.cosine.1))),
        ("cosine_least", found(&check, |found| format!("{:.6}", found.cosine.0))),
        ("tokens_per_second", found(&check, |found| format!("{:.0}", found.tokens_per_second))),
        ("load_ms", found(&check, |found| found.load.as_millis().to_string())),
        ("memory", found(&check, |found| size(found.bytes as u64))),
        ("error", check.precisions.iter().map(|(_, found)| found.as_ref().err().map(ToString::to_string)).collect()),
    ])?;
    print(args, output, &rows)
}

/// A column over the precisions; nothing where one does not run.
fn found(check: &ModelCheck, value: fn(&PrecisionCheck) -> String) -> Vec<Option<String>> {
    check.precisions.iter().map(|(_, found)| found.as_ref().ok().map(value)).collect()
}

fn facts(check: &ModelCheck) -> Vec<(String, String)> {
    let limit = check.max_tokens.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    let mut facts = vec![
        ("model", check.name.clone()),
        ("source", check.source.clone()),
        ("revision", check.revision.clone().unwrap_or_else(|| "none".to_owned())),
        ("fingerprint", check.fingerprint.clone()),
        ("architecture", check.architecture.clone()),
        ("pooling", check.pooling.clone()),
        ("assumed", check.assumption.clone().unwrap_or_default()),
        ("modules", check.modules.join(", ")),
        ("dim", check.dim.to_string()),
        ("max_tokens", limit),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    let prompts = check.prompts.iter().map(|(function, prompt)| (format!("prompt of {function}"), prompt.clone()));
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(prompts).collect()
}

/// Does what `embedsql cache` asks for.
pub(crate) fn cache(args: &Args, action: &CacheAction) -> Result<(), Failure> {
    written(args, |output| {
        let rows = match action {
            CacheAction::Stats { directory } => stats(directory)?,
            CacheAction::Verify { directory } => {
                let (right, damaged) = cache::verify(directory).map_err(failed)?;
                rows(&[cell("right", right.to_string()), cell("damaged", damaged.to_string())])?
            }
            CacheAction::Prune { directory, to } => {
                let pruned = cache::prune(directory, *to as u64).map_err(failed)?;
                print(args, output, &rows(&[cell("left", size(pruned.bytes))])?)?;
                return all_went(directory, &pruned);
            }
            CacheAction::Clear { directory } => return all_went(directory, &cache::clear(directory).map_err(failed)?),
        };
        print(args, output, &rows)
    })
}

/// An error where something was to go and stayed.
fn all_went(directory: &str, pruned: &Pruned) -> Result<(), Failure> {
    let [first, more @ ..] = pruned.stayed.as_slice() else { return Ok(()) };
    let more = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
    let held = size(pruned.bytes);
    Err(Failure::Statement(format!("cache \"{directory}\" still holds {held}: could not remove {first}{more}")))
}

fn cell(name: &str, value: String) -> (&str, Vec<Option<String>>) {
    (name, vec![Some(value)])
}

fn stats(directory: &str) -> Result<RecordBatch, Failure> {
    let usage = cache::usage(directory).map_err(failed)?;
    let column = |value: fn(&CacheUse) -> String| usage.iter().map(|space| Some(value(space))).collect();
    rows(&[
        ("model", column(|space| space.model.clone())),
        ("fingerprint", column(|space| space.fingerprint.chars().take(16).collect())),
        ("precision", column(|space| space.precision.clone())),
        ("prompt", column(|space| space.prompt.clone())),
        ("dim", column(|space| space.dim.to_string())),
        ("entries", column(|space| space.entries.to_string())),
        ("size", column(|space| size(space.bytes))),
    ])
}

/// Bytes for people: `43.3 MiB`.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4) as usize;
    match power {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / (1u64 << (10 * power)) as f64, units[power]),
    }
}

/// Rows of texts, column by column.
fn rows(columns: &[(&str, Vec<Option<String>>)]) -> Result<RecordBatch, Failure> {
    let columns = columns.iter().map(|(name, values)| {
        let values: ArrayRef = Arc::new(values.iter().map(Option::as_deref).collect::<StringArray>());
        (*name, values, true)
    });
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// Prints rows in the format of the command line.
fn print(args: &Args, output: &Output, rows: &RecordBatch) -> Result<(), Failure> {
    let shape = Shape { schema: rows.schema(), is_plan: false };
    let screen = output.screen(View { max_rows: 0, ..args.view() });
    let mut printer = Printer::new(args.format, shape, false, FormatOptions::default(), screen);
    printer.batch(rows, &mut |bytes| output.write(bytes))?;
    printer.finish(&mut |bytes| output.write(bytes))
}

/// What makes a shell complete the flags.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "embedsql", &mut text);
    Ok(io::stdout().lock().write_all(&text)?)
}

/// The manual page.
pub(crate) fn man() -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Args::command()).render(&mut text)?;
    Ok(io::stdout().lock().write_all(&text)?)
}

/// An error of the library as this program reports it.
fn failed(error: crate::Error) -> Failure {
    Failure::Statement(error.to_string())
}

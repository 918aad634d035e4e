//! `embedsql models`: what is here, fetching ahead, trying one out. Printed as results are, in any format.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::common::config::FormatOptions;
use datafusion_embed::{Access, ModelCheck, check_model, known_models, pull_model};

use crate::args::{Args, ModelsAction};
use crate::downloads;
use crate::error::Failure;
use crate::output::Output;
use crate::print::{Printer, Shape};

/// Does what the command line asks for.
pub(crate) fn run(args: &Args, action: Option<&ModelsAction>) -> Result<(), Failure> {
    let access = downloads::access(args.quiet, |_| {});
    written(args, |output| match action {
        None => print(args, output, &list()?),
        Some(ModelsAction::Pull { name }) => print(args, output, &pull(name, &access)?),
        Some(ModelsAction::Check { name }) => check(args, output, name, &access),
    })
}

/// Opens the output for what is written to it, and finishes it if that went well.
pub(crate) fn written(args: &Args, write: impl FnOnce(&Output) -> Result<(), Failure>) -> Result<(), Failure> {
    let output = Output::open(args.output.as_deref())?;
    match write(&output) {
        Ok(()) => output.finish(),
        Err(failure) => {
            output.discard();
            Err(failure)
        }
    }
}

/// The models of this machine.
pub(crate) fn list() -> Result<RecordBatch, Failure> {
    let models = known_models();
    rows(&[
        ("model", models.iter().map(|model| Some(model.name.clone())).collect()),
        ("source", models.iter().map(|model| Some(model.source.clone())).collect()),
        ("revision", models.iter().map(|model| model.revision.clone()).collect()),
        ("size", models.iter().map(|model| (model.bytes > 0).then(|| size(model.bytes))).collect()),
        ("loaded", models.iter().map(|model| Some(model.loaded.join(", ")).filter(|l| !l.is_empty())).collect()),
    ])
}

fn pull(name: &str, access: &Access) -> Result<RecordBatch, Failure> {
    let revision = pull_model(name, access).map_err(failed)?;
    rows(&[("model", vec![Some(name.to_owned())]), ("revision", vec![revision])])
}

/// Two tables: what the model is, and how it does in each precision.
fn check(args: &Args, output: &Output, name: &str, access: &Access) -> Result<(), Failure> {
    let check = check_model(name, access).map_err(failed)?;
    let facts = facts(&check);
    let (names, values): (Vec<_>, Vec<_>) = facts.into_iter().map(|(name, value)| (Some(name), Some(value))).unzip();
    print(args, output, &rows(&[("property", names), ("value", values)])?)?;
    let column = |value: fn(&datafusion_embed::PrecisionCheck) -> String| {
        check.precisions.iter().map(|(_, found)| found.as_ref().ok().map(value)).collect()
    };
    let rows = rows(&[
        ("precision", check.precisions.iter().map(|(precision, _)| Some(precision.to_string())).collect()),
        ("cosine_mean", column(|found| format!("{:.6}", found.cosine.1))),
        ("cosine_least", column(|found| format!("{:.6}", found.cosine.0))),
        ("tokens_per_second", column(|found| format!("{:.0}", found.tokens_per_second))),
        ("load_ms", column(|found| found.load.as_millis().to_string())),
        ("memory", column(|found| size(found.bytes as u64))),
        ("error", check.precisions.iter().map(|(_, found)| found.as_ref().err().map(ToString::to_string)).collect()),
    ])?;
    print(args, output, &rows)
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

/// Bytes for people: `43.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4) as usize;
    match power {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / (1u64 << (10 * power)) as f64, units[power]),
    }
}

/// Rows of texts, column by column.
pub(crate) fn rows(columns: &[(&str, Vec<Option<String>>)]) -> Result<RecordBatch, Failure> {
    let columns = columns.iter().map(|(name, values)| {
        let values: ArrayRef = Arc::new(values.iter().map(Option::as_deref).collect::<StringArray>());
        (*name, values, true)
    });
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// Prints rows in the format of the command line.
pub(crate) fn print(args: &Args, output: &Output, rows: &RecordBatch) -> Result<(), Failure> {
    let shape = Shape { schema: rows.schema(), is_plan: false };
    let mut printer = Printer::new(args.format, shape, false, FormatOptions::default());
    printer.batch(rows, &mut |bytes| output.write(bytes))?;
    printer.finish(&mut |bytes| output.write(bytes))
}

/// An error of the library as this program reports it.
pub(crate) fn failed(error: datafusion_embed::Error) -> Failure {
    Failure::Statement(error.to_string())
}

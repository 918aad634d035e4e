//! What can end a statement or the program, said in one line, and the exit code that goes with it.

use std::any::Any;
use std::error::Error;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use sqlparser::parser::ParserError;

/// Why something did not run to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong, or a file named there cannot be read: exit code 2.
    Usage(String),
    /// A statement, or writing its result, failed: exit code 1.
    Statement(String),
    /// A thread panicked; the panic hook has already reported it: exit code 1.
    Panic,
    /// Ctrl-C: exit code 130, as a shell reports a program killed by SIGINT.
    Interrupted,
    /// The reader of our output went away (`embedsql ... | head -1`). It has what it wanted: exit code 0.
    ClosedPipe,
}

impl Failure {
    /// Writes the error line, if this failure has one, and gives the exit code of the program.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Failure::Usage(message) => {
                report(message);
                ExitCode::from(2)
            }
            Failure::Statement(message) => {
                report(message);
                ExitCode::from(1)
            }
            Failure::Panic => ExitCode::from(1),
            Failure::Interrupted => ExitCode::from(130),
            Failure::ClosedPipe => ExitCode::SUCCESS,
        }
    }

    /// Puts the place of the statement before the message of a failed statement.
    pub(crate) fn at(self, place: &str) -> Self {
        match self {
            Failure::Statement(message) => Failure::Statement(format!("{place}: {message}")),
            other => other,
        }
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        Failure::Statement(one_line(&error))
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Failure::Statement(tidy(&arrow_message(&error)))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Statement(format!("output: {error}")),
        }
    }
}

/// Writes `error: message` on standard error. A closed standard error leaves nobody to tell.
pub(crate) fn report(message: &str) {
    let _ = writeln!(io::stderr().lock(), "error: {message}");
}

/// Makes a panic, which is always a bug, one line as well: no thread names, no backtrace.
pub(crate) fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let message = panic_message(info.payload());
        let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        report(&tidy(&format!("internal error: {message}{place}")));
    }));
}

/// At the end of a failed run tasks are torn down in the middle of their work; what they say then is of no interest.
pub(crate) fn ignore_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

fn panic_message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic")
}

/// The root message of an error, on one line, without the layers DataFusion wraps around it.
pub(crate) fn one_line(error: &DataFusionError) -> String {
    let message = root_message(error);
    missing_table(&message).unwrap_or_else(|| tidy(&message))
}

/// Walks down to the message a person can act on.
fn root_message(error: &DataFusionError) -> String {
    match error {
        DataFusionError::Context(text, inner) if keeps_context(text) => format!("{text}: {}", root_message(inner)),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root_message(inner),
        DataFusionError::Shared(inner) => root_message(inner),
        DataFusionError::Collection(errors) => errors.first().map(root_message).unwrap_or_default(),
        DataFusionError::External(inner) => external_message(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => arrow_message(inner),
        DataFusionError::SQL(inner, _) => parser_message(inner),
        DataFusionError::ResourcesExhausted(text) => {
            format!("out of memory: {text} (the limit is --memory-limit or datafusion.runtime.memory_limit)")
        }
        DataFusionError::Internal(text) => format!("internal error of DataFusion: {text}"),
        other => other.message().into_owned(),
    }
}

/// Most contexts name an optimizer rule, which helps nobody here; these two name the file or the bad value.
fn keeps_context(text: &str) -> bool {
    text.starts_with("Error when processing CSV file") || text.starts_with("Error parsing '")
}

fn external_message(error: &(dyn Error + Send + Sync + 'static)) -> String {
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        root_message(inner)
    } else if let Some(inner) = error.downcast_ref::<Arc<DataFusionError>>() {
        root_message(inner)
    } else if let Some(inner) = error.downcast_ref::<ArrowError>() {
        arrow_message(inner)
    } else {
        error.to_string()
    }
}

fn arrow_message(error: &ArrowError) -> String {
    match error {
        ArrowError::ExternalError(inner) => external_message(inner.as_ref()),
        other => other.to_string(),
    }
}

fn parser_message(error: &ParserError) -> String {
    match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => format!("syntax error: {text}"),
        ParserError::RecursionLimitExceeded => {
            "syntax error: nested too deeply (datafusion.sql_parser.recursion_limit)".to_owned()
        }
    }
}

/// A quoted file name in FROM is looked up as a table, and so "table not found" is what DataFusion says of a missing file.
fn missing_table(message: &str) -> Option<String> {
    let name = message.strip_prefix("table 'datafusion.public.")?.strip_suffix("' not found")?;
    if !name.contains(['/', '.']) {
        return Some(format!("table \"{name}\" not found"));
    }
    Some(match std::path::Path::new(name).exists() {
        false => format!("file \"{name}\" not found"),
        true => format!(
            "file \"{name}\" is of no known type (known: .parquet, .csv, .json, .arrow; or CREATE EXTERNAL TABLE)"
        ),
    })
}

/// Prefixes that name the layer an error passed through, not what is wrong.
const NOISE: [&str; 12] = [
    "External error: ",
    "External: ",
    "Execution error: ",
    "Error during planning: ",
    "Arrow error: ",
    "Arrow: ",
    "Parquet error: ",
    "Compute error: ",
    "Object Store error: ",
    "Invalid argument error: ",
    "This feature is not implemented: ",
    "Invalid or Unsupported Configuration: ",
];

/// Removes leading noise, puts all lines on one, and makes control characters harmless.
pub(crate) fn tidy(message: &str) -> String {
    let mut rest = message.trim_start();
    while let Some(stripped) = NOISE.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = stripped.trim_start();
    }
    let lines: Vec<&str> = rest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    lines.join(" ").chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_root_message_only() {
        let root = DataFusionError::Execution("row 17: text has 9214 tokens".to_owned());
        let arrow = ArrowError::ExternalError(Box::new(root));
        let shared = DataFusionError::Shared(Arc::new(DataFusionError::from(arrow)));
        let error = shared.context("Optimizer rule 'simplify_expressions' failed");
        assert_eq!(one_line(&error), "row 17: text has 9214 tokens");
    }

    #[test]
    fn joins_lines_and_strips_nested_noise() {
        assert_eq!(tidy("Execution error: External error: a\n  b\n\nc\x1b[0m"), "a b c\\u{1b}[0m");
    }

    #[test]
    fn says_file_where_datafusion_says_table() {
        let error = DataFusionError::Plan("table 'datafusion.public.no/such.parquet' not found".to_owned());
        assert_eq!(one_line(&error), "file \"no/such.parquet\" not found");
        let error = DataFusionError::Plan("table 'datafusion.public.news' not found".to_owned());
        assert_eq!(one_line(&error), "table \"news\" not found");
    }
}

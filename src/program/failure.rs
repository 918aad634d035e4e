//! What can end a statement or the program, said in one line, and the exit code that goes with it.

use std::any::Any;
use std::error::Error;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::object_store::Error as StoreError;
use datafusion::parquet::errors::ParquetError;
use sqlparser::parser::ParserError;
use sqlparser::tokenizer::Location;

use super::messages::{INTERNAL, is_at_end, keeps_context, missing_file, of_columns, reworded, tidy, with_place};
use super::split::Statement;
use crate::files::{Stores, shown_error};

/// Why something did not run to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong, or a file named there cannot be read: exit code 2.
    Usage(String),
    /// A statement, or writing its result, failed: exit code 1.
    Statement(String),
    /// The same for what stands at one place of the statement, and how that is shown.
    At { message: String, place: Location, shown: String },
    /// A thread panicked; the panic hook has already reported it: exit code 1.
    Panic,
    /// A Parquet file could not be read. It is a failed statement, before somebody has said which file it was.
    Parquet(String),
    /// Ctrl-C: exit code 130, as a shell reports a program killed by SIGINT.
    Interrupted,
    /// SIGTERM or SIGHUP, and the exit code that says so: 143 or 129.
    Terminated(u8),
    /// The reader of our output went away (`embedsql ... | head -1`). It has what it wanted: exit code 0.
    ClosedPipe,
}

impl Failure {
    /// Writes the error line, if this failure has one, and gives the exit code of the program.
    pub(crate) fn report(&self) -> u8 {
        match self {
            Failure::Usage(message) => {
                report(message);
                2
            }
            Failure::Statement(message) | Failure::Parquet(message) => {
                report(message);
                1
            }
            Failure::At { message, shown, .. } => {
                report(message);
                if !shown.is_empty() {
                    note(shown);
                }
                1
            }
            Failure::Panic => 1,
            Failure::Interrupted => 130,
            Failure::Terminated(code) => *code,
            Failure::ClosedPipe => 0,
        }
    }

    /// Puts the name of the file, if it is known, before the message about a Parquet file.
    pub(crate) fn in_file(self, file: &Option<String>) -> Self {
        match (self, file) {
            // An input/output error may as well be about a file that is written, and says itself which.
            (Failure::Parquet(message), Some(file)) if !message.contains("os error") => {
                Failure::Statement(format!("file {file:?}: {message}"))
            }
            (Failure::Parquet(message), _) => Failure::Statement(message),
            (other, _) => other,
        }
    }

    /// What would be wrong usage on the command line is a failed statement among statements.
    pub(crate) fn of_statement(self) -> Self {
        match self {
            Failure::Usage(message) => Failure::Statement(message),
            other => other,
        }
    }

    /// Without the place, of a text that nobody has typed.
    pub(crate) fn without_place(self) -> Self {
        match self {
            Failure::At { message, .. } => Failure::Statement(message),
            other => other,
        }
    }

    /// Changes the message.
    pub(crate) fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Failure::Statement(message) => Failure::Statement(change(message)),
            Failure::At { message, place, shown } => Failure::At { message: change(message), place, shown },
            Failure::Parquet(message) => Failure::Parquet(change(message)),
            other => other,
        }
    }

    /// Takes out what nobody is to see.
    pub(crate) fn masked(self, stores: &Stores) -> Self {
        self.map(|message| stores.masked(&message))
    }

    /// Finds its place in the source of a statement, of which it may know the one in the statement's own text, and adds what is
    /// shown of it, which `show` gives.
    pub(crate) fn pointed(self, statement: &Statement, show: impl FnOnce(Location) -> Option<String>) -> Self {
        let place = match &self {
            Failure::At { place, .. } => Some(statement.place(*place)),
            // Where something is missing.
            Failure::Statement(message) if is_at_end(message) => Some(statement.end()),
            Failure::Statement(message) => missing_file(message).and_then(|file| statement.place_of(file)),
            _ => None,
        };
        match (self, place) {
            (Failure::Statement(message) | Failure::At { message, .. }, Some(place)) => {
                Failure::At { message, place, shown: show(place).unwrap_or_default() }
            }
            (other, _) => other,
        }
    }

    /// Puts a file and a line of it before the message, and a column where the failure knows its place there.
    pub(crate) fn at(self, file: &str, line: u64) -> Self {
        let place = match &self {
            Failure::At { place, .. } => format!("{file}:{}:{}", place.line, place.column),
            _ => format!("{file}:{line}"),
        };
        self.within(&place)
    }

    /// Puts where something was asked for before the message of what failed there.
    pub(crate) fn within(self, place: &str) -> Self {
        self.map(|message| format!("{place}: {message}"))
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        let message = one_line(&error);
        if is_parquet(&error) {
            return Failure::Parquet(message);
        }
        if let Some((message, place)) = with_place(&message) {
            return Failure::At { message: message.to_owned(), place, shown: String::new() };
        }
        match place(&error) {
            Some(place) => Failure::At { message, place, shown: String::new() },
            None => Failure::Statement(message),
        }
    }
}

/// Where the planner says that an error is.
fn place(error: &DataFusionError) -> Option<Location> {
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    let span = span.or_else(|| match error.find_root() {
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { field, .. } | SchemaError::AmbiguousReference { field } => {
                field.spans().first()
            }
            _ => None,
        },
        _ => None,
    });
    // Line 0 is none.
    span.filter(|span| span.start.line > 0).map(|span| Location { line: span.start.line, column: span.start.column })
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

/// Says what went wrong and did not end anything. Where nobody reads standard error there is nobody to warn.
pub(crate) fn warn(message: &str) {
    let _ = writeln!(io::stderr().lock(), "warning: {message}");
}

/// Says how something went.
pub(crate) fn note(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Makes a panic, which is always a bug, one line as well: no thread names, no backtrace.
pub(crate) fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let message = panic_message(info.payload());
        // The path of a source file on the machine that built this helps nobody, unless the source is ours.
        let ours = info.location().filter(|l| l.file().starts_with("src"));
        let place = ours.map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
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
pub fn one_line(error: &DataFusionError) -> String {
    let message = root_message(error);
    reworded(&message).unwrap_or_else(|| tidy(&message))
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
        DataFusionError::ParquetError(inner) => match inner.as_ref() {
            ParquetError::External(inner) => external_message(inner.as_ref()),
            other => other.to_string(),
        },
        DataFusionError::SQL(inner, _) => parser_message(inner),
        DataFusionError::SchemaError(inner, _) => of_columns(inner),
        DataFusionError::ResourcesExhausted(text) => {
            format!("out of memory: {text} (the limit is --memory-limit or datafusion.runtime.memory_limit)")
        }
        DataFusionError::ObjectStore(error) => shown_error(error),
        DataFusionError::Internal(text) => format!("{INTERNAL}{text}"),
        other => other.message().into_owned(),
    }
}

fn external_message(error: &(dyn Error + Send + Sync + 'static)) -> String {
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        root_message(inner)
    } else if let Some(inner) = error.downcast_ref::<Arc<DataFusionError>>() {
        root_message(inner)
    } else if let Some(inner) = error.downcast_ref::<ArrowError>() {
        arrow_message(inner)
    } else if let Some(inner) = error.downcast_ref::<StoreError>() {
        shown_error(inner)
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

/// Is the root of this error what the Parquet crate says?
fn is_parquet(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::ParquetError(_) => true,
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::ParquetError(_) => true,
            ArrowError::ExternalError(inner) => is_parquet_inside(inner.as_ref()),
            _ => false,
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => is_parquet(inner),
        DataFusionError::Shared(inner) => is_parquet(inner),
        DataFusionError::Collection(errors) => errors.first().is_some_and(is_parquet),
        DataFusionError::External(inner) => is_parquet_inside(inner.as_ref()),
        _ => false,
    }
}

fn is_parquet_inside(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.is::<ParquetError>()
        || error.downcast_ref::<DataFusionError>().is_some_and(is_parquet)
        || error.downcast_ref::<Arc<DataFusionError>>().is_some_and(|inner| is_parquet(inner))
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
    fn says_file_where_datafusion_says_table() {
        let error = DataFusionError::Plan("table 'datafusion.public.no/such.parquet' not found".to_owned());
        assert_eq!(one_line(&error), "file \"no/such.parquet\" not found");
        let error = DataFusionError::Plan("table 'datafusion.public.news' not found".to_owned());
        assert_eq!(one_line(&error), "table \"news\" not found");
    }
}

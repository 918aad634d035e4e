//! What DataFusion says where this program says something else. Every text that is looked for is here.
//!
//! They were read in the sources of DataFusion 55.2. One that changed would not be found any more, and nothing else would
//! fail: so a test holds the version. When it fails, look for each text in the new sources, and then raise it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::files::{FileKind, expand_home};

/// How a message begins, and what is said in its place, made of what follows. `None` leaves it as it is.
type Row = (&'static str, fn(&str) -> Option<String>);

/// Messages that only DataFusion's developers can read.
const REWORDED: [Row; 4] = [
    // datafusion, session_state.rs, and datafusion-sql, relation/mod.rs
    ("table 'datafusion.public.", missing_table),
    // datafusion, session_state.rs
    ("There is no registered file format with ext ", unknown_format),
    // datafusion-sql, statement.rs
    ("Format not explicitly set and unable to get file extension", no_format),
    // datafusion, session_state.rs, and datafusion-physical-expr, planner.rs
    ("Physical plan does not support logical expression Wildcard", star),
];

/// What begins a message of DataFusion about itself here.
pub(crate) const INTERNAL: &str = "internal error of DataFusion: ";

/// Contexts that name the file or the bad value; most name an optimizer rule, which helps nobody here.
const KEPT_CONTEXTS: [&str; 2] = [
    // datafusion-datasource-csv, file_format.rs
    "Error when processing CSV file",
    // datafusion-common, config.rs
    "Error parsing '",
];

/// What is said when the files of a COPY could not be completed, and not why: datafusion-datasource, write/orchestration.rs.
const UNFINISHED: &str = "while finalizing writes";

const FORMATS: &str =
    "known: parquet, csv, arrow, and json, which is one object per line; STORED AS chooses one for any name";

fn known() -> String {
    format!("known: {}; or CREATE EXTERNAL TABLE", FileKind::known_endings())
}

/// Prefixes that name the layer an error passed through, not what is wrong: the Displays of the errors of datafusion-common,
/// arrow, parquet and object_store, and of this crate's own store.
const NOISE: [&str; 15] = [
    "External error: ",
    "External: ",
    "Execution error: ",
    "Error during planning: ",
    "Arrow error: ",
    "Arrow: ",
    "Parquet error: ",
    "Parquet argument error: ",
    "Compute error: ",
    "Object Store error: ",
    "Generic LocalFileSystem error: ",
    "Generic Whole error: ",
    "Invalid argument error: ",
    "This feature is not implemented: ",
    "Invalid or Unsupported Configuration: ",
];

/// What this program says in the place of a message, if it says something else.
pub(crate) fn reworded(message: &str) -> Option<String> {
    let message = message.strip_prefix(INTERNAL).unwrap_or(message);
    if let Some(said) = no_function(message) {
        return Some(said);
    }
    let (rest, say) = REWORDED.iter().find_map(|(begin, say)| Some((message.strip_prefix(begin)?, say)))?;
    say(rest)
}

/// A function that has no form for these types. DataFusion lists what each form wanted, and calls it a bug of its own; these
/// texts are those of datafusion-expr, type_coercion/functions.rs and utils.rs.
fn no_function(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("No function matches the given name and argument types '")?;
    let (call, rest) = rest.split_once("'. You might need to add explicit type casts.")?;
    let forms: Vec<&str> = rest.trim_start().strip_prefix("Candidate functions:")?.split_whitespace().collect();
    let name = call.split('(').next()?;
    let is_of_lists = call.contains("List(");
    let way = match name {
        "avg" | "sum" | "median" | "stddev" | "var" if is_of_lists => format!(
            "; for the {name} of each place of vectors, unnest them with their places: SELECT i, {name}(x) FROM (SELECT \
             unnest(v) AS x, unnest(range(1, array_length(v) + 1)) AS i FROM ...) GROUP BY i"
        ),
        _ => String::new(),
    };
    Some(format!("no function {call}; there is {}{way}", forms.join(" ").replace(") ", "), ")))
}

/// Whether a context belongs to the message.
pub(crate) fn keeps_context(text: &str) -> bool {
    KEPT_CONTEXTS.iter().any(|begin| text.starts_with(begin))
}

/// Whether a message only says that files could not be completed.
pub(crate) fn is_unfinished(message: &str) -> bool {
    message.contains(UNFINISHED)
}

/// A quoted file name in FROM is looked up as a table, and so "table not found" is what DataFusion says of every file that
/// it cannot use, whatever the reason.
fn missing_table(rest: &str) -> Option<String> {
    let name = rest.strip_suffix("' not found")?;
    if let Some((scheme, _)) = name.split_once("://").filter(|(scheme, _)| *scheme != "file") {
        return Some(unknown_scheme(name, scheme));
    }
    let path = expand_home(name.strip_prefix("file://").unwrap_or(name));
    let path = Path::new(path.as_ref());
    if path.is_dir() {
        let what = match fs::read_dir(path) {
            Ok(_) => format!("directory \"{name}\" holds no files of a known type ({})", known()),
            Err(error) => format!("directory \"{name}\": {}", io_message(&error)),
        };
        // A table may have been meant.
        return Some(if name.contains(['/', '.']) { what } else { format!("table \"{name}\" not found, and {what}") });
    }
    if !name.contains(['/', '.']) {
        return Some(format!("table \"{name}\" not found"));
    }
    Some(match File::open(path) {
        Ok(_) => format!("file \"{name}\" is of no known type ({})", known()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => format!("file \"{name}\" not found"),
        Err(error) => format!("file \"{name}\": {}", io_message(&error)),
    })
}

fn unknown_scheme(url: &str, scheme: &str) -> String {
    format!("\"{url}\": {scheme}:// is not known (known: s3, gs, az, abfs, http, https, file)")
}

/// The message of an input/output error without the number that std adds.
fn io_message(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn unknown_format(extension: &str) -> Option<String> {
    Some(format!("COPY: \"{extension}\" is no known file format ({FORMATS})"))
}

fn no_format(_: &str) -> Option<String> {
    Some(format!("COPY: the name of the file has no extension that says its format ({FORMATS})"))
}

fn star(_: &str) -> Option<String> {
    Some("* is no argument of this function: name a column (only count takes *)".to_owned())
}

/// Removes leading noise, puts all lines on one, and makes control characters harmless.
pub(crate) fn tidy(message: &str) -> String {
    let mut rest = message.trim_start();
    while let Some(stripped) = NOISE.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = stripped.trim_start();
    }
    let lines: Vec<&str> = rest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    escape(&lines.join(" "))
}

/// Keeps a text on one line and the terminal in its state.
pub(crate) fn escape(text: &str) -> String {
    escaped(text, char::is_control)
}

/// The same for a text that may have several lines.
pub(crate) fn escape_within_lines(text: &str) -> String {
    escaped(text, |c| c.is_control() && c != '\n')
}

fn escaped(text: &str, is_wrong: impl Fn(char) -> bool) -> String {
    if !text.contains(&is_wrong) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_wrong(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_were_read_in_this_version() {
        let version = datafusion::DATAFUSION_VERSION;
        assert!(version.starts_with("55.2."), "{version}: see the head of this file");
    }

    #[test]
    fn joins_lines_and_strips_nested_noise() {
        assert_eq!(tidy("Execution error: External error: a\n  b\n\nc\x1b[0m"), "a b c\\u{1b}[0m");
    }

    #[test]
    fn a_function_without_a_form_for_these_types_is_no_bug() {
        let message = format!(
            "{INTERNAL}Function 'avg' failed to match any signature, errors: ...This issue was likely caused by a bug.\nNo \
             function matches the given name and argument types 'avg(FixedSizeList(3 x Float32))'. You might need to add \
             explicit type casts.\n\tCandidate functions:\n\tavg(Decimal)\n\tavg(Float64)"
        );
        let said = reworded(&message).expect("another text");
        assert!(said.starts_with(
            "no function avg(FixedSizeList(3 x Float32)); there is avg(Decimal), avg(Float64); for the avg"
        ));
        assert!(!said.contains("bug"), "{said}");
    }

    #[test]
    fn a_row_is_found_behind_what_it_begins_with_only() {
        let table = "table 'datafusion.public.ftp://a/x.csv' not found";
        assert_eq!(reworded(&format!("{INTERNAL}{table}")), Some(unknown_scheme("ftp://a/x.csv", "ftp")));
        assert_eq!(reworded("row 7: There is no registered file format with ext x"), None);
        assert_eq!(reworded("table 'datafusion.public.t' was dropped"), None);
    }
}

//! What DataFusion says where this program says something else. Every text that is looked for is here.
//!
//! They were read in the sources of DataFusion 55.2. One that changed would not be found any more, and nothing else would
//! fail: so a test holds the version. When it fails, look for each text in the new sources, and then raise it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use datafusion::common::utils::quote_identifier;
use datafusion::common::{Column, SchemaError};
use sqlparser::tokenizer::Location;

use super::near::{did_you_mean, nearest};
use crate::files::{FileKind, expand_home};

/// How a message begins, and what is said in its place, made of what follows. `None` leaves it as it is.
type Row = (&'static str, fn(&str) -> Option<String>);

/// Messages that say what the engine did and not what is wrong, or not what to do about it.
const REWORDED: [Row; 37] = [
    // datafusion, session_state.rs, and datafusion-sql, relation/mod.rs
    ("table 'datafusion.public.", missing_table),
    // datafusion, session_state.rs
    ("table function '", |rest| Some(format!("no table function {:?}", rest.strip_suffix("' not found")?))),
    ("There is no registered file format with ext ", |extension| {
        Some(format!("COPY: \"{extension}\" is no known file format ({FORMATS})"))
    }),
    // datafusion-sql, statement.rs
    ("Format not explicitly set and unable to get file extension", |_| {
        Some(format!("COPY: the name of the file has no extension that says its format ({FORMATS})"))
    }),
    ("Unsupported SQL statement: ", |rest| Some(format!("{} is no statement here", keywords(rest)))),
    // datafusion-sql, relation/mod.rs and expr/mod.rs
    ("Unsupported ast node ", |rest| {
        let node = rest.trim_start_matches("in sqltorel: ").split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        Some(format!("{} is not known here", node.to_ascii_uppercase()))
    }),
    // datafusion-sql, expr/substring.rs
    ("Substring without for/from is not valid", |_| says("substr takes a text, a start from 1 and perhaps a length")),
    // datafusion-sql, planner.rs
    ("Unsupported SQL type ", |name| {
        let hint = if name.to_lowercase().contains("vec") { ": vector('[1,2]') makes a vector of a text" } else { "" };
        Some(format!("no type {name:?}{hint}"))
    }),
    // datafusion-sql, expr/function.rs
    ("Invalid function '", no_such_function),
    // datafusion, session_state.rs, and datafusion-physical-expr, planner.rs
    ("Physical plan does not support logical expression Wildcard", |_| {
        says("* is no argument of this function: name a column (only count takes *)")
    }),
    ("Physical plan does not support logical expression WindowFunction", |_| {
        says("a window function cannot stand here: filter its values with QUALIFY, or in an outer query")
    }),
    ("Physical plan does not support logical expression AggregateFunction", |_| {
        says("an aggregate function cannot stand here: compute it in an inner query")
    }),
    // datafusion-physical-expr, aggregate.rs
    ("Aggregate can not be used as a sliding accumulator because `retract_batch` is not implemented", |_| {
        says("this aggregate function cannot take rows off again: begin the window with UNBOUNDED PRECEDING")
    }),
    // datafusion-sql, utils.rs and select.rs
    ("Column in ", not_grouped),
    ("HAVING clause references: ", |rest| {
        let what = rest.split_once(" must appear in the GROUP BY clause")?.0;
        Some(format!("HAVING is for groups: {what} has a column without GROUP BY (WHERE filters rows)"))
    }),
    // datafusion-expr, utils.rs
    ("Projections require unique expression names but the expression \"", |rest| {
        let name = rest.split_once("\" at position")?.0;
        Some(format!("two columns of the result are {name:?}: give one another name with AS"))
    }),
    // datafusion-expr, logical_plan/builder.rs and plan.rs
    ("UNION queries have different number of columns", |_| {
        says("the queries of a UNION differ in how many columns they have")
    }),
    ("Cannot create filter with non-boolean predicate '", |rest| {
        let (what, kind) = rest.split_once("' returning ")?;
        Some(format!("a condition is true or false, and {what} is {kind}"))
    }),
    ("Inconsistent data length across values list: got ", |rest| {
        let (has, rest) = rest.split_once(" values in row ")?;
        let (row, wanted) = rest.split_once(" but expected ")?;
        Some(format!("VALUES: row {} has {has} values, and {wanted} are expected", row.parse::<usize>().ok()? + 1))
    }),
    // datafusion-sql, expr/subquery.rs
    ("Too many columns! The subquery should only return one column: ", |columns| {
        Some(format!("a query in the place of a value has one column, and this one has {columns}"))
    }),
    // datafusion-physical-plan, scalar_subquery.rs
    ("Scalar subquery returned more than one row", |_| {
        says("a query in the place of a value gave more than one row: LIMIT 1, or an aggregate such as max(...)")
    }),
    // datafusion-sql, select.rs
    ("Order by column out of bounds, specified: ", |rest| {
        let (number, columns) = rest.split_once(", max: ")?;
        Some(format!("ORDER BY {number}: the result has {columns} columns"))
    }),
    // arrow-cast, cast/string.rs
    ("Cast error: Cannot cast string '", no_value),
    ("Cast error: Cannot cast value '", no_value),
    ("Cast error: Can't cast value ", |rest| {
        let (value, kind) = rest.split_once(" to type ")?;
        Some(format!("{value} is beyond what {kind} can be"))
    }),
    // arrow-cast, cast/mod.rs
    ("Unsupported CAST from ", |rest| {
        let hint = if rest.contains("List(") && rest.contains(" to Utf8") {
            ": array_to_string(list, ', ') makes one"
        } else {
            ""
        };
        Some(format!("there is no cast from {rest}{hint}"))
    }),
    // datafusion, session_state.rs
    ("Unable to find factory for ", |name| {
        Some(format!("STORED AS {name} is not known (known: PARQUET, CSV, ARROW, JSON)"))
    }),
    // datafusion-sql, statement.rs
    ("Column count doesn't match insert query!", |_| {
        says("INSERT: the query and the table differ in how many columns they have")
    }),
    // datafusion-expr-common, type_coercion/binary.rs
    ("Cannot coerce arithmetic expression ", |rest| {
        Some(format!("there is no {} (CAST(... AS ...) changes a type)", rest.strip_suffix(" to valid types")?))
    }),
    ("Cannot infer common argument type for comparison operation ", |rest| {
        Some(format!("{rest}: these types cannot be compared (CAST(... AS ...) changes a type)"))
    }),
    // datafusion, execution/context/mod.rs
    ("Table '", |rest| named("table", rest)),
    ("View '", |rest| named("view", rest)),
    // datafusion-physical-expr, planner.rs
    ("Placeholder '", |rest| {
        let name = rest.split_once("' was not provided a value")?.0;
        Some(format!("{name} has no value: PREPARE a statement, and EXECUTE it with values"))
    }),
    // datafusion-common, config.rs, and datafusion, execution/context/mod.rs
    ("Config value \"", |rest| no_setting(rest.split_once("\" not found on ")?.0)),
    ("Could not find config namespace \"", |rest| no_setting(rest.strip_suffix('"')?)),
    ("could not find config namespace for key \"", |rest| no_setting(rest.strip_suffix('"')?)),
    // datafusion-sql, statement.rs
    ("'", |rest| no_setting(rest.strip_suffix("' is not a variable which can be viewed with 'SHOW'")?)),
];

/// What is written here instead of what a syntax error stumbled over: how the statement begins, what the parser found, and the
/// way. The texts are those of sqlparser 0.62.
pub(crate) const HABITS: [(&str, &str, &str); 3] = [
    (
        "COPY",
        "found: (",
        "options are written so: COPY ... TO 'file.parquet' STORED AS PARQUET OPTIONS ('key' 'value')",
    ),
    ("COPY", "found: STDOUT", "a query writes to standard output, in the format that --format says"),
    ("COPY", "found: FROM", "a file is read so: INSERT INTO table SELECT * FROM 'file.csv'"),
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

/// Columns that a message lists.
const LISTED: usize = 20;

/// Characters of a value that a message shows.
const SHOWN: usize = 60;

const FORMATS: &str =
    "known: parquet, csv, arrow, and json, which is one object per line; STORED AS chooses one for any name";

fn known() -> String {
    format!("known: {}; or CREATE EXTERNAL TABLE", FileKind::known_endings())
}

/// Prefixes that name the layer an error passed through, not what is wrong: the Displays of the errors of datafusion-common,
/// arrow, parquet and object_store, and of this crate's own store.
const NOISE: [&str; 16] = [
    "External error: ",
    "External: ",
    "Execution error: ",
    "Error during planning: ",
    "Arrow error: ",
    "Arrow: ",
    "Parquet error: ",
    "Parquet argument error: ",
    "Compute error: ",
    "Parser error: ",
    "Object Store error: ",
    "Generic LocalFileSystem error: ",
    "Generic Whole error: ",
    "Invalid argument error: ",
    "This feature is not implemented: ",
    "Invalid or Unsupported Configuration: ",
];

/// What this program says in the place of a message, if it says something else.
pub(crate) fn reworded(message: &str) -> Option<String> {
    let message = without_noise(message.strip_prefix(INTERNAL).unwrap_or(message));
    if let Some(said) = no_function(message) {
        return Some(said);
    }
    let (rest, say) = REWORDED.iter().find_map(|(begin, say)| Some((message.strip_prefix(begin)?, say)))?;
    say(rest)
}

/// What is said of names of columns; DataFusion lists all that there are, however many.
pub(crate) fn of_columns(error: &SchemaError) -> String {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => no_column(field, valid_fields),
        SchemaError::AmbiguousReference { field } => {
            format!("column {:?} is in more than one table: put the name of its table before it", field.name)
        }
        SchemaError::DuplicateQualifiedField { qualifier, name } => {
            format!("column {name:?} of {qualifier} is there twice: give one table another name with AS")
        }
        SchemaError::DuplicateUnqualifiedField { name } => {
            format!("two columns are {name:?}: give one another name with AS")
        }
    }
}

fn no_column(field: &Column, valid: &[Column]) -> String {
    let has_table = field.relation.is_some();
    let asked = if has_table { field.flat_name() } else { field.name.clone() };
    if valid.is_empty() {
        return format!("no column {asked:?}: no table is read here (a text stands in single quotes)");
    }
    let full = |column: &Column| if has_table { column.flat_name() } else { column.name.clone() };
    let hint =
        match valid.iter().find(|column| column.name.eq_ignore_ascii_case(&field.name) && column.name != field.name) {
            Some(column) if quote_identifier(&column.name) == column.name => {
                format!("; did you mean {}, without double quotes?", column.name)
            }
            Some(column) => format!(
                "; did you mean \"{}\", in double quotes? without them a name is read in lower case",
                column.name
            ),
            None => nearest(&asked, valid.iter().map(full))
                .map_or_else(String::new, |near| format!("; {}", did_you_mean(&near))),
        };
    let is_one_table = valid.iter().all(|column| column.relation == valid[0].relation);
    let names = valid.iter().map(|column| {
        if is_one_table { quote_identifier(&column.name).into_owned() } else { column.quoted_flat_name() }
    });
    let mut names: Vec<String> = names.collect();
    if names.len() > LISTED {
        let more = names.split_off(LISTED).len();
        names.push(format!("{more} more"));
    }
    format!("no column {asked:?}{hint} (columns: {})", names.join(", "))
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
        "avg" | "sum" if is_of_lists => format!("; for vectors there is vector_{name}"),
        "median" | "stddev" | "var" if is_of_lists => format!(
            "; for the {name} of each place of vectors, unnest them with their places: SELECT i, {name}(x) FROM (SELECT \
             unnest(v) AS x, unnest(range(1, array_length(v) + 1)) AS i FROM ...) GROUP BY i"
        ),
        _ => String::new(),
    };
    Some(format!("no function {call}; there is {}{way}", forms.join(" ").replace(") ", "), ")))
}

fn says(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// The nearest name that DataFusion offers may be far.
fn no_such_function(rest: &str) -> Option<String> {
    let (name, rest) = rest.split_once('\'')?;
    let offered = rest.split_once("Did you mean '").and_then(|(_, rest)| rest.split_once('\''));
    let near = nearest(name, offered.map(|(offered, _)| offered.to_owned()));
    let hint = near.map_or_else(|| "SHOW FUNCTIONS lists them".to_owned(), |near| did_you_mean(&near));
    Some(format!("no function {name:?}; {hint}"))
}

/// `SELECT must be in GROUP BY or an aggregate function: While expanding wildcard, column "a" must appear ...`
fn not_grouped(rest: &str) -> Option<String> {
    let column = rest.split_once("column \"")?.1.split_once("\" must appear in the GROUP BY clause")?.0;
    Some(format!("{column:?} is neither in GROUP BY nor in an aggregate function, such as first_value({column})"))
}

/// `t' already exists` and `t' doesn't exist.`
fn named(kind: &str, rest: &str) -> Option<String> {
    let (name, state) = rest.split_once("' ")?;
    match state {
        "already exists" => Some(format!(
            "{kind} {name:?} is there already: CREATE OR REPLACE, CREATE ... IF NOT EXISTS, or DROP it first"
        )),
        "doesn't exist." => Some(format!("{kind} {name:?} not found")),
        _ => None,
    }
}

/// `abc' to value of Int64 type`
fn no_value(rest: &str) -> Option<String> {
    let (text, kind) = rest.rsplit_once("' to value of ")?;
    let kind = kind.strip_suffix(" type")?;
    Some(format!("'{}' is no {kind} (TRY_CAST gives NULL where a text is none)", shortened(text)))
}

fn no_setting(name: &str) -> Option<String> {
    Some(format!("no setting {name:?}; SHOW ALL lists them"))
}

/// The words of SQL that a statement begins with, two at most.
fn keywords(statement: &str) -> String {
    let words = statement.split_whitespace().take_while(|word| word.bytes().all(|b| b.is_ascii_uppercase()));
    words.take(2).collect::<Vec<_>>().join(" ")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The place that a message of the parser or of the tokenizer ends with, and what stands before it.
pub(crate) fn with_place(message: &str) -> Option<(&str, Location)> {
    let (message, place) = message.rsplit_once(" at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    Some((message, Location { line: line.parse().ok()?, column: column.trim_end_matches('.').parse().ok()? }))
}

/// Whether a message of the parser says that the text ends too early.
pub(crate) fn is_at_end(message: &str) -> bool {
    message.starts_with("syntax error") && message.ends_with("found: EOF")
}

/// The file that a message says is not there.
pub(crate) fn missing_file(message: &str) -> Option<&str> {
    let (file, _) = message.strip_prefix("file \"")?.split_once("\" not found")?;
    Some(file)
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

fn without_noise(message: &str) -> &str {
    let mut rest = message.trim_start();
    while let Some(stripped) = NOISE.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = stripped.trim_start();
    }
    rest
}

/// Removes leading noise, puts all lines on one, and makes control characters harmless.
pub(crate) fn tidy(message: &str) -> String {
    let lines: Vec<&str> = without_noise(message).lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    escape(&lines.join(" "))
}

/// Keeps a text on one line and the terminal in its state.
pub(crate) fn escape(text: &str) -> String {
    if text.contains(char::is_control) { escaped(text, char::is_control) } else { text.to_owned() }
}

/// The same for a text that may have several lines.
pub(crate) fn escape_within_lines(text: String) -> String {
    let is_wrong = |c: char| c.is_control() && c != '\n';
    // Of most texts bytes say so, and many at once.
    let is_harmless = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n'));
    if is_harmless || !text.contains(is_wrong) { text } else { escaped(&text, is_wrong) }
}

fn escaped(text: &str, is_wrong: impl Fn(char) -> bool) -> String {
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
            "no function avg(FixedSizeList(3 x Float32)); there is avg(Decimal), avg(Float64); for vectors there is vector_avg"
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

//! Where in a file it is that a reader cannot go on: looked for when it happened, so that reading well costs nothing.

use std::io::BufRead;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::json::ReaderBuilder;
use datafusion::common::config::CsvOptions;
use datafusion::error::DataFusionError;
use serde_json::Value;

use super::bytes::Reader;
use super::json::{each_value, first_error, shortened, unknown_key};
use crate::files::target::shown_error;

/// What helps against a type that was inferred from the first rows, and is that of no later one.
const LATER: &str = "its type was inferred from the rows before; to read it as text, name the columns and their types in CREATE \
                     EXTERNAL TABLE, or set 'format.schema_infer_max_rec' there to look at more rows";

/// What helps against a key that first comes after them.
const UNKNOWN: &str = "is no column, as no object had it from which the columns were inferred; name the columns and their types in \
                       CREATE EXTERNAL TABLE, or set 'format.schema_infer_max_rec' there to look at more objects; a SELECT of \
                       some of the columns passes over the key";

/// What is wrong in a CSV file that a reader gave up with `message`, and in which line; `None` where nothing is found.
pub(super) fn csv(reader: Reader, options: &CsvOptions, schema: &SchemaRef, message: &str) -> Option<String> {
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true).delimiter(options.delimiter).quote(options.quote);
    builder.escape(options.escape).comment(options.comment);
    if let Some(terminator) = options.terminator {
        builder.terminator(csv::Terminator::Any(terminator));
    }
    let unread = unread_value(message);
    let mut records = builder.from_reader(reader);
    let mut record = csv::ByteRecord::new();
    let columns = schema.fields().len();
    while records.read_byte_record(&mut record).ok()? {
        let line = record.position()?.line();
        let name = |column: usize| schema.fields().get(column).map(|field| field.name().as_str()).unwrap_or_default();
        if let Some(column) = record.iter().position(|cell| std::str::from_utf8(cell).is_err()) {
            return Some(format!(
                "line {line}, column {:?}: no UTF-8: for a file in another encoding use CREATE EXTERNAL TABLE ... OPTIONS \
                 ('format.encoding' 'latin1'), or 'utf-16'",
                name(column)
            ));
        }
        if let Some((value, kind, column)) = unread
            && record.get(column) == Some(value.as_bytes())
        {
            let (name, value) = (name(column), shortened(value));
            return Some(format!("line {line}, column {name:?}: {value:?} is no {kind}: {LATER}"));
        }
        let is_ragged = record.len() != columns && !(options.truncated_rows == Some(true) && record.len() < columns);
        if unread.is_none() && is_ragged {
            return Some(format!(
                "line {line}: {} cells, where the header has {columns}: is the delimiter right, and are texts with a delimiter \
                 quoted? ('format.truncated_rows' 'true' lets short rows pass)",
                record.len()
            ));
        }
    }
    None
}

/// What an error says, without the layers that it went through.
pub(super) fn bare(error: &DataFusionError) -> String {
    let message = match error.find_root() {
        DataFusionError::External(inner) => inner.to_string(),
        DataFusionError::ObjectStore(inner) => shown_error(inner),
        root => root.strip_backtrace(),
    };
    let mut rest = message.as_str();
    let layers = ["External: ", "Arrow error: ", "Parquet error: ", "Csv error: ", "Json error: ", "Parser error: "];
    while let Some(inner) = layers.iter().find_map(|layer| rest.strip_prefix(layer)) {
        rest = inner;
    }
    rest.to_owned()
}

/// The value, its type and its column in a message of arrow-csv 59.3: `Error while parsing value 'AB-7' as type 'Int64' for
/// column 2 at line 1201. Row data: ...`.
fn unread_value(message: &str) -> Option<(&str, &str, usize)> {
    let (_, rest) = message.split_once("Error while parsing value '")?;
    let (value, rest) = rest.split_once("' as type '")?;
    let (kind, rest) = rest.split_once("' for column ")?;
    Some((value, kind, rest.split_once(" at line ")?.0.parse().ok()?))
}

/// What is wrong in a JSON file that a reader gave up, and in which line; `None` where nothing is found.
pub(super) fn json(reader: Reader) -> Option<String> {
    first_error(reader).map(|error| error.to_string())
}

/// The first object of a valid file that has another key than these columns, or a value of another type than its column.
pub(super) fn json_value(reader: Reader, is_array: bool, schema: &SchemaRef, message: &str) -> Option<String> {
    if message.ends_with("missing from schema") {
        return json_key(reader, is_array, schema);
    }
    if is_array { None } else { json_line(reader, schema) }
}

fn json_key(reader: Reader, is_array: bool, schema: &SchemaRef) -> Option<String> {
    let (mut number, mut key) = (0, None);
    let mut is_known = |object: Value| {
        number += 1;
        key = unknown_key(&object, schema.fields());
        key.is_none()
    };
    let place = if is_array {
        each_value(reader, true, is_known).ok()?;
        "object"
    } else {
        reader.lines().map_while(Result::ok).all(|line| is_known(serde_json::from_str(&line).unwrap_or_default()));
        "line"
    };
    Some(format!("{place} {number}: the key {:?} {UNKNOWN}", key?))
}

fn json_line(mut reader: Reader, schema: &SchemaRef) -> Option<String> {
    let mut decoder = ReaderBuilder::new(SchemaRef::clone(schema)).with_batch_size(2).build_decoder().ok()?;
    let (mut line, mut text) = (0, Vec::new());
    while reader.read_until(b'\n', &mut text).ok()? > 0 {
        line += 1;
        if let Err(error) = decoder.decode(&text).and_then(|_| decoder.flush()) {
            let message = error.to_string();
            let message = message.strip_prefix("Json error: ").unwrap_or(&message);
            return Some(format!("line {line}: {}: {LATER}", shortened_message(message)));
        }
        text.clear();
    }
    None
}

/// Messages repeat values, and a value may be a whole book.
fn shortened_message(message: &str) -> String {
    const MOST: usize = 200;
    match message.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_owned(),
    }
}

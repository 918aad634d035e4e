//! Record batches to bytes, in the format asked for, batch by batch.

use std::sync::Arc;

use clap::ValueEnum;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{EncoderOptions, LineDelimited, WriterBuilder, make_encoder};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::config::FormatOptions as Settings;

use super::failure::Failure;
use super::screen::Screen;
use super::table::Table;
use crate::files::is_vector;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people; vectors shortened, NULL as NULL.
    Table,
    /// Comma-separated, with a header for each statement; a vector is one field with a JSON array, NULL is nothing and '' is "".
    Csv,
    /// Tab-separated, otherwise as csv, but NULL and '' are both nothing.
    Tsv,
    /// One array of objects for each statement.
    Json,
    /// One object per line.
    Ndjson,
    /// A table for a page, with values whole.
    Markdown,
}

/// What a statement's result looks like, as far as printing cares.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) schema: SchemaRef,
    /// A plan is text of many lines: as a table it is printed as it stands.
    pub(crate) is_plan: bool,
}

/// Where bytes go.
pub(crate) type Write<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Failure>;

/// Rows that are turned into bytes at once. Cells may be large: a batch of 8192 texts is not doubled in memory.
const SLICE: usize = 128;

/// Bytes that are written at once, unless a slice has more.
const PIECE: usize = 64 * 1024;

/// Turns the batches of one result into bytes. Holds at most one chunk of table rows.
pub(crate) struct Printer {
    shape: Shape,
    format: Format,
    row_count: bool,
    rows: usize,
    table: Table,
}

impl Printer {
    /// A printer for one result; `row_count` adds `(3 rows)` below a table, which fits the screen if there is one.
    pub(crate) fn new(
        format: Format,
        shape: Shape,
        row_count: bool,
        settings: Settings,
        screen: Option<Screen>,
    ) -> Self {
        let table = Table::new(&shape.schema, settings, screen);
        Self { shape, format, row_count, rows: 0, table }
    }

    /// Writes what this batch makes ready.
    pub(crate) fn batch(&mut self, batch: &RecordBatch, write: Write<'_>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        for start in (0..batch.num_rows()).step_by(SLICE) {
            let slice = batch.slice(start, SLICE.min(batch.num_rows() - start));
            self.slice(&slice, &mut bytes)?;
            if bytes.len() >= PIECE {
                write(&bytes)?;
                bytes.clear();
            }
        }
        match bytes.is_empty() {
            true => Ok(()),
            false => write(&bytes),
        }
    }

    /// Adds the bytes of a few rows, at least one.
    fn slice(&mut self, rows: &RecordBatch, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        let first = self.rows == 0;
        self.rows += rows.num_rows();
        match self.format {
            Format::Table if self.shape.is_plan => bytes.extend(plan_text(rows).into_bytes()),
            Format::Table => self.table.push(rows, bytes)?,
            Format::Csv => delimited(rows, b',', first, bytes)?,
            Format::Tsv => delimited(rows, b'\t', first, bytes)?,
            Format::Ndjson => bytes.extend(json_lines(rows)?),
            Format::Markdown => markdown(rows, first, bytes)?,
            Format::Json => {
                bytes.extend_from_slice(if first { b"[" } else { b",\n" });
                let lines = json_lines(rows)?;
                // A line break never occurs inside a JSON string: each one ends a row.
                let lines = lines.strip_suffix(b"\n").unwrap_or(&lines);
                for &byte in lines {
                    match byte {
                        b'\n' => bytes.extend_from_slice(b",\n"),
                        other => bytes.push(other),
                    }
                }
            }
        }
        Ok(())
    }

    /// Are there rows that have come and are not yet written?
    pub(crate) fn is_waiting(&self) -> bool {
        self.table.is_waiting()
    }

    /// Writes the rows that wait for others: nobody wants to wait longer.
    pub(crate) fn stop_waiting(&mut self, write: Write<'_>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        self.table.finish(&mut bytes);
        write(&bytes)
    }

    /// Writes what follows the last batch: rows still held, the end of the array, the header of an empty result.
    pub(crate) fn finish(&mut self, write: Write<'_>) -> Result<(), Failure> {
        let empty = self.rows == 0;
        let mut bytes = Vec::new();
        match self.format {
            Format::Table if self.shape.is_plan => {}
            Format::Table => {
                self.table.finish(&mut bytes);
                if self.row_count {
                    bytes.extend(row_count(self.rows, &self.table).into_bytes());
                }
            }
            Format::Csv if empty => header(&self.shape.schema, b',', &mut bytes),
            Format::Tsv if empty => header(&self.shape.schema, b'\t', &mut bytes),
            Format::Markdown if empty => markdown_header(&self.shape.schema, &mut bytes),
            Format::Csv | Format::Tsv | Format::Ndjson | Format::Markdown => {}
            Format::Json if empty => bytes.extend_from_slice(b"[]\n"),
            Format::Json => bytes.extend_from_slice(b"]\n"),
        }
        write(&bytes)
    }
}

/// `(3 rows)`, and what of them is not shown.
fn row_count(rows: usize, table: &Table) -> String {
    let plural = if rows == 1 { "" } else { "s" };
    let left_out = rows - table.shown();
    let of_rows =
        if left_out > 0 { format!(", {} shown; \\maxrows 0 shows all", table.shown()) } else { String::new() };
    let of_columns = table.columns_left_out();
    let of_columns = of_columns.map(|(all, shown)| format!("; {all} columns, {shown} shown; \\x shows all"));
    format!("({rows} row{plural}{of_rows}{})\n", of_columns.unwrap_or_default())
}

/// The cells of EXPLAIN as they stand, each under its plan type.
fn plan_text(batch: &RecordBatch) -> String {
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        text.push_str(&format!("-- {}\n{}\n", cell(batch, 0, row), cell(batch, 1, row).trim_end()));
    }
    text
}

fn cell(batch: &RecordBatch, column: usize, row: usize) -> &str {
    let text = batch.column(column).as_string_opt::<i32>();
    text.map(|text| text.value(row)).unwrap_or_default()
}

/// Rows as csv or tsv. Arrow's own writer refuses nested values and writes NULL and '' alike.
fn delimited(batch: &RecordBatch, delimiter: u8, with_header: bool, bytes: &mut Vec<u8>) -> Result<(), Failure> {
    let batch = with_nested_as_json(batch)?;
    if with_header {
        header(&batch.schema(), delimiter, bytes);
    }
    let options = FormatOptions::default().with_display_error(false);
    let columns: Result<Vec<_>, _> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect();
    let columns = columns?;
    // The nulls that a reader sees, also those of a column without a buffer for them (type Null) and of dictionaries.
    let nulls: Vec<_> = batch.columns().iter().map(|column| column.logical_nulls()).collect();
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        for (index, (column, nulls)) in columns.iter().zip(&nulls).enumerate() {
            if index > 0 {
                bytes.push(delimiter);
            }
            // A NULL alone on its line would be a blank line to the readers of tsv.
            let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            if is_null && (delimiter == b',' || columns.len() > 1) {
                continue;
            }
            text.clear();
            if !is_null {
                column.value(row).write(&mut text)?;
            }
            let quoted = text.is_empty() && (delimiter == b',' || columns.len() == 1);
            delimited_field(&text, delimiter, quoted, bytes);
        }
        bytes.push(b'\n');
    }
    Ok(())
}

fn header(schema: &Schema, delimiter: u8, bytes: &mut Vec<u8>) {
    for (index, field) in schema.fields().iter().enumerate() {
        if index > 0 {
            bytes.push(delimiter);
        }
        delimited_field(field.name(), delimiter, field.name().is_empty(), bytes);
    }
    bytes.push(b'\n');
}

/// Adds one field, in quotes where it must have them.
fn delimited_field(text: &str, delimiter: u8, quoted: bool, bytes: &mut Vec<u8>) {
    if !quoted && !text.bytes().any(|b| b == delimiter || matches!(b, b'"' | b'\n' | b'\r')) {
        bytes.extend_from_slice(text.as_bytes());
        return;
    }
    bytes.push(b'"');
    bytes.extend(text.replace('"', "\"\"").into_bytes());
    bytes.push(b'"');
}

/// Rows of a table as pages have it, where a line break or a bar in a cell would end it.
fn markdown(batch: &RecordBatch, with_header: bool, bytes: &mut Vec<u8>) -> Result<(), Failure> {
    if with_header {
        markdown_header(&batch.schema(), bytes);
    }
    let batch = with_nested_as_json(batch)?;
    let options = FormatOptions::default().with_null("NULL").with_display_error(false);
    let columns: Result<Vec<_>, _> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect();
    let columns = columns?;
    for row in 0..batch.num_rows() {
        let cells = columns.iter().map(|column| markdown_cell(&column.value(row).to_string())).collect::<Vec<_>>();
        bytes.extend(format!("| {} |\n", cells.join(" | ")).into_bytes());
    }
    Ok(())
}

fn markdown_header(schema: &Schema, bytes: &mut Vec<u8>) {
    let fields = schema.fields().iter();
    let names: Vec<_> = fields.clone().map(|field| markdown_cell(field.name())).collect();
    let rules: Vec<_> = fields.map(|field| if field.data_type().is_numeric() { "--:" } else { "---" }).collect();
    bytes.extend(format!("| {} |\n|{}|\n", names.join(" | "), rules.join("|")).into_bytes());
}

fn markdown_cell(text: &str) -> String {
    text.replace('|', "\\|").replace("\r\n", "\n").replace(['\n', '\r'], "<br>")
}

/// Rows as one JSON object each. A NULL is written, so that every object has every key.
fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>, Failure> {
    let batch = with_columns(batch, |field, column| match make_encoder(field, column, &EncoderOptions::default()) {
        Ok(_) => Ok(column.clone()),
        Err(_) => text_column(column),
    })?;
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&batch)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

/// The batch with lists, structs and maps as JSON texts.
fn with_nested_as_json(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    with_columns(batch, |field, column| match column.data_type().is_nested() {
        true => json_column(field, column),
        false => Ok(column.clone()),
    })
}

/// The batch with each column replaced by what `convert` makes of it.
fn with_columns(
    batch: &RecordBatch,
    convert: impl Fn(&Arc<Field>, &ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let column = convert(field, column)?;
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Each value as JSON text, with floats in the shortest form that reads back to the same bits; NaN and infinities of vectors, which JSON
/// lacks, as in other columns.
fn json_column(field: &Arc<Field>, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let Ok(mut encoder) = make_encoder(field, column, &options) else {
        return text_column(column);
    };
    let display = FormatOptions::new().with_null("null");
    let display = ArrayFormatter::try_new(column, &display)?;
    let mut text = StringBuilder::new();
    let mut cell = Vec::new();
    for row in 0..column.len() {
        if column.is_null(row) {
            text.append_null();
            continue;
        }
        if vector(column, row).is_some_and(|numbers| has_none_in_json(&numbers)) {
            text.append_value(display.value(row).to_string().replace(", ", ","));
            continue;
        }
        cell.clear();
        encoder.encode(row, &mut cell);
        text.append_value(String::from_utf8_lossy(&cell));
    }
    Ok(Arc::new(text.finish()))
}

/// The numbers of a vector; `None` for a value that is none.
fn vector(column: &ArrayRef, row: usize) -> Option<ArrayRef> {
    match column.data_type() {
        other if !is_vector(other) => None,
        DataType::FixedSizeList(_, _) => Some(column.as_fixed_size_list().value(row)),
        DataType::LargeList(_) => Some(column.as_list::<i64>().value(row)),
        _ => Some(column.as_list::<i32>().value(row)),
    }
}

/// Whether a NaN or an infinity is among some numbers.
fn has_none_in_json(numbers: &ArrayRef) -> bool {
    let numbers = cast(numbers, &DataType::Float64);
    numbers.is_ok_and(|numbers| numbers.as_primitive::<Float64Type>().iter().flatten().any(|x| !x.is_finite()))
}

/// Each value as arrow displays it: for the few types that JSON has no encoder for.
fn text_column(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::new().with_display_error(true);
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let mut text = StringBuilder::new();
    for row in 0..column.len() {
        match column.is_null(row) {
            true => text.append_null(),
            false => text.append_value(formatter.value(row).to_string()),
        }
    }
    Ok(Arc::new(text.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{FixedSizeListBuilder, Float32Builder, Int64Array, StringArray};

    fn vectors(rows: &[Option<[f32; 2]>]) -> RecordBatch {
        let mut list = FixedSizeListBuilder::new(Float32Builder::new(), 2);
        for row in rows {
            match row {
                Some(values) => list.values().append_slice(values),
                None => list.values().append_nulls(2),
            }
            list.append(row.is_some());
        }
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows.len() as i64));
        RecordBatch::try_from_iter_with_nullable([("id", ids, false), ("v", Arc::new(list.finish()) as ArrayRef, true)])
            .expect("valid batch")
    }

    fn print(format: Format, batches: &[RecordBatch]) -> String {
        let shape = Shape { schema: batches[0].schema(), is_plan: false };
        let mut printer = Printer::new(format, shape, true, Settings::default(), None);
        let mut bytes = Vec::new();
        let mut keep = |piece: &_| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        for batch in batches {
            printer.batch(batch, &mut keep).expect("printable");
        }
        printer.finish(&mut keep).expect("printable");
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn vectors_in_csv_read_back_to_the_same_bits() {
        let values = [f32::MIN_POSITIVE, 0.1f32 + 0.2f32];
        let text = print(Format::Csv, &[vectors(&[Some(values), None])]);
        let field = text.lines().nth(1).and_then(|l| l.strip_prefix("0,\"")).and_then(|l| l.strip_suffix('"'));
        let back: Vec<f32> = serde_json::from_str(field.expect("a quoted field")).expect("a JSON array");
        assert_eq!(back, values);
        assert_eq!(text.lines().nth(2), Some("1,"));
    }

    #[test]
    fn a_vector_has_numbers_that_json_lacks() {
        let mut list = datafusion::arrow::array::ListBuilder::new(datafusion::arrow::array::Float32Builder::new());
        list.append_value([Some(f32::NAN), Some(f32::NEG_INFINITY), None, Some(0.5)]);
        list.append_value([Some(0.5)]);
        let batch = RecordBatch::try_from_iter([("v", Arc::new(list.finish()) as ArrayRef)]).expect("a batch");
        let text = print(Format::Csv, std::slice::from_ref(&batch));
        assert_eq!(text, "v\n\"[NaN,-inf,null,0.5]\"\n[0.5]\n");
        assert_eq!(print(Format::Ndjson, &[batch]), "{\"v\":[null,null,null,0.5]}\n{\"v\":[0.5]}\n");
    }

    #[test]
    fn null_and_the_empty_text_differ_in_csv() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None, Some("a\tb"), Some("a,\"b\"")]));
        let batch = RecordBatch::try_from_iter([("s", texts.clone()), ("t", texts)]).expect("valid batch");
        let expected = "s,t\n\"\",\"\"\n,\na\tb,a\tb\n\"a,\"\"b\"\"\",\"a,\"\"b\"\"\"\n";
        assert_eq!(print(Format::Csv, std::slice::from_ref(&batch)), expected);
        let tsv = print(Format::Tsv, &[batch]);
        assert!(tsv.starts_with("s\tt\n\t\n\t\n\"a\tb\"\t"), "{tsv}");
    }

    #[test]
    fn json_is_one_array_over_all_batches() {
        let batch = vectors(&[Some([0.5, -1.0]), None]);
        let text = print(Format::Json, &[batch.slice(0, 1), batch.slice(0, 0), batch.slice(1, 1)]);
        assert_eq!(text, "[{\"id\":0,\"v\":[0.5,-1.0]},\n{\"id\":1,\"v\":null}]\n");
        assert_eq!(print(Format::Json, &[batch.slice(0, 0)]), "[]\n");
    }

    #[test]
    fn an_empty_result_still_has_a_header() {
        let batch = vectors(&[]);
        assert_eq!(print(Format::Csv, std::slice::from_ref(&batch)), "id,v\n");
        assert_eq!(print(Format::Tsv, std::slice::from_ref(&batch)), "id\tv\n");
        assert_eq!(print(Format::Ndjson, std::slice::from_ref(&batch)), "");
        assert_eq!(print(Format::Table, &[batch]), " id | v\n----+---\n(0 rows)\n");
    }
}

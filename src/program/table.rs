//! Results as aligned columns, as psql draws them.
//!
//! Widths come from the rows of a first chunk and then stay, so a result of any length is printed under one header in
//! constant memory; a later, wider cell only pushes its own row out, and so does one wider than [`MAX_WIDTH`].

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::config::FormatOptions as Settings;
use unicode_width::UnicodeWidthStr;

use super::failure::Failure;
use super::messages::escape;
use crate::files::is_vector;

/// Rows that decide the widths, unless they have [`CHUNK_BYTES`] before, or the program stops waiting for them.
const CHUNK: usize = 1_000;

/// Bytes of cells that may wait.
const CHUNK_BYTES: usize = 4 << 20;

/// The widest that a column is padded to: blanks behind every short cell are no help beside a long text.
const MAX_WIDTH: usize = 100;

/// Values of a vector that a table shows.
const SHOWN_VALUES: usize = 3;

/// One result on its way to text.
pub(crate) struct Table {
    columns: Vec<Column>,
    /// Rows that wait until the widths are known.
    waiting: Vec<Vec<String>>,
    waiting_bytes: usize,
    started: bool,
    settings: Settings,
}

struct Column {
    name: String,
    width: usize,
    /// Numbers stand at the right.
    right: bool,
}

impl Table {
    pub(crate) fn new(schema: &Schema, settings: Settings) -> Self {
        let columns = schema.fields().iter().map(|field| {
            let name = escape(field.name());
            Column { width: name.width().min(MAX_WIDTH), name, right: field.data_type().is_numeric() }
        });
        Self { columns: columns.collect(), waiting: Vec::new(), waiting_bytes: 0, started: false, settings }
    }

    /// Takes rows and adds the text that is ready.
    pub(crate) fn push(&mut self, batch: &RecordBatch, text: &mut Vec<u8>) -> Result<(), Failure> {
        for row in rows(batch, &self.settings)? {
            if self.started {
                self.line(&row, text);
                continue;
            }
            self.waiting_bytes += row.iter().map(String::len).sum::<usize>();
            self.waiting.push(row);
            if self.waiting.len() >= CHUNK || self.waiting_bytes >= CHUNK_BYTES {
                self.finish(text);
            }
        }
        Ok(())
    }

    /// Are there rows that wait for others?
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Adds the rows still held, with the header if nothing was printed yet.
    pub(crate) fn finish(&mut self, text: &mut Vec<u8>) {
        let rows = std::mem::take(&mut self.waiting);
        if !self.started {
            self.started = true;
            for row in &rows {
                for (column, cell) in self.columns.iter_mut().zip(row) {
                    column.width = column.width.max(cell.width().min(MAX_WIDTH));
                }
            }
            let names: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
            self.line(&names, text);
            let rules: Vec<String> = self.columns.iter().map(|c| "-".repeat(c.width + 2)).collect();
            text.extend(rules.join("+").into_bytes());
            text.push(b'\n');
        }
        for row in &rows {
            self.line(row, text);
        }
    }

    /// Adds one line, padded by display width, without blanks at its end.
    fn line(&self, cells: &[String], text: &mut Vec<u8>) {
        for (index, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            text.extend_from_slice(if index == 0 { b" " } else { b" | " });
            let padding = column.width.saturating_sub(cell.width());
            if column.right {
                text.resize(text.len() + padding, b' ');
            }
            text.extend_from_slice(cell.as_bytes());
            if !column.right {
                text.resize(text.len() + padding, b' ');
            }
        }
        while text.last() == Some(&b' ') {
            text.pop();
        }
        text.push(b'\n');
    }
}

/// The cells of a batch, row by row.
fn rows(batch: &RecordBatch, settings: &Settings) -> Result<Vec<Vec<String>>, Failure> {
    let options: FormatOptions<'_> = settings.try_into()?;
    let null = if settings.null.is_empty() { "NULL" } else { settings.null.as_str() };
    let options = options.with_null(null).with_display_error(true);
    let mut rows = vec![Vec::with_capacity(batch.num_columns()); batch.num_rows()];
    for column in batch.columns() {
        if is_vector(column.data_type()) {
            for (index, row) in rows.iter_mut().enumerate() {
                row.push(vector_cell(column, index, null)?);
            }
            continue;
        }
        let formatter = ArrayFormatter::try_new(column, &options)?;
        for (index, row) in rows.iter_mut().enumerate() {
            row.push(escape(&formatter.value(index).to_string()));
        }
    }
    Ok(rows)
}

/// `[0.0123, -0.0456, 0.0789, … 384]`: the first values and the length.
fn vector_cell(column: &ArrayRef, row: usize, null: &str) -> Result<String, ArrowError> {
    if column.is_null(row) {
        return Ok(null.to_owned());
    }
    let values = match column.data_type() {
        DataType::FixedSizeList(_, _) => column.as_fixed_size_list().value(row),
        DataType::LargeList(_) => column.as_list::<i64>().value(row),
        _ => column.as_list::<i32>().value(row),
    };
    let shown = cast(&values.slice(0, values.len().min(SHOWN_VALUES)), &DataType::Float64)?;
    let shown = shown.as_primitive::<Float64Type>().iter();
    let mut cells: Vec<String> = shown.map(|value| value.map_or_else(|| null.to_owned(), short_number)).collect();
    if values.len() > SHOWN_VALUES {
        cells.push(format!("… {}", values.len()));
    }
    Ok(format!("[{}]", cells.join(", ")))
}

/// Four decimals, which is what a normalised vector needs; the exponent form where they would show nothing or too much.
fn short_number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 || (size < 5e-5 && size > 0.0) => format!("{value:.3e}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;

    fn text(rows: &[(i64, &str)]) -> String {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
        let titles: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1)));
        let batch = RecordBatch::try_from_iter([("id", ids), ("title", titles)]).expect("valid batch");
        let mut table = Table::new(&batch.schema(), Settings::default());
        let mut text = Vec::new();
        table.push(&batch, &mut text).expect("printable");
        table.finish(&mut text);
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn pads_by_display_width_and_keeps_rows_on_one_line() {
        let expected = " id | title\n----+---------\n  1 | 日本語\n 12 | a\\nb\\tc\n";
        assert_eq!(text(&[(1, "日本語"), (12, "a\nb\tc")]), expected);
    }

    #[test]
    fn one_header_for_any_number_of_rows() {
        let rows: Vec<(i64, &str)> = (0..25_000).map(|id| (id, "x")).collect();
        let text = text(&rows);
        assert_eq!(text.lines().count(), 25_002);
        assert_eq!(text.matches("title").count(), 1);
    }

    #[test]
    fn a_long_cell_pushes_out_its_own_row_only() {
        let long = "x".repeat(1 << 20);
        let text = text(&[(1, &long), (2, "short")]);
        assert_eq!(text.lines().map(str::len).collect::<Vec<_>>(), [11, 4 + 1 + 102, 6 + (1 << 20), 11]);
    }

    #[test]
    fn numbers_of_any_size_stay_short() {
        assert_eq!(short_number(-0.045_61), "-0.0456");
        assert_eq!(short_number(0.0), "0.0000");
        assert_eq!(short_number(1.5e-7), "1.500e-7");
        assert_eq!(short_number(3e30), "3.000e30");
        assert_eq!(short_number(f64::NAN), "NaN");
    }
}

//! Results as aligned columns, as psql draws them.
//!
//! Widths come from the first [`CHUNK`] rows and then stay, so a result of any length is printed under one header in
//! constant memory; a later, wider cell only pushes its own row out.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::config::FormatOptions as Settings;
use unicode_width::UnicodeWidthStr;

use crate::error::Failure;
use crate::print::is_vector;

/// Rows that decide the widths.
const CHUNK: usize = 10_000;

/// Values of a vector that a table shows.
const SHOWN_VALUES: usize = 3;

/// One result on its way to text.
pub(crate) struct Table {
    columns: Vec<Column>,
    /// Rows that wait until the widths are known.
    waiting: Vec<Vec<String>>,
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
            Column { width: name.width(), name, right: field.data_type().is_numeric() }
        });
        Self { columns: columns.collect(), waiting: Vec::new(), started: false, settings }
    }

    /// Takes the rows of a batch and gives the text that is ready.
    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<String, Failure> {
        self.waiting.append(&mut rows(batch, &self.settings)?);
        match self.started || self.waiting.len() >= CHUNK {
            true => Ok(self.text()),
            false => Ok(String::new()),
        }
    }

    /// The text of the rows still held, with the header if nothing was printed yet.
    pub(crate) fn finish(&mut self) -> String {
        self.text()
    }

    fn text(&mut self) -> String {
        let rows = std::mem::take(&mut self.waiting);
        let mut text = String::new();
        if !self.started {
            self.started = true;
            for row in &rows {
                for (column, cell) in self.columns.iter_mut().zip(row) {
                    column.width = column.width.max(cell.width());
                }
            }
            let names: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
            self.line(&names, &mut text);
            let rules: Vec<String> = self.columns.iter().map(|c| "-".repeat(c.width + 2)).collect();
            text.push_str(&rules.join("+"));
            text.push('\n');
        }
        for row in &rows {
            self.line(row, &mut text);
        }
        text
    }

    /// Adds one line, padded by display width, without blanks at its end.
    fn line(&self, cells: &[String], text: &mut String) {
        for (index, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            text.push_str(if index == 0 { " " } else { " | " });
            let padding = " ".repeat(column.width.saturating_sub(cell.width()));
            match column.right {
                true => text.extend([padding.as_str(), cell]),
                false => text.extend([cell, padding.as_str()]),
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
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

/// Keeps a row on one line and the terminal in its state.
fn escape(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
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
        let mut text = table.push(&batch).expect("printable");
        text.push_str(&table.finish());
        text
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
    fn numbers_of_any_size_stay_short() {
        assert_eq!(short_number(-0.045_61), "-0.0456");
        assert_eq!(short_number(0.0), "0.0000");
        assert_eq!(short_number(1.5e-7), "1.500e-7");
        assert_eq!(short_number(3e30), "3.000e30");
        assert_eq!(short_number(f64::NAN), "NaN");
    }
}

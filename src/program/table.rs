//! Results as aligned columns, as psql draws them.
//!
//! Widths come from the rows of a first chunk and then stay, so a result of any length is printed under one header in
//! constant memory. On a screen lines fit: texts are cut, and where that is not enough each value has a line of its own. Elsewhere
//! everything is whole but vectors; a later, wider cell only pushes its own row out, and so does one wider than [`MAX_WIDTH`].

use std::borrow::Cow;
use std::ops::Range;

use console::truncate_str;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::config::FormatOptions as Settings;
use unicode_width::UnicodeWidthStr;

use super::failure::Failure;
use super::fit::{Places, Wish, fit, fit_some};
use super::messages::{escape, escape_within_lines};
use super::screen::{Expanded, Screen};
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
    /// Where they stand, once the widths are known; `None` where each value has a line of its own.
    places: Option<Places>,
    /// Rows that wait until the widths are known.
    waiting: Vec<Vec<String>>,
    waiting_bytes: usize,
    started: bool,
    /// Rows that were shown.
    shown: usize,
    screen: Option<Screen>,
    settings: Settings,
}

struct Column {
    name: String,
    /// The widest cell that decides.
    width: usize,
    /// Numbers stand at the right.
    right: bool,
    /// Texts are cut on a screen, and no number or date.
    may_be_cut: bool,
}

impl Table {
    /// For a screen, or as wide as it comes.
    pub(crate) fn new(schema: &Schema, settings: Settings, screen: Option<Screen>) -> Self {
        let columns = schema.fields().iter().map(|field| {
            let (name, kind) = (escape(field.name()), field.data_type());
            let may_be_cut = kind.is_nested() || kind.is_string() || kind.is_binary();
            Column { width: 0, name, right: kind.is_numeric(), may_be_cut }
        });
        let columns = columns.collect();
        Self {
            columns,
            places: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            started: false,
            shown: 0,
            screen,
            settings,
        }
    }

    /// Takes rows and adds the text that is ready.
    pub(crate) fn push(&mut self, batch: &RecordBatch, text: &mut Vec<u8>) -> Result<(), Failure> {
        let most = self.screen.map_or(0, |screen| screen.view.max_rows);
        let left = if most == 0 { usize::MAX } else { most - self.shown - self.waiting.len() };
        for row in rows(&batch.slice(0, batch.num_rows().min(left)), &self.settings, self.screen.is_some())? {
            if self.started {
                self.row(&row, text);
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

    /// Rows that were shown, of those that came.
    pub(crate) fn shown(&self) -> usize {
        self.shown
    }

    /// All columns, and how many are shown, where that is not the same.
    pub(crate) fn columns_left_out(&self) -> Option<(usize, usize)> {
        let left_out = self.places.as_ref().map_or(0, |places| places.left_out.len());
        (left_out > 0).then(|| (self.columns.len(), self.columns.len() - left_out))
    }

    /// Adds the rows still held, with the header if nothing was printed yet.
    pub(crate) fn finish(&mut self, text: &mut Vec<u8>) {
        let rows = std::mem::take(&mut self.waiting);
        if !self.started {
            self.started = true;
            self.lay_out(&rows);
            self.header(text);
        }
        for row in &rows {
            self.row(row, text);
        }
    }

    /// Gives each column its place, by the first rows.
    fn lay_out(&mut self, rows: &[Vec<String>]) {
        for row in rows {
            for (column, cell) in self.columns.iter_mut().zip(row) {
                column.width = column.width.max(width(&one_line(cell)));
            }
        }
        let Some(screen) = self.screen else {
            let width = |column: &Column| column.width.max(column.name.width()).min(MAX_WIDTH);
            self.places = Some(Places { widths: self.columns.iter().map(width).collect(), left_out: 0..0 });
            return;
        };
        let wish = |column: &Column| {
            let width = column.width.max(column.name.width());
            if column.may_be_cut { Wish::text(width) } else { Wish { width, least: column.width.max(1) } }
        };
        let wishes: Vec<_> = self.columns.iter().map(wish).collect();
        self.places = match screen.view.expanded {
            Expanded::On => None,
            Expanded::Off => Some(fit(&wishes, screen.width).unwrap_or_else(|| fit_some(&wishes, screen.width))),
            Expanded::Auto => fit(&wishes, screen.width),
        };
    }

    /// The names of the columns, and a rule.
    fn header(&self, text: &mut Vec<u8>) {
        let Some(places) = &self.places else { return };
        let name = |(column, &width): (&Column, &usize)| match self.screen {
            Some(_) => truncate_str(&column.name, width, "…").into_owned(),
            None => column.name.clone(),
        };
        let names: Vec<_> = self.columns.iter().zip(&places.widths).map(name).collect();
        self.line(places, &names, text);
        let rules = self.shown_columns(places).map(|column| "-".repeat(column.map_or(1, |(_, width)| width) + 2));
        text.extend(rules.collect::<Vec<_>>().join("+").into_bytes());
        text.push(b'\n');
    }

    fn row(&mut self, cells: &[String], text: &mut Vec<u8>) {
        self.shown += 1;
        match &self.places {
            Some(places) => self.line(places, cells, text),
            None => self.record(cells, text),
        }
    }

    /// The columns that have a place, by number and width; `None` for all that are left out.
    fn shown_columns<'a>(&self, places: &'a Places) -> impl Iterator<Item = Option<(usize, usize)>> + use<'a> {
        let Places { widths, left_out } = places;
        let gap = (!left_out.is_empty()).then_some(None);
        let at = |range: Range<usize>| range.map(|index| Some((index, widths[index])));
        at(0..left_out.start).chain(gap).chain(at(left_out.end..widths.len()))
    }

    /// Adds one line, padded by display width, without blanks at its end.
    fn line(&self, places: &Places, cells: &[String], text: &mut Vec<u8>) {
        for (position, place) in self.shown_columns(places).enumerate() {
            text.extend_from_slice(if position == 0 { b" " } else { b" | " });
            let Some((index, place_width)) = place else {
                text.extend_from_slice("…".as_bytes());
                continue;
            };
            let (column, cell) = (&self.columns[index], one_line(&cells[index]));
            let is_cut = self.screen.is_some() && column.may_be_cut;
            let cell = if is_cut { truncate_str(&cell, place_width, "…") } else { cell };
            let padding = place_width.saturating_sub(width(&cell));
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

    /// Adds a row as psql's expanded display does: a line for each value, and more for a long one.
    fn record(&self, cells: &[String], text: &mut Vec<u8>) {
        let screen = self.screen.map_or(MAX_WIDTH, |screen| screen.width);
        let names = self.columns.iter().map(|column| column.name.width()).max().unwrap_or(0).min(screen / 3);
        let head = format!("-[ RECORD {} ]", self.shown);
        text.extend(format!("{head}{}\n", "-".repeat(screen.saturating_sub(head.len()))).into_bytes());
        let room = screen.saturating_sub(names + " | ".len()).max(1);
        for (column, cell) in self.columns.iter().zip(cells) {
            let name = truncate_str(&column.name, names, "…");
            let mut name = format!("{name}{}", " ".repeat(names - name.width()));
            for line in textwrap::wrap(cell, room) {
                text.extend(format!("{name} | {line}").trim_end().as_bytes());
                text.push(b'\n');
                name = " ".repeat(names);
            }
        }
    }
}

/// A cell as it stands in a line: a line break would end it.
fn one_line(cell: &str) -> Cow<'_, str> {
    if cell.contains('\n') { Cow::Owned(cell.replace('\n', "\\n")) } else { Cow::Borrowed(cell) }
}

/// The columns that a cell takes; most are of characters that take one each.
fn width(cell: &str) -> usize {
    if cell.is_ascii() { cell.len() } else { cell.width() }
}

/// The cells of a batch, row by row, with line breaks as they are. Of lists that are no vectors a screen has the beginning too.
fn rows(batch: &RecordBatch, settings: &Settings, on_screen: bool) -> Result<Vec<Vec<String>>, Failure> {
    let options: FormatOptions<'_> = settings.try_into()?;
    let null = if settings.null.is_empty() { "NULL" } else { settings.null.as_str() };
    let options = options.with_null(null).with_display_error(true);
    let mut rows = vec![Vec::with_capacity(batch.num_columns()); batch.num_rows()];
    for column in batch.columns() {
        if is_vector(column.data_type()) || (on_screen && is_list(column.data_type())) {
            for (index, row) in rows.iter_mut().enumerate() {
                row.push(list_cell(column, index, &options, null)?);
            }
            continue;
        }
        let formatter = ArrayFormatter::try_new(column, &options)?;
        for (index, row) in rows.iter_mut().enumerate() {
            row.push(escape_within_lines(formatter.value(index).to_string()));
        }
    }
    Ok(rows)
}

fn is_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _))
}

/// `[0.0123, -0.0456, 0.0789, … 384]`: the first values and the length.
fn list_cell(column: &ArrayRef, row: usize, options: &FormatOptions<'_>, null: &str) -> Result<String, ArrowError> {
    if column.is_null(row) {
        return Ok(null.to_owned());
    }
    let values = match column.data_type() {
        DataType::FixedSizeList(_, _) => column.as_fixed_size_list().value(row),
        DataType::LargeList(_) => column.as_list::<i64>().value(row),
        _ => column.as_list::<i32>().value(row),
    };
    let shown = values.slice(0, values.len().min(SHOWN_VALUES));
    let mut cells: Vec<String> = if shown.data_type().is_floating() {
        let shown = cast(&shown, &DataType::Float64)?;
        let shown = shown.as_primitive::<Float64Type>().iter();
        shown.map(|value| value.map_or_else(|| null.to_owned(), short_number)).collect()
    } else {
        let formatter = ArrayFormatter::try_new(&shown, options)?;
        (0..shown.len()).map(|index| escape(&formatter.value(index).to_string())).collect()
    };
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
        let mut table = Table::new(&batch.schema(), Settings::default(), None);
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

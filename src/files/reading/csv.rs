//! CSV: which columns a file has, and whether a text in it has line breaks.
//!
//! DataFusion 55.2 cuts a file into lines without quotes in mind, to infer its columns and to read it in parallel, and so
//! finds pieces of texts where a text has line breaks. Here columns are inferred from records, and a file is cut into parts
//! only if it was looked through and no quoted text in it has a line break.

use std::io::{BufRead, Read};
use std::sync::Arc;

use datafusion::arrow::csv::reader::Format;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::config::CsvOptions;
use datafusion::common::plan_datafusion_err;
use datafusion::error::Result;
use memchr::{memchr_iter, memchr2, memchr3};
use regex::Regex;

use super::bytes::Reader;

/// How the bytes of a file are cells.
pub(super) fn format(options: &CsvOptions) -> Result<Format> {
    let mut format = Format::default()
        .with_header(options.has_header.unwrap_or(true))
        .with_delimiter(options.delimiter)
        .with_quote(options.quote)
        .with_truncated_rows(options.truncated_rows.unwrap_or(false));
    if let Some(pattern) = &options.null_regex {
        let regex = Regex::new(pattern).map_err(|error| plan_datafusion_err!("format.null_regex: {error}"))?;
        format = format.with_null_regex(regex);
    }
    if let Some(escape) = options.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = options.comment {
        format = format.with_comment(comment);
    }
    if let Some(terminator) = options.terminator {
        format = format.with_terminator(terminator);
    }
    Ok(format)
}

/// The columns of a file by its first `most` records; 0 makes every column a text.
pub(super) fn infer(reader: impl Read, options: &CsvOptions, most: usize) -> Result<Schema> {
    let schema = format(options)?.infer_schema(reader, Some(most))?.0;
    let text = |field: &Arc<Field>| Field::new(field.name(), DataType::Utf8, true);
    Ok(if most == 0 { Schema::new(schema.fields().iter().map(text).collect::<Vec<_>>()) } else { schema })
}

/// The columns of a file by its first bytes, but at least a thousand records.
pub(super) fn infer_from_bytes(reader: Reader, options: &CsvOptions, share: u64) -> Result<Schema> {
    let mut counted =
        Counted { reader, left: share, records: LEAST_RECORDS, quotes: Quotes::new(options), is_cut: false };
    infer(&mut counted, options, usize::MAX)
}

/// Records that are looked at in any case.
const LEAST_RECORDS: usize = 1000;

/// The first bytes of a file, to the end of a record.
struct Counted {
    reader: Reader,
    left: u64,
    records: usize,
    quotes: Quotes,
    is_cut: bool,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.is_cut {
            return Ok(0);
        }
        let count = self.reader.read(out)?;
        for (place, byte) in out[..count].iter().enumerate() {
            self.left = self.left.saturating_sub(1);
            if self.quotes.ends_record_with(*byte) {
                self.records = self.records.saturating_sub(1);
                if self.left == 0 && self.records == 0 {
                    self.is_cut = true;
                    return Ok(place + 1);
                }
            }
        }
        Ok(count)
    }
}

/// Whether a quoted cell has a line break. Reads to the first one.
pub(super) fn has_quoted_breaks(mut reader: Reader, options: &CsvOptions) -> Result<bool> {
    let mut quotes = Quotes::new(options);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        if quotes.find_break(bytes) {
            return Ok(true);
        }
        let length = bytes.len();
        reader.consume(length);
    }
}

/// Where in a record the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a cell, where alone a quote opens one.
    Start,
    Plain,
    Quoted,
    /// Behind an escape in a quoted cell.
    Escaped,
    /// Behind a quote in a quoted cell, which ends it or is one half of a quote.
    Quote,
}

/// Follows the quotes of a file as the csv crate does.
pub(super) struct Quotes {
    state: State,
    delimiter: u8,
    quote: u8,
    escape: Option<u8>,
    terminator: Option<u8>,
}

impl Quotes {
    pub(super) fn new(options: &CsvOptions) -> Self {
        let CsvOptions { delimiter, quote, escape, terminator, .. } = *options;
        Self { state: State::Start, delimiter, quote, escape, terminator }
    }

    /// Whether these bytes, which follow those before, have a line break in a quoted cell.
    fn find_break(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(&byte) = bytes.first() {
            let place = match self.state {
                State::Start | State::Plain => self.next_quoted(bytes),
                State::Quoted if self.escape.is_none() => self.next_in_quotes(bytes),
                _ => Some(0),
            };
            let Some(place) = place else {
                let last = bytes.last().copied().unwrap_or(byte);
                if self.state != State::Quoted {
                    self.state = if self.ends_cell(last) { State::Start } else { State::Plain };
                }
                return false;
            };
            if place > 0 && self.state != State::Quoted {
                self.state = State::Start;
            }
            let byte = bytes[place];
            if matches!(self.state, State::Quoted | State::Escaped) && self.ends_record(byte) {
                return true;
            }
            self.state = self.after(byte);
            bytes = &bytes[place + 1..];
        }
        false
    }

    /// Where, outside of quotes, the next quoted cell begins.
    fn next_quoted(&self, bytes: &[u8]) -> Option<usize> {
        let starts_cell = |place: usize| match place.checked_sub(1) {
            Some(before) => self.ends_cell(bytes[before]),
            None => self.state == State::Start,
        };
        memchr_iter(self.quote, bytes).find(|place| starts_cell(*place))
    }

    /// Where, inside of quotes, something else than a letter of the text is.
    fn next_in_quotes(&self, bytes: &[u8]) -> Option<usize> {
        match self.terminator {
            Some(terminator) => memchr2(self.quote, terminator, bytes),
            None => memchr3(self.quote, b'\n', b'\r', bytes),
        }
    }

    /// Whether a byte is the end of a record.
    fn ends_record_with(&mut self, byte: u8) -> bool {
        let is_quoted = matches!(self.state, State::Quoted | State::Escaped);
        self.state = self.after(byte);
        !is_quoted && byte == self.terminator.unwrap_or(b'\n')
    }

    /// Where the byte behind this one is.
    fn after(&self, byte: u8) -> State {
        match self.state {
            State::Start | State::Quote if byte == self.quote => State::Quoted,
            State::Start | State::Quote | State::Plain if self.ends_cell(byte) => State::Start,
            State::Start | State::Quote | State::Plain => State::Plain,
            State::Quoted if byte == self.quote => State::Quote,
            State::Quoted if Some(byte) == self.escape => State::Escaped,
            State::Quoted | State::Escaped => State::Quoted,
        }
    }

    /// Whether a byte is the end of a cell, outside of quotes.
    pub(super) fn ends_cell(&self, byte: u8) -> bool {
        byte == self.delimiter || self.ends_record(byte)
    }

    fn ends_record(&self, byte: u8) -> bool {
        self.terminator.map_or(byte == b'\n' || byte == b'\r', |terminator| byte == terminator)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    fn has_breaks(text: &str, piece: usize) -> bool {
        let reader: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(text.to_owned().into_bytes()));
        has_quoted_breaks(BufReader::with_capacity(piece, reader), &CsvOptions::default()).expect("readable")
    }

    /// What the csv crate reads, cell by cell.
    fn naive(text: &str) -> bool {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
        // A plain cell ends at a line break.
        reader.byte_records().any(|record| record.expect("bytes").iter().any(|cell| cell.contains(&b'\n')))
    }

    proptest! {
        #[test]
        fn breaks_are_found_where_the_csv_crate_has_them(text in "[ab,\"\n]{0,24}", piece in 1usize..9) {
            prop_assert_eq!(has_breaks(&text, piece), naive(&text));
        }
    }
}

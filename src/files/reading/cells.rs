//! The rows of a CSV file, in which an empty text is no NULL: `""` is the one, and nothing at all the other.
//!
//! arrow-csv (59.3) does not see quotes, and reads both as NULL. So the bytes of the rows are kept until these are there, and looked
//! at again where a text is NULL and anywhere are quotes with nothing between them: cell by cell, by the parser that arrow-csv is
//! made of. No text is ever changed, and a file without such quotes is parsed once.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use csv_core::{ReadFieldResult, ReaderBuilder, Terminator};
use datafusion::arrow::array::{ArrayRef, BooleanBufferBuilder, RecordBatch, RecordBatchOptions, make_array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::CsvOptions;
use datafusion::error::Result;
use memchr::memmem::Finder;

use super::csv::{Quotes, format};
use super::rows::Decoder;

/// What some programs begin a file of UTF-8 with.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Bytes of the shortest piece that is searched: a mark and a cell.
const SHORTEST: usize = MARK.len() + 3;

/// arrow's decoder, with the texts put right.
pub(super) struct Cells {
    decoder: csv::reader::Decoder,
    options: CsvOptions,
    /// The rows' own; to the decoder each text may be NULL.
    schema: SchemaRef,
    /// Where texts are: columns of the file, and of the rows.
    texts: Vec<(usize, usize)>,
    /// The bytes of the rows so far, and of the header if these are the first.
    read: Vec<Bytes>,
    has_header: bool,
}

impl Cells {
    /// Reads columns of a file, or of a part of it that may lack the header.
    pub(super) fn new(
        file: &SchemaRef,
        columns: &[usize],
        options: CsvOptions,
        has_header: bool,
        rows: usize,
    ) -> Result<Self> {
        // Else the user has said what is NULL.
        let is_ours = options.null_regex.is_none();
        let is_text = |column: usize| is_ours && file.field(column).data_type().is_string();
        let texts = columns.iter().enumerate().filter(|(_, column)| is_text(**column));
        let texts = texts.map(|(place, column)| (*column, place)).collect();
        let nullable = |(column, field): (usize, &FieldRef)| {
            let is_nullable = field.is_nullable() || is_text(column);
            field.as_ref().clone().with_nullable(is_nullable)
        };
        let fields: Vec<_> = file.fields().iter().enumerate().map(nullable).collect();
        let decoder = csv::ReaderBuilder::new(Arc::new(Schema::new(fields)))
            .with_format(format(&options)?.with_header(has_header))
            .with_batch_size(rows)
            .with_projection(columns.to_vec())
            .build_decoder();
        let schema = Arc::new(file.project(columns)?);
        Ok(Self { decoder, options, schema, texts, read: Vec::new(), has_header })
    }

    /// The cells of texts that have quotes and nothing between them: their rows and columns.
    fn empty_texts(&self, has_header: bool) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        if !may_have_empty(&self.read, &self.options) {
            return found;
        }
        for_each_empty(&self.read.concat(), &self.options, |record, column| {
            let text = self.texts.iter().find(|(in_file, _)| *in_file == column);
            let row = record.checked_sub(usize::from(has_header));
            found.extend(row.zip(text.map(|(_, place)| *place)));
        });
        found
    }
}

impl Decoder for Cells {
    fn decode(&mut self, bytes: &Bytes) -> std::result::Result<usize, ArrowError> {
        let taken = self.decoder.decode(bytes)?;
        if taken > 0 && !self.texts.is_empty() {
            self.read.push(bytes.slice(..taken));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::result::Result<Option<RecordBatch>, ArrowError> {
        let Some(rows) = self.decoder.flush()? else { return Ok(None) };
        let has_header = mem::take(&mut self.has_header);
        let mut columns = rows.columns().to_vec();
        if self.texts.iter().any(|(_, place)| columns[*place].null_count() > 0) {
            let found = self.empty_texts(has_header);
            for (_, place) in self.texts.iter().filter(|(_, place)| found.iter().any(|(_, text)| text == place)) {
                let rows = found.iter().filter(|(_, text)| text == place).map(|(row, _)| *row);
                columns[*place] = with_empty(&columns[*place], rows)?;
            }
        }
        self.read.clear();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?))
    }
}

/// Texts of which these are empty and no NULLs: a NULL has no bytes, so that nothing but its bit changes.
fn with_empty(texts: &ArrayRef, rows: impl Iterator<Item = usize>) -> std::result::Result<ArrayRef, ArrowError> {
    let Some(nulls) = texts.nulls() else { return Ok(Arc::clone(texts)) };
    let mut is_text = BooleanBufferBuilder::new(nulls.len());
    is_text.append_buffer(nulls.inner());
    rows.for_each(|row| is_text.set_bit(row, true));
    let nulls = NullBuffer::new(is_text.finish());
    Ok(make_array(texts.to_data().into_builder().nulls(Some(nulls)).build()?))
}

/// Whether there may be a cell of quotes with nothing between them. What a text has within its quotes looks alike at times.
fn may_have_empty(pieces: &[Bytes], options: &CsvOptions) -> bool {
    let (quotes, quote) = (Quotes::new(options), options.quote);
    let ends = |after: &[u8]| after.first().is_none_or(|byte| quotes.ends_cell(*byte));
    let first = pieces.first().map(|piece| piece.strip_prefix(MARK).unwrap_or(piece)).unwrap_or_default();
    let begins = first.strip_prefix(&[quote; 2]).is_some_and(ends);
    // With the end of the cell before: two quotes alone are everywhere in some texts.
    let befores = [options.delimiter, options.terminator.unwrap_or(b'\n'), b'\r'];
    let empties = befores.map(|before| Finder::new(&[before, quote, quote]).into_owned());
    let has_one =
        |bytes: &[u8]| empties.iter().any(|empty| empty.find_iter(bytes).any(|place| ends(&bytes[place + 3..])));
    let joint = |pair: &[Bytes]| [&pair[0][pair[0].len() - 3..], &pair[1][..3]].concat();
    pieces.iter().any(|piece| piece.len() < SHORTEST)
        || begins
        || pieces.iter().any(|piece| has_one(piece))
        || pieces.windows(2).any(|pair| has_one(&joint(pair)))
}

/// Calls `found` with the record and the column of each cell of quotes with nothing between them.
fn for_each_empty(bytes: &[u8], options: &CsvOptions, mut found: impl FnMut(usize, usize)) {
    let mut builder = ReaderBuilder::new();
    builder.delimiter(options.delimiter).quote(options.quote).escape(options.escape).comment(options.comment);
    if let Some(terminator) = options.terminator {
        builder.terminator(Terminator::Any(terminator));
    }
    let (mut parser, empty) = (builder.build(), [options.quote; 2]);
    let (mut record, mut column, mut start, mut end) = (0, 0, 0, 0);
    let (mut text, mut has_text) = ([0; 1024], false);
    loop {
        let (result, read, written) = parser.read_field(&bytes[end..], &mut text);
        end += read;
        has_text |= written > 0;
        let ends_record = match result {
            ReadFieldResult::Field { record_end } => record_end,
            ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => continue,
            ReadFieldResult::End => return,
        };
        // With what ends it, unless that is the end of the bytes; before it may be comments and empty lines.
        let cell = &bytes[start..end];
        if !has_text && (cell.ends_with(&empty) || cell.split_last().is_some_and(|(_, cell)| cell.ends_with(&empty))) {
            found(record, column);
        }
        (record, column) = if ends_record { (record + 1, 0) } else { (record, column + 1) };
        (start, has_text) = (end, false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::{StreamExt, TryStreamExt, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::files::reading::rows::rows;
    use datafusion::arrow::array::{Array, AsArray};
    use datafusion::arrow::datatypes::{DataType, Field};

    /// Cells byte by byte, for delimiter `,`, quote `"` and lines that end with LF or CRLF.
    fn naive(text: &str) -> BTreeSet<(usize, usize)> {
        let (mut found, mut record, mut rest) = (BTreeSet::new(), 0, text);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(['\n', '\r']) {
                rest = after;
                continue;
            }
            for column in 0.. {
                let mut is_quoted = false;
                let end = rest.bytes().position(|byte| {
                    is_quoted ^= byte == b'"';
                    !is_quoted && b",\n\r".contains(&byte)
                });
                let (cell, after) = rest.split_at(end.unwrap_or(rest.len()));
                if cell == "\"\"" {
                    found.insert((record, column));
                }
                let ends_record = !after.starts_with(',');
                rest = after.get(1..).unwrap_or_default();
                if ends_record {
                    break;
                }
            }
            record += 1;
        }
        found
    }

    fn found(text: &str, options: &CsvOptions) -> BTreeSet<(usize, usize)> {
        let mut found = BTreeSet::new();
        for_each_empty(text.as_bytes(), options, |record, column| {
            found.insert((record, column));
        });
        found
    }

    /// Texts of two columns as they are read in pieces and batches of these sizes.
    async fn read(text: &str, options: CsvOptions, piece: usize, batch: usize) -> Vec<[Option<String>; 2]> {
        let columns =
            [("a", DataType::Utf8), ("b", DataType::Utf8View)].map(|(name, kind)| Field::new(name, kind, true));
        let schema = Arc::new(Schema::new(columns.to_vec()));
        let cells = Cells::new(&schema, &[0, 1], options, true, batch).expect("a decoder");
        let pieces: Vec<_> = text.as_bytes().chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let batches: Vec<RecordBatch> = rows(stream::iter(pieces).boxed(), cells).try_collect().await.expect("rows");
        let row = |batch: &RecordBatch, row: usize| {
            let (a, b) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string_view());
            [a.is_valid(row).then(|| a.value(row).to_owned()), b.is_valid(row).then(|| b.value(row).to_owned())]
        };
        batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|n| row(batch, n)).collect::<Vec<_>>()).collect()
    }

    /// A cell of CSV; a text has quotes where it needs them, and at times where it does not.
    fn written(cell: Option<&str>, quote: char, is_quoted: bool) -> String {
        match cell {
            None => String::new(),
            Some(text) if is_quoted || text.is_empty() || !text.chars().all(char::is_alphanumeric) => {
                format!("{quote}{}{quote}", text.replace(quote, &format!("{quote}{quote}")))
            }
            Some(text) => text.to_owned(),
        }
    }

    proptest! {
        #[test]
        fn empty_cells_are_found_where_they_are(
            // A quote within a plain cell opens nothing, which the twin does not know.
            cells in prop::collection::vec(prop::sample::select(vec!["", "\"\"", "a", "\"\"\"\"", "\",\"", "\"\n\"", "\"\"\"\n\""]), 0..12),
            ends in prop::collection::vec(prop::sample::select(vec![",", "\n", "\r\n", ",", "\n\n", "\r"]), 12),
            piece in SHORTEST..24,
        ) {
            let text: String = cells.iter().zip(&ends).flat_map(|(cell, end)| [*cell, *end]).collect();
            let options = CsvOptions::default();
            let expected = naive(&text);
            prop_assert_eq!(&found(&text, &options), &expected, "{:?}", text);
            let pieces: Vec<_> = text.as_bytes().chunks(piece).map(Bytes::copy_from_slice).collect();
            prop_assert!(expected.is_empty() || may_have_empty(&pieces, &options), "{:?}", text);
        }

        #[test]
        fn texts_and_nulls_come_back(
            texts in prop::collection::vec((prop::option::of("[a\"',;\n\r\\\\é日\u{feff}]{0,3}"), prop::option::of("[ab]{0,2}"), any::<bool>()), 0..12),
            (delimiter, quote) in prop::sample::select(vec![(',', '"'), ('\t', '"'), (';', '\''), ('|', '$')]),
            end in prop::sample::select(vec!["\n", "\r\n"]),
            (piece, batch) in (1usize..9, 1usize..4),
        ) {
            let rows: Vec<_> = texts.into_iter().filter(|(a, b, _)| a.is_some() || b.is_some()).collect();
            let mut text = format!("a{delimiter}b{end}");
            for (a, b, is_quoted) in &rows {
                let [a, b] = [a, b].map(|cell| written(cell.as_deref(), quote, *is_quoted));
                text += &format!("{a}{delimiter}{b}{end}");
            }
            let options = CsvOptions { delimiter: delimiter as u8, quote: quote as u8, ..CsvOptions::default() };
            let read = tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(read(&text, options, piece, batch));
            let expected: Vec<_> = rows.into_iter().map(|(a, b, _)| [a, b]).collect();
            prop_assert_eq!(read, expected, "{:?}", text);
        }
    }

    #[tokio::test]
    async fn comments_escapes_and_what_the_user_says_is_null() {
        let text = "a,b\n# \"\",\n\"\",\n#\"\"\n,\"\"\n\"\\\"\",\"x\"\nnone,\"\"\n";
        let options = CsvOptions { comment: Some(b'#'), escape: Some(b'\\'), ..CsvOptions::default() };
        let cell = |text: &str| (text != "-").then(|| text.to_owned());
        let expected = [["", "-"], ["-", ""], ["\"", "x"], ["none", ""]].map(|row| row.map(cell));
        assert_eq!(read(text, options.clone(), 3, 2).await, expected);
        let options = CsvOptions { null_regex: Some("^none$".to_owned()), ..options };
        let expected = [["", ""], ["", ""], ["\"", "x"], ["-", ""]].map(|row| row.map(cell));
        assert_eq!(read(text, options, 3, 2).await, expected);
    }
}

//! JSON: whether a file is one array, which columns its objects have, and the rows that they are.

use std::cell::Cell;
use std::fmt;
use std::io::{BufRead, Read};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::reader::{Decoder as ArrowDecoder, ReaderBuilder, infer_json_schema_from_iterator};
use datafusion::error::Result;
use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Deserializer, Value};

use super::bytes::Reader;
use super::rows::Decoder;
use crate::error::Error;
use crate::files::vectors::item;

/// Whether the first character of a file begins an array.
pub(super) fn is_array(mut reader: Reader) -> Result<bool> {
    loop {
        let bytes = reader.fill_buf()?;
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if first.is_some() || bytes.is_empty() {
            return Ok(first == Some(&b'['));
        }
        let length = bytes.len();
        reader.consume(length);
    }
}

/// The columns of a file by its first `most` objects, or else by its first bytes, but at least a thousand objects.
pub(super) fn infer(reader: Reader, is_array: bool, most: Option<usize>, share: u64) -> Result<Schema> {
    let read = Rc::new(Cell::new(0));
    let is_enough = |count: usize| most.map_or(count >= LEAST_OBJECTS && read.get() >= share, |most| count >= most);
    let mut objects: Vec<Value> = Vec::new();
    let values = each_value(Counted { reader, read: Rc::clone(&read) }, is_array, |value| {
        objects.push(value);
        !is_enough(objects.len())
    });
    values.map_err(bad_json)?;
    if let Some(place) = objects.iter().position(|object| !object.is_object()) {
        let what = shortened(&objects[place].to_string());
        return Err(Error::Read(format!("record {} is no object: {what}", place + 1)).into());
    }
    Ok(infer_json_schema_from_iterator(objects.into_iter().map(Ok))?)
}

/// Objects that are looked at in any case.
const LEAST_OBJECTS: usize = 1000;

/// A reader that says how much was read.
struct Counted {
    reader: Reader,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(out)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// Calls `goes_on` with the values of a file, or of the array that it is, until it says no.
pub(super) fn each_value(
    reader: impl Read,
    is_array: bool,
    mut goes_on: impl FnMut(Value) -> bool,
) -> serde_json::Result<()> {
    let mut values = Deserializer::from_reader(reader);
    if !is_array {
        for value in values.into_iter() {
            if !goes_on(value?) {
                break;
            }
        }
        return Ok(());
    }
    let mut is_stopped = false;
    let read = values.deserialize_any(Elements { goes_on: &mut goes_on, is_stopped: &mut is_stopped });
    if is_stopped { Ok(()) } else { read }
}

/// The values of an array, one by one.
struct Elements<'a> {
    goes_on: &'a mut dyn FnMut(Value) -> bool,
    /// There may be more, and they were not read: the reader can only be stopped by an error.
    is_stopped: &'a mut bool,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<(), A::Error> {
        while let Some(value) = elements.next_element()? {
            if !(self.goes_on)(value) {
                *self.is_stopped = true;
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
    }
}

/// The path of the first key in an object that no field has: `meta.author`.
pub(super) fn unknown_key(object: &Value, fields: &Fields) -> Option<String> {
    object.as_object()?.iter().find_map(|(key, value)| match fields.find(key) {
        None => Some(key.clone()),
        Some((_, field)) => unknown_within(value, field.data_type()).map(|inner| format!("{key}.{inner}")),
    })
}

fn unknown_within(value: &Value, data_type: &DataType) -> Option<String> {
    if let DataType::Struct(fields) = data_type {
        return unknown_key(value, fields);
    }
    let item = item(data_type)?;
    value.as_array()?.iter().find_map(|value| unknown_within(value, item.data_type()))
}

/// The objects of a file as rows.
pub(super) struct Objects {
    decoder: ArrowDecoder,
    columns: Vec<usize>,
}

impl Objects {
    /// Reads columns of a file, and passes over whatever else an object has. If it is known what they all have, so that all columns
    /// are all that there is but for what stands `beside` them, another key is an error, at whatever depth.
    pub(super) fn new(
        file: &SchemaRef,
        columns: &[usize],
        beside: Option<&Fields>,
        rows: usize,
    ) -> std::result::Result<Self, ArrowError> {
        let beside = beside.filter(|_| columns.len() == file.fields().len());
        let schema = Arc::new(with_fields(&file.project(columns)?, beside));
        let builder = ReaderBuilder::new(schema).with_batch_size(rows);
        let decoder = builder.with_strict_mode(beside.is_some()).build_decoder()?;
        Ok(Self { decoder, columns: (0..columns.len()).collect() })
    }
}

/// A file's columns, and what else it has.
pub(super) fn with_fields(file: &Schema, beside: Option<&Fields>) -> Schema {
    let fields: Fields = file.fields().iter().chain(beside.into_iter().flatten()).cloned().collect();
    Schema::new_with_metadata(fields, file.metadata().clone())
}

impl Decoder for Objects {
    fn decode(&mut self, bytes: &Bytes) -> std::result::Result<usize, ArrowError> {
        self.decoder.decode(bytes)
    }

    fn flush(&mut self) -> std::result::Result<Option<RecordBatch>, ArrowError> {
        self.decoder.flush()?.map(|rows| rows.project(&self.columns)).transpose()
    }
}

/// What is wrong with a text, and where: `line 51, column 29: lone leading surrogate in hex escape`.
pub(super) fn bad_json(error: serde_json::Error) -> Error {
    let (line, column) = (error.line(), error.column());
    let message = error.to_string();
    let what = message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
    Error::Read(format!("line {line}, column {column}: no valid JSON: {what}"))
}

/// The beginning of a text, for messages.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The first error in a file, if there is one.
pub(super) fn first_error(reader: impl Read) -> Option<Error> {
    let mut values = Deserializer::from_reader(reader).into_iter::<IgnoredAny>();
    values.find_map(std::result::Result::err).map(bad_json)
}

//! JSON: whether a file is one array, and which columns its objects have.

use std::cell::Cell;
use std::fmt;
use std::io::{BufRead, Read};
use std::rc::Rc;

use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::json::reader::infer_json_schema_from_iterator;
use datafusion::error::Result;
use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Deserializer, Value};

use super::bytes::Reader;
use crate::error::Error;

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

/// The columns of a file by its first `most` objects, or else by its first bytes, but at least a thousand objects: a key that
/// first comes later is none.
pub(super) fn infer(reader: Reader, is_array: bool, most: Option<usize>, share: u64) -> Result<Schema> {
    let read = Rc::new(Cell::new(0));
    let mut values = Deserializer::from_reader(Counted { reader, read: Rc::clone(&read) });
    let is_enough = |count: usize| most.map_or(count >= LEAST_OBJECTS && read.get() >= share, |most| count >= most);
    let mut objects: Vec<Value> = Vec::new();
    if is_array {
        let mut is_full = false;
        let elements = Elements { objects: &mut objects, is_enough: &is_enough, is_full: &mut is_full };
        let result = values.deserialize_any(elements);
        if !is_full {
            result.map_err(bad_json)?;
        }
    } else {
        let mut values = values.into_iter();
        while !is_enough(objects.len())
            && let Some(value) = values.next()
        {
            objects.push(value.map_err(bad_json)?);
        }
    }
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

/// The first objects of an array.
struct Elements<'a> {
    objects: &'a mut Vec<Value>,
    is_enough: &'a dyn Fn(usize) -> bool,
    /// There are more, and they were not read: the reader can only be stopped by an error.
    is_full: &'a mut bool,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<(), A::Error> {
        while let Some(object) = elements.next_element()? {
            self.objects.push(object);
            if (self.is_enough)(self.objects.len()) {
                *self.is_full = true;
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
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

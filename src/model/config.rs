//! Reading `config.json`: keys by their names, checked, with the defaults that the format itself has.

use serde_json::{Map, Value};

use super::snapshot::Files;
use crate::error::{Error, Result};

/// No size in a configuration is larger than this: a damaged file must not become a huge allocation.
pub(super) const MAX_SIZE: usize = 1 << 24;
/// No row and no vector has more values: they are made before anything shows whether the weights are as wide.
pub(super) const MAX_WIDTH: usize = 1 << 16;

/// A JSON object of a model, and how an error names it.
#[derive(Debug, Clone)]
pub(super) struct Config {
    label: String,
    path: String,
    values: Map<String, Value>,
}

impl Config {
    /// Reads a file that the model must have.
    pub(super) fn read(files: Files<'_>, path: &str) -> Result<Self> {
        Self::find(files, path)?.ok_or_else(|| files.missing(path))
    }

    /// Reads a file, `None` where the model has none.
    pub(super) fn find(files: Files<'_>, path: &str) -> Result<Option<Self>> {
        let values = files.json(path)?;
        Ok(values.map(|values| Self { label: files.label(), path: path.to_owned(), values }))
    }

    /// The error for a value that the file has and this crate does not support.
    pub(super) fn unsupported(&self, key: &str, value: &str, known: &str) -> Error {
        unsupported(&self.label, &self.path, key, value, known)
    }

    /// A value that is there and not null.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Whether the file says null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(Value::is_null)
    }

    /// Keys that the file has.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// An object, to be read with the same methods.
    pub(super) fn object(&self, key: &str) -> Result<Option<Self>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let values = value.as_object().cloned();
        let values = values.ok_or_else(|| self.unsupported(key, &value.to_string(), "an object"))?;
        Ok(Some(Self { label: self.label.clone(), path: format!("{}: {key}", self.path), values }))
    }

    /// A text, `None` where it is missing or null.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.unsupported(key, &other.to_string(), "a text")),
        }
    }

    /// A yes or no.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.unsupported(key, &other.to_string(), "true or false")),
        }
    }

    /// A number that a computation can use.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.unsupported(key, &value.to_string(), "a number"))
    }

    /// A number above 0, as an f32 has it too.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        let rounded = number as f32;
        if rounded > 0.0 && rounded.is_finite() {
            return Ok(Some(number));
        }
        Err(self.unsupported(key, &number.to_string(), "more than 0, within the range of f32"))
    }

    /// What a norm adds so as not to divide by 0, under the first of these names that the file has.
    pub(super) fn epsilon(&self, keys: &[&str], default: f64) -> Result<f32> {
        for key in keys {
            match self.positive(key)? {
                Some(epsilon) if epsilon <= 1.0 => return Ok(epsilon as f32),
                Some(epsilon) => return Err(self.unsupported(key, &epsilon.to_string(), "more than 0, up to 1")),
                None => {}
            }
        }
        Ok(default as f32)
    }

    /// The width of a row, under the first of these names that the file has.
    pub(super) fn width(&self, keys: &[&str], default: usize) -> Result<usize> {
        let width = self.size(keys, default)?;
        if width <= MAX_WIDTH {
            return Ok(width);
        }
        let key = keys.iter().find(|key| self.value(key).is_some()).unwrap_or(&keys[0]);
        Err(self.unsupported(key, &width.to_string(), &format!("1 to {MAX_WIDTH}")))
    }

    /// A whole number of at least `least`.
    pub(super) fn count(&self, key: &str, least: usize) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let count = value.as_u64().map(|count| count as usize).filter(|count| (least..=MAX_SIZE).contains(count));
        count.map(Some).ok_or_else(|| self.unsupported(key, &value.to_string(), &format!("{least} to {MAX_SIZE}")))
    }

    /// A size of at least 1, under the first of these names that the file has.
    pub(super) fn size(&self, keys: &[&str], default: usize) -> Result<usize> {
        for key in keys {
            if let Some(size) = self.count(key, 1)? {
                return Ok(size);
            }
        }
        Ok(default)
    }

    /// Refuses every value of a key but this one, which a missing key stands for too.
    pub(super) fn expect(&self, key: &str, known: &Value) -> Result<()> {
        match self.value(key).filter(|value| *value != known) {
            None => Ok(()),
            Some(Value::String(text)) => Err(self.unsupported(key, text, &plain(known))),
            Some(other) => Err(self.unsupported(key, &other.to_string(), &plain(known))),
        }
    }
}

/// A value as an error shows it: texts without their quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Characters of a value that an error shows.
const SHOWN: usize = 120;

/// The error for a value of a model's file that this crate does not support.
pub(super) fn unsupported(label: &str, path: &str, key: &str, value: &str, known: &str) -> Error {
    let shown: String = value.chars().take(SHOWN).collect();
    let value = if shown.len() < value.len() { shown + "…" } else { shown };
    Error::Model(format!("{label}: {path}: {key} \"{value}\" is not supported (supported: {known})"))
}

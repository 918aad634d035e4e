//! Columns that are in the names of folders: `year=2024/topic=a%20b/x.parquet`, as Hive began it.

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::object_store::ObjectStore;
use datafusion::object_store::path::Path;
use percent_encoding::percent_decode_str;

use super::file_set::shown_file;
use crate::error::{Error, Result};
use crate::files::partitions::NULL;

/// The column that has the name of a row's file, where a table has it.
const FILENAME: &str = "filename";

/// The columns of a table that are not in its files: in the names of its folders, in their order, and the name of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Partitions {
    pub(super) folders: Vec<(String, DataType)>,
    /// Whether there is a column `filename`.
    pub(super) has_filename: bool,
}

impl Partitions {
    /// The columns that all files have, by what their folders are called. Whole numbers are numbers if each is written as a
    /// number is, and everything else is a text.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] for files that lie in folders of different columns.
    pub(super) fn of<'a>(
        store: &dyn ObjectStore,
        root: &Path,
        files: impl Iterator<Item = &'a Path> + Clone,
    ) -> Result<Self> {
        let names = |file: &Path| pairs(root, file).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let Some(first) = files.clone().next() else { return Ok(Self::default()) };
        let columns = names(first);
        if let Some(other) = files.clone().find(|file| names(file) != columns) {
            return Err(Error::Read(format!(
                "{:?} and {:?} lie in folders of different columns ({} and {}), and are no table together: name fewer files",
                shown_file(store, first),
                shown_file(store, other),
                listed(&columns),
                listed(&names(other)),
            )));
        }
        let is_number = |column: usize| {
            let mut values = files.clone().filter_map(|file| value(&pairs(root, file).get(column)?.1)).peekable();
            values.peek().is_some()
                && values.all(|text| text.parse::<i64>().is_ok_and(|number| number.to_string() == text))
        };
        let kind = |column| if is_number(column) { DataType::Int64 } else { text() };
        let folders = columns.into_iter().enumerate().map(|(column, name)| (name, kind(column))).collect();
        Ok(Self { folders, has_filename: false })
    }

    /// The columns of this table: each of a folder may have a NULL.
    pub(super) fn fields(&self) -> Vec<FieldRef> {
        let folders = self.folders.iter().map(|(name, kind)| Field::new(name, kind.clone(), true));
        let filename = self.has_filename.then(|| Field::new(FILENAME, text(), false));
        folders.chain(filename).map(FieldRef::new).collect()
    }

    /// What a file has in these columns; `None` for a file in folders of other columns, which is none of the table.
    pub(super) fn values(&self, store: &dyn ObjectStore, root: &Path, file: &Path) -> Result<Option<Vec<ScalarValue>>> {
        let pairs = pairs(root, file);
        let names = || self.folders.iter().map(|(name, _)| name);
        if !self.folders.is_empty() && !names().eq(pairs.iter().map(|(name, _)| name)) {
            return Ok(None);
        }
        let values = self.folders.iter().zip(&pairs).map(|((name, kind), (_, text))| {
            let scalar = match value(text) {
                Some(value) => ScalarValue::try_from_string(value, kind),
                None => ScalarValue::try_from(kind),
            };
            scalar.map_err(|_| {
                Error::Read(format!(
                    "file {:?}: column {name:?} of its folder is no {kind}: {text:?}",
                    shown_file(store, file)
                ))
            })
        });
        let mut values = values.collect::<Result<Vec<_>>>()?;
        if self.has_filename {
            let name = ScalarValue::from(shown_file(store, file));
            values.push(ScalarValue::Dictionary(Box::new(DataType::UInt16), Box::new(name)));
        }
        Ok(Some(values))
    }
}

fn text() -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8))
}

fn listed(columns: &[String]) -> String {
    if columns.is_empty() { "none".to_owned() } else { columns.join(", ") }
}

/// Names and values of the folders between a root and a file, as they are written.
fn pairs(root: &Path, file: &Path) -> Vec<(String, String)> {
    let mut names: Vec<_> =
        file.prefix_match(root).into_iter().flatten().map(|name| name.as_ref().to_owned()).collect();
    names.pop();
    names
        .iter()
        .filter_map(|name| name.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What is written, decoded; `None` for NULL. What decodes to no text is no code.
fn value(written: &str) -> Option<String> {
    let decoded =
        percent_decode_str(written).decode_utf8().map_or_else(|_| written.to_owned(), |text| text.into_owned());
    (decoded != NULL).then_some(decoded)
}

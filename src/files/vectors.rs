//! How vectors are stored in Parquet: what their values need, which is not what a text needs.
//!
//! The values of vectors hardly repeat, shrink by a few per cent at best, and nobody asks for those between two bounds. So they
//! are written plain, without a dictionary, compression and statistics, unless the statement says something about it:
//!
//! | option of COPY | values | default |
//! |---|---|---|
//! | `vector_encoding` | `plain`, `byte_stream_split` (which makes compression worth while) | `plain` |
//! | `vector_compression` | as `compression`: `uncompressed`, `zstd(3)`, .. | `uncompressed`, with `byte_stream_split` `zstd(1)` |
//! | `vector_storage` | `float32`, `float16` (half the size; three digits) | as they are |
//!
//! Not every reader knows float16 in byte streams: benches/README.md says which.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::expr::{Alias, Cast};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};

use super::reading::format_of;
use crate::error::Error;

const ENCODING: &str = "format.vector_encoding";
const COMPRESSION: &str = "format.vector_compression";
const STORAGE: &str = "format.vector_storage";

/// Is this a list of floats, and so a vector?
pub fn is_vector(data_type: &DataType) -> bool {
    item(data_type).is_some_and(|item| item.data_type().is_floating())
}

/// What the elements of a list are; `None` for what is none.
pub(crate) fn item(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Some(item),
        _ => None,
    }
}

/// Fills in the options of a COPY that has vectors.
pub(super) fn store_vectors(copy: &mut CopyTo, session: &ConfigOptions) -> Result<()> {
    let [encoding, compression, storage] = [ENCODING, COMPRESSION, STORAGE].map(|option| copy.options.remove(option));
    if format_of(&copy.file_type.get_ext().to_lowercase()) != "parquet" {
        let set = [encoding, compression, storage].into_iter().flatten().next();
        return match set {
            Some(_) => Err(Error::Write("COPY: options of vectors are for parquet files only".to_owned()).into()),
            None => Ok(()),
        };
    }
    if let Some(storage) = storage {
        store_as(copy, &storage)?;
    }
    let encoding = one_of("vector_encoding", encoding, &["plain", "byte_stream_split"])?;
    let is_split = encoding.as_deref() == Some("byte_stream_split");
    let compression = compression.unwrap_or_else(|| if is_split { "zstd(1)" } else { "uncompressed" }.to_owned());
    let columns = Columns::of(copy);
    // Others have what the session says.
    let parquet = &session.execution.parquet;
    let is_dictionary = parquet.dictionary_enabled.unwrap_or(true).to_string();
    columns.set(&mut copy.options, "dictionary_enabled", "false", &is_dictionary);
    columns.set(
        &mut copy.options,
        "statistics_enabled",
        "none",
        parquet.statistics_enabled.as_deref().unwrap_or("page"),
    );
    columns.set(&mut copy.options, "compression", &compression, parquet.compression.as_deref().unwrap_or("zstd(3)"));
    if let Some(encoding) = encoding {
        columns.set(&mut copy.options, "encoding", &encoding, "plain");
    }
    Ok(())
}

fn one_of(name: &str, value: Option<String>, known: &[&str]) -> std::result::Result<Option<String>, Error> {
    let value = value.map(|value| value.trim().to_lowercase());
    match value {
        Some(value) if !known.contains(&value.as_str()) => {
            Err(Error::Write(format!("COPY: {name} {value:?} is not known (known: {})", known.join(", "))))
        }
        value => Ok(value),
    }
}

/// Casts the vectors of a COPY.
fn store_as(copy: &mut CopyTo, storage: &str) -> Result<()> {
    let storage = one_of("vector_storage", Some(storage.to_owned()), &["float32", "float16"])?;
    let float = if storage.as_deref() == Some("float16") { DataType::Float16 } else { DataType::Float32 };
    let columns = copy.input.schema().iter().map(|(qualifier, field)| {
        let column = Expr::Column((qualifier, field).into());
        let Some(to) = of_floats(field.data_type(), &float) else { return column };
        let cast = Expr::Cast(Cast::new(Box::new(column), to));
        Expr::Alias(Alias::new(cast, qualifier.cloned(), field.name()))
    });
    let columns: Vec<Expr> = columns.collect();
    copy.input = Arc::new(LogicalPlanBuilder::from(Arc::clone(&copy.input)).project(columns)?.build()?);
    Ok(())
}

/// A vector's type with other values; `None` for what is none.
fn of_floats(data_type: &DataType, float: &DataType) -> Option<DataType> {
    if !is_vector(data_type) {
        return None;
    }
    let with = |item: &FieldRef| Arc::new(item.as_ref().clone().with_data_type(float.clone()));
    Some(match data_type {
        DataType::List(item) => DataType::List(with(item)),
        DataType::LargeList(item) => DataType::LargeList(with(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(with(item), *length),
        _ => return None,
    })
}

/// The columns of a Parquet file, by the paths of their values.
struct Columns {
    vectors: Vec<String>,
    others: Vec<String>,
}

impl Columns {
    fn of(copy: &CopyTo) -> Self {
        let fields = copy.input.schema().fields();
        let vectors = fields.iter().filter_map(|field| vector_leaf(field)).collect();
        let mut others = Vec::new();
        for field in fields.iter().filter(|field| vector_leaf(field).is_none()) {
            leaves(field, "", &mut others);
        }
        Self { vectors, others }
    }

    /// Sets an option of the vectors, unless the statement says something about it. `default` is what others have without it.
    fn set(&self, options: &mut HashMap<String, String>, option: &str, value: &str, default: &str) {
        let option = format!("format.{option}");
        if self.vectors.is_empty() || options.contains_key(&option) {
            return;
        }
        // Dots separate the parts of a path, so the option of a column cannot say a name that has one: `embed(t.body)`.
        let can_be_named = self.vectors.iter().all(|leaf| leaf.matches('.').count() == 2);
        let named = if can_be_named { &self.vectors } else { &self.others };
        let named_value = if can_be_named { value } else { default };
        for leaf in named {
            options.entry(format!("{option}::{leaf}")).or_insert_with(|| named_value.to_owned());
        }
        if !can_be_named {
            options.insert(option, value.to_owned());
        }
    }
}

/// Adds the paths of the values of a column in a Parquet file, where an option can say them.
fn leaves(field: &Field, parent: &str, found: &mut Vec<String>) {
    if field.name().contains('.') {
        return;
    }
    let path = format!("{parent}{}", field.name());
    match field.data_type() {
        DataType::Map(entries, _) => leaves(entries, &format!("{path}."), found),
        DataType::Struct(fields) => fields.iter().for_each(|field| leaves(field, &format!("{path}."), found)),
        other => match item(other) {
            Some(item) => leaves(item, &format!("{path}.list."), found),
            None => found.push(path),
        },
    }
}

/// The path of a vector's values in a Parquet file, where a list is a group of groups: `vector.list.item`.
fn vector_leaf(field: &Field) -> Option<String> {
    let item = item(field.data_type()).filter(|_| is_vector(field.data_type()))?;
    Some(format!("{}.list.{}", field.name(), item.name()))
}

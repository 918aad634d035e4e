//! How the functions read their text column and the name of a model.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::ReturnFieldArgs;

use super::literal_text;

/// Checks the argument types of `function(text[, model])` and says to which they are to be cast.
pub(super) fn coerce(function: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let (text, model) = match types {
        [text] => (text, None),
        [text, model] => (text, Some(model)),
        _ => return plan_err!("{function} takes a text and optionally a model name, got {} arguments", types.len()),
    };
    let text = match text {
        // An untyped NULL is a NULL text.
        DataType::Null => DataType::Utf8,
        text if is_text(text) => text.clone(),
        other => {
            return plan_err!(
                "{function}: argument 1 is {other}, not text; cast it, as in {function}(CAST(x AS VARCHAR))"
            );
        }
    };
    match model {
        None => Ok(vec![text]),
        Some(model) if is_text(model) => Ok(vec![text, DataType::Utf8]),
        Some(other) => plan_err!("{function}: argument 2 is {other}, not the name of a model"),
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The model that the second argument names: a literal, because its dimension is part of the type.
pub(super) fn model_of<'a>(function: &str, args: &ReturnFieldArgs<'a>) -> Result<Option<&'a str>> {
    match args.scalar_arguments.get(1) {
        None => Ok(None),
        Some(Some(value)) => named(function, value).map(Some),
        Some(None) => plan_err!("{function}: argument 2 must be a literal model name, because it decides the type"),
    }
}

/// The name in a literal.
pub(super) fn named<'a>(function: &str, value: &'a ScalarValue) -> Result<&'a str> {
    match literal_text(value).map(str::trim) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => plan_err!("{function}: argument 2 must be the name of a model, got {value}"),
    }
}

/// The texts of a column, row by row.
pub(super) fn rows(array: &ArrayRef) -> Result<Vec<Option<&str>>> {
    Ok(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().collect(),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().collect(),
        DataType::Utf8View => array.as_string_view().iter().collect(),
        DataType::Null => vec![None; array.len()],
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let values = rows(dictionary.values())?;
            if values.is_empty() {
                return Ok(vec![None; array.len()]);
            }
            let keys = dictionary.normalized_keys().into_iter().enumerate();
            keys.map(|(row, key)| if dictionary.keys().is_null(row) { None } else { values[key] }).collect()
        }
        other => return exec_err!("a column of {other} is not text"),
    })
}

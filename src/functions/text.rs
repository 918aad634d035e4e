//! How the functions read their text column and the name of a model.

use std::sync::LazyLock;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, StringArray, StringViewArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, Signature, TypeSignature, Volatility};

/// What `function(text[, model])` takes.
///
/// `UserDefined` decides, see [`coerce`]. `Nullary` lets a call without arguments reach this crate's own error. `String`
/// is an example of a call: `SHOW FUNCTIONS` lists a function only where its signature gives one.
pub(super) fn signature() -> &'static Signature {
    static SIGNATURE: LazyLock<Signature> = LazyLock::new(|| {
        let kinds = vec![TypeSignature::UserDefined, TypeSignature::Nullary, TypeSignature::String(1)];
        Signature::one_of(kinds, Volatility::Immutable)
    });
    &SIGNATURE
}

/// To which types the arguments of `function(text[, model])` are cast. A wrong type stays as it is and is refused by
/// [`check`]: an error made here would be buried in DataFusion's list of candidate functions.
pub(super) fn coerce(types: &[DataType]) -> Vec<DataType> {
    types.iter().enumerate().map(coerced).collect()
}

fn coerced((position, data_type): (usize, &DataType)) -> DataType {
    match (position, data_type) {
        // An untyped NULL is a NULL text.
        (0, DataType::Null) => DataType::Utf8,
        (1, name) if is_text(name) => DataType::Utf8,
        (_, other) => other.clone(),
    }
}

/// Refuses what is not `function(text[, model])`.
fn check(function: &str, fields: &[FieldRef]) -> Result<()> {
    let (text, model) = match fields {
        [text] => (text, None),
        [text, model] => (text, Some(model)),
        [] => return plan_err!("{function} takes a text and optionally a model name, got 0 arguments"),
        _ => {
            return plan_err!(
                "{function} takes a text and optionally a model name, got {} arguments; {}",
                fields.len(),
                joined(function, fields)
            );
        }
    };
    check_text(function, text.data_type())?;
    match model.map(|model| model.data_type()) {
        Some(other) if !is_text(other) => plan_err!(
            "{function}: argument 2 is {other}, not the name of a model; write it as a literal, as in \
             {function}(x, 'owner/name')"
        ),
        _ => Ok(()),
    }
}

/// What was meant by several columns.
fn joined(function: &str, fields: &[FieldRef]) -> String {
    let is_plain =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let names = if names.iter().all(|name| is_plain(name)) { names } else { vec!["a", "b"] };
    format!("one text of several columns is {function}(concat_ws(' ', {}))", names.join(", "))
}

/// Refuses a first argument that is no text.
pub(super) fn check_text(function: &str, data_type: &DataType) -> Result<()> {
    if is_text(data_type) {
        return Ok(());
    }
    plan_err!("{function}: argument 1 is {data_type}, not text; cast it, as in {function}(CAST(x AS VARCHAR))")
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The model that the second argument names: a literal, because its dimension is part of the type. Checks the arguments.
pub(super) fn model_of<'a>(function: &str, args: &ReturnFieldArgs<'a>) -> Result<Option<&'a str>> {
    check(function, args.arg_fields)?;
    match args.scalar_arguments.get(1) {
        None => Ok(None),
        Some(Some(value)) => named(function, 2, value).map(Some),
        Some(None) => plan_err!(
            "{function}: argument 2 must be a literal model name, because it decides the type; {}",
            joined(function, args.arg_fields)
        ),
    }
}

/// The model that the second argument of a running call names.
pub(super) fn model_argument<'a>(function: &str, args: &'a [ColumnarValue]) -> Result<Option<&'a str>> {
    match args.get(1) {
        None => Ok(None),
        Some(ColumnarValue::Scalar(value)) => named(function, 2, value).map(Some),
        Some(ColumnarValue::Array(_)) => exec_err!("{function}: argument 2 must be a literal"),
    }
}

/// The name in a literal, which is the argument of this number.
pub(super) fn named<'a>(function: &str, number: usize, value: &'a ScalarValue) -> Result<&'a str> {
    match literal_text(value).map(str::trim) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => plan_err!("{function}: argument {number} must be the name of a model, got '{value}'"),
    }
}

/// The text of a literal, NULL included.
pub(crate) fn literal_text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

/// A column of texts.
#[derive(Debug)]
pub(crate) enum TextColumn {
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Utf8View(StringViewArray),
}

impl TextColumn {
    /// Takes a column of one of the types that [`coerce`] lets through.
    pub(crate) fn new(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Utf8 => Self::Utf8(array.as_string().clone()),
            DataType::LargeUtf8 => Self::LargeUtf8(array.as_string().clone()),
            DataType::Utf8View => Self::Utf8View(array.as_string_view().clone()),
            DataType::Null => Self::Utf8(StringArray::new_null(array.len())),
            DataType::Dictionary(_, values) if is_text(values) => return Self::new(&cast(array, values)?),
            other => return exec_err!("a column of {other} is not text"),
        })
    }

    /// The text of a row, `None` for NULL.
    pub(crate) fn get(&self, row: usize) -> Option<&str> {
        match self {
            Self::Utf8(array) => array.is_valid(row).then(|| array.value(row)),
            Self::LargeUtf8(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Utf8View(array) => array.is_valid(row).then(|| array.value(row)),
        }
    }

    /// Every text.
    pub(super) fn rows(&self) -> Vec<Option<&str>> {
        match self {
            Self::Utf8(array) => array.iter().collect(),
            Self::LargeUtf8(array) => array.iter().collect(),
            Self::Utf8View(array) => array.iter().collect(),
        }
    }
}

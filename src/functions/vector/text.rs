//! Vectors as texts, `[1,2,3]`, and back.

use std::fmt::{Debug, Write};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ArrowPrimitiveType, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, UInt64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::lists::{Kind, List, Made, Vectors};
use crate::functions::text::TextColumn;

/// Characters of a wrong text that an error shows.
const SHOWN: usize = 40;

/// What texts give. Of a literal the length would be known, but expressions become literals while they are planned, and a type may
/// not change then.
pub(super) fn kind() -> Kind {
    Kind { item: Arc::new(Field::new_list_field(DataType::Float32, true)), list: List::Variable }
}

/// The vectors of texts.
pub(super) fn read(texts: &ColumnarValue, kind: &Kind, rows: usize) -> Result<ArrayRef> {
    let texts = TextColumn::new(&texts.to_array(rows)?)?;
    Made::<Float32Type>::new(kind.clone(), rows).filled(rows, |row, values| {
        let Some(text) = texts.get(row) else { return Ok(false) };
        values.extend(numbers(text)?);
        Ok(true)
    })
}

/// `[1, 2.5, -3e-2]`
fn numbers(text: &str) -> Result<Vec<f32>> {
    let trimmed = text.trim();
    let Some(inner) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return exec_err!("'{}' is no vector, such as '[1, 2.5, 3]'", shown(text));
    };
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    let number = |part: &str| match part.trim().parse::<f32>() {
        // What is too large for f32 is no infinity that somebody wrote.
        Ok(number) if number.is_finite() || part.bytes().all(|byte| !byte.is_ascii_digit()) => Ok(number),
        Ok(_) => exec_err!("'{}' in a vector is beyond what Float32 can be", shown(part)),
        Err(_) => exec_err!("'{}' in a vector is no number", shown(part)),
    };
    inner.split(',').map(number).collect()
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// The texts of vectors, which are read back to the same bits.
pub(super) fn write(vectors: &ColumnarValue, kind: &Kind, rows: usize) -> Result<ArrayRef> {
    match kind.item.data_type() {
        // Float64 has not every digit of those.
        DataType::Int64 => written::<Int64Type>(vectors, rows),
        DataType::UInt64 => written::<UInt64Type>(vectors, rows),
        _ if kind.is_double() => written::<Float64Type>(vectors, rows),
        _ => written::<Float32Type>(vectors, rows),
    }
}

fn written<T: ArrowPrimitiveType<Native: Debug>>(vectors: &ColumnarValue, rows: usize) -> Result<ArrayRef> {
    let vectors = Vectors::<T>::of_argument(vectors)?;
    let (mut texts, mut text) = (StringBuilder::new(), String::new());
    for row in 0..rows {
        let Some(vector) = vectors.get(row)? else {
            texts.append_null();
            continue;
        };
        text.clear();
        text.push('[');
        for (place, x) in vector.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            // Writing to a String does not fail.
            let _ = write!(text, "{comma}{x:?}");
        }
        text.push(']');
        texts.append_value(text.replace(".0,", ",").replace(".0]", "]"));
    }
    Ok(Arc::new(texts.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_text() {
        let of = |text| numbers(text).map_err(|error| error.to_string());
        assert_eq!(of(" [1, 2.5,-3e-2 ] "), Ok(vec![1.0, 2.5, -0.03]));
        assert_eq!(of("[]"), Ok(Vec::new()));
        assert_eq!(of("[inf,-Infinity]"), Ok(vec![f32::INFINITY, f32::NEG_INFINITY]));
        for wrong in ["", "1,2", "[1,2", "[1,,2]", "[a]", "[4e38]", "[1 2]", "{1}"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(of(&format!("[{}]", "x".repeat(1000))).expect_err("long").len() < 150);
    }
}

//! One schema for files that were written by different programs, or by one at different times.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use crate::error::{Error, Result};
use crate::files::vectors::item;

/// A file's name and its columns.
pub(super) type Named = (String, SchemaRef);

/// The columns of all files, by name, in the order in which they first come: texts and numbers are as wide as the widest. A
/// column that a file lacks is NULL there.
///
/// # Errors
///
/// [`Error::Read`] for a column that has types in two files which have no type together; the files are named.
pub(super) fn merged(files: &[Named], are_texts: bool) -> Result<SchemaRef> {
    let Some((_, first)) = files.first() else { return Ok(Arc::new(Schema::empty())) };
    if files.iter().all(|(_, schema)| schema == first) {
        return Ok(Arc::clone(first));
    }
    let (mut columns, mut places): (Vec<Column<'_>>, HashMap<&str, usize>) = Default::default();
    for (file, schema) in files {
        for field in schema.fields() {
            match places.get(field.name().as_str()) {
                Some(&place) => columns[place].add(file, field, are_texts)?,
                None => {
                    places.insert(field.name(), columns.len());
                    columns.push(Column { field: Arc::clone(field), file, count: 1 });
                }
            }
        }
    }
    let fields: Vec<Field> = columns.into_iter().map(|column| column.of(files.len())).collect();
    let mut metadata = first.metadata().clone();
    metadata.retain(|key, value| files.iter().all(|(_, schema)| schema.metadata().get(key) == Some(value)));
    Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
}

/// A column of the files so far.
struct Column<'a> {
    field: FieldRef,
    /// The file that gave it its type.
    file: &'a str,
    count: usize,
}

impl<'a> Column<'a> {
    fn add(&mut self, file: &'a str, field: &FieldRef, are_texts: bool) -> Result<()> {
        let (ours, theirs) = (self.field.data_type(), field.data_type());
        self.count += 1;
        let Some(together) = common(ours, theirs).or_else(|| text_of_both(ours, theirs, are_texts)) else {
            return Err(Error::Read(format!(
                "column {:?} is {ours} in {:?} and {theirs} in {file:?}, which have no type in common: read the files one by \
                 one and cast it (SELECT CAST({} AS ...) FROM {:?} UNION ALL ...)",
                field.name(),
                self.file,
                field.name(),
                self.file,
            )));
        };
        if &together != ours {
            self.file = file;
        }
        let is_nullable = self.field.is_nullable() || field.is_nullable();
        let mut metadata = self.field.metadata().clone();
        // What holds for one file need not hold for all: the model of its vectors, for one.
        metadata.retain(|key, value| field.metadata().get(key) == Some(value));
        self.field = Arc::new(Field::new(field.name(), together, is_nullable).with_metadata(metadata));
        Ok(())
    }

    fn of(self, files: usize) -> Field {
        let is_nullable = self.field.is_nullable() || self.count < files;
        self.field.as_ref().clone().with_nullable(is_nullable)
    }
}

/// In a file of texts everything was a text before its type was guessed.
fn text_of_both(a: &DataType, b: &DataType, are_texts: bool) -> Option<DataType> {
    (are_texts && !a.is_nested() && !b.is_nested()).then_some(DataType::Utf8)
}

/// A type that has every value of both, or a number that is near it.
fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Binary, BinaryView, Date32, Dictionary, LargeBinary, LargeUtf8, Null, Struct, Utf8, Utf8View};
    match (a, b) {
        (a, b) if a == b => Some(a.clone()),
        (Null, other) | (other, Null) => Some(other.clone()),
        (Dictionary(_, value), other) | (other, Dictionary(_, value)) => match other {
            Dictionary(_, other) => common(value, other),
            other => common(value, other),
        },
        (Utf8View, Utf8 | LargeUtf8) | (Utf8 | LargeUtf8, Utf8View) => Some(Utf8View),
        (Utf8, LargeUtf8) | (LargeUtf8, Utf8) => Some(LargeUtf8),
        (BinaryView, Binary | LargeBinary) | (Binary | LargeBinary, BinaryView) => Some(BinaryView),
        (Binary, LargeBinary) | (LargeBinary, Binary) => Some(LargeBinary),
        (a, b) if a.is_numeric() && b.is_numeric() => number(a, b),
        (DataType::Timestamp(a, zone), DataType::Timestamp(b, other)) if zone == other => {
            Some(DataType::Timestamp(finer(*a, *b), zone.clone()))
        }
        (Date32, DataType::Timestamp(unit, None)) | (DataType::Timestamp(unit, None), Date32) => {
            Some(DataType::Timestamp(*unit, None))
        }
        (Struct(a), Struct(b)) => structure(a, b),
        (a, b) => list(a, b),
    }
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    let order = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    order.into_iter().rfind(|unit| *unit == a || *unit == b).unwrap_or(a)
}

fn number(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Decimal128, Decimal256, Float16, Float32, Float64};
    let bits = |number: &DataType| number.primitive_width().map(|bytes| bytes * 8);
    let (wide, narrow) = if bits(a)? >= bits(b)? { (a, b) } else { (b, a) };
    match (wide, narrow) {
        (Decimal128(..) | Decimal256(..), _) | (_, Decimal128(..) | Decimal256(..)) => decimal(a, b),
        (Float64, _) | (_, Float64) => Some(Float64),
        (Float16 | Float32, Float16 | Float32) => Some(wide.clone()),
        // As many digits as the float has.
        (Float16 | Float32, whole) | (whole, Float16 | Float32) => {
            Some(if bits(whole)? < 32 { Float32 } else { Float64 })
        }
        _ if a.is_signed_integer() == b.is_signed_integer() => Some(wide.clone()),
        // The first signed number that has all values of the unsigned one.
        (wide, narrow) if wide.is_signed_integer() && bits(wide)? > bits(narrow)? => Some(wide.clone()),
        (unsigned, _) => match bits(unsigned)? {
            8 => Some(DataType::Int16),
            16 => Some(DataType::Int32),
            32 => Some(DataType::Int64),
            _ => Some(Decimal128(20, 0)),
        },
    }
}

fn decimal(a: &DataType, b: &DataType) -> Option<DataType> {
    /// Digits before and behind the point.
    fn digits(number: &DataType) -> Option<(i16, i16)> {
        match number {
            DataType::Decimal128(digits, scale) | DataType::Decimal256(digits, scale) => {
                Some((i16::from(*digits) - i16::from(*scale), i16::from(*scale)))
            }
            whole => Some((if whole.is_integer() { 20 } else { return None }, 0)),
        }
    }
    let (Some((before_a, behind_a)), Some((before_b, behind_b))) = (digits(a), digits(b)) else {
        return Some(DataType::Float64);
    };
    let scale = behind_a.max(behind_b);
    let precision = u8::try_from(before_a.max(before_b) + scale).ok()?;
    let scale = i8::try_from(scale).ok()?;
    match precision {
        0..=38 => Some(DataType::Decimal128(precision, scale)),
        39..=76 => Some(DataType::Decimal256(precision, scale)),
        _ => None,
    }
}

fn list(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{FixedSizeList, LargeList, List};
    let (of_a, of_b) = (item(a)?, item(b)?);
    let together = common(of_a.data_type(), of_b.data_type())?;
    let item = Field::new(of_a.name(), together, of_a.is_nullable() || of_b.is_nullable());
    match (a, b) {
        (FixedSizeList(_, size), FixedSizeList(_, other)) if size == other => {
            Some(FixedSizeList(Arc::new(item), *size))
        }
        // Vectors of two models.
        (FixedSizeList(..), FixedSizeList(..)) => None,
        (LargeList(_), _) | (_, LargeList(_)) => Some(LargeList(Arc::new(item))),
        _ => Some(List(Arc::new(item))),
    }
}

fn structure(a: &Fields, b: &Fields) -> Option<DataType> {
    let mut fields: Vec<Field> = Vec::new();
    for field in a {
        let other = b.iter().find(|other| other.name() == field.name());
        let together = other
            .map_or_else(|| Some(field.data_type().clone()), |other| common(field.data_type(), other.data_type()))?;
        let is_nullable = field.is_nullable() || other.is_none_or(|other| other.is_nullable());
        fields.push(Field::new(field.name(), together, is_nullable));
    }
    let new = b.iter().filter(|field| a.iter().all(|other| other.name() != field.name()));
    fields.extend(new.map(|field| field.as_ref().clone().with_nullable(true)));
    Some(DataType::Struct(fields.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_merged_either_way_round() {
        use DataType::*;
        let vector = |item: DataType, size| FixedSizeList(Arc::new(Field::new("item", item, true)), size);
        let list = |item: DataType| List(Arc::new(Field::new("item", item, true)));
        for (a, b, together) in [
            (Int32, Int64, Some(Int64)),
            (UInt8, UInt32, Some(UInt32)),
            (UInt32, Int64, Some(Int64)),
            (UInt32, Int32, Some(Int64)),
            (UInt8, Int8, Some(Int16)),
            (UInt64, Int64, Some(Decimal128(20, 0))),
            (Float32, Float64, Some(Float64)),
            (Float32, Int16, Some(Float32)),
            (Float32, Int32, Some(Float64)),
            (Int64, Float64, Some(Float64)),
            (Decimal128(10, 2), Decimal128(12, 4), Some(Decimal128(12, 4))),
            (Decimal128(10, 2), Int64, Some(Decimal128(22, 2))),
            (Decimal128(10, 2), Float32, Some(Float64)),
            (Utf8, LargeUtf8, Some(LargeUtf8)),
            (Utf8View, LargeUtf8, Some(Utf8View)),
            (Dictionary(Box::new(UInt16), Box::new(Utf8)), Utf8View, Some(Utf8View)),
            (Null, Boolean, Some(Boolean)),
            (Date32, Timestamp(TimeUnit::Second, None), Some(Timestamp(TimeUnit::Second, None))),
            (
                Timestamp(TimeUnit::Second, None),
                Timestamp(TimeUnit::Nanosecond, None),
                Some(Timestamp(TimeUnit::Nanosecond, None)),
            ),
            (vector(Float32, 3), list(Float64), Some(list(Float64))),
            (vector(Float32, 3), vector(Float16, 3), Some(vector(Float32, 3))),
            (vector(Float32, 3), vector(Float32, 4), None),
            (Int64, Utf8, None),
            (Boolean, Int8, None),
        ] {
            assert_eq!(common(&a, &b), together, "{a} {b}");
            assert_eq!(common(&b, &a), together, "{b} {a}");
        }
    }

    #[test]
    fn a_column_that_a_file_lacks_is_null_there_and_files_are_named() {
        let schema = |fields: &[(&str, DataType)]| {
            let fields: Vec<_> = fields.iter().map(|(name, of)| Field::new(*name, of.clone(), false)).collect();
            Arc::new(Schema::new(fields))
        };
        let a = ("a.x".to_owned(), schema(&[("id", DataType::Int32), ("old", DataType::Utf8)]));
        let b = ("b.x".to_owned(), schema(&[("new", DataType::Utf8), ("id", DataType::Int64)]));
        let both = merged(&[a.clone(), b], false).expect("one schema");
        let shown: Vec<_> = both.fields().iter().map(|f| (f.name().as_str(), f.is_nullable())).collect();
        assert_eq!(shown, [("id", false), ("old", true), ("new", true)]);
        assert_eq!(both.field(0).data_type(), &DataType::Int64);
        let c = ("c.x".to_owned(), schema(&[("id", DataType::Boolean)]));
        let error = merged(&[a.clone(), c.clone()], false).expect_err("no number is a boolean").to_string();
        assert!(error.contains("\"id\" is Int32 in \"a.x\" and Boolean in \"c.x\""), "{error}");
        assert_eq!(merged(&[a, c], true).expect("texts").field(0).data_type(), &DataType::Utf8);
    }
}

//! How the values of partition columns are written in the names of folders: `topic=a`, and NULL as Hive and Spark write it.
//!
//! DataFusion 55.2 names the folder of a NULL as that of `''`, and that of a NULL number as that of 0.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

use crate::error::Error;

/// The value of a NULL in the name of a folder.
pub(super) const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The rows with their partition columns as the texts that name folders. Files that keep these columns keep their values, and
/// cannot have a NULL there.
pub(super) fn named_partitions(
    data: SendableRecordBatchStream,
    partition_by: &[String],
    keeps: bool,
) -> Result<SendableRecordBatchStream> {
    if partition_by.is_empty() {
        return Ok(data);
    }
    let schema = data.schema();
    let columns = partition_by.iter().map(|name| schema.index_of(name)).collect::<std::result::Result<Vec<_>, _>>()?;
    let named = if keeps { Arc::clone(&schema) } else { texts(&schema, &columns) };
    let batches = {
        let named = Arc::clone(&named);
        data.map(
            move |batch| if keeps { without_null(batch?, &columns) } else { named_batch(&batch?, &columns, &named) },
        )
    };
    Ok(Box::pin(RecordBatchStreamAdapter::new(named, batches)))
}

/// The schema with texts in these columns.
fn texts(schema: &Schema, columns: &[usize]) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    for &column in columns {
        fields[column] = Arc::new(fields[column].as_ref().clone().with_data_type(DataType::Utf8).with_nullable(false));
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn named_batch(batch: &RecordBatch, columns: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
    let mut arrays = batch.columns().to_vec();
    for &column in columns {
        arrays[column] = text(&arrays[column])?;
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), arrays)?)
}

fn text(array: &ArrayRef) -> Result<ArrayRef> {
    let array = match array.data_type() {
        // A day, as DataFusion names its folder.
        DataType::Date64 => cast(array, &DataType::Date32)?,
        _ => Arc::clone(array),
    };
    let texts = cast(&array, &DataType::Utf8)?;
    if texts.null_count() == 0 {
        return Ok(texts);
    }
    let texts = texts.as_string::<i32>().iter().map(|text| Some(text.unwrap_or(NULL)));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

fn without_null(batch: RecordBatch, columns: &[usize]) -> Result<RecordBatch> {
    for &column in columns {
        if batch.column(column).logical_null_count() > 0 {
            let name = batch.schema().field(column).name().clone();
            return Err(Error::Write(format!(
                "partition column {name:?} has a NULL, which files that keep the column cannot have: set \
                 execution.keep_partition_by_columns to false, or select coalesce({name}, ..)"
            ))
            .into());
        }
    }
    Ok(batch)
}

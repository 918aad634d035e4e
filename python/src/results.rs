//! Results of a statement, computed when they are asked for.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StructArray};
use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::TryStreamExt;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use pyo3_arrow::ffi::{ArrayIterator, to_stream_pycapsule};
use pyo3_arrow::{PySchema, PyTable};
use tokio::runtime::Handle;

use crate::errors::of_query;
use crate::waiting::{rows, runtime, wait_for};

/// A query that runs when its rows are asked for, each time anew; of a statement that is no query, its result.
#[pyclass(frozen, module = "datafusion_embed._native")]
pub(crate) struct Results {
    ctx: SessionContext,
    frame: DataFrame,
}

impl Results {
    pub(crate) fn new(ctx: SessionContext, frame: DataFrame) -> Self {
        Self { ctx, frame }
    }

    /// The query, or one for its first rows.
    fn first(&self, rows: Option<usize>) -> PyResult<DataFrame> {
        let frame = self.frame.clone();
        match rows {
            Some(rows) => frame.limit(0, Some(rows)).map_err(|error| of_query(&error)),
            None => Ok(frame),
        }
    }

    fn schema(&self) -> SchemaRef {
        Arc::new(self.frame.schema().as_arrow().clone())
    }
}

#[pymethods]
impl Results {
    /// Names and types of the columns, an object with `__arrow_c_schema__`.
    #[getter]
    #[pyo3(name = "schema")]
    fn columns(&self) -> PySchema {
        self.schema().into()
    }

    /// All rows in memory, or the first ones. `look` is called with the rows that are embedded so far and how many there will be.
    #[pyo3(signature = (first = None, look = None))]
    fn collect(&self, py: Python<'_>, first: Option<usize>, look: Option<Bound<'_, PyAny>>) -> PyResult<PyTable> {
        let rows = rows(py, &self.ctx, self.first(first)?, look.as_ref())?;
        let schema = rows.first().map_or_else(|| self.schema(), RecordBatch::schema);
        PyTable::try_new(rows, schema)
    }

    /// The first rows as a table for people.
    #[pyo3(signature = (first, look = None))]
    fn show(&self, py: Python<'_>, first: usize, look: Option<Bound<'_, PyAny>>) -> PyResult<String> {
        let rows = rows(py, &self.ctx, self.first(Some(first))?, look.as_ref())?;
        let table = pretty_format_batches_with_schema(self.schema(), &rows);
        table.map(|table| table.to_string()).map_err(|error| of_query(&error.into()))
    }

    /// Arrow's C stream: batches are computed as they are read.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let stream = wait_for(py, &self.ctx, self.frame.clone().execute_stream())?;
        let schema = stream.schema();
        let batches = Batches { stream, runtime: runtime()?.handle().clone() };
        let rows = Field::new_struct("", schema.fields().clone(), false).with_metadata(schema.metadata().clone());
        let batches = batches.map(|batch| batch.map(|batch| Arc::new(StructArray::from(batch)) as ArrayRef));
        let batches = ArrayIterator::new(batches, Arc::new(rows));
        to_stream_pycapsule(py, Box::new(batches), requested_schema).map_err(Into::into)
    }
}

/// Waits for each batch.
struct Batches {
    stream: SendableRecordBatchStream,
    runtime: Handle,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.runtime.block_on(self.stream.try_next());
        next.map_err(|error| ArrowError::ExternalError(Box::new(error))).transpose()
    }
}

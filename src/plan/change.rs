//! The rows of a table in memory by number, and what changes them.
//!
//! The numbers count the rows in the order of partitions and record batches. A statement changes the rows that it was
//! planned on, all of them at once after the last one was computed, or none. Rows that came in meanwhile stay as they are;
//! where others were changed or deleted meanwhile, the statement is an error.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::{filter_record_batch, interleave};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{TableReference, exec_err, internal_datafusion_err, internal_err};
use datafusion::datasource::sink::DataSink;
use datafusion::datasource::{MemTable, TableType};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, WriteOp};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, SendableRecordBatchStream};
use futures::TryStreamExt;

/// A table in memory with the numbers of its rows as one column more, the last.
#[derive(Debug)]
pub(super) struct NumberedRows {
    table: Arc<dyn TableProvider>,
    schema: SchemaRef,
}

impl NumberedRows {
    pub(super) fn new(table: Arc<dyn TableProvider>) -> Result<Self> {
        let schema = table.schema();
        let mut number = "__embed_row".to_owned();
        while schema.index_of(&number).is_ok() {
            number.push('_');
        }
        let mut fields = schema.fields().to_vec();
        fields.push(Arc::new(Field::new(number, DataType::UInt64, false)));
        let rows = Self { table, schema: Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())) };
        rows.memory().map(|_| ())?;
        Ok(rows)
    }

    /// Name of the last column.
    pub(super) fn number(&self) -> &str {
        self.schema.fields().last().map_or("", |field| field.name())
    }

    fn memory(&self) -> Result<&MemTable> {
        self.table.downcast_ref().ok_or_else(|| internal_datafusion_err!("the table is not in memory"))
    }

    /// The rows that a plan scans, by partition; none for a plan that scans none.
    fn scanned(&self, plan: &Arc<dyn ExecutionPlan>, found: &mut Vec<Vec<Vec<RecordBatch>>>) {
        if let Some(source) = plan.downcast_ref::<DataSourceExec>()
            && let Some(memory) = source.data_source().downcast_ref::<MemorySourceConfig>()
            && Arc::ptr_eq(&memory.original_schema(), &self.schema)
        {
            found.push(memory.partitions().to_vec());
        }
        for child in plan.children() {
            self.scanned(child, found);
        }
    }
}

#[async_trait]
impl TableProvider for NumberedRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut partitions = Vec::new();
        for partition in &self.memory()?.batches {
            partitions.push(partition.read().await);
        }
        let mut first = 0;
        let mut numbered = Vec::with_capacity(partitions.len());
        for partition in &partitions {
            let mut batches = Vec::with_capacity(partition.len());
            for batch in partition.iter() {
                let end = first + batch.num_rows() as u64;
                let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(first..end));
                let columns = batch.columns().iter().cloned().chain([numbers]).collect();
                batches.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
                first = end;
            }
            numbered.push(batches);
        }
        let source = MemorySourceConfig::try_new(&numbered, Arc::clone(&self.schema), projection.cloned())?;
        let show_sizes = state.config_options().explain.show_sizes;
        Ok(DataSourceExec::from_data_source(source.with_show_sizes(show_sizes)))
    }
}

/// Deletes the rows whose numbers it is given, or puts the new values in that come behind the number.
#[derive(Debug)]
pub(super) struct RowSink {
    op: WriteOp,
    table_name: TableReference,
    rows: Arc<NumberedRows>,
    /// Columns of the table that get new values.
    columns: Vec<usize>,
    /// The rows that the numbers count, by partition.
    planned_on: Vec<Vec<RecordBatch>>,
    /// Number and new values.
    schema: SchemaRef,
}

/// Record batch and row of a new value.
type Place = (usize, usize);

impl RowSink {
    /// A sink for what this plan gives.
    pub(super) fn try_new(
        op: WriteOp,
        table_name: TableReference,
        rows: &Arc<NumberedRows>,
        columns: Vec<usize>,
        input: &Arc<dyn ExecutionPlan>,
    ) -> Result<Self> {
        let mut scans = Vec::new();
        rows.scanned(input, &mut scans);
        let planned_on = scans.pop().unwrap_or_default();
        if !scans.is_empty() {
            return internal_err!("{op} on table \"{table_name}\" scans the table for its rows more than once");
        }
        Ok(Self { op, table_name, rows: Arc::clone(rows), columns, planned_on, schema: input.schema() })
    }

    /// Where the number and the new values of each row are; `None` for a row that stays.
    fn places(&self, found: &[RecordBatch]) -> Result<Vec<Option<Place>>> {
        let rows = self.planned_on.iter().flatten().map(RecordBatch::num_rows).sum();
        let mut places = vec![None; rows];
        for (number_of_batch, batch) in found.iter().enumerate() {
            let Some(numbers) = batch.column(0).as_primitive_opt::<UInt64Type>() else {
                return internal_err!("{} gets no row numbers", self.op);
            };
            for (row, &number) in numbers.values().iter().enumerate() {
                match places.get_mut(number as usize) {
                    Some(place @ None) => *place = Some((number_of_batch, row)),
                    Some(Some(_)) => {
                        let (op, table) = (self.op.name().to_lowercase(), &self.table_name);
                        return exec_err!(
                            "{op} on table \"{table}\": a subquery gives more than one row for a row of the table, \
                             nothing was changed: let it give one, with an aggregate or LIMIT 1"
                        );
                    }
                    None => return internal_err!("{} gets row {number} of {rows}", self.op),
                }
            }
        }
        Ok(places)
    }

    /// A record batch of the table after the statement; `None` if no row is left.
    fn changed(
        &self,
        batch: &RecordBatch,
        places: &[Option<Place>],
        found: &[RecordBatch],
    ) -> Result<Option<RecordBatch>> {
        // Without the numbers.
        let columns: Vec<_> = (0..batch.num_columns() - 1).collect();
        let batch = batch.project(&columns)?;
        if places.iter().all(Option::is_none) {
            return Ok(Some(batch));
        }
        if self.op == WriteOp::Delete {
            let kept: BooleanArray = places.iter().map(|place| Some(place.is_none())).collect();
            let batch = filter_record_batch(&batch, &kept)?;
            return Ok((batch.num_rows() > 0).then_some(batch));
        }
        // Array 0 is the old column, the others are the new values.
        let place = |(row, place): (usize, &Option<Place>)| place.map_or((0, row), |(batch, row)| (1 + batch, row));
        let indices: Vec<_> = places.iter().enumerate().map(place).collect();
        let mut columns = batch.columns().to_vec();
        for (value, &column) in self.columns.iter().enumerate() {
            let new_values = found.iter().map(|found| found.column(1 + value).as_ref());
            let arrays: Vec<_> = [batch.column(column).as_ref()].into_iter().chain(new_values).collect();
            let merged = interleave(&arrays, &indices)?;
            let schema = batch.schema();
            let field = schema.field(column);
            if !field.is_nullable() && merged.null_count() > 0 {
                let (table, name) = (&self.table_name, field.name());
                return exec_err!(
                    "update on table \"{table}\": a new value of column \"{name}\" is NULL and the column is NOT NULL, \
                     nothing was changed: give it a value, or leave those rows out by WHERE"
                );
            }
            columns[column] = merged;
        }
        Ok(Some(RecordBatch::try_new(batch.schema(), columns)?))
    }

    /// Puts the new partitions in the place of the old, if those are still there.
    async fn replace(&self, changed: Vec<Vec<RecordBatch>>) -> Result<()> {
        let table = self.rows.memory()?;
        let mut partitions = Vec::with_capacity(table.batches.len());
        for partition in &table.batches {
            partitions.push(partition.write().await);
        }
        let unchanged = partitions.iter().zip(&self.planned_on).all(|(now, then)| begins_with(now, then));
        if !unchanged || partitions.len() != changed.len() {
            let (op, table) = (self.op.name().to_lowercase(), &self.table_name);
            return exec_err!(
                "{op} on table \"{table}\": another statement has changed rows since this one was planned, \
                 nothing was changed by this one: run it again"
            );
        }
        for ((partition, then), new) in partitions.iter_mut().zip(&self.planned_on).zip(changed) {
            partition.splice(..then.len(), new);
        }
        if !self.columns.is_empty() {
            table.sort_order.lock().clear();
        }
        Ok(())
    }
}

/// Whether a partition begins with these record batches, but for the numbers of their rows: the same arrays, not equal ones.
fn begins_with(now: &[RecordBatch], then: &[RecordBatch]) -> bool {
    now.len() >= then.len() && now.iter().zip(then).all(|(now, then)| has_same_arrays(now, then))
}

/// Whether two record batches have the same arrays, but for the numbers of their rows.
fn has_same_arrays(now: &RecordBatch, then: &RecordBatch) -> bool {
    let mut columns = now.columns().iter().zip(then.columns());
    now.num_rows() == then.num_rows() && columns.all(|(now, then)| Arc::ptr_eq(now, then))
}

impl DisplayAs for RowSink {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangeRows (op=[{}] table=[{}])", self.op, self.table_name)
    }
}

#[async_trait]
impl DataSink for RowSink {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(&self, data: SendableRecordBatchStream, _context: &Arc<TaskContext>) -> Result<u64> {
        let found: Vec<RecordBatch> = data.try_collect().await?;
        let count = found.iter().map(RecordBatch::num_rows).sum::<usize>();
        let places = self.places(&found)?;
        if count == 0 {
            return Ok(0);
        }
        let mut rest = places.as_slice();
        let mut changed = Vec::with_capacity(self.planned_on.len());
        for partition in &self.planned_on {
            let mut batches = Vec::with_capacity(partition.len());
            for batch in partition {
                let (places, others) = rest.split_at(batch.num_rows());
                batches.extend(self.changed(batch, places, &found)?);
                rest = others;
            }
            changed.push(batches);
        }
        self.replace(changed).await?;
        Ok(count as u64)
    }
}

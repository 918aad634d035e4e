//! A table of how things stand: its rows are made when a query is planned.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::config::ConfigOptions;
use datafusion::datasource::{MemTable, TableType};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

/// The table function, and the table that it gives: of the session that asks.
#[derive(Debug, Clone)]
pub(super) struct StateTable {
    pub(super) name: &'static str,
    schema: SchemaRef,
    rows: fn(&ConfigOptions, SchemaRef) -> Result<RecordBatch>,
}

impl StateTable {
    pub(super) fn new(
        name: &'static str,
        fields: Vec<Field>,
        rows: fn(&ConfigOptions, SchemaRef) -> Result<RecordBatch>,
    ) -> Self {
        Self { name, schema: Arc::new(Schema::new(fields)), rows }
    }
}

impl TableFunctionImpl for StateTable {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        match args.exprs() {
            [] => Ok(Arc::new(self.clone())),
            exprs => plan_err!("{} takes no arguments, got {}", self.name, exprs.len()),
        }
    }
}

#[async_trait]
impl TableProvider for StateTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = (self.rows)(state.config_options(), self.schema())?;
        MemTable::try_new(self.schema(), vec![vec![rows]])?.scan(state, projection, filters, limit).await
    }
}

pub(super) fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

pub(super) fn count(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}

/// A column of texts.
pub(super) fn texts<T>(rows: &[T], value: impl Fn(&T) -> Option<String>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringArray>())
}

/// A column of counts.
pub(super) fn counts<T>(rows: &[T], value: impl Fn(&T) -> Option<u64>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| value(row).map(|count| count as i64)).collect::<Int64Array>())
}

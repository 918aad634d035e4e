//! `embed_models()`: what each model of this session is and did.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session as PlanSession, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::engine::{ModelUse, Session};
use crate::kernel_path;
use crate::options::Device;

/// The table function, and the table that it gives: of the session that asks.
#[derive(Debug, Clone)]
pub(super) struct EmbedModels;

/// Column names and types; those before `rows_embedded` say what runs, the rest are counters.
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let count = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![
        text("model", false),
        text("source", false),
        text("revision", true),
        text("architecture", false),
        count("dim"),
        Field::new("max_tokens", DataType::Int64, true),
        text("device", false),
        text("precision", false),
        text("kernels", true),
        count("rows_embedded"),
        count("rows_cached"),
        count("rows_duplicate"),
        count("rows_truncated"),
        count("tokens"),
        count("model_batches"),
        count("encode_ms"),
    ]))
});

impl TableFunctionImpl for EmbedModels {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        if args.exprs().is_empty() {
            Ok(Arc::new(self.clone()))
        } else {
            plan_err!("embed_models takes no arguments, got {}", args.exprs().len())
        }
    }
}

#[async_trait]
impl TableProvider for EmbedModels {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    /// The counts are those of the moment when the query is planned.
    async fn scan(
        &self,
        state: &dyn PlanSession,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let usage = Session::of(state.config_options()).map(|session| session.usage()).unwrap_or_default();
        let rows = rows(&usage)?;
        MemTable::try_new(self.schema(), vec![vec![rows]])?.scan(state, projection, filters, limit).await
    }
}

fn rows(models: &[ModelUse]) -> Result<RecordBatch> {
    let text = |value: fn(&ModelUse) -> Option<String>| -> ArrayRef {
        Arc::new(models.iter().map(value).collect::<StringArray>())
    };
    let count = |value: fn(&ModelUse) -> u64| -> ArrayRef {
        Arc::new(models.iter().map(|model| Some(value(model) as i64)).collect::<Int64Array>())
    };
    let columns = vec![
        text(|model| Some(model.description.name.clone())),
        text(|model| Some(model.description.source.to_owned())),
        text(|model| model.description.revision.clone()),
        text(|model| Some(model.description.architecture().to_owned())),
        count(|model| model.description.dim as u64),
        // A static model takes texts of any length.
        Arc::new(
            models.iter().map(|model| model.description.limit().map(|limit| limit as i64)).collect::<Int64Array>(),
        ),
        text(|model| Some(model.place.device.to_string())),
        text(|model| Some(model.place.precision.to_string())),
        // Only the CPU's arithmetic is this crate's own.
        text(|model| (model.place.device == Device::Cpu).then(|| kernel_path().ok()).flatten()),
        count(|model| model.counts.rows_embedded),
        count(|model| model.counts.rows_cached),
        count(|model| model.counts.rows_duplicate),
        count(|model| model.counts.rows_truncated),
        count(|model| model.counts.tokens),
        count(|model| model.counts.model_batches),
        count(|model| model.counts.encode_time.as_millis() as u64),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}

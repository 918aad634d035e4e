//! `embed_cache()`: what the folder of `embed.cache` holds, and what it did for this process.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::datasource::{MemTable, TableType};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

use crate::cache::{CacheUse, usage_so_far};
use crate::options::EmbedOptions;

/// The table function.
#[derive(Debug, Clone)]
pub(super) struct EmbedCache;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let count = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![
        text("model"),
        text("fingerprint"),
        text("precision"),
        text("device"),
        text("prompt"),
        count("dim"),
        count("max_tokens"),
        count("entries"),
        count("bytes"),
        count("hits"),
        count("misses"),
        count("damaged"),
    ]))
});

impl TableFunctionImpl for EmbedCache {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        match args.exprs() {
            [] => Ok(Arc::new(self.clone())),
            exprs => plan_err!("embed_cache takes no arguments, got {}", exprs.len()),
        }
    }
}

#[async_trait]
impl TableProvider for EmbedCache {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    /// The state of the moment when the query is planned; no rows where no folder is set, or none was made yet.
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = state.config_options().extensions.get::<EmbedOptions>();
        let directory = options.map(|options| options.cache.as_str()).filter(|directory| !directory.is_empty());
        let usage = directory.map(usage_so_far).transpose()?.unwrap_or_default();
        MemTable::try_new(self.schema(), vec![vec![rows(&usage)?]])?.scan(state, projection, filters, limit).await
    }
}

fn rows(usage: &[CacheUse]) -> Result<RecordBatch> {
    let text = |value: fn(&CacheUse) -> &str| -> ArrayRef {
        Arc::new(usage.iter().map(|space| Some(value(space))).collect::<StringArray>())
    };
    let count = |value: fn(&CacheUse) -> u64| -> ArrayRef {
        Arc::new(usage.iter().map(|space| Some(value(space) as i64)).collect::<Int64Array>())
    };
    let columns = vec![
        text(|space| &space.model),
        text(|space| &space.fingerprint),
        text(|space| &space.precision),
        text(|space| &space.device),
        text(|space| &space.prompt),
        count(|space| space.dim as u64),
        count(|space| space.max_tokens as u64),
        count(|space| space.entries),
        count(|space| space.bytes),
        count(|space| space.hits),
        count(|space| space.misses),
        count(|space| space.damaged),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}

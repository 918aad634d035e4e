//! Files whose columns are not quite those of their table: each is read by its own columns, and made as wide as the table's.
//!
//! DataFusion's source of Arrow files (55.2) reads each by the table's columns, whatever it has. For Parquet files DataFusion does
//! what is here by itself.

use std::collections::HashMap;
use std::fmt::{self, Formatter};
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
#[cfg(feature = "cluster")]
use datafusion::common::not_impl_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{ArrowSource, FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::object_store::ObjectStore;
use datafusion::object_store::path::Path;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapterFactory, replace_columns_with_literals,
};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use futures::{FutureExt, StreamExt, TryFutureExt};

/// DataFusion's source of Arrow files, for files with columns of their own.
#[derive(Clone)]
pub(super) struct AdaptedSource {
    pub(super) inner: Arc<dyn FileSource>,
    /// The columns of each file.
    pub(super) schemas: Arc<HashMap<Path, SchemaRef>>,
}

impl AdaptedSource {
    fn with_inner(&self, inner: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self { inner, schemas: Arc::clone(&self.schemas) })
    }
}

impl FileSource for AdaptedSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        Ok(Arc::new(Adapted { source: self.clone(), store, config: config.clone(), partition }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, rows: usize) -> Arc<dyn FileSource> {
        self.with_inner(self.inner.with_batch_size(rows))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(format, f)
    }

    /// A file that is a stream has no parts.
    fn supports_repartitioning(&self) -> bool {
        self.file_type() == "arrow"
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.inner.try_pushdown_projection(projection)?.map(|inner| self.with_inner(inner)))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    #[cfg(feature = "cluster")]
    fn try_to_proto(
        &self,
        _: &FileScanConfig,
        _: &datafusion::physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<datafusion_proto::protobuf::PhysicalPlanNode>> {
        not_impl_err!("the bytes of a plan cannot say that Arrow files have columns of their own")
    }
}

/// Opens each file by its own columns.
struct Adapted {
    source: AdaptedSource,
    store: Arc<dyn ObjectStore>,
    config: FileScanConfig,
    partition: usize,
}

impl FileOpener for Adapted {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let inner = &self.source.inner;
        let table = inner.table_schema();
        let own = self.source.schemas.get(&file.object_meta.location).unwrap_or(table.file_schema());
        let adapter = DefaultPhysicalExprAdapterFactory.create(Arc::clone(table.file_schema()), Arc::clone(own))?;
        let folders: HashMap<&str, _> = table
            .table_partition_cols()
            .iter()
            .map(|field| field.name().as_str())
            .zip(&file.partition_values)
            .collect();
        let is_file = inner.file_type() == "arrow";
        let new = if is_file { ArrowSource::new_file_source } else { ArrowSource::new_stream_file_source };
        let mut source: Arc<dyn FileSource> = Arc::new(new(Arc::clone(own)));
        if let Some(projection) = inner.projection() {
            let adapted = projection
                .clone()
                .try_map_exprs(|expr| adapter.rewrite(replace_columns_with_literals(expr, &folders)?))?;
            source = source.try_pushdown_projection(&adapted)?.unwrap_or(source);
        }
        let schema = match inner.projection() {
            Some(projection) => projection.project_schema(table.table_schema())?,
            None => table.table_schema().as_ref().clone(),
        };
        let schema = Arc::new(schema);
        let opened = source.create_file_opener(Arc::clone(&self.store), &self.config, self.partition)?.open(file)?;
        let opened = opened.map_ok(move |rows| rows.map(move |rows| of_table(&rows?, &schema)).boxed());
        Ok(opened.boxed())
    }
}

/// Rows that say of their columns what the table says: whether they may be NULL, and of which model vectors are.
fn of_table(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), rows.columns().to_vec(), &options)?)
}

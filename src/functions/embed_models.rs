//! `embed_models()`: what each model of this session is and did, here and on the executors of its cluster.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;

use super::state_table::{StateTable, count, counts, text, texts};
use crate::engine::Session;

/// The table function. Columns before `rows_embedded` say what runs and where, the rest are counters.
pub(super) fn table() -> StateTable {
    let fields = vec![
        text("model"),
        text("source"),
        text("revision").with_nullable(true),
        text("architecture"),
        count("dim"),
        count("max_tokens").with_nullable(true),
        text("device"),
        text("precision"),
        text("kernels").with_nullable(true),
        text("executor").with_nullable(true),
        count("rows_embedded"),
        count("rows_cached"),
        count("rows_duplicate"),
        count("rows_truncated"),
        count("tokens"),
        count("model_batches"),
        count("encode_ms"),
    ];
    StateTable::new("embed_models", fields, rows)
}

fn rows(config: &ConfigOptions, schema: SchemaRef) -> Result<RecordBatch> {
    let session = Session::of(config).unwrap_or_default();
    let mut models = session.usage();
    models.extend(session.usage_elsewhere());
    let columns = vec![
        texts(&models, |model| Some(model.model.clone())),
        texts(&models, |model| Some(model.source.clone())),
        texts(&models, |model| model.revision.clone()),
        texts(&models, |model| Some(model.architecture.clone())),
        counts(&models, |model| Some(model.dim as u64)),
        counts(&models, |model| model.max_tokens.map(|limit| limit as u64)),
        texts(&models, |model| Some(model.device.clone())),
        texts(&models, |model| Some(model.precision.clone())),
        texts(&models, |model| model.kernels.clone()),
        texts(&models, |model| model.executor.clone()),
        counts(&models, |model| Some(model.counts.rows_embedded)),
        counts(&models, |model| Some(model.counts.rows_cached)),
        counts(&models, |model| Some(model.counts.rows_duplicate)),
        counts(&models, |model| Some(model.counts.rows_truncated)),
        counts(&models, |model| Some(model.counts.tokens)),
        counts(&models, |model| Some(model.counts.model_batches)),
        counts(&models, |model| Some(model.counts.encode_time.as_millis() as u64)),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

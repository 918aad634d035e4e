//! `embed_models()`: what each model of this session is and did.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;

use super::state_table::{StateTable, count, counts, text, texts};
use crate::engine::{ModelUse, Session};
use crate::model::kernel_path;
use crate::options::Device;

/// The table function. Columns before `rows_embedded` say what runs, the rest are counters.
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
    let models = Session::of(config).map(|session| session.usage()).unwrap_or_default();
    let columns = vec![
        texts(&models, |model| Some(model.description.name.clone())),
        texts(&models, |model| Some(model.description.source.to_owned())),
        texts(&models, |model| model.description.revision.clone()),
        texts(&models, |model| Some(model.description.architecture().to_owned())),
        counts(&models, |model| Some(model.description.dim as u64)),
        // A static model takes texts of any length.
        counts(&models, |model| model.description.limit().map(|limit| limit as u64)),
        texts(&models, |model| Some(model.place.device.to_string())),
        texts(&models, |model| Some(model.place.precision.to_string())),
        texts(&models, kernels),
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

/// Only the CPU's arithmetic is this crate's own.
fn kernels(model: &ModelUse) -> Option<String> {
    (model.place.device == Device::Cpu).then(|| kernel_path().ok()).flatten()
}

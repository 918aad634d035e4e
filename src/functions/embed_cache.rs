//! `embed_cache()`: what the folder of `embed.cache` holds, and what it did for this process.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;

use super::state_table::{StateTable, count, counts, text, texts};
use crate::cache::usage_so_far;
use crate::options::EmbedOptions;

/// The table function.
pub(super) fn table() -> StateTable {
    let fields = vec![
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
    ];
    StateTable::new("embed_cache", fields, rows)
}

/// No rows where no folder is set, or none was made yet.
fn rows(config: &ConfigOptions, schema: SchemaRef) -> Result<RecordBatch> {
    let options = config.extensions.get::<EmbedOptions>();
    let directory = options.map(|options| options.cache.as_str()).filter(|directory| !directory.is_empty());
    let spaces = directory.map(usage_so_far).transpose()?.unwrap_or_default();
    let columns = vec![
        texts(&spaces, |space| Some(space.model.clone())),
        texts(&spaces, |space| Some(space.fingerprint.clone())),
        texts(&spaces, |space| Some(space.precision.clone())),
        texts(&spaces, |space| Some(space.device.clone())),
        texts(&spaces, |space| Some(space.prompt.clone())),
        counts(&spaces, |space| Some(space.dim as u64)),
        counts(&spaces, |space| Some(space.max_tokens as u64)),
        counts(&spaces, |space| Some(space.entries)),
        counts(&spaces, |space| Some(space.bytes)),
        counts(&spaces, |space| Some(space.hits)),
        counts(&spaces, |space| Some(space.misses)),
        counts(&spaces, |space| Some(space.damaged)),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

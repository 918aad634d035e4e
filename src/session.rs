//! The session that the program, the Python wheel and the processes of a cluster share.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::access::Access;
use crate::files::{CsvTexts, Whole, WholeSinks, Writes};
use crate::options::EmbedOptions;

/// Rows in a Parquet row group. A writer holds a whole row group in memory: DataFusion's default of a million rows is
/// 1.5 GB of 384-wide vectors, this is 30 MB.
const MAX_ROW_GROUP_SIZE: usize = 20_000;

/// Row groups of a Parquet file that are encoded side by side, at most: a vector column has one writer, which one core is not
/// enough for. Each is held in memory, as it is and encoded.
const MAX_ROW_GROUPS: usize = 4;

/// Record batches that may wait for a column's writer: a whole row group, so that the next one can begin.
const MAX_WAITING: usize = 8;

/// What a session of [`session`](crate::session) is made of.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// All settings; those of `embed` are its extension [`EmbedOptions`]. Other than DataFusion's own are: there is an
    /// information schema, which SHOW needs; a Parquet row group has 20 000 rows, because a writer holds one in memory, and as
    /// many of them as there are cores, four at most, are written side by side.
    pub config: SessionConfig,
    /// Bytes that sorts, joins and aggregates may take before they spill; `None` is no limit.
    pub memory_limit: Option<usize>,
    /// What the statements write.
    pub writes: Writes,
    /// What the statements may do to come by models, and who is told what happens meanwhile.
    pub access: Access,
}

impl Default for SessionOptions {
    fn default() -> Self {
        let mut config =
            SessionConfig::new().with_information_schema(true).with_option_extension(EmbedOptions::default());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parquet = &mut config.options_mut().execution.parquet;
        parquet.max_row_group_size = MAX_ROW_GROUP_SIZE;
        parquet.maximum_parallel_row_group_writers = cores.min(MAX_ROW_GROUPS);
        parquet.maximum_buffered_record_batches_per_stream = MAX_WAITING;
        Self { config, memory_limit: None, writes: Writes::default(), access: Access::default() }
    }
}

/// The session without the functions.
pub(crate) fn without_functions(options: SessionOptions) -> Result<SessionContext> {
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = options.memory_limit {
        runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
    }
    let runtime = Arc::new(runtime.build()?);
    let local = ObjectStoreUrl::local_filesystem();
    runtime.register_object_store(local.as_ref(), Arc::new(Whole::local(&options.writes)));
    let state = SessionStateBuilder::new()
        .with_config(options.config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rule(Arc::new(CsvTexts))
        .with_physical_optimizer_rule(Arc::new(WholeSinks))
        .build();
    // FROM 'docs.parquet'. It builds a new context: nothing may be registered before.
    Ok(SessionContext::new_with_state(state).enable_url_table())
}

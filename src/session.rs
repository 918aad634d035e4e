//! The session that the program, the Python wheel and the processes of a cluster share.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::access::Access;
#[cfg(feature = "cluster")]
use crate::cluster::{Cluster, prepared};
use crate::files::{CsvTexts, Stores, VectorScans, WholeSinks, Writes, reading_files};
use crate::functions::{FixedLists, ReadText, mended};
use crate::options::EmbedOptions;
use crate::plan::rules_of_session;

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
    /// many of them as there are cores, four at most, are written side by side; and a folder is read with its subfolders.
    pub config: SessionConfig,
    /// Bytes that sorts, joins and aggregates may take before they spill; `None` is no limit.
    pub memory_limit: Option<usize>,
    /// What the statements write.
    pub writes: Writes,
    /// Which stores the statements reach by their addresses; none by default.
    pub stores: Stores,
    /// What the statements may do to come by models, and who is told what happens meanwhile.
    pub access: Access,
}

#[cfg(feature = "cluster")]
impl SessionOptions {
    /// Statements that read files run on a cluster. Settings that Ballista needs are made now, and those that are made later hold.
    #[must_use]
    pub fn on_cluster(self, cluster: Cluster) -> Self {
        Self { config: prepared(self.config).with_extension(Arc::new(cluster)), ..self }
    }
}

impl Default for SessionOptions {
    fn default() -> Self {
        let mut config =
            SessionConfig::new().with_information_schema(true).with_option_extension(EmbedOptions::default());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let execution = &mut config.options_mut().execution;
        execution.parquet.max_row_group_size = MAX_ROW_GROUP_SIZE;
        execution.parquet.maximum_parallel_row_group_writers = cores.min(MAX_ROW_GROUPS);
        execution.parquet.maximum_buffered_record_batches_per_stream = MAX_WAITING;
        // A folder is all that is in it, as for other programs.
        execution.listing_table_ignore_subdirectory = false;
        Self {
            config,
            memory_limit: None,
            writes: Writes::default(),
            stores: Stores::default(),
            access: Access::default(),
        }
    }
}

/// The session without the functions.
pub(crate) fn without_functions(options: SessionOptions) -> Result<SessionContext> {
    // Other programs write files too.
    let mut runtime = RuntimeEnvBuilder::new().with_object_list_cache_limit(0);
    runtime = runtime.with_object_store_registry(options.stores.registry(&options.writes));
    if let Some(bytes) = options.memory_limit {
        runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
    }
    let runtime = Arc::new(runtime.build()?);
    let mut state = SessionStateBuilder::new()
        .with_config(options.config.with_extension(Arc::new(options.stores)))
        .with_runtime_env(runtime)
        .with_default_features()
        .with_optimizer_rule(Arc::new(FixedLists::new()))
        .with_physical_optimizer_rules(rules_of_session())
        .with_physical_optimizer_rule(Arc::new(CsvTexts))
        .with_physical_optimizer_rule(Arc::new(WholeSinks))
        .with_physical_optimizer_rule(Arc::new(VectorScans))
        .build();
    mended().into_iter().try_for_each(|function| state.register_udf(function).map(|_| ()))?;
    // It builds a new context: nothing may be registered before.
    let ctx = reading_files(SessionContext::new_with_state(state));
    for table in [ReadText::Files, ReadText::Lines] {
        ctx.register_udtf(table.name(), Arc::new(table));
    }
    Ok(ctx)
}

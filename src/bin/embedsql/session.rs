//! The SessionContext of this program: its defaults, then what the command line says.

use std::sync::Arc;

use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_embed::{EmbedOptions, register_as};

use crate::args::Args;
use crate::downloads;
use crate::error::{Failure, one_line, warn};
use crate::files::WholeFiles;
use crate::sink::WholeSinks;

/// Rows in a Parquet row group. A writer holds a whole row group in memory: DataFusion's default of a million rows is
/// 1.5 GB of 384-wide vectors, this is 30 MB.
const MAX_ROW_GROUP_SIZE: usize = 20_000;

/// Builds the session, which writes with `files`; whatever is wrong with a flag is a usage error that names the flag.
pub(crate) async fn session(args: &Args, files: WholeFiles) -> Result<SessionContext, Failure> {
    let mut config = SessionConfig::new().with_information_schema(true).with_option_extension(EmbedOptions::default());
    config.options_mut().execution.parquet.max_row_group_size = MAX_ROW_GROUP_SIZE;
    let (runtime_settings, settings): (Vec<_>, Vec<_>) =
        settings(args).into_iter().partition(|s| s.key.starts_with("datafusion.runtime."));
    for setting in settings {
        config.options_mut().set(&setting.key, &setting.value).map_err(|e| setting.usage(&one_line(&e)))?;
    }

    let options = config.options().extensions.get::<EmbedOptions>().cloned().unwrap_or_default();

    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = args.memory_limit {
        runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
    }
    let runtime = Arc::new(runtime.build()?);
    let local = ObjectStoreUrl::local_filesystem();
    runtime.register_object_store(local.as_ref(), Arc::new(files));

    // FROM 'docs.parquet' first: it builds a new context, and `register` must see the last one.
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rule(Arc::new(WholeSinks))
        .build();
    let ctx = SessionContext::new_with_state(state).enable_url_table();
    register_as(&ctx, options, downloads::access(args.quiet, warn))?;
    for setting in runtime_settings {
        // These are no options of the session but of its runtime; only SET knows how to apply them.
        let sql = format!("SET {} = '{}'", setting.key, setting.value.replace('\'', "''"));
        ctx.sql(&sql).await.map_err(|e| setting.usage(&one_line(&e)))?;
    }
    Ok(ctx)
}

/// One setting and the flag it came from.
struct Setting {
    flag: &'static str,
    key: String,
    value: String,
}

impl Setting {
    fn usage(&self, message: &str) -> Failure {
        match self.flag {
            "--set" => Failure::Usage(format!("--set {}={}: {message}", self.key, self.value)),
            flag => Failure::Usage(format!("{flag} {:?}: {message}", self.value)),
        }
    }
}

/// The settings of the command line, weakest first: a --set overrides the flag that means the same.
fn settings(args: &Args) -> Vec<Setting> {
    let threads = args.threads.map(|n| n.to_string());
    let flags = [
        ("--threads", "datafusion.execution.target_partitions", &threads),
        ("--threads", "embed.concurrency", &threads),
        ("--model", "embed.model", &args.model),
        ("--device", "embed.device", &args.device),
        ("--precision", "embed.precision", &args.precision),
        ("--cache", "embed.cache", &args.cache),
    ];
    let flags = flags.into_iter().filter_map(|(flag, key, value)| {
        value.as_ref().map(|value| Setting { flag, key: key.to_owned(), value: value.clone() })
    });
    let sets = args.set.iter().map(|(key, value)| Setting { flag: "--set", key: key.clone(), value: value.clone() });
    flags.chain(sets).collect()
}

//! The session that the command line asks for.

use datafusion::prelude::SessionContext;

use super::args::Args;
#[cfg(feature = "cluster")]
use super::args::ExecutorArgs;
use super::downloads;
use super::failure::{Failure, one_line, warn};
use crate::SessionOptions;
#[cfg(feature = "cluster")]
use crate::cluster::Cluster;
use crate::files::{Stores, Writes};
use crate::models::check_name;

/// Builds the session and gives what it writes; whatever is wrong with a flag is a usage error that names the flag.
pub(crate) async fn session(args: &Args, options: SessionOptions) -> Result<(SessionContext, Writes), Failure> {
    let mut options = options;
    let (runtime_settings, settings): (Vec<_>, Vec<_>) =
        settings(args).into_iter().partition(|s| s.key.starts_with("datafusion.runtime."));
    options.access = downloads::access(args.quiet, warn);
    for setting in settings.iter().filter(|setting| setting.key == "embed.model") {
        check_name(setting.value.trim(), &options.access).map_err(|error| setting.usage(&error.to_string()))?;
    }
    apply(&mut options, settings)?;
    options.memory_limit = args.memory_limit;
    options.stores = Stores::all();
    let writes = options.writes.clone();
    // Mistakes in statements are pointed at.
    options.config.options_mut().sql_parser.collect_spans = true;
    let ctx = crate::session(options)?;
    for setting in runtime_settings {
        // These are no options of the session but of its runtime; only SET knows how to apply them.
        let sql = format!("SET {} = '{}'", setting.key, setting.value.replace('\'', "''"));
        ctx.sql(&sql).await.map_err(|e| setting.usage(&one_line(&e)))?;
    }
    Ok((ctx, writes))
}

fn apply(options: &mut SessionOptions, settings: impl IntoIterator<Item = Setting>) -> Result<(), Failure> {
    for setting in settings {
        let set = options.config.options_mut().set(&setting.key, &setting.value);
        set.map_err(|e| setting.usage(&one_line(&e)))?;
    }
    Ok(())
}

/// The session of an executor's tasks.
#[cfg(feature = "cluster")]
pub(crate) fn of_executor(args: &ExecutorArgs, quiet: bool) -> Result<SessionOptions, Failure> {
    let mut options = SessionOptions::default();
    let flags = [("--device", "embed.device", &args.device), ("--cache", "embed.cache", &args.cache)];
    let flags = flags.into_iter().filter_map(|(flag, key, value)| Some(Setting::new(flag, key, value.as_ref()?)));
    apply(&mut options, flags.chain(args.set.iter().map(|(key, value)| Setting::new("--set", key, value))))?;
    options.memory_limit = args.memory_limit;
    options.access = downloads::access(quiet, warn);
    options.stores = Stores::all();
    Ok(options)
}

/// The settings of the command line that mean nothing to the executors of a cluster.
#[cfg(feature = "cluster")]
pub(crate) fn without_effect(args: &Args, cluster: &Cluster) -> Vec<String> {
    let settings = settings(args).into_iter().filter(|setting| cluster.ignores(&setting.key));
    settings.map(|setting| if setting.flag == "--set" { setting.key } else { setting.flag.to_owned() }).collect()
}

/// One setting and the flag it came from.
struct Setting {
    flag: &'static str,
    key: String,
    value: String,
}

impl Setting {
    fn new(flag: &'static str, key: &str, value: &str) -> Self {
        Self { flag, key: key.to_owned(), value: value.to_owned() }
    }

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
    // How many tasks a cluster has at once is not this machine's affair.
    #[cfg(feature = "cluster")]
    let threads = threads.filter(|_| args.cluster.is_none());
    let flags = [
        ("--threads", "datafusion.execution.target_partitions", &threads),
        ("--threads", "embed.concurrency", &threads),
        ("--model", "embed.model", &args.model),
        ("--device", "embed.device", &args.device),
        ("--precision", "embed.precision", &args.precision),
        ("--cache", "embed.cache", &args.cache),
    ];
    let flags = flags.into_iter().filter_map(|(flag, key, value)| Some(Setting::new(flag, key, value.as_ref()?)));
    let sets = args.set.iter().map(|(key, value)| Setting::new("--set", key, value));
    flags.chain(sets).collect()
}

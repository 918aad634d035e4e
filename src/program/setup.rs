//! The session that the command line asks for.

use datafusion::prelude::SessionContext;

use super::args::Args;
use super::downloads;
use super::failure::{Failure, one_line, warn};
use crate::SessionOptions;
use crate::files::{Stores, Writes};

/// Builds the session and gives what it writes; whatever is wrong with a flag is a usage error that names the flag.
pub(crate) async fn session(args: &Args) -> Result<(SessionContext, Writes), Failure> {
    let mut options = SessionOptions::default();
    let (runtime_settings, settings): (Vec<_>, Vec<_>) =
        settings(args).into_iter().partition(|s| s.key.starts_with("datafusion.runtime."));
    for setting in settings {
        let set = options.config.options_mut().set(&setting.key, &setting.value);
        set.map_err(|e| setting.usage(&one_line(&e)))?;
    }
    options.memory_limit = args.memory_limit;
    options.access = downloads::access(args.quiet, warn);
    options.stores = Stores::all();
    let writes = options.writes.clone();
    let ctx = crate::session(options)?;
    for setting in runtime_settings {
        // These are no options of the session but of its runtime; only SET knows how to apply them.
        let sql = format!("SET {} = '{}'", setting.key, setting.value.replace('\'', "''"));
        ctx.sql(&sql).await.map_err(|e| setting.usage(&one_line(&e)))?;
    }
    Ok((ctx, writes))
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

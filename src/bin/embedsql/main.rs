//! embedsql: SQL over files with `embed(text)`, from a command line, a script, a pipe or a prompt.
//!
//! arguments -> session -> statements -> exit code. Everything it knows about models it has from the crate's public items.
//!
//! | file | what |
//! |---|---|
//! | `args.rs` | the command line: what may be typed, and what it means |
//! | `session.rs` | the SessionContext: this program's defaults, then what the command line says |
//! | `job.rs` | work on the runtime's threads while the main thread waits for its end or a signal |
//! | `repl.rs` | the prompt |
//! | `complete.rs` | what TAB completes there |
//! | `split.rs` | SQL text to statements |
//! | `statements.rs` | one statement to its result |
//! | `copy.rs` | what this program adds to COPY |
//! | `files.rs` | local files that get their name when they are whole, and only as long as their statement runs |
//! | `staged.rs` | a file before it has its name, and what killed runs have left of that |
//! | `writer.rs` | who writes a staged file, and whether that process has ended |
//! | `sink.rs` | sinks that finish a file only when all rows reached it |
//! | `print.rs` | rows to text, format by format |
//! | `table.rs` | the table for people |
//! | `output.rs` | where results go: standard output, or a file that appears whole |
//! | `progress.rs` | how far a long query is |
//! | `downloads.rs` | how far a download is, and what the library warns of |
//! | `error.rs` | one line an error, and what it is for the exit code |
//! | `models.rs` | `embedsql models` |
//! | `cache.rs` | `embedsql cache` |

mod args;
mod cache;
mod complete;
mod copy;
mod downloads;
mod error;
mod files;
mod job;
mod models;
mod output;
mod print;
mod progress;
mod repl;
mod session;
mod sink;
mod split;
mod staged;
mod statements;
mod table;
mod writer;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::args::{Action, Args, Source};
use crate::error::Failure;
use crate::files::WholeFiles;
use crate::job::{Job, Runner, Text, run_texts};
use crate::output::Output;

/// How long the end of a failed run may wait for threads that are cleaning up.
const LAST_WAIT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    error::report_panics_in_one_line();
    let (args, sources) = match Args::from_command_line() {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let result = match &args.action {
        _ if args.version => print_version(),
        Some(Action::Models { action }) => models::run(&args, action.as_ref()),
        Some(Action::Cache { action }) => cache::run(&args, action),
        None => start(&args, sources),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Sets everything up, then runs the sources or the prompt.
fn start(args: &Args, sources: Vec<Source>) -> Result<(), Failure> {
    let texts = sources.into_iter().map(Text::read).collect::<Result<Vec<_>, _>>()?;
    let runtime = runtime(args)?;
    let files = WholeFiles::default();
    let ctx = runtime.block_on(session::session(args, files.clone()))?;
    let output = Arc::new(Output::open(args.output.as_deref())?);
    let job = Job::new(ctx, files, output.clone(), args.format, args.quiet);
    let result = Runner::new(runtime.handle().clone(), output.clone()).and_then(|runner| match texts.is_empty() {
        true => repl::run(&runner, &job),
        false => runner.run(&job, run_texts(job.clone(), texts)),
    });
    let result = result.and_then(|()| output.finish());
    if result.is_ok() {
        // Threads may still be busy with rows that a LIMIT made superfluous.
        runtime.shutdown_background();
        return result;
    }
    error::ignore_panics();
    output.discard();
    runtime.shutdown_timeout(LAST_WAIT);
    result
}

fn runtime(args: &Args) -> Result<Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = args.threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().map_err(|e| Failure::Usage(format!("cannot start threads: {e}")))
}

fn print_version() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "embedsql {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "features: {}", datafusion_embed::features().join(", "))?;
    writeln!(out, "devices: {}", datafusion_embed::devices().join(", "))?;
    let kernels = datafusion_embed::kernel_path().unwrap_or_else(|error| error.to_string());
    writeln!(out, "kernels: {kernels}")?;
    Ok(())
}

//! The program embedsql: SQL over files with `embed(text)`, from a command line, a script, a pipe or a prompt.
//!
//! arguments -> session -> statements -> exit code. It is a user of the crate: everything it knows about models it has from
//! what the crate's root exports. It is a module, and not the binary, so that whoever else ships the program runs this code.
//!
//! | file | what |
//! |---|---|
//! | `args.rs` | the command line: what may be typed, and what it means |
//! | `config.rs` | flags that are not typed every time |
//! | `setup.rs` | the session that the command line asks for |
//! | `job.rs` | what running statements need to know |
//! | `runner.rs` | work on the runtime's threads while the main thread waits for its end or a signal |
//! | `signals.rs` | Ctrl-C, SIGTERM, SIGHUP |
//! | `script.rs` | texts of SQL: where they come from, and what is in them |
//! | `repl.rs` | the prompt: lines to texts |
//! | `shell.rs` | what inputs do, and the state that they change |
//! | `meta.rs` | the \ commands among them |
//! | `look.rs` | what they show of a file of data |
//! | `functions.rs` | what they say of functions |
//! | `variables.rs` | `:name` in statements |
//! | `complete.rs` | what TAB completes there |
//! | `sources.rs` | what a statement reads whose columns it completes |
//! | `colour.rs` | what is typed, in colours |
//! | `split.rs` | SQL text to statements |
//! | `statements.rs` | one statement to its result |
//! | `copied.rs` | what a COPY says at its end |
//! | `print.rs` | rows to text, format by format |
//! | `table.rs` | the table for people |
//! | `fit.rs` | which columns of it fit a terminal, and how wide |
//! | `screen.rs` | that terminal, and what a user says about it |
//! | `pager.rs` | a result that is longer than the screen, page by page |
//! | `output.rs` | where results go: standard output, or a file that appears whole |
//! | `progress.rs` | how far a long query is |
//! | `downloads.rs` | how far a download is |
//! | `failure.rs` | one line an error, and what it is for the exit code |
//! | `messages.rs` | what DataFusion says where this program says something else |
//! | `suggest.rs` | what somebody may have meant |
//! | `near.rs` | names that are like it |
//! | `cluster.rs` | `embedsql scheduler`, `embedsql executor`, `--cluster` |
//! | `commands.rs` | `embedsql models`, `embedsql cache`, what shells and man want |

mod args;
#[cfg(feature = "cluster")]
mod cluster;
mod colour;
mod commands;
mod complete;
mod config;
mod copied;
mod downloads;
mod failure;
mod fit;
mod functions;
mod job;
mod look;
mod messages;
mod meta;
mod near;
mod output;
mod pager;
mod print;
mod progress;
mod repl;
mod runner;
mod screen;
mod script;
mod setup;
mod shell;
mod signals;
mod sources;
mod split;
mod statements;
mod suggest;
mod table;
mod variables;

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::timeout;

pub use self::failure::one_line;

use self::args::{Action, Args, Source};
use self::failure::Failure;
use self::job::Job;
use self::output::Unfinished;
use self::runner::Runner;
use self::script::Text;
use self::shell::{Flow, Shell};
use crate::files::Writes;

/// How long the end of a failed run may wait for stores that forget uploads, and for threads that are cleaning up.
const LAST_WAIT: Duration = Duration::from_millis(200);

/// Bytes of a worker's stack, of which those are taken that are used.
const STACK: usize = 32 << 20;

/// Runs the program with a command line, its own name first, and gives its exit code.
///
/// It takes signals and panics over and gives neither back, because threads may still be busy when it ends: for a process
/// that does nothing else.
pub fn main(line: impl IntoIterator<Item = OsString>) -> u8 {
    failure::report_panics_in_one_line();
    let (args, sources) = match Args::read(line) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let result = match &args.action {
        _ if args.version => print_version(),
        Some(Action::Models { action }) => commands::models(&args, action.as_ref()),
        Some(Action::Cache { action }) => commands::cache(&args, action),
        Some(Action::Completions { shell }) => commands::completions(*shell),
        Some(Action::Man) => commands::man(),
        #[cfg(feature = "cluster")]
        Some(Action::Scheduler { bind, until_stdin_ends }) => {
            cluster::scheduler(bind, &args.protection, *until_stdin_ends)
        }
        #[cfg(feature = "cluster")]
        Some(Action::Executor(executor)) => cluster::executor(executor, &args.protection, args.quiet),
        None => start(&args, sources),
    };
    match result {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    }
}

/// Sets everything up, then runs the sources or the prompt.
fn start(args: &Args, sources: Vec<Source>) -> Result<(), Failure> {
    let texts = sources.into_iter().map(Text::read).collect::<Result<Vec<_>, _>>()?;
    let runtime = runtime(args)?;
    #[cfg(feature = "cluster")]
    let (options, _local) = cluster::session(args)?;
    #[cfg(not(feature = "cluster"))]
    let options = crate::SessionOptions::default();
    let (ctx, writes) = runtime.block_on(setup::session(args, options))?;
    let outputs = Unfinished::default();
    let output = outputs.open("--output", args.output.as_deref())?;
    let job = Job::new(ctx, writes.clone(), output.clone(), args);
    let result = Runner::new(runtime.handle().clone(), outputs.clone())
        .and_then(|runner| run(&runner, &job, &texts, args.timing));
    let result = outputs.finish(&output, result);
    if result.is_ok() {
        // Threads may still be busy with rows that a LIMIT made superfluous.
        runtime.shutdown_background();
        return result;
    }
    failure::ignore_panics();
    outputs.discard();
    settle(&writes);
    runtime.shutdown_timeout(LAST_WAIT);
    result
}

/// Runs texts, or the prompt where there are none.
fn run(runner: &Runner, job: &Job, texts: &[Text], timing: bool) -> Result<(), Failure> {
    let mut shell = Shell::new(runner, job.clone(), texts.is_empty(), timing);
    if texts.is_empty() {
        repl::run(&mut shell, job, runner.runtime())?;
    }
    for text in texts {
        if shell.run(text)? == Flow::Quit {
            break;
        }
    }
    shell.finish()
}

/// Waits for stores that are told to forget uploads, on a runtime of its own: a worker that embed() holds polls no timers.
fn settle(writes: &Writes) {
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() {
        let _ = runtime.block_on(async { timeout(LAST_WAIT, writes.settle()).await });
    }
}

fn runtime(args: &Args) -> Result<Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = args.threads {
        builder.worker_threads(threads);
    }
    // A generated statement has thousands of ORs, and planning goes down into them.
    builder.thread_stack_size(STACK);
    builder.enable_all().build().map_err(|e| Failure::Usage(format!("cannot start threads: {e}")))
}

fn print_version() -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "embedsql {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "features: {}", crate::features().join(", "))?;
    writeln!(out, "devices: {}", crate::devices().join(", "))?;
    let kernels = crate::kernel_path().unwrap_or_else(|error| error.to_string());
    writeln!(out, "kernels: {kernels}")?;
    Ok(())
}

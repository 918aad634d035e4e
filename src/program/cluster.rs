//! `embedsql scheduler` and `embedsql executor`; and `--cluster`, with the processes that `local:N` starts.

use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use datafusion::logical_expr::{LogicalPlan, Statement};
use log::{LevelFilter, Log, Metadata, Record, set_logger, set_max_level};
use tokio::task::spawn_blocking;

use super::args::{Args, ExecutorArgs, Place, ProtectionArgs};
use super::failure::{Failure, warn};
use super::job::Job;
use super::setup;
use crate::SessionOptions;
use crate::cluster::{Cluster, ExecutorOptions, Protection, SchedulerOptions, run_executor, run_scheduler};

/// How long a process may take to tidy up before it is killed.
const PATIENCE: Duration = Duration::from_millis(500);

/// How the line begins that says where a process listens.
const LISTENS: &str = "listening on ";

/// The token itself: where secrets come by the environment.
const TOKEN: &str = "EMBEDSQL_TOKEN";

/// What a process logs: `error`, `warn` or `info`.
const LOG: &str = "EMBEDSQL_LOG";

/// Runs a scheduler.
pub(crate) fn scheduler(bind: &str, args: &ProtectionArgs, until_stdin_ends: bool) -> Result<(), Failure> {
    let mut options = SchedulerOptions::new(bind);
    options.protection = protection(args)?;
    run(run_scheduler(options, announce), until_stdin_ends)
}

/// What the command line and the environment protect a cluster by.
fn protection(args: &ProtectionArgs) -> Result<Protection, Failure> {
    let usage = |error: crate::Error| Failure::Usage(error.to_string());
    let mut protection = Protection::default();
    let token = match &args.token_file {
        Some(path) => {
            let token = fs::read_to_string(path);
            Some(token.map_err(|error| Failure::Usage(format!("--token-file {path:?}: {error}")))?)
        }
        None => env::var(TOKEN).ok().filter(|token| !token.is_empty()),
    };
    if let Some(token) = token {
        protection = protection.with_token(&token).map_err(usage)?;
    }
    match &args.certificates {
        Some(folder) => protection.with_certificates(folder).map_err(usage),
        None => Ok(protection),
    }
}

/// Runs an executor.
pub(crate) fn executor(args: &ExecutorArgs, protected: &ProtectionArgs, quiet: bool) -> Result<(), Failure> {
    let mut options = ExecutorOptions::new(args.scheduler.clone().protected_by(protection(protected)?));
    options.bind = args.bind.clone();
    options.session = setup::of_executor(args, quiet)?;
    options.tasks = args.tasks.unwrap_or(options.tasks);
    if let Some(folder) = &args.work_folder {
        options.work_folder = folder.clone();
    }
    let until_stdin_ends = args.until_stdin_ends;
    run(run_executor(options, announce), until_stdin_ends)
}

fn announce(address: SocketAddr) {
    let mut out = io::stdout().lock();
    // Whoever does not listen does not want to know.
    let _ = writeln!(out, "{LISTENS}{address}").and_then(|()| out.flush());
}

/// Logs to standard error, where somebody wants it.
fn log() -> Result<(), Failure> {
    let level = match env::var(LOG).as_deref() {
        Err(_) | Ok("" | "off") => return Ok(()),
        Ok("error") => LevelFilter::Error,
        Ok("warn") => LevelFilter::Warn,
        Ok("info") => LevelFilter::Info,
        // Beyond, jobs are written down as they are, with what shows the token.
        Ok(other) => return Err(Failure::Usage(format!("{LOG}={other}: it is off, error, warn or info"))),
    };
    set_max_level(level);
    set_logger(&ToStderr).map_err(|error| Failure::Usage(error.to_string()))
}

/// Writes what is logged to standard error.
struct ToStderr;

impl Log for ToStderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // A log that nobody takes stops nothing.
        let _ = writeln!(io::stderr().lock(), "{} {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

fn run(process: impl Future<Output = Result<(), crate::Error>>, until_stdin_ends: bool) -> Result<(), Failure> {
    log()?;
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.map_err(|e| Failure::Usage(format!("cannot start threads: {e}")))?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = process => result,
            // What comes does not matter, only that nothing comes any more.
            _ = spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink())), if until_stdin_ends => Ok(()),
        }
    });
    // Tasks may be busy.
    runtime.shutdown_background();
    result.map_err(|error| Failure::Usage(error.to_string()))
}

/// The processes of a cluster on this machine; they end with this one, however it ends.
pub(crate) struct Local {
    processes: Vec<Child>,
    /// Others on this machine do not know it.
    token: String,
}

impl Local {
    fn start(executors: usize, args: &Args) -> io::Result<(Self, Cluster)> {
        let keys = [RandomState::new(), RandomState::new()];
        let token = keys.map(|key| format!("{:016x}", key.hash_one(Instant::now()))).concat();
        let mut local = Self { processes: Vec::new(), token };
        let address = local.add(&["scheduler".to_owned(), "--bind".to_owned(), "127.0.0.1:0".to_owned()])?;
        let protection = Protection::default().with_token(&local.token).map_err(io::Error::other)?;
        let cluster = Cluster::new(&address).map_err(io::Error::other)?.protected_by(protection);
        let cores = args.threads.or(std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
        let mut line: Vec<String> = vec!["executor".into(), "--scheduler".into(), address, "--tasks".into()];
        line.push((cores / executors).max(1).to_string());
        // On this machine they are its settings too.
        for (flag, value) in [("--device", &args.device), ("--cache", &args.cache)] {
            line.extend(value.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
        }
        let own = args.set.iter().filter(|(key, _)| cluster.ignores(key) && key.starts_with("embed."));
        line.extend(own.flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]));
        line.extend(args.quiet.then(|| "--quiet".to_owned()));
        for _ in 0..executors {
            local.add(&line)?;
        }
        Ok((local, cluster))
    }

    /// Starts this program with a command line, and gives the address that it listens on.
    fn add(&mut self, line: &[String]) -> io::Result<String> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(line).arg("--until-stdin-ends").stdin(Stdio::piped()).stdout(Stdio::piped());
        command
            .env_remove(LOG)
            .env_remove("EMBEDSQL_TOKEN_FILE")
            .env_remove("EMBEDSQL_CERTIFICATES")
            .env(TOKEN, &self.token);
        // Ctrl-C is for this process: it stops a statement.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn()?;
        let said = process.stdout.take().map(first_line).transpose()?.unwrap_or_default();
        self.processes.push(process);
        let address = said.trim().strip_prefix(LISTENS);
        address.map(str::to_owned).ok_or_else(|| io::Error::other(format!("{} did not start", line[0])))
    }
}

fn first_line(stdout: ChildStdout) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stdout.take(1024)).read_line(&mut line)?;
    Ok(line)
}

impl Drop for Local {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            drop(process.stdin.take());
            let began = Instant::now();
            while began.elapsed() < PATIENCE && matches!(process.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            // One that has ended needs no end.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The options of a session on the cluster that the command line names, and its processes if they are this session's.
pub(crate) fn session(args: &Args) -> Result<(SessionOptions, Option<Local>), Failure> {
    let options = SessionOptions::default();
    match &args.cluster {
        None => Ok((options, None)),
        Some(Place::Here(executors)) => {
            let started = Local::start(*executors, args);
            let (local, cluster) = started.map_err(|e| Failure::Usage(format!("--cluster local:{executors}: {e}")))?;
            Ok((options.on_cluster(cluster), Some(local)))
        }
        Some(Place::There(cluster)) => {
            let without = setup::without_effect(args, cluster);
            if !without.is_empty() {
                warn(&format!(
                    "{} has no effect on the executors of the cluster: start them with it",
                    without.join(", ")
                ));
            }
            Ok((options.on_cluster(cluster.clone().protected_by(protection(&args.protection)?)), None))
        }
    }
}

/// Points out a SET that means nothing to the executors, once for each setting.
pub(crate) fn point_out(job: &Job, plan: &LogicalPlan) {
    let LogicalPlan::Statement(Statement::SetVariable(set)) = plan else { return };
    let Some(cluster) = job.ctx.state_ref().read().config().get_extension::<Cluster>() else { return };
    let setting = set.variable.to_ascii_lowercase();
    if cluster.ignores(&setting) && !setting.starts_with("datafusion.") && job.is_news(&setting) {
        warn(&format!("{setting} has no effect on the executors of the cluster: start them with it"));
    }
}

//! Work on the runtime's threads while this thread waits for its end or for a signal: Ctrl-C, SIGTERM, SIGHUP.
//!
//! A call of embed() holds a worker thread for a whole model batch, and a worker that is held polls neither timers nor
//! signals. So signals have a thread of their own, and the waiting is done on the main thread, which is no worker.

use std::fs;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datafusion::prelude::SessionContext;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::args::Source;
use super::failure::Failure;
use super::files::WholeFiles;
use super::output::Output;
use super::print::Format;
use super::progress::Progress;
use super::{split, statements};

/// How long a cancelled job may take to unwind before it is left behind.
const GRACE: Duration = Duration::from_millis(500);

/// Bytes written between two looks at whether the job was cancelled.
const PIECE: usize = 16 * 1024;

/// What running statements need to know. Cheap to clone; every job has one.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) ctx: SessionContext,
    /// What the statements write with.
    pub(crate) files: WholeFiles,
    pub(crate) output: Arc<Output>,
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    cancelled: Arc<AtomicBool>,
    progress: Arc<Mutex<Option<Progress>>>,
}

impl Job {
    pub(crate) fn new(
        ctx: SessionContext,
        files: WholeFiles,
        output: Arc<Output>,
        format: Format,
        quiet: bool,
    ) -> Self {
        Self { ctx, files, output, format, quiet, cancelled: Arc::default(), progress: Arc::default() }
    }

    /// The same for a new job: the last one may still be unwinding with its cancelled flag set.
    pub(crate) fn again(&self) -> Self {
        Self { cancelled: Arc::default(), progress: Arc::default(), ..self.clone() }
    }

    /// Writes a piece of the result; a job left behind after Ctrl-C says nothing more.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        for piece in bytes.chunks(PIECE) {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
            let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            let write = || self.output.write(piece);
            progress.as_ref().map_or_else(write, |progress| progress.suspend(write))?;
        }
        Ok(())
    }

    /// Shows how far the running statement is until the result is dropped, however the statement ends.
    pub(crate) fn shows(&self, progress: Option<Progress>) -> Shown<'_> {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        Shown(&self.progress)
    }
}

/// See [`Job::shows`].
pub(crate) struct Shown<'a>(&'a Mutex<Option<Progress>>);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A named text to run.
#[derive(Debug)]
pub(crate) struct Text {
    /// The name that errors give; `-c` has none.
    pub(crate) name: Option<String>,
    pub(crate) sql: String,
}

impl Text {
    /// Reads a source whole, before anything runs: a file that is not there must not cost half a script.
    pub(crate) fn read(source: Source) -> Result<Self, Failure> {
        let (name, bytes) = match source {
            Source::Command(sql) => return Ok(Self { name: None, sql }),
            Source::File(path) => {
                let bytes = fs::read(&path).map_err(|e| Failure::Usage(format!("file {path:?}: {e}")))?;
                (path.display().to_string(), bytes)
            }
            Source::Stdin => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Failure::Usage(format!("<stdin>: {e}")))?;
                ("<stdin>".to_owned(), bytes)
            }
        };
        let sql = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Failure::Usage(format!("file {name:?}: byte {at} is not UTF-8; SQL must be"))
        })?;
        // Editors on Windows begin a file with a byte order mark.
        let sql = sql.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(sql);
        Ok(Self { name: Some(name), sql })
    }
}

/// Runs all statements of all texts, up to the first failure.
pub(crate) async fn run_texts(job: Job, texts: Vec<Text>) -> Result<(), Failure> {
    for text in texts {
        let script = split::split(&text.sql);
        let at = |failure: Failure, line: u64| match &text.name {
            Some(name) => failure.at(&format!("{name}:{line}")),
            None => failure,
        };
        for statement in script.statements {
            let line = statement.line;
            statements::run(&job, statement).await.map_err(|failure| at(failure, line))?;
        }
        if let Some(broken) = script.broken {
            return Err(at(Failure::Statement(broken.message), broken.line));
        }
    }
    Ok(())
}

/// What the waiting thread hears of.
enum Event {
    Stop(Signal),
    Done(Result<(), Failure>),
}

/// What stops a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    #[cfg_attr(windows, expect(dead_code, reason = "Windows has Ctrl-C only"))]
    Terminate,
    /// SIGHUP: the terminal is gone.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "see `listen`"))]
    HangUp,
}

impl Signal {
    fn failure(self) -> Failure {
        match self {
            Signal::Interrupt => Failure::Interrupted,
            Signal::Terminate => Failure::Terminated(143),
            Signal::HangUp => Failure::Terminated(129),
        }
    }
}

/// Runs jobs, one at a time, and knows about signals.
pub(crate) struct Runner {
    runtime: Handle,
    /// Who hears of signals: the job that is running.
    listener: Arc<Mutex<Option<Sender<Event>>>>,
}

impl Runner {
    /// From here on Ctrl-C no longer kills the process, and what else ends it removes the unfinished `output` first.
    pub(crate) fn new(runtime: Handle, output: Arc<Output>) -> Result<Self, Failure> {
        let listener: Arc<Mutex<Option<Sender<Event>>>> = Arc::default();
        let heard = listener.clone();
        let no_signals = |e: io::Error| Failure::Statement(format!("cannot listen for signals: {e}"));
        let signals = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_signals)?;
        // Now, and not on the thread: the line editor puts back the handler that it finds when it starts.
        let mut arriving = signals.block_on(async { listen() }).map_err(no_signals)?;
        let listen = move || {
            while let Some(signal) = signals.block_on(arriving.recv()) {
                let listener = heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let is_heard = listener.is_some_and(|listener| listener.send(Event::Stop(signal)).is_ok());
                // No job runs: Ctrl-C is the line editor's, the others end the program at once, as they would by default.
                if let (false, Failure::Terminated(code)) = (is_heard, signal.failure()) {
                    output.discard();
                    std::process::exit(code.into());
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(no_signals)?;
        Ok(Self { runtime, listener })
    }

    /// Runs a job to its end; on a signal stops it and returns [`Failure::Interrupted`] or [`Failure::Terminated`] soon,
    /// whatever its threads do.
    pub(crate) fn run(
        &self,
        job: &Job,
        work: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) -> Result<(), Failure> {
        job.files.begin();
        let (sender, events) = channel();
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        let task = self.runtime.spawn(work);
        let abort = task.abort_handle();
        self.runtime.spawn(async move {
            let result =
                task.await.unwrap_or_else(|e| Err(if e.is_panic() { Failure::Panic } else { Failure::Interrupted }));
            let _ = sender.send(Event::Done(result));
        });
        let result = match events.recv() {
            Ok(Event::Done(result)) => result,
            stopped => {
                let signal = if let Ok(Event::Stop(signal)) = stopped { signal } else { Signal::Interrupt };
                job.cancelled.store(true, Ordering::Relaxed);
                job.files.stop();
                crate::cancel(&job.ctx);
                abort.abort();
                wait_for_end(&events);
                Err(signal.failure())
            }
        };
        if result.is_err() {
            job.files.discard();
        }
        result
    }
}

/// The signals as they arrive, in a channel: one receiver for all of them.
#[cfg(unix)]
fn listen() -> io::Result<mpsc::UnboundedReceiver<Signal>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut kinds = vec![(SignalKind::interrupt(), Signal::Interrupt), (SignalKind::terminate(), Signal::Terminate)];
    // nohup means: go on without a terminal. Only Linux tells whether somebody said so; elsewhere SIGHUP keeps its default.
    #[cfg(target_os = "linux")]
    if !hang_up_is_ignored() {
        kinds.push((SignalKind::hangup(), Signal::HangUp));
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    for (kind, name) in kinds {
        let mut arriving = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move { while arriving.recv().await.is_some() && sender.send(name).is_ok() {} });
    }
    Ok(receiver)
}

/// Bit 0 of the mask of ignored signals is SIGHUP.
#[cfg(target_os = "linux")]
fn hang_up_is_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(windows)]
fn listen() -> io::Result<mpsc::UnboundedReceiver<Signal>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut arriving = tokio::signal::windows::ctrl_c()?;
    tokio::spawn(async move { while arriving.recv().await.is_some() && sender.send(Signal::Interrupt).is_ok() {} });
    Ok(receiver)
}

/// Gives a stopped job a moment, so that what it holds is released before anything else happens.
fn wait_for_end(events: &Receiver<Event>) {
    let deadline = Instant::now() + GRACE;
    while let Ok(event) = events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if matches!(event, Event::Done(_)) {
            return;
        }
    }
}

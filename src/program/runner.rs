//! Work on the runtime's threads while this thread waits for its end or for a signal.
//!
//! A call of embed() holds a worker thread for a whole model batch, and a worker that is held polls neither timers nor
//! signals. So signals have a thread of their own, and the waiting is done on the main thread, which is no worker.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc::UnboundedReceiver;

use super::failure::Failure;
use super::job::Job;
use super::output::Unfinished;
use super::signals::{Signal, listen};

/// How long a cancelled job may take to unwind before it is left behind.
const GRACE: Duration = Duration::from_millis(500);

/// What the waiting thread hears of.
enum Event {
    Stop(Signal),
    Done(Result<(), Failure>),
}

/// Who hears of signals: the job that is running.
type Listener = Arc<Mutex<Option<Sender<Event>>>>;

/// Runs jobs, one at a time, and knows about signals.
pub(crate) struct Runner {
    runtime: Handle,
    listener: Listener,
    /// Where results are written to now.
    pub(crate) outputs: Unfinished,
}

impl Runner {
    /// From here on Ctrl-C no longer kills the process, and what else ends it removes the unfinished outputs first.
    pub(crate) fn new(runtime: Handle, outputs: Unfinished) -> Result<Self, Failure> {
        let listener = Listener::default();
        hear(&listener, outputs.clone()).map_err(|e| Failure::Statement(format!("cannot listen for signals: {e}")))?;
        Ok(Self { runtime, listener, outputs })
    }

    /// Where work is done.
    pub(crate) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    /// Runs a job to its end; on a signal stops it and returns [`Failure::Interrupted`] or [`Failure::Terminated`] soon,
    /// whatever its threads do.
    pub(crate) fn run(
        &self,
        job: &Job,
        work: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) -> Result<(), Failure> {
        job.writes.begin();
        let (sender, events) = channel();
        *self.listener.lock() = Some(sender.clone());
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
                job.cancel();
                abort.abort();
                wait_for_end(&events);
                Err(signal.failure())
            }
        };
        if result.is_err() {
            job.writes.discard();
        }
        result
    }
}

/// Starts the thread of signals.
fn hear(listener: &Listener, outputs: Unfinished) -> io::Result<()> {
    let signals = Builder::new_current_thread().enable_all().build()?;
    // Now, and not on the thread: the line editor puts back the handler that it finds when it starts.
    let arriving = signals.block_on(async { listen() })?;
    let listener = Arc::clone(listener);
    let pass_on = move || pass_on(&signals, arriving, &listener, &outputs);
    std::thread::Builder::new().name("signals".to_owned()).spawn(pass_on).map(drop)
}

/// Tells the job that runs of every signal, as long as the process lives.
fn pass_on(signals: &Runtime, mut arriving: UnboundedReceiver<Signal>, listener: &Listener, outputs: &Unfinished) {
    while let Some(signal) = signals.block_on(arriving.recv()) {
        let listener = listener.lock().clone();
        let is_heard = listener.is_some_and(|listener| listener.send(Event::Stop(signal)).is_ok());
        // No job runs: Ctrl-C is the line editor's, the others end the program at once, as they would by default.
        if let (false, Failure::Terminated(code)) = (is_heard, signal.failure()) {
            outputs.discard();
            std::process::exit(code.into());
        }
    }
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

//! What stops the program from outside: Ctrl-C, SIGTERM, SIGHUP.

use std::io;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::failure::Failure;

/// What stops a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
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
    pub(crate) fn failure(self) -> Failure {
        match self {
            Signal::Interrupt => Failure::Interrupted,
            Signal::Terminate => Failure::Terminated(143),
            Signal::HangUp => Failure::Terminated(129),
        }
    }
}

/// The signals as they arrive, in a channel: one receiver for all of them. To be called on a runtime.
#[cfg(unix)]
pub(crate) fn listen() -> io::Result<UnboundedReceiver<Signal>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut kinds = vec![(SignalKind::interrupt(), Signal::Interrupt), (SignalKind::terminate(), Signal::Terminate)];
    // nohup means: go on without a terminal. Only Linux tells whether somebody said so; elsewhere SIGHUP keeps its default.
    #[cfg(target_os = "linux")]
    if !hang_up_is_ignored() {
        kinds.push((SignalKind::hangup(), Signal::HangUp));
    }
    let (sender, receiver) = unbounded_channel();
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
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(windows)]
pub(crate) fn listen() -> io::Result<UnboundedReceiver<Signal>> {
    let (sender, receiver) = unbounded_channel();
    let mut arriving = tokio::signal::windows::ctrl_c()?;
    tokio::spawn(async move { while arriving.recv().await.is_some() && sender.send(Signal::Interrupt).is_ok() {} });
    Ok(receiver)
}

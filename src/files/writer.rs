//! Who writes a staged file, and whether that process has ended beyond doubt.
//!
//! A process number says something only on its own machine, since its last start, and among the processes that see each
//! other. Where this is not the machine of the file, or cannot tell, the writer is taken to be at work.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The machine of a process that cannot tell where it runs: no other process is on the same one.
const UNKNOWN: &str = "unknown";

/// Bytes of a host name that a file name has room for.
const MOST_HOST: usize = 24;

/// A process of this program, on whatever machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Writer {
    /// For people: the first part of the host's name.
    pub(super) host: String,
    /// For comparison: a hash of all that a process number depends on.
    pub(super) machine: String,
    pub(super) process: u32,
    /// When the process started, in the system's own ticks: numbers of processes come again.
    pub(super) start: u64,
}

/// What can be said of a writer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is sure that nobody writes to the file any more.
    Ended,
    Running,
    Unknown,
}

impl Writer {
    /// This process.
    pub(super) fn this() -> &'static Self {
        static THIS: LazyLock<Writer> = LazyLock::new(|| Writer {
            host: short_host(&host_name().unwrap_or_default()),
            machine: machine().unwrap_or_else(|| UNKNOWN.to_owned()),
            process: std::process::id(),
            start: stat_of("self").map(|(start, _)| start).unwrap_or_default(),
        });
        &THIS
    }

    /// What is said of one of which nobody knows.
    pub(super) fn doubt(&self) -> String {
        format!("process {} on host {:?} is not known to have ended", self.process, self.host)
    }

    /// Looks whether the writer of `file` has ended. Two proofs must agree: there is no such process, and nobody has the lock
    /// that a writer holds as long as it lives. The second one is for machines that are copies of each other, and not to be
    /// had where there is no file to lock.
    pub(super) fn state(&self, file: Option<&Path>) -> State {
        let this = Self::this();
        if self.machine != this.machine || this.machine == UNKNOWN {
            return State::Unknown;
        }
        match (is_process(self.process), stat_of(&self.process.to_string())) {
            (true, Some((start, is_running))) if start == self.start && is_running => State::Running,
            // It is there and may not be looked at.
            (true, None) => State::Unknown,
            _ => match file.map(|file| OpenOptions::new().write(true).open(file).map(|file| file.try_lock())) {
                None | Some(Ok(Ok(()))) => State::Ended,
                Some(Ok(Err(TryLockError::WouldBlock))) => State::Running,
                _ => State::Unknown,
            },
        }
    }
}

/// The first 16 digits of a hash, which depends on where each part ends.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("{:016x}", u64::from_be_bytes(*hash.finalize().first_chunk().expect("8 of 32 bytes")))
}

/// Host, start of the system, and the namespaces that numbers and ticks belong to; `None` where the system does not say.
#[cfg(target_os = "linux")]
fn machine() -> Option<String> {
    let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let processes = fs::read_link("/proc/self/ns/pid").ok()?;
    // An old kernel has none.
    let clock = fs::read_link("/proc/self/ns/time").unwrap_or_default();
    let namespaces = [processes.as_os_str().as_encoded_bytes(), clock.as_os_str().as_encoded_bytes()];
    Some(digest(&[host_name()?.as_bytes(), &boot, namespaces[0], namespaces[1]]))
}

#[cfg(not(target_os = "linux"))]
fn machine() -> Option<String> {
    None
}

fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    name.or_else(|| ["HOSTNAME", "HOST", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok()))
}

/// The first part of a host's name as far as a file name has room for it; without dots, at which file names are taken apart.
fn short_host(name: &str) -> String {
    let first = name.trim().split('.').next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let short: String = first.chars().take(MOST_HOST).map(safe).collect();
    if short.is_empty() { UNKNOWN.to_owned() } else { short }
}

/// Whether there is a process of this number, also one that we may not see.
#[cfg(target_os = "linux")]
fn is_process(process: u32) -> bool {
    use nix::errno::Errno;
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    match i32::try_from(process) {
        // No signal is sent; the system only looks whether it could be.
        Ok(process) if process > 0 => kill(Pid::from_raw(process), None) != Err(Errno::ESRCH),
        _ => true,
    }
}

#[cfg(not(target_os = "linux"))]
fn is_process(_: u32) -> bool {
    true
}

/// When a process started, field 22 of its `stat`, and whether it has not ended: field 3 is `Z` of one whose end nobody has
/// asked for, which may be for ever in a container. Field 2, in brackets, may hold anything.
fn stat_of(process: &str) -> Option<(u64, bool)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_running = !matches!(fields.next()?, "Z" | "X");
    Some((fields.nth(18)?.parse().ok()?, is_running))
}

/// Takes the lock that [`Writer::state`] looks for, for as long as the file is open. Where the file system has no locks, the
/// file of a killed process stays.
#[cfg(target_os = "linux")]
pub(super) fn hold(file: &fs::File) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::other("somebody has locked a file that is just being made")),
        _ => Ok(()),
    }
}

/// Elsewhere a lock keeps others from reading, and nobody asks for it.
#[cfg(not(target_os = "linux"))]
pub(super) fn hold(_: &fs::File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_fits_into_a_file_name() {
        assert_eq!(short_host("node-1.example.org\n"), "node-1");
        assert_eq!(short_host("a b/c"), "a_b_c");
        assert_eq!(short_host(""), "unknown");
        assert_eq!(short_host(&"é".repeat(100)), "_".repeat(24));
    }

    #[test]
    fn a_hash_depends_on_where_parts_end() {
        assert_eq!(digest(&[b"ab", b"c"]).len(), 16);
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_a_writer_that_is_gone_has_ended() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let this = Writer::this();
        let state = |writer: &Writer| writer.state(Some(file.path()));
        assert_eq!(state(this), State::Running);
        // Its number went to another process.
        let before = Writer { start: this.start.wrapping_sub(1), ..this.clone() };
        assert_eq!(state(&before), State::Ended);
        assert_eq!(state(&Writer { machine: digest(&[b"elsewhere"]), ..before.clone() }), State::Unknown);
        assert_eq!(state(&Writer { process: 0, ..before.clone() }), State::Unknown);
        // No process has a number as high as this.
        let gone = Writer { process: i32::MAX as u32, ..this.clone() };
        assert_eq!(state(&gone), State::Ended);
        // One that has ended, and whose parent has not asked for it yet.
        let mut child = std::process::Command::new("true").spawn().expect("it runs");
        let process = child.id();
        let start = loop {
            match stat_of(&process.to_string()).expect("it is not waited for") {
                (start, false) => break start,
                _ => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        };
        assert_eq!(state(&Writer { process, start, ..this.clone() }), State::Ended);
        child.wait().expect("it has ended");
        file.as_file().lock().expect("a lock");
        assert_eq!(state(&gone), State::Running);
    }
}

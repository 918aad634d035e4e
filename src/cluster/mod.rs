//! The same statements on many machines, by [Apache DataFusion Ballista](https://datafusion.apache.org/ballista/).
//!
//! ```text
//! client                                scheduler             executors
//! SQL --> plan/ --> planner --job--> stages of tasks ------> tasks: files -> EmbedExec -> files, or results
//!                                                                                             |
//! rows, or a mark that a folder is complete <-------------------------------------------------+
//! ```
//!
//! A statement is planned where it is written, models and all, and goes to the scheduler as a physical plan: it looks at no model
//! and no file. What decides a vector is in the plan; device, concurrency, folders and credentials are each executor's own.
//! Nothing here schedules: that is Ballista's.
//!
//! | file | what |
//! |---|---|
//! | `planner.rs` | which part of a plan runs there, and a session that plans so |
//! | `exec.rs` | the operator whose input runs there |
//! | `export.rs` | a folder that tasks write, each its own files |
//! | `task_files.rs` | the operator that writes them |
//! | `job.rs` | a job: handed in, waited for, its results fetched |
//! | `progress.rs` | how far the jobs of a session are |
//! | `codec.rs` | plans as bytes: ours over Ballista's |
//! | `said.rs` | what a person is to read of an error that happened there |
//! | `limits.rs` | how long processes wait for each other, and how much they send at once |
//! | `terms.rs` | what an executor has to satisfy before it runs a task |
//! | `protection.rs` | who may speak with the processes, and whether others can listen |
//! | `scheduler.rs` | the process that hands out tasks |
//! | `front.rs` | its door: who the executors are, and how far a job is |
//! | `client.rs` | the client of a job, who may go before it has ended |
//! | `slots.rs` | what they have free |
//! | `executor.rs` | the process that runs them |
//! | `serve.rs` | its port: tasks come in, results are fetched |
//! | `work_folder.rs` | its folder: results wait there |
//! | `pool.rs` | its connections to other executors |
//! | `task.rs` | what is done around a task there: its files are looked for, its errors say where |
//! | `cancel.rs` | tasks that are cancelled end |
//!
//! # What is protected
//!
//! Nothing, beside that all ports are on the loopback address unless somebody says otherwise, as long as nobody asks for a
//! [`Protection`]: whoever reaches a port runs plans there, reads and writes files as that process may, and reads the results of others.
//! With a token nobody gets an answer who does not know it, and no task runs whose job did not show it; who can listen to the network sees it,
//! and everything else. With certificates nobody can listen, and whoever has none by the same authority is not let in. What stays: who has an
//! account on an executor's machine can stop the executor, cancel its tasks and remove results that wait there, through Ballista's own
//! port on the loopback address; and whoever may submit statements reads and writes what the executors may.

mod cancel;
mod client;
mod codec;
mod exec;
mod executor;
mod export;
mod front;
mod job;
mod limits;
mod planner;
mod pool;
mod progress;
mod protection;
mod said;
mod scheduler;
mod serve;
mod slots;
mod task;
mod task_files;
mod terms;
mod work_folder;

pub use codec::codec;
pub use executor::{ExecutorOptions, run_executor};
pub(crate) use planner::{install, prepared};
pub use progress::Work;
pub use protection::Protection;
pub use scheduler::{SchedulerOptions, run_scheduler};

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use self::progress::Progress;
use crate::error::{Error, Result};

/// Where a cluster is: the address of its scheduler. Clones are one and the same, and know what the jobs of their session do.
#[derive(Debug, Clone)]
pub struct Cluster {
    address: String,
    protection: Protection,
    work: Arc<Mutex<Work>>,
}

/// By their addresses.
impl PartialEq for Cluster {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Eq for Cluster {}

impl Cluster {
    /// `host:port` of a scheduler.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for anything else.
    pub fn new(address: &str) -> Result<Self> {
        let (host, port) = split(address)?;
        Ok(Self { address: format!("{host}:{port}"), protection: Protection::default(), work: Arc::default() })
    }

    /// Its processes are protected so.
    #[must_use]
    pub fn protected_by(self, protection: Protection) -> Self {
        Self { protection, ..self }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the tasks of this session's jobs have done so far, all jobs together.
    pub fn work(&self) -> Work {
        *self.work.lock()
    }

    /// A job of so many tasks begins.
    fn begin(&self, tasks: u64) -> Progress {
        Progress::new(&self.work, tasks)
    }

    /// Whether a setting is each executor's own, so that what a session says of it holds here only.
    pub fn ignores(&self, setting: &str) -> bool {
        job::is_of_machines(setting)
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// An address to listen on, if others can reach it by that.
fn reachable(address: SocketAddr) -> Result<SocketAddr> {
    match address.ip().is_unspecified() {
        true => Err(Error::Setting(format!(
            "{address}: the others reach it by the address that is given: name one of this machine, such as 10.0.0.2"
        ))),
        false => Ok(address),
    }
}

/// Host and port of an address.
fn split(address: &str) -> Result<(String, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match parts.filter(|(host, _)| !host.is_empty() && !host.contains(['/', ' '])) {
        Some((host, port)) => Ok((host.to_owned(), port)),
        None => Err(Error::Setting(format!("{address:?} is no address such as 127.0.0.1:50050"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(Cluster::new("[::1]:50050").expect("an address").url(), "http://[::1]:50050");
        reachable("0.0.0.0:1".parse().expect("an address")).expect_err("by which nobody is reached");
        for wrong in ["", "host", ":1", "host:", "host:x", "host:70000", "http://host:1"] {
            Cluster::new(wrong).expect_err(wrong);
        }
    }
}

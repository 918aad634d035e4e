//! The process that runs tasks: on its own device, with its own folders and credentials.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::registry::BallistaFunctionRegistry;
use ballista_executor::execution_engine::DefaultExecutionEngine;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use datafusion::execution::SessionState;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::codec::codec;
use super::front::executor_id;
use super::planner::prepared;
use super::task::Tasks;
use super::{Cluster, MOST_BYTES, reachable, split};
use crate::cache::arithmetic;
use crate::error::{Error, Result};
use crate::model::resolved;
use crate::options::{Device, EmbedOptions};
use crate::session::SessionOptions;

/// How often an executor says that it is there, in seconds.
const HEARTBEAT: u64 = 5;

/// How long an executor waits for a scheduler that is not there yet.
const WAITS: Duration = Duration::from_secs(30);

/// What an executor is started with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExecutorOptions {
    /// The scheduler that it works for.
    pub scheduler: Cluster,
    /// `host:port` on which others fetch results from it, and that they reach it by; port 0 is any that is free. A second port, any
    /// that is free, is for the scheduler.
    pub bind: String,
    /// Tasks at once; each keeps a core busy, or shares the GPU.
    pub tasks: usize,
    /// Where results wait that others will fetch: a folder of its own below this one, which goes with the process.
    pub work_folder: PathBuf,
    /// Its device, sizes, cache and stores.
    pub session: SessionOptions,
}

impl ExecutorOptions {
    /// For a scheduler: on the loopback address, with a task per core.
    pub fn new(scheduler: Cluster) -> Self {
        let tasks = std::thread::available_parallelism().map_or(1, usize::from);
        let (bind, work_folder) = ("127.0.0.1:0".to_owned(), std::env::temp_dir());
        Self { scheduler, bind, tasks, work_folder, session: SessionOptions::default() }
    }
}

/// Runs an executor until the process is told to end; `ready` hears where it listens.
///
/// # Errors
///
/// [`Error::Setting`] for an address that cannot be listened on, and for a scheduler that cannot be reached.
pub async fn run_executor(options: ExecutorOptions, ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let wrong = |what: String| Error::Setting(format!("executor {:?}: {what}", options.bind));
    let (host, port) = split(&options.bind)?;
    let plain = host.trim_matches(['[', ']']).to_owned();
    let address = reachable(free(&plain, port).await.map_err(|error| wrong(error.to_string()))?)?;
    let control = free(&plain, 0).await.map_err(|error| wrong(error.to_string()))?;
    reach(&options.scheduler).await?;
    let name = address.to_string();
    let folder = WorkFolder(options.work_folder.join(format!("embedsql-executor-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).map_err(|error| wrong(format!("folder {:?}: {error}", folder.0)))?;
    let (scheduler_host, scheduler_port) = split(options.scheduler.address())?;
    let state = session(&options)?;
    let (config, runtime) = (state.config().clone(), Arc::clone(state.runtime_env()));
    let device = config.options().extensions.get::<EmbedOptions>().map_or(Device::Auto, |embed| embed.device);
    let process = ExecutorProcessConfig {
        executor_id: executor_id(&arithmetic(device)?, &format!("{}-{}", name.replace(':', "-"), std::process::id())),
        bind_host: match address.ip() {
            IpAddr::V6(ip) => format!("[{ip}]"),
            ip => ip.to_string(),
        },
        external_host: Some(host),
        port: address.port(),
        grpc_port: control.port(),
        scheduler_host,
        scheduler_port,
        vcores: options.tasks,
        work_dir: Some(folder.0.to_string_lossy().into_owned()),
        grpc_max_decoding_message_size: MOST_BYTES as u32,
        grpc_max_encoding_message_size: MOST_BYTES as u32,
        executor_heartbeat_interval_seconds: HEARTBEAT,
        // The session's own limit holds.
        memory_pool_size: Some(options.session.memory_limit.unwrap_or(0) as u64),
        override_execution_engine: Some(Arc::new(Tasks::new(DefaultExecutionEngine::new(), name))),
        override_function_registry: Some(Arc::new(BallistaFunctionRegistry::from(&state))),
        override_runtime_producer: Some(Arc::new(move |_| Ok(Arc::clone(&runtime)))),
        override_config_producer: Some(Arc::new(move || config.clone())),
        override_physical_codec: Some(codec()),
        ..ExecutorProcessConfig::default()
    };
    ready(address);
    start_executor_process(Arc::new(process)).await.map_err(|error| wrong(error.to_string()))
}

/// Results that nobody will fetch any more go, however the process is told to end.
struct WorkFolder(PathBuf);

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            log::warn!("folder {:?} could not be removed: {error}", self.0);
        }
    }
}

/// The session whose settings, functions and stores all tasks have. They share its workers, as many as there are tasks.
fn session(options: &ExecutorOptions) -> Result<SessionState> {
    let mut session = options.session.clone();
    session.config = prepared(session.config).with_target_partitions(options.tasks);
    let extensions = &mut session.config.options_mut().extensions;
    if let Some(embed) = extensions.get_mut::<EmbedOptions>()
        && embed.concurrency == 0
        && resolved(embed.device) == Device::Cpu
    {
        embed.concurrency = options.tasks;
    }
    let ctx = crate::session(session).map_err(|error| Error::Setting(error.strip_backtrace()))?;
    Ok(ctx.state())
}

/// An address that nobody listens on.
async fn free(host: &str, port: u16) -> std::io::Result<SocketAddr> {
    TcpListener::bind((host, port)).await?.local_addr()
}

/// Waits until the scheduler is there: executors and scheduler are started in any order.
async fn reach(scheduler: &Cluster) -> Result<()> {
    let began = Instant::now();
    loop {
        match TcpStream::connect(scheduler.address()).await {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > WAITS => {
                return Err(Error::Setting(format!("scheduler {}: cannot be reached: {error}", scheduler.address())));
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

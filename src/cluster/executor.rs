//! The process that runs tasks: on its own device, with its own folders and credentials.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::error::BallistaError;
use ballista_core::extension::SessionConfigExt;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use datafusion::execution::SessionState;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::codec::codec;
use super::front::executor_id;
use super::job::Scheduler;
use super::limits::MOST_BYTES;
use super::planner::prepared;
use super::serve::serve;
use super::task::Tasks;
use super::terms::Terms;
use super::work_folder::WorkFolder;
use super::{Cluster, reachable, split};
use crate::cache::arithmetic;
use crate::error::{Error, Result, innermost};
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
    /// The scheduler that it works for; what that is protected by, it is protected by too.
    pub scheduler: Cluster,
    /// `host:port` on which the scheduler and others reach it; port 0 is any that is free.
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
/// [`Error::Setting`] for an address that cannot be listened on, and for a scheduler that cannot be reached or does not let it in.
/// [`Error::Write`] where the work folder is full: its tasks then run elsewhere.
pub async fn run_executor(options: ExecutorOptions, ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let wrong = |what: String| Error::Setting(format!("executor {:?}: {what}", options.bind));
    let (host, port) = split(&options.bind)?;
    let plain = host.trim_matches(['[', ']']).to_owned();
    let listener = TcpListener::bind((plain.as_str(), port)).await.map_err(|error| wrong(error.to_string()))?;
    let address = reachable(listener.local_addr().map_err(|error| wrong(error.to_string()))?)?;
    let tasks_port = free_port().await.map_err(|error| wrong(error.to_string()))?;
    reach(&options.scheduler).await?;
    let folder = WorkFolder::new(&options.work_folder)?;
    let (scheduler_host, scheduler_port) = split(options.scheduler.address())?;
    let (state, protection) = (session(&options)?, &options.scheduler.protection);
    let config = state.config().clone().with_option_extension(Terms::default());
    let config = config.with_ballista_override_create_grpc_client_endpoint(protection.endpoints());
    let runtime = Arc::clone(state.runtime_env());
    let device = config.options().extensions.get::<EmbedOptions>().map_or(Device::Auto, |embed| embed.device);
    let tasks = Tasks::new(address.to_string(), folder.path().to_owned(), protection.clone(), device);
    let (full, hears, known) = (tasks.full(), tasks.full(), tasks.known());
    let name = format!("{}-{}", address.to_string().replace(':', "-"), std::process::id());
    let process = ExecutorProcessConfig {
        executor_id: executor_id(&arithmetic(device)?, &name),
        bind_host: "127.0.0.1".to_owned(),
        external_host: Some(host),
        // The scheduler knows that tasks come in by the same port as results go out.
        port: address.port(),
        grpc_port: tasks_port,
        scheduler_host,
        scheduler_port,
        vcores: options.tasks,
        work_dir: Some(folder.path().to_string_lossy().into_owned()),
        grpc_max_decoding_message_size: MOST_BYTES as u32,
        grpc_max_encoding_message_size: MOST_BYTES as u32,
        executor_heartbeat_interval_seconds: HEARTBEAT,
        // The session's own limit holds.
        memory_pool_size: Some(options.session.memory_limit.unwrap_or(0) as u64),
        override_execution_engine: Some(Arc::new(tasks)),
        override_function_registry: Some(Arc::new(BallistaFunctionRegistry::from(&state))),
        override_runtime_producer: Some(Arc::new(move |_| Ok(Arc::clone(&runtime)))),
        override_config_producer: Some(Arc::new(move || config.clone())),
        override_physical_codec: Some(codec()),
        override_create_grpc_client_endpoint: Some(protection.endpoints()),
        // Results are served below. What ends here takes the executor out of the cluster, and what it was doing runs elsewhere.
        override_arrow_flight_service: Some(Arc::new(move |_, _, mut end, _| {
            let full = Arc::clone(&hears);
            tokio::spawn(async move {
                tokio::select! {
                    () = end.recv() => Ok(()),
                    reason = full.happens() => Err(BallistaError::General(reason)),
                }
            })
        })),
        ..ExecutorProcessConfig::default()
    };
    let served = serve(listener, folder.path().to_string_lossy().into_owned(), tasks_port, known, protection);
    let run = async {
        ready(address);
        start_executor_process(Arc::new(process)).await.map_err(|error| wrong(innermost(&error)))
    };
    tokio::select! {
        served = served => served,
        ended = run => match full.reason() {
            Some(reason) => Err(Error::Write(format!("{reason}; its tasks run elsewhere"))),
            None => ended,
        },
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

/// A port of the loopback address on which nobody listens.
async fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port())
}

/// Waits until the scheduler is there, as executors and scheduler are started in any order, and asks it something.
async fn reach(scheduler: &Cluster) -> Result<()> {
    let began = Instant::now();
    loop {
        match TcpStream::connect(scheduler.address()).await {
            Ok(_) => break,
            Err(error) if began.elapsed() > WAITS => {
                return Err(Error::Setting(format!("scheduler {}: cannot be reached: {error}", scheduler.address())));
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
    Scheduler::knock(scheduler).await.map_err(|error| Error::Setting(error.message().into_owned()))
}

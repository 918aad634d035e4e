//! The process that hands out tasks: it looks at no model and at no file.

use std::net::SocketAddr;
use std::sync::Arc;

use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use ballista_core::utils::{GrpcServerConfig, create_grpc_server};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::create_scheduler;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::object_store::ObjectStore;
use datafusion::object_store::memory::InMemory;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use url::Url;

use super::codec::codec;
use super::front::Front;
use super::limits::{LOST, MOST_BYTES};
use super::slots::Slots;
use super::terms::Terms;
use super::{Protection, reachable, split};
use crate::EmbedOptions;
use crate::error::{Error, Result};
use crate::functions::mended;

/// What a scheduler is started with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SchedulerOptions {
    /// `host:port` that it listens on; port 0 is any that is free.
    pub bind: String,
    /// What it and its executors are protected by.
    pub protection: Protection,
}

impl SchedulerOptions {
    /// To listen on `host:port`; port 0 is any that is free.
    pub fn new(bind: &str) -> Self {
        Self { bind: bind.to_owned(), protection: Protection::default() }
    }
}

/// Runs a scheduler until the process ends; `ready` hears where it listens.
///
/// # Errors
///
/// [`Error::Setting`] for an address that cannot be listened on.
pub async fn run_scheduler(options: SchedulerOptions, ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let wrong = |what: String| Error::Setting(format!("scheduler {:?}: {what}", options.bind));
    let (host, port) = split(&options.bind)?;
    let listener = TcpListener::bind((host.trim_matches(['[', ']']), port)).await;
    let listener = listener.map_err(|error| wrong(error.to_string()))?;
    let address = reachable(listener.local_addr().map_err(|error| wrong(error.to_string()))?)?;
    let protection = &options.protection;
    let config = config(address, protection);
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(|error| wrong(error.to_string()))?;
    let (slots, jobs) = (Arc::new(Slots::new(cluster.cluster_state())), cluster.job_state());
    let cluster = BallistaCluster::new(Arc::clone(&slots) as _, Arc::clone(&jobs));
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config)).await;
    let scheduler = scheduler.map_err(|error| wrong(error.to_string()))?;
    let service = SchedulerGrpcServer::new(Front::new(scheduler, slots, jobs))
        .max_decoding_message_size(MOST_BYTES)
        .max_encoding_message_size(MOST_BYTES);
    let mut server = protection.server(create_grpc_server(&GrpcServerConfig::default()))?;
    ready(address);
    let server = server.add_service(InterceptedService::new(service, protection.check()));
    let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
    server.serve_with_incoming(connections).await.map_err(|error| wrong(error.to_string()))
}

fn config(address: SocketAddr, protection: &Protection) -> SchedulerConfig {
    let runtime = RuntimeEnv { object_store_registry: Arc::new(NoFiles), ..RuntimeEnv::default() };
    let runtime = Arc::new(runtime);
    SchedulerConfig {
        bind_host: address.ip().to_string(),
        bind_port: address.port(),
        external_host: address.ip().to_string(),
        task_distribution: TaskDistributionPolicy::RoundRobin,
        executor_timeout_seconds: LOST.as_secs(),
        no_executors_grace_period_seconds: LOST.as_secs(),
        expire_dead_executor_interval_seconds: LOST.as_secs() / 4,
        grpc_server_max_decoding_message_size: MOST_BYTES as u32,
        grpc_server_max_encoding_message_size: MOST_BYTES as u32,
        grpc_client_max_message_size: MOST_BYTES as u32,
        override_physical_codec: Some(codec()),
        override_create_grpc_client_endpoint: Some(protection.endpoints()),
        override_config_producer: Some(Arc::new(|| {
            let config = SessionConfig::new_with_ballista().with_option_extension(EmbedOptions::default());
            config.with_option_extension(Terms::default())
        })),
        // Ballista makes a session for each job.
        override_session_builder: Some(Arc::new(move |config| {
            let builder = SessionStateBuilder::new().with_config(config).with_runtime_env(Arc::clone(&runtime));
            let mut state = builder.with_default_features().build();
            mended().into_iter().try_for_each(|function| state.register_udf(function).map(|_| ()))?;
            Ok(state)
        })),
        ..SchedulerConfig::default()
    }
}

/// Stores of plans that are read here and run elsewhere: whatever the address is, it is known and nothing is there.
#[derive(Debug)]
struct NoFiles;

impl ObjectStoreRegistry for NoFiles {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, _: &Url) -> datafusion::error::Result<Arc<dyn ObjectStore>> {
        Ok(Arc::new(InMemory::new()))
    }
}

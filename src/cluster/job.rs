//! A job: handed to the scheduler and waited for, its results fetched from the executors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::BALLISTA_VERSION;
use ballista_core::client::BallistaClient;
use ballista_core::config::BallistaConfig;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::operator_metric::Metric;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    ExecuteQueryParams, GetJobMetricsParams, GetJobStatusParams, JobStageMetrics, JobStatus, KeyValuePair, NamedCount,
    NamedTime, PartitionLocation,
};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use ballista_core::version;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{self as plan_metrics, Count, ExecutionPlanMetricsSet, MetricValue, Time};
use datafusion_proto::bytes::physical_plan_to_bytes_with_extension_codec;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::codec::codec;
use super::front::{Told, ask};
use super::task::told;
use super::{Cluster, MOST_BYTES};
use crate::cache::arithmetic;
use crate::error::innermost;
use crate::options::EmbedOptions;
use crate::plan::{has_calls, has_vectors, with_arithmetic, with_fingerprints};

/// Settings that are each machine's own, and stay where they are.
const OF_MACHINES: [&str; 12] = [
    "embed.device",
    "embed.concurrency",
    "embed.batch_size",
    "embed.batch_tokens",
    "embed.memory",
    "embed.model_memory",
    "embed.cache",
    "embed.cache_size",
    "embed.offline",
    "datafusion.runtime.",
    "datafusion.catalog.",
    "datafusion.sql_parser.",
];

/// How long a scheduler may take to answer that it is there.
const CONNECTS: Duration = Duration::from_secs(5);

/// How long a job waits for the first executor.
const WAITS: Duration = Duration::from_secs(20);

/// Time between two questions how far a job is.
const ASKS_EVERY: Duration = Duration::from_millis(500);

type Client = SchedulerGrpcClient<Channel>;

/// A plan that is to be handed in.
pub(super) struct Submission {
    cluster: Cluster,
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    /// Of the operator that hands it in: what was embedded there.
    metrics: ExecutionPlanMetricsSet,
}

impl Submission {
    pub(super) fn new(
        cluster: &Cluster,
        plan: &Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        let (cluster, plan, context) = (cluster.clone(), Arc::clone(plan), Arc::clone(context));
        Self { cluster, plan, context, metrics: metrics.clone() }
    }

    /// Runs it, and gives the rows partition after partition.
    pub(super) async fn results(self) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + 'static> {
        let mut scheduler = Scheduler::reach(&self.cluster).await?;
        let told = scheduler.executors().await?;
        let context = Arc::clone(&self.context);
        // Large models take a while.
        let plan = spawn_blocking(move || with_fingerprints(self.plan, context.session_config().options()));
        let plan = plan.await.map_err(|error| DataFusionError::External(Box::new(error)))??;
        let options = self.context.session_config().options();
        let plan = computed_alike(plan, &told.executors, options)?;
        let bytes = physical_plan_to_bytes_with_extension_codec(plan, codec().as_ref())?.to_vec();
        if bytes.len() > MOST_BYTES {
            return exec_err!(
                "the plan has {} MiB, and {} at most can be handed to a cluster: read fewer files at once",
                bytes.len() >> 20,
                MOST_BYTES >> 20
            );
        }
        let query = ExecuteQueryParams {
            session_id: self.context.session_id(),
            settings: settings(options),
            operation_id: String::new(),
            query: Some(Query::PhysicalPlan(bytes)),
        };
        let locations = scheduler.run(query, &self.metrics).await?;
        Ok(stream::iter(locations).then(fetched).try_flatten())
    }
}

/// A plan whose vectors are all computed with the same arithmetic: that of the executors, which this process has too where it has
/// computed some itself.
fn computed_alike(
    plan: Arc<dyn ExecutionPlan>,
    executors: &BTreeMap<String, usize>,
    options: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let embed = options.extensions.get::<EmbedOptions>().cloned().unwrap_or_default();
    if embed.mixed_arithmetic || !has_calls(&plan)? {
        return Ok(plan);
    }
    let mut all: BTreeSet<String> = executors.keys().cloned().collect();
    if has_vectors(&plan)? {
        all.insert(arithmetic(embed.device)?);
    }
    let mut all = all.into_iter();
    match (all.next(), all.next()) {
        (Some(one), None) => with_arithmetic(plan, &one),
        (one, other) => exec_err!(
            "the machines of the cluster compute differently ({} and {}), so that vectors would differ in their last bits: use \
             machines of one kind, or SET embed.mixed_arithmetic = true",
            one.unwrap_or_default(),
            other.unwrap_or_default()
        ),
    }
}

/// Whether a setting is each machine's own.
pub(super) fn is_of_machines(key: &str) -> bool {
    OF_MACHINES.iter().any(|own| key == *own || own.ends_with('.') && key.starts_with(own))
}

/// What of the settings goes with a plan.
fn settings(options: &ConfigOptions) -> Vec<KeyValuePair> {
    let entries = options.entries().into_iter().filter(|entry| !is_of_machines(&entry.key));
    entries.map(|entry| KeyValuePair { key: entry.key, value: entry.value }).collect()
}

/// A scheduler that answers.
struct Scheduler {
    client: Client,
    cluster: Cluster,
}

impl Scheduler {
    async fn reach(cluster: &Cluster) -> Result<Self> {
        let config = GrpcClientConfig::from(&BallistaConfig::default());
        let endpoint = create_grpc_client_endpoint(cluster.url(), Some(&config));
        let endpoint = endpoint.map_err(|error| gone(cluster, innermost(&error)))?;
        let channel = endpoint.connect_timeout(CONNECTS).connect().await;
        let channel = channel.map_err(|error| gone(cluster, format!("cannot be reached: {}", innermost(&error))))?;
        let client = Client::new(channel).max_encoding_message_size(MOST_BYTES).max_decoding_message_size(MOST_BYTES);
        Ok(Self { client, cluster: cluster.clone() })
    }

    /// Which executors there are, how they compute, and how far a job is.
    async fn ask(&mut self, job_id: String) -> Result<Told> {
        let answer = self.client.get_job_status(ask(GetJobStatusParams { job_id })).await;
        let answer = answer.map_err(|status| gone(&self.cluster, said_by(&status)))?;
        let told = Told::read(answer.metadata());
        told.ok_or_else(|| gone(&self.cluster, "is no scheduler of embedsql: start one by `embedsql scheduler`".into()))
    }

    /// Waits a while for the first executor.
    async fn executors(&mut self) -> Result<Told> {
        let began = Instant::now();
        loop {
            let told = self.ask(String::new()).await?;
            if !told.executors.is_empty() {
                return Ok(told);
            }
            if began.elapsed() > WAITS {
                let address = self.cluster.address();
                let next = format!("has no executors: start one by `embedsql executor --scheduler {address}`");
                return Err(gone(&self.cluster, next));
            }
            sleep(ASKS_EVERY / 5).await;
        }
    }

    /// Runs a job to its end, and gives where its results are. One that nobody waits for any more is cancelled by the scheduler.
    async fn run(
        mut self,
        query: ExecuteQueryParams,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Vec<PartitionLocation>> {
        let mut request = Request::new(query);
        version::insert_version_header(request.metadata_mut());
        let answer = self.client.execute_query_push(request).await;
        let answer = answer.map_err(|status| gone(&self.cluster, status.message().to_owned()))?;
        let theirs = version::version_from_metadata(answer.metadata()).map(str::to_owned);
        version::check_compatibility(Some(BALLISTA_VERSION), theirs.as_deref())
            .map_err(|what| exec_datafusion_err!("{what}"))?;
        let (mut said, mut id, mut progress) = (answer.into_inner(), String::new(), self.cluster.begin());
        loop {
            let item = match timeout(ASKS_EVERY, said.next()).await {
                Ok(item) => item,
                Err(_) if id.is_empty() => continue,
                Err(_) => {
                    progress.is_at(self.ask(id.clone()).await?.done);
                    continue;
                }
            };
            let status = match item {
                Some(Ok(item)) => item.status,
                Some(Err(status)) => return Err(gone(&self.cluster, said_by(&status))),
                None => return Err(gone(&self.cluster, GONE.to_owned())),
            };
            let Some(JobStatus { job_id, status, .. }) = status else { continue };
            id = job_id;
            match status {
                Some(Status::Successful(job)) => {
                    progress.is_at(self.ask(id.clone()).await?.done);
                    // For EXPLAIN ANALYZE; the rows are there without.
                    if let Ok(found) = self.client.get_job_metrics(GetJobMetricsParams { job_id: id }).await {
                        add_metrics(metrics, &found.get_ref().stages);
                    }
                    return Ok(job.partition_location);
                }
                Some(Status::Failed(job)) => return Err(told(&job.error)),
                Some(Status::Queued(_) | Status::Running(_)) | None => {}
            }
        }
    }
}

/// What all operators of ours have done, all tasks together.
fn add_metrics(metrics: &ExecutionPlanMetricsSet, stages: &[JobStageMetrics]) {
    let operators = stages.iter().flat_map(|stage| &stage.operators);
    let ours = operators.filter(|operator| operator.operator_desc.starts_with("EmbedExec"));
    let (mut counts, mut times) = (BTreeMap::<&str, u64>::new(), BTreeMap::<&str, u64>::new());
    for metric in ours.flat_map(|operator| &operator.metrics) {
        match &metric.metric {
            Some(Metric::Count(NamedCount { name, value })) => *counts.entry(name).or_default() += value,
            Some(Metric::Time(NamedTime { name, value })) => *times.entry(name).or_default() += value,
            _ => {}
        }
    }
    let counts = counts.into_iter().map(|(name, value)| {
        let count = Count::new();
        count.add(value as usize);
        MetricValue::Count { name: name.to_owned().into(), count }
    });
    let times = times.into_iter().map(|(name, value)| {
        let time = Time::new();
        time.add_duration(Duration::from_nanos(value));
        MetricValue::Time { name: name.to_owned().into(), time }
    });
    counts.chain(times).for_each(|value| metrics.register(Arc::new(plan_metrics::Metric::new(value, None))));
}

const GONE: &str = "is gone, and the job with it; run the statement again";

fn said_by(status: &tonic::Status) -> String {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => GONE.to_owned(),
        _ => status.message().to_owned(),
    }
}

fn gone(cluster: &Cluster, what: String) -> DataFusionError {
    exec_datafusion_err!("scheduler {}: {what}", cluster.address())
}

/// The rows of a partition, from the executor that has them.
async fn fetched(location: PartitionLocation) -> Result<SendableRecordBatchStream> {
    let layout = location.layout();
    let (Some(executor), Some(partition)) = (location.executor_meta, location.partition_id) else {
        return exec_err!("the scheduler does not say where a result is");
    };
    let (host, port) = (executor.host.as_str(), executor.port as u16);
    let gone = |what: String| exec_datafusion_err!("executor {host}:{port}: its results cannot be fetched: {what}");
    let config = GrpcClientConfig::from(&BallistaConfig::default());
    let client = BallistaClient::try_new(
        host,
        port,
        MOST_BYTES,
        false,
        None,
        config.io_retries_times,
        config.io_retry_wait_time_ms,
        0,
        0,
    );
    let mut client = client.await.map_err(|error| gone(error.to_string()))?;
    let partition = partition.into();
    let rows = client.fetch_partition(&executor.id, &partition, location.file_id, layout, true);
    rows.await.map_err(|error| gone(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_a_result_goes_along_and_what_is_a_machines_own_stays() {
        let mut options = ConfigOptions::new();
        options.extensions.insert(EmbedOptions::default());
        let settings = settings(&options);
        let has = |key: &str| settings.iter().any(|setting| setting.key == key);
        for key in
            ["datafusion.execution.time_zone", "datafusion.execution.batch_size", "embed.model", "embed.truncate"]
        {
            assert!(has(key), "{key}");
        }
        for key in ["embed.device", "embed.cache", "datafusion.catalog.location", "datafusion.runtime.memory_limit"] {
            assert!(!has(key), "{key}");
        }
        let all = options.entries();
        for own in OF_MACHINES.iter().filter(|own| own.starts_with("embed.")) {
            assert!(all.iter().any(|entry| entry.key == **own), "{own} is a setting");
        }
    }
}

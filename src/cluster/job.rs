//! A job: handed to the scheduler and waited for, its results fetched from the executors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::BALLISTA_VERSION;
use ballista_core::client::BallistaClient;
use ballista_core::config::BallistaConfig;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    ExecuteQueryParams, GetJobStatusParams, JobStatus, KeyValuePair, PartitionLocation,
};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use ballista_core::version;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, Label, Metric, MetricValue, Time};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_proto::bytes::physical_plan_to_bytes_with_extension_codec;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::Cluster;
use super::codec::codec;
use super::front::{StageWork, Told, ask};
use super::limits::MOST_BYTES;
use super::said::told;
use super::terms::Terms;
use crate::cache::arithmetic;
use crate::engine::Session;
use crate::error::innermost;
use crate::files::dealt_by_rows;
use crate::options::EmbedOptions;
use crate::plan::{has_calls, has_vectors, with_fingerprints};

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

/// How long a job waits for the first executor.
const WAITS: Duration = Duration::from_secs(20);

/// How often a job is run that is spoilt each time.
const MOST_RUNS: usize = 4;

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
        let embeds = has_calls(&plan)?;
        let plan = if embeds { dealt_by_rows(plan)? } else { plan };
        let options = self.context.session_config().options();
        let token = self.cluster.protection.shown().to_owned();
        let arithmetic = if embeds { common_arithmetic(&plan, &told.executors, options)? } else { None };
        let terms = Terms { arithmetic: arithmetic.unwrap_or_default(), token };
        let tasks = tasks(&plan);
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
            settings: settings(options).chain(terms.settings()).collect(),
            operation_id: String::new(),
            query: Some(Query::PhysicalPlan(bytes)),
        };
        let done = scheduler.run(&query, tasks).await?;
        // For EXPLAIN ANALYZE and embed_models().
        add_metrics(&self.metrics, &done.told.stages);
        if let Some(session) = Session::of(options) {
            done.told.models.into_iter().for_each(|used| session.add_usage(used));
        }
        let cluster = self.cluster;
        Ok(stream::iter(done.results).then(move |location| fetched(location, cluster.clone())).try_flatten())
    }
}

/// The tasks of a plan: one for each partition of each stage, and a stage ends where rows go to other partitions.
fn tasks(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    fn below(plan: &Arc<dyn ExecutionPlan>) -> usize {
        let ends =
            plan.is::<RepartitionExec>() || plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>();
        let children = plan.children().into_iter();
        children.map(|child| below(child) + if ends { child.output_partitioning().partition_count() } else { 0 }).sum()
    }
    (below(plan) + plan.output_partitioning().partition_count()) as u64
}

/// What all vectors of a plan that embeds are computed with: the arithmetic of the executors, which this process has too where it has computed
/// some itself. `None` where it does not matter.
fn common_arithmetic(
    plan: &Arc<dyn ExecutionPlan>,
    executors: &BTreeMap<String, usize>,
    options: &ConfigOptions,
) -> Result<Option<String>> {
    let embed = options.extensions.get::<EmbedOptions>().cloned().unwrap_or_default();
    if embed.mixed_arithmetic {
        return Ok(None);
    }
    let mut all: BTreeSet<String> = executors.keys().cloned().collect();
    if has_vectors(plan)? {
        all.insert(arithmetic(embed.device)?);
    }
    let mut all = all.into_iter();
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(Some(one)),
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
fn settings(options: &ConfigOptions) -> impl Iterator<Item = KeyValuePair> + use<> {
    let entries = options.entries().into_iter().filter(|entry| !is_of_machines(&entry.key));
    entries.map(|entry| KeyValuePair { key: entry.key, value: entry.value })
}

/// A job that has ended well.
struct Done {
    results: Vec<PartitionLocation>,
    told: Told,
}

/// A scheduler that answers.
pub(super) struct Scheduler {
    client: Client,
    cluster: Cluster,
}

impl Scheduler {
    async fn reach(cluster: &Cluster) -> Result<Self> {
        let config = GrpcClientConfig::from(&BallistaConfig::default());
        let endpoint = create_grpc_client_endpoint(cluster.url(), Some(&config));
        let endpoint = endpoint.map_err(|error| gone(cluster, innermost(&error)))?;
        let endpoint = cluster.protection.endpoint(endpoint).map_err(|error| gone(cluster, error.to_string()))?;
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| gone(cluster, format!("cannot be reached: {}", innermost(&error))))?;
        let client = Client::new(channel).max_encoding_message_size(MOST_BYTES).max_decoding_message_size(MOST_BYTES);
        Ok(Self { client, cluster: cluster.clone() })
    }

    /// Which executors there are, how they compute, and how far a job is, or all of it.
    async fn ask(&mut self, job_id: String, all: bool) -> Result<Told> {
        let is_first = job_id.is_empty();
        let answer = self.client.get_job_status(ask(GetJobStatusParams { job_id }, all)).await;
        let answer = answer.map_err(|status| match said_by(&status) {
            what if is_first && what == GONE => gone(&self.cluster, UNKNOWN.to_owned()),
            what => gone(&self.cluster, what),
        })?;
        let told = Told::read(answer.get_ref());
        told.ok_or_else(|| gone(&self.cluster, "is no scheduler of embedsql: start one by `embedsql scheduler`".into()))
    }

    /// An error where the scheduler does not answer, or does not let this process in.
    pub(super) async fn knock(cluster: &Cluster) -> Result<()> {
        Self::reach(cluster).await?.ask(String::new(), false).await.map(drop)
    }

    /// Waits a while for the first executor.
    async fn executors(&mut self) -> Result<Told> {
        let began = Instant::now();
        loop {
            let told = self.ask(String::new(), false).await?;
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

    /// Runs a job of so many tasks to its end; from its beginning where the loss of an executor has spoilt it.
    async fn run(&mut self, query: &ExecuteQueryParams, tasks: u64) -> Result<Done> {
        for _ in 0..MOST_RUNS {
            if let Some(done) = self.run_once(query.clone(), tasks).await? {
                return Ok(done);
            }
        }
        let what =
            format!("has lost executors in the middle of a statement {MOST_RUNS} times; run the statement again");
        Err(gone(&self.cluster, what))
    }

    /// Runs it, `None` where it is spoilt. A job that nobody waits for any more is cancelled by the scheduler.
    async fn run_once(&mut self, query: ExecuteQueryParams, tasks: u64) -> Result<Option<Done>> {
        let mut request = Request::new(query);
        version::insert_version_header(request.metadata_mut());
        let answer = self.client.execute_query_push(request).await;
        let answer = answer.map_err(|status| gone(&self.cluster, status.message().to_owned()))?;
        let theirs = version::version_from_metadata(answer.metadata()).map(str::to_owned);
        version::check_compatibility(Some(BALLISTA_VERSION), theirs.as_deref())
            .map_err(|what| exec_datafusion_err!("{what}"))?;
        let (mut said, mut id, mut progress) = (answer.into_inner(), String::new(), self.cluster.begin(tasks));
        loop {
            let item = match timeout(ASKS_EVERY, said.next()).await {
                Ok(item) => item,
                Err(_) if id.is_empty() => continue,
                Err(_) => {
                    let told = self.ask(id.clone(), false).await?;
                    progress.is_at(told.done);
                    if told.is_spoilt {
                        return Ok(None);
                    }
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
                    let told = self.ask(id.clone(), true).await?;
                    progress.is_at(told.done);
                    return Ok(Some(Done { results: job.partition_location, told }));
                }
                Some(Status::Failed(job)) => {
                    // Where the executors are gone it does not say why.
                    let trouble = self.ask(id, false).await.ok().and_then(|told| told.trouble);
                    return Err(told(&format!("{}{}", job.error, trouble.unwrap_or_default())));
                }
                Some(Status::Queued(_) | Status::Running(_)) | None => {}
            }
        }
    }
}

/// What the operators of ours have done there, by stage and executor: EXPLAIN ANALYZE shows the sums, with VERBOSE each.
fn add_metrics(metrics: &ExecutionPlanMetricsSet, stages: &[StageWork]) {
    for StageWork { stage, executor, counts, times } in stages {
        let labels = || vec![Label::new("stage", stage.to_string()), Label::new("executor", executor.clone())];
        let add = |value| metrics.register(Arc::new(Metric::new_with_labels(value, None, labels())));
        for (name, value) in counts {
            let count = Count::new();
            count.add(*value as usize);
            add(MetricValue::Count { name: name.clone().into(), count });
        }
        for (name, value) in times {
            let time = Time::new();
            time.add_duration(Duration::from_nanos(*value));
            add(MetricValue::Time { name: name.clone().into(), time });
        }
    }
}

const GONE: &str = "is gone, and the job with it; run the statement again";
const UNKNOWN: &str = "does not answer: it is gone, or it speaks TLS and this process has no --certificates, or others";

fn said_by(status: &tonic::Status) -> String {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => GONE.to_owned(),
        // Not the scheduler's word, but of the connection.
        Code::Internal if std::error::Error::source(status).is_some() => GONE.to_owned(),
        _ => status.message().to_owned(),
    }
}

fn gone(cluster: &Cluster, what: String) -> DataFusionError {
    exec_datafusion_err!("scheduler {}: {what}", cluster.address())
}

/// The rows of a partition, from the executor that has them.
async fn fetched(location: PartitionLocation, cluster: Cluster) -> Result<SendableRecordBatchStream> {
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
        Some(cluster.protection.of_results()),
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
        let settings: Vec<_> = settings(&options).collect();
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

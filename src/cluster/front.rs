//! The door of a scheduler: Ballista's own, which knows here who its executors are and how far a job is, and tells that to clients
//! who ask.
//!
//! What is said beside Ballista's messages: a client sets the header [`ASKS`] on a request for a job's status, and the answer has
//! [`Told`] as JSON in it; a task says what its models did in names of metrics.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use ballista_core::serde::protobuf::operator_metric::Metric;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::task_status::Status as TaskState;
use ballista_core::serde::protobuf::{
    CancelJobParams, CancelJobResult, CleanJobDataParams, CleanJobDataResult, CreateUpdateSessionParams,
    CreateUpdateSessionResult, ExecuteQueryParams, ExecuteQueryResult, ExecutorRegistration, ExecutorStoppedParams,
    ExecutorStoppedResult, GetJobMetricsParams, GetJobMetricsResult, GetJobStatusParams, GetJobStatusResult,
    HeartBeatParams, HeartBeatResult, JobStatus, NamedCount, NamedTime, OperatorMetric, OperatorMetricsSet,
    PollWorkParams, PollWorkResult, RegisterExecutorParams, RegisterExecutorResult, RemoveSessionParams,
    RemoveSessionResult, TaskStatus, UpdateTaskStatusParams, UpdateTaskStatusResult,
};
use ballista_scheduler::cluster::JobState;
use datafusion::physical_plan::metrics::{Count, Metric as PlanMetric, MetricValue, MetricsSet};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::client::{self, Watched};
use super::limits::LOST;
use super::progress::Work;
use super::said::marked_in;
use super::slots::Slots;
use crate::engine::ModelUse;

/// Set by a client that wants to be told of a job: how far it is, or [`ALL`] of it.
const ASKS: &str = "embedsql-asks";
const PROGRESS: &str = "progress";
const ALL: &str = "all";

/// The metric in which a task says what a model did: its name is this and a [`ModelUse`] as JSON.
const USED: &str = "embedsql-used ";

/// Jobs that are remembered.
const MOST_JOBS: usize = 100;

/// The id of an executor that computes so; what it computes with can be read from it.
pub(super) fn executor_id(arithmetic: &str, name: &str) -> String {
    format!("{arithmetic}~{name}")
}

/// Sets the header of a client that asks, for all that is known or for how far it is.
pub(super) fn ask<T>(message: T, all: bool) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(ASKS, MetadataValue::from_static(if all { ALL } else { PROGRESS }));
    request
}

/// What models did, as metrics of a task: nobody but the front reads them.
pub(super) fn used(models: &[ModelUse]) -> MetricsSet {
    let mut metrics = MetricsSet::new();
    for model in models {
        // A structure of texts and numbers is always written.
        let name = format!("{USED}{}", serde_json::to_string(model).unwrap_or_default());
        let value = MetricValue::Count { name: name.into(), count: Count::new() };
        metrics.push(Arc::new(PlanMetric::new(value, None)));
    }
    metrics
}

/// What a scheduler has told a client that asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    /// What the executors compute with, and how many do.
    pub(super) executors: BTreeMap<String, usize>,
    /// What the tasks of a job have done so far.
    pub(super) done: Work,
    /// Why the last task failed that failed, between its marks.
    pub(super) trouble: Option<String>,
    /// Whether the job does not go on, and has to be handed in again: see `slots.rs`.
    pub(super) is_spoilt: bool,
    /// Where it was done; for those who ask for all.
    pub(super) stages: Vec<StageWork>,
    /// What models did there; for those who ask for all.
    pub(super) models: Vec<ModelUse>,
}

/// What an executor did in a stage, all its operators together that embed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StageWork {
    pub(super) stage: u32,
    pub(super) executor: String,
    /// By the names of EXPLAIN ANALYZE.
    pub(super) counts: BTreeMap<String, u64>,
    /// In nanoseconds.
    pub(super) times: BTreeMap<String, u64>,
}

impl Told {
    /// `None` where the scheduler is another program's.
    pub(super) fn read(answer: &GetJobStatusResult) -> Option<Self> {
        serde_json::from_str(&answer.status.as_ref()?.job_name).ok()
    }

    /// A status has one text that is nobody else's here.
    fn write(&self) -> GetJobStatusResult {
        let job_name = serde_json::to_string(self).unwrap_or_default();
        GetJobStatusResult {
            status: Some(JobStatus { job_name, ..JobStatus::default() }),
            ..GetJobStatusResult::default()
        }
    }
}

/// A scheduler behind its door.
pub(super) struct Front<S> {
    inner: Arc<S>,
    slots: Arc<Slots>,
    /// What Ballista knows of jobs.
    all: Arc<dyn JobState>,
    /// By their ids.
    executors: Mutex<HashMap<String, Executor>>,
    /// By the ids of their jobs, the last ones.
    jobs: Mutex<BTreeMap<String, Job>>,
    /// Why the last executor went that said why, between marks.
    went: Mutex<Option<String>>,
}

/// An executor that is there.
struct Executor {
    heard: Instant,
    /// `host:port`, for people.
    address: String,
}

/// What is known of a job.
#[derive(Default)]
struct Job {
    done: Work,
    trouble: Option<String>,
    stages: BTreeMap<(u32, String), StageWork>,
    models: Vec<ModelUse>,
}

impl<S> Front<S> {
    pub(super) fn new(inner: S, slots: Arc<Slots>, all: Arc<dyn JobState>) -> Self {
        let (executors, jobs, went) = Default::default();
        Self { inner: Arc::new(inner), slots, all, executors, jobs, went }
    }

    /// An executor says that it is there. Its tasks come in by the port at which its results are.
    fn hear(&self, registration: &mut ExecutorRegistration) {
        registration.grpc_port = registration.port;
        let address = format!("{}:{}", registration.host.as_deref().unwrap_or_default(), registration.port);
        let mut executors = self.executors.lock();
        executors.retain(|_, executor| executor.heard.elapsed() < LOST);
        executors.insert(registration.id.clone(), Executor { heard: Instant::now(), address });
    }

    /// What is known of the executors, and of a job.
    fn told(&self, job: &str, all: bool) -> Told {
        let mut executors = BTreeMap::new();
        for (id, _) in self.executors.lock().iter().filter(|(_, executor)| executor.heard.elapsed() < LOST) {
            let arithmetic = id.split_once('~').map_or("unknown", |(arithmetic, _)| arithmetic);
            *executors.entry(arithmetic.to_owned()).or_default() += 1;
        }
        let mut told = Told { is_spoilt: self.slots.is_spoilt(job), ..Told::default() };
        if let Some(job) = self.jobs.lock().get(job) {
            (told.done, told.trouble) = (job.done, job.trouble.clone());
            if all {
                (told.stages, told.models) = (job.stages.values().cloned().collect(), job.models.clone());
            }
        }
        if executors.is_empty() {
            told.trouble = told.trouble.or_else(|| self.went.lock().clone());
        }
        told.done.executors = executors.values().sum::<usize>() as u64;
        Told { executors, ..told }
    }

    /// A task has ended.
    fn add(&self, task: &mut TaskStatus) {
        let models = take_used(&mut task.metrics);
        let mut jobs = self.jobs.lock();
        let job = jobs.entry(task.job_id.clone()).or_default();
        match &task.status {
            Some(TaskState::Successful(done)) => {
                let address = self.executors.lock().get(&done.executor_id).map(|executor| executor.address.clone());
                job.add(task.stage_id, &address.unwrap_or_else(|| done.executor_id.clone()), &task.metrics, models);
            }
            Some(TaskState::Failed(failed)) => job.trouble = marked_in(&failed.error).map(str::to_owned),
            _ => {}
        }
        // Their ids grow with time.
        while jobs.len() > MOST_JOBS {
            jobs.pop_first();
        }
    }
}

impl Job {
    fn add(&mut self, stage: u32, executor: &str, metrics: &[OperatorMetricsSet], models: Vec<ModelUse>) {
        self.done.tasks += 1;
        for set in metrics.iter().filter(|set| embeds(set)) {
            let work = self.stages.entry((stage, executor.to_owned())).or_default();
            (work.stage, work.executor) = (stage, executor.to_owned());
            for metric in &set.metrics {
                match &metric.metric {
                    Some(Metric::Count(NamedCount { name, value })) => {
                        *work.counts.entry(name.clone()).or_default() += value;
                        match &**name {
                            "tokens" => self.done.tokens += value,
                            "rows_embedded" | "rows_cached" | "rows_duplicate" | "rows_null" => self.done.rows += value,
                            _ => {}
                        }
                    }
                    Some(Metric::Time(NamedTime { name, value })) => {
                        *work.times.entry(name.clone()).or_default() += value;
                    }
                    _ => {}
                }
            }
        }
        for model in models {
            ModelUse { executor: Some(executor.to_owned()), ..model }.add_to(&mut self.models);
        }
    }
}

/// Whether metrics are those of an operator that embeds.
fn embeds(set: &OperatorMetricsSet) -> bool {
    let is_it =
        |metric: &OperatorMetric| matches!(&metric.metric, Some(Metric::Count(count)) if count.name == "rows_embedded");
    set.metrics.iter().any(is_it)
}

/// What models did in a task: it stands behind the metrics of the operators, which the scheduler counts.
fn take_used(metrics: &mut Vec<OperatorMetricsSet>) -> Vec<ModelUse> {
    let read = |metric: &OperatorMetric| match &metric.metric {
        Some(Metric::Count(count)) => serde_json::from_str(count.name.strip_prefix(USED)?).ok(),
        _ => None,
    };
    let used = metrics.pop();
    used.iter().flat_map(|set| &set.metrics).filter_map(read).collect()
}

#[async_trait]
impl<S: SchedulerGrpc> SchedulerGrpc for Front<S> {
    type ExecuteQueryPushStream = Watched<S>;

    async fn poll_work(&self, request: Request<PollWorkParams>) -> Result<Response<PollWorkResult>, Status> {
        self.inner.poll_work(request).await
    }

    async fn create_update_session(
        &self,
        request: Request<CreateUpdateSessionParams>,
    ) -> Result<Response<CreateUpdateSessionResult>, Status> {
        self.inner.create_update_session(request).await
    }

    async fn remove_session(
        &self,
        request: Request<RemoveSessionParams>,
    ) -> Result<Response<RemoveSessionResult>, Status> {
        self.inner.remove_session(request).await
    }

    async fn execute_query(
        &self,
        request: Request<ExecuteQueryParams>,
    ) -> Result<Response<ExecuteQueryResult>, Status> {
        self.inner.execute_query(request).await
    }

    async fn get_job_metrics(
        &self,
        request: Request<GetJobMetricsParams>,
    ) -> Result<Response<GetJobMetricsResult>, Status> {
        self.inner.get_job_metrics(request).await
    }

    async fn cancel_job(&self, request: Request<CancelJobParams>) -> Result<Response<CancelJobResult>, Status> {
        self.inner.cancel_job(request).await
    }

    async fn clean_job_data(
        &self,
        request: Request<CleanJobDataParams>,
    ) -> Result<Response<CleanJobDataResult>, Status> {
        self.inner.clean_job_data(request).await
    }

    async fn register_executor(
        &self,
        mut request: Request<RegisterExecutorParams>,
    ) -> Result<Response<RegisterExecutorResult>, Status> {
        request.get_mut().metadata.iter_mut().for_each(|registration| self.hear(registration));
        self.inner.register_executor(request).await
    }

    async fn heart_beat_from_executor(
        &self,
        mut request: Request<HeartBeatParams>,
    ) -> Result<Response<HeartBeatResult>, Status> {
        request.get_mut().metadata.iter_mut().for_each(|registration| self.hear(registration));
        self.inner.heart_beat_from_executor(request).await
    }

    async fn update_task_status(
        &self,
        mut request: Request<UpdateTaskStatusParams>,
    ) -> Result<Response<UpdateTaskStatusResult>, Status> {
        let tasks = &mut request.get_mut().task_status;
        tasks.iter_mut().for_each(|task| self.add(task));
        self.slots.ended(tasks).await.map_err(|error| Status::internal(error.to_string()))?;
        self.inner.update_task_status(request).await
    }

    async fn executor_stopped(
        &self,
        request: Request<ExecutorStoppedParams>,
    ) -> Result<Response<ExecutorStoppedResult>, Status> {
        self.executors.lock().remove(&request.get_ref().executor_id);
        if let Some(reason) = marked_in(&request.get_ref().reason) {
            *self.went.lock() = Some(reason.to_owned());
        }
        self.inner.executor_stopped(request).await
    }

    async fn get_job_status(
        &self,
        request: Request<GetJobStatusParams>,
    ) -> Result<Response<GetJobStatusResult>, Status> {
        let Some(asks) = request.metadata().get(ASKS) else { return self.inner.get_job_status(request).await };
        Ok(Response::new(self.told(&request.get_ref().job_id, asks == ALL).write()))
    }

    async fn execute_query_push(
        &self,
        mut request: Request<ExecuteQueryParams>,
    ) -> Result<Response<Self::ExecuteQueryPushStream>, Status> {
        let name = client::name(request.get_mut());
        let (metadata, said, extensions) = self.inner.execute_query_push(request).await?.into_parts();
        let said = Watched::new(said, name, Arc::clone(&self.inner), Arc::clone(&self.all));
        Ok(Response::from_parts(metadata, said, extensions))
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf::SuccessfulTask;
    use ballista_scheduler::cluster::memory::{InMemoryClusterState, InMemoryJobState};
    use datafusion::prelude::SessionConfig;

    use super::*;

    fn count(name: &str, value: u64) -> OperatorMetric {
        let metric = Some(Metric::Count(NamedCount { name: name.to_owned(), value }));
        OperatorMetric { metric, ..OperatorMetric::default() }
    }

    fn model() -> ModelUse {
        let counts = crate::Counts { tokens: 7, ..crate::Counts::default() };
        let text = |text: &str| text.to_owned();
        ModelUse {
            executor: None,
            model: text("a \"model\""),
            source: text("hub"),
            revision: None,
            architecture: text("bert"),
            dim: 8,
            max_tokens: Some(512),
            device: text("cpu"),
            precision: text("f32"),
            kernels: Some(text("avx2")),
            counts,
        }
    }

    #[test]
    fn what_tasks_did_is_known_by_stage_executor_and_model() {
        let jobs = InMemoryJobState::new("", Arc::new(|_| unreachable!()), Arc::new(SessionConfig::new));
        let slots = Slots::new(Arc::new(InMemoryClusterState::default()));
        let front = Front::new((), Arc::new(slots), Arc::new(jobs));
        let mut registration = ExecutorRegistration { id: "cpu~a".into(), port: 7, grpc_port: 9, ..Default::default() };
        registration.host = Some("10.0.0.2".into());
        front.hear(&mut registration);
        assert_eq!(registration.grpc_port, 7, "one port for everything");
        for stage_id in [1, 1, 2] {
            let name = used(&[model()]).iter().map(|metric| metric.value().name().to_owned()).collect::<Vec<_>>();
            let sets = [vec![count("output_rows", 5)], vec![count("rows_embedded", 2), count("tokens", 7)]];
            let sets = sets.into_iter().chain([vec![count(&name[0], 0)]]);
            let done = SuccessfulTask { executor_id: "cpu~a".into(), ..Default::default() };
            let mut task = TaskStatus {
                job_id: "job".into(),
                stage_id,
                metrics: sets.map(|metrics| OperatorMetricsSet { metrics }).collect(),
                status: Some(TaskState::Successful(done)),
                ..TaskStatus::default()
            };
            front.add(&mut task);
            assert_eq!(task.metrics.len(), 2, "what the scheduler sees are its operators");
        }
        let told = Told::read(&front.told("job", true).write()).expect("what was written");
        assert_eq!(told, front.told("job", true));
        assert_eq!((told.done.tasks, told.done.rows, told.done.tokens, told.done.executors), (3, 6, 21, 1));
        assert_eq!(told.executors, BTreeMap::from([("cpu".to_owned(), 1)]));
        let stages: Vec<_> =
            told.stages.iter().map(|work| (work.stage, &*work.executor, work.counts["tokens"])).collect();
        assert_eq!(stages, [(1, "10.0.0.2:7", 14), (2, "10.0.0.2:7", 7)]);
        let [used] = &told.models[..] else { panic!("one model at one place: {:?}", told.models) };
        let mut expected = ModelUse { executor: Some("10.0.0.2:7".into()), ..model() };
        expected.counts.tokens = 21;
        assert_eq!(used, &expected);
        assert_eq!(Told::read(&GetJobStatusResult::default()), None, "another program's scheduler");
    }
}

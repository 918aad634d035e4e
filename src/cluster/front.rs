//! The door of a scheduler: Ballista's own, which knows here who its executors are and how far a job is, tells that to clients
//! who ask, and cancels the job of a client that is gone.
//!
//! What is said beside Ballista's messages are headers: a client sets [`ASKS`] on a request for a job's status, and the answer
//! has the others.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use async_trait::async_trait;
use ballista_core::serde::protobuf::job_status::Status as JobState;
use ballista_core::serde::protobuf::operator_metric::Metric;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::task_status::Status as TaskState;
use ballista_core::serde::protobuf::{
    CancelJobParams, CancelJobResult, CleanJobDataParams, CleanJobDataResult, CreateUpdateSessionParams,
    CreateUpdateSessionResult, ExecuteQueryParams, ExecuteQueryResult, ExecutorStoppedParams, ExecutorStoppedResult,
    GetJobMetricsParams, GetJobMetricsResult, GetJobStatusParams, GetJobStatusResult, HeartBeatParams, HeartBeatResult,
    PollWorkParams, PollWorkResult, RegisterExecutorParams, RegisterExecutorResult, RemoveSessionParams,
    RemoveSessionResult, TaskStatus, UpdateTaskStatusParams, UpdateTaskStatusResult,
};
use futures::Stream;
use parking_lot::Mutex;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

use super::LOST;
use super::progress::Work;

/// Set by a client that wants to know what the other headers say.
const ASKS: &str = "embedsql-asks";
/// What the executors compute with, and how many do: `cpu-avx2-1.1=3`, one value each.
const EXECUTORS: &str = "embedsql-executors";
/// What the tasks of the job have done: tasks, rows, tokens.
const DONE: &str = "embedsql-done";

/// Jobs of which it is remembered how far they are.
const MOST_JOBS: usize = 1000;

/// The id of an executor that computes so; what it computes with can be read from it.
pub(super) fn executor_id(arithmetic: &str, name: &str) -> String {
    format!("{arithmetic}~{name}")
}

/// Sets the header of a client that asks.
pub(super) fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(ASKS, MetadataValue::from_static("1"));
    request
}

/// What a scheduler has told a client that asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// What the executors compute with, and how many do.
    pub(super) executors: BTreeMap<String, usize>,
    /// What the tasks of a job have done so far.
    pub(super) done: Work,
}

impl Told {
    /// `None` where the scheduler is another program's.
    pub(super) fn read(metadata: &MetadataMap) -> Option<Self> {
        let done = metadata.get(DONE)?.to_str().ok()?;
        let mut numbers = done.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let done = Work { tasks: next()?, rows: next()?, tokens: next()? };
        let executors = metadata.get_all(EXECUTORS).iter().filter_map(|value| {
            let (arithmetic, count) = value.to_str().ok()?.rsplit_once('=')?;
            Some((arithmetic.to_owned(), count.parse().ok()?))
        });
        Some(Self { executors: executors.collect(), done })
    }

    fn write(&self, metadata: &mut MetadataMap) {
        let Work { tasks, rows, tokens } = self.done;
        let texts = self.executors.iter().map(|(arithmetic, count)| (EXECUTORS, format!("{arithmetic}={count}")));
        for (name, text) in texts.chain([(DONE, format!("{tasks} {rows} {tokens}"))]) {
            if let Ok(value) = text.parse() {
                metadata.append(name, value);
            }
        }
    }
}

/// A scheduler behind its door.
pub(super) struct Front<S> {
    inner: Arc<S>,
    /// By their ids, when they were heard of last.
    executors: Mutex<HashMap<String, Instant>>,
    /// By the ids of their jobs, the last ones.
    done: Mutex<BTreeMap<String, Work>>,
}

impl<S> Front<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner: Arc::new(inner), executors: Mutex::default(), done: Mutex::default() }
    }

    fn heard_of(&self, executor: &str) {
        let mut executors = self.executors.lock();
        executors.retain(|_, heard| heard.elapsed() < LOST);
        executors.insert(executor.to_owned(), Instant::now());
    }

    fn told(&self, job: &str) -> Told {
        let mut executors = BTreeMap::new();
        for (id, _) in self.executors.lock().iter().filter(|(_, heard)| heard.elapsed() < LOST) {
            let arithmetic = id.split_once('~').map_or("unknown", |(arithmetic, _)| arithmetic);
            *executors.entry(arithmetic.to_owned()).or_default() += 1;
        }
        Told { executors, done: self.done.lock().get(job).copied().unwrap_or_default() }
    }

    fn add(&self, task: &TaskStatus) {
        let Some(TaskState::Successful(_)) = &task.status else { return };
        let mut all = self.done.lock();
        let done = all.entry(task.job_id.clone()).or_default();
        done.tasks += 1;
        for metric in task.metrics.iter().flat_map(|set| &set.metrics) {
            match &metric.metric {
                Some(Metric::Count(count)) if count.name == "tokens" => done.tokens += count.value,
                Some(Metric::Count(count))
                    if ["rows_embedded", "rows_cached", "rows_duplicate"].contains(&&*count.name) =>
                {
                    done.rows += count.value;
                }
                _ => {}
            }
        }
        // Their ids grow with time.
        while all.len() > MOST_JOBS {
            all.pop_first();
        }
    }
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
        request: Request<RegisterExecutorParams>,
    ) -> Result<Response<RegisterExecutorResult>, Status> {
        let id = request.get_ref().metadata.as_ref().map(|executor| executor.id.clone());
        let answer = self.inner.register_executor(request).await?;
        if let Some(id) = id.filter(|_| answer.get_ref().success) {
            self.heard_of(&id);
        }
        Ok(answer)
    }

    async fn heart_beat_from_executor(
        &self,
        request: Request<HeartBeatParams>,
    ) -> Result<Response<HeartBeatResult>, Status> {
        self.heard_of(&request.get_ref().executor_id);
        self.inner.heart_beat_from_executor(request).await
    }

    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusParams>,
    ) -> Result<Response<UpdateTaskStatusResult>, Status> {
        request.get_ref().task_status.iter().for_each(|task| self.add(task));
        self.inner.update_task_status(request).await
    }

    async fn executor_stopped(
        &self,
        request: Request<ExecutorStoppedParams>,
    ) -> Result<Response<ExecutorStoppedResult>, Status> {
        self.executors.lock().remove(&request.get_ref().executor_id);
        self.inner.executor_stopped(request).await
    }

    async fn get_job_status(
        &self,
        request: Request<GetJobStatusParams>,
    ) -> Result<Response<GetJobStatusResult>, Status> {
        if !request.metadata().contains_key(ASKS) {
            return self.inner.get_job_status(request).await;
        }
        let mut answer = Response::new(GetJobStatusResult::default());
        self.told(&request.get_ref().job_id).write(answer.metadata_mut());
        Ok(answer)
    }

    async fn execute_query_push(
        &self,
        request: Request<ExecuteQueryParams>,
    ) -> Result<Response<Self::ExecuteQueryPushStream>, Status> {
        let (metadata, said, extensions) = self.inner.execute_query_push(request).await?.into_parts();
        let said = Watched { said: Some(Box::pin(said)), job: None, inner: Arc::clone(&self.inner) };
        Ok(Response::from_parts(metadata, said, extensions))
    }
}

type Said<S> = Pin<Box<<S as SchedulerGrpc>::ExecuteQueryPushStream>>;

/// What is said of a job, as long as its client listens; then the job is cancelled.
pub(super) struct Watched<S: SchedulerGrpc> {
    /// Until the job has ended.
    said: Option<Said<S>>,
    job: Option<String>,
    inner: Arc<S>,
}

/// The job that something is said of, and whether it has ended.
fn read(item: &Result<GetJobStatusResult, Status>) -> Option<(String, bool)> {
    let status = item.as_ref().ok()?.status.as_ref()?;
    let has_ended = matches!(status.status, Some(JobState::Successful(_) | JobState::Failed(_)));
    Some((status.job_id.clone(), has_ended))
}

impl<S: SchedulerGrpc> Stream for Watched<S> {
    type Item = Result<GetJobStatusResult, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(said) = &mut self.said else { return Poll::Ready(None) };
        let item = std::task::ready!(said.as_mut().poll_next(context));
        let ended = match item.as_ref().and_then(read) {
            Some((job, ended)) => {
                self.job = Some(job);
                ended
            }
            None => item.is_none(),
        };
        if ended {
            self.said = None;
        }
        Poll::Ready(item)
    }
}

impl<S: SchedulerGrpc> Drop for Watched<S> {
    fn drop(&mut self) {
        let (Some(mut said), job, inner) = (self.said.take(), self.job.take(), Arc::clone(&self.inner)) else {
            return;
        };
        let cancel = async move {
            let mut job = job;
            // It has a name once its plan was read.
            while job.is_none() {
                match std::future::poll_fn(|context| said.as_mut().poll_next(context)).await {
                    Some(item) => job = read(&item).map(|(job, _)| job),
                    None => return,
                }
            }
            let job_id = job.unwrap_or_default();
            log::info!("job {job_id} is cancelled: its client is gone");
            if let Err(status) = inner.cancel_job(Request::new(CancelJobParams { job_id })).await {
                log::warn!("a job could not be cancelled: {}", status.message());
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(cancel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_as_it_was_written() {
        let executors = BTreeMap::from([("cpu-avx512+bf16-1.1".to_owned(), 2), ("cuda-1.1".to_owned(), 1)]);
        let told = Told { executors, done: Work { tasks: 3, rows: 1 << 40, tokens: 7 } };
        let mut metadata = MetadataMap::new();
        told.write(&mut metadata);
        assert_eq!(Told::read(&metadata), Some(told));
        assert_eq!(Told::read(&MetadataMap::new()), None, "another program's scheduler");
    }
}

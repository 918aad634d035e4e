//! The client of a job: where it goes before the job has ended, the job is cancelled.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_core::config::BALLISTA_JOB_NAME;
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::job_status::Status as JobState;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::{CancelJobParams, ExecuteQueryParams, GetJobStatusResult, KeyValuePair};
use ballista_scheduler::cluster::JobState as Jobs;
use futures::Stream;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tonic::{Request, Status};

/// How long it is waited for a job that does not run yet, or is not cancelled yet, before it is looked for again.
const WAITS: Duration = Duration::from_millis(100);

/// How long a job may be on its way that was handed in.
const COMES: Duration = Duration::from_secs(10);

/// Gives the next job a name that no other has: a client hears a job's id only once it runs.
pub(super) fn name(job: &mut ExecuteQueryParams) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("job {}", NEXT.fetch_add(1, Ordering::Relaxed));
    job.settings.retain(|setting| setting.key != BALLISTA_JOB_NAME);
    job.settings.push(KeyValuePair { key: BALLISTA_JOB_NAME.to_owned(), value: Some(name.clone()) });
    name
}

type Said<S> = Pin<Box<<S as SchedulerGrpc>::ExecuteQueryPushStream>>;

/// What is said of a job, as long as its client listens; then the job is cancelled.
pub(super) struct Watched<S: SchedulerGrpc> {
    /// Until the job has ended.
    said: Option<Said<S>>,
    name: String,
    scheduler: Arc<S>,
    jobs: Arc<dyn Jobs>,
}

impl<S: SchedulerGrpc> Watched<S> {
    /// Of the job of a name.
    pub(super) fn new(said: S::ExecuteQueryPushStream, name: String, scheduler: Arc<S>, jobs: Arc<dyn Jobs>) -> Self {
        Self { said: Some(Box::pin(said)), name, scheduler, jobs }
    }
}

fn has_ended(item: &std::result::Result<GetJobStatusResult, Status>) -> bool {
    let Ok(Some(status)) = item.as_ref().map(|item| item.status.as_ref()) else { return false };
    matches!(status.status, Some(JobState::Successful(_) | JobState::Failed(_)))
}

impl<S: SchedulerGrpc> Stream for Watched<S> {
    type Item = std::result::Result<GetJobStatusResult, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(said) = &mut self.said else { return Poll::Ready(None) };
        let item = ready!(said.as_mut().poll_next(context));
        if item.as_ref().is_none_or(has_ended) {
            self.said = None;
        }
        Poll::Ready(item)
    }
}

impl<S: SchedulerGrpc> Drop for Watched<S> {
    fn drop(&mut self) {
        let (Some(_), Ok(runtime)) = (self.said.take(), Handle::try_current()) else { return };
        let (name, scheduler, jobs) =
            (std::mem::take(&mut self.name), Arc::clone(&self.scheduler), Arc::clone(&self.jobs));
        runtime.spawn(async move {
            if let Err(error) = cancel(&name, scheduler.as_ref(), jobs.as_ref()).await {
                log::warn!("{name}: could not be cancelled: {error}");
            }
        });
    }
}

/// Cancels the job of a name, which may not be known yet, or not run, until it has ended.
async fn cancel<S: SchedulerGrpc>(name: &str, scheduler: &S, jobs: &dyn Jobs) -> Result<()> {
    let (began, mut is_known) = (Instant::now(), false);
    while is_known || began.elapsed() < COMES {
        match called(name, jobs).await? {
            Some((job_id, JobState::Running(_))) => {
                log::info!("job {job_id} is cancelled: its client is gone");
                let job = CancelJobParams { job_id: job_id.into() };
                let cancelled = scheduler.cancel_job(Request::new(job)).await;
                cancelled.map_err(|status| BallistaError::General(status.message().to_owned()))?;
                is_known = true;
            }
            Some((_, JobState::Queued(_))) => is_known = true,
            Some(_) => break,
            None if is_known => break,
            None => {}
        }
        sleep(WAITS).await;
    }
    Ok(())
}

/// The job of a name, and how far it is.
async fn called(name: &str, jobs: &dyn Jobs) -> Result<Option<(JobId, JobState)>> {
    for job in jobs.get_all_jobs().await? {
        if let Some(status) = jobs.get_job_status(&job).await?
            && let Some(state) = status.status
            && status.job_name == name
        {
            return Ok(Some((job, state)));
        }
    }
    Ok(None)
}

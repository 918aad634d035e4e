//! What executors have free.
//!
//! Ballista gives a task's place back when it finds the task in its stage. Where a stage was rolled back meanwhile, because an
//! executor is lost whose results it reads, the task is not found any more, and its executor looks busy for ever: here each task
//! is remembered until its executor has said that it ended, or its job or its executor has.
//!
//! Where a stage was begun again whose results others have read already, Ballista gives them the former results beside the new ones, and
//! rows would come twice: no task of such a job runs any more, and its client hands it in again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::{ExecutorHeartbeat, TaskStatus, task_status};
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata, TaskKey};
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::execution_graph::TaskDescription;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use ballista_scheduler::state::task_manager::JobInfoCache;
use parking_lot::Mutex;

/// Ballista's executors, and what they have to do.
pub(super) struct Slots {
    executors: Arc<dyn ClusterState>,
    tasks: Mutex<HashMap<TaskId, ExecutorSlot>>,
    stages: Mutex<Stages>,
}

/// What stages read.
#[derive(Default)]
struct Stages {
    /// The jobs that there were when tasks were handed out last.
    jobs: HashSet<JobId>,
    /// Stages, and how often they were begun, that read each result once.
    right: HashSet<(JobId, usize, usize)>,
    /// Jobs of which one does not.
    spoilt: HashSet<JobId>,
}

/// A task that runs: its job, its stage and how often that was begun, its number there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TaskId(JobId, u32, u32, u32);

impl TaskId {
    fn handed_out(task: &TaskDescription) -> Self {
        let number = |number: usize| number as u32;
        let key = &task.key;
        Self(key.job_id.clone(), number(key.stage_id), number(task.stage_attempt_num), number(key.task_id))
    }

    fn ended(task: &TaskStatus) -> Self {
        Self(task.job_id.clone().into(), task.stage_id, task.stage_attempt_num, task.task_id)
    }
}

impl Slots {
    pub(super) fn new(executors: Arc<dyn ClusterState>) -> Self {
        let (tasks, stages) = Default::default();
        Self { executors, tasks, stages }
    }

    /// Whether no task of a job runs any more, because rows would come twice.
    pub(super) fn is_spoilt(&self, job: &str) -> bool {
        self.stages.lock().spoilt.contains(&JobId::from(job.to_owned()))
    }

    /// Whether the stage of a task reads each result once.
    async fn reads_right(&self, task: &TaskDescription, jobs: &HashMap<JobId, JobInfoCache>) -> bool {
        let TaskKey { job_id, stage_id, .. } = &task.key;
        let stage = (job_id.clone(), *stage_id, task.stage_attempt_num);
        if self.stages.lock().right.contains(&stage) {
            return true;
        }
        let Some(job) = jobs.get(job_id) else { return true };
        let is_right = inputs_are_right(job.execution_graph.read().await.stages(), *stage_id);
        let mut stages = self.stages.lock();
        if is_right {
            stages.right.insert(stage);
        } else {
            log::warn!("job {job_id}: stage {stage_id} would read results twice, because some were lost");
            stages.spoilt.insert(job_id.clone());
        }
        is_right
    }

    /// Tasks of which their executors say that they ended.
    pub(super) async fn ended(&self, tasks: &[TaskStatus]) -> Result<()> {
        let over = {
            let mut running = self.tasks.lock();
            tasks.iter().filter_map(|task| running.remove(&TaskId::ended(task))).collect()
        };
        self.executors.unbind_tasks(over).await
    }

    /// Forgets jobs that are not there any more. Of tasks that such a job had handed out and no executor has begun nobody says that
    /// they ended.
    async fn keep(&self, jobs: &HashMap<JobId, JobInfoCache>) -> Result<()> {
        {
            let mut stages = self.stages.lock();
            if stages.jobs.len() == jobs.len() && stages.jobs.iter().all(|job| jobs.contains_key(job)) {
                return Ok(());
            }
            stages.jobs = jobs.keys().cloned().collect();
            stages.right.retain(|(job, ..)| jobs.contains_key(job));
            stages.spoilt.retain(|job| jobs.contains_key(job));
        }
        let is_over = |TaskId(job, ..): &TaskId, _: &mut ExecutorSlot| !jobs.contains_key(job);
        let over = self.tasks.lock().extract_if(is_over).map(|(_, slot)| slot).collect();
        self.executors.unbind_tasks(over).await
    }
}

/// Whether a stage reads what the tasks of the stages below it have given, each once: as many results as there are.
fn inputs_are_right(stages: &HashMap<usize, ExecutionStage>, stage: usize) -> bool {
    let Some(ExecutionStage::Running(stage)) = stages.get(&stage) else { return true };
    stage.inputs.iter().all(|(below, read)| {
        let Some(ExecutionStage::Successful(below)) = stages.get(below) else { return true };
        let given = below.task_infos.iter().map(|task| match &task.task_status {
            task_status::Status::Successful(done) => done.partitions.len(),
            _ => 0,
        });
        given.sum::<usize>() == read.partition_locations.values().map(Vec::len).sum::<usize>()
    })
}

#[async_trait]
impl ClusterState for Slots {
    async fn init(&self) -> Result<()> {
        self.executors.init().await
    }

    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        jobs: Arc<HashMap<JobId, JobInfoCache>>,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        self.keep(&jobs).await?;
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        for (executor, task) in
            self.executors.bind_schedulable_tasks(distribution, Arc::clone(&jobs), executors).await?
        {
            let is_spoilt = self.is_spoilt(task.key.job_id.as_str());
            if !is_spoilt && self.reads_right(&task, &jobs).await {
                right.push((executor, task));
            } else {
                wrong.push((executor, task.vcores_consumed));
            }
        }
        self.executors.unbind_tasks(wrong).await?;
        let slot = |(executor, task): &BoundTask| (TaskId::handed_out(task), (executor.clone(), task.vcores_consumed));
        self.tasks.lock().extend(right.iter().map(slot));
        Ok(right)
    }

    /// Nothing: what Ballista knows of places that are free is not all of it.
    async fn unbind_tasks(&self, _: Vec<ExecutorSlot>) -> Result<()> {
        Ok(())
    }

    async fn register_executor(&self, metadata: ExecutorMetadata, data: ExecutorData) -> Result<()> {
        self.executors.register_executor(metadata, data).await
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        self.executors.save_executor_metadata(metadata).await
    }

    async fn get_executor_metadata(&self, executor: &str) -> Result<ExecutorMetadata> {
        self.executors.get_executor_metadata(executor).await
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.executors.registered_executor_metadata().await
    }

    async fn save_executor_heartbeat(&self, heartbeat: ExecutorHeartbeat) -> Result<()> {
        self.executors.save_executor_heartbeat(heartbeat).await
    }

    async fn remove_executor(&self, executor: &str) -> Result<()> {
        self.executors.remove_executor(executor).await?;
        self.tasks.lock().retain(|_, (its, _)| its != executor);
        Ok(())
    }

    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        self.executors.executor_heartbeats()
    }

    fn get_executor_heartbeat(&self, executor: &str) -> Option<ExecutorHeartbeat> {
        self.executors.get_executor_heartbeat(executor)
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        self.executors.cluster_state_events().await
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::extension::SessionConfigExt;
    use ballista_core::serde::protobuf::AvailableVcores;
    use ballista_core::serde::scheduler::{ExecutorOperatingSystemSpecification, ExecutorSpecification};
    use ballista_scheduler::cluster::DistributionPolicy;
    use ballista_scheduler::cluster::memory::InMemoryClusterState;
    use ballista_scheduler::planner::DefaultDistributedPlanner;
    use ballista_scheduler::state::execution_graph::StaticExecutionGraph;
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::prelude::SessionConfig;

    use super::*;

    /// Hands out tasks of one place each, numbered from the first on, for all that is free.
    #[derive(Debug)]
    struct Everything(u32);

    fn task(task_id: u32) -> TaskDescription {
        TaskDescription {
            session_id: String::new(),
            key: TaskKey { job_id: "job".into(), stage_id: 2, task_id: task_id as usize },
            stage_attempt_num: 1,
            task_attempt: 0,
            global_input_partition_ids: vec![0],
            vcores_consumed: 1,
            plan: Arc::new(EmptyExec::new(Arc::new(Schema::empty()))),
            session_config: Arc::new(SessionConfig::new()),
        }
    }

    /// A job of one task that nobody runs.
    fn job() -> JobInfoCache {
        let (plan, config) = (task(0).plan, Arc::new(SessionConfig::new_with_ballista()));
        let mut planner = DefaultDistributedPlanner::new();
        let graph = StaticExecutionGraph::new("", &"job".into(), "", "", plan, 0, config, &mut planner, None);
        JobInfoCache::new(Box::new(graph.expect("a plan of one stage")))
    }

    #[async_trait]
    impl DistributionPolicy for Everything {
        async fn bind_tasks(
            &self,
            free: Vec<&mut AvailableVcores>,
            _: Arc<HashMap<JobId, JobInfoCache>>,
        ) -> datafusion::error::Result<Vec<BoundTask>> {
            let mut bound = Vec::new();
            for executor in free {
                for _ in 0..std::mem::take(&mut executor.vcores) {
                    bound.push((executor.executor_id.clone(), task(self.0 + bound.len() as u32)));
                }
            }
            Ok(bound)
        }

        fn name(&self) -> &str {
            "everything"
        }
    }

    async fn register(slots: &Slots, id: &str) {
        let metadata = ExecutorMetadata {
            id: id.to_owned(),
            host: String::new(),
            port: 1,
            grpc_port: 1,
            specification: ExecutorSpecification::default().with_vcores(2),
            os_info: ExecutorOperatingSystemSpecification::default(),
        };
        let data = ExecutorData { executor_id: id.to_owned(), total_vcores: 2, available_vcores: 2 };
        slots.register_executor(metadata, data).await.expect("a new executor");
    }

    #[tokio::test]
    async fn a_place_is_free_when_its_task_its_job_or_its_executor_has_ended() {
        let slots = Slots::new(Arc::new(InMemoryClusterState::default()));
        register(&slots, "a").await;
        let bind = async |first, jobs: &Arc<_>| {
            let policy = TaskDistributionPolicy::Custom(Arc::new(Everything(first)));
            slots.bind_schedulable_tasks(policy, Arc::clone(jobs), None).await.expect("handed out").len()
        };
        let ended = |stage_attempt_num, task_id| TaskStatus {
            job_id: "job".into(),
            stage_id: 2,
            stage_attempt_num,
            task_id,
            ..TaskStatus::default()
        };
        let (here, gone) = (Arc::new(HashMap::from([("job".into(), job())])), Arc::new(HashMap::new()));
        assert_eq!(bind(0, &here).await, 2);
        assert_eq!(bind(2, &here).await, 0);

        // What Ballista gives back, or forgets to, changes nothing; neither does a task of another attempt, nor one told twice.
        slots.unbind_tasks(vec![("a".into(), 2)]).await.expect("nothing");
        slots.ended(&[ended(0, 1)]).await.expect("unknown");
        assert_eq!(bind(2, &here).await, 0);
        slots.ended(&[ended(1, 1)]).await.expect("it ran");
        slots.ended(&[ended(1, 1)]).await.expect("known already");
        assert_eq!(bind(2, &here).await, 1);

        // An executor that is back has all its places, and those of its former tasks are not given back once more.
        slots.remove_executor("a").await.expect("it was there");
        assert_eq!(bind(3, &here).await, 0);
        register(&slots, "a").await;
        slots.ended(&[ended(1, 0), ended(1, 2)]).await.expect("of one that was lost");
        assert_eq!(bind(3, &here).await, 2);

        assert_eq!(bind(5, &gone).await, 2);
    }
}

//! Tasks that are cancelled.
//!
//! Ballista (55) drops a cancelled task, but not what it has spawned for the task's partitions, and it does not know one whose turn
//! has not come yet: both would go on to their end, for nobody, and the places that they are in look free.

use std::collections::HashMap;
use std::fmt::{self, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::error::BallistaError;
use ballista_core::serde::scheduler::TaskKey;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
    replace_children_if_necessary,
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How long a task may be on its way that was cancelled before it has come.
const COMES: Duration = Duration::from_secs(60);

/// The tasks of an executor that have not ended.
///
/// Where a stage is begun again, its tasks get their numbers again: of what has come, the attempt is known; what was cancelled before
/// it has come can only be one of the first attempt, of which later ones are not.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<TaskKey, Task>>);

#[derive(Debug)]
enum Task {
    /// It has come; its stage was begun so often before.
    Waiting {
        attempt: u32,
    },
    Running(CancellationToken),
    /// Before it has begun.
    Cancelled {
        attempt: u32,
        since: Instant,
    },
}

impl Known {
    /// A task has come.
    pub(super) fn comes(&self, task: TaskKey, attempt: u32) {
        let mut tasks = self.0.lock();
        let is_cancelled = |task: &Task| matches!(task, Task::Cancelled { attempt: known, .. } if *known >= attempt);
        if !tasks.get(&task).is_some_and(is_cancelled) {
            tasks.insert(task, Task::Waiting { attempt });
        }
    }

    /// Some are cancelled, wherever they are.
    pub(super) fn cancel(&self, cancelled: impl Iterator<Item = TaskKey>) {
        let since = Instant::now();
        let mut tasks = self.0.lock();
        // Most that are not known here have ended, and do not come any more.
        tasks.retain(|_, task| !matches!(task, Task::Cancelled { since: then, .. } if since - *then > COMES));
        for key in cancelled {
            let attempt = match tasks.get(&key) {
                Some(Task::Running(token)) => {
                    token.cancel();
                    continue;
                }
                Some(Task::Waiting { attempt } | Task::Cancelled { attempt, .. }) => *attempt,
                None => 0,
            };
            tasks.insert(key, Task::Cancelled { attempt, since });
        }
    }

    /// A task begins, and has ended when what is given is dropped.
    ///
    /// # Errors
    ///
    /// For one that was cancelled.
    pub(super) fn begins<'a>(&'a self, key: &'a TaskKey, token: &CancellationToken) -> Result<Running<'a>> {
        let mut tasks = self.0.lock();
        if let Some(Task::Cancelled { .. }) = tasks.insert(key.clone(), Task::Running(token.clone())) {
            tasks.remove(key);
            return Err(BallistaError::Cancelled.into_datafusion());
        }
        Ok(Running { known: self, key, token: token.clone() })
    }
}

/// A task that runs.
pub(super) struct Running<'a> {
    known: &'a Known,
    key: &'a TaskKey,
    token: CancellationToken,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.token.cancel();
        let mut tasks = self.known.0.lock();
        // There may be another one of its number already.
        if tasks.get(self.key).is_some_and(|task| matches!(task, Task::Running(token) if token.is_cancelled())) {
            tasks.remove(self.key);
        }
    }
}

/// The plan of a task whose operators, below what Ballista writes results with, give no rows once the task is cancelled: between two
/// that one of them reads or gives there may be hours.
///
/// # Errors
///
/// Those of operators that get other inputs.
pub(super) fn watched(plan: Arc<dyn ExecutionPlan>, token: &CancellationToken) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs = plan.children().into_iter().map(|input| {
        let watched = |inner| Arc::new(WatchedExec { inner, token: token.clone() }) as Arc<dyn ExecutionPlan>;
        Arc::clone(input).transform_up(|node| Ok(Transformed::yes(watched(node)))).data()
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    replace_children_if_necessary(plan, inputs)
}

/// Another operator, for whoever looks at it, whose rows end with an error where the task is cancelled.
#[derive(Debug)]
struct WatchedExec {
    inner: Arc<dyn ExecutionPlan>,
    token: CancellationToken,
}

impl DisplayAs for WatchedExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(format, f)
    }
}

impl ExecutionPlan for WatchedExec {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.inner.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = Arc::clone(&self.inner).replace_children(children, options)?;
        Ok(Arc::new(Self { inner, token: self.token.clone() }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.inner.execute(partition, context)?.take_until(self.token.clone().cancelled_owned());
        // What was cut off is not taken for all there is.
        let token = self.token.clone();
        let cut_off = stream::once(async move { token.is_cancelled() })
            .filter(|is_cancelled| std::future::ready(*is_cancelled))
            .map(|_| Err(BallistaError::Cancelled.into_datafusion()));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows.chain(cut_off))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::CrossJoinExec;
    use datafusion::physical_plan::{ExecutionPlanProperties, collect, displayable};

    use super::*;

    fn task(task_id: usize) -> TaskKey {
        TaskKey { job_id: "job".into(), stage_id: 2, task_id }
    }

    #[test]
    fn a_task_that_was_cancelled_does_not_begin_or_ends() {
        let (known, token) = (Known::default(), CancellationToken::new());
        let begins = |number| known.begins(&task(number), &CancellationToken::new()).is_ok();
        (0..4).for_each(|number| known.comes(task(number), 0));
        let (key, running) = (task(3), CancellationToken::new());
        let guard = known.begins(&key, &running).expect("nobody cancelled it");
        known.cancel([0, 1, 3, 4, 5].map(task).into_iter());
        assert!(running.is_cancelled() && !token.is_cancelled());
        known.comes(task(4), 0);
        // The stage was begun again: another task, of the same number.
        known.comes(task(1), 1);
        known.comes(task(5), 1);
        assert_eq!([0, 1, 2, 4, 5, 6].map(begins), [false, true, true, false, true, true]);
        drop(guard);
        assert!(known.0.lock().is_empty(), "of those that have ended nothing is known");
        // One that ran is cancelled, and one of that number runs later.
        known.cancel([task(2)].into_iter());
        known.comes(task(2), 1);
        let key = task(2);
        drop(known.begins(&key, &token).expect("another one"));
        assert!(token.is_cancelled(), "what was spawned for it hears that it is over");
    }

    #[tokio::test]
    async fn rows_of_a_task_end_with_an_error_when_it_is_cancelled() {
        let empty = || Arc::new(EmptyExec::new(Arc::new(Schema::empty()))) as Arc<dyn ExecutionPlan>;
        // A join remembers its left side, so each run has its own.
        let plan = || {
            let below: Arc<dyn ExecutionPlan> = Arc::new(CrossJoinExec::new(empty(), empty()));
            Arc::new(CrossJoinExec::new(below, empty())) as Arc<dyn ExecutionPlan>
        };
        let token = CancellationToken::new();
        let same = || watched(plan(), &token).expect("a plan");
        let shown = |plan: Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
        assert_eq!(shown(same()), shown(plan()), "it looks the same");
        assert_eq!(same().output_partitioning().partition_count(), plan().output_partitioning().partition_count());
        assert_eq!(collect(same(), Arc::default()).await.expect("no rows").len(), 0);
        token.cancel();
        let error = collect(same(), Arc::default()).await.expect_err("it was cancelled").to_string();
        assert!(error.contains("Task cancelled"), "{error}");
    }
}

//! What the operators of one execution share: the query's memo.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Weak};

use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use parking_lot::Mutex;

use crate::engine::{Query, Session};

/// One execution of a plan: its query, and the memory that the query's remembered vectors take from the session's pool.
///
/// Those who take part have one task context, and find what they share by it. It lives as long as one of its streams, or a plan
/// with an operator that was part of it: so nothing outlives a query that is run once.
#[derive(Debug)]
pub(crate) struct Execution {
    context: Weak<TaskContext>,
    pub(crate) query: Arc<Query>,
    reservation: Mutex<MemoryReservation>,
}

/// The executions of this process, by the address of their task context: no other context can have it while the execution
/// holds on to that one.
static EXECUTIONS: LazyLock<Mutex<HashMap<usize, Weak<Execution>>>> = LazyLock::new(Mutex::default);

impl Execution {
    /// The execution that runs in this context.
    fn of(context: &Arc<TaskContext>, session: &Session, most_bytes: usize) -> Arc<Self> {
        let mut executions = EXECUTIONS.lock();
        let address = Arc::as_ptr(context).addr();
        if let Some(execution) = executions.get(&address).and_then(Weak::upgrade) {
            return execution;
        }
        executions.retain(|_, execution| execution.strong_count() > 0);
        let consumer = MemoryConsumer::new("vectors of equal texts (embed.memory)");
        let execution = Arc::new(Self {
            context: Arc::downgrade(context),
            query: session.start_query(most_bytes),
            reservation: Mutex::new(consumer.register(context.memory_pool())),
        });
        executions.insert(address, Arc::downgrade(&execution));
        execution
    }

    /// Whether this is the execution of a context.
    fn is_in(&self, context: &Arc<TaskContext>) -> bool {
        self.context.as_ptr() == Arc::as_ptr(context)
    }

    /// Takes what is remembered from the pool. Where the pool has no more, less is remembered: equal texts may then go
    /// through the model again, and the query runs on.
    pub(crate) fn reserve(&self) {
        let reservation = self.reservation.lock();
        let bytes = self.query.remembered_bytes();
        if reservation.try_resize(bytes).is_err() {
            self.query.remember_at_most(reservation.size());
        }
    }
}

/// Which operators are of one plan. It is data, as they are, and goes with them in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PlanId(pub(super) u64);

impl PlanId {
    pub(super) fn new() -> Self {
        Self(RandomState::new().hash_one(()))
    }
}

/// What the operators of a plan keep together: a scalar subquery has run, and its operators are gone, before the first of the
/// others begins, which may have the same texts.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Option<Arc<Execution>>>);

/// What is kept in this process, by the plan.
static KEPT: LazyLock<Mutex<HashMap<PlanId, Weak<Kept>>>> = LazyLock::new(Mutex::default);

impl Kept {
    pub(super) fn of(plan: PlanId) -> Arc<Self> {
        let mut all = KEPT.lock();
        if let Some(kept) = all.get(&plan).and_then(Weak::upgrade) {
            return kept;
        }
        all.retain(|_, kept| kept.strong_count() > 0);
        let kept = Arc::<Self>::default();
        all.insert(plan, Arc::downgrade(&kept));
        kept
    }

    /// The execution that runs in this context, kept until the next one.
    pub(super) fn execution(&self, context: &Arc<TaskContext>, session: &Session, most_bytes: usize) -> Arc<Execution> {
        let mut last = self.0.lock();
        if let Some(execution) = last.as_ref().filter(|execution| execution.is_in(context)) {
            return Arc::clone(execution);
        }
        let execution = Execution::of(context, session, most_bytes);
        *last = Some(Arc::clone(&execution));
        execution
    }
}

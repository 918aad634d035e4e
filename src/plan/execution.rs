//! What the operators of one execution share: the query's memo.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
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

/// Things of this process, as long as somebody has them.
type Living<K, V> = LazyLock<Mutex<HashMap<K, Weak<V>>>>;

/// The one that is there, or a new one.
fn found_or<K: Eq + Hash, V>(all: &Living<K, V>, key: K, new: impl FnOnce() -> V) -> Arc<V> {
    let mut all = all.lock();
    if let Some(found) = all.get(&key).and_then(Weak::upgrade) {
        return found;
    }
    all.retain(|_, one| one.strong_count() > 0);
    let new = Arc::new(new());
    all.insert(key, Arc::downgrade(&new));
    new
}

/// The executions of this process, by the address of their task context: no other context can have it while the execution
/// holds on to that one.
static EXECUTIONS: Living<usize, Execution> = LazyLock::new(Mutex::default);

impl Execution {
    /// The execution that runs in this context.
    fn of(context: &Arc<TaskContext>, session: &Session, most_bytes: usize) -> Arc<Self> {
        let address = Arc::as_ptr(context).addr();
        found_or(&EXECUTIONS, address, || Self {
            context: Arc::downgrade(context),
            query: session.start_query(most_bytes),
            reservation: Mutex::new(
                MemoryConsumer::new("vectors of equal texts (embed.memory)").register(context.memory_pool()),
            ),
        })
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
static KEPT: Living<PlanId, Kept> = LazyLock::new(Mutex::default);

impl Kept {
    pub(super) fn of(plan: PlanId) -> Arc<Self> {
        found_or(&KEPT, plan, Self::default)
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

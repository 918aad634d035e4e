//! What the operators of one execution share: the query's memo.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use parking_lot::Mutex;

use crate::engine::{Query, Session};

/// One execution of a plan: its query, and the memory that the query's remembered vectors take from the session's pool.
///
/// Nothing in a plan ties its operators together: those of one execution have one task context, and find what they share by it.
/// It lives as long as one of its operators or streams has it, so that nothing outlives a query that is run once.
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
    pub(super) fn of(context: &Arc<TaskContext>, session: &Session, most_bytes: usize) -> Arc<Self> {
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
    pub(super) fn is_in(&self, context: &Arc<TaskContext>) -> bool {
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

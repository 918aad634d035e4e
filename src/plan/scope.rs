//! What the operators of one execution share: the query's memo.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

use crate::engine::{Query, Session};

/// Ties the operators of one plan together. A plan may be executed more than once: each execution begins a query of its
/// own, known by its task context, and the vectors of the one before are dropped.
///
/// They are dropped with the plan and its last stream too, so that nothing outlives a query that is run once.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    current: Mutex<Option<Arc<Execution>>>,
}

/// One execution of a plan: its query, and the memory that the query's remembered vectors take from the session's pool.
#[derive(Debug)]
pub(crate) struct Execution {
    context: Weak<TaskContext>,
    pub(crate) query: Arc<Query>,
    reservation: Mutex<MemoryReservation>,
}

impl Scope {
    /// The execution that runs in this context.
    pub(crate) fn execution(&self, context: &Arc<TaskContext>, session: &Session, most_bytes: usize) -> Arc<Execution> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(execution) if execution.context.as_ptr() == Arc::as_ptr(context) => Arc::clone(execution),
            _ => {
                let consumer = MemoryConsumer::new("vectors of equal texts (embed.memory)");
                let execution = Arc::new(Execution {
                    context: Arc::downgrade(context),
                    query: Query::start(session, most_bytes),
                    reservation: Mutex::new(consumer.register(context.memory_pool())),
                });
                *current = Some(Arc::clone(&execution));
                execution
            }
        }
    }
}

impl Execution {
    /// Takes what is remembered from the pool. Where the pool has no more, less is remembered: equal texts may then go
    /// through the model again, and the query runs on.
    pub(crate) fn reserve(&self) {
        let reservation = self.reservation.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.query.remembered_bytes();
        if reservation.try_resize(bytes).is_err() {
            self.query.remember_at_most(reservation.size());
        }
    }
}

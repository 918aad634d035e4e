//! One query: each distinct text goes through a model once, whatever branch of the plan or record batch it comes from.
//!
//! A query has a memo: which text is at which place of which model batch, finished or on its way. What is kept is bounded by
//! `embed.memory`; the oldest text is forgotten first. And it has its models: one name stands for the same files from the
//! first text to the last.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, MutexGuard};

use super::call::{Call, Machine};
use super::counters::{Counters, Registry};
use super::lane::Share;
use super::running::Running;
use super::ticket::{Remembered, Slot};
use crate::error::Result;
use crate::model::{Description, Found, Place};
use crate::options::Device;

/// What a remembered text costs beside its vector: two map entries, and its share of the batch.
pub(super) const BYTES_PER_TEXT: usize = 128;

/// By device, and by how many batches a call may have at once.
type Shares = Mutex<HashMap<(Device, usize), Arc<Share>>>;

/// What the queries of a session have in common.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// Raised by a cancellation: a query that began under an older number stops.
    pub(super) generation: Arc<AtomicU64>,
    pub(super) registry: Registry,
    shares: Arc<Shares>,
}

impl Common {
    /// The same workers and the same cancellation, and counts that begin at nothing.
    #[cfg(feature = "cluster")]
    pub(super) fn with_own_registry(&self) -> Self {
        let (generation, shares) = (Arc::clone(&self.generation), Arc::clone(&self.shares));
        Self { generation, shares, registry: Registry::default() }
    }

    /// The share of all calls of the session on this device that may have so many batches at once: those that say something
    /// else, or run elsewhere, neither lend nor borrow of it.
    fn share(&self, device: Device, concurrency: usize) -> Arc<Share> {
        let mut shares = self.shares.lock();
        let share = shares.entry((device, concurrency)).or_insert_with(|| Arc::new(Share::new(concurrency)));
        Arc::clone(share)
    }
}

/// One execution of a query.
pub(crate) struct Query {
    common: Arc<Common>,
    pub(super) running: Arc<Running>,
    memo: Mutex<Memo>,
    /// By the name in the call.
    models: Mutex<HashMap<String, Arc<Found>>>,
    /// Keys of two hashers with random seeds are 128 bits that nobody can foresee: two texts of a query never share one.
    hashers: [RandomState; 2],
}

pub(super) struct Memo {
    texts: HashMap<u128, Remembered>,
    /// The texts in the order in which they came, with their bytes.
    order: VecDeque<(u128, usize)>,
    bytes: usize,
    most_bytes: usize,
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Query {
    /// A query that begins now and remembers vectors of up to `most_bytes`.
    pub(super) fn start(common: &Arc<Common>, most_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            running: Arc::new(Running::start(&common.generation)),
            common: Arc::clone(common),
            memo: Mutex::new(Memo { texts: HashMap::new(), order: VecDeque::new(), bytes: 0, most_bytes }),
            models: Mutex::default(),
            hashers: [RandomState::new(), RandomState::new()],
        })
    }

    /// The model of a call, the same for the whole query.
    pub(super) fn model(&self, call: &Call, machine: &Machine) -> Result<Arc<Found>> {
        let mut models = self.models.lock();
        if let Some(found) = models.get(&call.model) {
            return Ok(Arc::clone(found));
        }
        let found = machine.find(&call.model)?;
        models.insert(call.model.clone(), Arc::clone(&found));
        Ok(found)
    }

    /// The share of calls on a device.
    pub(super) fn share(&self, device: Device, concurrency: usize) -> Arc<Share> {
        self.common.share(device, concurrency)
    }

    /// The session's counters of a model at a place.
    pub(super) fn counters(&self, description: &Arc<Description>, place: Place) -> Arc<Counters> {
        self.common.registry.counters(description, place)
    }

    /// Stands for a call in the keys of its texts.
    pub(super) fn seed(&self, call: &Call, place: Place, found: &Found) -> u64 {
        self.hashers[0].hash_one((call, place, found.number))
    }

    /// Under what a text of a call is remembered.
    pub(super) fn key(&self, seed: u64, text: &str) -> u128 {
        let [high, low] = self.hashers.each_ref().map(|hasher| hasher.hash_one((seed, text)));
        u128::from(high) << 64 | u128::from(low)
    }

    /// Bytes of the vectors that the query remembers.
    pub(crate) fn remembered_bytes(&self) -> usize {
        self.memo().bytes
    }

    /// From now on remembers no more than this.
    pub(crate) fn remember_at_most(&self, bytes: usize) {
        let mut memo = self.memo();
        memo.most_bytes = bytes;
        memo.forget();
    }

    pub(super) fn memo(&self) -> MutexGuard<'_, Memo> {
        self.memo.lock()
    }
}

impl Memo {
    pub(super) fn find(&self, key: u128) -> Option<Slot> {
        self.texts.get(&key)?.claim()
    }

    pub(super) fn insert(&mut self, key: u128, slot: &Slot, bytes: usize) {
        // A text whose batch was abandoned is known already, and keeps its place in the order.
        if self.texts.insert(key, slot.remembered()).is_none() {
            self.order.push_back((key, bytes));
            self.bytes += bytes;
            self.forget();
        }
    }

    /// Forgets the oldest texts until the rest fits.
    fn forget(&mut self) {
        while self.bytes > self.most_bytes
            && let Some((key, bytes)) = self.order.pop_front()
        {
            self.texts.remove(&key);
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_that_of_a_device_and_a_limit() {
        let common = Common::default();
        let cpu = common.share(Device::Cpu, 1);
        let others = [(Device::Cpu, 8), (Device::Cuda(0), 1), (Device::Cuda(0), 2), (Device::Cuda(1), 2)];
        let others = others.map(|(device, limit)| common.share(device, limit));
        // Whatever came after it, the first is as it was, and it is the one of all who ask for the same.
        assert!(Arc::ptr_eq(&cpu, &common.share(Device::Cpu, 1)));
        assert_eq!((cpu.free(), others.each_ref().map(|share| share.free())), (1, [8, 1, 2, 2]));
        assert!(!Arc::ptr_eq(&cpu, &Common::default().share(Device::Cpu, 1)), "every session has its own");
    }
}

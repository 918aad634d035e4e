//! One query: each distinct text goes through a model once, whatever branch of the plan or record batch it comes from.
//!
//! A query has a memo: which text is at which place of which model batch, finished or on its way. A feed is one stream's
//! access to it: texts go in, [`Slot`]s come out at once, and vectors are read from the slots when their batches are done.
//! What is kept is bounded by `embed.memory`; the oldest text is forgotten first.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Instant;

use super::batch::{Batch, Limits};
use super::counters::Counters;
use super::model_batch::{ModelBatch, Remembered, Slot, values_of};
use super::pool::{Lane, Pool};
use super::{Call, Session};
use crate::cache::{Kept, Key, Space};
use crate::error::{Error, Result};
use crate::model::{Allowance, Found, Model, Room};

/// Model batches that a query may have in the pool, per worker: one runs, one waits for its turn.
pub(crate) const BATCHES_PER_WORKER: usize = 2;

/// What a remembered text costs beside its vector: two map entries, and its share of the batch.
const BYTES_PER_TEXT: usize = 128;

/// One execution of a query.
pub(crate) struct Query {
    generation: Arc<AtomicU64>,
    /// The session's generation when the query began: another one means that it was cancelled.
    started_at: u64,
    memo: Mutex<Memo>,
    /// Keys of two hashers with random seeds are 128 bits that nobody can foresee: two texts of a query never share one.
    hashers: [RandomState; 2],
    in_flight: AtomicUsize,
}

struct Memo {
    texts: HashMap<u128, Remembered>,
    /// The texts in the order in which they came, with their bytes.
    order: VecDeque<(u128, usize)>,
    bytes: usize,
    most_bytes: usize,
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("started_at", &self.started_at).finish_non_exhaustive()
    }
}

impl Query {
    /// A query that begins now and remembers vectors of up to `most_bytes`.
    pub(crate) fn start(session: &Session, most_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            generation: Arc::clone(&session.generation),
            started_at: session.generation.load(Ordering::Relaxed),
            memo: Mutex::new(Memo { texts: HashMap::new(), order: VecDeque::new(), bytes: 0, most_bytes }),
            hashers: [RandomState::new(), RandomState::new()],
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Loads the model of a call and gives a stream its access. `counters` are the stream's own.
    pub(crate) fn feed(self: &Arc<Self>, session: &Session, call: &Call, counters: Arc<Counters>) -> Result<Feed> {
        let found = call.model()?;
        let description = Arc::clone(&found.description);
        let (dimensions, max_tokens) = (call.dimensions(&description)?, call.max_tokens(&description)?);
        let space = call.space(&found, dimensions, max_tokens)?;
        let loaded = OnceLock::new();
        if space.is_none() {
            let _ = loaded.set(Loaded::new(call, &found, max_tokens)?);
        }
        let shared = Shared {
            query: Arc::clone(self),
            lane: session.lane(call.place().device, call.concurrency),
            seed: self.hashers[0].hash_one((&call.options, call.role, found.number)),
            limits: Limits { tokens: call.options.batch_tokens, texts: call.options.batch_size },
            most_in_flight: BATCHES_PER_WORKER * call.concurrency.clamp(1, Pool::global().most_workers()),
            truncate: call.options.truncate,
            prompt: description.prompt(call.role).to_owned(),
            max_tokens,
            dimensions,
            counters: [session.registry.counters(&description, call.place()), counters],
            call: call.clone(),
            found,
            loaded,
            space,
        };
        let (open, in_flight) = (None, VecDeque::new());
        Ok(Feed { shared: Arc::new(shared), open, in_flight, finished: 0, read: Vec::new() })
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

    fn memo(&self) -> MutexGuard<'_, Memo> {
        self.memo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memo {
    fn find(&self, key: u128) -> Option<Slot> {
        self.texts.get(&key)?.claim()
    }

    fn insert(&mut self, key: u128, slot: &Slot, bytes: usize) {
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

/// What the batches of a feed need, wherever they are.
pub(super) struct Shared {
    query: Arc<Query>,
    lane: Arc<Lane>,
    call: Call,
    /// The model under whose fingerprint vectors are kept, and no other.
    found: Arc<Found>,
    /// With the first text whose vector has to be computed.
    loaded: OnceLock<Loaded>,
    /// Where vectors are kept, if they are.
    space: Option<Arc<Space>>,
    /// Stands for model, role and settings in the key of a text.
    seed: u64,
    limits: Limits,
    most_in_flight: usize,
    prompt: String,
    max_tokens: usize,
    truncate: bool,
    dimensions: usize,
    /// The session's, for this model, and the stream's own.
    counters: [Arc<Counters>; 2],
}

impl Shared {
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// The model, loaded now if nobody needed it before.
    fn loaded(&self) -> Result<&Loaded> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = Loaded::new(&self.call, &self.found, self.max_tokens)?;
        Ok(self.loaded.get_or_init(|| loaded))
    }

    /// One forward pass, `[texts, dimensions]`. What comes out is kept.
    pub(super) fn encode(&self, batch: &Batch, room: &mut Room, go_on: &dyn Fn() -> bool) -> Result<Vec<f32>> {
        let Loaded { model, unpooled } = self.loaded()?;
        let vectors = model.encode(&batch.ids, &batch.starts, *unpooled, self.dimensions, room, go_on)?;
        if let Some(space) = &self.space {
            space.put(&batch.keys, &batch.cut, &vectors, &self.call.access);
        }
        Ok(vectors)
    }

    pub(super) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Whether the query was not cancelled.
    pub(super) fn go_on(&self) -> bool {
        self.query.generation.load(Ordering::Relaxed) == self.query.started_at
    }

    pub(super) fn count(&self, count: impl Fn(&Counters)) {
        self.counters.iter().for_each(|counters| count(counters));
    }

    /// A batch went to the pool.
    pub(super) fn started(&self) {
        self.query.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A batch came back.
    pub(super) fn finished(&self) {
        self.query.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn key(&self, text: &str) -> u128 {
        let [high, low] = self.query.hashers.each_ref().map(|hasher| hasher.hash_one((self.seed, text)));
        u128::from(high) << 64 | u128::from(low)
    }
}

/// A model that is in memory as long as a query uses it.
struct Loaded {
    model: Arc<Model>,
    /// Tokens of the prompt, where the model does not pool them.
    unpooled: usize,
}

impl Loaded {
    fn new(call: &Call, found: &Found, max_tokens: usize) -> Result<Self> {
        let model = call.load(found)?;
        let least = model.special_tokens() + 1;
        if (1..least).contains(&call.options.max_tokens) {
            return Err(Error::Setting(format!(
                "embed.max_tokens: {} leaves no room for text beside the special tokens of model \"{}\"; at least {least}",
                call.options.max_tokens, model.description.name
            )));
        }
        Ok(Self { unpooled: model.unpooled(call.role, max_tokens)?, model })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The query is over: from here on a loss of power costs nothing of it.
        if let Some(space) = &self.space {
            space.sync();
        }
    }
}

/// One stream's access to its query, for the texts of one call.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    /// The batch that the next text goes to.
    open: Option<Arc<ModelBatch>>,
    /// Batches that this feed handed to the pool, oldest first; those at the front are not done yet.
    in_flight: VecDeque<Arc<ModelBatch>>,
    /// Batches of this feed that came back, see [`Feed::finished`].
    finished: usize,
    /// Scratch for kept vectors.
    read: Vec<u8>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

impl Feed {
    /// A row has no text.
    pub(crate) fn null(&self) {
        self.shared.count(Counters::null);
    }

    /// Takes a text and says where its vector will be. Texts fill model batches; a full one goes to the pool at once.
    pub(crate) fn push(&mut self, text: &str) -> Result<Slot> {
        if !self.shared.go_on() {
            return Err(Error::Cancelled);
        }
        let key = self.shared.key(text);
        if let Some(slot) = self.shared.query.memo().find(key) {
            self.shared.count(Counters::duplicate);
            return Ok(slot);
        }
        let Shared { max_tokens, dimensions, .. } = *self.shared;
        let kept_under = self.shared.space.as_ref().map(|_| Space::key_of(text));
        let kept = kept_under.and_then(|key| self.shared.space.as_ref()?.get(&key, &mut self.read));
        if let Some(kept) = kept {
            return Ok(self.found(key, kept));
        }
        let loaded = self.shared.loaded()?;
        let start = Instant::now();
        let go_on = || self.shared.go_on();
        let allowance = Allowance { memory: self.shared.call.options.memory, go_on: &go_on };
        let tokens = loaded.model.tokenize(&self.shared.prompt, text, max_tokens, &allowance)?;
        self.shared.count(|counters| counters.tokenized(start.elapsed()));
        let truncated = tokens.full_length > max_tokens;
        if truncated && !self.shared.truncate {
            let length = loaded.model.count_tokens(&self.shared.prompt, text, &allowance)?;
            return Err(too_long(text, length, max_tokens));
        }
        let query = Arc::clone(&self.shared.query);
        let mut memo = query.memo();
        // Another stream may have brought the text meanwhile.
        if let Some(slot) = memo.find(key) {
            self.shared.count(Counters::duplicate);
            return Ok(slot);
        }
        let slot = self.place(&tokens.ids, truncated, kept_under);
        memo.insert(key, &slot, dimensions * size_of::<f32>() + BYTES_PER_TEXT);
        Ok(slot)
    }

    /// The place of a vector that was kept.
    fn found(&self, key: u128, Kept { vector, is_cut }: Kept) -> Slot {
        let mut memo = self.shared.query.memo();
        // Another stream may have found it meanwhile.
        if let Some(slot) = memo.find(key) {
            self.shared.count(Counters::duplicate);
            return slot;
        }
        self.shared.count(|counters| counters.cached(is_cut));
        let slot = Slot::Kept(vector);
        memo.insert(key, &slot, self.shared.dimensions * size_of::<f32>() + BYTES_PER_TEXT);
        slot
    }

    /// Puts tokens into the open batch, or into the next one.
    fn place(&mut self, ids: &[u32], truncated: bool, key: Option<Key>) -> Slot {
        loop {
            let open = self.open.get_or_insert_with(ModelBatch::new);
            if let Some(slot) = open.push(self.shared.limits(), ids, truncated, key) {
                return slot;
            }
            self.flush();
        }
    }

    /// Hands the open batch to the pool, full or not.
    pub(crate) fn flush(&mut self) {
        if let Some(open) = self.open.take() {
            open.submit(&self.shared);
            self.in_flight.push_back(open);
        }
    }

    /// Whether the pool can use more batches: of this feed one waits always, of the query two per worker.
    pub(crate) fn has_room(&mut self) -> bool {
        self.look();
        self.in_flight.len() < BATCHES_PER_WORKER
            || self.shared.query.in_flight.load(Ordering::Relaxed) < self.shared.most_in_flight
    }

    /// Whether nothing of this feed is in the pool.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.look();
        self.in_flight.is_empty()
    }

    /// Model batches of this feed that came back since it was made.
    pub(crate) fn finished(&mut self) -> usize {
        self.look();
        self.finished
    }

    /// Looks which batches came back.
    fn look(&mut self) {
        let before = self.in_flight.len();
        self.in_flight.retain(|batch| !batch.is_done());
        self.finished += before - self.in_flight.len();
    }

    /// Wakes this task when a batch of this feed is done, or the one of this slot.
    pub(crate) fn wake_when_done(&mut self, slot: &Slot, waker: &Waker) {
        // The slot's batch may be another stream's that waits for this one: whoever wants it submits it.
        match slot.batch() {
            Some(batch) => {
                batch.submit(&self.shared);
                batch.wake_when_done(waker);
            }
            None => waker.wake_by_ref(),
        }
        self.in_flight.iter().for_each(|batch| batch.wake_when_done(waker));
    }

    /// The stream waited so long for vectors.
    pub(crate) fn waited(&self, start: Instant) {
        self.shared.count(|counters| counters.waited(start.elapsed()));
    }

    /// Waits on this thread for vectors, `[rows, dimensions]`; a row without a slot is zero.
    pub(super) fn wait(&mut self, slots: &[Option<Slot>]) -> Result<Vec<f32>> {
        self.flush();
        slots.iter().flatten().filter_map(Slot::batch).for_each(|batch| batch.wait());
        values_of(slots, self.shared.dimensions)
    }
}

/// The error of `embed.truncate = false`, with enough of the text to find its row.
fn too_long(text: &str, length: usize, limit: usize) -> Error {
    let start: String = text.chars().take(40).collect();
    Error::Text(format!(
        "text of {length} tokens is longer than the limit of {limit} and embed.truncate is false; it begins {start:?} \
         (find such rows with embed_tokens(text) > {limit}, or SET embed.truncate = true)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::model::Role;
    use crate::options::EmbedOptions;

    /// A query with two streams of the same call.
    struct Two {
        session: Session,
        a: Feed,
        b: Feed,
    }

    fn two(most_bytes: usize) -> Two {
        let session = Session::default();
        let options = EmbedOptions { model: "tests/fixtures/tiny-bert".to_owned(), ..EmbedOptions::default() };
        let call = Call { options, role: Role::Plain, access: Access::local(), concurrency: 2, planned: None };
        let query = Query::start(&session, most_bytes);
        let feed = || query.feed(&session, &call, Arc::default()).expect("the fixture");
        let (a, b) = (feed(), feed());
        Two { session, a, b }
    }

    fn counts(session: &Session) -> (u64, u64) {
        let counts = session.usage()[0].counts;
        (counts.rows_embedded, counts.rows_duplicate)
    }

    #[test]
    fn who_waits_for_a_batch_that_another_stream_keeps_open_submits_it() {
        let Two { session, mut a, mut b } = two(usize::MAX);
        let held = Some(a.push("shared").expect("a slot"));
        let wanted = Some(b.push("shared").expect("a slot"));
        b.wake_when_done(wanted.as_ref().expect("a slot"), Waker::noop());
        let wanted = [wanted];
        // Stream a is never asked again until b has its vector.
        let from_b = b.wait(&wanted).expect("a vector");
        assert_eq!(a.wait(&[held]).expect("a vector"), from_b);
        assert_eq!(counts(&session), (1, 1));
    }

    #[test]
    fn a_batch_that_nobody_wants_does_not_run_and_its_texts_can_be_asked_for_again() {
        let Two { session, mut a, mut b } = two(usize::MAX);
        drop(a.push("dropped").expect("a slot"));
        a.flush();
        while !a.is_idle() {
            std::thread::yield_now();
        }
        assert_eq!(counts(&session), (0, 0));
        let again = [Some(b.push("dropped").expect("a slot")), None];
        let vectors = b.wait(&again).expect("a vector");
        assert!(vectors[0] != 0.0 && vectors[32..].iter().all(|&x| x == 0.0));
        assert_eq!(counts(&session), (1, 0));
    }

    #[test]
    fn beyond_the_memory_the_oldest_text_is_forgotten() {
        let Two { session, mut a, .. } = two(2 * (32 * size_of::<f32>() + BYTES_PER_TEXT));
        let mut embed = |text: &str| {
            let slot = [Some(a.push(text).expect("a slot"))];
            a.wait(&slot).expect("a vector")
        };
        let first = embed("one");
        for text in ["two", "two", "three", "three"] {
            embed(text);
        }
        assert_eq!(counts(&session), (3, 2));
        assert_eq!(embed("one"), first);
        assert_eq!(counts(&session), (4, 2));
    }

    #[test]
    fn a_cancelled_query_takes_and_gives_nothing_more() {
        let Two { session, mut a, .. } = two(usize::MAX);
        let slot = [Some(a.push("early").expect("a slot"))];
        session.cancel();
        assert_eq!(a.push("late").expect_err("cancelled"), Error::Cancelled);
        assert_eq!(a.wait(&slot).expect_err("cancelled"), Error::Cancelled);
    }
}

//! One stream's access to its query: texts go in, [`Slot`]s come out at once, and vectors are read from the slots when their
//! batches are done.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

use super::ahead::{self, Ahead};
use super::call::{Call, Machine};
use super::counters::Counters;
use super::encoding::{Encoding, Loaded};
use super::identity::Planned;
use super::lane::{Lane, Share};
use super::query::{BYTES_PER_TEXT, Query};
use super::ticket::{Job, Slot, Ticket, values_of};
use crate::cache::{Key, Space};
use crate::error::{Error, Result};
use crate::model::Tokens;
use crate::options::Device;

/// Model batches that a query may have in its lane, per worker: one runs, one waits for its turn.
pub(crate) const BATCHES_PER_WORKER: usize = 2;

/// The lane of a device: its workers serve every session of the process.
fn lane_of(device: Device) -> &'static Lane<Job> {
    static LANES: LazyLock<Mutex<HashMap<Device, &'static Lane<Job>>>> = LazyLock::new(Mutex::default);
    LANES.lock().entry(device).or_insert_with(Lane::start)
}

/// See the head of this file.
pub(crate) struct Feed {
    query: Arc<Query>,
    encoding: Arc<Encoding>,
    lane: &'static Lane<Job>,
    share: Arc<Share>,
    /// Stands for the call in the keys of its texts.
    seed: u64,
    most_in_flight: usize,
    /// Tokens of texts that come next, where the device outruns the stream.
    ahead: Option<Ahead>,
    /// The batches that the next texts go to, one for each class of lengths that should not be mixed.
    open: Vec<(u32, Arc<Ticket>)>,
    /// The batch that the next text goes to whose vector may be kept.
    reading: Option<Arc<Ticket>>,
    /// Batches that this feed handed to its lane, oldest first; those at the front are not done yet.
    in_flight: VecDeque<Arc<Ticket>>,
    /// Batches of this feed that came back, see [`Feed::finished`].
    finished: usize,
}

/// What a text needs.
enum Work {
    /// Its tokens, whether it was cut, and under what its vector will be kept.
    Compute((Tokens, bool), Option<Key>),
    /// Under what its vector may be kept already.
    Read(Key),
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

impl Feed {
    /// Access for the texts of one call; loads its model, unless vectors are kept. `counters` are the stream's own.
    pub(crate) fn open(
        query: &Arc<Query>,
        call: &Call,
        machine: &Machine,
        planned: &Planned,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let found = query.model(call, machine)?;
        planned.check(call, machine, &found)?;
        let description = &found.description;
        let (dimensions, max_tokens) = (call.dimensions(description)?, call.limit(description)?);
        let space = machine.space(call, &found, dimensions, max_tokens)?;
        let loaded = OnceLock::new();
        if space.is_none() {
            let _ = loaded.set(Loaded::new(call, machine, &found, max_tokens)?);
        }
        let place = machine.place(call);
        let (lane, concurrency) = (lane_of(place.device), machine.concurrency(place));
        let encoding = Encoding {
            running: Arc::clone(&query.running),
            prompt: call.prompt(description).to_owned(),
            counters: [query.counters(description, place), counters],
            call: call.clone(),
            machine: machine.clone(),
            found: Arc::clone(&found),
            loaded,
            space,
            max_tokens,
            dimensions,
        };
        Ok(Self {
            lane,
            share: query.share(place.device, concurrency),
            seed: query.seed(call, place, &found),
            most_in_flight: BATCHES_PER_WORKER * concurrency.clamp(1, lane.most_workers()),
            query: Arc::clone(query),
            encoding: Arc::new(encoding),
            ahead: (place.device != Device::Cpu).then(Ahead::default),
            open: Vec::new(),
            in_flight: VecDeque::new(),
            finished: 0,
            reading: None,
        })
    }

    /// A row has no text.
    pub(crate) fn null(&self) {
        self.encoding.count(Counters::null);
    }

    /// So many rows had no text before this was opened: the stream has counted them, and its session has not.
    pub(crate) fn nulls_before(&self, rows: u64) {
        (0..rows).for_each(|_| self.encoding.counters[0].null());
    }

    /// Tells of the texts that come next, before the one of this row is pushed: `text` gives that of a row of so many.
    pub(crate) fn foresee<'a>(&mut self, row: usize, rows: usize, text: impl Fn(usize) -> Option<&'a str>) {
        if !self.ahead.as_ref().is_some_and(|ahead| ahead.begins_at(row)) {
            return;
        }
        let mut texts = HashMap::new();
        for text in ahead::next_rows(row, rows).filter_map(text) {
            let key = self.query.key(self.seed, text);
            let is_kept = self.encoding.space.is_some() && self.may_be_kept(&Space::key_of(text));
            if !is_kept && self.query.memo().find(key).is_none() {
                texts.insert(key, text);
            }
        }
        let encoding = Arc::clone(&self.encoding);
        self.ahead.get_or_insert_default().fill(&texts, |text| encoding.tokenize(text).ok());
    }

    /// Takes a text and says where its vector will be. Texts fill model batches; a full one goes to the lane at once.
    pub(crate) fn push(&mut self, text: &str) -> Result<Slot> {
        if !self.query.running.go_on() {
            return Err(Error::Cancelled);
        }
        let key = self.query.key(self.seed, text);
        if let Some(slot) = self.remembered(key) {
            return Ok(slot);
        }
        let kept_under = self.encoding.space.as_ref().map(|_| Space::key_of(text));
        let work = match kept_under {
            Some(key) if self.may_be_kept(&key) => Work::Read(key),
            kept_under => {
                let ahead = self.ahead.as_mut().and_then(|ahead| ahead.take(key));
                Work::Compute(ahead.map_or_else(|| self.encoding.tokenize(text), Ok)?, kept_under)
            }
        };
        let query = Arc::clone(&self.query);
        let mut memo = query.memo();
        // Another stream may have brought the text meanwhile.
        if let Some(slot) = memo.find(key) {
            self.encoding.count(Counters::duplicate);
            return Ok(slot);
        }
        let slot = match work {
            Work::Compute((tokens, is_cut), key) => self.place(&tokens.ids, is_cut, key)?,
            Work::Read(key) => self.place_kept(text, key),
        };
        memo.insert(key, &slot, self.bytes_per_text());
        Ok(slot)
    }

    /// The slot of an equal text.
    fn remembered(&self, key: u128) -> Option<Slot> {
        let slot = self.query.memo().find(key)?;
        self.encoding.count(Counters::duplicate);
        Some(slot)
    }

    fn may_be_kept(&self, key: &Key) -> bool {
        self.encoding.space.as_ref().is_some_and(|space| space.may_have(key))
    }

    fn bytes_per_text(&self) -> usize {
        self.encoding.dimensions * size_of::<f32>() + BYTES_PER_TEXT
    }

    /// Puts tokens into the open batch of their class, or into the next one.
    fn place(&mut self, ids: &[u32], truncated: bool, key: Option<Key>) -> Result<Slot> {
        let limits = self.encoding.loaded()?.limits;
        let class = limits.shape.class(ids.len());
        loop {
            let at = self.open.iter().position(|(open, _)| *open == class);
            let at = at.unwrap_or_else(|| {
                self.open.push((class, Ticket::to_compute()));
                self.open.len() - 1
            });
            if let Some(slot) = self.open[at].1.push(limits, ids, truncated, key) {
                return Ok(slot);
            }
            let (_, full) = self.open.swap_remove(at);
            self.submit(full);
        }
    }

    /// Puts a text into the open batch of those whose vectors may be kept, or into the next one.
    fn place_kept(&mut self, text: &str, key: Key) -> Slot {
        loop {
            let reading = self.reading.get_or_insert_with(Ticket::to_read);
            if let Some(slot) = reading.push_kept(text, key) {
                return slot;
            }
            if let Some(full) = self.reading.take() {
                self.submit(full);
            }
        }
    }

    /// Hands the open batches to the lane, full or not.
    pub(crate) fn flush(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.submit(reading);
        }
        for (_, open) in std::mem::take(&mut self.open) {
            self.submit(open);
        }
    }

    fn submit(&mut self, ticket: Arc<Ticket>) {
        self.close(&ticket);
        self.in_flight.push_back(ticket);
    }

    /// Hands a batch to the lane, if nobody did before.
    fn close(&self, ticket: &Arc<Ticket>) {
        if let Some(job) = ticket.close(&self.encoding, &self.share) {
            self.lane.submit(job);
        }
    }

    /// Whether the lane can use more batches: of this feed one waits always, of the query two per worker.
    pub(crate) fn has_room(&mut self) -> bool {
        self.look();
        self.in_flight.len() < BATCHES_PER_WORKER || self.query.running.in_flight() < self.most_in_flight
    }

    /// Whether the lane has nothing of this feed.
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
        // The slot's batch may be another stream's that waits for this one: whoever wants it hands it to the lane.
        self.close(slot.ticket());
        slot.ticket().wake_when_done(waker);
        self.in_flight.iter().for_each(|batch| batch.wake_when_done(waker));
    }

    /// The stream waited so long for vectors.
    pub(crate) fn waited(&self, start: Instant) {
        self.encoding.count(|counters| counters.waited(start.elapsed()));
    }

    /// Waits on this thread for vectors, `[rows, dimensions]`; a row without a slot is zero.
    pub(super) fn wait(&mut self, slots: &[Option<Slot>]) -> Result<Vec<f32>> {
        self.flush();
        slots.iter().flatten().for_each(|slot| slot.ticket().wait());
        values_of(slots, self.encoding.dimensions)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::access::Access;
    use crate::engine::query::Common;
    use crate::model::Role;
    use crate::options::EmbedOptions;

    /// A query with two streams of the same call.
    struct Two {
        common: Arc<Common>,
        a: Feed,
        b: Feed,
    }

    fn two(most_bytes: usize) -> Two {
        two_on(Device::Cpu, most_bytes)
    }

    fn two_on(device: Device, most_bytes: usize) -> Two {
        let common = Arc::<Common>::default();
        let options = EmbedOptions::default().model("tests/fixtures/tiny-bert").concurrency(2).device(device);
        let machine = Machine::new(options.clone(), 2, Access::local());
        let call = Call::new(&options, Role::Plain, None);
        let query = Query::start(&common, most_bytes);
        let planned = Planned { dimensions: 32, identity: None };
        let feed = || Feed::open(&query, &call, &machine, &planned, Arc::default()).expect("the fixture");
        let (a, b) = (feed(), feed());
        Two { common, a, b }
    }

    fn counts(common: &Common) -> (u64, u64) {
        let counts = common.registry.usage()[0].counts;
        (counts.rows_embedded, counts.rows_duplicate)
    }

    #[test]
    fn who_waits_for_a_batch_that_another_stream_keeps_open_submits_it() {
        let Two { common, mut a, mut b } = two(usize::MAX);
        let held = Some(a.push("shared").expect("a slot"));
        let wanted = Some(b.push("shared").expect("a slot"));
        b.wake_when_done(wanted.as_ref().expect("a slot"), Waker::noop());
        let wanted = [wanted];
        // Stream a is never asked again until b has its vector.
        let from_b = b.wait(&wanted).expect("a vector");
        assert_eq!(a.wait(&[held]).expect("a vector"), from_b);
        assert_eq!(counts(&common), (1, 1));
    }

    #[test]
    fn a_batch_that_nobody_wants_does_not_run_and_its_texts_can_be_asked_for_again() {
        let Two { common, mut a, mut b } = two(usize::MAX);
        drop(a.push("dropped").expect("a slot"));
        a.flush();
        while !a.is_idle() {
            std::thread::yield_now();
        }
        assert_eq!(counts(&common), (0, 0));
        let again = [Some(b.push("dropped").expect("a slot")), None];
        let vectors = b.wait(&again).expect("a vector");
        assert!(vectors[0] != 0.0 && vectors[32..].iter().all(|&x| x == 0.0));
        assert_eq!(counts(&common), (1, 0));
    }

    #[test]
    fn beyond_the_memory_the_oldest_text_is_forgotten() {
        let Two { common, mut a, .. } = two(2 * (32 * size_of::<f32>() + BYTES_PER_TEXT));
        let mut embed = |text: &str| {
            let slot = [Some(a.push(text).expect("a slot"))];
            a.wait(&slot).expect("a vector")
        };
        let first = embed("one");
        for text in ["two", "two", "three", "three"] {
            embed(text);
        }
        assert_eq!(counts(&common), (3, 2));
        assert_eq!(embed("one"), first);
        assert_eq!(counts(&common), (4, 2));
    }

    #[test]
    fn a_cancelled_query_takes_and_gives_nothing_more() {
        let Two { common, mut a, .. } = two(usize::MAX);
        let slot = [Some(a.push("early").expect("a slot"))];
        common.generation.fetch_add(1, Ordering::Relaxed);
        assert_eq!(a.push("late").expect_err("cancelled"), Error::Cancelled);
        assert_eq!(a.wait(&slot).expect_err("cancelled"), Error::Cancelled);
    }

    #[cfg(feature = "candle")]
    #[test]
    fn texts_that_are_foreseen_have_the_vectors_that_they_have_otherwise() {
        let texts: Vec<String> = (0..1200).map(|number| format!("text {} of {number}", number % 700)).collect();
        let embed = |is_foreseen: bool| {
            let Two { common, mut a, .. } = two_on(Device::Candle, usize::MAX);
            let mut vectors = Vec::new();
            for (row, text) in texts.iter().enumerate() {
                if is_foreseen {
                    // Every third row is NULL to whoever looks ahead, and the last is no row at all.
                    a.foresee(row, 1199, |row| (row % 3 > 0).then(|| texts[row].as_str()));
                    assert!(
                        a.ahead
                            .as_ref()
                            .is_some_and(|ahead| row % 3 == 0 || row > 1198 || ahead.has(a.query.key(a.seed, text)))
                    );
                }
                let slot = [Some(a.push(text).expect("a slot"))];
                vectors.extend(a.wait(&slot).expect("a vector"));
            }
            assert_eq!(counts(&common), (1200, 0));
            vectors
        };
        assert_eq!(embed(true), embed(false));
    }
}

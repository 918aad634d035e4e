//! What the embed functions of one session share, and how they find it.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::error::Result as DataFusionResult;
use parking_lot::{Mutex, RwLock};

use super::call::{Call, Machine};
use super::counters::{Counts, ModelUse};
use super::feed::Feed;
use super::identity::{Identity, Planned};
use super::query::{Common, Query};
use crate::access::Access;
use crate::error::{Error, Result};
use crate::model::{self, Allowance, Chunk, ChunkSize, Found, Model, Place};
use crate::options::EmbedOptions;

/// Most vectors of literals that one session remembers, see [`Session::embed_literal`]: a few MiB.
const REMEMBERED_LITERALS: usize = 4096;

/// What the embed functions of one SessionContext share: counters, cancellation, literals.
#[derive(Debug, Default)]
pub(crate) struct Session {
    common: Arc<Common>,
    literals: Mutex<HashMap<LiteralKey, Vec<f32>>>,
    access: RwLock<Access>,
    /// The models that calls were planned with here, by the names that the calls have.
    #[cfg(feature = "cluster")]
    planned: Mutex<HashMap<String, std::sync::Weak<Found>>>,
}

/// What a literal's vector depends on (I1), on any machine.
#[derive(Debug, PartialEq, Eq, Hash)]
struct LiteralKey {
    text: String,
    call: Call,
    place: Place,
    /// [`Found::number`](crate::model::Found::number): changed files give another vector.
    model: u64,
}

impl LiteralKey {
    fn new(call: &Call, machine: &Machine, found: &Found, text: &str) -> Self {
        Self { text: text.to_owned(), call: call.clone(), place: machine.place(call), model: found.number }
    }
}

impl Session {
    /// The session that a configuration belongs to, if functions were registered there.
    pub(crate) fn of(config: &ConfigOptions) -> Option<Arc<Self>> {
        config.extensions.get::<SessionEntry>().map(|entry| Arc::clone(&entry.0))
    }

    /// What decides how a call runs in this session, under a configuration of it.
    pub(crate) fn machine(&self, config: &ConfigOptions, otherwise: &EmbedOptions) -> Machine {
        let options = config.extensions.get::<EmbedOptions>().unwrap_or(otherwise).clone();
        let access = self.access(options.offline);
        Machine::new(options, config.execution.target_partitions, access)
    }

    /// The model that a call is planned with: as its files are now, for a session that is to stay offline or not.
    pub(crate) fn find(&self, call: &Call, offline: bool) -> Result<Arc<Found>> {
        let found = model::find(&call.model, &self.access(offline))?;
        #[cfg(feature = "cluster")]
        self.note_planned(call, &found);
        Ok(found)
    }

    /// Planning asks for the same model again and again.
    #[cfg(feature = "cluster")]
    fn note_planned(&self, call: &Call, found: &Arc<Found>) {
        let mut planned = self.planned.lock();
        if planned.get(&call.model).is_none_or(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(found))) {
            planned.insert(call.model.clone(), Arc::downgrade(found));
        }
    }

    /// The models that calls were planned with here, by the names that the calls have.
    #[cfg(feature = "cluster")]
    pub(crate) fn identities(&self) -> HashMap<String, Identity> {
        let planned = self.planned.lock();
        planned.iter().filter_map(|(name, found)| Some((name.clone(), Identity::of(&*found.upgrade()?)))).collect()
    }

    fn access(&self, offline: bool) -> Access {
        self.access.read().clone().and_offline(offline)
    }

    /// What the session may do to come by a model, and whom it tells, from now on.
    pub(crate) fn set_access(&self, access: Access) {
        *self.access.write() = access;
    }

    /// A query that begins now and remembers vectors of up to `most_bytes`.
    pub(crate) fn start_query(&self, most_bytes: usize) -> Arc<Query> {
        Query::start(&self.common, most_bytes)
    }

    /// Vectors of a column of texts, `[rows, dimensions]`; the row of a NULL is zero. Equal texts go through the model once.
    pub(crate) fn embed(
        &self,
        call: &Call,
        planned: &Planned,
        machine: &Machine,
        rows: &[Option<&str>],
    ) -> Result<Vec<f32>> {
        if rows.iter().all(Option::is_none) {
            return Ok(vec![0.0; rows.len() * planned.dimensions]);
        }
        embed_in(&self.start_query(usize::MAX), call, planned, machine, rows)
    }

    /// The vector of a literal. Planning folds the same literal again and again, so the session remembers them.
    pub(crate) fn embed_literal(
        &self,
        call: &Call,
        planned: &Planned,
        machine: &Machine,
        text: &str,
    ) -> Result<Vec<f32>> {
        if let Some(vector) = self.remembered_literal(call, planned, machine, text)? {
            return Ok(vector);
        }
        let vector = embed_in(&self.start_query(usize::MAX), call, planned, machine, &[Some(text)])?;
        self.remember_literal(call, machine, text, &vector)?;
        Ok(vector)
    }

    /// The vector of a literal that was computed before.
    pub(crate) fn remembered_literal(
        &self,
        call: &Call,
        planned: &Planned,
        machine: &Machine,
        text: &str,
    ) -> Result<Option<Vec<f32>>> {
        let found = machine.find(&call.model)?;
        planned.check(call, machine, &found)?;
        let key = LiteralKey::new(call, machine, &found, text);
        Ok(self.literals.lock().get(&key).cloned())
    }

    /// The vector of a literal, for the next one who asks.
    pub(crate) fn remember_literal(&self, call: &Call, machine: &Machine, text: &str, vector: &[f32]) -> Result<()> {
        let key = LiteralKey::new(call, machine, machine.find(&call.model)?.as_ref(), text);
        let mut literals = self.literals.lock();
        if literals.len() == REMEMBERED_LITERALS {
            // More than any query has: what is asked for again is remembered again.
            literals.clear();
        }
        literals.insert(key, vector.to_vec());
        Ok(())
    }

    /// Number of tokens of each text before truncation, special tokens counted, prompt not; `planned` is the call's model where a
    /// plan says which.
    pub(crate) fn count_tokens(
        &self,
        call: &Call,
        planned: Option<&Identity>,
        machine: &Machine,
        rows: &[Option<&str>],
    ) -> Result<Vec<Option<i64>>> {
        self.each_text(call, planned, machine, rows, |model, text, allowance| {
            Ok(model.count_tokens("", text, allowance)? as i64)
        })
    }

    /// The chunks of each text, such that the call cuts none of them.
    pub(crate) fn chunks(
        &self,
        call: &Call,
        planned: Option<&Identity>,
        machine: &Machine,
        size: ChunkSize,
        rows: &[Option<&str>],
    ) -> Result<Vec<Option<Vec<Chunk>>>> {
        self.each_text(call, planned, machine, rows, |model, text, allowance| {
            let description = &*model.description;
            let size = size.within(call.limit(description)?, &description.name)?;
            model.chunks(call.prompt(description), text, size, allowance)
        })
    }

    /// What the tokenizer of a call's model has to say of each text.
    fn each_text<T>(
        &self,
        call: &Call,
        planned: Option<&Identity>,
        machine: &Machine,
        rows: &[Option<&str>],
        read: impl Fn(&Model, &str, &Allowance<'_>) -> Result<T>,
    ) -> Result<Vec<Option<T>>> {
        if rows.iter().all(Option::is_none) {
            return Ok(rows.iter().map(|_| None).collect());
        }
        let found = machine.find(&call.model)?;
        planned.map_or(Ok(()), |planned| planned.check(machine, &found))?;
        let model = machine.load(call, &found)?;
        let running = &self.start_query(0).running;
        let go_on = || running.go_on();
        let allowance = Allowance { memory: machine.memory(), go_on: &go_on };
        let each = |row: &Option<&str>| {
            if go_on() { row.map(|text| read(&model, text, &allowance)).transpose() } else { Err(Error::Cancelled) }
        };
        rows.iter().map(each).collect()
    }

    /// Makes every running call return [`Error::Cancelled`] soon: workers look between the layers of a model.
    pub(crate) fn cancel(&self) {
        self.common.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// What was done so far in this process with each model of this session.
    pub(crate) fn usage(&self) -> Vec<ModelUse> {
        self.common.registry.usage()
    }

    /// The same, all models together.
    pub(crate) fn counts(&self) -> Counts {
        self.usage().into_iter().map(|model| model.counts).fold(Counts::default(), Add::add)
    }

    /// What was done so far with each model on other machines, for this session.
    pub(crate) fn usage_elsewhere(&self) -> Vec<ModelUse> {
        self.common.registry.usage_elsewhere()
    }

    /// Another machine has done something for this session.
    #[cfg(feature = "cluster")]
    pub(crate) fn add_usage(&self, usage: ModelUse) {
        self.common.registry.add(usage);
    }

    /// A session with counters of its own; everything else it has in common with this one.
    #[cfg(feature = "cluster")]
    pub(crate) fn with_own_counters(&self) -> Self {
        Self {
            common: Arc::new(self.common.with_own_registry()),
            access: RwLock::new(self.access.read().clone()),
            ..Self::default()
        }
    }
}

/// Vectors of texts in a query of their own.
fn embed_in(
    query: &Arc<Query>,
    call: &Call,
    planned: &Planned,
    machine: &Machine,
    rows: &[Option<&str>],
) -> Result<Vec<f32>> {
    let mut feed = Feed::open(query, call, machine, planned, Arc::default())?;
    let slots = rows.iter().map(|row| row.map(|text| feed.push(text)).transpose()).collect::<Result<Vec<_>>>()?;
    feed.wait(&slots)
}

/// A session in a configuration, where functions and operators that run find it. It has no settings, so nothing of it is ever
/// written down: a plan that comes from elsewhere finds the session of the place where it runs.
#[derive(Debug, Clone)]
pub(crate) struct SessionEntry(pub(crate) Arc<Session>);

impl ConfigExtension for SessionEntry {
    const PREFIX: &'static str = "embed_session";
}

impl ExtensionOptions for SessionEntry {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _value: &str) -> DataFusionResult<()> {
        Err(Error::Setting(format!("setting \"{}.{key}\" not found", Self::PREFIX)).into())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

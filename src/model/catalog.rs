//! Each model loaded once per process, by whoever needs it first, and shared from then on.
//!
//! What is known of a model is known of its files at one moment, see `snapshot.rs`: a [`Found`] has description, fingerprint and
//! weights of the same bytes, and a query keeps to one from its first text to its last vector. Whoever asks for the model after its
//! files changed gets another one. Weights leave memory again when those of another model need the room and no query uses
//! them; the description stays, and what is read again has to be what it was.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};

use parking_lot::Mutex;

use super::description::Description;
use super::fingerprint::Fingerprint;
use super::origin::Origin;
use super::place::Place;
use super::ready::Model;
use super::snapshot::Snapshot;
use crate::access::{Access, Event};
use crate::error::Result;

/// A model that was found: its files at one moment, what they say, and its weights where they are loaded.
pub(crate) struct Found {
    /// Another one for every other model, and for the same model under changed files.
    pub(crate) number: u64,
    /// What the small files say.
    pub(crate) description: Arc<Description>,
    /// A hash of all that they say: what was planned with it cannot be run with another one.
    pub(crate) digest: String,
    /// What its files leave open, as whoever uses it is told.
    warning: Option<String>,
    snapshot: Snapshot,
    /// Held while weights are loaded, so that two queries load them once.
    loaded: Mutex<HashMap<Place, Loaded>>,
    /// Held while the files are hashed, so that two queries hash them once.
    hashing: Mutex<()>,
    fingerprint: OnceLock<Fingerprint>,
}

struct Loaded {
    model: Arc<Model>,
    /// Whether it was read when the fingerprint was known: it is the one of these very bytes.
    is_checked: bool,
    /// When it was asked for last, by the catalog's own count.
    used: u64,
}

/// Every model of the process.
#[derive(Default)]
struct Catalog {
    /// By what was asked for: the same name is another model where the host allows other origins.
    named: HashMap<Origin, Arc<Found>>,
    /// Those whose files changed since, as long as a query has them.
    former: Vec<Weak<Found>>,
}

static CATALOG: LazyLock<Mutex<Catalog>> = LazyLock::new(Mutex::default);
/// Counts how often a model was found or asked for.
static CLOCK: AtomicU64 = AtomicU64::new(0);

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("number", &self.number).field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// A model by its name, as its files are now: reads its small files, never its weights. Who may not use a model does not get
/// it from those who may.
pub(crate) fn find(name: &str, access: &Access) -> Result<Arc<Found>> {
    let found = find_current(Origin::of(name, access)?, access)?;
    if let Some(warning) = &found.warning {
        access.tell_once(warning, &Event::ModelWarning(warning.clone()));
    }
    Ok(found)
}

fn find_current(origin: Origin, access: &Access) -> Result<Arc<Found>> {
    let known = CATALOG.lock().named.get(&origin).map(Arc::clone);
    // Outside the lock: files have to be looked at, and the hub may have to be asked.
    if let Some(known) = &known
        && known.snapshot.is_current()
    {
        return Ok(Arc::clone(known));
    }
    let found = Arc::new(Found::new(Snapshot::new(origin.open(access)?), access)?);
    let mut catalog = CATALOG.lock();
    if let Some(other) = catalog.named.get(&origin)
        && known.is_none_or(|known| !Arc::ptr_eq(&known, other))
    {
        // Another thread was faster.
        return Ok(Arc::clone(other));
    }
    let former = catalog.named.insert(origin, Arc::clone(&found));
    catalog.former.retain(|found| found.strong_count() > 0);
    catalog.former.extend(former.as_ref().map(Arc::downgrade));
    Ok(found)
}

/// The models whose weights are in memory, with their places.
pub(crate) fn loaded() -> Vec<(Arc<Found>, Place)> {
    let all: Vec<_> = CATALOG.lock().named.values().map(Arc::clone).collect();
    all.iter().flat_map(|found| found.places().into_iter().map(|place| (Arc::clone(found), place))).collect()
}

impl Found {
    fn new(snapshot: Snapshot, access: &Access) -> Result<Self> {
        let description = Arc::new(Description::read(snapshot.files(access))?);
        Ok(Self {
            number: CLOCK.fetch_add(1, Ordering::Relaxed),
            warning: description.assumption().map(|assumption| format!("{}: {assumption}", snapshot.label())),
            digest: description.digest(),
            description,
            snapshot,
            loaded: Mutex::default(),
            hashing: Mutex::default(),
            fingerprint: OnceLock::new(),
        })
    }

    /// Over everything a vector depends on: configuration, tokenizer and weights. Fetches what is not there yet. What is read
    /// from now on is read from the bytes that were hashed, or is an error.
    pub(crate) fn fingerprint(&self, access: &Access) -> Result<&Fingerprint> {
        let _hashing = self.hashing.lock();
        if let Some(known) = self.fingerprint.get() {
            return Ok(known);
        }
        let computed = self.description.fingerprint(self.snapshot.files(access))?;
        Ok(self.fingerprint.get_or_init(|| computed))
    }

    /// The fingerprint, where it was asked for before, or nothing has to be read for it.
    pub(crate) fn known_fingerprint(&self) -> Option<&Fingerprint> {
        match self.snapshot.source().is_fixed() {
            true => self.fingerprint(&Access::local()).ok(),
            false => self.fingerprint.get(),
        }
    }

    /// The model, loaded now if nobody did before. Where the fingerprint is known, the model is the one of its bytes. Models
    /// that no query uses are freed, those first that were not asked for the longest, as long as all together take more than
    /// `most_bytes`.
    pub(crate) fn load(&self, access: &Access, place: Place, most_bytes: usize) -> Result<Arc<Model>> {
        let used = CLOCK.fetch_add(1, Ordering::Relaxed);
        let mut loaded = self.loaded.lock();
        let has_fingerprint = self.fingerprint.get().is_some();
        // One that was loaded before there was a fingerprint may be of other bytes, and is loaded again.
        if let Some(found) = loaded.get_mut(&place).filter(|found| found.is_checked || !has_fingerprint) {
            found.used = used;
            return Ok(Arc::clone(&found.model));
        }
        loaded.remove(&place);
        let model = Arc::new(self.load_alone(access, place)?);
        let is_checked = has_fingerprint || self.snapshot.source().is_fixed();
        loaded.insert(place, Loaded { model: Arc::clone(&model), is_checked, used });
        drop(loaded);
        free(most_bytes);
        Ok(model)
    }

    /// Where its weights are in memory; one that is being loaded is not there yet.
    fn places(&self) -> Vec<Place> {
        self.loaded.try_lock().map(|loaded| loaded.keys().copied().collect()).unwrap_or_default()
    }

    /// Loads the model for its caller alone.
    pub(crate) fn load_alone(&self, access: &Access, place: Place) -> Result<Model> {
        Model::load(self.snapshot.files(access), Arc::clone(&self.description), place)
    }
}

/// Frees models that nobody uses until the rest fits.
fn free(most_bytes: usize) {
    let all: Vec<_> = {
        let catalog = CATALOG.lock();
        catalog.named.values().map(Arc::clone).chain(catalog.former.iter().filter_map(Weak::upgrade)).collect()
    };
    loop {
        let (mut total, mut oldest) = (0, None);
        for found in &all {
            // Whoever loads a model frees others after it.
            let Some(loaded) = found.loaded.try_lock() else { continue };
            for (&place, Loaded { model, used, .. }) in loaded.iter() {
                total += model.size();
                // The one that was just loaded is in its caller's hands.
                if Arc::strong_count(model) == 1 && oldest.is_none_or(|(_, _, least)| *used < least) {
                    oldest = Some((found, place, *used));
                }
            }
        }
        match oldest {
            Some((found, place, _)) if total > most_bytes => drop(found.loaded.lock().remove(&place)),
            _ => return,
        }
    }
}

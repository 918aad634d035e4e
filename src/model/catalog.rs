//! Each model loaded once per process, by whoever needs it first, and shared from then on.
//!
//! What was read stays as it was read: a model directory that is changed on disk is seen by the next process. That keeps
//! the dimension of plan time and the vectors of run time from the same files. Weights leave memory again when those of
//! another model need the room and no query uses them; the description stays.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use super::Model;
use super::description::Description;
use super::files::ModelFiles;
use crate::error::Result;
use crate::options::{Device, Precision};

/// Where a model runs and in which arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// A real device, never `auto`.
    pub(crate) device: Device,
    /// Arithmetic of the encoder.
    pub(crate) precision: Precision,
}

/// A model that was found: its description, and its weights where they are loaded.
struct Entry {
    files: ModelFiles,
    description: Arc<Description>,
    /// Held while weights are loaded, so that two queries load them once.
    loaded: Mutex<HashMap<Place, Loaded>>,
    fingerprint: OnceLock<String>,
}

struct Loaded {
    model: Arc<Model>,
    /// When it was asked for last, by the catalog's own count.
    used: u64,
}

/// Every model of the process by the name it was asked for.
static CATALOG: LazyLock<Mutex<HashMap<String, Arc<Entry>>>> = LazyLock::new(Mutex::default);
/// Counts how often a model was asked for.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// The description of a model: reads its small files, never its weights.
pub(crate) fn describe(name: &str, offline: bool) -> Result<Arc<Description>> {
    Ok(Arc::clone(&entry(name, offline)?.description))
}

/// The model, loaded now if nobody did before. Models that no query uses are freed, those first that were not asked for the
/// longest, as long as all together take more than `most_bytes`.
pub(crate) fn load(name: &str, offline: bool, place: Place, most_bytes: usize) -> Result<Arc<Model>> {
    let entry = entry(name, offline)?;
    let used = CLOCK.fetch_add(1, Ordering::Relaxed);
    let mut loaded = lock(&entry.loaded);
    if let Some(found) = loaded.get_mut(&place) {
        found.used = used;
        return Ok(Arc::clone(&found.model));
    }
    let model = Arc::new(Model::load(&entry.files, Arc::clone(&entry.description), place, offline)?);
    loaded.insert(place, Loaded { model: Arc::clone(&model), used });
    drop(loaded);
    free(most_bytes);
    Ok(model)
}

/// SHA-256 over everything a vector depends on: configuration, tokenizer and weights. Fetches what is not there yet.
pub(crate) fn fingerprint(name: &str, offline: bool) -> Result<String> {
    let entry = entry(name, offline)?;
    if let Some(known) = entry.fingerprint.get() {
        return Ok(known.clone());
    }
    let computed = entry.description.fingerprint(&entry.files, offline)?;
    Ok(entry.fingerprint.get_or_init(|| computed).clone())
}

/// The names of the models whose weights are in memory, with their places.
pub(crate) fn loaded() -> Vec<(String, Place)> {
    let entries: Vec<_> = lock(&CATALOG).iter().map(|(name, entry)| (name.clone(), Arc::clone(entry))).collect();
    let places = |(name, entry): (String, Arc<Entry>)| {
        // One that is being loaded is not there yet.
        let places: Vec<_> = entry.loaded.try_lock().map(|loaded| loaded.keys().copied().collect()).unwrap_or_default();
        places.into_iter().map(move |place| (name.clone(), place)).collect::<Vec<_>>()
    };
    entries.into_iter().flat_map(places).collect()
}

/// Frees models that nobody uses until the rest fits.
fn free(most_bytes: usize) {
    let entries: Vec<_> = lock(&CATALOG).values().map(Arc::clone).collect();
    loop {
        let (mut total, mut oldest) = (0, None);
        for entry in &entries {
            // Whoever loads a model frees others after it.
            let Ok(loaded) = entry.loaded.try_lock() else { continue };
            for (&place, Loaded { model, used }) in loaded.iter() {
                total += model.size();
                // The one that was just loaded is in its caller's hands.
                if Arc::strong_count(model) == 1 && oldest.is_none_or(|(_, _, least)| *used < least) {
                    oldest = Some((entry, place, *used));
                }
            }
        }
        match oldest {
            Some((entry, place, _)) if total > most_bytes => drop(lock(&entry.loaded).remove(&place)),
            _ => return,
        }
    }
}

/// Finds a model and reads its description, outside the lock because the hub may have to be asked.
fn entry(name: &str, offline: bool) -> Result<Arc<Entry>> {
    if let Some(entry) = lock(&CATALOG).get(name) {
        return Ok(Arc::clone(entry));
    }
    let files = ModelFiles::find(name, offline)?;
    let description = Arc::new(Description::read(&files, offline)?);
    let entry = Arc::new(Entry { files, description, loaded: Mutex::default(), fingerprint: OnceLock::new() });
    Ok(Arc::clone(lock(&CATALOG).entry(name.to_owned()).or_insert(entry)))
}

/// A panic elsewhere leaves these maps whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Each model loaded once per process, by whoever needs it first, and shared from then on.
//!
//! What was read stays as it was read: a model directory that is changed on disk is seen by the next process. That keeps
//! the dimension of plan time and the vectors of run time from the same files.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

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
    loaded: Mutex<HashMap<Place, Arc<Model>>>,
}

/// Every model of the process by the name it was asked for.
static CATALOG: LazyLock<Mutex<HashMap<String, Arc<Entry>>>> = LazyLock::new(Mutex::default);

/// The description of a model: reads its small files, never its weights.
pub(crate) fn describe(name: &str, offline: bool) -> Result<Arc<Description>> {
    Ok(Arc::clone(&entry(name, offline)?.description))
}

/// The model, loaded now if nobody did before.
pub(crate) fn load(name: &str, offline: bool, place: Place) -> Result<Arc<Model>> {
    let entry = entry(name, offline)?;
    let mut loaded = lock(&entry.loaded);
    if let Some(model) = loaded.get(&place) {
        return Ok(Arc::clone(model));
    }
    let model = Arc::new(Model::load(&entry.files, Arc::clone(&entry.description), place, offline)?);
    loaded.insert(place, Arc::clone(&model));
    Ok(model)
}

/// Finds a model and reads its description, outside the lock because the hub may have to be asked.
fn entry(name: &str, offline: bool) -> Result<Arc<Entry>> {
    if let Some(entry) = lock(&CATALOG).get(name) {
        return Ok(Arc::clone(entry));
    }
    let files = ModelFiles::find(name, offline)?;
    let description = Arc::new(Description::read(&files, offline)?);
    let entry = Arc::new(Entry { files, description, loaded: Mutex::default() });
    Ok(Arc::clone(lock(&CATALOG).entry(name.to_owned()).or_insert(entry)))
}

/// A panic elsewhere leaves these maps whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

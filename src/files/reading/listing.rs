//! Which files a table has at the moment.

use std::collections::HashSet;

use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore};

use super::kind::FileKind;
use super::place::Place;

/// The places of a table, which share a store, and which of the files there are its own.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    places: Vec<Place>,
    store: ObjectStoreUrl,
    /// In folders only files of this kind are meant, where there are such; `None` means all.
    kind: Option<FileKind>,
}

impl Listing {
    /// `None` without a place.
    pub(super) fn new(places: Vec<Place>, kind: Option<FileKind>) -> Option<Self> {
        let store = places.first()?.store.clone();
        Some(Self { places, store, kind })
    }

    pub(super) fn store(&self) -> &ObjectStoreUrl {
        &self.store
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The files, each once, with the folder that its own folders are counted from.
    pub(super) async fn files(
        &self,
        store: &dyn ObjectStore,
        config: &ConfigOptions,
    ) -> Result<Vec<(Path, ObjectMeta)>> {
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for place in &self.places {
            let mut files = place.data_files(store, config).await?;
            if place.is_collection() {
                self.keep_kind(&mut files);
            }
            files.retain(|file| seen.insert(file.location.clone()));
            all.extend(files.into_iter().map(|file| (place.root().clone(), file)));
        }
        Ok(all)
    }

    fn keep_kind(&self, files: &mut Vec<ObjectMeta>) {
        let Some(kind) = &self.kind else { return };
        let fits = |file: &ObjectMeta| file.location.filename().and_then(FileKind::of).is_some_and(|of| of.fits(kind));
        if files.iter().any(fits) {
            files.retain(fits);
        }
    }
}

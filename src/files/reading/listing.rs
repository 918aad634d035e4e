//! Which files a table has at the moment.

use std::collections::HashSet;

use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore};

use super::file_set::FileSet;
use super::kind::FileKind;

/// The sets of a table, which share a store, and which of the files there are its own.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    sets: Vec<FileSet>,
    store: ObjectStoreUrl,
    /// In folders only files of this kind are meant, where there are such; `None` means all.
    kind: Option<FileKind>,
}

impl Listing {
    /// `None` without a set.
    pub(super) fn new(sets: Vec<FileSet>, kind: Option<FileKind>) -> Option<Self> {
        let store = sets.first()?.store.clone();
        Some(Self { sets, store, kind })
    }

    pub(super) fn store(&self) -> &ObjectStoreUrl {
        &self.store
    }

    pub(super) fn sets(&self) -> &[FileSet] {
        &self.sets
    }

    /// The files, each once, with the folder that its own folders are counted from; those of the first set may have been found
    /// already.
    pub(super) async fn files(
        &self,
        mut found: Option<Vec<ObjectMeta>>,
        store: &dyn ObjectStore,
        config: &ConfigOptions,
    ) -> Result<Vec<(Path, ObjectMeta)>> {
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for set in &self.sets {
            let mut files = match found.take() {
                Some(files) => files,
                None => set.data_files(store, config).await?,
            };
            if set.is_collection() {
                self.keep_kind(&mut files);
            }
            files.retain(|file| seen.insert(file.location.clone()));
            all.extend(files.into_iter().map(|file| (set.root().clone(), file)));
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

//! The model that is compiled in.

use super::source::{Location, Source, Stored};
use crate::access::Access;
use crate::error::Result;
use crate::options::BUNDLED_NAME;

/// What people call it.
pub(in crate::model) const SHORT_NAME: &str = "all-MiniLM-L6-v2";

/// The model's files by their path, with their SHA-256; empty where it is not compiled in. Written by `build.rs`.
mod files {
    include!(concat!(env!("OUT_DIR"), "/bundled.rs"));
}

/// Whether this name is served by the model that is compiled in.
pub(crate) fn is_bundled(name: &str) -> bool {
    name == BUNDLED_NAME && !files::FILES.is_empty()
}

/// The bundled model.
#[derive(Debug)]
pub(in crate::model) struct Bundled;

impl Bundled {
    /// What is compiled in, if it is.
    pub(in crate::model) fn stored() -> Option<Stored> {
        let bytes = files::FILES.iter().map(|(_, _, bytes)| bytes.len() as u64).sum();
        let (name, revision) = (BUNDLED_NAME.to_owned(), files::REVISION.to_owned());
        is_bundled(BUNDLED_NAME).then_some(Stored { name, kind: Self.kind(), revision, bytes })
    }
}

impl Source for Bundled {
    fn kind(&self) -> &'static str {
        "bundled"
    }

    fn name(&self) -> &str {
        BUNDLED_NAME
    }

    /// Hash of the weights.
    fn revision(&self) -> Option<&str> {
        Some(files::REVISION)
    }

    fn label(&self) -> String {
        format!("bundled model \"{BUNDLED_NAME}\"")
    }

    fn locate(&self, path: &str, _access: &Access) -> Result<Option<Location>> {
        let file = files::FILES.iter().find(|(name, _, _)| *name == path);
        Ok(file.map(|(_, hash, bytes)| Location::Memory { bytes, hash }))
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_hashes_of_the_build_are_those_of_the_bundled_files() {
        for (path, hash, bytes) in files::FILES {
            assert_eq!(*hash, <[u8; 32]>::from(Sha256::digest(bytes)), "{path}: SHA256SUMS is not of this file");
        }
    }
}

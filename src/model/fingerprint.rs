//! What tells the vectors of a model from those of any other.

use std::fmt;

use sha2::{Digest, Sha256};

use super::snapshot::Files;
use crate::error::Result;

/// SHA-256 over the files of a model that its vectors depend on. There is none but that of files which were read, and whose
/// every later reading is compared with that: what is kept under a fingerprint comes from the bytes that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of these files, each by its name and its content: the same files in another place are the same model. Fetches what is
    /// not there yet; one that the model does not have counts for nothing.
    pub(super) fn of(files: Files<'_>, mut paths: Vec<String>) -> Result<Self> {
        paths.sort();
        paths.dedup();
        let mut hash = Sha256::new();
        for path in paths {
            if let Some(content) = files.hash(&path)? {
                hash.update(path.as_bytes());
                hash.update([0]);
                hash.update(content);
            }
        }
        Ok(Self(hash.finalize().into()))
    }
}

/// In hexadecimal.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

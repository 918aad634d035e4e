//! The crate's kernels with their own tests, compiled alone, so that the address sanitizer reaches them quickly.

#![allow(dead_code, unused_imports, reason = "the model, which calls the kernels, is not here")]

#[path = "../../src/kernels/mod.rs"]
mod kernels;

/// What the kernels use of the crate's errors.
mod error {
    #[derive(Debug, Clone)]
    pub(crate) enum Error {
        Setting(String),
    }

    pub(crate) type Result<T> = std::result::Result<T, Error>;
}

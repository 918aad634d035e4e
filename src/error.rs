//! One error for the whole crate, converted to [`DataFusionError`] at the border.

use datafusion::error::DataFusionError;

/// What went wrong, in one line: noun first, the value and the limit, the next step.
///
/// Reaches a query as [`DataFusionError::External`], so a program can find it again with
/// `DataFusionError::find_root` and a downcast.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting or an argument has a value that cannot be used.
    #[error("{0}")]
    Setting(String),
    /// A model's files are missing, broken, or say something this crate does not support.
    #[error("{0}")]
    Model(String),
    /// A device is not built in, not there, or failed.
    #[error("{0}")]
    Device(String),
    /// A setting, or a text under it, is beyond what there is room for.
    #[error("{message}")]
    Limit {
        /// The setting that says otherwise, such as `embed.memory`.
        setting: &'static str,
        /// What it would have to be.
        got: usize,
        /// What it may be, in the same unit: tokens, values or bytes.
        limit: usize,
        /// The line that is shown.
        message: String,
    },
    /// A text cannot be embedded under the current settings.
    #[error("{0}")]
    Text(String),
    /// A statement asks for a file that cannot be written, or not there.
    #[error("{0}")]
    Write(String),
    /// A file cannot be read, or not as it was asked for.
    #[error("{0}")]
    Read(String),
    /// The session was asked to stop its running calls, see [`cancel`](crate::cancel).
    #[error("embed: cancelled")]
    Cancelled,
}

/// The crate's own result.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

/// The last reason of an error, which is the one that a person can act on.
#[cfg(any(feature = "cluster", feature = "stores"))]
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

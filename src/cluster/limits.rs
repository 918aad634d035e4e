//! How long processes wait for each other, and how much they send at once.

use std::time::Duration;

/// Bytes of a message, at most: a plan names every file that it reads.
pub(super) const MOST_BYTES: usize = 256 << 20;

/// How long a process may take to answer that it is there.
pub(super) const CONNECTS: Duration = Duration::from_secs(5);

/// An executor that was not heard of for so long is lost, and its tasks run elsewhere.
pub(super) const LOST: Duration = Duration::from_secs(20);

//! Messages of this crate in the bytes of a plan: whose they are stands before them, and by which rules they were written.

use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::error::Result;
use prost::Message;

/// What stands before the messages of a kind.
pub(crate) struct Mark {
    name: &'static str,
    /// It goes up with every change of such a message.
    version: u32,
    /// What is said of bytes that are no such message.
    broken: &'static str,
}

impl Mark {
    pub(crate) const fn new(name: &'static str, version: u32, broken: &'static str) -> Self {
        Self { name, version, broken }
    }

    pub(crate) fn write(&self, message: &impl Message) -> Vec<u8> {
        let mut bytes = format!("{} {}\n", self.name, self.version).into_bytes();
        bytes.extend(message.encode_to_vec());
        bytes
    }

    /// `None` where the bytes are somebody else's.
    pub(crate) fn read<M: Message + Default>(&self, bytes: &[u8]) -> Result<Option<M>> {
        let ours = bytes.strip_prefix(self.name.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
        let Some(rest) = ours else { return Ok(None) };
        let Some(message) = rest.strip_prefix(format!("{}\n", self.version).as_bytes()) else {
            return exec_err!(
                "the plan comes from another version of datafusion-embed than {}; run the same version in both places",
                env!("CARGO_PKG_VERSION")
            );
        };
        M::decode(message).map(Some).map_err(|error| exec_datafusion_err!("{}: {error}", self.broken))
    }
}

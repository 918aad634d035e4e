//! Why a request or a download came to nothing, and what to do about it.

use std::fmt;
use std::io;
use std::time::Duration;

use super::environment::{Token, cache_directory};
use crate::error::Error;

/// Why a request or a download came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub said no.
    Status(u16),
    /// The network did not bring what was asked for.
    Network(String),
    /// What came is not what the hub announced.
    Damaged { expected: String, got: String },
    /// Another process has the file for itself, and for so long nothing happens.
    Held(Duration),
    /// The cache folder cannot be read or written.
    Cache(io::Error),
}

impl Failure {
    pub(super) fn network(error: impl fmt::Display) -> Self {
        Self::Network(error.to_string())
    }

    /// The error for a model, or for one file of it, that was asked for at this address with this token.
    pub(super) fn explained(
        &self,
        id: &str,
        revision: &str,
        file: Option<&str>,
        hub: &str,
        token: Option<&Token>,
    ) -> Error {
        let file = file.map_or_else(String::new, |file| format!(": {file}"));
        let next = self.next_step(id, hub, token);
        Error::Model(format!("hub: model \"{id}@{revision}\"{file}: {self}; {next}"))
    }

    fn next_step(&self, id: &str, hub: &str, token: Option<&Token>) -> String {
        match (self, token) {
            (Self::Status(401 | 403), None) => "the model is gated or private, or the name is wrong; set HF_TOKEN, or \
                                                log in with the hub's own tool (hf auth login)"
                .to_owned(),
            (Self::Status(401 | 403), Some(token)) => format!(
                "the token from {} was refused; ask for access on {hub}/{id}, or set HF_TOKEN to a token that has it",
                token.origin
            ),
            (Self::Status(404), _) => "there is no such model or revision".to_owned(),
            (Self::Damaged { .. }, _) => "try again on another network, or give a model directory".to_owned(),
            (Self::Held(_), _) => "wait for that process or end it, then try again".to_owned(),
            (Self::Cache(_), _) => {
                format!("make room or get the right to write in \"{}\", or set HF_HOME", cache_directory().display())
            }
            _ => "the hub could not be reached; give a model directory, or try again with the network".to_owned(),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Cache(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the hub answered with status {status}"),
            Self::Network(reason) => f.write_str(reason),
            Self::Damaged { expected, got } => {
                write!(f, "what came is damaged, also at the second time: expected hash {expected}, got {got}")
            }
            Self::Held(patience) => {
                write!(f, "another process downloads it and has received nothing for {} s", patience.as_secs())
            }
            Self::Cache(error) => write!(f, "the cache cannot be written: {error}"),
        }
    }
}

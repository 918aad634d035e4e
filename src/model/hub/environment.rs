//! What the hub's tools read from the environment: where the hub and its cache are, who asks, and whether anybody may.

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::files::cache_home;

/// A secret that says who asks.
pub(super) struct Token {
    pub(super) value: String,
    /// Where it was found; the value itself is never shown.
    pub(super) origin: String,
}

impl Token {
    fn new(text: &str, origin: String) -> Option<Self> {
        let value = text.trim().to_owned();
        (!value.is_empty()).then_some(Self { value, origin })
    }
}

/// The hub's address.
pub(super) fn endpoint() -> String {
    let endpoint = env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
    endpoint.trim_end_matches('/').to_owned()
}

/// The token where every tool of the hub looks for it.
pub(super) fn token() -> Option<Token> {
    let variable = env::var("HF_TOKEN").ok().and_then(|text| Token::new(&text, "HF_TOKEN".to_owned()));
    variable.or_else(|| {
        let file = variable_path("HF_TOKEN_PATH").unwrap_or_else(|| hub_home().join("token"));
        Token::new(&fs::read_to_string(&file).ok()?, file.display().to_string())
    })
}

/// `HF_HUB_OFFLINE`, as the hub's own tools read it.
pub(super) fn is_offline() -> bool {
    let value = env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    matches!(value.as_str(), "1" | "true" | "yes" | "on")
}

/// The folder of the models that every tool of the hub uses.
pub(super) fn cache_directory() -> PathBuf {
    let set = variable_path("HF_HUB_CACHE").or_else(|| variable_path("HUGGINGFACE_HUB_CACHE"));
    set.unwrap_or_else(|| hub_home().join("hub"))
}

/// The folder of the hub's tools.
fn hub_home() -> PathBuf {
    variable_path("HF_HOME").unwrap_or_else(|| cache_home().join("huggingface"))
}

/// A path from the environment.
fn variable_path(key: &str) -> Option<PathBuf> {
    env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from)
}

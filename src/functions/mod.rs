//! The SQL functions: one file each, a face and not a body.
//!
//! | file | function |
//! |---|---|
//! | `embed.rs` | `embed`, `embed_query`, `embed_document`: one function in three roles |
//! | `embed_tokens.rs` | `embed_tokens` |
//! | `cosine_similarity.rs` | `cosine_similarity` |
//! | `embed_models.rs` | `embed_models()` |
//! | `embed_cache.rs` | `embed_cache()` |
//! | `text.rs` | how a text column and a model name are read |

mod cosine_similarity;
mod embed;
mod embed_cache;
mod embed_models;
mod embed_tokens;
mod text;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{ScalarUDF, ScalarUDFImpl};

use crate::engine::{Call, Session};
use crate::model::Role;
use crate::options::{Device, EmbedOptions};
use cosine_similarity::CosineSimilarity;
pub(crate) use embed::{Embed, vectors};
use embed_cache::EmbedCache;
use embed_models::EmbedModels;
use embed_tokens::EmbedTokens;
pub(crate) use text::TextColumn;

/// Puts every function into a session's state, in the place of functions with the same names.
pub(crate) fn register(state: &mut SessionState, settings: &Settings) -> Result<()> {
    let mut functions: Vec<ScalarUDF> =
        [Role::Plain, Role::Query, Role::Document].map(|role| Embed::new(role, settings.clone()).into()).into();
    functions.push(EmbedTokens::new(settings.clone()).into());
    functions.push(CosineSimilarity::new().into());
    for function in functions {
        state.register_udf(Arc::new(function))?;
    }
    state.register_udtf("embed_cache", Arc::new(EmbedCache));
    state.register_udtf("embed_models", Arc::new(EmbedModels::new(Arc::clone(&settings.session))));
    Ok(())
}

/// The settings that a function runs under.
///
/// A function of a plan keeps those of the moment when it was planned, because its type depends on them; `SET` puts
/// functions with the new settings into the session.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    options: EmbedOptions,
    target_partitions: usize,
    pub(crate) session: Arc<Session>,
}

impl Settings {
    /// The settings of a session's configuration.
    pub(crate) fn new(config: &ConfigOptions, session: Arc<Session>) -> Self {
        Self {
            options: config.extensions.get::<EmbedOptions>().cloned().unwrap_or_default(),
            target_partitions: config.execution.target_partitions,
            session,
        }
    }

    /// The same session under a changed configuration.
    fn updated(&self, config: &ConfigOptions) -> Self {
        Self::new(config, Arc::clone(&self.session))
    }

    /// A call in a role, with the model that its second argument names.
    fn call(&self, role: Role, model: Option<&str>) -> Call {
        let mut options = self.options.clone();
        if let Some(model) = model {
            options.model = model.to_owned();
        }
        let concurrency = match (options.concurrency, options.device.resolve()) {
            (0, Device::Cpu) => self.target_partitions,
            // Two batches per device: one is prepared while the other runs.
            (0, _) => 2,
            (wanted, _) => wanted,
        };
        let access = self.session.access(options.offline);
        Call { options, role, access, concurrency, planned: None }
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.options == other.options
            && self.target_partitions == other.target_partitions
            && Arc::ptr_eq(&self.session, &other.session)
    }
}

impl Eq for Settings {}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.options.hash(state);
        self.target_partitions.hash(state);
        Arc::as_ptr(&self.session).hash(state);
    }
}

/// Makes a function of its implementation with changed settings.
fn rebuilt(function: impl ScalarUDFImpl + 'static) -> Option<ScalarUDF> {
    Some(ScalarUDF::new_from_impl(function))
}

/// The text of a literal, NULL included.
pub(crate) fn literal_text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

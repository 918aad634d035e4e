//! The SQL functions: one file each, a face and not a body.
//!
//! | file | function |
//! |---|---|
//! | `embed.rs` | `embed`, `embed_query`, `embed_document`: one function in three roles |
//! | `embed_tokens.rs` | `embed_tokens` |
//! | `cosine_similarity.rs` | `cosine_similarity` |
//! | `embed_models.rs` | `embed_models()` |
//! | `embed_cache.rs` | `embed_cache()` |
//! | `state_table.rs` | what the two tables have in common |
//! | `text.rs` | how a text column and a model name are read |

mod cosine_similarity;
mod embed;
mod embed_cache;
mod embed_models;
mod embed_tokens;
mod state_table;
mod text;

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::catalog::TableFunctionImpl;
use datafusion::common::ScalarValue;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{ScalarUDF, ScalarUDFImpl};

use crate::engine::{Call, Machine, Session};
use crate::model::{Found, Role};
use crate::options::EmbedOptions;
use cosine_similarity::CosineSimilarity;
pub(crate) use embed::{Embed, vectors};
use embed_tokens::EmbedTokens;
use state_table::StateTable;
pub(crate) use text::TextColumn;

/// Puts every function into a session's state, and gives the names of the host's own functions that were in their place.
pub(crate) fn register(state: &mut SessionState, settings: &Settings) -> Result<Vec<String>> {
    let roles = [Role::Plain, Role::Query, Role::Document];
    let mut functions: Vec<ScalarUDF> = roles.map(|role| Embed::new(role, settings.clone()).into()).into();
    functions.push(EmbedTokens::new(settings.clone()).into());
    functions.push(CosineSimilarity::new().into());
    let mut replaced = Vec::new();
    for function in functions {
        let former = state.register_udf(Arc::new(function))?;
        replaced.extend(former.filter(|former| !is_ours(former)).map(|former| former.name().to_owned()));
    }
    for table in [embed_cache::table(), embed_models::table()] {
        let former = state.table_functions().get(table.name);
        if former.is_some_and(|former| !is_our_table(former.function())) {
            replaced.push(table.name.to_owned());
        }
        state.register_udtf(table.name, Arc::new(table));
    }
    Ok(replaced)
}

fn is_ours(function: &ScalarUDF) -> bool {
    let inner = function.inner();
    inner.is::<Embed>() || inner.is::<EmbedTokens>() || inner.is::<CosineSimilarity>()
}

fn is_our_table(function: &Arc<dyn TableFunctionImpl>) -> bool {
    (function.as_ref() as &dyn Any).is::<StateTable>()
}

/// The settings that a function was planned under, because its type depends on them; `SET` puts functions with the new settings
/// into the session. What does not decide a vector is asked again when the function runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    options: EmbedOptions,
    /// For a configuration that has no session of its own: made anew where a function is registered or comes out of a plan that
    /// was written down.
    session: Arc<Session>,
}

impl Settings {
    pub(crate) fn new(options: EmbedOptions, session: Arc<Session>) -> Self {
        Self { options, session }
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The same under a changed configuration.
    fn updated(&self, config: &ConfigOptions) -> Self {
        let options = config.extensions.get::<EmbedOptions>().unwrap_or(&self.options).clone();
        Self { options, session: Session::of(config).unwrap_or_else(|| Arc::clone(&self.session)) }
    }

    /// A call in a role, with the model that its second argument names.
    pub(crate) fn call(&self, role: Role, model: Option<&str>) -> Call {
        Call::new(&self.options, role, model)
    }

    /// The model of a call as its small files say now.
    fn find(&self, call: &Call) -> Result<Arc<Found>> {
        Ok(Machine::new(&ConfigOptions::default(), &self.options).find(&call.model)?)
    }

    /// The session and the machine that a call runs in.
    fn running(&self, config: &ConfigOptions) -> (Arc<Session>, Machine) {
        let session = Session::of(config).unwrap_or_else(|| Arc::clone(&self.session));
        (session, Machine::new(config, &self.options))
    }
}

/// Two functions are the same where they give the same vectors.
impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.call(Role::Plain, None) == other.call(Role::Plain, None)
    }
}

impl Eq for Settings {}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.call(Role::Plain, None).hash(state);
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

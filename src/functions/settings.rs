//! What a function was planned under, and the session that it runs in.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::error::Result;

use crate::engine::{Call, Identity, Machine, Session};
use crate::model::{Found, Role};
use crate::options::{EmbedOptions, Precision};

/// The settings that a function was planned under, because its type depends on them; `SET` puts functions with the new settings
/// into the session. What does not decide a vector is asked again when the function runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    options: EmbedOptions,
    /// For a configuration that has no session of its own: made anew where a function is registered or comes out of a plan that
    /// was written down.
    session: Arc<Session>,
    /// The models that a function out of a written plan was planned with, by the names that calls have.
    identities: Arc<HashMap<String, Identity>>,
}

impl Settings {
    pub(crate) fn new(options: EmbedOptions, session: Arc<Session>) -> Self {
        Self { options, session, identities: Arc::default() }
    }

    /// Of a function out of a written plan, with a session made anew.
    #[cfg(feature = "cluster")]
    pub(super) fn written(call: &Call, identities: HashMap<String, Identity>) -> Self {
        Self { options: call.options(), session: Arc::default(), identities: Arc::new(identities) }
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The same under a changed configuration.
    pub(super) fn updated(&self, config: &ConfigOptions) -> Self {
        let options = config.extensions.get::<EmbedOptions>().unwrap_or(&self.options).clone();
        let session = Session::of(config).unwrap_or_else(|| Arc::clone(&self.session));
        Self { options, session, identities: Arc::clone(&self.identities) }
    }

    /// A call in a role, with the model that its second argument names.
    pub(crate) fn call(&self, role: Role, model: Option<&str>) -> Call {
        Call::new(&self.options, role, model)
    }

    /// The model of a call as its small files say now.
    pub(super) fn find(&self, call: &Call) -> Result<Arc<Found>> {
        Ok(self.session.find(call, self.options.offline)?)
    }

    /// The models that calls were planned with, by the names that calls have: as a written plan says, else as here.
    #[cfg(feature = "cluster")]
    pub(super) fn identities(&self) -> HashMap<String, Identity> {
        let mut identities = self.session.identities();
        identities.extend(self.identities.iter().map(|(name, identity)| (name.clone(), identity.clone())));
        identities
    }

    /// The model that a call was planned with, where a written plan says which.
    pub(super) fn identity(&self, call: &Call) -> Option<&Identity> {
        self.identities.get(&call.model)
    }

    /// The session and the machine that a call runs in.
    pub(super) fn running(&self, config: &ConfigOptions) -> (Arc<Session>, Machine) {
        let session = Session::of(config).unwrap_or_else(|| Arc::clone(&self.session));
        let machine = session.machine(config, &self.options);
        (session, machine)
    }
}

impl Settings {
    /// What of it decides a vector, see [`Call`]; compared and hashed often while a query is planned.
    fn decisive(&self) -> (&str, Precision, usize, bool, usize) {
        let EmbedOptions { model, precision, max_tokens, truncate, dimensions, .. } = &self.options;
        (model, *precision, *max_tokens, *truncate, *dimensions)
    }
}

/// Two functions are the same where they give the same vectors.
impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.decisive() == other.decisive()
    }
}

impl Eq for Settings {}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.decisive().hash(state);
    }
}

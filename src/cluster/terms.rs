//! The terms of a job. They travel with its settings, and an executor runs no task whose terms it does not meet.

use std::any::Any;

use ballista_core::serde::protobuf::KeyValuePair;
use datafusion::common::config_err;
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::Result;

/// What an executor has to see before it runs a task.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    /// What vectors are computed with; empty where it does not matter.
    pub(super) arithmetic: String,
    /// The hash of the cluster's token. Ballista's own port for tasks is on the loopback address and asks nobody.
    pub(super) token: String,
}

impl Terms {
    fn said(&self) -> [(String, &String); 2] {
        [("arithmetic", &self.arithmetic), ("token", &self.token)]
            .map(|(name, value)| (format!("{}.{name}", Self::PREFIX), value))
    }

    /// As they go with the settings of a job.
    pub(super) fn settings(&self) -> impl Iterator<Item = KeyValuePair> {
        self.said().into_iter().map(|(key, value)| KeyValuePair { key, value: Some(value.clone()) })
    }
}

impl ConfigExtension for Terms {
    const PREFIX: &'static str = "embedsql_terms";
}

impl ExtensionOptions for Terms {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let place = match key {
            "arithmetic" => &mut self.arithmetic,
            "token" => &mut self.token,
            _ => return config_err!("a job has no terms about {key:?}"),
        };
        value.clone_into(place);
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |(key, value): (String, &String)| ConfigEntry { key, value: Some(value.clone()), description: "" };
        self.said().map(entry).into()
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::extension::{SessionConfigExt, SessionConfigHelperExt};
    use datafusion::prelude::SessionConfig;

    use super::*;

    #[test]
    fn terms_are_the_same_behind_every_process() {
        let terms = Terms { arithmetic: "cpu-avx2-1.1".to_owned(), token: "0a1b".to_owned() };
        let config = || SessionConfig::new_with_ballista().with_option_extension(Terms::default());
        let scheduler = config().update_from_key_value_pair(&terms.settings().collect::<Vec<_>>());
        let executor = config().update_from_key_value_pair(&scheduler.to_key_value_pairs());
        let found = executor.options().extensions.get::<Terms>().expect("terms");
        assert_eq!((&found.arithmetic, &found.token), (&terms.arithmetic, &terms.token));
    }
}

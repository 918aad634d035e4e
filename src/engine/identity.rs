//! What a plan was made with: whoever runs it has to come to the same.

use super::call::{Call, Machine};
use crate::error::{Error, Result};
use crate::model::Found;

/// Which model a plan means, beyond its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// [`Found::digest`]: what the model's small files said.
    pub(crate) description: String,
    /// Of the model's files, where it was known.
    pub(crate) fingerprint: Option<String>,
}

impl Identity {
    pub(crate) fn of(found: &Found) -> Self {
        let fingerprint = found.known_fingerprint().map(ToString::to_string);
        Self { description: found.digest.clone(), fingerprint }
    }

    /// The same with the fingerprint, for whoever runs the plan elsewhere: all files of the model are read for it, and fetched where
    /// they are not here.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] where the model here is another one by now.
    #[cfg(feature = "cluster")]
    pub(crate) fn whole(&self, call: &Call, machine: &Machine) -> Result<Self> {
        let found = machine.find(&call.model)?;
        self.check(machine, &found)?;
        let fingerprint = machine.fingerprint(&found)?.to_string();
        Ok(Self { fingerprint: Some(fingerprint), ..self.clone() })
    }

    /// # Errors
    ///
    /// [`Error::Model`] where the model here is another one.
    pub(super) fn check(&self, machine: &Machine, found: &Found) -> Result<()> {
        let name = &found.description.name;
        if found.digest != self.description {
            return Err(other(name, "its files say something else than where the query was planned"));
        }
        let Some(planned) = &self.fingerprint else { return Ok(()) };
        let here = machine.fingerprint(found)?.to_string();
        if here == *planned {
            return Ok(());
        }
        let seen = format!("its files have the fingerprint {here} here, and {planned} where the query was planned");
        Err(other(name, &seen))
    }
}

/// What a plan says of a call's vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Length of a vector.
    pub(crate) dimensions: usize,
    /// Of the call's model; `None` where the plan was made in this process by a planner that knows nothing of it.
    pub(crate) identity: Option<Identity>,
}

impl Planned {
    /// # Errors
    ///
    /// [`Error::Model`] where the model here is another one.
    pub(super) fn check(&self, call: &Call, machine: &Machine, found: &Found) -> Result<()> {
        let dimensions = call.dimensions(&found.description)?;
        if dimensions != self.dimensions {
            let planned = self.dimensions;
            let seen = format!("its vectors have {dimensions} values here, and {planned} where the query was planned");
            return Err(other(&found.description.name, &seen));
        }
        self.identity.as_ref().map_or(Ok(()), |identity| identity.check(machine, found))
    }
}

fn other(name: &str, seen: &str) -> Error {
    Error::Model(format!("model \"{name}\": {seen}; use the same model in both places, or plan the query again"))
}

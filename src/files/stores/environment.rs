//! What this machine says of stores: variables that the tools of the clouds read, and who made it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::settings::is_secret;

/// What the machine says: its environment variables and files. Nothing, in a session that may not use them.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
    /// Who made the machine, in lower case.
    vendor: String,
}

impl Environment {
    /// Of this process.
    pub(super) fn here() -> Self {
        const KNOWN: [&str; 5] = ["AWS_", "GOOGLE_", "AZURE_", "SERVICE_ACCOUNT", "IDENTITY_ENDPOINT"];
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let variables =
            variables.filter(|(name, value)| !value.is_empty() && KNOWN.iter().any(|known| name.starts_with(known)));
        let files =
            ["/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name", "/sys/class/dmi/id/chassis_asset_tag"];
        let vendor: Vec<_> = files.into_iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        Self { variables: variables.collect(), home: std::env::home_dir(), vendor: vendor.concat().to_lowercase() }
    }

    #[cfg(test)]
    pub(super) fn of(variables: &[(&str, &str)], home: Option<&Path>) -> Self {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Self { variables, home: home.map(Path::to_owned), vendor: String::new() }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    pub(super) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// The values that nobody is to see.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_made_by(&self, vendor: &str) -> bool {
        self.vendor.contains(vendor)
    }

    pub(super) fn starting_with(&self, prefix: &str) -> impl Iterator<Item = (String, String)> {
        let all = self.variables.iter().filter(move |(name, _)| name.starts_with(prefix));
        all.map(|(name, value)| (name.clone(), value.clone()))
    }
}

//! What is said of a store: by the OPTIONS of a statement, and by the environment.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::address::{Address, Cloud};
use crate::error::{Error, Result};

/// What the OPTIONS of a statement say of a store: names without the cloud, in lower case, such as `region`.
///
/// Nothing shows the values: some are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub(in crate::files) struct Options(pub(super) BTreeMap<String, String>);

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Options {
    /// Takes what is said of a store out of the options of a statement, which has the rest for a format.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for what is said of another cloud than that of the address; `None` is a local file. And for what is said
    /// twice, in two spellings.
    pub(in crate::files) fn take(options: &mut HashMap<String, String>, address: Option<&Address>) -> Result<Self> {
        let mut taken = BTreeMap::new();
        let about: Vec<_> = options.keys().filter_map(|key| Some((key.clone(), of_store(key)?))).collect();
        for (key, (cloud, name)) in about {
            if address.map(|address| address.cloud) != Some(cloud) {
                let place = address.map_or("a local file".to_owned(), |address| address.store.clone());
                let key = key.strip_prefix("format.").unwrap_or(&key);
                return Err(Error::Setting(format!("option '{key}' is about {}, and this is {place}", cloud.name())));
            }
            let Some(value) = options.remove(&key) else { continue };
            if let Some(other) = taken.insert(name.clone(), (key.clone(), value)) {
                let mut both = [other.0, key];
                both.sort();
                return Err(Error::Setting(format!(
                    "options '{}' and '{}' are one: give one of them",
                    both[0], both[1]
                )));
            }
        }
        let taken = taken.into_iter().map(|(name, (_, value))| (name, value)).collect();
        Ok(Self(taken))
    }

    #[cfg(feature = "stores")]
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values that nobody is to see.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value.as_str())
    }
}

/// The cloud that an option is about, and its name there: `aws.region`, `s3.region` and `aws_region` are one.
fn of_store(key: &str) -> Option<(Cloud, String)> {
    let key = key.to_ascii_lowercase();
    // DataFusion puts it before what has no dot.
    let plain = key.strip_prefix("format.").unwrap_or(&key);
    Cloud::ALL.into_iter().find_map(|cloud| {
        let dotted = cloud.prefixes().iter().find_map(|prefix| key.strip_prefix(prefix)?.strip_prefix('.'));
        let name = dotted.or_else(|| plain.strip_prefix(cloud.prefixes()[0])?.strip_prefix('_'))?;
        Some((cloud, name.to_owned()))
    })
}

/// Whether a setting of this name is a secret, or has one in it.
pub(super) fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 9] =
        ["secret", "key", "token", "sas", "password", "authorization", "bearer", "proxy_url", "connection_string"];
    const PLAIN: [&str; 5] = ["_file", "_path", "_enabled", "kms_key_id", "token_service_url"];
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part)) && !PLAIN.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_about_a_store_are_told_from_those_of_a_format() {
        let address = Address::of("s3://b/x").expect("known").expect("an address");
        let said = [
            ("aws.Region", "r"),
            ("s3.secret_access_key", "hush"),
            ("format.aws_session_token", "quiet"),
            ("format.compression", "zstd"),
            ("format.awsome", "x"),
            ("execution.keep_partition_by_columns", "true"),
        ];
        let mut options = said.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let taken = Options::take(&mut options, Some(&address)).expect("of S3");
        assert_eq!(taken.get("region"), Some("r"));
        assert_eq!(taken.secrets().collect::<Vec<_>>(), ["hush", "quiet"]);
        assert!(!format!("{taken:?}").contains("hush"));
        assert_eq!(options.len(), 3);
        let mut other = HashMap::from([("format.google_bucket".to_owned(), "x".to_owned())]);
        let message = Options::take(&mut other, Some(&address)).expect_err("of Google").to_string();
        assert_eq!(message, "option 'google_bucket' is about Google Cloud Storage, and this is s3://b");
        let twice = ["aws.region", "S3.region"].map(|key| (key.to_owned(), "r".to_owned()));
        let message = Options::take(&mut HashMap::from(twice), Some(&address)).expect_err("twice").to_string();
        assert_eq!(message, "options 'S3.region' and 'aws.region' are one: give one of them");
        Options::take(&mut HashMap::from([("http.timeout".to_owned(), "1 s".to_owned())]), None)
            .expect_err("a local file");
    }

    #[test]
    fn what_is_secret_is_known_by_its_name() {
        for name in ["secret_access_key", "AWS_SESSION_TOKEN", "sas_key", "authorization", "access_key_id", "proxy_url"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["region", "endpoint", "web_identity_token_file", "sse_kms_key_id", "service_account_path"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}

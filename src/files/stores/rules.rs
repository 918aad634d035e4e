//! Which stores a session may reach.

use super::address::Address;
use crate::error::{Error, Result};

/// Which stores a session may reach; none by default.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    /// `None` is all.
    schemes: Option<Vec<String>>,
    /// `None` is all.
    hosts: Option<Vec<String>>,
    is_on: bool,
    /// Whether this machine's environment and files are nobody's business.
    is_alone: bool,
}

/// What statements may say in OPTIONS where a host has limited them: nothing that names a server, a file of this machine, or a program.
const HARMLESS: [&str; 28] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "token",
    "region",
    "default_region",
    "skip_signature",
    "virtual_hosted_style_request",
    "request_payer",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "sse_customer_key_base64",
    "checksum_algorithm",
    "unsigned_payload",
    "conditional_put",
    "account_key",
    "access_key",
    "sas_key",
    "sas_token",
    "bearer_token",
    "client_id",
    "client_secret",
    "timeout",
    "connect_timeout",
    "retry_timeout",
    "max_retries",
    "authorization",
];

/// What names a server in OPTIONS: allowed as far as servers are.
const SERVERS: [&str; 4] = ["endpoint", "endpoint_url", "base_url", "account_name"];

impl Rules {
    pub(super) fn all() -> Self {
        Self { is_on: true, ..Self::default() }
    }

    pub(super) fn with_schemes(self, schemes: Vec<String>) -> Self {
        Self { schemes: Some(schemes), ..self }
    }

    pub(super) fn with_hosts(self, hosts: Vec<String>) -> Self {
        Self { hosts: Some(hosts), ..self }
    }

    pub(super) fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }

    #[cfg(feature = "stores")]
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// An error for what OPTIONS say that would lead around these rules.
    pub(super) fn check_options<'a>(&self, options: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
        for (name, value) in options.filter(|(name, _)| !HARMLESS.contains(name)) {
            let is_server = SERVERS.contains(&name);
            if self.hosts.is_some() && name.starts_with("endpoint") {
                self.check_endpoint(value)?;
            } else if self.hosts.is_some() || self.is_alone && !is_server {
                return Err(Error::Setting(format!(
                    "option '{name}' is not allowed by this host; ask whoever runs it"
                )));
            }
        }
        Ok(())
    }

    /// An error for a store that this session may not reach.
    pub(super) fn check(&self, address: &Address) -> Result<()> {
        let store = &address.store;
        if !self.is_on {
            return Err(Error::Read(format!("{store}: this host does not allow stores; ask whoever runs it")));
        }
        let scheme = store.split("://").next().unwrap_or_default();
        // The two spellings of Azure's are one.
        let scheme = if scheme == "abfss" { "az" } else { scheme };
        if self.schemes.as_ref().is_some_and(|schemes| !schemes.iter().any(|known| known == scheme)) {
            return Err(Error::Read(format!("{store}: this host does not allow {scheme}://; ask whoever runs it")));
        }
        self.check_host(address.host()).map_err(|()| {
            Error::Read(format!("{store}: this host does not allow {:?}; ask whoever runs it", address.host()))
        })
    }

    /// An endpoint leads to any host, whatever bucket is named.
    fn check_endpoint(&self, endpoint: &str) -> Result<()> {
        let host = url::Url::parse(endpoint).ok().and_then(|url| url.host_str().map(str::to_owned));
        self.check_host(&host.unwrap_or_default()).map_err(|()| {
            Error::Read(
                "an endpoint that this host does not allow was given in OPTIONS; ask whoever runs it".to_owned(),
            )
        })
    }

    fn check_host(&self, host: &str) -> std::result::Result<(), ()> {
        let is_meant = |pattern: &String| match pattern.strip_prefix('*') {
            Some(end) => host.ends_with(end),
            None => pattern == host,
        };
        let is_allowed = self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(is_meant));
        if is_allowed { Ok(()) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_lead_around_no_rule() {
        let check = |rules: &Rules, name: &str, value: &str| rules.check_options([(name, value)].into_iter()).is_ok();
        let (all, alone) = (Rules::all(), Rules::all().alone());
        let some = Rules::all().with_hosts(vec!["*.example.com".into()]);
        for (name, value, by_all, by_alone, by_some) in [
            ("secret_access_key", "x", true, true, true),
            ("endpoint", "https://eu.example.com", true, true, true),
            ("endpoint", "https://example.org", true, true, false),
            ("aws_endpoint_url_s3", "https://eu.example.com", true, false, false),
            ("account_name", "acme", true, true, false),
            ("service_account_key", "{}", true, false, false),
            ("ca_bundle", "/etc/passwd", true, false, false),
            ("profile", "work", true, false, false),
            ("metadata", "true", true, false, false),
            ("use_azure_cli", "true", true, false, false),
        ] {
            let found = [check(&all, name, value), check(&alone, name, value), check(&some, name, value)];
            assert_eq!(found, [by_all, by_alone, by_some], "{name} {value}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused_by_name() {
        let check = |rules: &Rules, name: &str| {
            let address = Address::of(name).expect("known").expect("an address");
            rules.check(&address).map_err(|error| error.to_string())
        };
        assert!(check(&Rules::default(), "s3://b/x").expect_err("off").contains("does not allow stores"));
        assert_eq!(check(&Rules::all(), "s3://b/x"), Ok(()));
        let some = Rules::all().with_schemes(vec!["az".into(), "https".into()]);
        let some = some.with_hosts(vec!["*.example.com".into(), "c".into()]);
        for name in ["https://data.example.com/x", "az://c/x", "abfs://c/x"] {
            assert_eq!(check(&some, name), Ok(()));
        }
        for name in
            ["http://data.example.com/x", "https://example.org/x", "s3://c/x", "az://d/x", "https://aexample.com/"]
        {
            check(&some, name).expect_err(name);
        }
        some.check_endpoint("https://eu.example.com/").expect("allowed");
        some.check_endpoint("http://169.254.169.254").expect_err("not allowed");
        some.check_endpoint("no url").expect_err("no host");
    }
}

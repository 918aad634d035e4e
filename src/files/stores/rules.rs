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
}

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
    pub(super) fn check_endpoint(&self, endpoint: &str) -> Result<()> {
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

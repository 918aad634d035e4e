//! The stores of a session: each is opened when a statement names it first, by the rules of the host.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::error::Result as DataFusionResult;
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::object_store::ObjectStore;
use parking_lot::Mutex;
use url::Url;

use super::address::{Address, shown_store};
use super::masks::Secrets;
use super::rules::Rules;
use super::settings::Options;
use crate::error::{Error, Result};
use crate::files::whole::Whole;
use crate::files::writes::Writes;

/// Which stores the statements of a session reach by their addresses, and what has been heard of them; clones are one and the
/// same.
///
/// By default there are none: a host says so where the statements of others run. The program has all.
///
/// ```
/// use datafusion_embed::SessionOptions;
/// use datafusion_embed::files::Stores;
///
/// let mut options = SessionOptions::default();
/// options.stores = Stores::all().with_schemes(["s3"]).with_hosts(["public-data", "*-exports"]);
/// let ctx = datafusion_embed::session(options)?;
/// # datafusion::error::Result::<()>::Ok(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stores {
    rules: Rules,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What OPTIONS have said of a store, each once: their place is what tells the stores apart.
    stated: Mutex<Vec<(String, Options)>>,
    secrets: Secrets,
    #[cfg(feature = "stores")]
    lines: Mutex<Vec<(String, Arc<super::wire::Line>)>>,
    #[cfg(feature = "stores")]
    web: Mutex<HashMap<String, Arc<super::http::WebFiles>>>,
}

impl Stores {
    /// All stores that an address can name: `s3://` (and `s3a://`), `gs://`, `az://` (and `abfs://`, `abfss://`), and `http://`
    /// and `https://` to read single files.
    pub fn all() -> Self {
        Self { rules: Rules::all(), ..Self::default() }
    }

    /// Only these schemes.
    #[must_use]
    pub fn with_schemes<S: Into<String>>(self, schemes: impl IntoIterator<Item = S>) -> Self {
        let one_spelling = |scheme: S| match scheme.into().to_ascii_lowercase().as_str() {
            "s3a" => "s3".to_owned(),
            "azure" | "abfs" | "abfss" => "az".to_owned(),
            scheme => scheme.to_owned(),
        };
        let rules = self.rules.clone().with_schemes(schemes.into_iter().map(one_spelling).collect());
        Self { rules, ..self }
    }

    /// Only these buckets, containers and web servers, by what stands after the scheme of an address; one may begin with `*`.
    /// Endpoints in OPTIONS have to be among them too, and nothing else there may name a server. A server that is allowed may send on to
    /// another one.
    #[must_use]
    pub fn with_hosts<S: Into<String>>(self, hosts: impl IntoIterator<Item = S>) -> Self {
        let rules = self.rules.clone().with_hosts(hosts.into_iter().map(Into::into).collect());
        Self { rules, ..self }
    }

    /// Only with the credentials that statements give in OPTIONS: the environment variables and files of this machine are not
    /// looked at, its metadata service is not asked, and OPTIONS may name no file or program of it.
    #[must_use]
    pub fn without_environment(self) -> Self {
        let rules = self.rules.clone().alone();
        Self { rules, ..self }
    }

    /// The stores of a runtime, for a host that builds its own: what is written there is complete or not there, by `writes`.
    /// OPTIONS about a store, and addresses with a query, need these stores in the configuration too.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    /// use datafusion::prelude::{SessionConfig, SessionContext};
    /// use datafusion_embed::files::{Stores, Writes, reading_files};
    ///
    /// let stores = Stores::all();
    /// let registry = stores.registry(&Writes::default());
    /// let runtime = RuntimeEnvBuilder::new().with_object_store_registry(registry).build_arc()?;
    /// let config = SessionConfig::new().with_extension(Arc::new(stores));
    /// let ctx = reading_files(SessionContext::new_with_config_rt(config, runtime));
    /// # datafusion::error::Result::<()>::Ok(())
    /// ```
    pub fn registry(&self, writes: &Writes) -> Arc<dyn ObjectStoreRegistry> {
        let (local, url) = (Whole::local(writes), ObjectStoreUrl::local_filesystem());
        let registry = Registry { stores: self.clone(), writes: writes.clone(), open: Mutex::default() };
        registry.register_store(url.as_ref(), Arc::new(local));
        Arc::new(registry)
    }

    /// The server that has answered nothing but errors for the longest time, how long, and what it says; `None` while all is
    /// well. Requests are tried again meanwhile.
    pub fn trouble(&self) -> Option<(String, Duration, String)> {
        #[cfg(feature = "stores")]
        {
            let lines = self.shared.lines.lock();
            let troubles = lines.iter().filter_map(|(name, line)| {
                let (since, what) = line.trouble()?;
                Some((name.clone(), since, what))
            });
            troubles.max_by_key(|(_, since, _)| *since)
        }
        #[cfg(not(feature = "stores"))]
        None
    }

    /// A text without the secrets that statements and the environment have given for stores.
    pub fn masked(&self, text: &str) -> String {
        self.shared.secrets.masked(text)
    }

    /// Remembers the secrets in a statement, for [`Stores::masked`]: an error may quote it.
    pub fn add_statement(&self, sql: &str) {
        self.shared.secrets.add_of_statement(sql);
    }

    /// The address of the store in which all that is said of it in OPTIONS holds, and nothing else.
    pub(in crate::files) fn stated(&self, address: &Address, options: Options) -> Result<ObjectStoreUrl> {
        self.rules.check(address)?;
        self.rules.check_options(options.all())?;
        let parsed = |url: &str| ObjectStoreUrl::parse(url).map_err(|error| Error::Read(error.to_string()));
        if options.is_empty() {
            return parsed(&address.store);
        }
        options.secrets().for_each(|secret| self.shared.secrets.add_all(secret));
        let mut stated = self.shared.stated.lock();
        let entry = (address.store.clone(), options);
        let place = stated.iter().position(|known| *known == entry).unwrap_or_else(|| {
            stated.push(entry);
            stated.len() - 1
        });
        parsed(&address.store_with(&format!("{STATED}{place}")))
    }

    /// What was said of a store in OPTIONS, by the address that [`Stores::stated`] gave; and its address without that.
    fn of(&self, url: &Url) -> Result<(String, Options)> {
        let base = shown_store(url);
        let Some(place) = url.password() else { return Ok((base, Options::default())) };
        let stated = self.shared.stated.lock();
        let known = place.strip_prefix(STATED).and_then(|place| stated.get(place.parse::<usize>().ok()?));
        match known.filter(|(store, _)| *store == base) {
            Some((_, options)) => Ok((base, options.clone())),
            None => Err(Error::Read(format!(
                "{base}: its OPTIONS are not known here: the machines of a cluster have their own environment, and no OPTIONS"
            ))),
        }
    }

    #[cfg(not(feature = "stores"))]
    fn open(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        Err(Error::Read(format!(
            "{}: this build reads and writes local files only; build with feature \"stores\"",
            self.of(url)?.0
        )))
    }

    /// The store at an address, which was not opened before.
    #[cfg(feature = "stores")]
    pub(super) fn open(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        use super::address::Cloud;
        use super::client::{self, Client};
        use super::credentials::Who;
        use super::environment::Environment;
        use super::remote::Remote;
        let (base, options) = self.of(url)?;
        let Some(address) = Address::of(&base).transpose()? else {
            return Err(Error::Read(format!(
                "{base}: {}:// is not known (known: s3, gs, az, abfs, http, https, file)",
                url.scheme()
            )));
        };
        self.rules.check(&address)?;
        let environment = if self.rules.is_alone() { Environment::default() } else { Environment::here() };
        environment.secrets().for_each(|secret| self.shared.secrets.add_all(secret));
        let line = Arc::default();
        let client = match address.cloud {
            Cloud::S3 => client::s3(&address, &options, &environment, &line)?,
            Cloud::Google => client::google(&address, &options, &environment, &line)?,
            Cloud::Azure => client::azure(&address, &options, &environment, &line)?,
            Cloud::Web => {
                let web = client::web(&address, &options, &environment, &line)?;
                let store = Arc::new(super::http::WebFiles::new(&address, web));
                self.shared.web.lock().insert(url.as_str().trim_end_matches('/').to_owned(), Arc::clone(&store));
                Client::new(store, Who::Anonymous)
            }
        };
        self.shared.lines.lock().push((address.store.clone(), Arc::clone(&line)));
        Ok(Arc::new(Remote::new(&address, client, line, self.shared.secrets.clone())))
    }

    /// Remembers what is asked for at an address whose store is open.
    pub(in crate::files) fn add_request(&self, url: &ObjectStoreUrl, address: &Address) -> Result<()> {
        if address.request.is_empty() {
            return Ok(());
        }
        self.shared.secrets.add_all(address.query());
        #[cfg(feature = "stores")]
        if let Some(files) = self.shared.web.lock().get(url.as_str().trim_end_matches('/')) {
            files.add(address.key()?, address);
        }
        #[cfg(not(feature = "stores"))]
        let _ = url;
        Ok(())
    }
}

/// What tells stores apart of which OPTIONS say other things.
const STATED: &str = "options-";

#[derive(Debug)]
struct Registry {
    stores: Stores,
    writes: Writes,
    open: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

fn key(url: &Url) -> String {
    url[..url::Position::AfterPort].to_owned()
}

impl ObjectStoreRegistry for Registry {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.open.lock().insert(key(url), store)
    }

    fn deregister_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        let store = self.open.lock().remove(&key(url));
        store.ok_or_else(|| datafusion::common::exec_datafusion_err!("no store is registered at {}", shown_store(url)))
    }

    /// One that is not open yet is opened, if the host allows it.
    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        let mut open = self.open.lock();
        if let Some(store) = open.get(&key(url)) {
            return Ok(Arc::clone(store));
        }
        let store = self.stores.open(url)?;
        let address = ObjectStoreUrl::parse(key(url))?;
        let store: Arc<dyn ObjectStore> = Arc::new(Whole::over(store, &address, &self.writes));
        open.insert(key(url), Arc::clone(&store));
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_options_say_of_a_store_holds_there_and_nowhere_else() {
        let stores = Stores::all();
        let address = |name: &str| Address::of(name).expect("known").expect("an address");
        let options = |secret: &str| {
            let said = [("aws.secret_access_key".to_owned(), secret.to_owned())];
            Options::take(&mut said.into(), Some(&address("s3://b/x"))).expect("of S3")
        };
        let plain = stores.stated(&address("s3://b/x"), Options::default()).expect("a store");
        let first = stores.stated(&address("s3://b/x"), options("hush-hush")).expect("a store");
        let second = stores.stated(&address("s3://b/x"), options("quiet")).expect("a store");
        assert_eq!(stores.stated(&address("s3://b/y"), options("hush-hush")).expect("the same"), first);
        assert!(plain != first && first != second && !first.as_str().contains("hush"), "{first} {second}");
        let of = |url: &ObjectStoreUrl| stores.of(&Url::parse(url.as_str()).expect("a URL"));
        assert_eq!(of(&first).expect("known"), ("s3://b".to_owned(), options("hush-hush")));
        assert_eq!(of(&plain).expect("known"), ("s3://b".to_owned(), Options::default()));
        for wrong in ["s3://:options-0@c", "s3://:options-7@b", "s3://:hush@b"] {
            let message = stores.of(&Url::parse(wrong).expect("a URL")).expect_err(wrong).to_string();
            assert!(!message.contains("hush"), "{message}");
        }
        let account = "abfss://c@acme.dfs.core.windows.net";
        let azure = stores.stated(&address(account), Options::default()).expect("a store");
        assert_eq!(of(&azure).expect("known").0, account);
        assert_eq!(stores.masked("hush-hush!"), "***!");
    }

    #[test]
    fn without_a_word_of_the_host_there_are_no_stores() {
        let registry = Stores::default().registry(&Writes::default());
        let message = registry.get_store(&Url::parse("s3://b").expect("a URL")).expect_err("off").to_string();
        assert!(message.contains("does not allow stores"), "{message}");
    }
}

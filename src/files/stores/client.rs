//! A client of object_store, from what is said of a store.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use datafusion::object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use datafusion::object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use datafusion::object_store::client::{HttpClient, HttpConnector};
use datafusion::object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};
use datafusion::object_store::{
    Certificate, ClientConfigKey, ClientOptions, HeaderMap, HeaderValue, ObjectStore, RetryConfig,
    StaticCredentialProvider,
};

use super::address::Address;
use super::credentials::{self, Who, is_true};
use super::environment::Environment;
use super::lengths::Lengths;
use super::settings::Options;
use super::wire::{Connector, Line};
use crate::error::{Error, Result};

/// A client, and what errors may have to say of it.
pub(super) struct Client {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) who: Who,
    /// The region that was asked in; of S3.
    pub(super) region: String,
    /// The same in another region, where nobody said which.
    pub(super) elsewhere: Option<AmazonS3Builder>,
}

impl Client {
    /// A client of a store that knows no regions.
    pub(super) fn new(store: Arc<dyn ObjectStore>, who: Who) -> Self {
        Self { store, who, region: String::new(), elsewhere: None }
    }
}

/// Time for one answer of a web server.
const LONGEST: Duration = Duration::from_secs(600);

/// What allows an endpoint without TLS.
const S3_HTTP: &str = "AWS_ALLOW_HTTP=true or OPTIONS ('aws.allow_http' 'true')";
const AZURE_HTTP: &str = "AZURE_ALLOW_HTTP=true or OPTIONS ('azure.allow_http' 'true')";
const GOOGLE_HTTP: &str = "GOOGLE_ALLOW_HTTP=true or OPTIONS ('google.allow_http' 'true')";

/// Whatever is wrong with a setting, about this store.
fn wrong(store: &str, what: &dyn Display) -> Error {
    // Its own prefix names object_store's type.
    let text = what.to_string();
    let text = text
        .split_once(" error: ")
        .filter(|(kind, _)| kind.starts_with("Generic"))
        .map_or(text.as_str(), |(_, text)| text);
    Error::Setting(format!("{store}: {text}"))
}

/// A client of S3.
pub(super) fn s3(address: &Address, options: &Options, environment: &Environment, line: &Arc<Line>) -> Result<Client> {
    let store = &address.store;
    let found = credentials::s3(options, environment)?;
    let get = |key: AmazonS3ConfigKey| found.settings.get(&key).cloned();
    let region = get(AmazonS3ConfigKey::Region).or_else(|| get(AmazonS3ConfigKey::DefaultRegion));
    if let Some(region) =
        region.as_deref().filter(|region| region.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-'))
    {
        return Err(Error::Setting(format!("{store}: {region:?} is no region such as eu-west-1")));
    }
    let endpoint = get(AmazonS3ConfigKey::S3Endpoint).or_else(|| get(AmazonS3ConfigKey::Endpoint));
    let allows_http = get(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    check_encrypted(store, endpoint.as_deref(), allows_http.as_deref(), S3_HTTP)?;
    let mut builder = AmazonS3Builder::new().with_bucket_name(address.host());
    // Before the settings, which go into the same place.
    builder =
        builder.with_client_options(client_options(options, environment)?).with_retry(retries(options, environment)?);
    for (key, value) in found.settings {
        builder = builder.with_config(key, value);
    }
    builder = builder.with_http_connector(Connector(Arc::clone(line)));
    let elsewhere = (region.is_none() && endpoint.is_none()).then(|| builder.clone());
    let client = builder.build().map_err(|error| wrong(store, &error))?;
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    Ok(Client { store: Arc::new(client), who: found.who, region, elsewhere })
}

/// A client of Google's store.
pub(super) fn google(
    address: &Address,
    options: &Options,
    environment: &Environment,
    line: &Arc<Line>,
) -> Result<Client> {
    let store = &address.store;
    let found = credentials::google(options, environment)?;
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(address.host());
    builder =
        builder.with_client_options(client_options(options, environment)?).with_retry(retries(options, environment)?);
    let get = |key: GoogleConfigKey| found.settings.get(&key).cloned();
    let (base, allows_http) = (get(GoogleConfigKey::BaseUrl), get(GoogleConfigKey::Client(ClientConfigKey::AllowHttp)));
    check_encrypted(store, base.as_deref(), allows_http.as_deref(), GOOGLE_HTTP)?;
    for (key, value) in found.settings {
        builder = builder.with_config(key, value);
    }
    if !matches!(found.who, Who::Known(_)) {
        // Without any it would ask the machine's metadata service, to write even where it signs nothing.
        let nobody = GcpCredential { bearer: String::new() };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody))).with_skip_signature(true);
    }
    let client = builder.with_http_connector(Connector(Arc::clone(line))).build();
    let client = client.map_err(|error| wrong(store, &error))?;
    Ok(Client::new(Arc::new(client), found.who))
}

/// A client of Azure's store.
pub(super) fn azure(
    address: &Address,
    options: &Options,
    environment: &Environment,
    line: &Arc<Line>,
) -> Result<Client> {
    let store = &address.store;
    let found = credentials::azure(options, environment)?;
    let is_named = store.contains('@') || found.settings.contains_key(&AzureConfigKey::AccountName);
    if !is_named && !found.settings.contains_key(&AzureConfigKey::UseEmulator) {
        return Err(Error::Setting(format!(
            "{store}: of which account? Set AZURE_STORAGE_ACCOUNT, or OPTIONS ('azure.account_name' ...), or write \
             abfss://container@account.dfs.core.windows.net/..."
        )));
    }
    let get = |key: AzureConfigKey| found.settings.get(&key).map(String::as_str);
    check_encrypted(
        store,
        get(AzureConfigKey::Endpoint),
        get(AzureConfigKey::Client(ClientConfigKey::AllowHttp)),
        AZURE_HTTP,
    )?;
    let mut builder = MicrosoftAzureBuilder::new();
    builder =
        builder.with_client_options(client_options(options, environment)?).with_retry(retries(options, environment)?);
    for (key, value) in found.settings {
        builder = builder.with_config(key, value);
    }
    let client = builder.with_url(store).with_http_connector(Connector(Arc::clone(line))).build();
    let client = client.map_err(|error| wrong(store, &error))?;
    Ok(Client::new(Arc::new(client), found.who))
}

/// What speaks to web servers: a client, and how often it tries.
#[derive(Debug, Clone)]
pub(super) struct Web {
    client: HttpClient,
    pub(super) retries: RetryConfig,
}

/// One client for all addresses of a server.
impl HttpConnector for Web {
    fn connect(&self, _: &ClientOptions) -> datafusion::object_store::Result<HttpClient> {
        Ok(self.client.clone())
    }
}

/// A client of web servers.
pub(super) fn web(address: &Address, options: &Options, environment: &Environment, line: &Arc<Line>) -> Result<Web> {
    // Of the whole answer: a server that gives no parts sends large files in one.
    let mut client = client_options(options, environment)?.with_allow_http(true).with_timeout(LONGEST);
    for (name, value) in options
        .0
        .iter()
        .filter(|(name, _)| !["authorization", "ca_bundle", "max_retries", "retry_timeout"].contains(&name.as_str()))
    {
        let key = name.parse().map_err(|_| Error::Setting(format!("option 'http.{name}' is not known")))?;
        client = client.with_config(key, value);
    }
    if let Some(value) = options.get("authorization") {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            Error::Setting("option 'http.authorization' has characters that no header can have".to_owned())
        })?;
        value.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", value);
        client = client.with_default_headers(headers);
    }
    let client = Connector(Arc::clone(line)).connect(&client).map_err(|error| wrong(&address.store, &error))?;
    Ok(Web { client: HttpClient::new(Lengths(client)), retries: retries(options, environment)? })
}

/// An endpoint without TLS is an error unless somebody allows it: keys are not sent in the clear by mistake.
fn check_encrypted(store: &str, endpoint: Option<&str>, allows: Option<&str>, way: &str) -> Result<()> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let url = url::Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // It may have a password in it.
    let Some(url) = url.filter(|url| url.username().is_empty() && url.password().is_none()) else {
        return Err(Error::Setting(format!("{store}: the endpoint is no address such as https://host:9000")));
    };
    if url.scheme() == "http" && !is_true(allows) {
        return Err(Error::Setting(format!("{store}: the endpoint {endpoint:?} is not encrypted; {way} allows it")));
    }
    Ok(())
}

/// What all clients have: the certificates of somebody's own network.
fn client_options(options: &Options, environment: &Environment) -> Result<ClientOptions> {
    let agent = HeaderValue::from_static(concat!("datafusion-embed/", env!("CARGO_PKG_VERSION")));
    let mut client = ClientOptions::new().with_user_agent(agent);
    if let Some(path) = options.get("ca_bundle").or(environment.get("AWS_CA_BUNDLE")) {
        let wrong = |what: &dyn Display| Error::Setting(format!("certificates {path:?}: {what}"));
        let bundle = std::fs::read(path).map_err(|error| wrong(&error))?;
        let certificates = Certificate::from_pem_bundle(&bundle).map_err(|error| wrong(&error))?;
        if certificates.is_empty() {
            return Err(wrong(&"has no certificate in PEM"));
        }
        client = certificates.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    Ok(client)
}

/// How often and how long a request is tried that fails for no fault of its own.
fn retries(options: &Options, environment: &Environment) -> Result<RetryConfig> {
    // By its own default it gives up after ten tries, which may be a second.
    let mut retries = RetryConfig { max_retries: usize::MAX, ..RetryConfig::default() };
    let number = |name: &str, text: &str| {
        text.trim()
            .parse::<u32>()
            .map_err(|_| Error::Setting(format!("{name} is {text:?}, and has to be a whole number")))
    };
    if let Some(attempts) = environment.get("AWS_MAX_ATTEMPTS") {
        retries.max_retries = number("AWS_MAX_ATTEMPTS", attempts)?.saturating_sub(1) as usize;
    }
    if let Some(most) = options.get("max_retries") {
        retries.max_retries = number("option 'max_retries'", most)? as usize;
    }
    if let Some(seconds) = options.get("retry_timeout") {
        let seconds = seconds.trim().trim_end_matches('s').trim_end();
        retries.retry_timeout = Duration::from_secs(number("option 'retry_timeout' (seconds)", seconds)?.into());
    }
    Ok(retries)
}

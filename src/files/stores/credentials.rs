//! Who we are at a store: OPTIONS, then the environment of the cloud's own tools, then their files, then what machines of the
//! cloud are given, then nobody.
//!
//! What belongs together comes from one source: the token of one is no use with the key of another. The metadata service of a
//! machine is asked only where the machine says that it is the cloud's, or somebody asks for it: elsewhere the question is
//! answered by nobody, after seconds.

use std::collections::HashMap;
use std::hash::Hash;
use std::str::FromStr;

use datafusion::object_store::aws::AmazonS3ConfigKey as S3;
use datafusion::object_store::azure::AzureConfigKey as Azure;
use datafusion::object_store::gcp::GoogleConfigKey as Google;

use super::environment::Environment;
use super::profile::Profile;
use super::settings::Options;
use crate::error::{Error, Result};

/// Who we are at a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// By credentials from here.
    Known(String),
    /// Without credentials: what was looked for in vain, and how to give some.
    Nobody { looked_for: Vec<String>, next: &'static str },
    /// Without credentials, because somebody said so.
    Anonymous,
}

/// What is set in a client, and who we are by it.
#[derive(Debug)]
pub(super) struct Identified<K> {
    pub(super) settings: HashMap<K, String>,
    pub(super) who: Who,
}

impl<K: Eq + Hash + FromStr + Copy> Identified<K> {
    /// Variables of names that no client knows are no concern of ours; options of such names are.
    fn new(
        environment: impl Iterator<Item = (String, String)>,
        options: &Options,
        prefix: &str,
    ) -> Result<(Self, HashMap<K, String>)> {
        let variables = environment.filter_map(|(name, value)| Some((name.to_lowercase().parse().ok()?, value)));
        let settings: HashMap<K, String> = variables.collect();
        let mut stated = HashMap::new();
        for (name, value) in options.0.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            let key = name.parse().or_else(|_| format!("{prefix}_{name}").parse());
            let key = key.map_err(|_| Error::Setting(format!("option '{prefix}.{name}' is not known")))?;
            stated.insert(key, value.clone());
        }
        Ok((Self { settings, who: Who::Anonymous }, stated))
    }

    /// What is stated replaces what belongs together with it, and goes before all else.
    fn state(&mut self, stated: HashMap<K, String>, groups: &[&[K]]) {
        for group in groups.iter().filter(|group| group.iter().any(|key| stated.contains_key(key))) {
            group.iter().for_each(|key| drop(self.settings.remove(key)));
        }
        self.settings.extend(stated);
    }

    fn has(&self, keys: &[K]) -> bool {
        keys.iter().all(|key| self.settings.contains_key(key))
    }
}

/// Settings of every store that are ours, and not object_store's.
const OWN: [&str; 7] =
    ["ca_bundle", "max_retries", "retry_timeout", "profile", "metadata", "authorization", "connection_string"];

fn any<K: Eq + Hash>(stated: &HashMap<K, String>, keys: &[K]) -> bool {
    keys.iter().any(|key| stated.contains_key(key))
}

fn is_true(value: Option<&str>) -> bool {
    value.is_some_and(|value| matches!(value.trim().to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
}

/// Who we are at S3.
pub(super) fn s3(options: &Options, environment: &Environment) -> Result<Identified<S3>> {
    const KEYS: [S3; 3] = [S3::AccessKeyId, S3::SecretAccessKey, S3::Token];
    let variables = environment.starting_with("AWS_").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (mut found, stated) = Identified::new(variables, options, "aws")?;
    let by_options = any(&stated, &KEYS);
    let is_anonymous = is_true(stated.get(&S3::SkipSignature).map(String::as_str));
    let by_environment = found.has(&[S3::AccessKeyId]) || found.has(&[S3::SecretAccessKey]);
    let profile = Profile::read(options.get("profile"), environment)?;
    for (key, name) in [(S3::Region, "region"), (S3::Endpoint, "endpoint_url")] {
        let region = found.has(&[S3::DefaultRegion]) && key == S3::Region;
        if let Some(value) = profile.get(name).filter(|_| !region) {
            found.settings.entry(key).or_insert(value.to_owned());
        }
    }
    let own_profile = options.get("profile").is_some();
    let by_profile = (own_profile || !by_environment) && profile.get("aws_access_key_id").is_some();
    if by_profile {
        KEYS.iter().for_each(|key| drop(found.settings.remove(key)));
        for (key, name) in KEYS.iter().zip(["aws_access_key_id", "aws_secret_access_key", "aws_session_token"]) {
            found.settings.extend(profile.get(name).map(|value| (*key, value.to_owned())));
        }
    }
    // An endpoint of S3 alone goes before one of all services, whoever says it.
    let endpoints = [S3::Endpoint, S3::S3Endpoint];
    found.state(stated, &[&KEYS, &endpoints, &[S3::Region, S3::DefaultRegion]]);
    let web = [S3::WebIdentityTokenFile, S3::RoleArn];
    let container = [S3::ContainerCredentialsFullUri, S3::ContainerAuthorizationTokenFile];
    let is_disabled = is_true(environment.get("AWS_EC2_METADATA_DISABLED"));
    let is_likely =
        environment.is_made_by("amazon ec2") || environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").is_some();
    let asks = is_true(options.get("metadata")) || found.has(&[S3::MetadataEndpoint]) || is_likely && !is_disabled;
    found.who = if is_anonymous || is_true(found.settings.get(&S3::SkipSignature).map(String::as_str)) {
        Who::Anonymous
    } else if by_options {
        Who::Known("OPTIONS".to_owned())
    } else if by_profile {
        Who::Known(format!("AWS profile {:?}", profile.name))
    } else if by_environment {
        Who::Known("AWS_ACCESS_KEY_ID".to_owned())
    } else {
        profile.check()?;
        if found.has(&web) {
            Who::Known("AWS_WEB_IDENTITY_TOKEN_FILE".to_owned())
        } else if found.has(&[S3::ContainerCredentialsRelativeUri]) || found.has(&container) {
            Who::Known("the container (AWS_CONTAINER_CREDENTIALS_...)".to_owned())
        } else if asks {
            Who::Known("the instance's metadata service".to_owned())
        } else {
            let files = format!("profile {:?} in ~/.aws/credentials and ~/.aws/config", profile.name);
            let looked_for =
                ["OPTIONS ('aws.access_key_id' ...)", "AWS_ACCESS_KEY_ID", &files, "web identity", "container"];
            let why =
                if is_disabled { "which AWS_EC2_METADATA_DISABLED turns off" } else { "which is asked on EC2 only" };
            let mut looked_for: Vec<_> = looked_for.map(str::to_owned).into();
            looked_for.push(format!("the instance's metadata service, {why}"));
            Who::Nobody { looked_for, next: "export AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" }
        }
    };
    if !matches!(found.who, Who::Known(_)) {
        found.settings.insert(S3::SkipSignature, "true".to_owned());
    }
    let pair = [S3::AccessKeyId, S3::SecretAccessKey].map(|key| found.has(&[key]));
    if let (Who::Known(from), true) = (&found.who, pair[0] != pair[1]) {
        let missing = if pair[0] { "secret_access_key" } else { "access_key_id" };
        return Err(Error::Setting(format!("credentials of S3 from {from} lack the {missing}")));
    }
    Ok(found)
}

/// Who we are at Google's store.
pub(super) fn google(options: &Options, environment: &Environment) -> Result<Identified<Google>> {
    const KEYS: [Google; 3] = [Google::ServiceAccount, Google::ServiceAccountKey, Google::ApplicationCredentials];
    let variables = environment.starting_with("GOOGLE_").chain(environment.starting_with("SERVICE_ACCOUNT"));
    let (mut found, stated) =
        Identified::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())), options, "google")?;
    let by_options = any(&stated, &KEYS);
    found.state(stated, &[&KEYS]);
    const ADC: &str = ".config/gcloud/application_default_credentials.json";
    let adc = environment.home().map(|home| home.join(ADC)).filter(|file| file.is_file());
    let is_likely = environment.is_made_by("google");
    found.who = if is_true(found.settings.get(&Google::SkipSignature).map(String::as_str)) {
        Who::Anonymous
    } else if by_options {
        Who::Known("OPTIONS".to_owned())
    } else if any(&found.settings, &KEYS) {
        Who::Known("GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT".to_owned())
    } else if adc.is_some() {
        Who::Known(format!("~/{ADC}"))
    } else if is_likely || is_true(options.get("metadata")) {
        Who::Known("the instance's metadata service".to_owned())
    } else {
        let looked_for =
            ["OPTIONS ('google.service_account' ...)", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"];
        let mut looked_for: Vec<_> = looked_for.map(str::to_owned).into();
        looked_for.push(format!("~/{ADC}"));
        looked_for.push("the instance's metadata service, which is asked on Google's machines only".to_owned());
        Who::Nobody {
            looked_for,
            next: "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
        }
    };
    Ok(found)
}

/// Who we are at Azure's store.
pub(super) fn azure(options: &Options, environment: &Environment) -> Result<Identified<Azure>> {
    const KEYS: [Azure; 3] = [Azure::AccessKey, Azure::SasKey, Azure::Token];
    let variables = environment.starting_with("AZURE_").chain(environment.starting_with("IDENTITY_ENDPOINT"));
    // The names of Azure's own command, beside those that object_store knows.
    let own = |name: &str| match name {
        "AZURE_STORAGE_ACCOUNT" => "azure_storage_account_name".to_owned(),
        "AZURE_STORAGE_KEY" => "azure_storage_account_key".to_owned(),
        "IDENTITY_ENDPOINT" => "azure_identity_endpoint".to_owned(),
        name => name.to_owned(),
    };
    let said = options.get("connection_string").or(environment.get("AZURE_STORAGE_CONNECTION_STRING"));
    let from_string = said.map(connection_string).unwrap_or_default();
    let variables = variables.map(|(name, value)| (own(name), value.to_owned()));
    let (mut found, mut stated) = Identified::new(variables, options, "azure")?;
    let place = if options.get("connection_string").is_some() { &mut stated } else { &mut found.settings };
    for (key, value) in from_string {
        place.entry(key).or_insert(value);
    }
    let by_options = any(&stated, &KEYS) || stated.contains_key(&Azure::ClientSecret);
    let secrets = [Azure::ClientId, Azure::ClientSecret, Azure::AuthorityId];
    let group: Vec<Azure> = KEYS.into_iter().chain([Azure::ClientSecret]).collect();
    found.state(stated, &[&group]);
    let set = |key: Azure| is_true(found.settings.get(&key).map(String::as_str));
    let is_likely = environment.is_made_by("7783-7084-3265-9085-8269-3286-77") || found.has(&[Azure::MsiEndpoint]);
    found.who = if set(Azure::SkipSignature) {
        Who::Anonymous
    } else if by_options {
        Who::Known("OPTIONS".to_owned())
    } else if any(&found.settings, &KEYS) || found.has(&secrets) {
        Who::Known("AZURE_STORAGE_... or AZURE_CLIENT_...".to_owned())
    } else if found.has(&[Azure::ClientId, Azure::AuthorityId, Azure::FederatedTokenFile]) {
        Who::Known("AZURE_FEDERATED_TOKEN_FILE".to_owned())
    } else if set(Azure::UseEmulator) {
        Who::Known("the emulator".to_owned())
    } else if set(Azure::UseAzureCli) {
        Who::Known("the command az".to_owned())
    } else if is_likely || is_true(options.get("metadata")) {
        Who::Known("the instance's managed identity".to_owned())
    } else {
        let looked_for = ["OPTIONS ('azure.account_key' ...)", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"];
        let others = [
            "AZURE_STORAGE_CONNECTION_STRING",
            "AZURE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURE_USE_AZURE_CLI",
        ];
        let last = "the instance's managed identity, which is asked on Azure's machines only";
        let looked_for = looked_for.into_iter().chain(others).chain([last]).map(str::to_owned).collect();
        Who::Nobody {
            looked_for,
            next: "export AZURE_STORAGE_ACCOUNT_KEY, or AZURE_USE_AZURE_CLI=true after `az login`",
        }
    };
    if matches!(found.who, Who::Nobody { .. }) {
        found.settings.insert(Azure::SkipSignature, "true".to_owned());
    }
    Ok(found)
}

/// `AccountName=...;AccountKey=...`, as Azure's pages give it.
fn connection_string(text: &str) -> HashMap<Azure, String> {
    let parts: HashMap<String, &str> = text
        .split(';')
        .filter_map(|part| part.split_once('='))
        .map(|(key, value)| (key.trim().to_lowercase(), value.trim()))
        .collect();
    let keys = [
        ("accountname", Azure::AccountName),
        ("accountkey", Azure::AccessKey),
        ("sharedaccesssignature", Azure::SasKey),
        ("blobendpoint", Azure::Endpoint),
    ];
    let mut settings: HashMap<Azure, String> =
        keys.into_iter().filter_map(|(name, key)| Some((key, (*parts.get(name)?).to_owned()))).collect();
    if let (Some(suffix), Some(account), None) =
        (parts.get("endpointsuffix"), parts.get("accountname"), parts.get("blobendpoint"))
    {
        settings.insert(Azure::Endpoint, format!("https://{account}.blob.{suffix}"));
    }
    settings
}

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
    /// Variables of names that no client knows are no concern of ours; options of such names are. Nobody but the address says
    /// `named`: which bucket is meant.
    fn new(
        environment: impl Iterator<Item = (String, String)>,
        options: &Options,
        prefix: &str,
        named: K,
    ) -> Result<(Self, HashMap<K, String>)> {
        let mut settings = HashMap::new();
        for (name, value) in environment {
            match name.to_lowercase().parse() {
                Ok(key) if key != named => drop(settings.insert(key, plain(&name, &value)?)),
                _ => {}
            }
        }
        let mut stated = HashMap::new();
        for (name, value) in options.0.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            let key = name.parse().or_else(|_| format!("{prefix}_{name}").parse());
            let key = key.map_err(|_| Error::Setting(format!("option '{prefix}.{name}' is not known")))?;
            if key == named {
                return Err(Error::Setting(format!("option '{prefix}.{name}': the address says it")));
            }
            stated.insert(key, plain(&format!("option '{prefix}.{name}'"), value)?);
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

    fn is_set(&self, key: K) -> bool {
        is_true(self.settings.get(&key).map(String::as_str))
    }

    fn has(&self, keys: &[K]) -> bool {
        keys.iter().all(|key| self.settings.contains_key(key))
    }
}

/// Settings of every store that are ours, and not object_store's.
const OWN: [&str; 7] =
    ["ca_bundle", "max_retries", "retry_timeout", "profile", "metadata", "authorization", "connection_string"];

/// A value without blanks around it: a line break at the end of a key is of the file that it came from.
fn plain(name: &str, value: &str) -> Result<String> {
    let value = value.trim();
    match value.contains(char::is_control) && !value.starts_with('{') {
        true => Err(Error::Setting(format!("{name} has a line break or another character that cannot be sent"))),
        false => Ok(value.to_owned()),
    }
}

fn any<K: Eq + Hash>(stated: &HashMap<K, String>, keys: &[K]) -> bool {
    keys.iter().any(|key| stated.contains_key(key))
}

pub(super) fn is_true(value: Option<&str>) -> bool {
    value.is_some_and(|value| matches!(value.trim().to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
}

/// A token alone is no use.
const S3_KEYS: [S3; 3] = [S3::AccessKeyId, S3::SecretAccessKey, S3::Token];

/// Who we are at S3.
pub(super) fn s3(options: &Options, environment: &Environment) -> Result<Identified<S3>> {
    // The name that Amazon's own tools have for it.
    let own = |name: String| match name.as_str() {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT" => "AWS_METADATA_ENDPOINT".to_owned(),
        _ => name,
    };
    let variables = environment.starting_with("AWS_").map(|(name, value)| (own(name), value));
    let (mut found, stated) = Identified::new(variables, options, "aws", S3::Bucket)?;
    let profile = Profile::read(options.get("profile"), environment)?;
    let by_options = any(&stated, &S3_KEYS[..2]);
    let by_profile = take_profile(&mut found, &profile, options.get("profile").is_some());
    if options.get("profile").is_some() && !by_profile && !by_options {
        profile.check()?;
        return Err(Error::Setting(format!("AWS profile {:?} has no aws_access_key_id", profile.name)));
    }
    // An endpoint of S3 alone goes before one of all services, whoever says it.
    let endpoints = [S3::Endpoint, S3::S3Endpoint];
    found.state(stated, &[&S3_KEYS, &endpoints, &[S3::Region, S3::DefaultRegion]]);
    found.who = if found.is_set(S3::SkipSignature) {
        Who::Anonymous
    } else if by_options {
        Who::Known("OPTIONS".to_owned())
    } else if by_profile {
        Who::Known(format!("AWS profile {:?}", profile.name))
    } else if any(&found.settings, &S3_KEYS[..2]) {
        Who::Known("AWS_ACCESS_KEY_ID".to_owned())
    } else {
        profile.check()?;
        s3_machine(&found, &profile, options, environment)
    };
    if !matches!(found.who, Who::Known(_)) {
        found.settings.insert(S3::SkipSignature, "true".to_owned());
    }
    match (&found.who, found.has(&[S3::AccessKeyId]), found.has(&[S3::SecretAccessKey])) {
        (Who::Known(from), id, secret) if id != secret => {
            let missing = if id { "secret_access_key" } else { "access_key_id" };
            Err(Error::Setting(format!("credentials of S3 from {from} lack the {missing}")))
        }
        _ => Ok(found),
    }
}

/// Takes what a profile says and the environment does not, and all its keys if it was asked for by name; gives whether the keys are
/// its own.
fn take_profile(found: &mut Identified<S3>, profile: &Profile, is_stated: bool) -> bool {
    for (key, name) in [(S3::Region, "region"), (S3::Endpoint, "endpoint_url")] {
        let is_known = key == S3::Region && found.has(&[S3::DefaultRegion]);
        if let Some(value) = profile.get(name).filter(|_| !is_known) {
            found.settings.entry(key).or_insert(value.to_owned());
        }
    }
    let is_used = is_stated || !any(&found.settings, &S3_KEYS[..2]);
    if !is_used || profile.get("aws_access_key_id").is_none() {
        return false;
    }
    for (key, name) in S3_KEYS.iter().zip(["aws_access_key_id", "aws_secret_access_key", "aws_session_token"]) {
        found.settings.remove(key);
        found.settings.extend(profile.get(name).map(|value| (*key, value.to_owned())));
    }
    true
}

/// What a machine of the cloud is given, or nothing.
fn s3_machine(found: &Identified<S3>, profile: &Profile, options: &Options, environment: &Environment) -> Who {
    let container = [S3::ContainerCredentialsFullUri, S3::ContainerAuthorizationTokenFile];
    let is_disabled = is_true(environment.get("AWS_EC2_METADATA_DISABLED"));
    let is_stated = is_true(options.get("metadata"))
        || options.get("metadata_endpoint").is_some()
        || environment.get("AWS_METADATA_ENDPOINT").is_some();
    let is_likely =
        environment.is_made_by("amazon ec2") || environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").is_some();
    if found.has(&[S3::WebIdentityTokenFile, S3::RoleArn]) {
        return Who::Known("AWS_WEB_IDENTITY_TOKEN_FILE".to_owned());
    }
    if found.has(&[S3::ContainerCredentialsRelativeUri]) || found.has(&container) {
        return Who::Known("the container (AWS_CONTAINER_CREDENTIALS_...)".to_owned());
    }
    if is_stated || is_likely && !is_disabled {
        return Who::Known("the instance's metadata service".to_owned());
    }
    let files = format!("profile {:?} in ~/.aws/credentials and ~/.aws/config", profile.name);
    let why = if is_disabled { "which AWS_EC2_METADATA_DISABLED turns off" } else { "which is asked on EC2 only" };
    let metadata = format!("the instance's metadata service, {why}");
    let looked_for =
        ["OPTIONS ('aws.access_key_id' ...)", "AWS_ACCESS_KEY_ID", &files, "web identity", "container", &metadata];
    Who::Nobody {
        looked_for: looked_for.map(str::to_owned).into(),
        next: "export AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    }
}

/// Who we are at Google's store.
pub(super) fn google(options: &Options, environment: &Environment) -> Result<Identified<Google>> {
    const KEYS: [Google; 3] = [Google::ServiceAccount, Google::ServiceAccountKey, Google::ApplicationCredentials];
    let variables = environment.starting_with("GOOGLE_").chain(environment.starting_with("SERVICE_ACCOUNT"));
    let (mut found, stated) = Identified::new(variables, options, "google", Google::Bucket)?;
    let by_options = any(&stated, &KEYS);
    found.state(stated, &[&KEYS]);
    const ADC: &str = ".config/gcloud/application_default_credentials.json";
    let adc = environment.home().map(|home| home.join(ADC)).filter(|file| file.is_file());
    let is_likely = environment.is_made_by("google");
    found.who = if found.is_set(Google::SkipSignature) {
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
    let own = |name: String| match name.as_str() {
        "AZURE_STORAGE_ACCOUNT" => "azure_storage_account_name".to_owned(),
        "AZURE_STORAGE_KEY" => "azure_storage_account_key".to_owned(),
        "IDENTITY_ENDPOINT" => "azure_identity_endpoint".to_owned(),
        _ => name,
    };
    let said = options.get("connection_string").or(environment.get("AZURE_STORAGE_CONNECTION_STRING"));
    let from_string = said.map(connection_string).unwrap_or_default();
    let variables = variables.map(|(name, value)| (own(name), value));
    let (mut found, mut stated) = Identified::new(variables, options, "azure", Azure::ContainerName)?;
    let place = if options.get("connection_string").is_some() { &mut stated } else { &mut found.settings };
    for (key, value) in from_string {
        place.entry(key).or_insert(value);
    }
    let by_options = any(&stated, &KEYS) || stated.contains_key(&Azure::ClientSecret);
    let secrets = [Azure::ClientId, Azure::ClientSecret, Azure::AuthorityId];
    let group: Vec<Azure> = KEYS.into_iter().chain([Azure::ClientSecret]).collect();
    found.state(stated, &[&group]);
    let is_likely = environment.is_made_by("7783-7084-3265-9085-8269-3286-77") || found.has(&[Azure::MsiEndpoint]);
    found.who = if found.is_set(Azure::SkipSignature) {
        Who::Anonymous
    } else if by_options {
        Who::Known("OPTIONS".to_owned())
    } else if any(&found.settings, &KEYS) || found.has(&secrets) {
        Who::Known("AZURE_STORAGE_... or AZURE_CLIENT_...".to_owned())
    } else if found.has(&[Azure::ClientId, Azure::AuthorityId, Azure::FederatedTokenFile]) {
        Who::Known("AZURE_FEDERATED_TOKEN_FILE".to_owned())
    } else if found.is_set(Azure::UseEmulator) {
        Who::Known("the emulator".to_owned())
    } else if found.is_set(Azure::UseAzureCli) {
        Who::Known("the command az".to_owned())
    } else if is_likely || is_true(options.get("metadata")) {
        Who::Known("the instance's managed identity".to_owned())
    } else {
        azure_nobody()
    };
    if matches!(found.who, Who::Nobody { .. }) {
        found.settings.insert(Azure::SkipSignature, "true".to_owned());
    }
    Ok(found)
}

fn azure_nobody() -> Who {
    let looked_for = [
        "OPTIONS ('azure.account_key' ...)",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_USE_AZURE_CLI",
        "the instance's managed identity, which is asked on Azure's machines only",
    ];
    Who::Nobody {
        looked_for: looked_for.map(str::to_owned).into(),
        next: "export AZURE_STORAGE_KEY, or AZURE_USE_AZURE_CLI=true after `az login`",
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::stores::address::Address;

    fn options(store: &str, said: &[(&str, &str)]) -> Options {
        let address = Address::of(store).expect("known").expect("an address");
        let mut said = said.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Options::take(&mut said, Some(&address)).expect("of this cloud")
    }

    fn from(who: &Who) -> &str {
        match who {
            Who::Known(from) => from,
            Who::Nobody { .. } => "nobody",
            Who::Anonymous => "anonymous",
        }
    }

    #[test]
    fn what_belongs_together_at_s3_comes_from_the_first_that_says_it() {
        const ENVIRONMENT: [(&str, &str); 4] = [
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "e"),
            ("AWS_SESSION_TOKEN", "t"),
            ("AWS_DEFAULT_REGION", "eu"),
        ];
        let of = |said: &[(&str, &str)], variables: &[(&str, &str)]| {
            s3(&options("s3://b", said), &Environment::of(variables, None))
        };
        let found = of(&[], &ENVIRONMENT).expect("whole");
        assert_eq!(from(&found.who), "AWS_ACCESS_KEY_ID");
        assert_eq!(found.settings[&S3::Token], "t");
        let keys = [("aws.access_key_id", "O"), ("aws.secret_access_key", "o"), ("aws.region", "us")];
        let found = of(&keys, &ENVIRONMENT).expect("whole");
        assert_eq!((from(&found.who), found.settings[&S3::AccessKeyId].as_str()), ("OPTIONS", "O"));
        assert!(!found.has(&[S3::Token]) && !found.has(&[S3::DefaultRegion]), "of another source");
        let found = of(&[("aws.endpoint", "https://o")], &[("AWS_ENDPOINT_URL_S3", "https://e")]).expect("whole");
        assert_eq!((found.settings.get(&S3::S3Endpoint), found.settings[&S3::Endpoint].as_str()), (None, "https://o"));
        let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/x"), ("AWS_ROLE_ARN", "r")];
        assert_eq!(from(&of(&[], &web).expect("whole").who), "AWS_WEB_IDENTITY_TOKEN_FILE");
        let ec2 = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://x");
        assert!(from(&of(&[], &[ec2]).expect("whole").who).contains("metadata service"));
        assert_eq!(from(&of(&[], &[ec2, ("AWS_EC2_METADATA_DISABLED", "true")]).expect("whole").who), "nobody");
        for nobody in [&[][..], &[("AWS_SESSION_TOKEN", "t")], &[("TOKEN", "t"), ("REGION", "r")]] {
            let found = of(&[], nobody).expect("whole");
            assert_eq!((from(&found.who), found.settings[&S3::SkipSignature].as_str()), ("nobody", "true"));
        }
        assert_eq!(from(&of(&[("aws.skip_signature", "true")], &ENVIRONMENT).expect("whole").who), "anonymous");
        let message = of(&[("aws.access_key_id", "O")], &ENVIRONMENT).expect_err("half").to_string();
        assert_eq!(message, "credentials of S3 from OPTIONS lack the secret_access_key");
        let message = of(&[("aws.regoin", "eu")], &[]).expect_err("no setting").to_string();
        assert_eq!(message, "option 'aws.regoin' is not known");
    }

    #[test]
    fn google_and_azure_are_known_by_the_names_of_their_own_tools() {
        let nowhere = Environment::of(&[], None);
        assert_eq!(from(&google(&options("gs://b", &[]), &nowhere).expect("whole").who), "nobody");
        let file = Environment::of(&[("GOOGLE_APPLICATION_CREDENTIALS", "/x")], None);
        assert!(from(&google(&options("gs://b", &[]), &file).expect("whole").who).starts_with("GOOGLE_"));
        let found = google(&options("gs://b", &[("gcp.service_account_key", "{}")]), &file).expect("whole");
        assert_eq!((from(&found.who), found.has(&[Google::ApplicationCredentials])), ("OPTIONS", false));
        let of = |said: &[(&str, &str)], variables: &[(&str, &str)]| {
            azure(&options("az://c", said), &Environment::of(variables, None)).expect("whole")
        };
        assert_eq!(from(&of(&[], &[]).who), "nobody");
        let found = of(&[], &[("AZURE_STORAGE_ACCOUNT", "acme"), ("AZURE_STORAGE_KEY", "k==")]);
        assert_eq!(
            (from(&found.who), found.settings[&Azure::AccessKey].as_str()),
            ("AZURE_STORAGE_... or AZURE_CLIENT_...", "k==")
        );
        let string = "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=k==;EndpointSuffix=core.windows.net";
        let found = of(&[("azure.connection_string", string)], &[("AZURE_STORAGE_SAS_TOKEN", "s")]);
        assert_eq!((from(&found.who), found.has(&[Azure::SasKey])), ("OPTIONS", false));
        assert_eq!(found.settings[&Azure::Endpoint], "https://acme.blob.core.windows.net");
        assert_eq!(from(&of(&[("azure.use_azure_cli", "true")], &[]).who), "the command az");
    }
}

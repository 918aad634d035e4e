//! The files of the AWS tools, `~/.aws/credentials` and `~/.aws/config`: what a profile says, as far as it is read here.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use crate::error::{Error, Result};

/// What a profile says: keys in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: String,
    said: BTreeMap<String, String>,
}

impl Profile {
    /// The profile that the environment or a statement names, `default` without; empty where there is no such file.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] for a named profile that is not there, and for a file that cannot be read.
    pub(super) fn read(stated: Option<&str>, environment: &Environment) -> Result<Self> {
        let named = stated.or(environment.get("AWS_PROFILE")).filter(|name| !name.is_empty());
        let name = named.unwrap_or("default").to_owned();
        let credentials = file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let config = file(environment, "AWS_CONFIG_FILE", "config");
        let mut said = BTreeMap::new();
        let mut is_there = false;
        // The credentials go before what the other file says.
        let sections = [(&config, format!("profile {name}")), (&config, name.clone()), (&credentials, name.clone())];
        for (path, section) in sections {
            let Some(text) = path.as_deref().map(text).transpose()?.flatten() else { continue };
            if let Some(found) = section_of(&text, &section) {
                is_there = true;
                said.extend(found);
            }
        }
        if named.is_some() && !is_there {
            let paths: Vec<_> = [credentials, config].into_iter().flatten().map(|path| format!("{path:?}")).collect();
            return Err(Error::Read(format!("AWS profile {name:?} is not in {}", paths.join(" or "))));
        }
        Ok(Self { name, said })
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.said.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// An error for a profile that says how to come by credentials in a way that is not known here.
    pub(super) fn check(&self) -> Result<()> {
        let ways = [
            ("sso_session", "SSO"),
            ("sso_start_url", "SSO"),
            ("role_arn", "a role to assume"),
            ("credential_process", "a program"),
        ];
        match ways.into_iter().find(|(key, _)| self.get(key).is_some()) {
            Some((key, what)) => Err(Error::Read(format!(
                "AWS profile {:?} gets its credentials by {what} ({key}), which is not supported: run `eval \"$(aws configure \
                 export-credentials --profile {} --format env)\"` before, which puts them into the environment",
                self.name, self.name
            ))),
            None => Ok(()),
        }
    }
}

/// Where a file of the tools lies.
fn file(environment: &Environment, variable: &str, name: &str) -> Option<PathBuf> {
    match (environment.get(variable), environment.home()) {
        (Some(path), home) => Some(match (path.strip_prefix("~/"), home) {
            (Some(below), Some(home)) => home.join(below),
            _ => PathBuf::from(path),
        }),
        (None, home) => Some(home?.join(".aws").join(name)),
    }
}

fn text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::Read(format!("file {path:?}: {error}"))),
    }
}

/// The settings of a section; what is set in below another setting, such as `s3 =`, is not read.
fn section_of(text: &str, name: &str) -> Option<BTreeMap<String, String>> {
    let mut lines = text.lines();
    lines.by_ref().find(|line| header(line).is_some_and(|header| header == name))?;
    let (mut settings, mut depth) = (BTreeMap::new(), usize::MAX);
    for line in lines.take_while(|line| header(line).is_none()) {
        let own = line.trim_start();
        let indent = line.len() - own.len();
        if own.is_empty() || own.starts_with(['#', ';']) || indent > depth {
            continue;
        }
        depth = indent;
        let setting =
            own.split_once('=').map(|(key, value)| (key.trim().to_lowercase(), without_comment(value).trim()));
        settings.extend(setting.map(|(key, value)| (key, value.to_owned())));
    }
    Some(settings)
}

fn header(line: &str) -> Option<String> {
    let inside = line.trim().strip_prefix('[')?.split_once(']')?.0;
    Some(inside.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A comment begins after a space; keys have `#` and `;` in them.
fn without_comment(value: &str) -> &str {
    let ends = [" #", " ;", "\t#", "\t;"].into_iter().filter_map(|comment| value.find(comment));
    &value[..ends.min().unwrap_or(value.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(credentials: &str, config: &str, variables: &[(&str, &str)]) -> (tempfile::TempDir, Environment) {
        let home = tempfile::tempdir().expect("a folder");
        fs::create_dir(home.path().join(".aws")).expect("made");
        for (name, text) in [("credentials", credentials), ("config", config)] {
            fs::write(home.path().join(".aws").join(name), text).expect("written");
        }
        let environment = Environment::of(variables, Some(home.path()));
        (home, environment)
    }

    #[test]
    fn a_profile_is_what_both_files_say_of_it() {
        let credentials =
            "[default]\naws_access_key_id = D\n\n[ work ]\r\n; AWS\nAWS_Access_Key_Id=W#1 # mine\r\nregion =\r\n";
        let config = "[default]\nregion = d\n[profile  work]\nregion = w\ns3 =\n  endpoint_url = nested\nendpoint_url = http://x\n";
        let (_home, environment) = with(credentials, config, &[]);
        let default = Profile::read(None, &environment).expect("readable");
        assert_eq!((default.get("aws_access_key_id"), default.get("region")), (Some("D"), Some("d")));
        let work = Profile::read(Some("work"), &environment).expect("there");
        assert_eq!(work.get("aws_access_key_id"), Some("W#1"));
        assert_eq!((work.get("region"), work.get("endpoint_url")), (None, Some("http://x")));
        let indented =
            "[work]\n  aws_access_key_id = W\n\n  s3 =\n    region = nested\n  aws_secret_access_key=S\nregion = w\n";
        let work = section_of(indented, "work").expect("there");
        let settings = ["aws_access_key_id", "aws_secret_access_key", "region"].map(|key| work[key].as_str());
        assert_eq!(settings, ["W", "S", "w"]);
        let elsewhere = [("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/config"), ("AWS_CONFIG_FILE", "/no/such/file")];
        let (_home, environment) = with(credentials, config, &elsewhere);
        assert_eq!(Profile::read(None, &environment).expect("readable").get("region"), Some("d"));
        let (_home, environment) = with(credentials, config, &[("AWS_PROFILE", "play")]);
        let message = Profile::read(None, &environment).expect_err("not there").to_string();
        assert!(message.contains("\"play\" is not in") && message.contains("credentials"), "{message}");
        let nowhere = Environment::of(&[], Some(Path::new("/no/such/home")));
        assert_eq!(Profile::read(None, &nowhere).expect("nothing").get("region"), None);
    }

    #[test]
    fn ways_that_are_not_known_say_what_to_do() {
        for way in ["sso_session = x", "role_arn = x", "credential_process = x"] {
            let (_home, environment) = with("", &format!("[default]\n{way}\n"), &[]);
            let message = Profile::read(None, &environment).expect("there").check().expect_err(way).to_string();
            assert!(message.contains("export-credentials --profile default"), "{message}");
        }
    }
}

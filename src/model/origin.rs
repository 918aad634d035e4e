//! What the name of a model stands for, and from there to its files: the only place that knows every kind of source.

use std::fs;
use std::path::Path;

use url::Url;

#[cfg(feature = "hub")]
use super::hub;
#[cfg(feature = "stores")]
use super::sources::InStore;
use super::sources::{Bundled, Directory, SHORT_NAME, Source, Stored, dangling, is_bundled};
use crate::access::Access;
use crate::error::{Error, Result};
use crate::files::expand_home;
use crate::options::BUNDLED_NAME;

/// What the name of a model stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// The model that is compiled in.
    Bundled,
    /// The model in this directory.
    Directory(String),
    /// The model at this address of a store.
    Address(String),
    /// The model with this id on the hub, `main` where no revision is given.
    Hub { id: String, revision: Option<String> },
}

impl Origin {
    /// What a name stands for: an address, the bundled name, then an existing directory, then a hub id.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where the host does not allow what it stands for, whether the model is there or not: nobody gets to
    /// know which directories there are where none may be used.
    pub(super) fn of(name: &str, access: &Access) -> Result<Self> {
        let local = name.starts_with("file://").then(|| Url::parse(name).ok()?.to_file_path().ok()).flatten();
        if local.is_none() && name.contains("://") {
            return Ok(Self::Address(name.to_owned()));
        }
        let may_be_directory = access.allows_directory(name);
        let full = match local {
            Some(path) => path.to_string_lossy().into_owned(),
            None => full_name(name, may_be_directory),
        };
        if is_bundled(&full) {
            return Ok(Self::Bundled);
        }
        let full = if may_be_directory { expand_home(&full).into_owned() } else { full };
        let path = Path::new(&full);
        if may_be_directory && path.is_dir() {
            return Ok(Self::Directory(full));
        }
        if may_be_directory && path.is_symlink() && !path.exists() {
            return Err(Error::Model(format!("model directory \"{full}\" {}", dangling(path))));
        }
        match hub_id(&full) {
            Some((id, revision)) if access.allows_hub(name) => {
                Ok(Self::Hub { id: id.to_owned(), revision: revision.map(str::to_owned) })
            }
            None if may_be_directory => Err(Error::Model(format!(
                "model \"{full}\" not found (not a bundled name, not a directory, not a hub id owner/name[@revision]); \
                 bundled is \"{BUNDLED_NAME}\", in short \"{SHORT_NAME}\""
            ))),
            _ => Err(access.refused(name)),
        }
    }

    /// The model's files as they are now. What describes a model of the hub is fetched, where that is allowed.
    pub(super) fn open(&self, access: &Access) -> Result<Box<dyn Source>> {
        match self {
            Self::Bundled => Ok(Box::new(Bundled)),
            Self::Directory(name) => Ok(Box::new(Directory::new(name))),
            Self::Address(name) => open_in_store(name, access),
            Self::Hub { id, revision } => open_on_hub(id, revision.as_deref(), access),
        }
    }
}

#[cfg(feature = "hub")]
fn open_on_hub(id: &str, revision: Option<&str>, access: &Access) -> Result<Box<dyn Source>> {
    Ok(Box::new(hub::Commit::open(id, revision, access)?))
}

#[cfg(not(feature = "hub"))]
fn open_on_hub(id: &str, _revision: Option<&str>, _access: &Access) -> Result<Box<dyn Source>> {
    Err(Error::Model(format!(
        "model \"{id}\" is not a bundled name or a directory, and this build cannot reach the hub; \
         build with feature \"hub\", or give a model directory"
    )))
}

#[cfg(feature = "stores")]
fn open_in_store(name: &str, access: &Access) -> Result<Box<dyn Source>> {
    Ok(Box::new(InStore::open(name, access)?))
}

#[cfg(not(feature = "stores"))]
fn open_in_store(name: &str, _access: &Access) -> Result<Box<dyn Source>> {
    Err(Error::Model(format!(
        "model \"{name}\" is at an address, and this build has no stores; build with feature \"stores\""
    )))
}

/// Whether a name can stand for a model, see [`Origin::of`].
pub(crate) fn check_name(name: &str, access: &Access) -> Result<()> {
    Origin::of(name, access).map(drop)
}

/// The models that are here without the network.
pub(crate) fn stored() -> Vec<Stored> {
    #[cfg(feature = "hub")]
    let fetched = hub::stored();
    #[cfg(not(feature = "hub"))]
    let fetched = None;
    #[cfg(feature = "stores")]
    let kept = InStore::stored();
    #[cfg(not(feature = "stores"))]
    let kept = None;
    Bundled::stored().into_iter().chain(fetched).chain(kept).collect()
}

/// The name under which a model is known: the bundled model has a short one too, with or without `@revision`.
///
/// A folder of that very name goes before it, as in sentence-transformers: whoever saved a model of his own under the name of
/// the one that he began with, and stands beside it, means his own.
fn full_name(name: &str, may_be_directory: bool) -> String {
    match name.strip_prefix(SHORT_NAME) {
        Some(rest)
            if (rest.is_empty() || rest.starts_with('@'))
                && !(may_be_directory && fs::symlink_metadata(name).is_ok()) =>
        {
            format!("{BUNDLED_NAME}{rest}")
        }
        _ => name.to_owned(),
    }
}

/// Splits `owner/name[@revision]`; `None` for anything else, a path with dots or more slashes for instance.
fn hub_id(name: &str) -> Option<(&str, Option<&str>)> {
    let (id, revision) = match name.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (name, None),
    };
    let (owner, model) = id.split_once('/')?;
    let is_revision = |text: &str| text.split('/').all(is_word);
    (is_word(owner) && is_word(model) && revision.is_none_or(is_revision)).then_some((id, revision))
}

/// Whether this can be one part of a hub id, and so of a path and of an address.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_owner_and_name() {
        assert_eq!(hub_id("BAAI/bge-small-en-v1.5"), Some(("BAAI/bge-small-en-v1.5", None)));
        assert_eq!(hub_id("a/b@refs/pr/1"), Some(("a/b", Some("refs/pr/1"))));
        for wrong in ["", "x", "./models/x", "../x/y", "/abs/path", "a/b/c", "a/", "/b", "a/b@", "a/b@../c", "a b/c"] {
            assert_eq!(hub_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_unknown_name_says_what_was_looked_for() {
        let message = Origin::of("no-such-model", &Access::local()).expect_err("not there").to_string();
        assert!(message.contains("\"no-such-model\" not found") && message.contains("owner/name"), "{message}");
    }

    #[test]
    fn what_the_host_does_not_allow_is_refused_whether_it_is_there_or_not() {
        const HERE: &str = "tests/fixtures";
        let of = |name: &str, directories, hub| {
            let access = Access::local().with_directories(directories).with_hub(hub);
            Origin::of(name, &access).map_err(|error| error.to_string())
        };
        let on_hub = |id: &str| Ok(Origin::Hub { id: id.to_owned(), revision: None });
        assert_eq!(of(HERE, true, false), Ok(Origin::Directory(HERE.to_owned())));
        // A name is nothing but an id where it cannot be a directory.
        assert_eq!(of(HERE, false, true), on_hub(HERE));
        for name in [HERE, "acme/tiny", "acme/tiny@v1"] {
            let error = of(name, false, false).expect_err("not allowed");
            assert!(
                error.contains(&format!("\"{name}\"")) && error.contains("directories and models of the hub"),
                "{error}"
            );
        }
        for name in ["/etc", "./here", "no-such-model", "..", ""] {
            let error = of(name, false, true).expect_err("not allowed");
            assert!(error.contains(&format!("\"{name}\"")) && error.contains("allow model directories;"), "{error}");
        }
        let error = of("acme/tiny", true, false).expect_err("not allowed");
        assert!(error.contains("allow models of the hub;"), "{error}");
    }

    #[test]
    fn the_hosts_own_model_is_what_it_would_be_without_a_host_that_forbids() {
        let access = Access::local().with_directories(false).with_hub(false);
        for (own, other) in [("tests/fixtures", "tests/fixtures/"), ("acme/tiny", "acme/tiny@v1")] {
            let access = access.clone().with_own_model(own);
            assert_eq!(Origin::of(own, &access), Origin::of(own, &Access::local()));
            assert!(Origin::of(other, &access).is_err(), "{other}");
        }
    }
}

//! What an address says: the cloud, the store, and the path inside.
//!
//! The path of an object is meant as it stands, as all tools of the clouds have it: `s3://b/a%20b` is an object with a percent
//! sign in its name. An address of a web server is a URL, and encoded.

use std::fmt::{self, Display, Formatter};

use datafusion::datasource::listing::ListingTableUrl;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::path::Path;
use sha2::{Digest, Sha256};
use url::Url;

use crate::error::{Error, Result};

/// Who runs a store, and so in which language it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::files) enum Cloud {
    S3,
    Google,
    Azure,
    /// A web server: single files, to read.
    Web,
}

impl Cloud {
    /// By the scheme of an address, in lower case.
    fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" | "s3a" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" | "azure" | "abfs" | "abfss" => Some(Self::Azure),
            "http" | "https" => Some(Self::Web),
            _ => None,
        }
    }

    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::S3 => "S3",
            Self::Google => "Google Cloud Storage",
            Self::Azure => "Azure",
            Self::Web => "HTTP",
        }
    }

    /// How OPTIONS about it begin, before a dot; the first is the one that messages name.
    pub(super) fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["aws", "s3"],
            Self::Google => &["google", "gcp", "gs"],
            Self::Azure => &["azure", "az", "abfs"],
            Self::Web => &["http"],
        }
    }

    pub(super) const ALL: [Self; 4] = [Self::S3, Self::Google, Self::Azure, Self::Web];
}

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::files) struct Address {
    pub(in crate::files) cloud: Cloud,
    /// The store, in the one spelling that it has here: `s3://bucket`, `abfss://container@account.dfs.core.windows.net`.
    pub(in crate::files) store: String,
    /// What stands after the store, without its leading slash.
    pub(in crate::files) path: String,
    /// What a web server is asked for, where the path does not say it: with a query, which may be a signature, or with other
    /// encoded characters than those that have to be. Empty where it does.
    pub(super) request: String,
}

/// Without the query.
impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.path)
    }
}

impl Address {
    /// `None` for a name that is no address of a store: a path, a `file://`, or a scheme that nobody here knows.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] for one that names no store, or has a password in it.
    pub(in crate::files) fn of(name: &str) -> Option<Result<Self>> {
        let (scheme, rest) = name.split_once("://")?;
        let cloud = Cloud::of(&scheme.to_ascii_lowercase())?;
        Some(match cloud {
            Cloud::Web => Self::of_web(name),
            _ => Self::of_cloud(cloud, name, rest),
        })
    }

    fn of_cloud(cloud: Cloud, name: &str, rest: &str) -> Result<Self> {
        let (store, path) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name = |text: &str| {
            let mut letters = text.chars();
            !text.is_empty() && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$'))
        };
        let store = match (cloud, store.split_once('@')) {
            (Cloud::Azure, Some((container, host))) if is_name(container) && is_name(host) => {
                format!("abfss://{container}@{}", host.to_ascii_lowercase())
            }
            (_, None) if is_name(store) => {
                let scheme = if cloud == Cloud::Azure {
                    "az"
                } else if cloud == Cloud::S3 {
                    "s3"
                } else {
                    "gs"
                };
                format!("{scheme}://{store}")
            }
            // What stands there may be a key.
            (_, Some(_)) => return Err(no_credentials(name)),
            _ => {
                let what = if cloud == Cloud::Azure { "container" } else { "bucket" };
                return Err(Error::Read(format!("address {name:?} names no {what}")));
            }
        };
        Ok(Self { cloud, store, path: path.to_owned(), request: String::new() })
    }

    fn of_web(name: &str) -> Result<Self> {
        let wrong = |what: &dyn Display| Error::Read(format!("address {:?}: {what}", without_query(name)));
        let url = Url::parse(name).map_err(|error| wrong(&error))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(no_credentials(name));
        }
        let parts: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
        let path = Path::from_url_path(parts.join("/")).map_err(|error| wrong(&error))?;
        let slash = if url.path().ends_with('/') && !path.as_ref().is_empty() { "/" } else { "" };
        let path = format!("{path}{slash}");
        let mut plain = url.clone();
        plain.set_path(&encoded(&path));
        let is_plain = plain.path() == url.path() && url.query().is_none();
        let request = if is_plain { "" } else { &url[url::Position::BeforePath..url::Position::AfterQuery] };
        let store = url[..url::Position::BeforePath].to_owned();
        Ok(Self { cloud: Cloud::Web, store, path, request: request.to_owned() })
    }

    /// Of a web server: it may be a signature.
    pub(super) fn query(&self) -> &str {
        self.request.split_once('?').map_or("", |(_, query)| query)
    }

    /// What a session's rules are about: the bucket, the container with its account, or the host.
    pub(super) fn host(&self) -> &str {
        host(&self.store)
    }

    /// The store with a mark that tells it from others of the same address, in the place of a password: there DataFusion keeps it.
    pub(super) fn store_with(&self, mark: &str) -> String {
        let (scheme, rest) = self.store.split_once("://").unwrap_or_default();
        let (user, host) = rest.split_once('@').unwrap_or(("", rest));
        format!("{scheme}://{user}:{mark}@{host}")
    }

    /// Whether it can only be a folder.
    pub(in crate::files) fn is_folder(&self) -> bool {
        self.path.is_empty() || self.path.ends_with('/')
    }

    /// The path inside the store.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] for a path with an empty part: object_store has no such names.
    pub(in crate::files) fn key(&self) -> Result<Path> {
        let path = self.path.strip_suffix('/').unwrap_or(&self.path);
        let key = Path::parse(path).map_err(|error| Error::Read(format!("address {:?}: {error}", self.to_string())))?;
        Ok(if self.request.is_empty() { key } else { with_request(&key, &self.request) })
    }

    /// An object of the same store as people know it.
    pub(in crate::files) fn shown(&self, key: &Path) -> String {
        format!("{}/{}", self.store, Self::split_key(key).0)
    }

    /// The path of a web server's file behind its key, and whether something else is asked for.
    pub(in crate::files) fn split_key(key: &Path) -> (Path, bool) {
        let parts: Vec<_> = key.parts().collect();
        let is_mark = |place: &usize| parts[*place].as_ref().starts_with(REQUEST_MARK);
        match parts.len().checked_sub(2).filter(is_mark) {
            Some(place) => {
                (key.parts().enumerate().filter(|(at, _)| *at != place).map(|(_, part)| part).collect(), true)
            }
            None => (key.clone(), false),
        }
    }
}

/// What begins the folder that stands for a request: no path of a URL has it, unless it is encoded.
const REQUEST_MARK: char = '?';

/// Files of one path and other queries are other files. A query is a secret often enough: what stands for it says nothing of it.
fn with_request(path: &Path, request: &str) -> Path {
    let digest = Sha256::digest(request.as_bytes());
    let mark: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let (folder, file) = path.as_ref().rsplit_once('/').unwrap_or(("", path.as_ref()));
    let slash = if folder.is_empty() { "" } else { "/" };
    Path::parse(format!("{folder}{slash}{REQUEST_MARK}{mark}/{file}")).unwrap_or_default()
}

/// A path as part of an address: `set_path` of a URL encodes all but one character.
pub(super) fn encoded(path: impl AsRef<str>) -> String {
    path.as_ref().replace('%', "%25")
}

/// A file or a folder of a store as DataFusion knows it.
pub(in crate::files) fn listing_url(
    store: &ObjectStoreUrl,
    path: &Path,
    is_folder: bool,
) -> datafusion::error::Result<ListingTableUrl> {
    let slash = if is_folder && !path.as_ref().is_empty() { "/" } else { "" };
    let mut url = AsRef::<Url>::as_ref(store).clone();
    url.set_path(&format!("/{}{slash}", encoded(path)));
    ListingTableUrl::try_new(url, None)
}

/// The address of a store as people know it, see [`Address::store_with`].
pub(in crate::files) fn shown_store(url: &Url) -> String {
    let user = if url.username().is_empty() { String::new() } else { format!("{}@", url.username()) };
    format!("{}://{user}{}", url.scheme(), &url[url::Position::BeforeHost..url::Position::AfterPort])
}

/// The part of an address of a store after its scheme, without a port.
pub(super) fn host(store: &str) -> &str {
    let host = store.split_once("://").map_or(store, |(_, host)| host);
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn without_query(name: &str) -> &str {
    name.split(['?', '#']).next().unwrap_or(name)
}

fn no_credentials(name: &str) -> Error {
    let scheme = name.split("://").next().unwrap_or_default();
    Error::Read(format!(
        "an address {scheme}://... with a user or a password in it is not read: statements are kept and shown; give OPTIONS, or \
         set the environment"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling_and_an_object_its_name() {
        let of = |name: &str| {
            let address = Address::of(name).expect("known").expect("an address");
            let (key, is_marked) = Address::split_key(&address.key().expect("a path"));
            assert_eq!(is_marked, !address.request.is_empty(), "{name}");
            (address.cloud, address.store.clone(), key.to_string(), address.request)
        };
        let expected = |cloud, store: &str, key: &str| (cloud, store.to_owned(), key.to_owned(), String::new());
        assert_eq!(of("s3a://b/x/y.parquet"), expected(Cloud::S3, "s3://b", "x/y.parquet"));
        assert_eq!(of("S3://My_Bucket/a%20b #1?.csv"), expected(Cloud::S3, "s3://My_Bucket", "a%20b #1?.csv"));
        assert_eq!(of("gs://b/"), expected(Cloud::Google, "gs://b", ""));
        assert_eq!(of("abfs://c/x"), expected(Cloud::Azure, "az://c", "x"));
        let account = "abfss://c@acme.dfs.core.windows.net";
        assert_eq!(of("abfs://c@Acme.dfs.core.windows.net/x"), expected(Cloud::Azure, account, "x"));
        let web =
            |key: &str, request: &str| (Cloud::Web, "https://h:8443".to_owned(), key.to_owned(), request.to_owned());
        assert_eq!(of("https://H:8443/a%20b.csv?sig=x%2F#top"), web("a b.csv", "/a%20b.csv?sig=x%2F"));
        assert_eq!(of("https://h:8443/a%20b/é.csv"), web("a b/é.csv", ""));
        assert_eq!(of("https://h:8443/a%2Fb.csv"), web("a/b.csv", "/a%2Fb.csv"));
        assert_eq!(of("https://h:8443/a//b%5C.csv"), web("a/b\\.csv", "/a//b%5C.csv"));
        for other in ["x.csv", "file:///x", "ftp://h/x", "a/b://c"] {
            assert!(Address::of(other).is_none(), "{other}");
        }
        assert!(Address::of("s3://b").expect("known").expect("a bucket").is_folder());
    }

    #[test]
    fn what_names_no_store_is_an_error_without_a_password() {
        let wrong = ["s3://", "s3:///x", "s3://a b/x", "gs://u:hush@b/x", "https://u:hush@h/x?hush", "az://a%b/x"];
        for name in wrong.into_iter().chain(["http://?hush", "https://h:hush/", "s3://AK:hush@b"]) {
            let message = Address::of(name).expect("known").expect_err(name).to_string();
            assert!(!message.contains("hush") || name == "https://h:hush/", "{message}");
        }
        Address::of("s3://b/a//b").expect("known").expect("an address").key().expect_err("an empty part");
    }

    #[test]
    fn rules_are_about_names_without_ports() {
        for (store, expected) in [("s3://b", "b"), ("https://h:8443", "h"), ("abfss://c@a.x", "c@a.x")] {
            assert_eq!(host(store), expected);
        }
    }
}

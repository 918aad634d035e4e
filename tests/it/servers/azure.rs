//! Microsoft's store, by azurite.

use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use ring::hmac;

use super::message::{Request, Response};
use super::object::http_date;
use super::process::{Process, installed};
use super::xml::texts;

/// Everybody's, in every azurite.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

const VERSION: &str = "2023-11-03";

pub(crate) struct Azurite(Process);

/// The server that tests share, each with containers of its own; `None` where it is not installed.
pub(crate) fn azurite() -> Option<&'static Azurite> {
    static SHARED: OnceLock<Azurite> = OnceLock::new();
    let program = installed(Azurite::PROGRAM)?;
    Some(SHARED.get_or_init(|| Azurite::run(&program)))
}

impl Deref for Azurite {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl Azurite {
    const PROGRAM: &str = "azurite/node_modules/.bin/azurite-blob";

    fn run(program: &Path) -> Self {
        let place = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"];
        // It knows fewer versions of the protocol than its clients, and would tell its makers of its use.
        let manners = ["--skipApiVersionCheck", "--disableTelemetry", "--silent"];
        Self(Process::start(program, &[place.as_slice(), &manners].concat()))
    }

    /// What a client has in its environment to speak to this address, which may be a proxy's.
    pub(crate) fn variables(url: &str) -> [(&'static str, String); 4] {
        [
            ("AZURE_ENDPOINT", format!("{url}/{ACCOUNT}")),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_owned()),
            ("AZURE_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// A client of a container, at this address.
    pub(crate) fn client(url: &str, container: &str) -> MicrosoftAzure {
        let builder = MicrosoftAzureBuilder::new().with_container_name(container);
        let builder = Self::variables(url).into_iter().fold(builder, |builder, (name, value)| {
            builder.with_config(name.to_ascii_lowercase().parse().expect("a setting"), value)
        });
        builder.build().expect("settings")
    }

    /// The name has three letters at least.
    pub(crate) fn make_container(&self, name: &str) {
        self.ask("PUT", name, &[("restype", "container")], &[]);
    }

    /// From now on whoever has no credentials may list and read.
    pub(crate) fn allow_reading(&self, container: &str) {
        let public = ("x-ms-blob-public-access", "container");
        self.ask("PUT", container, &[("comp", "acl"), ("restype", "container")], &[public]);
    }

    /// In the order of their names.
    pub(crate) fn keys(&self, container: &str) -> Vec<String> {
        self.names(container, &[("comp", "list"), ("restype", "container")])
    }

    /// The keys of blobs that have blocks and were never completed. Nothing aborts them: Azure drops them after a week.
    pub(crate) fn uploads(&self, container: &str) -> Vec<String> {
        let complete = self.keys(container);
        let all = [("comp", "list"), ("include", "uncommittedblobs"), ("restype", "container")];
        self.names(container, &all).into_iter().filter(|name| !complete.contains(name)).collect()
    }

    fn names(&self, container: &str, query: &[(&str, &str)]) -> Vec<String> {
        texts(&String::from_utf8_lossy(&self.ask("GET", container, query, &[]).body), "Name")
    }

    /// Sends a request with the account's signature. The query and the headers are in the order of their names.
    fn ask(&self, method: &str, container: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> Response {
        let path = format!("/{ACCOUNT}/{container}");
        let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let date = http_date(SystemTime::now());
        let headers = [headers, &[("x-ms-date", date.as_str()), ("x-ms-version", VERSION)]].concat();
        let mut signed = format!("{method}{}", "\n".repeat(12));
        signed.extend(headers.iter().map(|(name, value)| format!("{name}:{value}\n")));
        signed += &format!("/{ACCOUNT}{path}");
        signed.extend(query.iter().map(|(name, value)| format!("\n{name}:{value}")));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &from_base64(KEY));
        let signature = to_base64(hmac::sign(&key, signed.as_bytes()).as_ref());
        let request = Request::new(method, &format!("{path}?{}", pairs.join("&")));
        let request = request.with_header("authorization", &format!("SharedKey {ACCOUNT}:{signature}"));
        let request = headers.iter().fold(request, |request, (name, value)| request.with_header(name, value));
        let response = request.send(self.address).expect("azurite answers");
        let said = String::from_utf8_lossy(&response.body);
        assert!(response.status < 300, "{method} {path}: {} {said}", response.status);
        response
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8]) -> String {
    let group = |bytes: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(bytes.get(at).copied().unwrap_or(0)));
        let digit = move |at| char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
        let known = bytes.len() + 1;
        (0..4).map(move |at| if at < known { digit(at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

fn from_base64(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)).collect();
    let group = |digits: &[usize]| {
        let bits = (0..4).fold(0, |bits, at| bits << 6 | digits.get(at).copied().unwrap_or(0));
        let bytes = [16, 8, 0].map(|shift| (bits >> shift & 255) as u8);
        bytes.into_iter().take(digits.len() - 1).collect::<Vec<_>>()
    };
    digits.chunks(4).flat_map(group).collect()
}

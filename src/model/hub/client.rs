//! Requests to a hub. Redirects are followed here: where one leads decides about the token, and the hub's etag is on the
//! first answer.

use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Agent, Body};

use super::environment::{self, Token};
use super::etag::Etag;
use super::failure::Failure;
use crate::error::Error;

/// How long a connection may be silent. Shorter than others wait for a download, so that they see the next try begin.
const SILENCE: Duration = Duration::from_secs(30);

/// A hub and the right to ask it.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

impl Client {
    /// The hub of the environment.
    pub(super) fn new() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("datafusion-embed/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        Self { agent: config.build().into(), endpoint: environment::endpoint(), token: environment::token() }
    }

    /// Address of the description of a revision.
    pub(super) fn description_of(&self, id: &str, revision: &str) -> String {
        format!("{}/api/models/{id}/revision/{}", self.endpoint, revision.replace('/', "%2F"))
    }

    /// Address of a file of a commit.
    pub(super) fn file_of(&self, id: &str, commit: &str, path: &str) -> String {
        format!("{}/{id}/resolve/{commit}/{}", self.endpoint, escaped(path))
    }

    /// The error for a model, or for one file of it, that could not be had from here.
    pub(super) fn error(&self, id: &str, revision: &str, file: Option<&str>, failure: &Failure) -> Error {
        failure.explained(id, revision, file, &self.endpoint, self.token.as_ref())
    }

    /// A JSON answer of the hub.
    pub(super) fn json<T: DeserializeOwned>(&self, url: &str) -> Result<T, Failure> {
        let body = self.ask(&Method::GET, url, 0)?.body_mut().read_to_vec().map_err(Failure::network)?;
        serde_json::from_slice(&body).map_err(Failure::network)
    }

    /// What the hub calls the content of a file.
    pub(super) fn etag(&self, url: &str) -> Result<Etag, Failure> {
        let response = self.ask(&Method::HEAD, url, 0)?;
        // The hub's own hash of a large file, and not the name that the storage behind it has for it.
        let etag = header(&response, "x-linked-etag").or_else(|| header(&response, "etag"));
        etag.and_then(Etag::new).ok_or_else(|| Failure::network("the answer has no etag"))
    }

    /// A file from this byte on.
    pub(super) fn get(&self, url: &str, start: u64) -> Result<Response<Body>, Failure> {
        self.ask(&Method::GET, url, start)
    }

    /// Sends a request, and follows where the hub leads it.
    fn ask(&self, method: &Method, url: &str, start: u64) -> Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..10 {
            let mut request = Request::builder().method(method).uri(&url);
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header("authorization", format!("Bearer {}", token.value));
            }
            let request = request.body(()).map_err(Failure::network)?;
            let response = self.agent.run(request).map_err(Failure::network)?;
            let status = response.status();
            let Some(location) = header(&response, "location").filter(|_| status.is_redirection()) else {
                return if status.is_success() { Ok(response) } else { Err(Failure::Status(status.as_u16())) };
            };
            // Large files lie elsewhere, and only the hub's own answer has their hash.
            let etag = if location.starts_with('/') { "x-linked-etag" } else { "etag" };
            let has_etag = header(&response, "x-linked-etag").or_else(|| header(&response, etag)).is_some();
            if method == Method::HEAD && has_etag {
                return Ok(response);
            }
            url = joined(&url, location);
        }
        Err(Failure::network("the hub redirects without end"))
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Whether an answer begins at this byte; a mirror may send the whole file instead.
pub(super) fn continues(response: &Response<Body>, start: u64) -> bool {
    let begins = |range: &str| range.trim_start_matches("bytes ").split('-').next() == Some(start.to_string().as_str());
    response.status() == StatusCode::PARTIAL_CONTENT && header(response, "content-range").is_none_or(begins)
}

/// A path as part of an address.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Where a `Location` leads.
fn joined(url: &str, location: &str) -> String {
    if location.starts_with("//") {
        let scheme = url.split("//").next().unwrap_or_default();
        format!("{scheme}{location}")
    } else if location.starts_with('/') {
        format!("{}{location}", origin(url))
    } else {
        location.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_it_says() {
        assert_eq!(joined("https://hub/a/b?c", "/d"), "https://hub/d");
        assert_eq!(joined("https://hub/a", "//cdn/d"), "https://cdn/d");
        assert_eq!(joined("https://hub/a", "http://cdn/d"), "http://cdn/d");
        // A host that only looks like the hub's.
        for other in ["https://hub.evil/a", "https://hub@evil/a", "https://hub:444/a", "http://hub/a", "https://hu/a"] {
            assert_ne!(origin(other), origin("https://hub"), "{other}");
        }
    }
}

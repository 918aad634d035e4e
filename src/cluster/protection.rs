//! Who may speak with the processes of a cluster, and whether others can listen: a token that all of them know, and TLS.
//!
//! Ballista (55) makes connections itself and lets others change their endpoints. Of the headers of a request an endpoint has one,
//! the user agent: there the token is, as a hash. TLS is mutual: whoever connects shows a certificate too.

use std::error::Error as StdError;
use std::fmt::{self, Debug, Formatter};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ballista_core::config::BallistaConfig;
use ballista_core::extension::{BallistaConfigGrpcEndpoint, EndpointOverrideFn};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use sha2::{Digest, Sha256};
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::Scheme;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Status};

use super::limits::{CONNECTS, LOST};
use crate::error::{Error, Result};

/// Characters of a token, at least.
const LEAST: usize = 16;

/// The name in all certificates: one that every machine has, so that machines come and go.
const NAME: &str = "embedsql";

/// Before a token in the user agent.
const AGENT: &str = "embedsql/";

/// What the processes of a cluster protect their ports by; by nothing, unless somebody says so. All of them have the same.
#[derive(Clone, Default)]
pub struct Protection {
    /// The hash of the token.
    token: Option<Arc<str>>,
    tls: Option<Arc<Tls>>,
}

struct Tls {
    client: ClientTlsConfig,
    server: ServerTlsConfig,
}

impl Debug for Protection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Protection {{ token: {}, tls: {} }}", self.token.is_some(), self.tls.is_some())
    }
}

impl Protection {
    /// Only who knows the token may ask for anything.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for one of fewer than 16 characters.
    pub fn with_token(self, token: &str) -> Result<Self> {
        let token = token.trim();
        if token.chars().count() < LEAST {
            return Err(Error::Setting(format!("the token of a cluster has to have {LEAST} characters at least")));
        }
        let hash = Sha256::digest(format!("embedsql cluster\0{token}"));
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { token: Some(hash.into()), ..self })
    }

    /// Everything is encrypted, and both ends show certificates for the name `embedsql`, by the same authority: `ca.pem`,
    /// `cert.pem` and `key.pem` of a folder.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] where one of the files cannot be read.
    pub fn with_certificates(self, folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| Error::Setting(format!("file {path:?} of certificates: {error}")))
        };
        let (authority, identity) =
            (Certificate::from_pem(read("ca.pem")?), Identity::from_pem(read("cert.pem")?, read("key.pem")?));
        let client = ClientTlsConfig::new().ca_certificate(authority.clone()).identity(identity.clone());
        let client = client.domain_name(NAME);
        let server = ServerTlsConfig::new().client_ca_root(authority).identity(identity);
        // Now, and not with the first connection.
        let wrong = |error: &(dyn StdError + 'static)| {
            let what = crate::error::innermost(error);
            Error::Setting(format!(
                "folder {folder:?} of certificates: ca.pem, cert.pem or key.pem cannot be used: {what}"
            ))
        };
        Server::builder().tls_config(server.clone()).map_err(|error| wrong(&error))?;
        Endpoint::from_static("https://localhost").tls_config(client.clone()).map_err(|error| wrong(&error))?;
        Ok(Self { tls: Some(Arc::new(Tls { client, server })), ..self })
    }

    /// The hash of the token, for those who have to show it elsewhere.
    pub(super) fn shown(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// Whether what was shown is what has to be: in the same time, however much of it is right.
    pub(super) fn is_met_by(&self, shown: &str) -> bool {
        let Some(token) = &self.token else { return true };
        let differing = token.bytes().zip(shown.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
        shown.len() == token.len() && differing == 0
    }

    /// An endpoint by which others let this process in.
    pub(super) fn endpoint(
        &self,
        endpoint: Endpoint,
    ) -> std::result::Result<Endpoint, Box<dyn StdError + Send + Sync>> {
        let endpoint = match &self.tls {
            Some(tls) => encrypted(endpoint.uri())?.tls_config(tls.client.clone())?,
            None => endpoint,
        };
        // A machine that is gone says so to nobody.
        let endpoint = endpoint.connect_timeout(CONNECTS).keep_alive_while_idle(true);
        let endpoint = endpoint.http2_keep_alive_interval(LOST / 2).keep_alive_timeout(LOST / 2);
        match &self.token {
            Some(token) => Ok(endpoint.user_agent(format!("{AGENT}{token}"))?),
            None => Ok(endpoint),
        }
    }

    /// The same for connections that Ballista makes.
    pub(super) fn endpoints(&self) -> EndpointOverrideFn {
        let protection = self.clone();
        Arc::new(move |endpoint| protection.endpoint(endpoint))
    }

    /// The same for those to results.
    pub(super) fn of_results(&self) -> Arc<BallistaConfigGrpcEndpoint> {
        Arc::new(BallistaConfigGrpcEndpoint::new(self.endpoints()))
    }

    /// A server that speaks as it has to.
    pub(super) fn server(&self, server: Server) -> Result<Server> {
        match &self.tls {
            Some(tls) => {
                server.tls_config(tls.server.clone()).map_err(|error| Error::Setting(format!("certificates: {error}")))
            }
            None => Ok(server),
        }
    }

    /// Lets in who shows the token.
    pub(super) fn check(&self) -> impl Fn(Request<()>) -> std::result::Result<Request<()>, Status> + Clone + use<> {
        let protection = self.clone();
        move |request| match protection.is_met_by(token_in(request.metadata())) {
            true => Ok(request),
            false => Err(Status::unauthenticated(
                "lets in nobody without its token: give that of the cluster by --token-file or EMBEDSQL_TOKEN",
            )),
        }
    }
}

/// An endpoint for the same address, by TLS. Of an endpoint only the address can be read.
fn encrypted(uri: &Uri) -> std::result::Result<Endpoint, Box<dyn StdError + Send + Sync>> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    let config = GrpcClientConfig::from(&BallistaConfig::default());
    Ok(create_grpc_client_endpoint(Uri::from_parts(parts)?, Some(&config))?)
}

/// The hash that somebody shows; a door between may have put its own name behind.
fn token_in(metadata: &MetadataMap) -> &str {
    let agent = metadata.get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    agent.split(' ').find_map(|word| word.strip_prefix(AGENT)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lets_in_and_nothing_else_does() {
        let protection = Protection::default().with_token("sixteen letters!\n").expect("long enough");
        let asked = |agent: &str| {
            let mut request = Request::new(());
            request.metadata_mut().insert("user-agent", agent.parse().expect("a header"));
            protection.check()(request)
        };
        asked(&format!("{AGENT}{} tonic/0.14.9", protection.shown())).expect("the token");
        let other = Protection::default().with_token("sixteen letters?").expect("long enough");
        for agent in ["tonic/0.14.9", AGENT, &protection.shown()[1..], &format!("{AGENT}{}", other.shown())] {
            assert_eq!(asked(agent).expect_err(agent).code(), tonic::Code::Unauthenticated);
        }
        Protection::default().check()(Request::new(())).expect("nothing is asked for");
        Protection::default().with_token("too short").expect_err("a token that can be guessed");
        assert_eq!(format!("{protection:?}"), "Protection { token: true, tls: false }");
    }

    #[test]
    fn certificates_are_looked_at_when_they_are_named() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let error = Protection::default().with_certificates(folder.path()).expect_err("nothing is there");
        assert!(error.to_string().contains("ca.pem"), "{error}");
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            fs::write(folder.path().join(name), "no certificate").expect("written");
        }
        let error = Protection::default().with_certificates(folder.path()).expect_err("no certificates");
        assert!(error.to_string().contains("cannot be used"), "{error}");
        let protection =
            Protection::default().with_certificates(Path::new("tests/fixtures/tls")).expect("certificates");
        let endpoint = protection.endpoint(Endpoint::from_static("http://10.0.0.2:5000")).expect("an endpoint");
        assert_eq!(endpoint.uri().to_string(), "https://10.0.0.2:5000/");
    }
}

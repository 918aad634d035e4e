//! Amazon's store, by moto.

use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;

use object_store::aws::{AmazonS3, AmazonS3Builder};

use super::message::{Request, Response};
use super::process::{Process, installed};
use super::xml::texts;

/// moto looks at who asks, and not at the signature.
const AUTHORIZATION: &str =
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

pub(crate) struct Moto(Process);

/// The server that tests share, each with buckets of its own; `None` where it is not installed.
pub(crate) fn moto() -> Option<&'static Moto> {
    static SHARED: OnceLock<Moto> = OnceLock::new();
    let program = installed(Moto::PROGRAM)?;
    Some(SHARED.get_or_init(|| Moto::run(&program)))
}

impl Deref for Moto {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl Moto {
    const PROGRAM: &str = "moto/bin/moto_server";

    /// A server of its own, for a test that stops or kills it.
    pub(crate) fn start() -> Option<Self> {
        installed(Self::PROGRAM).map(|program| Self::run(&program))
    }

    fn run(program: &Path) -> Self {
        Self(Process::start(program, &["-H", "127.0.0.1", "-p", "0"]))
    }

    /// What a client has in its environment to speak to this address, which may be a proxy's.
    pub(crate) fn variables(url: &str) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", url),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
    }

    /// A client of a bucket, at this address.
    pub(crate) fn client(url: &str, bucket: &str) -> AmazonS3 {
        let builder = AmazonS3Builder::new().with_bucket_name(bucket);
        let builder = Self::variables(url).into_iter().fold(builder, |builder, (name, value)| {
            builder.with_config(name.to_ascii_lowercase().parse().expect("a setting"), value)
        });
        builder.build().expect("settings")
    }

    /// The name has three letters at least.
    pub(crate) fn make_bucket(&self, name: &str) {
        self.ask("PUT", &format!("/{name}"), "");
    }

    /// From now on whoever has no credentials may list and read.
    pub(crate) fn allow_reading(&self, bucket: &str) {
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":["s3:Get*","s3:Head*","s3:List*"],
                "Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]}}]}}"#
        );
        self.ask("PUT", &format!("/{bucket}?policy"), &policy);
    }

    /// In the order of their names, 1000 at most.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        self.texts(&format!("/{bucket}?list-type=2"), "Key")
    }

    pub(crate) fn object(&self, bucket: &str, key: &str) -> Vec<u8> {
        self.ask("GET", &format!("/{bucket}/{key}"), "").body
    }

    /// The keys of multipart uploads that are neither completed nor aborted.
    pub(crate) fn uploads(&self, bucket: &str) -> Vec<String> {
        self.texts(&format!("/{bucket}?uploads"), "Key")
    }

    fn texts(&self, target: &str, element: &str) -> Vec<String> {
        texts(&String::from_utf8_lossy(&self.ask("GET", target, "").body), element)
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Response {
        let request = Request::new(method, target).with_header("authorization", AUTHORIZATION);
        let response = request.with_body(body).send(self.address).expect("moto answers");
        let said = String::from_utf8_lossy(&response.body);
        assert!(response.status < 300, "{method} {target}: {} {said}", response.status);
        response
    }
}

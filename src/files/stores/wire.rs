//! The requests below a client of object_store: what a server says when it refuses, whether it is in trouble, and when one that
//! never answers is given up.
//!
//! object_store tries again by itself, and says nothing until it gives up: after minutes, also where nobody is there. And what it
//! says then is a type that nobody can look into. So the answers are looked at here, where they come in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use datafusion::object_store::ClientOptions;
use datafusion::object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use futures::StreamExt;
use parking_lot::Mutex;

use crate::error::innermost;

/// Tries to reach a server that has not answered yet.
const MOST_TRIES: usize = 3;

const NOT_IMPLEMENTED: u16 = 501;
/// What a server that gives no heads of files says, for one.
pub(super) const NOT_ALLOWED: u16 = 405;

/// Bytes of a refusal that are read: some servers send a page of any length.
const MOST_SAID: usize = 64 << 10;

/// Characters of it that are shown.
const MOST_SHOWN: usize = 300;

/// A server that failed for the last time this long ago is not asked any more.
const PAST: Duration = Duration::from_secs(20);

/// Where machines of the clouds find out who they are.
const METADATA: [&str; 4] = ["169.254.169.254", "169.254.170.2", "[fd00:ec2::254]", "metadata.google.internal"];

tokio::task_local! {
    static HEARD: Arc<Mutex<Heard>>;
}

/// What the other side said last while an operation ran.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// Of an answer that is no success.
    pub(super) status: Option<u16>,
    /// In the words of the cloud, such as `NoSuchBucket`; empty where it says none.
    pub(super) code: String,
    pub(super) message: String,
    /// Why there was no answer.
    pub(super) silence: Option<String>,
    /// Whether a part was asked for and the whole came.
    pub(super) is_whole: bool,
}

/// Runs an operation, and gives what was heard meanwhile.
pub(super) async fn heard<T>(operation: impl Future<Output = T>) -> (T, Heard) {
    let heard = Arc::default();
    let result = HEARD.scope(Arc::clone(&heard), operation).await;
    let heard = heard.lock().clone();
    (result, heard)
}

/// Lets whoever listens hear something.
pub(super) fn note(what: Heard) {
    // Nobody listens where a client renews its credentials by itself.
    let _ = HEARD.try_with(|heard| *heard.lock() = what);
}

/// The line to a store: shared by all its clients.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Since when, when last, and what was said.
    trouble: Mutex<Option<(Instant, Instant, String)>>,
    /// Where the bucket is, once the server has said so.
    region: Mutex<Option<String>>,
}

impl Line {
    /// What the server answers, if it has failed all requests for so long.
    pub(super) fn trouble(&self) -> Option<(Duration, String)> {
        let trouble = self.trouble.lock();
        let (since, _, what) = trouble.as_ref().filter(|(_, last, _)| last.elapsed() < PAST)?;
        Some((since.elapsed(), what.clone()))
    }

    pub(super) fn region(&self) -> Option<String> {
        self.region.lock().clone()
    }

    /// It has answered, or is not asked any more.
    pub(super) fn works(&self) {
        *self.trouble.lock() = None;
    }

    fn fails(&self, what: &str) {
        let mut trouble = self.trouble.lock();
        let since = trouble.as_ref().filter(|(_, last, _)| last.elapsed() < PAST).map(|(since, ..)| *since);
        let now = Instant::now();
        *trouble = Some((since.unwrap_or(now), now, what.to_owned()));
    }
}

/// Makes clients whose requests go over a line.
#[derive(Debug, Clone)]
pub(super) struct Connector(pub(super) Arc<Line>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> datafusion::object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        let (line, has_answered, failures) = (Arc::clone(&self.0), AtomicBool::new(false), AtomicUsize::new(0));
        Ok(HttpClient::new(Wire { client, line, has_answered, failures }))
    }
}

#[derive(Debug)]
struct Wire {
    client: HttpClient,
    line: Arc<Line>,
    has_answered: AtomicBool,
    failures: AtomicUsize,
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_metadata = request.uri().host().is_some_and(|host| METADATA.contains(&host));
        let is_part = request.headers().contains_key("range");
        match self.client.execute(request).await {
            Ok(response) => {
                self.has_answered.store(true, Ordering::Relaxed);
                self.answered(response, is_part).await
            }
            Err(error) => {
                let silence = innermost(&error);
                self.line.fails(&silence);
                note(Heard { silence: Some(silence), ..Heard::default() });
                let is_last = self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_TRIES;
                let is_known = self.has_answered.load(Ordering::Relaxed);
                let gives_up = is_metadata || is_last && !is_known;
                Err(if gives_up { HttpError::new(HttpErrorKind::Unknown, error) } else { error })
            }
        }
    }
}

impl Wire {
    async fn answered(&self, response: HttpResponse, is_part: bool) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = response.into_parts();
        if parts.status.as_u16() == NOT_IMPLEMENTED {
            // Nor will it be when asked again, as other answers of this kind.
            parts.status = NOT_ALLOWED.try_into().unwrap_or(parts.status);
        }
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if let Some(region) = header("x-amz-bucket-region") {
            *self.line.region.lock() = Some(region);
        }
        let status = parts.status.as_u16();
        if parts.status.is_success() {
            self.line.works();
            note(Heard { is_whole: is_part && status == 200, ..Heard::default() });
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let body = beginning(body).await?;
        let text = String::from_utf8_lossy(&body);
        let code = element(&text, "Code").or_else(|| header("x-ms-error-code")).unwrap_or_default();
        let message = element(&text, "Message").unwrap_or_default();
        if parts.status.is_server_error() || matches!(status, 408 | 429) {
            self.line.fails(format!("{status} {code}").trim());
        } else {
            self.line.works();
        }
        note(Heard { status: Some(status), code, message, ..Heard::default() });
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// What a refusal begins with; of a connection that breaks off meanwhile what came.
async fn beginning(body: HttpResponseBody) -> Result<Vec<u8>, HttpError> {
    let (mut bytes, mut pieces) = (Vec::new(), body.bytes_stream());
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() >= MOST_SAID {
            bytes.truncate(MOST_SAID);
            break;
        }
    }
    Ok(bytes)
}

/// The first line in an element of an answer in XML.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = rest.split_once(&format!("</{name}>"))?;
    let line = inside.trim().lines().next()?.trim();
    Some(line[..line.floor_char_boundary(MOST_SHOWN)].to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cloud_says_is_read_from_its_answer() {
        let text = "<Error><Code>NoSuchKey</Code><Message>No.\nRequestId:1</Message><Key/></Error>";
        assert_eq!(element(text, "Code").as_deref(), Some("NoSuchKey"));
        assert_eq!(element(text, "Message").as_deref(), Some("No."));
        for other in ["", "<Code></Code>", "<Code>", "{\"code\": 1}"] {
            assert_eq!(element(other, "Code"), None, "{other}");
        }
    }

    #[test]
    fn trouble_lasts_until_an_answer_comes() {
        let line = Line::default();
        line.fails("503 SlowDown");
        let first = line.trouble().expect("trouble").0;
        std::thread::sleep(Duration::from_millis(2));
        line.fails("no route");
        let (since, what) = line.trouble().expect("trouble");
        assert!(since > first && what == "no route");
        line.works();
        assert_eq!(line.trouble(), None);
    }
}

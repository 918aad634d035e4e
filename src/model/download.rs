//! Requests to a hub, and the way of one file from there into the cache.
//!
//! A file is received beside its place, checked against the hash that the hub gives as its etag, and only then renamed to
//! it: whatever is in the cache is whole, also where a process was killed. The hub's own tools lock the same files, so
//! that of many processes one downloads and the others wait for it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Agent, Body};

/// How long a connection may be silent. Shorter than [`PATIENCE`], so that others see the next try begin.
const SILENCE: Duration = Duration::from_secs(30);

/// How long to wait for another process that downloads the same file and receives nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far the download of one file is, see [`observe_downloads`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Download {
    /// Path of the file inside the model.
    pub file: String,
    /// Bytes received so far.
    pub received: u64,
    /// Bytes of the whole file, where the hub says.
    pub total: Option<u64>,
    /// Whether this is the file's last report.
    pub done: bool,
}

type Observer = Arc<dyn Fn(&Download) + Send + Sync>;

static OBSERVER: RwLock<Option<Observer>> = RwLock::new(None);

/// Calls `observer` while model files come from the hub, from the thread that waits for them: the library itself prints
/// nothing. One observer per process; a later one takes the place of the former.
pub fn observe_downloads(observer: Arc<dyn Fn(&Download) + Send + Sync>) {
    *OBSERVER.write().unwrap_or_else(PoisonError::into_inner) = Some(observer);
}

fn tell(download: &Download) {
    if let Some(observer) = OBSERVER.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
        observer(download);
    }
}

/// Why a request or a download came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The hub said no.
    Status(u16),
    /// The network did not bring what was asked for.
    Network(String),
    /// What came is not what the hub announced.
    Damaged { expected: String, got: String },
    /// Another process has the file for itself, and nothing happens.
    Held,
    /// The cache folder cannot be read or written.
    Cache(io::Error),
}

impl Failure {
    fn network(error: impl fmt::Display) -> Self {
        Self::Network(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Cache(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the hub answered with status {status}"),
            Self::Network(reason) => f.write_str(reason),
            Self::Damaged { expected, got } => {
                write!(f, "what came is damaged, also at the second time: expected hash {expected}, got {got}")
            }
            Self::Held => {
                write!(f, "another process downloads it and has received nothing for {} s", PATIENCE.as_secs())
            }
            Self::Cache(error) => write!(f, "the cache cannot be written: {error}"),
        }
    }
}

/// A secret that says who asks.
pub(crate) struct Token {
    pub(crate) value: String,
    /// Where it was found; the value itself is never shown.
    pub(crate) origin: String,
}

/// A hub and the right to ask it.
pub(crate) struct Client {
    agent: Agent,
    pub(crate) endpoint: String,
    pub(crate) token: Option<Token>,
}

/// One file on the hub, and the folders of the cache that it comes through.
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) url: String,
    pub(crate) blobs: PathBuf,
    pub(crate) locks: PathBuf,
}

impl Client {
    pub(crate) fn new(endpoint: String, token: Option<Token>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here: where a redirect leads decides about the token, and the hub's etag is on the first answer.
            .max_redirects(0)
            .user_agent(concat!("datafusion-embed/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        Self { agent: config.build().into(), endpoint, token }
    }

    /// A JSON answer of the hub.
    pub(crate) fn json<T: DeserializeOwned>(&self, url: &str) -> Result<T, Failure> {
        let body = self.ask(&Method::GET, url, 0)?.body_mut().read_to_vec().map_err(Failure::network)?;
        serde_json::from_slice(&body).map_err(Failure::network)
    }

    /// Brings a file into the cache, from where a download before broke off, and gives its blob.
    pub(crate) fn fetch(&self, source: &Source) -> Result<PathBuf, Failure> {
        let mut pauses = [300, 600, 1200].map(Duration::from_millis).into_iter();
        let mut damaged = false;
        loop {
            let failure = match self.try_fetch(source) {
                Ok(blob) => return Ok(blob),
                Err(failure) => failure,
            };
            match failure {
                // Once more from the first byte; a second time would be the same.
                Failure::Damaged { .. } if !damaged => damaged = true,
                Failure::Network(_) | Failure::Status(408 | 429 | 500..) => match pauses.next() {
                    Some(pause) => thread::sleep(pause),
                    None => return Err(failure),
                },
                _ => return Err(failure),
            }
        }
    }

    fn try_fetch(&self, source: &Source) -> Result<PathBuf, Failure> {
        let etag = self.etag(&source.url)?;
        fs::create_dir_all(&source.blobs)?;
        fs::create_dir_all(&source.locks)?;
        let blob = source.blobs.join(&etag.name);
        let _lock = lock(&source.locks.join(format!("{}.lock", etag.name)), &blob, PATIENCE)?;
        // Of another process, another commit or another tool: looked at once, when it gets its place in this commit.
        if blob.exists() {
            if etag.mismatch(&blob)?.is_none() {
                return Ok(blob);
            }
            fs::remove_file(&blob)?;
        }
        let mut report = Download { file: source.file.to_owned(), received: 0, total: None, done: false };
        let part = part(&blob);
        self.receive(&source.url, &etag, &part, &mut report)?;
        if let Some(got) = etag.mismatch(&part)? {
            fs::remove_file(&part)?;
            return Err(Failure::Damaged { expected: etag.name, got });
        }
        fs::rename(part, &blob)?;
        report.done = true;
        tell(&report);
        Ok(blob)
    }

    /// What the hub calls the content of a file.
    fn etag(&self, url: &str) -> Result<Etag, Failure> {
        let response = self.ask(&Method::HEAD, url, 0)?;
        // The hub's own hash of a large file, and not the name that the storage behind it has for it.
        let etag = header(&response, "x-linked-etag").or_else(|| header(&response, "etag"));
        etag.and_then(Etag::new).ok_or_else(|| Failure::network("the answer has no etag"))
    }

    /// Receives what a part file lacks.
    fn receive(&self, url: &str, etag: &Etag, part: &Path, report: &mut Download) -> Result<(), Failure> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(part)?;
        report.received = file.seek(SeekFrom::End(0))?;
        let response = match self.ask(&Method::GET, url, report.received) {
            // The part has every byte already, or too many: its hash tells.
            Err(Failure::Status(416)) if report.received > 0 && etag.is_hash => return Ok(file.sync_all()?),
            Err(Failure::Status(416)) if report.received > 0 => {
                file.set_len(0)?;
                return Err(Failure::network("the part that is there cannot be continued"));
            }
            answer => answer?,
        };
        if !continues(&response, report.received) {
            file.set_len(0)?;
            report.received = file.seek(SeekFrom::Start(0))?;
        }
        report.total = response.body().content_length().map(|rest| report.received + rest);
        tell(report);
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = body.read(&mut buffer).map_err(Failure::network)?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count])?;
            report.received += count as u64;
            tell(report);
        }
        // What gets the blob's name is on the disk, also where the power goes off.
        Ok(file.sync_all()?)
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
fn continues(response: &Response<Body>, start: u64) -> bool {
    let begins = |range: &str| range.trim_start_matches("bytes ").split('-').next() == Some(start.to_string().as_str());
    response.status() == StatusCode::PARTIAL_CONTENT && header(response, "content-range").is_none_or(begins)
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

/// Where a blob is received.
fn part(blob: &Path) -> PathBuf {
    blob.with_extension("download")
}

/// Takes the lock of a blob, and waits as long as whoever has it goes on.
///
/// The system releases the lock of a process that ends, however it ends.
fn lock(path: &Path, blob: &Path, patience: Duration) -> Result<File, Failure> {
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let mut seen = 0;
    let mut since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A file system without locks: the hash still tells what came out wrong.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) if since.elapsed() >= patience => return Err(Failure::Held),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(100)),
        }
        // This crate's part, and that of the hub's Python tools.
        let now = size(part(blob)) + size(blob.with_extension("incomplete"));
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

/// The hub's name for the content of a file.
#[derive(Debug, PartialEq, Eq)]
struct Etag {
    /// The blob's name in the cache.
    name: String,
    /// Whether the name is a hash of the content; a mirror may have other ideas.
    is_hash: bool,
}

impl Etag {
    fn new(header: &str) -> Option<Self> {
        let text = header.trim_start_matches("W/").trim_matches('"');
        // It becomes a file name, so nothing in it may lead anywhere.
        let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let hex = name.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        let is_hash = hex && matches!(name.len(), 40 | 64) && !header.starts_with("W/");
        (!name.is_empty()).then_some(Self { name, is_hash })
    }

    /// The hash of a file's content where it is not the etag.
    fn mismatch(&self, path: &Path) -> io::Result<Option<String>> {
        if !self.is_hash {
            return Ok(None);
        }
        let file = File::open(path)?;
        let mut hashes = Hashes::new(self.name.len(), file.metadata()?.len());
        io::copy(&mut BufReader::with_capacity(1 << 16, file), &mut hashes)?;
        let got = hashes.finish();
        Ok(if got.contains(&self.name) { None } else { got.into_iter().next() })
    }
}

/// The hashes that an etag may be, computed side by side.
struct Hashes(Vec<Context>);

impl Hashes {
    fn new(digits: usize, length: u64) -> Self {
        if digits == 64 {
            return Self(vec![Context::new(&SHA256)]);
        }
        // Small files are named as git names them; mirrors exist that give the plain hash.
        let mut git = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        git.update(format!("blob {length}\0").as_bytes());
        Self(vec![git, Context::new(&SHA1_FOR_LEGACY_USE_ONLY)])
    }

    fn finish(self) -> Vec<String> {
        let hex = |context: Context| context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.into_iter().map(hex).collect()
    }
}

impl Write for Hashes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.iter_mut().for_each(|hash| hash.update(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_that_is_a_hash_is_checked() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("file");
        fs::write(&path, "hello\n").expect("written");
        // By `git hash-object`, sha256sum and sha1sum.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let sha1 = "f572d396fae9206628714fb2ce00f72e94f2258f";
        let mismatch = |etag: &str| Etag::new(etag).expect("an etag").mismatch(&path).expect("readable");
        for right in [git, sha256, sha1] {
            assert_eq!(mismatch(&format!("\"{right}\"")), None);
        }
        assert_eq!(mismatch(&"0".repeat(40)).as_deref(), Some(git));
        assert_eq!(mismatch(&"0".repeat(64)).as_deref(), Some(sha256));
        for opaque in [&format!("W/\"{}\"", "0".repeat(40)), "\"0123-4\"", &"0".repeat(32), &"g".repeat(40)] {
            assert_eq!(mismatch(opaque), None, "{opaque}");
        }
    }

    #[test]
    fn an_etag_is_a_plain_file_name() {
        assert_eq!(Etag::new("\"../../evil\"").expect("an etag").name, "------evil");
        assert_eq!(Etag::new("W/\"a.b\"").expect("an etag").name, "a-b");
        assert_eq!(Etag::new("\"\""), None);
    }

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

    #[test]
    fn waiting_for_another_process_ends_when_it_does_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, blob) = (directory.path().join("lock"), directory.path().join("blob"));
        let patience = Duration::from_secs(1);
        let held = lock(&path, &blob, patience).expect("free");
        // As long as bytes come, the wait goes on past the patience.
        let begun = Instant::now();
        let part = part(&blob);
        let grow = thread::spawn(move || {
            for length in 1..=15 {
                fs::write(&part, vec![0; length]).expect("written");
                thread::sleep(Duration::from_millis(100));
            }
        });
        assert!(matches!(lock(&path, &blob, patience), Err(Failure::Held)));
        assert!(begun.elapsed() >= 2 * patience, "{:?}", begun.elapsed());
        grow.join().expect("no panic");
        drop(held);
        assert!(lock(&path, &blob, patience).is_ok());
    }
}

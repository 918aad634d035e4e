//! Models by hub id, against a hub on this machine.
//!
//! Where the hub is and where its cache lies is read from the environment, and a model is kept for the life of a process:
//! so each use runs in a process of its own, which is this test binary with [`child`] as its only test.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::{env, thread};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float32Type};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion_embed::observe_downloads;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{register_texts, session};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";
const VECTORS: &str = "SELECT embed(body, 'acme/tiny') FROM texts ORDER BY id";

// ---- The hub ----

/// What a request asked for.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    /// First byte of a `Range`.
    start: Option<usize>,
    /// Last byte of it.
    end: Option<usize>,
    authorization: Option<String>,
}

/// What the hub has, and how it misbehaves.
#[derive(Default)]
struct Content {
    files: BTreeMap<String, Vec<u8>>,
    /// Named in the listing, and served with any content.
    listed: Vec<String>,
    commit: String,
    /// Answers every request with this.
    status: Option<u16>,
    /// Closes the connection after so many bytes of a response with the rest of the weights; for so many responses.
    cut: Option<(usize, usize)>,
    requests: Vec<Request>,
}

/// An HTTP server that answers as the hub does, as far as hf-hub asks.
struct Hub {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
}

impl Hub {
    /// tiny-bert as `acme/tiny`, with files that nobody should fetch.
    fn start() -> Self {
        let mut content = Content { commit: COMMIT.to_owned(), ..Content::default() };
        add_files(&mut content.files, Path::new("tests/fixtures/tiny-bert"), "");
        for unwanted in ["README.md", "pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "a/b/c.json"] {
            content.files.insert(unwanted.to_owned(), b"{}".to_vec());
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let hub = Self { address: listener.local_addr().expect("bound"), content: Arc::new(Mutex::new(content)) };
        let (content, address) = (Arc::clone(&hub.content), hub.address);
        // Ends with the process: a test has few hubs, and an accept cannot be interrupted.
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that went away is its own affair.
                let _ = stream.and_then(|stream| answer(stream, address, &content));
            }
        });
        hub
    }

    fn change(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.content.lock().expect("no panic in the server"));
    }

    /// The requests since the last call.
    fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.content.lock().expect("no panic in the server").requests)
    }
}

fn add_files(files: &mut BTreeMap<String, Vec<u8>>, folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).expect("fixture") {
        let entry = entry.expect("fixture");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            add_files(files, &entry.path(), &format!("{name}/"));
        } else {
            files.insert(name, fs::read(entry.path()).expect("fixture"));
        }
    }
}

/// Reads the head of a request.
fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { path, start: None, end: None, authorization: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value.to_owned()),
            "range" => {
                let (start, end) = value.trim_start_matches("bytes=").split_once('-').unwrap_or_default();
                (request.start, request.end) = (start.parse().ok(), end.parse().ok());
            }
            _ => {}
        }
    }
    Ok(request)
}

fn answer(stream: TcpStream, address: SocketAddr, content: &Mutex<Content>) -> std::io::Result<()> {
    let request = read_request(&stream)?;
    let mut content = content.lock().expect("no panic in the server");
    content.requests.push(request.clone());
    if let Some(status) = content.status {
        return respond(stream, status, "", b"refused", usize::MAX);
    }
    if let Some(revision) = request.path.strip_prefix("/api/models/acme/tiny/revision/") {
        let known = ["main", "v1", &content.commit].contains(&revision);
        let names = content.files.keys().chain(&content.listed);
        let siblings: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
        let body = json!({"id": "acme/tiny", "sha": content.commit, "siblings": siblings}).to_string();
        return respond(stream, if known { 200 } else { 404 }, "", body.as_bytes(), usize::MAX);
    }
    // Large files lie elsewhere: the hub redirects and says there what hf-hub wants to know.
    if let Some(file) = request.path.strip_prefix("/cdn/") {
        return send_file(stream, &request, file, &mut content);
    }
    let file = request.path.strip_prefix("/acme/tiny/resolve/").and_then(|rest| rest.split_once('/'));
    match file {
        Some((_, WEIGHTS)) if content.files.contains_key(WEIGHTS) => {
            let headers = format!(
                "x-repo-commit: {}\r\nx-linked-etag: \"weights\"\r\nlocation: http://{address}/cdn/{WEIGHTS}\r\n",
                content.commit
            );
            respond(stream, 302, &headers, b"", usize::MAX)
        }
        Some((_, file)) => send_file(stream, &request, file, &mut content),
        None => respond(stream, 404, "", b"Repository not found", usize::MAX),
    }
}

/// Sends a file or the part of it that is asked for.
fn send_file(stream: TcpStream, request: &Request, file: &str, content: &mut Content) -> std::io::Result<()> {
    let listed = content.listed.iter().any(|name| name == file).then(|| b"{}".to_vec());
    let Some(bytes) = content.files.get(file).cloned().or(listed) else {
        return respond(stream, 404, "", b"Entry not found", usize::MAX);
    };
    let start = request.start.unwrap_or(0);
    let end = request.end.map_or(bytes.len(), |end| bytes.len().min(end + 1));
    if start >= end {
        return respond(stream, 416, "", b"", usize::MAX);
    }
    let headers = format!(
        "x-repo-commit: {}\r\netag: \"{}\"\r\ncontent-range: bytes {start}-{}/{}\r\n",
        content.commit,
        file.replace(['/', '.'], "-"),
        end - 1,
        bytes.len()
    );
    // Not the request for the first byte alone, by which hf-hub learns the length.
    let mut most = usize::MAX;
    if let (WEIGHTS, None, Some((bytes, times))) = (file, request.end, &mut content.cut)
        && *times > 0
    {
        *times -= 1;
        most = *bytes;
    }
    respond(stream, 206, &headers, &bytes[start..end], most)
}

/// Writes a response, its body cut off after `most` bytes.
fn respond(mut stream: TcpStream, status: u16, headers: &str, body: &[u8], most: usize) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body[..length.min(most)])?;
    stream.flush()
}

// ---- The child ----

/// What the child is asked to do.
#[derive(Serialize, Deserialize)]
struct Task {
    statements: Vec<String>,
    /// Where the answer goes.
    answer: PathBuf,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    /// The last statement's first column, where it is a vector.
    vectors: Vec<Vec<f32>>,
    /// The last statement's rows.
    text: String,
    error: Option<String>,
    /// Every report of a download: file, bytes received, bytes of the file, whether it is the last.
    downloads: Vec<(String, u64, Option<u64>, bool)>,
}

#[test]
#[ignore = "the other tests of this file run it, in a process of its own"]
fn child() {
    let Ok(task) = env::var("HUB_TASK") else { return };
    let task: Task = serde_json::from_str(&task).expect("a task");
    let downloads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&downloads);
    observe_downloads(Arc::new(move |download| {
        let report = (download.file.clone(), download.received, download.total, download.done);
        seen.lock().expect("no panic").push(report);
    }));
    let mut answer = Answer::default();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    match runtime.block_on(run_all(&task.statements)) {
        Ok(batches) => {
            answer.vectors = batches.iter().flat_map(vectors).collect();
            answer.text = pretty_format_batches(&batches).expect("rows").to_string();
        }
        Err(error) => answer.error = Some(error.to_string()),
    }
    answer.downloads = downloads.lock().expect("no panic").clone();
    fs::write(task.answer, serde_json::to_string(&answer).expect("an answer")).expect("written");
}

async fn run_all(statements: &[String]) -> datafusion::error::Result<Vec<RecordBatch>> {
    let ctx = session(2, 8192);
    register_texts(&ctx, &texts(), 50);
    let mut last = Vec::new();
    for statement in statements {
        last = ctx.sql(statement).await?.collect().await?;
    }
    Ok(last)
}

fn texts() -> Vec<Option<String>> {
    let json = fs::read_to_string("tests/fixtures/texts.json").expect("fixture");
    let texts: Vec<String> = serde_json::from_str(&json).expect("a list of texts");
    texts.into_iter().map(Some).collect()
}

fn vectors(batch: &RecordBatch) -> Vec<Vec<f32>> {
    if !matches!(batch.column(0).data_type(), DataType::FixedSizeList(_, _)) {
        return Vec::new();
    }
    let rows = batch.column(0).as_fixed_size_list();
    rows.iter().map(|row| row.expect("no NULL").as_primitive::<Float32Type>().values().to_vec()).collect()
}

/// A user's machine: an environment and a cache folder.
struct Machine {
    home: TempDir,
    endpoint: String,
    variables: Vec<(&'static str, &'static str)>,
}

impl Machine {
    fn new(hub: &Hub) -> Self {
        let home = tempfile::tempdir().expect("temporary directory");
        Self { home, endpoint: format!("http://{}", hub.address), variables: Vec::new() }
    }

    /// The cache folder, deep enough that a way out of it still ends in the temporary directory.
    fn cache(&self) -> PathBuf {
        self.home.path().join("a/b/c/hub")
    }

    /// Runs statements in a new process.
    fn run(&self, statements: &[&str]) -> Answer {
        let answer = self.home.path().join("answer.json");
        let statements = statements.iter().map(|&statement| statement.to_owned()).collect();
        let task = Task { statements, answer: answer.clone() };
        let mut command = Command::new(env::current_exe().expect("this test"));
        command.args(["--exact", "hub::child", "--ignored", "--nocapture"]);
        // Nothing of the machine that runs the tests: no proxy, no token, no other cache.
        command.env_clear().env("HUB_TASK", serde_json::to_string(&task).expect("a task"));
        command.env("HOME", self.home.path()).env("HF_HOME", self.home.path().join("a/b/c"));
        command.env("HF_ENDPOINT", &self.endpoint).envs(self.variables.iter().copied());
        let output = command.output().expect("the child runs");
        let (printed, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{printed}\n{failed}");
        assert_eq!(failed, "", "the library prints nothing (I4)");
        let text = fs::read_to_string(&answer).expect("an answer");
        fs::remove_file(answer).expect("removed");
        serde_json::from_str(&text).expect("an answer")
    }

    /// Runs a query that must fail, and gives its error.
    fn error(&self, statements: &[&str]) -> String {
        let answer = self.run(statements);
        let error = answer.error.unwrap_or_else(|| panic!("{statements:?} gave {}", answer.text));
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }

    /// Every file under the temporary directory, relative to it.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.home.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let inside = path.strip_prefix(self.home.path()).expect("inside");
                    found.push(inside.display().to_string());
                }
            }
        }
        found
    }
}

/// The vectors are those of sentence-transformers.
#[track_caller]
fn assert_oracle(answer: &Answer) {
    assert_eq!(answer.error, None);
    let bytes = fs::read("tests/fixtures/expected.safetensors").expect("fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor("tiny-bert.plain").expect("the fixture has it");
    let expected: Vec<_> = tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let found = answer.vectors.concat();
    assert_eq!(found.len(), expected.len());
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= 1e-5, "differs by {difference}");
}

// ---- The tests ----

#[test]
fn the_first_use_downloads_and_the_second_asks_nothing() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    assert_oracle(&machine.run(&[VECTORS]));
    let paths: Vec<_> = hub.take_requests().into_iter().map(|request| request.path).collect();
    for wanted in ["config.json", "modules.json", "1_Pooling/config.json", WEIGHTS] {
        assert!(paths.iter().any(|path| path.ends_with(&format!("/{wanted}"))), "{wanted} in {paths:?}");
    }
    for unwanted in [".bin", ".py", ".onnx", ".md", "c.json"] {
        assert!(!paths.iter().any(|path| path.ends_with(unwanted)), "{unwanted} in {paths:?}");
    }
    // The commit is fixed when the model is found: a push in the meantime cannot mix two versions.
    assert!(paths.iter().filter(|path| path.contains("/resolve/")).all(|path| path.contains(COMMIT)), "{paths:?}");

    assert_oracle(&machine.run(&[VECTORS]));
    let requests = hub.take_requests();
    assert!(requests.is_empty(), "{requests:?}");

    let models =
        machine.run(&[VECTORS, "SELECT model, source, revision, rows_embedded > 0 AS used FROM embed_models()"]);
    let row = models.text.lines().nth(3).expect("a row").replace(' ', "");
    assert_eq!(row, format!("|acme/tiny|hub|{COMMIT}|true|"));
}

#[test]
fn a_revision_is_pinned() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    for revision in ["v1", COMMIT] {
        let query = format!("SELECT embed(body, 'acme/tiny@{revision}') FROM texts ORDER BY id");
        assert_oracle(&machine.run(&[&query]));
        hub.take_requests();
        assert_oracle(&machine.run(&[&query]));
        let requests = hub.take_requests();
        assert!(requests.is_empty(), "{revision}: {requests:?}");
    }
    // main has moved on; what is pinned has not.
    hub.change(|content| content.commit = "f".repeat(40));
    let query = format!("SELECT embed('x', 'acme/tiny@{COMMIT}')");
    let revision = machine.run(&[&query, "SELECT revision FROM embed_models()"]).text;
    assert!(revision.contains(COMMIT), "{revision}");
    let error = machine.error(&["SELECT embed('x', 'acme/tiny@v9')"]);
    assert!(error.contains("model \"acme/tiny@v9\"") && error.contains("no such model or revision"), "{error}");
}

#[test]
fn offline_uses_the_cache_and_nothing_else() {
    let hub = Hub::start();
    let mut machine = Machine::new(&hub);
    let set = ["SET embed.offline = true", VECTORS];
    let said = ["model \"acme/tiny@main\" is not in the cache", "HF_HUB_OFFLINE", "or give a model directory"];
    let cold = machine.error(&set);
    assert!(said.iter().all(|part| cold.contains(part)), "{cold}");
    machine.variables.push(("HF_HUB_OFFLINE", "1"));
    let cold = machine.error(&[VECTORS]);
    assert!(said.iter().all(|part| cold.contains(part)), "{cold}");
    let requests = hub.take_requests();
    assert!(requests.is_empty(), "{requests:?}");

    machine.variables.clear();
    assert_oracle(&machine.run(&[VECTORS]));
    hub.take_requests();
    assert_oracle(&machine.run(&set));
    machine.variables.push(("HF_HUB_OFFLINE", "1"));
    assert_oracle(&machine.run(&[VECTORS]));
    let requests = hub.take_requests();
    assert!(requests.is_empty(), "{requests:?}");
}

#[test]
fn offline_without_the_weights_names_them() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    assert_eq!(machine.run(&["EXPLAIN SELECT embed(body, 'acme/tiny') FROM texts"]).error, None);
    let error = machine.error(&["SET embed.offline = true", VECTORS]);
    assert!(error.contains("model \"acme/tiny@") && error.contains("model.safetensors is not in the cache"), "{error}");
    assert!(error.contains("embed.offline"), "{error}");
}

#[test]
fn offline_counts_from_the_moment_it_is_set() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    let plan = "EXPLAIN SELECT embed(body, 'acme/tiny') FROM texts";
    let error = machine.error(&[plan, "SET embed.offline = true", VECTORS]);
    assert!(error.contains("model.safetensors is not in the cache"), "{error}");
    assert!(!hub.take_requests().iter().any(|request| request.path.ends_with(WEIGHTS)), "no weights were fetched");
    // And the other way round.
    assert_oracle(&machine.run(&["SET embed.offline = true", plan, "SET embed.offline = false", VECTORS]));
}

#[test]
fn a_small_file_that_is_missing_in_the_cache_is_fetched_again() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    assert_oracle(&machine.run(&[VECTORS]));
    hub.take_requests();
    let prompts = "config_sentence_transformers.json";
    let cached = machine.files().into_iter().find(|file| file.contains("snapshots") && file.ends_with(prompts));
    fs::remove_file(machine.home.path().join(cached.expect("cached"))).expect("removed");
    assert_oracle(&machine.run(&[VECTORS]));
    assert!(hub.take_requests().iter().any(|request| request.path.ends_with(prompts)));
}

#[test]
fn planning_fetches_no_weights() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    assert_eq!(machine.run(&["EXPLAIN SELECT embed(body, 'acme/tiny') FROM texts"]).error, None);
    let paths: Vec<_> = hub.take_requests().into_iter().map(|request| request.path).collect();
    assert!(!paths.is_empty() && !paths.iter().any(|path| path.ends_with(WEIGHTS)), "{paths:?}");
    // The weights come when they are needed, and nothing else does again.
    assert_oracle(&machine.run(&[VECTORS]));
    let requests = hub.take_requests();
    let again = requests.iter().filter(|request| request.path.ends_with(".json")).count();
    assert_eq!(again, 0, "{requests:?}");
}

#[test]
fn downloads_are_reported() {
    let hub = Hub::start();
    let answer = Machine::new(&hub).run(&[VECTORS]);
    assert_oracle(&answer);
    let size = fs::metadata("tests/fixtures/tiny-bert/model.safetensors").expect("fixture").len();
    let weights: Vec<_> = answer.downloads.iter().filter(|(file, ..)| file == WEIGHTS).collect();
    assert!(weights.windows(2).all(|pair| pair[0].1 <= pair[1].1), "received goes up: {weights:?}");
    assert!(weights.iter().all(|(_, received, total, _)| *total == Some(size) && *received <= size), "{weights:?}");
    assert_eq!(weights.last(), Some(&&(WEIGHTS.to_owned(), size, Some(size), true)));
    assert_eq!(weights.iter().filter(|(.., done)| *done).count(), 1, "{weights:?}");
    for file in ["config.json", "modules.json", "tokenizer.json"] {
        assert!(answer.downloads.iter().any(|(name, .., done)| name == file && *done), "{file} is reported");
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let hub = Hub::start();
    let mut machine = Machine::new(&hub);
    let error = machine.error(&["SELECT embed('x', 'acme/other')"]);
    assert!(error.contains("model \"acme/other@main\"") && error.contains("no such model or revision"), "{error}");
    machine.variables.push(("HF_TOKEN", "hf_SecretValue"));
    for status in [401, 403] {
        hub.change(|content| content.status = Some(status));
        let error = machine.error(&[VECTORS]);
        assert!(error.contains("acme/tiny") && error.contains("token") && error.contains("HF_TOKEN"), "{error}");
        assert!(!error.contains("hf_SecretValue"), "{error}");
    }
    let requests = hub.take_requests();
    let sent = requests.iter().filter(|request| request.authorization.as_deref() == Some("Bearer hf_SecretValue"));
    assert_eq!(sent.count(), 2, "{requests:?}");
    hub.change(|content| content.status = Some(503));
    let error = machine.error(&[VECTORS]);
    assert!(error.contains("503") && error.contains("try again"), "{error}");
    // Nothing of the failures stays.
    hub.change(|content| content.status = None);
    assert_oracle(&machine.run(&[VECTORS]));
}

#[test]
fn a_hub_that_is_not_there() {
    let hub = Hub::start();
    let mut machine = Machine::new(&hub);
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    machine.endpoint = format!("http://{closed}");
    let error = machine.error(&["SELECT embed('x', 'acme/tiny')"]);
    assert!(error.contains("model \"acme/tiny@main\"") && error.contains("hub could not be reached"), "{error}");
    assert!(error.contains("model directory"), "{error}");
    // The name of the bundled model needs no hub.
    #[cfg(feature = "bundled-model")]
    assert_eq!(machine.run(&["SELECT embed('x')"]).error, None);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    hub.change(|content| content.cut = Some((10_000, usize::MAX)));
    let error = machine.error(&[VECTORS]);
    assert!(error.contains("model \"acme/tiny@") && error.contains("\": model.safetensors"), "{error}");
    assert!(error.contains("try again"), "{error}");
    assert!(!machine.files().iter().any(|file| file.contains("snapshots") && file.ends_with(WEIGHTS)));
    hub.take_requests();
    // The first answer of the next use fails at once, before a byte came.
    hub.change(|content| content.cut = Some((0, 1)));
    assert_oracle(&machine.run(&[VECTORS]));
    let requests = hub.take_requests();
    let starts: Vec<_> =
        requests.iter().filter(|request| request.path.starts_with("/cdn/") && request.end.is_none()).collect();
    assert!(starts.iter().all(|request| request.start >= Some(10_000)), "not from the beginning: {starts:?}");
    // And one that breaks off once is not noticed at all.
    let machine = Machine::new(&hub);
    hub.change(|content| content.cut = Some((50_000, 1)));
    assert_oracle(&machine.run(&[VECTORS]));
}

#[test]
fn weights_that_can_run_code_are_not_fetched() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    hub.change(|content| drop(content.files.remove(WEIGHTS)));
    let error = machine.error(&[VECTORS]);
    assert!(error.contains("only pytorch_model.bin found") && error.contains("convert it with"), "{error}");
    assert!(!hub.take_requests().iter().any(|request| request.path.ends_with(".bin")));
    hub.change(|content| drop(content.files.remove("pytorch_model.bin")));
    let error = Machine::new(&hub).error(&[VECTORS]);
    assert!(error.contains("model.safetensors not found"), "{error}");
}

#[test]
fn a_listing_cannot_write_outside_the_cache() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    let names = ["../evil.json", "../../../../evil.json", "x/../../evil.json", "/evil.json", "..", "a/../evil.json"];
    hub.change(|content| content.listed = names.map(str::to_owned).into());
    assert_oracle(&machine.run(&[VECTORS]));
    let inside = machine.cache().strip_prefix(machine.home.path()).expect("inside").join("models--acme--tiny");
    for file in machine.files() {
        assert!(Path::new(&file).starts_with(&inside) && !file.contains("evil"), "{file}");
    }
    hub.change(|content| content.commit = "../../../evil".to_owned());
    let error = Machine::new(&hub).error(&[VECTORS]);
    assert!(error.contains("is not a commit"), "{error}");
}

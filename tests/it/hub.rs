//! Models by hub id, against a hub on this machine.
//!
//! Where the hub is and where its cache lies is read from the environment, and a model is kept for the life of a process:
//! so each use runs in a process of its own, which is this test binary with [`child`] as its only test.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{env, thread};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float32Type};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion_embed::{Access, EmbedOptions, Event, register_as};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use crate::servers::faults::{Fault, Gate, Harm};
use crate::servers::message::{Request, Response};
use crate::servers::object::Object;
use crate::servers::server::{Entry, Server};
use crate::support::{register_texts, session};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";
/// By sha256sum and `git hash-object`.
const WEIGHTS_HASH: &str = "cf17e4966e04388d397c13403b8436e7a80ecaa268786a6dc805a0a1f6b5d599";
const CONFIG_HASH: &str = "6aa9a0aa898ea0e6409b6dc565c97807a2651e3e";
/// Redirected to a path of the hub's own, as a model is that was renamed.
const MOVED: &str = "1_Pooling/config.json";
/// Where the storage has the large files.
const CDN: &str = "/cdn/";
const PLAN: &str = "EXPLAIN SELECT embed(body, 'acme/tiny') FROM texts";
const VECTORS: &str = "SELECT embed(body, 'acme/tiny') FROM texts ORDER BY id";

// ---- The hub ----

/// What the hub has.
#[derive(Default)]
struct Content {
    files: BTreeMap<String, Vec<u8>>,
    /// Named in the listing, and served with any content.
    listed: Vec<String>,
    commit: String,
    /// Changes a byte of so many files that are sent.
    damage: usize,
    /// Whether the etags are those of the hub, and not a mirror's own.
    hashes: bool,
}

/// Answers as the hub does, as far as this crate asks.
struct Hub {
    server: Server,
    /// Large files lie on another host.
    storage: Server,
    content: Arc<Mutex<Content>>,
}

impl Hub {
    /// tiny-bert as `acme/tiny`, with files that nobody should fetch.
    fn start() -> Self {
        let mut content = Content { commit: COMMIT.to_owned(), hashes: true, ..Content::default() };
        add_files(&mut content.files, Path::new("tests/fixtures/tiny-bert"), "");
        for unwanted in ["README.md", "pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "a/b/c.json"] {
            content.files.insert(unwanted.to_owned(), b"{}".to_vec());
        }
        let content = Arc::new(Mutex::new(content));
        let [of_hub, of_storage] = [(); 2].map(|()| Arc::clone(&content));
        let storage = Server::start(move |request| lock(&of_storage).file(request, CDN));
        let url = storage.url();
        let server = Server::start(move |request| lock(&of_hub).answer(request, &url));
        Self { server, storage, content }
    }

    fn change(&self, change: impl FnOnce(&mut Content)) {
        change(&mut lock(&self.content));
    }

    /// Nothing but this goes wrong with the bytes of the weights.
    fn harm_weights(&self, fault: Fault) {
        self.storage.clear_faults();
        self.storage.add_fault(fault.on("GET"));
    }

    /// Waits until the hub was asked so many times whether it has the weights.
    #[track_caller]
    fn wait_for_heads(&self, times: usize) {
        let is_head = |entry: &&Entry| entry.method == "HEAD" && entry.target.ends_with(WEIGHTS);
        wait_until(|| self.server.requests().iter().filter(is_head).count() >= times);
    }

    /// The requests since the last call.
    fn take_requests(&self) -> Vec<Entry> {
        [self.server.take_requests(), self.storage.take_requests()].concat()
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().expect("no panic in the server")
}

#[track_caller]
fn wait_until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not happen");
        thread::sleep(Duration::from_millis(20));
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

impl Content {
    fn answer(&mut self, request: &Request, storage: &str) -> Response {
        let path = request.path();
        if let Some(revision) = path.strip_prefix("/api/models/acme/tiny/revision/") {
            let known = ["main", "v1", &self.commit].contains(&revision);
            let names = self.files.keys().chain(&self.listed);
            let siblings: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
            let body = json!({"id": "acme/tiny", "sha": self.commit, "siblings": siblings}).to_string();
            return Response::new(if known { 200 } else { 404 }, body);
        }
        match path.strip_prefix("/acme/tiny/resolve/").and_then(|rest| rest.split_once('/')) {
            // Large files lie elsewhere: the hub redirects, and only here says what their hash is.
            Some((_, WEIGHTS)) if self.files.contains_key(WEIGHTS) => Response::new(302, "")
                .with_header("x-linked-etag", &self.etag(WEIGHTS))
                .with_header("location", &format!("{storage}{CDN}{WEIGHTS}")),
            Some((_, MOVED)) => Response::new(307, "").with_header("location", &format!("/moved/{MOVED}")),
            Some((revision, _)) => self.file(request, &format!("/acme/tiny/resolve/{revision}/")),
            None if path.starts_with("/moved/") => self.file(request, "/moved/"),
            None => Response::new(404, "Repository not found"),
        }
    }

    fn etag(&self, file: &str) -> String {
        match file {
            WEIGHTS if self.hashes => format!("\"{WEIGHTS_HASH}\""),
            "config.json" if self.hashes => format!("\"{CONFIG_HASH}\""),
            _ => format!("W/\"{}\"", file.replace(['/', '.'], "-")),
        }
    }

    /// The file behind a prefix of the path, or the part of it that is asked for.
    fn file(&mut self, request: &Request, prefix: &str) -> Response {
        let file = request.path().strip_prefix(prefix).unwrap_or_default();
        let listed = self.listed.iter().any(|name| name == file).then(|| b"{}".to_vec());
        let Some(bytes) = self.files.get(file).cloned().or(listed) else { return Response::new(404, "") };
        let mut object = Object::new(bytes);
        // The storage has a name of its own for what it stores.
        object.etag = if prefix == CDN { "\"5d41402abc4b2a76b9719d911017c592\"".to_owned() } else { self.etag(file) };
        let mut response = object.answer(request);
        let is_checked = [WEIGHTS, "config.json"].contains(&file) && request.method == "GET";
        if is_checked
            && self.damage > 0
            && let Some(last) = response.body.last_mut()
        {
            self.damage -= 1;
            *last ^= 1;
        }
        response
    }
}

/// Whether a request asks for the bytes of the weights.
fn brings_weights(entry: &Entry) -> bool {
    entry.method == "GET" && entry.target.starts_with(CDN)
}

/// The first byte that it asks for.
fn start(entry: &Entry) -> usize {
    let range = entry.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    range.map_or(0, |start| start.parse().expect("a number"))
}

// ---- The child ----

/// What the child is asked to do.
#[derive(Serialize, Deserialize)]
struct Task {
    statements: Vec<String>,
    /// Sessions that run them at once, each in a thread of its own.
    sessions: usize,
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
    /// What the library warned of.
    warnings: Vec<String>,
}

#[test]
#[ignore = "the other tests of this file run it, in a process of its own"]
fn child() {
    let Ok(task) = env::var("HUB_TASK") else { return };
    let task: Task = serde_json::from_str(&task).expect("a task");
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let access = Access::default().with_events(move |event| sink.lock().expect("no panic").push(event.clone()));
    let mut answer = Answer::default();
    for result in run_in_sessions(&task, &access) {
        match result {
            Ok(batches) => {
                answer.vectors = batches.iter().flat_map(vectors).collect();
                answer.text = pretty_format_batches(&batches).expect("rows").to_string();
            }
            Err(error) => answer.error = Some(error.to_string()),
        }
    }
    for event in told.lock().expect("no panic").drain(..) {
        match event {
            Event::Download(of) => answer.downloads.push((of.file, of.received, of.total, of.done)),
            Event::ModelWarning(warning) => answer.warnings.push(warning),
            other => panic!("{other:?}"),
        }
    }
    fs::write(task.answer, serde_json::to_string(&answer).expect("an answer")).expect("written");
}

/// What came of the statements in each session.
fn run_in_sessions(task: &Task, access: &Access) -> Vec<datafusion::error::Result<Vec<RecordBatch>>> {
    let barrier = Barrier::new(task.sessions);
    let one = || {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        barrier.wait();
        runtime.block_on(run_all(&task.statements, access))
    };
    thread::scope(|scope| {
        let sessions: Vec<_> = (0..task.sessions).map(|_| scope.spawn(one)).collect();
        sessions.into_iter().map(|session| session.join().expect("no panic")).collect()
    })
}

async fn run_all(statements: &[String], access: &Access) -> datafusion::error::Result<Vec<RecordBatch>> {
    let ctx = session(2, 8192);
    register_as(&ctx, EmbedOptions::default(), access.clone())?;
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
    variables: Vec<(&'static str, String)>,
}

impl Machine {
    fn new(hub: &Hub) -> Self {
        let home = tempfile::tempdir().expect("temporary directory");
        Self { home, endpoint: hub.server.url(), variables: Vec::new() }
    }

    /// The cache folder, deep enough that a way out of it still ends in the temporary directory.
    fn cache(&self) -> PathBuf {
        self.home.path().join("a/b/c/hub")
    }

    /// Runs statements in a new process.
    fn run(&self, statements: &[&str]) -> Answer {
        self.begin(statements).finish()
    }

    /// Starts a process that runs statements.
    fn begin(&self, statements: &[&str]) -> Running {
        self.begin_sessions(statements, 1)
    }

    /// Starts a process that runs statements in so many sessions at once.
    fn begin_sessions(&self, statements: &[&str], sessions: usize) -> Running {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let answer = self.home.path().join(format!("answer-{}.json", COUNT.fetch_add(1, Ordering::Relaxed)));
        let statements = statements.iter().map(|&statement| statement.to_owned()).collect();
        let task = Task { statements, sessions, answer: answer.clone() };
        let mut command = Command::new(env::current_exe().expect("this test"));
        command.args(["--exact", "hub::child", "--ignored", "--nocapture"]);
        // Nothing of the machine that runs the tests: no proxy, no token, no other cache.
        command.env_clear().env("HUB_TASK", serde_json::to_string(&task).expect("a task"));
        command.env("HOME", self.home.path()).env("HF_HOME", self.home.path().join("a/b/c"));
        command.env("HF_ENDPOINT", &self.endpoint);
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running { process: command.spawn().expect("the child runs"), answer }
    }

    /// The one file in the cache whose path has this in it.
    fn cached(&self, what: &str) -> Option<PathBuf> {
        let file = self.files().into_iter().find(|file| file.contains(what));
        file.map(|file| self.home.path().join(file))
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

/// A process that runs statements.
struct Running {
    process: Child,
    answer: PathBuf,
}

impl Running {
    fn finish(self) -> Answer {
        let output = self.process.wait_with_output().expect("the child ran");
        let (printed, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{printed}\n{failed}");
        assert_eq!(failed, "", "the library prints nothing (I4)");
        let text = fs::read_to_string(&self.answer).expect("an answer");
        fs::remove_file(self.answer).expect("removed");
        serde_json::from_str(&text).expect("an answer")
    }

    fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ended");
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
    let paths: Vec<_> = hub.take_requests().into_iter().map(|request| request.target).collect();
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
    machine.variables.push(("HF_HUB_OFFLINE", "1".to_owned()));
    let cold = machine.error(&[VECTORS]);
    assert!(said.iter().all(|part| cold.contains(part)), "{cold}");
    let requests = hub.take_requests();
    assert!(requests.is_empty(), "{requests:?}");

    machine.variables.clear();
    assert_oracle(&machine.run(&[VECTORS]));
    hub.take_requests();
    assert_oracle(&machine.run(&set));
    machine.variables.push(("HF_HUB_OFFLINE", "1".to_owned()));
    assert_oracle(&machine.run(&[VECTORS]));
    let requests = hub.take_requests();
    assert!(requests.is_empty(), "{requests:?}");
}

#[test]
fn offline_without_the_weights_names_them() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    assert_eq!(machine.run(&[PLAN]).error, None);
    let error = machine.error(&["SET embed.offline = true", VECTORS]);
    assert!(error.contains("model \"acme/tiny@") && error.contains("tokenizer.json is not in the cache"), "{error}");
    assert_oracle(&machine.run(&[VECTORS]));
    fs::remove_file(machine.cached(&format!("{COMMIT}/{WEIGHTS}")).expect("cached")).expect("removed");
    let error = machine.error(&["SET embed.offline = true", VECTORS]);
    assert!(error.contains("model \"acme/tiny@") && error.contains("model.safetensors is not in the cache"), "{error}");
    assert!(error.contains("embed.offline"), "{error}");
}

#[test]
fn offline_counts_from_the_moment_it_is_set() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    let error = machine.error(&[PLAN, "SET embed.offline = true", VECTORS]);
    assert!(error.contains("tokenizer.json is not in the cache"), "{error}");
    assert!(!hub.take_requests().iter().any(|request| request.target.ends_with(WEIGHTS)), "no weights were fetched");
    // And the other way round.
    assert_oracle(&machine.run(&["SET embed.offline = true", PLAN, "SET embed.offline = false", VECTORS]));
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
    assert!(hub.take_requests().iter().any(|request| request.target.ends_with(prompts)));
}

/// The bytes of a file that is there.
fn length(path: PathBuf) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[test]
fn planning_fetches_no_weights() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    for query in [PLAN, "SELECT embed(body, 'acme/tiny') FROM texts LIMIT 0"] {
        assert_eq!(machine.run(&[query]).error, None);
    }
    let paths: Vec<_> = hub.take_requests().into_iter().map(|request| request.target).collect();
    let large = |path: &String| [WEIGHTS, "tokenizer.json"].iter().any(|file| path.ends_with(file));
    assert!(!paths.is_empty() && !paths.iter().any(large), "{paths:?}");
    let size: u64 = machine.files().iter().map(|file| machine.home.path().join(file)).map(length).sum();
    assert!(size < 8192, "{size} bytes in the cache");
    // The weights come when they are needed, and nothing else does again.
    assert_oracle(&machine.run(&[VECTORS]));
    let requests = hub.take_requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| large(&request.target)), "{requests:?}");
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
    for (status, file) in [(401, None), (403, None), (401, Some(MOVED)), (403, Some(MOVED))] {
        // The description of a gated model is there for everybody, and its files are not.
        hub.server.clear_faults();
        hub.server.add_fault(Fault::status(status).at(if file.is_some() { "/resolve/" } else { "/" }));
        machine.variables.clear();
        let error = machine.error(&[VECTORS]);
        let said = [
            "\"acme/tiny@",
            file.unwrap_or("main"),
            "gated or private, or the name is wrong",
            "set HF_TOKEN",
            "hf auth login",
        ];
        assert!(said.iter().all(|part| error.contains(part)), "{error}");
        machine.variables.push(("HF_TOKEN", "hf_SecretValue".to_owned()));
        let error = machine.error(&[VECTORS]);
        let page = format!("ask for access on {}/acme/tiny", machine.endpoint);
        assert!(error.contains("the token from HF_TOKEN was refused") && error.contains(&page), "{error}");
        assert!(!error.contains("hf_SecretValue"), "{error}");
    }
    hub.server.clear_faults();
    hub.server.add_fault(Fault::status(503));
    let error = machine.error(&[VECTORS]);
    assert!(error.contains("503") && error.contains("try again"), "{error}");
    // Nothing of the failures stays.
    hub.server.clear_faults();
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

/// Where the requests for the weights since the last call begin.
fn starts(hub: &Hub) -> Vec<usize> {
    let requests = hub.take_requests();
    requests.iter().filter(|request| brings_weights(request)).map(start).collect()
}

#[test]
fn a_token_goes_to_the_hub_and_to_nobody_else() {
    let hub = Hub::start();
    let mut machine = Machine::new(&hub);
    let home = machine.home.path().to_owned();
    fs::create_dir_all(home.join("a/b/c")).expect("created");
    fs::write(home.join("a/b/c/token"), "hf_home\n").expect("written");
    fs::write(home.join("elsewhere"), "hf_path\n").expect("written");
    let path = home.join("elsewhere").display().to_string();
    let variables = [("HF_TOKEN", " hf_variable\n".to_owned()), ("HF_TOKEN_PATH", path)];
    for (number, token) in ["hf_variable", "hf_path", "hf_home"].iter().enumerate() {
        machine.variables = variables[number..].to_vec();
        // The token has its place whatever cache is used.
        machine.variables.push(("HF_HUB_CACHE", home.join(token).display().to_string()));
        assert_oracle(&machine.run(&[VECTORS]));
        let requests = hub.take_requests();
        assert!(requests.iter().any(brings_weights) && requests.iter().any(|r| r.target.starts_with("/moved/")));
        for request in requests {
            let expected = (!request.target.starts_with(CDN)).then(|| format!("Bearer {token}"));
            assert_eq!(request.authorization, expected, "{}", request.target);
        }
    }
}

#[test]
fn what_came_is_checked_against_its_hash() {
    let hub = Hub::start();
    for file in ["config.json", WEIGHTS] {
        let machine = Machine::new(&hub);
        hub.change(|content| content.damage = if file == WEIGHTS { 0 } else { usize::MAX });
        if file == WEIGHTS {
            assert_eq!(machine.run(&[PLAN]).error, None);
            hub.change(|content| content.damage = usize::MAX);
        }
        let error = machine.error(&[VECTORS]);
        let hash = if file == WEIGHTS { WEIGHTS_HASH } else { CONFIG_HASH };
        let said = [&format!("\": {file}: "), "damaged", &format!("expected hash {hash}, got "), "model directory"];
        assert!(said.iter().all(|part| error.contains(part)), "{error}");
        // Nothing of it stays.
        let here = machine.files();
        let left =
            |name: &String| name.ends_with(&format!("{COMMIT}/{file}")) || name.contains(&format!("blobs/{hash}"));
        assert!(!here.iter().any(left), "{here:?}");
        // A second time is enough where it was chance.
        hub.take_requests();
        hub.change(|content| content.damage = 1);
        assert_oracle(&machine.run(&[VECTORS]));
        if file == WEIGHTS {
            assert_eq!(starts(&hub), [0, 0]);
        }
    }
    // A mirror's own etags say nothing of the content, and are no error.
    hub.change(|content| content.hashes = false);
    assert_oracle(&Machine::new(&hub).run(&[VECTORS]));
}

#[test]
fn what_a_killed_process_left_is_checked_too() {
    let hub = Hub::start();
    let weights = fs::read("tests/fixtures/tiny-bert/model.safetensors").expect("fixture");
    let wrong = vec![7; 1000];
    let long = [weights.as_slice(), b"more"].concat();
    let (end, no_requests) = (weights.len(), Vec::<usize>::new());
    let cases = [
        // Killed before the last byte had its place: nothing is sent again, and what is there is right.
        (weights.clone(), vec![end]),
        (weights[..50_000].to_vec(), vec![50_000]),
        // Something else: begun again.
        (wrong, vec![1000, 0]),
        (long, vec![end + 4, 0]),
    ];
    for (left, expected) in cases {
        let machine = Machine::new(&hub);
        let blobs = machine.cache().join("models--acme--tiny/blobs");
        fs::create_dir_all(&blobs).expect("created");
        fs::write(blobs.join(format!("{WEIGHTS_HASH}.download")), left).expect("written");
        assert_oracle(&machine.run(&[VECTORS]));
        assert_eq!(starts(&hub), expected);
        assert!(machine.cached(".download").is_none());
        // A file whose place in the commit is lost is not fetched again, but looked at.
        fs::remove_file(machine.cached(&format!("{COMMIT}/{WEIGHTS}")).expect("cached")).expect("removed");
        assert_oracle(&machine.run(&[VECTORS]));
        assert_eq!(starts(&hub), no_requests);
        fs::remove_file(machine.cached(&format!("{COMMIT}/{WEIGHTS}")).expect("cached")).expect("removed");
        fs::write(blobs.join(WEIGHTS_HASH), "short").expect("written");
        assert_oracle(&machine.run(&[VECTORS]));
        assert_eq!(starts(&hub), [0]);
    }
    // A mirror that sends whole files only.
    hub.harm_weights(Fault::new(Harm::Cut(30_000)).times(1));
    hub.storage.add_fault(Fault::new(Harm::WholeFiles));
    assert_oracle(&Machine::new(&hub).run(&[VECTORS]));
    assert_eq!(starts(&hub), [0, 30_000]);
}

#[test]
fn of_two_processes_one_downloads() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    let gate = Gate::default();
    hub.harm_weights(Fault::new(Harm::Hold(gate.clone())));
    let first = machine.begin(&[VECTORS]);
    wait_until(|| hub.storage.requests().iter().any(brings_weights));
    let second = machine.begin(&[VECTORS]);
    hub.wait_for_heads(2);
    // Longer than anybody tries who does not wait.
    thread::sleep(Duration::from_secs(8));
    gate.open();
    assert_oracle(&first.finish());
    let answer = second.finish();
    assert_oracle(&answer);
    assert!(!answer.downloads.iter().any(|(file, ..)| file == WEIGHTS), "{:?}", answer.downloads);
    assert_eq!(starts(&hub), [0]);
}

#[test]
fn many_sessions_of_one_process_open_a_new_model_at_once() {
    let hub = Hub::start();
    for _ in 0..5 {
        let machine = Machine::new(&hub);
        assert_oracle(&machine.begin_sessions(&[VECTORS], 8).finish());
        assert!(machine.cached(".part").is_none() && machine.cached(".download").is_none(), "{:?}", machine.files());
        assert_eq!(starts(&hub), [0]);
    }
}

#[test]
fn a_process_that_is_killed_leaves_its_download_to_the_next() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    let gate = Gate::default();
    hub.harm_weights(Fault::new(Harm::Hold(gate.clone())));
    let half = length("tests/fixtures/tiny-bert/model.safetensors".into()) / 2;
    let first = machine.begin(&[VECTORS]);
    wait_until(|| machine.cached(".download").is_some_and(|part| length(part) == half));
    let second = machine.begin(&[VECTORS]);
    hub.wait_for_heads(2);
    first.kill();
    gate.open();
    assert_oracle(&second.finish());
    assert_eq!(starts(&hub), [0, usize::try_from(half).expect("small")]);
}

#[test]
fn many_processes_at_once_agree() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    let running: Vec<_> = (0..4).map(|_| machine.begin(&[VECTORS])).collect();
    running.into_iter().for_each(|process| assert_oracle(&process.finish()));
    assert_eq!(starts(&hub), [0]);
    assert!(machine.cached(".part").is_none() && machine.cached(".download").is_none(), "{:?}", machine.files());
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    hub.harm_weights(Fault::new(Harm::Cut(10_000)));
    let error = machine.error(&[VECTORS]);
    assert!(error.contains("model \"acme/tiny@") && error.contains("\": model.safetensors"), "{error}");
    assert!(error.contains("try again"), "{error}");
    assert!(!machine.files().iter().any(|file| file.contains("snapshots") && file.ends_with(WEIGHTS)));
    assert_eq!(starts(&hub), [0, 10_000, 20_000, 30_000]);
    // The first answer of the next use fails at once, before a byte came.
    hub.harm_weights(Fault::new(Harm::Cut(0)).times(1));
    assert_oracle(&machine.run(&[VECTORS]));
    assert_eq!(starts(&hub), [40_000, 40_000], "not from the beginning");
    // And one that breaks off once is not noticed at all.
    let machine = Machine::new(&hub);
    hub.harm_weights(Fault::new(Harm::Cut(50_000)).times(1));
    assert_oracle(&machine.run(&[VECTORS]));
}

#[test]
fn weights_that_can_run_code_are_not_fetched() {
    let hub = Hub::start();
    let machine = Machine::new(&hub);
    hub.change(|content| drop(content.files.remove(WEIGHTS)));
    let error = machine.error(&[VECTORS]);
    assert!(error.contains("only pytorch_model.bin found") && error.contains("convert it with"), "{error}");
    assert!(!hub.take_requests().iter().any(|request| request.target.ends_with(".bin")));
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
    let cache = machine.cache().strip_prefix(machine.home.path()).expect("inside").to_owned();
    let inside = ["", ".locks"].map(|folder| cache.join(folder).join("models--acme--tiny"));
    for file in machine.files() {
        assert!(inside.iter().any(|folder| Path::new(&file).starts_with(folder)) && !file.contains("evil"), "{file}");
    }
    hub.change(|content| content.commit = "../../../evil".to_owned());
    let error = Machine::new(&hub).error(&[VECTORS]);
    assert!(error.contains("is not a commit"), "{error}");
}

// ---- Caches that another tool filled ----

/// Everything that this crate reads of tiny-bert.
const ALL: [&str; 8] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    WEIGHTS,
    "modules.json",
    MOVED,
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
];

impl Machine {
    /// A machine on which another tool fetched some files of tiny-bert.
    #[cfg(unix)]
    fn filled(hub: &Hub, files: &[&str]) -> Self {
        let machine = Self::new(hub);
        let repo = machine.repo();
        fs::create_dir_all(repo.join("refs")).expect("created");
        fs::create_dir_all(repo.join("blobs")).expect("created");
        fs::write(repo.join("refs/main"), COMMIT).expect("written");
        for file in files {
            let (blob, place) = (machine.blob(file), machine.snapshot().join(file));
            fs::create_dir_all(place.parent().expect("a folder")).expect("created");
            fs::copy(Path::new("tests/fixtures/tiny-bert").join(file), &blob).expect("copied");
            std::os::unix::fs::symlink(&blob, place).expect("linked");
        }
        machine
    }

    fn repo(&self) -> PathBuf {
        self.cache().join("models--acme--tiny")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    fn blob(&self, file: &str) -> PathBuf {
        self.repo().join("blobs").join(file.replace('/', "-"))
    }

    /// The mark of the hub's own tools that the commit has no such file.
    fn mark_missing(&self, file: &str) {
        let mark = self.repo().join(".no_exist").join(COMMIT).join(file);
        fs::create_dir_all(mark.parent().expect("a folder")).expect("created");
        fs::write(mark, "").expect("written");
    }

    fn go_offline(&mut self) {
        self.variables.push(("HF_HUB_OFFLINE", "1".to_owned()));
    }
}

/// What an error has to say of a file that nobody knows to be missing: both ways out.
#[cfg(unix)]
#[track_caller]
fn assert_ways_out(machine: &Machine, file: &str, error: &str) {
    let folder = machine.snapshot().display().to_string();
    let said = [&format!("\": {file} "), "embedsql models pull acme/tiny)", folder.as_str(), "read as it stands"];
    assert!(said.iter().all(|part| error.contains(part)), "{file}: {error}");
}

#[cfg(unix)]
#[test]
fn what_another_tool_fetched_in_part_is_completed_or_refused() {
    let hub = Hub::start();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    for missing in ALL.into_iter().filter(|file| *file != WEIGHTS) {
        let files: Vec<_> = ALL.into_iter().filter(|file| *file != missing).collect();
        let mut machine = Machine::filled(&hub, &files);
        assert_ways_out(&machine, missing, &machine.error(&["SET embed.offline = true", VECTORS]));
        machine.endpoint = format!("http://{nobody}");
        let error = machine.error(&[VECTORS]);
        assert_ways_out(&machine, missing, &error);
        assert!(error.contains("could not be reached"), "{error}");
        machine.endpoint = hub.server.url();
        assert_oracle(&machine.run(&[VECTORS]));
        // From now on it is whole.
        machine.go_offline();
        assert_oracle(&machine.run(&[VECTORS]));
    }
    // One that is whole needs nobody.
    let mut machine = Machine::filled(&hub, &ALL);
    machine.endpoint = format!("http://{nobody}");
    assert_oracle(&machine.run(&[VECTORS]));
    machine.go_offline();
    assert_oracle(&machine.run(&[VECTORS]));
}

#[cfg(unix)]
#[test]
fn a_model_is_known_to_have_no_modules_by_a_mark_or_as_a_directory() {
    let hub = Hub::start();
    let mut machine = Machine::filled(&hub, &["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS]);
    machine.go_offline();
    assert_ways_out(&machine, "modules.json", &machine.error(&[VECTORS]));
    let directory = format!("SELECT embed(body, '{}') FROM texts ORDER BY id", machine.snapshot().display());
    let as_directory = machine.run(&[&directory, &directory]);
    machine.mark_missing("modules.json");
    let marked = machine.run(&[VECTORS, VECTORS]);
    for answer in [&as_directory, &marked] {
        assert_eq!(answer.error, None);
        let warning = answer.warnings.first().expect("a warning");
        assert!(warning.contains("no modules.json: pooled by mean"), "{warning}");
        assert_eq!(answer.warnings.len(), 1, "{:?}", answer.warnings);
    }
    assert_eq!(as_directory.vectors, marked.vectors);
    // A whole model warns of nothing.
    assert_eq!(Machine::new(&hub).run(&[VECTORS]).warnings, Vec::<String>::new());
}

#[cfg(unix)]
#[test]
fn a_link_in_the_cache_that_leads_nowhere_is_mended_or_refused() {
    let hub = Hub::start();
    for gone in ALL {
        let mut machine = Machine::filled(&hub, &ALL);
        fs::remove_file(machine.blob(gone)).expect("removed");
        machine.go_offline();
        let error = machine.error(&[VECTORS]);
        assert_ways_out(&machine, gone, &error);
        assert!(error.contains("is a link to ") && error.contains("which is not there"), "{error}");
        machine.variables.clear();
        assert_oracle(&machine.run(&[VECTORS]));
        // Its own list of the commit does not make it whole again.
        fs::remove_file(fs::canonicalize(machine.snapshot().join(gone)).expect("a blob")).expect("removed");
        machine.go_offline();
        assert_ways_out(&machine, gone, &machine.error(&[VECTORS]));
    }
}

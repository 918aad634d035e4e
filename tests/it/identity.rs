//! A model is the bytes of its files: vectors are kept under the bytes that they were computed from, and what is no plain file
//! is an error at once.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use datafusion_embed::models;
use tempfile::TempDir;

use crate::support::{copy_folder, count, offline, run, session, vectors_by_id};

pub(crate) const WEIGHTS: &str = "model.safetensors";
const OTHER: &str = "tests/fixtures/architectures/electra";

/// A copy of tiny-bert that no other test has.
pub(crate) struct Model(pub(crate) TempDir);

impl Model {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        copy_folder(Path::new("tests/fixtures/tiny-bert"), folder.path());
        Self(folder)
    }

    /// The same files in a place where nobody looked before, as a new process would see them.
    fn again(&self) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        copy_folder(self.0.path(), folder.path());
        Self(folder)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The vector of a text.
    pub(crate) async fn vector(&self, ctx: &SessionContext, text: &str) -> Vec<u32> {
        let model = self.0.path().display();
        let sql = format!("SELECT 1::BIGINT, embed(column1, '{model}') FROM (VALUES ('{text}'))");
        let found = vectors_by_id(ctx, &sql).await;
        found.into_values().flatten().next().expect("a vector")
    }

    /// The vector without any cache, by somebody who never saw the model.
    async fn truth(&self, text: &str) -> Vec<u32> {
        self.again().vector(&session(1, 100), text).await
    }
}

/// How people replace a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// Another file takes the name.
    Renamed,
    /// The same file gets other bytes.
    InPlace,
    /// And looks as old and as long as before.
    InSecret,
}

const WAYS: [Way; 3] = [Way::Renamed, Way::InPlace, Way::InSecret];

/// Other weights of the same shape: every byte of the last layers but the exponents.
pub(crate) fn change(path: &Path, way: Way) {
    let mut bytes = fs::read(path).expect("weights");
    let length = bytes.len();
    bytes[length - 20_000..].chunks_mut(4).for_each(|float| float[2] ^= 0x55);
    write(path, &bytes, way);
}

fn write(path: &Path, bytes: &[u8], way: Way) {
    let before = fs::metadata(path).expect("file").modified().expect("a time");
    if let Way::Renamed = way {
        let part = path.with_extension("part");
        fs::write(&part, bytes).expect("written");
        return fs::rename(part, path).expect("renamed");
    }
    let mut file = OpenOptions::new().write(true).open(path).expect("file");
    file.seek(SeekFrom::Start(0)).expect("start");
    file.write_all(bytes).expect("written");
    if let Way::InSecret = way {
        file.set_modified(before).expect("a time");
    }
}

pub(crate) async fn set_cache(ctx: &SessionContext, folder: &TempDir) {
    run(ctx, &format!("SET embed.cache = '{}'", folder.path().display())).await;
}

/// What the folder has for a text is what the model gives without it.
async fn assert_kept(folder: &TempDir, model: &Model, text: &str) {
    let ctx = session(1, 100);
    set_cache(&ctx, folder).await;
    let model = model.again();
    assert!(model.vector(&ctx, text).await == model.truth(text).await, "{text}: the vector of other weights");
    let found = "SELECT coalesce(sum(rows_cached), 0) FROM embed_models()";
    assert_eq!(count(&ctx, found).await, 1, "{text} was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_change_before_the_cache_is_set_are_kept_under_their_own_name() {
    for way in WAYS {
        let (folder, model, ctx) = (tempfile::tempdir().expect("a folder"), Model::new(), session(1, 100));
        let before = model.vector(&ctx, "a text").await;
        change(&model.file(WEIGHTS), way);
        set_cache(&ctx, &folder).await;
        let after = model.vector(&ctx, "a text").await;
        assert!(after == model.truth("a text").await && after != before, "{way:?}");
        assert_kept(&folder, &model, "a text").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_change_while_they_are_not_in_memory_are_kept_under_their_own_name() {
    for way in WAYS {
        let (folder, model, ctx) = (tempfile::tempdir().expect("a folder"), Model::new(), session(1, 100));
        set_cache(&ctx, &folder).await;
        run(&ctx, "SET embed.model_memory = 1").await;
        model.vector(&ctx, "aa").await;
        let old = fs::read(model.file(WEIGHTS)).expect("weights");
        let first = model.again();
        change(&model.file(WEIGHTS), way);
        let second = model.again();
        run(&ctx, &format!("SELECT embed(column1, '{OTHER}') FROM (VALUES ('free'))")).await;
        model.vector(&ctx, "bb").await;
        write(&model.file(WEIGHTS), &old, way);
        run(&ctx, &format!("SELECT embed(column1, '{OTHER}') FROM (VALUES ('free again'))")).await;
        model.vector(&ctx, "cc").await;
        for (model, text) in [(&first, "aa"), (&second, "bb"), (&first, "cc")] {
            assert_kept(&folder, model, text).await;
        }
    }
}

/// A literal is folded when a query is planned, and a session remembers its vector.
#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_literal_is_of_the_weights_of_its_rows() {
    let (model, ctx) = (Model::new(), session(1, 100));
    let path = model.0.path().display().to_string();
    let sql = format!(
        "SELECT count(*) FROM (VALUES ('same'), ('other')) WHERE embed(column1, '{path}') = embed('same', '{path}')"
    );
    assert_eq!(count(&ctx, &sql).await, 1);
    change(&model.file(WEIGHTS), Way::Renamed);
    assert_eq!(count(&ctx, &sql).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_changes_between_plan_and_run_is_an_error_and_then_another_model() {
    let (model, ctx) = (Model::new(), session(2, 100));
    let path = model.0.path().display().to_string();
    let sql = format!("SELECT embed(column1, '{path}') FROM (VALUES ('a text'))");
    let plan = || async { ctx.sql(&sql).await.expect("planned").create_physical_plan().await.expect("planned") };
    // A plan says which model; it runs with the files that the model has then, if they say the same.
    let planned = plan().await;
    change(&model.file(WEIGHTS), Way::Renamed);
    let run = collect(planned, ctx.task_ctx()).await;
    assert!(run.is_ok(), "weights are first looked at when they are read");
    let planned = plan().await;
    let config = fs::read_to_string(model.file("config.json")).expect("config");
    write(&model.file("config.json"), (config + "\n").as_bytes(), Way::Renamed);
    assert!(collect(planned, ctx.task_ctx()).await.is_ok(), "it says what it said");
    let planned = plan().await;
    fs::write(model.file("sentence_bert_config.json"), "{\"max_seq_length\": 16}").expect("written");
    let error = collect(planned, ctx.task_ctx()).await.expect_err("changed").to_string();
    let said = ["its files say something else than where the query was planned", "plan the query again"];
    assert!(said.iter().all(|part| error.contains(part)), "{error}");
    run_again(&ctx, &sql).await;
    // A file that was not there.
    let planned = plan().await;
    fs::write(model.file("adapter_config.json"), "{}").expect("written");
    let error = collect(planned, ctx.task_ctx()).await.expect_err("an adapter").to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
    let error = ctx.sql(&sql).await.expect_err("an adapter").to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
}

async fn run_again(ctx: &SessionContext, sql: &str) {
    let batches = ctx.sql(sql).await.expect("planned").collect().await.expect("run");
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
}

/// The error for a model, which must come at once.
fn error_of(model: &Model) -> String {
    let path = model.0.path().display().to_string();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(models::check(&path, &offline()).map(drop))));
    let found = receiver.recv_timeout(Duration::from_secs(60)).expect("no hang");
    let message = found.expect_err("no model").to_string();
    assert!(message.starts_with("model directory ") && !message.contains('\n'), "{message}");
    message
}

const FILES: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    WEIGHTS,
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "adapter_config.json",
];

/// Makes something at a path.
#[cfg(unix)]
type Make = fn(&Path);

#[cfg(unix)]
#[test]
fn what_is_no_plain_file_is_an_error_at_once() {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    let kinds: [(&str, Make); 4] = [
        ("a pipe", |path| {
            assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
        }),
        ("a directory", |path| fs::create_dir(path).expect("created")),
        ("a socket", |path| drop(UnixListener::bind(path).expect("bound"))),
        ("a device", |path| symlink("/dev/zero", path).expect("linked")),
    ];
    for file in FILES.into_iter().chain(["model.safetensors.index.json"]) {
        for (kind, make) in kinds {
            let model = Model::new();
            let replaced = if file.ends_with("index.json") { WEIGHTS } else { file };
            // The last of the list is in no model.
            let _ = fs::remove_file(model.file(replaced));
            make(&model.file(file));
            let message = error_of(&model);
            assert!(message.contains(&format!(": {file}: it is ")) && message.contains(kind), "{file}: {message}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_no_missing_file() {
    for file in FILES {
        let model = Model::new();
        let _ = fs::remove_file(model.file(file));
        std::os::unix::fs::symlink("nowhere", model.file(file)).expect("linked");
        let message = error_of(&model);
        let said = format!(": {file} is a link to \"nowhere\", which is not there");
        assert!(message.contains(&said) && message.contains("remove the link"), "{message}");
    }
    // Nor is a folder.
    let model = Model::new();
    fs::rename(model.file("1_Pooling"), model.file("elsewhere")).expect("renamed");
    std::os::unix::fs::symlink("nowhere", model.file("1_Pooling")).expect("linked");
    let message = error_of(&model);
    assert!(message.contains("1_Pooling/config.json is a link to \"nowhere\""), "{message}");
    // Links that lead somewhere are what hub caches are made of.
    fs::remove_file(model.file("1_Pooling")).expect("removed");
    std::os::unix::fs::symlink("elsewhere", model.file("1_Pooling")).expect("linked");
    models::check(&model.0.path().display().to_string(), &offline()).expect("a model");
}

#[test]
fn a_huge_text_file_is_refused_before_it_is_read() {
    let model = Model::new();
    File::create(model.file("config.json")).and_then(|file| file.set_len(1 << 40)).expect("a file of holes");
    let message = error_of(&model);
    assert!(message.contains("config.json has 1099511627776 bytes"), "{message}");
}

#[test]
fn a_model_without_modules_says_how_it_is_pooled() {
    let model = Model::new();
    fs::remove_file(model.file("modules.json")).expect("removed");
    let check = models::check(&model.0.path().display().to_string(), &offline()).expect("a model");
    let assumption = check.assumption.expect("pooling is said nowhere");
    assert!(assumption.starts_with("no modules.json: pooled by mean"), "{assumption}");
    assert_eq!(
        models::check(&Model::new().0.path().display().to_string(), &offline()).expect("a model").assumption,
        None
    );
}

#[cfg(feature = "bundled-model")]
#[tokio::test(flavor = "multi_thread")]
async fn the_bundled_model_has_a_short_name() {
    let ctx = session(1, 100);
    let same = "SELECT count(*) FROM (VALUES ('a text')) WHERE embed(column1, 'all-MiniLM-L6-v2') = embed(column1)";
    assert_eq!(count(&ctx, same).await, 1);
    // It is the same model, and counts as one.
    assert_eq!(count(&ctx, "SELECT count(*) FROM embed_models()").await, 1);
    for unknown in ["all-MiniLM-L6-v3", "all-MiniLM-L6-v2x", "all-minilm-l6-v2"] {
        let error = ctx.sql(&format!("SELECT embed('x', '{unknown}')")).await.expect_err("unknown").to_string();
        assert!(error.contains("not found") && error.contains("in short \"all-MiniLM-L6-v2\""), "{error}");
    }
    for name in ["all-MiniLM-L6-v2@main", "sentence-transformers/all-MiniLM-L6-v2@main"] {
        if cfg!(feature = "hub") {
            run(&ctx, "SET embed.offline = true").await;
            let error = ctx.sql(&format!("SELECT embed('x', '{name}')")).await.expect_err("offline").to_string();
            let said = ["sentence-transformers/all-MiniLM-L6-v2@main\" is not in the cache", "without @revision"];
            assert!(said.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}

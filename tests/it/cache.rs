//! Vectors that are kept: the same bits with and without, never computed twice, and a program that is killed.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use datafusion::physical_plan::metrics::Count;
use datafusion::prelude::SessionContext;
use datafusion_embed::cache;
use proptest::prelude::*;

use crate::support::{count, embedded, run, session, tiny_session, vectors_by_id};

const TINY: &str = "tests/fixtures/tiny-bert";

async fn cached(ctx: &SessionContext) -> i64 {
    count(ctx, "SELECT coalesce(sum(rows_cached), 0) FROM embed_models()").await
}

async fn texts(ctx: &SessionContext, texts: usize) {
    run(ctx, &format!("CREATE TABLE texts AS SELECT i AS id, concat('text number ', i % {texts}) AS body FROM generate_series(0, 299) AS t(i)")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_shows_what_was_found_and_no_time_that_was_not_spent() {
    let folder = tempfile::tempdir().expect("a folder");
    let ctx = tiny_session(1, 50);
    texts(&ctx, 100).await;
    run(&ctx, &format!("SET embed.cache = '{}'", folder.path().display())).await;
    run(&ctx, "SELECT id, embed(body) FROM texts").await;
    let batches = run(&ctx, "EXPLAIN ANALYZE SELECT id, embed(body) FROM texts").await;
    let text = datafusion::arrow::util::pretty::pretty_format_batches(&batches).expect("a table").to_string();
    let line = text.lines().find(|line| line.contains("EmbedExec: ")).expect("the operator");
    let dim = count(&ctx, "SELECT dim FROM embed_models()").await as usize;
    // As DataFusion writes a number.
    let bytes = Count::new();
    bytes.add(100 * dim * size_of::<f32>());
    for part in ["rows_cached=100", &format!("bytes_cached={bytes},"), "rows_embedded=0"] {
        assert!(line.contains(part), "{part} not in {line}");
    }
    assert!(!line.contains("encode_time"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_computed_once_is_not_computed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let sql = "SELECT id, embed(body) FROM texts";
    let plain = tiny_session(2, 50);
    texts(&plain, 100).await;
    let expected = vectors_by_id(&plain, sql).await;
    for (session, (new, found)) in [(100, 0), (0, 100), (0, 100)].into_iter().enumerate() {
        let ctx = tiny_session(1 + session, 7 + 50 * session);
        texts(&ctx, 100).await;
        run(&ctx, &format!("SET embed.cache = '{}'", folder.path().display())).await;
        assert!(vectors_by_id(&ctx, sql).await == expected);
        assert_eq!((embedded(&ctx).await, cached(&ctx).await), (new, found));
        // Some texts are new.
        run(&ctx, "INSERT INTO texts VALUES (300, 'one more'), (301, NULL)").await;
        assert_eq!(vectors_by_id(&ctx, sql).await.len(), 302);
        assert_eq!(embedded(&ctx).await, new + i64::from(session == 0));
        let entries = count(&ctx, "SELECT entries FROM embed_cache()").await;
        assert_eq!(entries, 101);
    }
    // Other settings, other vectors.
    let ctx = tiny_session(1, 100);
    texts(&ctx, 100).await;
    run(&ctx, &format!("SET embed.cache = '{}'", folder.path().display())).await;
    for setting in ["max_tokens = 8", "dimensions = 16", "precision = 'bf16'"] {
        run(&ctx, &format!("SET embed.{setting}")).await;
        let before = embedded(&ctx).await;
        vectors_by_id(&ctx, sql).await;
        assert_eq!(embedded(&ctx).await - before, 100, "{setting}");
    }
    vectors_by_id(&ctx, "SELECT id, embed_query(body) FROM texts").await;
    assert_eq!(count(&ctx, "SELECT count(*) FROM embed_cache()").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_an_error_before_anything_runs() {
    let ctx = session(1, 100);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("x"), "x").expect("write");
    run(&ctx, &format!("SET embed.cache = '{}'", folder.path().display())).await;
    let error = ctx.sql(&format!("SELECT embed('a', '{TINY}')")).await.expect("planned").collect().await;
    let error = error.expect_err("not a cache").to_string();
    assert!(error.contains("files of something else") && error.contains("another folder"), "{error}");
    run(&ctx, "SET embed.cache = '/proc/nowhere/at/all'").await;
    let error = ctx.sql(&format!("SELECT embed('a', '{TINY}')")).await.expect("planned").collect().await;
    assert!(error.expect_err("no folder").to_string().contains("cannot be used"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any queries in any order, with a folder, with another one or without: the bits are those of a session without any.
    #[test]
    fn any_interleaving_gives_the_same_bits(
        steps in prop::collection::vec((0usize..3, 0usize..4, 0usize..3, 1usize..4), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
        runtime.block_on(async {
            let sessions = [tiny_session(1, 8192), tiny_session(2, 7)];
            let plain = tiny_session(1, 64);
            for ctx in sessions.iter().chain([&plain]) {
                texts(ctx, 60).await;
            }
            for (folder, query, start, parts) in steps {
                let ctx = &sessions[parts % 2];
                let path = folders.get(folder).map(|folder| folder.path().display().to_string()).unwrap_or_default();
                run(ctx, &format!("SET embed.cache = '{path}'")).await;
                let call = ["embed(body)", "embed_query(body)", "embed(concat(body, '!'))", "embed(body)"][query];
                let sql = format!("SELECT id, {call} FROM texts WHERE id % 3 >= {start}");
                prop_assert!(vectors_by_id(ctx, &sql).await == vectors_by_id(&plain, &sql).await, "{}", sql);
            }
            Ok(())
        })?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_made_yet_has_no_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let new = folder.path().join("new");
    let ctx = tiny_session(1, 100);
    run(&ctx, &format!("SET embed.cache = '{}'", new.display())).await;
    assert_eq!(count(&ctx, "SELECT count(*) FROM embed_cache()").await, 0);
    assert!(!new.exists(), "looking at it makes none");
    run(&ctx, "SELECT embed('a')").await;
    assert_eq!(count(&ctx, "SELECT entries FROM embed_cache()").await, 1);
}

/// A text that was cut is one in every run, whether its vector is computed or found.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_is_counted_when_it_is_found_too() {
    let folder = tempfile::tempdir().expect("a folder");
    for found in [false, true, true] {
        let ctx = tiny_session(2, 10);
        run(&ctx, &format!("SET embed.cache = '{}'", folder.path().display())).await;
        run(&ctx, "CREATE TABLE texts AS SELECT i, repeat(concat('word', i, ' '), i) AS body FROM generate_series(1, 100) AS t(i)").await;
        run(&ctx, "SELECT embed(body) FROM texts UNION ALL SELECT embed(body) FROM texts WHERE i > 90").await;
        let long = count(&ctx, "SELECT count(*) FROM texts WHERE embed_tokens(body) > 48").await;
        assert!((1..100).contains(&long), "{long}");
        assert_eq!(count(&ctx, "SELECT sum(rows_truncated) FROM embed_models()").await, long);
        assert_eq!(cached(&ctx).await, if found { 100 } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_while_a_query_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let ctx = tiny_session(2, 500);
    run(&ctx, &format!("SET embed.cache = '{path}'")).await;
    run(&ctx, "SET embed.cache_size = '20K'").await;
    run(&ctx, "SELECT embed(concat('text ', i)) FROM generate_series(1, 4000) AS t(i)").await;
    // Before anybody looks at the folder again.
    let bytes: u64 = cache::usage(&path).expect("usage").iter().map(|space| space.bytes).sum();
    assert!((10_000..=20 * 1024 + 20 * 1024 / 16 + 100).contains(&bytes), "{bytes}");
    assert_eq!(embedded(&ctx).await, 4000);
}

#[cfg(feature = "cli")]
fn embedsql<const N: usize>(args: [&str; N]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_embedsql")).args(args).stdin(Stdio::null()).output().expect("the program runs")
}

#[cfg(feature = "cli")]
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Fills a folder from a process that has ended since: the program.
#[cfg(feature = "cli")]
fn fill(folder: &Path, texts: usize) {
    let sql = format!("SELECT count(embed(concat('text ', i))) FROM generate_series(1, {texts}) AS t(i)");
    let output = embedsql(["-q", "--model", TINY, "--cache", &folder.display().to_string(), "-c", &sql]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

/// The files of the spaces of a folder.
#[cfg(feature = "cli")]
fn space_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let spaces = fs::read_dir(folder).expect("folder").flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    spaces.flat_map(|space| fs::read_dir(space).expect("folder").flatten()).map(|entry| entry.path()).collect()
}

/// Splits the one segment of a folder, so that each vector has one, as so many runs of the program leave them.
#[cfg(feature = "cli")]
fn split(folder: &Path) -> usize {
    const HEADER: usize = 32;
    const KEY: usize = 16;
    let keys_file = space_files(folder).into_iter().find(|path| path.extension().is_some_and(|e| e == "keys"));
    let keys_file = keys_file.expect("a segment");
    let (keys, vectors) =
        (fs::read(&keys_file).expect("keys"), fs::read(keys_file.with_extension("vectors")).expect("vectors"));
    let (header, keys) = keys.split_at(HEADER);
    let entry = vectors.len() / (keys.len() / KEY);
    for (i, (key, vector)) in keys.chunks(KEY).zip(vectors.chunks(entry)).enumerate() {
        let name = keys_file.with_file_name(format!("{i:016x}-1-0.keys"));
        fs::write(&name, [header, key].concat()).expect("written");
        fs::write(name.with_extension("vectors"), vector).expect("written");
    }
    fs::remove_file(keys_file.with_extension("vectors")).expect("removed");
    fs::remove_file(&keys_file).expect("removed");
    keys.len() / KEY
}

/// Ten thousand runs that added one text each, and a process that may open 64 files.
#[cfg(all(unix, feature = "cli"))]
#[test]
fn many_small_segments_need_few_open_files() {
    const TEXTS: usize = 10_000;
    let folder = tempfile::tempdir().expect("a folder");
    fill(folder.path(), TEXTS);
    let query = format!("SELECT i, embed(concat('text ', i)) AS v FROM generate_series(1, {TEXTS}) AS t(i) ORDER BY i");
    let expected = embedsql(["-q", "--format", "csv", "--model", TINY, "-c", &query]).stdout;
    assert_eq!(split(folder.path()), TEXTS);
    let counts = "SELECT rows_cached AS found, rows_embedded AS computed FROM embed_models()";
    let mut before = 2 * TEXTS;
    for _ in 0..3 {
        let mut limited = Command::new("sh");
        limited.args([
            "-c",
            "ulimit -n 64; exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_embedsql"),
            "-q",
            "--format",
            "csv",
        ]);
        limited.args(["--model", TINY, "--cache", &folder.path().display().to_string(), "-c", &query, "-c", counts]);
        let output = limited.stdin(Stdio::null()).output().expect("the program runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        let (found, counted) =
            text(&output.stdout).split_once("found,").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("counts");
        assert!(found == text(&expected), "other vectors");
        assert_eq!(counted, format!("computed\n{TEXTS},0\n"));
        // Meanwhile they become fewer.
        let files = space_files(folder.path()).len();
        assert!(files <= before, "{files} of {before}");
        before = files;
    }
    assert!(before < 200, "{before} files");
}

#[cfg(feature = "cli")]
#[test]
fn pruning_leaves_as_much_as_it_may() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    fill(folder.path(), 4137);
    let bytes = || cache::usage(&path).expect("usage").iter().map(|space| space.bytes).sum::<u64>();
    let all = bytes();
    let most = all * 2 / 3;
    let output = embedsql(["cache", "prune", &path, "--to", &most.to_string(), "--format", "csv"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(bytes() <= most && bytes() + all / 4137 >= most, "{} of {most}", bytes());
    assert_eq!(
        text(&embedsql(["cache", "verify", &path, "--format", "csv"]).stdout)
            .lines()
            .last()
            .map(|line| line.ends_with(",0")),
        Some(true)
    );
    // Nothing left: no row, no folder.
    let output = embedsql(["cache", "prune", &path, "--to", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&embedsql(["cache", "stats", &path, "--format", "csv"]).stdout).lines().count() <= 1);
    assert_eq!(space_files(folder.path()), [] as [std::path::PathBuf; 0]);
}

#[cfg(feature = "cli")]
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    fill(folder.path(), 10);
    // This process writes there, and goes on to.
    let ctx = tiny_session(1, 100);
    run(&ctx, &format!("SET embed.cache = '{path}'")).await;
    run(&ctx, "SELECT embed('a text of this process')").await;
    for (action, to) in [("prune", &["--to", "1"][..]), ("clear", &[])] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embedsql"));
        let output = command.args(["cache", action, &path]).args(to).output().expect("the program runs");
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
        for part in ["error: cache ", "still holds", "could not remove", ".keys: a running process is writing it"] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert_eq!(count(&ctx, "SELECT entries FROM embed_cache()").await, 1, "what could go is gone");
}

/// The prompt warns of texts that were cut, whether their vectors are computed or found.
#[cfg(feature = "cli")]
#[test]
fn the_program_warns_of_cut_texts_with_a_warm_folder_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let sql = "SELECT count(embed(repeat(concat('word ', i, ' '), 300))) FROM generate_series(1, 6) AS t(i)";
    for _ in 0..2 {
        let told = text(&embedsql(["--model", TINY, "--cache", &path, "-c", sql]).stderr);
        assert!(told.contains("warning: 6 texts were longer than the model reads"), "{told}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn half_a_command_is_answered_with_its_help() {
    let output = embedsql(["cache"]);
    let help = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
    assert!(
        ["Usage: embedsql cache", "stats", "verify", "prune", "clear"].iter().all(|part| help.contains(part)),
        "{help}"
    );
}

/// A folder of the former format is refused with what to do, and doing that makes it usable.
#[cfg(feature = "cli")]
#[test]
fn a_folder_of_the_former_format_is_refused_until_it_is_cleared() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    fill(folder.path(), 10);
    fs::write(folder.path().join("FORMAT"), "datafusion-embed vectors 1\n").expect("written");
    let query = || embedsql(["-q", "--model", TINY, "--cache", &path, "-c", "SELECT count(embed('a'))"]);
    let (output, message) = (query(), text(&query().stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        message.contains("\"datafusion-embed vectors 1\"") && message.contains("embedsql cache clear"),
        "{message}"
    );
    assert!(embedsql(["cache", "clear", &path]).status.success());
    assert!(query().status.success());
}

/// A program that is killed at any moment, and started again.
#[cfg(all(unix, feature = "cli", feature = "bundled-model"))]
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_goes_on_where_it_was() {
    const TEXTS: i64 = 150;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let ctx = session(2, 8192);
    let rows = format!(
        "SELECT i AS id, repeat(concat('a text of many words, number ', i, ' '), 8) AS body FROM generate_series(1, {TEXTS}) AS t(i)"
    );
    run(&ctx, &format!("COPY ({rows}) TO '{}'", path("in.parquet"))).await;
    let select = format!("SELECT id, embed(body) AS v FROM '{}'", path("in.parquet"));
    let expected = vectors_by_id(&ctx, &select).await;
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embedsql"));
        let copy = format!("COPY ({select}) TO '{}'", path("out.parquet"));
        command.args(["--threads", "1", "--cache", &path("cache"), "-c", &copy]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
    };
    let entries =
        || cache::usage(&path("cache")).map_or(0, |usage| usage.iter().map(|space| space.entries).sum::<u64>());
    let mut before = 0;
    for kill in 0..20u64 {
        let mut child = start();
        // Spread over the time that a start and a few batches take, which is longer where the machine is busy.
        let later = if before == 0 { 200 * kill } else { 0 };
        let deadline = Instant::now() + Duration::from_millis(100 + kill * 7919 % 500 + later);
        while Instant::now() < deadline && child.try_wait().expect("a state").is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let finished = child.try_wait().expect("a state").is_some_and(|status| status.success());
        child.kill().expect("killed");
        child.wait().expect("gone");
        // The program may have finished without having ended: what has the name is whole.
        let finished = finished || folder.path().join("out.parquet").exists();
        if finished {
            let whole = format!("SELECT id, v FROM '{}'", path("out.parquet"));
            assert!(vectors_by_id(&ctx, &whole).await == expected, "half a file passes for a whole one");
        }
        assert!(entries() >= before, "{} entries, {before} before", entries());
        before = entries();
        if finished {
            fs::remove_file(path("out.parquet")).expect("removed");
        }
    }
    assert!(before > 0, "nothing was kept");
    // What killed processes left is removed when it is not quite new any more.
    let left = |folder: &std::path::Path| {
        let files = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path());
        files.filter(|path| path.to_string_lossy().contains(".parquet#")).collect::<Vec<_>>()
    };
    for file in left(folder.path()) {
        let old = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(file).expect("file").set_modified(old).expect("a time");
    }
    let ended = start().wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.lines().count() == 1 && said.contains(" from the cache"), "{said}");
    assert_eq!(entries(), TEXTS as u64);
    assert!(vectors_by_id(&ctx, &format!("SELECT id, v FROM '{}'", path("out.parquet"))).await == expected);
    if cfg!(target_os = "linux") {
        assert_eq!(left(folder.path()), [] as [std::path::PathBuf; 0]);
    }
}

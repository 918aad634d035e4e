//! Vectors that are kept: the same bits with and without, never computed twice, and a program that is killed.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use datafusion::prelude::SessionContext;
use datafusion_embed::cache_usage;
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
        || cache_usage(&path("cache")).map_or(0, |usage| usage.iter().map(|space| space.entries).sum::<u64>());
    let mut before = 0;
    for kill in 0..20u64 {
        let mut child = start();
        // Spread over the time that a start and a few batches take.
        let deadline = Instant::now() + Duration::from_millis(100 + kill * 7919 % 500);
        while Instant::now() < deadline && child.try_wait().expect("a state").is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let finished = child.try_wait().expect("a state").is_some_and(|status| status.success());
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert!(finished || !folder.path().join("out.parquet").exists(), "half a file passes for a whole one");
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
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(entries(), TEXTS as u64);
    assert!(vectors_by_id(&ctx, &format!("SELECT id, v FROM '{}'", path("out.parquet"))).await == expected);
    if cfg!(target_os = "linux") {
        assert_eq!(left(folder.path()), [] as [std::path::PathBuf; 0]);
    }
}

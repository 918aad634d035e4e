//! I1, I2 and I5 through SQL: the same bits however a table is cut, rows in their places, planning that runs no model.

use std::time::Duration;

use datafusion::error::DataFusionError;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use crate::support::{count, layout, register_texts, rows_of, run, session, tiny_options, vectors_by_id};

/// I1 in the lower precisions: a token's scale must not depend on its neighbours either.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_have_the_same_bits_in_every_precision() {
    let query = "SELECT id, embed(body) FROM 'sql/docs.parquet' WHERE id % 8 = 5";
    for precision in ["bf16", "int8"] {
        let mut found = Vec::new();
        for (target_partitions, batch_size, batch_tokens) in [(1, 8192, 512), (2, 7, 512), (8, 1, 100_000), (2, 50, 1)]
        {
            let ctx = session(target_partitions, batch_size);
            run(&ctx, &format!("SET embed.precision = '{precision}'")).await;
            run(&ctx, &format!("SET embed.batch_tokens = {batch_tokens}")).await;
            found.push(vectors_by_id(&ctx, query).await);
        }
        assert!(found[0].len() > 30 && found.iter().all(|other| *other == found[0]), "{precision}");
    }
}

/// Every layout gives the same bytes per id, in two row orders. A new session per run, so that nothing is remembered.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_have_the_same_bits_in_every_layout() {
    let query = |order: &str| {
        format!(
            "SELECT id, embed(body) FROM (SELECT id, body FROM 'sql/docs.parquet' WHERE id % 4 = 1 ORDER BY {order})"
        )
    };
    let expected = vectors_by_id(&session(1, 8192), &query("id")).await;
    assert!(expected.values().filter(|vector| vector.is_some()).count() > 70);
    for target_partitions in [1, 2, 8] {
        for batch_size in [1, 7, 8192] {
            for order in ["id", "title DESC, id"] {
                let found = vectors_by_id(&session(target_partitions, batch_size), &query(order)).await;
                assert!(found == expected, "{target_partitions} partitions, batches of {batch_size}, by {order}");
            }
        }
    }
}

/// The settings that cut model batches change no bit either.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_have_the_same_bits_under_every_batch_setting() {
    let query = "SELECT id, embed(body) FROM 'sql/docs.parquet' WHERE id % 8 = 3";
    let expected = vectors_by_id(&session(2, 8192), query).await;
    for settings in [
        vec!["embed.batch_tokens = 1"],
        vec!["embed.batch_tokens = 4096", "embed.batch_size = 3"],
        vec!["embed.concurrency = 1"],
        vec!["embed.concurrency = 16", "embed.batch_tokens = 64"],
    ] {
        let ctx = session(2, 8192);
        for setting in &settings {
            run(&ctx, &format!("SET {setting}")).await;
        }
        assert!(vectors_by_id(&ctx, query).await == expected, "{settings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_embeds_that_many_rows_of_a_file_with_one_row_group() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("x.parquet").display().to_string();
    let ctx = session(2, 8192);
    let rows = format!(
        "COPY (SELECT i AS id, concat('text number ', i) AS body FROM generate_series(1, 20000) AS t(i)) TO '{file}'"
    );
    run(&ctx, &rows).await;
    let batches = run(&ctx, &format!("SELECT id, embed(body) FROM '{file}' LIMIT 128")).await;
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 128);
    assert_eq!(count(&ctx, "SELECT rows_embedded FROM embed_models()").await, 128);
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_never_reach_the_model_and_a_literal_goes_through_it_once() {
    let ctx = session(2, 100);
    let texts: Vec<_> = (0..1000).map(|i| (i % 10 == 0).then(|| format!("text {i}"))).collect();
    register_texts(&ctx, &texts, 300);
    let query =
        "SELECT id, cosine_similarity(embed(body), embed('q')), embed('q') FROM texts WHERE embed('q') IS NOT NULL";
    run(&ctx, query).await;
    assert_eq!(count(&ctx, "SELECT rows_embedded FROM embed_models()").await, 100 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_embeds_no_row() {
    let ctx = session(2, 8192);
    run(&ctx, "EXPLAIN SELECT embed(body), cosine_similarity(embed(body), embed(title)) FROM 'sql/docs.parquet'").await;
    assert_eq!(count(&ctx, "SELECT count(*) FROM embed_models()").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_embeds_no_literal_and_a_plan_shows_its_text() {
    let ctx = session(2, 8192);
    let similar = "cosine_similarity(embed(body), embed('cheap ' || 'flights'))";
    for sql in [
        format!("SELECT title FROM 'sql/docs.parquet' WHERE body IS NOT NULL ORDER BY {similar} DESC LIMIT 3"),
        format!("SELECT title, {similar} AS s FROM 'sql/docs.parquet' WHERE {similar} > 0.3"),
        "SELECT embed_query('cheap flights')".to_owned(),
        "SELECT id FROM 'sql/docs.parquet' WHERE embed(body) = (SELECT embed('cheap flights'))".to_owned(),
    ] {
        let plan = rows_of(&run(&ctx, &format!("EXPLAIN {sql}")).await).join("\n");
        assert!(plan.contains("cheap flights") && plan.len() < 4000, "{plan}");
        ctx.sql(&sql).await.expect("planned").create_physical_plan().await.expect("planned");
        assert_eq!(count(&ctx, "SELECT count(*) FROM embed_models()").await, 0, "{sql}");
    }
    let analyzed = rows_of(&run(&ctx, "EXPLAIN ANALYZE SELECT embed('cheap flights')").await).join("\n");
    let line = analyzed.lines().find(|line| line.contains("LiteralsExec: embed(\"cheap flights\")")).expect("a line");
    assert!(line.contains("rows_embedded=1,"), "{line}");
    // With parameters, and where DataFusion makes rows while it plans.
    run(&ctx, "PREPARE similar AS SELECT cosine_similarity(embed($1), embed($2)) > 0.999").await;
    assert_eq!(rows_of(&run(&ctx, "EXECUTE similar('one text', 'one text')").await), ["true"]);
    assert_eq!(rows_of(&run(&ctx, "EXECUTE similar('one text', 'another one')").await), ["false"]);
    run(&ctx, "CREATE TABLE t AS VALUES ('a', embed('a')), ('b', embed('b'))").await;
    let own = "SELECT count(*) FROM t WHERE cosine_similarity(column2, embed(column1)) > 0.999";
    assert_eq!(count(&ctx, own).await, 2);
    run(&ctx, "DELETE FROM t WHERE cosine_similarity(column2, embed('a')) > 0.999").await;
    assert_eq!(rows_of(&run(&ctx, "SELECT column1 FROM t").await), ["b"]);
    // Where DataFusion asks for a constant while it plans, and where its operators hide what they evaluate.
    for (sql, expected) in [
        ("SELECT lag(embed(column1), 1, embed('b')) OVER (ORDER BY column1) = column2 FROM t", "true"),
        ("SELECT count(*) FILTER (WHERE embed(column1) = embed('b')) OVER (PARTITION BY column1) FROM t", "1"),
        ("SELECT string_agg(column1, array_to_string(embed('b'), ',')) FROM t", "b"),
        ("SELECT column1 FROM t LIMIT array_length(embed('b'))", "b"),
        ("SELECT count(*) FROM t WHERE column1 IN ('b', array_to_string(embed('b'), ','))", "1"),
    ] {
        assert_eq!(rows_of(&run(&ctx, sql).await), [expected], "{sql}");
    }
    // A text that cannot be embedded is an error of whoever needs it.
    run(&ctx, "SET embed.truncate = false").await;
    let lazy = "SELECT CASE WHEN column1 = 'a' THEN embed(repeat('word ', 900)) END IS NULL FROM t";
    assert_eq!(rows_of(&run(&ctx, lazy).await), ["true"]);
    let needed = ctx.sql("SELECT embed(repeat('word ', 900)) FROM t").await.expect("planned").collect().await;
    assert!(needed.expect_err("too long").to_string().contains("longer than the limit"));
    run(&ctx, "SET embed.truncate = true").await;
    // A plan that runs twice, and one that runs where another model is set by now.
    let plan = ctx.sql("SELECT embed('twice')").await.expect("planned").create_physical_plan().await.expect("planned");
    let twice = [collect(plan.clone(), ctx.task_ctx()).await, collect(plan, ctx.task_ctx()).await];
    let [first, second] = twice.map(|rows| rows_of(&rows.expect("a vector")));
    assert_eq!(first, second);
}

/// A query of one of three sessions: when it begins, and when it is stopped, in milliseconds.
#[derive(Debug, Clone)]
struct Asked {
    session: usize,
    kind: usize,
    begins: u64,
    stops: Option<u64>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let stops = prop::option::weighted(0.2, 0..8u64);
    (0..3usize, 0..5usize, 0..6u64, stops).prop_map(|(session, kind, begins, stops)| Asked {
        session,
        kind,
        begins,
        stops,
    })
}

impl Asked {
    /// Literals differ by the number, because a session remembers them.
    fn sql(&self, number: usize) -> String {
        match self.kind {
            0 => format!("SELECT id, embed(body) FROM texts WHERE id % 3 = {} ORDER BY id", number % 3),
            1 => format!("SELECT embed('text number {number}')"),
            2 => format!(
                "SELECT id FROM texts ORDER BY cosine_similarity(embed(body), embed_query('query {number}')) DESC, id LIMIT 5"
            ),
            3 => "SELECT 1 / (id - 3), embed(body) FROM texts".to_owned(),
            // Too long, which is an error in the third session.
            _ => format!("SELECT id, embed(repeat(body, 40)) FROM texts WHERE id > {} ORDER BY id", number % 5),
        }
    }

    async fn run(&self, ctx: &SessionContext, number: usize) -> Result<Vec<String>, String> {
        let rows = async { ctx.sql(&self.sql(number)).await?.collect().await }.await;
        rows.map(|rows| rows_of(&rows)).map_err(|error: DataFusionError| error.to_string())
    }
}

/// One of three sessions, each with the same texts in two partitions of small batches.
fn one_of_three(number: usize) -> SessionContext {
    let texts = |i: usize| (!i.is_multiple_of(9)).then(|| format!("text {} {}", i % 23, "word ".repeat(i % 7)));
    let texts: Vec<_> = (0..40).map(texts).collect();
    let ctx = SessionContext::new_with_config(layout(2, 8));
    datafusion_embed::register_with(&ctx, tiny_options().truncate(number < 2)).expect("registered");
    register_texts(&ctx, &texts, 16);
    ctx
}

/// What a session has counted so far; the model batches last.
async fn counted(ctx: &SessionContext) -> [i64; 5] {
    let mut counted = [0; 5];
    for (sum, column) in
        counted.iter_mut().zip(["rows_embedded", "rows_duplicate", "rows_truncated", "tokens", "model_batches"])
    {
        *sum = count(ctx, &format!("SELECT coalesce(sum({column}), 0) FROM embed_models()")).await;
    }
    counted
}

async fn check_at_once(all: Vec<Asked>) {
    let sessions = [0, 1, 2].map(one_of_three);
    // Of what ends well the counts are known; of what does not only the most that it may have.
    let (mut least, mut most) = ([[0; 4]; 3], [[0; 4]; 3]);
    let mut alone = Vec::new();
    for (number, asked) in all.iter().enumerate() {
        // In a session of its own: a batch of one that fails may be counted after it, when the next one runs.
        let ctx = one_of_three(asked.session);
        let rows = asked.run(&ctx, number).await;
        let [counts @ .., _] = counted(&ctx).await;
        for (at, more) in counts.into_iter().enumerate() {
            // One that fails alone may come further among others.
            most[asked.session][at] += if rows.is_ok() { more } else { 1_000_000 };
            if rows.is_ok() && asked.stops.is_none() {
                least[asked.session][at] += more;
            }
        }
        alone.push(rows);
    }
    let tasks = all.iter().cloned().enumerate().map(|(number, asked)| {
        let ctx = sessions[asked.session].clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(asked.begins)).await;
            let run = asked.run(&ctx, number);
            match asked.stops {
                Some(after) => timeout(Duration::from_millis(after), run).await.ok(),
                None => Some(run.await),
            }
        })
    });
    for (number, task) in tasks.collect::<Vec<_>>().into_iter().enumerate() {
        match task.await.expect("no panic") {
            Some(Ok(rows)) => assert!(Ok(rows) == alone[number], "{}", all[number].sql(number)),
            // Which text is met first is by chance.
            Some(Err(error)) => {
                let what = if all[number].kind == 3 { "Divide by zero" } else { "longer than the limit" };
                assert!(alone[number].is_err() && error.contains(what), "{error}");
            }
            None => assert!(all[number].stops.is_some()),
        }
    }
    for (session, ctx) in sessions.iter().enumerate() {
        let [counts @ .., batches] = counted(ctx).await;
        for (at, count) in counts.into_iter().enumerate() {
            let (least, most) = (least[session][at], most[session][at]);
            assert!((least..=most).contains(&count), "session {session}, {at}: {count}, not {least} to {most}");
        }
        // How many depends on who comes when; one for what was embedded, and none without a text.
        assert!((i64::from(counts[0] > 0)..=counts[0]).contains(&batches), "session {session}: {batches} batches");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    /// Queries of several sessions at once: each has the bits, the error and the counts that it has alone, whoever else is stopped or
    /// fails.
    #[test]
    fn queries_at_once_give_what_they_give_alone(all in prop::collection::vec(asked(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(check_at_once(all));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_keeps_several_workers_busy() {
    let ctx = session(1, 8192);
    run(&ctx, "SET embed.concurrency = 2").await;
    let start = std::time::Instant::now();
    run(&ctx, "SELECT embed(body) FROM 'sql/docs.parquet'").await;
    let wall = start.elapsed().as_millis() as i64;
    let encode = count(&ctx, "SELECT encode_ms FROM embed_models()").await;
    // Not a speed test: the sum of the workers' time can only exceed the wall time if two of them ran at once.
    if std::thread::available_parallelism().map_or(1, usize::from) > 1 {
        assert!(encode > wall, "{encode} ms of encoding in {wall} ms: the workers ran one after the other");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// I2: row i out belongs to row i in, NULL in is NULL out, and nothing else is NULL.
    #[test]
    fn every_row_keeps_its_place(
        rows in prop::collection::vec(prop::option::of("[a-c ]{0,6}|\\PC{0,12}"), 1..40),
        batch_rows in 1usize..20,
        batch_size in 1usize..20,
        partitions in 1usize..4,
        batch_tokens in 1usize..60,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("runtime");
        runtime.block_on(async {
            let model = "'tests/fixtures/tiny-bert'";
            let ctx = session(partitions, batch_size);
            run(&ctx, &format!("SET embed.batch_tokens = {batch_tokens}")).await;
            register_texts(&ctx, &rows, batch_rows);
            let found = vectors_by_id(&ctx, &format!("SELECT id, embed(body, {model}) FROM texts")).await;
            assert_eq!(found.len(), rows.len());
            // The naive twin: every text alone, in a session of its own.
            let twin = session(1, 8192);
            for (id, row) in rows.iter().enumerate() {
                register_texts(&twin, std::slice::from_ref(row), 1);
                let alone = vectors_by_id(&twin, &format!("SELECT id, embed(body, {model}) FROM texts")).await;
                assert_eq!(&found[&(id as i64)], &alone[&0], "row {id}: {row:?}");
                assert_eq!(row.is_none(), alone[&0].is_none());
                twin.deregister_table("texts").expect("deregistered");
            }
        });
    }
}

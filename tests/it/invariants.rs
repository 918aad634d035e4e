//! I1, I2 and I5 through SQL: the same bits however a table is cut, rows in their places, planning that runs no model.

use proptest::prelude::*;

use crate::support::{count, register_texts, run, session, vectors_by_id};

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

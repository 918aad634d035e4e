//! Late evaluation: rows embedded = rows that need a vector, each distinct text once, in every format and layout.
//!
//! `rows_embedded` of `embed_models()` is the witness. Every query runs in a session of its own, on 20 000 texts that are all
//! different, with a model so small that this takes seconds.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionContext};

#[cfg(feature = "cluster")]
use crate::support::run_elsewhere;
use crate::support::{embedded, run, tiny_session};

const ROWS: i64 = 20_000;

/// A query, and how many rows it embeds; a literal counts as one.
pub(crate) const EXACT: &[(&str, i64)] = &[
    ("SELECT id, embed(body) FROM docs LIMIT 128", 128),
    ("SELECT id, embed(body) FROM docs LIMIT 10 OFFSET 1000", 10),
    ("SELECT id, embed(concat(title, body)) FROM docs WHERE id % 100 = 3", 200),
    ("SELECT id, embed(body) FROM docs ORDER BY id LIMIT 10", 10),
    ("SELECT id, embed(body) FROM docs ORDER BY random() LIMIT 10", 10),
    ("SELECT DISTINCT ON (grp) grp, id, embed(body) FROM docs ORDER BY grp, id", 50),
    ("SELECT DISTINCT ON (grp) id, embed(body) AS e FROM docs ORDER BY grp, id", 50),
    ("SELECT id, embed(concat(title, body)) FROM (SELECT * FROM docs ORDER BY id LIMIT 50)", 50),
    ("SELECT id FROM docs ORDER BY cosine_similarity(embed(body), embed('q')) DESC LIMIT 10", ROWS + 1),
    ("SELECT id FROM docs ORDER BY cosine_similarity(embed(body), embed('q')) DESC", ROWS + 1),
    (
        "SELECT id, cosine_similarity(embed(body), embed('q')) AS score FROM docs \
         WHERE cosine_similarity(embed(body), embed('q')) > 0 ORDER BY cosine_similarity(embed(body), embed('q'))",
        ROWS + 1,
    ),
    ("SELECT embed(body) FROM docs WHERE cosine_similarity(embed(body), embed('q')) > 0.2 AND id % 100 = 3", 201),
    ("SELECT d.id, e FROM (SELECT id, embed(body) AS e FROM docs) d JOIN few ON d.id = few.id", 100),
    ("SELECT id, x, embed(body) FROM docs CROSS JOIN (VALUES (1), (2), (3)) AS three(x)", ROWS),
    (
        "WITH v AS (SELECT id, embed(body) AS e FROM docs) \
         SELECT a.id, cosine_similarity(a.e, b.e) FROM v a JOIN v b ON a.id = b.id",
        ROWS,
    ),
    ("SELECT a.id FROM vectors a JOIN vectors b ON a.id = b.id AND a.e = b.e", ROWS),
    ("SELECT id FROM (SELECT id, embed(body) AS e FROM docs)", 0),
    ("SELECT count(*) FROM (SELECT id, embed(body) AS e FROM docs)", 0),
    ("EXPLAIN SELECT id, embed(body) FROM docs ORDER BY id", 0),
    ("EXPLAIN VERBOSE SELECT id FROM docs WHERE cosine_similarity(embed(body), embed(title)) > 0", 0),
    ("SELECT id, embed(body) FROM docs UNION ALL SELECT id, embed(title) FROM docs ORDER BY id LIMIT 20", 20),
    (
        "SELECT * FROM (SELECT id, cosine_similarity(embed(body), embed('q')) AS s FROM docs UNION ALL \
         SELECT id, cosine_similarity(embed(title), embed('q')) FROM docs) ORDER BY id LIMIT 20",
        21,
    ),
    ("SELECT id, embed(body) FROM docs QUALIFY row_number() OVER (PARTITION BY grp ORDER BY id) = 1", 50),
    ("SELECT id, embed(body) FROM docs WHERE id IN (SELECT id FROM few)", 100),
    ("SELECT id, embed(body) FROM docs WHERE EXISTS (SELECT 1 FROM few WHERE few.id = docs.id)", 100),
    ("SELECT d.id, e FROM (SELECT id, embed(body) AS e FROM docs) d LEFT SEMI JOIN few ON d.id = few.id", 100),
    ("SELECT id FROM docs WHERE id IN (SELECT id FROM few) AND cosine_similarity(embed(body), embed('q')) > -2", 101),
    (
        "SELECT docs.id FROM docs JOIN few ON docs.id = few.id WHERE cosine_similarity(embed(body), embed('q')) > -2",
        101,
    ),
    (
        "SELECT a.id FROM docs a JOIN docs b ON a.id = b.id + 19900 AND cosine_similarity(embed(a.body), embed(b.title)) > -2",
        200,
    ),
    (
        "SELECT a.id FROM docs a LEFT JOIN few b ON a.id = b.id AND cosine_similarity(embed(a.body), embed('q')) > -2",
        101,
    ),
    (
        "SELECT a, e, f FROM (SELECT id AS a, embed(body) AS e FROM docs) \
         JOIN (SELECT id AS b, embed(title) AS f FROM docs) ON a = b ORDER BY a LIMIT 5",
        10,
    ),
    // Beside the table of promises: lazy branches, outer joins, aggregates, subqueries.
    ("SELECT id, CASE WHEN id < 100 THEN embed(body) END FROM docs ORDER BY id", 100),
    ("SELECT id, COALESCE(CASE WHEN id > 10 THEN embed(title) END, embed(body)) FROM docs ORDER BY id LIMIT 20", 20),
    ("SELECT id FROM docs WHERE id < 19990 OR cosine_similarity(embed(body), embed('q')) > 0.5", 11),
    ("SELECT max(cosine_similarity(embed(body), embed('q'))) FROM docs", ROWS + 1),
    (
        "SELECT few.id, e FROM few LEFT JOIN (SELECT id, embed(body) AS e FROM docs WHERE id % 2 = 0) d ON d.id = few.id",
        50,
    ),
    ("SELECT id, (SELECT max(cosine_similarity(embed(body), embed('q'))) FROM docs WHERE id < 7) FROM few", 8),
    ("SELECT last_value(embed(body) ORDER BY id) FROM docs GROUP BY grp", 50),
    ("SELECT embed('x') FROM docs", 1),
];

/// A table `docs(id, title, body, grp)` in one of the formats, and `few(id)` of 100 rows.
async fn tables(ctx: &SessionContext, format: &str, directory: &Path) {
    let file = directory.join(format!("docs.{format}")).display().to_string();
    match format {
        "parquet" => ctx.register_parquet("docs", &file, ParquetReadOptions::default()).await.expect("a table"),
        "csv" => ctx.register_csv("docs", &file, CsvReadOptions::new()).await.expect("a table"),
        _ => {
            let rows: Vec<RecordBatch> = run(ctx, &made_up()).await;
            let table = MemTable::try_new(rows[0].schema(), vec![rows]).expect("a table");
            ctx.register_table("docs", Arc::new(table)).expect("registered");
        }
    }
    run(ctx, "CREATE TABLE few AS SELECT i * 7 AS id FROM generate_series(0, 99) AS t(i)").await;
    run(ctx, "CREATE VIEW vectors AS SELECT id, embed(body) AS e FROM docs").await;
}

/// Writes the file of `docs`.
pub(crate) async fn written(directory: &Path, format: &str) {
    let file = directory.join(format!("docs.{format}")).display().to_string();
    run(&tiny_session(1, 8192), &format!("COPY ({}) TO '{file}'", made_up())).await;
}

fn made_up() -> String {
    format!(
        "SELECT i AS id, concat('title ', i) AS title, concat('text ', i) AS body, i % 50 AS grp \
         FROM generate_series(0, {}) AS t(i) ORDER BY i",
        ROWS - 1
    )
}

async fn holds_in(format: &str) {
    let directory = tempfile::tempdir().expect("temporary directory");
    if format != "memory" {
        written(directory.path(), format).await;
    }
    for (target_partitions, batch_size) in [(1, 8192), (2, 8192), (8, 8192), (1, 100), (2, 100), (8, 100)] {
        for (query, expected) in EXACT {
            let ctx = tiny_session(target_partitions, batch_size);
            tables(&ctx, format, directory.path()).await;
            run(&ctx, query).await;
            let found = embedded(&ctx).await;
            assert_eq!(found, *expected, "{format}, {target_partitions} partitions, batches of {batch_size}: {query}");
        }
        // Each partition may have given 2 model batches and each worker may hold 2; a batch of 512 tokens has 73 texts.
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(target_partitions);
        let bound = (2 * (target_partitions + workers) * 100 + 1) as i64;
        for (query, bound) in [
            ("SELECT embed(body) FROM docs WHERE cosine_similarity(embed(body), embed('q')) > -1 LIMIT 10", bound),
            // The first condition collects 64 rows for the second.
            (
                "SELECT id FROM docs WHERE cosine_similarity(embed(body), embed('q')) > -1 \
                 AND cosine_similarity(embed(title), embed('q')) > -1 LIMIT 10",
                2 * (bound + 64),
            ),
        ] {
            let ctx = tiny_session(target_partitions, batch_size);
            tables(&ctx, format, directory.path()).await;
            run(&ctx, query).await;
            let found = embedded(&ctx).await;
            let layout = format!("{format}, {target_partitions} partitions, batches of {batch_size}");
            assert!(found <= bound, "{layout}: {found}, not {bound}: {query}");
        }
    }
}

/// The same table for plans that another session reads from bytes: literals count where the query is planned, rows where it runs.
#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread")]
async fn rows_embedded_are_the_rows_that_need_a_vector_elsewhere() {
    let directory = tempfile::tempdir().expect("temporary directory");
    written(directory.path(), "parquet").await;
    for (target_partitions, batch_size) in [(1, 8192), (8, 100)] {
        for (query, expected) in EXACT {
            let (here, there) = (tiny_session(target_partitions, batch_size), tiny_session(3, 1000));
            tables(&here, "parquet", directory.path()).await;
            run_elsewhere(&here, &there, query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
            let found = embedded(&here).await + embedded(&there).await;
            assert_eq!(found, *expected, "{target_partitions} partitions, batches of {batch_size}: {query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_embedded_are_the_rows_that_need_a_vector_in_parquet() {
    holds_in("parquet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_embedded_are_the_rows_that_need_a_vector_in_csv() {
    holds_in("csv").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_embedded_are_the_rows_that_need_a_vector_in_memory() {
    holds_in("memory").await;
}

//! LIMIT and OFFSET below other things: no row is lost, and pages fit together.

use datafusion::prelude::SessionContext;
use datafusion_embed::SessionOptions;

use crate::support::{count, run, tiny_session};

/// The ids that a query gives, in its order.
async fn ids(ctx: &SessionContext, sql: &str) -> Vec<i64> {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int64Type;
    let batches = run(ctx, sql).await;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// A session with eight rows in no order, `g` of two kinds.
async fn session() -> SessionContext {
    let ctx = datafusion_embed::session(SessionOptions::default()).expect("a session");
    run(&ctx, "CREATE TABLE t AS SELECT column1 AS id, column1 % 2 AS g FROM (VALUES (6),(3),(8),(1),(5),(2),(7),(4))")
        .await;
    ctx
}

#[tokio::test]
async fn a_sort_above_a_page_has_all_rows_of_the_page() {
    let ctx = session().await;
    for (page, expected) in [
        ("SELECT * FROM t LIMIT 3 OFFSET 3", vec![1, 2, 5]),
        ("SELECT * FROM t LIMIT 3", vec![3, 6, 8]),
        ("SELECT * FROM t OFFSET 6", vec![4, 7]),
        ("SELECT * FROM t LIMIT 100 OFFSET 7", vec![4]),
        ("SELECT * FROM t LIMIT 3 OFFSET 100", vec![]),
        ("SELECT * FROM t LIMIT 0 OFFSET 2", vec![]),
        ("SELECT * FROM (SELECT * FROM t LIMIT 6 OFFSET 1) LIMIT 2 OFFSET 3", vec![2, 5]),
        ("SELECT * FROM t ORDER BY id LIMIT 3 OFFSET 3", vec![4, 5, 6]),
        ("SELECT * FROM t ORDER BY id DESC LIMIT 3 OFFSET 3", vec![3, 4, 5]),
        ("SELECT * FROM t ORDER BY id DESC OFFSET 5", vec![1, 2, 3]),
        ("(SELECT * FROM t LIMIT 1 OFFSET 2) UNION ALL (SELECT * FROM t LIMIT 2 OFFSET 5)", vec![2, 7, 8]),
        ("SELECT * FROM (SELECT * FROM t ORDER BY id LIMIT 4 OFFSET 2) WHERE g = 1", vec![3, 5]),
        ("SELECT * FROM (SELECT id, g FROM t WHERE g = 0 LIMIT 2 OFFSET 1) ORDER BY g LIMIT 5", vec![2, 8]),
    ] {
        assert_eq!(ids(&ctx, &format!("SELECT id FROM ({page}) ORDER BY id")).await, expected, "{page}");
        let rows = expected.len() as i64;
        assert_eq!(count(&ctx, &format!("SELECT count(*) FROM (SELECT * FROM ({page}) ORDER BY g, id)")).await, rows);
        run(&ctx, &format!("CREATE OR REPLACE VIEW page AS {page}")).await;
        assert_eq!(ids(&ctx, "SELECT id FROM page ORDER BY id").await, expected, "view of {page}");
        let with = format!("WITH page AS ({page}) SELECT id FROM page ORDER BY g + id, id");
        assert_eq!(ids(&ctx, &with).await.len(), expected.len(), "{with}");
        let window = format!("SELECT id, row_number() OVER (ORDER BY id) FROM ({page}) ORDER BY id");
        assert_eq!(ids(&ctx, &window).await, expected, "{window}");
        let few = format!("SELECT id FROM (SELECT * FROM ({page}) ORDER BY id) ORDER BY id LIMIT 2 OFFSET 1");
        assert_eq!(ids(&ctx, &few).await, expected.iter().copied().skip(1).take(2).collect::<Vec<_>>(), "{few}");
        let joined = format!("SELECT a.id FROM ({page}) a JOIN t ON a.id = t.id ORDER BY a.id");
        assert_eq!(ids(&ctx, &joined).await, expected, "{joined}");
    }
}

#[tokio::test]
async fn an_offset_below_an_aggregate_keeps_its_order() {
    let ctx = session().await;
    let sql = "SELECT g, count(*) FROM (SELECT * FROM t ORDER BY id OFFSET 7) GROUP BY g ORDER BY g";
    assert_eq!(ids(&ctx, sql).await, [0]);
    assert_eq!(count(&ctx, "SELECT min(id) FROM (SELECT id FROM t ORDER BY id OFFSET 2)").await, 3);
    assert_eq!(count(&ctx, "SELECT sum(id) FROM (SELECT id FROM t ORDER BY id DESC LIMIT 2 OFFSET 1)").await, 13);
}

#[tokio::test]
async fn pages_are_of_the_same_rows_and_together_all() {
    let ctx = session().await;
    let mut all = Vec::new();
    for page in 0..3 {
        all.extend(
            ids(&ctx, &format!("SELECT id FROM (SELECT * FROM t LIMIT 3 OFFSET {}) ORDER BY id", 3 * page)).await,
        );
    }
    all.sort();
    assert_eq!(all, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_session_has_whole_pages_of_vectors() {
    let ctx = tiny_session(2, 8192);
    run(&ctx, "CREATE TABLE t AS SELECT value AS id, concat('text ', value) AS body FROM generate_series(1, 40)").await;
    let page = "SELECT id, embed(body) AS v FROM (SELECT id, body FROM t LIMIT 5 OFFSET 20)";
    assert_eq!(count(&ctx, &format!("SELECT count(v) FROM ({page} ORDER BY id)")).await, 5);
    assert_eq!(ids(&ctx, &format!("{page} ORDER BY id DESC")).await, [25, 24, 23, 22, 21]);
}

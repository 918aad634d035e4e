//! The lifted plan against the plain one: same rows, same bits, never more work; and what the operator promises.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, AsArray, DictionaryArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNode;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::SessionContext;
use datafusion_embed::{EmbedOptions, EmbedPlanner, register, register_with};
use futures::StreamExt;
use proptest::prelude::*;

#[cfg(feature = "cluster")]
use crate::support::run_elsewhere;
use crate::support::{
    count, embedded, layout, physical, rows_as_text, rows_of, run, sorted_rows, tiny_options, tiny_session,
};

/// A planner of a program's own; with the extension it lifts.
#[derive(Debug)]
struct OwnPlanner {
    lifts: bool,
}

#[async_trait]
impl QueryPlanner for OwnPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        if self.lifts {
            let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(EmbedPlanner)]);
            planner.create_physical_plan(&EmbedPlanner.lift(plan)?, session).await
        } else {
            DefaultPhysicalPlanner::default().create_physical_plan(plan, session).await
        }
    }
}

/// A session with a planner of its own, which `register` keeps.
pub(crate) fn with_own_planner(lifts: bool, target_partitions: usize, batch_size: usize) -> SessionContext {
    let builder = SessionStateBuilder::new_with_default_features().with_config(layout(target_partitions, batch_size));
    let state = builder.with_query_planner(Arc::new(OwnPlanner { lifts })).build();
    let ctx = SessionContext::new_with_state(state);
    register_with(&ctx, tiny_options()).expect("registered");
    ctx
}

async fn plan_text(ctx: &SessionContext, sql: &str) -> String {
    displayable(physical(ctx, sql).await.as_ref()).indent(false).to_string()
}

// ---- Generated queries ----

/// `docs(id, title, body, grp)` with NULLs and equal texts, and `notes(id, note)`.
async fn small_tables(ctx: &SessionContext) {
    let docs = "CREATE TABLE docs AS SELECT i AS id, CASE WHEN i % 7 = 0 THEN NULL ELSE concat('title ', i % 9) END AS title, \
                CASE WHEN i % 11 = 0 THEN NULL WHEN i % 5 = 0 THEN '' ELSE concat('body ', i % 23) END AS body, \
                i % 4 AS grp FROM generate_series(0, 59) AS t(i)";
    let notes =
        "CREATE TABLE notes AS SELECT i * 3 AS id, concat('note ', i % 6) AS note FROM generate_series(0, 29) AS t(i)";
    run(ctx, docs).await;
    run(ctx, notes).await;
}

const SOURCES: &[&str] = &[
    "docs",
    "(SELECT id, title, body, grp FROM docs WHERE id > 12)",
    "(SELECT id, title, body, grp FROM docs ORDER BY id DESC LIMIT 17)",
    "(SELECT id, title, concat(title, body) AS body, grp FROM docs)",
    "(SELECT d.id, d.title, n.note AS body, d.grp FROM docs d LEFT JOIN notes n ON d.id = n.id)",
    "(SELECT n.id, d.title, d.body, d.grp FROM docs d RIGHT JOIN notes n ON d.id = n.id)",
    "(SELECT d.id, d.title, n.note AS body, d.grp FROM docs d CROSS JOIN (SELECT note FROM notes ORDER BY id LIMIT 3) n)",
    "(SELECT id, title, body, grp FROM docs UNION ALL SELECT id, note, note, 9 FROM notes)",
    "(SELECT DISTINCT ON (grp) id, title, body, grp FROM docs ORDER BY grp, id)",
    "(SELECT id, title, body, grp FROM docs WHERE EXISTS (SELECT 1 FROM notes WHERE notes.id = docs.id))",
    "(SELECT id, title, body, grp FROM docs WHERE id NOT IN (SELECT id FROM notes))",
    "(SELECT id, title, body, grp FROM docs WHERE cosine_similarity(embed(body), embed('q')) > 0.05)",
    "(SELECT d.id, d.title, n.body, d.grp FROM docs d JOIN (SELECT id, note AS body FROM notes) n ON d.id = n.id)",
];

const VALUES: &[&str] = &[
    "embed(body)",
    "embed(concat(title, body))",
    "embed_query(title)",
    "cosine_similarity(embed(body), embed('q'))",
    "cosine_similarity(embed(body), embed(title))",
    "CASE WHEN id % 2 = 0 THEN embed(body) WHEN grp = 1 THEN embed(title) END",
    "CASE grp WHEN 1 THEN cosine_similarity(embed(body), embed('q')) WHEN id THEN 0.5 ELSE 2 END",
    "COALESCE(embed(body), embed(title), embed('none'))",
    "embed(body) IS NULL OR cosine_similarity(embed(title), embed('q')) > 0.1",
    "id % 3 = 0 AND cosine_similarity(embed(title), embed(body)) > 0.1",
    "(SELECT max(cosine_similarity(embed(note), embed('q'))) FROM notes)",
    "embed(CASE WHEN cosine_similarity(embed(body), embed('q')) > 0 THEN title ELSE body END)",
    "length(body)",
];

const CONDITIONS: &[&str] = &[
    "true",
    "v IS NOT NULL",
    "id % 3 <> 1",
    "cosine_similarity(embed(body), embed('q')) > 0.1",
    "id % 2 = 0 AND cosine_similarity(embed(body), embed('q')) > 0.1 AND cosine_similarity(embed(title), embed('q')) > 0",
    "id < 20 OR cosine_similarity(embed(body), embed('q')) > 0.3",
    "id / (id - 5) > 0 AND embed(title) IS NOT NULL OR id = 5",
];

/// What is done with `(id, body, grp, v)`; the order of the rows that are kept is always determined by `id, body`.
const SHAPES: &[&str] = &[
    "SELECT id, v FROM ({}) WHERE {}",
    "SELECT id, v FROM ({}) WHERE {} ORDER BY id, body, grp LIMIT 9",
    "SELECT id FROM ({}) WHERE {} ORDER BY v, id, body, grp LIMIT 5 OFFSET 3",
    "SELECT id, v, w FROM (SELECT a.*, b.v AS w FROM ({}) a JOIN notes n ON a.id = n.id JOIN vectors b ON a.id = b.id) WHERE {}",
    "SELECT n.id, a.v FROM notes n LEFT JOIN (SELECT id AS i, * FROM ({}) WHERE {}) a ON n.id = a.i AND a.grp < 3",
    "SELECT n.id, a.v FROM notes n FULL JOIN (SELECT id AS i, * FROM ({}) WHERE {}) a ON n.id = a.i",
    "SELECT grp, count(v), first_value(v ORDER BY id, body) FROM ({}) WHERE {} GROUP BY grp",
    "SELECT v, count(*) FROM ({}) WHERE {} GROUP BY v",
    "SELECT DISTINCT v FROM ({}) WHERE {}",
    "SELECT id, v, row_number() OVER (PARTITION BY grp ORDER BY id, body) AS n FROM ({}) WHERE {} QUALIFY n < 4",
    "SELECT id, v FROM ({}) WHERE {} UNION ALL SELECT id, v FROM vectors",
    "SELECT id FROM notes WHERE id IN (SELECT id FROM ({}) WHERE {} AND v IS NOT NULL)",
    "WITH w AS (SELECT * FROM ({}) WHERE {}) SELECT x.id, x.v, y.v FROM w x JOIN w y ON x.id = y.id",
    "SELECT upper(body), v FROM ({}) WHERE {}",
    "SELECT grp, v FROM ({}) WHERE {} ORDER BY id, body, grp",
    "SELECT s.id, s.v, s.body, s.note FROM (SELECT a.*, n.note FROM ({}) a CROSS JOIN (SELECT note FROM notes ORDER BY id LIMIT 2) n) s WHERE {}",
    "SELECT s.w, s.v FROM (SELECT a.v, b.v AS w, a.id, a.body, a.grp, a.title FROM ({}) a CROSS JOIN (SELECT v FROM vectors WHERE id < 3) b) s WHERE {}",
    "SELECT a.id, n.note FROM ({}) a JOIN notes n ON a.id = n.id AND cosine_similarity(embed(a.body), embed(n.note)) > 0.1 WHERE a.id > 1 AND {}",
    "SELECT a.id, n.note FROM ({}) a LEFT JOIN notes n ON a.id = n.id AND cosine_similarity(embed(a.body), embed(n.note)) > 0.1 AND {}",
    "SELECT a.id, n.note FROM ({}) a JOIN notes n ON cosine_similarity(embed(a.body), embed(n.note)) > 0.5 AND {}",
    "SELECT concat(id, \"0\"), v FROM (SELECT *, note AS \"0\" FROM ({}) JOIN (SELECT id AS i, note FROM notes) ON id = i) WHERE {} UNION ALL SELECT note, embed(note) FROM notes",
];

fn query() -> impl Strategy<Value = String> {
    let parts = (0..SOURCES.len(), 0..VALUES.len(), 0..CONDITIONS.len(), 0..SHAPES.len());
    parts.prop_map(|(source, value, condition, shape)| {
        let (source, value, condition) = (SOURCES[source], VALUES[value], CONDITIONS[condition]);
        let inner = format!("SELECT id, title, body, grp, {value} AS v FROM {source}");
        SHAPES[shape].replacen("{}", &inner, 1).replacen("{}", condition, 1)
    })
}

/// What a query gave.
struct Outcome {
    /// In their order where the query says one.
    rows: Vec<String>,
    /// Texts that went through the model.
    embedded: i64,
    /// The same and those that took the vector of an equal text.
    asked: i64,
    /// Whether some call stays a plain function when the plan is lifted.
    keeps_plain_calls: bool,
}

/// Runs a query in a new session of its own; or its error.
async fn outcome(ctx: &SessionContext, sql: &str) -> std::result::Result<Outcome, String> {
    small_tables(ctx).await;
    run(ctx, "CREATE VIEW vectors AS SELECT id, embed(body) AS v FROM docs").await;
    let frame = ctx.sql(sql).await.map_err(|error| error.strip_backtrace())?;
    let plan = frame.clone().into_optimized_plan().map_err(|error| error.strip_backtrace())?;
    let lifted = EmbedPlanner.lift(&plan).map_err(|error| error.strip_backtrace())?;
    let rows = rows_in_order(sql, &frame.collect().await.map_err(|error| error.strip_backtrace())?);
    let asked = count(ctx, "SELECT coalesce(sum(rows_embedded + rows_duplicate), 0) FROM embed_models()").await;
    Ok(Outcome { rows, embedded: embedded(ctx).await, asked, keeps_plain_calls: keeps_plain_calls(&lifted) })
}

/// The rows of a query, sorted where it says no order.
fn rows_in_order(sql: &str, batches: &[RecordBatch]) -> Vec<String> {
    if sql.contains("ORDER BY id, body, grp") { rows_of(batches) } else { sorted_rows(batches) }
}

/// Whether some node that is no `Embed` has a call on a column.
fn keeps_plain_calls(plan: &LogicalPlan) -> bool {
    let is_call = |e: &Expr| match e {
        Expr::ScalarFunction(f) => Ok(f.name().starts_with("embed") && e.any_column_refs()),
        _ => Ok(false),
    };
    let has_call = |node: &LogicalPlan| {
        let found = |e: &Expr| e.exists(is_call).expect("an expression is walked");
        Ok(!matches!(node, LogicalPlan::Extension(_)) && node.expressions().iter().any(found))
    };
    plan.exists(has_call).expect("a plan is walked")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 0, ..ProptestConfig::default() })]
    #[test]
    fn lifted_queries_give_what_plain_ones_give_and_embed_no_more(
        sql in query(),
        target_partitions in prop::sample::select(vec![1usize, 2, 8]),
        batch_size in prop::sample::select(vec![1usize, 7, 8192]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let plain = runtime.block_on(outcome(&with_own_planner(false, target_partitions, batch_size), &sql));
        let here = tiny_session(target_partitions, batch_size);
        let lifted = runtime.block_on(outcome(&here, &sql));
        #[cfg(feature = "cluster")]
        if let Ok(lifted) = &lifted {
            let there = tiny_session(target_partitions, batch_size);
            let elsewhere = runtime.block_on(run_elsewhere(&here, &there, &sql));
            prop_assert!(rows_in_order(&sql, &elsewhere.expect(&sql)) == lifted.rows, "{sql}");
            let embedded = runtime.block_on(embedded(&there));
            prop_assert!(embedded <= lifted.embedded, "{embedded} rows embedded elsewhere, {}: {sql}", lifted.embedded);
        }
        match (plain, lifted) {
            (Ok(plain), Ok(lifted)) => {
                let differing = lifted.rows.iter().zip(&plain.rows).find(|(a, b)| a != b);
                let shown = differing.map(|(a, b)| format!("{a:.60} not {b:.60}"));
                let (rows, plain_rows) = (lifted.rows.len(), plain.rows.len());
                prop_assert!(lifted.rows == plain.rows, "{rows} rows, not {plain_rows}; {shown:?}; {sql}");
                // A plain function sees equal texts within a record batch only, and an operator below it may cut the
                // batches elsewhere: where one stays, it is enough that no more rows ask for a vector.
                let no_more_asked = lifted.keeps_plain_calls && lifted.asked <= plain.asked;
                let (count, bound) = (lifted.embedded, plain.embedded);
                prop_assert!(count <= bound || no_more_asked, "{count} rows embedded, {bound} by the plain plan: {sql}");
            }
            (Err(plain), Err(lifted)) => prop_assert_eq!(lifted, plain, "{}", sql),
            // A division by zero in a row that late evaluation left out, for one.
            (Err(_), Ok(_)) => {}
            (Ok(_), Err(error)) => prop_assert!(false, "{sql}: {error}"),
        }
    }
}

/// A scalar subquery ends before the rest of its plan begins.
#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_subquery_that_has_ended_are_not_embedded_again() {
    let sql = "WITH w AS (SELECT id, embed(note) AS e, (SELECT max(cosine_similarity(embed(note), embed('q'))) FROM notes) AS v \
               FROM notes) SELECT x.id, x.e, y.v FROM w x JOIN w y ON x.id = y.id";
    for _ in 0..20 {
        let (here, there) = (tiny_session(8, 1), tiny_session(8, 1));
        for ctx in [&here, &there] {
            small_tables(ctx).await;
        }
        let texts = 1 + count(&here, "SELECT count(DISTINCT note) FROM notes").await;
        run(&here, sql).await;
        assert_eq!(embedded(&here).await, texts);
        #[cfg(feature = "cluster")]
        {
            run_elsewhere(&here, &there, sql).await.expect(sql);
            assert_eq!(embedded(&there).await, texts);
        }
    }
}

// ---- Planning ----

#[tokio::test(flavor = "multi_thread")]
async fn a_planner_of_ones_own_keeps_plain_functions_and_lifts_with_the_extension() {
    let sql = "SELECT id, embed(concat(title, body)) FROM docs WHERE id % 20 = 3";
    for (lifts, expected) in [(false, "embed(concat"), (true, "EmbedExec: ")] {
        let ctx = with_own_planner(lifts, 2, 8192);
        small_tables(&ctx).await;
        let plan = plan_text(&ctx, sql).await;
        assert!(plan.contains(expected) && plan.contains("EmbedExec") == lifts, "{plan}");
        assert_eq!(run(&ctx, sql).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_twice_changes_nothing_more() {
    let ctx = tiny_session(2, 8192);
    small_tables(&ctx).await;
    let sql = "SELECT id, embed(body) FROM docs WHERE id > 3 ORDER BY id LIMIT 2";
    let (before, rules) = (plan_text(&ctx, sql).await, ctx.state().physical_optimizers().len());
    register(&ctx).expect("registered again");
    assert_eq!(plan_text(&ctx, sql).await, before);
    assert_eq!(ctx.state().physical_optimizers().len(), rules);
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_changes_no_setting_of_the_host() {
    let settings = |ctx: &SessionContext| -> BTreeMap<String, Option<String>> {
        let entries = ctx.state().config_options().entries();
        entries.into_iter().filter(|e| !e.key.starts_with("embed.")).map(|e| (e.key, e.value)).collect()
    };
    let ctx = SessionContext::new_with_config(layout(3, 77));
    let before = settings(&ctx);
    register(&ctx).expect("registered");
    assert!(settings(&ctx) == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn lifting_is_idempotent_and_keeps_the_schema() {
    let ctx = tiny_session(2, 8192);
    small_tables(&ctx).await;
    for value in VALUES {
        for sql in [
            format!("SELECT id, {value} AS v, {value} AS w FROM docs d WHERE {value} IS NOT NULL ORDER BY id LIMIT 3"),
            format!("SELECT * FROM (SELECT id, body, {value} AS v FROM docs) s JOIN notes ON s.id = notes.id"),
        ] {
            let plan = ctx.sql(&sql).await.expect(&sql).into_optimized_plan().expect(&sql);
            let once = EmbedPlanner.lift(&plan).expect(&sql);
            assert_eq!(once.schema(), plan.schema(), "{sql}");
            assert!(EmbedPlanner.lift(&once).expect(&sql) == once, "{sql}");
            let has_call = value.contains("embed");
            assert_eq!(once.to_string().contains("Embed: "), has_call, "{sql}\n{once}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_calls_is_not_touched() {
    let (ctx, plain) = (tiny_session(2, 8192), SessionContext::new_with_config(layout(2, 8192)));
    for ctx in [&ctx, &plain] {
        small_tables(ctx).await;
    }
    for sql in
        ["SELECT grp, count(*) FROM docs JOIN notes ON docs.id = notes.id WHERE grp < 3 GROUP BY grp ORDER BY grp"]
    {
        assert_eq!(plan_text(&ctx, sql).await, plan_text(&plain, sql).await);
    }
}

// ---- The operator ----

#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_shows_what_was_done() {
    let ctx = tiny_session(1, 8192);
    small_tables(&ctx).await;
    let batches = run(&ctx, "EXPLAIN ANALYZE SELECT id, embed(body) FROM docs").await;
    let text = datafusion::arrow::util::pretty::pretty_format_batches(&batches).expect("a table").to_string();
    let line = text.lines().find(|line| line.contains("EmbedExec: ")).expect("the operator");
    // 60 rows: 6 NULLs; the others are '' (10 of them) and texts that repeat.
    let distinct = count(&ctx, "SELECT count(DISTINCT body) FROM docs").await;
    for part in [
        "embed(__embed_0@1), model=tests/fixtures/tiny-bert, precision=f32".to_owned(),
        format!("rows_embedded={distinct},"),
        "rows_null=6,".to_owned(),
        format!("rows_duplicate={},", 54 - distinct),
        "rows_truncated=0,".to_owned(),
        "rows_cached=0,".to_owned(),
        "bytes_cached=0,".to_owned(),
        "model_batches=1,".to_owned(),
        "tokens=".to_owned(),
        "tokenize_time=".to_owned(),
        "encode_time=".to_owned(),
    ] {
        assert!(line.contains(&part), "{part} not in {line}");
    }
    // Whether anything waited is up to the machine; that nothing did is no nanosecond.
    assert!(!line.contains("=1ns"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_texts_of_any_type_go_through_the_model_once_per_execution() {
    let ctx = tiny_session(4, 50);
    let texts: StringArray = (0..1000).map(|i| (i % 10 != 9).then(|| format!("text {}", i % 10))).collect();
    let dictionary: DictionaryArray<Int32Type> = texts.iter().collect();
    let ids = Int64Array::from_iter_values(0..1000);
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("body", dictionary.data_type().clone(), true),
        Field::new("plain", DataType::Utf8, true),
    ]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(dictionary), Arc::new(texts)])
        .expect("a batch");
    let parts = (0..10).map(|part| vec![batch.slice(part * 100, 100)]).collect();
    ctx.register_table("t", Arc::new(MemTable::try_new(batch.schema(), parts).expect("a table"))).expect("registered");
    let sql = "SELECT id, embed(body), embed(plain) FROM t UNION ALL SELECT id, embed(plain), embed(body) FROM t";
    let plan = physical(&ctx, sql).await;
    for execution in 1..=2 {
        let batches = datafusion::physical_plan::collect(Arc::clone(&plan), ctx.task_ctx()).await.expect("rows");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2000);
        // A second execution of the same plan is another query.
        assert_eq!(embedded(&ctx).await, 9 * execution);
    }
    assert_eq!(count(&ctx, "SELECT rows_duplicate FROM embed_models()").await, 2 * (3600 - 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn little_memory_for_equal_texts_costs_work_and_no_correctness() {
    let sql = "SELECT id, embed(body) FROM docs";
    let (roomy, tight) = (tiny_session(2, 7), tiny_session(2, 7));
    let mut rows = Vec::new();
    for ctx in [&roomy, &tight] {
        small_tables(ctx).await;
        rows.push(sorted_rows(&run(ctx, sql).await));
        run(ctx, "SET embed.memory = '1K'").await;
    }
    assert_eq!(sorted_rows(&run(&tight, sql).await), rows[0]);
    assert_eq!(rows[0], rows[1]);
    let (a, b) = (embedded(&roomy).await, embedded(&tight).await);
    assert!(b > 2 * a && b <= a + 54, "{a} rows embedded with memory, {b} with and without");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_small_a_memory_limit_is_an_error_that_says_what_to_do() {
    for (limit, fits) in [(1_000, false), (50_000_000, true)] {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(limit, 1.0).build_arc().expect("a runtime");
        let ctx = SessionContext::new_with_config_rt(layout(1, 8192), runtime);
        register_with(&ctx, tiny_options()).expect("registered");
        small_tables(&ctx).await;
        let result = ctx.sql("SELECT id, embed(body) FROM docs").await.expect("planned").collect().await;
        match result {
            Ok(_) => assert!(fits, "{limit}"),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    !fits && text.contains("raise the memory limit") && text.contains("batch_size"),
                    "{limit}: {text}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_its_order_through_filters_and_partitions() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (from, to) = (directory.path().join("in.parquet"), directory.path().join("out.parquet"));
    let (from, to) = (from.display(), to.display());
    for filter in ["id % 3 <> 1", "id % 3 <> 1 AND cosine_similarity(embed(body), embed('q')) > 0"] {
        for (target_partitions, range_of) in [(1, 1 << 20), (2, 1), (8, 1), (8, 1 << 30)] {
            let ctx = tiny_session(target_partitions, 64);
            run(&ctx, "SET datafusion.execution.parquet.max_row_group_size = 100").await;
            let rows =
                "SELECT i AS id, concat('body ', i % 500) AS body FROM generate_series(0, 2999) AS t(i) ORDER BY i";
            run(&ctx, &format!("COPY ({rows}) TO '{from}'")).await;
            run(&ctx, &format!("SET datafusion.optimizer.repartition_file_min_size = {range_of}")).await;
            run(&ctx, &format!("CREATE EXTERNAL TABLE docs STORED AS PARQUET LOCATION '{from}'")).await;
            run(&ctx, &format!("COPY (SELECT id, embed(body) AS v FROM docs WHERE {filter}) TO '{to}'")).await;
            run(&ctx, &format!("CREATE EXTERNAL TABLE vectors STORED AS PARQUET LOCATION '{to}'")).await;
            run(&ctx, "SET datafusion.execution.target_partitions = 1").await;
            let batches = run(&ctx, "SELECT id FROM vectors").await;
            let ids: Vec<_> =
                batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
            assert!(
                ids.len() > 500 && ids.is_sorted(),
                "{filter}, {target_partitions} partitions, ranges of {range_of}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_stops_its_work() {
    let ctx = SessionContext::new_with_config(layout(1, 8192));
    register_with(&ctx, EmbedOptions::default()).expect("registered");
    let rows = "CREATE TABLE long AS SELECT concat(repeat('a long text of many words ', 20), i) AS body FROM generate_series(0, 4000) AS t(i)";
    run(&ctx, rows).await;
    let plan = physical(&ctx, "SELECT embed(body) FROM long").await;
    let mut stream = plan.execute(0, ctx.task_ctx()).expect("a stream");
    let first = stream.next().await.expect("rows").expect("rows");
    assert!(first.num_rows() < 4000, "rows leave a few model batches at a time");
    drop(stream);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let after = embedded(&ctx).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(embedded(&ctx).await, after, "no model batch runs any more");
    assert!(after < 100, "{after} rows embedded");
}

/// A plan holds nothing of the session that made it: lifted or plain, it runs and counts where it is executed.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_runs_and_counts_in_the_session_that_executes_it() {
    let (made, runs, bare) = (tiny_session(2, 100), tiny_session(1, 100), SessionContext::new());
    let lifted = "SELECT embed(concat('text ', value)) AS e FROM generate_series(1, 50)";
    // What an outer join's condition has stays a plain call.
    let plain = "SELECT count(*) FROM generate_series(1, 3) a(x) LEFT JOIN generate_series(1, 3) b(y) \
        ON cosine_similarity(embed(concat('text ', x)), embed(concat('word ', y))) > 0.1";
    let here = datafusion::physical_plan::collect(physical(&made, lifted).await, made.task_ctx()).await.expect("rows");
    let counted = (embedded(&made).await, embedded(&runs).await);
    assert_eq!(counted, (50, 0));
    let there = datafusion::physical_plan::collect(physical(&made, lifted).await, runs.task_ctx()).await.expect("rows");
    assert_eq!((embedded(&made).await, embedded(&runs).await), (50, 50));
    let bits = |batches: &[RecordBatch]| rows_as_text(batches, |column, row| format!("{:?}", column.slice(row, 1)));
    assert_eq!(bits(&here), bits(&there));
    datafusion::physical_plan::collect(physical(&made, plain).await, runs.task_ctx()).await.expect("rows");
    assert_eq!(embedded(&made).await, 50, "plain calls count where they run too");
    assert!(embedded(&runs).await > 50);
    // Also where nothing was ever registered.
    let anywhere =
        datafusion::physical_plan::collect(physical(&made, lifted).await, bare.task_ctx()).await.expect("rows");
    assert_eq!(bits(&here), bits(&anywhere));
    assert_eq!(embedded(&made).await, 50);
}

#[tokio::test]
async fn a_host_hears_which_of_its_functions_were_replaced() {
    let ctx = SessionContext::new();
    assert_eq!(register_with(&ctx, tiny_options()).expect("registered"), [] as [String; 0]);
    assert_eq!(register_with(&ctx, tiny_options()).expect("again"), [] as [String; 0], "our own are no host's");
    let own = ctx.state().scalar_functions()["upper"].as_ref().clone();
    let ctx = SessionContext::new();
    ctx.register_udf(own.with_aliases(["cosine_similarity"]));
    let replaced = register_with(&ctx, tiny_options()).expect("registered");
    assert_eq!(replaced, ["upper"], "known under that name too");
}

/// DataFusion reads the conditions and values of these out of the logical plan, so nothing is lifted there.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_deleted_and_updated_as_by_a_plain_function() {
    let mut left = Vec::new();
    for ctx in [tiny_session(2, 8192), with_own_planner(false, 2, 8192)] {
        small_tables(&ctx).await;
        run(&ctx, "DELETE FROM docs WHERE embed(body)[1] > 0.1 AND id < 30").await;
        run(&ctx, "UPDATE docs SET title = CAST(embed(body)[2] AS VARCHAR) WHERE embed(body)[2] > 0 AND id > 20").await;
        left.push(sorted_rows(&run(&ctx, "SELECT * FROM docs").await));
    }
    assert!(left[0].len() < 60 && left[0] == left[1], "{} and {} rows", left[0].len(), left[1].len());
}

/// What cannot be lifted runs as a plain function: volatile texts, recursive queries, subqueries that see outer columns.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_lifted_runs_as_a_plain_function() {
    let ctx = tiny_session(2, 8192);
    small_tables(&ctx).await;
    for (sql, rows) in [
        ("SELECT embed(concat(body, random())) FROM docs", 60),
        (
            "WITH RECURSIVE r AS (SELECT 0 AS i, embed('a') AS e UNION ALL SELECT i + 1, embed(concat('a', i)) FROM r WHERE i < 3) \
             SELECT i FROM r WHERE e IS NOT NULL",
            4,
        ),
        (
            "SELECT id FROM docs a WHERE embed(title) IS NOT NULL AND cosine_similarity(embed(title), embed('q')) <= \
             (SELECT max(cosine_similarity(embed(b.title), embed('q'))) FROM docs b WHERE b.id = a.id)",
            51,
        ),
        ("SELECT count(*) FROM docs GROUP BY GROUPING SETS ((embed(title)), ())", 11),
        ("SELECT __embed_0, embed(__embed_0), embed(body) FROM (SELECT title AS __embed_0, body FROM docs)", 60),
    ] {
        assert_eq!(run(&ctx, sql).await.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{sql}");
    }
}

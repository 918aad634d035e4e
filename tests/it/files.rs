//! What a host has of writing: the session of the program, and the parts of it for a session and a store of its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::ObjectStore;
use datafusion::object_store::memory::InMemory;
use datafusion::prelude::SessionContext;
use datafusion_embed::files::{Destination, Whole, WholeSinks, Writes, only_file};
use datafusion_embed::{Error, SessionOptions};
use futures::TryStreamExt;
use tempfile::TempDir;

use crate::support::{count, run};

/// Rows that fail when much is written.
const FAILING: &str = "SELECT md5(value::text) AS text, 1 / (value - 300000) AS x FROM generate_series(1, 300000)";

fn session() -> (SessionContext, Writes) {
    let options = SessionOptions::default();
    let writes = options.writes.clone();
    (datafusion_embed::session(options).expect("a session"), writes)
}

/// Names in a folder, once nothing is being removed any more.
async fn settled(folder: &Path, expected: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..500 {
        let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").file_name());
        names = entries.map(|name| name.into_string().expect("UTF-8")).collect();
        names.sort();
        if names == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_the_library_writes_whole_files_with_embed() {
    let folder = TempDir::new().expect("a folder");
    let (ctx, writes) = session();
    let target = folder.path().join("v.parquet").display().to_string();
    let copy = format!("COPY (SELECT id, embed(body) AS v FROM 'sql/docs.parquet' LIMIT 3) TO '{target}'");
    run(&ctx, &copy).await;
    assert_eq!(writes.completed(), [target.as_str()]);
    writes.next_statement(None);
    let failed = ctx.sql(&format!("COPY ({FAILING}) TO '{target}'")).await.expect("planned").collect().await;
    assert!(failed.expect_err("it divides by zero").to_string().contains("Divide by zero"));
    assert_eq!(settled(folder.path(), &["v.parquet"]).await, ["v.parquet"]);
    assert_eq!(writes.completed(), [] as [&str; 0]);
    assert_eq!(count(&ctx, &format!("SELECT count(*) FROM '{target}' WHERE v IS NOT NULL")).await, 3);
    let groups = count(
        &ctx,
        "SELECT value::BIGINT FROM information_schema.df_settings \
        WHERE name = 'datafusion.execution.parquet.max_row_group_size'",
    );
    assert_eq!(groups.await, 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_store_of_a_host_has_whole_objects_only() {
    let (objects, writes) = (Arc::new(InMemory::new()), Writes::default());
    let rule = Arc::new(WholeSinks);
    let state = SessionStateBuilder::new_with_default_features().with_physical_optimizer_rule(rule).build();
    let ctx = SessionContext::new_with_state(state);
    let url = ObjectStoreUrl::parse("mem://bucket").expect("a URL");
    ctx.register_object_store(url.as_ref(), Arc::new(Whole::over(objects.clone(), &url, &writes)));
    let failed =
        ctx.sql(&format!("COPY ({FAILING}) TO 'mem://bucket/a/v.csv'")).await.expect("planned").collect().await;
    assert!(failed.expect_err("it divides by zero").to_string().contains("Divide by zero"));
    run(&ctx, "COPY (SELECT 1 AS a) TO 'mem://bucket/a/w.csv'").await;
    writes.settle().await;
    let found: Vec<_> = objects.list(None).try_collect().await.expect("a list");
    let names: Vec<_> = found.iter().map(|object| object.location.to_string()).collect();
    assert_eq!(names, ["a/w.csv"]);
    assert_eq!(writes.completed(), ["mem://bucket/a/w.csv"]);
}

#[tokio::test]
async fn what_a_statement_reads_and_writes_is_seen_before_it_runs() {
    let (ctx, _) = session();
    let plan = async |sql: &str| ctx.state().create_logical_plan(sql).await.expect("planned");
    let copy = plan("COPY (SELECT * FROM 'sql/docs.parquet') TO 'no/such/v.parquet'").await;
    assert_eq!(only_file(&copy).as_deref(), Some("sql/docs.parquet"));
    let destination = Destination::of(&copy).expect("a file");
    assert_eq!(destination.statement(), "COPY to \"no/such/v.parquet\"");
    assert!(Destination::of(&plan("SELECT 1").await).is_none());
    // By the session alone, and before anything runs.
    let refused = ctx.sql("COPY (SELECT [1.5, 2.5] AS v) TO 'v.csv'").await.expect("planned");
    let refused = refused.create_physical_plan().await.expect_err("no vector in a csv");
    let DataFusionError::External(error) = &refused else { panic!("{refused:?}") };
    assert!(matches!(error.downcast_ref(), Some(Error::Write(message)) if message.contains("\"v\" is a vector")));
}

//! The plans in the docs of this folder's files are what the rule makes, and every row of its table has one.

use std::collections::BTreeSet;
use std::fmt::Display;

use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlanBuilder, lit};
use datafusion::prelude::SessionContext;

use super::rule::{fail_on_broken_rule, lift, settle};
use crate::options::EmbedOptions;
use crate::register_with;

/// The files whose docs have plans.
const FILES: [(&str, &str); 10] = [
    ("aggregate.rs", include_str!("aggregate.rs")),
    ("alias.rs", include_str!("alias.rs")),
    ("filter.rs", include_str!("filter.rs")),
    ("join.rs", include_str!("join.rs")),
    ("project.rs", include_str!("project.rs")),
    ("rule.rs", include_str!("rule.rs")),
    ("scan.rs", include_str!("scan.rs")),
    ("sort.rs", include_str!("sort.rs")),
    ("union.rs", include_str!("union.rs")),
    ("window.rs", include_str!("window.rs")),
];

/// The lines of a file's own documentation.
fn docs(source: &str) -> impl Iterator<Item = &str> {
    source.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line))
}

/// File and node of the rows of the table that name a node.
fn rows() -> BTreeSet<(String, String)> {
    let rows = docs(include_str!("mod.rs")).filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>());
    let pairs = cells.map(|cells| (cells[1].to_owned(), cells[2].to_owned()));
    pairs.filter(|(_, node)| !node.is_empty()).collect()
}

/// The plans in the docs of a file: each a node, a statement, and what it is before and after the rule.
fn plans(source: &str) -> Vec<String> {
    let docs: String = docs(source).map(|line| format!("{line}\n")).collect();
    docs.split("```text\n").skip(1).filter_map(|rest| Some(rest.split("```").next()?.to_owned())).collect()
}

/// A session with the tables that the statements are about; no row is read.
async fn session() -> SessionContext {
    let ctx = SessionContext::new();
    let model = "tests/fixtures/tiny-bert".to_owned();
    register_with(&ctx, EmbedOptions { model, ..EmbedOptions::default() }).expect("registered");
    for table in [
        "CREATE TABLE docs (id BIGINT, grp BIGINT, title VARCHAR, body VARCHAR)",
        "CREATE TABLE notes (id BIGINT, note VARCHAR)",
        "CREATE EXTERNAL TABLE pages (id BIGINT, body VARCHAR) STORED AS PARQUET LOCATION 'no-such-folder/'",
    ] {
        ctx.sql(table).await.expect(table);
    }
    ctx
}

fn indented(text: impl Display) -> String {
    text.to_string().lines().map(|line| format!("    {line}\n")).collect()
}

/// What the docs should say of a statement.
async fn planned(node: &str, sql: &str) -> String {
    let plan = session().await.sql(sql).await.expect(sql).into_optimized_plan().expect(sql);
    let (before, after) = (plan.display_indent(), lift(&plan).expect(sql));
    let (before, after) = (indented(before), indented(after.display_indent()));
    format!("{node}\n{}before\n{before}after\n{after}", indented(sql))
}

#[tokio::test]
async fn the_plans_in_the_docs_are_what_the_rule_makes_and_each_node_has_one() {
    let (mut shown, mut wrong) = (BTreeSet::new(), String::new());
    for (file, source) in FILES {
        for plan in plans(source) {
            let (node, rest) = plan.split_once('\n').expect("a node and its plans");
            let sql: Vec<_> = rest.lines().take_while(|line| *line != "before").map(str::trim_start).collect();
            let right = planned(node, &sql.join("\n")).await;
            shown.insert((file.to_owned(), node.to_owned()));
            if plan != right {
                let right: String = right.lines().map(|line| format!("//! {line}\n")).collect();
                wrong.push_str(&format!("src/plan/lift/{file}:\n//! ```text\n{right}//! ```\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "the plans are these:\n{wrong}");
    assert_eq!(shown, rows(), "nodes that have a plan in the docs, and nodes of the table in mod.rs");
}

#[test]
fn a_rule_that_fails_is_seen_by_tests_and_costs_others_no_query() {
    let plan = LogicalPlanBuilder::empty(true).project([lit(1)]).and_then(|plan| plan.build()).expect("a plan");
    let failed = || Err(DataFusionError::Internal("a broken rule".to_owned()));
    assert_eq!(settle(failed(), &plan).expect("the plan that is there"), plan);
    fail_on_broken_rule();
    let error = settle(failed(), &plan).expect_err("seen").to_string();
    assert!(error.contains("could not be lifted") && error.contains("a broken rule"), "{error}");
    assert_eq!(settle(Ok(None), &plan).expect("nothing to lift"), plan);
}

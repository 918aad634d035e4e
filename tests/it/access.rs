//! What a host lets its sessions do: no SQL gets around it, and each session is told what it did itself.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionContext;
use datafusion_embed::{Access, EmbedOptions, Error, Event, models, register, register_as, register_with};

use crate::support::{copy_folder, layout, run, session, tiny_options};

const TINY: &str = "tests/fixtures/tiny-bert";
const OTHER: &str = "tests/fixtures/architectures/electra";

/// Neither directories nor ids of the hub.
fn nothing_but_the_hosts_own() -> Access {
    Access::default().with_directories(false).with_hub(false)
}

/// A session of a host with this model of its own.
fn hosted(model: &str, access: Access) -> SessionContext {
    let ctx = SessionContext::new_with_config(layout(2, 100));
    let options = EmbedOptions::default().model(model);
    register_as(&ctx, options, access).expect("registered");
    ctx
}

async fn try_run(ctx: &SessionContext, sql: &str) -> Result<()> {
    ctx.sql(sql).await?.collect().await.map(drop)
}

/// Runs statements that must go well, and one that must be refused for this model.
async fn assert_refused(ctx: &SessionContext, before: &[&str], sql: &str, model: &str) {
    for statement in before {
        run(ctx, statement).await;
    }
    let error = try_run(ctx, sql).await.expect_err(sql);
    let DataFusionError::External(root) = error.find_root() else { panic!("{sql}: {error}") };
    let Some(Error::Setting(text)) = root.downcast_ref() else { panic!("{sql}: {error}") };
    let said = [format!("model \"{model}\""), "this host does not allow".to_owned()];
    assert!(said.iter().all(|part| text.contains(part)), "{sql}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sql_gets_around_what_the_host_forbids() {
    // Somebody else of this process has the model.
    run(&session(1, 100), &format!("SELECT embed(column1, '{OTHER}') FROM (VALUES ('x'))")).await;
    let ctx = hosted(TINY, nothing_but_the_hosts_own());
    run(&ctx, "CREATE TABLE texts AS SELECT 'a text' AS body").await;
    for model in [OTHER, "./tests/fixtures/tiny-bert", "/etc", "no-such-model", "acme/tiny", "acme/tiny@main"] {
        for call in [
            "embed('x', $)",
            "embed(body, $)",
            "embed_query(body, $)",
            "embed_document('x', $)",
            "embed_tokens(body, $)",
        ] {
            let query = format!("SELECT {} FROM texts", call.replace('$', &format!("'{model}'")));
            assert_refused(&ctx, &[], &query, model).await;
            assert_refused(&ctx, &[], &format!("EXPLAIN {query}"), model).await;
            assert_refused(&ctx, &["SET embed.offline = false"], &query, model).await;
        }
        let set = format!("SET embed.model = '{model}'");
        for query in
            ["SELECT embed(body) FROM texts", "EXPLAIN SELECT embed('x')", "SELECT embed_tokens(body) FROM texts"]
        {
            assert_refused(&ctx, &[&set], query, model).await;
        }
        let view = format!("CREATE OR REPLACE VIEW vectors AS SELECT embed(body, '{model}') FROM texts");
        assert_refused(&ctx, &[], &view, model).await;
    }
    // What the host chose goes on.
    run(&ctx, &format!("SET embed.model = '{TINY}'")).await;
    run(&ctx, "SELECT embed(body), embed('x') FROM texts").await;
    run(&ctx, &format!("SELECT embed(body, '{TINY}') FROM texts")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planned_before_the_host_forbids_it_is_refused_after_that() {
    let ctx = hosted(TINY, Access::default());
    run(&ctx, &format!("CREATE VIEW vectors AS SELECT embed(column1, '{OTHER}') FROM (VALUES ('x'))")).await;
    run(&ctx, "SELECT * FROM vectors").await;
    register_as(&ctx, tiny_options(), nothing_but_the_hosts_own()).expect("registered");
    assert_refused(&ctx, &[], "SELECT * FROM vectors", OTHER).await;
    // Neither does a host open it again that only says its settings again.
    register(&ctx).expect("registered");
    assert_refused(&ctx, &[], "SELECT * FROM vectors", OTHER).await;
    register_with(&ctx, EmbedOptions::default().model(OTHER)).expect("registered");
    assert_refused(&ctx, &[], "SELECT embed('x')", OTHER).await;
    // Nor does one whose functions somebody removed by SQL.
    for function in ["embed", "embed_query", "embed_document", "embed_tokens"] {
        run(&ctx, &format!("DROP FUNCTION {function}")).await;
    }
    register(&ctx).expect("registered");
    assert_refused(&ctx, &[], "SELECT embed('x')", OTHER).await;
    run(&ctx, &format!("SELECT embed('x', '{TINY}')")).await;
}

#[cfg(feature = "bundled-model")]
#[tokio::test(flavor = "multi_thread")]
async fn the_bundled_model_is_always_allowed() {
    let ctx = hosted(TINY, nothing_but_the_hosts_own());
    let bundled = EmbedOptions::default().model;
    run(&ctx, &format!("SELECT embed('x', '{bundled}'), embed('x', 'all-MiniLM-L6-v2')")).await;
    run(&ctx, &format!("SET embed.model = '{bundled}'")).await;
    run(&ctx, "EXPLAIN SELECT embed(column1) FROM (VALUES ('x'))").await;
    // One commit of it is one of the hub.
    let pinned = format!("{bundled}@main");
    assert_refused(&ctx, &[], &format!("SELECT embed('x', '{pinned}')"), &pinned).await;
}

#[cfg(feature = "hub")]
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_offline_stays_offline() {
    let ctx = hosted(TINY, Access::default().with_offline(true));
    for offline in ["true", "false"] {
        run(&ctx, &format!("SET embed.offline = {offline}")).await;
        let error = try_run(&ctx, "SELECT embed('x', 'acme/that-nobody-has')").await.expect_err("offline").to_string();
        assert!(error.contains("the network is not to be used"), "{error}");
    }
}

#[test]
fn looking_after_models_asks_too() {
    let access = nothing_but_the_hosts_own();
    for model in [TINY, "acme/tiny"] {
        let pulled = models::pull(model, &access).expect_err("not allowed");
        assert_eq!(pulled, models::check(model, &access).map(drop).expect_err("not allowed"));
        assert!(matches!(&pulled, Error::Setting(text) if text.contains(model)), "{pulled}");
    }
}

/// An access whose events are kept.
fn heard() -> (Arc<Mutex<Vec<Event>>>, Access) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    (events, Access::default().with_events(move |event| sink.lock().expect("no panic").push(event.clone())))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_is_told_what_it_did_itself_and_once() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let models = folders.each_ref().map(|folder| {
        copy_folder(Path::new(TINY), folder.path());
        fs::remove_file(folder.path().join("modules.json")).expect("removed");
        folder.path().display().to_string()
    });
    let ((first_heard, first), (second_heard, second)) = (heard(), heard());
    let (first, second) = (hosted(TINY, first), hosted(TINY, second));
    // A third session hears of nothing, and takes nothing away from the others.
    for ctx in [&session(1, 100), &first, &first, &second] {
        run(ctx, &format!("SELECT embed(column1, '{}') FROM (VALUES ('x'))", models[0])).await;
    }
    run(&second, &format!("EXPLAIN SELECT embed('x', '{}')", models[1])).await;
    let [first_heard, second_heard] = [first_heard, second_heard].map(|heard| heard.lock().expect("no panic").clone());
    assert_eq!((first_heard.len(), second_heard.len()), (1, 2), "{first_heard:?} {second_heard:?}");
    assert_eq!(first_heard[0], second_heard[0]);
    for (event, model) in second_heard.iter().zip(&models) {
        let Event::ModelWarning(line) = event else { panic!("{event:?}") };
        assert!(line.contains(model.as_str()) && line.contains("no modules.json: pooled by mean"), "{line}");
    }
}

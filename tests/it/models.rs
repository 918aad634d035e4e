//! Models side by side: several in one query, memory for their weights, and what a program asks about them.

use std::fs;
use std::path::Path;

use datafusion_embed::{Precision, models};

use crate::support::{copy_folder, count, offline, run, session, vectors_by_id};

/// A copy of a fixture, which no other test has loaded.
fn own_copy(name: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("temporary directory");
    let path = folder.path().join(name);
    copy_folder(&Path::new("tests/fixtures/architectures").join(name), &path);
    let path = path.display().to_string();
    (folder, path)
}

fn is_loaded(name: &str) -> bool {
    models::known().iter().any(|model| model.name == name && !model.loaded.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_in_one_query_keep_their_own_vectors() {
    let ctx = session(2, 7);
    let models = ["mpnet", "qwen3", "gemma3", "static", "t5"];
    let call = |model: &str| format!("embed(body, 'tests/fixtures/architectures/{model}')");
    run(
        &ctx,
        "CREATE TABLE texts AS SELECT i AS id, concat('text ', i % 20) AS body FROM generate_series(0, 99) AS t(i)",
    )
    .await;
    let columns: Vec<_> = models.iter().map(|model| format!("{} AS {model}", call(model))).collect();
    run(&ctx, &format!("CREATE TABLE side_by_side AS SELECT id, {} FROM texts", columns.join(", "))).await;
    for model in models {
        let alone = vectors_by_id(&ctx, &format!("SELECT id, {} FROM texts", call(model))).await;
        let together = vectors_by_id(&ctx, &format!("SELECT id, {model} FROM side_by_side")).await;
        assert!(alone == together && alone.len() == 100, "{model}");
    }
    let counted = "SELECT count(*) FROM embed_models() WHERE rows_embedded = 40";
    assert_eq!(count(&ctx, counted).await, models.len() as i64, "20 texts, two queries");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_freed_when_others_need_the_room_and_loaded_again() {
    let ctx = session(1, 8192);
    let ((_a, first), (_b, second)) = (own_copy("roberta"), own_copy("electra"));
    let vector = |name: &str| format!("SELECT 1::BIGINT AS id, embed(column1, '{name}') FROM (VALUES ('a text'))");
    let before = vectors_by_id(&ctx, &vector(&first)).await;
    assert!(is_loaded(&first), "the default has room for it");
    run(&ctx, "SET embed.model_memory = '1K'").await;
    vectors_by_id(&ctx, &vector(&second)).await;
    assert!(is_loaded(&second) && !is_loaded(&first), "{:?}", models::known());
    assert!(vectors_by_id(&ctx, &vector(&first)).await == before);
    // The counters outlive the weights; the literal of a plan is remembered.
    assert_eq!(count(&ctx, "SELECT count(*) FROM embed_models() WHERE rows_embedded >= 1").await, 2);
}

#[test]
fn a_check_says_what_a_model_is_and_how_it_does() {
    let (_folder, path) = own_copy("gemma3");
    let check = models::check(&path, &offline()).expect("a model");
    assert_eq!((check.architecture.as_str(), check.pooling.as_str(), check.dim), ("gemma3_text", "mean", 40));
    assert_eq!(check.modules, ["Dense 48 -> 64 Identity", "Dense 64 -> 40 Identity", "Normalize"]);
    assert_eq!((check.max_tokens, check.source.as_str(), check.prompts.len()), (Some(64), "directory", 2));
    for (precision, found) in &check.precisions {
        let found = found.as_ref().expect("it runs");
        let least = if *precision == Precision::F32 { 0.999_999 } else { 0.99 };
        assert!(found.cosine.0 >= least && found.cosine.1 >= found.cosine.0, "{precision}: {found:?}");
        assert!(found.bytes > 0 && found.tokens_per_second > 0.0, "{precision}: {found:?}");
    }
}

#[test]
fn a_fingerprint_is_that_of_the_files_and_not_of_their_place() {
    let fingerprint = |path: &str| models::check(path, &offline()).expect("a model").fingerprint;
    let ((_a, first), (_b, second)) = (own_copy("camembert"), own_copy("camembert"));
    let original = fingerprint(&first);
    assert_eq!(original.len(), 64);
    assert_eq!(fingerprint(&second), original);
    for file in ["config.json", "tokenizer.json", "1_Pooling/config.json"] {
        let (_folder, path) = own_copy("camembert");
        let file = Path::new(&path).join(file);
        fs::write(&file, fs::read_to_string(&file).expect("file") + "\n").expect("write");
        assert_ne!(fingerprint(&path), original, "{}", file.display());
    }
    let (_folder, path) = own_copy("camembert");
    let weights = Path::new(&path).join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&weights, bytes).expect("write");
    assert_ne!(fingerprint(&path), original);
}

#[test]
fn pulling_what_is_here_fetches_nothing_and_what_is_not_there_says_so() {
    let (_folder, path) = own_copy("xlm-roberta");
    assert_eq!(models::pull(&path, &offline()).expect("a directory"), None);
    let message = models::pull("no-such-model", &offline()).expect_err("not there").to_string();
    assert!(message.contains("no-such-model") && message.contains("not found"), "{message}");
    let (_folder, path) = own_copy("xlm-roberta");
    fs::remove_file(Path::new(&path).join("model.safetensors")).expect("remove");
    let message = models::pull(&path, &offline()).expect_err("no weights").to_string();
    assert!(message.contains("model.safetensors not found"), "{message}");
}

//! Bad input: each gets one line that says what, where and what to do next. Nothing panics.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use datafusion_embed::{EmbedOptions, Error, cancel, reset_settings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{copy_folder, count, run, session};

const TINY: &str = "tests/fixtures/tiny-bert";

/// The error of a statement, wherever it turns up.
async fn error_of(ctx: &SessionContext, sql: &str) -> DataFusionError {
    let result = match ctx.sql(sql).await {
        Ok(frame) => frame.collect().await.map(|_| ()),
        Err(error) => Err(error),
    };
    result.expect_err(sql)
}

/// What went wrong, without the words that DataFusion puts before it.
fn message(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::External(error) => {
            assert!(error.is::<Error>(), "not the crate's own error: {error:?}");
            error.to_string()
        }
        DataFusionError::Plan(message) | DataFusionError::Execution(message) => message.clone(),
        other => panic!("neither the crate's own error nor one of planning or execution: {other:?}"),
    }
}

/// Checks that a statement fails in one line that begins with a lower-case noun and has these parts.
async fn fails(ctx: &SessionContext, sql: &str, parts: &[&str]) {
    let error = error_of(ctx, sql).await;
    let message = message(&error);
    assert_eq!(error.to_string().lines().count(), 1, "{sql}: {error}");
    assert!(message.starts_with(|c: char| c.is_ascii_lowercase()), "{sql}: {message}");
    for part in parts {
        assert!(message.contains(part), "{sql}: {part:?} is not in: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments() {
    let ctx = session(2, 8192);
    for function in ["embed", "embed_query", "embed_document", "embed_tokens"] {
        let call = |arguments: &str| format!("SELECT {function}({arguments})");
        let start = function;
        fails(&ctx, &call("42"), &[start, "argument 1 is Int64, not text", "CAST(x AS VARCHAR)"]).await;
        fails(&ctx, &call("1.5, 'x'"), &[start, "argument 1 is Float64, not text"]).await;
        fails(&ctx, &call("x'00ff'"), &[start, "argument 1 is Binary, not text"]).await;
        fails(&ctx, &call("['a', 'b']"), &[start, "argument 1 is List", "not text"]).await;
        fails(&ctx, &call("arrow_cast(1, 'Dictionary(Int32, Int64)')"), &["argument 1 is Dictionary(Int32, Int64)"])
            .await;
        fails(&ctx, &call(""), &[start, "takes a text and optionally a model name, got 0 arguments"]).await;
        fails(&ctx, &call("'a', 'b', 'c'"), &[start, "got 3 arguments", "concat_ws(' ', a, b)"]).await;
        fails(&ctx, &call("'a', 42"), &[start, "argument 2 is Int64, not the name of a model", "'owner/name'"]).await;
        fails(&ctx, &call("'a', NULL"), &[start, "argument 2 is Null, not the name of a model"]).await;
        for name in ["''", "'  '", "CAST(NULL AS VARCHAR)"] {
            fails(&ctx, &call(&format!("'a', {name}")), &[start, "argument 2 must be", "model"]).await;
        }
        let column = format!("SELECT {function}(body, title) FROM 'sql/docs.parquet'");
        let joined = format!("one text of several columns is {function}(concat_ws(' ', body, title))");
        fails(&ctx, &column, &[start, "argument 2 must be a literal model name", "decides the type", &joined]).await;
    }
    fails(&ctx, "SELECT * FROM embed_models(1)", &["embed_models takes no arguments, got 1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_vectors() {
    let ctx = session(2, 8192);
    for (arguments, part) in [
        ("", "cosine_similarity(a, b) got 0 arguments"),
        ("[1]", "cosine_similarity(a, b) got 1 arguments"),
        ("[1], [1], [1]", "cosine_similarity(a, b) got 3 arguments"),
        ("'a', [1]", "argument 1 is Utf8, not a list of numbers"),
        ("[1], 2", "argument 2 is Int64, not a list of numbers"),
        ("[1], ['a']", "argument 2 is List"),
        ("[[1]], [1]", "argument 1 is List"),
        ("[1, 2], [1]", "vectors of 2 and of 1 values cannot be compared"),
        ("[1, NULL], [1, 2]", "a vector has a NULL among its values"),
    ] {
        fails(&ctx, &format!("SELECT cosine_similarity({arguments})"), &["cosine_similarity", part]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings() {
    let ctx = session(2, 8192);
    for (key, value, next) in [
        ("model", "''", "give a name, a directory or a hub id"),
        ("device", "'tpu'", "auto, cpu, cuda"),
        ("device", "'cuda:x'", "auto, cpu, cuda"),
        ("precision", "'f64'", "supported: f32"),
        ("concurrency", "-1", "between 0 and"),
        ("batch_tokens", "-1", "between 0 and"),
        ("batch_size", "'many'", "between 0 and"),
        ("max_tokens", "'1e3'", "between 0 and"),
        ("truncate", "'maybe'", "true or false"),
        ("dimensions", "99999999999999999999", "between 0 and"),
        ("offline", "2", "true or false"),
    ] {
        let before = shown(&ctx, key).await;
        let setting = format!("embed.{key}");
        fails(&ctx, &format!("SET {setting} = {value}"), &[&setting, value.trim_matches('\''), next]).await;
        assert_eq!(shown(&ctx, key).await, before, "a wrong value changes nothing");
    }
    fails(&ctx, "SET embed.colour = 'red'", &["\"embed.colour\" not found", "known: model, device"]).await;
}

#[cfg(not(any(feature = "cuda", feature = "metal")))]
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_built_in() {
    let ctx = session(2, 8192);
    for (device, feature) in [("cuda", "cuda"), ("cuda:1", "cuda"), ("metal", "metal"), ("mps", "metal")] {
        let parts = ["not built in", &format!("--features {feature}"), "or use cpu"];
        fails(&ctx, &format!("SET embed.device = '{device}'"), &parts).await;
    }
    // A program can write into the options what SET would refuse.
    let options = EmbedOptions::default().device(datafusion_embed::Device::Cuda(0));
    datafusion_embed::register_with(&ctx, options).expect("registered");
    fails(&ctx, "SELECT embed(title) FROM 'sql/docs.parquet' LIMIT 1", &["cuda", "not built in"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_the_model_cannot_follow() {
    let ctx = session(2, 8192);
    let (literal, column) = ("SELECT embed('x')", "SELECT embed(title) FROM 'sql/docs.parquet' LIMIT 1");
    run(&ctx, "SET embed.dimensions = 385").await;
    for query in [literal, column] {
        fails(&ctx, query, &["embed.dimensions: 385 is more than the 384 of model \"sentence-transformers/"]).await;
    }
    run(&ctx, "SET embed.dimensions = 0").await;
    run(&ctx, "SET embed.max_tokens = 2").await;
    fails(&ctx, "SELECT embed(x) FROM (VALUES ('a')) AS t(x)", &["embed.max_tokens: 2", "at least 3"]).await;
    run(&ctx, "SET embed.max_tokens = 513").await;
    for query in [literal, column] {
        fails(&ctx, query, &["embed.max_tokens: 513 is more than the 512 positions of model \"sentence-tr"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_where_nothing_may_be_cut() {
    let ctx = session(2, 8192);
    run(&ctx, "SET embed.truncate = false").await;
    let parts = ["text of 402 tokens is longer than the limit of 256", "begins \"x x x", "SET embed.truncate = true"];
    fails(&ctx, "SELECT embed(repeat('x ', 400))", &parts).await;
    fails(&ctx, "SELECT embed(t) FROM (SELECT repeat('x ', id + 399) AS t FROM 'sql/docs.parquet' LIMIT 1)", &parts)
        .await;
    // The beginning of a text may hold anything and still goes on one line.
    let odd = format!("SELECT embed('a\nb\u{0}\u{301}\"' || repeat(' x', 90), '{TINY}')");
    fails(&ctx, &odd, &["is longer than the limit of 48", "begins \"a\\nb\\0"]).await;
    run(&ctx, "SET embed.max_tokens = 3").await;
    fails(&ctx, "SELECT embed('one two three')", &["text of 5 tokens is longer than the limit of 3"]).await;
}

/// A program need not read the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_says_in_numbers_what_it_is_and_what_it_got() {
    let long = format!("SELECT embed('{}', '{TINY}')", "x ".repeat(90));
    let unbroken = "SELECT embed(repeat('ab', 3000000), 'tests/fixtures/architectures/t5')";
    for (set, sql, setting, numbers) in [
        ("embed.dimensions = 33", "SELECT embed('x', 'tests/fixtures/tiny-bert')", "embed.dimensions", Some((33, 32))),
        ("embed.max_tokens = 2", "SELECT embed('x', 'tests/fixtures/tiny-bert')", "embed.max_tokens", Some((2, 3))),
        ("embed.max_tokens = 65", "SELECT embed('x', 'tests/fixtures/tiny-bert')", "embed.max_tokens", Some((65, 64))),
        ("embed.truncate = false", &long, "embed.truncate", Some((92, 48))),
        ("embed.memory = 1000", unbroken, "embed.memory", None),
    ] {
        let ctx = session(2, 8192);
        run(&ctx, &format!("SET {set}")).await;
        let error = error_of(&ctx, sql).await;
        let DataFusionError::External(root) = error.find_root() else { panic!("{error:?}") };
        let Some(Error::Limit { setting: found, got, limit, message }) = root.downcast_ref() else {
            panic!("{error:?}")
        };
        assert_eq!(*found, setting);
        assert!(
            numbers.is_none_or(|numbers| (*got, *limit) == numbers) && message.contains(&limit.to_string()),
            "{root:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_model_has() {
    let ctx = session(2, 8192);
    for name in ["no-such-model", "models/no/such", "./here", "../there", "/no/such", "a/b@", "a b/c", "тест"] {
        let parts = [&format!("model \"{name}\" not found"), "not a bundled name, not a directory, not a hub id"];
        fails(&ctx, &format!("SELECT embed('x', '{name}')"), &parts).await;
        run(&ctx, &format!("SET embed.model = '{name}'")).await;
        fails(&ctx, "SELECT embed(body) FROM 'sql/docs.parquet'", &parts).await;
        run(&ctx, &format!("SET embed.model = '{TINY}'")).await;
    }
    // A file where a directory is wanted.
    fails(&ctx, "SELECT embed('x', 'Cargo.toml')", &["model \"Cargo.toml\" not found"]).await;
}

// ---- Damaged model directories ----

/// A copy of tiny-bert to damage. A model is read once per process, so every case has a directory of its own.
struct Copy(TempDir);

impl Copy {
    fn new() -> Self {
        let copy = Self(tempfile::tempdir().expect("temporary directory"));
        copy_folder(Path::new(TINY), copy.0.path());
        copy
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn remove(self, file: &str) -> Self {
        fs::remove_file(self.path(file)).expect(file);
        self
    }

    fn write(self, file: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(file), bytes).expect(file);
        self
    }

    /// Changes one key of a JSON file.
    fn set(self, file: &str, key: &str, value: Value) -> Self {
        let text = fs::read_to_string(self.path(file)).expect(file);
        let mut json: Value = serde_json::from_str(&text).expect(file);
        json[key] = value;
        self.write(file, json.to_string())
    }

    /// Changes the bytes of a file.
    fn change(self, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = fs::read(self.path(file)).expect(file);
        change(&mut bytes);
        self.write(file, bytes)
    }

    /// Checks that the model is refused with its directory and these parts.
    async fn must_fail(self, parts: &[&str]) {
        let directory = self.0.path().display().to_string();
        let label = format!("model directory \"{directory}\": ");
        let parts: Vec<_> = [label.as_str()].into_iter().chain(parts.iter().copied()).collect();
        let ctx = session(2, 8192);
        fails(&ctx, &format!("SELECT embed('x', '{directory}')"), &parts).await;
        fails(&ctx, &format!("SELECT embed(title, '{directory}') FROM 'sql/docs.parquet' LIMIT 3"), &parts).await;
    }

    /// Checks that the model works.
    async fn works(self) {
        let query = format!("SELECT embed('x', '{}') IS NOT NULL", self.0.path().display());
        assert!(run(&session(2, 8192), &query).await[0].column(0).as_boolean().value(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_directory_that_lacks_a_file() {
    let looked_for = "(looked for config.json, tokenizer.json, model.safetensors)";
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        Copy::new().remove(file).must_fail(&[&format!("{file} not found"), looked_for]).await;
    }
    Copy::new().remove("1_Pooling/config.json").must_fail(&["1_Pooling/config.json not found"]).await;
    let empty = Copy(tempfile::tempdir().expect("temporary directory"));
    empty.must_fail(&["config.json not found", looked_for]).await;
    let pickled = Copy::new().remove("model.safetensors").write("pytorch_model.bin", "x");
    pickled.must_fail(&["only pytorch_model.bin found", "can run code", "safe_serialization=True"]).await;
    for outside in ["../x.safetensors", "/x.safetensors"] {
        let index = json!({"weight_map": {"embeddings.word_embeddings.weight": outside}}).to_string();
        let copy = Copy::new().remove("model.safetensors").write("model.safetensors.index.json", index);
        copy.must_fail(&["model.safetensors.index.json names a file outside the model"]).await;
    }
    // What a model need not have.
    let optional = Copy::new().remove("sentence_bert_config.json").remove("config_sentence_transformers.json");
    optional.remove("2_Normalize/config.json").works().await;
    Copy::new().remove("modules.json").works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_weights() {
    let weights = "model.safetensors";
    let short = Copy::new().change(weights, |bytes| bytes.truncate(100_000));
    short.must_fail(&[weights, "tensor", "the file has 100000", "cut off, fetch it again"]).await;
    let in_header = Copy::new().change(weights, |bytes| bytes.truncate(50));
    in_header.must_fail(&[weights, "in a file of 50", "cut off"]).await;
    Copy::new().write(weights, "").must_fail(&[weights, "only 0 bytes, not a safetensors file"]).await;
    // What a Git checkout without LFS leaves.
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    Copy::new().write(weights, pointer).must_fail(&[weights, "not a safetensors file"]).await;
    let garbage = Copy::new().change(weights, |bytes| bytes[8..40].fill(b'#'));
    garbage.must_fail(&[weights, "safetensors header"]).await;
    let longer = Copy::new().change(weights, |bytes| bytes.extend([0; 7]));
    longer.must_fail(&[weights, "the tensors end at byte 157608 but the file has 157615", "fetch it again"]).await;
    let endless = Copy::new().change(weights, |bytes| bytes[..8].fill(0xff));
    endless.must_fail(&[weights, "header of 18446744073709551615 bytes"]).await;
    let nan = Copy::new().change(weights, |bytes| {
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        bytes[8 + header as usize..].fill(0xff);
    });
    let directory = nan.0.path().display().to_string();
    let parts = [weights, directory.as_str(), "has the value NaN in row 0", "damaged"];
    fails(&session(2, 8192), &format!("SELECT embed('x', '{directory}')"), &parts).await;
}

/// A tokenizer without [CLS] and [SEP] gives an empty text nothing to embed.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_without_tokens() {
    let unprocessed = || Copy::new().set("tokenizer.json", "post_processor", Value::Null);
    unprocessed().must_fail(&["tokenizer.json: no post_processor"]).await;
    let settings = "tokenizer_config.json";
    let model = unprocessed().set(settings, "cls_token", Value::Null).set(settings, "sep_token", Value::Null);
    let name = model.path("").display().to_string();
    let ctx = session(2, 8192);
    run(&ctx, &format!("SELECT embed('words', '{name}')")).await;
    fails(
        &ctx,
        &format!("SELECT embed(column1, '{name}') FROM (VALUES ('a'), (''))"),
        &["\"\" has no tokens", "NULLIF"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_do_not_fit_the_configuration() {
    let config = "config.json";
    let more_layers = Copy::new().set(config, "num_hidden_layers", json!(3));
    more_layers.must_fail(&["tensor encoder.layer.2.", "not found in model.safetensors"]).await;
    let wider = Copy::new().set(config, "intermediate_size", json!(65));
    wider
        .must_fail(&["model.safetensors", "tensor encoder.layer.0.intermediate", "has shape", "asks for [65, 32]"])
        .await;
    let smaller = Copy::new().set(config, "vocab_size", json!(100));
    smaller.must_fail(&["tokenizer.json", "token id 564 is outside the embedding table of 100 rows"]).await;
    let renamed =
        Copy::new().change("model.safetensors", |bytes| replace(bytes, b"word_embeddings", b"word_imbeddings"));
    renamed.must_fail(&["tensor embeddings.word_embeddings.weight not found"]).await;
    let integers = Copy::new().change("model.safetensors", |bytes| replace(bytes, b"\"F32\"", b"\"I32\""));
    integers.must_fail(&["has type I32; supported: F32, F16, BF16"]).await;
}

/// Replaces the first occurrence.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    bytes[at..at + to.len()].copy_from_slice(to);
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_that_are_not_supported() {
    let refused = async |file: &str, key: &str, value: Value, parts: &[&str]| {
        let parts: Vec<_> = [file, key].into_iter().chain(parts.iter().copied()).collect();
        Copy::new().set(file, key, value).must_fail(&parts).await;
    };
    let config = "config.json";
    refused(config, "model_type", json!("xlnet"), &["\"xlnet\" is not supported (supported: bert, camembert"]).await;
    refused(config, "model_type", Value::Null, &["\"missing\" is not supported"]).await;
    refused(config, "position_embedding_type", json!("relative_key"), &["\"relative_key\"", "absolute"]).await;
    refused(config, "is_decoder", json!(true), &["\"true\" is not supported"]).await;
    refused(config, "hidden_act", json!("mish"), &["\"mish\" is not supported (supported: gelu"]).await;
    refused(config, "num_attention_heads", json!(5), &["\"5\"", "a divisor of hidden_size 32"]).await;
    refused(config, "hidden_size", json!(0), &["\"0\" is not supported"]).await;
    refused(config, "num_hidden_layers", json!(1_u64 << 40), &["\"1099511627776\" is not supported"]).await;
    refused("1_Pooling/config.json", "pooling_mode", json!("middle"), &["\"middle\" is not supported", "mean"]).await;
    refused("1_Pooling/config.json", "embedding_dimension", json!(64), &["\"64\"", "hidden_size 32"]).await;
    refused(
        "1_Pooling/config.json",
        "include_prompt",
        json!(0),
        &["\"0\" is not supported (supported: true or false)"],
    )
    .await;
    refused("config_sentence_transformers.json", "default_prompt_name", json!("task"), &["\"task\"", "query"]).await;
    refused(
        "config_sentence_transformers.json",
        "truncate_dim",
        json!(-8),
        &["\"-8\" is not supported (supported: 1 to"],
    )
    .await;
    let modules = |kind: &str| {
        json!([{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}, {"path": "2_X", "type": kind}])
    };
    let module = async |json: Value, parts: &[&str]| {
        Copy::new().write("modules.json", json.to_string()).must_fail(parts).await;
    };
    module(modules("x.Dense"), &["modules.json", "\"x.Dense\" is not supported", "Dense, LayerNorm, Normalize"]).await;
    module(json!([]), &["modules.json", "no Pooling"]).await;
    let foreign = json!([{"path": "", "type": "custom_st.Transformer"}]);
    module(foreign, &["modules.json", "\"custom_st.Transformer\" is not supported"]).await;
    let outside = json!([{"path": "../x", "type": "sentence_transformers.models.Transformer"}]);
    module(outside, &["modules.json", "\"../x\" is not supported", "inside the model"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_their_name_says() {
    for file in ["config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json", "sentence_bert_config.json"]
    {
        Copy::new().write(file, "{\"a\": ").must_fail(&[file]).await;
        Copy::new().write(file, "[[[").must_fail(&[file]).await;
        Copy::new().write(file, b"\xff\xfe{}").must_fail(&[file, "not UTF-8"]).await;
    }
    Copy::new().write("config.json", "\"x\"").must_fail(&["config.json"]).await;
}

// ---- What the session says about the functions and settings ----

/// What SHOW says of a setting.
async fn shown(ctx: &SessionContext, key: &str) -> String {
    let batches = run(ctx, &format!("SHOW embed.{key}")).await;
    assert_eq!(batches[0].column(0).as_string::<i32>().value(0), format!("embed.{key}"));
    batches[0].column(1).as_string::<i32>().value(0).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn show_knows_every_setting() {
    use datafusion::config::ExtensionOptions;
    let ctx = session(2, 8192);
    let entries = EmbedOptions::default().entries();
    assert!(entries.len() >= 10);
    for entry in entries {
        let key = entry.key.strip_prefix("embed.").expect("prefix");
        assert_eq!(Some(shown(&ctx, key).await), entry.value, "{key}");
        assert!(!entry.description.is_empty(), "{key}");
    }
    run(&ctx, "SET embed.batch_tokens = 99").await;
    assert_eq!(shown(&ctx, "batch_tokens").await, "99");
    // DataFusion 55 resets its own settings only, and so a program asks for a SET in its place.
    let reset = async |sql: &str| {
        let plan = ctx.state().create_logical_plan(sql).await?;
        ctx.execute_logical_plan(reset_settings(plan)).await
    };
    reset("RESET embed.batch_tokens").await.expect("reset");
    assert_eq!(shown(&ctx, "batch_tokens").await, "0");
    for (name, setting) in EmbedOptions::default().entries().into_iter().map(|entry| (entry.key, entry.value)) {
        reset(&format!("RESET {name}")).await.expect("reset");
        assert_eq!(Some(shown(&ctx, name.trim_start_matches("embed.")).await), setting, "{name}");
    }
    let error = reset("RESET embed.colour").await.expect_err("no setting").to_string();
    assert!(error.contains("setting \"embed.colour\" not found (known: model"), "{error}");
    run(&ctx, "SET datafusion.execution.batch_size = 7").await;
    reset("RESET datafusion.execution.batch_size").await.expect("reset");
}

/// A text column of some rows.
fn column(batches: &[RecordBatch], name: &str) -> Vec<String> {
    let mut cells = Vec::new();
    for batch in batches {
        let column = batch.column_by_name(name).expect(name).as_string::<i32>();
        cells.extend(column.iter().map(|cell| cell.unwrap_or_default().to_owned()));
    }
    cells
}

#[tokio::test(flavor = "multi_thread")]
async fn documentation_is_where_people_look_for_it() {
    let ctx = session(2, 8192);
    let functions = ["cosine_similarity", "embed", "embed_chunks", "embed_document", "embed_query", "embed_tokens"];
    let names = functions.map(|name| format!("'{name}'")).join(", ");
    let routines = format!(
        "SELECT DISTINCT routine_name, description, syntax_example FROM information_schema.routines \
         WHERE routine_name IN ({names}) ORDER BY 1"
    );
    let batches = run(&ctx, &routines).await;
    assert_eq!(column(&batches, "routine_name"), functions);
    let mut shown = run(&ctx, "SHOW FUNCTIONS LIKE 'embed%'").await;
    shown.extend(run(&ctx, "SHOW FUNCTIONS LIKE 'cosine_similarity'").await);
    let names = column(&shown, "function_name");
    for (row, name) in functions.iter().enumerate() {
        let at = names.iter().position(|shown| shown == name).unwrap_or_else(|| panic!("SHOW FUNCTIONS lacks {name}"));
        for what in ["description", "syntax_example"] {
            assert_eq!(column(&shown, what)[at], column(&batches, what)[row], "{name}: {what}");
        }
        assert!(column(&batches, "description")[row].len() > 40, "{name}");
        assert!(column(&batches, "syntax_example")[row].starts_with(&format!("{name}(")), "{name}");
    }
    assert!(names.iter().any(|name| name == "embed_models"), "{names:?}");
    let types = column(&shown, "return_type");
    assert!(!types.iter().any(String::is_empty), "{types:?}");
}

// ---- Cancelling ----

#[cfg(feature = "bundled-model")]
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_stops_within_a_second() {
    let ctx = session(2, 8192);
    // Minutes of work in one record batch.
    let long = "SELECT embed(concat(i, repeat(' word', 200))) FROM generate_series(1, 8000) AS t(i)";
    let running = tokio::spawn({
        let ctx = ctx.clone();
        async move { (error_of(&ctx, long).await, Instant::now()) }
    });
    while count(&ctx, "SELECT coalesce(sum(model_batches), 0) FROM embed_models()").await == 0 {
        assert!(!running.is_finished(), "the query ended before it was cancelled");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    let other = ctx.clone();
    std::thread::spawn(move || cancel(&other)).join().expect("cancel does not panic");
    let (error, end) = running.await.expect("no panic");
    assert!(end.duration_since(start) < Duration::from_secs(1), "it took {:?}", end.duration_since(start));
    let DataFusionError::External(root) = error.find_root() else { panic!("{error:?}") };
    assert_eq!(root.downcast_ref::<Error>(), Some(&Error::Cancelled));
    // What begins later runs.
    assert_eq!(count(&ctx, "SELECT count(embed(title)) FROM 'sql/docs.parquet' WHERE id <= 3").await, 3);
}

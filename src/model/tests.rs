//! The encoder against others: sentence-transformers' vectors (`tests/fixtures/README.md` says how they were made), and
//! candle's own forward pass on the same weights. Every comparison is of the largest absolute difference.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::head::Head;
use super::pooling::PoolingMode;
use super::ready::load_backend;
use super::snapshot::Snapshot;
use super::weights::Weights;
use super::*;
use crate::access::Access;
use crate::error::{Error, Result};
use crate::options::{BUNDLED_NAME, Device, Precision};

const CPU: Place = Place { device: Device::Cpu, precision: Precision::F32 };

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn texts() -> Vec<String> {
    let json = fs::read_to_string(fixtures().join("texts.json")).expect("fixture");
    serde_json::from_str(&json).expect("a list of texts")
}

/// A tensor of `expected.safetensors`, row by row.
fn expected(name: &str) -> Vec<Vec<f32>> {
    expected_in("expected.safetensors", name)
}

fn expected_in(file: &str, name: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(fixtures().join(file)).expect("fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor(name).expect(name);
    let values: Vec<f32> = tensor.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    values.chunks(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

fn expected_lengths(name: &str) -> Vec<usize> {
    let bytes = fs::read(fixtures().join("expected.safetensors")).expect("fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let data = tensors.tensor(name).expect(name).data().to_vec();
    data.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b) as usize).collect()
}

fn fixture_model(name: &str) -> Model {
    let snapshot = Snapshot::find(&fixtures().join(name).display().to_string(), &Access::local()).expect("fixture");
    load_from(&snapshot, CPU).expect("model")
}

fn bundled_model() -> Model {
    bundled_model_in(Precision::F32)
}

fn bundled_model_in(precision: Precision) -> Model {
    let snapshot = Snapshot::find(BUNDLED_NAME, &Access::local()).expect("bundled");
    load_from(&snapshot, Place { precision, ..CPU }).expect("model")
}

/// The device of candle: its CPU, or a GPU where a person runs these tests on one (`DATAFUSION_EMBED_TEST_DEVICE=cuda`).
fn device() -> Device {
    std::env::var("DATAFUSION_EMBED_TEST_DEVICE").map_or(Device::Candle, |name| name.parse().expect("a device"))
}

/// The same model with its encoder replaced by candle's, on candle's device.
fn on_candle(model: Model, snapshot: &Snapshot) -> Model {
    on_candle_in(model, snapshot, Precision::F32)
}

fn on_candle_in(mut model: Model, snapshot: &Snapshot, precision: Precision) -> Model {
    let (access, description) = (Access::local(), Arc::clone(&model.description));
    let weights = Weights::open(snapshot.files(&access), &description.folder).expect("weights");
    let steps = description.steps.iter().map(|step| step.load(snapshot.files(&access)));
    let head = Head::new(&description, steps.collect::<Result<_>>().expect("steps"));
    let place = Place { device: device(), precision };
    model.backend = load_backend(&description, &weights, place, head).expect("candle's device");
    model
}

/// The first values of the vectors of texts that are tokens already.
fn run(model: &Model, texts: &[&[u32]], dimensions: usize) -> Result<Vec<f32>> {
    let pass = Pass { unpooled: 0, dimensions, go_on: &|| true };
    model.encode(&texts.iter().copied().collect(), &pass, &mut Scratch::default())
}

/// Vectors of texts in model batches of `size` texts.
fn encode(model: &Model, texts: &[String], role: Role, size: usize) -> Vec<Vec<f32>> {
    let mut scratch = Scratch::default();
    let mut vectors = Vec::new();
    let dimensions = model.description.dim;
    let unpooled = model.unpooled(model.description.prompt(role), model.description.max_tokens).expect("prompt");
    let pass = Pass { unpooled, dimensions, go_on: &|| true };
    for texts in texts.chunks(size) {
        let batch = model.batch_of(role, texts).expect("tokens");
        let encoded = model.encode(&batch, &pass, &mut scratch).expect("vectors");
        vectors.extend(encoded.chunks(dimensions).map(<[f32]>::to_vec));
    }
    vectors
}

#[track_caller]
fn assert_close(what: &str, got: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len(), "{what}");
        let difference = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference <= tolerance, "{what}: text {i} differs by {difference}, allowed {tolerance}");
    }
}

#[test]
fn tiny_models_give_the_vectors_of_sentence_transformers() {
    let texts = texts();
    let tiny = fixture_model("tiny-bert");
    for (role, name) in [(Role::Plain, "plain"), (Role::Query, "query"), (Role::Document, "document")] {
        let expected = expected(&format!("tiny-bert.{name}"));
        for size in [1, 32] {
            assert_close(name, &encode(&tiny, &texts, role, size), &expected, 1e-5);
        }
    }
    // Not normalised: values reach 3.4.
    let cls = fixture_model("tiny-bert-cls");
    assert_close("cls", &encode(&cls, &texts, Role::Plain, 32), &expected("tiny-bert-cls.plain"), 1e-5);
}

/// Every architecture has a model in `tests/fixtures/architectures/`.
fn architectures() -> Vec<String> {
    let entries = fs::read_dir(fixtures().join("architectures")).expect("fixtures").map(|entry| entry.expect("entry"));
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = folders.map(|folder| folder.file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    assert!(names.len() >= 25, "{names:?}");
    names
}

fn architecture_texts() -> Vec<String> {
    let json = fs::read_to_string(fixtures().join("architectures/texts.json")).expect("fixture");
    serde_json::from_str(&json).expect("a list of texts")
}

/// The largest difference of two lists of vectors, relative to the largest value that is expected, if that is above 1.
fn difference(got: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().flatten().fold(1.0f32, |max, x| max.max(x.abs()));
    let pairs = got.iter().zip(expected).flat_map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b)
    });
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn every_architecture_gives_the_vectors_of_sentence_transformers() {
    let texts = architecture_texts();
    let mut wrong = Vec::new();
    for name in architectures() {
        let model = fixture_model(&format!("architectures/{name}"));
        for (role, tensor) in [(Role::Plain, "plain"), (Role::Query, "query"), (Role::Document, "document")] {
            let expected = expected_in(&format!("expected/{name}.safetensors"), tensor);
            let vectors = encode(&model, &texts, role, 16);
            let difference = difference(&vectors, &expected);
            if difference.is_nan() || difference > 2e-5 {
                wrong.push(format!("{name} {tensor}: {difference}"));
            }
            assert!(encode(&model, &texts, role, 1) == vectors, "{name} {tensor}: batches of 1 and of 16");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_architecture_gives_the_same_vectors_on_candles_device() {
    let texts = architecture_texts();
    let mut wrong = Vec::new();
    for name in architectures() {
        let snapshot =
            Snapshot::find(&fixtures().join("architectures").join(&name).display().to_string(), &Access::local())
                .expect("fixture");
        let load = |precision| on_candle_in(fixture_model(&format!("architectures/{name}")), &snapshot, precision);
        let expected = expected_in(&format!("expected/{name}.safetensors"), "query");
        let difference = difference(&encode(&load(Precision::F32), &texts, Role::Query, 16), &expected);
        if difference.is_nan() || difference > 2e-5 {
            wrong.push(format!("{name}: {difference}"));
        }
        let mean = mean_cosine(&encode(&load(Precision::Bf16), &texts, Role::Query, 16), &expected);
        if mean.is_nan() || mean < 0.995 {
            wrong.push(format!("{name} in bf16: mean cosine {mean}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_device_has_no_int8() {
    let snapshot = Snapshot::find(&fixtures().join("tiny-bert").display().to_string(), &Access::local());
    let place = Place { device: Device::Candle, precision: Precision::Int8 };
    let error = load_from(&snapshot.expect("fixture"), place).expect_err("the CPU has").to_string();
    assert!(error.contains("int8 runs on the cpu only"), "{error}");
}

/// A model's own `truncate_dim` cuts and nothing else; a vector that `embed.dimensions` cuts has length 1 again.
#[test]
fn vectors_are_cut_as_sentence_transformers_cuts_them() {
    let texts = architecture_texts();
    let cut = expected_in("expected/nomic-bert.safetensors", "plain.truncated");
    let copy = copy_of("architectures/nomic-bert");
    change(&copy.path().join("config_sentence_transformers.json"), "truncate_dim", 16.into());
    let snapshot = Snapshot::find(&copy.path().display().to_string(), &Access::local()).expect("copy");
    let model = load_from(&snapshot, CPU).expect("model");
    assert!(difference(&encode(&model, &texts, Role::Plain, 16), &cut) <= 2e-5);
    let model = fixture_model("architectures/nomic-bert");
    for (text, mut expected) in texts.iter().zip(cut) {
        let ids = model.tokenize("", text, model.description.max_tokens, &Allowance::FREE).expect("tokens").ids;
        let vector = run(&model, &[&ids], 16).expect("vector");
        steps::normalize(&mut expected);
        assert!(difference(&[vector], &[expected]) <= 2e-5, "{text}");
    }
}

/// Texts far longer than the fixtures': blocks of attention, windows, positions. Against the naive twin, because a small model's
/// own limit is low: it is raised in the copy, which only tables of positions would not bear.
#[test]
fn long_texts_match_the_naive_twin() {
    let key = [("modernbert", "max_position_embeddings"), ("jina-bert-v2", "max_position_embeddings")];
    let more = ["gemma3", "qwen3", "eurobert", "new", "nomic-bert"].map(|name| (name, "max_position_embeddings"));
    let words: Vec<String> = architecture_texts().into_iter().filter(|text| text.len() > 20).collect();
    for (name, key) in key.into_iter().chain(more).chain([("t5", "n_positions")]) {
        let copy = copy_of(&format!("architectures/{name}"));
        change(&copy.path().join("config.json"), key, 4096.into());
        change(&copy.path().join("sentence_bert_config.json"), "max_seq_length", 4096.into());
        let snapshot = Snapshot::find(&copy.path().display().to_string(), &Access::local()).expect("copy");
        let load = || load_from(&snapshot, CPU).expect("model");
        let texts = [words.join(" ").repeat(2), "one short text beside it".to_owned()];
        let model = load();
        let lengths: Vec<_> =
            texts.iter().map(|text| model.count_tokens("", text, &Allowance::FREE).expect("tokens")).collect();
        assert!(lengths[0] > 1000, "{name}: {lengths:?} tokens");
        let vectors = encode(&model, &texts, Role::Plain, 2);
        assert!(vectors == encode(&model, &texts, Role::Plain, 1), "{name}: the same bits alone");
        let difference = difference(&vectors, &encode(&on_candle(load(), &snapshot), &texts, Role::Plain, 1));
        assert!(difference <= 2e-5, "{name}: {difference}");
    }
}

/// Random weights are harder on the low precisions than trained ones; what real models reach is in the README.
#[test]
fn lower_precisions_stay_near_f32_for_every_architecture() {
    let texts = architecture_texts();
    for name in architectures() {
        let snapshot =
            Snapshot::find(&fixtures().join("architectures").join(&name).display().to_string(), &Access::local());
        let snapshot = snapshot.expect("fixture");
        let exact = encode(&load_from(&snapshot, CPU).expect("model"), &texts, Role::Plain, 16);
        for (precision, least) in [(Precision::Bf16, 0.999), (Precision::Int8, 0.98)] {
            let model = load_from(&snapshot, Place { precision, ..CPU }).expect("model");
            let vectors = encode(&model, &texts, Role::Plain, 16);
            assert!(
                vectors == encode(&model, &texts, Role::Plain, 1),
                "{name} {precision}: the same bits in any batch"
            );
            let mean = mean_cosine(&vectors, &exact);
            assert!(mean >= least, "{name} {precision}: mean cosine {mean}");
        }
    }
}

/// The mean cosine of vectors that are not zero.
fn mean_cosine(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let pairs = a.iter().zip(b).filter(|(a, _)| product(a, a) > 0.0);
    let cosines: Vec<_> = pairs.map(|(a, b)| product(a, b) / (product(a, a) * product(b, b)).sqrt()).collect();
    cosines.iter().sum::<f64>() / cosines.len() as f64
}

/// One value of the feed-forward part is so large that its row has no steps left for the others.
#[test]
fn a_precision_that_is_not_safe_for_a_model_is_refused() {
    let copy = copy_of("tiny-bert");
    let path = copy.path().join("model.safetensors");
    for layer in 0..2 {
        edit_tensor(&path, &format!("encoder.layer.{layer}.intermediate.dense.bias"), |values| values[0] = 3e4);
        // The large value itself changes nothing that a norm does not take off again.
        edit_tensor(&path, &format!("encoder.layer.{layer}.output.dense.weight"), |values| {
            values.chunks_mut(64).for_each(|row| row[0] = 1e-6);
        });
    }
    let snapshot = Snapshot::find(&copy.path().display().to_string(), &Access::local()).expect("copy");
    load_from(&snapshot, CPU).expect("f32 runs");
    load_from(&snapshot, Place { precision: Precision::Bf16, ..CPU }).expect("bf16 has exponents");
    let message = load_from(&snapshot, Place { precision: Precision::Int8, ..CPU }).expect_err("not safe").to_string();
    assert!(message.contains("int8 moves the vectors") && message.contains("use f32, or try bf16"), "{message}");
}

/// Changes an F32 tensor of a file in place.
fn edit_tensor(path: &Path, name: &str, edit: impl Fn(&mut [f32])) {
    let mut bytes = fs::read(path).expect("weights");
    let data = SafeTensors::deserialize(&bytes).expect("safetensors").tensor(name).expect(name).data().as_ptr_range();
    let (start, end) = (data.start as usize - bytes.as_ptr() as usize, data.end as usize - bytes.as_ptr() as usize);
    let floats = bytes[start..end].as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
    let mut values: Vec<f32> = floats.collect();
    edit(&mut values);
    let edited: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes[start..end].copy_from_slice(&edited);
    fs::write(path, bytes).expect("write");
}

/// Sets a key of a JSON file, which is made where there is none.
fn change(path: &Path, key: &str, value: serde_json::Value) {
    let text = fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned());
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
    json[key] = value;
    fs::write(path, json.to_string()).expect("write");
}

fn load_from(snapshot: &Snapshot, place: Place) -> Result<Model> {
    let access = Access::local();
    let files = snapshot.files(&access);
    Model::load(files, Arc::new(Description::read(files)?), place)
}

/// What a damaged file does to a key.
fn damage() -> impl Strategy<Value = serde_json::Value> {
    let values = [
        "null",
        "true",
        "-1",
        "0",
        "1",
        "2",
        "3",
        "7",
        "65",
        "1000",
        "16777216",
        "4294967296",
        "18446744073709551615",
        "1e300",
        "-0.5",
        "0.3",
        "\"\"",
        "\"x\"",
        "\"gelu\"",
        "[]",
        "{}",
        "[\"mean\"]",
        "{\"rope_type\": \"yarn\"}",
        "{\"rope_type\": \"llama3\", \"factor\": 0}",
        "[[[]]]",
    ];
    prop::sample::select(values.to_vec()).prop_map(|text| serde_json::from_str(text).expect("json"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged model is an error or a model; never a panic, and nothing larger than its files.
    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(architectures()),
        file in 0usize..20,
        key in 0usize..60,
        value in damage(),
        place in 0usize..6000,
        byte in any::<u8>(),
        how in 0..3,
    ) {
        let copy = copy_of(&format!("architectures/{name}"));
        let mut found = Vec::new();
        files_below(copy.path(), &mut found);
        found.retain(|path| !path.ends_with("tokenizer.json"));
        found.sort();
        let path = &found[file % found.len()];
        let mut bytes = fs::read(path).expect("file");
        let json = serde_json::from_slice::<serde_json::Value>(&bytes);
        match (how, json) {
            (0 | 1, Ok(mut json)) => {
                // A list of modules has its keys one level down.
                let inner = if json.is_array() { json.get_mut(key % 3).unwrap_or(&mut serde_json::Value::Null).clone() } else { json.clone() };
                let keys: Vec<_> = inner.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect();
                if !keys.is_empty() {
                    let target = if json.is_array() { &mut json[key % 3] } else { &mut json };
                    target[&keys[key % keys.len()]] = value;
                }
                bytes = json.to_string().into_bytes();
            }
            (2, _) if byte < 30 => bytes.truncate(place % (bytes.len() + 1)),
            _ => {
                let place = place % bytes.len();
                bytes[place] = byte;
            }
        }
        fs::write(path, bytes).expect("write");
        let snapshot = Snapshot::find(&copy.path().display().to_string(), &Access::local()).expect("directory");
        if let Ok(model) = load_from(&snapshot, CPU) {
            let tokens = model.tokenize("", "a damaged model", model.description.max_tokens, &Allowance::FREE).expect("tokens").ids;
            // NaN is an error here too.
            let _ = run(&model, &[&tokens], model.description.dim);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged tokenizer is an error or a tokenizer, whatever part of its file was changed or lost.
    #[test]
    fn a_damaged_tokenizer_never_panics(
        name in prop::sample::select(architectures()),
        path in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        value in tokenizer_damage(),
    ) {
        let copy = copy_of(&format!("architectures/{name}"));
        let file = copy.path().join("tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).expect("file")).expect("json");
        damage_at(&mut json, &path, value);
        fs::write(&file, json.to_string()).expect("write");
        let snapshot = Snapshot::find(&copy.path().display().to_string(), &Access::local()).expect("directory");
        if let Ok(model) = load_from(&snapshot, CPU) {
            for text in ["", "a damaged model", "é東京\u{301}\u{200d} x.y_z  1234567890 </s> [CLS] <mask>"] {
                let Ok(tokens) = model.tokenize("", text, model.description.max_tokens, &Allowance::FREE) else { continue };
                let vectors = run(&model, &[&tokens.ids], model.description.dim);
                prop_assert!(vectors.is_ok() || !tokens.ids.is_empty(), "{vectors:?}");
            }
        }
    }
}

/// What a damaged file has in the place of a part of a tokenizer.
fn tokenizer_damage() -> impl Strategy<Value = Option<serde_json::Value>> {
    let values = [
        "null",
        "true",
        "-1",
        "0",
        "1",
        "449",
        "100000",
        "4294967295",
        "0.5",
        "1e300",
        "\"\"",
        "\"x\"",
        "\"##\"",
        "\"é\"",
        "[]",
        "{}",
        "[0]",
        "[\"a\", 1]",
        "{\"Regex\": \"\"}",
        "{\"Regex\": \"(a*)*\"}",
        "{\"String\": \"\"}",
        "{\"type\": \"FixedLength\", \"length\": 0}",
        "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"x\"}",
        "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA/////w==\"}",
        "{\"type\": \"ByteLevel\"}",
        "{\"type\": \"Sequence\", \"processors\": []}",
    ];
    let values = values.map(|text| Some(serde_json::from_str(text).expect("json")));
    prop::sample::select([values.as_slice(), &[None]].concat())
}

/// Puts a value in the place of a part some levels down, or takes the part out.
fn damage_at(json: &mut serde_json::Value, path: &[prop::sample::Index], value: Option<serde_json::Value>) {
    let (here, below) = (path[0], &path[1..]);
    let length = json.as_array().map(Vec::len).or(json.as_object().map(serde_json::Map::len)).unwrap_or(0);
    if length == 0 {
        *json = value.unwrap_or_default();
        return;
    }
    let at = here.index(length);
    match (json, below.is_empty(), value) {
        (serde_json::Value::Array(parts), true, None) => drop(parts.remove(at)),
        (serde_json::Value::Object(parts), true, None) => {
            drop(parts.keys().nth(at).cloned().and_then(|key| parts.remove(&key)))
        }
        (serde_json::Value::Array(parts), true, Some(value)) => parts[at] = value,
        (serde_json::Value::Object(parts), true, Some(value)) => {
            parts.values_mut().nth(at).into_iter().for_each(|part| *part = value.clone())
        }
        (serde_json::Value::Array(parts), false, value) => damage_at(&mut parts[at], below, value),
        (serde_json::Value::Object(parts), false, value) => {
            parts.values_mut().nth(at).into_iter().for_each(|part| damage_at(part, below, value.clone()));
        }
        _ => {}
    }
}

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn every_pooling_mode_matches_sentence_transformers() {
    let texts = texts();
    let mut tiny = fixture_model("tiny-bert");
    let snapshot =
        Snapshot::find(&fixtures().join("tiny-bert").display().to_string(), &Access::local()).expect("fixture");
    let weights = Weights::open(snapshot.files(&Access::local()), &tiny.description.folder).expect("weights");
    for (mode, name, _) in PoolingMode::ALL {
        let description = Arc::get_mut(&mut tiny.description).expect("only owner");
        description.pooling = pooling::Pooling(vec![mode]);
        description.steps.clear();
        let expected = expected(&format!("tiny-bert.pool.{}", name.replace("_tokens", "")));
        let largest = expected.iter().flatten().fold(1.0f32, |max, x| max.max(x.abs()));
        for device in [Device::Cpu, device()] {
            let head = Head::new(&tiny.description, Vec::new());
            let place = Place { device, precision: Precision::F32 };
            tiny.backend = load_backend(&tiny.description, &weights, place, head).expect("a backend");
            let what = format!("{name} on {device}");
            assert_close(&what, &encode(&tiny, &texts, Role::Plain, 32), &expected, 1e-5 * largest);
        }
    }
}

#[test]
fn token_counts_match_sentence_transformers() {
    for (model, name) in [(fixture_model("tiny-bert"), "tiny-bert.tokens"), (bundled_model(), "minilm.tokens")] {
        let expected = expected_lengths(name);
        let limit = model.description.max_tokens;
        for (text, expected) in texts().iter().zip(expected) {
            assert_eq!(model.count_tokens("", text, &Allowance::FREE).expect("count"), expected, "{name}: {text:?}");
            let tokens = model.tokenize("", text, limit, &Allowance::FREE).expect("tokens");
            assert_eq!((tokens.full_length, tokens.ids.len()), (expected, expected.min(limit)), "{name}: {text:?}");
        }
    }
}

#[test]
fn the_bundled_model_is_the_original_within_its_f16_weights() {
    let expected = expected("minilm.plain");
    assert_close("bundled", &encode(&bundled_model(), &texts(), Role::Plain, 16), &expected, 5e-4);
}

#[test]
fn the_device_path_gives_the_vectors_of_sentence_transformers() {
    let texts = texts();
    for name in ["tiny-bert", "tiny-bert-cls"] {
        let snapshot = Snapshot::find(&fixtures().join(name).display().to_string(), &Access::local()).expect("fixture");
        let model = on_candle(fixture_model(name), &snapshot);
        let difference = difference(&encode(&model, &texts, Role::Plain, 16), &expected(&format!("{name}.plain")));
        assert!(difference <= 1e-5, "{name}: {difference}");
    }
}

#[test]
fn our_forward_pass_matches_candles_on_the_same_weights() {
    let texts = texts();
    let snapshot = Snapshot::find(BUNDLED_NAME, &Access::local()).expect("bundled");
    let twin = encode(&on_candle(bundled_model(), &snapshot), &texts, Role::Plain, 1);
    assert_close("bundled", &encode(&bundled_model(), &texts, Role::Plain, 32), &twin, 1e-5);
}

#[test]
fn a_text_has_the_same_bits_in_any_batch() {
    let texts = texts();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let model = bundled_model_in(precision);
        let alone = encode(&model, &texts, Role::Plain, 1);
        for size in [7, 64] {
            assert!(encode(&model, &texts, Role::Plain, size) == alone, "{precision}, batches of {size}");
        }
    }
}

#[test]
fn a_warm_scratch_is_not_allocated_again() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let model = bundled_model_in(precision);
        let mut scratch = Scratch::default();
        let ids: Vec<u32> = (0..200).map(|i| 1000 + i).collect();
        let pass = Pass { unpooled: 0, dimensions: model.description.dim, go_on: &|| true };
        let mut run = |starts: &[usize]| {
            let batch = starts.windows(2).map(|text| &ids[text[0]..text[1]]).collect();
            model.encode(&batch, &pass, &mut scratch).expect("vectors");
            scratch.allocated()
        };
        let warm = run(&[0, 120, 200]);
        for starts in [vec![0, 1], vec![0, 60, 61, 110], vec![0, 119, 198], vec![0, 120, 200]] {
            assert_eq!(run(&starts), warm, "{precision}: {starts:?}");
        }
    }
}

/// The vectors have length 1, so their product is the cosine. The fixture's texts are harder than real ones: single
/// letters, control characters, one word of 300 letters.
#[test]
fn lower_precisions_stay_near_the_f32_vectors() {
    let (texts, expected) = (texts(), expected("minilm.plain"));
    for (precision, least, average) in [(Precision::Bf16, 0.9999, 0.99998), (Precision::Int8, 0.99, 0.9985)] {
        let vectors = encode(&bundled_model_in(precision), &texts, Role::Plain, 32);
        let cosine = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let cosines: Vec<f32> = vectors.iter().zip(&expected).map(cosine).collect();
        let lowest = cosines.iter().copied().fold(1.0, f32::min);
        let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
        assert!(lowest >= least && mean >= average, "{precision}: lowest {lowest}, mean {mean}");
    }
}

#[test]
fn embeddings_can_be_cut_and_are_normalised_again() {
    let model = fixture_model("tiny-bert");
    let tokens = model.tokenize("", "a short text", 48, &Allowance::FREE).expect("tokens");
    let whole = run(&model, &[&tokens.ids], 32).expect("vector");
    let cut = run(&model, &[&tokens.ids], 8).expect("vector");
    let length = whole[..8].iter().map(|x| x * x).sum::<f32>().sqrt();
    for (cut, whole) in cut.iter().zip(&whole) {
        assert!((cut - whole / length).abs() < 1e-6);
    }
}

/// A copy of a fixture model that a test may damage.
fn copy_of(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("temporary directory");
    copy_folder(&fixtures().join(name), copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("file");
        }
    }
}

/// Loads a directory and gives the error.
fn load_error(directory: &Path) -> String {
    let load = || load_from(&Snapshot::find(&directory.display().to_string(), &Access::local())?, CPU);
    load().expect_err("a damaged model").to_string()
}

/// Changes one key of a JSON file and gives the error.
fn error_with(file: &str, key: &str, value: serde_json::Value) -> String {
    let copy = copy_of("tiny-bert");
    change(&copy.path().join(file), key, value);
    load_error(copy.path())
}

#[test]
fn what_is_not_supported_names_the_file_and_the_value() {
    let cases: [(&str, &str, serde_json::Value); 17] = [
        ("config.json", "add_cross_attention", true.into()),
        ("config.json", "quantization_config", "bitsandbytes".into()),
        ("sentence_bert_config.json", "transformer_task", "fill-mask".into()),
        ("sentence_bert_config.json", "module_output_name", "sentence_embedding".into()),
        ("config_sentence_transformers.json", "model_type", "SparseEncoder".into()),
        ("config.json", "model_type", "xlnet".into()),
        ("config.json", "position_embedding_type", "relative_key".into()),
        ("config.json", "is_decoder", true.into()),
        ("config.json", "hidden_act", "swoosh".into()),
        ("config.json", "num_attention_heads", 5.into()),
        ("config.json", "hidden_size", 0.into()),
        ("config.json", "vocab_size", u64::MAX.into()),
        ("1_Pooling/config.json", "pooling_mode", "best".into()),
        ("1_Pooling/config.json", "embedding_dimension", 31.into()),
        ("config.json", "num_hidden_layers", 5000.into()),
        ("config_sentence_transformers.json", "default_prompt_name", "poem".into()),
        ("config_sentence_transformers.json", "truncate_dim", 0.into()),
    ];
    for (file, key, value) in cases {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let message = error_with(file, key, value);
        assert!(message.contains(file) && message.contains(key) && message.contains(&shown), "{key}: {message}");
    }
}

#[test]
fn a_wrong_shape_or_a_small_table_names_the_tensor() {
    let message = error_with("config.json", "hidden_size", 64.into());
    assert!(message.contains("embedding_dimension") || message.contains("tensor"), "{message}");
    let message = error_with("config.json", "intermediate_size", 65.into());
    assert!(message.contains("intermediate.dense.weight") && message.contains("[64, 32]"), "{message}");
    let message = error_with("config.json", "num_hidden_layers", 3.into());
    assert!(message.contains("encoder.layer.2") && message.contains("not found"), "{message}");
    let message = error_with("config.json", "vocab_size", 100.into());
    assert!(message.contains("vocab_size") && message.contains("100"), "{message}");
}

#[test]
fn a_missing_file_is_named_and_a_missing_normalize_folder_is_fine() {
    for file in ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"] {
        let copy = copy_of("tiny-bert");
        fs::remove_file(copy.path().join(file)).expect("remove");
        let message = load_error(copy.path());
        assert!(message.contains(file) && message.contains("not found"), "{message}");
    }
    let copy = copy_of("tiny-bert");
    fs::remove_dir_all(copy.path().join("2_Normalize")).expect("remove");
    let snapshot = Snapshot::find(&copy.path().display().to_string(), &Access::local()).expect("directory");
    assert!(Description::read(snapshot.files(&Access::local())).expect("description").normalizes());
}

#[test]
fn a_model_that_asks_for_more_tokens_than_it_has_positions_is_cut_there_and_says_so() {
    let copy = copy_of("tiny-bert");
    change(&copy.path().join("sentence_bert_config.json"), "max_seq_length", 65.into());
    let snapshot = Snapshot::find(&copy.path().display().to_string(), &Access::local()).expect("directory");
    let description = Description::read(snapshot.files(&Access::local())).expect("description");
    let said = "max_seq_length is 65 and the model has 64 positions: longer texts are cut there";
    assert_eq!((description.max_tokens, description.assumption().as_deref()), (64, Some(said)));
}

#[test]
fn a_tokenizer_in_an_older_form_is_refused_with_the_way_out() {
    let copy = copy_of("tiny-bert");
    fs::rename(copy.path().join("tokenizer.json"), copy.path().join("vocab.txt")).expect("renamed");
    let message = load_error(copy.path());
    assert!(message.contains("vocab.txt") && message.contains("save_pretrained"), "{message}");
}

#[test]
fn a_pickled_checkpoint_is_refused_with_the_way_out() {
    let copy = copy_of("tiny-bert");
    fs::rename(copy.path().join("model.safetensors"), copy.path().join("pytorch_model.bin")).expect("rename");
    let message = load_error(copy.path());
    assert!(message.contains("pytorch_model.bin") && message.contains("convert"), "{message}");
}

#[test]
fn damaged_weights_are_an_error_wherever_they_are_cut() {
    let whole = fs::read(fixtures().join("tiny-bert/model.safetensors")).expect("weights");
    let copy = copy_of("tiny-bert");
    for length in [0, 5, 8, 9, 100, 3000, whole.len() / 2, whole.len() - 1] {
        fs::write(copy.path().join("model.safetensors"), &whole[..length]).expect("write");
        let message = load_error(copy.path());
        assert!(message.contains("model.safetensors"), "cut at {length}: {message}");
    }
    for (at, byte) in [(0, 0xff), (7, 0xff), (8, b'x'), (20, 0xc3)] {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        fs::write(copy.path().join("model.safetensors"), bytes).expect("write");
        load_error(copy.path());
    }
}

#[test]
fn weights_that_overflow_are_an_error_and_not_a_vector() {
    let mut bytes = fs::read(fixtures().join("tiny-bert/model.safetensors")).expect("weights");
    let length = bytes.len();
    bytes[length - 40_000..].fill(0x7f);
    let copy = copy_of("tiny-bert");
    fs::write(copy.path().join("model.safetensors"), bytes).expect("write");
    let snapshot = Snapshot::find(&copy.path().display().to_string(), &Access::local()).expect("directory");
    let model = load_from(&snapshot, CPU).expect("model");
    let message = run(&model, &[&[2, 7, 3]], 32).expect_err("NaN").to_string();
    assert!(message.contains("NaN"), "{message}");
}

#[test]
fn ids_and_texts_beyond_the_tables_are_an_error_and_not_a_panic() {
    let model = fixture_model("tiny-bert");
    let error = |ids: &[u32]| run(&model, &[ids], 32).expect_err("no row").to_string();
    assert!(error(&[2, 1_000_000, 3]).contains("token id 1000000 is outside the embedding table of"));
    let long = vec![2; model.description.architecture.positions + 1];
    assert!(error(&long).contains("is longer than the"), "{}", error(&long));
}

#[test]
fn a_stopped_batch_is_cancelled() {
    let model = fixture_model("tiny-bert");
    let batch = [[2, 3].as_slice()].into_iter().collect();
    let pass = Pass { unpooled: 0, dimensions: 32, go_on: &|| false };
    assert_eq!(model.encode(&batch, &pass, &mut Scratch::default()), Err(Error::Cancelled));
}

/// I6, as far as a batch goes: the number of allocations does not depend on the number of texts.
#[test]
fn a_batch_of_many_texts_takes_no_more_allocations_than_one_of_few() {
    let snapshot = Snapshot::find("tests/fixtures/tiny-bert", &Access::local()).expect("a model");
    let model = load_from(&snapshot, CPU).expect("it loads");
    let mut scratch = Scratch::default();
    let pass = Pass { unpooled: 0, dimensions: 32, go_on: &|| true };
    let mut allocations = |texts: usize| {
        let batch = (0..texts).map(|_| [5; 4].as_slice()).collect();
        let mut encode = || drop(model.encode(&batch, &pass, &mut scratch).expect("vectors"));
        // The first time the scratch grows.
        encode();
        allocation_counter::measure(encode).count_total
    };
    assert_eq!(allocations(8), allocations(128));
}

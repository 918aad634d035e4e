//! Hostile models: well-formed but absurd. Each is a fixture with one change, and each is one clear error that names the
//! model and the file, or works; nothing panics, hangs, grows beyond its files or gives a vector that is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::Float32Type;
use datafusion::error::{DataFusionError, Result};
use datafusion_embed::Error;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::{copy_folder, tiny_session};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const LIMITS: &str = "sentence_bert_config.json";
const POOLING: &str = "1_Pooling/config.json";

/// What is done to a copy of a fixture.
enum Change {
    /// A value of a JSON file, by its JSON pointer; keys that are missing are made.
    Set(&'static str, &'static str, Value),
    /// A value of a tensor, by the tensor's name and the value's number, in the tensor's own type.
    Weight(&'static str, usize, f32),
    /// The header of the weights.
    Header(fn(&mut Map<String, Value>)),
    /// The bytes of a file.
    Bytes(&'static str, fn(&mut Vec<u8>)),
}

use Change::{Bytes, Header, Set, Weight};

/// An attack: the fixture, what is changed, and the words of the error; without words the model works.
type Attack = (&'static str, Change, &'static [&'static str]);

/// Numbers of `config.json` and of the files of modules.
fn sizes() -> Vec<Attack> {
    vec![
        // Rotary positions.
        (
            "nomic-bert-remote",
            Set(CONFIG, "/rotary_emb_fraction", json!(0.01)),
            &["rotary_emb_fraction \"0.01\"", "one pair"],
        ),
        ("nomic-bert-remote", Set(CONFIG, "/rotary_emb_fraction", json!(0)), &["rotary_emb_fraction \"0\""]),
        ("nomic-bert-remote", Set(CONFIG, "/rotary_emb_fraction", json!(-0.5)), &["rotary_emb_fraction \"-0.5\""]),
        ("nomic-bert-remote", Set(CONFIG, "/rotary_emb_fraction", json!(2.5)), &["rotary_emb_fraction \"2.5\""]),
        ("nomic-bert-remote", Set(CONFIG, "/rotary_emb_base", json!(0)), &["rotary_emb_base \"0\"", "more than 0"]),
        ("nomic-bert-remote", Set(CONFIG, "/rotary_emb_base", json!(1e300)), &["rotary_emb_base", "range of f32"]),
        ("nomic-bert-remote", Set(CONFIG, "/rotary_emb_base", json!(1e-44)), &["default", "frequencies above 0"]),
        ("nomic-bert-remote", Set(CONFIG, "/head_dim", json!(0)), &["head_dim \"0\""]),
        ("nomic-bert-remote", Set(CONFIG, "/head_dim", json!(3)), &["head_dim \"3\"", "an even number"]),
        ("qwen3", Set(CONFIG, "/head_dim", json!(4096)), &["head_dim \"4096\"", "for texts of 32768 tokens"]),
        ("modernbert", Set(CONFIG, "/global_rope_theta", json!(-10_000)), &["global_rope_theta \"-10000\""]),
        ("modernbert", Set(CONFIG, "/local_rope_theta", json!(0)), &["local_rope_theta \"0\""]),
        ("gemma3", Set(CONFIG, "/rope_local_base_freq", json!(0)), &["rope_local_base_freq \"0\""]),
        ("gemma3", Set(CONFIG, "/rope_theta", json!(1e60)), &["rope_theta", "range of f32"]),
        ("qwen3", Set(CONFIG, "/rope_theta", json!(-1)), &["rope_theta \"-1\""]),
        ("qwen3", Set(CONFIG, "/rope_scaling", json!({"rope_type": "linear", "factor": 0})), &["factor \"0\""]),
        (
            "qwen3",
            Set(CONFIG, "/rope_scaling", json!({"rope_type": "linear", "factor": 1e-60})),
            &["factor", "range of f32"],
        ),
        ("qwen3", Set(CONFIG, "/rope_scaling", json!({"rope_type": "linear", "factor": -2})), &["factor \"-2\""]),
        ("qwen3", Set(CONFIG, "/rope_scaling", json!({"rope_type": "linear"})), &["factor \"missing\""]),
        (
            "qwen3",
            Set(CONFIG, "/rope_scaling", json!({"rope_type": "default", "rope_theta": 0})),
            &["rope_theta \"0\""],
        ),
        (
            "qwen3",
            Set(CONFIG, "/rope_scaling", json!({"rope_type": "ntk", "factor": 1e38, "rope_theta": 1e38})),
            &["rope_type \"ntk\"", "frequencies above 0"],
        ),
        (
            "qwen3",
            Set(
                CONFIG,
                "/rope_scaling",
                json!({"rope_type": "llama3", "factor": 2, "low_freq_factor": 0, "high_freq_factor": 4}),
            ),
            &["low_freq_factor \"0\""],
        ),
        (
            "qwen3",
            Set(CONFIG, "/rope_scaling", json!({"rope_type": "yarn", "factor": 2, "attention_factor": 0})),
            &["attention_factor above 0"],
        ),
        ("qwen3", Set(CONFIG, "/rope_scaling", json!(7)), &["rope_scaling \"7\"", "an object"]),
        // Heads and layers.
        ("qwen3", Set(CONFIG, "/num_key_value_heads", json!(0)), &["num_key_value_heads \"0\""]),
        ("qwen3", Set(CONFIG, "/num_key_value_heads", json!(3)), &["num_key_value_heads \"3\"", "a divisor of"]),
        ("qwen3", Set(CONFIG, "/num_key_value_heads", json!(8)), &["num_key_value_heads \"8\"", "a divisor of"]),
        ("qwen3", Set(CONFIG, "/num_attention_heads", json!(1_000_000_000)), &["num_attention_heads \"1000000000\""]),
        ("bert-full", Set(CONFIG, "/num_hidden_layers", json!(0)), &["num_hidden_layers \"0\""]),
        ("bert-full", Set(CONFIG, "/num_hidden_layers", json!(1_000_000_000)), &["num_hidden_layers \"1000000000\""]),
        ("bert-full", Set(CONFIG, "/num_hidden_layers", json!(2.5)), &["num_hidden_layers \"2.5\""]),
        ("bert-full", Set(CONFIG, "/num_attention_heads", json!(7)), &["num_attention_heads \"7\"", "a divisor of"]),
        ("bert-full", Set(CONFIG, "/hidden_size", json!(-48)), &["hidden_size \"-48\""]),
        ("bert-full", Set(CONFIG, "/hidden_size", json!(16_777_216)), &["hidden_size \"16777216\"", "1 to 65536"]),
        ("bert-full", Set(CONFIG, "/intermediate_size", json!(0)), &["intermediate_size \"0\""]),
        ("bert-full", Set(CONFIG, "/intermediate_size", json!(16_777_216)), &[WEIGHTS, "has shape", "16777216"]),
        ("electra", Set(CONFIG, "/embedding_size", json!(1_000_000)), &["embedding_size \"1000000\""]),
        ("gemma3", Set(CONFIG, "/sliding_window", json!(0)), &["sliding_window \"0\""]),
        ("gemma3", Set(CONFIG, "/sliding_window_pattern", json!(0)), &["sliding_window_pattern \"0\""]),
        ("gemma3", Set(CONFIG, "/query_pre_attn_scalar", json!(0)), &["query_pre_attn_scalar \"0\""]),
        ("gemma3", Set(CONFIG, "/layer_types", json!(["full_attention"])), &["layer_types \"1 entries\""]),
        ("gemma3", Set(CONFIG, "/layer_types/0", json!(5)), &["layer_types \"5\"", "sliding_attention"]),
        ("modernbert", Set(CONFIG, "/global_attn_every_n_layers", json!(0)), &["global_attn_every_n_layers \"0\""]),
        ("modernbert", Set(CONFIG, "/local_attention", json!(-1)), &["local_attention \"-1\""]),
        // A token may see itself alone.
        ("modernbert", Set(CONFIG, "/local_attention", json!(0)), &[]),
        // Tables.
        ("bert-full", Set(CONFIG, "/vocab_size", json!(0)), &["vocab_size \"0\""]),
        ("bert-full", Set(CONFIG, "/max_position_embeddings", json!(0)), &["max_position_embeddings \"0\""]),
        (
            "bert-full",
            Set(CONFIG, "/type_vocab_size", json!(16_777_216)),
            &[WEIGHTS, "token_type_embeddings", "has shape"],
        ),
        ("xlm-roberta", Set(CONFIG, "/pad_token_id", json!(66)), &["max_position_embeddings \"66\"", "pad_token_id"]),
        ("xlm-roberta", Set(CONFIG, "/pad_token_id", json!(-3)), &["pad_token_id \"-3\""]),
        (
            "mpnet",
            Set(CONFIG, "/relative_attention_num_buckets", json!(31)),
            &["relative_attention_num_buckets \"31\""],
        ),
        ("t5", Set(CONFIG, "/relative_attention_num_buckets", json!(1)), &["relative_attention_max_distance"]),
        ("t5", Set(CONFIG, "/relative_attention_max_distance", json!(8)), &["relative_attention_max_distance \"8\""]),
        (
            "t5",
            Set(CONFIG, "/relative_attention_max_distance", json!(16_777_216)),
            &["relative_attention_max_distance"],
        ),
        ("t5", Set(CONFIG, "/d_kv", json!(0)), &["d_kv \"0\""]),
        ("t5", Set(CONFIG, "/d_kv", json!(16_777_216)), &["d_kv \"16777216\""]),
        // Norms.
        ("bert-full", Set(CONFIG, "/layer_norm_eps", json!(0)), &["layer_norm_eps \"0\"", "more than 0"]),
        ("bert-full", Set(CONFIG, "/layer_norm_eps", json!(-1e-5)), &["layer_norm_eps \"-0.00001\""]),
        ("bert-full", Set(CONFIG, "/layer_norm_eps", json!(1e-60)), &["layer_norm_eps", "range of f32"]),
        ("bert-full", Set(CONFIG, "/layer_norm_eps", json!(1e30)), &["layer_norm_eps", "up to 1"]),
        ("bert-full", Set(CONFIG, "/layer_norm_eps", json!("NaN")), &["layer_norm_eps", "a number"]),
        ("t5", Set(CONFIG, "/layer_norm_epsilon", json!(0)), &["layer_norm_epsilon \"0\""]),
        ("qwen3", Set(CONFIG, "/rms_norm_eps", json!(2)), &["rms_norm_eps \"2\"", "up to 1"]),
        ("nomic-bert-remote", Set(CONFIG, "/layer_norm_epsilon", json!(0)), &["layer_norm_epsilon \"0\""]),
        // A number that JSON has and f64 has not.
        (
            "bert-full",
            Bytes(CONFIG, |bytes| replace(bytes, b"\"layer_norm_eps\":", b"\"layer_norm_eps\": 1e999, \"eps\":")),
            &[CONFIG, "number out of range"],
        ),
        // Modules and limits.
        ("t5", Set("2_Dense/config.json", "/out_features", json!(0)), &["2_Dense/config.json", "out_features \"0\""]),
        ("t5", Set("2_Dense/config.json", "/out_features", json!(16_777_216)), &["out_features \"16777216\""]),
        ("t5", Set("2_Dense/config.json", "/out_features", json!(65_536)), &["2_Dense/model.safetensors", "has shape"]),
        ("t5", Set("2_Dense/config.json", "/in_features", json!(0)), &["2_Dense/config.json", "in_features \"0\""]),
        (
            "bert-full",
            Set(POOLING, "/word_embedding_dimension", json!(0)),
            &[POOLING, "word_embedding_dimension \"0\""],
        ),
        ("bert-full", Set(POOLING, "/pooling_mode", json!(["cls", "mean", "cls"])), &[POOLING, "each mode once"]),
        ("bert-full", Set(POOLING, "/pooling_mode", json!([7])), &[POOLING, "pooling_mode"]),
        ("bert-full", Set(LIMITS, "/max_seq_length", json!(0)), &[LIMITS, "max_seq_length \"0\""]),
        ("bert-full", Set(LIMITS, "/max_seq_length", json!(2)), &["2 special tokens", "no room for text"]),
        ("t5", Set(LIMITS, "/max_seq_length", json!(16_777_216)), &[LIMITS, "max_seq_length \"16777216\"", "131072"]),
        ("nomic-bert", Set(LIMITS, "/max_seq_length", json!(16_777_216)), &[LIMITS, "max_seq_length \"16777216\""]),
        (
            "bert-full",
            Set("config_sentence_transformers.json", "/truncate_dim", json!(0)),
            &["config_sentence_transformers.json", "truncate_dim \"0\""],
        ),
        ("bert-full", Set("tokenizer_config.json", "/model_max_length", json!(0)), &["model_max_length \"0\""]),
        ("bert-full", Set("tokenizer_config.json", "/model_max_length", json!(31.5)), &["model_max_length \"31.5\""]),
        // What tokenizers without a limit write.
        ("bert-full", Set("tokenizer_config.json", "/model_max_length", json!(1e30)), &[]),
    ]
}

/// Ids that the table of words has no row for, and what the library that reads the file stops on.
fn tokenizers() -> Vec<Attack> {
    vec![
        (
            "bert-full",
            Set(TOKENIZER, "/post_processor/special_tokens/[CLS]/ids", json!([999_999])),
            &[TOKENIZER, "\"[CLS]\": token id 999999 is outside the embedding table of 450 rows"],
        ),
        (
            "bert-full",
            Set(TOKENIZER, "/post_processor/special_tokens/[SEP]/ids", json!([450])),
            &[TOKENIZER, "\"[SEP]\": token id 450"],
        ),
        (
            "bert-full",
            Set(TOKENIZER, "/post_processor/special_tokens/[SEP]/ids", json!([2, 3])),
            &[TOKENIZER, "\"[SEP]\", or its ids and its tokens"],
        ),
        (
            "bert-full",
            Set(TOKENIZER, "/post_processor/special_tokens", json!({})),
            &[TOKENIZER, "special_tokens lacks"],
        ),
        (
            "bert-full",
            Set(TOKENIZER, "/post_processor/single/0", json!({"Sequence": {"id": "A", "type_id": 0}})),
            &[TOKENIZER, "Sequence A comes 2 times"],
        ),
        (
            "bert-full",
            Set(TOKENIZER, "/post_processor/single/1", json!({"Sequence": {"id": "B", "type_id": 0}})),
            &[TOKENIZER, "Sequence \"B\" is not supported"],
        ),
        ("bert-full", Set(TOKENIZER, "/post_processor/single", json!([])), &[TOKENIZER, "Sequence A comes 0 times"]),
        (
            "mpnet",
            Set(TOKENIZER, "/post_processor/cls/1", json!(4_000_000_000_u32)),
            &[TOKENIZER, "4000000000 is outside"],
        ),
        ("roberta", Set(TOKENIZER, "/post_processor/sep/1", json!(1_000_000)), &[TOKENIZER, "1000000 is outside"]),
        ("roberta", Set(TOKENIZER, "/model/vocab/a", json!(100_000)), &[TOKENIZER, "100000 is outside"]),
        ("roberta", Set(TOKENIZER, "/model/dropout", json!(0.5)), &[TOKENIZER, "dropout \"0.5\""]),
        ("roberta", Set(TOKENIZER, "/model/continuing_subword_prefix", json!("########")), &[TOKENIZER, "merges: "]),
        ("xlm-roberta", Set(TOKENIZER, "/model/unk_id", json!(1_000_000)), &[TOKENIZER]),
        ("xlm-roberta", Set(TOKENIZER, "/model/vocab", json!([])), &[TOKENIZER]),
        (
            "bert-full",
            Set(TOKENIZER, "/model/vocab/house", json!(4_294_967_295_u32)),
            &[TOKENIZER, "4294967295 is outside"],
        ),
        ("bert-full", Set(TOKENIZER, "/model/vocab/house", json!(-1)), &[TOKENIZER]),
        ("bert-full", Set(TOKENIZER, "/model/vocab", json!({})), &["tokenizer", "Missing [UNK] token"]),
        (
            "bert-full",
            Set(TOKENIZER, "/pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
            &[TOKENIZER, "FixedLength"],
        ),
        ("static", Set(TOKENIZER, "/truncation/max_length", json!(0)), &[TOKENIZER, "max_length \"0\""]),
        ("static", Set(TOKENIZER, "/model/vocab/zzz", json!(450)), &[TOKENIZER, "token id 450 is outside"]),
        // Padding is a setting of whoever saved the file last.
        (
            "bert-full",
            Set(
                TOKENIZER,
                "/padding",
                json!({"strategy": {"Fixed": 7}, "direction": "Right", "pad_to_multiple_of": null,
                       "pad_id": 999_999, "pad_type_id": 0, "pad_token": "[PAD]"}),
            ),
            &[],
        ),
    ]
}

/// Numbers that are none, and headers that promise what the file does not hold.
fn weights() -> Vec<Attack> {
    const NAN: f32 = f32::NAN;
    const INFINITE: f32 = f32::INFINITY;
    vec![
        ("bert-full", Weight("embeddings.LayerNorm.weight", 3, NAN), &[WEIGHTS, "embeddings.LayerNorm.weight", "NaN"]),
        (
            "bert-full",
            Weight("encoder.layer.1.output.dense.weight", 100, INFINITE),
            &[WEIGHTS, "encoder.layer.1.output.dense.weight has the value inf"],
        ),
        ("bert-full", Weight("embeddings.position_embeddings.weight", 49, NAN), &[WEIGHTS, "NaN in row 1"]),
        ("t5", Weight("encoder.block.0.layer.1.DenseReluDense.wi.weight", 7, NAN), &[WEIGHTS, "wi.weight", "NaN"]),
        ("t5", Weight("encoder.block.0.layer.0.SelfAttention.q.weight", 7, -INFINITE), &[WEIGHTS, "-inf"]),
        (
            "t5",
            Weight("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 95, NAN),
            &[WEIGHTS, "relative_attention_bias.weight", "row 31"],
        ),
        ("gemma3", Weight("layers.0.mlp.gate_proj.weight", 0, NAN), &[WEIGHTS, "layers.0.mlp.gate_proj.weight", "NaN"]),
        ("modernbert", Weight("model.final_norm.weight", 0, INFINITE), &[WEIGHTS, "final_norm.weight", "inf"]),
        // Row 440 stands for a word that no text of these tests has; [CLS] is in all of them.
        ("bert-full", Weight("embeddings.word_embeddings.weight", 449 * 48, NAN), &[]),
        ("bert-full", Weight("embeddings.word_embeddings.weight", 2 * 48, NAN), &["NaN or infinite"]),
        ("static", Weight("embedding.weight", 449 * 48, NAN), &[]),
        // Finite, and too large for what follows.
        ("bert-full", Weight("encoder.layer.0.output.LayerNorm.weight", 0, 3e38), &["NaN or infinite"]),
        ("bert-full", Header(|header| header.clear()), &[WEIGHTS]),
        (
            "bert-full",
            Header(|header| header["embeddings.LayerNorm.weight"]["shape"] = json!([1_000_000, 1_000_000])),
            &[WEIGHTS, "safetensors header"],
        ),
        (
            "bert-full",
            Header(|header| header["embeddings.LayerNorm.weight"]["shape"] = json!([u64::MAX, u64::MAX])),
            &[WEIGHTS, "safetensors header"],
        ),
        (
            "bert-full",
            Header(|header| header["embeddings.LayerNorm.weight"]["data_offsets"] = json!([192, 0])),
            &[WEIGHTS, "safetensors header"],
        ),
        (
            "bert-full",
            Header(|header| header["embeddings.LayerNorm.weight"]["dtype"] = json!("F4096")),
            &[WEIGHTS, "safetensors header"],
        ),
        (
            "bert-full",
            Header(|header| header["embeddings.LayerNorm.weight"]["dtype"] = json!("I32")),
            &[WEIGHTS, "has type I32"],
        ),
        // A table without rows takes no byte, however wide it is.
        ("static", Header(|header| table(header, [0, 48])), &[WEIGHTS, "has no rows or no columns"]),
        ("static", Header(|header| table(header, [0, 1 << 40])), &[WEIGHTS, "has no rows or no columns"]),
        ("static", Header(|header| table(header, [450, 0])), &[WEIGHTS, "has no rows or no columns"]),
        (
            "static",
            Header(|header| table(header, [1, 450 * 48])),
            &[TOKENIZER, "is outside the embedding table of 1 rows"],
        ),
        ("model2vec-quantized", Weight("mapping", 5, 150.0), &[WEIGHTS, "names row 150 of 150"]),
        ("model2vec-quantized", Weight("mapping", 5, -1.0), &[WEIGHTS, "names row -1 of 150"]),
        ("model2vec-quantized", Weight("weights", 5, NAN), &[WEIGHTS, "tensor weights", "NaN"]),
        ("bert-full", Bytes(WEIGHTS, |bytes| bytes[..8].fill(0)), &[WEIGHTS]),
        (
            "bert-full",
            Bytes(WEIGHTS, |bytes| bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes())),
            &[WEIGHTS, "header of"],
        ),
        (
            "modernbert-v5",
            Bytes("model-00001-of-00002.safetensors", |bytes| {
                let other = "tests/fixtures/architectures/modernbert-v5/model-00002-of-00002.safetensors";
                *bytes = fs::read(other).expect("the other shard");
            }),
            &["is in model-00001-of-00002.safetensors too"],
        ),
    ]
}

/// The table of a static model in a shape of as many bytes as it says.
fn table(header: &mut Map<String, Value>, shape: [u64; 2]) {
    let bytes = shape[0] * shape[1] * 4;
    header["embedding.weight"]["shape"] = json!(shape);
    header["embedding.weight"]["data_offsets"] = json!([0, bytes]);
}

fn replace(bytes: &mut Vec<u8>, from: &[u8], to: &[u8]) {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    bytes.splice(at..at + from.len(), to.iter().copied());
}

impl Change {
    fn apply(&self, model: &Path) {
        match self {
            Set(file, pointer, value) => {
                let path = model.join(file);
                let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
                let mut json: Value = serde_json::from_str(&text).expect(file);
                set(&mut json, pointer, value);
                fs::write(path, json.to_string()).expect(file);
            }
            Bytes(file, change) => {
                let path = model.join(file);
                let mut bytes = fs::read(&path).expect(file);
                change(&mut bytes);
                fs::write(path, bytes).expect(file);
            }
            Weight(name, at, value) => edit(model, |header, data| {
                let place = |end: usize| header[*name]["data_offsets"][end].as_u64().expect("an offset") as usize;
                let bytes = match header[*name]["dtype"].as_str().expect("a type") {
                    "F32" => value.to_le_bytes().to_vec(),
                    "F64" => f64::from(*value).to_le_bytes().to_vec(),
                    "I64" => (*value as i64).to_le_bytes().to_vec(),
                    "F16" => half::f16::from_f32(*value).to_le_bytes().to_vec(),
                    "BF16" => half::bf16::from_f32(*value).to_le_bytes().to_vec(),
                    other => panic!("{other}"),
                };
                data[place(0)..place(1)][at * bytes.len()..][..bytes.len()].copy_from_slice(&bytes);
            }),
            Header(change) => edit(model, |header, data| {
                change(header);
                // A table that has become smaller leaves no bytes behind.
                if let Some(end) = header.get("embedding.weight").and_then(|table| table["data_offsets"][1].as_u64()) {
                    data.truncate(end as usize);
                }
            }),
        }
    }
}

impl Change {
    /// What is changed, for who reads a failure.
    fn place(&self) -> String {
        match self {
            Set(file, key, value) => format!("{file} {key} {value}"),
            Weight(name, at, value) => format!("{name} {at} {value}"),
            Header(_) => "header".to_owned(),
            Bytes(file, _) => (*file).to_owned(),
        }
    }
}

fn set(json: &mut Value, pointer: &str, value: &Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = json.pointer_mut(parent).expect(pointer);
    match key.parse::<usize>() {
        Ok(at) if parent.is_array() => parent[at] = value.clone(),
        _ => parent[key] = value.clone(),
    }
}

/// Changes header and data of a model's weights.
fn edit(model: &Path, change: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>)) {
    let path = model.join(WEIGHTS);
    let bytes = fs::read(&path).expect("weights");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let mut data = bytes[8 + length..].to_vec();
    change(&mut header, &mut data);
    let header = serde_json::to_vec(&header).expect("a header");
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat()).expect("weights");
}

/// A fixture with one change, in a folder of its own: a model is read once per process.
fn hostile((fixture, change, _): &Attack) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    copy_folder(&PathBuf::from("tests/fixtures/architectures").join(fixture), copy.path());
    change.apply(copy.path());
    copy
}

/// Panics of this crate and its dependencies since the first call; those of tests are failures that show anyway.
fn panics() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let in_tests = panic.location().is_some_and(|place| place.file().starts_with("tests/"));
            COUNT.fetch_add(usize::from(!in_tests), Ordering::SeqCst);
            before(panic);
        }));
    });
    COUNT.load(Ordering::SeqCst)
}

/// Embeds literals and a column with a model.
async fn embed(model: &Path) -> Result<Vec<RecordBatch>> {
    let ctx = tiny_session(2, 8192);
    let name = model.display();
    // Planning folds no literal of a column.
    let sql = format!(
        "SELECT embed(column1, '{name}') FROM (VALUES ('a few plain words'), (''), (NULL), \
         ('a longer text, with é and 東京, of some more words than the window of any layer can hold at once'))"
    );
    ctx.sql(&sql).await?.collect().await
}

/// What the crate itself said, in one line.
fn message(error: &DataFusionError) -> Option<String> {
    match error.find_root() {
        DataFusionError::External(error) if error.is::<Error>() => Some(error.to_string()),
        _ => None,
    }
}

/// Runs one attack and says what is wrong with what came of it.
async fn outcome(attack: &Attack) -> std::result::Result<(), String> {
    let model = hostile(attack);
    let (before, result) = (panics(), embed(model.path()).await);
    if panics() > before {
        return Err(format!("a panic; {result:?}"));
    }
    match (result, attack.2) {
        (Ok(batches), []) => all_finite(&batches),
        (Ok(_), words) => Err(format!("vectors, and no error with {words:?}")),
        (Err(error), words) => {
            let message = message(&error).ok_or_else(|| format!("not the crate's own error: {error:?}"))?;
            let name = model.path().display().to_string();
            let fits = message.lines().count() == 1 && message.contains(&name) && !words.is_empty();
            let fits = fits && words.iter().all(|word| message.contains(word)) && message.len() < 800;
            if fits { Ok(()) } else { Err(format!("{message}: not one line with {name} and {words:?}")) }
        }
    }
}

/// Every vector is there where there is a text, and made of numbers.
fn all_finite(batches: &[RecordBatch]) -> std::result::Result<(), String> {
    for batch in batches {
        let vectors = batch.column(0).as_fixed_size_list();
        let values = vectors.values().as_primitive::<Float32Type>();
        if vectors.null_count() != 1 || values.values().iter().any(|x| !x.is_finite()) {
            return Err(format!("not vectors: {vectors:?}"));
        }
    }
    Ok(())
}

/// Runs attacks and shows everything that is wrong at once.
async fn withstand(attacks: Vec<Attack>) {
    let mut wrong = Vec::new();
    for attack in &attacks {
        if let Err(reason) = outcome(attack).await {
            wrong.push(format!("{} {}: {reason}", attack.0, attack.1.place()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} attacks:\n{}", wrong.len(), attacks.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_sizes() {
    withstand(sizes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_tokenizers() {
    withstand(tokenizers()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_weights() {
    withstand(weights()).await;
}

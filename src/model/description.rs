//! What the small files of a model say, checked: architecture, pooling, prompts, limits.
//!
//! sentence-transformers' files are the specification, in their old and their 6.x form. A value that is not supported is
//! an error that names the file and the value; nothing is guessed where a file speaks.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::files::ModelFiles;
use super::pooling::{Pooling, PoolingMode};
use crate::error::{Error, Result};
use crate::kernels::Activation;

/// Which prompt goes before a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// `embed`: the model's default prompt, mostly none.
    Plain,
    /// `embed_query`
    Query,
    /// `embed_document`
    Document,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Query => "query",
            Self::Document => "document",
        })
    }
}

/// What happens to a vector after pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Normalize {
    /// Nothing.
    None,
    /// Length 1.
    L2,
}

/// Everything but the weights.
#[derive(Debug)]
pub(crate) struct Description {
    /// Name without revision.
    pub(crate) name: String,
    /// `bundled`, `directory` or `hub`.
    pub(crate) source: &'static str,
    /// Commit of the hub, or hash of the bundled weights.
    pub(crate) revision: Option<String>,
    /// Folder of the Transformer module: empty or ending in `/`.
    pub(crate) folder: String,
    /// The encoder's shape.
    pub(crate) bert: BertConfig,
    /// How rows become a vector.
    pub(crate) pooling: Pooling,
    /// What happens to the vector then.
    pub(crate) normalize: Normalize,
    /// Length of a vector.
    pub(crate) dim: usize,
    /// Truncation length of the model, special tokens counted.
    pub(crate) max_tokens: usize,
    /// Whether texts are lower-cased before the tokenizer.
    pub(crate) lower_case: bool,
    prompts: Prompts,
}

/// `config.json` of a BERT. The defaults are those of the format itself: what a missing key means there.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct BertConfig {
    model_type: Option<String>,
    #[serde(default = "default::vocab_size")]
    pub(crate) vocab_size: usize,
    #[serde(default = "default::hidden_size")]
    pub(crate) hidden_size: usize,
    #[serde(default = "default::layers")]
    pub(crate) num_hidden_layers: usize,
    #[serde(default = "default::layers")]
    pub(crate) num_attention_heads: usize,
    #[serde(default = "default::intermediate_size")]
    pub(crate) intermediate_size: usize,
    #[serde(default = "default::hidden_act")]
    pub(crate) hidden_act: String,
    #[serde(default = "default::positions")]
    pub(crate) max_position_embeddings: usize,
    #[serde(default = "default::type_vocab_size")]
    pub(crate) type_vocab_size: usize,
    #[serde(default = "default::layer_norm_eps")]
    pub(crate) layer_norm_eps: f64,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
    quantization_config: Option<Value>,
}

/// BERT's defaults for keys that `config.json` leaves out.
mod default {
    pub(super) fn vocab_size() -> usize {
        30_522
    }
    pub(super) fn hidden_size() -> usize {
        768
    }
    pub(super) fn layers() -> usize {
        12
    }
    pub(super) fn intermediate_size() -> usize {
        3072
    }
    pub(super) fn hidden_act() -> String {
        "gelu".to_owned()
    }
    pub(super) fn positions() -> usize {
        512
    }
    pub(super) fn type_vocab_size() -> usize {
        2
    }
    pub(super) fn layer_norm_eps() -> f64 {
        1e-12
    }
}

/// No size in a configuration is larger than this: a damaged file must not become a huge allocation.
const MAX_SIZE: usize = 1 << 24;

impl BertConfig {
    /// The activation function of the feed-forward part.
    pub(crate) fn activation(&self) -> Option<Activation> {
        match self.hidden_act.as_str() {
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Activation::GeluTanh),
            "relu" => Some(Activation::Relu),
            "silu" | "swish" => Some(Activation::Silu),
            _ => None,
        }
    }

    /// Refuses what this crate would run wrongly. `wrong` makes the error of a key, its value and what is supported.
    fn check(&self, wrong: impl Fn(&str, &str, &str) -> Error) -> Result<()> {
        match self.model_type.as_deref() {
            Some("bert") => {}
            other => return Err(wrong("model_type", other.unwrap_or("missing"), "bert")),
        }
        if let Some(kind) = self.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(wrong("position_embedding_type", kind, "absolute"));
        }
        if self.is_decoder || self.add_cross_attention {
            let key = if self.is_decoder { "is_decoder" } else { "add_cross_attention" };
            return Err(wrong(key, "true", "false"));
        }
        if let Some(quantization) = &self.quantization_config {
            return Err(wrong("quantization_config", &quantization.to_string(), "none: weights in f32, f16 or bf16"));
        }
        if self.activation().is_none() {
            return Err(wrong("hidden_act", &self.hidden_act, "gelu, gelu_new, gelu_pytorch_tanh, relu, silu"));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("num_hidden_layers", self.num_hidden_layers),
        ];
        for (key, size) in sizes {
            if !(1..=MAX_SIZE).contains(&size) {
                return Err(wrong(key, &size.to_string(), &format!("1 to {MAX_SIZE}")));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let heads = self.num_attention_heads.to_string();
            return Err(wrong(
                "num_attention_heads",
                &heads,
                &format!("a divisor of hidden_size {}", self.hidden_size),
            ));
        }
        Ok(())
    }
}

/// One entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    kwargs: Vec<String>,
}

/// What `modules.json` lists, sorted by what it is for.
struct Modules {
    transformer: String,
    pooling: Option<String>,
    normalize: Normalize,
}

/// `sentence_bert_config.json`
#[derive(Default, Deserialize)]
struct TransformerSettings {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
    #[serde(alias = "tokenizer_args")]
    processor_kwargs: Option<TokenizerSettings>,
    query_length: Option<Value>,
    document_length: Option<Value>,
    processing_kwargs: Option<Value>,
    transformer_task: Option<String>,
    module_output_name: Option<String>,
    modality_config: Option<Modalities>,
}

/// Which method of the transformer gives the rows of a text, in files of 6.x.
#[derive(Deserialize)]
struct Modalities {
    text: Option<Modality>,
}

#[derive(Deserialize)]
struct Modality {
    method: Option<String>,
    method_output_name: Option<String>,
}

/// The part of `tokenizer_config.json` that matters when nothing else gives a length.
#[derive(Default, Deserialize)]
struct TokenizerSettings {
    /// Tokenizers without a limit write 1e30, which is a float.
    model_max_length: Option<f64>,
}

/// `config_sentence_transformers.json`
#[derive(Debug, Default, Deserialize)]
struct Prompts {
    #[serde(default)]
    prompts: HashMap<String, Option<String>>,
    default_prompt_name: Option<String>,
    truncate_dim: Option<usize>,
    model_type: Option<String>,
}

impl Description {
    /// Reads and checks the small files.
    pub(crate) fn read(files: &ModelFiles) -> Result<Self> {
        let modules = Modules::read(files)?;
        let folder = modules.transformer;
        let config = format!("{folder}config.json");
        let bert: BertConfig = files.json(&config)?.ok_or_else(|| files.missing(&config))?;
        bert.check(|key, value, known| unsupported(files, &config, key, value, known))?;
        let pooling = match modules.pooling {
            Some(folder) => read_pooling(files, &folder, bert.hidden_size)?,
            None => Pooling(vec![PoolingMode::Mean]),
        };
        let settings: TransformerSettings =
            files.json(&format!("{folder}sentence_bert_config.json"))?.unwrap_or_default();
        settings.check(files, &format!("{folder}sentence_bert_config.json"))?;
        let max_tokens = max_tokens(files, &folder, &settings, &bert)?;
        let prompts: Prompts = files.json("config_sentence_transformers.json")?.unwrap_or_default();
        prompts.check(files)?;
        Ok(Self {
            name: files.name.clone(),
            source: files.source(),
            revision: files.revision.clone(),
            dim: pooling.0.len() * bert.hidden_size,
            folder,
            bert,
            pooling,
            normalize: modules.normalize,
            max_tokens,
            lower_case: settings.do_lower_case,
            prompts,
        })
    }

    /// The architecture's name.
    pub(crate) fn architecture(&self) -> &str {
        self.bert.model_type.as_deref().unwrap_or("bert")
    }

    /// The prompt of a role, empty where the model has none.
    pub(crate) fn prompt(&self, role: Role) -> &str {
        // As sentence-transformers 6 does it: the roles have their own prompt or none, only the plain call has a default.
        let name = match role {
            Role::Plain => self.prompts.default_prompt_name.as_deref(),
            Role::Query => Some("query"),
            Role::Document => Some("document"),
        };
        let prompt = name.and_then(|name| self.prompts.prompts.get(name));
        prompt.and_then(Option::as_deref).unwrap_or_default()
    }
}

impl Prompts {
    fn check(&self, files: &ModelFiles) -> Result<()> {
        if let Some(size) = self.truncate_dim {
            let known = format!("null; write SET embed.dimensions = {size} instead");
            return Err(unsupported(
                files,
                "config_sentence_transformers.json",
                "truncate_dim",
                &size.to_string(),
                &known,
            ));
        }
        if let Some(kind) = self.model_type.as_deref().filter(|kind| *kind != "SentenceTransformer") {
            return Err(unsupported(
                files,
                "config_sentence_transformers.json",
                "model_type",
                kind,
                "SentenceTransformer",
            ));
        }
        let Some(name) = self.default_prompt_name.as_deref().filter(|name| !self.prompts.contains_key(*name)) else {
            return Ok(());
        };
        let mut known: Vec<_> = self.prompts.keys().map(String::as_str).collect();
        known.sort_unstable();
        Err(unsupported(files, "config_sentence_transformers.json", "default_prompt_name", name, &known.join(", ")))
    }
}

impl Modules {
    /// Reads `modules.json`. Without one a model is its Transformer with mean pooling, as in sentence-transformers.
    fn read(files: &ModelFiles) -> Result<Self> {
        let mut found = Self { transformer: String::new(), pooling: None, normalize: Normalize::None };
        let Some(modules) = files.json::<Vec<Module>>("modules.json")? else { return Ok(found) };
        let refuse = |kind: &str, known: &str| unsupported(files, "modules.json", "type", kind, known);
        for (position, module) in modules.iter().enumerate() {
            // Old files say sentence_transformers.models.Pooling, new ones have longer paths: the last word is the kind.
            // Under any other name it is a module of the model's own, whose code is never run.
            let own = module.kind.strip_prefix("sentence_transformers.");
            let kind = own.and_then(|path| path.rsplit('.').next()).unwrap_or_default();
            if !module.kwargs.is_empty() {
                return Err(unsupported(files, "modules.json", "kwargs", &module.kwargs.join(", "), "none"));
            }
            match (position, kind) {
                (0, "Transformer") => found.transformer = folder(files, &module.path)?,
                (1, "Pooling") => found.pooling = Some(folder(files, &module.path)?),
                (2, "Normalize") => found.normalize = Normalize::L2,
                (3.., "Normalize") if found.normalize == Normalize::L2 => {}
                _ => return Err(refuse(&module.kind, "Transformer, Pooling, Normalize, in this order")),
            }
        }
        if found.pooling.is_none() {
            return Err(refuse("no Pooling", "Transformer, Pooling, Normalize, in this order"));
        }
        Ok(found)
    }
}

/// A module's folder: empty or ending in `/`, never outside the model.
fn folder(files: &ModelFiles, path: &str) -> Result<String> {
    let path = path.trim_matches('/');
    if path.split('/').any(|part| part == "..") {
        return Err(unsupported(files, "modules.json", "path", path, "a folder inside the model"));
    }
    Ok(if path.is_empty() { String::new() } else { format!("{path}/") })
}

/// Reads the Pooling module: `pooling_mode` (a name or a list of names) or the old boolean keys.
fn read_pooling(files: &ModelFiles, folder: &str, hidden: usize) -> Result<Pooling> {
    let path = format!("{folder}config.json");
    let config: HashMap<String, Value> = files.json(&path)?.ok_or_else(|| files.missing(&path))?;
    if config.get("include_prompt").and_then(Value::as_bool) == Some(false) {
        return Err(unsupported(files, &path, "include_prompt", "false", "true"));
    }
    for key in ["embedding_dimension", "word_embedding_dimension"] {
        if let Some(size) = config.get(key).and_then(Value::as_u64).filter(|&size| size != hidden as u64) {
            return Err(unsupported(files, &path, key, &size.to_string(), &format!("hidden_size {hidden}")));
        }
    }
    let mut modes = Vec::new();
    match config.get("pooling_mode") {
        Some(Value::String(name)) => modes.push(pooling_mode(files, &path, name)?),
        Some(Value::Array(names)) => {
            for name in names {
                modes.push(pooling_mode(files, &path, name.as_str().unwrap_or_default())?);
            }
        }
        Some(other) => return Err(unsupported(files, &path, "pooling_mode", &other.to_string(), "a name or a list")),
        None => {
            let on = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
            for key in config.keys().filter(|key| key.starts_with("pooling_mode_") && on(key)) {
                if !PoolingMode::ALL.iter().any(|(_, _, old)| old == key) {
                    return Err(unsupported(files, &path, key, "true", "the other pooling modes"));
                }
            }
            modes.extend(PoolingMode::ALL.iter().filter(|(_, _, old)| on(old)).map(|(mode, _, _)| *mode));
        }
    }
    if modes.is_empty() {
        // Old files with every key false mean the average.
        modes.push(PoolingMode::Mean);
    }
    Ok(Pooling(modes))
}

fn pooling_mode(files: &ModelFiles, path: &str, name: &str) -> Result<PoolingMode> {
    let found = PoolingMode::ALL.iter().find(|(_, known, _)| *known == name);
    found.map(|(mode, _, _)| *mode).ok_or_else(|| unsupported(files, path, "pooling_mode", name, &pooling_names()))
}

fn pooling_names() -> String {
    PoolingMode::ALL.map(|(_, name, _)| name).join(", ")
}

/// The truncation length: what `sentence_bert_config.json` says, else the smaller of positions and tokenizer limit.
fn max_tokens(files: &ModelFiles, folder: &str, settings: &TransformerSettings, bert: &BertConfig) -> Result<usize> {
    let positions = bert.max_position_embeddings;
    let path = format!("{folder}sentence_bert_config.json");
    let said = settings.processor_kwargs.as_ref().and_then(TokenizerSettings::limit).or(settings.max_seq_length);
    match said {
        Some(length) if (1..=positions).contains(&length) => Ok(length),
        Some(length) => {
            let known = format!("1 to max_position_embeddings {positions}");
            Err(unsupported(files, &path, "max_seq_length", &length.to_string(), &known))
        }
        None => {
            let tokenizer: TokenizerSettings =
                files.json(&format!("{folder}tokenizer_config.json"))?.unwrap_or_default();
            Ok(tokenizer.limit().map_or(positions, |limit| limit.min(positions)))
        }
    }
}

impl TransformerSettings {
    /// Refuses what would give other rows or other lengths than are computed here.
    fn check(&self, files: &ModelFiles, path: &str) -> Result<()> {
        let lengths = [
            ("query_length", &self.query_length),
            ("document_length", &self.document_length),
            ("processing_kwargs", &self.processing_kwargs),
        ];
        for (key, value) in lengths {
            if let Some(value) = value {
                return Err(unsupported(files, path, key, &value.to_string(), "null"));
            }
        }
        let text = self.modality_config.as_ref().and_then(|modalities| modalities.text.as_ref());
        let names = [
            ("transformer_task", self.transformer_task.as_deref(), "feature-extraction"),
            ("module_output_name", self.module_output_name.as_deref(), "token_embeddings"),
            ("method", text.and_then(|text| text.method.as_deref()), "forward"),
            ("method_output_name", text.and_then(|text| text.method_output_name.as_deref()), "last_hidden_state"),
        ];
        for (key, name, known) in names {
            if let Some(name) = name.filter(|name| *name != known) {
                return Err(unsupported(files, path, key, name, known));
            }
        }
        Ok(())
    }
}

impl TokenizerSettings {
    /// The limit in tokens; a float too large for a count is none.
    fn limit(&self) -> Option<usize> {
        self.model_max_length.filter(|limit| (1.0..1e9).contains(limit)).map(|limit| limit as usize)
    }
}

/// The error for a value that a file has and this crate does not support.
fn unsupported(files: &ModelFiles, path: &str, key: &str, value: &str, known: &str) -> Error {
    Error::Model(format!("{}: {path}: {key} \"{value}\" is not supported (supported: {known})", files.label()))
}

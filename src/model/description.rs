//! What the small files of a model say, checked: architecture, pooling, prompts, limits.
//!
//! sentence-transformers' files are the specification, in their old and their 6.x form. A value that is not supported is
//! an error that names the file and the value; nothing is guessed where a file speaks.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::architecture::Architecture;
use super::config::{self, Config};
use super::families;
use super::files::ModelFiles;
use super::pooling::{Pooling, PoolingMode};
use super::steps::StepShape;
use super::weights::Weights;
use crate::error::{Error, Result};

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
    /// The encoder.
    pub(crate) architecture: Architecture,
    /// How the rows of a text become one.
    pub(crate) pooling: Pooling,
    /// Whether the prompt's tokens are pooled too.
    pub(crate) include_prompt: bool,
    /// What happens to the pooled row then.
    pub(crate) steps: Vec<StepShape>,
    /// Length of a vector.
    pub(crate) dim: usize,
    /// Truncation length of the model, special tokens counted.
    pub(crate) max_tokens: usize,
    /// Which end of a long text is cut off.
    pub(crate) cut_start: bool,
    /// Whether texts are lower-cased before the tokenizer.
    pub(crate) lower_case: bool,
    prompts: Prompts,
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
    /// Folder of the first module, and whether it is a table of words.
    first: String,
    is_static: bool,
    pooling: Option<String>,
    /// What follows: kind and folder.
    steps: Vec<(String, String)>,
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

/// The part of `tokenizer_config.json` that matters.
#[derive(Default, Deserialize)]
struct TokenizerSettings {
    /// Tokenizers without a limit write 1e30, which is a float.
    model_max_length: Option<f64>,
    /// `left` or `right`.
    truncation_side: Option<String>,
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
    /// Reads and checks the small files. A static model has no other description of its table than the header of its
    /// weights, which `offline` keeps from being fetched.
    pub(crate) fn read(files: &ModelFiles, offline: bool) -> Result<Self> {
        let modules = Modules::read(files)?;
        let folder = modules.first;
        let prompts: Prompts = files.json("config_sentence_transformers.json")?.unwrap_or_default();
        prompts.check(files)?;
        let settings = TransformerSettings::read(files, &folder)?;
        let tokenizer: TokenizerSettings = files.json(&format!("{folder}tokenizer_config.json"))?.unwrap_or_default();
        let (architecture, pooling, include_prompt, max_tokens);
        if modules.is_static {
            let (rows, width) = Weights::open(files, &folder, offline)?.static_shape()?;
            architecture = families::fixed(rows, width);
            (pooling, include_prompt) = (Pooling(vec![PoolingMode::Mean]), true);
            max_tokens = architecture.places;
        } else {
            let config = Config::read(files, &format!("{folder}config.json"))?;
            architecture = families::read(&config)?;
            (pooling, include_prompt) = match modules.pooling {
                Some(folder) => read_pooling(files, &folder, architecture.hidden)?,
                None => (Pooling(vec![default_pooling(&config)?]), true),
            };
            max_tokens = settings.max_tokens(files, &folder, &tokenizer, architecture.places)?;
        }
        let mut dim = pooling.0.len() * architecture.hidden;
        let mut steps = Vec::new();
        for (kind, folder) in modules.steps {
            let step = match kind.as_str() {
                "Dense" => StepShape::dense(files, &folder, dim)?,
                "LayerNorm" => StepShape::layer_norm(files, &folder, dim)?,
                _ => StepShape::Normalize,
            };
            dim = step.width(dim);
            steps.push(step);
        }
        Ok(Self {
            name: files.name.clone(),
            source: files.source(),
            revision: files.revision.clone(),
            dim: prompts.truncate_dim.map_or(dim, |cut| cut.min(dim)),
            folder,
            architecture,
            pooling,
            include_prompt,
            steps,
            max_tokens,
            cut_start: tokenizer.truncation_side.as_deref() == Some("left"),
            lower_case: settings.do_lower_case,
            prompts,
        })
    }

    /// Whether vectors have length 1.
    pub(crate) fn normalizes(&self) -> bool {
        self.steps.last() == Some(&StepShape::Normalize)
    }

    /// The architecture's name.
    pub(crate) fn architecture(&self) -> &str {
        &self.architecture.name
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
        if self.truncate_dim == Some(0) {
            return Err(unsupported(files, "config_sentence_transformers.json", "truncate_dim", "0", "1 or more"));
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
    /// Reads `modules.json`. Without one a model is its Transformer alone, as in sentence-transformers.
    fn read(files: &ModelFiles) -> Result<Self> {
        const KNOWN: &str =
            "Transformer and Pooling, or StaticEmbedding; then Dense, LayerNorm, Normalize, Dropout in any order";
        let mut found = Self { first: String::new(), is_static: false, pooling: None, steps: Vec::new() };
        let Some(modules) = files.json::<Vec<Module>>("modules.json")? else { return Ok(found) };
        let refuse = |kind: &str| unsupported(files, "modules.json", "type", kind, KNOWN);
        for (position, module) in modules.iter().enumerate() {
            // Old files say sentence_transformers.models.Pooling, new ones have longer paths: the last word is the kind.
            // Under any other name it is a module of the model's own, whose code is never run.
            let own = module.kind.strip_prefix("sentence_transformers.");
            let kind = own.and_then(|path| path.rsplit('.').next()).unwrap_or_default();
            if !module.kwargs.is_empty() {
                return Err(unsupported(files, "modules.json", "kwargs", &module.kwargs.join(", "), "none"));
            }
            let folder = folder(files, &module.path)?;
            match (position, kind) {
                (0, "Transformer") => found.first = folder,
                (0, "StaticEmbedding") => (found.first, found.is_static) = (folder, true),
                (1, "Pooling") if !found.is_static => found.pooling = Some(folder),
                (1.., "Dense" | "LayerNorm" | "Normalize") if found.is_static || found.pooling.is_some() => {
                    found.steps.push((kind.to_owned(), folder));
                }
                // Only training drops anything.
                (1.., "Dropout") if found.is_static || found.pooling.is_some() => {}
                _ => return Err(refuse(&module.kind)),
            }
        }
        if !found.is_static && found.pooling.is_none() {
            return Err(refuse("no Pooling"));
        }
        Ok(found)
    }
}

/// How a model without `modules.json` is pooled: by its last token if it was made to write texts, else on average.
fn default_pooling(config: &Config) -> Result<PoolingMode> {
    let first = config.value("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
    let writes = first.is_some_and(|name| name.ends_with("ForCausalLM")) && config.flag("is_causal", true)?;
    Ok(if writes { PoolingMode::LastToken } else { PoolingMode::Mean })
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
/// Gives whether the prompt is pooled too.
fn read_pooling(files: &ModelFiles, folder: &str, hidden: usize) -> Result<(Pooling, bool)> {
    let path = format!("{folder}config.json");
    let config: HashMap<String, Value> = files.json(&path)?.ok_or_else(|| files.missing(&path))?;
    let include_prompt = config.get("include_prompt").and_then(Value::as_bool) != Some(false);
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
    Ok((Pooling(modes), include_prompt))
}

fn pooling_mode(files: &ModelFiles, path: &str, name: &str) -> Result<PoolingMode> {
    let found = PoolingMode::ALL.iter().find(|(_, known, _)| *known == name);
    found.map(|(mode, _, _)| *mode).ok_or_else(|| unsupported(files, path, "pooling_mode", name, &pooling_names()))
}

fn pooling_names() -> String {
    PoolingMode::ALL.map(|(_, name, _)| name).join(", ")
}

impl TransformerSettings {
    /// Reads the module's settings under the first of the names that sentence-transformers gave them.
    fn read(files: &ModelFiles, folder: &str) -> Result<Self> {
        for family in ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"] {
            let path = format!("{folder}sentence_{family}_config.json");
            if let Some(settings) = files.json::<Self>(&path)? {
                settings.check(files, &path)?;
                return Ok(settings);
            }
        }
        Ok(Self::default())
    }

    /// The truncation length: what is said here, else the smaller of the model's places and the tokenizer's limit.
    fn max_tokens(
        &self,
        files: &ModelFiles,
        folder: &str,
        tokenizer: &TokenizerSettings,
        places: usize,
    ) -> Result<usize> {
        let said = self.processor_kwargs.as_ref().and_then(TokenizerSettings::limit).or(self.max_seq_length);
        match said {
            Some(length) if (1..=places).contains(&length) => Ok(length),
            Some(length) => {
                let path = format!("{folder}sentence_bert_config.json");
                let known = format!("1 to the model's {places} positions");
                Err(unsupported(files, &path, "max_seq_length", &length.to_string(), &known))
            }
            None => Ok(tokenizer.limit().map_or(places, |limit| limit.min(places))),
        }
    }

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

fn unsupported(files: &ModelFiles, path: &str, key: &str, value: &str, known: &str) -> Error {
    config::unsupported(&files.label(), path, key, value, known)
}

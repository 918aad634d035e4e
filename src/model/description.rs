//! What the small files of a model say, checked: architecture, pooling, prompts, limits.
//!
//! sentence-transformers' files are the specification, in their old and their 6.x form. A value that is not supported is
//! an error that names the file and the value; nothing is guessed where a file speaks.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::architecture::Architecture;
use super::config::{self, Config};
use super::families;
use super::fingerprint::Fingerprint;
use super::pooling::{Pooling, PoolingMode};
use super::settings::{Prompts, TokenizerSettings, TransformerSettings};
use super::snapshot::Files;
use super::steps::StepShape;
use super::weights::{Weights, weight_files};
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

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Query, Self::Document];
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
    /// Whether the model has `modules.json`.
    has_modules: bool,
    /// The truncation length that its files ask for, where it has fewer positions.
    wanted_tokens: Option<usize>,
    pooling_folder: Option<String>,
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
    /// What the tokenizer's settings say beside its `tokenizer.json`.
    pub(super) tokenizer: TokenizerSettings,
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

impl Description {
    /// A hash of all that the small files say.
    pub(super) fn digest(&self) -> String {
        let hash = Sha256::digest(format!("{self:?}"));
        format!("{:032x}", u128::from_be_bytes(*hash.first_chunk().expect("16 of 32 bytes")))
    }

    /// Reads and checks the small files. A static model has no other description of its table than the header of its
    /// weights, which come now then.
    pub(crate) fn read(files: Files<'_>) -> Result<Self> {
        if files.text("adapter_config.json")?.is_some() {
            let known = "none: merge the adapter into the model (peft's merge_and_unload) and save that";
            return Err(unsupported(files, "adapter_config.json", "an adapter", "PEFT", known));
        }
        let modules = Modules::read(files)?;
        let (mut prompts, mut settings) = (Prompts::default(), TransformerSettings::default());
        let (folder, is_static) = match &modules {
            // Where modules.json is missing sentence-transformers does not read its other files either.
            None => (String::new(), false),
            Some(modules) => {
                prompts = Prompts::read(files)?;
                settings = TransformerSettings::read(files, &modules.first)?;
                (modules.first.clone(), modules.is_static)
            }
        };
        let tokenizer = TokenizerSettings::read(files, &folder)?;
        let (mut architecture, pooling, include_prompt, max_tokens);
        if is_static {
            let (rows, width) = Weights::open(files, &folder)?.static_shape()?;
            architecture = families::fixed(rows, width);
            (pooling, include_prompt) = (Pooling(vec![PoolingMode::Mean]), true);
            max_tokens = architecture.positions;
        } else {
            let config = Config::read(files, &format!("{folder}config.json"))?;
            architecture = families::read(&config)?;
            (pooling, include_prompt) = match modules.as_ref().and_then(|modules| modules.pooling.as_deref()) {
                Some(folder) => read_pooling(files, folder, architecture.hidden)?,
                None => (Pooling(vec![default_pooling(&config)?]), true),
            };
            max_tokens = settings.limit(&tokenizer, architecture.positions, architecture.ends())?;
            architecture.positions = architecture.positions.max(max_tokens);
            families::check_tables(&config, &architecture)?;
        }
        let mut dim = pooling.0.len() * architecture.hidden;
        let mut steps = Vec::new();
        for (kind, folder) in modules.iter().flat_map(|modules| &modules.steps) {
            let step = match kind.as_str() {
                "Dense" => StepShape::dense(files, folder, dim)?,
                "LayerNorm" => StepShape::layer_norm(files, folder, dim)?,
                _ => StepShape::Normalize,
            };
            dim = step.width(dim);
            steps.push(step);
        }
        Ok(Self {
            name: files.source().name().to_owned(),
            source: files.source().kind(),
            revision: files.source().revision().map(str::to_owned),
            dim: prompts.truncate.map_or(dim, |cut| cut.min(dim)),
            folder,
            architecture,
            pooling,
            include_prompt,
            has_modules: modules.is_some(),
            wanted_tokens: settings.max_tokens.filter(|&wanted| !is_static && wanted > max_tokens),
            pooling_folder: modules.and_then(|modules| modules.pooling),
            steps,
            max_tokens,
            cut_start: settings.cut_start(&tokenizer),
            lower_case: settings.lower_case,
            tokenizer,
            prompts,
        })
    }

    /// What tells this model's vectors from those of any other.
    pub(super) fn fingerprint(&self, files: Files<'_>) -> Result<Fingerprint> {
        let mut paths = vec!["modules.json".to_owned()];
        if self.has_modules {
            paths.push("config_sentence_transformers.json".to_owned());
            paths.extend(TransformerSettings::path(files, &self.folder)?);
        }
        let of_folder =
            ["config.json", "tokenizer.json", "tokenizer_config.json"].map(|file| format!("{}{file}", self.folder));
        paths.extend(of_folder);
        paths.extend(weight_files(files, &self.folder)?);
        paths.extend(self.pooling_folder.iter().map(|folder| format!("{folder}config.json")));
        for folder in self.steps.iter().filter_map(StepShape::folder) {
            paths.push(format!("{folder}config.json"));
            paths.extend(weight_files(files, folder)?);
        }
        Fingerprint::of(files, paths)
    }

    /// What the model's files do not say, or cannot mean, and how it was taken.
    pub(crate) fn assumption(&self) -> Option<String> {
        let said = "its vectors are not normalised and have no prompts, as in sentence-transformers";
        let pooled = (!self.has_modules).then(|| format!("no modules.json: pooled by {}, {said}", self.pooling));
        let cut = self.wanted_tokens.map(|wanted| {
            let has = self.max_tokens;
            format!("max_seq_length is {wanted} and the model has {has} positions: longer texts are cut there")
        });
        let all: Vec<String> = pooled.into_iter().chain(cut).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Whether vectors have length 1.
    pub(crate) fn normalizes(&self) -> bool {
        self.steps.last() == Some(&StepShape::Normalize)
    }

    /// The truncation length, where the model has one.
    pub(crate) fn limit(&self) -> Option<usize> {
        Some(self.max_tokens).filter(|_| !self.architecture.layers.is_empty())
    }

    /// The architecture's name.
    pub(crate) fn architecture(&self) -> &str {
        &self.architecture.name
    }

    /// The prompts by their names.
    pub(crate) fn prompts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.prompts.by_name.iter().map(|(name, prompt)| (name.as_str(), prompt.as_str()))
    }

    /// The name of the prompt of a plain call.
    pub(crate) fn default_prompt(&self) -> Option<&str> {
        self.prompts.default.as_deref()
    }

    /// The prompt of a role, empty where the model has none.
    pub(crate) fn prompt(&self, role: Role) -> &str {
        // As sentence-transformers 6 does it: the roles have their own prompt or none, only the plain call has a default.
        let name = match role {
            Role::Plain => self.prompts.default.as_deref(),
            Role::Query => Some("query"),
            Role::Document => Some("document"),
        };
        name.and_then(|name| self.prompts.by_name.get(name)).map_or("", String::as_str)
    }
}

impl Modules {
    /// Reads `modules.json`. Without one a model is its Transformer alone, as in sentence-transformers.
    fn read(files: Files<'_>) -> Result<Option<Self>> {
        const KNOWN: &str =
            "Transformer and Pooling, or StaticEmbedding; then Dense, LayerNorm, Normalize, Dropout in any order";
        let mut found = Self { first: String::new(), is_static: false, pooling: None, steps: Vec::new() };
        let Some(modules) = files.json::<Vec<Module>>("modules.json")? else { return Ok(None) };
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
        Ok(Some(found))
    }
}

/// How a model without `modules.json` is pooled: by its last token if it was made to write texts, else on average.
fn default_pooling(config: &Config) -> Result<PoolingMode> {
    let first = config.value("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
    let writes = first.is_some_and(|name| name.ends_with("ForCausalLM")) && config.flag("is_causal", true)?;
    Ok(if writes { PoolingMode::LastToken } else { PoolingMode::Mean })
}

/// A module's folder: empty or ending in `/`, never outside the model.
fn folder(files: Files<'_>, path: &str) -> Result<String> {
    let path = path.trim_matches('/');
    if path.split('/').any(|part| part == "..") {
        return Err(unsupported(files, "modules.json", "path", path, "a folder inside the model"));
    }
    Ok(if path.is_empty() { String::new() } else { format!("{path}/") })
}

/// Reads the Pooling module: `pooling_mode` (a name or a list of names) or the old boolean keys.
/// Gives whether the prompt is pooled too.
fn read_pooling(files: Files<'_>, folder: &str, hidden: usize) -> Result<(Pooling, bool)> {
    let config = Config::read(files, &format!("{folder}config.json"))?;
    for key in ["embedding_dimension", "word_embedding_dimension"] {
        let size = config.size(&[key], hidden)?;
        if size != hidden {
            return Err(config.unsupported(key, &size.to_string(), &format!("hidden_size {hidden}")));
        }
    }
    let mut modes = match config.value("pooling_mode") {
        Some(Value::Array(names)) => {
            names.iter().map(|name| pooling_mode(&config, name.as_str().unwrap_or_default())).collect::<Result<_>>()?
        }
        Some(_) => vec![pooling_mode(&config, config.text("pooling_mode")?.unwrap_or_default())?],
        None => old_pooling_modes(&config)?,
    };
    if let Some(twice) = modes.iter().enumerate().find_map(|(i, mode)| modes[..i].contains(mode).then_some(*mode)) {
        return Err(config.unsupported("pooling_mode", &Pooling(vec![twice, twice]).to_string(), "each mode once"));
    }
    if modes.is_empty() {
        // Old files with every key false mean the average.
        modes.push(PoolingMode::Mean);
    }
    Ok((Pooling(modes), config.flag("include_prompt", true)?))
}

/// The pooling mode of this name.
fn pooling_mode(config: &Config, name: &str) -> Result<PoolingMode> {
    let found = PoolingMode::ALL.iter().find(|(_, known, _)| *known == name);
    let known = || PoolingMode::ALL.map(|(_, name, _)| name).join(", ");
    found.map(|(mode, _, _)| *mode).ok_or_else(|| config.unsupported("pooling_mode", name, &known()))
}

/// The pooling modes of a file that has a key for each.
fn old_pooling_modes(config: &Config) -> Result<Vec<PoolingMode>> {
    for key in config.keys().filter(|key| key.starts_with("pooling_mode_")) {
        if config.flag(key, false)? && !PoolingMode::ALL.iter().any(|(_, _, old)| *old == key) {
            return Err(config.unsupported(key, "true", "the other pooling modes"));
        }
    }
    let mut modes = Vec::new();
    for (mode, _, old) in PoolingMode::ALL {
        modes.extend(config.flag(old, false)?.then_some(mode));
    }
    Ok(modes)
}

/// The error for a value that a file has and this crate does not support.
fn unsupported(files: Files<'_>, path: &str, key: &str, value: &str, known: &str) -> Error {
    config::unsupported(&files.label(), path, key, value, known)
}

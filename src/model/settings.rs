//! What stands beside `config.json`: prompts, the Transformer module's settings, the tokenizer's.

use std::collections::BTreeMap;

use serde_json::json;

use super::config::Config;
use super::families::MOST_POSITIONS;
use super::snapshot::Files;
use crate::error::Result;

/// `config_sentence_transformers.json`
#[derive(Debug, Default)]
pub(super) struct Prompts {
    pub(super) by_name: BTreeMap<String, String>,
    pub(super) default: Option<String>,
    /// Values that sentence-transformers keeps of a vector.
    pub(super) truncate: Option<usize>,
}

impl Prompts {
    pub(super) fn read(files: Files<'_>) -> Result<Self> {
        let Some(config) = Config::find(files, "config_sentence_transformers.json")? else {
            return Ok(Self::default());
        };
        config.expect("model_type", &json!("SentenceTransformer"))?;
        let mut by_name = BTreeMap::new();
        if let Some(prompts) = config.object("prompts")? {
            for name in prompts.keys() {
                by_name.insert(name.to_owned(), prompts.text(name)?.unwrap_or_default().to_owned());
            }
        }
        let default = config.text("default_prompt_name")?.map(str::to_owned);
        if let Some(name) = default.as_deref().filter(|name| !by_name.contains_key(*name)) {
            let mut known: Vec<_> = by_name.keys().map(String::as_str).collect();
            known.sort_unstable();
            return Err(config.unsupported("default_prompt_name", name, &known.join(", ")));
        }
        Ok(Self { by_name, default, truncate: config.count("truncate_dim", 1)? })
    }
}

/// The families that have a file `sentence_..._config.json`, in the order in which they are looked for.
const SETTINGS_OF: [&str; 7] = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];

/// `sentence_bert_config.json`
#[derive(Debug, Default)]
pub(super) struct TransformerSettings {
    /// The truncation length that is said here, and where.
    pub(super) max_tokens: Option<usize>,
    pub(super) lower_case: bool,
    cut_start: Option<bool>,
    config: Option<Config>,
}

impl TransformerSettings {
    /// Reads the module's settings.
    pub(super) fn read(files: Files<'_>, folder: &str) -> Result<Self> {
        let Some(path) = Self::path(files, folder)? else { return Ok(Self::default()) };
        Config::find(files, &path)?.map_or_else(|| Ok(Self::default()), Self::of)
    }

    /// Where they are: under the first of the names that sentence-transformers gave them.
    pub(super) fn path(files: Files<'_>, folder: &str) -> Result<Option<String>> {
        for family in SETTINGS_OF {
            let path = format!("{folder}sentence_{family}_config.json");
            if files.has(&path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Refuses what would give other rows or other lengths than are computed here.
    fn of(config: Config) -> Result<Self> {
        for key in ["query_length", "document_length", "processing_kwargs", "query_expansion", "tokenizer_name_or_path"]
        {
            config.expect(key, &json!(null))?;
        }
        config.expect("transformer_task", &json!("feature-extraction"))?;
        config.expect("module_output_name", &json!("token_embeddings"))?;
        if let Some(modalities) = config.object("modality_config")?
            && let Some(text) = modalities.object("text")?
        {
            text.expect("method", &json!("forward"))?;
            text.expect("method_output_name", &json!("last_hidden_state"))?;
        }
        for key in ["config_args", "config_kwargs"] {
            if let Some(changes) = config.object(key)? {
                // Whether a model's own code may run; here it never does.
                let changed = changes.keys().find(|changed| *changed != "trust_remote_code");
                let refused = |changed| config.unsupported(key, changed, "no change of config.json: write it there");
                changed.map_or(Ok(()), |changed| Err(refused(changed)))?;
            }
        }
        let mut settings = Self {
            max_tokens: config.count("max_seq_length", 1)?,
            lower_case: config.flag("do_lower_case", false)?,
            cut_start: None,
            config: None,
        };
        for key in ["tokenizer_args", "processor_kwargs"] {
            if let Some(tokenizer) = config.object(key)? {
                let tokenizer = TokenizerSettings::of(&tokenizer)?;
                settings.max_tokens = tokenizer.max_tokens.or(settings.max_tokens);
                settings.cut_start = tokenizer.cut_start.or(settings.cut_start);
            }
        }
        Ok(Self { config: Some(config), ..settings })
    }

    /// The truncation length of a model with so many positions. Where they are a table it has no more, whatever is asked for:
    /// sentence-transformers fails on the texts between.
    pub(super) fn limit(&self, tokenizer: &TokenizerSettings, positions: usize, is_table: bool) -> Result<usize> {
        match (self.max_tokens, &self.config) {
            (Some(length), _) if is_table => Ok(length.min(positions)),
            (Some(length), Some(config)) if length > positions.max(MOST_POSITIONS) => {
                let known = format!("1 to {}", positions.max(MOST_POSITIONS));
                Err(config.unsupported("max_seq_length", &length.to_string(), &known))
            }
            (Some(length), _) => Ok(length),
            (None, _) => Ok(tokenizer.max_tokens.map_or(positions, |limit| limit.min(positions))),
        }
    }

    /// Which end of a long text is cut off.
    pub(super) fn cut_start(&self, tokenizer: &TokenizerSettings) -> bool {
        self.cut_start.or(tokenizer.cut_start).unwrap_or(false)
    }
}

/// The part of `tokenizer_config.json` that matters.
#[derive(Debug, Default)]
pub(crate) struct TokenizerSettings {
    /// A limit in tokens, if it is one: tokenizers without write 1e30.
    pub(super) max_tokens: Option<usize>,
    pub(super) cut_start: Option<bool>,
    /// What a tokenizer of BERT's kind does to letters, where its class says so and not `tokenizer.json`.
    pub(super) letters: Option<Letters>,
    /// Whether a text begins as if a blank stood before it, where the class says so.
    pub(super) add_prefix_space: Option<bool>,
    /// Whether special tokens in a text are taken for text.
    pub(super) split_special_tokens: bool,
    /// Whether the file names a token that begins or ends every text.
    pub(super) has_special_tokens: bool,
}

/// Keys of BERT's tokenizers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letters {
    pub(super) lower_case: bool,
    pub(super) strip_accents: Option<bool>,
    pub(super) chinese: bool,
}

impl TokenizerSettings {
    pub(super) fn read(files: Files<'_>, folder: &str) -> Result<Self> {
        let config = Config::find(files, &format!("{folder}tokenizer_config.json"))?;
        config.as_ref().map_or_else(|| Ok(Self::default()), Self::of)
    }

    fn of(config: &Config) -> Result<Self> {
        let class = config.text("tokenizer_class")?.unwrap_or_default();
        // transformers builds tokenizers of a class anew from its own keys, and takes the others as their file has them.
        let is_own_class = !matches!(class, "" | "PreTrainedTokenizerFast" | "TokenizersBackend");
        let letters = Letters {
            lower_case: config.flag("do_lower_case", true)?,
            strip_accents: config.value("strip_accents").map(|_| config.flag("strip_accents", false)).transpose()?,
            chinese: config.flag("tokenize_chinese_chars", true)?,
        };
        let prefix = config.flag("add_prefix_space", false)?;
        let cut_start = match config.text("truncation_side")? {
            None => None,
            Some("left") => Some(true),
            Some("right") => Some(false),
            Some(other) => return Err(config.unsupported("truncation_side", other, "left, right")),
        };
        let limit = config.number("model_max_length")?;
        if let Some(limit) = limit.filter(|limit| *limit < 1.0 || *limit < 1e9 && limit.fract() != 0.0) {
            return Err(config.unsupported("model_max_length", &limit.to_string(), "a whole number, 1 or more"));
        }
        let limit = limit.filter(|limit| *limit < 1e9);
        let named = ["cls_token", "sep_token"].into_iter().any(|key| config.value(key).is_some());
        let added = config.flag("add_bos_token", false)? || config.flag("add_eos_token", false)?;
        Ok(Self {
            max_tokens: limit.map(|limit| limit as usize),
            cut_start,
            letters: is_own_class.then_some(letters),
            add_prefix_space: (is_own_class && config.value("add_prefix_space").is_some()).then_some(prefix),
            split_special_tokens: config.flag("split_special_tokens", false)?,
            has_special_tokens: named || added,
        })
    }
}

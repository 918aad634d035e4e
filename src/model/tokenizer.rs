//! Text -> tokens, with the model's `tokenizer.json`.

use tokenizers::normalizers::{BertNormalizer, Lowercase, Sequence};
use tokenizers::{NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer, TruncationDirection};

use super::description::Description;
use super::files::ModelFiles;
use super::settings::{Letters, TokenizerSettings};
use crate::error::{Error, Result};

/// The tokens of one text.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// Token ids after truncation, special tokens included.
    pub(crate) ids: Vec<u32>,
    /// Number of tokens before truncation, special tokens counted.
    pub(crate) full_length: usize,
}

/// A model's tokenizer.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Tokens that the tokenizer adds to every text ([CLS] and [SEP]).
    pub(super) special: usize,
    /// Tokens to which the tokenizer itself cuts a text, whatever is asked for.
    longest: usize,
    /// Which end of a long text goes.
    direction: TruncationDirection,
    /// Whether a text may have no tokens at all.
    may_be_empty: bool,
    /// How an error names the model.
    label: String,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`. Its own truncation and padding are settings of whoever saved it last and are ignored.
    pub(crate) fn load(files: &ModelFiles, description: &Description) -> Result<Self> {
        let path = format!("{}tokenizer.json", description.folder);
        let text = files.require_text(&path)?;
        let wrong = |reason: String| Error::Model(format!("{}: {path}: {reason}", files.label()));
        let mut tokenizer: Tokenizer = text.parse().map_err(|error| wrong(format!("{error}")))?;
        tokenizer.with_padding(None);
        let is_static = description.architecture.layers.is_empty();
        let mut cut = (usize::MAX, description.cut_start);
        if is_static {
            // sentence-transformers leaves static models' special tokens out, and their tokenizer's own truncation in.
            tokenizer.with_post_processor(None::<PostProcessorWrapper>);
            if let Some(own) = tokenizer.get_truncation() {
                cut = (own.max_length, own.direction == TruncationDirection::Left);
            }
        } else {
            let settings = &description.tokenizer;
            if tokenizer.get_post_processor().is_none() && settings.has_special_tokens {
                return Err(wrong(
                    "no post_processor, which puts the special tokens of tokenizer_config.json".to_owned(),
                ));
            }
            apply(settings, &mut tokenizer).map_err(wrong)?;
        }
        tokenizer.with_truncation(None).map_err(|error| wrong(format!("{error}")))?;
        if description.lower_case {
            let mut steps = vec![Lowercase.into()];
            steps.extend(tokenizer.get_normalizer().cloned());
            tokenizer.with_normalizer(Some(Sequence::new(steps))).map_err(|error| wrong(format!("{error}")))?;
        }
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        let rows = description.architecture.vocabulary;
        if largest >= rows {
            return Err(wrong(format!(
                "token id {largest} is outside the embedding table of {rows} rows (vocab_size)"
            )));
        }
        let probe = tokenizer.encode_fast("", true).map_err(|error| wrong(format!("{error}")))?;
        if probe.len() >= description.max_tokens {
            return Err(wrong(format!(
                "adds {} special tokens, which leaves no room for text in the model's {} tokens (max_seq_length)",
                probe.len(),
                description.max_tokens
            )));
        }
        let (longest, cut_start) = cut;
        let direction = if cut_start { TruncationDirection::Left } else { TruncationDirection::Right };
        Ok(Self { tokenizer, special: probe.len(), longest, direction, may_be_empty: is_static, label: files.label() })
    }

    /// Tokens of `prompt + text`, cut to `max_tokens`, special tokens counted and kept.
    pub(crate) fn tokenize(&self, prompt: &str, text: &str, max_tokens: usize) -> Result<Tokens> {
        let failed = |error: tokenizers::Error| Error::Text(format!("{}: tokenizer: {error}", self.label));
        let mut encoding = self.encode(prompt, text)?;
        let max_tokens = max_tokens.min(self.longest);
        let full_length = encoding.len() + self.special;
        if full_length > max_tokens {
            encoding.truncate(max_tokens.saturating_sub(self.special), 0, self.direction);
            encoding.take_overflowing();
        }
        let encoding = self.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        if encoding.get_ids().is_empty() && !self.may_be_empty {
            return Err(Error::Text(format!(
                "{}: text {text:?} has no tokens, and the tokenizer adds none of its own; leave such rows out, or make \
                 them NULL with NULLIF",
                self.label
            )));
        }
        Ok(Tokens { ids: encoding.get_ids().to_vec(), full_length })
    }

    /// Number of tokens that a prompt puts before every text, those included that the tokenizer puts first; not the special
    /// token that ends a text.
    pub(crate) fn prompt_tokens(&self, prompt: &str, max_tokens: usize) -> Result<usize> {
        let ids = self.tokenize(prompt, "", max_tokens)?.ids;
        let special = |id: &u32| self.tokenizer.get_added_tokens_decoder().get(id).is_some_and(|token| token.special);
        Ok(ids.len() - usize::from(ids.last().is_some_and(special)))
    }

    /// Number of tokens of a text before truncation, special tokens counted.
    pub(crate) fn count(&self, text: &str) -> Result<usize> {
        Ok(self.encode("", text)?.len() + self.special)
    }

    /// Tokens without the special ones.
    fn encode(&self, prompt: &str, text: &str) -> Result<tokenizers::Encoding> {
        let joined;
        let input = if prompt.is_empty() {
            text
        } else {
            joined = format!("{prompt}{text}");
            &joined
        };
        self.tokenizer
            .encode_fast(input, false)
            .map_err(|error| Error::Text(format!("{}: tokenizer: {error}", self.label)))
    }
}

/// What transformers makes of a tokenizer of a class: the class's own keys take the place of what `tokenizer.json` says.
fn apply(settings: &TokenizerSettings, tokenizer: &mut Tokenizer) -> std::result::Result<(), String> {
    let normalizer = match (tokenizer.get_normalizer(), settings.letters) {
        (Some(NormalizerWrapper::BertNormalizer(_)), Some(Letters { lower_case, strip_accents, chinese })) => {
            Some(BertNormalizer::new(true, chinese, strip_accents, lower_case))
        }
        _ => None,
    };
    if normalizer.is_some() {
        tokenizer.with_normalizer(normalizer).map_err(|error| error.to_string())?;
    }
    if let Some(wanted) = settings.add_prefix_space {
        let level = match tokenizer.get_pre_tokenizer() {
            Some(&PreTokenizerWrapper::ByteLevel(level)) => Some(level.add_prefix_space(wanted)),
            Some(PreTokenizerWrapper::Sequence(_)) if wanted => {
                return Err(
                    "tokenizer_config.json: add_prefix_space \"true\" is not supported here (supported: false)".into(),
                );
            }
            _ => None,
        };
        if level.is_some() {
            tokenizer.with_pre_tokenizer(level);
        }
    }
    tokenizer.set_encode_special_tokens(settings.split_special_tokens);
    Ok(())
}

//! Text -> tokens, with the model's `tokenizer.json`.

use std::ops::Range;

use parking_lot::Mutex;
use std::sync::OnceLock;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};

use tokenizers::normalizers::{BertNormalizer, Lowercase, Sequence};
use tokenizers::{
    ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer, TruncationDirection,
};

use super::description::Description;
use super::pieces::{Allowance, Cuts, Short};
use super::settings::{Letters, TokenizerSettings};
use super::snapshot::Files;
use super::tokenizer_file;
use super::words::Words;
use crate::error::{Error, Result};

/// Bytes of a piece of a long text. A text of up to two of them is read as a whole.
const PIECE: usize = 16 << 10;

/// Bytes of memory that a tokenizer takes for a byte of text, measured: 60 to 250, the more the shorter the tokens.
const MEMORY_PER_BYTE: usize = 240;

/// The tokens of one text.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// Token ids after truncation, special tokens included.
    pub(crate) ids: Vec<u32>,
    /// Number of tokens before truncation, special tokens counted. Of a long text that is truncated as many as were read,
    /// and more than the limit; [`TextTokenizer::count`] has them all.
    pub(crate) full_length: usize,
}

/// A model's tokenizer.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Tokens that the tokenizer adds to every text ([CLS] and [SEP]).
    pub(super) special: usize,
    /// Tokens to which the tokenizer itself cuts a text, whatever is asked for.
    pub(super) longest: usize,
    /// Which end of a long text goes.
    pub(super) direction: TruncationDirection,
    /// Whether a text may have no tokens at all.
    may_be_empty: bool,
    /// How an error names the model.
    label: String,
    /// What it puts before and behind the tokens of any text.
    around: (Vec<u32>, Vec<u32>),
    /// Where long texts can be cut, looked up for the first of them.
    cuts: OnceLock<Cuts>,
    /// A shorter way than the tokenizer's own where it has one, looked up for the first text.
    words: OnceLock<Option<Words>>,
    /// Bytes of a piece, see [`PIECE`].
    pub(super) piece: usize,
    /// Held while more than two pieces are read at once: the memory for that is there once, not once per thread.
    whole: Mutex<()>,
    /// Bytes that the tokenizer has read.
    #[cfg(test)]
    pub(super) read: AtomicUsize,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`. Its own truncation and padding are settings of whoever saved it last and are ignored.
    pub(crate) fn load(files: Files<'_>, description: &Description) -> Result<Self> {
        let path = format!("{}tokenizer.json", description.folder);
        let Some(text) = files.text(&path)? else { return Err(without_file(files, &description.folder, &path)?) };
        let wrong = |reason: String| Error::Model(format!("{}: {path}: {reason}", files.label()));
        tokenizer_file::check_text(&text).map_err(wrong)?;
        let mut tokenizer: Tokenizer = text.parse().map_err(|error| wrong(format!("{error}")))?;
        tokenizer.with_padding(None);
        let is_static = description.architecture.layers.is_empty();
        let mut cut = (usize::MAX, description.cut_start);
        if is_static {
            // sentence-transformers leaves static models' special tokens out, and their tokenizer's own truncation in.
            tokenizer.with_post_processor(None::<PostProcessorWrapper>);
            if let Some(own) = tokenizer.get_truncation() {
                if own.max_length == 0 {
                    return Err(wrong(
                        "truncation: max_length \"0\" is not supported (supported: 1 or more)".to_owned(),
                    ));
                }
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
        let rows = description.architecture.vocabulary;
        tokenizer_file::check(&tokenizer, rows).map_err(wrong)?;
        let probe = tokenizer.encode_fast("", true).map_err(|error| wrong(format!("{error}")))?;
        // What stands around every text, whatever part of the file puts it there.
        if let Some(&id) = probe.get_ids().iter().find(|&&id| id as usize >= rows) {
            return Err(wrong(tokenizer_file::outside(id as usize, rows)));
        }
        if probe.len() >= description.max_tokens {
            return Err(wrong(format!(
                "adds {} special tokens, which leaves no room for text in the model's {} tokens (max_seq_length)",
                probe.len(),
                description.max_tokens
            )));
        }
        let (longest, cut_start) = cut;
        let direction = if cut_start { TruncationDirection::Left } else { TruncationDirection::Right };
        Ok(Self {
            special: probe.len(),
            longest,
            direction,
            may_be_empty: is_static,
            label: files.label(),
            around: around(&tokenizer).map_err(wrong)?,
            tokenizer,
            cuts: OnceLock::new(),
            words: OnceLock::new(),
            piece: PIECE,
            whole: Mutex::new(()),
            #[cfg(test)]
            read: AtomicUsize::new(0),
        })
    }

    /// The same tokenizer with other parts.
    #[cfg(test)]
    pub(super) fn with(mut self, json: &str) -> Self {
        self.tokenizer = json.parse().expect("a tokenizer");
        (self.cuts, self.words) = (OnceLock::new(), OnceLock::new());
        self.around = around(&self.tokenizer).expect("a frame");
        self.special = self.tokenizer.encode_fast("", true).expect("no text").len();
        self
    }

    /// The library's own.
    #[cfg(test)]
    pub(super) fn library(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens of `prompt + text`, cut to `max_tokens`, special tokens counted and kept.
    pub(crate) fn tokenize(
        &self,
        prompt: &str,
        text: &str,
        max_tokens: usize,
        allowance: &Allowance<'_>,
    ) -> Result<Tokens> {
        let mut ids = if self.is_long(text) {
            self.read_until(prompt, text, max_tokens.saturating_sub(self.special), allowance)?
        } else {
            self.encode(prompt, text, false)?.ids
        };
        let full_length = ids.len() + self.special;
        let most = max_tokens.min(self.longest).saturating_sub(self.special);
        match self.direction {
            TruncationDirection::Left => drop(ids.drain(..ids.len().saturating_sub(most))),
            TruncationDirection::Right => ids.truncate(most),
        }
        let (before, after) = &self.around;
        let ids = [before.as_slice(), &ids, after].concat();
        if ids.is_empty() && !self.may_be_empty {
            let start: String = text.chars().take(40).collect();
            return Err(Error::Text(format!(
                "{}: text {start:?} has no tokens, and the tokenizer adds none of its own; leave such rows out, or make \
                 them NULL with NULLIF",
                self.label
            )));
        }
        Ok(Tokens { ids, full_length })
    }

    /// Number of tokens that a prompt puts before every text, those included that the tokenizer puts first; not the special
    /// token that ends a text.
    pub(crate) fn prompt_tokens(&self, prompt: &str, max_tokens: usize) -> Result<usize> {
        let ids = self.tokenize(prompt, "", max_tokens, &Allowance::FREE)?.ids;
        let special = |id: &u32| self.tokenizer.get_added_tokens_decoder().get(id).is_some_and(|token| token.special);
        Ok(ids.len() - usize::from(ids.last().is_some_and(special)))
    }

    /// Number of tokens of `prompt + text` before truncation, special tokens counted.
    pub(crate) fn count(&self, prompt: &str, text: &str, allowance: &Allowance<'_>) -> Result<usize> {
        if !self.is_long(text) {
            return Ok(self.encode(prompt, text, false)?.ids.len() + self.special);
        }
        let (mut count, mut start) = (self.special, 0);
        while start < text.len() {
            let end = self.cuts().at_or_after(text, start + self.piece, allowance)?;
            count += self.read(prompt, text, start..end, allowance)?.len();
            start = end;
        }
        Ok(count)
    }

    fn is_long(&self, text: &str) -> bool {
        text.len() > 2 * self.piece
    }

    fn cuts(&self) -> &Cuts {
        self.cuts.get_or_init(|| Cuts::of(&self.tokenizer))
    }

    /// Tokens of a long text without the special ones: all of them, or more than `enough` from the end that is kept.
    fn read_until(&self, prompt: &str, text: &str, enough: usize, allowance: &Allowance<'_>) -> Result<Vec<u32>> {
        let (mut left, mut right, mut count, mut parts) = (0, text.len(), 0, Vec::new());
        while left < right && count <= enough {
            let part = if self.direction == TruncationDirection::Left {
                let start = self.cuts().at_or_before(text, right.saturating_sub(self.piece), allowance)?;
                start..std::mem::replace(&mut right, start)
            } else {
                let end = self.cuts().at_or_after(text, left + self.piece, allowance)?;
                std::mem::replace(&mut left, end)..end
            };
            parts.push(self.read(prompt, text, part, allowance)?);
            count += parts.last().map_or(0, Vec::len);
        }
        if self.direction == TruncationDirection::Left {
            parts.reverse();
        }
        Ok(parts.concat())
    }

    /// Where each token of a text ends, in bytes, special tokens left out: none before one that comes before it.
    pub(super) fn ends(&self, text: &str, allowance: &Allowance<'_>) -> Result<Vec<usize>> {
        let (mut ends, mut start, mut last) = (Vec::new(), 0, 0);
        while start < text.len() {
            let end = match self.is_long(text) {
                true => self.cuts().at_or_after(text, start + self.piece, allowance)?,
                false => text.len(),
            };
            let Read { encoded, known, short, start: first } =
                self.read_piece("", text, start..end, true, allowance)?;
            for &token_end in encoded.ends.get(known..).unwrap_or_default() {
                last = (first + short.end_in_text(token_end)).clamp(last, end);
                ends.push(last);
            }
            start = end;
        }
        Ok(ends)
    }

    /// Tokens of a piece of `prompt + text`. It begins and ends where the text can be cut.
    fn read(&self, prompt: &str, text: &str, piece: Range<usize>, allowance: &Allowance<'_>) -> Result<Vec<u32>> {
        let Read { encoded, known, .. } = self.read_piece(prompt, text, piece, false, allowance)?;
        Ok(encoded.ids.get(known..).unwrap_or_default().to_vec())
    }

    /// The same with what was read for it.
    fn read_piece<'t>(
        &self,
        prompt: &str,
        text: &'t str,
        piece: Range<usize>,
        has_offsets: bool,
        allowance: &Allowance<'_>,
    ) -> Result<Read<'t>> {
        allowance.check()?;
        // A text's beginning is special: a piece that is not one begins with the character before it, see `pieces.rs`.
        let before = text[..piece.start].chars().next_back().map_or(0, char::len_utf8);
        let start = piece.start - before;
        let known = if before == 0 { 0 } else { self.encode("", &text[start..piece.start], false)?.ids.len() };
        let prompt = if before == 0 { prompt } else { "" };
        let mut short = Short::whole(&text[start..piece.end]);
        let mut alone = None;
        if self.is_long(&short.text) {
            short = self.cuts().shortened(&text[start..piece.end]);
        }
        if self.is_long(&short.text) {
            self.afford(text, short.text.len(), allowance)?;
            alone = Some(self.whole.lock());
            allowance.check()?;
        }
        let encoded = self.encode(prompt, &short.text, has_offsets)?;
        drop(alone);
        Ok(Read { encoded, known, short, start })
    }

    /// Whether there is memory for what has to be read as a whole.
    fn afford(&self, text: &str, bytes: usize, allowance: &Allowance<'_>) -> Result<()> {
        let needed = bytes.saturating_mul(MEMORY_PER_BYTE);
        if needed <= allowance.memory {
            return Ok(());
        }
        let start: String = text.chars().take(40).collect();
        let message = format!(
            "{}: text of {} bytes has {bytes} bytes in a row that its tokenizer can only read as a whole, which takes about \
             {needed} bytes of memory, more than embed.memory ({}); it begins {start:?} (SET embed.memory = '{}M', or shorten \
             such texts, for example with left(text, 10000))",
            self.label,
            text.len(),
            allowance.memory,
            needed.div_ceil(1 << 20),
        );
        Err(Error::Limit { setting: "embed.memory", got: needed, limit: allowance.memory, message })
    }

    /// Tokens without the special ones, and where each of them ends, if that is asked for.
    fn encode(&self, prompt: &str, text: &str, has_ends: bool) -> Result<Encoded> {
        let joined;
        let input = if prompt.is_empty() {
            text
        } else {
            joined = format!("{prompt}{text}");
            &joined
        };
        #[cfg(test)]
        self.read.fetch_add(input.len(), Ordering::Relaxed);
        let failed = |error: tokenizers::Error| Error::Text(format!("{}: tokenizer: {error}", self.label));
        if has_ends {
            let encoding = self.tokenizer.encode(input, false).map_err(failed)?;
            let ends = encoding.get_offsets().iter().map(|&(_, end)| end).collect();
            return Ok(Encoded { ids: encoding.get_ids().to_vec(), ends });
        }
        let library = |text: &str| Ok(self.tokenizer.encode_fast(text, false).map_err(failed)?.get_ids().to_vec());
        let words = self.words.get_or_init(|| {
            let is_of_words = matches!(self.tokenizer.get_model(), ModelWrapper::WordPiece(_));
            is_of_words.then(|| Words::of(&self.tokenizer, self.cuts())).flatten()
        });
        let ids = words.as_ref().map_or_else(|| library(input), |words| words.tokens(input, library))?;
        Ok(Encoded { ids, ends: Vec::new() })
    }
}

/// Tokens of a text or a piece of one.
struct Encoded {
    ids: Vec<u32>,
    /// Where each of them ends, in bytes, if that was asked for.
    ends: Vec<usize>,
}

/// What a tokenizer puts before and behind the tokens of any text.
fn around(tokenizer: &Tokenizer) -> std::result::Result<(Vec<u32>, Vec<u32>), String> {
    let framed = |ids: &[u32]| {
        let encoding = ids.iter().map(|&id| (id, String::new(), (0, 0), None, 0)).collect();
        let framed = tokenizer.post_process(encoding, None, true).map_err(|error| error.to_string())?;
        Ok::<_, String>(framed.get_ids().to_vec())
    };
    // No vocabulary has so many.
    let text = [u32::MAX - 1, u32::MAX];
    let (whole, empty) = (framed(&text)?, framed(&[])?);
    let place = whole.windows(2).position(|tokens| tokens == text);
    let parts = place.map(|place| (whole[..place].to_vec(), whole[place + 2..].to_vec()));
    parts
        .filter(|(before, after)| [before.as_slice(), after].concat() == empty)
        .ok_or_else(|| "post_processor: it does more with a text than to put tokens around it".to_owned())
}

/// What the tokenizer made of a piece of a text.
struct Read<'t> {
    encoded: Encoded,
    /// Tokens at its beginning that are those of the character before the piece.
    known: usize,
    /// What it read, and where in the text that begins.
    short: Short<'t>,
    start: usize,
}

/// The error for a model without `tokenizer.json`: older ones have their words elsewhere, from where it can be made.
fn without_file(files: Files<'_>, folder: &str, path: &str) -> Result<Error> {
    for older in ["vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model"] {
        if files.has(&format!("{folder}{older}"))? {
            return Ok(Error::Model(format!(
                "{}: {path} not found, and {folder}{older} is a tokenizer in an older form; make a directory with both by \
                 transformers' AutoTokenizer.from_pretrained(...).save_pretrained(DIRECTORY), and give that directory with the \
                 model's other files",
                files.label()
            )));
        }
    }
    Ok(files.missing(path))
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

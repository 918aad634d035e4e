//! Where a long text can be cut before it is tokenised.
//!
//! A tokenizer takes some 200 bytes for each byte of a text, and most of a long text is cut away afterwards. So a long text is
//! read in pieces, and a piece may end only where that changes no token: where no token, merge, normalisation or added token
//! of this very tokenizer can reach across. What a tokenizer does there is known for the parts listed here; of parts that are
//! not, a text is taken whole.
//!
//! A place is good if for every text that has these few characters there, `tokens(left + right)` is `tokens(left)` followed
//! by what `right` gives in the middle of a text. A text's beginning is special (a blank is put before it, or taken away), so
//! each piece but the first is read with the character before it, whose own tokens are dropped: that character alone is a
//! `left` too.

use std::borrow::Cow;
use std::collections::HashSet;

use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    ModelWrapper, NormalizedString, Normalizer as _, NormalizerWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior as Behavior, Tokenizer,
};

use crate::error::{Error, Result};

/// Places that are looked at between two questions whether to go on.
const LOOKS: usize = 1 << 16;

/// Letters that are no marks, begin and end a grapheme beside others of these and beside ASCII, and are stable under NFC:
/// `\p{L}` of the scripts that most texts are written in.
const LETTERS: [(char, char); 32] = [
    ('\u{c0}', '\u{d6}'),
    ('\u{d8}', '\u{f6}'),
    ('\u{f8}', '\u{24f}'),
    ('\u{388}', '\u{38a}'),
    ('\u{38e}', '\u{3a1}'),
    ('\u{3a3}', '\u{3f5}'),
    ('\u{3f7}', '\u{3ff}'),
    ('\u{400}', '\u{481}'),
    ('\u{48a}', '\u{52f}'),
    ('\u{531}', '\u{556}'),
    ('\u{561}', '\u{587}'),
    ('\u{5d0}', '\u{5ea}'),
    ('\u{620}', '\u{64a}'),
    ('\u{671}', '\u{6d3}'),
    ('\u{904}', '\u{939}'),
    ('\u{995}', '\u{9a8}'),
    ('\u{a95}', '\u{aa8}'),
    ('\u{b95}', '\u{b95}'),
    ('\u{bae}', '\u{bb9}'),
    ('\u{c2a}', '\u{c39}'),
    ('\u{caa}', '\u{cb3}'),
    ('\u{d15}', '\u{d39}'),
    ('\u{e01}', '\u{e30}'),
    ('\u{10d0}', '\u{10f0}'),
    ('\u{1200}', '\u{1248}'),
    ('\u{1e00}', '\u{1eff}'),
    ('\u{3041}', '\u{3096}'),
    ('\u{30a1}', '\u{30fa}'),
    ('\u{3105}', '\u{312f}'),
    ('\u{3400}', '\u{4dbf}'),
    ('\u{4e00}', '\u{9fff}'),
    ('\u{ac00}', '\u{d7a3}'),
];

/// Alternatives of the patterns that byte-level tokenizers split with. In a match of any of these no blank, no line end and
/// no ASCII punctuation but the apostrophe follows a letter or a digit, no blank follows anything but white space, and
/// what it looks ahead to is the character after white space.
const KNOWN_ALTERNATIVES: [&str; 25] = [
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    "(?i:'s|'t|'re|'ve|'m|'d|'ll)",
    "'(?i:[sdmt]|ll|ve|re)",
    r" ?\p{L}+",
    r" ?\p{N}+",
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",
    r"\p{N}",
    r"\p{N}+",
    r"\p{N}{1,3}",
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
    r"\s+(?!\S)",
    r"\s+",
];

/// What tokenising a text may cost, and whether it is still wanted.
pub(crate) struct Allowance<'a> {
    /// Most bytes for what has to be read as a whole.
    pub(crate) memory: usize,
    /// Asked between pieces; when it says no the result is [`Error::Cancelled`].
    pub(crate) go_on: &'a dyn Fn() -> bool,
}

impl Allowance<'static> {
    /// For texts that are known.
    pub(crate) const FREE: Self = Self { memory: usize::MAX, go_on: &|| true };
}

impl Allowance<'_> {
    pub(super) fn check(&self) -> Result<()> {
        if (self.go_on)() { Ok(()) } else { Err(Error::Cancelled) }
    }
}

/// Where the texts of one tokenizer can be cut.
#[derive(Debug)]
pub(super) struct Cuts {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    added: Added,
    /// Whether this is BERT's normalizer and pre-tokenizer, of which more is known.
    bert: Option<Ideographs>,
    /// Where no step parts a text and its merges alone decide.
    merges: Option<Merges>,
    /// What is left of a word that is unknown because of its length, if that is known.
    longest_word: Option<Shortened>,
}

/// What is left of a long run of letters and digits that is one unknown word.
#[derive(Debug, Clone, Copy)]
struct Shortened {
    /// Bytes in all, which make the word too long still, whatever added tokens take of it.
    kept: usize,
    /// Those at its end.
    tail: usize,
}

/// A text without what changes none of its tokens.
pub(super) struct Short<'t> {
    pub(super) text: Cow<'t, str>,
    /// Where something was left out, and where the text goes on after it.
    gaps: Vec<(usize, usize)>,
}

impl<'t> Short<'t> {
    pub(super) fn whole(text: &'t str) -> Self {
        Self { text: Cow::Borrowed(text), gaps: Vec::new() }
    }

    /// Where in the text something ends that ends here.
    pub(super) fn end_in_text(&self, end: usize) -> usize {
        match self.gaps.partition_point(|&(gap, _)| gap < end) {
            0 => end,
            number => {
                let (gap, text) = self.gaps[number - 1];
                text + end - gap
            }
        }
    }
}

/// Whether BERT's normalizer puts blanks around ideographs.
type Ideographs = bool;

/// What has to be known of the added tokens, which are found in the text before anything else.
#[derive(Debug, Default)]
struct Added {
    /// Characters beside each other within one, as they stand in the text or in the normalized text.
    inner: HashSet<(char, char)>,
    /// Characters that come last: what follows an added token begins like a text.
    last: HashSet<char>,
    /// Characters that come first.
    first: HashSet<char>,
    /// Characters that stand in one elsewhere than last, or than first.
    not_last: HashSet<char>,
    not_first: HashSet<char>,
    /// Whether any asks what stands beside it, or has a blank.
    by_neighbours: bool,
    /// Whether any is found within a word.
    word: bool,
    /// Bytes of the longest.
    longest: usize,
}

/// The tokens of a model that works on what is not parted before it.
#[derive(Debug)]
struct Merges {
    /// Tokens of one character.
    single: HashSet<char>,
    /// Characters beside each other in a token.
    inner: HashSet<(char, char)>,
}

/// What one step of a pre-tokenizer does between two characters.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    /// It always parts them.
    Parts,
    /// What it does on one side does not depend on the other.
    Ignores,
    /// That is not known.
    Unknown,
}

impl Cuts {
    /// Looks at the parts of a tokenizer.
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let normalizer = tokenizer.get_normalizer().cloned();
        let pre_tokenizer = tokenizer.get_pre_tokenizer().cloned();
        let added = Added::of(tokenizer, normalizer.as_ref());
        let bert = match &pre_tokenizer {
            Some(PreTokenizerWrapper::BertPreTokenizer(_)) if !added.by_neighbours => ideographs(normalizer.as_ref()),
            _ => None,
        };
        let words = pre_tokenizer.as_ref().map(|step| pre_tokenize(step, &mut 'a', &mut ' '));
        let merges = if words == Some(Step::Parts) { None } else { Merges::of(tokenizer.get_model()) };
        let longest_word = match tokenizer.get_model() {
            ModelWrapper::WordPiece(model) if bert.is_some() && !added.word => {
                let (most, tail) = (model.max_input_chars_per_word, added.longest);
                Some(Shortened { kept: most + 2 * tail + 1, tail })
            }
            _ => None,
        };
        Self { normalizer, pre_tokenizer, added, bert, merges, longest_word }
    }

    /// Whether the tokens of a text are those of its parts between blanks (see [`is_blank`]).
    pub(super) fn parts_at_blanks(&self) -> bool {
        self.bert.is_some()
    }

    /// What the normalizer makes of a character of ASCII alone, and where texts are parted at blanks also among others of ASCII.
    pub(super) fn image_of_ascii(&self, byte: u8) -> Option<String> {
        normalized(self.normalizer.as_ref()?, char::from(byte).encode_utf8(&mut [0; 4]))
    }

    /// Whether an added token may begin with a character of ASCII, as it stands in the text.
    pub(super) fn may_begin_added(&self, byte: u8) -> bool {
        let same = |first: &char| first.eq_ignore_ascii_case(&char::from(byte));
        self.added.first.iter().any(same)
    }

    /// The same tokens with less to read: BERT's blanks only part words, and WordPiece makes one unknown token of a word beyond
    /// its limit, however long, where no run of ASCII letters and digits is parted.
    pub(super) fn shortened<'t>(&self, text: &'t str) -> Short<'t> {
        if self.bert.is_none() {
            return Short::whole(text);
        }
        let (mut short, mut gaps, mut copied, mut at) = (String::new(), Vec::new(), 0, 0);
        while at < text.len() {
            let rest = &text.as_bytes()[at..];
            let blanks = rest.iter().take_while(|&&byte| is_blank(char::from(byte))).count();
            let word = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            let left_out = match self.longest_word {
                Some(Shortened { kept, tail }) if word > kept => kept - tail..word - tail,
                _ => 1..blanks,
            };
            if !left_out.is_empty() {
                short.push_str(&text[copied..at + left_out.start]);
                copied = at + left_out.end;
                gaps.push((short.len(), copied));
            }
            at += blanks.max(word).max(1);
        }
        short.push_str(&text[copied..]);
        Short { text: Cow::Owned(short), gaps }
    }

    /// The first good place at `from` or behind it, or the end of the text.
    pub(super) fn at_or_after(&self, text: &str, from: usize, allowance: &Allowance<'_>) -> Result<usize> {
        let place = self.find(text, from.max(1)..text.len(), allowance)?.unwrap_or(text.len());
        // A run of blanks stays together, because it is shortened.
        let run = text.as_bytes()[place..].iter().take_while(|&&byte| is_blank(char::from(byte))).count();
        Ok(if self.bert.is_some() { place + run.saturating_sub(1) } else { place })
    }

    /// The last good place at `to` or before it, or the beginning of the text.
    pub(super) fn at_or_before(&self, text: &str, to: usize, allowance: &Allowance<'_>) -> Result<usize> {
        let places = (1..text.len().min(to + 1)).rev();
        let place = self.find(text, places, allowance)?.unwrap_or(0);
        let (left, right) = text.as_bytes().split_at(place);
        let in_run = self.bert.is_some() && right.first().is_some_and(|&byte| is_blank(char::from(byte)));
        let run = left.iter().skip(1).rev().take_while(|&&byte| in_run && is_blank(char::from(byte))).count();
        Ok(place - run)
    }

    fn find(
        &self,
        text: &str,
        places: impl Iterator<Item = usize>,
        allowance: &Allowance<'_>,
    ) -> Result<Option<usize>> {
        for (looks, place) in places.enumerate() {
            if looks % LOOKS == LOOKS - 1 {
                allowance.check()?;
            }
            let in_word = text.as_bytes()[place - 1..=place].iter().all(u8::is_ascii_alphanumeric);
            if !in_word && text.is_char_boundary(place) && self.is_good(text, place) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Whether the text can be cut at a place within it.
    fn is_good(&self, text: &str, place: usize) -> bool {
        let (left, right) = text.split_at(place);
        let (mut left, mut right) = (left.chars().rev(), right.chars());
        let (Some(a), Some(b)) = (left.next(), right.next()) else {
            return false;
        };
        if self.bert.is_some_and(|ideographs| self.bert_parts(ideographs, a, b)) {
            return true;
        }
        // What stands on the other side of a and b can then not be joined with them.
        let (Some(before), Some(after)) = (left.next(), right.next()) else {
            return false;
        };
        b.is_ascii()
            && !b.is_ascii_alphanumeric()
            && is_plain(a)
            && is_plain(after)
            && (before == ' ' || is_plain(before))
            && self.parts(a, b, after)
    }

    /// Whether BERT's normalizer and pre-tokenizer part two characters whatever stands around them. They look at each
    /// character alone, but for the order of combining marks, and no mark moves across a letter or ASCII.
    fn bert_parts(&self, ideographs: Ideographs, a: char, b: char) -> bool {
        let alone = |c: char| is_blank(c) || c.is_ascii_punctuation() || ideographs && is_ideograph(c);
        alone(b) && !self.added.not_first.contains(&b)
            || alone(a) && !self.added.not_last.contains(&a) && (is_plain(b) || is_blank(b))
    }

    /// Whether normalizer, added tokens, pre-tokenizer and model part `a` and `b`, with `after` behind them.
    fn parts(&self, a: char, b: char, after: char) -> bool {
        let image = |c: char| self.normalizer.as_ref().map_or(Some(c), |normalizer| image(normalizer, c));
        let (Some(mut x), Some(mut y), Some(_)) = (image(a), image(b), image(after)) else {
            return false;
        };
        if self.added.reaches(a, b) || self.added.reaches(x, y) {
            return false;
        }
        match self.pre_tokenizer.as_ref().map_or(Step::Ignores, |step| pre_tokenize(step, &mut x, &mut y)) {
            Step::Parts => true,
            Step::Ignores => self.merges.as_ref().is_some_and(|merges| merges.part(x, y)),
            Step::Unknown => false,
        }
    }
}

impl Added {
    fn of(tokenizer: &Tokenizer, normalizer: Option<&NormalizerWrapper>) -> Self {
        let mut added = Self::default();
        for token in tokenizer.get_added_tokens_decoder().values() {
            added.by_neighbours |= token.single_word;
            added.insert(&token.content);
            if let Some(normalized) = normalizer.and_then(|normalizer| normalized(normalizer, &token.content)) {
                added.insert(&normalized);
            }
        }
        added
    }

    fn insert(&mut self, token: &str) {
        self.by_neighbours |= token.contains(char::is_whitespace);
        self.word |= token.bytes().all(|byte| byte.is_ascii_alphanumeric());
        self.longest = self.longest.max(token.len());
        self.inner.extend(pairs(token));
        self.first.extend(token.chars().next());
        self.last.extend(token.chars().next_back());
        self.not_last.extend(token.chars().rev().skip(1));
        self.not_first.extend(token.chars().skip(1));
    }

    /// Whether a token may reach from `a` to `b`, or end between them.
    fn reaches(&self, a: char, b: char) -> bool {
        self.last.contains(&a) || self.inner.contains(&(a, b))
    }
}

impl Merges {
    /// The tokens of a model whose merges depend on nothing but what they join.
    fn of(model: &ModelWrapper) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = model else {
            return None;
        };
        let affixes = [&bpe.continuing_subword_prefix, &bpe.end_of_word_suffix];
        if bpe.ignore_merges
            || bpe.dropout.is_some_and(|dropout| dropout > 0.0)
            || affixes.into_iter().flatten().any(|affix| !affix.is_empty())
        {
            return None;
        }
        let mut merges = Self { single: HashSet::new(), inner: HashSet::new() };
        for token in bpe.get_vocab().keys() {
            let mut characters = token.chars();
            if let (Some(single), None) = (characters.next(), characters.next()) {
                merges.single.insert(single);
            }
            merges.inner.extend(pairs(token));
        }
        Some(merges)
    }

    /// Whether nothing is merged across. What a merge makes is a token: where none has the two beside each other, the merges
    /// are those of both sides. Both must be tokens, because what is unknown is fused with its neighbours.
    fn part(&self, a: char, b: char) -> bool {
        self.single.contains(&a) && self.single.contains(&b) && !self.inner.contains(&(a, b))
    }
}

/// Characters beside each other.
fn pairs(text: &str) -> impl Iterator<Item = (char, char)> {
    text.chars().zip(text.chars().skip(1))
}

/// Whether a character is a letter of those that are known here, or visible ASCII.
fn is_plain(c: char) -> bool {
    c.is_ascii_graphic() || is_letter(c)
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || LETTERS.iter().any(|&(first, last)| (first..=last).contains(&c))
}

/// What texts of BERT's kind are parted at, whatever stands around it.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Ideographs that BERT sets apart, but for those that other characters stand for.
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{20000}'..='\u{2a6df}')
}

/// Whether ideographs are set apart, if this is BERT's normalizer, alone or after others that look at one character.
fn ideographs(normalizer: Option<&NormalizerWrapper>) -> Option<Ideographs> {
    match normalizer? {
        NormalizerWrapper::BertNormalizer(bert) => Some(bert.handle_chinese_chars),
        NormalizerWrapper::Sequence(steps) => match steps.as_ref() {
            [NormalizerWrapper::Lowercase(_), step] => ideographs(Some(step)),
            _ => None,
        },
        _ => None,
    }
}

fn normalized(normalizer: &NormalizerWrapper, text: &str) -> Option<String> {
    let mut text = NormalizedString::from(text);
    normalizer.normalize(&mut text).ok()?;
    Some(text.get().to_owned())
}

/// What a normalizer makes of a character that it cannot join with the neighbours that `Cuts::is_good` asks for: one
/// character, and no blank of what was none.
fn image(normalizer: &NormalizerWrapper, c: char) -> Option<char> {
    let one = match normalizer {
        NormalizerWrapper::Sequence(steps) => steps.as_ref().iter().try_fold(c, |c, step| image(step, c))?,
        // They change the ends of a text, which are elsewhere.
        NormalizerWrapper::StripNormalizer(_) | NormalizerWrapper::Prepend(_) => c,
        NormalizerWrapper::Replace(replace) => replaced(replace, c)?,
        NormalizerWrapper::BertNormalizer(_)
        | NormalizerWrapper::StripAccents(_)
        | NormalizerWrapper::NFC(_)
        | NormalizerWrapper::NFD(_)
        | NormalizerWrapper::NFKC(_)
        | NormalizerWrapper::NFKD(_)
        | NormalizerWrapper::Lowercase(_)
        | NormalizerWrapper::Nmt(_)
        | NormalizerWrapper::Precompiled(_)
        | NormalizerWrapper::ByteLevel(_) => only(&normalized(normalizer, c.encode_utf8(&mut [0; 4]))?)?,
    };
    (c.is_whitespace() || !one.is_whitespace()).then_some(one)
}

/// The one character of a text.
fn only(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

/// What becomes of a character where its pattern is a text, or blanks in a row.
fn replaced(replace: &Replace, c: char) -> Option<char> {
    let value = serde_json::to_value(replace).ok()?;
    let pattern = value.get("pattern")?;
    if let Some(text) = pattern.get("String").and_then(serde_json::Value::as_str) {
        return match only(text) {
            Some(one) if one == c => only(&replace.content),
            Some(_) => Some(c),
            None => (!text.contains(c)).then_some(c),
        };
    }
    // Beside the place stands no second blank.
    (pattern.get("Regex")?.as_str()? == " {2,}").then_some(c)
}

/// What a pre-tokenizer does between two characters, and what it makes of them.
fn pre_tokenize(step: &PreTokenizerWrapper, a: &mut char, b: &mut char) -> Step {
    let (x, y) = (*a, *b);
    let parts_if = |parts: bool| if parts { Step::Parts } else { Step::Ignores };
    match step {
        PreTokenizerWrapper::Sequence(steps) => {
            let steps = steps.as_ref().iter().map(|step| pre_tokenize(step, a, b));
            steps.into_iter().find(|step| *step != Step::Ignores).unwrap_or(Step::Ignores)
        }
        PreTokenizerWrapper::BertPreTokenizer(_) => {
            parts_if(y.is_whitespace() || [x, y].iter().any(char::is_ascii_punctuation))
        }
        PreTokenizerWrapper::WhitespaceSplit(_) => parts_if(y.is_whitespace()),
        PreTokenizerWrapper::Whitespace(_) if y.is_whitespace() => Step::Parts,
        PreTokenizerWrapper::Delimiter(split) => parts_if(x == split.delimiter || y == split.delimiter),
        PreTokenizerWrapper::Digits(_) => parts_if(x.is_numeric() != y.is_numeric()),
        PreTokenizerWrapper::Punctuation(punctuation) => match punctuation.behavior {
            Behavior::Isolated | Behavior::Removed => parts_if([x, y].iter().any(char::is_ascii_punctuation)),
            _ if [x, y].iter().all(|&c| is_letter(c) || matches!(c, ' ' | '\u{2581}')) => Step::Ignores,
            _ => Step::Unknown,
        },
        PreTokenizerWrapper::Metaspace(metaspace) => {
            let replacement = metaspace.get_replacement();
            *b = if y == ' ' { replacement } else { y };
            parts_if(metaspace.get_split() && *b == replacement)
        }
        PreTokenizerWrapper::ByteLevel(level) => {
            (*a, *b) = (byte_character(x, usize::MAX), byte_character(y, 0));
            if level.use_regex { words_end(x, y) } else { Step::Ignores }
        }
        PreTokenizerWrapper::Split(split) => split_between(split, x, y),
        PreTokenizerWrapper::Whitespace(_)
        | PreTokenizerWrapper::UnicodeScripts(_)
        | PreTokenizerWrapper::FixedLength(_) => Step::Unknown,
    }
}

/// What a `Split` does between two characters.
fn split_between(split: &Split, a: char, b: char) -> Step {
    match &split.pattern {
        _ if split.invert => Step::Unknown,
        SplitPattern::String(text) if !text.contains([a, b]) => Step::Ignores,
        SplitPattern::String(text) => match split.behavior {
            Behavior::Isolated | Behavior::Removed | Behavior::MergedWithNext if a != b && only(text) == Some(b) => {
                Step::Parts
            }
            _ => Step::Unknown,
        },
        SplitPattern::Regex(pattern) => {
            let known = alternatives(pattern).iter().all(|part| KNOWN_ALTERNATIVES.contains(part));
            if known && split.behavior == Behavior::Isolated { words_end(a, b) } else { Step::Unknown }
        }
    }
}

/// Whether patterns of [`KNOWN_ALTERNATIVES`] part two characters: each character is in a match, and none has both.
fn words_end(a: char, b: char) -> Step {
    let after_word = (is_letter(a) || a.is_ascii_digit()) && (b == '\n' || b.is_ascii_punctuation() && b != '\'');
    if after_word || b == ' ' && !a.is_whitespace() { Step::Parts } else { Step::Unknown }
}

/// The alternatives of a pattern.
fn alternatives(pattern: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut escaped) = (Vec::new(), 0, 0, false);
    for (at, byte) in pattern.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'|' if depth == 0 => {
                parts.push(&pattern[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&pattern[start..]);
    parts
}

/// The character that stands for a byte of a character where bytes are tokens: the first, or the last for a large `index`.
fn byte_character(c: char, index: usize) -> char {
    let mut bytes = [0; 4];
    let bytes = c.encode_utf8(&mut bytes).as_bytes();
    let byte = bytes[index.min(bytes.len() - 1)];
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let others = (0..byte).filter(|&byte| !visible(byte)).count() as u32;
    char::from_u32(256 + others).unwrap_or(c)
}

#[cfg(test)]
pub(super) mod tests;

//! Text -> tokens where a tokenizer's rule is that of BERT: words between blanks and signs, and of each word the longest part that the
//! vocabulary has, again and again.
//!
//! The library keeps track of where every character of a text came from, through every step; here only the tokens count. So what stands
//! between two blanks, if it is ASCII, is looked up at once, and anything else is left to the library: BERT's steps look across no
//! blank (see `pieces/mod.rs`), so that the tokens of a text are those of its parts. It is also the twin that tests compare with.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use tokenizers::{Model as _, ModelWrapper, Tokenizer};

use super::pieces::{Cuts, is_blank};

/// The words of one tokenizer.
#[derive(Debug)]
pub(super) struct Words {
    kinds: [Kind; 128],
    /// Tokens that begin a word, and those that go on with one.
    first: Vocabulary,
    rest: Vocabulary,
    /// The token of a word that has none, and bytes of the longest that may have some.
    unknown: u32,
    longest: usize,
}

/// What a tokenizer makes of a character of ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A part of a word, as this.
    Letter(u8),
    /// A word of its own.
    Sign(u8),
    /// An end of a word.
    Blank,
    /// Nothing: the word goes on.
    Gone,
    /// What only the library knows, such as what an added token may begin with.
    Other,
}

impl Words {
    /// `None` where the tokenizer is of another kind.
    pub(super) fn of(tokenizer: &Tokenizer, cuts: &Cuts) -> Option<Self> {
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else { return None };
        if !cuts.parts_at_blanks() {
            return None;
        }
        let kinds = std::array::from_fn(|byte| match (byte as u8, cuts.image_of_ascii(byte as u8)) {
            (byte, _) if cuts.may_begin_added(byte) => Kind::Other,
            (_, None) => Kind::Other,
            (_, Some(image)) => match *image.as_bytes() {
                [] => Kind::Gone,
                [one] if char::from(one).is_whitespace() => Kind::Blank,
                [one] if one.is_ascii_punctuation() => Kind::Sign(one),
                [one] if one.is_ascii() => Kind::Letter(one),
                _ => Kind::Other,
            },
        });
        let unknown = model.token_to_id(&model.unk_token)?;
        let (mut first, mut rest) = (Vocabulary::default(), Vocabulary::default());
        for (token, id) in model.get_vocab().into_iter().filter(|(token, _)| token.is_ascii()) {
            if let Some(token) = token.strip_prefix(&model.continuing_subword_prefix) {
                rest.insert(token.as_bytes().into(), id);
            }
            first.insert(token.into_bytes().into(), id);
        }
        Some(Self { kinds, first, rest, unknown, longest: model.max_input_chars_per_word })
    }

    /// Tokens of a text, without the special ones around it; `library` gives those of a part.
    pub(super) fn tokens<E>(
        &self,
        text: &str,
        mut library: impl FnMut(&str) -> Result<Vec<u32>, E>,
    ) -> Result<Vec<u32>, E> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let (mut word, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let end = end_of_part(text, at);
            if self.is_known(&text.as_bytes()[at..end]) {
                self.part(&text.as_bytes()[at..end], &mut word, &mut ids);
                at = end + 1;
                continue;
            }
            // What follows and is not known either goes along.
            let mut known_from = end;
            while known_from < text.len() {
                let next = end_of_part(text, known_from + 1);
                if self.is_known(&text.as_bytes()[known_from + 1..next]) {
                    break;
                }
                known_from = next;
            }
            ids.extend(library(&text[at..known_from])?);
            at = known_from + 1;
        }
        Ok(ids)
    }

    fn is_known(&self, part: &[u8]) -> bool {
        part.iter().all(|&byte| self.kinds.get(usize::from(byte)).is_some_and(|kind| *kind != Kind::Other))
    }

    /// Tokens of what stands between two blanks. `word` is room for one.
    fn part(&self, part: &[u8], word: &mut Vec<u8>, ids: &mut Vec<u32>) {
        word.clear();
        for &byte in part {
            match self.kinds[usize::from(byte)] {
                Kind::Letter(letter) => word.push(letter),
                Kind::Gone | Kind::Other => {}
                Kind::Blank => {
                    self.word(word, ids);
                    word.clear();
                }
                Kind::Sign(sign) => {
                    self.word(word, ids);
                    self.word(&[sign], ids);
                    word.clear();
                }
            }
        }
        self.word(word, ids);
    }

    fn word(&self, word: &[u8], ids: &mut Vec<u32>) {
        let before = ids.len();
        let (mut left, mut vocabulary) = (word, &self.first);
        while !left.is_empty() {
            let found = if word.len() > self.longest { None } else { vocabulary.longest_of(left) };
            let Some((id, length)) = found else {
                ids.truncate(before);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            (left, vocabulary) = (&left[length..], &self.rest);
        }
    }
}

/// Where the next blank is, or the end of the text.
fn end_of_part(text: &str, from: usize) -> usize {
    let is_blank = |byte: &u8| is_blank(char::from(*byte));
    text.as_bytes()[from..].iter().position(is_blank).map_or(text.len(), |length| from + length)
}

/// Tokens of ASCII.
#[derive(Debug, Default)]
struct Vocabulary {
    ids: HashMap<Box<[u8]>, u32, FxBuildHasher>,
    /// Bytes of the longest.
    longest: usize,
}

impl Vocabulary {
    fn insert(&mut self, token: Box<[u8]>, id: u32) {
        self.longest = self.longest.max(token.len());
        self.ids.insert(token, id);
    }

    /// The longest that a text begins with, and its bytes.
    fn longest_of(&self, text: &[u8]) -> Option<(u32, usize)> {
        let lengths = (1..=text.len().min(self.longest)).rev();
        lengths.into_iter().find_map(|length| Some((*self.ids.get(&text[..length])?, length)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::model::pieces::tests::{fragment, kinds};

    /// Tokens by this file, and how many bytes it left to the library.
    fn tokens(tokenizer: &Tokenizer, words: &Words, text: &str) -> (Vec<u32>, usize) {
        let mut left = 0;
        let library = |part: &str| {
            left += part.len();
            tokenizer.encode_fast(part, false).map(|encoding| encoding.get_ids().to_vec())
        };
        (words.tokens(text, library).expect("tokens"), left)
    }

    #[test]
    fn words_have_the_tokens_of_the_library() {
        let mut runner =
            TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) });
        let texts = prop_oneof![
            3 => vec(fragment(), 1..40).prop_map(|fragments| fragments.concat()),
            1 => vec(0..128u8, 1..200).prop_map(|bytes| bytes.into_iter().map(char::from).collect::<String>()),
            1 => vec("[a-zA-Z]{1,9}[.,;!?]? ", 1..30).prop_map(|words| words.concat()),
        ];
        let mut of_words = Vec::new();
        for (name, tokenizer) in kinds() {
            let tokenizer = tokenizer.library();
            let Some(words) = Words::of(tokenizer, &Cuts::of(tokenizer)) else { continue };
            let checked = runner.run(&texts, |text| {
                let whole = tokenizer.encode_fast(text.as_str(), false).expect("tokens");
                prop_assert_eq!(tokens(tokenizer, &words, &text).0, whole.get_ids(), "{}", name);
                Ok(())
            });
            checked.unwrap_or_else(|error| panic!("{name}: {error}"));
            of_words.push(name);
        }
        assert!(
            of_words.len() >= 10 && of_words.iter().any(|name| name == crate::options::BUNDLED_NAME),
            "{of_words:?}"
        );
    }

    #[test]
    fn what_is_ascii_is_not_left_to_the_library() {
        let tokenizer = crate::model::pieces::tests::load(crate::options::BUNDLED_NAME);
        let tokenizer = tokenizer.library();
        let words = Words::of(tokenizer, &Cuts::of(tokenizer)).expect("words");
        for (text, left) in [
            ("The quick brown fox, e.g. \"jumps\"!\t(over)\n", 0),
            ("the caf\u{e9} is na\u{ef}ve today", "caf\u{e9}".len() + "na\u{ef}ve".len()),
            ("\u{72d7} \u{72d7} and a [MASK] here", "\u{72d7} \u{72d7}".len() + "[MASK]".len()),
            ("\u{1}\u{7f} \u{b}unaffable", 0),
        ] {
            assert_eq!(tokens(tokenizer, &words, text).1, left, "{text:?}");
        }
    }
}

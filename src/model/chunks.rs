//! A long text in chunks that a model reads whole.
//!
//! The text is tokenised once to see where its tokens end, so that each chunk is found at once, and each chunk once more to know
//! that it fits: beside other neighbours a text may have other tokens. So the cost grows as the text does.
//!
//! A chunk ends behind the last paragraph that fits it, or else behind the last sentence, the last word, the last character. A
//! paragraph or the whole of a sentence counts wherever it ends in the second half of what fits; before that only a sentence does
//! where the alternative is to cut the next one.

use std::ops::Range;

use unicode_segmentation::{GraphemeCursor, UWordBoundIndices, UnicodeSegmentation};

use super::pieces::Allowance;
use super::tokenizer::TextTokenizer;
use crate::error::{Error, Result};

/// Bytes behind a chunk that decide where words and sentences in it end: without a limit the rest of a text without any would be looked
/// through for each.
const AHEAD: usize = 256;

/// How long chunks are, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkSize {
    /// Most of a chunk, special tokens and the prompt counted; 0 for as many as the model reads.
    pub(crate) max_tokens: usize,
    /// Most that a chunk has in common with the one before.
    pub(crate) overlap: usize,
}

impl ChunkSize {
    /// The same for a model that reads so many tokens.
    pub(crate) fn within(self, limit: usize, model: &str) -> Result<Self> {
        let Self { max_tokens: wanted, overlap } = self;
        if wanted > limit {
            return Err(Error::Setting(format!(
                "embed_chunks: max_tokens {wanted} is more than the {limit} that model \"{model}\" reads (embed.max_tokens)"
            )));
        }
        let max_tokens = if wanted == 0 { limit } else { wanted };
        if overlap >= max_tokens {
            return Err(Error::Setting(format!(
                "embed_chunks: overlap {overlap} is not less than max_tokens {max_tokens}"
            )));
        }
        Ok(Self { max_tokens, overlap })
    }
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Where it is.
    pub(crate) bytes: Range<usize>,
    /// Its tokens, special ones and those of the prompt counted.
    pub(crate) tokens: usize,
}

/// Cuts one text.
pub(super) struct Chunker<'a> {
    tokenizer: &'a TextTokenizer,
    allowance: &'a Allowance<'a>,
    prompt: &'a str,
    size: ChunkSize,
    /// Tokens of a chunk that are its own.
    room: usize,
    text: &'a str,
    /// Where each token of the text ends.
    ends: Vec<usize>,
}

impl<'a> Chunker<'a> {
    pub(super) fn new(
        tokenizer: &'a TextTokenizer,
        prompt: &'a str,
        text: &'a str,
        size: ChunkSize,
        allowance: &'a Allowance<'a>,
    ) -> Result<Self> {
        let fixed = tokenizer.count(prompt, "", allowance)?;
        if fixed >= size.max_tokens {
            return Err(Error::Setting(format!(
                "embed_chunks: max_tokens {} leaves no room for text beside the {fixed} special tokens and tokens of the prompt \
                 (at least {})",
                size.max_tokens,
                fixed + 1
            )));
        }
        let ends = tokenizer.ends(text, allowance)?;
        Ok(Self { tokenizer, allowance, prompt, size, room: size.max_tokens - fixed, text, ends })
    }

    /// The chunks of the text from its beginning to its end: each begins where the one before ends, or before that by the overlap.
    pub(super) fn chunks(&self) -> Result<Vec<Chunk>> {
        let (mut chunks, mut start, mut done) = (Vec::new(), 0, 0);
        while done < self.text.len() {
            self.allowance.check()?;
            let chunk = self.chunk(start, done)?;
            start = self.next_start(&chunk.bytes)?;
            done = chunk.bytes.end;
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// The chunk from `start` that reaches beyond `done`; from there where the overlap leaves no room for a word.
    fn chunk(&self, start: usize, done: usize) -> Result<Chunk> {
        let (mut room, mut last) = (self.room, self.reach(start, self.room));
        while let Some(end) = self.end(start, done, last) {
            let tokens = self.tokenizer.count(self.prompt, &self.text[start..end], self.allowance)?;
            if tokens <= self.size.max_tokens {
                return Ok(Chunk { bytes: start..end, tokens });
            }
            if start == done && end == self.next_character(done) {
                return Err(self.no_room_for(&self.text[start..end], tokens));
            }
            // It has other tokens than it has in the text: fewer of those, then.
            room = room.saturating_sub(tokens - self.size.max_tokens);
            last = self.reach(start, room).min(end - 1);
        }
        self.chunk(done, done)
    }

    /// The last place before which the text has no more than so many tokens from `start`.
    fn reach(&self, start: usize, room: usize) -> usize {
        self.ends.get(self.tokens_before(start) + room).map_or(self.text.len(), |end| end.saturating_sub(1))
    }

    /// Where a chunk from `start` ends, beyond `done` and at `last` or before. Words are cut only where there is no overlap and no
    /// whole word fits.
    fn end(&self, start: usize, done: usize, last: usize) -> Option<usize> {
        if last == self.text.len() {
            return Some(last);
        }
        let last = self.text.floor_char_boundary(last);
        let fits = |place: &usize| *place > done && *place <= last;
        let window = start..self.text.floor_char_boundary(last + AHEAD);
        let (mut paragraph, mut word) = (None, None);
        for Word { start, is_paragraph } in Words::of(self.text, window.clone()).take_while(|word| word.start <= last) {
            word = Some(start).filter(fits);
            paragraph = if is_paragraph { word } else { paragraph };
        }
        let sentence = sentences(self.text, window).take_while(|place| *place <= last).filter(fits).last();
        let half = start + (last - start) / 2;
        let whole = paragraph.filter(|place| *place >= half).or(sentence).or(word);
        whole.or_else(|| (start == done).then(|| self.end_in_word(done, last)))
    }

    /// Where a word is cut that is longer than a chunk: behind a part of it, behind a character, if only behind a code point.
    fn end_in_word(&self, start: usize, last: usize) -> usize {
        let rest = &self.text[start..self.text.floor_char_boundary(last + AHEAD)];
        let fits = |place: &usize| *place > start && *place <= last;
        let is_part = |place: &usize| self.text[*place..].starts_with(char::is_alphanumeric);
        let parts = rest.split_word_bound_indices().map(|(place, _)| start + place);
        let characters = rest.grapheme_indices(true).map(|(place, _)| start + place);
        let part = parts.take_while(|place| *place <= last).filter(fits).filter(is_part).last();
        let character = || characters.take_while(|place| *place <= last).filter(fits).last();
        part.or_else(character).unwrap_or_else(|| last.max(self.next_character(start)))
    }

    /// Where the next chunk begins: as far before the end of this one as the overlap reaches, at a whole word, if there is room for
    /// another one after it.
    fn next_start(&self, chunk: &Range<usize>) -> Result<usize> {
        let done = chunk.end;
        if self.size.overlap == 0 || done == self.text.len() {
            return Ok(done);
        }
        // Behind the token that is one too many before a place.
        let behind = |place, most: usize| match self.tokens_before(place) {
            count if count > most => self.ends[count - most - 1],
            _ => 0,
        };
        let fits = done..self.text.ceil_char_boundary(self.reach(done, self.room) + 1);
        let next = match Words::of(self.text, fits.clone()).find(|word| word.start > done) {
            Some(word) => word.start,
            None if fits.end == self.text.len() => fits.end,
            None => return Ok(done),
        };
        let from = behind(done, self.size.overlap).max(behind(next, self.room));
        let words = Words::of(self.text, chunk.clone()).map(|word| word.start);
        for place in words.filter(|place| *place >= from && *place > chunk.start) {
            let count = self.tokenizer.count("", &self.text[place..done], self.allowance)?;
            if count - self.tokenizer.special <= self.size.overlap {
                return Ok(place);
            }
        }
        Ok(done)
    }

    fn tokens_before(&self, place: usize) -> usize {
        self.ends.partition_point(|&end| end <= place)
    }

    fn next_character(&self, place: usize) -> usize {
        self.text.ceil_char_boundary(place + 1)
    }

    fn no_room_for(&self, character: &str, tokens: usize) -> Error {
        let max_tokens = self.size.max_tokens;
        Error::Setting(format!(
            "embed_chunks: max_tokens {max_tokens} has no room for {character:?}, which takes {tokens} with special tokens and prompt"
        ))
    }
}

/// Where a word begins.
struct Word {
    start: usize,
    /// Whether a blank line is before it.
    is_paragraph: bool,
}

/// The words of a text, each with the blanks behind it: parted by white space, and where a script has none between words, as Unicode
/// parts them (UAX 29).
struct Words<'t> {
    text: &'t str,
    bounds: UWordBoundIndices<'t>,
    from: usize,
}

impl<'t> Words<'t> {
    /// Those that begin in a part of a text.
    fn of(text: &'t str, part: Range<usize>) -> Self {
        Self { text, from: part.start, bounds: text[part].split_word_bound_indices() }
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        let mut lines = 0;
        for (place, part) in self.bounds.by_ref() {
            let start = self.from + place;
            let before = self.text[..start].chars().next_back();
            let first = part.chars().next()?;
            if first.is_whitespace() {
                lines += part.chars().map(lines_of).sum::<usize>();
                // Unicode joins what only changes other characters with the blanks before it. A mark is one character with the last
                // of them, and the word begins with that.
                let blanks = part.len() - part.trim_start().len();
                if blanks < part.len() {
                    let last = part[..blanks].char_indices().next_back().map_or(0, |(last, _)| last);
                    let start = if is_boundary(self.text, start + blanks) { start + blanks } else { start + last };
                    return Some(Word { start, is_paragraph: lines > 1 });
                }
            } else if before.is_none_or(char::is_whitespace) || has_no_blanks(first, before) {
                return Some(Word { start, is_paragraph: lines > 1 });
            }
        }
        None
    }
}

/// How many lines a character ends; a page and a paragraph count as two.
fn lines_of(c: char) -> usize {
    match c {
        '\n' => 1,
        '\u{c}' | '\u{2029}' => 2,
        _ => 0,
    }
}

/// Whether a word begins with `first` though no blank is before it.
fn has_no_blanks(first: char, before: Option<char>) -> bool {
    // Chinese and Japanese.
    let runs_on = |c: char| matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ffef}' | '\u{20000}'..='\u{3ffff}');
    first.is_alphanumeric() && (runs_on(first) || before.is_some_and(runs_on))
}

/// Where the sentences in a part of a text begin, but for the first.
fn sentences(text: &str, part: Range<usize>) -> impl Iterator<Item = usize> + '_ {
    let from = part.start;
    let bounds = text[part].split_sentence_bound_indices().skip(1).map(move |(place, _)| from + place);
    let is_end = |place: &usize| {
        // `3.Next` and `?q=1` are within a word.
        let before = text[..*place].chars().next_back();
        before.is_some_and(|c| c.is_whitespace() || !c.is_ascii())
    };
    // A line may begin with blanks, each of which may end a line too.
    let mut start = 0;
    let starts = bounds.filter(is_end).map(move |place| {
        if place >= start {
            start = text.len() - text[place..].trim_start().len();
        }
        start
    });
    starts.filter(|place| *place < text.len() && is_boundary(text, *place))
}

/// Whether a character begins at a place: a mark is a part of the one before it.
fn is_boundary(text: &str, place: usize) -> bool {
    GraphemeCursor::new(place, text.len(), true).is_boundary(text, 0) == Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::pieces::tests::{fragment, kinds, load};
    use super::*;
    use crate::options::BUNDLED_NAME;

    const FREE: &Allowance<'_> = &Allowance::FREE;

    fn cut(
        tokenizer: &TextTokenizer,
        prompt: &str,
        text: &str,
        max_tokens: usize,
        overlap: usize,
    ) -> Result<Vec<Chunk>> {
        Chunker::new(tokenizer, prompt, text, ChunkSize { max_tokens, overlap }, FREE)?.chunks()
    }

    /// The chunks of the default model's tokenizer.
    fn parts(text: &str, max_tokens: usize, overlap: usize) -> Vec<&str> {
        let chunks = cut(&load(BUNDLED_NAME), "", text, max_tokens, overlap).expect("chunks");
        chunks.into_iter().map(|chunk| &text[chunk.bytes]).collect()
    }

    #[test]
    fn texts_are_cut_where_people_would() {
        let (a, b) = ("One two three. Four five six. ", "Seven eight nine ten eleven.");
        let text = format!("{a}{b}");
        assert_eq!(parts(&text, 100, 0), [&text]);
        // Two special tokens, four of each sentence that is short.
        assert_eq!(parts(&text, 10, 0), [a, b]);
        assert_eq!(parts(&text, 8, 0), ["One two three. ", "Four five six. ", "Seven eight nine ten eleven."]);
        assert_eq!(
            parts("One two. Three\n\nfour five. Six seven", 9, 0),
            ["One two. Three\n\n", "four five. Six seven"]
        );
        // A paragraph that is a small part of what fits gives way to sentences.
        assert_eq!(parts("One\n\ntwo three four. Five six seven", 9, 0), ["One\n\ntwo three four. ", "Five six seven"]);
        assert_eq!(parts("one two three four five", 4, 0), ["one two ", "three four ", "five"]);
        assert_eq!(parts("one two three four five", 5, 1), ["one two three ", "three four five"]);
        assert_eq!(parts("one two three four five", 5, 2), ["one two three ", "two three four ", "three four five"]);
        // An overlap that leaves no room for another word is shorter, or none.
        assert_eq!(parts("one two three four five", 4, 3), ["one two ", "two three ", "three four ", "four five"]);
        assert_eq!(parts("one two", 3, 2), ["one ", "two"]);
        // Scripts without blanks.
        assert_eq!(parts("今日は晴れ。明日は雨です。", 9, 0), ["今日は晴れ。", "明日は雨です。"]);
        // A mark behind blanks belongs to the last of them.
        assert_eq!(parts("One two.\n  \u{301}three four.", 6, 0).concat(), "One two.\n  \u{301}three four.");
        assert!(parts("One two.\n  \u{301}three four.", 6, 0).iter().all(|part| !part.starts_with('\u{301}')));
        assert_eq!(parts("", 9, 0), [""; 0]);
        assert_eq!(parts(" \n ", 3, 0), [" \n "]);
        assert_eq!(parts("  one  two  ", 3, 0), ["  one  ", "two  "]);
        // Words that are too long, in their parts, and in characters of several code points.
        assert_eq!(parts("a semi-final", 4, 0), ["a ", "semi-", "final"]);
        let marked = "e\u{301}".repeat(200);
        assert!(parts(&format!("{marked}-{marked}"), 3, 0).iter().all(|part| !part.starts_with('\u{301}')));
    }

    #[test]
    fn no_room_is_said() {
        let tokenizer = load(BUNDLED_NAME);
        for (prompt, max_tokens, part) in [
            (
                "",
                2,
                "max_tokens 2 leaves no room for text beside the 2 special tokens and tokens of the prompt (at least 3)",
            ),
            ("query: ", 4, "at least 5"),
            ("", 0, "max_tokens 0 leaves"),
        ] {
            let error = cut(&tokenizer, prompt, "a text", max_tokens, 0).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
        // A character that is several tokens.
        let (_, bytes) =
            kinds().into_iter().find(|(name, _)| name == "architectures/roberta").expect("a byte-level one");
        let error = cut(&bytes, "", "a 𝄞", 3, 0).expect_err("too long").to_string();
        assert!(error.contains("max_tokens 3 has no room for \"𝄞\""), "{error}");
    }

    /// Whether a word may be cut at a place.
    fn is_between_words(text: &str, place: usize) -> bool {
        let (before, after) = (text[..place].chars().next_back(), text[place..].graphemes(true).next());
        before.is_some_and(char::is_whitespace)
            || after.is_none_or(|after| {
                let is_marked = after.starts_with(char::is_whitespace) && !after.trim().is_empty();
                is_marked || after.starts_with(|first| has_no_blanks(first, before))
            })
    }

    /// The promises of chunks, on one text.
    fn check(name: &str, tokenizer: &TextTokenizer, prompt: &str, text: &str, (max_tokens, overlap): (usize, usize)) {
        let Ok(chunks) = cut(tokenizer, prompt, text, max_tokens, overlap) else { return };
        let about = |chunk: &Chunk| format!("{name}, {max_tokens} {overlap}, {chunk:?} of {chunks:?}: {text:?}");
        let (mut start, mut done) = (0, 0);
        for chunk in &chunks {
            let Range { start: first, end } = chunk.bytes;
            let tokens = tokenizer.count(prompt, &text[first..end], FREE).expect("a count");
            assert!(tokens == chunk.tokens && tokens <= max_tokens, "{tokens} tokens, {}", about(chunk));
            assert!(first >= start && first <= done && end > done, "{}", about(chunk));
            let common = tokenizer.count("", &text[first..done], FREE).expect("a count") - tokenizer.special;
            assert!(common <= overlap || first == done, "{common} tokens in common, {}", about(chunk));
            assert!(first == done || is_between_words(text, first), "{}", about(chunk));
            if end < text.len() && !is_between_words(text, end) && !text[end..].starts_with(char::is_whitespace) {
                // The word that is cut is too long for a chunk, by its tokens in the text or alone.
                let from = text[..end].rfind(char::is_whitespace).map_or(0, |place| text.ceil_char_boundary(place + 1));
                let to = end + text[end..].find(char::is_whitespace).unwrap_or(text.len() - end);
                let alone = tokenizer.count(prompt, &text[from..to], FREE).expect("a count");
                assert!(alone + 2 > max_tokens, "a word of {alone} tokens is cut, {}", about(chunk));
            }
            (start, done) = (first, end);
        }
        assert_eq!(done, text.len(), "{name}: {text:?}");
    }

    #[test]
    fn a_word_may_begin_with_a_mark() {
        let tokenizer = load(BUNDLED_NAME);
        for blanks in [" ", "  ", "\n", " \u{ad}"] {
            let text = format!("one two three{blanks}\u{301}four-and-twenty blackbirds");
            for size in [(8, 0), (9, 0), (10, 4), (11, 0)] {
                check("the default", &tokenizer, "", &text, size);
            }
        }
    }

    #[test]
    fn chunks_keep_their_promises_with_every_tokenizer() {
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(6));
        let sizes = (5..40usize).prop_flat_map(|max_tokens| (Just(max_tokens), 0..max_tokens));
        for (name, tokenizer) in kinds() {
            let checked = runner.run(&(vec(fragment(), 1..60), sizes.clone()), |(fragments, size)| {
                let text = fragments.concat();
                let prompt = if text.len().is_multiple_of(3) { "query: " } else { "" };
                check(&name, &tokenizer, prompt, &text, size);
                check(&name, &tokenizer, prompt, &text, (size.0, 0));
                Ok(())
            });
            checked.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn what_is_read_grows_as_the_text_does() {
        let tokenizer = load(BUNDLED_NAME);
        let blanks = format!("word{}", "\n".repeat(100_000));
        for of in
            ["the quick brown fox. ", "a", "a-", "狗", "1234567890\n", "\n", "x. ", "word ", "1.5,", "1,", "_", &blanks]
        {
            for overlap in [0, 50] {
                let text = of.repeat(400_000 / of.len());
                let before = tokenizer.read.load(Ordering::Relaxed);
                let chunks = cut(&tokenizer, "", &text, 100, overlap).expect("chunks");
                let read = tokenizer.read.load(Ordering::Relaxed) - before;
                let in_chunks: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
                assert!(read < 4 * in_chunks.max(text.len()), "{of:?} {overlap}: {read} bytes of {}", text.len());
            }
        }
    }
}

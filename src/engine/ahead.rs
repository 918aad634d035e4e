//! Tokens before they are asked for. A GPU takes a text in less time than a thread has its tokens, and one stream is one thread: so
//! the texts that come next are tokenised side by side.

use std::collections::HashMap;
use std::ops::Range;
use std::thread;

use crate::model::Tokens;

/// Texts that are tokenised side by side; each takes some hundred microseconds, so that threads for them are worth their start.
const TEXTS: usize = 512;

/// Bytes of a text that is. Longer ones are rare, take long anyway, and would be in memory together.
const MOST_BYTES: usize = 64 << 10;

/// The next rows of a stream, from one that is about to be fed.
pub(super) fn next_rows(row: usize, rows: usize) -> Range<usize> {
    row..(row / TEXTS + 1).saturating_mul(TEXTS).min(rows)
}

/// What texts have for tokens, by their keys, and whether they were cut.
#[derive(Default)]
pub(super) struct Ahead {
    has_begun: bool,
    tokens: HashMap<u128, (Tokens, bool)>,
}

impl Ahead {
    /// Whether a row is the first of those that are tokenised together.
    pub(super) fn begins_at(&self, row: usize) -> bool {
        !self.has_begun || row.is_multiple_of(TEXTS)
    }

    /// Tokenises texts on all cores. What is left of those before is forgotten. One whose tokens cannot be had is none of them: it is
    /// asked for again, and says why.
    pub(super) fn fill(
        &mut self,
        texts: &HashMap<u128, &str>,
        tokenize: impl Fn(&str) -> Option<(Tokens, bool)> + Sync,
    ) {
        self.tokens.clear();
        self.has_begun = true;
        let texts: Vec<(u128, &str)> = texts.iter().map(|(key, text)| (*key, *text)).collect();
        let texts: Vec<(u128, &str)> = texts.into_iter().filter(|(_, text)| text.len() <= MOST_BYTES).collect();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let tokenize = |texts: &[(u128, &str)]| -> Vec<(u128, (Tokens, bool))> {
            texts.iter().filter_map(|(key, text)| Some((*key, tokenize(text)?))).collect()
        };
        thread::scope(|scope| {
            let parts = texts.chunks(texts.len().div_ceil(threads).max(1));
            let parts: Vec<_> = parts
                .map(|part| {
                    thread::Builder::new().name("embed-tokens".to_owned()).spawn_scoped(scope, || tokenize(part))
                })
                .collect();
            // A thread that could not start, or broke, has no tokens.
            self.tokens.extend(parts.into_iter().flatten().filter_map(|part| part.join().ok()).flatten());
        });
    }

    pub(super) fn take(&mut self, key: u128) -> Option<(Tokens, bool)> {
        self.tokens.remove(&key)
    }

    #[cfg(test)]
    pub(super) fn has(&self, key: u128) -> bool {
        self.tokens.contains_key(&key)
    }
}

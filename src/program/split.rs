//! A text of SQL to its statements.

use std::sync::Arc;

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, TokenizerError};

use super::messages::tidy;

/// One statement, still unparsed: a syntax error in it must not keep the statements before it from running.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Tokens with their place in the whole text, so that errors name lines of the file.
    pub(crate) tokens: Vec<TokenWithSpan>,
    /// The whole text, and the lines before it, which places count too.
    source: Arc<str>,
    lines_before: u64,
    /// Line of the first token, from 1.
    pub(crate) line: u64,
}

/// A text cut at its semicolons.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) statements: Vec<Statement>,
    /// Does the text end after a semicolon (or hold nothing but blanks and comments)?
    pub(crate) complete: bool,
    /// Text after the last good statement that is no SQL at all, such as a quote that never ends.
    pub(crate) broken: Option<Broken>,
}

/// Where and why the text could not be read on.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) line: u64,
    pub(crate) message: String,
    /// More text could mend it.
    pub(crate) unterminated: bool,
}

impl Broken {
    fn new(error: &TokenizerError, lines_before: u64) -> Self {
        let message = error.message.trim_end_matches([' ', '.']);
        let (line, column) = (error.location.line + lines_before, error.location.column);
        Self {
            line: line.max(1),
            message: tidy(&format!("syntax error: {message} at line {line}, column {column}")),
            unterminated: message.starts_with("Unterminated") || message.contains("EOF"),
        }
    }
}

/// Cuts a text into statements; semicolons in quotes, comments and dollar quotes do not count.
pub(crate) fn split(text: &str) -> Script {
    split_behind(0, text)
}

/// The same for a text that so many lines stand before.
pub(crate) fn split_behind(lines_before: u64, text: &str) -> Script {
    let mut tokens = Vec::new();
    let read = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location_into_buf(&mut tokens);
    let broken = read.err().map(|error| Broken::new(&error, lines_before));
    for TokenWithSpan { span, .. } in &mut tokens {
        span.start.line += lines_before;
        span.end.line += lines_before;
    }
    let statement = |tokens, source: &Arc<str>| statement(tokens, source, lines_before);
    let source = Arc::from(text);
    let mut statements = Vec::new();
    let mut current: Vec<TokenWithSpan> = Vec::new();
    for token in tokens {
        match token.token {
            Token::SemiColon => statements.extend(statement(std::mem::take(&mut current), &source)),
            _ => current.push(token),
        }
    }
    let rest = statement(current, &source);
    let complete = rest.is_none() && broken.is_none();
    match (rest, broken) {
        // The start of what is broken must not run alone.
        (Some(rest), Some(mut broken)) => {
            broken.line = rest.line;
            Script { statements, complete, broken: Some(broken) }
        }
        (rest, broken) => {
            statements.extend(rest);
            Script { statements, complete, broken }
        }
    }
}

/// What is not at its end when a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    Statement,
    /// A quote, with the character that ends it.
    Quote(char),
    Comment,
}

/// What more text would have to end; `None` behind a semicolon, and where no text can mend what is broken.
pub(crate) fn open(text: &str) -> Option<Open> {
    let script = split(text);
    match script.broken {
        Some(broken) if !broken.unterminated => None,
        Some(broken) if broken.message.contains("comment") => Some(Open::Comment),
        Some(broken) if broken.message.contains("double quote") || broken.message.contains("'\"'") => {
            Some(Open::Quote('"'))
        }
        Some(broken) if broken.message.contains("dollar") => Some(Open::Quote('$')),
        Some(_) => Some(Open::Quote('\'')),
        None => (!script.complete).then_some(Open::Statement),
    }
}

/// `None` when there is nothing but blanks and comments.
fn statement(tokens: Vec<TokenWithSpan>, source: &Arc<str>, lines_before: u64) -> Option<Statement> {
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)))?;
    Some(Statement { line: first.span.start.line, tokens, source: source.clone(), lines_before })
}

impl Statement {
    /// The statement as it was typed.
    pub(crate) fn text(&self) -> &str {
        let (Some(first), Some(last)) = (self.tokens.first(), self.tokens.last()) else {
            return "";
        };
        let own = |place: Location| Location { line: place.line - self.lines_before, ..place };
        let start = offset(&self.source, own(first.span.start));
        let end = offset(&self.source, own(last.span.end));
        self.source.get(start..end).unwrap_or_default()
    }
}

/// The byte at a tokenizer's location, which counts lines and characters from 1.
pub(super) fn offset(text: &str, location: Location) -> usize {
    offsets(text, [location])[0]
}

/// The bytes at locations that follow each other, in one walk.
pub(super) fn offsets(text: &str, locations: impl IntoIterator<Item = Location>) -> Vec<usize> {
    let (mut here, mut at) = (Location { line: 1, column: 1 }, 0);
    let mut find = |location| {
        while let Some(c) = text[at..].chars().next().filter(|_| here != location) {
            here = match c {
                '\n' => Location { line: here.line + 1, column: 1 },
                _ => Location { line: here.line, column: here.column + 1 },
            };
            at += c.len_utf8();
        }
        at
    };
    locations.into_iter().map(&mut find).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &str) -> Vec<u64> {
        split(text).statements.iter().map(|s| s.line).collect()
    }

    #[test]
    fn cuts_only_at_real_semicolons() {
        let text = "SELECT ';' AS a, \";\" /* ; */ -- ;\n, $$;$$, $x$;$x$, 'it''s;';\n\n-- end\nSELECT 2";
        assert_eq!(lines(text), [1, 5]);
        assert!(!split(text).complete);
        assert_eq!(lines(" ;; ; "), [] as [u64; 0]);
    }

    #[test]
    fn gives_back_the_text() {
        let script = split("SELECT 'é''x',\n E'\\n' ; SELECT 2");
        let texts: Vec<&str> = script.statements.iter().map(|s| s.text().trim()).collect();
        assert_eq!(texts, ["SELECT 'é''x',\n E'\\n'", "SELECT 2"]);
    }

    #[test]
    fn knows_when_a_text_is_complete() {
        assert!(split("SELECT 1; -- done\n").complete);
        assert!(split("-- nothing\n").complete);
        assert!(!split("SELECT 1").complete);
        assert!(!split("SELECT 'a;").complete);
    }

    #[test]
    fn runs_what_stands_before_a_broken_end() {
        for broken in ["SELECT 'no end;\nSELECT 3;", "SELECT $$ no end", "SELECT /* no end", "SELECT \"no end"] {
            let script = split(&format!("SELECT 1;\n\n{broken}"));
            assert_eq!(script.statements.len(), 1, "{broken}");
            let end = script.broken.expect("broken");
            assert!(end.unterminated, "{}", end.message);
            assert_eq!(end.line, 3, "{}", end.message);
        }
    }

    /// Words, marks and quotes that a text may be made of, whole or not.
    fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
        let known = [
            "SELECT", "1", ";", " ", "\n", "\r\n", "\t", "'", "\"", "''", "$$", "$x$", "--", "/*", "*/", "\\", "é",
            "東京", "E'\\'", "x'00'", "é''", ";;", ",", "(", ")", "\u{0}", "\u{feff}", "`", "@", "1e", "0x", "U&'",
        ];
        prop::collection::vec(prop::sample::select(known.to_vec()), 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        /// What the fuzz target `split` holds too.
        #[test]
        fn statements_lie_in_their_text_one_after_the_other(pieces in pieces()) {
            let text = pieces.concat();
            let script = split(&text);
            let mut rest = text.as_str();
            for statement in &script.statements {
                let own = statement.text();
                let at = rest.find(own);
                prop_assert!(at.is_some() && statement.line >= 1 && !statement.tokens.is_empty(), "{text:?}: {own:?}");
                rest = &rest[at.unwrap_or(0) + own.len()..];
                prop_assert_eq!(split(own).statements.len(), 1, "{:?}: {:?}", text, own);
            }
            if let Some(broken) = &script.broken {
                prop_assert!(!broken.message.is_empty() && broken.line >= 1 && !script.complete, "{text:?}");
            }
        }
    }
}

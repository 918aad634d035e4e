//! A text of SQL to its statements.

use std::sync::Arc;

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, TokenizerError};
use unicode_width::UnicodeWidthStr;

use super::messages::{escape, tidy};

/// One statement, still unparsed: a syntax error in it must not keep the statements before it from running.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Tokens with their place in the whole text, so that errors name lines of the file.
    pub(crate) tokens: Vec<TokenWithSpan>,
    pub(crate) source: Source,
    /// Line of the first token, from 1.
    pub(crate) line: u64,
}

/// A whole text, and the lines before it, which places count too.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    text: Arc<str>,
    lines_before: u64,
}

/// Characters of a line that are shown around a mistake in it.
const SHOWN: usize = 100;

impl Source {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A line, by its number in all.
    fn line(&self, number: u64) -> Option<&str> {
        let before = number.checked_sub(self.lines_before + 1)?;
        self.text.lines().nth(usize::try_from(before).ok()?)
    }

    /// The line with a mark below a character, as psql shows where an error is.
    pub(crate) fn pointed(&self, at: Location) -> Option<String> {
        let line = self.line(at.line)?;
        let before = usize::try_from(at.column.checked_sub(1)?).ok()?;
        let skipped = if line.chars().count() > SHOWN { before.saturating_sub(SHOWN / 2) } else { 0 };
        let shown: String = line.chars().skip(skipped).take(SHOWN).collect();
        let before: String = shown.chars().take(before - skipped).collect();
        let head = format!("LINE {}: {}", at.line, if skipped > 0 { "..." } else { "" });
        Some(format!("{head}{}\n{}^", escape(&shown), " ".repeat(head.len() + escape(&before).width())))
    }
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
    /// Where the statement begins that it is in, or else where it is.
    pub(crate) line: u64,
    pub(crate) place: Location,
    pub(crate) message: String,
    /// More text could mend it.
    pub(crate) unterminated: bool,
}

impl Broken {
    fn new(error: &TokenizerError, lines_before: u64) -> Self {
        let message = error.message.trim_end_matches([' ', '.']);
        let place =
            Location { line: (error.location.line + lines_before).max(1), column: error.location.column.max(1) };
        Self {
            line: place.line,
            place,
            message: tidy(&format!("syntax error: {message}")),
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
    let source = Source { text: Arc::from(text), lines_before };
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
fn statement(tokens: Vec<TokenWithSpan>, source: &Source) -> Option<Statement> {
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)))?;
    Some(Statement { line: first.span.start.line, tokens, source: source.clone() })
}

impl Statement {
    /// The statement as it was typed.
    pub(crate) fn text(&self) -> &str {
        let (Some(first), Some(last)) = (self.tokens.first(), self.tokens.last()) else {
            return "";
        };
        let Source { text, lines_before } = &self.source;
        let own = |place: Location| Location { line: place.line - lines_before, ..place };
        let (start, end) = (offset(text, own(first.span.start)), offset(text, own(last.span.end)));
        text.get(start..end).unwrap_or_default()
    }

    /// Where it begins, blanks and comments before it among it.
    pub(crate) fn start(&self) -> Location {
        self.tokens.first().map_or(Location { line: self.line, column: 1 }, |token| token.span.start)
    }

    /// A place in its own text, in all.
    pub(crate) fn place(&self, own: Location) -> Location {
        let start = self.start();
        match own.line {
            1 => Location { column: start.column + own.column - 1, ..start },
            line => Location { line: start.line + line - 1, ..own },
        }
    }

    /// The only place where a name or a text stands in quotes.
    pub(crate) fn place_of(&self, name: &str) -> Option<Location> {
        let is_it = |token: &&TokenWithSpan| match &token.token {
            Token::SingleQuotedString(text) => text == name,
            Token::Word(word) => word.quote_style.is_some() && word.value == name,
            _ => false,
        };
        let mut places = self.tokens.iter().filter(is_it).map(|token| token.span.start);
        places.next().filter(|_| places.next().is_none())
    }

    /// Where its last word ends.
    pub(crate) fn end(&self) -> Location {
        let mut words = self.tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
        words.next_back().map_or(self.start(), |token| token.span.end)
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
    fn mistakes_are_pointed_at() {
        let source = |text: &str| Source { text: Arc::from(text), lines_before: 3 };
        let at = |line, column| Location { line, column };
        assert_eq!(
            source("SELECT 1;\nSELECT é\t FORM t;").pointed(at(5, 11)).as_deref(),
            Some("LINE 5: SELECT é\\t FORM t;\n                   ^")
        );
        let long = source(&format!("SELECT '{}', x", "é".repeat(500))).pointed(at(4, 512)).expect("a line");
        let lines: Vec<&str> = long.lines().collect();
        assert!(lines[0].starts_with("LINE 4: ...éé") && lines[0].ends_with("', x"), "{long}");
        assert_eq!(lines[0].chars().nth(lines[1].len() - 1), Some('x'), "{long}");
        assert_eq!((source("SELECT").pointed(at(5, 1)), source("SELECT").pointed(at(4, 0))), (None, None));
        assert_eq!(source("SELECT").pointed(at(3, 1)), None);
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

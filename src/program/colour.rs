//! What is typed, in colours.

use std::borrow::Cow;
use std::env;

use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

use super::split::offsets;

const KEYWORD: &str = "1;34";
const TEXT: &str = "32";
const NUMBER: &str = "36";
const COMMENT: &str = "2";
const BRACKET: &str = "1;35";

/// Whether somebody wants colours: <https://no-color.org>, and a terminal that has none.
pub(super) fn wanted() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A line in colours; `earlier` are the lines before it, and the bracket at or before `cursor` shows its partner.
pub(super) fn painted<'a>(earlier: &str, line: &'a str, cursor: usize) -> Cow<'a, str> {
    if line.starts_with('\\') {
        return Cow::Borrowed(line);
    }
    let text = if earlier.is_empty() { line.to_owned() } else { format!("{earlier}\n{line}") };
    let start = text.len() - line.len();
    let mut tokens = Vec::new();
    // What cannot be read is a quote or a comment that is not at its end.
    let is_open = Tokenizer::new(&GenericDialect {}, &text).tokenize_with_location_into_buf(&mut tokens).is_err();
    // On every key, and so in one walk.
    let places = offsets(&text, tokens.iter().flat_map(|token| [token.span.start, token.span.end]));
    let place = |index: usize| (places[2 * index], places[2 * index + 1]);
    let partners = partners(&tokens, |index| place(index).0, start + cursor);
    let (mut painted, mut done) = (String::with_capacity(2 * line.len()), start);
    for (index, token) in tokens.iter().enumerate() {
        let (from, to) = place(index);
        let colour = if partners.contains(&index) { Some(BRACKET) } else { colour(&token.token) };
        let Some(colour) = colour.filter(|_| to > start) else { continue };
        let from = from.max(start);
        painted.push_str(&text[done..from]);
        painted.push_str(&format!("\x1b[{colour}m{}\x1b[0m", &text[from..to]));
        done = to;
    }
    let last = places.last().map_or(0, |&end| end).max(done);
    painted.push_str(&text[done..last]);
    match is_open && last < text.len() {
        true => painted.push_str(&format!("\x1b[{TEXT}m{}\x1b[0m", &text[last..])),
        false => painted.push_str(&text[last..]),
    }
    Cow::Owned(painted)
}

fn colour(token: &Token) -> Option<&'static str> {
    match token {
        Token::Word(word) if word.quote_style.is_none() && word.keyword != Keyword::NoKeyword => Some(KEYWORD),
        Token::Number(..) => Some(NUMBER),
        Token::SingleQuotedString(_) | Token::DollarQuotedString(_) | Token::EscapedStringLiteral(_) => Some(TEXT),
        Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => Some(COMMENT),
        _ => None,
    }
}

/// The bracket at the cursor, or just before it, and the one that it belongs to.
fn partners(tokens: &[TokenWithSpan], start: impl Fn(usize) -> usize, cursor: usize) -> Vec<usize> {
    let mut open = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen | Token::LBracket => open.push(index),
            Token::RParen | Token::RBracket => {
                let Some(partner) = open.pop() else { return Vec::new() };
                if [partner, index].iter().any(|&at| [cursor, cursor.wrapping_sub(1)].contains(&start(at))) {
                    return vec![partner, index];
                }
            }
            _ => {}
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With short marks in the place of escapes.
    fn shown(earlier: &str, line: &str, cursor: usize) -> String {
        let marks = [("1;34", "k"), ("32", "t"), ("36", "n"), ("2", "c"), ("1;35", "b")];
        let painted = painted(earlier, line, cursor).replace("\x1b[0m", ">");
        marks.iter().fold(painted, |text, (code, mark)| text.replace(&format!("\x1b[{code}m"), &format!("<{mark} ")))
    }

    #[test]
    fn words_texts_numbers_and_comments() {
        assert_eq!(shown("", "SELECT a, 'b', 12 -- c", 0), "<k SELECT> a, <t 'b'>, <n 12> <c -- c>");
        assert_eq!(shown("", "\\d select", 0), "\\d select");
        assert_eq!(shown("", "SELECT é, 'ü'", 0), "<k SELECT> é, <t 'ü'>");
    }

    #[test]
    fn what_is_open_goes_on() {
        assert_eq!(shown("", "SELECT 'open", 0), "<k SELECT> <t 'open>");
        assert_eq!(shown("SELECT 'open", "still' FROM t", 0), "<t still'> <k FROM> t");
    }

    #[test]
    fn a_bracket_shows_its_partner() {
        assert_eq!(shown("", "f(g(x))", 7), "f<b (>g(x)<b )>");
        assert_eq!(shown("", "f(g(x))", 3), "f(g<b (>x<b )>)");
        assert_eq!(shown("", "f(x", 2), "f(x");
        assert_eq!(shown("", ")", 1), ")");
    }

    mod properties {
        use proptest::prelude::*;

        proptest! {
            /// Without the escapes the line is what was typed.
            #[test]
            fn nothing_is_lost(earlier in "[a-z'(\n-]{0,12}", line in "[SELECTfrom0-9'\"()é/*$ -]{0,24}", cursor in 0usize..24) {
                let painted = super::super::painted(&earlier, &line, cursor);
                prop_assert_eq!(console::strip_ansi_codes(&painted), &*line);
            }
        }
    }
}

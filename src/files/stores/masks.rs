//! No text that anybody sees has a secret: statements are kept and shown, and errors say more than they know.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use regex::{Regex, RegexBuilder};

use super::settings::is_secret;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// Shorter ones stand in many words, and keep nothing from anybody.
const SHORTEST: usize = 6;

/// The secrets that a session has come across; clones are one and the same.
#[derive(Clone, Default)]
pub(super) struct Secrets(Arc<Mutex<BTreeSet<String>>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Secrets {
    fn add(&self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.0.lock().insert(secret.to_owned());
        }
    }

    /// The same without any of them.
    pub(super) fn masked(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // One may begin like another.
        let mut secrets: Vec<_> = self.0.lock().iter().cloned().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            // DataFusion makes small letters of endings.
            let pattern = RegexBuilder::new(&regex::escape(&secret)).case_insensitive(true).build();
            if let Some(pattern) = pattern.ok().filter(|pattern| pattern.is_match(&text)) {
                text = pattern.replace_all(&text, MASK).into_owned();
            }
        }
        text
    }

    /// Remembers a query or a connection string, and each value in it.
    pub(super) fn add_all(&self, text: &str) {
        self.add(text);
        for value in text.split(['&', ';']).filter_map(|part| Some(part.split_once('=')?.1)) {
            self.add(value);
            self.add(&percent_decode_str(value).decode_utf8_lossy());
        }
    }

    /// Remembers the secrets that stand in a statement.
    pub(super) fn add_of_statement(&self, sql: &str) {
        for piece in Statement::read(sql).pieces {
            match piece.secret {
                Some(Secret::Value(value)) => self.add_all(&value),
                Some(Secret::Address { secret, .. }) => self.add_all(&secret),
                None => {}
            }
        }
    }
}

/// The name of an option about a store.
static NAME: LazyLock<Regex> = LazyLock::new(|| {
    let text = r"(?i)^(?:format\s*\.\s*)?(?:aws|s3|google|gcp|gs|azure|az|abfs|http)\s*[._]\s*\w+$";
    Regex::new(text).expect("a pattern")
});

/// What stands before the host in an address.
static USER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)^(?<before>\w+:/+)(?<user>[^/@]*:[^/@]*)@").expect("a pattern"));

/// A statement as it may be kept and shown: without the keys in its OPTIONS, and the queries of its addresses. What is no SQL is cut
/// off: nobody knows what it was to be.
///
/// ```
/// let sql = "COPY t TO 's3://b/x' OPTIONS ('aws.secret_access_key' 'hush', 'aws.region' 'r')";
/// let shown = datafusion_embed::files::masked_statement(sql);
/// assert_eq!(shown, "COPY t TO 's3://b/x' OPTIONS ('aws.secret_access_key' '***', 'aws.region' 'r')");
/// ```
pub fn masked_statement(sql: &str) -> String {
    let Statement { pieces, rest } = Statement::read(sql);
    let mut shown = String::with_capacity(sql.len());
    for piece in &pieces {
        match &piece.secret {
            None => shown.push_str(piece.text),
            Some(Secret::Value(_)) => shown.push_str(&format!("'{MASK}'")),
            Some(Secret::Address { shown: address, .. }) => shown.push_str(&format!("'{address}'")),
        }
    }
    if !rest.trim().is_empty() {
        shown.push_str(MASK);
    }
    shown
}

/// A statement, token by token, and what could not be read of it.
struct Statement<'a> {
    pieces: Vec<Piece<'a>>,
    rest: &'a str,
}

struct Piece<'a> {
    text: &'a str,
    token: Token,
    secret: Option<Secret>,
}

enum Secret {
    Value(String),
    /// In an address, and what is shown of that.
    Address {
        secret: String,
        shown: String,
    },
}

impl<'a> Statement<'a> {
    fn read(sql: &'a str) -> Self {
        let mut tokens = Vec::new();
        // An error is the end of what can be read.
        let _ = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location_into_buf(&mut tokens);
        let mut cursor = Cursor { text: sql, byte: 0, line: 1, column: 1 };
        let mut pieces: Vec<Piece<'a>> = Vec::with_capacity(tokens.len());
        let mut end = 0;
        for token in tokens {
            let to = cursor.to(token.span.end.line, token.span.end.column);
            let text = &sql[end..to];
            end = to;
            let secret = content(&token.token).and_then(of_address);
            pieces.push(Piece { text, token: token.token, secret });
        }
        let mut statement = Self { pieces, rest: sql.get(end..).unwrap_or_default() };
        statement.find_options();
        statement
    }

    /// A name of a secret, and what stands behind it.
    fn find_options(&mut self) {
        let is_blank = |piece: &Piece<'_>| matches!(piece.token, Token::Whitespace(_));
        let places: Vec<usize> = (0..self.pieces.len()).filter(|place| !is_blank(&self.pieces[*place])).collect();
        for number in 0..places.len() {
            let word = |ahead: usize| places.get(number + ahead).and_then(|place| content(&self.pieces[*place].token));
            let has_dot = places.get(number + 1).is_some_and(|place| self.pieces[*place].token == Token::Period);
            let name = match (word(0), has_dot.then(|| word(2)).flatten()) {
                (Some(first), Some(second)) => format!("{first}.{second}"),
                (Some(name), None) => name.to_owned(),
                _ => continue,
            };
            if !NAME.is_match(&name) || !is_secret(&name) {
                continue;
            }
            let mut behind = places.iter().skip(number + if has_dot { 3 } else { 1 }).copied();
            let is_between = |place: &usize| {
                matches!(self.pieces[*place].token, Token::Eq | Token::Comma | Token::Colon | Token::DoubleEq)
            };
            if let Some(value) = behind.find(|place| !is_between(place)) {
                let text = content(&self.pieces[value].token).unwrap_or(self.pieces[value].text).to_owned();
                if !matches!(self.pieces[value].token, Token::RParen | Token::SemiColon) {
                    self.pieces[value].secret = Some(Secret::Value(text));
                }
            }
        }
    }
}

/// A place in a text, which only goes on: tokens say lines and columns, from 1, and columns are characters.
struct Cursor<'a> {
    text: &'a str,
    byte: usize,
    line: u64,
    column: u64,
}

impl Cursor<'_> {
    /// The byte of a line and a column that are not behind it.
    fn to(&mut self, line: u64, column: u64) -> usize {
        let mut letters = self.text[self.byte..].chars();
        while (self.line, self.column) < (line, column)
            && let Some(letter) = letters.next()
        {
            self.byte += letter.len_utf8();
            (self.line, self.column) = if letter == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
        }
        self.byte
    }
}

/// What a word or a text says, without quotes.
fn content(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word) => Some(&word.value),
        Token::DollarQuotedString(text) => Some(&text.value),
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::EscapedStringLiteral(text)
        | Token::UnicodeStringLiteral(text)
        | Token::NationalStringLiteral(text)
        | Token::Number(text, _) => Some(text),
        _ => None,
    }
}

/// The query of a web server's address, or a user in any.
fn of_address(text: &str) -> Option<Secret> {
    let is_web = text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http"));
    if let Some((before, query)) = text.split_once('?').filter(|_| is_web && text.contains(":/")) {
        let before = USER.replace(before, format!("${{before}}{MASK}@"));
        return Some(Secret::Address { secret: query.to_owned(), shown: format!("{before}?{MASK}") });
    }
    let found = USER.captures(text)?;
    let shown = format!("{}{MASK}@{}", &found["before"], &text[found[0].len()..]);
    Some(Secret::Address { secret: found["user"].to_owned(), shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_keeps_all_but_its_secrets() {
        let unchanged = [
            "SELECT id, embed(body) FROM 's3://b/a.parquet' WHERE key = 'secret'",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x?.csv' OPTIONS ('format.delimiter' ';', 'aws.region' 'eu')",
            "SELECT 'http://x/y' AS \"aws_key\"",
            "COPY t TO 'abfss://c@acme.dfs.core.windows.net/x'",
        ];
        for sql in unchanged {
            assert_eq!(masked_statement(sql), sql);
        }
        let masked = [
            ("OPTIONS ('aws.secret_access_key' 'it''s', 'x' 'y')", "OPTIONS ('aws.secret_access_key' '***', 'x' 'y')"),
            (
                "OPTIONS (aws.session_token 'a', s3 . sas_key = \"b\")",
                "OPTIONS (aws.session_token '***', s3 . sas_key = '***')",
            ),
            ("OPTIONS (\"aws.secret_access_key\" /* c */ E'S')", "OPTIONS (\"aws.secret_access_key\" /* c */ '***')"),
            (
                "OPTIONS ('aws.session_token' $$S$$, 'aws.sas_key' word)",
                "OPTIONS ('aws.session_token' '***', 'aws.sas_key' '***')",
            ),
            ("OPTIONS('AZURE_STORAGE_SAS_KEY' '?sig=x", "OPTIONS('AZURE_STORAGE_SAS_KEY' ***"),
            ("FROM 'https://h/a b?X-Amz-Signature=1 2&b=2' x", "FROM 'https://h/a b?***' x"),
            ("FROM 'https://ada:pw@h/a'", "FROM 'https://***@h/a'"),
            ("SELECT 'größe',\n\t'http://h/?é' -- x", "SELECT 'größe',\n\t'http://h/?***' -- x"),
        ];
        for (sql, shown) in masked {
            assert_eq!(masked_statement(sql), shown);
        }
    }

    #[test]
    fn what_was_a_secret_once_is_masked_everywhere() {
        let secrets = Secrets::default();
        secrets.add_of_statement("OPTIONS ('aws.secret_access_key' 'it''s me', 'google.service_account_key' 'abc')");
        secrets.add_of_statement("FROM 'https://h/a?sig=12345'");
        secrets.add("it's me too");
        secrets.add("");
        assert_eq!(secrets.masked("a it's me too, it's me, abc, sig=12345"), "a ***, ***, abc, ***");
    }
}

//! The variables of `\set`, and where statements have them: `:name`, `:'name'` as a text, `:"name"` as an identifier.

use std::collections::BTreeMap;

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::split::offset;

/// Variables by name.
#[derive(Debug, Default)]
pub(super) struct Variables(BTreeMap<String, String>);

impl Variables {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Whether it was there.
    pub(super) fn unset(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// All of them, as `\set` lists them.
    pub(super) fn list(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect()
    }

    /// A text with the values of those that are set; others are left as they are, as psql does: `a[1:n]` may mean a column.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut tokens = Vec::new();
        // What cannot be read is filled in up to there, and reported by whoever runs it.
        let _ = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location_into_buf(&mut tokens);
        let (mut filled, mut done) = (String::new(), 0);
        for pair in tokens.windows(2).filter(|_| !self.0.is_empty()) {
            let [colon, name] = pair else { continue };
            if colon.token != Token::Colon || colon.span.end != name.span.start {
                continue;
            }
            let value = match &name.token {
                Token::Word(word) if word.quote_style == Some('"') => {
                    self.0.get(&word.value).map(|value| format!("\"{}\"", value.replace('"', "\"\"")))
                }
                Token::Word(word) => self.0.get(&word.value).cloned(),
                Token::SingleQuotedString(name) => {
                    self.0.get(name).map(|value| format!("'{}'", value.replace('\'', "''")))
                }
                _ => None,
            };
            if let Some(value) = value {
                filled.push_str(&text[done..offset(text, colon.span.start)]);
                filled.push_str(&value);
                done = offset(text, name.span.end);
            }
        }
        filled + &text[done..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_filled_in() {
        let mut variables = Variables::default();
        assert_eq!(variables.fill("SELECT :a"), "SELECT :a");
        variables.set("a", "o'ne");
        variables.set("t", "ta\"ble");
        assert_eq!(variables.fill("SELECT :'a', :a FROM :\"t\";"), "SELECT 'o''ne', o'ne FROM \"ta\"\"ble\";");
        for same in ["SELECT 1::a, ':a', v[1:b] -- :a", "SELECT '\n:a", "SELECT : a"] {
            assert_eq!(variables.fill(same), same);
        }
        assert_eq!(variables.list(), "a = 'o'ne'\nt = 'ta\"ble'\n");
        assert!(variables.unset("a") && !variables.unset("a"));
    }
}

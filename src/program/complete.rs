//! Completion at the prompt: keywords, functions, tables, settings, files and \ commands.

use datafusion::prelude::SessionContext;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

/// Words a statement of this dialect is made of; the several hundred others of SQL would drown them.
const KEYWORDS: &str = "\
    ALL ANALYZE AND AS ASC BETWEEN BY CASE CAST COPY CREATE CROSS CSV DEALLOCATE DELETE DESC DESCRIBE DISTINCT DROP ELSE END \
    EXCEPT EXECUTE EXISTS EXPLAIN EXTERNAL FALSE FILTER FIRST FROM FULL FUNCTIONS GROUP HAVING IF IN INNER INSERT INTERSECT \
    INTO IS JOIN LAST LEFT LIKE LIMIT LOCATION NOT NULL NULLS OFFSET ON OPTIONS OR ORDER OUTER OVER PARQUET PARTITION \
    PARTITIONED PREPARE QUALIFY RECURSIVE REPLACE RESET RIGHT SELECT SET SHOW STORED TABLE TABLES THEN TO TRUE UNION UNNEST \
    UPDATE USING VALUES VERBOSE VIEW WHEN WHERE WINDOW WITH";

const COMMANDS: [&str; 9] = ["\\?", "\\d", "\\df", "\\dm", "\\format", "\\i", "\\q", "\\timing", "\\help"];

/// The names that a session knows.
#[derive(Debug, Default)]
pub(crate) struct Names {
    functions: Vec<String>,
    tables: Vec<String>,
    settings: Vec<String>,
}

impl Names {
    /// Collects them anew; cheap enough for every prompt.
    pub(crate) fn of(ctx: &SessionContext) -> Self {
        let state = ctx.state();
        let mut functions: Vec<String> = state.scalar_functions().keys().cloned().collect();
        functions.extend(state.aggregate_functions().keys().cloned());
        functions.extend(state.window_functions().keys().cloned());
        functions.extend(state.table_functions().keys().cloned());
        let settings = state.config_options().entries().into_iter().map(|entry| entry.key).collect();
        let options = &state.config_options().catalog;
        let schema = ctx.catalog(&options.default_catalog).and_then(|c| c.schema(&options.default_schema));
        let tables = schema.map(|schema| schema.table_names()).unwrap_or_default();
        Self { functions, tables, settings }
    }
}

/// What rustyline asks about a line.
pub(crate) struct SqlHelper {
    pub(crate) names: Names,
    files: FilenameCompleter,
}

impl SqlHelper {
    pub(crate) fn new(names: Names) -> Self {
        Self { names, files: FilenameCompleter::new() }
    }

    /// Words that may stand at the end of `before`, where `word` has been typed.
    fn words(&self, before: &str, word: &str) -> Vec<String> {
        let names = &self.names;
        let mut first_words = before.split_whitespace().map(str::to_ascii_uppercase);
        let first = first_words.next();
        let mut found: Vec<String> = match first.as_deref() {
            None if word.starts_with('\\') => starting_with(COMMANDS, word),
            Some("SET" | "SHOW" | "RESET") if first_words.next().is_none() => {
                let mut found = starting_with(names.settings.iter().map(String::as_str), word);
                if first.as_deref() == Some("SHOW") {
                    found.extend(
                        keywords(word)
                            .into_iter()
                            .filter(|k| ["ALL", "TABLES", "FUNCTIONS"].contains(&k.to_ascii_uppercase().as_str())),
                    );
                }
                found
            }
            Some("\\D") => starting_with(names.tables.iter().map(String::as_str), word),
            Some("\\DF") => starting_with(names.functions.iter().map(String::as_str), word),
            Some("\\FORMAT") => starting_with(["table", "csv", "tsv", "json", "ndjson"], word),
            Some("\\TIMING") => starting_with(["on", "off"], word),
            _ if word.is_empty() => Vec::new(),
            _ => {
                let mut found = keywords(word);
                found.extend(starting_with(names.tables.iter().map(String::as_str), word));
                found.extend(
                    starting_with(names.functions.iter().map(String::as_str), word).into_iter().map(|f| f + "("),
                );
                found
            }
        };
        found.sort();
        found.dedup();
        found
    }
}

/// Names that begin with `word`, whatever its case.
fn starting_with<'a>(names: impl IntoIterator<Item = &'a str>, word: &str) -> Vec<String> {
    let word = word.to_ascii_lowercase();
    names.into_iter().filter(|name| name.to_ascii_lowercase().starts_with(&word)).map(str::to_owned).collect()
}

/// Keywords in the case of the typist.
fn keywords(word: &str) -> Vec<String> {
    let lower = word.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    let found = starting_with(KEYWORDS.split_whitespace(), word);
    found.into_iter().map(|k| if lower { k.to_ascii_lowercase() } else { k }).collect()
}

/// Is the end of the text inside single quotes?
fn in_quotes(text: &str) -> bool {
    text.matches('\'').count() % 2 == 1
}

impl Completer for SqlHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        if in_quotes(typed) || typed.trim_start().starts_with("\\i ") {
            return self.files.complete_path(line, pos);
        }
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '\\' | '?');
        let start = typed.char_indices().rev().find(|(_, c)| !is_part(*c)).map_or(0, |(at, c)| at + c.len_utf8());
        let words = self.words(&typed[..start], &typed[start..]);
        let pairs = words.into_iter().map(|word| Pair { display: word.clone(), replacement: word });
        Ok((start, pairs.collect()))
    }
}

impl Hinter for SqlHelper {
    type Hint = String;
}

impl Highlighter for SqlHelper {}

impl Validator for SqlHelper {}

impl Helper for SqlHelper {}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper() -> SqlHelper {
        SqlHelper::new(Names {
            functions: vec!["embed".to_owned(), "embed_query".to_owned()],
            tables: vec!["emails".to_owned()],
            settings: vec!["embed.model".to_owned(), "embed.device".to_owned()],
        })
    }

    #[test]
    fn words_fit_their_place() {
        let helper = helper();
        assert_eq!(helper.words("", "sel"), ["select"]);
        assert_eq!(helper.words("SELECT ", "em"), ["emails", "embed(", "embed_query("]);
        assert_eq!(helper.words("set ", "embed.m"), ["embed.model"]);
        assert_eq!(helper.words("", "\\f"), ["\\format"]);
        assert_eq!(helper.words("\\d ", "e"), ["emails"]);
        assert!(helper.words("SELECT ", "").is_empty());
    }
}

//! Completion at the prompt: keywords, functions, tables and their columns, settings and their values, models, files, \ commands.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use datafusion::prelude::SessionContext;
use parking_lot::Mutex;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};
use tokio::runtime::Handle;

use super::colour;
use super::meta::COMMANDS;
use super::sources::sources;
use super::suggest::tables;

/// Words a statement of this dialect is made of; the several hundred others of SQL would drown them.
const KEYWORDS: &str = "\
    ALL ANALYZE AND AS ASC BETWEEN BY CASE CAST COPY CREATE CROSS CSV DEALLOCATE DELETE DESC DESCRIBE DISTINCT DROP ELSE END \
    EXCEPT EXECUTE EXISTS EXPLAIN EXTERNAL FALSE FILTER FIRST FROM FULL FUNCTIONS GROUP HAVING IF IN INNER INSERT INTERSECT \
    INTO IS JOIN LAST LEFT LIKE LIMIT LOCATION NOT NULL NULLS OFFSET ON OPTIONS OR ORDER OUTER OVER PARQUET PARTITION \
    PARTITIONED PREPARE QUALIFY RECURSIVE REPLACE RESET RIGHT SELECT SET SHOW STORED TABLE TABLES THEN TO TRUE UNION UNNEST \
    UPDATE USING VALUES VERBOSE VIEW WHEN WHERE WINDOW WITH";

/// How long TAB may take: columns that nobody knows by then are left out, and there the next time.
const PATIENCE: Duration = Duration::from_millis(200);

/// The names that a session knows.
#[derive(Debug, Default)]
pub(crate) struct Names {
    functions: Vec<String>,
    tables: Vec<String>,
    settings: Vec<String>,
    models: Vec<String>,
}

impl Names {
    /// Collects them anew.
    fn of(ctx: &SessionContext) -> Self {
        let state = ctx.state();
        let mut functions: Vec<String> = state.scalar_functions().keys().cloned().collect();
        functions.extend(state.aggregate_functions().keys().cloned());
        functions.extend(state.window_functions().keys().cloned());
        functions.extend(state.table_functions().keys().cloned());
        let settings = state.config_options().entries().into_iter().map(|entry| entry.key).collect();
        let tables = tables(ctx);
        let models = crate::models::known().into_iter().map(|model| model.name).collect();
        Self { functions, tables, settings, models }
    }
}

/// What rustyline asks about a line.
pub(crate) struct SqlHelper {
    ctx: SessionContext,
    runtime: Handle,
    /// Collected when TAB asks for them, once an input: models lie on the disk.
    names: OnceCell<Names>,
    files: FilenameCompleter,
    /// Columns by what stands behind FROM, as far as somebody has asked for them since the last input.
    columns: Arc<Mutex<HashMap<String, Vec<String>>>>,
    /// The lines that were typed before this one.
    earlier: String,
    has_colours: bool,
}

impl SqlHelper {
    pub(crate) fn new(ctx: SessionContext, runtime: Handle) -> Self {
        let (names, columns, has_colours) = (OnceCell::new(), Arc::default(), colour::wanted());
        Self { ctx, runtime, names, files: FilenameCompleter::new(), columns, earlier: String::new(), has_colours }
    }

    /// The session may have changed.
    pub(crate) fn refresh(&mut self) {
        self.names = OnceCell::new();
        self.columns = Arc::default();
    }

    fn names(&self) -> &Names {
        self.names.get_or_init(|| Names::of(&self.ctx))
    }

    /// Another line of an input begins.
    pub(crate) fn follow(&mut self, earlier: &str) {
        earlier.clone_into(&mut self.earlier);
    }

    /// Words that may stand at the end of `before`, where `word` has been typed.
    fn words(&self, before: &str, word: &str) -> Vec<String> {
        let names = self.names();
        let mut first_words = before.split_whitespace().map(str::to_ascii_uppercase);
        let first = first_words.next();
        let mut found: Vec<String> = match first.as_deref() {
            None if word.starts_with('\\') => {
                let commands: Vec<_> = COMMANDS.iter().map(|(name, ..)| format!("\\{name}")).collect();
                starting_with(commands.iter().map(String::as_str), word)
            }
            Some("SET") if before.contains('=') => self.values(before, word),
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
            Some("\\DF" | "\\DF+" | "\\H") => starting_with(names.functions.iter().map(String::as_str), word),
            Some("\\FORMAT") => starting_with(["table", "csv", "tsv", "json", "ndjson", "markdown"], word),
            Some("\\X") => starting_with(["on", "off", "auto"], word),
            Some("\\TIMING" | "\\PAGER") => starting_with(["on", "off"], word),
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

    /// What a setting may be: behind its name and =.
    fn values(&self, before: &str, word: &str) -> Vec<String> {
        let key = before.split('=').next().and_then(|set| set.split_whitespace().nth(1)).unwrap_or_default();
        match key.to_ascii_lowercase().as_str() {
            "embed.precision" => starting_with(["f32", "bf16", "int8"], word),
            "embed.device" => starting_with(std::iter::once("auto").chain(crate::devices()), word),
            "embed.model" => Vec::new(),
            _ => starting_with(["true", "false"], word),
        }
    }

    /// The columns of what a statement reads, of the one whose name stands before a point if there is one.
    fn columns(&self, statement: &str, word: &str) -> Vec<String> {
        let (of, word) = word.rsplit_once('.').map_or((None, word), |(of, word)| (Some(of), word));
        if word.is_empty() && of.is_none() {
            return Vec::new();
        }
        let deadline = Instant::now() + PATIENCE;
        let mut sources = sources(statement);
        sources.retain(|source| {
            of.is_none_or(|of| source.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(of)))
        });
        let columns = sources.iter().flat_map(|source| self.columns_of(&source.from, deadline)).collect::<Vec<_>>();
        let prefix = of.map_or_else(String::new, |of| format!("{of}."));
        let fitting = starting_with(columns.iter().map(String::as_str), word);
        fitting.into_iter().map(|column| format!("{prefix}{}", quoted(&column))).collect()
    }

    /// The columns of one source, if somebody knows them in time.
    fn columns_of(&self, from: &str, deadline: Instant) -> Vec<String> {
        if let Some(known) = self.columns.lock().get(from) {
            return known.clone();
        }
        // To plan a call may mean to fetch a model.
        if from.to_ascii_lowercase().contains("embed") && from.starts_with('(') {
            return Vec::new();
        }
        let (ctx, columns, from) = (self.ctx.clone(), Arc::clone(&self.columns), from.to_owned());
        let (done, hears) = channel();
        self.runtime.spawn(async move {
            let frame = ctx.sql(&format!("SELECT * FROM {from} LIMIT 0")).await;
            let names = frame.map_or_else(
                |_| Vec::new(),
                |frame| frame.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>(),
            );
            columns.lock().insert(from, names.clone());
            let _ = done.send(names);
        });
        hears.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or_default()
    }
}

/// A name as SQL reads it back.
pub(super) fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.chars().all(is_plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
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

/// What a text in quotes is, by the word before it.
#[derive(Debug, PartialEq, Eq)]
enum Quoted {
    File,
    Model,
    Text,
}

impl Quoted {
    fn behind(before: &str) -> Self {
        let before = before.trim_end();
        let word = before.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
        let is_setting = before.ends_with('=') && before.to_ascii_lowercase().contains("embed.model");
        match word.to_ascii_uppercase().as_str() {
            "FROM" | "JOIN" | "TO" | "LOCATION" | "INTO" | "DESCRIBE" => Self::File,
            _ if is_setting => Self::Model,
            // The second argument of a call.
            _ if before.ends_with(',') && before.to_ascii_lowercase().contains("embed") => Self::Model,
            _ => Self::Text,
        }
    }
}

impl Completer for SqlHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        let command = typed.split_whitespace().next().filter(|word| word.starts_with('\\'));
        let names_file = command.is_some_and(|command| ["\\i", "\\o", "\\e", "\\g", "\\look"].contains(&command));
        if names_file && typed.trim_start().contains(char::is_whitespace) {
            return self.files.complete_path(line, pos);
        }
        if command.is_none() && in_quotes(typed) {
            let open = typed.rfind('\'').unwrap_or_default();
            return match Quoted::behind(&typed[..open]) {
                Quoted::File => self.files.complete_path(line, pos),
                Quoted::Model => Ok((
                    open + 1,
                    pairs(starting_with(self.names().models.iter().map(String::as_str), &typed[open + 1..])),
                )),
                Quoted::Text => Ok((pos, Vec::new())),
            };
        }
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '\\' | '?' | '+' | '!');
        let start = typed.char_indices().rev().find(|(_, c)| !is_part(*c)).map_or(0, |(at, c)| at + c.len_utf8());
        let mut words = self.words(&typed[..start], &typed[start..]);
        if command.is_none() {
            words.splice(0..0, self.columns(&format!("{}\n{line}", self.earlier), &typed[start..]));
        } else if command == Some("\\d") && words.is_empty() {
            return self.files.complete_path(line, pos);
        }
        Ok((start, pairs(words)))
    }
}

fn pairs(words: Vec<String>) -> Vec<Pair> {
    words.into_iter().map(|word| Pair { display: word.clone(), replacement: word }).collect()
}

impl Hinter for SqlHelper {
    type Hint = String;
}

impl Highlighter for SqlHelper {
    fn highlight<'l>(&self, line: &'l str, pos: usize) -> Cow<'l, str> {
        if self.has_colours { colour::painted(&self.earlier, line, pos) } else { Cow::Borrowed(line) }
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        self.has_colours
    }
}

impl Validator for SqlHelper {}

impl Helper for SqlHelper {}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(runtime: &tokio::runtime::Runtime) -> SqlHelper {
        let mut helper = SqlHelper::new(SessionContext::new(), runtime.handle().clone());
        helper.names = OnceCell::from(Names {
            functions: vec!["embed".to_owned(), "embed_query".to_owned()],
            tables: vec!["emails".to_owned()],
            settings: vec!["embed.model".to_owned(), "embed.device".to_owned()],
            models: vec!["some/model".to_owned()],
        });
        helper
    }

    #[test]
    fn words_fit_their_place() {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let helper = helper(&runtime);
        assert_eq!(helper.words("", "sel"), ["select"]);
        assert_eq!(helper.words("SELECT ", "em"), ["emails", "embed(", "embed_query("]);
        assert_eq!(helper.words("set ", "embed.m"), ["embed.model"]);
        assert_eq!(helper.words("SET embed.precision = ", ""), ["bf16", "f32", "int8"]);
        assert_eq!(helper.words("SET embed.truncate = ", "t"), ["true"]);
        assert_eq!(helper.words("", "\\f"), ["\\format"]);
        assert_eq!(helper.words("\\d ", "e"), ["emails"]);
        assert!(helper.words("SELECT ", "").is_empty());
    }

    #[test]
    fn columns_of_what_is_read() {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let helper = helper(&runtime);
        runtime.block_on(async {
            let made = helper.ctx.sql("CREATE TABLE emails AS SELECT 1 AS id, 'a' AS body, 'b' AS \"Big\"").await;
            made.expect("planned").collect().await.expect("made");
        });
        // However long a busy machine takes.
        let columns = |statement: &str, word: &str| {
            (0..50).map(|_| helper.columns(statement, word)).find(|found| !found.is_empty()).unwrap_or_default()
        };
        assert_eq!(columns("SELECT bo FROM emails", "bo"), ["body"]);
        assert_eq!(columns("SELECT b FROM emails", "b"), ["body", "\"Big\""]);
        assert_eq!(columns("SELECT e. FROM emails AS e", "e."), ["e.id", "e.body", "e.\"Big\""]);
        assert_eq!(columns("WITH c AS (SELECT 1 AS one) SELECT o FROM c", "o"), ["one"]);
        assert!(helper.columns("SELECT x. FROM emails AS e", "x.").is_empty());
        assert!(helper.columns("SELECT bo FROM nosuch", "bo").is_empty());
    }

    #[test]
    fn texts_in_quotes() {
        assert_eq!(Quoted::behind("SELECT a FROM "), Quoted::File);
        assert_eq!(Quoted::behind("COPY t TO"), Quoted::File);
        assert_eq!(Quoted::behind("SET embed.model = "), Quoted::Model);
        assert_eq!(Quoted::behind("SELECT embed(body, "), Quoted::Model);
        assert_eq!(Quoted::behind("SELECT embed("), Quoted::Text);
    }
}

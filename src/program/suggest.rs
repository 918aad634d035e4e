//! What somebody may have meant: names that are near the one that is not there, and the ways of others to say a thing.

use std::fs;
use std::path::Path;

use datafusion::prelude::SessionContext;

use super::failure::Failure;
use super::messages::HABITS;
use super::near::{did_you_mean, nearest};
use crate::files::{FileKind, expand_home};
use crate::models;

impl Failure {
    /// Adds what was probably meant.
    pub(super) fn with_suggestion(self, ctx: &SessionContext, statement: &str) -> Self {
        self.map(|message| match window_function(&message, ctx) {
            Some(said) => said,
            None => with_hint(message, ctx, statement),
        })
    }
}

/// A window function without its window is none that there is not.
fn window_function(message: &str, ctx: &SessionContext) -> Option<String> {
    let name = message.strip_prefix("no function \"")?.split('"').next()?;
    let is_known = ctx.state().window_functions().contains_key(name);
    is_known.then(|| format!("{name} is a window function: {name}(...) OVER (ORDER BY ...)"))
}

fn with_hint(message: String, ctx: &SessionContext, statement: &str) -> String {
    match habit(&message, statement).or_else(|| meant(&message, ctx, statement)) {
        Some(suggestion) => format!("{message}; {suggestion}"),
        None => message,
    }
}

fn habit(message: &str, statement: &str) -> Option<String> {
    let first = statement.split_whitespace().next()?.to_ascii_uppercase();
    let fits = |(verb, found, _): &&(&str, &str, &str)| first == *verb && message.contains(found);
    HABITS.iter().filter(|_| message.starts_with("syntax error")).find(fits).map(|(.., way)| (*way).to_owned())
}

fn meant(message: &str, ctx: &SessionContext, statement: &str) -> Option<String> {
    let near = |name: &str, names: Vec<String>| nearest(name, names).map(|near| did_you_mean(&near));
    let unknown = |kind: &str| quoted(message, &format!("{kind} \""), "\" not found");
    if let Some(name) = unknown("table").or_else(|| unknown("view")) {
        return near(name, tables(ctx));
    }
    if let Some(name) = quoted(message, "no table function \"", "\"") {
        return near(name, ctx.state().table_functions().keys().cloned().collect());
    }
    if let Some(path) = unknown("file") {
        return file_nearby(path);
    }
    // A file whose name is not in quotes is a schema and a table.
    if let Some(name) = quoted(message, "table 'datafusion.", "' not found") {
        return FileKind::of(name).map(|_| format!("the name of a file stands in quotes: '{name}'"));
    }
    if message.starts_with("no setting \"") || message.starts_with("setting \"") {
        // SET, RESET or SHOW, and the name.
        let name = statement.split(|c: char| c.is_whitespace() || c == '=').filter(|word| !word.is_empty()).nth(1)?;
        return near(name, ctx.state().config_options().entries().into_iter().map(|entry| entry.key).collect());
    }
    if let Some((_, rest)) = message.split_once("model \"")
        && let Some((name, _)) = rest.split_once("\" not found (not a bundled name")
    {
        let known = models::known().into_iter().map(|model| model.name);
        let short = |name: String| [name.rsplit('/').next().unwrap_or_default().to_owned(), name];
        return near(name, known.flat_map(short).collect());
    }
    // In PostgreSQL too double quotes are for names.
    let name = message.strip_prefix("no column \"")?.split('"').next()?;
    let is_quoted = statement.contains(&format!("\"{name}\"")) && !message.contains("did you mean");
    is_quoted.then(|| format!("a text stands in single quotes: '{name}'"))
}

/// A file of the same folder.
fn file_nearby(path: &str) -> Option<String> {
    let path = expand_home(path);
    let (folder, file) = (Path::new(&*path).parent()?, Path::new(&*path).file_name()?.to_str()?);
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let files = fs::read_dir(here).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    nearest(file, files).map(|near| did_you_mean(&folder.join(near).display().to_string()))
}

fn quoted<'a>(message: &'a str, before: &str, after: &str) -> Option<&'a str> {
    message.strip_prefix(before)?.strip_suffix(after)
}

/// The tables that a name without a schema means.
pub(super) fn tables(ctx: &SessionContext) -> Vec<String> {
    let state = ctx.state();
    let options = &state.config_options().catalog;
    let schema = ctx.catalog(&options.default_catalog).and_then(|catalog| catalog.schema(&options.default_schema));
    schema.map(|schema| schema.table_names()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_of_others() {
        let said = |statement: &str, message: &str| match Failure::Statement(message.to_owned())
            .with_suggestion(&SessionContext::new(), statement)
        {
            Failure::Statement(said) => said[message.len()..].to_owned(),
            _ => String::new(),
        };
        let message = "syntax error: Expected: end of statement or ;, found: ( at Line: 1, Column: 24";
        assert!(said("COPY t TO 'x' (FORMAT parquet)", message).contains("STORED AS PARQUET"));
        assert_eq!(said("SELECT 1 (", message), "");
        assert_eq!(
            said("SELECT * FROM a.csv", "table 'datafusion.a.csv' not found"),
            "; the name of a file stands in quotes: 'a.csv'"
        );
        assert_eq!(said("SELECT * FROM a.b", "table 'datafusion.a.b' not found"), "");
    }
}

//! What somebody may have meant: names that are near the one that is not there, and the ways of others to say a thing.

use std::fs;
use std::path::Path;

use datafusion::common::utils::datafusion_strsim::normalized_levenshtein;
use datafusion::prelude::SessionContext;

use super::failure::Failure;
use crate::files::{FileKind, expand_home};

/// How near a name must be, from 0 to 1.
const NEAR: f64 = 0.6;

/// What is written here instead of what a syntax error stumbled over; the texts are those of sqlparser 0.62.
const HABITS: [(&str, &str, &str); 3] = [
    (
        "COPY",
        "found: (",
        "options are written so: COPY ... TO 'file.parquet' STORED AS PARQUET OPTIONS ('key' 'value')",
    ),
    ("COPY", "found: STDOUT", "a query writes to standard output, in the format that --format says"),
    ("COPY", "found: FROM", "a file is read so: INSERT INTO table SELECT * FROM 'file.csv'"),
];

impl Failure {
    /// Adds what was probably meant.
    pub(super) fn with_suggestion(self, ctx: &SessionContext, statement: &str) -> Self {
        match self {
            Self::Statement(message) => {
                let suggestion = habit(&message, statement).or_else(|| meant(&message, ctx));
                Self::Statement(
                    suggestion.map_or_else(|| message.clone(), |suggestion| format!("{message}; {suggestion}")),
                )
            }
            other => other,
        }
    }
}

fn habit(message: &str, statement: &str) -> Option<String> {
    let first = statement.split_whitespace().next()?.to_ascii_uppercase();
    let fits = |(verb, found, _): &&(&str, &str, &str)| first == *verb && message.contains(found);
    HABITS.iter().filter(|_| message.starts_with("syntax error")).find(fits).map(|(.., way)| (*way).to_owned())
}

fn meant(message: &str, ctx: &SessionContext) -> Option<String> {
    if let Some(name) = quoted(message, "table \"", "\" not found") {
        return nearest(name, tables(ctx)).map(did_you_mean);
    }
    if let Some(name) = quoted(message, "file \"", "\" not found") {
        let path = expand_home(name);
        let (folder, file) = (Path::new(&*path).parent()?, Path::new(&*path).file_name()?.to_str()?);
        let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let files = fs::read_dir(here).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let near = nearest(file, files)?;
        return Some(did_you_mean(folder.join(near).display().to_string()));
    }
    // A file whose name is not in quotes is a schema and a table.
    let name = quoted(message, "table 'datafusion.", "' not found")?;
    FileKind::of(name).map(|_| format!("the name of a file stands in quotes: '{name}'"))
}

fn did_you_mean(name: String) -> String {
    format!("did you mean {name:?}?")
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

/// The name that is most like another, if one is like it at all.
fn nearest(name: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let likeness = |other: &String| normalized_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    let near = names.into_iter().map(|other| (likeness(&other), other)).filter(|(likeness, _)| *likeness >= NEAR);
    near.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near() {
        let names = || ["emails", "orders"].map(str::to_owned);
        assert_eq!(nearest("email", names()).as_deref(), Some("emails"));
        assert_eq!(nearest("Emials", names()).as_deref(), Some("emails"));
        assert_eq!(nearest("x", names()), None);
    }

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

//! What `\df` and `\h` say of functions.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::logical_expr::Documentation;
use datafusion::prelude::SessionContext;

use textwrap::{Options, fill};

use super::failure::Failure;

/// What is known of a function.
struct Known {
    name: String,
    kind: &'static str,
    documentation: Option<Documentation>,
}

impl Known {
    /// All functions of a session, by name.
    fn all(ctx: &SessionContext) -> Vec<Self> {
        let state = ctx.state();
        let known = |kind, name: &String, documentation: Option<&Documentation>| Self {
            name: name.clone(),
            kind,
            documentation: documentation.cloned(),
        };
        let mut all: Vec<_> =
            state.scalar_functions().iter().map(|(name, f)| known("scalar", name, f.documentation())).collect();
        all.extend(state.aggregate_functions().iter().map(|(name, f)| known("aggregate", name, f.documentation())));
        all.extend(state.window_functions().iter().map(|(name, f)| known("window", name, f.documentation())));
        all.extend(state.table_functions().keys().map(|name| known("table", name, None)));
        all.sort_by(|a, b| (&a.name, a.kind).cmp(&(&b.name, b.kind)));
        all
    }

    fn syntax(&self) -> String {
        let syntax =
            self.documentation.as_ref().map(|known| known.syntax_example.trim()).filter(|syntax| !syntax.is_empty());
        // A table function that is not documented has no arguments here.
        let otherwise = || format!("{}({})", self.name, if self.kind == "table" { "" } else { "..." });
        syntax.map_or_else(otherwise, str::to_owned)
    }

    fn description(&self) -> &str {
        self.documentation.as_ref().map_or("", |known| known.description.trim())
    }
}

/// The functions of the session whose name matches a pattern, where * stands for anything; with their description if that is asked for.
pub(super) fn list(ctx: &SessionContext, pattern: &str, with_description: bool) -> Result<RecordBatch, Failure> {
    let known: Vec<_> = Known::all(ctx).into_iter().filter(|known| matches_pattern(&known.name, pattern)).collect();
    let column =
        |value: &dyn Fn(&Known) -> String| Arc::new(StringArray::from_iter_values(known.iter().map(value))) as ArrayRef;
    let mut columns = vec![
        ("name", column(&|known| known.name.clone())),
        ("kind", column(&|known| known.kind.to_owned())),
        ("syntax", column(&|known| known.syntax())),
    ];
    if with_description {
        columns.push(("description", column(&|known| known.description().to_owned())));
    }
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// What a function is for, as far as it says, in lines of a width but for its example; `None` where there is none of that name.
pub(super) fn help(ctx: &SessionContext, name: &str, width: usize) -> Option<String> {
    let fill = |text: String| fill(&text, Options::new(width).subsequent_indent("  "));
    let name = name.trim_end_matches("()").to_ascii_lowercase();
    let mut text = String::new();
    for known in Known::all(ctx).into_iter().filter(|known| known.name == name) {
        let (head, description) =
            (format!("{} ({} function)", known.syntax(), known.kind), known.description().to_owned());
        text.push_str(&format!("{}\n{}\n", fill(head), fill(description)));
        for (argument, what) in known.documentation.iter().filter_map(|known| known.arguments.as_ref()).flatten() {
            text.push_str(&format!("{}\n", fill(format!("  {argument}: {}", what.trim()))));
        }
        if let Some(example) = known.documentation.as_ref().and_then(|known| known.sql_example.as_ref()) {
            text.push_str(&format!("{}\n", example.trim().trim_matches('`').trim_start_matches("sql").trim()));
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Does a name match a pattern, where * stands for anything?
fn matches_pattern(name: &str, pattern: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let mut parts = pattern.split(['*', '%']);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut exact = !pattern.is_empty();
    for part in parts {
        exact = !part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    !exact || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(matches_pattern("embed_query", ""));
        assert!(matches_pattern("embed_query", "embed*"));
        assert!(matches_pattern("embed_query", "*query"));
        assert!(!matches_pattern("embed_query", "embed"));
        assert!(!matches_pattern("embed_query", "*embed"));
    }
}

//! `read_text(files)` and `read_lines(files)`: files of plain text as rows.

use std::sync::Arc;

use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;

use crate::files::{Documents, Row};
use crate::options::parse_size;

/// Bytes of a file that `read_text` takes for a text unless more is said.
const MOST_BYTES: u64 = 64 << 20;

/// The table functions of plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadText {
    /// `read_text('docs/**/*.md' [, '64M'])`: a row `path, text` for each file.
    Files,
    /// `read_lines('logs/*.txt')`: a row `path, line, text` for each line.
    Lines,
}

impl ReadText {
    /// What it is called in SQL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Files => "read_text",
            Self::Lines => "read_lines",
        }
    }
}

impl TableFunctionImpl for ReadText {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let texts: Option<Vec<String>> = args.exprs().iter().map(literal).collect();
        let row = match (self, texts.as_deref()) {
            (Self::Files, Some([_])) => Row::File { most: MOST_BYTES },
            (Self::Files, Some([_, most])) => Row::File { most: parse_size(most)? as u64 },
            (Self::Lines, Some([_])) => Row::Line,
            (Self::Files, _) => {
                return plan_err!(
                    "read_text takes the name of files and, if wanted, the most bytes of one: read_text('docs/**/*.md', '64M')"
                );
            }
            (Self::Lines, _) => return plan_err!("read_lines takes the name of files: read_lines('logs/*.txt')"),
        };
        let files = texts.and_then(|texts| texts.into_iter().next()).unwrap_or_default();
        Ok(Arc::new(Documents::new(&files, row)?))
    }
}

/// A text or a whole number.
fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(number)), _) => Some(number.to_string()),
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    }
}

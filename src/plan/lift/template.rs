//! What an expression does, apart from the texts that it does it to: whether the inputs of a union do the same.

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;

use crate::plan::calls::{parts, with_text};

/// An expression of calls and constants: what it does, and the texts that it does it to.
pub(super) struct Template {
    /// Texts are columns of the table [`TEXTS`], named by their number.
    pub(super) shape: Expr,
    pub(super) texts: Vec<Expr>,
}

/// No query has a table of this name: it is an empty one.
const TEXTS: &str = "";

impl Template {
    /// `None` if the expression has columns outside its texts.
    pub(super) fn of(expr: Expr) -> Option<Self> {
        let mut texts = Vec::new();
        let shape = expr.transform_down(|expr| {
            let Some((_, text, _)) = parts(&expr) else { return Ok(Transformed::no(expr)) };
            let place = Expr::Column(Column::new(Some(TEXTS), texts.len().to_string()));
            let call = with_text(&expr, place);
            texts.push(text.clone());
            Ok(Transformed::new(call, true, TreeNodeRecursion::Jump))
        });
        let shape = shape.ok()?.data;
        shape.column_refs().into_iter().all(is_text).then_some(Self { shape, texts })
    }

    /// The expression on columns of these names.
    pub(super) fn filled(&self, names: &[String]) -> Result<Expr> {
        let filled = self.shape.clone().transform(|expr| {
            Ok(match named_text(&expr, names) {
                Some(name) => Transformed::yes(Expr::Column(Column::new_unqualified(name))),
                None => Transformed::no(expr),
            })
        });
        filled.map(|expr| expr.data)
    }

    /// The texts under these names.
    pub(super) fn texts_as(self, names: &[String]) -> Vec<Expr> {
        self.texts.into_iter().zip(names).map(|(text, name)| text.alias(name)).collect()
    }
}

fn is_text(column: &Column) -> bool {
    column.relation.as_ref().is_some_and(|table| table.table() == TEXTS)
}

/// The name for a text of a shape.
fn named_text<'a>(expr: &Expr, names: &'a [String]) -> Option<&'a String> {
    let Expr::Column(column) = expr else { return None };
    names.get(column.name.parse::<usize>().ok()?)
}

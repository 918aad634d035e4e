//! Sort: keys with a call are computed once, into a column; everything else stays late, behind LIMIT and top-k.
//!
//! ```text
//! sort
//!     SELECT id, embed(title) AS e FROM docs ORDER BY cosine_similarity(embed(title), embed(body)) LIMIT 5
//! before
//!     Projection: docs.id, e
//!       Sort: cosine_similarity(e, embed(docs.body)) ASC NULLS LAST, fetch=5
//!         Projection: docs.id, embed(docs.title) AS e, docs.body
//!           TableScan: docs projection=[id, title, body]
//! after
//!     Projection: docs.id, __embed_1 AS e
//!       Sort: __embed_3 ASC NULLS LAST, fetch=5
//!         Projection: docs.id, __embed_1, cosine_similarity(__embed_1, __embed_2) AS __embed_3
//!           Embed: embed(__embed_0) AS __embed_1, embed(docs.body) AS __embed_2
//!             Projection: docs.id, docs.body, docs.title AS __embed_0
//!               TableScan: docs projection=[id, title, body]
//! ```

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Sort};

use super::columns::with_columns;
use super::lifted::Lifted;
use super::lifter::Lifter;
use crate::plan::calls::has_call;

impl Lifter {
    pub(super) fn sort(&mut self, mut sort: Sort, mut input: Lifted) -> Result<Lifted> {
        let (mut keys, mut computed) = (Vec::new(), Vec::new());
        for key in &mut sort.expr {
            key.expr = input.resolve(std::mem::take(&mut key.expr))?;
            if has_call(&key.expr) {
                let expr = self.compute_one(&mut input, key.expr.clone())?;
                let column = Column::new_unqualified(self.name());
                let resolved = std::mem::replace(&mut key.expr, Expr::Column(column.clone()));
                keys.push((column.clone(), expr));
                computed.push((resolved, column));
            }
        }
        // Ahead of their calls: the larger expression is to be found first.
        input.computed.splice(..0, computed);
        let sorted = Arc::new(with_columns(input.plan, keys)?);
        input.plan = LogicalPlan::Sort(Sort { input: sorted, ..sort });
        Ok(input)
    }
}

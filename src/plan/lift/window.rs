//! Window: passes late columns on; what its functions need runs below.
//!
//! ```text
//! window
//!     SELECT embed(title) AS e, count(embed(body)) OVER () AS vectors FROM docs
//! before
//!     Projection: embed(docs.title) AS e, count(embed(docs.body)) ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING AS vectors
//!       WindowAggr: windowExpr=[[count(embed(docs.body)) ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING]]
//!         TableScan: docs projection=[title, body]
//! after
//!     Projection: __embed_2 AS e, vectors
//!       Embed: embed(__embed_1) AS __embed_2
//!         Projection: count(embed(docs.body)) ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING AS vectors, docs.title AS __embed_1
//!           WindowAggr: windowExpr=[[count(__embed_0) ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING AS count(embed(docs.body)) ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING]]
//!             Projection: docs.title, __embed_0
//!               Embed: embed(docs.body) AS __embed_0
//!                 TableScan: docs projection=[title, body]
//! ```

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, Window};

use super::columns::column_at;
use super::lifted::Lifted;
use super::lifter::Lifter;

impl Lifter {
    pub(super) fn window(&mut self, window: Window, mut input: Lifted) -> Result<Lifted> {
        let first = window.schema.fields().len() - window.window_expr.len();
        let mut exprs = Vec::with_capacity(window.window_expr.len());
        for (position, expr) in window.window_expr.into_iter().enumerate() {
            exprs.push(self.compute_named(&mut input, expr, &column_at(&window.schema, first + position))?);
        }
        input.plan = LogicalPlan::Window(Window::try_new(exprs, Arc::new(input.plan))?);
        Ok(input)
    }
}

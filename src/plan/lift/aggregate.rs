//! Aggregate: `first_value` and `last_value` of a vector pick its text, and so does DISTINCT ON; other arguments run below.
//!
//! ```text
//! first_value
//!     SELECT grp, first_value(embed(body) ORDER BY id) AS e FROM docs GROUP BY grp
//! before
//!     Projection: docs.grp, first_value(embed(docs.body)) ORDER BY [docs.id ASC NULLS LAST] AS e
//!       Aggregate: groupBy=[[docs.grp]], aggr=[[first_value(embed(docs.body)) ORDER BY [docs.id ASC NULLS LAST]]]
//!         TableScan: docs projection=[id, grp, body]
//! after
//!     Projection: docs.grp, __embed_2 AS e
//!       Embed: embed(__embed_1) AS __embed_2
//!         Projection: docs.grp, __embed_0 AS __embed_1
//!           Aggregate: groupBy=[[docs.grp]], aggr=[[first_value(docs.body) ORDER BY [docs.id ASC NULLS LAST] AS __embed_0]]
//!             TableScan: docs projection=[id, grp, body]
//! ```
//!
//! ```text
//! DISTINCT ON
//!     SELECT DISTINCT ON (grp) embed(body) AS e FROM docs ORDER BY grp, id
//! before
//!     Projection: first_value(e) ORDER BY [docs.grp ASC NULLS LAST, docs.id ASC NULLS LAST] AS e
//!       Sort: docs.grp ASC NULLS LAST
//!         Aggregate: groupBy=[[docs.grp]], aggr=[[first_value(embed(docs.body) AS e) ORDER BY [docs.grp ASC NULLS LAST, docs.id ASC NULLS LAST]]]
//!           TableScan: docs projection=[id, grp, body]
//! after
//!     Projection: __embed_2 AS e
//!       Embed: embed(__embed_1) AS __embed_2
//!         Projection: __embed_0 AS __embed_1
//!           Sort: docs.grp ASC NULLS LAST
//!             Aggregate: groupBy=[[docs.grp]], aggr=[[first_value(docs.body) ORDER BY [docs.grp ASC NULLS LAST, docs.id ASC NULLS LAST] AS __embed_0]]
//!               TableScan: docs projection=[id, grp, body]
//! ```
//!
//! ```text
//! aggregate
//!     SELECT max(cosine_similarity(embed(title), embed(body))) AS most FROM docs GROUP BY grp
//! before
//!     Projection: max(cosine_similarity(embed(docs.title),embed(docs.body))) AS most
//!       Aggregate: groupBy=[[docs.grp]], aggr=[[max(cosine_similarity(embed(docs.title), embed(docs.body)))]]
//!         TableScan: docs projection=[grp, title, body]
//! after
//!     Projection: max(cosine_similarity(embed(docs.title),embed(docs.body))) AS most
//!       Aggregate: groupBy=[[docs.grp]], aggr=[[max(cosine_similarity(__embed_0, __embed_1)) AS max(cosine_similarity(embed(docs.title),embed(docs.body)))]]
//!         Projection: docs.grp, __embed_0, __embed_1
//!           Embed: embed(docs.title) AS __embed_0, embed(docs.body) AS __embed_1
//!             TableScan: docs projection=[grp, title, body]
//! ```

use std::sync::Arc;

use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

use super::columns::column_at;
use super::lifted::Lifted;
use super::lifter::Lifter;
use crate::plan::calls::{has_call, late_part, parts, with_text};

impl Lifter {
    pub(super) fn aggregate(&mut self, aggregate: Aggregate, mut input: Lifted) -> Result<Lifted> {
        let Aggregate { group_expr, aggr_expr, schema, .. } = aggregate;
        let groups = schema.fields().len() - aggr_expr.len();
        let group_exprs = self.group_keys(group_expr, &schema, &mut input)?;
        let (mut aggregates, mut late) = (Vec::with_capacity(aggr_expr.len()), Vec::new());
        for (position, expr) in aggr_expr.into_iter().enumerate() {
            let column = column_at(&schema, groups + position);
            if let Some((picked, call)) = self.pick_text(&input, &expr)? {
                late.push((column, call));
                aggregates.push(picked);
            } else {
                aggregates.push(self.compute_named(&mut input, expr, &column)?);
            }
        }
        let plan = Aggregate::try_new(Arc::new(input.plan), group_exprs, aggregates)?;
        Ok(Lifted { late, ..Lifted::complete(LogicalPlan::Aggregate(plan)) })
    }

    fn group_keys(&mut self, keys: Vec<Expr>, schema: &DFSchema, input: &mut Lifted) -> Result<Vec<Expr>> {
        let mut computed = Vec::with_capacity(keys.len());
        for (position, key) in keys.into_iter().enumerate() {
            computed.push(match key {
                // Its columns are named by what is in it.
                Expr::GroupingSet(_) => self.compute_one(input, key)?,
                _ => self.compute_named(input, key, &column_at(schema, position))?,
            });
        }
        Ok(computed)
    }

    /// `first_value(embed(x))` -> `first_value(x)` and the call on its result: NULL exactly where x is NULL, `embed`
    /// changes neither which row is picked nor which are ignored.
    fn pick_text(&mut self, input: &Lifted, expr: &Expr) -> Result<Option<(Expr, Expr)>> {
        let Some(AggregateFunction { func, params }) = picking(expr) else { return Ok(None) };
        let argument = input.resolve(params.args[0].clone())?;
        let Some(call) = late_part(&argument) else { return Ok(None) };
        let Some((_, text, _)) = parts(call) else { return Ok(None) };
        let mut params = params.clone();
        params.args = vec![text.clone()];
        let others = params.order_by.iter().map(|key| &key.expr).chain(params.filter.as_deref());
        for other in others {
            if has_call(&input.resolve(other.clone())?) {
                return Ok(None);
            }
        }
        let name = self.name();
        let picked = Expr::AggregateFunction(AggregateFunction { func: Arc::clone(func), params }).alias(&name);
        Ok(Some((picked, with_text(call, Expr::Column(Column::new_unqualified(name))))))
    }
}

/// The function, if it gives its argument of one row.
fn picking(expr: &Expr) -> Option<&AggregateFunction> {
    match expr {
        Expr::Alias(alias) => picking(&alias.expr),
        Expr::AggregateFunction(function) => {
            let picks = matches!(function.func.name(), "first_value" | "last_value");
            (picks && !function.params.distinct && function.params.args.len() == 1).then_some(function)
        }
        _ => None,
    }
}

//! Subquery alias: passes late columns on, under the alias.
//!
//! ```text
//! subquery alias
//!     SELECT id, d.e FROM (SELECT id, embed(body) AS e FROM docs LIMIT 5) AS d WHERE id > 3
//! before
//!     SubqueryAlias: d
//!       Projection: docs.id, embed(docs.body) AS e
//!         Filter: docs.id > Int64(3)
//!           Limit: skip=0, fetch=5
//!             TableScan: docs projection=[id, body], fetch=5
//! after
//!     Projection: d.id, __embed_1 AS e
//!       Embed: embed(d.__embed_0) AS __embed_1
//!         SubqueryAlias: d
//!           Projection: docs.id, docs.body AS __embed_0
//!             Filter: docs.id > Int64(3)
//!               Limit: skip=0, fetch=5
//!                 TableScan: docs projection=[id, body], fetch=5
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, SubqueryAlias};

use super::columns::columns_of;
use super::lifted::Lifted;
use super::lifter::Lifter;

impl Lifter {
    /// `before` has the columns that the input had before it was lifted.
    pub(super) fn subquery_alias(
        &mut self,
        alias: &SubqueryAlias,
        before: &DFSchema,
        mut input: Lifted,
    ) -> Result<Lifted> {
        let wanted = renaming(before, &alias.schema);
        let (mut plan, mut names) = aliased(&input.plan, alias)?;
        if names.iter().any(|(old, new)| wanted.get(old).is_some_and(|wanted| wanted != new)) {
            self.restrict_by_deferred(&mut input)?;
            input = Lifted::complete(self.complete(input, before)?);
            (plan, names) = aliased(&input.plan, alias)?;
        }
        names.extend(input.late.iter().filter_map(|(late, _)| Some((late.clone(), wanted.get(late)?.clone()))));
        input.renamed(plan, &names)
    }
}

/// A plan under an alias, and what its columns are called then.
fn aliased(plan: &LogicalPlan, alias: &SubqueryAlias) -> Result<(LogicalPlan, HashMap<Column, Column>)> {
    let aliased = SubqueryAlias::try_new(Arc::new(plan.clone()), alias.alias.clone())?;
    let names = renaming(plan.schema(), &aliased.schema);
    Ok((LogicalPlan::SubqueryAlias(aliased), names))
}

/// From columns to columns by position: an alias gives columns of equal names other ones.
fn renaming(from: &DFSchema, to: &DFSchema) -> HashMap<Column, Column> {
    columns_of(from).into_iter().zip(columns_of(to)).collect()
}

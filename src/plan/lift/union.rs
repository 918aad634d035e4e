//! Union: a column that is late in all inputs by the same expression is late above, its texts side by side.
//!
//! ```text
//! union
//!     SELECT id, embed(body) AS e FROM docs UNION ALL SELECT id, embed(note) FROM notes
//! before
//!     Union
//!       Projection: docs.id, embed(docs.body) AS e
//!         TableScan: docs projection=[id, body]
//!       Projection: notes.id, embed(notes.note) AS e
//!         TableScan: notes projection=[id, note]
//! after
//!     Projection: id, __embed_3 AS e
//!       Embed: embed(__embed_2) AS __embed_3
//!         Union
//!           Projection: docs.id, docs.body AS __embed_2
//!             TableScan: docs projection=[id, body]
//!           Projection: notes.id, notes.note AS __embed_2
//!             TableScan: notes projection=[id, note]
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchemaRef;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Union, cast};

use super::columns::{as_exprs, column_at, named_as, project};
use super::lifted::Lifted;
use super::lifter::Lifter;
use super::template::Template;

/// An input of a union, and its columns before it was lifted.
pub(super) struct UnionInput {
    pub(super) lifted: Lifted,
    pub(super) before: DFSchemaRef,
}

impl UnionInput {
    /// What the late column of a position does; `None` for a column that is not late.
    fn template(&self, position: usize) -> Option<Template> {
        let column = column_at(&self.before, position);
        let (_, expr) = self.lifted.late.iter().find(|(late, _)| *late == column)?;
        Template::of(self.lifted.resolve(expr.clone()).ok()?)
    }
}

impl Lifter {
    pub(super) fn union(&mut self, union: &Union, inputs: Vec<UnionInput>) -> Result<Lifted> {
        let (mut kept, mut late) = (Vec::new(), Vec::new());
        let mut texts = vec![Vec::new(); inputs.len()];
        for position in 0..union.schema.fields().len() {
            match self.late_in_all(&inputs, position, &mut texts)? {
                Some(expr) => late.push((column_at(&union.schema, position), expr)),
                None => kept.push(position),
            }
        }
        let mut projected = Vec::with_capacity(inputs.len());
        for (UnionInput { mut lifted, before }, texts) in inputs.into_iter().zip(texts) {
            let columns: Vec<_> = kept.iter().map(|&position| column_at(&before, position)).collect();
            let mut exprs = named_as(self.compute(&mut lifted, as_exprs(&columns))?, &columns);
            exprs.extend(texts);
            projected.push((exprs, lifted.plan));
        }
        same_types(&mut projected, kept.len())?;
        let inputs = projected.into_iter().map(|(exprs, plan)| project(exprs, plan).map(Arc::new));
        let plan = LogicalPlan::Union(Union::try_new(inputs.collect::<Result<_>>()?)?);
        Ok(Lifted { late, ..Lifted::complete(plan) })
    }

    /// The expression of a column that is late in every input by the same expression of different texts. Each input's texts
    /// get the texts of this column.
    fn late_in_all(&mut self, inputs: &[UnionInput], position: usize, texts: &mut [Vec<Expr>]) -> Result<Option<Expr>> {
        let templates: Option<Vec<_>> = inputs.iter().map(|input| input.template(position)).collect();
        let Some((first, others)) = templates.as_deref().and_then(<[_]>::split_first) else { return Ok(None) };
        if others.iter().any(|template| template.shape != first.shape) {
            return Ok(None);
        }
        let names: Vec<_> = first.texts.iter().map(|_| self.name()).collect();
        let expr = first.filled(&names)?;
        for (texts, template) in texts.iter_mut().zip(templates.into_iter().flatten()) {
            texts.extend(template.texts_as(&names));
        }
        Ok(Some(expr))
    }
}

/// Casts the texts of a union's inputs, which lie behind the first columns, where they are of different types.
fn same_types(inputs: &mut [(Vec<Expr>, LogicalPlan)], first: usize) -> Result<()> {
    let columns = inputs.first().map_or(0, |(exprs, _)| exprs.len());
    for column in first..columns {
        let types: HashSet<DataType> =
            inputs.iter().map(|(exprs, plan)| exprs[column].get_type(plan.schema())).collect::<Result<_>>()?;
        if types.len() < 2 {
            continue;
        }
        for (exprs, _) in inputs.iter_mut() {
            let (_, name) = exprs[column].qualified_name();
            exprs[column] = cast(exprs[column].clone().unalias(), DataType::Utf8View).alias(name);
        }
    }
    Ok(())
}

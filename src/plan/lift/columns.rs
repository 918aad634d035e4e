//! Expressions as the columns of a plan: names, and projections made of them.

use std::sync::Arc;

use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};

/// Whether two plans give the same: names, qualifiers and types.
pub(super) fn same_columns(a: &DFSchema, b: &DFSchema) -> bool {
    a.fields().len() == b.fields().len() && a.iter().zip(b.iter()).all(|(a, b)| a == b)
}

/// A column by its position.
pub(super) fn column_at(schema: &DFSchema, position: usize) -> Column {
    Column::from(schema.qualified_field(position))
}

/// All columns.
pub(super) fn columns_of(schema: &DFSchema) -> Vec<Column> {
    schema.iter().map(Column::from).collect()
}

/// Columns as expressions.
pub(super) fn as_exprs(columns: &[Column]) -> Vec<Expr> {
    columns.iter().cloned().map(Expr::Column).collect()
}

/// An expression under the name and qualifier of a column.
pub(super) fn named(expr: Expr, column: &Column) -> Expr {
    let (qualifier, name) = expr.qualified_name();
    if qualifier == column.relation && name == column.name {
        return expr;
    }
    expr.unalias().alias_qualified(column.relation.clone(), &column.name)
}

/// Each expression under the name and qualifier of its column.
pub(super) fn named_as(exprs: Vec<Expr>, columns: &[Column]) -> Vec<Expr> {
    exprs.into_iter().zip(columns).map(|(expr, column)| named(expr, column)).collect()
}

/// A plan of these columns.
pub(super) fn project(exprs: Vec<Expr>, plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// A plan with more columns, behind its own.
pub(super) fn with_columns(plan: LogicalPlan, columns: Vec<(Column, Expr)>) -> Result<LogicalPlan> {
    if columns.is_empty() {
        return Ok(plan);
    }
    let mut exprs = as_exprs(&columns_of(plan.schema()));
    exprs.extend(columns.into_iter().map(|(column, expr)| named(expr, &column)));
    project(exprs, plan)
}

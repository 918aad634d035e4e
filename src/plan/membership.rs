//! Subqueries in the condition of a DELETE or UPDATE: what DataFusion 55.2 answers wrongly is written in another way, or
//! refused.
//!
//! * `x IN (subquery)` below OR, NOT or CASE becomes a join whose mark is false where SQL says NULL, and NOT makes it true.
//!   Where the difference shows, the NULL is written out.
//! * A correlated condition moves out of its subquery, through operators that it changes the answer of.
//! * A correlated subquery on the left side of IN is looked for inside the subquery on the right.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Case, Exists, InSubquery};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, ExprSchemable, FetchType, Filter, Limit, LogicalPlan, LogicalPlanBuilder,
    Operator, SkipType, Subquery, lit,
};

/// The plan with conditions that DataFusion answers exactly, and why it cannot be run, if it cannot.
pub(super) fn exact(plan: LogicalPlan) -> Result<(LogicalPlan, Option<&'static str>)> {
    let mut refusal = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                refusal = refusal.or(refused(expr)?);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    let plan = plan.transform_down_with_subqueries(exact_filter)?.data;
    Ok((plan, refusal))
}

/// Why DataFusion answers a subquery wrongly, if it does.
fn refused(expr: &Expr) -> Result<Option<&'static str>> {
    let (subquery, left, is_scalar) = match expr {
        Expr::Exists(exists) => (&exists.subquery, None, false),
        Expr::InSubquery(membership) => (&membership.subquery, Some(&membership.expr), false),
        Expr::SetComparison(comparison) => (&comparison.subquery, Some(&comparison.expr), false),
        Expr::ScalarSubquery(subquery) => (subquery, None, true),
        _ => return Ok(None),
    };
    if left.map_or(Ok(false), |left| left.exists(|part| Ok(is_correlated(part))))? {
        return Ok(Some("the left side of an IN has a correlated subquery"));
    }
    let mut refusal = None;
    subquery.subquery.apply(|node| {
        if node.all_out_ref_exprs().is_empty() {
            return Ok(TreeNodeRecursion::Jump);
        }
        refusal = refusal.or(refused_above_correlation(node, is_scalar));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(refusal)
}

fn is_correlated(expr: &Expr) -> bool {
    match expr {
        Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. })
        | Expr::ScalarSubquery(subquery) => !subquery.outer_ref_columns.is_empty(),
        Expr::SetComparison(comparison) => !comparison.subquery.outer_ref_columns.is_empty(),
        _ => false,
    }
}

/// Why a correlated condition cannot move out through this operator, if it cannot.
fn refused_above_correlation(node: &LogicalPlan, is_scalar: bool) -> Option<&'static str> {
    match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => None,
        LogicalPlan::Aggregate(Aggregate { group_expr, .. }) if is_scalar || !group_expr.is_empty() => None,
        LogicalPlan::Limit(limit) if takes_first(limit) => None,
        LogicalPlan::Aggregate(_) => Some("a correlated EXISTS or IN has an aggregate without GROUP BY"),
        _ => Some("a correlated subquery has more than joins, conditions and GROUP BY"),
    }
}

/// Whether a limit leaves a row wherever there is one.
fn takes_first(limit: &Limit) -> bool {
    let skips_none = matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)));
    skips_none && matches!(limit.get_fetch_type(), Ok(FetchType::Literal(fetch)) if fetch != Some(0))
}

fn exact_filter(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(Filter { predicate, input, .. }) = node else { return Ok(Transformed::no(node)) };
    let predicate = exact_condition(predicate, true, input.schema())?;
    Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, input)?)))
}

/// Writes the NULL out of every `IN (subquery)` where it makes a difference.
///
/// `only_true` says that it makes none here: rows where the condition is false are treated like those where it is NULL.
fn exact_condition(expr: Expr, only_true: bool, schema: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let left = exact_condition(*left, only_true, schema)?;
            let right = exact_condition(*right, only_true, schema)?;
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        Expr::InSubquery(membership) if !only_true || membership.negated => with_null(membership, schema),
        other => other.map_children(|part| exact_condition(part, false, schema).map(Transformed::yes)).map(|e| e.data),
    }
}

/// `x IN (SELECT y ..)` as `CASE WHEN x IN (SELECT y ..) THEN true WHEN x IS NULL AND EXISTS (SELECT y ..) OR EXISTS
/// (SELECT y .. WHERE y IS NULL) THEN NULL ELSE false END`.
fn with_null(membership: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery, negated } = membership;
    let value = Expr::from(Column::from(subquery.subquery.schema().qualified_field(0)));
    let mut unknown = Vec::new();
    if value.nullable(subquery.subquery.schema()).unwrap_or(true) {
        let nulls = Filter::try_new(value.is_null(), Arc::clone(&subquery.subquery))?;
        unknown.push(exists(LogicalPlan::Filter(nulls), &subquery)?);
    }
    if expr.nullable(schema).unwrap_or(true) {
        let any = exists(subquery.subquery.as_ref().clone(), &subquery)?;
        unknown.push(expr.clone().is_null().and(any));
    }
    let found = Expr::InSubquery(InSubquery::new(expr, subquery, false));
    let null = Expr::Literal(ScalarValue::Boolean(None), None);
    let mut branches = vec![(Box::new(found), Box::new(lit(!negated)))];
    branches.extend(unknown.into_iter().reduce(Expr::or).map(|unknown| (Box::new(unknown), Box::new(null))));
    Ok(Expr::Case(Case::new(None, branches, Some(Box::new(lit(negated))))))
}

/// EXISTS of a plan made of a subquery. One row says it where the subquery is not correlated.
fn exists(plan: LogicalPlan, subquery: &Subquery) -> Result<Expr> {
    let is_correlated = !subquery.outer_ref_columns.is_empty();
    let plan = if is_correlated { plan } else { LogicalPlanBuilder::from(plan).limit(0, Some(1))?.build()? };
    Ok(Expr::Exists(Exists::new(subquery.with_plan(Arc::new(plan)), false)))
}

//! How a call is found in an expression and taken out of it.
//!
//! A call inside CASE, AND, OR or another lazy argument is taken out under a condition: its text becomes NULL for the rows
//! where the expression would not have evaluated it, and a NULL costs nothing.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Case, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

use crate::functions::{Embed, literal_text};

/// Function, text and model of a call of `embed` or a sister.
pub(super) fn parts(expr: &Expr) -> Option<(&Embed, &Expr, Option<&str>)> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let embed = func.inner().downcast_ref::<Embed>()?;
    match args.as_slice() {
        [text] => Some((embed, text, None)),
        [text, Expr::Literal(model, _)] => Some((embed, text, Some(literal_text(model)?.trim()))),
        _ => None,
    }
}

/// The call with another text.
pub(super) fn with_text(call: &Expr, text: Expr) -> Expr {
    let mut call = call.clone();
    if let Expr::ScalarFunction(ScalarFunction { args, .. }) = &mut call {
        args[0] = text;
    }
    call
}

/// Whether an expression has a call outside lambda bodies, which stay as they are.
pub(super) fn has_call(expr: &Expr) -> bool {
    let mut found = false;
    // The closure never fails.
    let _ = expr.apply(|expr| {
        found |= parts(expr).is_some();
        Ok(match expr {
            _ if found => TreeNodeRecursion::Stop,
            Expr::Lambda(_) => TreeNodeRecursion::Jump,
            _ => TreeNodeRecursion::Continue,
        })
    });
    found
}

/// Whether a plan or one of its subqueries has a call.
pub(super) fn plan_has_call(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The closure never fails.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= has_call(expr);
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    });
    found
}

/// Whether an expression gives the same value wherever in the plan it is evaluated: nothing volatile, no subquery, nothing
/// that only its place can resolve.
pub(super) fn can_move(expr: &Expr) -> bool {
    let fixed = |expr: &Expr| {
        matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(_, _)
                | Expr::Unnest(_)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::GroupingSet(_)
                | Expr::Placeholder(_)
                | Expr::LambdaVariable(_)
        )
    };
    // The closure never fails.
    !expr.is_volatile() && !expr.exists(|expr| Ok(fixed(expr))).unwrap_or(true)
}

/// Whether an expression keeps plain calls however it is lifted: which arguments of a lazy function are evaluated when, only
/// the function knows.
pub(super) fn keeps_calls(expr: &Expr) -> bool {
    let lazy = |expr: &Expr| matches!(expr, Expr::ScalarFunction(f) if f.func.short_circuits() && has_call(expr));
    // The closure never fails.
    expr.exists(|expr| Ok(lazy(expr))).unwrap_or(true)
}

/// Whether an expression is NULL where all its columns are NULL: so it may be evaluated above an outer join.
pub(super) fn is_strict(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Cast(cast) => is_strict(&cast.expr),
        Expr::ScalarFunction(ScalarFunction { func, args }) => func.is_strict() && args.iter().any(is_strict),
        _ => false,
    }
}

/// Takes calls out of expressions over a schema: each becomes a column, which an Embed node will have.
pub(super) struct Extractor<'a> {
    pub(super) schema: &'a DFSchema,
    /// The calls that were taken out.
    pub(super) taken: Vec<Taken>,
    /// Gives the next column its name.
    pub(super) next_name: &'a mut dyn FnMut() -> String,
}

/// A call that was taken out.
pub(super) struct Taken {
    /// What the node runs: the call, on a text that is NULL where the expression would not have evaluated it.
    pub(super) call: Expr,
    pub(super) column: String,
    /// As the expression had it.
    original: Expr,
    conditions: Vec<Condition>,
}

/// When an expression evaluates a part of itself: the branch of a CASE that has the text in it and NULL elsewhere.
#[derive(Clone, PartialEq)]
struct Condition {
    operand: Option<Box<Expr>>,
    /// Where one of these holds the part is not evaluated.
    unless: Vec<Expr>,
    /// Where this holds it is; `None` is everywhere else.
    when: Option<Expr>,
}

impl Condition {
    fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.operand.as_deref().into_iter().chain(&self.unless).chain(&self.when)
    }

    /// Whether this holds wherever the other does.
    fn is_implied_by(&self, other: &Self) -> bool {
        let earlier = self.when.is_none() && self.operand == other.operand && other.unless.starts_with(&self.unless);
        earlier || self == other
    }

    /// The text, NULL where the part is not evaluated. CASE evaluates its conditions in order, as the expression itself does.
    fn apply(&self, text: Expr, null: &Expr) -> Expr {
        let branch = |when: &Expr, then: Expr| (Box::new(when.clone()), Box::new(then));
        let mut branches: Vec<_> = self.unless.iter().map(|when| branch(when, null.clone())).collect();
        let otherwise = match &self.when {
            Some(when) => {
                branches.push(branch(when, text));
                null.clone()
            }
            None => text,
        };
        Expr::Case(Case::new(self.operand.clone(), branches, Some(Box::new(otherwise))))
    }
}

impl Extractor<'_> {
    /// Takes the innermost calls out of an expression. What is left may have calls around their columns: ask again with the
    /// schema of the new node.
    pub(super) fn extract(&mut self, expr: Expr) -> Result<Expr> {
        self.visit(expr, &mut Vec::new())
    }

    fn visit(&mut self, expr: Expr, conditions: &mut Vec<Condition>) -> Result<Expr> {
        if !has_call(&expr) {
            return Ok(expr);
        }
        match expr {
            Expr::Case(case) => self.visit_case(case, conditions),
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let shown = left.as_ref().clone();
                let when = if op == Operator::And { shown.is_not_false() } else { shown.is_not_true() };
                let left = self.visit(*left, conditions)?;
                conditions.push(Condition { operand: None, unless: Vec::new(), when: Some(when) });
                let right = self.visit(*right, conditions);
                conditions.pop();
                Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right?))))
            }
            // See keeps_calls.
            Expr::ScalarFunction(ref function) if function.func.short_circuits() => Ok(expr),
            Expr::Lambda(_)
            | Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::SetComparison(_) => Ok(expr),
            other => {
                let inner = other.map_children(|child| self.visit(child, conditions).map(Transformed::yes))?.data;
                self.take(inner, conditions)
            }
        }
    }

    fn visit_case(&mut self, case: Case, conditions: &mut Vec<Condition>) -> Result<Expr> {
        let Case { expr: operand, when_then_expr, else_expr } = case.clone();
        let mut part = |this: &mut Self, part: Expr, unless: usize, when: Option<usize>| {
            let when_of = |branch: usize| case.when_then_expr[branch].0.as_ref().clone();
            let condition = Condition {
                operand: case.expr.clone(),
                unless: (0..unless).map(when_of).collect(),
                when: when.map(when_of),
            };
            let always = condition.unless.is_empty() && condition.when.is_none();
            if !always {
                conditions.push(condition);
            }
            let part = this.visit(part, conditions);
            if !always {
                conditions.pop();
            }
            part.map(Box::new)
        };
        let operand = operand.map(|operand| part(self, *operand, 0, None)).transpose()?;
        let count = when_then_expr.len();
        let mut branches = Vec::with_capacity(count);
        for (branch, (when, then)) in when_then_expr.into_iter().enumerate() {
            let when = part(self, *when, branch, None)?;
            branches.push((when, part(self, *then, branch, Some(branch))?));
        }
        let otherwise = else_expr.map(|otherwise| part(self, *otherwise, count, None)).transpose()?;
        Ok(Expr::Case(Case::new(operand, branches, otherwise)))
    }

    /// Replaces a call by its column, if it can be taken out here.
    fn take(&mut self, expr: Expr, conditions: &[Condition]) -> Result<Expr> {
        let Some((_, text, _)) = parts(&expr) else { return Ok(expr) };
        // The same call was taken out for these rows and perhaps for more: CASE tests a vector before it gives it.
        let covers = |taken: &Taken| {
            let pairs = || taken.conditions.iter().zip(conditions);
            taken.conditions.len() <= conditions.len() && pairs().all(|(known, here)| known.is_implied_by(here))
        };
        if let Some(taken) = self.taken.iter().find(|taken| taken.original == expr && covers(taken)) {
            return Ok(Expr::Column(Column::new_unqualified(&taken.column)));
        }
        let columns = text.column_refs();
        let here = !columns.is_empty() && columns.iter().all(|column| self.schema.has_column(column));
        let condition_moves = |expr: &Expr| {
            can_move(expr) && !has_call(expr) && expr.column_refs().iter().all(|column| self.schema.has_column(column))
        };
        if !here
            || !can_move(text)
            || has_call(text)
            || !conditions.iter().flat_map(Condition::exprs).all(condition_moves)
        {
            return Ok(expr);
        }
        let null = Expr::Literal(ScalarValue::try_new_null(&text.get_type(self.schema)?)?, None);
        let text = conditions.iter().rev().fold(text.clone(), |text, condition| condition.apply(text, &null));
        let column = (self.next_name)();
        let call = with_text(&expr, text);
        self.taken.push(Taken { call, column: column.clone(), original: expr, conditions: conditions.to_vec() });
        Ok(Expr::Column(Column::new_unqualified(column)))
    }
}

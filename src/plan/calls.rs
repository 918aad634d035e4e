//! How a call is found in an expression and taken out of it.
//!
//! A call inside CASE, AND, OR or another lazy argument is taken out under a condition: its text becomes NULL for the rows
//! where the expression would not have evaluated it, and a NULL costs nothing.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Alias, Case, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

use crate::functions::{Embed, literal_text};

/// Function, text and model of a call of `embed` or a sister; of one over a literal the vector is there when the plan runs, and it
/// counts for none.
pub(super) fn parts(expr: &Expr) -> Option<(&Embed, &Expr, Option<&str>)> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let embed = func.inner().downcast_ref::<Embed>().filter(|embed| embed.literals().is_none())?;
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

/// Whether a text is the same for all rows, and known before the first one.
pub(super) fn is_literal(text: &Expr) -> bool {
    text.column_refs().is_empty() && can_move(text) && !matches!(text, Expr::Literal(value, _) if value.is_null())
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

/// Whether a call may be evaluated above where an expression has it: the expression has one, and columns, and no part that
/// must stay where it is.
pub(super) fn can_be_late(expr: &Expr) -> bool {
    has_call(expr) && can_move(expr) && !keeps_calls(expr) && !expr.column_refs().is_empty()
}

/// The part of a column's expression that can be late, if one can: its name stays with the column.
pub(super) fn late_part(expr: &Expr) -> Option<&Expr> {
    let expr = match expr {
        Expr::Alias(Alias { expr, metadata: None, .. }) => expr.as_ref(),
        other => other,
    };
    can_be_late(expr).then_some(expr)
}

/// Whether an expression gives the same value wherever in the plan it is evaluated: nothing volatile, no subquery, nothing
/// that only its place can resolve.
fn can_move(expr: &Expr) -> bool {
    // The closure never fails.
    !expr.is_volatile() && !expr.exists(|expr| Ok(is_bound_to_its_place(expr))).unwrap_or(true)
}

fn is_bound_to_its_place(expr: &Expr) -> bool {
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
}

/// Whether an expression keeps plain calls however it is lifted: which arguments of a lazy function are evaluated when, only
/// the function knows.
fn keeps_calls(expr: &Expr) -> bool {
    // The closure never fails.
    expr.exists(|expr| Ok(is_lazy_function(expr) && has_call(expr))).unwrap_or(true)
}

fn is_lazy_function(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(function) if function.func.short_circuits())
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
    /// Where none of the first branches of a CASE matches.
    fn after(case: &Case, branches: usize) -> Self {
        let unless = case.when_then_expr[..branches].iter().map(|(when, _)| when.as_ref().clone()).collect();
        Self { operand: case.expr.clone(), unless, when: None }
    }

    /// Whether this holds for every row.
    fn is_always(&self) -> bool {
        self.unless.is_empty() && self.when.is_none()
    }

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

fn branch(when: &Expr, then: Expr) -> (Box<Expr>, Box<Expr>) {
    (Box::new(when.clone()), Box::new(then))
}

impl Taken {
    /// Whether the call was taken out for all rows for which these conditions hold.
    fn covers(&self, conditions: &[Condition]) -> bool {
        let mut pairs = self.conditions.iter().zip(conditions);
        self.conditions.len() <= conditions.len() && pairs.all(|(known, here)| known.is_implied_by(here))
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
            Expr::Case(case) => self.visit_case(&case, conditions),
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let shown = left.as_ref().clone();
                let when = if op == Operator::And { shown.is_not_false() } else { shown.is_not_true() };
                let left = self.visit(*left, conditions)?;
                let condition = Condition { operand: None, unless: Vec::new(), when: Some(when) };
                let right = self.visit_under(condition, &right, conditions)?;
                Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, right)))
            }
            // See keeps_calls.
            expr if is_lazy_function(&expr) => Ok(expr),
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

    /// Visits a part that is evaluated under one condition more.
    fn visit_under(&mut self, condition: Condition, part: &Expr, conditions: &mut Vec<Condition>) -> Result<Box<Expr>> {
        let depth = conditions.len();
        if !condition.is_always() {
            conditions.push(condition);
        }
        let part = self.visit(part.clone(), conditions);
        conditions.truncate(depth);
        part.map(Box::new)
    }

    fn visit_case(&mut self, case: &Case, conditions: &mut Vec<Condition>) -> Result<Expr> {
        let operand = case.expr.as_deref().map(|operand| self.visit(operand.clone(), conditions)).transpose()?;
        let mut branches = Vec::with_capacity(case.when_then_expr.len());
        for (number, (when, then)) in case.when_then_expr.iter().enumerate() {
            let after = Condition::after(case, number);
            let here = Condition { when: Some(when.as_ref().clone()), ..after.clone() };
            branches.push((self.visit_under(after, when, conditions)?, self.visit_under(here, then, conditions)?));
        }
        let after_all = Condition::after(case, case.when_then_expr.len());
        let otherwise =
            case.else_expr.as_deref().map(|part| self.visit_under(after_all, part, conditions)).transpose()?;
        Ok(Expr::Case(Case::new(operand.map(Box::new), branches, otherwise)))
    }

    /// Replaces a call by its column, if it can be taken out here.
    fn take(&mut self, expr: Expr, conditions: &[Condition]) -> Result<Expr> {
        let Some((_, text, _)) = parts(&expr) else { return Ok(expr) };
        // The same call was taken out for these rows and perhaps for more: CASE tests a vector before it gives it.
        if let Some(taken) = self.taken.iter().find(|taken| taken.original == expr && taken.covers(conditions)) {
            return Ok(Expr::Column(Column::new_unqualified(&taken.column)));
        }
        let mut asked = conditions.iter().flat_map(Condition::exprs);
        if text.column_refs().is_empty() || !self.is_over_schema(text) || !asked.all(|expr| self.is_over_schema(expr)) {
            return Ok(expr);
        }
        let null = Expr::Literal(ScalarValue::try_new_null(&text.get_type(self.schema)?)?, None);
        let text = conditions.iter().rev().fold(text.clone(), |text, condition| condition.apply(text, &null));
        let column = (self.next_name)();
        let call = with_text(&expr, text);
        self.taken.push(Taken { call, column: column.clone(), original: expr, conditions: conditions.to_vec() });
        Ok(Expr::Column(Column::new_unqualified(column)))
    }

    /// Whether an expression can be evaluated below the Embed node, on the columns that are there.
    fn is_over_schema(&self, expr: &Expr) -> bool {
        can_move(expr) && !has_call(expr) && expr.column_refs().iter().all(|column| self.schema.has_column(column))
    }
}

//! The rule: calls leave their expressions and move up to where the fewest rows pass.
//!
//! Bottom-up, every node gives a plan and the *late* columns that it lacks: expressions over its own columns which have a
//! call in them and which nobody needed so far. A parent that only passes a late column on keeps it late; one that works
//! with it (a filter, a sort key, a join condition, an aggregate) has its calls run right below, in an [`EmbedNode`]. What
//! is late at the root runs last of all.
//!
//! | node | what happens |
//! |---|---|
//! | projection | an expression with a call becomes late; the columns it needs are carried along |
//! | filter | conditions without a call run first, then those with one, in the order written, above the inner and semi joins over them |
//! | sort | keys with a call are computed once, into a column; everything else stays late, behind LIMIT and top-k |
//! | limit, subquery alias | pass late columns on |
//! | join | passes late columns of both sides on; from the side that an outer join fills with NULLs only those that are NULL then; an inner join's conditions with calls run above it |
//! | union | a column that is late in all inputs by the same expression is late above, its texts side by side |
//! | aggregate | `first_value` and `last_value` of a vector pick the text (DISTINCT ON); other arguments run below |
//! | window | passes late columns on; what its functions need runs below |
//! | anything else | gets its inputs complete |
//!
//! Recursive queries, correlated subqueries, UPDATE and DELETE of tables that are not in memory, conditions of outer joins
//! beside their keys, lambda bodies and texts with volatile parts keep plain calls. A row that a join or a cross join repeats carries the same text, which the
//! query's memo embeds once. An expression that is late above a sort makes the sort carry its texts in place of its vectors.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, Alias};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, Extension, Filter, Join, LogicalPlan, Projection, Sort, SubqueryAlias,
    TableProviderFilterPushDown, TableScan, Union, Window, WriteOp, cast,
};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{OptimizerContext, OptimizerRule};

use super::calls::{Extractor, can_move, has_call, is_strict, keeps_calls, parts, plan_has_call, with_text};
use super::node::EmbedNode;

/// What the columns that the rule adds begin with.
const PREFIX: &str = "__embed_";

/// Moves the calls of `embed` in an optimized plan into [`EmbedNode`]s, as late as their rows allow.
///
/// Gives the same rows, names, qualifiers and types. Where it would not, and where there is nothing to lift, the plan stays
/// as it is; lifting a lifted plan changes nothing.
pub(super) fn lift(plan: &LogicalPlan) -> Result<LogicalPlan> {
    if !plan_has_call(plan) {
        return Ok(plan.clone());
    }
    settle(lifted(plan), plan)
}

/// The plan with its calls lifted, `None` where there is nothing to lift.
fn lifted(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    let first_name = names_used(plan);
    let mut lifter = Lifter { names: first_name, waits: false };
    let lifted = lifter.root(plan.clone())?;
    if lifter.names == first_name {
        return Ok(None);
    }
    // Columns that were carried along and are not needed any more leave where they can.
    let lifted = OptimizeProjections::new().rewrite(lifted, &OptimizerContext::new())?.data;
    Ok(Some(lifted).filter(|lifted| same_columns(plan.schema(), lifted.schema())))
}

/// Whether a rule that fails is an error of the query, see [`fail_on_broken_rule`].
static FAILS: AtomicBool = AtomicBool::new(false);

/// From now on a rule that fails is an error of the query that it failed on, in the whole process: for tests, which would
/// not see a query that is only slow.
pub(crate) fn fail_on_broken_rule() {
    FAILS.store(true, Ordering::Relaxed);
}

/// What is planned: without a lifted plan the one that is there, which gives the same rows more slowly. A rule that fails is
/// a bug, and the log says so.
fn settle(lifted: Result<Option<LogicalPlan>>, plan: &LogicalPlan) -> Result<LogicalPlan> {
    match lifted {
        Ok(lifted) => Ok(lifted.unwrap_or_else(|| plan.clone())),
        Err(error) if FAILS.load(Ordering::Relaxed) => {
            Err(error.context("embed: calls could not be lifted. This is a bug"))
        }
        Err(error) => {
            log::warn!("embed: calls could not be lifted, so the query may embed more rows than it gives: {error}");
            Ok(plan.clone())
        }
    }
}

/// Numbers of the columns that the rule has named in a plan, 0 for none.
fn names_used(plan: &LogicalPlan) -> usize {
    let mut used = 0;
    // The closure never fails.
    let _ = plan.apply_with_subqueries(|node| {
        for field in node.schema().fields() {
            let number = field.name().strip_prefix(PREFIX).and_then(|number| number.parse::<usize>().ok());
            used = used.max(number.map_or(0, |number| number.saturating_add(1)));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    used
}

fn same_columns(a: &DFSchema, b: &DFSchema) -> bool {
    a.fields().len() == b.fields().len() && a.iter().zip(b.iter()).all(|(a, b)| a == b)
}

/// A rewritten plan and what it lacks.
struct Lifted {
    plan: LogicalPlan,
    /// Columns that the plan does not have: for each an expression over those it has.
    late: Vec<(Column, Expr)>,
    /// Expressions that the plan has as columns already.
    ready: Vec<(Expr, Column)>,
    /// Conditions over the plan's columns that its rows have still to meet, see [`Lifter::waits`].
    pending: Vec<Expr>,
}

impl Lifted {
    fn complete(plan: LogicalPlan) -> Self {
        Self { plan, late: Vec::new(), ready: Vec::new(), pending: Vec::new() }
    }

    /// Writes an expression over the original columns over those of the plan.
    fn resolve(&self, expr: Expr) -> Result<Expr> {
        let late = |expr: Expr| match &expr {
            Expr::Column(column) => Ok(match self.late.iter().find(|(late, _)| late == column) {
                Some((_, late)) => Transformed::new(late.clone(), true, TreeNodeRecursion::Jump),
                None => Transformed::no(expr),
            }),
            _ => Ok(Transformed::no(expr)),
        };
        let ready = |expr: Expr| {
            Ok(match self.ready.iter().find(|(ready, _)| *ready == expr) {
                Some((_, column)) => Transformed::new(Expr::Column(column.clone()), true, TreeNodeRecursion::Jump),
                None => Transformed::no(expr),
            })
        };
        expr.transform_down(late)?.data.transform_down(ready).map(|expr| expr.data)
    }

    /// The same over a plan whose columns have other names.
    fn renamed(self, plan: LogicalPlan, names: &HashMap<Column, Column>) -> Result<Self> {
        let column = |column: Column| names.get(&column).cloned().unwrap_or(column);
        let inside = |expr: Expr| {
            let renamed = expr.transform(|expr| {
                Ok(match expr {
                    Expr::Column(old) => Transformed::yes(Expr::Column(column(old))),
                    other => Transformed::no(other),
                })
            });
            renamed.map(|expr| expr.data)
        };
        let late = self.late.into_iter().map(|(late, expr)| Ok((column(late), inside(expr)?)));
        let ready = self.ready.into_iter().map(|(expr, ready)| Ok((inside(expr)?, column(ready))));
        let (late, ready) = (late.collect::<Result<_>>()?, ready.collect::<Result<_>>()?);
        let pending = self.pending.into_iter().map(inside).collect::<Result<_>>()?;
        Ok(Self { plan, late, ready, pending })
    }
}

/// One application of the rule.
struct Lifter {
    /// Number of the next column.
    names: usize,
    /// Whether a join above leaves fewer rows, so that conditions with a call had better wait for it.
    waits: bool,
}

impl Lifter {
    fn name(&mut self) -> String {
        self.names += 1;
        format!("{PREFIX}{}", self.names - 1)
    }

    /// A plan with all its columns.
    fn root(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let schema = Arc::clone(plan.schema());
        let lifted = self.lift_under(false, plan)?;
        self.settle(lifted, &schema)
    }

    /// Lifts a plan under a node that lets conditions wait, or not.
    fn lift_under(&mut self, waits: bool, plan: LogicalPlan) -> Result<Lifted> {
        let before = std::mem::replace(&mut self.waits, waits);
        let lifted = self.lift(plan);
        self.waits = before;
        lifted
    }

    /// Gives a lifted plan the columns of a schema, computing those that are late.
    fn settle(&mut self, mut lifted: Lifted, schema: &DFSchema) -> Result<LogicalPlan> {
        if lifted.late.is_empty() && same_columns(lifted.plan.schema(), schema) {
            return Ok(lifted.plan);
        }
        let exprs = self.compute(&mut lifted, columns_of(schema))?;
        let named = exprs.into_iter().zip(schema.iter()).map(|(expr, field)| named(expr, &Column::from(field)));
        project(named.collect(), lifted.plan)
    }

    /// [`Self::compute`] for one expression.
    fn compute_one(&mut self, lifted: &mut Lifted, expr: Expr) -> Result<Expr> {
        Ok(self.compute(lifted, vec![expr])?.remove(0))
    }

    /// [`Self::compute`] for the expression of a column, which keeps its name.
    fn compute_named(&mut self, lifted: &mut Lifted, expr: Expr, column: &Column) -> Result<Expr> {
        let computed = self.compute_one(lifted, expr.clone())?;
        Ok(if computed == expr { expr } else { named(computed, column) })
    }

    /// Writes expressions over the columns of the plan, running the calls in them: the plan gets Embed nodes on top.
    fn compute(&mut self, lifted: &mut Lifted, exprs: Vec<Expr>) -> Result<Vec<Expr>> {
        let mut exprs = exprs.into_iter().map(|expr| lifted.resolve(expr)).collect::<Result<Vec<_>>>()?;
        loop {
            let mut next_name = || self.name();
            let schema = Arc::clone(lifted.plan.schema());
            let mut extractor = Extractor { schema: &schema, taken: Vec::new(), next_name: &mut next_name };
            exprs = exprs.into_iter().map(|expr| extractor.extract(expr)).collect::<Result<_>>()?;
            if extractor.taken.is_empty() {
                return Ok(exprs);
            }
            let (calls, names): (Vec<_>, Vec<_>) =
                extractor.taken.into_iter().map(|taken| (taken.call, taken.column)).unzip();
            let columns = names.iter().map(Column::new_unqualified);
            lifted.ready.extend(calls.iter().cloned().zip(columns));
            let input = std::mem::take(&mut lifted.plan);
            let node = EmbedNode::try_new(input, calls, names)?;
            lifted.plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        }
    }

    fn lift(&mut self, plan: LogicalPlan) -> Result<Lifted> {
        if !plan_has_call(&plan) {
            return Ok(Lifted::complete(plan));
        }
        let kept = match &plan {
            LogicalPlan::RecursiveQuery(_) => true,
            // DataFusion reads the conditions and values of these out of the logical plan.
            LogicalPlan::Dml(dml) => !matches!(dml.op, WriteOp::Insert(_) | WriteOp::Ctas),
            _ => false,
        };
        if kept {
            return Ok(Lifted::complete(plan));
        }
        let plan = plan.map_uncorrelated_subqueries(|subquery| self.root(subquery).map(Transformed::yes))?.data;
        match plan {
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(mut limit) => {
                let mut lifted = self.lift_under(false, Arc::unwrap_or_clone(limit.input))?;
                limit.input = Arc::new(lifted.plan);
                lifted.plan = LogicalPlan::Limit(limit);
                Ok(lifted)
            }
            LogicalPlan::SubqueryAlias(alias) => self.subquery_alias(alias),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::TableScan(scan) => Ok(Lifted::complete(LogicalPlan::TableScan(without_calls(scan)?))),
            other => Ok(Lifted::complete(other.map_children(|input| self.root(input).map(Transformed::yes))?.data)),
        }
    }

    fn projection(&mut self, projection: Projection) -> Result<Lifted> {
        let Projection { expr, input, schema, .. } = projection;
        let mut lifted = self.lift(Arc::unwrap_or_clone(input))?;
        let (mut kept, mut late) = (Vec::new(), Vec::new());
        for (expr, (qualifier, field)) in expr.into_iter().zip(schema.iter()) {
            let column = Column::from((qualifier, field));
            let resolved = lifted.resolve(expr)?;
            match resolved {
                Expr::Alias(Alias { expr, metadata: None, .. }) if is_late(&expr) => late.push((column, *expr)),
                expr if is_late(&expr) => late.push((column, expr)),
                expr => kept.push((column, expr)),
            }
        }
        let (columns, exprs): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
        let exprs = self.compute(&mut lifted, exprs)?;
        let mut exprs: Vec<_> = exprs.into_iter().zip(&columns).map(|(expr, column)| named(expr, column)).collect();
        // Columns that late expressions need: those that the projection has, and others under new names.
        let mut carried: HashMap<Column, Column> = HashMap::new();
        let mut carry = |this: &mut Self, expr: Expr| {
            let carried = expr.transform(|expr| {
                let Expr::Column(needed) = expr else { return Ok(Transformed::no(expr)) };
                let carried = carried.entry(needed.clone()).or_insert_with(|| {
                    if exprs.contains(&Expr::Column(needed.clone())) {
                        return needed.clone();
                    }
                    let name = this.name();
                    exprs.push(Expr::Column(needed).alias(&name));
                    Column::new_unqualified(name)
                });
                Ok(Transformed::yes(Expr::Column(carried.clone())))
            });
            carried.map(|expr| expr.data)
        };
        let mut late_above = Vec::with_capacity(late.len());
        for (column, expr) in late {
            let expr = lifted.resolve(expr)?;
            late_above.push((column, carry(self, expr)?));
        }
        let waiting = std::mem::take(&mut lifted.pending).into_iter();
        let pending = waiting.map(|expr| carry(self, lifted.resolve(expr)?)).collect::<Result<_>>()?;
        // Calls that ran already may have left a late expression without one: it is computed here after all.
        let (late, done): (Vec<_>, Vec<_>) = late_above.into_iter().partition(|(_, expr)| has_call(expr));
        let plan = with_columns(project(exprs, lifted.plan)?, done)?;
        Ok(Lifted { plan, late, ready: Vec::new(), pending })
    }

    fn filter(&mut self, filter: Filter) -> Result<Lifted> {
        let mut lifted = self.lift(Arc::unwrap_or_clone(filter.input))?;
        let conditions = split_conjunction_owned(lifted.resolve(filter.predicate)?);
        let waits = self.waits;
        let (pending, conditions) = conditions.into_iter().partition(|condition| waits && is_late(condition));
        self.restrict(&mut lifted, conditions)?;
        lifted.pending.extend::<Vec<_>>(pending);
        Ok(lifted)
    }

    /// Leaves the rows that meet conditions over the plan's columns: first those without a call, then those with one in their
    /// order, so that each runs on the rows that the ones before it have left.
    fn restrict(&mut self, lifted: &mut Lifted, conditions: Vec<Expr>) -> Result<()> {
        let (costly, mut waiting): (Vec<_>, Vec<_>) = conditions.into_iter().partition(has_call);
        for condition in costly {
            let condition = lifted.resolve(condition)?;
            if has_call(&condition) {
                lifted.plan = filtered(std::mem::take(&mut waiting), std::mem::take(&mut lifted.plan))?;
            }
            waiting.push(self.compute_one(lifted, condition)?);
        }
        lifted.plan = filtered(waiting, std::mem::take(&mut lifted.plan))?;
        Ok(())
    }

    fn sort(&mut self, sort: Sort) -> Result<Lifted> {
        let Sort { mut expr, input, fetch } = sort;
        let mut lifted = self.lift_under(false, Arc::unwrap_or_clone(input))?;
        let (mut keys, mut ready) = (Vec::new(), Vec::new());
        for key in &mut expr {
            key.expr = lifted.resolve(key.expr.clone())?;
            if has_call(&key.expr) {
                let computed = self.compute_one(&mut lifted, key.expr.clone())?;
                let column = Column::new_unqualified(self.name());
                let resolved = std::mem::replace(&mut key.expr, Expr::Column(column.clone()));
                keys.push((column.clone(), computed));
                ready.push((resolved, column));
            }
        }
        lifted.plan = with_columns(lifted.plan, keys)?;
        // Ahead of their calls: the larger expression is to be found first.
        ready.append(&mut lifted.ready);
        lifted.ready = ready;
        lifted.plan = LogicalPlan::Sort(Sort { expr, input: Arc::new(lifted.plan), fetch });
        Ok(lifted)
    }

    fn subquery_alias(&mut self, alias: SubqueryAlias) -> Result<Lifted> {
        let SubqueryAlias { input, alias, schema, .. } = alias;
        let before = Arc::clone(input.schema());
        let mut lifted = self.lift(Arc::unwrap_or_clone(input))?;
        // By position: an alias gives columns of equal names other ones.
        let pairs = |from: &DFSchema, to: &DFSchema| -> HashMap<Column, Column> {
            from.iter().map(Column::from).zip(to.iter().map(Column::from)).collect()
        };
        let wanted = pairs(&before, &schema);
        let renamed = |plan: &LogicalPlan| SubqueryAlias::try_new(Arc::new(plan.clone()), alias.clone());
        let mut plan = renamed(&lifted.plan)?;
        let mut names = pairs(lifted.plan.schema(), &plan.schema);
        if names.iter().any(|(old, new)| wanted.get(old).is_some_and(|wanted| wanted != new)) {
            let pending = std::mem::take(&mut lifted.pending);
            self.restrict(&mut lifted, pending)?;
            lifted = Lifted::complete(self.settle(lifted, &before)?);
            plan = renamed(&lifted.plan)?;
            names = pairs(lifted.plan.schema(), &plan.schema);
        }
        names.extend(lifted.late.iter().filter_map(|(late, _)| Some((late.clone(), wanted.get(late)?.clone()))));
        lifted.renamed(LogicalPlan::SubqueryAlias(plan), &names)
    }

    fn join(&mut self, join: Join) -> Result<Lifted> {
        use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        let has_keys = !join.on.is_empty();
        let left_waits = has_keys && matches!(join.join_type, Inner | LeftSemi | LeftAnti);
        let right_waits = has_keys && matches!(join.join_type, Inner | RightSemi | RightAnti);
        let mut left = self.lift_under(left_waits, Arc::unwrap_or_clone(join.left))?;
        let mut right = self.lift_under(right_waits, Arc::unwrap_or_clone(join.right))?;
        let mut on = Vec::with_capacity(join.on.len());
        for (l, r) in join.on {
            on.push((self.compute_one(&mut left, l)?, self.compute_one(&mut right, r)?));
        }
        let (mut filter, mut pending) = (None, Vec::new());
        if let Some(condition) = join.filter {
            let condition = right.resolve(left.resolve(condition)?)?;
            filter = if has_keys && join.join_type == Inner {
                // After the keys have met: fewer rows, and texts of both sides.
                let (above, here): (Vec<_>, Vec<_>) = split_conjunction_owned(condition).into_iter().partition(is_late);
                pending = above;
                conjunction(here)
            } else if has_keys {
                // Few pairs get here, and they must be seen before the join's NULLs are made.
                Some(condition)
            } else {
                // A call of the condition belongs to the side that has its text.
                let condition = self.compute_one(&mut left, condition)?;
                Some(self.compute_one(&mut right, condition)?)
            };
        }
        pending.append(&mut left.pending);
        pending.append(&mut right.pending);
        let (left_nulls, right_nulls) = match join.join_type {
            Left => (false, true),
            Right => (true, false),
            Full => (true, true),
            _ => (false, false),
        };
        if left_nulls {
            self.settle_what_is_not_strict(&mut left)?;
        }
        if right_nulls {
            self.settle_what_is_not_strict(&mut right)?;
        }
        let plan = Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            on,
            filter,
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        let (mut late, mut ready) = (Vec::new(), Vec::new());
        if !matches!(join.join_type, RightSemi | RightAnti | RightMark) {
            late.extend(left.late);
            ready.extend(left.ready);
        }
        if !matches!(join.join_type, LeftSemi | LeftAnti | LeftMark) {
            late.extend(right.late);
            ready.extend(right.ready);
        }
        let mut lifted = Lifted { plan: LogicalPlan::Join(plan), late, ready, pending };
        if !self.waits {
            let pending = std::mem::take(&mut lifted.pending);
            self.restrict(&mut lifted, pending)?;
        }
        Ok(lifted)
    }

    /// Computes the late columns that would not be NULL where an outer join fills their side with NULLs.
    fn settle_what_is_not_strict(&mut self, lifted: &mut Lifted) -> Result<()> {
        lifted.ready.retain(|(expr, _)| is_strict(expr));
        let (strict, settled) = std::mem::take(&mut lifted.late).into_iter().partition(|(_, expr)| is_strict(expr));
        lifted.late = strict;
        let (columns, exprs): (Vec<_>, Vec<_>) = settled.into_iter().unzip();
        let computed = columns.into_iter().zip(self.compute(lifted, exprs)?).collect();
        lifted.plan = with_columns(std::mem::take(&mut lifted.plan), computed)?;
        Ok(())
    }

    /// A column is late above a union if it is late in every input by the same expression of different texts.
    fn union(&mut self, union: Union) -> Result<Lifted> {
        let mut inputs = Vec::with_capacity(union.inputs.len());
        let mut schemas = Vec::with_capacity(union.inputs.len());
        for input in union.inputs {
            schemas.push(Arc::clone(input.schema()));
            inputs.push(self.lift_under(false, Arc::unwrap_or_clone(input))?);
        }
        let column_of = |schema: &DFSchema, position: usize| Column::from(schema.qualified_field(position));
        let mut late = Vec::new();
        let mut texts: BTreeMap<usize, Vec<Vec<Expr>>> = BTreeMap::new();
        for position in 0..union.schema.fields().len() {
            let templates = inputs.iter().zip(&schemas).map(|(input, schema)| {
                let column = column_of(schema, position);
                let (_, expr) = input.late.iter().find(|(late, _)| *late == column)?;
                Template::of(input.resolve(expr.clone()).ok()?)
            });
            let Some(templates) = templates.collect::<Option<Vec<_>>>() else { continue };
            if let Some(first) = templates.first()
                && templates.iter().all(|template| template.shape == first.shape)
            {
                let names: Vec<_> = first.texts.iter().map(|_| self.name()).collect();
                let expr = first.filled(&names)?;
                late.push((column_of(&union.schema, position), expr));
                let texts_of = |template: Template| template.texts.into_iter().zip(&names).map(|(t, n)| t.alias(n));
                texts.insert(position, templates.into_iter().map(|t| texts_of(t).collect()).collect());
            }
        }
        let kept: Vec<_> = (0..union.schema.fields().len()).filter(|position| !texts.contains_key(position)).collect();
        let mut projected = Vec::with_capacity(inputs.len());
        for (number, (mut input, schema)) in inputs.into_iter().zip(&schemas).enumerate() {
            let columns = kept.iter().map(|&position| column_of(schema, position)).collect::<Vec<_>>();
            let exprs = self.compute(&mut input, columns.iter().cloned().map(Expr::Column).collect())?;
            let mut exprs: Vec<_> = exprs.into_iter().zip(&columns).map(|(expr, column)| named(expr, column)).collect();
            texts.values().for_each(|texts| exprs.extend(texts[number].iter().cloned()));
            projected.push((exprs, input.plan));
        }
        same_types(&mut projected, kept.len())?;
        let inputs =
            projected.into_iter().map(|(exprs, plan)| project(exprs, plan).map(Arc::new)).collect::<Result<_>>()?;
        let plan = LogicalPlan::Union(Union::try_new(inputs)?);
        Ok(Lifted { plan, late, ready: Vec::new(), pending: Vec::new() })
    }

    fn aggregate(&mut self, aggregate: Aggregate) -> Result<Lifted> {
        let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
        let groups = schema.fields().len() - aggr_expr.len();
        let mut lifted = self.lift_under(false, Arc::unwrap_or_clone(input))?;
        let mut group_exprs = Vec::with_capacity(group_expr.len());
        for (position, group) in group_expr.into_iter().enumerate() {
            group_exprs.push(match group {
                // Its columns are named by what is in it.
                Expr::GroupingSet(_) => self.compute_one(&mut lifted, group)?,
                _ => self.compute_named(&mut lifted, group, &Column::from(schema.qualified_field(position)))?,
            });
        }
        let (mut aggregates, mut late) = (Vec::with_capacity(aggr_expr.len()), Vec::new());
        for (position, expr) in aggr_expr.into_iter().enumerate() {
            let column = Column::from(schema.qualified_field(groups + position));
            if let Some((picked, call)) = self.pick_text(&lifted, &expr)? {
                late.push((column, call));
                aggregates.push(picked);
            } else {
                aggregates.push(self.compute_named(&mut lifted, expr, &column)?);
            }
        }
        let plan = Aggregate::try_new(Arc::new(lifted.plan), group_exprs, aggregates)?;
        Ok(Lifted { plan: LogicalPlan::Aggregate(plan), late, ready: Vec::new(), pending: Vec::new() })
    }

    /// `first_value(embed(x))` -> `first_value(x)` and the call on its result: NULL exactly where x is NULL, `embed`
    /// changes neither which row is picked nor which are ignored.
    fn pick_text(&mut self, lifted: &Lifted, expr: &Expr) -> Result<Option<(Expr, Expr)>> {
        let inner = match expr {
            Expr::Alias(alias) => alias.expr.as_ref(),
            other => other,
        };
        let Expr::AggregateFunction(AggregateFunction { func, params }) = inner else { return Ok(None) };
        if !matches!(func.name(), "first_value" | "last_value") || params.distinct || params.args.len() != 1 {
            return Ok(None);
        }
        let call = lifted.resolve(params.args[0].clone())?;
        let mut params = params.clone();
        match parts(&call) {
            Some((_, text, _)) if is_late(&call) => params.args = vec![text.clone()],
            _ => return Ok(None),
        }
        let others = params.order_by.iter().map(|key| &key.expr).chain(params.filter.as_deref());
        for other in others {
            if has_call(&lifted.resolve(other.clone())?) {
                return Ok(None);
            }
        }
        let name = self.name();
        let picked = Expr::AggregateFunction(AggregateFunction { func: Arc::clone(func), params }).alias(&name);
        Ok(Some((picked, with_text(&call, Expr::Column(Column::new_unqualified(name))))))
    }

    fn window(&mut self, window: Window) -> Result<Lifted> {
        let Window { input, window_expr, schema } = window;
        let inputs = schema.fields().len() - window_expr.len();
        let mut lifted = self.lift_under(false, Arc::unwrap_or_clone(input))?;
        let mut exprs = Vec::with_capacity(window_expr.len());
        for (position, expr) in window_expr.into_iter().enumerate() {
            exprs.push(self.compute_named(
                &mut lifted,
                expr,
                &Column::from(schema.qualified_field(inputs + position)),
            )?);
        }
        lifted.plan = LogicalPlan::Window(Window::try_new(exprs, Arc::new(lifted.plan))?);
        Ok(lifted)
    }
}

/// Whether an expression may wait: it has a call, and columns, and no part that must stay where it is.
fn is_late(expr: &Expr) -> bool {
    has_call(expr) && can_move(expr) && !keeps_calls(expr) && !expr.column_refs().is_empty()
}

/// An expression under the name and qualifier of a column.
fn named(expr: Expr, column: &Column) -> Expr {
    let (qualifier, name) = expr.qualified_name();
    if qualifier == column.relation && name == column.name {
        return expr;
    }
    expr.unalias().alias_qualified(column.relation.clone(), &column.name)
}

fn columns_of(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field)))).collect()
}

fn project(exprs: Vec<Expr>, plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// A plan with more columns, behind its own.
fn with_columns(plan: LogicalPlan, columns: Vec<(Column, Expr)>) -> Result<LogicalPlan> {
    if columns.is_empty() {
        return Ok(plan);
    }
    let mut exprs = columns_of(plan.schema());
    exprs.extend(columns.into_iter().map(|(column, expr)| named(expr, &column)));
    project(exprs, plan)
}

fn filtered(conditions: Vec<Expr>, plan: LogicalPlan) -> Result<LogicalPlan> {
    match conjunction(conditions) {
        Some(predicate) => Ok(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?)),
        None => Ok(plan),
    }
}

/// A scan without the filters that have a call: a source might evaluate them on every row. One that a source promised to
/// apply exactly stays, because no other filter does.
fn without_calls(mut scan: TableScan) -> Result<TableScan> {
    let support = scan.source.supports_filters_pushdown(&scan.filters.iter().collect::<Vec<_>>())?;
    let filters = std::mem::take(&mut scan.filters).into_iter().zip(support);
    let stays = |(filter, support): (Expr, _)| {
        (!has_call(&filter) || support == TableProviderFilterPushDown::Exact).then_some(filter)
    };
    scan.filters = filters.filter_map(stays).collect();
    Ok(scan)
}

/// Casts the texts of a union's inputs, which lie behind the first columns, where they are of different types.
fn same_types(inputs: &mut [(Vec<Expr>, LogicalPlan)], first: usize) -> Result<()> {
    use datafusion::arrow::datatypes::DataType;
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

/// An expression of calls and constants: what it does, and the texts that it does it to.
struct Template {
    /// Texts are columns of the table [`TEXTS`], named by their number.
    shape: Expr,
    texts: Vec<Expr>,
}

/// No query has a table of this name: it is an empty one.
const TEXTS: &str = "";

impl Template {
    /// `None` if the expression has columns outside its texts.
    fn of(expr: Expr) -> Option<Self> {
        let mut texts = Vec::new();
        let shape = expr.transform_down(|expr| {
            let Some((_, text, _)) = parts(&expr) else { return Ok(Transformed::no(expr)) };
            let place = Expr::Column(Column::new(Some(TEXTS), texts.len().to_string()));
            let call = with_text(&expr, place);
            texts.push(text.clone());
            Ok(Transformed::new(call, true, TreeNodeRecursion::Jump))
        });
        let shape = shape.ok()?.data;
        let is_text = |column: &&Column| column.relation.as_ref().is_some_and(|table| table.table() == TEXTS);
        shape.column_refs().iter().all(is_text).then_some(Self { shape, texts })
    }

    /// The expression on columns of these names.
    fn filled(&self, names: &[String]) -> Result<Expr> {
        let filled = self.shape.clone().transform(|expr| {
            Ok(match &expr {
                Expr::Column(column) => match column.name.parse::<usize>().ok().and_then(|number| names.get(number)) {
                    Some(name) => Transformed::yes(Expr::Column(Column::new_unqualified(name))),
                    None => Transformed::no(expr),
                },
                _ => Transformed::no(expr),
            })
        });
        filled.map(|expr| expr.data)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::error::DataFusionError;
    use datafusion::logical_expr::{LogicalPlanBuilder, lit};

    use super::*;

    #[test]
    fn a_rule_that_fails_is_seen_by_tests_and_costs_others_no_query() {
        let plan = LogicalPlanBuilder::empty(true).project([lit(1)]).and_then(|plan| plan.build()).expect("a plan");
        let failed = || Err(DataFusionError::Internal("a broken rule".to_owned()));
        assert_eq!(settle(failed(), &plan).expect("the plan that is there"), plan);
        fail_on_broken_rule();
        let error = settle(failed(), &plan).expect_err("seen").to_string();
        assert!(error.contains("could not be lifted") && error.contains("a broken rule"), "{error}");
        assert_eq!(settle(Ok(None), &plan).expect("nothing to lift"), plan);
    }
}

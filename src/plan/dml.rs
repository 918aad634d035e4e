//! DELETE and UPDATE: exactly the rows that the condition holds for, or an error before anything changes.
//!
//! DataFusion 55.2 hands a table the conditions that it finds above the table's scan in the *optimized* plan. A condition
//! that was folded (`WHERE false`) or became a join (`EXISTS`, `IN (SELECT ..)`) is not there any more, and the table
//! changes every row. So before anything is optimized the statement on a table in memory becomes a query for the numbers of
//! its rows and their new values, below a [`ChangeNode`]; [`RowSink`] applies what the query gives. A table of another kind
//! gets its conditions from DataFusion, where they are all there, see [`checked`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchemaRef, TableReference, internal_err, plan_err};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::datasource::{DefaultTableSource, MemTable, provider_as_source};
use datafusion::error::Result;
use datafusion::logical_expr::dml::DmlStatement;
use datafusion::logical_expr::{
    Expr, Extension, Filter, LogicalPlan, LogicalPlanBuilder, Projection, TableScan, TableSource,
    UserDefinedLogicalNodeCore, WriteOp, lit,
};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;

use super::change::{NumberedRows, RowSink};
use super::membership::exact;

/// Why a statement is refused that is not made of conditions over the scan of its table.
const NOT_A_CHAIN: &str = "it does more than pick rows of this table";

/// The rule, which comes first: DELETE and UPDATE of a table in memory become a [`ChangeNode`].
///
/// It is an optimizer rule because PREPARE optimizes a plan that was not analyzed.
#[derive(Debug)]
pub(super) struct RowChanges;

impl OptimizerRule for RowChanges {
    fn name(&self) -> &str {
        "embed_row_changes"
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        as_query(plan)
    }
}

/// A statement as a [`ChangeNode`]; EXPLAIN has one below it.
fn as_query(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Dml(dml) if changes_rows(&dml) => match memory_table(&dml.target) {
            Some(table) => ChangeNode::of(&dml, &table, NOT_A_CHAIN).map(Transformed::yes),
            None => Ok(Transformed::no(LogicalPlan::Dml(dml))),
        },
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => plan.map_children(as_query),
        other => Ok(Transformed::no(other)),
    }
}

fn changes_rows(dml: &DmlStatement) -> bool {
    matches!(dml.op, WriteOp::Delete | WriteOp::Update)
}

fn provider(source: &Arc<dyn TableSource>) -> Option<&Arc<dyn TableProvider>> {
    source.downcast_ref::<DefaultTableSource>().map(|source| &source.table_provider)
}

/// The table, if it is one in memory.
fn memory_table(source: &Arc<dyn TableSource>) -> Option<Arc<dyn TableProvider>> {
    provider(source).filter(|table| table.is::<MemTable>()).map(Arc::clone)
}

/// Changes the rows of a table in memory whose numbers its input gives.
#[derive(Debug, Clone)]
pub(super) struct ChangeNode {
    op: WriteOp,
    table_name: TableReference,
    rows: Arc<NumberedRows>,
    /// Columns of the table that get new values.
    columns: Vec<usize>,
    /// Number of the row, and its new values.
    input: LogicalPlan,
    /// Why the statement cannot be run.
    refusal: Option<&'static str>,
    /// The number of rows.
    schema: DFSchemaRef,
}

impl ChangeNode {
    /// The statement as a query and what is done with its rows. `otherwise` says why a plan is refused that is no chain over
    /// the table.
    fn of(dml: &DmlStatement, table: &Arc<dyn TableProvider>, otherwise: &'static str) -> Result<LogicalPlan> {
        let rows = Arc::new(NumberedRows::new(Arc::clone(table))?);
        let (columns, input, refusal) = match selection(dml, &rows)? {
            Some((columns, input)) => {
                let (input, refusal) = exact(input)?;
                (columns, input, refusal)
            }
            None => (Vec::new(), dml.input.as_ref().clone(), Some(otherwise)),
        };
        let node = Self {
            op: dml.op.clone(),
            table_name: dml.table_name.clone(),
            rows,
            columns,
            input,
            refusal,
            schema: Arc::clone(&dml.output_schema),
        };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    /// The operator over the planned input.
    pub(super) fn plan(&self, input: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(why) = self.refusal {
            return refuse(&self.op, &self.table_name, why);
        }
        if input.schema().fields().len() != 1 + self.columns.len() {
            return internal_err!("{} reads {} columns", self.op, input.schema().fields().len());
        }
        let sink = RowSink::try_new(self.op.clone(), self.table_name.clone(), &self.rows, self.columns.clone(), input)?;
        Ok(Arc::new(DataSinkExec::new(Arc::clone(input), Arc::new(sink), None)))
    }

    /// What tells two statements apart.
    fn key(&self) -> (&WriteOp, &TableReference, &[usize], &LogicalPlan) {
        (&self.op, &self.table_name, &self.columns, &self.input)
    }
}

fn refuse<T>(op: &WriteOp, table: &TableReference, why: &str) -> Result<T> {
    let op = op.name().to_lowercase();
    plan_err!(
        "{op} on table \"{table}\": {why}, nothing was changed: \
         select the keys of the rows first, and write WHERE key IN (1, 2, ..)"
    )
}

/// The columns that get new values, and the query for number and new values of the statement's rows; `None` for a statement
/// over more than the table.
fn selection(dml: &DmlStatement, rows: &Arc<NumberedRows>) -> Result<Option<(Vec<usize>, LogicalPlan)>> {
    let (values, input) = match (&dml.op, dml.input.as_ref()) {
        (WriteOp::Update, LogicalPlan::Projection(values)) => (Some(values), &values.input),
        (WriteOp::Delete, _) => (None, &dml.input),
        _ => return Ok(None),
    };
    let Some(input) = numbered(input, dml, rows)? else { return Ok(None) };
    let (qualifier, number) = input.schema().qualified_field_with_unqualified_name(rows.number())?;
    let mut exprs = vec![Expr::Column(Column::from((qualifier, number)))];
    let mut columns = Vec::new();
    if let Some(values) = values {
        let target = dml.target.schema();
        let name = |field: &FieldRef| field.name().clone();
        if !values.schema.fields().iter().map(name).eq(target.fields().iter().map(name)) {
            return Ok(None);
        }
        for (index, (value, field)) in values.expr.iter().zip(target.fields()).enumerate() {
            if !is_column(value, field.name()) {
                columns.push(index);
                exprs.push(value.clone());
            }
        }
    }
    let query = Projection::try_new(exprs, Arc::new(input))?;
    Ok(Some((columns, LogicalPlan::Projection(query))))
}

/// Whether an assigned value is the column itself.
fn is_column(value: &Expr, name: &str) -> bool {
    match value {
        Expr::Alias(alias) => is_column(&alias.expr, name),
        Expr::Column(column) => column.name == name,
        _ => false,
    }
}

/// A chain over the scan of a table with the numbers of its rows as one column more; `None` for another plan.
fn numbered(plan: &LogicalPlan, dml: &DmlStatement, rows: &Arc<NumberedRows>) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::TableScan(scan) if is_whole(scan, dml) => {
            let source = provider_as_source(Arc::clone(rows) as Arc<dyn TableProvider>);
            LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?.build().map(Some)
        }
        LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Limit(_) => {
            let Some(input) = numbered(plan.inputs()[0], dml, rows)? else { return Ok(None) };
            plan.with_new_exprs(plan.expressions(), vec![input]).map(Some)
        }
        _ => Ok(None),
    }
}

/// Whether a scan gives the statement's table as it is.
fn is_whole(scan: &TableScan, dml: &DmlStatement) -> bool {
    let same = match (provider(&scan.source), provider(&dml.target)) {
        (Some(scanned), Some(target)) => Arc::ptr_eq(scanned, target),
        _ => false,
    };
    same && scan.projection.is_none() && scan.filters.is_empty() && scan.fetch.is_none()
}

impl UserDefinedLogicalNodeCore for ChangeNode {
    fn name(&self) -> &str {
        "ChangeRows"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangeRows: op=[{}] table=[{}]", self.op, self.table_name)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Ok(Self { input, ..self.clone() }),
            _ => plan_err!("a ChangeRows node has one input"),
        }
    }
}

impl PartialEq for ChangeNode {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ChangeNode {}

impl Hash for ChangeNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialOrd for ChangeNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

/// The optimized plan, in which DataFusion finds the whole condition of a DELETE or UPDATE.
pub(super) fn checked(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Dml(dml) if changes_rows(&dml) => checked_statement(dml),
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => {
            plan.map_children(|plan| checked(plan).map(Transformed::yes)).map(|plan| plan.data)
        }
        other => Ok(other),
    }
}

fn checked_statement(mut dml: DmlStatement) -> Result<LogicalPlan> {
    // The rule did not run: no rule did, or it was taken out of the session. An optimized plan is no chain over a whole scan.
    if let Some(table) = memory_table(&dml.target) {
        return ChangeNode::of(&dml, &table, "the optimizer rule embed_row_changes did not run");
    }
    let (values, input) = match dml.input.as_ref() {
        LogicalPlan::Projection(values) => (values.expr.as_slice(), values.input.as_ref()),
        input => (Default::default(), input),
    };
    // No row: DataFusion would find no condition.
    if matches!(input, LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row) {
        let scan = LogicalPlanBuilder::scan(dml.table_name.clone(), Arc::clone(&dml.target), None)?.build()?;
        dml.input = Arc::new(LogicalPlan::Filter(Filter::try_new(lit(false), Arc::new(scan))?));
    } else if !is_read_whole(values, input, &dml.table_name) {
        return refuse(&dml.op, &dml.table_name, "a table of this kind takes no subquery, join or LIMIT in it");
    }
    Ok(LogicalPlan::Dml(dml))
}

/// Whether values and conditions are all over the table alone, where DataFusion reads them.
fn is_read_whole(values: &[Expr], input: &LogicalPlan, table: &TableReference) -> bool {
    let (mut plan, mut conditions) = (input, Vec::new());
    // An alias counts in values, and in conditions where it is right above the scan: others DataFusion leaves out.
    let (mut in_values, mut in_conditions) = (vec![table.clone()], vec![table.clone()]);
    loop {
        plan = match plan {
            LogicalPlan::Filter(filter) => {
                conditions.push(&filter.predicate);
                filter.input.as_ref()
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let name = TableReference::bare(alias.alias.table());
                if matches!(alias.input.as_ref(), LogicalPlan::TableScan(_)) {
                    in_conditions.push(name.clone());
                }
                in_values.push(name);
                alias.input.as_ref()
            }
            LogicalPlan::TableScan(scan) if scan.table_name.resolved_eq(table) && scan.fetch.is_none() => break,
            _ => return false,
        };
    }
    values.iter().all(|value| is_over(value, &in_values))
        && conditions.into_iter().all(|condition| is_over(condition, &in_conditions))
}

/// Whether an expression has no subquery, and no columns but of tables of these names.
fn is_over(expr: &Expr, names: &[TableReference]) -> bool {
    // The closure never fails.
    !expr.exists(|expr| Ok(is_elsewhere(expr, names))).unwrap_or(true)
}

/// Whether a part of an expression is a subquery or a column of another table.
fn is_elsewhere(expr: &Expr, names: &[TableReference]) -> bool {
    match expr {
        Expr::Column(Column { relation: Some(relation), .. }) => !names.iter().any(|name| name.resolved_eq(relation)),
        Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => true,
        _ => false,
    }
}

//! Calls over literals: the rule that keeps them out of planning, and the operator that computes them before everything else.
//!
//! DataFusion folds what is constant while it plans: a call would run a model there, on a thread of the runtime, and EXPLAIN would
//! show hundreds of numbers. So the rule gives such calls the plan's [`Literals`], in which nothing is found as long as the plan
//! does not run, and the optimizer leaves them where they are: they are moved about like any other constant.

use std::fmt::{self, Formatter};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, Statistics};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF, ScalarUDFImpl, WriteOp};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
    replace_children_if_necessary,
};
use futures::{TryStreamExt, stream};

use super::calls::{has_call, is_literal, parts, plan_has_call};
use super::exec::{EmbedExec, add_counts};
use super::execution::{Kept, PlanId};
use super::input::only_input;
use super::planned::PlannedCall;
use crate::engine::{Counters, Feed, Identity, Session, values_of};
use crate::error::Error;
use crate::functions::{Embed, Literals, literal_text, vector};
use crate::options::EmbedOptions;

/// Gives calls over literals the literals of their plan.
#[derive(Debug)]
pub(super) struct LiteralCalls;

impl AnalyzerRule for LiteralCalls {
    fn name(&self) -> &'static str {
        "embed_literals"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changes_rows =
            matches!(&plan, LogicalPlan::Dml(dml) if matches!(dml.op, WriteOp::Delete | WriteOp::Update));
        if changes_rows || !plan_has_call(&plan) {
            // Of a condition of DELETE and UPDATE a table may make what it likes.
            return Ok(plan);
        }
        let literals = Arc::<Literals>::default();
        plan.transform_up_with_subqueries(|node| match node {
            // What they are is asked while they are planned.
            LogicalPlan::Values(_) | LogicalPlan::Limit(_) => Ok(Transformed::no(node)),
            node => node.map_expressions(|expr| expr.transform_down(|expr| Ok(over_literal(expr, &literals)))),
        })
        .data()
    }
}

/// The optimizer is done with a plan: see [`Literals::begin`]. Whether it has calls over literals.
pub(super) fn begin(plan: &LogicalPlan) -> Result<bool> {
    let mut has_some = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(ScalarFunction { func, .. }) = expr
                    && let Some(literals) = func.inner().downcast_ref::<Embed>().and_then(Embed::literals)
                {
                    literals.begin();
                    has_some = true;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(has_some)
}

/// Whether a function has an argument that is the same for all rows: some want to know it while they are planned, as the delimiter of
/// `string_agg` and the default of `lag`.
fn has_constant_call(args: &[Expr]) -> bool {
    args.iter().any(|arg| arg.column_refs().is_empty() && has_call(arg))
}

/// A call over a literal with the literals of its plan; anything else as it is.
fn over_literal(expr: Expr, literals: &Arc<Literals>) -> Transformed<Expr> {
    let stays = match &expr {
        Expr::AggregateFunction(function) => has_constant_call(&function.params.args),
        Expr::WindowFunction(function) => has_constant_call(&function.params.args),
        _ => false,
    };
    if stays {
        return Transformed::new(expr, false, TreeNodeRecursion::Jump);
    }
    let Some((embed, text, _)) = parts(&expr) else { return Transformed::no(expr) };
    if !is_literal(text) {
        return Transformed::no(expr);
    }
    let func = Arc::new(ScalarUDF::new_from_impl(embed.over(Arc::clone(literals))));
    let Expr::ScalarFunction(ScalarFunction { args, .. }) = expr else { return Transformed::no(expr) };
    Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
}

/// Puts the operator above everything that runs of a plan with calls over literals.
pub(super) fn with_literals(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if plan.is::<ExplainExec>() {
        return Ok(plan);
    }
    if plan.is::<DataSinkExec>() || plan.is::<AnalyzeExec>() {
        let inputs = plan.children().into_iter().map(|input| with_literals(Arc::clone(input)));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        return replace_children_if_necessary(plan, inputs);
    }
    let exec = LiteralsExec::new(plan)?;
    Ok(if exec.calls.is_empty() { exec.input } else { Arc::new(exec) })
}

/// A call over a literal.
#[derive(Debug, Clone)]
struct LiteralCall {
    literals: Arc<Literals>,
    planned: PlannedCall,
    /// The literal.
    text: String,
}

impl LiteralCall {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.literals, &other.literals)
            && (&self.planned.call, &self.text) == (&other.planned.call, &other.text)
    }

    /// Puts the vector where the functions find it.
    fn set(&self, values: Vec<f32>) -> Result<()> {
        self.put(Ok(vector(values, self.planned.field.data_type())?));
        Ok(())
    }

    /// Puts the vector there, or why there is none.
    fn put(&self, vector: std::result::Result<ScalarValue, Error>) {
        self.literals.set(self.planned.call.clone(), self.text.clone(), vector);
    }
}

/// Computes the vectors of the literals of its input, and then is its input.
#[derive(Debug, Clone)]
pub(crate) struct LiteralsExec {
    pub(crate) input: Arc<dyn ExecutionPlan>,
    calls: Vec<LiteralCall>,
    kept: Arc<Kept>,
    counters: Arc<Counters>,
}

impl LiteralsExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let mut calls: Vec<LiteralCall> = Vec::new();
        input.apply(|node| {
            node.apply_expressions(&mut |expr| {
                expr.apply(|expr| {
                    if let Some(call) = literal_call(expr)?
                        && !calls.iter().any(|known| known.is_same(&call))
                    {
                        calls.push(call);
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        let kept = Kept::of(plan_of(&input)?);
        Ok(Self { input, calls, kept, counters: Arc::default() })
    }
}

/// The plan that operators of ours are of, or a new one where there are none.
fn plan_of(plan: &Arc<dyn ExecutionPlan>) -> Result<PlanId> {
    let mut found = None;
    plan.apply(|node| {
        found = found.or(node.downcast_ref::<EmbedExec>().map(|exec| exec.plan));
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found.unwrap_or_else(PlanId::new))
}

/// The call that an expression is, if it is one over a literal.
fn literal_call(expr: &Arc<dyn PhysicalExpr>) -> Result<Option<LiteralCall>> {
    let Some(function) = expr.downcast_ref::<ScalarFunctionExpr>() else { return Ok(None) };
    let Some(embed) = function.fun().inner().downcast_ref::<Embed>() else { return Ok(None) };
    let Some(literals) = embed.literals() else { return Ok(None) };
    let literal = |at: usize| {
        let value = function.args().get(at)?.downcast_ref::<Literal>()?.value();
        literal_text(value).map(str::to_owned)
    };
    // What is no literal even now is computed where it stands.
    let Some(text) = literal(0) else { return Ok(None) };
    let model = literal(1);
    let call = embed.call(model.as_deref().map(str::trim));
    let planned = PlannedCall {
        function: embed.name().to_owned(),
        text: Arc::clone(&function.args()[0]),
        field: function.return_field(&Schema::empty())?,
        identity: Identity::of(embed.find(&call)?.as_ref()),
        call,
    };
    Ok(Some(LiteralCall { literals: Arc::clone(literals), planned, text }))
}

impl DisplayAs for LiteralsExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        let calls: Vec<_> =
            self.calls.iter().map(|call| format!("{}({:?})", call.planned.function, call.text)).collect();
        match format {
            DisplayFormatType::TreeRender => writeln!(f, "{}", calls.join("\n")),
            _ => write!(f, "LiteralsExec: {}", calls.join(", ")),
        }
    }
}

impl ExecutionPlan for LiteralsExec {
    fn name(&self) -> &'static str {
        "LiteralsExec"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_input(self.name(), children)?;
        Ok(Arc::new(Self::new(input)?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let this = self.clone();
        let rows = async move {
            this.compute(&context).await?;
            this.input.execute(partition, context)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream::once(rows).try_flatten())))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = MetricsSet::new();
        add_counts(&mut metrics, None, &self.counters);
        Some(metrics)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }
}

impl LiteralsExec {
    /// Puts the vectors where the functions find them; partitions that do so at once share the query's memo.
    async fn compute(&self, context: &Arc<TaskContext>) -> Result<()> {
        let config = context.session_config().options();
        let session = Session::of(config).unwrap_or_default();
        let machine = session.machine(config, &EmbedOptions::default());
        let execution = self.kept.execution(context, &session, machine.memory());
        let mut waiting = Vec::new();
        for literal in &self.calls {
            let LiteralCall { planned: PlannedCall { call, .. }, text, .. } = literal;
            let planned = literal.planned.planned();
            if let Some(values) = session.remembered_literal(call, &planned, &machine, text)? {
                literal.set(values)?;
                continue;
            }
            let mut feed = Feed::open(&execution.query, call, &machine, &planned, Arc::clone(&self.counters))?;
            match feed.push(text) {
                Ok(slot) => {
                    feed.flush();
                    waiting.push((literal, feed, slot));
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled.into()),
                // Of whoever asks for it.
                Err(error) => literal.put(Err(error)),
            }
        }
        for (literal, mut feed, slot) in waiting {
            poll_fn(|task| {
                if !slot.is_done() {
                    feed.wake_when_done(&slot, task.waker());
                }
                if slot.is_done() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let values = values_of(&[Some(slot)], literal.planned.dimensions())?;
            session.remember_literal(&literal.planned.call, &machine, &literal.text, &values)?;
            literal.set(values)?;
        }
        Ok(())
    }
}

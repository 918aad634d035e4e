//! The logical node -> the operator, and the planner that a session gets.

use std::any::Any;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{ExprSchemable, LogicalPlan, ScalarUDFImpl, UserDefinedLogicalNode};
use datafusion::optimizer::{AnalyzerRule, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::calls;
use super::dml::{ChangeNode, RowChanges, checked};
use super::exec::EmbedExec;
use super::file_order::FileOrder;
use super::lift::lift;
use super::literals::{self, LiteralCalls, with_literals};
use super::node::EmbedNode;
use super::pages::{Pages, Rule};
use super::planned::PlannedCall;
use super::probes::Probes;
#[cfg(feature = "cluster")]
use crate::cluster::Cluster;
use crate::engine::Identity;
use crate::state::rebuild;

/// Plans the operator that runs `embed()`.
///
/// [`register`](crate::register) puts it into a session that has DataFusion's own planner. A program with a
/// [`QueryPlanner`] of its own keeps it, and plain functions run there; to have the operator too, it plans with this
/// extension:
///
/// ```
/// use std::sync::Arc;
///
/// use datafusion::physical_planner::DefaultPhysicalPlanner;
/// use datafusion_embed::EmbedPlanner;
///
/// let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(EmbedPlanner)]);
/// ```
///
/// and gives it what [`EmbedPlanner::lift`] makes of its logical plan.
///
/// # DELETE and UPDATE
///
/// DataFusion 55.2 hands a table the conditions that it finds above the table's scan after optimization: what was folded
/// (`WHERE false`) or became a join (`EXISTS`, `IN (SELECT ..)`) is lost, and **every** row is deleted or updated, even by
/// EXPLAIN. Where [`register`](crate::register) installs its planner, a table in memory changes exactly the rows of the
/// condition, all at once and when the plan is run, and a table of another kind gets its whole condition; what cannot be done
/// so is an error before anything changes. A program with a [`QueryPlanner`] of its own has what DataFusion does, with this
/// extension too.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmbedPlanner;

impl EmbedPlanner {
    /// Moves the calls of `embed` in an optimized plan to where the fewest rows pass. The plan has the same columns; one
    /// without calls, or with nothing to move, comes back as it is.
    ///
    /// Only a planner that has this extension can plan the result.
    pub fn lift(&self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        lift(plan)
    }
}

#[async_trait]
impl ExtensionPlanner for EmbedPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(change) = node.as_any().downcast_ref::<ChangeNode>() {
            return change.plan(&physical_inputs[0]).map(Some);
        }
        let Some(node) = node.as_any().downcast_ref::<EmbedNode>() else { return Ok(None) };
        let schema = node.input.schema();
        let mut planned = Vec::with_capacity(node.calls.len());
        for (call, name) in node.calls.iter().zip(&node.names) {
            let Some((embed, text, model)) = calls::parts(call) else { return Ok(None) };
            let field = call.to_field(schema)?.1;
            let call = embed.call(model);
            let identity = Identity::of(embed.find(&call)?.as_ref());
            planned.push(PlannedCall {
                function: embed.name().to_owned(),
                text: planner.create_physical_expr(text, schema, session, context)?,
                field: Arc::new(field.as_ref().clone().with_name(name)),
                call,
                identity,
            });
        }
        let exec = EmbedExec::try_new(Arc::clone(&physical_inputs[0]), planned, node.plan)?;
        #[cfg(feature = "cluster")]
        let exec = exec.spread(session.config().get_extension::<Cluster>().is_some());
        Ok(Some(Arc::new(exec)))
    }
}

/// DataFusion's planner with [`EmbedPlanner`].
#[derive(Debug)]
struct EmbedQueryPlanner;

#[async_trait]
impl QueryPlanner for EmbedQueryPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(EmbedPlanner)]);
        let has_literals = literals::begin(plan)?;
        let physical = planner.create_physical_plan(&lift(&checked(plan.clone())?)?, session).await?;
        if has_literals { with_literals(physical) } else { Ok(physical) }
    }
}

/// DataFusion's physical rules, with [`Pages`] around the one that meets orders and partitionings and [`Probes`] for joins, for all plans
/// of a session of ours.
pub(crate) fn rules_of_session() -> Vec<Rule> {
    let rules = Probes::among(PhysicalOptimizer::new().rules);
    Pages::around(&rules, false).unwrap_or(rules)
}

/// Gives a session the planner and the rule for DELETE and UPDATE that it plans, unless it has a planner of its own, and the
/// rules that keep files in order and limits around their own rows.
pub(crate) fn install(state: &mut SessionState) {
    static DEFAULT: LazyLock<Arc<dyn QueryPlanner + Send + Sync>> =
        LazyLock::new(|| Arc::clone(SessionStateBuilder::new().build().query_planner()));
    let kind = |planner: &Arc<dyn QueryPlanner + Send + Sync>| (planner.as_ref() as &dyn Any).type_id();
    rebuild(state, |former, mut builder| {
        if kind(former.query_planner()) == kind(&DEFAULT) {
            let mut rules = former.optimizers().to_vec();
            if !rules.iter().any(|rule| rule.name() == RowChanges.name()) {
                rules.insert(0, Arc::new(RowChanges));
            }
            builder = builder.with_query_planner(Arc::new(EmbedQueryPlanner)).with_optimizer_rules(rules);
            if !former.analyzer().rules.iter().any(|rule| rule.name() == LiteralCalls.name()) {
                builder = builder.with_analyzer_rule(Arc::new(LiteralCalls));
            }
        }
        if let Some(rules) = Pages::around(former.physical_optimizers(), true) {
            builder = builder.with_physical_optimizer_rules(rules);
        }
        if !former.physical_optimizers().iter().any(|rule| rule.name() == FileOrder.name()) {
            builder = builder.with_physical_optimizer_rule(Arc::new(FileOrder));
        }
        builder
    });
}

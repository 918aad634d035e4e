//! The physical rule that keeps a LIMIT around its own rows.
//!
//! DataFusion 55.2 pushes a sort below a limit, and gives it the limit's count without its OFFSET: of the rows that the sort
//! keeps the limit then skips some. `ORDER BY` over `LIMIT 3 OFFSET 3` has no row, and a COPY of it writes an empty file. An
//! `ORDER BY ... OFFSET` below an aggregate loses its sort. Both happen in one rule, which meets orders and partitionings.
//!
//! Here that rule sees a limit with all below it as a leaf, and the inside as a query of its own: nothing moves through. So
//! pages fit together too: `LIMIT 50` and `LIMIT 50 OFFSET 50` are of the same rows, whatever sorts them afterwards.

use std::fmt;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Statistics, internal_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_optimizer::output_requirements::OutputRequirements;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions, SendableRecordBatchStream,
};

use super::exec::EmbedExec;

pub(super) type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// DataFusion's rule, in which no row passes a limit.
#[derive(Debug)]
pub(super) struct Pages {
    inner: Rule,
    /// In plans that run `embed` only: the others are their host's.
    only_embed: bool,
}

impl Pages {
    /// Puts the rule around DataFusion's, once; `None` where nothing changes.
    pub(super) fn around(rules: &[Rule], only_embed: bool) -> Option<Vec<Rule>> {
        let place = rules.iter().position(is::<EnsureRequirements>)?;
        // What says that an order is wanted is taken away by a later rule, which a host's own list may lack.
        rules[place..].iter().find(|rule| is::<OutputRequirements>(rule))?;
        let mut rules = rules.to_vec();
        let inner = Arc::clone(&rules[place]);
        rules[place] = Arc::new(Self { inner, only_embed });
        Some(rules)
    }

    /// A limit over an input without open pages, as a leaf.
    fn page(
        &self,
        node: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
        if !node.is::<GlobalLimitExec>() {
            return Ok(Transformed::no(node));
        }
        // Says that the order of the rows is wanted; DataFusion takes it away when the orders are planned.
        let node = OutputRequirements::new_add_mode().optimize(node, config)?;
        let inside = self.inner.optimize(node, config)?;
        Ok(Transformed::yes(Arc::new(Page { inside })))
    }
}

pub(super) fn is<T: 'static>(rule: &Rule) -> bool {
    (rule.as_ref() as &dyn std::any::Any).is::<T>()
}

impl PhysicalOptimizerRule for Pages {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if self.only_embed && !plan.exists(|node| Ok(node.is::<EmbedExec>()))? {
            return self.inner.optimize(plan, config);
        }
        let plan = plan.transform_up(|node| self.page(node, config)).data()?;
        self.inner.optimize(plan, config)?.transform_down(opened).data()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_check(&self) -> bool {
        self.inner.schema_check()
    }
}

/// What a page holds, and the node itself if it is none.
fn opened(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let inside = node.downcast_ref::<Page>().map(|page| Arc::clone(&page.inside));
    Ok(inside.map_or_else(|| Transformed::no(node), Transformed::yes))
}

/// A limit and all below it, while a rule works around it.
#[derive(Debug)]
struct Page {
    inside: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for Page {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl ExecutionPlan for Page {
    fn name(&self) -> &'static str {
        "Page"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inside.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a page is there while a plan is made")
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        StatisticsContext::new().compute(self.inside.as_ref(), args)
    }
}

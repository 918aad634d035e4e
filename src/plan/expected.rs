//! What a plan will embed, as far as it is known before it runs.

use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

/// The rows that the operators of a plan will embed: for a program that shows how far a query is, beside [`counts`](crate::counts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expected {
    /// Operators that embed.
    pub operators: usize,
    /// `None` as soon as one of them does not know.
    pub rows: Option<u64>,
}

impl Default for Expected {
    fn default() -> Self {
        Self { operators: 0, rows: Some(0) }
    }
}

impl Expected {
    /// Of all operators of a physical plan.
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let mut expected = Self::default();
        expected.add(plan);
        expected
    }

    fn add(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        if plan.name() == "EmbedExec" {
            self.operators += 1;
            let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
            let rows = statistics.ok().and_then(|statistics| match statistics.num_rows {
                Precision::Exact(rows) => Some(rows.min(limit_below(plan)) as u64),
                _ => None,
            });
            self.rows = self.rows.zip(rows).map(|(a, b)| a + b);
        }
        plan.children().into_iter().for_each(|child| self.add(child));
    }
}

/// The smallest limit on the way to a scan: a scan's statistics do not know its own.
fn limit_below(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.fetch().unwrap_or(usize::MAX);
    match plan.children().as_slice() {
        [input] => own.min(limit_below(input)),
        _ => own,
    }
}

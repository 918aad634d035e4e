//! What pgvector's operators mean, where both sides are vectors.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, ScalarUDF, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::lists::Kind;

/// Plans them as calls of functions.
#[derive(Debug)]
pub(crate) struct VectorOperators {
    l1_distance: Arc<ScalarUDF>,
    l2_distance: Arc<ScalarUDF>,
    negative_inner_product: Arc<ScalarUDF>,
    cosine_similarity: Arc<ScalarUDF>,
    hamming_distance: Arc<ScalarUDF>,
    jaccard_distance: Arc<ScalarUDF>,
    vector: Arc<ScalarUDF>,
}

impl VectorOperators {
    /// With the functions of a session, by their names.
    pub(crate) fn new(function: impl Fn(&str) -> Result<Arc<ScalarUDF>>) -> Result<Self> {
        Ok(Self {
            l1_distance: function("l1_distance")?,
            l2_distance: function("l2_distance")?,
            negative_inner_product: function("negative_inner_product")?,
            cosine_similarity: function("cosine_similarity")?,
            hamming_distance: function("hamming_distance")?,
            jaccard_distance: function("jaccard_distance")?,
            vector: function("vector")?,
        })
    }
}

impl ExprPlanner for VectorOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let name = match &expr.op {
            BinaryOperator::Custom(name) => name.as_str(),
            // As PostgreSQL's dialect reads it.
            BinaryOperator::LtDashGt => "<->",
            BinaryOperator::Spaceship => "<=>",
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // In PostgreSQL a literal beside a vector is one.
        let are_bits = matches!(name, "<~>" | "<%>");
        let left = self.read(&expr.left, !are_bits && is_vector(&expr.right.get_type(schema)?));
        let right = self.read(&expr.right, !are_bits && is_vector(&expr.left.get_type(schema)?));
        // Of other types `<=>` is DataFusion's, and the others are nobody's.
        if name == "<=>" && !(is_vector(&left.get_type(schema)?) && is_vector(&right.get_type(schema)?)) {
            return Ok(PlannerResult::Original(expr));
        }
        let pair = || vec![left.clone(), right.clone()];
        Ok(PlannerResult::Planned(match name {
            "<->" => self.l2_distance.call(pair()),
            "<+>" => self.l1_distance.call(pair()),
            "<#>" => self.negative_inner_product.call(pair()),
            "<~>" => self.hamming_distance.call(pair()),
            "<%>" => self.jaccard_distance.call(pair()),
            "<=>" => lit(1.0f32) - self.cosine_similarity.call(pair()),
            _ => return Ok(PlannerResult::Original(expr)),
        }))
    }
}

impl VectorOperators {
    /// One side of an operator: a literal text beside a vector is read as one, and so is a parameter, which may be a text.
    fn read(&self, side: &Expr, is_beside_vector: bool) -> Expr {
        let is_read = match side {
            Expr::Literal(value, _) => value.data_type().is_string(),
            Expr::Placeholder(_) => true,
            _ => false,
        };
        if is_read && is_beside_vector { self.vector.call(vec![side.clone()]) } else { side.clone() }
    }
}

fn is_vector(data_type: &DataType) -> bool {
    Kind::of(data_type).is_some()
}

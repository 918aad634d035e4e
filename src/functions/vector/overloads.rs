//! `avg` and `sum` as a session of ours has them: DataFusion's own, and of vectors ours.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Expr, GroupsAccumulator, Operator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs, TypeSignature,
};

use super::average::VectorTotal;
use super::lists::Kind;

/// A function of numbers that takes vectors too.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct WithVectors {
    usual: Arc<AggregateUDF>,
    of_vectors: VectorTotal,
    signature: Signature,
}

impl WithVectors {
    /// Those that there are.
    pub(crate) fn all() -> [Self; 2] {
        [(avg_udaf(), VectorTotal::average()), (sum_udaf(), VectorTotal::sum())].map(|(usual, of_vectors)| {
            let usual_signature = usual.signature();
            // Where a call fits neither, the usual one has the say.
            let kinds = vec![TypeSignature::UserDefined, usual_signature.type_signature.clone()];
            let signature = Signature::one_of(kinds, usual_signature.volatility);
            Self { usual, of_vectors, signature }
        })
    }

    /// The function for arguments of these types.
    fn of_types<'a>(&self, mut types: impl Iterator<Item = &'a DataType>) -> &dyn AggregateUDFImpl {
        match types.next().and_then(Kind::of) {
            Some(_) => &self.of_vectors,
            None => self.usual.inner().as_ref(),
        }
    }

    fn of_fields(&self, fields: &[FieldRef]) -> &dyn AggregateUDFImpl {
        self.of_types(fields.iter().map(|field| field.data_type()))
    }
}

impl AggregateUDFImpl for WithVectors {
    fn name(&self) -> &str {
        self.usual.name()
    }

    fn aliases(&self) -> &[String] {
        self.usual.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [data_type] if Kind::of(data_type).is_some() => Ok(types.to_vec()),
            _ => plan_err!("{} of {types:?}", self.name()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.of_types(types.iter()).return_type(types)
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.of_fields(fields).return_field(fields)
    }

    fn is_nullable(&self) -> bool {
        self.usual.is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.of_fields(args.expr_fields).accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.of_fields(args.expr_fields).create_sliding_accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.of_fields(args.expr_fields).groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.of_fields(args.expr_fields).create_groups_accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.of_fields(args.input_fields).state_fields(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.usual.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.usual.reverse_udf()
    }

    /// The usual one rewrites `sum(x + 1)`, whose argument is a number.
    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        arg: &Expr,
        op: Operator,
        literal: &Expr,
        arg_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.usual.inner().simplify_expr_op_literal(function, arg, op, literal, arg_is_left)
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.usual.value_from_stats(statistics)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.of_types([data_type].into_iter()).default_value(data_type)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.of_types([data_type].into_iter()).set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.usual.documentation()
    }
}

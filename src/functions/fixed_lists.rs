//! Casts to lists of a fixed length: Arrow's, given lists that begin with the first of their values.
//!
//! Arrow 59 casts `[10, 11], [12, 13]`, the last two rows of a longer column, to the first values of that column:
//! `arrow_cast(v, 'FixedSizeList(2, Float32)')` behind an `OFFSET` gave other vectors without a word.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, GenericListArray, OffsetSizeTrait, UInt64Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Puts [`FromFirst`] around what is cast.
#[derive(Debug)]
pub(crate) struct FixedLists {
    from_first: Arc<ScalarUDF>,
}

impl FixedLists {
    pub(crate) fn new() -> Self {
        Self { from_first: Arc::new(FromFirst::new().into()) }
    }

    fn is_concerned(&self, from: &Expr, schema: &DFSchema, to: &DataType) -> Result<bool> {
        let is_done = matches!(from, Expr::ScalarFunction(call) if call.func == self.from_first);
        let fixed = |kind: &DataType| matches!(kind, DataType::FixedSizeList(_, _));
        let variable = |kind: &DataType| matches!(kind, DataType::List(_) | DataType::LargeList(_));
        Ok(!is_done && !matches!(from, Expr::Literal(..)) && has(to, &fixed) && has(&from.get_type(schema)?, &variable))
    }
}

impl OptimizerRule for FixedLists {
    fn name(&self) -> &str {
        "fixed_lists"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let mut schema = merge_schema(&plan.inputs());
        if let LogicalPlan::TableScan(scan) = &plan {
            schema.merge(&scan.projected_schema);
        }
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let rewritten = expr.transform_up(|expr| {
                let (mut from, to, is_try) = match expr {
                    Expr::Cast(Cast { expr, field }) => (expr, field, false),
                    Expr::TryCast(TryCast { expr, field }) => (expr, field, true),
                    other => return Ok(Transformed::no(other)),
                };
                let is_concerned = self.is_concerned(&from, &schema, to.data_type())?;
                if is_concerned {
                    *from = self.from_first.call(vec![*from]);
                }
                let cast = match is_try {
                    true => Expr::TryCast(TryCast { expr: from, field: to }),
                    false => Expr::Cast(Cast { expr: from, field: to }),
                };
                Ok(Transformed::new_transformed(cast, is_concerned))
            })?;
            Ok(rewritten.update_data(|expr| name.restore(expr)))
        })
    }
}

/// Whether a type is, or has in it, one of some kind.
fn has(data_type: &DataType, kind: &dyn Fn(&DataType) -> bool) -> bool {
    kind(data_type)
        || match data_type {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                has(item.data_type(), kind)
            }
            DataType::Struct(fields) => fields.iter().any(|field| has(field.data_type(), kind)),
            _ => false,
        }
}

/// `list_from_first(list)`: the same lists, in memory that begins with the first of their values.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FromFirst {
    signature: Signature,
}

impl FromFirst {
    pub(super) fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for FromFirst {
    fn name(&self) -> &str {
        "list_from_first"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [list] = take_function_args(self.name(), types)?;
        Ok(list.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [list] = take_function_args(self.name(), args.args)?;
        Ok(match list {
            ColumnarValue::Array(lists) if !begins_with_first(&lists) => {
                let rows = UInt64Array::from_iter_values(0..lists.len() as u64);
                ColumnarValue::Array(take(&lists, &rows, None)?)
            }
            other => other,
        })
    }
}

/// Whether all lists of a column, and those in them, begin where their values do.
fn begins_with_first(column: &ArrayRef) -> bool {
    fn list<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> bool {
        lists.value_offsets()[0].as_usize() == 0 && begins_with_first(lists.values())
    }
    match column.data_type() {
        DataType::List(_) => list(column.as_list::<i32>()),
        DataType::LargeList(_) => list(column.as_list::<i64>()),
        DataType::FixedSizeList(_, _) => begins_with_first(column.as_fixed_size_list().values()),
        DataType::Struct(_) => column.as_struct().columns().iter().all(begins_with_first),
        _ => true,
    }
}

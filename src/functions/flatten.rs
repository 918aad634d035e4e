//! `flatten(list)`: DataFusion's, in which a NULL has no values.
//!
//! DataFusion 55.2 takes what lies in the memory of a NULL for its values: `flatten(array_agg(embed(body)))` has as many zeros
//! for a body that is NULL as a vector has values.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, GenericListArray, OffsetSizeTrait};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{filter, is_not_null};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::functions_nested::flatten::Flatten as Inner;
use datafusion::logical_expr::{ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature};

/// DataFusion's function, given lists without NULLs.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Flatten(Inner);

impl Flatten {
    pub(super) fn new() -> Self {
        Self(Inner::new())
    }
}

impl ScalarUDFImpl for Flatten {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [list] = take_function_args(self.name(), &args.args)?;
        let is_scalar = matches!(list, ColumnarValue::Scalar(_));
        let list = list.to_array(if is_scalar { 1 } else { args.number_rows })?;
        let list = match list.data_type() {
            DataType::List(_) => without_nulls(list.as_list::<i32>())?,
            DataType::LargeList(_) => without_nulls(list.as_list::<i64>())?,
            _ => None,
        };
        if let Some(list) = list {
            let scalar = is_scalar.then(|| ScalarValue::try_from_array(&list, 0)).transpose()?;
            args.args = vec![scalar.map_or(ColumnarValue::Array(list), ColumnarValue::Scalar)];
        }
        self.0.invoke_with_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}

/// Lists without those of their elements that are NULL; `None` where none is.
fn without_nulls<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> Result<Option<ArrayRef>> {
    let (DataType::List(field) | DataType::LargeList(field)) = lists.data_type() else { return Ok(None) };
    let values = lists.values();
    if values.null_count() == 0 || !values.data_type().is_nested() {
        return Ok(None);
    }
    let mask = is_not_null(values.as_ref())?;
    let mut kept = 0;
    // How many elements that are kept lie before each.
    let mut before: Vec<usize> = Vec::with_capacity(values.len() + 1);
    for is_kept in mask.values() {
        before.push(kept);
        kept += usize::from(is_kept);
    }
    before.push(kept);
    let ends = lists.offsets().windows(2).map(|ends| before[ends[1].as_usize()] - before[ends[0].as_usize()]);
    let offsets = OffsetBuffer::from_lengths(ends);
    // The first list may begin behind the first value.
    let first = before[lists.offsets()[0].as_usize()];
    let last = before[lists.offsets()[lists.len()].as_usize()];
    let values = filter(values, &mask)?.slice(first, last - first);
    let lists = GenericListArray::<O>::try_new(Arc::clone(field), offsets, values, lists.nulls().cloned())?;
    Ok(Some(Arc::new(lists)))
}

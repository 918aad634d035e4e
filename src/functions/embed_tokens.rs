//! `embed_tokens(text[, model])`: length of a text in the model's tokens.

use std::sync::Arc;

use datafusion::arrow::array::Int64Array;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion_macros::user_doc;

use super::settings::Settings;
use super::text::{self, literal_text};
use crate::model::Role;

#[user_doc(
    doc_section(label = "Embedding Functions"),
    description = "Number of tokens of a text before truncation, special tokens counted, prompt not (Int64). Finds the \
rows that embed would truncate.",
    syntax_example = "embed_tokens(text[, model])",
    sql_example = r#"```sql
> SELECT id, embed_tokens(body) AS tokens FROM 'docs.parquet' WHERE embed_tokens(body) > 256;
```"#,
    argument(name = "text", description = "Text, as in embed."),
    argument(name = "model", description = "Literal, as in embed."),
    related_udf(name = "embed")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct EmbedTokens {
    pub(super) settings: Settings,
}

impl ScalarUDFImpl for EmbedTokens {
    fn name(&self) -> &str {
        "embed_tokens"
    }

    fn signature(&self) -> &Signature {
        text::signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(text::coerce(types))
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        internal_err!("embed_tokens checks its model, see return_field_from_args")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.settings.find(&self.settings.call(Role::Plain, text::model_of(self.name(), &args)?))?;
        Ok(Arc::new(Field::new(self.name(), DataType::Int64, args.arg_fields[0].is_nullable())))
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        Some(ScalarUDF::new_from_impl(Self { settings: self.settings.updated(config) }))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let call = self.settings.call(Role::Plain, text::model_argument(self.name(), &args.args)?);
        let (session, machine) = self.settings.running(&args.config_options);
        let planned = self.settings.identity(&call);
        Ok(match &args.args[0] {
            ColumnarValue::Array(array) => {
                let counts = session.count_tokens(&call, planned, &machine, &text::TextColumn::new(array)?.rows())?;
                ColumnarValue::Array(Arc::new(Int64Array::from(counts)))
            }
            ColumnarValue::Scalar(value) => {
                let counts = session.count_tokens(&call, planned, &machine, &[literal_text(value)])?;
                ColumnarValue::Scalar(ScalarValue::Int64(counts[0]))
            }
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

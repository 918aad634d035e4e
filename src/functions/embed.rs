//! `embed(text[, model])`, `embed_query(text[, model])`, `embed_document(text[, model])`.

use std::sync::Arc;

use datafusion::arrow::array::{FixedSizeListArray, Float32Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion_macros::user_doc;

use super::literals::{Foreseen, Literals};
use super::settings::Settings;
use super::text::{self, TextColumn, literal_text};
use crate::engine::{Call, Planned, Session};
use crate::model::{Found, Role};

/// The embedding function in one of its roles.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Embed {
    role: Role,
    settings: Settings,
    foreseen: Foreseen,
}

impl Embed {
    pub(super) fn new(role: Role, settings: Settings) -> Self {
        Self { role, settings, foreseen: Foreseen::default() }
    }

    /// The same function for literals of a plan.
    pub(crate) fn over(&self, literals: Arc<Literals>) -> Self {
        Self { foreseen: Foreseen(Some(literals)), ..Self::new(self.role, self.settings.clone()) }
    }

    /// The literals of the plan that it is of.
    pub(crate) fn literals(&self) -> Option<&Arc<Literals>> {
        self.foreseen.0.as_ref()
    }

    #[cfg(feature = "cluster")]
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        self.settings.session()
    }

    /// The call with the model that its second argument names.
    pub(crate) fn call(&self, model: Option<&str>) -> Call {
        self.settings.call(self.role, model)
    }

    /// The model of a call as its small files say now.
    pub(crate) fn find(&self, call: &Call) -> Result<Arc<Found>> {
        self.settings.find(call)
    }
}

impl ScalarUDFImpl for Embed {
    fn name(&self) -> &str {
        match self.role {
            Role::Plain => "embed",
            Role::Query => "embed_query",
            Role::Document => "embed_document",
        }
    }

    fn signature(&self) -> &Signature {
        text::signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(text::coerce(types))
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        internal_err!("the type of {} depends on its model, see return_field_from_args", self.name())
    }

    /// The dimension comes from the model's small files; the weights are not read (I5).
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let call = self.call(text::model_of(self.name(), &args)?);
        let description = &self.settings.find(&call)?.description;
        let dimensions = call.dimensions(description)?;
        let provenance = [
            ("embed.model", description.name.clone()),
            ("embed.revision", description.revision.clone().unwrap_or_default()),
            ("embed.precision", call.precision.to_string()),
            ("embed.role", call.role.to_string()),
        ];
        let nullable = args.arg_fields[0].is_nullable();
        let field = Field::new(self.name(), vector_type(dimensions), nullable)
            .with_metadata(provenance.map(|(key, value)| (key.to_owned(), value)).into());
        Ok(Arc::new(field))
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let foreseen = self.foreseen.clone();
        Some(ScalarUDF::new_from_impl(Self { foreseen, ..Self::new(self.role, self.settings.updated(config)) }))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let call = self.call(text::model_argument(self.name(), &args.args)?);
        let vector_type = args.return_field.data_type();
        if let ColumnarValue::Scalar(value) = &args.args[0]
            && let Some(text) = literal_text(value)
            && let Some(vector) = self.foreseen.get(&call, text)?
        {
            return Ok(ColumnarValue::Scalar(vector));
        }
        let (session, machine) = self.settings.running(&args.config_options);
        let planned =
            Planned { dimensions: dimensions(vector_type)?, identity: self.settings.identity(&call).cloned() };
        match &args.args[0] {
            ColumnarValue::Array(array) => {
                let texts = TextColumn::new(array)?;
                let rows = texts.rows();
                let values = session.embed(&call, &planned, &machine, &rows)?;
                let nulls = rows.iter().map(Option::is_some).collect::<Vec<_>>().into();
                Ok(ColumnarValue::Array(Arc::new(vectors(values, nulls, vector_type)?)))
            }
            ColumnarValue::Scalar(value) => {
                let Some(text) = literal_text(value) else {
                    return Ok(ColumnarValue::Scalar(ScalarValue::try_new_null(vector_type)?));
                };
                let values = session.embed_literal(&call, &planned, &machine, text)?;
                Ok(ColumnarValue::Scalar(vector(values, vector_type)?))
            }
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        match self.role {
            Role::Plain => EmbedDoc.doc(),
            Role::Query => EmbedQueryDoc.doc(),
            Role::Document => EmbedDocumentDoc.doc(),
        }
    }
}

/// The type of a vector column.
fn vector_type(dimensions: usize) -> DataType {
    DataType::FixedSizeList(Arc::new(Field::new_list_field(DataType::Float32, true)), dimensions as i32)
}

/// Length of the vectors of a column.
fn dimensions(data_type: &DataType) -> Result<usize> {
    match data_type {
        DataType::FixedSizeList(_, dimensions) => Ok(*dimensions as usize),
        other => internal_err!("a vector column is a FixedSizeList, not {other}"),
    }
}

/// The values of one vector as a value of this type.
pub(crate) fn vector(values: Vec<f32>, data_type: &DataType) -> Result<ScalarValue> {
    Ok(ScalarValue::FixedSizeList(Arc::new(vectors(values, NullBuffer::new_valid(1), data_type)?)))
}

/// `[rows, dimensions]` values as a column of this type, without a copy.
pub(crate) fn vectors(values: Vec<f32>, nulls: NullBuffer, data_type: &DataType) -> Result<FixedSizeListArray> {
    let DataType::FixedSizeList(item, dimensions) = data_type else {
        return internal_err!("a vector column is a FixedSizeList, not {data_type}");
    };
    if values.len() != nulls.len() * *dimensions as usize {
        return internal_err!("{} values do not fill {} rows of {dimensions}", values.len(), nulls.len());
    }
    let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
    let values = Arc::new(Float32Array::from(values));
    Ok(FixedSizeListArray::try_new(Arc::clone(item), *dimensions, values, nulls)?)
}

#[user_doc(
    doc_section(label = "Embedding Functions"),
    description = "Vector of a text, as sentence-transformers' `encode` gives it: FixedSizeList<Float32>, as long as the \
model's dimension. NULL gives NULL, and nothing else does.",
    syntax_example = "embed(text[, model])",
    sql_example = r#"```sql
> SELECT id, embed(body) FROM 'docs.parquet' LIMIT 128;
```"#,
    argument(name = "text", description = "Text: Utf8, LargeUtf8, Utf8View, or a dictionary of one of them."),
    argument(
        name = "model",
        description = "Literal: bundled name, directory, or hub id owner/name[@revision]. Default: the setting embed.model."
    ),
    related_udf(name = "embed_query"),
    related_udf(name = "embed_document"),
    related_udf(name = "cosine_similarity")
)]
struct EmbedDoc;

#[user_doc(
    doc_section(label = "Embedding Functions"),
    description = "Vector of a text with the model's query prompt before it, as sentence-transformers' `encode_query` \
gives it. For a model without prompts the same as embed.",
    syntax_example = "embed_query(text[, model])",
    sql_example = r#"```sql
> SELECT id, cosine_similarity(embed_document(body), embed_query('how to cook rice')) AS score
  FROM 'docs.parquet' ORDER BY score DESC NULLS LAST LIMIT 10;
```"#,
    argument(name = "text", description = "Text, as in embed."),
    argument(name = "model", description = "Literal, as in embed."),
    related_udf(name = "embed"),
    related_udf(name = "embed_document")
)]
struct EmbedQueryDoc;

#[user_doc(
    doc_section(label = "Embedding Functions"),
    description = "Vector of a text with the model's document prompt before it, as sentence-transformers' \
`encode_document` gives it. For a model without prompts the same as embed.",
    syntax_example = "embed_document(text[, model])",
    sql_example = r#"```sql
> SELECT id, embed_document(body) FROM 'docs.parquet' LIMIT 128;
```"#,
    argument(name = "text", description = "Text, as in embed."),
    argument(name = "model", description = "Literal, as in embed."),
    related_udf(name = "embed"),
    related_udf(name = "embed_query")
)]
struct EmbedDocumentDoc;

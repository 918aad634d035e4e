//! `embed_chunks(text[, max_tokens[, overlap[, model]]])`: a long text in parts that the model reads whole.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, ListArray, StringViewBuilder, StructArray};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::{ScalarValue, exec_err, internal_err, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion_macros::user_doc;

use super::settings::Settings;
use super::text::{self, TextColumn};
use crate::model::{Chunk, ChunkSize, Role};

#[user_doc(
    doc_section(label = "Embedding Functions"),
    description = "The parts of a text, each of which the model reads whole: a list of {chunk, start, stop, tokens}, to UNNEST. \
Cut at paragraphs or sentences where there are any in what fits, else between words, and inside a word only where that alone is too \
long. start and stop count characters from 1, so that substr(text, start, stop - start + 1) is the chunk; tokens are those that \
embed_document reads of it. All white space is in the chunks: without what they have in common they are the text. NULL gives NULL, an \
empty text an empty list.",
    syntax_example = "embed_chunks(text[, max_tokens[, overlap[, model]]])",
    sql_example = r#"```sql
> SELECT id, c.chunk, embed_document(c.chunk) FROM (SELECT id, unnest(embed_chunks(body, 200, 20)) AS c FROM 'docs.parquet');
```"#,
    argument(name = "text", description = "Text, as in embed."),
    argument(
        name = "max_tokens",
        description = "Constant: most tokens of a chunk, special tokens and the document prompt counted. Default, and 0: as many as \
the model reads (the setting embed.max_tokens)."
    ),
    argument(
        name = "overlap",
        description = "Constant: most tokens that a chunk has in common with the one before, in whole words; less than max_tokens. \
Default: 0."
    ),
    argument(name = "model", description = "Literal, as in embed."),
    related_udf(name = "embed_document"),
    related_udf(name = "embed_tokens")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct EmbedChunks {
    pub(super) settings: Settings,
}

/// What stands behind the text.
struct Arguments<'a> {
    /// `None` where a number is NULL, or not known yet.
    size: Option<ChunkSize>,
    model: Option<&'a str>,
}

impl<'a> Arguments<'a> {
    /// `scalars` are the arguments that are constants. Of numbers a plan may not know that yet: `2 * 64`, `$1`.
    fn read(types: &[DataType], scalars: &[Option<&'a ScalarValue>]) -> Result<Self> {
        let Some((text, others)) = types.split_first().filter(|(_, others)| others.len() <= 3) else {
            return plan_err!("embed_chunks(text[, max_tokens[, overlap[, model]]]) got {} arguments", types.len());
        };
        text::check_text("embed_chunks", text)?;
        let tokens = |position: usize| match others.get(position - 1).map(|kind| (kind, scalars[position])) {
            None => Ok(Some(0)),
            Some((kind, _)) if !kind.is_integer() && !kind.is_null() => {
                plan_err!("embed_chunks: argument {} is {kind}, not a whole number of tokens", position + 1)
            }
            Some((_, None)) => Ok(None),
            Some((_, Some(value))) if value.is_null() => Ok(None),
            Some((_, Some(value))) => match value.cast_to(&DataType::UInt64) {
                Ok(ScalarValue::UInt64(Some(tokens))) => Ok(Some(usize::try_from(tokens).unwrap_or(usize::MAX))),
                _ => plan_err!("embed_chunks: argument {} is {value}, not a number of tokens", position + 1),
            },
        };
        let model = match others.get(2).map(|kind| (kind, scalars[3])) {
            None => None,
            Some((kind, _)) if !text::is_text(kind) => {
                return plan_err!("embed_chunks: argument 4 is {kind}, not the name of a model");
            }
            Some((_, None)) => return plan_err!("embed_chunks: argument 4 must be a literal model name"),
            Some((_, Some(value))) => Some(text::named("embed_chunks", 4, value)?),
        };
        let size = tokens(1)?.zip(tokens(2)?).map(|(max_tokens, overlap)| ChunkSize { max_tokens, overlap });
        Ok(Self { size, model })
    }
}

impl ScalarUDFImpl for EmbedChunks {
    fn name(&self) -> &str {
        "embed_chunks"
    }

    fn signature(&self) -> &Signature {
        text::signature()
    }

    /// As of the other functions of texts: what is wrong is said where the type of the result is asked for.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (text, others) = types.split_at(types.len().min(1));
        Ok(text::coerce(text).into_iter().chain(others.iter().cloned()).collect())
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        internal_err!("embed_chunks checks its model, see return_field_from_args")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let Arguments { size, model } = Arguments::read(&types, args.scalar_arguments)?;
        let call = self.settings.call(Role::Document, model);
        let description = &self.settings.find(&call)?.description;
        // Said before a row is read.
        size.map(|size| size.within(call.limit(description)?, &description.name)).transpose()?;
        Ok(Arc::new(Field::new(self.name(), chunks_type(), true)))
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        Some(ScalarUDF::new_from_impl(Self { settings: self.settings.updated(config) }))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        let scalars = args.args.iter().map(|arg| match arg {
            ColumnarValue::Scalar(value) => Some(value),
            ColumnarValue::Array(_) => None,
        });
        let scalars: Vec<_> = scalars.collect();
        if let Some(position) = scalars.iter().skip(1).position(Option::is_none) {
            return exec_err!("embed_chunks: argument {} is a column, and must be the same for all rows", position + 2);
        }
        let Arguments { size, model } = Arguments::read(&types, &scalars)?;
        let Some(size) = size else {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_new_null(&chunks_type())?));
        };
        let call = self.settings.call(Role::Document, model);
        let (session, machine) = self.settings.running(&args.config_options);
        let is_scalar = matches!(args.args[0], ColumnarValue::Scalar(_));
        let texts = TextColumn::new(&args.args[0].to_array(if is_scalar { 1 } else { args.number_rows })?)?;
        let rows = texts.rows();
        let chunks = session.chunks(&call, self.settings.identity(&call), &machine, size, &rows)?;
        let lists = lists(&rows, &chunks)?;
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&lists, 0)?),
            false => ColumnarValue::Array(lists),
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

fn chunk_fields() -> Fields {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Fields::from(vec![
        // Views have no limit to the bytes of a column, which chunks of a batch of long texts may have more of than 2 GiB.
        field("chunk", DataType::Utf8View),
        field("start", DataType::Int64),
        field("stop", DataType::Int64),
        field("tokens", DataType::Int64),
    ])
}

fn chunks_type() -> DataType {
    DataType::new_list(DataType::Struct(chunk_fields()), true)
}

/// The chunks of each text as a list.
fn lists(rows: &[Option<&str>], chunks: &[Option<Vec<Chunk>>]) -> Result<ArrayRef> {
    let (mut parts, mut starts, mut stops, mut tokens) = (StringViewBuilder::new(), Vec::new(), Vec::new(), Vec::new());
    for (text, chunks) in rows.iter().zip(chunks) {
        let (Some(text), Some(chunks)) = (text, chunks) else { continue };
        // Characters before a place in the text: chunks begin one after the other.
        let (mut at, mut characters) = (0, 0);
        for chunk in chunks {
            characters += text[at..chunk.bytes.start].chars().count();
            at = chunk.bytes.start;
            let part = &text[chunk.bytes.clone()];
            parts.append_value(part);
            starts.push(characters as i64 + 1);
            stops.push((characters + part.chars().count()) as i64);
            tokens.push(chunk.tokens as i64);
        }
    }
    let numbers = [starts, stops, tokens].map(|numbers| Arc::new(Int64Array::from(numbers)) as ArrayRef);
    let columns = std::iter::once(Arc::new(parts.finish()) as ArrayRef).chain(numbers).collect();
    let parts = StructArray::try_new(chunk_fields(), columns, None)?;
    let lengths = OffsetBuffer::from_lengths(chunks.iter().map(|chunks| chunks.as_ref().map_or(0, Vec::len)));
    let nulls: NullBuffer = chunks.iter().map(Option::is_some).collect::<Vec<_>>().into();
    let item = Arc::new(Field::new_list_field(DataType::Struct(chunk_fields()), true));
    Ok(Arc::new(ListArray::try_new(
        item,
        lengths,
        Arc::new(parts),
        Some(nulls).filter(|nulls| nulls.null_count() > 0),
    )?))
}

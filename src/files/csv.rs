//! CSV files in which an empty text and a NULL differ: `""` and nothing.
//!
//! DataFusion's sink (55.2) writes nothing for both. The writer below it asks for one text that stands for NULL, and quotes
//! what must be quoted only. So NULL is written as a text that is not in the data, and both are put right in the bytes.
//!
//! A line without anything is none for most readers: in a file of one column both are `""`, as before.

use std::fmt::{self, Formatter};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::csv::{QuoteStyle, WriterBuilder};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::file_format::csv::CsvSink;
use datafusion::datasource::file_format::write::demux::DemuxedStreamReceiver;
use datafusion::datasource::file_format::write::orchestration::spawn_writer_tasks_and_join;
use datafusion::datasource::file_format::write::{BatchSerializer, get_writer_schema};
use datafusion::datasource::physical_plan::{FileSink, FileSinkConfig};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::object_store::ObjectStore;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};

/// Lets CSV files tell an empty text from a NULL.
#[derive(Debug)]
pub struct CsvTexts;

impl PhysicalOptimizerRule for CsvTexts {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| Ok(with_texts(node))).data()
    }

    fn name(&self) -> &str {
        "csv_texts"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

pub(super) fn with_texts(node: Arc<dyn ExecutionPlan>) -> Transformed<Arc<dyn ExecutionPlan>> {
    let Some(exec) = node.downcast_ref::<DataSinkExec>() else { return Transformed::no(node) };
    let Some(sink) = exec.sink().downcast_ref::<CsvSink>().filter(|sink| can_tell(sink)) else {
        return Transformed::no(node);
    };
    let sink = Arc::new(TextSink(CsvSink::new(sink.config().clone(), sink.writer_options().clone())));
    Transformed::yes(Arc::new(DataSinkExec::new(Arc::clone(exec.input()), sink, exec.sort_order().clone())))
}

/// Whether a statement leaves it to us what a NULL is.
fn can_tell(sink: &CsvSink) -> bool {
    let options = &sink.writer_options().writer_options;
    let is_alone = get_writer_schema(sink.config()).fields().len() == 1;
    options.null().is_empty() && matches!(options.quote_style(), QuoteStyle::Necessary) && !is_alone
}

/// DataFusion's sink with another way from rows to bytes.
#[derive(Debug)]
pub(super) struct TextSink(pub(super) CsvSink);

#[async_trait]
impl FileSink for TextSink {
    fn config(&self) -> &FileSinkConfig {
        self.0.config()
    }

    async fn spawn_writer_tasks_and_join(
        &self,
        context: &Arc<TaskContext>,
        demux: SpawnedTask<Result<()>>,
        files: DemuxedStreamReceiver,
        store: Arc<dyn ObjectStore>,
    ) -> Result<u64> {
        let CsvWriterOptions { writer_options, compression, compression_level, .. } = self.0.writer_options().clone();
        let serializer = Arc::new(Serializer(writer_options));
        spawn_writer_tasks_and_join(context, serializer, compression.into(), compression_level, store, demux, files)
            .await
    }
}

#[async_trait]
impl DataSink for TextSink {
    fn schema(&self) -> &SchemaRef {
        self.0.schema()
    }

    async fn write_all(&self, data: SendableRecordBatchStream, context: &Arc<TaskContext>) -> Result<u64> {
        FileSink::write_all(self, data, context).await
    }
}

impl DisplayAs for TextSink {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt_as(format, f)
    }
}

struct Serializer(WriterBuilder);

impl BatchSerializer for Serializer {
    fn serialize(&self, batch: RecordBatch, initial: bool) -> Result<Bytes> {
        let builder = self.0.clone().with_header(self.0.header() && initial);
        let nulls: usize = batch.columns().iter().map(|column| column.logical_null_count()).sum();
        loop {
            // 16 digits at random: a text of the data is one of these once in ages, and is noticed.
            let null = format!("{:016x}", RandomState::new().hash_one(nulls));
            let mut written = Vec::with_capacity(4096);
            builder.clone().with_null(null.clone()).build(&mut written).write(&batch)?;
            let (bytes, found) = told_apart(&written, &null, builder.delimiter(), builder.quote());
            if found == nulls {
                return Ok(bytes.into());
            }
        }
    }
}

/// Takes `null` out of a text of CSV where it is a value, puts two quotes where nothing is one, and counts the former.
fn told_apart(written: &[u8], null: &str, delimiter: u8, quote: u8) -> (Vec<u8>, usize) {
    let mut bytes = Vec::with_capacity(written.len());
    let (mut found, mut rest) = (0, written);
    while !rest.is_empty() {
        let length = value_length(rest, delimiter, quote);
        let (value, after) = rest.split_at(length);
        match value {
            [] => bytes.extend([quote, quote]),
            value if value == null.as_bytes() => found += 1,
            value => bytes.extend(value),
        }
        // What ends the value; a line may end with two bytes.
        let end = match after {
            [b'\r', b'\n', ..] => 2,
            [] => 0,
            _ => 1,
        };
        bytes.extend(&after[..end]);
        rest = &after[end..];
        // A delimiter at the very end has a value behind it; a line's end has not.
        if rest.is_empty() && after.first() == Some(&delimiter) {
            bytes.extend([quote, quote]);
        }
    }
    (bytes, found)
}

/// The bytes up to the end of a value, quotes and all.
fn value_length(rest: &[u8], delimiter: u8, quote: u8) -> usize {
    let mut is_quoted = false;
    let is_end = |byte: u8| byte == delimiter || byte == b'\n' || byte == b'\r';
    let end = rest.iter().position(|&byte| {
        is_quoted ^= byte == quote;
        !is_quoted && is_end(byte)
    });
    end.unwrap_or(rest.len())
}

//! Files of plain text as rows: a row a file, or a row a line. They are read while the rows are wanted, one after the other.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Builder, RecordBatch, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream;

use super::bytes::{Reader, look, waiting};
use super::file_set::{FileSet, shown_file};
use crate::error::Error;

/// Bytes of text in a record batch, but for one text that is longer.
const BATCH: usize = 1 << 20;

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// `path`, `text`; a file of more bytes is an error.
    File { most: u64 },
    /// `path`, `line`, `text`.
    Line,
}

/// The files of a set as a table.
#[derive(Debug)]
pub(crate) struct Documents {
    set: FileSet,
    row: Row,
    schema: SchemaRef,
}

impl Documents {
    /// The files that a name stands for, as in FROM.
    pub(crate) fn new(name: &str, row: Row) -> Result<Self> {
        let mut fields = vec![Field::new("path", DataType::Utf8, false), Field::new("text", DataType::Utf8, false)];
        if row == Row::Line {
            fields.insert(1, Field::new("line", DataType::Int64, false));
        }
        Ok(Self { set: FileSet::of(name)?, row, schema: Arc::new(Schema::new(fields)) })
    }
}

#[async_trait]
impl TableProvider for Documents {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let store = self.set.open(state)?;
        let files = self.set.files(store.as_ref(), state.config_options()).await?;
        if files.is_empty() {
            return Err(Error::Read(format!("no files found at {:?}", self.set.name)).into());
        }
        let mut parts = vec![VecDeque::new(); state.config().target_partitions().clamp(1, files.len())];
        let share = files.len().div_ceil(parts.len());
        for (place, file) in files.into_iter().enumerate() {
            parts[place / share].push_back(file);
        }
        // Without the texts of files there is nothing to read.
        let reads = self.row == Row::Line || projection.is_none_or(|columns| columns.contains(&1));
        let part = |files| {
            let (store, schema) = (Arc::clone(&store), Arc::clone(&self.schema));
            Arc::new(Part { store, files, row: self.row, reads, schema }) as Arc<dyn PartitionStream>
        };
        let parts = parts.into_iter().map(part).collect();
        let schema = Arc::clone(&self.schema);
        Ok(Arc::new(StreamingTableExec::try_new(schema, parts, projection, Vec::new(), false, limit)?))
    }
}

/// Files that one stream reads.
#[derive(Debug, Clone)]
struct Part {
    store: Arc<dyn ObjectStore>,
    files: VecDeque<ObjectMeta>,
    row: Row,
    reads: bool,
    schema: SchemaRef,
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = context.session_config().batch_size();
        let schema = Arc::clone(&self.schema);
        let batches = stream::try_unfold((self.clone(), None), move |(part, open)| part.batch(open, rows));
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }
}

/// A file of which lines are left.
struct Open {
    reader: Reader,
    path: String,
    lines: i64,
}

impl Part {
    /// The next rows, and what is left.
    async fn batch(
        mut self,
        mut open: Option<Open>,
        most: usize,
    ) -> Result<Option<(RecordBatch, (Self, Option<Open>))>> {
        let mut rows = Rows { most, ..Rows::default() };
        while rows.has_room() {
            if let Some(file) = open.take() {
                let read = look_on(file, rows).await?;
                (rows, open) = read;
                continue;
            }
            let Some(file) = self.files.pop_front() else { break };
            match self.row {
                Row::File { most } => {
                    rows.push_file(&self.read(&file, most).await?, &shown_file(self.store.as_ref(), &file.location))
                }
                Row::Line => open = Some(self.open(&file).await?),
            }
        }
        if rows.count == 0 {
            return Ok(None);
        }
        let batch = rows.finish(self.row, &self.schema)?;
        Ok(Some((batch, (self, open))))
    }

    async fn read(&self, file: &ObjectMeta, most: u64) -> Result<String> {
        let name = shown_file(self.store.as_ref(), &file.location);
        if !self.reads {
            return Ok(String::new());
        }
        if file.size > most {
            return Err(Error::Read(format!(
                "file {name:?}: {} bytes, more than {most}: name fewer files, or allow more by read_text('...', '{}M')",
                file.size,
                file.size.div_ceil(1 << 20)
            ))
            .into());
        }
        let look = look(self.store.as_ref(), &file.location, FileCompressionType::UNCOMPRESSED, |mut reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        Ok(text(look.await?).map_err(|place| no_text(&name, &format!("byte {place}")))?)
    }

    async fn open(&self, file: &ObjectMeta) -> Result<Open> {
        let path = shown_file(self.store.as_ref(), &file.location);
        let look = look(self.store.as_ref(), &file.location, FileCompressionType::UNCOMPRESSED, Ok);
        Ok(Open { reader: look.await?, path, lines: 0 })
    }
}

/// Reads lines of an open file, on a thread that may wait.
async fn look_on(mut file: Open, mut rows: Rows) -> Result<(Rows, Option<Open>)> {
    let read = waiting(move || {
        while rows.has_room() {
            let mut line = Vec::new();
            if file.reader.read_until(b'\n', &mut line)? == 0 {
                return Ok((rows, None));
            }
            file.lines += 1;
            while line.pop_if(|byte| matches!(byte, b'\n' | b'\r')).is_some() {}
            let text = String::from_utf8(line).map_err(|_| no_text(&file.path, &format!("line {}", file.lines)))?;
            let text = if file.lines == 1 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
            rows.push_line(text, &file.path, file.lines);
        }
        Ok((rows, Some(file)))
    });
    read.await
}

/// The text of a file, in UTF-8, or in UTF-16 if it begins so; the place of what is no text otherwise.
fn text(bytes: Vec<u8>) -> std::result::Result<String, usize> {
    if let Some((encoding, _)) = encoding_rs::Encoding::for_bom(&bytes) {
        return Ok(encoding.decode(&bytes).0.into_owned());
    }
    String::from_utf8(bytes).map_err(|error| error.utf8_error().valid_up_to())
}

fn no_text(name: &str, place: &str) -> Error {
    Error::Read(format!(
        "file {name:?}: {place}: no UTF-8, so perhaps no text: name the texts by a pattern, such as '*.md'"
    ))
}

/// Rows that become a batch.
#[derive(Default)]
struct Rows {
    most: usize,
    count: usize,
    bytes: usize,
    paths: StringBuilder,
    lines: Int64Builder,
    texts: StringBuilder,
}

impl Rows {
    fn has_room(&self) -> bool {
        self.count < self.most && self.bytes < BATCH
    }

    fn push_file(&mut self, text: &str, path: &str) {
        self.count += 1;
        self.bytes += text.len();
        self.paths.append_value(path);
        self.texts.append_value(text);
    }

    fn push_line(&mut self, text: &str, path: &str, line: i64) {
        self.push_file(text, path);
        self.lines.append_value(line);
    }

    fn finish(mut self, row: Row, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(self.paths.finish()), Arc::new(self.texts.finish())];
        if row == Row::Line {
            columns.insert(1, Arc::new(self.lines.finish()));
        }
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

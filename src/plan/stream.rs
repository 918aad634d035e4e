//! One partition of the operator: texts to the engine, vectors back in the rows' order.
//!
//! Record batches come in, their texts go to the engine as long as its workers want more, and rows leave in order as soon as
//! their vectors are there, a few model batches at a time. So a consumer that has enough, like a LIMIT behind a filter on
//! vectors, costs no more than it took, [`BATCHES_PER_WORKER`] model batches for each worker and as many for each partition;
//! where partitions are filtered side by side each may take as much as the LIMIT asks for.
//! Dropping the stream stops its work.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{RecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::BaselineMetrics;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::{Stream, StreamExt};

use super::execution::Execution;
use super::planned::PlannedCall;
use crate::engine::{BATCHES_PER_WORKER, Counters, Feed, Machine, Slot, values_of};
use crate::functions::{TextColumn, vectors};

/// Most rows that wait for their vectors. Equal texts fill no model batch, so the engine alone would never say stop.
const MOST_WAITING_ROWS: usize = 16_384;

/// One call of a stream.
#[derive(Debug)]
pub(super) struct StreamCall {
    planned: PlannedCall,
    machine: Machine,
    counters: Arc<Counters>,
    /// Opened with the first text: a stream without texts loads no model.
    feed: Option<Feed>,
    /// Rows before that one.
    nulls_before: u64,
}

impl StreamCall {
    pub(super) fn new(planned: PlannedCall, machine: Machine, counters: Arc<Counters>) -> Self {
        Self { planned, machine, counters, feed: None, nulls_before: 0 }
    }

    /// Takes the text of a row, of so many that the texts have.
    fn push(&mut self, texts: &TextColumn, row: usize, rows: usize, execution: &Execution) -> Result<Option<Slot>> {
        let text = texts.get(row);
        if text.is_none() && self.feed.is_none() {
            self.counters.null();
            self.nulls_before += 1;
            return Ok(None);
        }
        let feed = match &mut self.feed {
            Some(feed) => feed,
            None => {
                let (call, planned) = (&self.planned.call, self.planned.planned());
                let counters = Arc::clone(&self.counters);
                let feed = Feed::open(&execution.query, call, &self.machine, &planned, counters)?;
                feed.nulls_before(self.nulls_before);
                self.feed.insert(feed)
            }
        };
        feed.foresee(row, rows, |row| texts.get(row));
        let Some(text) = text else {
            feed.null();
            return Ok(None);
        };
        Ok(Some(feed.push(text)?))
    }

    /// The vector column of some rows.
    fn vectors(&self, slots: &[Option<Slot>]) -> Result<ArrayRef> {
        let nulls = slots.iter().map(Option::is_some).collect::<Vec<_>>().into();
        let values = values_of(slots, self.planned.dimensions())?;
        Ok(Arc::new(vectors(values, nulls, self.planned.field.data_type())?))
    }
}

/// A record batch on its way through.
#[derive(Debug)]
struct Rows {
    batch: RecordBatch,
    /// For each call its texts.
    texts: Vec<TextColumn>,
    /// For each call where the vectors of the rows will be, as far as they were fed.
    slots: Vec<Vec<Option<Slot>>>,
    /// Rows from the start that went to the engine.
    fed: usize,
    /// Rows from the start whose vectors are there.
    ready: usize,
    /// Rows from the start that left.
    given: usize,
    /// What is reserved for it.
    bytes: usize,
}

impl Rows {
    fn is_ready(&self, row: usize) -> bool {
        self.slots.iter().all(|slots| slots[row].as_ref().is_none_or(Slot::is_done))
    }

    /// The slot that the next row waits for.
    fn awaited(&self) -> Option<(usize, &Slot)> {
        self.slots.iter().enumerate().find_map(|(call, slots)| {
            let slot = slots.get(self.ready)?.as_ref()?;
            (!slot.is_done()).then_some((call, slot))
        })
    }
}

/// See the head of this file.
pub(super) struct EmbedStream {
    schema: SchemaRef,
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    /// Partitions of the input that are still to be read, in their order.
    partitions: VecDeque<usize>,
    input: Option<SendableRecordBatchStream>,
    calls: Vec<StreamCall>,
    waiting: VecDeque<Rows>,
    waiting_rows: usize,
    /// A record batch that found no memory as long as others wait.
    held: Option<RecordBatch>,
    reservation: MemoryReservation,
    execution: Arc<Execution>,
    /// Model batches that had come back when rows left last.
    given_at: usize,
    /// When this stream began to wait for vectors.
    waits_since: Option<Instant>,
    failed: bool,
    baseline: BaselineMetrics,
}

impl EmbedStream {
    pub(super) fn new(
        (plan, partitions): (&Arc<dyn ExecutionPlan>, Vec<usize>),
        schema: SchemaRef,
        calls: Vec<StreamCall>,
        execution: Arc<Execution>,
        context: Arc<TaskContext>,
        baseline: BaselineMetrics,
    ) -> Self {
        let name = format!("EmbedExec[{}]", partitions.first().copied().unwrap_or_default());
        let reservation = MemoryConsumer::new(name).register(context.memory_pool());
        Self {
            schema,
            plan: Arc::clone(plan),
            context,
            partitions: partitions.into(),
            input: None,
            calls,
            waiting: VecDeque::new(),
            waiting_rows: 0,
            held: None,
            reservation,
            execution,
            given_at: 0,
            waits_since: None,
            failed: false,
            baseline,
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if let (Some(start), Some(feed)) =
            (self.waits_since.take(), self.calls.iter().find_map(|call| call.feed.as_ref()))
        {
            feed.waited(start);
        }
        loop {
            let input_is_pending = self.take_in(cx)?;
            if let Some(batch) = self.give()? {
                return Poll::Ready(Some(Ok(batch)));
            }
            let Some(front) = self.waiting.front() else {
                return if input_is_pending { Poll::Pending } else { Poll::Ready(None) };
            };
            if let Some((call, slot)) = front.awaited() {
                let feed = self.calls[call].feed.as_mut();
                feed.into_iter().for_each(|feed| feed.wake_when_done(slot, cx.waker()));
                if !slot.is_done() {
                    self.waits_since = Some(Instant::now());
                    return Poll::Pending;
                }
            }
            // The next row is fed, or leaves, in the next round.
        }
    }

    /// Feeds texts to the engine until it has enough or there are none. Says whether the input will wake this task.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        loop {
            if self.waiting.back().is_some_and(|rows| rows.fed < rows.batch.num_rows()) {
                let has_room = feeds(&mut self.calls).all(Feed::has_room);
                if !has_room || self.can_give() {
                    return Ok(false);
                }
                let Some(rows) = self.waiting.back_mut() else { return Ok(false) };
                for ((call, texts), slots) in self.calls.iter_mut().zip(&rows.texts).zip(&mut rows.slots) {
                    slots.push(call.push(texts, rows.fed, rows.batch.num_rows(), &self.execution)?);
                }
                rows.fed += 1;
                continue;
            }
            if self.waiting_rows >= MOST_WAITING_ROWS {
                self.flush();
                return Ok(false);
            }
            if let Some(batch) = self.held.take() {
                if !self.accept(batch)? {
                    self.flush();
                    return Ok(false);
                }
                continue;
            }
            let Some(input) = &mut self.input else {
                let Some(partition) = self.partitions.pop_front() else {
                    self.flush();
                    return Ok(false);
                };
                self.input = Some(self.plan.execute(partition, Arc::clone(&self.context))?);
                continue;
            };
            match input.poll_next_unpin(cx) {
                Poll::Ready(Some(batch)) => self.held = Some(batch?).filter(|batch| batch.num_rows() > 0),
                Poll::Ready(None) => self.input = None,
                Poll::Pending => {
                    // Workers without work do not wait for a slow input to fill a model batch.
                    if feeds(&mut self.calls).all(Feed::is_idle) {
                        self.flush();
                    }
                    return Ok(true);
                }
            }
        }
    }

    fn flush(&mut self) {
        feeds(&mut self.calls).for_each(Feed::flush);
    }

    /// Model batches that came back so far.
    fn finished(&mut self) -> usize {
        feeds(&mut self.calls).map(Feed::finished).sum()
    }

    /// Whether rows of an unfinished record batch should leave: a few model batches came back since rows left last, and the
    /// first row is ready.
    fn can_give(&mut self) -> bool {
        self.finished() >= self.given_at + BATCHES_PER_WORKER
            && self.waiting.front().is_some_and(|rows| rows.given < rows.fed && rows.is_ready(rows.given))
    }

    /// Takes a record batch in, or holds it until there is memory for it.
    fn accept(&mut self, batch: RecordBatch) -> Result<bool> {
        let rows = batch.num_rows();
        let width = |call: &StreamCall| call.planned.dimensions() * size_of::<f32>() + size_of::<Option<Slot>>();
        let bytes = memory_of(&batch) + rows * self.calls.iter().map(width).sum::<usize>();
        if let Err(error) = self.reservation.try_grow(bytes) {
            if self.waiting.is_empty() {
                return Err(error.context(format!(
                    "embed: {rows} rows and their vectors take {bytes} bytes; raise the memory limit, or lower \
                     datafusion.execution.batch_size"
                )));
            }
            self.held = Some(batch);
            return Ok(false);
        }
        let text = |call: &StreamCall| TextColumn::new(&call.planned.text.evaluate(&batch)?.into_array(rows)?);
        let texts = self.calls.iter().map(text).collect::<Result<_>>()?;
        let slots = self.calls.iter().map(|_| Vec::with_capacity(rows)).collect();
        self.waiting_rows += rows;
        self.waiting.push_back(Rows { batch, texts, slots, fed: 0, ready: 0, given: 0, bytes });
        Ok(true)
    }

    /// The next rows, if they should leave now.
    fn give(&mut self) -> Result<Option<RecordBatch>> {
        let (finished, can_give) = (self.finished(), self.can_give());
        let Some(rows) = self.waiting.front_mut() else { return Ok(None) };
        while rows.ready < rows.fed && rows.is_ready(rows.ready) {
            rows.ready += 1;
        }
        let (first, count, total) = (rows.given, rows.ready - rows.given, rows.batch.num_rows());
        let all = rows.ready == total;
        if !all && !can_give {
            return Ok(None);
        }
        self.given_at = finished;
        let mut columns = if count == total {
            rows.batch.columns().to_vec()
        } else {
            rows.batch.columns().iter().map(|column| piece(column, first, count)).collect::<Result<_>>()?
        };
        for (call, slots) in self.calls.iter().zip(&rows.slots) {
            columns.push(call.vectors(&slots[first..first + count])?);
        }
        rows.given = rows.ready;
        if all && let Some(done) = self.waiting.pop_front() {
            self.waiting_rows -= total;
            self.reservation.shrink(done.bytes);
        }
        self.execution.reserve();
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}

/// Bytes of the rows themselves: what a batch shares with others, as the slice of a larger one, is theirs as well.
fn memory_of(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(memory_of_column).sum()
}

fn memory_of_column(column: &ArrayRef) -> usize {
    let whole = column.get_array_memory_size();
    column.to_data().get_slice_memory_size().map_or(whole, |sliced| sliced.min(whole))
}

fn feeds(calls: &mut [StreamCall]) -> impl Iterator<Item = &mut Feed> {
    calls.iter_mut().filter_map(|call| call.feed.as_mut())
}

/// Some rows of a column in buffers of their own: a slice would hold, and be counted as, the whole column.
fn piece(column: &ArrayRef, first: usize, count: usize) -> Result<ArrayRef> {
    let rows = UInt64Array::from_iter_values(first as u64..(first + count) as u64);
    let taken = take(column, &rows, None)?;
    Ok(match taken.data_type() {
        DataType::Utf8View => Arc::new(taken.as_string_view().gc()),
        DataType::BinaryView => Arc::new(taken.as_binary_view().gc()),
        _ => taken,
    })
}

impl Stream for EmbedStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let timer = self.baseline.elapsed_compute().clone();
        let timer = timer.timer();
        let polled = self.poll_batch(cx);
        timer.done();
        let polled = self.baseline.record_poll(polled);
        if let Poll::Ready(Some(Err(_))) = &polled {
            // The model batches that run are not wanted any more.
            self.failed = true;
            self.waiting.clear();
            self.input = None;
        }
        polled
    }
}

impl RecordBatchStream for EmbedStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

//! Pages of a Parquet column of vectors: levels and values -> rows.
//!
//! Parquet stores for each number of a list whether it begins a list and whether it is there. Where every vector has as many numbers
//! as the type says and each of them is there, this says nothing: it is looked at by runs, not number by number, and the values are
//! copied as they lie. Any other page is left to parquet's own reader.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use datafusion::arrow::array::{ArrayData, ArrayRef, BooleanBufferBuilder, FixedSizeListArray, make_array};
use datafusion::arrow::buffer::{MutableBuffer, NullBuffer};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result;
use datafusion::parquet::basic::{Compression, Encoding, Type};
use datafusion::parquet::column::page::{Page, PageReader};
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::ColumnChunkMetaData;
use datafusion::parquet::file::reader::{ChunkReader, Length};
use datafusion::parquet::file::serialized_reader::SerializedPageReader;
use datafusion::parquet::schema::types::ColumnDescriptor;

/// What vectors of a column are.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    item: FieldRef,
    /// Numbers of a vector.
    length: usize,
    /// Bytes of a number, in the file and in memory.
    bytes: usize,
    /// The definition level of a number that is there.
    there: u8,
    /// That of a vector that is NULL, where one may be.
    null: Option<u8>,
}

impl Shape {
    /// `None` where the column is none of vectors of a fixed length whose numbers lie in the file as they do in memory.
    pub(super) fn of(data_type: &DataType, column: &ColumnDescriptor) -> Option<Self> {
        let DataType::FixedSizeList(item, length) = data_type else { return None };
        let bytes = match (item.data_type(), column.physical_type()) {
            (DataType::Float32, Type::FLOAT) => 4,
            (DataType::Float64, Type::DOUBLE) => 8,
            (DataType::Float16, Type::FIXED_LEN_BYTE_ARRAY) if column.type_length() == 2 => 2,
            _ => return None,
        };
        // A list, which may be NULL; its repeated part; the number, which may be NULL.
        let most = 1 + column.max_def_level() - i16::from(column.self_type().is_optional());
        let is_list = column.max_rep_level() == 1 && (2..=3).contains(&most);
        (*length > 0 && is_list).then(|| Self {
            item: Arc::clone(item),
            length: *length as usize,
            bytes,
            there: column.max_def_level() as u8,
            null: (most == 3).then_some(0),
        })
    }

    /// Whether every vector of a column of so many rows has all its numbers: a NULL has one level, and a vector has one for each.
    pub(super) fn has_all(&self, column: &ColumnChunkMetaData, rows: usize) -> bool {
        usize::try_from(column.num_values()).ok() == rows.checked_mul(self.length)
    }

    fn vector_bytes(&self) -> usize {
        self.length * self.bytes
    }

    /// Bits of a definition level.
    fn definition_bits(&self) -> u32 {
        u8::BITS - self.there.leading_zeros()
    }
}

/// Bytes of a column in a row group, which its offsets in the file find.
struct Chunk {
    start: u64,
    bytes: [Bytes; 2],
    /// Where what was taken of them last ends.
    taken: AtomicU64,
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.start + self.bytes.iter().map(|bytes| bytes.len() as u64).sum::<u64>()
    }
}

impl ChunkReader for Chunk {
    type T = bytes::buf::Reader<Chain<Bytes, Bytes>>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let [first, second] = &self.bytes;
        let mut bytes = first.clone().chain(second.clone());
        let from = usize::try_from(start.saturating_sub(self.start)).unwrap_or(usize::MAX);
        bytes.advance(from.min(bytes.remaining()));
        Ok(bytes.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let mut bytes = self.get_read(start)?.into_inner();
        let left = bytes.remaining();
        if length > left {
            return Err(ParquetError::EOF(format!("a page of {length} bytes where {left} are left")));
        }
        self.taken.store(start + length as u64, Ordering::Relaxed);
        // Copied only where it begins in the first and ends in the second.
        Ok(bytes.copy_to_bytes(length))
    }
}

/// A column of vectors in a row group, whose bytes come part by part.
pub(super) struct VectorPages {
    shape: Shape,
    column: ColumnChunkMetaData,
    rows: usize,
    /// Where the next page begins in the file, and the last one ends.
    next: u64,
    end: u64,
    /// What came of these.
    bytes: [Bytes; 2],
    page: Option<Rows>,
    /// Vectors at the beginning that nobody wants.
    skipped: usize,
}

/// How far a read came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// As far as was asked.
    There,
    /// To a page that is not wholly there.
    ToMissing,
    /// To the end of the row group.
    ToEnd,
    /// To a page that is not as the head of this file says.
    ToOther,
}

impl VectorPages {
    /// For a column of a row group of so many rows, of which so many at its beginning are passed over: none unless
    /// [`Shape::has_all`].
    pub(super) fn new(shape: &Shape, column: &ColumnChunkMetaData, rows: usize, skipped: usize) -> Self {
        let (next, length) = column.byte_range();
        let (shape, column, end) = (shape.clone(), column.clone(), next.saturating_add(length));
        Self { shape, column, rows, next, end, bytes: Default::default(), page: None, skipped }
    }

    /// Bytes that are there and not looked at.
    pub(super) fn kept(&self) -> u64 {
        self.bytes.iter().map(|bytes| bytes.len() as u64).sum()
    }

    /// Where in the file the next bytes are, so many at most; `None` behind the last.
    pub(super) fn missing(&self, most: u64) -> Option<Range<u64>> {
        let start = self.next + self.kept();
        (start < self.end).then(|| start..start.saturating_add(most).min(self.end))
    }

    /// Takes the next bytes.
    pub(super) fn give(&mut self, more: Bytes) {
        let [first, second] = std::mem::take(&mut self.bytes);
        let kept = if second.is_empty() { first } else { [first, second].concat().into() };
        self.bytes = if kept.is_empty() { [more, kept] } else { [kept, more] };
    }

    /// Reads until so many vectors are there.
    pub(super) fn read(&mut self, vectors: &mut Vectors, wanted: usize) -> Result<Came> {
        while vectors.rows() < wanted {
            match &mut self.page {
                Some(page) if !page.is_empty() => vectors.take(page, wanted - vectors.rows()),
                _ if self.next == self.end => return Ok(Came::ToEnd),
                _ => match self.next_page() {
                    Ok(None) => return Ok(Came::ToEnd),
                    Ok(Some(page)) => match Rows::of(page, &self.shape) {
                        Some(mut rows) => {
                            rows.skip(std::mem::take(&mut self.skipped), &self.shape);
                            self.page = Some(rows);
                        }
                        None => return Ok(Came::ToOther),
                    },
                    // Whatever is wrong with a page is wrong as well when all of it is there.
                    Err(_) if self.next + self.kept() < self.end => return Ok(Came::ToMissing),
                    Err(error) => return Err(error.into()),
                },
            }
        }
        Ok(Came::There)
    }

    /// The next page that has a vector which is not passed over.
    fn next_page(&mut self) -> ParquetResult<Option<Page>> {
        while self.skipped > 0 {
            let (page, taken) = self.look(Compression::UNCOMPRESSED)?;
            let rows = match page {
                Some(Page::DataPage { num_values, .. }) if !(num_values as usize).is_multiple_of(self.shape.length) => {
                    break;
                }
                Some(Page::DataPage { num_values, .. }) => num_values as usize / self.shape.length,
                Some(Page::DataPageV2 { num_rows, .. }) => num_rows as usize,
                Some(Page::DictionaryPage { .. }) | None => break,
            };
            if rows > self.skipped {
                break;
            }
            self.skipped -= rows;
            self.advance(taken);
        }
        let (page, taken) = self.look(self.column.compression())?;
        self.advance(taken);
        Ok(page)
    }

    /// The page that begins at `next`, and where it ends, by parquet's own reader. That cannot wait for bytes: it gets a column of what
    /// is left.
    fn look(&self, compression: Compression) -> ParquetResult<(Option<Page>, u64)> {
        let left = self.column.clone().into_builder().set_compression(compression).set_dictionary_page_offset(None);
        let left = left.set_data_page_offset(self.next as i64).set_total_compressed_size((self.end - self.next) as i64);
        let chunk = Arc::new(Chunk { start: self.next, bytes: self.bytes.clone(), taken: AtomicU64::new(self.end) });
        let page = SerializedPageReader::new(Arc::clone(&chunk), &left.build()?, self.rows, None)?.get_next_page()?;
        Ok((page, chunk.taken.load(Ordering::Relaxed)))
    }

    fn advance(&mut self, to: u64) {
        let [first, second] = &mut self.bytes;
        let length = (to - self.next) as usize;
        match length.checked_sub(first.len()) {
            Some(of_second) => {
                second.advance(of_second.min(second.len()));
                self.bytes = [std::mem::take(second), Bytes::new()];
            }
            None => first.advance(length),
        }
        self.next = to;
    }
}

/// Rows of a page that are not read yet.
struct Rows {
    /// Of those that are not NULL.
    values: Bytes,
    /// Which are; `None` where all are.
    valid: Option<Vec<bool>>,
    next: usize,
    rows: usize,
}

impl Rows {
    fn of(page: Page, shape: &Shape) -> Option<Self> {
        let levels_end = |buffer: &mut Bytes| {
            let length = buffer.try_get_u32_le().ok()? as usize;
            (length <= buffer.len()).then(|| buffer.split_to(length))
        };
        let (repetition, definition, values, count) = match page {
            Page::DataPage { mut buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => {
                if (encoding, def_level_encoding, rep_level_encoding) != (Encoding::PLAIN, Encoding::RLE, Encoding::RLE)
                {
                    return None;
                }
                (levels_end(&mut buf)?, levels_end(&mut buf)?, buf, num_values)
            }
            Page::DataPageV2 { mut buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let (repetition, definition) = (rep_levels_byte_len as usize, def_levels_byte_len as usize);
                if encoding != Encoding::PLAIN || repetition + definition > buf.len() {
                    return None;
                }
                (buf.split_to(repetition), buf.split_to(definition), buf, num_values)
            }
            Page::DictionaryPage { .. } => return None,
        };
        let levels = Levels { repetition: &repetition, definition: &definition, count: count as usize };
        let (rows, valid) = match levels.whole_vectors(shape) {
            Some(rows) => (rows, None),
            None => levels.vectors(shape).map(|valid| (valid.len(), Some(valid)))?,
        };
        let there = valid.as_ref().map_or(rows, |valid| valid.iter().filter(|is_there| **is_there).count());
        (values.len() == there * shape.vector_bytes()).then_some(Self { values, valid, next: 0, rows })
    }

    fn is_empty(&self) -> bool {
        self.next == self.rows
    }

    /// Passes over the first so many.
    fn skip(&mut self, rows: usize, shape: &Shape) {
        self.next = rows.min(self.rows);
        let passed =
            self.valid.as_ref().map_or(self.next, |valid| valid[..self.next].iter().filter(|there| **there).count());
        self.values.advance(passed * shape.vector_bytes());
    }
}

/// Levels of the numbers of a page.
struct Levels<'a> {
    repetition: &'a [u8],
    definition: &'a [u8],
    count: usize,
}

impl Levels<'_> {
    /// How many vectors there are, where none is NULL and each has all its numbers.
    fn whole_vectors(&self, shape: &Shape) -> Option<usize> {
        let length = shape.length;
        let are_there = each_run(self.definition, shape.definition_bits(), self.count, |run| match run {
            Run::Repeated { level, .. } => level == shape.there,
            Run::Packed { levels } => levels.iter().all(|level| *level == shape.there),
        });
        let mut at = 0;
        let begin_alike = each_run(self.repetition, 1, self.count, |run| {
            let is_right = match run {
                // All go on; none of them is at a place where a vector begins.
                Run::Repeated { level: 1, count } => at % length != 0 && at % length + count <= length,
                Run::Repeated { level: 0, count } => (at..at + count).all(|at| at % length == 0),
                Run::Repeated { .. } => false,
                Run::Packed { levels } => {
                    levels.iter().zip(at..).all(|(level, at)| (*level == 0) == (at % length == 0))
                }
            };
            at += run.count();
            is_right
        });
        (are_there && begin_alike && self.count.is_multiple_of(length)).then_some(self.count / length)
    }

    /// Which vectors are there, where some are NULL; `None` where there is anything else.
    fn vectors(&self, shape: &Shape) -> Option<Vec<bool>> {
        let null = shape.null?;
        let repetition = all_levels(self.repetition, 1, self.count)?;
        let definition = all_levels(self.definition, shape.definition_bits(), self.count)?;
        let (mut valid, mut at) = (Vec::new(), 0);
        while at < self.count {
            let is_there = definition[at] == shape.there;
            let end = at + if is_there { shape.length } else { 1 };
            let is_vector = is_there && definition.get(at..end)?.iter().all(|level| *level == shape.there);
            let goes_on = repetition.get(at + 1..end)?.iter().all(|level| *level == 1);
            if repetition[at] != 0 || !goes_on || !is_vector && definition[at] != null {
                return None;
            }
            valid.push(is_there);
            at = end;
        }
        Some(valid)
    }
}

/// Levels that are stored together.
enum Run<'a> {
    Repeated { level: u8, count: usize },
    Packed { levels: &'a [u8] },
}

impl Run<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Repeated { count, .. } => *count,
            Self::Packed { levels } => levels.len(),
        }
    }
}

/// Calls `look` with the runs of so many levels of so many bits until it says no. Whether it never did, and the levels are there.
fn each_run(bytes: &[u8], bits: u32, count: usize, mut look: impl FnMut(Run<'_>) -> bool) -> bool {
    let (mut bytes, mut left) = (Cursor::new(bytes), count);
    let mut unpacked = Vec::new();
    while left > 0 {
        let Some(head) = varint(&mut bytes) else { return false };
        let stored = usize::try_from(head >> 1).unwrap_or(usize::MAX);
        let goes_on = if head & 1 == 0 {
            let Ok(level) = bytes.try_get_u8() else { return false };
            let count = stored.min(left);
            left -= count;
            // A run of none would go on for ever.
            count > 0 && look(Run::Repeated { level, count })
        } else {
            // Eight levels in as many bytes as each has bits; those behind the last are none.
            let Some(length) = stored.checked_mul(bits as usize).filter(|length| *length > 0) else { return false };
            let start = bytes.position() as usize;
            let Some(packed) = bytes.get_ref().get(start..).and_then(|rest| rest.get(..length)) else { return false };
            bytes.advance(length);
            let count = (stored * 8).min(left);
            unpacked.clear();
            let bit = |at: usize| packed[at / 8] >> (at % 8) & 1;
            unpacked.extend(
                (0..count).map(|at| {
                    (0..bits as usize).fold(0, |level, place| level | bit(at * bits as usize + place) << place)
                }),
            );
            left -= count;
            look(Run::Packed { levels: &unpacked })
        };
        if !goes_on {
            return false;
        }
    }
    true
}

fn varint(bytes: &mut Cursor<&[u8]>) -> Option<u64> {
    let mut value = 0;
    for place in 0..5 {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// All of them, one by one.
fn all_levels(bytes: &[u8], bits: u32, count: usize) -> Option<Vec<u8>> {
    let mut all = Vec::with_capacity(count);
    let is_whole = each_run(bytes, bits, count, |run| {
        match run {
            Run::Repeated { level, count } => all.extend(std::iter::repeat_n(level, count)),
            Run::Packed { levels } => all.extend_from_slice(levels),
        }
        true
    });
    is_whole.then_some(all)
}

/// Vectors that become a column.
pub(super) struct Vectors {
    shape: Shape,
    values: MutableBuffer,
    valid: BooleanBufferBuilder,
}

impl Vectors {
    pub(super) fn new(shape: &Shape, rows: usize) -> Self {
        let values = MutableBuffer::new(rows * shape.vector_bytes());
        Self { shape: shape.clone(), values, valid: BooleanBufferBuilder::new(rows) }
    }

    pub(super) fn rows(&self) -> usize {
        self.valid.len()
    }

    fn take(&mut self, page: &mut Rows, most: usize) {
        let rows = most.min(page.rows - page.next);
        let bytes = self.shape.vector_bytes();
        match &page.valid {
            None => {
                self.values.extend_from_slice(&page.values.split_to(rows * bytes));
                self.valid.append_n(rows, true);
            }
            Some(valid) => {
                for &is_there in &valid[page.next..page.next + rows] {
                    if is_there {
                        self.values.extend_from_slice(&page.values.split_to(bytes));
                    } else {
                        self.values.extend_zeros(bytes);
                    }
                    self.valid.append(is_there);
                }
            }
        }
        page.next += rows;
    }

    pub(super) fn finish(mut self) -> Result<ArrayRef> {
        let rows = self.rows();
        let numbers = ArrayData::builder(self.shape.item.data_type().clone())
            .len(rows * self.shape.length)
            .add_buffer(self.values.into())
            .build()?;
        let nulls = Some(NullBuffer::new(self.valid.finish())).filter(|nulls| nulls.null_count() > 0);
        let (item, length) = (self.shape.item, self.shape.length as i32);
        Ok(Arc::new(FixedSizeListArray::try_new(item, length, make_array(numbers), nulls)?))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array, AsArray, FixedSizeListBuilder, Float32Builder, RecordBatch};
    use datafusion::arrow::datatypes::Float32Type;
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::parquet::file::metadata::ParquetMetaDataReader;
    use datafusion::parquet::file::properties::WriterProperties;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A file with vectors of three numbers, `None` for NULL, and a NULL among the numbers of one.
    fn file(rows: &[Option<f32>], hole: Option<usize>) -> (Bytes, DataType) {
        let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), 3);
        for (row, value) in rows.iter().enumerate() {
            for place in 0..3 {
                vectors.values().append_option(value.filter(|_| hole != Some(row * 3 + place)));
            }
            vectors.append(value.is_some());
        }
        let vectors: ArrayRef = Arc::new(vectors.finish());
        let data_type = vectors.data_type().clone();
        let batch = RecordBatch::try_from_iter([("v", vectors)]).expect("a batch");
        let properties = WriterProperties::builder().set_dictionary_enabled(false).set_data_page_row_count_limit(7);
        let properties = properties.set_write_batch_size(5).build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        (bytes.into(), data_type)
    }

    /// What is read behind so many rows, in so many rows at once and parts of so many bytes, and how far that came.
    fn read(bytes: &Bytes, data_type: &DataType, skipped: usize, most: usize, part: u64) -> (Vec<Option<f32>>, Came) {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(bytes).expect("metadata");
        let shape = Shape::of(data_type, &metadata.file_metadata().schema_descr().column(0)).expect("vectors");
        let group = metadata.row_group(0);
        let mut pages = VectorPages::new(&shape, group.column(0), group.num_rows() as usize, skipped);
        assert!(skipped == 0 || shape.has_all(group.column(0), group.num_rows() as usize));
        let mut rows = Vec::new();
        loop {
            let mut vectors = Vectors::new(&shape, most);
            let mut came = pages.read(&mut vectors, most).expect("read");
            while came == Came::ToMissing {
                let Range { start, end } = pages.missing(part).expect("more");
                pages.give(bytes.slice(start as usize..end as usize));
                came = pages.read(&mut vectors, most).expect("read");
            }
            let column = vectors.finish().expect("a column");
            let lists = column.as_fixed_size_list();
            rows.extend((0..lists.len()).map(|row| {
                let vector = lists.value(row);
                let vector = vector.as_primitive::<Float32Type>().values();
                assert!(vector.iter().all(|number| *number == vector[0]));
                lists.is_valid(row).then(|| vector[0])
            }));
            if came != Came::There {
                return (rows, came);
            }
        }
    }

    #[test]
    fn whole_vectors_and_nulls_are_read_and_holes_are_not() {
        let all: Vec<_> = (0..40).map(|row| Some(row as f32)).collect();
        let some: Vec<_> = (0..40).map(|row| (row % 5 > 0).then_some(row as f32)).collect();
        for rows in [all, some, vec![None; 40]] {
            let (bytes, data_type) = file(&rows, None);
            for (most, part) in [(1, 1), (3, 60), (7, 100), (40, 300), (100, u64::MAX)] {
                assert_eq!(read(&bytes, &data_type, 0, most, part), (rows.clone(), Came::ToEnd));
                for skipped in [1, 7, 15, 39, 40] {
                    let behind = (rows[skipped..].to_vec(), Came::ToEnd);
                    let has_all = rows.iter().all(Option::is_some);
                    assert!(!has_all || read(&bytes, &data_type, skipped, most, part) == behind);
                }
            }
            let (bytes, data_type) = file(&rows, Some(31 * 3 + 1));
            if rows[31].is_some() {
                let (before, came) = read(&bytes, &data_type, 0, 100, 50);
                assert_eq!(came, Came::ToOther);
                assert!((7..=31).contains(&before.len()) && before[..] == rows[..before.len()], "{}", before.len());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_levels_or_are_not(repetition in vec(any::<u8>(), 0..60), definition in vec(any::<u8>(), 0..60), count in 0usize..500, length in 1usize..9) {
            let item = Arc::new(datafusion::arrow::datatypes::Field::new("item", DataType::Float32, true));
            let shape = Shape { item, length, bytes: 4, there: 3, null: Some(0) };
            let levels = Levels { repetition: &repetition, definition: &definition, count };
            if let Some(rows) = levels.whole_vectors(&shape) {
                prop_assert_eq!(rows * length, count);
                prop_assert_eq!(levels.vectors(&shape), Some(vec![true; rows]));
            }
        }
    }
}

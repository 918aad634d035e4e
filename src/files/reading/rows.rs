//! A file of text as rows: the bytes of it, or of the records that begin in a part of it, and what a decoder makes of them.

use std::io::Read;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::error::ArrowError;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use datafusion_datasource_json::utils::JsonArrayToNdjsonReader;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::bytes::{Reader, waiting};

/// Bytes that are read at a time: few enough to stay in the cache of a core, and to be had without a call of the system.
const PIECE: u64 = 64 << 10;

/// The bytes of a file, piece by piece.
pub(super) type Pieces = BoxStream<'static, Result<Bytes>>;

/// What makes rows of bytes.
pub(super) trait Decoder: Send + 'static {
    /// Takes bytes until it has a record batch, and says how many. No bytes at all are the end of the file.
    fn decode(&mut self, bytes: &Bytes) -> std::result::Result<usize, ArrowError>;

    /// The rows that it has, when it takes no more; `None` at the end.
    fn flush(&mut self) -> std::result::Result<Option<RecordBatch>, ArrowError>;
}

/// The bytes of a file, or of its records that begin in the range that is to be read.
pub(super) async fn pieces(
    store: Arc<dyn ObjectStore>,
    file: PartitionedFile,
    compression: FileCompressionType,
    terminator: u8,
) -> Result<Pieces> {
    let (location, size) = (file.object_meta.location, file.object_meta.size);
    if let Some(range) = file.range {
        let [start, end] = [range.start, range.end].map(i64::cast_unsigned);
        let part = AlignedBoundaryStream::new(store, location, start, end, size, terminator).await?;
        return Ok(part.map_err(DataFusionError::from).boxed());
    }
    match store.get(&location).await?.payload {
        // Where the rows are made, as DataFusion does: to hand on each piece from another thread takes longer than to read it.
        GetResultPayload::File(file, _) => {
            let pieces = stream::try_unfold(compression.convert_read(file)?, async |mut reader| {
                let piece = piece(&mut reader)?;
                Ok((!piece.is_empty()).then_some((piece, reader)))
            });
            Ok(pieces.boxed())
        }
        GetResultPayload::Stream(pieces) => compression.convert_stream(pieces.map_err(DataFusionError::from).boxed()),
    }
}

/// The objects of an array, a line each.
pub(super) fn lines(array: Reader) -> Pieces {
    let pieces = stream::try_unfold(JsonArrayToNdjsonReader::new(array), async |mut array| {
        let read = waiting(move || {
            let piece = piece(&mut array)?;
            if piece.is_empty() {
                array.validate_complete()?;
            }
            Ok((piece, array))
        });
        let (piece, array) = read.await?;
        Ok((!piece.is_empty()).then_some((piece, array)))
    });
    pieces.boxed()
}

fn piece(reader: &mut impl Read) -> std::io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE as usize);
    reader.take(PIECE).read_to_end(&mut piece)?;
    Ok(piece.into())
}

/// The rows of a file.
pub(super) fn rows(pieces: Pieces, decoder: impl Decoder) -> BoxStream<'static, Result<RecordBatch>> {
    let pieces = pieces.try_filter(|piece| std::future::ready(!piece.is_empty())).fuse();
    let rows = stream::try_unfold((pieces, Bytes::new(), decoder), async |(mut pieces, mut rest, mut decoder)| {
        loop {
            if rest.is_empty() {
                rest = pieces.try_next().await?.unwrap_or_default();
            }
            let taken = decoder.decode(&rest)?;
            if taken == 0 {
                return Ok(decoder.flush()?.map(|rows| (rows, (pieces, rest, decoder))));
            }
            rest.advance(taken);
        }
    });
    rows.boxed()
}

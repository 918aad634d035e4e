//! The bytes of a file as a blocking reader, on a thread that may wait: for looks into a file before it is read by a query.

use std::io::{self, BufReader, Read};

use bytes::{Buf, Bytes};
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::path::Path;
use datafusion::object_store::{Error as StoreError, GetResultPayload, ObjectStore, ObjectStoreExt};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::runtime::Handle;

/// A reader of what a file holds, decompressed.
pub(super) type Reader = BufReader<Box<dyn Read + Send>>;

/// Opens a file and looks into it. The file is not read further than the look goes.
pub(super) async fn look<T: Send + 'static>(
    store: &dyn ObjectStore,
    file: &Path,
    compression: FileCompressionType,
    look: impl FnOnce(Reader) -> Result<T> + Send + 'static,
) -> Result<T> {
    let raw: Box<dyn Read + Send> = match store.get(file).await.map_err(DataFusionError::from)?.payload {
        GetResultPayload::File(file, _) => Box::new(BufReader::new(file)),
        GetResultPayload::Stream(parts) => Box::new(Parts { parts, part: Bytes::new(), runtime: Handle::current() }),
    };
    let task = SpawnedTask::spawn_blocking(move || look(BufReader::new(compression.convert_read(raw)?)));
    task.join().await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
}

/// A stream read by a thread that waits for its parts.
struct Parts {
    parts: BoxStream<'static, std::result::Result<Bytes, StoreError>>,
    part: Bytes,
    runtime: Handle,
}

impl Read for Parts {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.runtime.block_on(self.parts.next()) {
                Some(part) => self.part = part.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let count = out.len().min(self.part.len());
        self.part.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}

//! The bytes of a file as a blocking reader, on a thread that may wait: for looks into a file before it is read by a query.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::path::Path;
use datafusion::object_store::{Error as StoreError, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
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
    waiting(move || look(BufReader::new(compression.convert_read(raw)?))).await
}

/// Does something on a thread that may wait.
pub(super) async fn waiting<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let task = SpawnedTask::spawn_blocking(work);
    task.join().await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
}

/// Answers about files, for as long as they stay what they are.
#[derive(Debug, Clone)]
pub(super) struct Answers<T>(Arc<Mutex<HashMap<Path, (ObjectMeta, T)>>>);

/// Files that are known at a time.
const MOST_ANSWERS: usize = 10_000;

/// How long a file may be written again without its time telling.
const CLOCK: Duration = Duration::from_secs(2);

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Answers<T> {
    /// What is known of a file, or what a look says.
    pub(super) async fn of(&self, file: &ObjectMeta, look: impl Future<Output = Result<T>>) -> Result<T> {
        let known =
            self.0.lock().get(&file.location).filter(|(seen, _)| seen == file).map(|(_, answer)| answer.clone());
        if let Some(answer) = known {
            return Ok(answer);
        }
        let is_settled = SystemTime::from(file.last_modified).elapsed().is_ok_and(|age| age > CLOCK);
        let answer = look.await?;
        if is_settled {
            let mut answers = self.0.lock();
            if answers.len() >= MOST_ANSWERS {
                answers.clear();
            }
            answers.insert(file.location.clone(), (file.clone(), answer.clone()));
        }
        Ok(answer)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_looked_at_again_when_it_is_another_one() {
        let answers = Answers::default();
        let file = |size, seconds: u64| ObjectMeta {
            location: Path::from("a.csv"),
            last_modified: (SystemTime::now() - Duration::from_secs(seconds)).into(),
            size,
            e_tag: None,
            version: None,
        };
        let (old, longer, new) = (file(1, 60), file(2, 60), file(2, 1));
        for (file, answer, expected) in
            [(&old, 1, 1), (&old, 2, 1), (&longer, 3, 3), (&longer, 4, 3), (&old, 5, 5), (&new, 6, 6), (&new, 7, 7)]
        {
            assert_eq!(answers.of(file, async { Ok(answer) }).await.expect("an answer"), expected, "{answer}");
        }
    }
}

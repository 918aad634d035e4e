//! Single files of web servers, to read.
//!
//! object_store reads web servers too, and asks more of them than most give: to answer HEAD, to give parts, to have addresses
//! without a query. Here a server that refuses to say how long a file is is asked for its first byte, and one that gives no
//! parts for the whole, once.

use std::collections::HashMap;
use std::fmt::{self, Debug, Display, Formatter};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::object_store::http::{HttpBuilder, HttpStore};
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use url::Url;

use super::address::{Address, encoded};
use super::client::Web;
use super::lengths::MOST_WHOLE;
use super::wire::{Heard, heard, note};

/// How often a server is asked again for the head of a file.
const HEADS: usize = 3;

/// The files of a web server.
pub(super) struct WebFiles {
    /// `https://host:8443`.
    server: String,
    web: Web,
    /// What is asked for where a path does not say it: with queries, which nobody is to see.
    requests: Mutex<HashMap<Path, String>>,
    /// Files that come as a whole only, the oldest first.
    whole: Mutex<Vec<Arc<Whole>>>,
    /// Held while one of those is fetched, so that many who ask for parts of it fetch it once.
    fetching: tokio::sync::Mutex<()>,
}

/// A file that came as a whole.
struct Whole {
    meta: ObjectMeta,
    bytes: Bytes,
}

impl WebFiles {
    pub(super) fn new(address: &Address, web: Web) -> Self {
        let server = address.store.clone();
        Self { server, web, requests: Mutex::default(), whole: Mutex::default(), fetching: Default::default() }
    }

    /// Remembers what is asked for where a file is.
    pub(super) fn add(&self, key: Path, address: &Address) {
        self.requests.lock().insert(key, address.request.clone());
    }

    fn open(&self, location: &Path, is_head: bool) -> Result<HttpStore> {
        let mut url = Url::parse(&self.server).map_err(|error| refused(error.to_string()))?;
        match (Address::split_key(location), self.requests.lock().get(location)) {
            ((_, true), Some(request)) => url = url.join(request).map_err(|error| refused(error.to_string()))?,
            ((path, true), None) => {
                return Err(refused(format!("{}/{path}: its query is not known here", self.server)));
            }
            ((path, false), _) => url.set_path(&encoded(path)),
        }
        let mut retries = self.web.retries.clone();
        if is_head {
            // What is not told by a head is told by the file.
            retries.max_retries = retries.max_retries.min(HEADS);
        }
        let builder = HttpBuilder::new().with_url(url).with_retry(retries);
        builder.with_http_connector(self.web.clone()).build()
    }

    /// Asks, and lets the one who waits hear it too.
    async fn ask(&self, location: &Path, options: GetOptions) -> (Result<GetResult>, Heard) {
        let store = match self.open(location, options.head) {
            Ok(store) => store,
            Err(error) => return (Err(error), Heard::default()),
        };
        let (mut found, heard) = heard(store.get_opts(&Path::default(), options)).await;
        note(heard.clone());
        if let Ok(found) = &mut found {
            found.meta.location = location.clone();
        }
        (found, heard)
    }

    /// What is known of a file.
    async fn look(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.whole.lock().retain(|kept| kept.meta.location != *location);
        let (found, heard) = self.ask(location, options.clone()).await;
        if found.is_ok() || heard.status == Some(404) || heard.silence.is_some() {
            return found;
        }
        // Signed addresses are for GET alone, and some servers know nothing else.
        let first = GetOptions { head: false, range: Some(GetRange::Bounded(0..1)), ..options.clone() };
        let (mut found, heard) = self.ask(location, first).await;
        if heard.is_whole || heard.status == Some(416) {
            found = self.ask(location, GetOptions { head: false, range: None, ..options }).await.0;
        }
        let found = found?;
        Ok(GetResult { payload: GetResultPayload::Stream(stream::empty().boxed()), range: 0..0, ..found })
    }

    fn kept(&self, location: &Path) -> Option<Arc<Whole>> {
        self.whole.lock().iter().find(|kept| kept.meta.location == *location).map(Arc::clone)
    }

    fn keep(&self, whole: Arc<Whole>) {
        let mut all = self.whole.lock();
        all.retain(|kept| kept.meta.location != whole.meta.location);
        all.push(whole);
        while all.iter().map(|kept| kept.bytes.len()).sum::<usize>() > MOST_WHOLE {
            all.remove(0);
        }
    }

    /// A part of a file that comes as a whole only.
    async fn part(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let range = options.range.clone();
        let _fetching = self.fetching.lock().await;
        if let Some(whole) = self.kept(location) {
            return whole.part(range.as_ref());
        }
        let whole = self.ask(location, GetOptions { range: None, ..options }).await.0?;
        let meta = whole.meta.clone();
        if meta.size > MOST_WHOLE as u64 {
            return Err(refused(format!(
                "{}/{}: its server gives no parts of files, and of one that comes as a whole at most {} MiB are kept; it has \
                 {} MiB: download it first",
                self.server,
                Address::split_key(location).0,
                MOST_WHOLE >> 20,
                meta.size >> 20
            )));
        }
        let whole = Arc::new(Whole { meta, bytes: whole.bytes().await? });
        self.keep(Arc::clone(&whole));
        whole.part(range.as_ref())
    }
}

impl Whole {
    fn part(&self, range: Option<&GetRange>) -> Result<GetResult> {
        let size = self.bytes.len() as u64;
        let Range { start, end } = match range {
            None => 0..size,
            Some(range) => range.as_range(size).map_err(|error| refused(error.to_string()))?,
        };
        let part = self.bytes.slice(start as usize..end as usize);
        let payload = GetResultPayload::Stream(stream::iter([Ok(part)]).boxed());
        Ok(GetResult { payload, meta: self.meta.clone(), range: start..end, attributes: Default::default() })
    }
}

fn refused(why: String) -> Error {
    Error::Generic { store: "HTTP", source: why.into() }
}

fn read_only(what: &str) -> Error {
    refused(format!("a web server is read from only, and not asked to {what}"))
}

/// Without the queries.
impl Debug for WebFiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebFiles").field(&self.server).finish()
    }
}

impl Display for WebFiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server)
    }
}

#[async_trait]
impl ObjectStore for WebFiles {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.look(location, options).await;
        }
        if let Some(whole) = self.kept(location) {
            return whole.part(options.range.as_ref());
        }
        let (found, heard) = self.ask(location, options.clone()).await;
        if heard.is_whole { self.part(location, options).await } else { found }
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only("write"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only("write"))
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::iter([Err(read_only("delete"))]).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter([Err(read_only("list"))]).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(read_only("list"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(read_only("copy"))
    }
}

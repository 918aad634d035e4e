//! Single files of web servers, to read.
//!
//! object_store reads web servers too, and asks more of them than most give: to answer HEAD, to give parts, to have addresses
//! without a query. Here a server that refuses to say how long a file is is asked for its first byte, and one that gives no
//! parts for the whole, once.

use std::collections::HashMap;
use std::fmt::{self, Debug, Display, Formatter};
use std::ops::Range;

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
use super::wire::{Heard, heard, note};

/// Bytes of a file that are kept in memory, where its server gives no parts of it.
const MOST_WHOLE: u64 = 256 << 20;

/// The files of a web server.
pub(super) struct WebFiles {
    /// `https://host:8443`.
    server: String,
    web: Web,
    /// Of the addresses that are not their paths: with their queries, which nobody is to see.
    addresses: Mutex<HashMap<Path, String>>,
    /// Files of servers that give no parts.
    whole: Mutex<HashMap<Path, (ObjectMeta, Bytes)>>,
}

impl WebFiles {
    pub(super) fn new(address: &Address, web: Web) -> Self {
        Self { server: address.store.clone(), web, addresses: Mutex::default(), whole: Mutex::default() }
    }

    /// Remembers where a file is.
    pub(super) fn add(&self, key: Path, address: &Address) {
        self.addresses.lock().insert(key, address.query.clone());
    }

    fn open(&self, location: &Path) -> Result<HttpStore> {
        let query = self.addresses.lock().get(location).cloned();
        let (path, query) = match (Address::split_key(location), query) {
            ((path, true), Some(query)) => (path, query),
            ((path, false), _) => (path, String::new()),
            ((path, true), None) => {
                return Err(refused(format!("{}/{path}: its query is not known here", self.server)));
            }
        };
        let mut url = Url::parse(&self.server).map_err(|error| refused(error.to_string()))?;
        url.set_path(&encoded(&path));
        url.set_query(query.strip_prefix('?'));
        let builder = HttpBuilder::new().with_url(url).with_retry(self.web.retries.clone());
        builder.with_http_connector(self.web.clone()).build()
    }

    /// Asks, and lets the one who waits hear it too.
    async fn ask(&self, location: &Path, options: GetOptions) -> (Result<GetResult>, Heard) {
        let store = match self.open(location) {
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
        self.whole.lock().remove(location);
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

    /// A part of a file that comes as a whole only.
    async fn part(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let range = options.range.clone();
        let whole = self.ask(location, GetOptions { range: None, ..options }).await.0?;
        let (meta, attributes) = (whole.meta.clone(), whole.attributes.clone());
        if meta.size > MOST_WHOLE {
            return Err(refused(format!(
                "{}/{}: its server gives no parts of files, and of one that comes as a whole at most {} MiB are kept; it has \
                 {} MiB: download it first",
                self.server,
                Address::split_key(location).0,
                MOST_WHOLE >> 20,
                meta.size >> 20
            )));
        }
        let bytes = whole.bytes().await?;
        self.whole.lock().insert(location.clone(), (meta.clone(), bytes.clone()));
        Ok(GetResult { attributes, ..part_of(meta, &bytes, range.as_ref())? })
    }
}

/// A part of what is in memory.
fn part_of(meta: ObjectMeta, bytes: &Bytes, range: Option<&GetRange>) -> Result<GetResult> {
    let size = bytes.len() as u64;
    let Range { start, end } = match range {
        None => 0..size,
        Some(range) => range.as_range(size).map_err(|error| refused(error.to_string()))?,
    };
    let part = bytes.slice(start as usize..end as usize);
    let payload = GetResultPayload::Stream(stream::iter([Ok(part)]).boxed());
    Ok(GetResult { payload, meta, range: start..end, attributes: Default::default() })
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
        let kept = self.whole.lock().get(location).cloned();
        if let Some((meta, bytes)) = kept {
            return part_of(meta, &bytes, options.range.as_ref());
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

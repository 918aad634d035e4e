//! A store whose errors say what happened, where, and what to do about it; and a bucket that is found in its region where nobody
//! said which.

use std::fmt::{self, Debug, Display, Formatter};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::object_store::aws::AmazonS3Builder;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use parking_lot::RwLock;

use super::address::{Address, Cloud};
use super::client::Client;
use super::credentials::Who;
use super::masks::Secrets;
use super::wire::{Heard, Line, heard};
use crate::error::innermost;
use crate::files::marks::etag;

/// A store with explained errors.
#[derive(Clone)]
pub(super) struct Remote(Arc<Inner>);

struct Inner {
    store: RwLock<Arc<dyn ObjectStore>>,
    elsewhere: Option<AmazonS3Builder>,
    facts: Facts,
}

/// What an error may have to say.
struct Facts {
    /// `s3://bucket`.
    name: String,
    cloud: Cloud,
    who: Who,
    region: String,
    line: Arc<Line>,
    secrets: Secrets,
    /// Of what is added to the times of files, see [`Facts::own`].
    state: RandomState,
    /// Files whose content has no name.
    nameless: AtomicU64,
}

impl Remote {
    pub(super) fn new(address: &Address, client: Client, line: Arc<Line>, secrets: Secrets) -> Self {
        let Client { store, who, region, elsewhere } = client;
        let (state, nameless) = (RandomState::new(), AtomicU64::default());
        let facts =
            Facts { name: address.store.clone(), cloud: address.cloud, who, region, line, secrets, state, nameless };
        Self(Arc::new(Inner { store: RwLock::new(store), elsewhere, facts }))
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.0.store.read())
    }

    /// Runs an operation, once more where the first try has told us where the bucket is.
    async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        path: Option<&Path>,
        operation: impl Fn(Arc<dyn ObjectStore>) -> F,
    ) -> Result<T> {
        let store = self.store();
        let (result, heard_first) = heard(operation(Arc::clone(&store))).await;
        let Err(error) = result else { return result };
        if !self.moves(&store, &heard_first) {
            return Err(self.0.facts.explained(path, error, heard_first));
        }
        let (result, heard) = heard(operation(self.store())).await;
        result.map_err(|error| self.0.facts.explained(path, error, heard))
    }

    /// Whether a refused request may be sent to another region, which is that of the store from now on.
    fn moves(&self, asked: &Arc<dyn ObjectStore>, heard: &Heard) -> bool {
        let Inner { store, elsewhere, facts } = self.0.as_ref();
        let (Some(builder), Some(region), Some(300..500)) = (elsewhere, facts.line.region(), heard.status) else {
            return false;
        };
        let mut store = store.write();
        if !Arc::ptr_eq(&store, asked) {
            return true;
        }
        if region == facts.region {
            return false;
        }
        let moved = builder.clone().with_region(region).build();
        moved.is_ok_and(|moved| {
            *store = Arc::new(moved);
            true
        })
    }

    /// The same with its errors explained, item by item.
    fn explained<T: Send + 'static>(
        &self,
        items: BoxStream<'static, Result<T>>,
        path: Option<Path>,
    ) -> BoxStream<'static, Result<T>> {
        let state = (items, self.clone(), path);
        stream::unfold(state, |(mut items, remote, path)| async move {
            let (item, heard) = heard(items.next()).await;
            let item = item?.map_err(|error| remote.0.facts.explained(path.as_ref(), error, heard));
            Some((item, (items, remote, path)))
        })
        // Readers of text ask again after the end.
        .fuse()
        .boxed()
    }
}

impl Facts {
    /// DataFusion (55.2) remembers what it knows of a file by path, size and time, whatever store that is in and whatever content it
    /// has in that second: so times have a fraction, less than stores tell, that is the store's and the content's own. Of content
    /// that the store has no name for nothing is remembered.
    fn own(&self, meta: ObjectMeta) -> ObjectMeta {
        let fraction = match etag(&meta) {
            Some(etag) => self.state.hash_one(etag),
            None => self.nameless.fetch_add(1, Ordering::Relaxed),
        };
        ObjectMeta { last_modified: meta.last_modified + Duration::from_nanos(fraction % 1_000_000), ..meta }
    }

    fn explained(&self, path: Option<&Path>, error: Error, heard: Heard) -> Error {
        // It was tried for the last time.
        self.line.works();
        let source = |text: String| Box::new(crate::Error::Read(self.secrets.masked(&text)));
        match error {
            Error::NotFound { path, .. } if !is_no_store(&heard) => {
                Error::NotFound { path, source: source("it is not there".to_owned()) }
            }
            Error::AlreadyExists { path, .. } => {
                Error::AlreadyExists { path, source: source("it is there already".to_owned()) }
            }
            Error::Precondition { path, .. } => {
                Error::Precondition { path, source: source("it was changed meanwhile".to_owned()) }
            }
            Error::NotModified { path, .. } => {
                Error::NotModified { path, source: source("it was not changed".to_owned()) }
            }
            error @ (Error::NotSupported { .. } | Error::NotImplemented { .. }) => error,
            error => {
                let place =
                    path.map_or(self.name.clone(), |path| format!("{}/{}", self.name, Address::split_key(path).0));
                let what = match &error {
                    // One of those that were listed.
                    Error::InvalidPath { source } => format!(
                        "an object there has a name that cannot be read here ({source}): rename it, or name folders and files \
                         beside it"
                    ),
                    error => self.what(error, &heard),
                };
                Error::Generic { store: self.cloud.name(), source: source(format!("{place}: {what}")) }
            }
        }
    }

    fn what(&self, error: &Error, heard: &Heard) -> String {
        let region = self.line.region().filter(|region| *region != self.region);
        let said = match (heard.code.as_str(), heard.message.as_str()) {
            ("", _) => String::new(),
            (code, "") => format!(" {code}"),
            (code, message) => format!(" {code} ({})", message.trim_end_matches('.')),
        };
        match (heard.status, &heard.silence) {
            (Some(300..=400), _) if region.is_some() => {
                let region = region.unwrap_or_default();
                format!(
                    "the bucket is in the region {region}, and was looked for in {}: set AWS_REGION={region} or OPTIONS \
                     ('aws.region' '{region}')",
                    self.region
                )
            }
            (Some(404), _) if is_no_store(heard) || heard.code.is_empty() => {
                format!("there is no such {}:{said}", if self.cloud == Cloud::Azure { "container" } else { "bucket" })
            }
            (Some(status @ (401 | 403)), _) => match &self.who {
                Who::Known(from) => {
                    format!("no access: the server answers {status}{said} to the credentials from {from}")
                }
                Who::Anonymous => {
                    format!("no access: the server answers {status}{said} to a request without credentials")
                }
                Who::Nobody { looked_for, next } => format!(
                    "no access: the server answers {status}{said}, and no credentials were found. Looked for: {}. To give some, {next}",
                    looked_for.join(", ")
                ),
            },
            (Some(status), _) => format!("the server answers {status}{said}, also when asked again"),
            (None, Some(silence)) => format!("no answer from the server: {silence}"),
            (None, None) => innermost(error),
        }
    }
}

fn is_no_store(heard: &Heard) -> bool {
    matches!(heard.code.as_str(), "NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName")
}

/// Without credentials.
impl Debug for Remote {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.0.facts.name).finish()
    }
}

impl Display for Remote {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.facts.name)
    }
}

#[async_trait]
impl ObjectStore for Remote {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = |store: Arc<dyn ObjectStore>| {
            let (payload, options) = (payload.clone(), options.clone());
            async move { store.put_opts(location, payload, options).await }
        };
        self.run(Some(location), put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let put = |store: Arc<dyn ObjectStore>| {
            let options = options.clone();
            async move { store.put_multipart_opts(location, options).await }
        };
        let upload = self.run(Some(location), put).await?;
        Ok(Box::new(Upload { upload, location: location.clone(), remote: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let get = |store: Arc<dyn ObjectStore>| {
            let options = options.clone();
            async move { store.get_opts(location, options).await }
        };
        let mut found = self.run(Some(location), get).await?;
        found.meta = self.0.facts.own(found.meta);
        if let GetResultPayload::Stream(bytes) = found.payload {
            found.payload = GetResultPayload::Stream(self.explained(bytes, Some(location.clone())));
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.explained(self.store().delete_stream(locations), None)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (remote, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            // Asked for one first, which may tell where the bucket is.
            let first = async |store: Arc<dyn ObjectStore>| {
                let mut files = store.list(prefix.as_ref()).fuse();
                let first = files.next().await.transpose()?;
                Ok((first, files.boxed()))
            };
            match remote.run(prefix.as_ref(), first).await {
                Ok((first, rest)) => stream::iter(first.map(Ok)).chain(remote.explained(rest, prefix.clone())).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        let remote = self.clone();
        stream::once(listed).flatten().map_ok(move |meta| remote.0.facts.own(meta)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let list = async |store: Arc<dyn ObjectStore>| store.list_with_delimiter(prefix).await;
        let mut found = self.run(prefix, list).await?;
        found.objects = found.objects.into_iter().map(|meta| self.0.facts.own(meta)).collect();
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copy = |store: Arc<dyn ObjectStore>| {
            let options = options.clone();
            async move { store.copy_opts(from, to, options).await }
        };
        self.run(Some(to), copy).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let rename = |store: Arc<dyn ObjectStore>| {
            let options = options.clone();
            async move { store.rename_opts(from, to, options).await }
        };
        self.run(Some(to), rename).await
    }
}

#[derive(Debug)]
struct Upload {
    upload: Box<dyn MultipartUpload>,
    location: Path,
    remote: Remote,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, location, remote) = (self.upload.put_part(data), self.location.clone(), self.remote.clone());
        Box::pin(async move {
            let (done, heard) = heard(part).await;
            done.map_err(|error| remote.0.facts.explained(Some(&location), error, heard))
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (done, heard) = heard(self.upload.complete()).await;
        done.map_err(|error| self.remote.0.facts.explained(Some(&self.location), error, heard))
    }

    async fn abort(&mut self) -> Result<()> {
        let (done, heard) = heard(self.upload.abort()).await;
        done.map_err(|error| self.remote.0.facts.explained(Some(&self.location), error, heard))
    }
}

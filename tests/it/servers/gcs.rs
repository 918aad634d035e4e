//! Google's store by its XML API, as far as the client of object_store speaks it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use percent_encoding::percent_decode_str;

use super::message::{Request, Response};
use super::object::{Object, iso_date};
use super::server::Server;
use super::xml::{element, texts};

/// The least size of a part that is not the last one.
const LEAST_PART: usize = 5 << 20;

#[derive(Default)]
struct Bucket {
    /// With their generation.
    objects: BTreeMap<String, (Object, u64)>,
    uploads: BTreeMap<String, Upload>,
}

/// A multipart upload that is not finished.
struct Upload {
    key: String,
    parts: BTreeMap<usize, Object>,
}

struct State {
    buckets: BTreeMap<String, Bucket>,
    page: usize,
    /// Generations and uploads are numbered.
    numbers: u64,
}

pub(crate) struct Gcs {
    pub(crate) server: Server,
    state: Arc<Mutex<State>>,
}

impl Gcs {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State { buckets: BTreeMap::new(), page: 1000, numbers: 0 }));
        let served = Arc::clone(&state);
        let server = Server::start(move |request| served.lock().expect("no panic in the server").answer(request));
        Self { server, state }
    }

    /// What a client has in its environment to speak to this address, which may be a proxy's.
    pub(crate) fn variables(url: &str) -> [(&'static str, String); 2] {
        let account = format!(
            r#"{{"gcs_base_url":"{url}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}"#
        );
        [("GOOGLE_SERVICE_ACCOUNT_KEY", account), ("GOOGLE_ALLOW_HTTP", "true".to_owned())]
    }

    /// A client of a bucket, at this address.
    pub(crate) fn client(url: &str, bucket: &str) -> GoogleCloudStorage {
        let builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket);
        let builder = Self::variables(url).into_iter().fold(builder, |builder, (name, value)| {
            builder.with_config(name.to_ascii_lowercase().parse().expect("a setting"), value)
        });
        builder.build().expect("settings")
    }

    pub(crate) fn make_bucket(&self, name: &str) {
        self.lock().buckets.insert(name.to_owned(), Bucket::default());
    }

    /// How many names one answer to a listing has; 1000, as the real one.
    pub(crate) fn set_page(&self, page: usize) {
        self.lock().page = page;
    }

    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        self.lock().buckets[bucket].objects.keys().cloned().collect()
    }

    /// An object, as if somebody else had written it.
    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: impl Into<Vec<u8>>) {
        let mut state = self.lock();
        state.numbers += 1;
        let entry = (Object::new(bytes.into()), state.numbers);
        state.buckets.get_mut(bucket).expect("made").objects.insert(key.to_owned(), entry);
    }

    pub(crate) fn object(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        self.lock().buckets[bucket].objects.get(key).map(|(object, _)| object.bytes.clone())
    }

    /// The keys of multipart uploads that are neither completed nor aborted.
    pub(crate) fn uploads(&self, bucket: &str) -> Vec<String> {
        self.lock().buckets[bucket].uploads.values().map(|upload| upload.key.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic in the server")
    }
}

fn refused(status: u16, code: &str) -> Response {
    Response::new(status, format!("<Error>{}</Error>", element("Code", code)))
}

impl State {
    fn answer(&mut self, request: &Request) -> Response {
        let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let path = request.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let (bucket, key) = (decode(bucket), decode(key));
        let copied = request.headers.get("x-goog-copy-source").map(|source| {
            let (bucket, key) = source.trim_start_matches('/').split_once('/').unwrap_or_default();
            self.buckets.get(&decode(bucket))?.objects.get(&decode(key)).map(|(object, _)| object.bytes.clone())
        });
        self.numbers += 1;
        let number = self.numbers;
        let Some(bucket) = self.buckets.get_mut(&bucket) else { return refused(404, "NoSuchBucket") };
        let upload = request.parameter("uploadId");
        match (request.method.as_str(), upload, copied) {
            ("GET", ..) if key.is_empty() => bucket.list(request, self.page),
            ("GET" | "HEAD", ..) => match bucket.objects.get(&key) {
                Some((object, generation)) => with_generation(object.answer(request), *generation),
                None => refused(404, "NoSuchKey"),
            },
            ("PUT", Some(upload), _) => bucket.put_part(request, &upload),
            ("PUT", None, Some(None)) => refused(404, "NoSuchKey"),
            ("PUT", None, Some(Some(bytes))) => bucket.put(request, key, bytes, number),
            ("PUT", None, None) => bucket.put(request, key, request.body.clone(), number),
            ("POST", Some(upload), _) => bucket.complete(request, &upload, number),
            ("POST", None, _) if request.parameter("uploads").is_some() => {
                bucket.uploads.insert(number.to_string(), Upload { key, parts: BTreeMap::new() });
                let id = element("UploadId", &number.to_string());
                Response::new(200, format!("<InitiateMultipartUploadResult>{id}</InitiateMultipartUploadResult>"))
            }
            ("DELETE", Some(upload), _) => match bucket.uploads.remove(&upload) {
                Some(_) => Response::new(204, ""),
                None => refused(404, "NoSuchUpload"),
            },
            ("DELETE", None, _) => match bucket.objects.remove(&key) {
                Some(_) => Response::new(204, ""),
                None => refused(404, "NoSuchKey"),
            },
            _ => refused(400, "InvalidRequest"),
        }
    }
}

fn with_generation(response: Response, generation: u64) -> Response {
    response.with_header("x-goog-generation", &generation.to_string())
}

impl Bucket {
    /// Makes an object, if the one that is there may be replaced.
    fn put(&mut self, request: &Request, key: String, bytes: Vec<u8>, number: u64) -> Response {
        let generation = self.objects.get(&key).map_or(0, |(_, generation)| *generation).to_string();
        if request.headers.get("x-goog-if-generation-match").is_some_and(|wanted| wanted != generation) {
            return refused(412, "PreconditionFailed");
        }
        let object = Object::new(bytes);
        let response = Response::new(200, "").with_header("etag", &object.etag);
        self.objects.insert(key, (object, number));
        with_generation(response, number)
    }

    fn put_part(&mut self, request: &Request, upload: &str) -> Response {
        let number = request.parameter("partNumber").and_then(|number| number.parse().ok());
        match (self.uploads.get_mut(upload), number) {
            (None, _) => refused(404, "NoSuchUpload"),
            (_, None) => refused(400, "InvalidArgument"),
            (Some(upload), Some(number)) => {
                let part = Object::new(request.body.clone());
                let response = Response::new(200, "").with_header("etag", &part.etag);
                upload.parts.insert(number, part);
                response
            }
        }
    }

    /// Puts the parts together that the request names.
    fn complete(&mut self, request: &Request, id: &str, number: u64) -> Response {
        let Some(upload) = self.uploads.get(id) else { return refused(404, "NoSuchUpload") };
        let wanted = String::from_utf8_lossy(&request.body);
        let numbers = texts(&wanted, "PartNumber").into_iter().map(|number| number.parse().unwrap_or(0));
        let parts = numbers.zip(texts(&wanted, "ETag"));
        let parts: Option<Vec<_>> =
            parts.map(|(number, etag)| upload.parts.get(&number).filter(|part| part.etag == etag)).collect();
        let Some((last, others)) = parts.as_deref().and_then(<[_]>::split_last) else {
            return refused(400, "InvalidPart");
        };
        if others.iter().any(|part| part.bytes.len() < LEAST_PART) {
            return refused(400, "EntityTooSmall");
        }
        let whole = others.iter().chain([last]).flat_map(|part| &part.bytes).copied().collect();
        let object = Object::new(whole);
        let etag = element("ETag", &object.etag);
        let key = self.uploads.remove(id).expect("it is there").key;
        self.objects.insert(key, (object, number));
        let body = format!("<CompleteMultipartUploadResult>{etag}</CompleteMultipartUploadResult>");
        with_generation(Response::new(200, body), number)
    }

    /// One page of a listing. The token of the next page is the last name on this one.
    fn list(&self, request: &Request, page: usize) -> Response {
        let parameter = |name| request.parameter(name).unwrap_or_default();
        let (prefix, delimiter) = (parameter("prefix"), request.parameter("delimiter").filter(|text| !text.is_empty()));
        let after = request.parameter("continuation-token").unwrap_or_else(|| parameter("start-after"));
        let page = request.parameter("max-keys").and_then(|most| most.parse().ok()).unwrap_or(page).min(page);
        let (mut body, mut names, mut last, mut is_cut) = (String::new(), 0, after, false);
        for (key, (object, _)) in self.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)) {
            let folder = delimiter.as_ref().and_then(|delimiter| {
                let end = key[prefix.len()..].find(delimiter)?;
                Some(&key[..prefix.len() + end + delimiter.len()])
            });
            let name = folder.unwrap_or(key);
            if name <= last.as_str() {
                continue;
            }
            is_cut = names == page;
            if is_cut {
                break;
            }
            body += &match folder {
                Some(folder) => format!("<CommonPrefixes>{}</CommonPrefixes>", element("Prefix", folder)),
                None => contents(key, object),
            };
            names += 1;
            name.clone_into(&mut last);
        }
        body += &element("IsTruncated", &is_cut.to_string());
        if is_cut {
            body += &element("NextContinuationToken", &last);
        }
        Response::new(200, format!("<ListBucketResult>{body}</ListBucketResult>"))
    }
}

fn contents(key: &str, object: &Object) -> String {
    let parts = [
        element("Key", key),
        element("LastModified", &iso_date(object.modified)),
        element("ETag", &object.etag),
        element("Size", &object.bytes.len().to_string()),
    ];
    format!("<Contents>{}</Contents>", parts.concat())
}

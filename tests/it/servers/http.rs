//! A plain server of files, as a web server is one: no listing, nothing can be changed from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use percent_encoding::percent_decode_str;

use super::message::Response;
use super::object::Object;
use super::server::Server;

pub(crate) struct Http {
    pub(crate) server: Server,
    files: Arc<Mutex<BTreeMap<String, Object>>>,
}

impl Http {
    pub(crate) fn start() -> Self {
        let files = Arc::new(Mutex::new(BTreeMap::<String, Object>::new()));
        let served = Arc::clone(&files);
        let server = Server::start(move |request| {
            let path = percent_decode_str(request.path()).decode_utf8_lossy();
            let file = served.lock().expect("no panic in the server").get(path.as_ref()).cloned();
            match (request.method.as_str(), file) {
                ("GET" | "HEAD", Some(file)) => file.answer(request),
                ("GET" | "HEAD", None) => Response::new(404, "not here"),
                _ => Response::new(405, "").with_header("allow", "GET, HEAD"),
            }
        });
        Self { server, files }
    }

    /// A new file, or new content of one; the path begins with `/` and is not encoded.
    pub(crate) fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        let object = Object::new(bytes.into());
        self.files.lock().expect("no panic in the server").insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.files.lock().expect("no panic in the server").remove(path);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url())
    }
}

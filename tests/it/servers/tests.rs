//! Each server does what the clients of object_store ask, and what a test orders.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::http::{HttpBuilder, HttpStore};
use object_store::path::Path;
use object_store::{ClientOptions, Error, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::faults::{Fault, Gate, Harm};
use super::gcs::Gcs;
use super::http::Http;
use super::message::{Request, Response};
use super::proxy;
use super::server::Server;

const PART: usize = 5 << 20;

fn web(http: &Http) -> HttpStore {
    let options = ClientOptions::new().with_allow_http(true);
    HttpBuilder::new().with_url(http.url("")).with_client_options(options).build().expect("a client")
}

fn get(server: &Server, target: &str) -> io::Result<Response> {
    Request::new("GET", target).send(server.address)
}

fn status(server: &Server, target: &str) -> u16 {
    get(server, target).expect("an answer").status
}

/// No two parts of it are the same.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

async fn names(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let prefix = Path::from(prefix);
    let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await.expect("a listing");
    objects.into_iter().map(|object| object.location.to_string()).collect()
}

async fn read(store: &dyn ObjectStore, name: &str) -> Vec<u8> {
    let answer = store.get(&Path::parse(name).expect("a path")).await.expect("an object");
    answer.bytes().await.expect("its bytes").to_vec()
}

/// What every store does; `uploads` gives the keys of multipart uploads that are not finished.
async fn exercise(store: &dyn ObjectStore, uploads: impl Fn() -> Vec<String>) {
    let (name, content) = (Path::parse("d/a b%+&<é>.txt").expect("a path"), bytes(1000));
    store.put(&name, content.clone().into()).await.expect("put");
    assert_eq!(read(store, name.as_ref()).await, content);
    assert_eq!(store.head(&name).await.expect("an object").size, 1000);
    assert_eq!(store.get_range(&name, 10..20).await.expect("a part"), content[10..20]);
    let parts = store.get_ranges(&name, &[0..1, 999..1000]).await.expect("parts");
    assert_eq!(parts.concat(), [content[0], content[999]]);
    let again = store.put_opts(&name, PutPayload::new(), PutMode::Create.into()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");

    store.put(&Path::from("d/sub/x"), PutPayload::new()).await.expect("put");
    assert_eq!(names(store, "d").await, [name.as_ref(), "d/sub/x"]);
    let listing = store.list_with_delimiter(Some(&Path::from("d"))).await.expect("a listing");
    assert_eq!((listing.objects.len(), listing.common_prefixes), (1, vec![Path::from("d/sub")]));
    store.copy(&name, &Path::from("copy")).await.expect("copied");
    assert_eq!(read(store, "copy").await, content);

    let (large, content) = (Path::from("large"), bytes(12_000_000));
    let mut upload = store.put_multipart(&large).await.expect("begun");
    for part in content.chunks(PART) {
        upload.put_part(part.to_vec().into()).await.expect("a part");
    }
    assert!(store.head(&large).await.is_err(), "it is not there before it is complete");
    assert_eq!(uploads(), ["large"]);
    upload.complete().await.expect("complete");
    assert_eq!(uploads(), [""; 0]);
    assert_eq!(read(store, "large").await, content);

    for name in [name, large] {
        store.delete(&name).await.expect("deleted");
        assert!(matches!(store.head(&name).await, Err(Error::NotFound { .. })));
    }
    assert_eq!(names(store, "").await, ["copy", "d/sub/x"]);
}

async fn begin_upload(store: &dyn ObjectStore) -> Box<dyn MultipartUpload> {
    let mut upload = store.put_multipart(&Path::from("begun")).await.expect("begun");
    upload.put_part(bytes(PART).into()).await.expect("a part");
    upload
}

#[tokio::test]
async fn google_s_store() {
    let gcs = Gcs::start();
    gcs.make_bucket("texts");
    let store = Gcs::client(&gcs.server.url(), "texts");
    exercise(&store, || gcs.uploads("texts")).await;
    assert_eq!(gcs.keys("texts"), ["copy", "d/sub/x"]);
    assert_eq!(gcs.object("texts", "copy"), Some(bytes(1000)));
    let mut upload = begin_upload(&store).await;
    assert_eq!(gcs.uploads("texts"), ["begun"]);
    upload.abort().await.expect("aborted");
    assert_eq!(gcs.uploads("texts"), [""; 0]);
    let stranger = Gcs::client(&gcs.server.url(), "nobody-s").get(&Path::from("x")).await;
    assert!(stranger.expect_err("no bucket").to_string().contains("NoSuchBucket"));
}

#[tokio::test]
async fn listings_of_google_s_store_come_in_pages() {
    let gcs = Gcs::start();
    gcs.make_bucket("texts");
    let store = Gcs::client(&gcs.server.url(), "texts");
    let keys: Vec<_> = (0..2500).map(|number| format!("folder-{}/{number:04}", number / 500)).collect();
    for key in &keys {
        store.put(&Path::from(key.as_str()), PutPayload::new()).await.expect("put");
    }
    gcs.server.take_requests();
    assert_eq!(names(&store, "").await, keys);
    assert_eq!(gcs.server.take_requests().len(), 3);
    assert_eq!(names(&store, "folder-3").await, keys[1500..2000]);
    gcs.set_page(2);
    gcs.server.take_requests();
    let listing = store.list_with_delimiter(None).await.expect("a listing");
    assert_eq!((listing.objects.len(), listing.common_prefixes.len()), (0, 5));
    assert_eq!(gcs.server.take_requests().len(), 3);
}

#[tokio::test]
async fn a_part_that_is_too_small_or_unknown_is_refused() {
    let gcs = Gcs::start();
    gcs.make_bucket("texts");
    let store = Gcs::client(&gcs.server.url(), "texts");
    let mut upload = store.put_multipart(&Path::from("x")).await.expect("begun");
    for _ in 0..2 {
        upload.put_part(bytes(1000).into()).await.expect("a part");
    }
    let error = upload.complete().await.expect_err("a first part of 1000 bytes");
    assert!(error.to_string().contains("EntityTooSmall"), "{error}");
    let id = "/texts/x?uploadId=7";
    let answer = Request::new("PUT", id).with_body("a part").send(gcs.server.address).expect("an answer");
    assert_eq!(answer.status, 404);
}

#[cfg(unix)]
#[tokio::test]
async fn amazon_s_store() {
    use super::s3::{Moto, moto};
    let Some(moto) = moto() else { return };
    moto.make_bucket("servers");
    let proxy = proxy::start(moto.address);
    let store = Moto::client(&proxy.url(), "servers");
    exercise(&store, || moto.uploads("servers")).await;
    assert_eq!(moto.keys("servers"), ["copy", "d/sub/x"]);
    let mut upload = begin_upload(&store).await;
    assert_eq!(moto.uploads("servers"), ["begun"]);
    upload.abort().await.expect("aborted");
    assert_eq!(moto.uploads("servers"), [""; 0]);
    // Without credentials.
    let target = format!("{}/servers/copy", moto.url());
    let options = ClientOptions::new().with_allow_http(true);
    let anonymous = HttpBuilder::new().with_url(target).with_client_options(options).build().expect("a client");
    let nothing = Path::default();
    assert!(anonymous.get(&nothing).await.is_err());
    moto.allow_reading("servers");
    assert_eq!(read(&anonymous, "").await, bytes(1000));
}

#[cfg(all(feature = "hub", unix))]
#[tokio::test]
async fn microsoft_s_store() {
    use super::azure::{Azurite, azurite};
    let Some(azurite) = azurite() else { return };
    azurite.make_container("servers");
    let proxy = proxy::start(azurite.address);
    let store = Azurite::client(&proxy.url(), "servers");
    exercise(&store, || azurite.uploads("servers")).await;
    assert_eq!(azurite.keys("servers"), ["copy", "d/sub/x"]);
    let mut upload = begin_upload(&store).await;
    upload.abort().await.expect("aborted");
    assert_eq!(azurite.uploads("servers"), ["begun"], "blocks cannot be aborted");
    // Without credentials.
    let anonymous = || Request::new("GET", "/devstoreaccount1/servers/copy").send(azurite.address);
    assert!(anonymous().expect("an answer").status >= 400);
    azurite.allow_reading("servers");
    assert_eq!(anonymous().expect("an answer").body, bytes(1000));
}

#[tokio::test]
async fn a_web_server_has_files_and_counts_what_it_sends() {
    let http = Http::start();
    http.put("/d/a b.txt", bytes(1000));
    let store = web(&http);
    let name = Path::from("d/a b.txt");
    let head = store.head(&name).await.expect("a file");
    assert_eq!(head.size, 1000);
    assert!(head.last_modified.timestamp() > 1_700_000_000 && head.e_tag.is_some());
    assert_eq!(read(&store, "d/a b.txt").await, bytes(1000));
    assert_eq!(store.get_range(&name, 990..1010).await.expect("a part"), bytes(1000)[990..]);
    let suffix = object_store::GetOptions { range: Some(GetRange::Suffix(5)), ..Default::default() };
    assert_eq!(store.get_opts(&name, suffix).await.expect("a part").range, 995..1000);
    assert!(matches!(store.get(&Path::from("x")).await, Err(Error::NotFound { .. })));
    assert!(store.put(&name, PutPayload::new()).await.is_err());
    let requests = http.server.take_requests();
    let seen: Vec<_> = requests.iter().map(|entry| (entry.method.as_str(), entry.status, entry.sent)).collect();
    let expected =
        [("HEAD", 200, 0), ("GET", 200, 1000), ("GET", 206, 10), ("GET", 206, 5), ("GET", 404, 8), ("PUT", 405, 0)];
    assert_eq!(seen, expected.map(|(method, status, sent)| (method, Some(status), sent)));
    assert_eq!(requests[0].target, "/d/a%20b.txt");
    assert_eq!(requests[2].range.as_deref(), Some("bytes=990-1009"));
    // Etags follow the content.
    let etag = head.e_tag.expect("an etag");
    let ask = |name: &str| Request::new("GET", "/d/a%20b.txt?x=1").with_header(name, &etag).send(http.server.address);
    assert_eq!(ask("if-none-match").expect("an answer").status, 304);
    assert_eq!(ask("if-match").expect("an answer").status, 200);
    http.put("/d/a b.txt", "new");
    assert_eq!(ask("if-match").expect("an answer").status, 412);
    http.remove("/d/a b.txt");
    assert_eq!(ask("if-match").expect("an answer").status, 404);
    assert!(http.server.requests().iter().all(|entry| entry.target.ends_with("?x=1")));
}

#[test]
fn a_connection_is_kept_until_a_request_says_otherwise() {
    let http = Http::start();
    http.put("/x", "text");
    let mut stream = TcpStream::connect(http.server.address).expect("connected");
    let requests = "GET /x HTTP/1.1\r\n\r\nHEAD /x HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).expect("sent");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("closed");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
    assert_eq!(answers.matches("\r\n\r\ntext").count(), 2, "{answers}");
}

/// A server with a text of ten bytes at `/x`.
fn ten_bytes() -> Http {
    let http = Http::start();
    http.put("/x", "0123456789");
    http
}

#[test]
fn faults_come_to_the_requests_that_they_are_meant_for() {
    let http = ten_bytes();
    let statuses = |fault: Fault| {
        http.server.clear_faults();
        http.server.add_fault(fault);
        (0..6).map(|_| status(&http.server, "/x")).collect::<Vec<_>>()
    };
    assert_eq!(statuses(Fault::status(500)), [500; 6]);
    assert_eq!(statuses(Fault::status(503).nth(3)), [200, 200, 503, 200, 200, 200]);
    assert_eq!(statuses(Fault::status(429).every(2)), [200, 429, 200, 429, 200, 429]);
    assert_eq!(statuses(Fault::status(403).times(2)), [403, 403, 200, 200, 200, 200]);
    assert_eq!(statuses(Fault::status(500).every(2).times(1)), [200, 500, 200, 200, 200, 200]);
    assert_eq!(statuses(Fault::status(500).on("HEAD")), [200; 6]);
    assert_eq!(statuses(Fault::status(500).at("/y")), [200; 6]);
    assert_eq!(statuses(Fault::status(500).lasting(Duration::ZERO)), [200; 6]);
    assert_eq!(statuses(Fault::status(500).lasting(Duration::from_secs(3600))), [500; 6]);
    http.server.clear_faults();
    http.server.add_fault(Fault::status(401).unless("authorization", "Bearer secret"));
    let asked = Request::new("GET", "/x").with_header("Authorization", "Bearer secret").send(http.server.address);
    assert_eq!((status(&http.server, "/x"), asked.expect("an answer").status), (401, 200));
    let told: Vec<_> = http.server.take_requests().into_iter().filter_map(|entry| entry.authorization).collect();
    assert_eq!(told, ["Bearer secret"]);
}

#[test]
fn connections_break_where_they_are_told_to() {
    let http = ten_bytes();
    let server = &http.server;
    for harm in [Harm::Refuse, Harm::Lose, Harm::Cut(4)] {
        server.add_fault(Fault::new(harm));
        assert!(get(server, "/x").is_err());
        server.clear_faults();
    }
    let seen: Vec<_> = server.take_requests().into_iter().map(|entry| (entry.status, entry.sent)).collect();
    assert_eq!(seen, [(None, 0), (None, 0), (Some(200), 4)]);
    server.add_fault(Fault::new(Harm::Close));
    let mut stream = TcpStream::connect(server.address).expect("connected");
    stream.write_all(b"GET /x HTTP/1.1\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("closed");
    assert!(answer.contains("keep-alive") && answer.ends_with("0123456789"), "{answer}");
}

#[test]
fn slow_answers_come_in_the_end() {
    let http = ten_bytes();
    let pause = Duration::from_millis(20);
    for harm in [Harm::Delay(10 * pause), Harm::Trickle(1, pause)] {
        http.server.clear_faults();
        http.server.add_fault(Fault::new(harm));
        let begun = Instant::now();
        assert_eq!(get(&http.server, "/x").expect("an answer").body, b"0123456789");
        assert!(begun.elapsed() >= 9 * pause);
    }
    http.server.clear_faults();
    http.server.take_requests();
    let gate = Gate::default();
    http.server.add_fault(Fault::new(Harm::Hold(gate.clone())));
    thread::scope(|scope| {
        let answer = scope.spawn(|| get(&http.server, "/x"));
        while http.server.requests().first().is_none_or(|entry| entry.sent < 5) {
            thread::sleep(pause);
        }
        thread::sleep(pause);
        assert_eq!(http.server.requests()[0].sent, 5);
        gate.open();
        assert_eq!(answer.join().expect("no panic").expect("an answer").body, b"0123456789");
    });
}

#[tokio::test]
async fn clients_meet_servers_that_cannot_do_all() {
    let (http, other) = (ten_bytes(), ten_bytes());
    let (store, name) = (web(&http), Path::from("x"));
    http.server.add_fault(Fault::new(Harm::WholeFiles));
    let part = store.get_range(&name, 2..4).await;
    assert!(matches!(part, Err(Error::NotSupported { .. })), "{part:?}");
    http.server.clear_faults();
    http.server.add_fault(Fault::status(405).on("HEAD"));
    assert!(store.head(&name).await.is_err());
    assert_eq!(read(&store, "x").await, b"0123456789");
    http.server.clear_faults();
    http.server.add_fault(Fault::redirect(302, &other.url("/x")));
    assert_eq!(store.get_range(&name, 2..4).await.expect("a part"), "23");
    assert_eq!(other.server.take_requests()[0].range.as_deref(), Some("bytes=2-3"));
    other.server.add_fault(Fault::redirect(307, "/x"));
    assert!(store.head(&name).await.is_err());
    assert!(other.server.take_requests().len() > 5, "a loop");
}

#[tokio::test]
async fn clients_try_again() {
    let gcs = Gcs::start();
    gcs.make_bucket("texts");
    let store = Gcs::client(&gcs.server.url(), "texts");
    let (name, content) = (Path::from("x"), bytes(1 << 20));
    let busy = Response::new(503, "").with_header("retry-after", "1");
    gcs.server.add_fault(Fault::new(Harm::Answer(busy)).nth(1));
    gcs.server.add_fault(Fault::new(Harm::Refuse).nth(2));
    gcs.server.add_fault(Fault::new(Harm::Lose).nth(3));
    store.put(&name, content.clone().into()).await.expect("put");
    let seen: Vec<_> = gcs.server.take_requests().into_iter().map(|entry| (entry.status, entry.received)).collect();
    assert_eq!(seen, [Some(503), None, None, Some(200)].map(|status| (status, 1 << 20)));
    gcs.server.clear_faults();
    // A read that breaks off goes on where it was.
    gcs.server.add_fault(Fault::new(Harm::Cut(700_000)).nth(1));
    assert_eq!(read(&store, "x").await, content);
    let seen = gcs.server.take_requests();
    assert_eq!((seen[0].sent, seen[0].range.as_deref()), (700_000, None));
    let start =
        seen[1].range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    assert_eq!(start.map(|start: usize| start + seen[1].sent), Some(1 << 20));
}

#[test]
fn a_server_that_was_killed_is_gone() {
    let http = ten_bytes();
    http.server.add_fault(Fault::new(Harm::Hold(Gate::default())));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| get(&http.server, "/x"));
        while http.server.requests().first().is_none_or(|entry| entry.sent < 5) {
            thread::sleep(Duration::from_millis(10));
        }
        http.server.kill();
        assert!(waiting.join().expect("no panic").is_err());
    });
    let gone = get(&http.server, "/x").expect_err("nobody listens");
    assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_proxy_passes_on_and_counts() {
    let gcs = Gcs::start();
    gcs.make_bucket("texts");
    let proxy = proxy::start(gcs.server.address);
    exercise(&Gcs::client(&proxy.url(), "texts"), || gcs.uploads("texts")).await;
    let counts = |server: &Server| {
        let requests = server.take_requests();
        let sent: usize = requests.iter().map(|entry| entry.sent).sum();
        let received: usize = requests.iter().map(|entry| entry.received).sum();
        (requests.len(), sent, received)
    };
    let (asked, sent, received) = counts(&proxy);
    assert_eq!((asked, sent, received), counts(&gcs.server));
    assert!(asked > 15 && sent > 12_000_000 && received > 12_000_000, "{asked} {sent} {received}");
    // What fails before the server sees it, and what fails after.
    let put = |target: &str| Request::new("PUT", target).with_body("x").send(proxy.address);
    proxy.add_fault(Fault::new(Harm::Refuse).at("/refused"));
    proxy.add_fault(Fault::new(Harm::Lose).at("/lost"));
    assert!(put("/texts/refused").is_err() && put("/texts/lost").is_err());
    assert_eq!(gcs.keys("texts"), ["copy", "d/sub/x", "lost"]);
    gcs.server.kill();
    assert_eq!(put("/texts/x").expect("the proxy is there").status, 502);
}

#[cfg(unix)]
#[tokio::test]
async fn a_program_can_be_stopped_and_killed() {
    use super::s3::Moto;
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("servers");
    let proxy = proxy::start(moto.address);
    let store = Moto::client(&proxy.url(), "servers");
    proxy.add_fault(Fault::status(500).on("PUT").nth(1));
    store.put(&Path::from("x"), "text".into()).await.expect("put");
    assert_eq!(read(&store, "x").await, b"text");
    assert_eq!(proxy.take_requests().iter().filter(|entry| entry.method == "PUT").count(), 2);
    moto.stop();
    let name = Path::from("x");
    assert!(tokio::time::timeout(Duration::from_millis(300), store.get(&name)).await.is_err());
    moto.resume();
    assert_eq!(read(&store, "x").await, b"text");
    moto.kill();
    let gone = Request::new("GET", "/servers/x").send(moto.address).expect_err("nobody listens");
    assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
}

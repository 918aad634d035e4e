//! A server on this machine that answers as a function says, keeps a record of what it was asked, and misbehaves by order.
//!
//! Everything that listens in these tests is one of these: they differ in the function.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::faults::{Fate, Fault};
use super::message::{Request, Response};

/// What was asked, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) method: String,
    /// The path with its query, as they were sent.
    pub(crate) target: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    /// Bytes of the request's body.
    pub(crate) received: usize,
    /// `None` as long as there is no answer, and for ever where it is lost.
    pub(crate) status: Option<u16>,
    /// Bytes of the answer's body.
    pub(crate) sent: usize,
}

/// The entries since the record was last taken, and how many were before.
#[derive(Default)]
struct Record {
    taken: usize,
    entries: Vec<Entry>,
}

type Handler = dyn Fn(&Request) -> Response + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    faults: Mutex<Vec<Fault>>,
    record: Mutex<Record>,
    /// To be closed when the server is killed.
    connections: Mutex<Vec<TcpStream>>,
    is_dead: AtomicBool,
}

/// Listens until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            faults: Mutex::default(),
            record: Mutex::default(),
            connections: Mutex::default(),
            is_dead: AtomicBool::new(false),
        });
        let listens = Arc::clone(&shared);
        let listening = thread::spawn(move || listens.listen(&listener));
        Self { address, shared, listening: Mutex::new(Some(listening)) }
    }

    /// Where it is, without a `/` at the end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this goes wrong, beside what goes wrong already.
    pub(crate) fn add_fault(&self, fault: Fault) {
        lock(&self.shared.faults).push(fault);
    }

    /// From now on nothing goes wrong.
    pub(crate) fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
    }

    /// The requests since the record was last taken.
    pub(crate) fn requests(&self) -> Vec<Entry> {
        lock(&self.shared.record).entries.clone()
    }

    /// Takes the record: the next one begins here.
    pub(crate) fn take_requests(&self) -> Vec<Entry> {
        let mut record = lock(&self.shared.record);
        record.taken += record.entries.len();
        std::mem::take(&mut record.entries)
    }

    /// Closes its port and all connections.
    pub(crate) fn kill(&self) {
        self.shared.is_dead.store(true, Ordering::SeqCst);
        if let Some(listening) = lock(&self.listening).take() {
            // An accept cannot be interrupted, but it can be given what it waits for.
            drop(TcpStream::connect(self.address));
            listening.join().expect("no panic in the server");
            for stream in lock(&self.shared.connections).drain(..) {
                // One that the client has closed is closed.
                drop(stream.shutdown(Shutdown::Both));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic in the server")
}

impl Shared {
    /// Answers each connection in a thread of its own.
    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(self);
            let Ok(closer) = stream.try_clone() else { continue };
            let mut connections = lock(&self.connections);
            if self.is_dead() {
                return;
            }
            connections.push(closer);
            drop(connections);
            thread::spawn(move || {
                let client = stream.peer_addr().ok();
                // A client that went away is its own affair.
                drop(shared.converse(&stream));
                drop(stream.shutdown(Shutdown::Both));
                lock(&shared.connections).retain(|other| other.peer_addr().is_ok_and(|peer| Some(peer) != client));
            });
        }
    }

    fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut requests = BufReader::new(stream);
        while let Some(request) = Request::read(&mut requests)? {
            if !self.answer(request, stream)? {
                break;
            }
        }
        Ok(())
    }

    /// Answers a request, and says whether the connection stays open.
    fn answer(&self, mut request: Request, stream: &TcpStream) -> io::Result<bool> {
        let fate = Fate::of(&request, &mut lock(&self.faults));
        let number = self.begin_entry(&request);
        thread::sleep(fate.delay);
        if fate.is_refused || self.is_dead() {
            return Ok(false);
        }
        if fate.wants_whole {
            request.headers.remove("range");
        }
        let mut response = fate.answer.clone().unwrap_or_else(|| (self.handler)(&request));
        if let Some((name, value)) = fate.header {
            response.headers.remove(name);
            response = response.with_header(name, value);
        }
        if fate.is_lost {
            return Ok(false);
        }
        self.change_entry(number, |entry| entry.status = Some(response.status));
        let is_asked = request.headers.get("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
        let keeps_open = is_asked && !fate.hides_length;
        let head = response.head(keeps_open, !fate.hides_length)?;
        let body = if request.method == "HEAD" { &[] } else { response.body.as_slice() };
        self.send(&head, body, stream, &fate, number)?;
        Ok(keeps_open && fate.cut.is_none() && !fate.closes)
    }

    fn send(&self, head: &[u8], body: &[u8], mut to: &TcpStream, fate: &Fate, number: usize) -> io::Result<()> {
        to.write_all(head)?;
        let body = &body[..body.len().min(fate.cut.unwrap_or(usize::MAX))];
        let (piece, rest) = fate.trickle.unwrap_or((1 << 16, Duration::ZERO));
        let middle = body.len() / 2;
        for (half, part) in [&body[..middle], &body[middle..]].into_iter().enumerate() {
            if half == 1 {
                fate.wait_at_gate(|| self.is_dead());
            }
            for piece in part.chunks(piece) {
                if self.is_dead() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                // Before it is sent: who has the answer finds it in the record.
                self.change_entry(number, |entry| entry.sent += piece.len());
                to.write_all(piece)?;
                thread::sleep(rest);
            }
        }
        Ok(())
    }

    fn begin_entry(&self, request: &Request) -> usize {
        let header = |name| request.headers.get(name).map(str::to_owned);
        let mut record = lock(&self.record);
        record.entries.push(Entry {
            method: request.method.clone(),
            target: request.target.clone(),
            range: header("range"),
            authorization: header("authorization"),
            received: request.body.len(),
            status: None,
            sent: 0,
        });
        record.taken + record.entries.len() - 1
    }

    /// Changes an entry, unless it was taken meanwhile.
    fn change_entry(&self, number: usize, change: impl FnOnce(&mut Entry)) {
        let mut record = lock(&self.record);
        let place = number.checked_sub(record.taken);
        if let Some(entry) = place.and_then(|place| record.entries.get_mut(place)) {
            change(entry);
        }
    }
}

//! What goes wrong between a client and a server, by order of a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::message::{Request, Response};

/// What happens to a request.
#[derive(Debug, Clone)]
pub(crate) enum Harm {
    /// This is the answer; the server never sees the request.
    Answer(Response),
    /// The connection is closed before the server sees the request.
    Refuse,
    /// The server does what is asked, and the connection is closed instead of its answer.
    Lose,
    /// The connection is closed after so many bytes of the answer's body.
    Cut(usize),
    /// The connection is closed after the answer, which says that it stays open.
    Close,
    /// The server sees no `Range`: it sends the whole.
    WholeFiles,
    /// The answer does not say how long it is: it ends where the connection does.
    NoLength,
    /// The answer has this header.
    Header(&'static str, &'static str),
    /// The server sees the request only after so long.
    Delay(Duration),
    /// The answer's body comes in so many bytes at a time, with a rest after each.
    Trickle(usize, Duration),
    /// The answer's body stops in the middle until the gate opens.
    Hold(Gate),
}

/// Closed until it is opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A harm, and the requests that it comes to: all, unless it is told otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    harm: Harm,
    method: Option<&'static str>,
    part: String,
    unless: Option<(&'static str, String)>,
    /// How many requests that fit go by between two that are harmed, and how many before the first.
    step: usize,
    offset: usize,
    times: usize,
    until: Option<Instant>,
    seen: usize,
}

impl Fault {
    pub(crate) fn new(harm: Harm) -> Self {
        let (method, part, unless, until) = (None, String::new(), None, None);
        Self { harm, method, part, unless, step: 1, offset: 0, times: usize::MAX, until, seen: 0 }
    }

    /// Answers with a status and nothing else.
    pub(crate) fn status(status: u16) -> Self {
        Self::new(Harm::Answer(Response::new(status, "")))
    }

    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::new(Harm::Answer(Response::new(status, "").with_header("location", location)))
    }

    /// Only requests with this method.
    #[must_use]
    pub(crate) fn on(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests with this in their path or query.
    #[must_use]
    pub(crate) fn at(mut self, part: &str) -> Self {
        self.part = part.to_owned();
        self
    }

    /// Only requests without this header.
    #[must_use]
    pub(crate) fn unless(mut self, name: &'static str, value: &str) -> Self {
        self.unless = Some((name, value.to_owned()));
        self
    }

    /// Only the n-th request that fits, from 1.
    #[must_use]
    pub(crate) fn nth(mut self, n: usize) -> Self {
        (self.offset, self.times) = (n - 1, 1);
        self
    }

    /// Only each k-th request that fits.
    #[must_use]
    pub(crate) fn every(mut self, k: usize) -> Self {
        (self.step, self.offset) = (k, k - 1);
        self
    }

    /// Only so many requests.
    #[must_use]
    pub(crate) fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Only from now on for so long.
    #[must_use]
    pub(crate) fn lasting(mut self, time: Duration) -> Self {
        self.until = Some(Instant::now() + time);
        self
    }

    /// The harm that it does to the next request.
    fn strike(&mut self, request: &Request) -> Option<&Harm> {
        let fits = self.method.is_none_or(|method| method == request.method)
            && request.target.contains(&self.part)
            && self.unless.as_ref().is_none_or(|(name, value)| request.headers.get(name) != Some(value))
            && self.until.is_none_or(|until| Instant::now() < until);
        if !fits {
            return None;
        }
        let number = self.seen;
        self.seen += 1;
        let is_due = number >= self.offset && (number - self.offset).is_multiple_of(self.step) && self.times > 0;
        is_due.then(|| {
            self.times -= 1;
            &self.harm
        })
    }
}

/// All that happens to one request. Of two harms of a kind the one that was set last is done.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) answer: Option<Response>,
    pub(crate) is_refused: bool,
    pub(crate) is_lost: bool,
    pub(crate) closes: bool,
    pub(crate) wants_whole: bool,
    pub(crate) hides_length: bool,
    pub(crate) header: Option<(&'static str, &'static str)>,
    pub(crate) delay: Duration,
    /// Bytes of the body after which the connection is closed.
    pub(crate) cut: Option<usize>,
    pub(crate) trickle: Option<(usize, Duration)>,
    pub(crate) gate: Option<Gate>,
}

impl Fate {
    pub(crate) fn of(request: &Request, faults: &mut [Fault]) -> Self {
        let mut fate = Self::default();
        for fault in faults {
            match fault.strike(request).cloned() {
                None => {}
                Some(Harm::Answer(response)) => fate.answer = Some(response),
                Some(Harm::Refuse) => fate.is_refused = true,
                Some(Harm::Lose) => fate.is_lost = true,
                Some(Harm::Cut(bytes)) => fate.cut = Some(bytes),
                Some(Harm::Close) => fate.closes = true,
                Some(Harm::WholeFiles) => fate.wants_whole = true,
                Some(Harm::NoLength) => fate.hides_length = true,
                Some(Harm::Header(name, value)) => fate.header = Some((name, value)),
                Some(Harm::Delay(time)) => fate.delay = time,
                Some(Harm::Trickle(bytes, rest)) => fate.trickle = Some((bytes, rest)),
                Some(Harm::Hold(gate)) => fate.gate = Some(gate),
            }
        }
        fate
    }

    /// Waits where the answer is to stop in the middle.
    pub(crate) fn wait_at_gate(&self, is_gone: impl Fn() -> bool) {
        while self.gate.as_ref().is_some_and(|gate| !gate.is_open()) && !is_gone() {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

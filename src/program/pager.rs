//! A result that is longer than the screen goes to a program that shows it page by page.

use std::env;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::failure::Failure;

/// Where nobody says which: long lines are not broken, and what fits a screen is just shown.
const DEFAULT: &str = "less -SFRX";

/// One result, held back until it is clear that it is longer than the screen.
#[derive(Debug)]
pub(super) struct Pager {
    /// Lines of the screen.
    height: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Holding(Vec<u8>),
    Paging(Child),
    /// There is no pager, or there was no time to wait for more.
    Through,
}

impl Pager {
    pub(super) fn new(height: usize) -> Self {
        Self { height, state: State::Holding(Vec::new()) }
    }

    /// Takes bytes, and gives those that are to be written to the terminal now.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        match &mut self.state {
            State::Through => Ok(bytes.to_vec()),
            // Whoever has seen enough closes the pager.
            State::Paging(pager) => write(pager, bytes).map(|()| Vec::new()),
            State::Holding(held) => {
                held.extend_from_slice(bytes);
                if held.iter().filter(|&&byte| byte == b'\n').count() < self.height {
                    return Ok(Vec::new());
                }
                let held = std::mem::take(held);
                let Some(mut pager) = open() else {
                    self.state = State::Through;
                    return Ok(held);
                };
                let written = write(&mut pager, &held);
                self.state = State::Paging(pager);
                written.map(|()| Vec::new())
            }
        }
    }

    /// Is the terminal another program's?
    pub(super) fn is_paging(&self) -> bool {
        matches!(self.state, State::Paging(_))
    }

    /// There is no time to wait for more: gives what was held back.
    pub(super) fn stop_holding(&mut self) -> Vec<u8> {
        match &mut self.state {
            State::Holding(held) => {
                let held = std::mem::take(held);
                self.state = State::Through;
                held
            }
            _ => Vec::new(),
        }
    }

    /// Waits until the pager is closed.
    pub(super) fn end(self) {
        if let State::Paging(mut pager) = self.state {
            // Its input ends here.
            drop(pager.stdin.take());
            let _ = pager.wait();
        }
    }
}

/// `$PAGER`, else less, else none; an empty `PAGER` and `cat` are none.
fn open() -> Option<Child> {
    let line = env::var("PAGER").unwrap_or_else(|_| DEFAULT.to_owned());
    if line.trim().is_empty() || line.trim() == "cat" {
        return None;
    }
    // With arguments, as a shell reads it; a shell is there whether or not the pager is.
    let program = line.split_whitespace().next()?;
    let is_there = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status();
    if !is_there.is_ok_and(|status| status.success()) {
        return None;
    }
    Command::new("sh").args(["-c", &line]).stdin(Stdio::piped()).spawn().ok()
}

fn write(pager: &mut Child, bytes: &[u8]) -> Result<(), Failure> {
    match pager.stdin.as_mut() {
        Some(input) => input.write_all(bytes).map_err(|_| Failure::Interrupted),
        None => Ok(()),
    }
}

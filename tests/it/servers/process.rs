//! Servers that others wrote: programs that run as long as somebody needs them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::skipped;

/// Runs a program in a folder, says its process id, and removes both when its own standard input ends: with the test process,
/// whatever ends that.
const KEEPER: &str = r#""$@" > log 2>&1 & echo $!; cat > /dev/null; kill -9 $!; wait; rm -r "$0""#;

/// Where a program of `.ci/servers` is. Says so where it is not: a test that needs it is skipped.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let exe = env::current_exe().expect("this test");
    let beside = exe.ancestors().map(|folder| folder.join("servers"));
    let folders: Vec<_> = match env::var_os("DATAFUSION_EMBED_SERVERS") {
        Some(folder) => vec![folder.into()],
        None => beside.collect(),
    };
    let found = folders.iter().map(|folder| folder.join(program)).find(|place| place.exists());
    if found.is_none() {
        let name = Path::new(program).file_name().expect("a program").display();
        skipped(&name.to_string(), ".ci/servers installs it");
    }
    found
}

pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    pid: Pid,
    keeper: Child,
}

impl Process {
    /// Starts a program that listens on a free port of 127.0.0.1 and prints its URL.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory").keep();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER]).arg(&folder).arg(program).args(arguments).current_dir(&folder);
        command.env("PYTHONUNBUFFERED", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = command.spawn().expect("a shell");
        let mut line = String::new();
        let printed = keeper.stdout.take().expect("piped");
        BufReader::new(printed).read_line(&mut line).expect("a process id");
        let pid = Pid::from_raw(line.trim().parse().expect("a process id"));
        let address = wait_for_address(&folder.join("log"));
        Self { address, pid, keeper }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it accepts connections and answers none.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// From now on nobody listens where it did.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
        while TcpStream::connect(self.address).is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("the keeper has not waited for it");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().expect("the keeper ends");
    }
}

fn wait_for_address(log: &Path) -> SocketAddr {
    let begun = Instant::now();
    loop {
        let said = fs::read_to_string(log).unwrap_or_default();
        let url = said.split("http://").nth(1).and_then(|rest| rest.split_once(char::is_whitespace));
        if let Some(address) = url.and_then(|(url, _)| url.parse().ok()) {
            return address;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the server does not start: {said}");
        thread::sleep(Duration::from_millis(20));
    }
}

//! What the kernel says of a process.

use std::fmt::Display;
use std::fs;

/// Of a process, `self` or a number: `cpu`, the seconds of processor that it took so far, or the MiB of a line of its status: `VmRSS`
/// that it holds, `VmHWM` that it ever held. 0 where the kernel does not say.
pub(crate) fn account(process: impl Display, what: &str) -> f64 {
    let file = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
    if what == "cpu" {
        let stat = file("stat");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // User and system time, in hundredths.
        return [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>() / 100.0;
    }
    let status = file("status");
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    line.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(0.0, |kib| kib / 1024.0)
}

//! Progress of model downloads: bars on standard error, for people only.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::Download;

/// Shows a bar for each file that a model needs, unless nobody would see it.
pub(crate) fn show(quiet: bool) {
    if quiet || !io::stderr().is_terminal() {
        return;
    }
    let all = MultiProgress::new();
    let bars: Mutex<HashMap<String, ProgressBar>> = Mutex::default();
    crate::observe_downloads(Arc::new(move |download: &Download| {
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(download.file.clone()).or_insert_with(|| all.add(bar(&download.file)));
        if let Some(total) = download.total {
            bar.set_length(total);
        }
        bar.set_position(download.received);
        if download.done {
            // Leaves the terminal to the results.
            bar.finish_and_clear();
            bars.remove(&download.file);
        }
    }));
}

fn bar(file: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::no_length().with_message(format!("downloading {file}"));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

//! What the library tells this program of: progress of model downloads, as bars on standard error, and what it warns of.

use std::collections::HashMap;
use std::io::{self, IsTerminal};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::files::Stores;
use crate::{Access, Download, Event};

/// Allows everything, for whoever sits at this program may read his own files; downloads are shown, and `warn` gets each line
/// that the library warns with.
pub(crate) fn access(quiet: bool, warn: fn(&str)) -> Access {
    let bars = (!quiet && io::stderr().is_terminal()).then(Bars::default);
    Access::default().with_stores(Stores::all()).with_events(move |event| match (event, &bars) {
        (Event::Download(download), Some(bars)) => bars.show(download),
        (Event::ModelWarning(line) | Event::CacheTrouble(line), _) => warn(line),
        _ => {}
    })
}

/// A bar for each file that a model needs, for people only.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    by_file: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn show(&self, download: &Download) {
        let mut bars = self.by_file.lock();
        let bar = bars.entry(download.file.clone()).or_insert_with(|| self.all.add(bar(&download.file)));
        if let Some(total) = download.total {
            bar.set_length(total);
        }
        bar.set_position(download.received);
        if download.done {
            // Leaves the terminal to the results.
            bar.finish_and_clear();
            bars.remove(&download.file);
        }
    }
}

fn bar(file: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::no_length().with_message(format!("downloading {file}"));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

//! A small file at once: there whole, or not there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `name` in a folder, in the place of an older file: first as `name.<process>-<number>.part`, opened with `options`.
pub(crate) fn write_whole(folder: &Path, name: &str, bytes: &[u8], mut options: OpenOptions) -> io::Result<()> {
    // Two threads may write the same file at once.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let part = folder.join(format!("{name}.{}-{count}.part", process::id()));
    let mut file = options.write(true).create_new(true).open(&part)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&part, folder.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_or_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| write_whole(folder.path(), name, text.as_bytes(), OpenOptions::new());
        write("x", "a longer text").expect("written");
        write("x", "new").expect("replaced");
        assert_eq!(fs::read_to_string(folder.path().join("x")).expect("readable"), "new");
        fs::create_dir(folder.path().join("folder")).expect("made");
        write("folder", "text").expect_err("a folder");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 2);
    }
}

//! How files of a cache are opened and made, and for whom: the user alone, because a vector gives much of its text away.
//!
//! A folder that was there before keeps the mode that somebody gave it. Where the group may write to it, it is shared on
//! purpose, and what is made inside is the group's too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use crate::files::write_whole;

/// Most bytes of a small file: what is longer is none of ours.
const SMALL: u64 = 1 << 20;

/// An error where something else than a file has the place of a file: a pipe keeps whoever opens it waiting.
pub(super) fn check_is_file(path: &Path) -> io::Result<()> {
    match fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{path:?} is no file"))),
    }
}

/// Opens a file to read.
pub(super) fn open(path: &Path) -> io::Result<File> {
    check_is_file(path)?;
    File::open(path)
}

/// The text of a small file.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.take(SMALL).read_to_string(&mut text)?;
    Ok(text)
}

/// Makes the folder of a cache, if it is not there; those above it as the system makes any folder.
pub(super) fn create_cache(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
        fs::create_dir_all(above)?;
    }
    create(folder, false)
}

/// Makes a folder below a cache's, if it is not there.
pub(super) fn create_below(folder: &Path) -> io::Result<()> {
    create(folder, folder.parent().is_some_and(is_shared))
}

#[cfg_attr(not(unix), expect(unused_variables, reason = "other systems have no modes"))]
fn create(folder: &Path, is_shared: bool) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    // The cache's own folder may have been removed under it.
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, if is_shared { 0o770 } else { 0o700 });
    builder.create(folder)
}

/// How a file in this folder is opened where it may have to be made.
#[cfg_attr(not(unix), expect(unused_variables, reason = "other systems have no modes"))]
pub(super) fn options(folder: &Path) -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if is_shared(folder) { 0o660 } else { 0o600 });
    options
}

/// Writes a small file whole; `upkeep` knows its parts by their names.
pub(super) fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    write_whole(folder, name, bytes, options(folder))
}

/// Whether the group may write there.
#[cfg(unix)]
fn is_shared(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & 0o020 != 0)
}

#[cfg(not(unix))]
fn is_shared(_: &Path) -> bool {
    false
}

//! What a folder of vectors is known by.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use super::access;
use crate::error::{Error, Result};

/// The file that says what the folder is, and in which format.
pub(super) const FORMAT_FILE: &str = "FORMAT";
pub(super) const FORMAT: &str = "datafusion-embed vectors 2\n";
/// How the file begins in any format.
pub(super) const ANY_FORMAT: &str = "datafusion-embed vectors ";
/// The file whose lock is the folder's.
pub(super) const LOCK_FILE: &str = "LOCK";

/// Makes a folder again that was removed while it was in use, and says what it is.
pub(super) fn mark_again(directory: &Path) -> io::Result<()> {
    if directory.join(FORMAT_FILE).exists() {
        return Ok(());
    }
    access::create_cache(directory)?;
    check_format(directory, &directory.display().to_string()).map_err(|error| io::Error::other(error.to_string()))
}

fn refused(directory: &str, what: &str) -> Error {
    let ways_out = "give another folder, or remove this one (embedsql cache clear)";
    Error::Setting(format!("embed.cache: \"{directory}\" {what}; {ways_out}"))
}

/// Looks what the folder is, and writes it where it is new.
pub(super) fn check_format(path: &Path, shown: &str) -> Result<()> {
    let file = path.join(FORMAT_FILE);
    let refuse = |what: &str| refused(shown, what);
    match access::text(&file) {
        Ok(format) if format == FORMAT => Ok(()),
        Ok(format) => {
            let first: String = format.lines().next().unwrap_or_default().chars().take(60).collect();
            Err(refuse(&format!("has the format \"{first}\" and not \"{}\"", FORMAT.trim_end())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Another process may begin at the same moment.
            let is_foreign = |name: &OsStr| !name.to_string_lossy().starts_with(FORMAT_FILE) && name != LOCK_FILE;
            if fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| is_foreign(&entry.file_name()))) {
                // It may have begun a space since the file was looked for.
                return match access::text(&file) {
                    Ok(format) if format == FORMAT => Ok(()),
                    _ => Err(refuse("has files of something else in it")),
                };
            }
            let written = access::write(path, FORMAT_FILE, FORMAT.as_bytes());
            written.map_err(|error| refuse(&format!("cannot be written: {error}")))
        }
        Err(error) => Err(refuse(&format!("cannot be read: {error}"))),
    }
}

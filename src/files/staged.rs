//! Files that get their name when they are whole.
//!
//! A staged file lies beside its target, because a rename must stay within one file system, and its name says whose it is:
//! `.<target>.embedsql-<host>-<machine>-<process>-<start>-<number>-<check>.part`. A process removes the staged files that it
//! made, which it knows by their paths. What it did not make it removes in one case only: [`left_over`].

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::target::{Target, shown};
use super::writer::{State, Writer, digest, hold};

/// Bytes of the target's name in the name of its staged file, which may not be longer than 255 bytes.
const MOST_NAME: usize = 40;

/// A file under construction, made by this process; whoever has it finishes or discards it.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Makes the file, with the rights of the one that it will replace.
    ///
    /// # Errors
    ///
    /// If there is no folder for it, or no file can be made there.
    pub fn create(target: &Path) -> io::Result<(Self, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or_else(|| io::Error::other("names no file"))?.to_string_lossy();
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = target.with_file_name(staged_name(&name, Writer::this(), number));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                // A name that somebody forged.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    let staged = Self { path, target: target.to_owned() };
                    let ready = hold(&file).and_then(|()| staged.take_rights(&file));
                    return match ready {
                        Ok(()) => Ok((staged, file)),
                        Err(error) => {
                            staged.discard();
                            Err(error)
                        }
                    };
                }
            }
        }
    }

    fn take_rights(&self, file: &File) -> io::Result<()> {
        match fs::metadata(&self.target) {
            Ok(old) if old.permissions() != file.metadata()?.permissions() => file.set_permissions(old.permissions()),
            _ => Ok(()),
        }
    }

    /// What the file will replace.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the file its name, in the place of an older file.
    ///
    /// # Errors
    ///
    /// If the target is no file any longer, or the rename fails.
    pub fn finish(&self) -> io::Result<()> {
        // Another program may have put something else there meanwhile.
        match Target::of(&self.target)? {
            Target::File(path) if path == self.target => fs::rename(&self.path, path),
            _ => Err(io::Error::other(format!("{:?} is no longer a file", self.target))),
        }
    }

    /// Gives the file its name.
    ///
    /// # Errors
    ///
    /// If there is a file of that name.
    pub fn finish_new(&self) -> io::Result<()> {
        fs::hard_link(&self.path, &self.target)?;
        fs::remove_file(&self.path)
    }

    /// Removes the file; once it has its name, there is nothing to remove.
    pub fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn staged_name(target: &str, writer: &Writer, number: u64) -> String {
    let Writer { host, machine, process, start, .. } = writer;
    let mark = format!("{host}-{machine}-{process}-{start}-{number}");
    let check = digest(&[target.as_bytes(), mark.as_bytes()]);
    format!(".{}.embedsql-{mark}-{check}.part", shortened(target))
}

fn shortened(target: &str) -> &str {
    &target[..target.floor_char_boundary(MOST_NAME)]
}

/// Whether this looks like the name of a staged file: nothing that a query should read.
pub(super) fn is_staged(name: &str) -> bool {
    name.starts_with('.') && name.contains(".embedsql-") && name.ends_with(".part")
}

/// Reads the target and the writer from the name of a staged file. `target` is the only one whose name may be too long to be
/// found in it. `None` for any other name, be it off by one character.
fn read_name(staged: &str, target: &str) -> Option<(String, Writer)> {
    let (shown, mark) = staged.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once(".embedsql-")?;
    let parts: Vec<&str> = mark.rsplitn(6, '-').collect();
    let [_, number, start, process, machine, host] = parts[..] else { return None };
    let writer = Writer {
        host: host.to_owned(),
        machine: machine.to_owned(),
        process: process.parse().ok()?,
        start: start.parse().ok()?,
    };
    let target = if shown == shortened(target) { target } else { shown };
    (staged == staged_name(target, &writer, number.parse().ok()?)).then(|| (target.to_owned(), writer))
}

/// The files in a folder are named at random, `rT4zKXUd3Jq0Sg1b_0.parquet` by DataFusion, `embedsql-0123456789abcdef_0.parquet` by
/// a run: what one run of a statement was to write and what the next one writes differ in it.
fn is_random(name: &str) -> bool {
    let (stem, _) = name.split_once('.').unwrap_or((name, ""));
    let stem = stem.trim_start_matches('_').strip_prefix("embedsql-").unwrap_or(stem);
    let (random, number) = stem.split_once('_').unwrap_or((stem, "0"));
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number && random.len() == 16 && random.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// What the files of earlier runs of a statement have in common: the folder, and the name where DataFusion did not make it up.
pub(super) type Kin = (PathBuf, Option<OsString>);

pub(super) fn kin(target: &Path) -> Kin {
    let folder = target.parent().unwrap_or(Path::new(".")).to_owned();
    let name = target.file_name().unwrap_or_default();
    (folder, (!is_random(&name.to_string_lossy())).then(|| name.to_owned()))
}

/// What a run has left that may have been killed, and so stays.
#[derive(Debug)]
pub struct Doubtful {
    what: String,
    why: String,
}

impl Doubtful {
    /// `what` has a name, and `why` is no sentence of its own.
    pub(super) fn new(what: String, why: String) -> Self {
        Self { what, why }
    }

    /// What people are told of the files that stay, in one line; `None` where there are none.
    pub fn warning(doubtful: &[Self]) -> Option<String> {
        let Self { what, why } = doubtful.first()?;
        let others = if doubtful.len() > 1 { format!(" (and {} more)", doubtful.len() - 1) } else { String::new() };
        Some(format!("{what} stays{others}: {why}; remove it by hand if nobody writes it"))
    }
}

/// Removes the staged files that killed runs of the same statement have left beside `target`, and gives those of which nobody
/// knows.
///
/// Removed is a file only if its name is, to the last digit of its check, one that this program makes for such a target, and its
/// writer has ended beyond doubt.
pub fn left_over(target: &Path) -> Vec<Doubtful> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut doubtful = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let staged = entry.file_name();
        let Some((of, writer)) = staged.to_str().and_then(|staged| read_name(staged, &name)) else { continue };
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || kin(&target.with_file_name(of)) != kin(target) {
            continue;
        }
        let file = entry.path();
        let why = match writer.state(Some(&file)) {
            State::Running => continue,
            State::Unknown => writer.doubt(),
            State::Ended => match fs::remove_file(&file) {
                Ok(()) => continue,
                Err(error) => format!("its process has ended, but it cannot be removed: {error}"),
            },
        };
        doubtful.push(Doubtful::new(format!("unfinished file {:?}", shown(&file)), why));
    }
    doubtful
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> Writer {
        Writer { host: "a-b".to_owned(), machine: digest(&[]), process: 7, start: 8 }
    }

    #[test]
    fn a_name_is_read_back_and_nothing_else_is() {
        let long = "é".repeat(100);
        for target in ["v.parquet", "a.embedsql-b.part", ".part", &long] {
            let staged = staged_name(target, &writer(), 9);
            assert!(staged.len() < 200 && is_staged(&staged), "{staged}");
            assert_eq!(read_name(&staged, target), Some((target.to_owned(), writer())));
            for at in (0..staged.len()).filter(|at| staged.is_char_boundary(*at)) {
                let end = at + staged[at..].chars().next().map_or(0, char::len_utf8);
                for other in ["", "0", "_", "x0"] {
                    let forged = format!("{}{other}{}", &staged[..at], &staged[end..]);
                    assert!(forged == staged || read_name(&forged, target).is_none(), "{forged}");
                }
            }
        }
        // A long name is not to be known from what is left of it.
        assert_eq!(read_name(&staged_name(&long, &writer(), 9), "v.parquet"), None);
        assert!(read_name(&staged_name("w.parquet", &writer(), 9), "v.parquet").is_some());
    }

    #[test]
    fn random_names_are_kin() {
        let kin = |name: &str| kin(&Path::new("/data").join(name));
        let random = kin("rT4zKXUd3Jq0Sg1b_0.parquet");
        assert_eq!(random, kin("0123456789abcdef_12.csv.gz"));
        assert_eq!(random, kin("0123456789abcdef.parquet"));
        assert_eq!(random, kin("embedsql-0123456789abcdef_3.parquet"));
        assert_eq!(random, kin("_embedsql-0123456789abcdef.run"));
        for other in ["v.parquet", "0123456789abcde_0.parquet", "0123456789abcdef_.parquet", "0123456789abcd-f.csv"] {
            assert_ne!(random, kin(other), "{other}");
        }
    }
}

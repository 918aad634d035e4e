//! Files that get their name when they are whole.
//!
//! A staged file lies beside its target, because a rename must stay within one file system, and its name says whose it is:
//! `.<target>.embedsql-<host>-<machine>-<process>-<start>-<number>-<check>.part`. A process removes the staged files that it
//! made, which it knows by their paths. What it did not make it removes in one case only: [`left_over`].

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::failure::warn;
use super::writer::{State, Writer, digest, hold};

/// Bytes of the target's name in the name of its staged file, which may not be longer than 255 bytes.
const MOST_NAME: usize = 40;

/// Links that are followed, as many as Linux does.
const MOST_LINKS: usize = 40;

/// What a path stands for, behind all symbolic links.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file, or nothing yet.
    File(PathBuf),
    Folder,
    /// A device, a pipe or a descriptor that is open already: it cannot be replaced by a file.
    Stream(PathBuf),
}

/// Follows a path to what would be written, changing nothing.
///
/// # Errors
///
/// If there is no way to it, or it is a file that may not be written: a rename would replace that one too.
pub(crate) fn place(path: &Path) -> io::Result<Place> {
    let mut path = std::path::absolute(path)?;
    for links in 0..MOST_LINKS {
        if is_descriptor(&path) {
            return Ok(Place::Stream(path));
        }
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == ErrorKind::NotFound => return absent(path, links > 0),
            Err(error) => return Err(error),
        };
        if kind.is_symlink() {
            let to = fs::read_link(&path)?;
            path = path.parent().unwrap_or(Path::new("/")).join(to);
        } else if kind.is_dir() {
            return Ok(Place::Folder);
        } else if kind.is_file() {
            may_write(&path)?;
            return Ok(Place::File(path));
        } else {
            return Ok(Place::Stream(path));
        }
    }
    Err(io::Error::other("its symbolic links lead nowhere"))
}

/// A file that is not there. Nobody makes folders where a dangling link points: a disk may not be mounted there.
fn absent(path: PathBuf, by_link: bool) -> io::Result<Place> {
    match path.parent().filter(|folder| by_link && !folder.is_dir()) {
        Some(folder) => Err(io::Error::other(format!("is a link into {folder:?}, which is not there"))),
        None => Ok(Place::File(path)),
    }
}

/// Looks, before much is computed for it, whether files can be made in a folder, which may have to be made first.
///
/// # Errors
///
/// If not, with what is in the way.
pub(crate) fn may_be_made_in(folder: &Path) -> io::Result<()> {
    // Without a slash at its end, which would hide a link that leads nowhere.
    let folder: PathBuf = folder.components().collect();
    for folder in folder.ancestors() {
        let wrong = |what: &dyn Display| Err(io::Error::other(format!("folder {:?}: {what}", shown(folder))));
        match (folder.is_dir(), fs::symlink_metadata(folder)) {
            (true, _) => return may_write(folder).or_else(|error| wrong(&error)),
            (false, Ok(_)) => return wrong(&"is no folder"),
            (false, Err(error)) if error.kind() == ErrorKind::NotFound => {}
            (false, Err(error)) => return wrong(&error),
        }
    }
    Ok(())
}

/// Asks without a trace: whoever watches a file is told when it is opened for writing.
#[cfg(unix)]
fn may_write(path: &Path) -> io::Result<()> {
    use nix::unistd::{AccessFlags, access};
    Ok(access(path, AccessFlags::W_OK)?)
}

#[cfg(not(unix))]
fn may_write(_: &Path) -> io::Result<()> {
    Ok(())
}

/// `/dev/stdout`, `/dev/fd/3` and the like: a file behind it may have been written to before.
fn is_descriptor(path: &Path) -> bool {
    let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    folder.is_some_and(|folder| folder.starts_with("/proc") || folder.starts_with("/dev/fd"))
}

/// A file under construction, made by this process.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Makes the file, with the rights of the one that it will replace.
    pub(crate) fn create(target: &Path) -> io::Result<(Self, File)> {
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

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the file its name, in the place of an older file.
    pub(crate) fn finish(&self) -> io::Result<()> {
        // Another program may have put something else there meanwhile.
        match place(&self.target)? {
            Place::File(path) if path == self.target => fs::rename(&self.path, path),
            _ => Err(io::Error::other(format!("{:?} is no longer a file", self.target))),
        }
    }

    /// Gives the file its name, unless there is a file of that name.
    pub(crate) fn finish_new(&self) -> io::Result<()> {
        fs::hard_link(&self.path, &self.target)?;
        fs::remove_file(&self.path)
    }

    /// Removes the file; once it has its name, there is nothing to remove.
    pub(crate) fn discard(&self) {
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
pub(crate) fn is_staged(name: &str) -> bool {
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

/// DataFusion names the files in a folder at random, `rT4zKXUd3Jq0Sg1b_0.parquet`: what one run of a statement was to write and
/// what the next one writes differ in it.
fn is_random(name: &str) -> bool {
    let (stem, _) = name.split_once('.').unwrap_or((name, ""));
    let (random, number) = stem.split_once('_').unwrap_or((stem, "0"));
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number && random.len() == 16 && random.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// What the files of earlier runs of a statement have in common: the folder, and the name where DataFusion did not make it up.
pub(crate) type Kin = (PathBuf, Option<OsString>);

pub(crate) fn kin(target: &Path) -> Kin {
    let folder = target.parent().unwrap_or(Path::new(".")).to_owned();
    let name = target.file_name().unwrap_or_default();
    (folder, (!is_random(&name.to_string_lossy())).then(|| name.to_owned()))
}

/// A staged file of a run that may have been killed, and so stays.
#[derive(Debug)]
pub(crate) struct Doubtful {
    file: PathBuf,
    why: String,
}

/// Says what stays, once for a whole statement.
pub(crate) fn warn_of(doubtful: &[Doubtful]) {
    if let Some(Doubtful { file, why }) = doubtful.first() {
        let others = if doubtful.len() > 1 { format!(" (and {} more)", doubtful.len() - 1) } else { String::new() };
        warn(&format!("unfinished file {:?} stays{others}: {why}; remove it by hand if nobody writes it", shown(file)));
    }
}

/// A path without the folder we are in.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(here).unwrap_or(path);
    if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() }
}

/// Removes the staged files that killed runs of the same statement have left beside `target`, and gives those of which nobody
/// knows.
///
/// Removed is a file only if its name is, to the last digit of its check, one that this program makes for such a target, and its
/// writer has ended beyond doubt.
pub(crate) fn left_over(target: &Path) -> Vec<Doubtful> {
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
        let why = match writer.state(&file) {
            State::Running => continue,
            State::Unknown => {
                format!("process {} on host {:?} is not known to have ended", writer.process, writer.host)
            }
            State::Ended => match fs::remove_file(&file) {
                Ok(()) => continue,
                Err(error) => format!("its process has ended, but it cannot be removed: {error}"),
            },
        };
        doubtful.push(Doubtful { file, why });
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
        for other in ["v.parquet", "0123456789abcde_0.parquet", "0123456789abcdef_.parquet", "0123456789abcd-f.csv"] {
            assert_ne!(random, kin(other), "{other}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_what_would_be_written() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(folder.path()).expect("a folder");
        let at = |name: &str| root.join(name);
        fs::write(at("file"), "text").expect("written");
        let links = [("file", "link"), ("link", "chain"), ("absent", "dangling"), ("no/such/file", "astray")];
        for (to, name) in links.into_iter().chain([("loop", "pool"), ("pool", "loop"), ("/dev/null", "null")]) {
            symlink(to, at(name)).expect("a link");
        }
        for name in ["file", "link", "chain"] {
            assert_eq!(place(&at(name)).expect("a file"), Place::File(at("file")), "{name}");
        }
        assert_eq!(place(&at("dangling")).expect("no file"), Place::File(at("absent")));
        assert_eq!(place(&at("no/such/file")).expect("no file"), Place::File(at("no/such/file")));
        assert_eq!(place(&root).expect("a folder"), Place::Folder);
        assert_eq!(place(&at("null")).expect("a device"), Place::Stream("/dev/null".into()));
        place(&at("astray")).expect_err("no folder");
        place(&at("loop")).expect_err("no end");
        place(&at("file/below")).expect_err("below a file");
        #[cfg(target_os = "linux")]
        assert!(matches!(place(Path::new("/dev/stdout")).expect("a descriptor"), Place::Stream(_)));
    }
}

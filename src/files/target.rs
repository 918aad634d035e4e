//! What a path stands for, and whether it may be written: looked at before much is computed for it, and without a trace.

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

/// Links that are followed, as many as Linux does.
const MOST_LINKS: usize = 40;

/// What a path stands for, behind all symbolic links.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, or nothing yet.
    File(PathBuf),
    /// A folder.
    Folder,
    /// A device, a pipe or a descriptor that is open already: it cannot be replaced by a file.
    Stream(PathBuf),
}

impl Target {
    /// Follows a path to what would be written, changing nothing.
    ///
    /// # Errors
    ///
    /// If there is no way to it, or it is a file that may not be written: a rename would replace that one too.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut path = std::path::absolute(path)?;
        for links in 0..MOST_LINKS {
            if is_descriptor(&path) {
                return Ok(Target::Stream(path));
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
                return Ok(Target::Folder);
            } else if kind.is_file() {
                may_write(&path)?;
                return Ok(Target::File(path));
            } else {
                return Ok(Target::Stream(path));
            }
        }
        Err(io::Error::other("its symbolic links lead nowhere"))
    }
}

/// A file that is not there. Nobody makes folders where a dangling link points: a disk may not be mounted there.
fn absent(path: PathBuf, by_link: bool) -> io::Result<Target> {
    match path.parent().filter(|folder| by_link && !folder.is_dir()) {
        Some(folder) => Err(io::Error::other(format!("is a link into {folder:?}, which is not there"))),
        None => Ok(Target::File(path)),
    }
}

/// Looks, before much is computed for it, whether files can be made in a folder, which may have to be made first.
///
/// # Errors
///
/// If not, with what is in the way.
pub fn may_be_made_in(folder: &Path) -> io::Result<()> {
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

/// A path without `.` and `..`, whether it exists or not.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// A path without the folder we are in.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(here).unwrap_or(path);
    if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() }
}

/// What an error of a store says, without the name of its type where it was explained here.
pub fn shown_error(error: &datafusion::object_store::Error) -> String {
    match error {
        datafusion::object_store::Error::Generic { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(Target::of(&at(name)).expect("a file"), Target::File(at("file")), "{name}");
        }
        assert_eq!(Target::of(&at("dangling")).expect("no file"), Target::File(at("absent")));
        assert_eq!(Target::of(&at("no/such/file")).expect("no file"), Target::File(at("no/such/file")));
        assert_eq!(Target::of(&root).expect("a folder"), Target::Folder);
        assert_eq!(Target::of(&at("null")).expect("a device"), Target::Stream("/dev/null".into()));
        Target::of(&at("astray")).expect_err("no folder");
        Target::of(&at("loop")).expect_err("no end");
        Target::of(&at("file/below")).expect_err("below a file");
        #[cfg(target_os = "linux")]
        assert!(matches!(Target::of(Path::new("/dev/stdout")).expect("a descriptor"), Target::Stream(_)));
    }
}

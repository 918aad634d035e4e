//! A model in a directory of this machine, which is read as it stands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::source::{Location, Source};
use crate::access::Access;
use crate::error::{Error, Result};

/// A model directory.
#[derive(Debug)]
pub(in crate::model) struct Directory {
    name: String,
    path: PathBuf,
}

impl Directory {
    /// The directory that a name is the path of.
    pub(in crate::model) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), path: PathBuf::from(name) }
    }
}

impl Source for Directory {
    fn kind(&self) -> &'static str {
        "directory"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn revision(&self) -> Option<&str> {
        None
    }

    fn label(&self) -> String {
        format!("model directory \"{}\"", self.name)
    }

    fn locate(&self, path: &str, _access: &Access) -> Result<Option<Location>> {
        let file = self.path.join(path);
        match is_there(&file, &self.path) {
            Ok(is_there) => Ok(is_there.then_some(Location::Disk(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let label = self.label();
                Err(Error::Model(format!("{label}: {path} {error}; put the file there, or remove the link")))
            }
            Err(error) => Err(Error::Model(format!("{}: {path}: {error}", self.label()))),
        }
    }
}

/// Whether something is at a path below a folder. A link that leads nowhere is an error and no missing file: whoever made it
/// meant the model to have the file.
pub(in crate::model) fn is_there(path: &Path, root: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut parts = path.ancestors().take_while(|part| *part != root);
            match parts.find(|part| part.is_symlink() && !part.exists()) {
                Some(link) => Err(io::Error::new(io::ErrorKind::NotFound, dangling(link))),
                None => Ok(false),
            }
        }
        Err(error) => Err(error),
    }
}

/// What an error says of a link that leads nowhere.
pub(in crate::model) fn dangling(link: &Path) -> String {
    let target = fs::read_link(link).unwrap_or_default();
    format!("is a link to \"{}\", which is not there", target.display())
}

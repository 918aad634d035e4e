//! Texts of SQL: where they come from, and their statements one after the other.

use std::fs;
use std::io::{self, Read};

use super::args::Source;
use super::failure::Failure;
use super::job::Job;
use super::{split, statements};

/// A named text to run.
#[derive(Debug)]
pub(crate) struct Text {
    /// The name that errors give; `-c` has none.
    pub(crate) name: Option<String>,
    pub(crate) sql: String,
}

impl Text {
    /// Reads a source whole, before anything runs: a file that is not there must not cost half a script.
    pub(crate) fn read(source: Source) -> Result<Self, Failure> {
        let (name, bytes) = match source {
            Source::Command(sql) => return Ok(Self { name: None, sql }),
            Source::File(path) => {
                let bytes = fs::read(&path).map_err(|e| Failure::Usage(format!("file {path:?}: {e}")))?;
                (path.display().to_string(), bytes)
            }
            Source::Stdin => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Failure::Usage(format!("<stdin>: {e}")))?;
                ("<stdin>".to_owned(), bytes)
            }
        };
        let sql = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Failure::Usage(format!("file {name:?}: byte {at} is not UTF-8; SQL must be"))
        })?;
        // Editors on Windows begin a file with a byte order mark.
        let sql = sql.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(sql);
        Ok(Self { name: Some(name), sql })
    }

    /// A failure of this text, with its place.
    fn at(&self, line: u64, failure: Failure) -> Failure {
        match &self.name {
            Some(name) => failure.at(&format!("{name}:{line}")),
            None => failure,
        }
    }
}

/// Runs all statements of all texts, up to the first failure.
pub(crate) async fn run_texts(job: Job, texts: Vec<Text>) -> Result<(), Failure> {
    for text in texts {
        let script = split::split(&text.sql);
        for statement in script.statements {
            let line = statement.line;
            statements::run(&job, statement).await.map_err(|failure| text.at(line, failure))?;
        }
        if let Some(broken) = script.broken {
            return Err(text.at(broken.line, Failure::Statement(broken.message)));
        }
    }
    Ok(())
}

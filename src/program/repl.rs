//! The prompt: reads lines, runs statements, and outlives every error.
//!
//! rustyline reads them, and not reedline: on a pseudo-terminal where four lines are typed while the first one runs for two seconds,
//! reedline 0.52 loses three, and it asks the terminal where its cursor is. Menus and hints were no reason to lose a line.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Behavior, CompletionType, Config, Editor};
use tokio::runtime::Handle;

use super::complete::SqlHelper;
use super::failure::{self, Failure};
use super::job::Job;
use super::script::Text;
use super::shell::{Flow, Shell};
use super::split::Open;
use crate::files::masked_statement;

const PROMPT: &str = "embedsql> ";

/// What stands before a further line: whether a statement, a quote or a comment is open.
fn continuation(open: Option<Open>) -> String {
    let sign = match open {
        Some(Open::Quote(quote)) => quote,
        Some(Open::Comment) => '*',
        _ => '.',
    };
    format!("     {sign}..> ")
}

/// Reads and runs until Ctrl-D or \q. An error of a statement is printed and forgotten.
pub(crate) fn run(shell: &mut Shell<'_>, job: &Job, runtime: Handle) -> Result<(), Failure> {
    let mut prompt = Prompt::open(job, runtime)?;
    if !job.quiet {
        writeln!(io::stderr(), "embedsql {}, \\? for help", env!("CARGO_PKG_VERSION"))?;
    }
    while let Some(input) = prompt.read()? {
        match shell.run(&Text::typed(&*input)) {
            Ok(Flow::Continue) => {}
            Ok(Flow::Quit) => break,
            Err(end @ (Failure::ClosedPipe | Failure::Terminated(_))) => return Err(end),
            Err(Failure::Interrupted) => failure::report("cancelled"),
            Err(failure) => {
                failure.report();
            }
        }
    }
    Ok(())
}

/// The line editor with its history.
struct Prompt {
    editor: Editor<SqlHelper, FileHistory>,
    history: Option<PathBuf>,
    /// What was typed and is not at its end.
    typed: String,
}

impl Prompt {
    fn open(job: &Job, runtime: Handle) -> Result<Self, Failure> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            // With standard output in a file, the prompt still belongs on the terminal.
            .behavior(Behavior::PreferTerm)
            .build();
        let no_terminal = |e: ReadlineError| Failure::Statement(format!("terminal: {e}"));
        let mut editor = Editor::with_config(config).map_err(no_terminal)?;
        editor.set_helper(Some(SqlHelper::new(job.ctx.clone(), runtime)));
        editor.set_max_history_size(10_000).map_err(no_terminal)?;
        let history = history_file();
        if let Some(file) = &history {
            // No history yet is no error.
            let _ = editor.load_history(file);
        }
        Ok(Self { editor, history, typed: String::new() })
    }

    /// The next complete input; `None` at its end.
    fn read(&mut self) -> Result<Option<String>, Failure> {
        if let Some(helper) = self.editor.helper_mut() {
            helper.refresh();
        }
        loop {
            let open = Text::typed(&*self.typed).inputs().1;
            let prompt = if self.typed.is_empty() { PROMPT.to_owned() } else { continuation(open) };
            if let Some(helper) = self.editor.helper_mut() {
                helper.follow(&self.typed);
            }
            let line = match self.editor.readline(&prompt) {
                Ok(line) => line,
                // Ctrl-C throws the input away.
                Err(ReadlineError::Interrupted) => {
                    self.typed.clear();
                    continue;
                }
                Err(ReadlineError::Eof) => {
                    // The shell's prompt belongs on a line of its own.
                    let _ = writeln!(io::stderr());
                    return Ok(None);
                }
                // The window changed its size.
                Err(ReadlineError::Signal(_)) => continue,
                Err(e) => return Err(Failure::Statement(format!("terminal: {e}"))),
            };
            if let Some(input) = self.take(&line, open) {
                self.remember(&input);
                return Ok(Some(input));
            }
        }
    }

    /// Adds a line, and gives what is to be run now.
    fn take(&mut self, line: &str, open: Option<Open>) -> Option<String> {
        let command = line.trim();
        match (self.typed.is_empty(), command.to_ascii_lowercase().trim_end_matches(';').trim_end()) {
            (true, "exit" | "quit" | ".exit" | ".quit") => return Some("\\q".to_owned()),
            (true, "help" | ".help") => return Some("\\?".to_owned()),
            (true, "") => return None,
            _ => {}
        }
        if !self.typed.is_empty() && command.starts_with('\\') {
            match (open, command) {
                (Some(Open::Statement), "\\r") => {
                    self.typed.clear();
                    return None;
                }
                (Some(Open::Statement), "\\p") => {
                    let _ = writeln!(io::stderr(), "{}", self.typed);
                    return None;
                }
                // The statement waits, for what is asked meanwhile.
                (Some(Open::Statement), command) => return Some(command.to_owned()),
                (Some(Open::Quote(quote)), "\\q" | "\\r" | "\\?") => {
                    let _ = writeln!(io::stderr(), "inside a quote: {quote} ends it, Ctrl-C throws away what is typed");
                }
                _ => {}
            }
        }
        if !self.typed.is_empty() {
            self.typed.push('\n');
        }
        self.typed.push_str(line);
        Text::typed(&*self.typed).inputs().1.is_none().then(|| std::mem::take(&mut self.typed))
    }

    /// Adds to the history at once, so that a crash loses nothing; the file has no keys of stores.
    fn remember(&mut self, input: &str) {
        let added = self.editor.add_history_entry(input.trim()).unwrap_or(false);
        if let (true, Some(file)) = (added, &self.history) {
            // A full disk must not end the session.
            let _ = append(file, &masked_statement(input.trim()));
        }
    }
}

/// Adds an entry to a history file in rustyline's format. Rustyline itself writes the whole file anew when another prompt has
/// written to it, and where the disk is full then, what was there is lost; here a file only grows.
fn append(file: &Path, entry: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    // Another prompt may be in the middle of an entry; where there are no locks, a whole entry is added at once anyway.
    let _ = file.lock();
    let mut text = String::new();
    if file.metadata()?.len() == 0 {
        text.push_str("#V2\n");
    } else {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        // The end of an entry that found no room.
        if last != *b"\n" {
            text.push('\n');
        }
    }
    text.push_str(&entry.replace('\\', "\\\\").replace('\n', "\\n"));
    text.push('\n');
    file.write_all(text.as_bytes())
}

/// `embedsql/history` in the state directory.
fn history_file() -> Option<PathBuf> {
    let folder = dirs::state_dir().or_else(dirs::data_local_dir)?.join("embedsql");
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

#[cfg(test)]
mod tests {
    use rustyline::history::History;

    use super::*;

    #[test]
    fn a_history_only_grows_and_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("history");
        let entries = ["SELECT 1;", "SELECT 'a\\n',\n  '\\\\';", "\\d"];
        append(&file, entries[0]).expect("written");
        // Another prompt has read this much, and writes later than this one.
        append(&file, entries[1]).expect("written");
        fs::write(&file, [fs::read(&file).expect("readable"), b"SELECT 'no ro".to_vec()].concat()).expect("written");
        append(&file, entries[2]).expect("written");
        let mut history = FileHistory::new();
        history.load(&file).expect("readable");
        let read: Vec<_> = history.iter().map(String::as_str).collect();
        assert_eq!(read, [entries[0], entries[1], "SELECT 'no ro", entries[2]]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        }
    }
}

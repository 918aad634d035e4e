//! Texts of SQL: where they come from, and what is in them, one after the other.

use std::fs;
use std::io::{self, Read};

use super::args::Source;
use super::failure::Failure;
use super::job::Job;
use super::split::{self, Broken, Open};
use super::statements;

/// A named text to run.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    /// The name that errors give; `-c` has none.
    pub(crate) name: Option<String>,
    pub(crate) sql: String,
    /// Lines of the same source before it, so that errors name lines of the whole.
    lines_before: u64,
    /// Whether it is the program's own, which nobody has typed.
    is_own: bool,
}

/// A part of a text.
#[derive(Debug)]
pub(crate) enum Input {
    /// Statements, with lines as in the whole text, and the command that ends them in the place of a semicolon.
    Sql(Text, Option<String>),
    /// A command, without its backslash, and its line.
    Command(u64, String),
}

/// The \ commands that stand behind a statement.
const ENDINGS: [&str; 3] = ["g", "gx", "watch"];

impl Text {
    /// What somebody typed.
    pub(crate) fn typed(sql: impl Into<String>) -> Self {
        Self { name: None, sql: sql.into(), lines_before: 0, is_own: false }
    }

    /// What the program asks for somebody.
    pub(crate) fn own(sql: impl Into<String>) -> Self {
        Self { is_own: true, ..Self::typed(sql) }
    }

    /// Reads a source whole, before anything runs: a file that is not there must not cost half a script.
    pub(crate) fn read(source: Source) -> Result<Self, Failure> {
        let (name, bytes) = match source {
            Source::Command(sql) => return Ok(Self::typed(sql)),
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
        Ok(Self { name: Some(name), ..Self::typed(sql) })
    }

    /// The statements of a text and the lines with \ commands between them; and what is not at its end when the text is.
    pub(crate) fn inputs(&self) -> (Vec<Input>, Option<Open>) {
        let mut inputs = Vec::new();
        let mut held = self.part(1);
        for (line, text) in (1..).zip(self.sql.split_inclusive('\n')) {
            if let Some(command) = text.trim().strip_prefix('\\')
                && split::open(&held.sql).is_none()
            {
                inputs.extend(held.non_empty(None));
                inputs.push(Input::Command(self.lines_before + line, command.to_owned()));
                held = self.part(line + 1);
            } else if let Some((sql, ending)) = ending(text)
                && !matches!(split::open(&format!("{}{sql}", held.sql)), Some(Open::Quote(_)))
            {
                held.sql.push_str(sql);
                inputs.extend(held.non_empty(Some(ending.to_owned())));
                held = self.part(line + 1);
            } else {
                held.sql.push_str(text);
                // Only what the next lines may be a part of is held: a long text is read once.
                if text.trim_end().ends_with(';') && split::open(&held.sql).is_none() {
                    inputs.extend(held.non_empty(None));
                    held = self.part(line + 1);
                }
            }
        }
        let open = split::open(&held.sql);
        inputs.extend(held.non_empty(None));
        (inputs, open)
    }

    /// An empty part that begins at a line.
    fn part(&self, line: u64) -> Self {
        Self {
            name: self.name.clone(),
            sql: String::new(),
            lines_before: self.lines_before + line - 1,
            is_own: self.is_own,
        }
    }

    fn non_empty(self, ending: Option<String>) -> Option<Input> {
        (!self.sql.trim().is_empty()).then_some(Input::Sql(self, ending))
    }

    /// A failure of a command on a line, which may be one in another text.
    pub(crate) fn within(&self, line: u64, failure: Failure) -> Failure {
        match &self.name {
            Some(name) => failure.within(&format!("{name}:{line}")),
            None => failure,
        }
    }

    /// A failure of this text, with its place.
    fn at(&self, line: u64, failure: Failure) -> Failure {
        match &self.name {
            Some(name) => failure.at(name, line),
            None if self.is_own => failure.without_place(),
            None => failure,
        }
    }
}

/// A line that ends with one of the commands that end a statement, and the command.
fn ending(line: &str) -> Option<(&str, &str)> {
    let (sql, command) = line.trim_end().rsplit_once('\\')?;
    let name = command.split_whitespace().next()?;
    ENDINGS.contains(&name).then_some((sql, command))
}

/// Runs all statements of a text, up to the first failure.
pub(crate) async fn run_text(job: Job, text: Text) -> Result<(), Failure> {
    let script = split::split_behind(text.lines_before, &text.sql);
    for statement in script.statements {
        let line = statement.line;
        statements::run(&job, statement).await.map_err(|failure| text.at(line, failure))?;
    }
    match script.broken {
        // What it is may have secrets, and nothing can tell which.
        Some(Broken { line, place, message, .. }) => {
            Err(text.at(line, Failure::At { message, place, shown: String::new() }))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a text in short: SQL without its blanks, commands with their line.
    fn parts(sql: &str) -> Vec<String> {
        let (inputs, _) = Text::typed(sql).inputs();
        let part = |input| match input {
            Input::Sql(text, None) => text.sql.trim().to_owned(),
            Input::Sql(text, Some(ending)) => format!("{} -> {ending}", text.sql.trim()),
            Input::Command(line, command) => format!("{line}: {command}"),
        };
        inputs.into_iter().map(part).collect()
    }

    #[test]
    fn commands_stand_between_statements() {
        assert_eq!(parts("SELECT 1;\n\\d t\nSELECT 2;"), ["SELECT 1;", "2: d t", "SELECT 2;"]);
        assert_eq!(parts("SELECT 1;\nSELECT ';\n';"), ["SELECT 1;", "SELECT ';\n';"]);
        assert_eq!(parts("-- a comment\n  \\timing on\n"), ["-- a comment", "2: timing on"]);
        // A line within a quote, a comment or a statement is none.
        for whole in ["SELECT '\n\\d t\n';", "/*\n\\d\n*/ SELECT 1;", "SELECT 1\n\\d"] {
            assert_eq!(parts(whole), [whole.trim()]);
        }
    }

    #[test]
    fn some_commands_end_a_statement() {
        assert_eq!(parts("SELECT 1 \\g out.csv\nSELECT 2;"), ["SELECT 1 -> g out.csv", "SELECT 2;"]);
        assert_eq!(parts("SELECT 1;\nSELECT 2 \\g"), ["SELECT 1;", "SELECT 2 -> g"]);
        assert_eq!(parts("SELECT\n1 \\gx"), ["SELECT\n1 -> gx"]);
        assert_eq!(parts("SELECT 'a \\g\n';"), ["SELECT 'a \\g\n';"]);
        assert_eq!(parts("SELECT 'a \\x';"), ["SELECT 'a \\x';"]);
    }

    #[test]
    fn lines_are_those_of_the_whole_text() {
        let (inputs, _) = Text::typed("\\d\n\nSELECT 1;").inputs();
        let Input::Sql(text, None) = &inputs[1] else { panic!("{inputs:?}") };
        assert_eq!(split::split_behind(text.lines_before, &text.sql).statements[0].line, 3);
        assert_eq!(split::split_behind(2, "SELECT 1;").statements[0].text(), "SELECT 1");
    }
}

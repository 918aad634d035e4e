//! The prompt: reads lines, runs statements, and outlives every error.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::logical_expr::Documentation;
use datafusion::prelude::SessionContext;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Behavior, CompletionType, Config, Editor};

use super::args::Source;
use super::commands;
use super::complete::{Names, SqlHelper};
use super::failure::{self, Failure};
use super::job::Job;
use super::print::{Format, Printer, Shape};
use super::runner::Runner;
use super::script::{Text, run_texts};
use super::split;
use crate::files::masked_statement;

const PROMPT: &str = "embedsql> ";
const CONTINUATION: &str = "     ...> ";

const HELP: &str = "\
Statements end with ; and may take several lines. Ctrl-C stops a statement, Ctrl-D ends.

  \\d                list tables
  \\d NAME           columns of a table or file
  \\df [PATTERN]     list functions, such as \\df embed*
  \\dm               list models: bundled, fetched, loaded
  \\format [NAME]    table, csv, tsv, json or ndjson
  \\i FILE           run the statements of a file
  \\timing [on|off]  show how long each statement takes
  \\q                end (also exit, quit)

  SELECT title, embed(body) FROM 'docs.parquet' LIMIT 3;
  SHOW ALL;         lists all settings; SET embed.model = '...'; changes one
";

/// Reads and runs until Ctrl-D or \q. An error of a statement is printed and forgotten.
pub(crate) fn run(runner: &Runner, job: &Job) -> Result<(), Failure> {
    let mut prompt = Prompt::open(job)?;
    let mut shell = Shell { runner, job: job.clone(), timing: false };
    if !job.quiet {
        writeln!(io::stderr(), "embedsql {}, \\? for help", env!("CARGO_PKG_VERSION"))?;
    }
    while let Some(input) = prompt.read(&job.ctx)? {
        match shell.enter(&input) {
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

/// What an input says about the next one.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    Quit,
}

/// The state that inputs change.
struct Shell<'a> {
    runner: &'a Runner,
    job: Job,
    timing: bool,
}

impl Shell<'_> {
    /// Runs one complete input: a \ command or statements.
    fn enter(&mut self, input: &str) -> Result<Flow, Failure> {
        let trimmed = input.trim();
        if is_quit(trimmed) {
            return Ok(Flow::Quit);
        }
        match trimmed.strip_prefix('\\') {
            Some(command) => self.command(command)?,
            None => self.run(Text { name: None, sql: input.to_owned() })?,
        }
        Ok(Flow::Continue)
    }

    /// Runs a \ command; `text` is what follows the backslash.
    fn command(&mut self, text: &str) -> Result<(), Failure> {
        let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let argument = argument.trim().trim_end_matches(';').trim_end();
        match (name.trim_end_matches(';'), argument) {
            ("?" | "h" | "help", _) => self.say(HELP),
            ("d", "") => self.run(sql(LIST_TABLES)),
            ("d", name) => self.run(sql(&format!("DESCRIBE {}", quoted_file(name)))),
            ("df", pattern) => self.print(&functions(&self.job.ctx, pattern)?),
            ("dm", "") => self.print(&commands::list_models()?),
            ("timing", state) => self.set_timing(state),
            ("format", "") => self.say(&format!("{}\n", format_name(self.job.format))),
            ("format", name) => self.set_format(name),
            ("i", "") => Err(Failure::Statement("\\i needs a file".to_owned())),
            ("i", file) => self.run_file(file),
            (other, _) => Err(Failure::Statement(format!("unknown command \\{other}; \\? lists them"))),
        }
    }

    /// Runs statements as one job and, if wanted, says how long that took.
    fn run(&self, text: Text) -> Result<(), Failure> {
        let start = Instant::now();
        let job = self.job.again();
        let result = self.runner.run(&job, run_texts(job.clone(), vec![text]));
        if self.timing {
            let time = start.elapsed().as_secs_f64() * 1e3;
            self.say(&format!("Time: {time:.3} ms\n"))?;
        }
        result
    }

    fn run_file(&self, file: &str) -> Result<(), Failure> {
        let text = Text::read(Source::File(PathBuf::from(unquoted(file))));
        // At the prompt an unreadable file is an error like any other.
        self.run(text?)
    }

    fn set_timing(&mut self, state: &str) -> Result<(), Failure> {
        self.timing = match state {
            "" => !self.timing,
            "on" => true,
            "off" => false,
            other => return Err(Failure::Statement(format!("\\timing takes on or off, not {other:?}"))),
        };
        self.say(&format!("Timing is {}.\n", if self.timing { "on" } else { "off" }))
    }

    fn set_format(&mut self, name: &str) -> Result<(), Failure> {
        let known = Format::value_variants().iter().map(|f| format_name(*f)).collect::<Vec<_>>().join(", ");
        self.job.format = Format::from_str(unquoted(name), true)
            .map_err(|_| Failure::Statement(format!("format {name:?} is not one of {known}")))?;
        Ok(())
    }

    /// Prints rows that came from no query.
    fn print(&self, batch: &RecordBatch) -> Result<(), Failure> {
        let shape = Shape { schema: batch.schema(), is_plan: false };
        let settings = self.job.ctx.state().config_options().format.clone();
        let mut printer = Printer::new(self.job.format, shape, !self.job.quiet, settings);
        let output = &self.job.output;
        printer.batch(batch, &mut |bytes| output.write(bytes))?;
        printer.finish(&mut |bytes| output.write(bytes))
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }
}

const LIST_TABLES: &str = "SELECT table_schema AS schema, table_name AS name, table_type AS type \
    FROM information_schema.tables WHERE table_schema <> 'information_schema' ORDER BY 1, 2";

fn sql(text: &str) -> Text {
    Text { name: None, sql: text.to_owned() }
}

fn is_quit(input: &str) -> bool {
    let word = input.trim_end_matches(';').trim_end().to_ascii_lowercase();
    matches!(word.as_str(), "exit" | "quit" | "\\q")
}

fn format_name(format: Format) -> String {
    format.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

fn unquoted(text: &str) -> &str {
    let inner = |quote| text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(text)
}

/// `\d docs.parquet` means the file, which SQL wants in quotes.
fn quoted_file(name: &str) -> String {
    match !name.starts_with(['\'', '"']) && Path::new(name).exists() {
        true => format!("'{}'", name.replace('\'', "''")),
        false => name.to_owned(),
    }
}

/// The functions of the session whose name matches `pattern`, where * stands for anything.
fn functions(ctx: &SessionContext, pattern: &str) -> Result<RecordBatch, Failure> {
    let state = ctx.state();
    let mut rows: Vec<[String; 3]> = Vec::new();
    rows.extend(state.scalar_functions().iter().map(|(name, function)| row("scalar", name, function.documentation())));
    rows.extend(
        state.aggregate_functions().iter().map(|(name, function)| row("aggregate", name, function.documentation())),
    );
    rows.extend(state.window_functions().iter().map(|(name, function)| row("window", name, function.documentation())));
    rows.extend(state.table_functions().keys().map(|name| row("table", name, None)));
    rows.retain(|[name, ..]| matches_pattern(name, pattern));
    rows.sort();
    Ok(RecordBatch::try_from_iter([
        ("name", column(&rows, 0)),
        ("kind", column(&rows, 1)),
        ("syntax", column(&rows, 2)),
    ])?)
}

/// What is said of a function.
fn row(kind: &str, name: &str, documentation: Option<&Documentation>) -> [String; 3] {
    let syntax = documentation.map(|d| d.syntax_example.trim()).filter(|s| !s.is_empty());
    let syntax = syntax.map_or_else(|| format!("{name}(...)"), str::to_owned);
    [name.to_owned(), kind.to_owned(), syntax]
}

fn column(rows: &[[String; 3]], index: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row[index])))
}

fn matches_pattern(name: &str, pattern: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let mut parts = pattern.split(['*', '%']);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut exact = !pattern.is_empty();
    for part in parts {
        exact = !part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    !exact || rest.is_empty()
}

/// The line editor with its history.
struct Prompt {
    editor: Editor<SqlHelper, FileHistory>,
    history: Option<PathBuf>,
}

impl Prompt {
    fn open(job: &Job) -> Result<Self, Failure> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            // With standard output in a file, the prompt still belongs on the terminal.
            .behavior(Behavior::PreferTerm)
            .build();
        let no_terminal = |e: ReadlineError| Failure::Statement(format!("terminal: {e}"));
        let mut editor = Editor::with_config(config).map_err(no_terminal)?;
        editor.set_helper(Some(SqlHelper::new(Names::of(&job.ctx))));
        editor.set_max_history_size(10_000).map_err(no_terminal)?;
        let history = history_file();
        if let Some(file) = &history {
            // No history yet is no error.
            let _ = editor.load_history(file);
        }
        Ok(Self { editor, history })
    }

    /// The next complete input; `None` at its end.
    fn read(&mut self, ctx: &SessionContext) -> Result<Option<String>, Failure> {
        if let Some(helper) = self.editor.helper_mut() {
            helper.names = Names::of(ctx);
        }
        let mut input = String::new();
        loop {
            let prompt = if input.is_empty() { PROMPT } else { CONTINUATION };
            match self.editor.readline(prompt) {
                Ok(line) if input.is_empty() => input = line,
                Ok(line) => {
                    input.push('\n');
                    input.push_str(&line);
                }
                // Ctrl-C throws the input away.
                Err(ReadlineError::Interrupted) => {
                    input.clear();
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
            }
            if input.trim().is_empty() {
                input.clear();
            } else if is_complete(&input) {
                self.remember(&input);
                return Ok(Some(input));
            }
        }
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

/// Is there something to run, or is more to come?
fn is_complete(input: &str) -> bool {
    if input.trim_start().starts_with('\\') || is_quit(input.trim()) {
        return true;
    }
    let script = split::split(input);
    // A text that more input cannot mend goes on, to be reported.
    script.complete || script.broken.is_some_and(|broken| !broken.unterminated)
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
    fn inputs_that_are_complete() {
        for input in ["SELECT 1;", "\\d", "exit", "quit;", "SELECT 1; -- end", "-- only this"] {
            assert!(is_complete(input), "{input}");
        }
        for input in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT", "SELECT /* ;", "exit now"] {
            assert!(!is_complete(input), "{input}");
        }
    }

    #[test]
    fn patterns() {
        assert!(matches_pattern("embed_query", ""));
        assert!(matches_pattern("embed_query", "embed*"));
        assert!(matches_pattern("embed_query", "*query"));
        assert!(!matches_pattern("embed_query", "embed"));
        assert!(!matches_pattern("embed_query", "*embed"));
    }

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

//! The state that inputs change, and what they do: statements and \ commands, of the prompt, of scripts and of `-c`.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use datafusion::arrow::array::RecordBatch;

use super::args::Source;
use super::commands;
use super::failure::Failure;
use super::functions;
use super::job::Job;
use super::look::look;
use super::meta::{self, Command, switch, unquoted};
use super::output::Output;
use super::print::{Format, Shape};
use super::runner::Runner;
use super::screen::{Expanded, Screen};
use super::script::{Input, Text, run_text};
use super::variables::Variables;
use crate::files::{FileKind, expand_home};

/// Seconds between two runs of a statement under `\watch`.
const WATCH: f64 = 2.0;

/// Columns of a text that is read, where no screen is narrower.
const WIDTH: usize = 110;

/// Files that run each other.
const MAX_DEPTH: usize = 32;

/// What an input says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    Quit,
}

/// What runs inputs.
pub(crate) struct Shell<'a> {
    runner: &'a Runner,
    job: Job,
    timing: bool,
    /// Whether long results may go to a pager: those of a prompt.
    pager: bool,
    variables: Variables,
    /// Where results go without `\o`, and where they go with it.
    usual: Arc<Output>,
    chosen: Option<Arc<Output>>,
    /// The last statements, for `\e`.
    last: String,
    /// Files within files that are run.
    depth: usize,
}

impl<'a> Shell<'a> {
    pub(crate) fn new(runner: &'a Runner, job: Job, pager: bool, timing: bool) -> Self {
        let (variables, usual) = (Variables::default(), job.output.clone());
        Self { runner, job, timing, pager, variables, usual, chosen: None, last: String::new(), depth: 0 }
    }

    /// Runs a text, up to its first failure.
    pub(crate) fn run(&mut self, text: &Text) -> Result<Flow, Failure> {
        for input in text.inputs().0 {
            let flow = match input {
                Input::Sql(part, ending) => self.sql(part, ending.as_deref()).map(|()| Flow::Continue)?,
                Input::Command(line, command) => {
                    self.command(&command).map_err(|failure| text.within(line, failure))?
                }
            };
            if flow == Flow::Quit {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue)
    }

    /// The session is at its end: what `\o` has begun is complete.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.job.output = self.usual.clone();
        self.chosen.take().map_or(Ok(()), |output| self.runner.outputs.finish(&output, Ok(())))
    }

    /// Runs statements, as the command behind them says.
    fn sql(&mut self, mut text: Text, ending: Option<&str>) -> Result<(), Failure> {
        text.sql = self.variables.fill(&text.sql);
        text.sql.trim().clone_into(&mut self.last);
        match ending.map(Command::read) {
            None | Some(Command { name: "g", argument: "" }) => self.execute(&self.job, text),
            Some(Command { name: "g", argument: file }) => self.to_file(text, file),
            Some(Command { name: "gx", .. }) => {
                let mut job = self.job.clone();
                job.view.expanded = Expanded::On;
                self.execute(&job, text)
            }
            Some(Command { argument: seconds, .. }) => self.watch(&text, seconds),
        }
    }

    /// Runs a \ command, without its backslash.
    fn command(&mut self, text: &str) -> Result<Flow, Failure> {
        let Command { name, argument } = Command::read(text);
        match (name, argument) {
            ("q", _) => return Ok(Flow::Quit),
            ("?" | "help", _) | ("h", "") => self.say(&meta::help(self.width()))?,
            ("h", function) => match functions::help(&self.job.ctx, function, self.width()) {
                Some(text) => self.say(&text)?,
                None => return Err(Failure::Statement(format!("no function {function:?}; \\df lists them"))),
            },
            ("d", "") => self.query(&tables(""))?,
            ("d", name) => self.query(&self.describe(name))?,
            ("dt", _) => self.query(&tables("AND table_type = 'BASE TABLE'"))?,
            ("dv", _) => self.query(&tables("AND table_type = 'VIEW'"))?,
            ("l", _) => self.query(CATALOGS)?,
            ("df", pattern) => self.print(&functions::list(&self.job.ctx, pattern, false)?)?,
            ("df+", pattern) => self.print(&functions::list(&self.job.ctx, pattern, true)?)?,
            ("dm", _) => self.print(&commands::list_models()?)?,
            ("look", file) => {
                let job = self.job.again();
                self.runner.run(&job, look(job.clone(), expand_home(unquoted(file)).into_owned()))?;
            }
            ("i", "") => return Err(Failure::Statement("\\i needs a file".to_owned())),
            ("i", file) => return self.run_file(file),
            ("e", file) => return self.edit(file),
            ("o", file) => self.set_output(file)?,
            ("timing", state) => self.set_timing(state)?,
            ("pager", state) => self.set_pager(state)?,
            ("x", state) => self.set_expanded(state)?,
            ("maxrows", rows) => self.set_max_rows(rows)?,
            ("format", "") => self.say(&format!("{}\n", format_name(self.job.format)))?,
            ("format", name) => self.set_format(name)?,
            ("set", "") => self.say(&self.variables.list())?,
            ("set", variable) => self.set_variable(variable),
            ("unset", name) if !self.variables.unset(name) => {
                return Err(Failure::Statement(format!("no variable {name:?}; \\set lists them")));
            }
            ("unset", _) => {}
            ("echo", text) => self.say(&format!("{}\n", unquoted(text)))?,
            ("!", command) => system(command)?,
            // There is nothing typed so far where these come here.
            ("p", _) => self.say(&format!("{}\n", self.last))?,
            ("r", _) => {}
            ("g" | "gx" | "watch", _) => {
                let text = Text::typed(self.last.clone());
                self.sql(text, Some(&format!("{name} {argument}")))?;
            }
            ("copy", _) => {
                let message =
                    "\\copy: here COPY itself reads and writes files of this machine: COPY (SELECT ...) TO 'file.csv';";
                return Err(Failure::Statement(message.to_owned()));
            }
            (other, _) => return Err(Failure::Statement(format!("unknown command \\{other}; \\? lists them"))),
        }
        Ok(Flow::Continue)
    }

    /// Runs the inputs of a file, which may name itself.
    fn run_file(&mut self, file: &str) -> Result<Flow, Failure> {
        if self.depth == MAX_DEPTH {
            return Err(Failure::Statement(format!("\\i: {MAX_DEPTH} files within each other, at {file:?}")));
        }
        self.depth += 1;
        let result =
            Text::read(Source::File(path(file))).map_err(Failure::of_statement).and_then(|text| self.run(&text));
        self.depth -= 1;
        result
    }

    /// A statement of our own.
    fn query(&self, sql: &str) -> Result<(), Failure> {
        self.execute(&self.job, Text::own(sql))
    }

    /// Runs statements as one job and, if wanted, says how long that took.
    fn execute(&self, job: &Job, text: Text) -> Result<(), Failure> {
        let start = Instant::now();
        let job = job.again();
        if self.pager {
            job.output.begin_page(job.view);
        }
        let result = self.runner.run(&job, run_text(job.clone(), text));
        // A pager is waited for however the statements ended.
        let page = job.output.end_page();
        if self.timing {
            let time = start.elapsed().as_secs_f64() * 1e3;
            self.say(&format!("Time: {time:.3} ms\n"))?;
        }
        result.and(page)
    }

    /// Runs statements whose results go to a file that appears when they are complete.
    fn to_file(&self, text: Text, file: &str) -> Result<(), Failure> {
        let output = self.runner.outputs.open("\\g", Some(&path(file))).map_err(Failure::of_statement)?;
        let mut job = self.job.clone();
        job.output = output.clone();
        let result = self.execute(&job, text);
        self.runner.outputs.finish(&output, result)
    }

    /// Runs statements again and again, until Ctrl-C.
    fn watch(&self, text: &Text, seconds: &str) -> Result<(), Failure> {
        let seconds = if seconds.is_empty() { Ok(WATCH) } else { seconds.parse() };
        let pause = seconds.ok().and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
        let pause = pause.ok_or_else(|| Failure::Statement("\\watch takes a number of seconds".to_owned()))?;
        loop {
            // A pager would wait for somebody.
            let job = self.job.again();
            self.runner.run(&job, run_text(job.clone(), text.clone()))?;
            self.runner.run(&job, async move {
                tokio::time::sleep(pause).await;
                Ok(())
            })?;
        }
    }

    /// Lets somebody change the last input, or a file, and runs it.
    fn edit(&mut self, file: &str) -> Result<Flow, Failure> {
        let is_own = file.is_empty();
        let file = if is_own { env::temp_dir().join(format!("embedsql-{}.sql", process::id())) } else { path(file) };
        let wrong = |what: &str, error: io::Error| Failure::Statement(format!("\\e: {what}: {error}"));
        if is_own {
            fs::write(&file, format!("{}\n", self.last)).map_err(|error| wrong(&file.display().to_string(), error))?;
        }
        let editor = ["VISUAL", "EDITOR"]
            .iter()
            .find_map(|name| env::var(name).ok().filter(|editor| !editor.is_empty()))
            .unwrap_or_else(|| "vi".to_owned());
        let status = process::Command::new("sh").args(["-c", &format!("{editor} \"$0\"")]).arg(&file).status();
        let text = fs::read_to_string(&file);
        if is_own {
            // What stays behind in the folder for such files harms nobody.
            let _ = fs::remove_file(&file);
        }
        if !status.map_err(|error| wrong(&editor, error))?.success() {
            return Err(Failure::Statement(format!("\\e: {editor} did not end well: nothing is run")));
        }
        let text = Text::typed(text.map_err(|error| wrong(&file.display().to_string(), error))?);
        self.say(&text.sql)?;
        self.run(&text)
    }

    fn set_output(&mut self, file: &str) -> Result<(), Failure> {
        let open = || self.runner.outputs.open("\\o", Some(&path(file))).map_err(Failure::of_statement);
        let next = if file.is_empty() { None } else { Some(open()?) };
        self.finish()?;
        self.job.output = next.as_ref().unwrap_or(&self.usual).clone();
        self.chosen = next;
        Ok(())
    }

    fn set_timing(&mut self, state: &str) -> Result<(), Failure> {
        self.timing = switch(state, self.timing).ok_or_else(|| wrong_switch("timing", state))?;
        self.say(&format!("Timing is {}.\n", on_or_off(self.timing)))
    }

    fn set_pager(&mut self, state: &str) -> Result<(), Failure> {
        self.pager = switch(state, self.pager).ok_or_else(|| wrong_switch("pager", state))?;
        self.say(&format!("Pager is {}.\n", on_or_off(self.pager)))
    }

    fn set_expanded(&mut self, state: &str) -> Result<(), Failure> {
        let now = self.job.view.expanded;
        self.job.view.expanded = match state {
            "" if now == Expanded::On => Expanded::Auto,
            "" => Expanded::On,
            state => Expanded::from_str(state, true)
                .map_err(|_| Failure::Statement(format!("\\x takes on, off or auto, not {state:?}")))?,
        };
        let said = match self.job.view.expanded {
            Expanded::On => "on",
            Expanded::Off => "off",
            Expanded::Auto => "used where a row does not fit",
        };
        self.say(&format!("Expanded display is {said}.\n"))
    }

    fn set_max_rows(&mut self, rows: &str) -> Result<(), Failure> {
        if !rows.is_empty() {
            let wrong = |_| Failure::Statement(format!("\\maxrows takes a number of rows, or 0 for all, not {rows:?}"));
            self.job.view.max_rows = rows.parse().map_err(wrong)?;
        }
        self.say(&match self.job.view.max_rows {
            0 => "All rows of a result are shown.\n".to_owned(),
            most => format!("At most {most} rows of a result are shown.\n"),
        })
    }

    fn set_format(&mut self, name: &str) -> Result<(), Failure> {
        let known = Format::value_variants().iter().map(|f| format_name(*f)).collect::<Vec<_>>().join(", ");
        self.job.format = Format::from_str(unquoted(name), true)
            .map_err(|_| Failure::Statement(format!("format {name:?} is not one of {known}")))?;
        Ok(())
    }

    fn set_variable(&mut self, text: &str) {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        self.variables.set(name, &unquoted(value.trim()).replace("''", "'"));
    }

    /// What lists the columns of a table, a file, or a table function without arguments.
    fn describe(&self, name: &str) -> String {
        if name.starts_with(['\'', '"']) {
            return format!("DESCRIBE {name}");
        }
        let is_path = name.contains(['/', '*', '~', '\\']) || FileKind::of(name).is_some() || Path::new(name).exists();
        if is_path {
            return format!("DESCRIBE '{}'", expand_home(name).replace('\'', "''"));
        }
        let function = name.trim_end_matches("()");
        match self.job.ctx.table_function(function) {
            Ok(_) => format!("DESCRIBE SELECT * FROM {function}()"),
            Err(_) => format!("DESCRIBE {name}"),
        }
    }

    /// Prints rows that came from no query.
    fn print(&self, batch: &RecordBatch) -> Result<(), Failure> {
        let mut printer = self.job.printer(Shape { schema: batch.schema(), is_plan: false });
        let output = &self.job.output;
        if self.pager {
            output.begin_page(self.job.view);
        }
        printer.batch(batch, &mut |bytes| output.write(bytes))?;
        printer.finish(&mut |bytes| output.write(bytes))?;
        output.end_page()
    }

    /// Columns for texts that are read.
    fn width(&self) -> usize {
        Screen::of(self.job.view).map_or(WIDTH, |screen| screen.width.min(WIDTH))
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }
}

const CATALOGS: &str =
    "SELECT catalog_name AS catalog, schema_name AS schema FROM information_schema.schemata ORDER BY 1, 2";

/// Tables that are not DataFusion's own.
fn tables(and: &str) -> String {
    format!(
        "SELECT table_schema AS schema, table_name AS name, table_type AS type FROM information_schema.tables \
         WHERE table_schema <> 'information_schema' {and} ORDER BY 1, 2"
    )
}

fn system(command: &str) -> Result<(), Failure> {
    let status = process::Command::new("sh").args(["-c", command]).status();
    status.map(drop).map_err(|error| Failure::Statement(format!("\\!: {error}")))
}

fn path(file: &str) -> PathBuf {
    expand_home(unquoted(file)).into_owned().into()
}

fn wrong_switch(name: &str, state: &str) -> Failure {
    Failure::Statement(format!("\\{name} takes on or off, not {state:?}"))
}

fn on_or_off(state: bool) -> &'static str {
    if state { "on" } else { "off" }
}

fn format_name(format: Format) -> String {
    format.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

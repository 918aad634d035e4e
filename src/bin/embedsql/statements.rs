//! SQL text to statements, and one statement to its result.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::Dialect;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParserBuilder, Statement as ParsedStatement};
use datafusion_embed::counts;
use futures::StreamExt;
use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, TokenizerError};
use tokio::sync::oneshot;

use crate::copy;
use crate::error::{Failure, tidy, warn};
use crate::files::WholeFiles;
use crate::job::Job;
use crate::print::{Printer, Shape};
use crate::progress::Progress;
use crate::staged::{shown, warn_of};

/// How long the first rows of a table may wait for others, which would decide the widths of its columns with them.
const PATIENCE: Duration = Duration::from_secs(1);

/// One statement, still unparsed: a syntax error in it must not keep the statements before it from running.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Tokens with their place in the whole text, so that errors name lines of the file.
    tokens: Vec<TokenWithSpan>,
    /// The whole text.
    source: Arc<str>,
    /// Line of the first token, from 1.
    pub(crate) line: u64,
}

/// A text cut at its semicolons.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) statements: Vec<Statement>,
    /// Does the text end after a semicolon (or hold nothing but blanks and comments)?
    pub(crate) complete: bool,
    /// Text after the last good statement that is no SQL at all, such as a quote that never ends.
    pub(crate) broken: Option<Broken>,
}

/// Where and why the text could not be read on.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) line: u64,
    pub(crate) message: String,
    /// More text could mend it.
    pub(crate) unterminated: bool,
}

impl Broken {
    fn new(error: &TokenizerError) -> Self {
        let message = error.message.trim_end_matches([' ', '.']);
        let place = error.location;
        Self {
            line: place.line.max(1),
            message: tidy(&format!("syntax error: {message} at line {}, column {}", place.line, place.column)),
            unterminated: message.starts_with("Unterminated") || message.contains("EOF"),
        }
    }
}

/// Cuts a text into statements; semicolons in quotes, comments and dollar quotes do not count.
pub(crate) fn split(text: &str) -> Script {
    let mut tokens = Vec::new();
    let read = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location_into_buf(&mut tokens);
    let broken = read.err().map(|error| Broken::new(&error));
    let source = Arc::from(text);
    let mut statements = Vec::new();
    let mut current: Vec<TokenWithSpan> = Vec::new();
    for token in tokens {
        match token.token {
            Token::SemiColon => statements.extend(statement(std::mem::take(&mut current), &source)),
            _ => current.push(token),
        }
    }
    let rest = statement(current, &source);
    let complete = rest.is_none() && broken.is_none();
    match (rest, broken) {
        // The start of what is broken must not run alone.
        (Some(rest), Some(mut broken)) => {
            broken.line = rest.line;
            Script { statements, complete, broken: Some(broken) }
        }
        (rest, broken) => {
            statements.extend(rest);
            Script { statements, complete, broken }
        }
    }
}

/// `None` when there is nothing but blanks and comments.
fn statement(tokens: Vec<TokenWithSpan>, source: &Arc<str>) -> Option<Statement> {
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)))?;
    Some(Statement { line: first.span.start.line, tokens, source: source.clone() })
}

/// Plans and runs one statement and writes its result.
pub(crate) async fn run(job: &Job, statement: Statement) -> Result<(), Failure> {
    let parsed = parsed(&job.ctx, statement)?;
    let named = named_file(&job.ctx, &parsed)?;
    let plan = job.ctx.state().statement_to_plan(parsed).await.map_err(|error| Failure::from(error).in_file(&named))?;
    let named = copy::only_file(&plan).or(named);
    let plan = copy::prepare(plan)?;
    check_is_runnable(&plan)?;
    let target = copy::Target::of(&plan);
    job.files.next_statement();
    let result = run_plan(job, plan).await;
    warn_of(&job.files.take_doubtful());
    result.map_err(|failure| {
        // From here on nothing is completed.
        job.files.discard();
        unfinished(failure.in_file(&named), target.as_ref(), &job.files)
    })
}

async fn run_plan(job: &Job, plan: LogicalPlan) -> Result<(), Failure> {
    let is_plan = matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
    let before = counts(&job.ctx);
    let frame = job.ctx.execute_logical_plan(plan).await?;
    let schema = frame.schema().inner().clone();
    let context = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await?;
    let shown = job.shows(Progress::watch(&job.ctx, &plan, job.quiet));
    let result = print_stream(job, schema, is_plan, execute_stream(plan, context)?).await;
    drop(shown);
    let truncated = counts(&job.ctx).rows_truncated - before.rows_truncated;
    if truncated > 0 && !job.quiet {
        let texts = if truncated == 1 { "text was" } else { "texts were" };
        warn(&format!(
            "{truncated} {texts} longer than the model reads and cut (embed_tokens(text) counts before the cut)"
        ));
    }
    result
}

async fn print_stream(
    job: &Job,
    schema: SchemaRef,
    is_plan: bool,
    mut stream: SendableRecordBatchStream,
) -> Result<(), Failure> {
    // SET, CREATE and the like have a result without columns: nothing to print.
    if schema.fields().is_empty() {
        while let Some(batch) = stream.next().await {
            batch?;
        }
        return Ok(());
    }
    let settings = job.ctx.state().config_options().format.clone();
    let mut printer = Printer::new(job.format, Shape { schema, is_plan }, !job.quiet, settings);
    let (ring, mut alarm) = oneshot::channel();
    let mut ring = Some(ring);
    loop {
        let batch = tokio::select! {
            batch = stream.next() => batch,
            _ = &mut alarm, if printer.is_waiting() => {
                printer.stop_waiting(&mut |bytes| job.write(bytes))?;
                continue;
            }
        };
        let Some(batch) = batch else { break };
        printer.batch(&batch?, &mut |bytes| job.write(bytes))?;
        if let Some(ring) = ring.take_if(|_| printer.is_waiting()) {
            // A thread, because a worker that embed() holds polls no timers.
            std::thread::spawn(move || {
                std::thread::sleep(PATIENCE);
                ring.send(())
            });
        }
    }
    printer.finish(&mut |bytes| job.write(bytes))
}

/// What is to be said when a statement that writes files failed. The files that it has completed stay where they are.
fn unfinished(failure: Failure, target: Option<&copy::Target>, files: &WholeFiles) -> Failure {
    let message = match (failure, target) {
        (Failure::Statement(message), Some(target)) if message.contains("while finalizing writes") => {
            let why = files.trouble().map_or(" (is the disk full?)".to_owned(), |trouble| format!(": {trouble}"));
            format!("{} could not be written to its end{why}", target.statement())
        }
        (Failure::Statement(message), _) => message,
        (other, _) => return other,
    };
    let completed = files.completed();
    let Some(first) = completed.first() else {
        return Failure::Statement(message);
    };
    let (count, first) = (completed.len(), shown(first));
    let folder = target.map(|target| format!(" in {:?}", target.path())).unwrap_or_default();
    Failure::Statement(format!("{message}; new files were left{folder}: {count}, such as {first:?}"))
}

fn parsed(ctx: &SessionContext, statement: Statement) -> Result<ParsedStatement, Failure> {
    let first = statement.tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)));
    if first.is_some_and(|token| token.token == Token::Backslash) {
        return Err(Failure::Statement("commands with \\ work at the prompt only, on a line of their own".to_owned()));
    }
    let state = ctx.state();
    let options = &state.config_options().sql_parser;
    match options.dialect {
        Dialect::Generic => parse(statement.tokens, options.recursion_limit.get()),
        // The tokens are those of the generic dialect: let another dialect read the text for itself.
        other => Ok(state.sql_to_statement(statement.text(), &other)?),
    }
}

/// The file that the statement names, if it is one, for errors that occur before there is a plan.
fn named_file(ctx: &SessionContext, statement: &ParsedStatement) -> Result<Option<String>, Failure> {
    let mut files = Vec::new();
    match statement {
        ParsedStatement::CreateExternalTable(table) if table.columns.is_empty() => {
            let is_parquet = table.file_type.eq_ignore_ascii_case("parquet");
            files.extend(table.locations.iter().map(|location| (location.clone(), is_parquet)));
        }
        // What cannot be resolved will not be planned either, and that has its own error.
        other => {
            for table in ctx.state().resolve_table_references(other).unwrap_or_default() {
                let name = table.table();
                files.push((name.to_owned(), name.ends_with(".parquet")));
            }
        }
    }
    files.retain(|(name, _)| Path::new(name).is_file());
    // DataFusion passes over empty files, and would find a table without columns.
    for (name, is_parquet) in &files {
        if *is_parquet && fs::metadata(name).is_ok_and(|m| m.len() == 0) {
            return Err(Failure::Statement(format!("file {name:?} is empty")));
        }
    }
    Ok(files.pop().filter(|_| files.is_empty()).map(|(name, _)| name))
}

fn parse(tokens: Vec<TokenWithSpan>, recursion_limit: usize) -> Result<ParsedStatement, Failure> {
    let mut parser = DFParserBuilder::new(tokens).with_recursion_limit(recursion_limit).build()?;
    let mut statements = parser.parse_statements()?;
    let first = statements.pop_front();
    first.ok_or_else(|| Failure::Statement("syntax error: no statement".to_owned()))
}

impl Statement {
    /// The statement as it was typed.
    fn text(&self) -> &str {
        let (Some(first), Some(last)) = (self.tokens.first(), self.tokens.last()) else {
            return "";
        };
        let start = offset(&self.source, first.span.start);
        let end = offset(&self.source, last.span.end);
        self.source.get(start..end).unwrap_or_default()
    }
}

/// The byte at a tokenizer's location, which counts lines and characters from 1.
fn offset(text: &str, location: Location) -> usize {
    let mut here = Location { line: 1, column: 1 };
    for (at, c) in text.char_indices() {
        if here == location {
            return at;
        }
        here = match c {
            '\n' => Location { line: here.line + 1, column: 1 },
            _ => Location { line: here.line, column: here.column + 1 },
        };
    }
    text.len()
}

/// DataFusion plans a few statements that its execution then rejects in a way nobody can read.
fn check_is_runnable(plan: &LogicalPlan) -> Result<(), Failure> {
    match plan {
        LogicalPlan::Ddl(DdlStatement::CreateIndex(_)) => {
            Err(Failure::Statement("CREATE INDEX is not supported".to_owned()))
        }
        LogicalPlan::Ddl(DdlStatement::CreateFunction(_)) => {
            Err(Failure::Statement("CREATE FUNCTION is not supported".to_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<u64> {
        split(text).statements.iter().map(|s| s.line).collect()
    }

    #[test]
    fn cuts_only_at_real_semicolons() {
        let text = "SELECT ';' AS a, \";\" /* ; */ -- ;\n, $$;$$, $x$;$x$, 'it''s;';\n\n-- end\nSELECT 2";
        assert_eq!(lines(text), [1, 5]);
        assert!(!split(text).complete);
        assert_eq!(lines(" ;; ; "), [] as [u64; 0]);
    }

    #[test]
    fn gives_back_the_text() {
        let script = split("SELECT 'é''x',\n E'\\n' ; SELECT 2");
        let texts: Vec<&str> = script.statements.iter().map(|s| s.text().trim()).collect();
        assert_eq!(texts, ["SELECT 'é''x',\n E'\\n'", "SELECT 2"]);
    }

    #[test]
    fn knows_when_a_text_is_complete() {
        assert!(split("SELECT 1; -- done\n").complete);
        assert!(split("-- nothing\n").complete);
        assert!(!split("SELECT 1").complete);
        assert!(!split("SELECT 'a;").complete);
    }

    #[test]
    fn runs_what_stands_before_a_broken_end() {
        for broken in ["SELECT 'no end;\nSELECT 3;", "SELECT $$ no end", "SELECT /* no end", "SELECT \"no end"] {
            let script = split(&format!("SELECT 1;\n\n{broken}"));
            assert_eq!(script.statements.len(), 1, "{broken}");
            let end = script.broken.expect("broken");
            assert!(end.unterminated, "{}", end.message);
            assert_eq!(end.line, 3, "{}", end.message);
        }
    }
}

//! One statement to its result.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::compute::sum;
use datafusion::arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::logical_expr::{DdlStatement, LogicalPlan, Statement as PlannedStatement};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as ParsedStatement;
use futures::StreamExt;
use sqlparser::tokenizer::{Location, Token};
use tokio::sync::oneshot;

use super::copied;
use super::failure::{Failure, note, warn};
use super::job::Job;
use super::messages;
use super::print::Shape;
use super::progress::Progress;
use super::split::Statement;
use crate::files::{Destination, Doubtful, Writes, masked_statement, only_file};
use crate::models::check_name;
use crate::{Access, counts, reset_settings, sql_to_statement};

/// How long the first rows of a table may wait for others, which would decide the widths of its columns with them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Plans and runs one statement and writes its result; what goes wrong is said without its secrets.
pub(crate) async fn run(job: &Job, statement: Statement) -> Result<(), Failure> {
    let stores = job.stores();
    let text = statement.text().trim().to_owned();
    stores.add_statement(&text);
    let result = run_text(job, &statement, text.clone()).await;
    result.map_err(|failure| {
        // Of a text with a secret no line is shown: it may have a part of the secret, or be of another statement.
        let source = &statement.source;
        let is_open =
            || masked_statement(source.text()) == source.text() && stores.masked(source.text()) == source.text();
        let show = |place: Location| source.pointed(place).filter(|_| is_open());
        failure.with_suggestion(&job.ctx, &text).pointed(&statement, show).masked(&stores)
    })
}

async fn run_text(job: &Job, statement: &Statement, text: String) -> Result<(), Failure> {
    let parsed = parsed(&job.ctx, statement)?;
    // Files are looked for while a statement is planned.
    let _shown = job.shows(Progress::watch(&job.ctx, job.stores(), None, job.quiet));
    let named = named_file(&job.ctx, &parsed)?;
    let plan = job.ctx.state().statement_to_plan(parsed).await.map_err(|error| Failure::from(error).in_file(&named))?;
    let named = only_file(&plan).or(named);
    let plan = reset_settings(plan);
    check_is_runnable(&plan, &job.ctx)?;
    #[cfg(feature = "cluster")]
    super::cluster::point_out(job, &plan);
    let destination = Destination::of(&plan);
    job.writes.next_statement(Some(text));
    let result = run_plan(job, plan).await;
    Doubtful::warning(&job.writes.take_doubtful()).iter().for_each(|warning| warn(warning));
    result.map_err(|failure| {
        // From here on nothing is completed.
        job.writes.discard();
        unfinished(failure.in_file(&named), destination.as_ref(), &job.writes)
    })
}

async fn run_plan(job: &Job, plan: LogicalPlan) -> Result<(), Failure> {
    let is_plan = matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
    let place = match &plan {
        // What follows a ? in an address may be a key.
        LogicalPlan::Copy(copy) if copy.output_url.contains("://") => {
            copy.output_url.split('?').next().map(str::to_owned)
        }
        LogicalPlan::Copy(copy) => Some(copy.output_url.clone()),
        _ => None,
    };
    let (start, before, elsewhere) = (Instant::now(), counts(&job.ctx), rows_elsewhere(&job.ctx));
    let frame = job.ctx.execute_logical_plan(without_secrets(plan)).await?;
    let schema = frame.schema().inner().clone();
    let context = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await?;
    let shown = job.shows(Progress::watch(&job.ctx, job.stores(), Some(&plan), job.quiet));
    let stream = execute_stream(plan, context)?;
    let result = match &place {
        Some(_) => copied(job, schema, stream).await.map(Some),
        None => print_stream(job, schema, is_plan, stream).await.map(|()| None),
    };
    drop(shown);
    let done = counts(&job.ctx) - before;
    if let (Ok(Some(rows)), false) = (&result, job.quiet) {
        let (files, elsewhere) = (job.writes.completed(), rows_elsewhere(&job.ctx) - elsewhere);
        note(&copied::summary(*rows, place.as_deref(), &files, &done, elsewhere, start.elapsed()));
    }
    let truncated = done.rows_truncated;
    if truncated > 0 && !job.quiet {
        let texts = if truncated == 1 { "text was" } else { "texts were" };
        warn(&format!(
            "{truncated} {texts} longer than the model reads and cut (embed_tokens(text) counts before the cut)"
        ));
    }
    result.map(drop)
}

/// Runs a COPY and gives its number of rows; on a terminal the line that says what it did says this too.
async fn copied(job: &Job, schema: SchemaRef, mut stream: SendableRecordBatchStream) -> Result<u64, Failure> {
    let mut printer = job.printer(Shape { schema, is_plan: false });
    let shows = !job.quiet && job.output.screen(job.view).is_none();
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        let counts = batch.columns().first().and_then(|column| column.as_primitive_opt::<UInt64Type>());
        rows += counts.and_then(sum).unwrap_or_default();
        if shows {
            printer.batch(&batch, &mut |bytes| job.write(bytes))?;
        }
    }
    if shows {
        printer.finish(&mut |bytes| job.write(bytes))?;
    }
    Ok(rows)
}

/// Rows that the cluster of a session has embedded so far.
fn rows_elsewhere(ctx: &SessionContext) -> u64 {
    #[cfg(feature = "cluster")]
    if let Some(cluster) = ctx.state_ref().read().config().get_extension::<crate::cluster::Cluster>() {
        return cluster.work().rows;
    }
    #[cfg(not(feature = "cluster"))]
    let _ = ctx;
    0
}

/// A view is shown as it was written.
fn without_secrets(mut plan: LogicalPlan) -> LogicalPlan {
    if let LogicalPlan::Ddl(DdlStatement::CreateView(view)) = &mut plan {
        view.definition = view.definition.as_deref().map(masked_statement);
    }
    plan
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
    let mut printer = job.printer(Shape { schema, is_plan });
    let (ring, mut alarm) = oneshot::channel();
    let mut ring = Some(ring);
    loop {
        let batch = tokio::select! {
            batch = stream.next() => batch,
            _ = &mut alarm, if printer.is_waiting() => {
                printer.stop_waiting(&mut |bytes| job.write(bytes))?;
                job.output.stop_holding()?;
                continue;
            }
        };
        let Some(batch) = batch else { break };
        printer.batch(&batch?, &mut |bytes| job.write(bytes))?;
        if let Some(ring) = ring.take_if(|_| printer.is_waiting()) {
            ring_later(ring, |bell| thread::Builder::new().spawn(bell).map(|_| ()));
        }
    }
    printer.finish(&mut |bytes| job.write(bytes))
}

/// Rings when the patience is at its end. On a thread, because a worker that embed() holds polls no timers. Where the
/// process may have no more threads there is no patience: the bell that nobody took is dropped, which rings it.
fn ring_later(ring: oneshot::Sender<()>, spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>) {
    let _ = spawn(Box::new(move || {
        thread::sleep(PATIENCE);
        // The printer may be done.
        let _ = ring.send(());
    }));
}

/// What is to be said when a statement that writes files failed. The files that it has completed stay where they are.
fn unfinished(failure: Failure, destination: Option<&Destination>, writes: &Writes) -> Failure {
    let failure = failure.map(|message| match destination {
        Some(destination) if messages::is_unfinished(&message) => {
            let why = writes.trouble().map_or(" (is the disk full?)".to_owned(), |trouble| format!(": {trouble}"));
            format!("{} could not be written to its end{why}", destination.statement())
        }
        // A store says itself what it is about.
        None if messages::is_unfinished(&message) => {
            writes.trouble().unwrap_or_else(|| "the files could not be written to their end".to_owned())
        }
        _ => message,
    });
    let completed = writes.completed();
    let Some(first) = completed.first() else {
        return failure;
    };
    let count = completed.len();
    let folder = destination.map(|destination| format!(" in {:?}", destination.path())).unwrap_or_default();
    failure.map(|message| format!("{message}; new files were left{folder}: {count}, such as {first:?}"))
}

/// Parsed for itself, with places in its own text; see [`Failure::pointed`].
fn parsed(ctx: &SessionContext, statement: &Statement) -> Result<ParsedStatement, Failure> {
    let first = statement.tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)));
    if first.is_some_and(|token| token.token == Token::Backslash) {
        return Err(Failure::Statement("a command with \\ stands on a line of its own".to_owned()));
    }
    Ok(sql_to_statement(&ctx.state(), statement.text())?)
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

/// DataFusion plans a few statements that its execution then rejects in a way nobody can read.
fn check_is_runnable(plan: &LogicalPlan, ctx: &SessionContext) -> Result<(), Failure> {
    match plan {
        LogicalPlan::Ddl(DdlStatement::CreateIndex(_)) => {
            Err(Failure::Statement("CREATE INDEX is not supported".to_owned()))
        }
        LogicalPlan::Ddl(DdlStatement::CreateFunction(_)) => {
            Err(Failure::Statement("CREATE FUNCTION is not supported".to_owned()))
        }
        // And a setting is only a text to it.
        LogicalPlan::Statement(PlannedStatement::SetVariable(set)) if set.variable == "embed.model" => {
            let access = ctx.state_ref().read().config().get_extension::<Access>().unwrap_or_default();
            let known = check_name(set.value.trim(), &access);
            known.map_err(|error| Failure::Statement(format!("embed.model: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_thread_the_bell_rings_at_once() {
        let (ring, mut alarm) = oneshot::channel();
        ring_later(ring, |_| Err(io::ErrorKind::WouldBlock.into()));
        assert_eq!(alarm.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        let (ring, mut alarm) = oneshot::channel();
        let mut bell = None;
        ring_later(ring, |started| {
            bell = Some(started);
            Ok(())
        });
        assert_eq!(alarm.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(bell);
    }
}

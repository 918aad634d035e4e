//! The planner of a session whose statements write files: COPY and INSERT are checked, say all that the writers need, and a
//! folder is written by a run.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::dml::{CopyTo, InsertOp};
use datafusion::logical_expr::{DmlStatement, LogicalPlan, StringifiedPlan, WriteOp};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::explain::ExplainExec;

use super::copy::{check_columns, check_target};
use super::destination::{Destination, copy_url};
use super::export::{Export, with_run};
use super::formats::{add_formats, by_name, data_endings, rename};
use super::home::expand_home;
use super::marks::Mode;
use super::reading::{NO_FILE, listing_table};
use super::run::Work;
use super::stores::{Address, Cloud, Options, Stores, listing_url, masked_statement, shown_store};
use super::vectors::store_vectors;
use super::writer::digest;
use super::writes::Writes;
use crate::error::Error;
use crate::state::rebuild;

const MODE: &str = "format.mode";
const KEEPS_PARTITIONS: &str = "execution.keep_partition_by_columns";

/// Plans COPY and INSERT for another planner, which plans the rest.
///
/// [`session`](crate::session) has it. A host with a session of its own puts it around that session's planner, and registers
/// its stores as [`Whole`](super::Whole) with the same [`Writes`].
#[derive(Debug)]
pub struct FilePlanner {
    inner: Arc<dyn QueryPlanner + Send + Sync>,
    writes: Writes,
}

impl FilePlanner {
    /// Around a planner, for what these writes are of.
    pub fn over(inner: Arc<dyn QueryPlanner + Send + Sync>, writes: &Writes) -> Self {
        Self { inner, writes: writes.clone() }
    }
}

/// Gives a session the planner, around the one that it has, and the formats of further endings.
pub(crate) fn install(state: &mut SessionState, writes: &Writes) {
    let planner = FilePlanner::over(Arc::clone(state.query_planner()), writes);
    rebuild(state, |_, builder| builder.with_query_planner(Arc::new(planner)));
    add_formats(state);
}

#[async_trait]
impl QueryPlanner for FilePlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planned = self.planned(plan, session).await?;
        Ok(match session.config().get_extension::<Stores>() {
            Some(stores) => masked(planned, &stores),
            None => planned,
        })
    }
}

/// An EXPLAIN shows the options and addresses of its statement, which may be secrets.
fn masked(plan: Arc<dyn ExecutionPlan>, stores: &Stores) -> Arc<dyn ExecutionPlan> {
    let Some(explain) = plan.downcast_ref::<ExplainExec>() else { return plan };
    let shown = explain.stringified_plans().iter().map(|shown| StringifiedPlan {
        plan: Arc::new(stores.masked(&shown.plan)),
        plan_type: shown.plan_type.clone(),
    });
    Arc::new(ExplainExec::new(explain.schema(), shown.collect(), explain.verbose()))
}

impl FilePlanner {
    async fn planned(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        if !writes_files(plan) {
            return self.inner.create_physical_plan(plan, session).await;
        }
        let is_run = !matches!(plan, LogicalPlan::Explain(_));
        let mut export = None;
        // EXPLAIN has its COPY below it, hence the walk.
        let prepared = plan.clone().transform_down(|node| self.prepared(node, is_run, session, &mut export)).data()?;
        let plan = self.inner.create_physical_plan(&prepared, session).await?;
        match export {
            Some(export) => with_run(plan, &export, &self.writes),
            None => Ok(plan),
        }
    }
}

/// Whether a plan is a COPY or a DML statement, or explains one.
fn writes_files(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Copy(_) | LogicalPlan::Dml(_) => true,
        LogicalPlan::Explain(explain) => writes_files(&explain.plan),
        LogicalPlan::Analyze(analyze) => writes_files(&analyze.input),
        _ => false,
    }
}

impl FilePlanner {
    fn prepared(
        &self,
        node: LogicalPlan,
        is_run: bool,
        session: &dyn Session,
        export: &mut Option<Export>,
    ) -> Result<Transformed<LogicalPlan>> {
        match node {
            LogicalPlan::Copy(copy) => {
                let (copy, found) = self.copy(copy, is_run, session)?;
                *export = found;
                Ok(Transformed::yes(LogicalPlan::Copy(copy)))
            }
            LogicalPlan::Dml(dml) => {
                let (dml, found) = self.insert(dml)?;
                *export = found;
                Ok(Transformed::yes(LogicalPlan::Dml(dml)))
            }
            node => Ok(Transformed::no(node)),
        }
    }

    fn copy(&self, mut copy: CopyTo, is_run: bool, session: &dyn Session) -> Result<(CopyTo, Option<Export>)> {
        // The text of the statement, for a host that does not say it.
        let text = copy.input.display_indent().to_string();
        copy.output_url = expand_home(&copy.output_url).into_owned();
        let address = Address::of(&copy.output_url).transpose()?;
        let said = Options::take(&mut copy.options, address.as_ref())?;
        let url = match &address {
            Some(address) => remote_url(address, said, session)?,
            None => copy_url(&copy.output_url)?,
        };
        by_name(&mut copy, session)?;
        check_columns(&copy)?;
        let is_file = is_file(&copy, &url);
        if is_run {
            check_target(&copy.output_url, &url, is_file)?;
        }
        let mode = copy.options.remove(MODE).map(|mode| read_mode(&mode, &copy.output_url, is_file)).transpose()?;
        store_vectors(&mut copy, session.config_options())?;
        let format = copy.file_type.get_ext();
        let export = (!is_file).then(|| Export {
            url: url.clone(),
            work: self.work(&LogicalPlan::Copy(copy.clone()), &copy.output_url, text, mode.unwrap_or(Mode::New)),
            partition_by: copy.partition_by.clone(),
            keeps_partitions: copy.options.get(KEEPS_PARTITIONS).map(|keeps| keeps.trim() == "true"),
            endings: data_endings(&format),
            rename: rename(&format),
        });
        if address.is_some()
            || url.get_url().scheme() == "file" && !copy.output_url.contains("://") && is_special(&copy.output_url)
        {
            copy.output_url = url.as_str().to_owned();
        }
        Ok((copy, export))
    }

    /// INSERT INTO keeps what is there; INSERT OVERWRITE, which DataFusion (55.2) refuses for most formats, is ours.
    fn insert(&self, mut dml: DmlStatement) -> Result<(DmlStatement, Option<Export>)> {
        let mode = match dml.op {
            WriteOp::Insert(InsertOp::Append) => Mode::Append,
            WriteOp::Insert(InsertOp::Overwrite) => Mode::Overwrite,
            _ => return Ok((dml, None)),
        };
        let provider = source_as_provider(&dml.target)?;
        let Some(table) = listing_table(provider.as_ref()) else { return Ok((dml, None)) };
        table.table_paths().iter().try_for_each(check_writable)?;
        let Some(url) = table.table_paths().first().filter(|url| url.is_collection()).cloned() else {
            return Ok((dml, None));
        };
        let options = table.options();
        let endings = match options.file_extension.trim() {
            "" | NO_FILE => data_endings(&options.format.get_ext()),
            ending => vec![ending.to_lowercase()],
        };
        let text = dml.input.display_indent().to_string();
        let target = dml.table_name.to_string();
        let export = Export {
            url,
            work: self.work(&LogicalPlan::Dml(dml.clone()), &target, text, mode),
            partition_by: options.table_partition_cols.iter().map(|(name, _)| name.clone()).collect(),
            keeps_partitions: None,
            endings,
            rename: None,
        };
        dml.op = WriteOp::Insert(InsertOp::Append);
        Ok((dml, Some(export)))
    }

    fn work(&self, plan: &LogicalPlan, target: &str, text: String, mode: Mode) -> Work {
        let statement = self.writes.statement().unwrap_or(text);
        let destination = Destination::of(plan);
        Work {
            title: destination.map_or_else(|| format!("COPY to {target:?}"), |destination| destination.statement()),
            statement: recognisable(&statement),
            target: target.to_owned(),
            mode,
        }
    }
}

/// A statement as a run's list keeps it: without secrets, and yet no other statement's.
fn recognisable(statement: &str) -> String {
    let shown = masked_statement(statement);
    if shown == statement { shown } else { format!("{shown} -- {}", digest(&[statement.as_bytes()])) }
}

/// What COPY writes in a store, by the options that were said of it.
fn remote_url(address: &Address, said: Options, session: &dyn Session) -> Result<ListingTableUrl> {
    let store = match session.config().get_extension::<Stores>() {
        Some(stores) => stores.stated(address, said)?,
        None => ObjectStoreUrl::parse(&address.store)?,
    };
    let url = listing_url(&store, &address.key()?, address.is_folder())?;
    check_writable(&url)?;
    Ok(url)
}

/// Web servers are read from only.
fn check_writable(url: &ListingTableUrl) -> std::result::Result<(), Error> {
    let store = Address::of(&shown_store(url.get_url())).transpose()?;
    match store.filter(|store| store.cloud == Cloud::Web) {
        Some(store) => Err(Error::Write(format!(
            "{}: a web server is read from only: write a local file, or to s3://, gs:// or az://",
            store.shown(url.prefix())
        ))),
        None => Ok(()),
    }
}

/// DataFusion's own distinction.
fn is_file(copy: &CopyTo, url: &ListingTableUrl) -> bool {
    let said = copy.options.get("single_file_output").or_else(|| copy.options.get("format.single_file_output"));
    let is_file = match said.map(|said| said.trim()) {
        Some("true") => true,
        Some("false") => false,
        _ => !url.is_collection() && url.file_extension().is_some(),
    };
    is_file && copy.partition_by.is_empty()
}

fn is_special(name: &str) -> bool {
    name.contains(['?', '*', '[', ':'])
}

fn read_mode(mode: &str, target: &str, is_file: bool) -> std::result::Result<Mode, Error> {
    match mode.trim().to_lowercase().as_str() {
        "append" if is_file => Err(Error::Write(format!(
            "COPY to {target:?}: 'mode' 'append' is for folders; a file is replaced as a whole: name a folder ({target:?} with / at \
             its end)"
        ))),
        "append" => Ok(Mode::Append),
        "overwrite" => Ok(Mode::Overwrite),
        _ => Err(Error::Write(format!("COPY to {target:?}: 'mode' {mode:?} is not known (known: append, overwrite)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_without_its_secrets_is_no_other_statement() {
        let of = |secret: &str| recognisable(&format!("COPY t TO 's3://b/' OPTIONS ('aws.session_token' '{secret}')"));
        assert_eq!(of("hush"), of("hush"));
        assert_ne!(of("hush"), of("quiet"));
        assert!(of("hush").contains("'***'") && !of("hush").contains("hush"), "{}", of("hush"));
        // A plan is no SQL, and cut where that cannot be read.
        let plans = ["Filter: t.a = Utf8(\"it's\") AND x", "Filter: t.a = Utf8(\"it's\") AND y"];
        assert_ne!(recognisable(plans[0]), recognisable(plans[1]));
        assert_eq!(recognisable("COPY t TO 'out/'"), "COPY t TO 'out/'");
    }
}

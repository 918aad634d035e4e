//! What this program adds to COPY ... TO: vectors that cannot be written and targets that are no files are refused before
//! anything runs, and vectors are stored without a dictionary.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::{ListingTable, ListingTableUrl};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::{LogicalPlan, TableSource};

use super::failure::Failure;
use super::print::is_vector;
use super::staged::{Place, may_be_made_in, place, shown};

/// Checks every COPY of the plan and fills in its options.
pub(crate) fn prepare(plan: LogicalPlan) -> Result<LogicalPlan, Failure> {
    let mut refused = None;
    let is_run = !matches!(plan, LogicalPlan::Explain(_));
    // EXPLAIN has its COPY below it, hence the walk.
    let plan = plan.transform_down(|node| {
        let LogicalPlan::Copy(mut copy) = node else {
            return Ok(Transformed::no(node));
        };
        refused = refused.take().or(check_csv(&copy).err());
        if is_run {
            refused = refused.take().or(check_target(&copy).err());
        }
        store_vectors_without_dictionary(&mut copy);
        Ok(Transformed::yes(LogicalPlan::Copy(copy)))
    })?;
    match refused {
        Some(failure) => Err(failure),
        None => Ok(plan.data),
    }
}

/// DataFusion would find out at the first batch, after the model has run.
fn check_csv(copy: &CopyTo) -> Result<(), Failure> {
    if !copy.file_type.get_ext().eq_ignore_ascii_case("csv") {
        return Ok(());
    }
    let nested = copy.input.schema().fields().iter().find(|field| field.data_type().is_nested());
    let Some(field) = nested.map(|field| field.as_ref()) else {
        return Ok(());
    };
    let name = field.name();
    let (what, instead) = match field.data_type() {
        d if is_vector(d) => ("vector", "array_to_string(vector, ' ')"),
        d if is_list(d) => ("list", "array_to_string(list, ' ')"),
        _ => ("nested value", "its parts"),
    };
    Err(Failure::Statement(format!(
        "COPY: column \"{name}\" is a {what}, which a CSV file cannot hold: write parquet, arrow or json, or select {instead}"
    )))
}

/// DataFusion would find out at the end, after the model has run.
fn check_target(copy: &CopyTo) -> Result<(), Failure> {
    let Ok(url) = ListingTableUrl::parse(&copy.output_url) else {
        return Ok(());
    };
    let Ok(path) = url.get_url().to_file_path() else {
        return Ok(());
    };
    // DataFusion's own distinction.
    let is_file = copy.partition_by.is_empty() && !url.is_collection() && url.file_extension().is_some();
    let checked = match place(&path) {
        Ok(Place::Stream(_)) => Err(io::Error::other(
            "is a device, a pipe or an open descriptor, which no file can replace: write rows there by SELECT with --output",
        )),
        Ok(Place::File(target)) if is_file => may_be_made_in(target.parent().unwrap_or(&target)),
        Ok(_) => may_be_made_in(&path),
        Err(error) => Err(error),
    };
    checked.map_err(|problem| Failure::Statement(format!("COPY to {:?}: {problem}", copy.output_url)))
}

fn is_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _))
}

/// Turns dictionary encoding off for the vectors of a Parquet file, unless the statement says something about it.
///
/// The values of vectors hardly repeat: the writer would build a dictionary, give it up, and write plain pages anyway.
fn store_vectors_without_dictionary(copy: &mut CopyTo) {
    const OPTION: &str = "format.dictionary_enabled";
    if !copy.file_type.get_ext().eq_ignore_ascii_case("parquet") || copy.options.contains_key(OPTION) {
        return;
    }
    let fields = copy.input.schema().fields().clone();
    let vectors: Vec<String> = fields.iter().filter_map(|field| vector_leaf(field)).collect();
    // Dots separate the parts of a path, so the option of a column cannot say a name that has one: `embed(t.body)`.
    if vectors.iter().all(|leaf| leaf.matches('.').count() == 2) {
        for leaf in vectors {
            copy.options.entry(format!("{OPTION}::{leaf}")).or_insert_with(|| "false".to_owned());
        }
        return;
    }
    copy.options.insert(OPTION.to_owned(), "false".to_owned());
    let mut others = Vec::new();
    for field in fields.iter().filter(|field| vector_leaf(field).is_none()) {
        leaves(field, "", &mut others);
    }
    for leaf in others {
        copy.options.entry(format!("{OPTION}::{leaf}")).or_insert_with(|| "true".to_owned());
    }
}

/// Adds the paths of the values of a column in a Parquet file, where an option can say them.
fn leaves(field: &Field, parent: &str, found: &mut Vec<String>) {
    if field.name().contains('.') {
        return;
    }
    let path = format!("{parent}{}", field.name());
    match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            leaves(item, &format!("{path}.list."), found);
        }
        DataType::Map(entries, _) => leaves(entries, &format!("{path}."), found),
        DataType::Struct(fields) => fields.iter().for_each(|field| leaves(field, &format!("{path}."), found)),
        _ => found.push(path),
    }
}

/// The path of a vector's values in a Parquet file, where a list is a group of groups: `vector.list.item`.
fn vector_leaf(field: &Field) -> Option<String> {
    match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)
            if is_vector(field.data_type()) =>
        {
            Some(format!("{}.list.{}", field.name(), item.name()))
        }
        _ => None,
    }
}

/// Where a statement writes files: COPY to a local file or folder, INSERT into an external table, EXPLAIN ANALYZE of either.
#[derive(Debug)]
pub(crate) struct Target {
    /// What writes, for messages: `COPY to`.
    verb: &'static str,
    path: PathBuf,
}

impl Target {
    /// `None` for a plan that writes no local file. Reads the plan and nothing else.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<Self> {
        let mut target = None;
        // Below an EXPLAIN, hence the walk. It ends by no error, because the closure gives none.
        let _ = plan.apply(|node| {
            let found = match node {
                LogicalPlan::Copy(copy) => local_path(&copy.output_url).map(|path| ("COPY to", path)),
                LogicalPlan::Dml(dml) => {
                    let folder = locations(&dml.target).and_then(|found| found.into_iter().next());
                    folder.map(|path| ("INSERT into", path))
                }
                _ => None,
            };
            target = target.take().or(found);
            Ok(TreeNodeRecursion::Continue)
        });
        target.map(|(verb, path)| Self { verb, path })
    }

    /// `COPY to "vectors.parquet"`, for messages.
    pub(crate) fn statement(&self) -> String {
        format!("{} {:?}", self.verb, self.path())
    }

    /// The path as people know it.
    pub(crate) fn path(&self) -> String {
        shown(&self.path)
    }
}

/// The path of a local file or folder, as DataFusion reads it from a statement.
fn local_path(url: &str) -> Option<PathBuf> {
    let url = ListingTableUrl::parse(url).ok()?;
    url.get_url().to_file_path().ok()
}

/// Where the files of a table are; `None` for a table without files.
fn locations(table: &Arc<dyn TableSource>) -> Option<Vec<PathBuf>> {
    let provider = source_as_provider(table).ok()?;
    let table = provider.downcast_ref::<ListingTable>()?;
    table.table_paths().iter().map(|path| path.get_url().to_file_path().ok()).collect()
}

/// The file that the plan reads, if all it reads is one file: errors about its bytes do not name it.
pub(crate) fn only_file(plan: &LogicalPlan) -> Option<String> {
    let mut read = BTreeSet::new();
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            read.extend(locations(&scan.source).into_iter().flatten());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    let file = read.pop_first().filter(|file| read.is_empty() && file.is_file())?;
    Some(shown(&file))
}

//! What this program adds to COPY ... TO: vectors that cannot be written are refused before anything is, vectors are
//! stored without a dictionary, and an abandoned COPY leaves no staging file.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::dml::CopyTo;

use crate::error::Failure;
use crate::print::is_vector;

/// Checks every COPY of the plan and fills in its options.
pub(crate) fn prepare(plan: LogicalPlan) -> Result<LogicalPlan, Failure> {
    // EXPLAIN has its COPY below it, hence the walk.
    let mut refused = None;
    let plan = plan.transform_down(|node| {
        let LogicalPlan::Copy(mut copy) = node else {
            return Ok(Transformed::no(node));
        };
        refused = refused.take().or(check_csv(&copy).err());
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
    for field in copy.input.schema().fields() {
        if let Some(leaf) = vector_leaf(field) {
            copy.options.entry(format!("{OPTION}::{leaf}")).or_insert_with(|| "false".to_owned());
        }
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

/// The staging files of a COPY to a local file or folder.
///
/// object_store writes `vectors.parquet` as `vectors.parquet#1` and renames it at the end, so what bears the final name is
/// always whole. It removes the staging file itself when a COPY fails; only when the program ends while a thread
/// is still inside the model may nobody be left to do it.
#[derive(Debug)]
pub(crate) struct Staging {
    target: PathBuf,
    /// Staging files of others: they are not ours to remove.
    before: BTreeSet<PathBuf>,
}

impl Staging {
    /// Call before the COPY runs. `None` for a plan that writes no local file.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<Self> {
        let LogicalPlan::Copy(copy) = plan else {
            return None;
        };
        let path = copy.output_url.strip_prefix("file://").unwrap_or(&copy.output_url);
        if path.contains("://") {
            return None;
        }
        let target = std::path::absolute(path).ok()?;
        let before = staging_files(&target);
        Some(Self { target, before })
    }

    /// After a failure at the end of the program: waits a moment for object_store to clean up, then does it itself.
    pub(crate) fn clean_up(&self) {
        let deadline = Instant::now() + Duration::from_millis(200);
        loop {
            let left = staging_files(&self.target);
            let mut ours = left.difference(&self.before).peekable();
            if ours.peek().is_none() {
                return;
            }
            if Instant::now() >= deadline {
                for file in ours {
                    let _ = fs::remove_file(file);
                }
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Files named `<target>#<number>`, and those named `<anything>#<number>` in the folder `target`.
fn staging_files(target: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let name = target.file_name().unwrap_or_default();
    if let Some(folder) = target.parent() {
        found.extend(files(folder).filter(|file| staged_name(file).is_some_and(|staged| OsStr::new(staged) == name)));
    }
    // PARTITIONED BY writes into folders of folders.
    let mut folders = vec![target.to_owned()];
    while let Some(folder) = folders.pop() {
        for file in files(&folder) {
            if fs::symlink_metadata(&file).is_ok_and(|m| m.is_dir()) {
                folders.push(file);
            } else if staged_name(&file).is_some() {
                found.insert(file);
            }
        }
    }
    found
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The name that a staging file will bear: what comes before `#<number>`.
fn staged_name(file: &Path) -> Option<&str> {
    let (name, number) = file.file_name()?.to_str()?.rsplit_once('#')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

//! What this program adds to COPY ... TO: vectors that cannot be written are refused before anything is, vectors are
//! stored without a dictionary, and an abandoned COPY leaves no staging file.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::{LogicalPlan, TableSource};

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

/// The files that a statement writes: COPY to a local file or folder, INSERT into an external table, EXPLAIN ANALYZE of
/// either.
///
/// object_store writes `vectors.parquet` as `vectors.parquet#1` and renames it at the end, so what bears the final name is
/// always whole. It removes the staging file itself when a COPY fails; only when the program ends while a thread
/// is still inside the model may nobody be left to do it.
#[derive(Debug)]
pub(crate) struct Staging {
    /// What writes, for messages: `COPY to`.
    verb: &'static str,
    targets: Vec<PathBuf>,
    /// Files of others: they are not ours to remove.
    before: BTreeSet<PathBuf>,
}

impl Staging {
    /// Call before the statement runs. `None` for a plan that writes no local file.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<Self> {
        let mut targets = Vec::new();
        let mut verb = "COPY to";
        // Below an EXPLAIN, hence the walk. It ends by no error, because the closure gives none.
        let _ = plan.apply(|node| {
            match node {
                LogicalPlan::Copy(copy) => targets.extend(local_path(&copy.output_url)),
                LogicalPlan::Dml(dml) => {
                    verb = "INSERT into";
                    targets.extend(locations(&dml.target).into_iter().flatten());
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        });
        targets.iter().flat_map(|target| files_of(target)).filter(|file| is_left_over(file)).for_each(|file| {
            let _ = fs::remove_file(file);
        });
        let before = targets.iter().flat_map(|target| files_of(target)).collect();
        (!targets.is_empty()).then_some(Self { verb, targets, before })
    }

    /// `COPY to "vectors.parquet"`, for messages.
    pub(crate) fn statement(&self) -> String {
        format!("{} {:?}", self.verb, self.target())
    }

    /// The path as people know it.
    pub(crate) fn target(&self) -> String {
        self.targets.first().map(|target| shown(target)).unwrap_or_default()
    }

    /// After a failure: the finished files that this statement, or somebody at the same time, has left.
    ///
    /// They stay where they are. A COPY into a folder names its files at random, so nothing says whose they are.
    pub(crate) fn left(&self) -> Vec<String> {
        let now: BTreeSet<PathBuf> = self.targets.iter().flat_map(|target| files_of(target)).collect();
        now.difference(&self.before).filter(|file| staged_name(file).is_none()).map(|file| shown(file)).collect()
    }

    /// After a failure at the end of the program: waits a moment for object_store to clean up, then does it itself.
    pub(crate) fn clean_up(&self) {
        let deadline = Instant::now() + Duration::from_millis(200);
        loop {
            let files = self.targets.iter().flat_map(|target| files_of(target));
            let mut ours = files.filter(|file| staged_name(file).is_some() && !self.before.contains(file)).peekable();
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

/// Whether a file is the staging file of a process that was killed: no process has it open, and it is not quite new.
fn is_left_over(file: &Path) -> bool {
    const QUITE_NEW: Duration = Duration::from_secs(10);
    let age = || fs::metadata(file).ok()?.modified().ok()?.elapsed().ok();
    staged_name(file).is_some() && age().is_some_and(|age| age > QUITE_NEW) && is_open(file) == Some(false)
}

/// Whether one of this user's processes has a file open; `None` where the system does not tell.
#[cfg(target_os = "linux")]
fn is_open(file: &Path) -> Option<bool> {
    let file = fs::canonicalize(file).ok()?;
    let mut open = files(Path::new("/proc")).flat_map(|process| files(&process.join("fd")));
    Some(open.any(|handle| fs::read_link(handle).is_ok_and(|opened| opened == file)))
}

#[cfg(not(target_os = "linux"))]
fn is_open(_: &Path) -> Option<bool> {
    None
}

/// A path without the folder we are in.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// The absolute path of a local file or folder.
fn local_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    (!path.contains("://")).then(|| std::path::absolute(path).ok()).flatten()
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

/// The file `target` and its staging files `<target>#<number>`, or all files of the folder `target`.
fn files_of(target: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let name = target.file_name().unwrap_or_default();
    if let Some(folder) = target.parent() {
        found.extend(files(folder).filter(|file| staged_name(file).is_some_and(|staged| OsStr::new(staged) == name)));
    }
    if target.is_file() {
        found.insert(target.to_owned());
    }
    // PARTITIONED BY writes into folders of folders.
    let mut folders = vec![target.to_owned()];
    while let Some(folder) = folders.pop() {
        for file in files(&folder) {
            match fs::symlink_metadata(&file).is_ok_and(|m| m.is_dir()) {
                true => folders.push(file),
                false => _ = found.insert(file),
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

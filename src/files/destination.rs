//! Where a statement writes files, and which it reads: seen from its plan, and nothing is changed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::ListingTableUrl;
#[cfg(feature = "cluster")]
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, TableSource};
use url::Url;

use super::reading::listing_table;
#[cfg(feature = "cluster")]
use super::stores::{Address, shown_store};
use super::target::{normal, shown};
use crate::error::Error;

/// Where a statement writes files: COPY to a local file or folder, INSERT into an external table, EXPLAIN ANALYZE of either.
#[derive(Debug)]
pub struct Destination {
    /// What writes, for messages: `COPY to`.
    verb: &'static str,
    path: PathBuf,
}

impl Destination {
    /// `None` for a plan that writes no local file. Reads the plan and nothing else.
    pub fn of(plan: &LogicalPlan) -> Option<Self> {
        let mut destination = None;
        // Below an EXPLAIN, hence the walk. It ends by no error, because the closure gives none.
        let _ = plan.apply(|node| {
            destination = destination.take().or_else(|| Self::of_node(node));
            Ok(TreeNodeRecursion::Continue)
        });
        destination
    }

    fn of_node(node: &LogicalPlan) -> Option<Self> {
        match node {
            LogicalPlan::Copy(copy) => Some(Self { verb: "COPY to", path: local_path(&copy.output_url)? }),
            LogicalPlan::Dml(dml) => {
                Some(Self { verb: "INSERT into", path: locations(&dml.target)?.into_iter().next()? })
            }
            _ => None,
        }
    }

    /// `COPY to "vectors.parquet"`, for messages.
    pub fn statement(&self) -> String {
        format!("{} {:?}", self.verb, self.path())
    }

    /// The path as people know it.
    pub fn path(&self) -> String {
        shown(&self.path)
    }
}

/// The path of a local file or folder that COPY writes.
fn local_path(name: &str) -> Option<PathBuf> {
    copy_url(name).ok()?.get_url().to_file_path().ok()
}

/// What COPY writes: the name means itself. DataFusion (55.2) takes `[v2].csv` for a pattern and `a:b.csv` for the address of a
/// store, and would write a file of another name, or none.
pub(super) fn copy_url(name: &str) -> Result<ListingTableUrl> {
    if name.contains("://") || !name.contains(['?', '*', '[', ':']) {
        return ListingTableUrl::parse(name);
    }
    let path = normal(&std::path::absolute(name)?);
    let is_folder = name.ends_with('/') || path.is_dir();
    let url = if is_folder { Url::from_directory_path(&path) } else { Url::from_file_path(&path) };
    let url = url.map_err(|()| Error::Write(format!("COPY to {name:?}: is no path")))?;
    ListingTableUrl::try_new(url, None)
}

/// Where the files of a table are; `None` for a table without files.
fn locations(table: &Arc<dyn TableSource>) -> Option<Vec<PathBuf>> {
    let provider = source_as_provider(table).ok()?;
    let table = listing_table(provider.as_ref())?;
    table.table_paths().iter().map(|path| path.get_url().to_file_path().ok()).collect()
}

/// What of a scan is known in this session alone: the query of an address, or what OPTIONS say of its store.
#[cfg(feature = "cluster")]
pub(crate) fn known_here_only(scan: &FileScanConfig) -> Option<String> {
    let store: &Url = scan.object_store_url.as_ref();
    let mut files = scan.file_groups.iter().flat_map(|group| group.files());
    let has_query =
        store.scheme().starts_with("http") && files.any(|file| Address::split_key(&file.object_meta.location).1);
    match (store.password(), has_query) {
        (Some(_), _) => Some(format!("OPTIONS about {}", shown_store(store))),
        (None, true) => Some(format!("the query of an address at {}", shown_store(store))),
        (None, false) => None,
    }
}

/// The file that the plan reads, if all it reads is one file: errors about its bytes do not name it.
pub fn only_file(plan: &LogicalPlan) -> Option<String> {
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

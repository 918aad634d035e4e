//! What lies in a folder beside its data: the mark of what is complete, and a list for each run that is not.
//!
//! | name | what |
//! |---|---|
//! | `embedsql-<id>_0.parquet`, `topic=a/embedsql-<id>.parquet` | data of the run of this id |
//! | `_embedsql-<id>.run` | the run's list ([`List`]): there from before its first file until after the mark |
//! | `_SUCCESS` | the mark ([`Mark`]): the runs that are complete, and the files of the folder |
//!
//! Readers pass over names that begin with `_`. The id is 16 digits at random, new for each run.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use datafusion::object_store::path::Path;
use datafusion::object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, Result};
use serde::{Deserialize, Serialize};

use super::writer::{Writer, digest};

/// The name of the mark, the one that Spark and Hadoop use.
pub(super) const MARK: &str = "_SUCCESS";

const RUN: &str = "embedsql-";
const DIGITS: usize = 16;
const LIST: &str = ".run";

/// What makes the files of one run of a statement known: `embedsql-` and 16 digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct RunId(String);

impl RunId {
    /// One that nobody has had.
    pub(super) fn new(writer: &Writer) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let random = RandomState::new().hash_one(count);
        let parts = [u64::from(writer.process), writer.start, count, now.as_nanos() as u64, random];
        let parts = parts.map(u64::to_le_bytes);
        Self(format!("{RUN}{}", digest(&[writer.machine.as_bytes(), parts.concat().as_slice()])))
    }

    /// The id in the name of a file: of data, of a list, or of either before it has its name.
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = name.trim_start_matches(['.', '_']);
        let (digits, rest) = name.strip_prefix(RUN)?.split_at_checked(DIGITS)?;
        let is_digits = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (is_digits && rest.starts_with(['_', '.'])).then(|| Self(format!("{RUN}{digits}")))
    }

    /// The name of a file of this run, or of a part of it, where DataFusion has made up `name` for it: 16 letters and digits, and
    /// a number.
    pub(super) fn name(&self, name: &str, part: Option<u64>) -> Option<String> {
        let (random, rest) = name.split_at_checked(DIGITS)?;
        let is_random = random.bytes().all(|b| b.is_ascii_alphanumeric()) && rest.starts_with(['_', '.']);
        let part = part.map(|part| format!("_{part:05}")).unwrap_or_default();
        is_random.then(|| format!("{}{part}{rest}", self.0))
    }

    /// As plans have it.
    #[cfg(feature = "cluster")]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of this run's list.
    pub(super) fn list(&self) -> String {
        format!("_{}{LIST}", self.0)
    }

    /// The names of this run's files, for people.
    pub(super) fn files(&self) -> String {
        format!("{}*", self.0)
    }
}

/// Whether this is the name of a run's list.
pub(super) fn is_list(name: &str) -> bool {
    name.starts_with('_') && name.ends_with(LIST) && RunId::of(name).is_some_and(|run| run.list() == name)
}

/// What a statement does with the data that is in its folder already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// There must be none.
    New,
    /// It stays.
    Append,
    /// It goes when all new files are there.
    Overwrite,
}

/// What a run says of itself before it writes its first file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct List {
    pub(super) run: RunId,
    pub(super) writer: Writer,
    pub(super) statement: String,
    pub(super) target: String,
    pub(super) mode: Mode,
    /// What goes when this run is complete.
    pub(super) replaces: Vec<Replaced>,
}

/// A file that goes, unless it is another one by then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Replaced {
    /// Below the folder.
    pub(super) file: String,
    size: u64,
    /// Seconds since 1970.
    modified: i64,
    /// What the store calls this content, if anything.
    etag: Option<String>,
}

impl Replaced {
    /// `None` for what does not lie below the folder.
    pub(super) fn of(folder: &Path, meta: &ObjectMeta) -> Option<Self> {
        let file = below(folder, &meta.location)?.to_owned();
        let modified = meta.last_modified.timestamp();
        Some(Self { file, size: meta.size, modified, etag: etag(meta) })
    }

    /// Whether this is the same file with the same content. Some stores tell the time of a file in a listing more exactly than
    /// when they are asked for the file.
    pub(super) fn is(&self, other: &Self) -> bool {
        let is_same = match (&self.etag, &other.etag) {
            (Some(etag), Some(other)) => etag == other,
            _ => self.modified == other.modified,
        };
        is_same && self.file == other.file && self.size == other.size
    }
}

/// What a store calls the content of a file: in a listing some leave out the quotes that they have elsewhere.
pub(super) fn etag(meta: &ObjectMeta) -> Option<String> {
    meta.e_tag.as_deref().map(|etag| etag.trim_matches('"').to_owned())
}

/// What a folder says of itself when an export into it is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The complete runs, in the order in which they were.
    pub(super) runs: Vec<RunId>,
    /// The files that are data, below the folder.
    pub(super) files: BTreeSet<String>,
}

impl Mark {
    /// `None` where there is no mark, or one that somebody else has made.
    pub(super) async fn read(store: &dyn ObjectStore, folder: &Path) -> Result<Option<Self>> {
        let bytes = read(store, &folder.clone().join(MARK)).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

impl List {
    /// `None` where there is none. One that cannot be read says nothing but that its run is not complete.
    pub(super) async fn read(store: &dyn ObjectStore, location: &Path) -> Result<Option<Self>> {
        Ok(read(store, location).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

async fn read(store: &dyn ObjectStore, location: &Path) -> Result<Option<Vec<u8>>> {
    match store.get(location).await {
        Ok(found) => Ok(Some(found.bytes().await?.to_vec())),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path of a file from its folder.
pub(super) fn below<'a>(folder: &Path, file: &'a Path) -> Option<&'a str> {
    let rest = file.as_ref().strip_prefix(folder.as_ref())?;
    if folder.as_ref().is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// The folder of a file.
pub(super) fn parent(file: &Path) -> Path {
    Path::parse(file.as_ref().rsplit_once('/').map_or("", |(folder, _)| folder)).unwrap_or_default()
}

/// The lists of a folder and what they say of its files.
struct Runs {
    folder: Path,
    mark: Mark,
    lists: BTreeMap<RunId, Option<List>>,
}

impl Runs {
    async fn read(store: &dyn ObjectStore, folder: Path, lists: Vec<Path>) -> Result<Self> {
        let mut read = BTreeMap::new();
        for location in lists {
            let Some(run) = location.filename().and_then(RunId::of) else { continue };
            read.insert(run, List::read(store, &location).await?);
        }
        // After the lists: a run that is complete by now has its mark.
        let mark = Mark::read(store, &folder).await?.unwrap_or_default();
        Ok(Self { folder, mark, lists: read })
    }

    /// Whether a file of this folder is data, as far as these runs can tell.
    fn counts(&self, file: &ObjectMeta) -> bool {
        let Some(name) = file.location.filename().filter(|_| below(&self.folder, &file.location).is_some()) else {
            return true;
        };
        let is_complete = |run: &RunId| self.mark.runs.contains(run);
        if RunId::of(name).is_some_and(|run| self.lists.contains_key(&run) && !is_complete(&run)) {
            return false;
        }
        let replaced = Replaced::of(&self.folder, file);
        let mut complete = self.lists.values().flatten().filter(|list| is_complete(&list.run));
        !complete
            .any(|list| list.replaces.iter().any(|file| replaced.as_ref().is_some_and(|replaced| replaced.is(file))))
    }
}

/// Leaves in a listing of `prefix` the files that count as data: not those of a run that has a list and no mark, and not
/// those that a complete run has replaced and not removed yet, nor lists and marks.
///
/// A file that carries the id of a run without a list is data: its folder was copied, or is complete.
pub async fn counts_as_data(
    store: &dyn ObjectStore,
    prefix: Option<&Path>,
    mut files: Vec<ObjectMeta>,
) -> Result<Vec<ObjectMeta>> {
    let mut lists: BTreeMap<Path, Vec<Path>> = BTreeMap::new();
    let found = files.iter().map(|file| file.location.clone());
    let mut found: Vec<Path> = found.filter(|file| file.filename().is_some_and(is_list)).collect();
    // The listing of one partition: lists are in the folder above.
    let mut folder = prefix.cloned().unwrap_or_default();
    while folder.filename().is_some_and(|name| name.contains('=')) {
        folder = parent(&folder);
        let above = store.list_with_delimiter(Some(&folder)).await?.objects.into_iter().map(|file| file.location);
        found.extend(above.filter(|file| file.filename().is_some_and(is_list)));
    }
    for list in found {
        lists.entry(parent(&list)).or_default().push(list);
    }
    for (folder, lists) in lists {
        let runs = Runs::read(store, folder, lists).await?;
        files.retain(|file| runs.counts(file));
    }
    files.retain(|file| !file.location.filename().is_some_and(|name| name == MARK || is_list(name)));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_from_the_names_of_its_files_and_nothing_else_is() {
        let run = RunId::new(Writer::this());
        assert_ne!(run, RunId::new(Writer::this()));
        let part = run.name("rT4zKXUd3Jq0Sg1b_0.parquet", Some(7)).expect("DataFusion's");
        assert!(part.ends_with("_00007_0.parquet") && RunId::of(&part).as_ref() == Some(&run), "{part}");
        let name = run.name("rT4zKXUd3Jq0Sg1b_12.csv.gz", None).expect("DataFusion's");
        assert!(name.ends_with("_12.csv.gz"));
        assert_eq!(run.name("rT4zKXUd3Jq0Sg1b.parquet", None).as_deref().and_then(RunId::of).as_ref(), Some(&run));
        for name in [&name, &run.list(), &format!(".{name}.embedsql-x-y.part")] {
            assert_eq!(RunId::of(name).as_ref(), Some(&run), "{name}");
        }
        assert!(is_list(&run.list()) && !is_list(&name) && !is_list(MARK));
        for other in ["embedsql-0123.parquet", "embedsql-0123456789abcdeX_0.parquet", "embedsql-0123456789abcdef", "x"]
        {
            assert_eq!(RunId::of(other), None, "{other}");
        }
        for other in ["v.parquet", "0123456789abcde", "0123456789abcdefg.parquet", "0123456789abcd-f_0.csv"] {
            assert_eq!(run.name(other, None), None, "{other}");
        }
    }
}

//! One run of a statement that writes into a folder: it is complete when its mark is there, and counts for nothing before.
//!
//! A folder has no rename that would show all files of an export at once, and a store has none at all. So a run says first what
//! it is about to do, and last that it is done; names and contents are in `marks.rs`. Nothing here needs more of a store than to
//! put, get, list and delete objects.
//!
//! | step | what is done | killed after it | the next run of the statement |
//! |---|---|---|---|
//! | 0 | the folder is looked at: unfinished runs of this statement go, data is refused, kept, or noted as what goes | nothing is there | begins |
//! | 1 | the list `_embedsql-<id>.run` is written: id, writer, statement, target, and what goes | the list | removes the list, begins |
//! | 2 | data is written, each file whole under its final name, which has the id | the list, some files | removes those files, then the list, begins |
//! | 3 | the mark `_SUCCESS` is written in the place of the old one, with the id and the files of the folder | all; the old data too | (`overwrite`) removes what the list says, then the list, begins; (none) removes the list, refuses: the export is there |
//! | 4 | what goes, goes: a file that is no longer the one on the list stays, with a warning | all; some of the old data | as after 3 |
//! | 5 | the list goes | all | (`overwrite`) begins; (none) refuses |
//!
//! Our own reads count no file of a run that has a list and no mark, and no file that a list with a mark says is to go
//! ([`counts_as_data`]): they see the old data up to step 3, and the new from then on. Other programs see files as they come: new
//! ones beside old ones from step 2 to step 4, which an empty folder or a wait for the mark avoids. All pass over names that begin
//! with `_`.
//!
//! What fails or is stopped before step 3 removes its files, and then its list. What a killed run has left is removed by the next
//! run of the same text with the same target, and only once its process has ended beyond doubt (`writer.rs`; a local list is
//! locked as long as its writer lives, a store has no locks and is content that the process is gone from this machine). All
//! else stays and is named in a warning.
//!
//! Two runs at once, or more: each has an id and files of its own, and adds itself to the mark that it finds. Where one
//! writes over the mark of another, that one sees it missing and adds itself again; should it be too late for that, its
//! list is gone, and files with an id but without a list are data. A run that must find no data looks again before step 3.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::{self, File};
use std::sync::Arc;

use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStoreExt, Result};
use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::below::{Below, failed};
use super::marks::{List, MARK, Mark, Mode, Replaced, RunId, below, counts_as_data, is_list};
use super::reading::is_hidden;
use super::staged::Doubtful;
use super::writer::{State, Writer};
use super::writes::{Begun, Unfinished, Writes, ended};
use crate::error::Error;

/// How often a run adds itself to a mark that others write too.
const MOST_TRIES: usize = 10;

/// A folder of a store, and which of the files there a statement takes for data.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) below: Below,
    pub(super) root: Path,
    /// How names of data end, in lower case.
    pub(super) endings: Vec<String>,
    /// Whether files below subfolders are read too that are no partitions.
    pub(super) subfolders: bool,
}

/// What is to be done there, and by which statement.
#[derive(Debug, Clone)]
pub(super) struct Work {
    /// `COPY to "out/"`, for messages.
    pub(super) title: String,
    pub(super) statement: String,
    pub(super) target: String,
    pub(super) mode: Mode,
}

/// What is in a folder.
struct Found {
    /// Every file that a read of the folder could come across, lists and all.
    files: Vec<ObjectMeta>,
    mark: Mark,
}

impl Folder {
    async fn look(&self) -> Result<Found> {
        let store = self.below.store();
        let mut files = Vec::new();
        if matches!(self.below, Below::Local(_)) && !self.subfolders {
            // Other subfolders may be as large as a disk.
            let mut folders = vec![self.root.clone()];
            while let Some(folder) = folders.pop() {
                let level = store.list_with_delimiter(Some(&folder)).await?;
                files.extend(level.objects);
                folders.extend(level.common_prefixes.into_iter().filter(is_partition));
            }
        } else {
            let listed: Vec<ObjectMeta> = store.list(Some(&self.root)).try_collect().await?;
            files.extend(listed.into_iter().filter(|file| self.subfolders || self.is_in_partition(&file.location)));
        }
        files.sort_by(|a, b| a.location.cmp(&b.location));
        let mark = Mark::read(store, &self.root).await?.unwrap_or_default();
        Ok(Found { files, mark })
    }

    fn is_in_partition(&self, file: &Path) -> bool {
        let mut folders = below(&self.root, file).unwrap_or_default().split('/').rev().skip(1);
        folders.all(|folder| folder.contains('='))
    }

    /// The files that are data of the statement's format.
    async fn data(&self, found: &Found) -> Result<Vec<ObjectMeta>> {
        let mut data = counts_as_data(self.below.store(), Some(&self.root), found.files.clone()).await?;
        data.retain(|file| file.location.filename().is_some_and(|name| self.is_data(name)));
        Ok(data)
    }

    fn is_data(&self, name: &str) -> bool {
        let lower = name.to_lowercase();
        !is_hidden(name, false) && self.endings.iter().any(|ending| lower.ends_with(ending))
    }

    fn at(&self, file: &str) -> Path {
        let root = self.root.as_ref();
        let path = if root.is_empty() { file.to_owned() } else { format!("{root}/{file}") };
        Path::parse(&path).unwrap_or_else(|_| Path::from(path))
    }

    /// Whether a local file lies in this folder, and not where a link leads out of it: such a file is not removed.
    fn has(&self, file: &Path) -> bool {
        let real = |path: &Path| self.below.file(path).and_then(|path| fs::canonicalize(path).ok());
        match (&self.below, real(&self.root), real(&super::marks::parent(file))) {
            (Below::Local(_), Some(root), Some(folder)) => folder.starts_with(root),
            (Below::Local(_), ..) => false,
            (Below::Other(..), ..) => true,
        }
    }

    /// Removes what a complete run has replaced; gives what is another file by now, and stays.
    async fn remove(&self, replaced: &[Replaced]) -> Result<Vec<Doubtful>> {
        let mut doubtful = Vec::new();
        for old in replaced {
            let location = self.at(&old.file);
            match self.below.store().head(&location).await {
                Ok(now) if Replaced::of(&self.root, &now).is_some_and(|now| now.is(old)) => {
                    self.below.remove(&location).await?;
                }
                Ok(_) => doubtful.push(Doubtful::new(
                    format!("file {:?}", self.below.name(&location)),
                    "it was to be replaced, and was changed meanwhile".to_owned(),
                )),
                Err(datafusion::object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(doubtful)
    }

    /// Ends what killed runs of the same statement have left, and gives what stays of others.
    async fn tidy(&self, work: &Work, found: &Found) -> Result<Vec<Doubtful>> {
        let mut doubtful = Vec::new();
        for location in found.files.iter().map(|file| &file.location) {
            let name = location.filename().unwrap_or_default();
            let Some(run) = RunId::of(name).filter(|_| is_list(name)) else { continue };
            if location != &self.root.clone().join(name) {
                continue;
            }
            let Some(list) = List::read(self.below.store(), location).await? else {
                doubtful.push(self.stays(&run, format!("its list {:?} cannot be read", self.below.name(location))));
                continue;
            };
            let writer = &list.writer;
            match writer.state(self.below.file(location).as_deref()) {
                State::Running => {}
                State::Unknown => doubtful.push(self.stays(&run, writer.doubt())),
                State::Ended if list.statement != work.statement || list.target != work.target => {
                    doubtful.push(self.stays(&run, "the same statement, run again, ends it".to_owned()));
                }
                State::Ended if found.mark.runs.contains(&run) => {
                    doubtful.extend(self.remove(&list.replaces).await?);
                    self.below.remove(location).await?;
                }
                State::Ended => {
                    let of_run =
                        |file: &&ObjectMeta| file.location.filename().and_then(RunId::of).as_ref() == Some(&run);
                    for file in found.files.iter().filter(of_run).filter(|file| &file.location != location) {
                        self.below.remove(&file.location).await?;
                    }
                    self.below.remove(location).await?;
                }
            }
        }
        Ok(doubtful)
    }

    fn stays(&self, run: &RunId, why: String) -> Doubtful {
        let files = format!("{}/{}", self.below.name(&self.root), run.files());
        Doubtful::new(format!("unfinished export {files:?}"), why)
    }
}

fn is_partition(folder: &Path) -> bool {
    folder.filename().is_some_and(|name| name.contains('='))
}

/// A run between its list and its mark.
#[derive(Debug)]
pub(super) struct Run {
    folder: Folder,
    work: Work,
    list: List,
    files: Arc<RunFiles>,
    begun: Begun,
    writes: Writes,
    /// Open for the lock that says that the writer lives.
    _lock: Option<File>,
}

impl Run {
    /// Steps 0 and 1.
    pub(super) async fn begin(folder: Folder, work: Work, writes: &Writes) -> datafusion::error::Result<Self> {
        let epoch = writes.epoch();
        let found = folder.look().await?;
        writes.add_doubtful(folder.tidy(&work, &found).await?);
        let data = folder.data(&folder.look().await?).await?;
        if work.mode == Mode::New {
            refuse(&folder, &work, &data)?;
        }
        let replaces = match work.mode {
            Mode::Overwrite => replaced(&folder, &work, &data)?,
            _ => Vec::new(),
        };
        let writer = Writer::this().clone();
        let run = RunId::new(&writer);
        let (statement, target) = (work.statement.clone(), work.target.clone());
        let list = List { run, writer, statement, target, mode: work.mode, replaces };
        Ok(Self::write_list(folder, work, list, writes, epoch).await?)
    }

    async fn write_list(folder: Folder, work: Work, list: List, writes: &Writes, epoch: u64) -> Result<Self> {
        let location = folder.root.clone().join(list.run.list());
        if let Some(file) = folder.below.file(&location) {
            writes.make_folders(&file).map_err(|error| failed(&folder.below.name(&location), error.to_string()))?;
        }
        let bytes = json(&list)?;
        let files = RunFiles {
            below: folder.below.clone(),
            list: location.clone(),
            runtime: Handle::current(),
            writes: writes.clone(),
            state: Mutex::default(),
        };
        // Before it is there, so that it goes with the statement whenever that is stopped.
        let (files, (), begun) = writes.enter(epoch, |_| Ok((files, ())))?;
        let lock = folder.below.put(&location, bytes).await?;
        Ok(Self { folder, work, list, files, begun, writes: writes.clone(), _lock: lock })
    }

    /// Whose files these are.
    pub(super) fn id(&self) -> &RunId {
        &self.list.run
    }

    /// The files of step 2.
    pub(super) fn files(&self) -> &Arc<RunFiles> {
        &self.files
    }

    /// Removes the files of this run that are not among those that it has completed.
    #[cfg(feature = "cluster")]
    pub(super) async fn remove_others(&self) -> Result<()> {
        let done = self.files.done();
        for file in self.folder.look().await?.files.into_iter().map(|file| file.location) {
            let name = file.filename().unwrap_or_default();
            if RunId::of(name).as_ref() == Some(self.id()) && !is_list(name) && !done.contains(&file) {
                self.folder.below.remove(&file).await?;
            }
        }
        Ok(())
    }

    /// Steps 3 to 5.
    pub(super) async fn complete(self) -> datafusion::error::Result<()> {
        self.begun.check()?;
        if self.work.mode == Mode::New {
            let mut data = self.folder.data(&self.folder.look().await?).await?;
            data.retain(|file| file.location.filename().and_then(RunId::of).as_ref() != Some(self.id()));
            refuse(&self.folder, &self.work, &data)?;
        }
        self.write_mark().await?;
        self.writes.add_doubtful(self.remove_replaced().await?);
        self.remove_list().await?;
        Ok(())
    }

    /// Step 3. From here on nothing of the run is removed: whether the mark is there, nobody knows while it is written.
    async fn write_mark(&self) -> Result<()> {
        self.files.seal()?;
        let location = self.folder.root.clone().join(MARK);
        for _ in 0..MOST_TRIES {
            let mark = self.mark(&self.folder.look().await?).await?;
            self.folder.below.put(&location, json(&mark)?).await?;
            let now = Mark::read(self.folder.below.store(), &self.folder.root).await?;
            if now.is_some_and(|mark| mark.runs.contains(self.id())) {
                break;
            }
        }
        Ok(())
    }

    /// The mark that is there with this run in it.
    async fn mark(&self, found: &Found) -> Result<Mark> {
        let path = |file: &ObjectMeta| below(&self.folder.root, &file.location).map(str::to_owned);
        let there: BTreeSet<String> = found.files.iter().filter_map(path).collect();
        let mut files: BTreeSet<String> = found.mark.files.intersection(&there).cloned().collect();
        files.extend(self.folder.data(found).await?.iter().filter_map(path));
        for old in &self.list.replaces {
            files.remove(&old.file);
        }
        files.extend(self.files.done().iter().filter_map(|file| below(&self.folder.root, file).map(str::to_owned)));
        let of = |name: &String| RunId::of(name.rsplit('/').next().unwrap_or(name));
        let with_files: BTreeSet<RunId> =
            files.iter().chain(there.iter().filter(|name| is_list(name))).filter_map(of).collect();
        let mut runs = found.mark.runs.clone();
        runs.retain(|run| with_files.contains(run) && run != self.id());
        runs.push(self.id().clone());
        Ok(Mark { runs, files })
    }

    /// Step 4.
    async fn remove_replaced(&self) -> Result<Vec<Doubtful>> {
        self.folder.remove(&self.list.replaces).await
    }

    /// Step 5.
    async fn remove_list(&self) -> Result<()> {
        self.folder.below.remove(&self.files.list).await
    }
}

fn json(what: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(what).map_err(|error| failed("list", error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// An error if there is data in the folder.
fn refuse(folder: &Folder, work: &Work, data: &[ObjectMeta]) -> std::result::Result<(), Error> {
    let Some(first) = data.first() else { return Ok(()) };
    let files = if data.len() == 1 { "a data file".to_owned() } else { format!("{} data files", data.len()) };
    Err(Error::Write(format!(
        "{}: the folder holds {files}, such as {:?}: add OPTIONS ('mode' 'append') to keep them, or OPTIONS ('mode' \
         'overwrite') to replace them",
        work.title,
        folder.below.name(&first.location),
    )))
}

/// What goes when the run is complete.
fn replaced(folder: &Folder, work: &Work, data: &[ObjectMeta]) -> std::result::Result<Vec<Replaced>, Error> {
    if let Some(file) = data.iter().find(|file| !folder.has(&file.location)) {
        let name = folder.below.name(&file.location);
        return Err(Error::Write(format!(
            "{}: {name:?} lies behind a link, and is not removed: move it away",
            work.title
        )));
    }
    Ok(data.iter().filter_map(|file| Replaced::of(&folder.root, file)).collect())
}

/// Remembers which files are completed.
pub(super) trait Record: Debug + Send + Sync {
    /// A file is about to be completed.
    ///
    /// # Errors
    ///
    /// If it may not be any more.
    fn enter(&self, file: Path) -> Result<()>;

    /// It was, or not.
    fn leave(&self, file: Path, is_whole: bool);
}

/// The files that a run has completed, and what becomes of them when it fails.
#[derive(Debug)]
pub(super) struct RunFiles {
    below: Below,
    list: Path,
    runtime: Handle,
    writes: Writes,
    state: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    done: Vec<Path>,
    /// Files that are being completed, which nobody can stop.
    completing: Vec<Path>,
    /// Goes when the last of them is, where all has been removed: the program does not end before.
    settled: Option<oneshot::Sender<()>>,
    phase: Phase,
    /// Whether others write files of the run too, of which nobody knows when they end: as long as the list is there theirs count
    /// for nothing.
    is_shared: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Nothing is removed any more.
    Sealed,
    /// All has been removed.
    Discarded,
}

impl RunFiles {
    /// From now on others write files of the run too.
    #[cfg(feature = "cluster")]
    pub(super) fn share(&self) {
        self.state.lock().is_shared = true;
    }

    fn seal(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.phase == Phase::Discarded || !state.completing.is_empty() {
            return Err(ended());
        }
        state.phase = Phase::Sealed;
        Ok(())
    }

    fn done(&self) -> Vec<Path> {
        self.state.lock().done.clone()
    }

    /// Removes files in this order, which a kill in between may end.
    fn remove(&self, files: Vec<Path>) {
        if files.iter().all(|file| self.below.remove_now(file)) {
            return;
        }
        let below = self.below.clone();
        self.writes.add_abort(self.runtime.spawn(async move {
            for file in files {
                if let Err(error) = below.remove(&file).await {
                    log::warn!("an unfinished export could not be removed: {error}");
                    return;
                }
            }
        }));
    }
}

impl Record for RunFiles {
    fn enter(&self, file: Path) -> Result<()> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(ended());
        }
        state.completing.push(file);
        Ok(())
    }

    /// Where the run has been given up meanwhile the file goes, and with the last one the list.
    fn leave(&self, file: Path, is_whole: bool) {
        let mut state = self.state.lock();
        state.completing.retain(|other| *other != file);
        let file = is_whole.then_some(file);
        if state.phase != Phase::Discarded {
            state.done.extend(file);
            return;
        }
        let list = (state.completing.is_empty() && !state.is_shared).then(|| self.list.clone());
        self.remove(file.into_iter().chain(list).collect());
        if state.completing.is_empty() {
            state.settled = None;
        }
    }
}

impl Unfinished for RunFiles {
    fn discard(&self) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        state.phase = Phase::Discarded;
        let mut files = std::mem::take(&mut state.done);
        // Those that are being completed go too, as soon as they are.
        let gone = files.iter().chain(&state.completing).map(|file| self.below.name(file));
        self.writes.forget_completed(gone.collect());
        if !state.completing.is_empty() {
            let (settled, wait) = oneshot::channel();
            state.settled = Some(settled);
            self.writes.add_abort(self.runtime.spawn(async { drop(wait.await) }));
        } else if !state.is_shared {
            files.push(self.list.clone());
        }
        self.remove(files);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::object_store::local::LocalFileSystem;
    use datafusion::object_store::memory::InMemory;
    use tempfile::TempDir;

    use super::*;

    const OLD: [&str; 5] = ["old.parquet", "topic=a/old.parquet", "other.csv", "sub/deep.parquet", "_x.parquet"];

    /// A folder of a store with the data of others.
    async fn folder(below: &Below, root: &Path, old: &[&str]) -> Folder {
        let folder = Folder {
            below: below.clone(),
            root: root.clone(),
            endings: vec![".parquet".to_owned()],
            subfolders: false,
        };
        for name in old {
            let location = folder.at(name);
            below.file(&location).iter().for_each(|file| {
                fs::create_dir_all(file.parent().expect("a folder")).expect("writable");
            });
            below.put(&location, b"old".to_vec()).await.expect("written");
        }
        folder
    }

    fn work(mode: Mode) -> Work {
        let text = |text: &str| text.to_owned();
        Work { title: text("COPY to \"out\""), statement: text("COPY x TO 'out'"), target: text("out"), mode }
    }

    /// A data file of a run, as DataFusion's sink would complete it.
    async fn write_data(run: &Run) -> Path {
        let location = run.folder.root.clone().join(run.id().name("rT4zKXUd3Jq0Sg1b_0.parquet", None).expect("a name"));
        run.files.enter(location.clone()).expect("open");
        run.folder.below.put(&location, b"new".to_vec()).await.expect("written");
        run.files.leave(location.clone(), true);
        location
    }

    /// What is left of a run whose process was killed.
    async fn kill(run: Run) {
        run.files.state.lock().phase = Phase::Sealed;
        let (below, location) = (run.folder.below.clone(), run.files.list.clone());
        drop(run);
        if let Some(mut list) = List::read(below.store(), &location).await.expect("readable") {
            // No process has a number as high as this.
            list.writer.process = i32::MAX as u32;
            drop(below.put(&location, json(&list).expect("JSON")).await.expect("written"));
        }
    }

    async fn killed_after(step: usize, folder: &Folder, mode: Mode) -> Option<Path> {
        let run = Run::begin(folder.clone(), work(mode), &Writes::default()).await.expect("begun");
        let file = if step >= 2 { Some(write_data(&run).await) } else { None };
        if step >= 3 {
            run.write_mark().await.expect("marked");
        }
        if step >= 4 {
            run.remove_replaced().await.expect("removed");
        }
        if step >= 5 {
            run.remove_list().await.expect("removed");
        }
        kill(run).await;
        file
    }

    async fn run(folder: &Folder, mode: Mode) -> (Path, Writes) {
        let writes = Writes::default();
        let run = Run::begin(folder.clone(), work(mode), &writes).await.expect("begun");
        let file = write_data(&run).await;
        run.complete().await.expect("complete");
        (file, writes)
    }

    /// What a read of the folder would find, and all that is there.
    async fn names(folder: &Folder) -> (Vec<String>, Vec<String>) {
        let name = |file: &ObjectMeta| below(&folder.root, &file.location).expect("below").to_owned();
        let data = folder.data(&folder.look().await.expect("listed")).await.expect("listed");
        let all: Vec<ObjectMeta> = folder.below.store().list(Some(&folder.root)).try_collect().await.expect("listed");
        let mut all: Vec<String> = all.iter().map(name).collect();
        all.sort();
        (data.iter().map(name).collect(), all)
    }

    fn sorted(names: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
        let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
        names.sort();
        names
    }

    /// Runs a test on a local folder and on a store that has no files.
    async fn everywhere<T: Future<Output = ()>>(test: impl Fn(Below, Path) -> T) {
        let temporary = TempDir::new().expect("a folder");
        let root = Path::from_absolute_path(temporary.path().join("out")).expect("a path");
        test(Below::Local(LocalFileSystem::new()), root).await;
        test(Below::Other(Arc::new(InMemory::new()), "mem://bucket/".to_owned()), Path::from("a/out")).await;
    }

    #[tokio::test]
    async fn a_kill_after_each_step_of_an_overwrite_is_ended_by_the_next_run() {
        for step in 1..=5 {
            everywhere(async |below, root| {
                let folder = folder(&below, &root, &OLD).await;
                let first = killed_after(step, &folder, Mode::Overwrite).await;
                let first = first.iter().filter_map(|file| file.filename()).map(str::to_owned);
                let expected: Vec<String> = match step {
                    1 | 2 => OLD[..2].iter().map(|name| (*name).to_owned()).collect(),
                    _ => first.clone().collect(),
                };
                assert_eq!(names(&folder).await.0, expected, "step {step}");
                let (second, writes) = run(&folder, Mode::Overwrite).await;
                assert!(writes.take_doubtful().is_empty(), "step {step}");
                let second = second.filename().expect("a name").to_owned();
                let (data, all) = names(&folder).await;
                assert_eq!(data, std::slice::from_ref(&second), "step {step}");
                let expected = sorted(OLD[2..].iter().copied().chain([MARK, &second]));
                assert_eq!(all, expected, "step {step}");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_kill_after_each_step_of_an_append_loses_and_doubles_nothing() {
        for step in 1..=5 {
            everywhere(async |below, root| {
                let folder = folder(&below, &root, &["old.parquet"]).await;
                let first = killed_after(step, &folder, Mode::Append).await;
                let first = first.iter().filter_map(|file| file.filename()).map(str::to_owned);
                let counted: Vec<String> = first.filter(|_| step >= 3).collect();
                let expected = sorted(counted.iter().cloned().chain(["old.parquet".to_owned()]));
                assert_eq!(names(&folder).await.0, expected, "step {step}");
                let (second, _) = run(&folder, Mode::Append).await;
                let second = second.filename().expect("a name").to_owned();
                let expected = sorted(expected.into_iter().chain([second]));
                let (data, all) = names(&folder).await;
                assert_eq!(sorted(data), expected, "step {step}");
                let mark = Mark::read(below.store(), &root).await.expect("readable").expect("a mark");
                assert_eq!(mark.files.into_iter().collect::<Vec<_>>(), expected, "step {step}");
                assert_eq!(all, sorted(expected.into_iter().chain([MARK.to_owned()])), "step {step}");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_kill_after_each_step_of_an_export_is_seen_by_the_next_run() {
        for step in 1..=5 {
            everywhere(async |below, root| {
                let folder = folder(&below, &root, &[]).await;
                let first = killed_after(step, &folder, Mode::New).await;
                if step < 3 {
                    let (second, _) = run(&folder, Mode::New).await;
                    let second = second.filename().expect("a name").to_owned();
                    assert_eq!(names(&folder).await.1, sorted([MARK.to_owned(), second]), "step {step}");
                    return;
                }
                let refused = Run::begin(folder.clone(), work(Mode::New), &Writes::default()).await;
                let message = refused.expect_err("there is data").to_string();
                assert!(message.contains("'mode' 'append'") && message.contains("'mode' 'overwrite'"), "{message}");
                let first = first.expect("a file");
                let expected = sorted([MARK, first.filename().expect("a name")]);
                assert_eq!(names(&folder).await.1, expected, "step {step}");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn what_another_statement_has_left_stays_and_is_named() {
        everywhere(async |below, root| {
            let folder = folder(&below, &root, &["old.parquet"]).await;
            let first = killed_after(2, &folder, Mode::Append).await.expect("a file");
            let writes = Writes::default();
            let other = Work { statement: "COPY y TO 'out'".to_owned(), ..work(Mode::Append) };
            let other = Run::begin(folder.clone(), other, &writes).await.expect("begun");
            let warning = Doubtful::warning(&writes.take_doubtful()).expect("a warning");
            assert!(warning.starts_with("unfinished export ") && warning.contains("run again"), "{warning}");
            other.complete().await.expect("complete");
            let (data, all) = names(&folder).await;
            assert_eq!(data, ["old.parquet"]);
            assert!(all.iter().any(|name| Some(name.as_str()) == first.filename()), "{all:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn what_fails_leaves_nothing_and_what_runs_is_left_alone() {
        everywhere(async |below, root| {
            let folder = folder(&below, &root, &["old.parquet"]).await;
            let writes = Writes::default();
            let failing = Run::begin(folder.clone(), work(Mode::Overwrite), &writes).await.expect("begun");
            write_data(&failing).await;
            let (other, _) = run(&folder, Mode::Append).await;
            let (data, all) = names(&folder).await;
            assert_eq!((data.len(), all.len()), (2, 5), "{all:?}");
            // One that nobody can stop any more.
            let (files, late) = (Arc::clone(&failing.files), root.clone().join("late.parquet"));
            files.enter(late.clone()).expect("open");
            drop(below.put(&late, b"late".to_vec()).await.expect("written"));
            drop(failing);
            let settled = tokio::spawn({
                let writes = writes.clone();
                async move { writes.settle().await }
            });
            while names(&folder).await.1.len() > 5 {
                tokio::task::yield_now().await;
            }
            writes.add_completed(below.name(&late));
            assert_eq!(writes.completed(), [""; 0], "it goes");
            assert!(!settled.is_finished(), "a file is being completed");
            files.leave(late.clone(), true);
            files.enter(late).expect_err("it has ended");
            settled.await.expect("no panic");
            writes.settle().await;
            let other = other.filename().expect("a name").to_owned();
            assert_eq!(names(&folder).await.1, sorted([MARK.to_owned(), "old.parquet".to_owned(), other]));
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_was_changed_meanwhile_stays() {
        everywhere(async |below, root| {
            let folder = folder(&below, &root, &["old.parquet", "older.parquet"]).await;
            let writes = Writes::default();
            let run = Run::begin(folder.clone(), work(Mode::Overwrite), &writes).await.expect("begun");
            let file = write_data(&run).await;
            drop(below.put(&folder.at("old.parquet"), b"somebody's".to_vec()).await.expect("written"));
            run.complete().await.expect("complete");
            let warning = Doubtful::warning(&writes.take_doubtful()).expect("a warning");
            assert!(warning.contains("old.parquet") && warning.contains("changed meanwhile"), "{warning}");
            let file = file.filename().expect("a name");
            assert_eq!(sorted(names(&folder).await.0), sorted([file, "old.parquet"]));
        })
        .await;
    }

    #[tokio::test]
    async fn a_mark_of_somebody_else_is_taken_over_and_copied_files_count() {
        everywhere(async |below, root| {
            let folder = folder(&below, &root, &["part-0.parquet", MARK]).await;
            let (file, _) = run(&folder, Mode::Append).await;
            let mark = Mark::read(below.store(), &root).await.expect("readable").expect("ours");
            let expected = sorted([file.filename().expect("a name"), "part-0.parquet"]);
            assert_eq!(mark.files.into_iter().collect::<Vec<_>>(), expected);
            // As `cp out/*.parquet` does.
            below.remove(&root.clone().join(MARK)).await.expect("removed");
            assert_eq!(sorted(names(&folder).await.0), expected);
        })
        .await;
    }
}

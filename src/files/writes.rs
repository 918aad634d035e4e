//! What the statements of a session write: what of it may still be completed, and what is removed when it may not.
//!
//! When a statement is stopped, DataFusion's tasks end in any order: a writer may see the end of its input, because the task
//! that fed it is gone already, and complete a file that lacks the rest (55.2). So what was begun before a stop cannot be
//! completed after it.
//!
//! What a statement makes is known by its path or its upload, and nothing else is ever removed: object_store's own staging
//! names (`vectors.parquet#1`) could as well be a user's, and a listing of a folder does not say whose a file is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::object_store::{Error, Result};
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

use super::below::Below;
use super::staged::{Doubtful, Kin};

/// What the statements of a session write; clones are one and the same. Whoever runs the statements keeps it.
///
/// A host that only runs statements needs nothing of it: what a failed one has begun goes away with its plan.
#[derive(Debug, Clone, Default)]
pub struct Writes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The stores that are written, by the addresses at which they are registered.
    stores: Mutex<BTreeMap<String, Below>>,
    /// Jobs that began and that were stopped: odd from a stop to the next beginning.
    epoch: AtomicU64,
    ledger: Mutex<Ledger>,
    /// Stores that are being told to forget an upload.
    aborts: Mutex<Vec<JoinHandle<()>>>,
}

/// Something that has no name yet.
pub(super) trait Unfinished: Debug + Send + Sync {
    /// Removes it, so that nothing is left; it may have gone already.
    fn discard(&self);
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// How many things were begun.
    begun: u64,
    /// Those without a name, of whatever statement.
    unfinished: BTreeMap<u64, Arc<dyn Unfinished>>,
    statement: Statement,
}

/// Of the statement that runs, or ran last.
#[derive(Debug, Default)]
struct Statement {
    text: Option<String>,
    completed: Vec<String>,
    /// What is no longer there, or will not be.
    forgotten: BTreeSet<String>,
    folders: Vec<PathBuf>,
    swept: BTreeSet<Kin>,
    doubtful: Vec<Doubtful>,
    trouble: Option<String>,
}

impl Writes {
    /// A job begins, after one that was stopped: what it writes may be completed.
    pub fn begin(&self) {
        let epoch = &self.0.epoch;
        epoch.fetch_add(epoch.load(Ordering::SeqCst) % 2, Ordering::SeqCst);
    }

    /// A statement of the job begins, of this text: what was said of the last one is forgotten.
    ///
    /// By its text a killed run of the same statement is known, see [`files`](super). Without one it is known by its plan.
    pub fn next_statement(&self, text: Option<String>) {
        self.ledger().statement = Statement { text, ..Statement::default() };
    }

    /// The text of the statement that runs, where somebody said it.
    pub(super) fn statement(&self) -> Option<String> {
        self.ledger().statement.text.clone()
    }

    /// The store below the one that is registered at an address.
    pub(super) fn store(&self, url: &str) -> Option<Below> {
        self.0.stores.lock().get(url).cloned()
    }

    pub(super) fn add_store(&self, url: &str, below: &Below) {
        self.0.stores.lock().insert(url.to_owned(), below.clone());
    }

    /// Makes the folders above a file that are not there; they go with the statement, if they stay empty.
    pub(super) fn make_folders(&self, file: &Path) -> io::Result<()> {
        self.ledger().make_folders(file)
    }

    /// What runs is stopped: call before anything of it is dropped.
    pub fn stop(&self) {
        let epoch = &self.0.epoch;
        epoch.fetch_add(1 + epoch.load(Ordering::SeqCst) % 2, Ordering::SeqCst);
    }

    /// Stops, and removes what is unfinished: files, uploads, and folders that were made for them and are empty. Nobody need
    /// be there to do it later: a thread may still be inside the model when the program ends.
    pub fn discard(&self) {
        self.stop();
        let (unfinished, folders) = {
            let mut ledger = self.ledger();
            (mem::take(&mut ledger.unfinished), mem::take(&mut ledger.statement.folders))
        };
        unfinished.into_values().for_each(|begun| begun.discard());
        for folder in folders.into_iter().rev() {
            // Fails where there is something in it, as it should.
            let _ = fs::remove_dir(folder);
        }
    }

    /// Waits until every store has been told which uploads to forget.
    pub async fn settle(&self) {
        loop {
            let aborts = mem::take(&mut *self.aborts());
            if aborts.is_empty() {
                return;
            }
            for abort in aborts {
                // It ends too when the runtime goes away. One that has begun an upload may leave another.
                let _ = abort.await;
            }
        }
    }

    /// The files and objects that the last statement has completed, as people know them.
    pub fn completed(&self) -> Vec<String> {
        self.ledger().statement.completed.clone()
    }

    /// What went wrong first when the last statement wrote: DataFusion may only say that something did.
    pub fn trouble(&self) -> Option<String> {
        self.ledger().statement.trouble.clone()
    }

    /// The unfinished files of other runs that the last statement found and left alone.
    pub fn take_doubtful(&self) -> Vec<Doubtful> {
        mem::take(&mut self.ledger().statement.doubtful)
    }

    /// What a write that begins now belongs to.
    pub(super) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::SeqCst)
    }

    /// An error unless the statement of this epoch runs still.
    pub(super) fn check(&self, epoch: u64) -> Result<()> {
        if epoch.is_multiple_of(2) && epoch == self.epoch() {
            return Ok(());
        }
        Err(refused("the statement was stopped"))
    }

    /// Begins something, unless the statement was stopped. Under the lock of the ledger: whoever stops the statement
    /// afterwards finds it there.
    pub(super) fn enter<T: Unfinished + 'static, R>(
        &self,
        epoch: u64,
        make: impl FnOnce(&mut Ledger) -> Result<(T, R)>,
    ) -> Result<(Arc<T>, R, Begun)> {
        let mut ledger = self.ledger();
        self.check(epoch)?;
        let (made, rest) = make(&mut ledger)?;
        let made = Arc::new(made);
        ledger.begun += 1;
        let number = ledger.begun;
        ledger.unfinished.insert(number, Arc::clone(&made) as Arc<dyn Unfinished>);
        Ok((made, rest, Begun { number, epoch, writes: self.clone() }))
    }

    /// Remembers what has its name now.
    pub(super) fn add_completed(&self, name: String) {
        let mut ledger = self.ledger();
        let statement = &mut ledger.statement;
        if !statement.forgotten.contains(&name) {
            statement.completed.push(name);
        }
    }

    /// What has its name, or gets it in this moment, goes.
    pub(super) fn forget_completed(&self, names: BTreeSet<String>) {
        let mut ledger = self.ledger();
        let statement = &mut ledger.statement;
        statement.completed.retain(|name| !names.contains(name));
        statement.forgotten.extend(names);
    }

    /// Remembers what went wrong.
    pub(super) fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Generic { source, .. }) = &result {
            self.ledger().statement.trouble.get_or_insert_with(|| source.to_string());
        }
        result
    }

    /// Removes what killed runs have left, once per statement and kin.
    pub(super) fn sweep(&self, kin: Kin, remove: impl FnOnce() -> Vec<Doubtful>) {
        if self.ledger().statement.swept.insert(kin) {
            let doubtful = remove();
            self.ledger().statement.doubtful.extend(doubtful);
        }
    }

    /// What a run of somebody has left, and stays.
    pub(super) fn add_doubtful(&self, doubtful: Vec<Doubtful>) {
        self.ledger().statement.doubtful.extend(doubtful);
    }

    /// A store is being told to forget an upload.
    pub(super) fn add_abort(&self, abort: JoinHandle<()>) {
        let mut aborts = self.aborts();
        aborts.retain(|abort| !abort.is_finished());
        aborts.push(abort);
    }

    /// Held for moments only, never while a file is written.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock()
    }

    fn aborts(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.aborts.lock()
    }
}

impl Ledger {
    /// Makes the folders above a file that are not there, and remembers which.
    pub(super) fn make_folders(&mut self, file: &Path) -> io::Result<()> {
        let missing: Vec<_> = file.ancestors().skip(1).take_while(|folder| !folder.is_dir()).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => self.statement.folders.push(folder.to_owned()),
                // Another process was faster.
                Err(_) if folder.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Something that was begun: it is discarded with this, unless it was completed.
#[derive(Debug)]
pub(super) struct Begun {
    number: u64,
    epoch: u64,
    writes: Writes,
}

impl Begun {
    /// An error unless it may be completed still.
    pub(super) fn check(&self) -> Result<()> {
        self.writes.check(self.epoch)
    }

    /// It has its name.
    pub(super) fn complete(&self, name: String) {
        self.writes.ledger().unfinished.remove(&self.number);
        self.writes.add_completed(name);
    }

    pub(super) fn writes(&self) -> &Writes {
        &self.writes
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let begun = self.writes.ledger().unfinished.remove(&self.number);
        if let Some(begun) = begun {
            begun.discard();
        }
    }
}

/// What is told to whoever goes on with an upload that has ended.
pub(super) fn ended() -> Error {
    refused("the upload has ended already")
}

fn refused(why: &str) -> Error {
    Error::Generic { store: "Whole", source: why.into() }
}

//! Files: what a name stands for is read, and what is written is there complete or not there. Nothing is removed that is
//! somebody's.
//!
//! | file | what |
//! |---|---|
//! | `stores/` | what an address leads to, and with which credentials |
//! | `reading/` | how a name in FROM becomes a table |
//! | `writes.rs` | what a session writes: what may still be completed, and what is removed when it may not |
//! | `whole.rs` | a store that completes what it begins, or leaves nothing |
//! | `local.rs` | how it writes local files: beside their targets, renamed when they are whole |
//! | `upload.rs` | how it writes to other stores: an upload is completed, or aborted |
//! | `staged.rs` | a local file before it has its name, and what killed runs have left of that |
//! | `writer.rs` | who writes a staged file, and whether that process has ended |
//! | `target.rs` | what a path stands for, and whether it may be written |
//! | `below.rs` | the store below that one, where files are removed |
//! | `sink.rs` | sinks that finish a file only when all rows reached it |
//! | `planner.rs` | COPY and INSERT before they are planned: their options and their targets |
//! | `copy.rs` | what COPY ... TO is refused before anything runs |
//! | `formats.rs` | endings of files that DataFusion has no format for |
//! | `vectors.rs` | how vectors are stored in Parquet |
//! | `csv.rs` | CSV files in which an empty text and a NULL differ |
//! | `partitions.rs` | the values of partition columns in the names of folders |
//! | `export.rs` | the sink of a statement that writes into a folder |
//! | `run.rs` | one run of it, from its list to its mark: the protocol, and what a kill leaves |
//! | `run_store.rs` | the store that its sink writes to: files get their names there |
//! | `tasks.rs` | the same in parts, each of which may be written by another machine |
//! | `marks.rs` | the files beside the data of a folder, and which data counts |
//! | `destination.rs` | where a statement writes, and what it reads |
//! | `small.rs` | a small file at once |
//! | `home.rs` | `~` at the start of a path, and the cache folder there |
//!
//! What is removed, and nothing else ever:
//!
//! * what was begun here and got no name: it is known by its path or its upload ([`Writes`]);
//! * folders that were made for it, while they are empty ([`Writes`]);
//! * the staged file that a killed run of this program has left beside the same target, if its name is one that only this
//!   program makes and its process has ended beyond doubt ([`left_over`]);
//! * the data files and the list of a run into a folder that failed, or was killed and is recognised beyond doubt, and the
//!   list of one that is complete (`run.rs`);
//! * the data files of its format that were in a folder when `'mode' 'overwrite'` began, once the new ones are complete.
//!
//! No statement deletes, copies or renames files by itself: [`Whole`] refuses it.

mod below;
mod copy;
mod csv;
mod destination;
mod export;
mod formats;
mod home;
mod local;
mod marks;
mod partitions;
mod planner;
mod reading;
mod run;
mod run_store;
mod sink;
mod small;
mod staged;
mod stores;
mod target;
#[cfg(feature = "cluster")]
mod tasks;
mod upload;
mod vectors;
mod whole;
mod writer;
mod writes;

pub use csv::CsvTexts;
#[cfg(feature = "cluster")]
pub(crate) use destination::known_here_only;
pub use destination::{Destination, only_file};
#[cfg(any(feature = "hub", feature = "stores"))]
pub(crate) use home::cache_home;
pub use home::expand_home;
pub use marks::counts_as_data;
pub use planner::FilePlanner;
pub(crate) use planner::install;
pub(crate) use reading::{Documents, Row, VectorScans};
pub use reading::{FileKind, reading_files};
#[cfg(feature = "cluster")]
pub(crate) use reading::{dealt_by_rows, is_of_files, read_by_rows, read_scan, scanned};
pub use sink::WholeSinks;
pub(crate) use small::write_whole;
pub use staged::{Doubtful, Staged, left_over};
#[cfg(feature = "stores")]
pub(crate) use stores::{Objects, Version};
pub use stores::{Stores, masked_statement};
pub use target::{Target, may_be_made_in, shown, shown_error};
#[cfg(feature = "cluster")]
pub(crate) use tasks::{Parts, SharedExport, Written};
pub use vectors::is_vector;
pub(crate) use vectors::item;
pub use whole::Whole;
pub use writes::Writes;

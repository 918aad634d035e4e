//! Reading: a name in a statement becomes a table of the files that are there.
//!
//! | file | what |
//! |---|---|
//! | `tables.rs` | how a name becomes a table: in FROM, and in CREATE EXTERNAL TABLE |
//! | `file_set.rs` | what a name stands for: a file, a folder, a pattern |
//! | `pattern.rs` | patterns, and which names are passed over |
//! | `kind.rs` | what the ending of a name says |
//! | `listing.rs` | which files a table has at the moment |
//! | `table.rs` | the table: files with what is known of them, and their scan |
//! | `partitions.rs` | columns in the names of folders |
//! | `schema.rs` | one schema for all files |
//! | `format.rs` | a format: the columns of a file, and how files are scanned |
//! | `adapted.rs` | Arrow files with columns of their own |
//! | `csv.rs` | the columns of a CSV file, and whether its texts have line breaks |
//! | `json.rs` | the columns of a JSON file, its objects, and whether it is an array |
//! | `rows.rs` | how the bytes of a text file become rows |
//! | `cells.rs` | the rows of a CSV file, in which an empty text is no NULL |
//! | `documents.rs` | files of plain text as rows |
//! | `text.rs` | what DataFusion's sources of text lack |
//! | `scans.rs` | a scan of text files in the bytes of a plan |
//! | `parts.rs` | parts of Parquet files by rows, for a plan that runs elsewhere |
//! | `vector_scan.rs` | Parquet files with vectors, read as blocks of numbers |
//! | `vector_pages.rs` | their pages: levels and values to rows |
//! | `decode.rs` | other encodings than UTF-8 |
//! | `blame.rs` | where in a file it went wrong |
//! | `bytes.rs` | a look into a file |
//!
//! DataFusion 55.2 lists by itself, infers a schema from the first file or two, and reads all files by it. Here a file that is
//! there is read, or named in an error.

mod adapted;
mod blame;
mod bytes;
mod cells;
mod csv;
mod decode;
mod documents;
mod file_set;
mod format;
mod json;
mod kind;
mod listing;
mod partitions;
#[cfg(feature = "cluster")]
mod parts;
mod pattern;
mod rows;
#[cfg(feature = "cluster")]
mod scans;
mod schema;
mod table;
mod tables;
mod text;
mod vector_pages;
mod vector_scan;

pub(crate) use documents::{Documents, Row};
pub use kind::FileKind;
pub(in crate::files) use kind::{COMPRESSED, ENDINGS, Ending, format_of};
#[cfg(feature = "cluster")]
pub(crate) use parts::{dealt_by_rows, read_by_rows};
pub(in crate::files) use pattern::is_hidden;
#[cfg(feature = "cluster")]
pub(crate) use tables::is_of_files;
pub use tables::reading_files;
pub(in crate::files) use tables::{NO_FILE, listing_table};
#[cfg(feature = "cluster")]
pub(crate) use text::{read_scan, scanned};
pub(crate) use vector_scan::VectorScans;

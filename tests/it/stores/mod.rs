//! Stores by their addresses, through the program, against the servers of `servers`.
//!
//! | file | what |
//! |---|---|
//! | `clouds` | what is written to a store is read from it: files, folders, patterns, modes |
//! | `access` | who we are there, and what is said where we are nobody |
//! | `models` | models at addresses |
//! | `trouble` | servers that fail, stall and die: what is there is whole, and nothing else is left |
//! | `web` | single files of web servers |
//! | `secrets` | what nobody gets to see |

mod access;
mod clouds;
mod models;
mod secrets;
mod trouble;
mod web;

use tempfile::TempDir;

use crate::program::{Run, embedsql};

/// A run that knows of the clouds what these variables say, and nothing else.
fn run<'a>(variables: impl IntoIterator<Item = (&'a str, String)>, sql: &str) -> Run {
    let mut run = embedsql(["--format", "csv", "-c", sql]);
    for name in
        std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("AWS_") || name.ends_with("_PROXY"))
    {
        run.command.env_remove(name);
    }
    run.command.env("HOME", "/no/such/home").envs(variables);
    run
}

/// A folder for what a test keeps here.
fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

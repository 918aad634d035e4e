//! What COPY ... TO and INSERT are refused before anything runs: columns that a file cannot hold, names that stand twice, targets
//! that are no files.

use std::io;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::logical_expr::dml::CopyTo;

use super::reading::format_of;
use super::target::{Target, may_be_made_in};
use super::vectors::{is_vector, item};
use crate::error::{Error, Result};

/// Checks what a COPY is to write.
pub(super) fn check_columns(copy: &CopyTo) -> Result<()> {
    check_csv(copy)?;
    check_names(copy)?;
    for (number, column) in copy.partition_by.iter().enumerate() {
        if copy.partition_by[..number].contains(column) {
            return Err(Error::Write(format!("COPY: PARTITIONED BY names {column:?} twice")));
        }
    }
    Ok(())
}

/// DataFusion (55.2) writes both, and a reader finds the first only, or nothing.
fn check_names(copy: &CopyTo) -> Result<()> {
    let schema = copy.input.schema();
    for (number, (qualifier, field)) in schema.iter().enumerate() {
        let twin = schema.iter().take(number).find(|(_, twin)| twin.name() == field.name());
        if let Some((twin, _)) = twin {
            let name = field.name();
            let full = |qualifier: Option<_>| qualifier.map_or_else(|| name.clone(), |table| format!("{table}.{name}"));
            let (first, second) = (full(twin), full(qualifier));
            let which = if first == second { String::new() } else { format!(" ({first} and {second})") };
            return Err(Error::Write(format!(
                "COPY: two columns are named {name:?}{which}: a file can have one of that name; give the other one its own \
                 with AS"
            )));
        }
        check_names_in(field, field.name())?;
    }
    Ok(())
}

/// The same below a column.
fn check_names_in(field: &FieldRef, path: &str) -> Result<()> {
    if let Some(item) = item(field.data_type()) {
        return check_names_in(item, path);
    }
    let DataType::Struct(fields) = field.data_type() else { return Ok(()) };
    for (number, field) in fields.iter().enumerate() {
        let name = field.name();
        if fields[..number].iter().any(|twin| twin.name() == name) {
            return Err(Error::Write(format!(
                "COPY: two fields of {path:?} are named {name:?}: give each its own name"
            )));
        }
        check_names_in(field, &format!("{path}.{name}"))?;
    }
    Ok(())
}

/// DataFusion would find out at the first batch, after the model has run.
fn check_csv(copy: &CopyTo) -> Result<()> {
    if format_of(&copy.file_type.get_ext().to_lowercase()) != "csv" {
        return Ok(());
    }
    let nested = copy.input.schema().fields().iter().find(|field| field.data_type().is_nested());
    let Some(field) = nested.map(|field| field.as_ref()) else {
        return Ok(());
    };
    let name = field.name();
    let (what, instead) = match field.data_type() {
        d if is_vector(d) => ("vector", "array_to_string(vector, ' ')"),
        d if item(d).is_some() => ("list", "array_to_string(list, ' ')"),
        _ => ("nested value", "its parts"),
    };
    Err(Error::Write(format!(
        "COPY: column \"{name}\" is a {what}, which a CSV file cannot hold: write parquet, arrow or json, or select {instead}"
    )))
}

/// DataFusion would find out at the end, after the model has run.
pub(super) fn check_target(name: &str, url: &ListingTableUrl, is_file: bool) -> Result<()> {
    let Ok(path) = url.get_url().to_file_path() else {
        return Ok(());
    };
    let checked = match Target::of(&path) {
        Ok(Target::Stream(_)) => Err(io::Error::other(
            "is a device, a pipe or an open descriptor, which no file can replace: write rows there by SELECT with --output",
        )),
        Ok(Target::File(target)) if is_file => may_be_made_in(target.parent().unwrap_or(&target)),
        Ok(_) => may_be_made_in(&path),
        Err(error) => Err(error),
    };
    checked.map_err(|problem| Error::Write(format!("COPY to {name:?}: {problem}")))
}

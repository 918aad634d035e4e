//! What this crate adds to COPY ... TO: vectors that cannot be written and targets that are no files are refused before
//! anything runs, and vectors are stored without a dictionary.

use std::io;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::dml::CopyTo;

use super::home::expand_home;
use super::target::{Target, may_be_made_in};
use crate::error::Error;

/// Checks every COPY of a plan that is about to run, and fills in its options.
///
/// # Errors
///
/// [`Error::Write`] for vectors that the format cannot hold, and for a target where no file can be made.
pub fn prepare_copy(plan: LogicalPlan) -> Result<LogicalPlan> {
    let is_run = !matches!(plan, LogicalPlan::Explain(_));
    // EXPLAIN has its COPY below it, hence the walk.
    plan.transform_down(|node| prepare_node(node, is_run)).data()
}

fn prepare_node(node: LogicalPlan, is_run: bool) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Copy(mut copy) = node else {
        return Ok(Transformed::no(node));
    };
    copy.output_url = expand_home(&copy.output_url).into_owned();
    check_csv(&copy)?;
    if is_run {
        check_target(&copy)?;
    }
    store_vectors_without_dictionary(&mut copy);
    Ok(Transformed::yes(LogicalPlan::Copy(copy)))
}

/// DataFusion would find out at the first batch, after the model has run.
fn check_csv(copy: &CopyTo) -> std::result::Result<(), Error> {
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
    Err(Error::Write(format!(
        "COPY: column \"{name}\" is a {what}, which a CSV file cannot hold: write parquet, arrow or json, or select {instead}"
    )))
}

/// DataFusion would find out at the end, after the model has run.
fn check_target(copy: &CopyTo) -> std::result::Result<(), Error> {
    let Ok(url) = ListingTableUrl::parse(&copy.output_url) else {
        return Ok(());
    };
    let Ok(path) = url.get_url().to_file_path() else {
        return Ok(());
    };
    // DataFusion's own distinction.
    let is_file = copy.partition_by.is_empty() && !url.is_collection() && url.file_extension().is_some();
    let checked = match Target::of(&path) {
        Ok(Target::Stream(_)) => Err(io::Error::other(
            "is a device, a pipe or an open descriptor, which no file can replace: write rows there by SELECT with --output",
        )),
        Ok(Target::File(target)) if is_file => may_be_made_in(target.parent().unwrap_or(&target)),
        Ok(_) => may_be_made_in(&path),
        Err(error) => Err(error),
    };
    checked.map_err(|problem| Error::Write(format!("COPY to {:?}: {problem}", copy.output_url)))
}

fn is_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _))
}

/// Is this a list of floats, and so a vector?
pub fn is_vector(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type().is_floating()
        }
        _ => false,
    }
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

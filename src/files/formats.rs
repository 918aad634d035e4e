//! Endings that files have beside those of DataFusion's own formats: `.tsv`, `.jsonl`, `.ndjson`, `.pq`, and `.csv.gz` and its like.
//!
//! DataFusion (55.2) finds the format of a COPY by the last ending of its target. A session is given a format for each further
//! one. What is compressed has one more ending before that, which [`by_name`] reads.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::GetExt;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::datasource::file_format::arrow::ArrowFormatFactory;
use datafusion::datasource::file_format::csv::CsvFormatFactory;
use datafusion::datasource::file_format::json::JsonFormatFactory;
use datafusion::datasource::file_format::parquet::ParquetFormatFactory;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory, format_as_file_type};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::CopyTo;

use super::reading::{COMPRESSED, ENDINGS, Ending, format_of};
use crate::error::Error;

const COMPRESSION: &str = "format.compression";

/// How the names of files end that are data of a format, in lower case.
pub(super) fn data_endings(format: &str) -> Vec<String> {
    let format = format_of(format).to_lowercase();
    let same = ENDINGS.iter().filter(|known| known.format == format).map(|known| known.ending);
    let own = Some(format.as_str()).filter(|format| Ending::known(format).is_none());
    let plain: Vec<&str> = same.chain(own).collect();
    let compressed = COMPRESSED.iter().flat_map(|end| plain.iter().map(move |plain| format!(".{plain}.{end}")));
    plain.iter().map(|plain| format!(".{plain}")).chain(compressed).collect()
}

/// How DataFusion ends the names of files of a format, and how they are to end.
pub(super) fn rename(ending: &str) -> Option<(String, String)> {
    let known = Ending::known(ending).filter(|known| known.ending != known.format)?;
    Some((known.format.to_owned(), known.ending.to_owned()))
}

/// Gives a session the formats of all endings that it has none for.
pub(super) fn add_formats(state: &mut SessionState) {
    for ending in ENDINGS.iter().map(|known| known.ending).chain(COMPRESSED) {
        if state.get_file_format_factory(ending).is_none() {
            // It fails where there is one.
            let _ = state.register_file_format(Arc::new(Named(ending)), false);
        }
    }
}

/// The format of files with an ending.
#[derive(Debug)]
struct Named(&'static str);

impl Named {
    fn factory(&self) -> Option<Box<dyn FileFormatFactory>> {
        Some(match format_of(self.0) {
            "arrow" => Box::new(ArrowFormatFactory::new()),
            "csv" => Box::new(CsvFormatFactory::new()),
            "json" => Box::new(JsonFormatFactory::new()),
            "parquet" => Box::new(ParquetFormatFactory::new()),
            _ => return None,
        })
    }
}

impl FileFormatFactory for Named {
    fn create(&self, state: &dyn Session, options: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
        let factory = self.factory().ok_or_else(|| unnamed(self.0))?;
        let mut options = options.clone();
        if let Some(delimiter) = Ending::known(self.0).and_then(|known| known.delimiter) {
            options.entry("format.delimiter".to_owned()).or_insert_with(|| char::from(delimiter).to_string());
        }
        factory.create(state, &options)
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        self.factory().unwrap_or_else(|| Box::new(CsvFormatFactory::new())).default()
    }
}

impl GetExt for Named {
    fn get_ext(&self) -> String {
        self.0.to_owned()
    }
}

fn unnamed(ending: &str) -> Error {
    let known = "csv, tsv, json, jsonl and ndjson";
    Error::Write(format!(
        "a name that ends in .{ending} says no format: write x.csv.{ending} (known before it: {known}), or say STORED AS"
    ))
}

/// Takes the format and the compression of a COPY from the name of its file, where the statement does not say them.
pub(super) fn by_name(copy: &mut CopyTo, state: &dyn Session) -> std::result::Result<(), Error> {
    let name = copy.output_url.rsplit('/').next().unwrap_or_default().to_lowercase();
    let ending = |name: &str| Path::new(name).extension().and_then(|ending| ending.to_str()).map(str::to_owned);
    let Some(last) = ending(&name).filter(|last| COMPRESSED.contains(&last.as_str())) else {
        let stored_as = copy.file_type.get_ext().to_lowercase();
        return if COMPRESSED.contains(&stored_as.as_str()) { Err(unnamed(&stored_as)) } else { Ok(()) };
    };
    let is_text = |format: &str| matches!(format_of(format), "csv" | "json");
    if copy.file_type.get_ext().eq_ignore_ascii_case(&last) {
        let inner = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).and_then(ending);
        let inner = inner.filter(|inner| is_text(inner)).ok_or_else(|| unnamed(&last))?;
        let factory = state.as_any().downcast_ref::<SessionState>().and_then(|s| s.get_file_format_factory(&inner));
        copy.file_type = format_as_file_type(factory.ok_or_else(|| unnamed(&last))?);
    }
    if is_text(&copy.file_type.get_ext().to_lowercase())
        && let Ok(compression) = CompressionTypeVariant::from_str(&last)
    {
        copy.options.entry(COMPRESSION.to_owned()).or_insert_with(|| compression.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_a_format_is_known_by_every_ending_that_it_may_have() {
        let json = data_endings("ndjson");
        assert_eq!(json, data_endings("JSON"));
        for ending in [".json", ".jsonl", ".ndjson", ".json.gz", ".ndjson.zst"] {
            assert!(json.iter().any(|known| known == ending), "{ending}");
        }
        assert!(!json.iter().any(|ending| ending.contains("csv")));
        assert!(data_endings("arrow").contains(&".arrow".to_owned()));
    }
}

//! What the ending of a name says about a file: its format, and how it is compressed.

use std::str::FromStr;

use datafusion::common::parsers::CompressionTypeVariant;

/// A known ending, and what it says.
#[derive(Debug)]
pub(in crate::files) struct Ending {
    pub(in crate::files) ending: &'static str,
    /// DataFusion's own format.
    pub(in crate::files) format: &'static str,
    pub(in crate::files) delimiter: Option<u8>,
}

const fn ending(ending: &'static str, format: &'static str) -> Ending {
    Ending { ending, format, delimiter: None }
}

/// All that are known, without a dot.
pub(in crate::files) const ENDINGS: [Ending; 10] = [
    ending("parquet", "parquet"),
    ending("pq", "parquet"),
    ending("csv", "csv"),
    Ending { ending: "tsv", format: "csv", delimiter: Some(b'\t') },
    ending("json", "json"),
    ending("jsonl", "json"),
    ending("ndjson", "json"),
    ending("arrow", "arrow"),
    ending("feather", "arrow"),
    ending("ipc", "arrow"),
];

/// Endings of compressed files, which stand behind one of those.
pub(in crate::files) const COMPRESSED: [&str; 4] = ["gz", "bz2", "xz", "zst"];

impl Ending {
    /// A known one, upper case or lower.
    pub(in crate::files) fn known(ending: &str) -> Option<&'static Self> {
        ENDINGS.iter().find(|known| known.ending.eq_ignore_ascii_case(ending))
    }
}

/// DataFusion's own format of an ending, or of a name of a format; one that is not known is a name itself.
pub(in crate::files) fn format_of(ending: &str) -> &str {
    Ending::known(ending).map_or(ending, |known| known.format)
}

/// What the name of a file says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileKind {
    /// The format's name, as STORED AS has it: `csv`.
    pub format: String,
    /// What stands between the cells of a row, where the ending says that.
    pub delimiter: Option<u8>,
    /// How it is compressed.
    pub compression: CompressionTypeVariant,
}

impl FileKind {
    /// The endings that say something, for messages: `.parquet, .pq, .csv, ...`.
    pub fn known_endings() -> String {
        let (plain, compressed) = (ENDINGS.map(|known| known.ending).join(", ."), COMPRESSED.join(", ."));
        format!(".{plain}, those of text also with .{compressed}")
    }

    /// What the ending of a name says, upper case or lower: `a.tsv`, `a.jsonl.gz`; `None` for an ending that says nothing.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (stem, last) = name.rsplit_once('.')?;
        let compression = CompressionTypeVariant::from_str(last).ok().filter(CompressionTypeVariant::is_compressed);
        let last = if compression.is_some() { stem.rsplit_once('.')?.1 } else { last };
        let known = Ending::known(last)?;
        let compression = compression.unwrap_or(CompressionTypeVariant::UNCOMPRESSED);
        Some(Self { format: known.format.to_owned(), delimiter: known.delimiter, compression })
    }

    /// The options that a table of such files has.
    pub fn options(&self) -> Vec<(String, String)> {
        let mut options = Vec::new();
        if let Some(delimiter) = self.delimiter {
            options.push(("format.delimiter".to_owned(), char::from(delimiter).to_string()));
        }
        if self.compression.is_compressed() {
            options.push(("format.compression".to_owned(), self.compression.to_string()));
        }
        options
    }

    /// Whether files of this kind are read like those of another.
    pub(super) fn fits(&self, other: &Self) -> bool {
        let is_same = |a: &Option<u8>, b: &Option<u8>| a.unwrap_or(b',') == b.unwrap_or(b',');
        self.format.eq_ignore_ascii_case(&other.format)
            && self.compression == other.compression
            && (self.format != "csv" || is_same(&self.delimiter, &other.delimiter))
    }

    /// A kind by the format and the compression that a statement has.
    pub(super) fn stated(format: &str, delimiter: Option<u8>, compression: CompressionTypeVariant) -> Self {
        Self { format: format_of(format).to_ascii_lowercase(), delimiter, compression }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_known_in_any_case_and_compressed() {
        let kind = |name| FileKind::of(name).map(|kind| (kind.format, kind.delimiter, kind.compression));
        let none = CompressionTypeVariant::UNCOMPRESSED;
        assert_eq!(kind("a.b/C.PARQUET"), Some(("parquet".into(), None, none)));
        assert_eq!(kind("x.pq"), kind("x.parquet"));
        assert_eq!(kind("x.TSV.gz"), Some(("csv".into(), Some(b'\t'), CompressionTypeVariant::GZIP)));
        assert_eq!(kind("x.jsonl.zst"), Some(("json".into(), None, CompressionTypeVariant::ZSTD)));
        for unknown in ["csv", "x", "x.", "x.txt", "x.gz", "gz", "x.csv.zip", ""] {
            assert_eq!(kind(unknown), None, "{unknown}");
        }
    }
}

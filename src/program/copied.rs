//! What a COPY says at its end.

use std::fs;
use std::time::Duration;

use indicatif::HumanBytes;

use crate::Counts;

/// `COPY 300 rows to "vectors.parquet" (1.20 MiB): 280 embedded, 20 from the cache; 12345 tokens/s`
///
/// `counts` is what was done for it here, `elsewhere` the rows that a cluster has embedded.
pub(super) fn summary(
    rows: u64,
    place: Option<&str>,
    files: &[String],
    counts: &Counts,
    elsewhere: u64,
    took: Duration,
) -> String {
    let plural = if rows == 1 { "" } else { "s" };
    let place = place.map_or_else(String::new, |place| format!(" to {place:?}"));
    let parts = [
        (counts.rows_embedded, "embedded"),
        (elsewhere, "embedded on the cluster"),
        (counts.rows_cached, "from the cache"),
        (counts.rows_duplicate, "equal to others"),
        (counts.rows_null, "NULL"),
        (counts.rows_truncated, "cut"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let parts = parts.collect::<Vec<_>>().join(", ");
    let speed = counts.tokens as f64 / took.as_secs_f64();
    let speed = if counts.tokens > 0 { format!("; {speed:.0} tokens/s") } else { String::new() };
    let done = if parts.is_empty() { String::new() } else { format!(": {parts}{speed}") };
    format!("COPY {rows} row{plural}{place}{}{done}", size(files).unwrap_or_default())
}

/// The bytes of files; `None` where they are in a store, or not there any more.
fn size(files: &[String]) -> Option<String> {
    let sizes = files.iter().map(|file| fs::metadata(file).map(|known| known.len()));
    let sum = sizes.sum::<std::io::Result<u64>>().ok().filter(|_| !files.is_empty())?;
    Some(format!(" ({})", HumanBytes(sum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_was() {
        let second = Duration::from_secs(1);
        assert_eq!(summary(1, None, &[], &Counts::default(), 0, second), "COPY 1 row");
        let counts = Counts { rows_embedded: 2, rows_cached: 1, tokens: 30, ..Counts::default() };
        let said = summary(3, Some("v.parquet"), &["/nowhere".to_owned()], &counts, 0, second);
        assert_eq!(said, "COPY 3 rows to \"v.parquet\": 2 embedded, 1 from the cache; 30 tokens/s");
        assert_eq!(summary(2, None, &[], &Counts::default(), 2, second), "COPY 2 rows: 2 embedded on the cluster");
    }
}

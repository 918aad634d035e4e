//! `embedsql cache`: what a folder of vectors holds, whether it is right, and how it gets smaller.

use datafusion_embed::{Pruned, cache_usage, clear_cache, prune_cache, verify_cache};

use crate::args::{Args, CacheAction};
use crate::error::Failure;
use crate::models::{failed, print, rows, size, written};

/// Does what the command line asks for.
pub(crate) fn run(args: &Args, action: &CacheAction) -> Result<(), Failure> {
    written(args, |output| {
        let one = |name: &'static str, value: String| (name, vec![Some(value)]);
        let rows = match action {
            CacheAction::Stats { directory } => stats(directory)?,
            CacheAction::Verify { directory } => {
                let (right, damaged) = verify_cache(directory).map_err(failed)?;
                rows(&[one("right", right.to_string()), one("damaged", damaged.to_string())])?
            }
            CacheAction::Prune { directory, to } => {
                let pruned = prune_cache(directory, *to as u64).map_err(failed)?;
                print(args, output, &rows(&[one("left", size(pruned.bytes))])?)?;
                return all_went(directory, &pruned);
            }
            CacheAction::Clear { directory } => return all_went(directory, &clear_cache(directory).map_err(failed)?),
        };
        print(args, output, &rows)
    })
}

/// An error where something was to go and stayed.
fn all_went(directory: &str, pruned: &Pruned) -> Result<(), Failure> {
    let [first, more @ ..] = pruned.stayed.as_slice() else { return Ok(()) };
    let more = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
    let held = size(pruned.bytes);
    Err(Failure::Statement(format!("cache \"{directory}\" still holds {held}: could not remove {first}{more}")))
}

fn stats(directory: &str) -> Result<datafusion::arrow::array::RecordBatch, Failure> {
    let usage = cache_usage(directory).map_err(failed)?;
    let column =
        |value: fn(&datafusion_embed::CacheUse) -> String| usage.iter().map(|space| Some(value(space))).collect();
    rows(&[
        ("model", column(|space| space.model.clone())),
        ("fingerprint", column(|space| space.fingerprint.chars().take(16).collect())),
        ("precision", column(|space| space.precision.clone())),
        ("prompt", column(|space| space.prompt.clone())),
        ("dim", column(|space| space.dim.to_string())),
        ("entries", column(|space| space.entries.to_string())),
        ("size", column(|space| size(space.bytes))),
    ])
}

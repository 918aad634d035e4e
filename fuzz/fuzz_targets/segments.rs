//! Bytes as a file of a vector cache: the first one says which. Such a folder is read on, checked and pruned without a
//! panic, and a query over it gives the vector that the model gives.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Float32Type;
use datafusion::prelude::SessionContext;
use datafusion_embed::{EmbedOptions, cache, register_with};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// A folder with the vectors of one query, and its files.
static KEPT: LazyLock<(TempDir, Vec<PathBuf>, Vec<f32>)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let vector = embed(folder.path());
    let mut files = Vec::new();
    files_below(folder.path(), Path::new(""), &mut files);
    files.sort();
    (folder, files, vector)
});

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else { return };
    let (kept, files, vector) = &*KEPT;
    // A cache is opened once per process: every input has a folder of its own.
    let copy = tempfile::tempdir().expect("a folder");
    for file in files {
        let target = copy.path().join(file);
        fs::create_dir_all(target.parent().unwrap_or(copy.path())).expect("a folder");
        fs::copy(kept.path().join(file), target).expect("a file");
    }
    fs::write(copy.path().join(&files[usize::from(*which) % files.len()]), bytes).expect("a file");
    let folder = copy.path().display().to_string();
    assert_eq!(&embed(copy.path()), vector, "a damaged cache changes no vector");
    let _ = (cache::usage(&folder), cache::verify(&folder), cache::prune(&folder, 0));
});

/// The vector of a text, with a cache.
fn embed(cache: &Path) -> Vec<f32> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let ctx = SessionContext::new();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-bert");
        let options = EmbedOptions::default().model(model).cache(cache.display().to_string());
        register_with(&ctx, options).expect("registered");
        let query = "SELECT embed(column1) FROM (VALUES ('a few plain words'))";
        let batches = ctx.sql(query).await.expect("a plan").collect().await.expect("a vector");
        batches[0].column(0).as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec()
    })
}

fn files_below(folder: &Path, relative: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder.join(relative)).expect("the folder") {
        let entry = entry.expect("an entry");
        let path = relative.join(entry.file_name());
        if entry.path().is_dir() { files_below(folder, &path, found) } else { found.push(path) }
    }
}

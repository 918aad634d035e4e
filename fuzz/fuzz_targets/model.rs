//! What the targets of model files share: a fixture of which one file is the input.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use datafusion_embed::stages::try_directory;
use tempfile::TempDir;

/// A small model that every input is put into.
static MODEL: LazyLock<TempDir> = LazyLock::new(|| {
    let copy = tempfile::tempdir().expect("a folder");
    copy_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-bert")), copy.path());
    copy
});

/// Reads the fixture with these bytes in the place of a file and embeds a text with it: an error or a vector of numbers.
pub fn with_file(file: &str, bytes: &[u8]) {
    fs::write(MODEL.path().join(file), bytes).expect("a file");
    let directory = MODEL.path().display().to_string();
    if let Ok(vector) = try_directory(&directory, "a few plain words, é and 東京") {
        assert!(vector.iter().all(|x| x.is_finite()), "a vector of numbers");
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the fixture") {
        let entry = entry.expect("the fixture");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).expect("a folder");
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a file");
        }
    }
}

//! Every script in `sql/` runs, and prints what `tests/scripts/` says: `UPDATE=1 cargo test --release --test it scripts`
//! writes it anew.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

#[test]
fn every_script_prints_what_is_written_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = fs::read_dir(root.join("sql"))
        .expect("sql/")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 6, "{names:?}");
    for name in names {
        let expected = root.join("tests/scripts").join(format!("{name}.out"));
        let printed = run(root, &name);
        if env::var_os("UPDATE").is_some() {
            fs::write(&expected, &printed).expect("written");
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert!(printed == expected, "sql/{name}.sql printed\n{printed}\nand not\n{expected}");
    }
}

/// Runs a script with two threads.
fn run(root: &Path, name: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_embedsql"))
        .args(["--threads", "2", "-f", &format!("sql/{name}.sql")])
        .current_dir(root)
        .output()
        .expect("the program runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    // Scripts with long texts are warned of them, and a COPY says what it did.
    let is_usual = |line: &str| {
        line.starts_with("COPY ") || line.starts_with("warning: ") && line.contains("longer than the model reads")
    };
    assert!(output.status.success() && errors.lines().all(is_usual), "sql/{name}.sql: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

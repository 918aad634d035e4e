//! Promises about the sources, kept by reading them: I3, I4, where `unsafe` may be, and that the maps and lists which
//! people read name what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use datafusion::config::ExtensionOptions;
use datafusion_embed::EmbedOptions;

/// A source file without its comments and its unit tests.
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    /// Number and text of each line of code.
    pub(crate) code: Vec<(usize, String)>,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = read(path);
        let mut code = Vec::new();
        for (number, line) in text.lines().enumerate() {
            // rustfmt keeps unit tests where the style of this crate has them: one module, last in the file.
            if line == "mod tests {" {
                break;
            }
            if !line.trim_start().starts_with("//") {
                let line = line.split("// ").next().unwrap_or_default();
                code.push((number + 1, line.to_owned()));
            }
        }
        let path = path.strip_prefix("./").unwrap_or(path).display().to_string().replace('\\', "/");
        Self { path, code }
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file under a folder, in the order of their paths; none where the folder is not there.
fn rust_files(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files.extend(rust_files(path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The library and the program, without files that are unit tests as a whole.
pub(crate) fn sources() -> Vec<Source> {
    let files = rust_files("src");
    assert!(files.len() > 20, "the sources are not where this test looks for them");
    files.iter().filter(|path| !path.ends_with("tests.rs")).map(|path| Source::read(path)).collect()
}

/// No source outside `allowed` has one of these words.
fn assert_only_in(allowed: &[&str], words: &[&str]) {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_in(allowed)) {
        for (number, line) in &source.code {
            found.extend(
                words
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{}:{number}: {word}", source.path)),
            );
        }
    }
    assert!(found.is_empty(), "allowed only in {allowed:?}:\n{}", found.join("\n"));
}

#[test]
fn the_readme_has_no_gap_left_to_fill() {
    assert!(!read("README.md").contains("@@"));
}

#[test]
fn only_functions_plan_and_files_know_planner_types() {
    let words = ["logical_expr", "physical_plan", "physical_expr", "datafusion::catalog", "datafusion::optimizer"];
    let places =
        ["src/functions/", "src/plan/", "src/files/", "src/cluster/", "src/expr_fn.rs", "src/lib.rs", "src/program/"];
    assert_only_in(&places, &words);
}

#[test]
fn only_model_and_kernels_know_tensors() {
    assert_only_in(&["src/model/"], &["candle_", "safetensors::", "tokenizers::", "ureq::"]);
    // lib.rs names the kernel path, stages.rs is the door of the benches.
    assert_only_in(
        &["src/model/", "src/kernels/", "src/functions/vector/", "src/lib.rs", "src/stages.rs"],
        &["kernels::"],
    );
}

#[test]
fn only_the_engine_starts_threads() {
    let words = ["thread::spawn", "thread::Builder", "thread::scope", "rayon", "Runtime::new", "runtime::Builder"];
    assert_only_in(&["src/engine/", "src/files/stores/objects.rs", "src/program/"], &words);
    // Who writes, or stops a job, waits on the threads of the runtime that runs the query.
    assert_only_in(
        &["src/engine/", "src/files/", "src/cluster/", "src/program/"],
        &["spawn_blocking", "tokio::spawn", "runtime.spawn"],
    );
}

#[test]
fn the_library_prints_nothing_and_changes_no_environment() {
    let print = ["print!", "println!", "dbg!", "stdout()", "stderr()"];
    let process = ["set_var(", "remove_var(", "set_current_dir", "process::exit", "process::abort"];
    assert_only_in(&["src/program/"], &[print.as_slice(), process.as_slice()].concat());
}

/// The program is what anybody could write with this crate: it names what the root exports, and nothing behind that.
#[test]
fn the_program_is_a_user_of_the_crate() {
    let lib = read("src/lib.rs");
    let private = lib.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let private: Vec<&str> = private.collect();
    assert!(private.len() >= 8 && private.contains(&"engine"), "{private:?}");
    for source in sources().iter().filter(|source| source.is_in(&["src/program/"])) {
        for (number, line) in &source.code {
            let paths = line.split("crate::").skip(1).flat_map(|rest| rest.split(['{', ',']));
            let mut modules = paths.filter_map(|path| path.trim().split_once("::")).map(|(module, _)| module);
            assert!(!modules.any(|module| private.contains(&module)), "{}:{number}: {line}", source.path);
        }
    }
    assert_only_in(&["src/bin/"], &["program::"]);
}

#[test]
fn nothing_is_left_for_later() {
    // In two parts, so that this file does not find itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["to", "do!"], ["unimplem", "ented!"]].map(|parts| parts.concat());
    for folder in ["src", "tests", "benches", "examples"] {
        for path in rust_files(folder) {
            let text = read(&path);
            for word in &words {
                assert!(!text.contains(word), "{}: {word}", path.display());
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for folder in ["src", "tests", "benches", "examples"] {
        for path in rust_files(folder) {
            assert!(read(&path).starts_with("//! "), "{}: the first line is not //!", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_the_kernels_and_says_why_it_is_sound() {
    assert_only_in(&["src/kernels/"], &["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern"]);
    for path in rust_files("src/kernels") {
        let text = read(&path);
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("unsafe {")) {
            let comment_above = lines[..number].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
            let mut places = comment_above.chain([line]);
            assert!(places.any(|line| line.contains("// SAFETY:")), "{}:{}: no SAFETY", path.display(), number + 1);
        }
    }
}

/// The names in the first column of the first table of a file's own documentation.
fn table(path: &str) -> BTreeSet<String> {
    let text = read(path);
    let rows = text.lines().skip_while(|line| !line.starts_with("//! |")).take_while(|line| line.starts_with("//! |"));
    rows.filter_map(|row| row.split('`').nth(1)).map(str::to_owned).collect()
}

/// The entries of a folder, folders with a `/`.
fn entries(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect(folder).map(|entry| entry.expect("readable"));
    let name = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Followed, where it is a link.
        if entry.path().is_dir() { format!("{name}/") } else { name }
    };
    entries.map(name).collect()
}

#[test]
fn the_map_of_the_sources_names_what_is_there() {
    assert_eq!(table("src/lib.rs"), entries("src"));
    let folders = [
        "cache",
        "engine",
        "files",
        "files/reading",
        "functions",
        "kernels",
        "model",
        "model/hub",
        "model/sources",
        "plan",
    ];
    for folder in folders.into_iter().chain(["plan/lift", "program"]) {
        let mut there = entries(&format!("src/{folder}"));
        there.remove("mod.rs");
        there.remove("tests.rs");
        assert_eq!(table(&format!("src/{folder}/mod.rs")), there, "src/{folder}");
    }
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = read("Cargo.toml");
    // Whether the lines since the last blank one began with a comment, and how deep in brackets a line begins.
    let (mut in_dependencies, mut said, mut depth, mut seen) = (false, false, 0i32, 0);
    for line in manifest.lines() {
        if line.starts_with('[') && depth == 0 {
            in_dependencies = line.ends_with("dependencies]");
        }
        said = !line.is_empty() && (said || line.starts_with('#'));
        if in_dependencies && depth == 0 && line.contains(" = ") {
            seen += 1;
            assert!(said, "Cargo.toml: no comment above: {line}");
        }
        depth += line.chars().map(|c| i32::from("[{".contains(c)) - i32::from("]}".contains(c))).sum::<i32>();
    }
    assert!(seen > 20, "the dependencies are not where this test looks for them");
}

/// Package and features of every dependency of the program, with these kinds of edges, as cargo resolves them.
fn resolved(edges: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = ["tree", "--frozen", "--prefix", "none", "--format", "{p} {f}", "--edges", edges];
    let output = Command::new(cargo).args(tree).output().expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // cargo marks what it has shown before.
    text.lines().map(|line| line.trim_end_matches(" (*)").replace(" (proc-macro)", "")).collect()
}

/// `cargo run` and `cargo test` build each dependency with the features that its users ask for together: one that only a test
/// asks for, in a crate below DataFusion, would build DataFusion twice. Cargo.toml says how that is mended.
#[test]
fn tests_build_no_dependency_of_the_program_again() {
    let (program, tests) = (resolved("normal,build"), resolved("normal,build,dev"));
    assert!(program.len() > 300, "cargo tree says little: {}", program.len());
    let again: Vec<_> = program.difference(&tests).collect();
    assert!(again.is_empty(), "tests switch on other features of:\n{again:#?}");
}

#[test]
fn the_readme_shows_the_quickstart_and_docs_every_setting() {
    let (readme, settings) = (read("README.md"), read("docs/tuning.md"));
    let block = readme.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(block.expect("README.md has no sql block").trim(), read("sql/quickstart.sql").trim());
    for entry in EmbedOptions::default().entries() {
        assert!(settings.contains(&format!("`{}`", entry.key)), "docs/tuning.md lacks `{}`", entry.key);
    }
}

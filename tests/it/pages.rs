//! The pages do what they say: every block of shell and SQL in the README and in `docs/` runs, in the order of its page, and prints
//! what stands below it.
//!
//! A page has a folder of its own with `sql/` in it and `embedsql` on the PATH; what one block writes the next one reads. A block that
//! cannot run here says why, in a line of its own above it: `<!-- not run: network -->`. Python is run by `python/tests/test_notebook.py`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::copy_folder;

/// Why a block does not run, and how many there are: one more is to be a decision.
const REASONS: [(&str, usize); 3] = [
    // It installs what it has compiled.
    ("builds", 2),
    ("network", 5),
    // It runs until it is stopped, on machines with such addresses, or belongs to those.
    ("a server", 4),
];

/// A part of a page in ``` and what stands directly below it.
#[derive(Debug)]
struct Block {
    line: usize,
    language: String,
    text: String,
    /// What it prints, where that is said.
    output: Option<String>,
    mark: Option<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Those that are held to this, with their names.
fn pages() -> Vec<(String, Vec<Block>)> {
    let mut paths = vec![PathBuf::from("README.md")];
    let docs = fs::read_dir(root().join("docs")).expect("docs/").map(|entry| entry.expect("an entry").file_name());
    let mut docs: Vec<OsString> =
        docs.filter(|name| Path::new(name).extension().is_some_and(|end| end == "md")).collect();
    docs.sort();
    paths.extend(docs.into_iter().map(|name| Path::new("docs").join(name)));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).expect("a page");
        (path.display().to_string(), blocks(&text))
    };
    paths.into_iter().map(read).collect()
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut mark): (Vec<Block>, Option<String>) = (Vec::new(), None);
    let mut lines = page.lines().enumerate();
    // Whether only blank lines stand between here and the block before.
    let mut is_below = false;
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let text = text.join("\n") + "\n";
            match blocks.last_mut().filter(|_| is_below && language == "text") {
                Some(block) => block.output = Some(text),
                None => blocks.push(Block {
                    line: number + 1,
                    language: language.to_owned(),
                    text,
                    output: None,
                    mark: mark.take(),
                }),
            }
            is_below = language != "text";
        } else if let Some(reason) = line.strip_prefix("<!-- not run: ").and_then(|rest| rest.strip_suffix(" -->")) {
            mark = Some(reason.to_owned());
        } else if !line.is_empty() {
            (is_below, mark) = (false, None);
        }
    }
    blocks
}

/// A folder as a block finds it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy_folder(&root().join("sql"), &folder.path().join("sql"));
    folder
}

/// What a block prints, on both of its outputs.
fn run(block: &Block, folder: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_embedsql"));
    let mut path = OsString::from(program.parent().expect("a folder"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let script = match block.language.as_str() {
        "sql" => {
            fs::write(folder.join("block.sql"), &block.text).expect("a file");
            "embedsql --threads 2 -f block.sql".to_owned()
        }
        _ => block.text.clone(),
    };
    let output = Command::new("bash")
        .args(["-c", &format!("set -e; exec 2>&1\n{script}")])
        .env("PATH", path)
        .env("HOME", folder)
        .env_remove("XDG_CONFIG_HOME")
        .current_dir(folder)
        .output()
        .expect("bash runs");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "line {}: {}\n{printed}", block.line, block.text);
    printed
}

/// Words of a line, and its numbers that need be near only: those with a point.
type Compared = (Vec<String>, Vec<f64>);

/// What is said of speed and size is left out.
fn compared(line: &str) -> Compared {
    let is_edge = |c: char| c.is_whitespace() || "[](),|;:\"".contains(c);
    let words: Vec<&str> = line.split(is_edge).filter(|word| !word.is_empty()).collect();
    let (mut plain, mut numbers) = (Vec::new(), Vec::new());
    for (place, word) in words.iter().enumerate() {
        let next = words.get(place + 1).copied().unwrap_or_default();
        match word.parse::<f64>() {
            Ok(_) if ["tokens/s", "KiB", "MiB", "s", "ms"].contains(&next) => {}
            Ok(number) if word.contains('.') => numbers.push(number),
            // Columns are as wide as their numbers.
            _ if word.bytes().all(|byte| b"-+".contains(&byte)) => {}
            _ => plain.push((*word).to_owned()),
        }
    }
    (plain, numbers)
}

fn same(printed: &str, said: &str) -> bool {
    // A warning is shown where the page is about it.
    let is_shown = |line: &&str| !line.starts_with("warning: ") || said.contains("warning: ");
    let (printed, said): (Vec<_>, Vec<_>) =
        (printed.lines().filter(is_shown).map(compared).collect(), said.lines().map(compared).collect());
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 2e-3 * b.abs().max(1.0);
    let is_same = |((words, numbers), (others, said)): (&Compared, &Compared)| {
        words == others && numbers.len() == said.len() && numbers.iter().zip(said).all(near)
    };
    printed.len() == said.len() && printed.iter().zip(&said).all(is_same)
}

#[test]
fn every_block_prints_what_stands_below_it() {
    let mut ran = 0;
    for (page, blocks) in pages() {
        let folder = folder();
        let runs = |block: &&Block| ["sh", "sql"].contains(&block.language.as_str()) && block.mark.is_none();
        for block in blocks.iter().filter(runs) {
            let printed = run(block, folder.path());
            let said = block.output.as_deref().unwrap_or_default();
            // A block without an output is one that is not shown, and need only work.
            let is_right = block.output.is_none() || same(&printed, said);
            assert!(is_right, "{page}:{}\n{}\nprinted\n{printed}\nand not\n{said}", block.line, block.text);
            ran += 1;
        }
    }
    assert!(ran >= 24, "only {ran} blocks ran");
}

#[test]
fn what_does_not_run_says_why() {
    for (reason, count) in REASONS {
        let marked = pages().into_iter().flat_map(|(page, blocks)| {
            blocks
                .into_iter()
                .filter(|block| block.mark.as_deref() == Some(reason))
                .map(move |block| format!("{page}:{}", block.line))
        });
        let marked: Vec<String> = marked.collect();
        assert_eq!(marked.len(), count, "{reason}: {marked:?}");
    }
    for (page, blocks) in pages() {
        let text = fs::read_to_string(root().join(&page)).expect("a page");
        let mut outside = text.split("\n```").step_by(2);
        let has_other_blocks = outside.any(|text| text.contains("\n\n    "));
        assert!(!has_other_blocks, "{page}: a block of indented lines, which nothing runs");
        for block in blocks {
            let is_known = block.mark.iter().all(|mark| REASONS.iter().any(|(reason, _)| reason == mark));
            assert!(is_known, "{page}:{}: {:?}", block.line, block.mark);
            // Rust is compiled and run by the tests of the documentation, those of the README too.
            let languages: &[&str] = match page.as_str() {
                "README.md" => &["python", "rust", "sh", "sql", "text"],
                _ => &["python", "sh", "sql", "text", "toml"],
            };
            let is_known = languages.contains(&block.language.as_str());
            assert!(is_known, "{page}:{}: a block of {:?} that nothing runs", block.line, block.language);
        }
    }
}

/// What a heading is called in an address.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    let names: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
    for name in &names {
        let text = fs::read_to_string(root().join(name)).expect("a page");
        for (before, rest) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let Some((target, _)) = rest.split_once(')') else { continue };
            let is_ours = !target.starts_with("http") && !target.contains(' ') && !before.ends_with("`](");
            if !is_ours {
                continue;
            }
            checked += 1;
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path =
                if path.is_empty() { Path::new(name).to_path_buf() } else { Path::new(name).with_file_name(path) };
            let found = fs::read_to_string(root().join(&path));
            let has = |text: &str| {
                text.lines().any(|line| line.starts_with('#') && anchor(line.trim_start_matches(['#', ' '])) == heading)
            };
            if !found.is_ok_and(|text| heading.is_empty() || has(&text)) {
                wrong.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty() && checked > 30, "{checked} links, of which these lead nowhere: {wrong:#?}");
    let contents = fs::read_to_string(root().join("docs/SUMMARY.md")).expect("the table of contents");
    for name in names.iter().filter_map(|name| name.strip_prefix("docs/")).filter(|name| *name != "SUMMARY.md") {
        assert!(contents.contains(&format!("({name})")), "docs/SUMMARY.md lacks {name}");
    }
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).expect("README.md").lines().count();
    assert!(lines < 350, "README.md has {lines} lines: tables and reasons go to docs/");
}

#[test]
fn blocks_are_read_with_their_marks_and_outputs() {
    let page =
        "```sh\na\n```\n\n```text\nb\n```\nwords\n```text\nalone\n```\n<!-- not run: network -->\n```sh\nc\n```\n";
    let blocks = blocks(page);
    let shown: Vec<_> =
        blocks.iter().map(|block| (block.text.as_str(), block.output.as_deref(), block.mark.as_deref())).collect();
    assert_eq!(shown, [("a\n", Some("b\n"), None), ("alone\n", None, None), ("c\n", None, Some("network"))]);
    assert!(same("| 1.0001 | a |\n", "| 1.0 |   a |\n") && !same("| 1.01 | a |\n", "| 1.0 | a |\n"));
    assert!(same("COPY 3 rows (4.1 KiB): 5 tokens/s\n", "COPY 3 rows (4.2 KiB): 9 tokens/s\n"));
    assert!(!same("COPY 3 rows\n", "COPY 4 rows\n"));
}

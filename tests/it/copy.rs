//! What statements that write files do to the files of others: nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::program::{
    COUNT_WITHOUT_END, embedsql, files, files_below, interrupt, one_error, signal, wait_for_staged, write,
};

/// Rows of a COPY that somebody will stop.
const ENDLESS: &str = "SELECT value, md5(value::text) AS t FROM generate_series(1, 1000000000)";

/// Rows that fail when much is written.
const FAILING: &str = "SELECT value % 3 AS part, repeat(md5(value::text), 5) AS text, 1 / (value - 300000) AS x \
    FROM generate_series(1, 300000)";

/// All that can be said of everything below a folder.
fn tree(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable")) {
        let (path, metadata) = (entry.path(), entry.metadata().expect("readable"));
        let mode = metadata.permissions().mode();
        let what = if metadata.is_dir() {
            found.extend(tree(&path));
            String::new()
        } else if metadata.is_symlink() {
            format!("{:?}", fs::read_link(&path).expect("a link"))
        } else if metadata.is_file() {
            let time = metadata.modified().expect("a time");
            format!("{time:?} {:x?}", Sha256::digest(fs::read(&path).expect("readable")))
        } else {
            String::new()
        };
        found.insert(path, format!("{mode:o} {what}"));
    }
    found
}

/// A text that says what a killed run's file is called, for names that nobody has made.
fn staged_name(target: &str, host: &str, machine: &str, process: u32, start: u64) -> String {
    let mark = format!("{host}-{machine}-{process}-{start}-0");
    let mut hash = Sha256::new();
    for part in [target, &mark] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let check: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!(".{target}.embedsql-{mark}-{check}.part")
}

/// A folder `data` of files that are all somebody's, and old.
fn hostile() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    let own = staged_name("v.parquet", "host", "0123456789abcdef", 7, 8).replace("-7-8-", "-7-9-");
    let random = own.replace("v.parquet", "rT4zKXUd3Jq0Sg1b_0.parquet");
    let names = [
        "Issue #12",
        "letter#2",
        "#3",
        "draft#3",
        "v.parquet#1",
        "v.parquet#2",
        "a.parquet#1",
        "b#",
        "c.parquet#x",
        "rT4zKXUd3Jq0Sg1b_0.parquet#1",
        "old/report#17",
        "old/older/chapter 2#2",
        "old/v.parquet#1",
        "part=1/x.parquet#1",
        ".v.parquet.part",
        ".v.parquet.embedsql-.part",
        ".v.parquet.7.tmp",
        "v.parquet.part",
        &own,
        &random,
    ];
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for (number, name) in names.iter().enumerate() {
        let path = data.join(name);
        fs::create_dir_all(path.parent().expect("below a folder")).expect("writable");
        fs::write(&path, format!("precious {name}")).expect("writable");
        File::options().write(true).open(&path).and_then(|file| file.set_modified(long_ago)).expect("ours");
        let mode = if number % 2 == 0 { 0o444 } else { 0o640 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
    }
    fs::create_dir(data.join("dir#5")).expect("writable");
    symlink("letter#2", data.join("link#6")).expect("a link");
    symlink("nowhere", data.join("gone#7")).expect("a link");
    (folder, data)
}

#[test]
fn a_statement_that_is_only_planned_changes_nothing() {
    let (folder, data) = hostile();
    let before = tree(&data);
    let table = "CREATE EXTERNAL TABLE t (a BIGINT) STORED AS PARQUET LOCATION 'data/'; ";
    for sql in [
        "EXPLAIN COPY (SELECT 1 AS a) TO 'data/' STORED AS PARQUET",
        "EXPLAIN COPY (SELECT 1 AS a) TO 'data/v.parquet'",
        "EXPLAIN COPY (SELECT 1 AS a) TO 'data/new/v.parquet'",
        "EXPLAIN VERBOSE COPY (SELECT 1 AS a, 1 AS part) TO 'data/' STORED AS PARQUET PARTITIONED BY (part)",
        &format!("{table} EXPLAIN INSERT INTO t VALUES (1)"),
        &format!("{table} PREPARE p AS INSERT INTO t VALUES (1)"),
    ] {
        embedsql(["-c", sql]).folder(&folder).stdout();
        assert_eq!(tree(&data), before, "{sql}");
    }
}

#[test]
fn what_a_statement_did_not_make_stays() {
    let (folder, data) = hostile();
    let before = tree(&data);
    let table = "CREATE EXTERNAL TABLE t (a BIGINT) STORED AS PARQUET LOCATION 'data/'; ";
    for sql in [
        "COPY (SELECT 1 AS a) TO 'data/' STORED AS PARQUET OPTIONS ('mode' 'append')",
        "COPY (SELECT 1 AS a) TO 'data/v.parquet'",
        "COPY (SELECT 1 AS a, 1 AS part) TO 'data/' STORED AS PARQUET PARTITIONED BY (part) OPTIONS ('mode' 'append')",
        "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO 'data/v.parquet'",
        &format!("{table} INSERT INTO t VALUES (1)"),
        &format!("{table} PREPARE p AS INSERT INTO t VALUES (1); EXECUTE p"),
    ] {
        embedsql(["-c", sql]).folder(&folder).stdout();
        let after = tree(&data);
        assert!(before.iter().all(|file| after.get(file.0) == Some(file.1)), "{sql}: {:?}", after.keys());
    }
    let mut run = embedsql(["-c", "COPY (SELECT 1 AS a) TO './' STORED AS PARQUET OPTIONS ('mode' 'append')"]);
    run.command.current_dir(&data);
    run.stdout();
    let after = tree(&data);
    assert!(before.iter().all(|file| after.get(file.0) == Some(file.1)), "{:?}", after.keys());
}

#[test]
fn a_statement_that_fails_or_is_stopped_changes_nothing() {
    let (folder, data) = hostile();
    write(&folder, "data/v.parquet", "old");
    let before = tree(&data);
    for target in [
        "'data/v.parquet'",
        "'data/' STORED AS PARQUET OPTIONS ('mode' 'append')",
        "'data/' STORED AS PARQUET PARTITIONED BY (part) OPTIONS ('mode' 'append')",
        "'data/n/v.csv'",
    ] {
        let sql = format!("COPY ({FAILING}) TO {target}");
        assert_eq!(embedsql(["-c", &sql]).folder(&folder).error(1), "Divide by zero error", "{sql}");
        assert_eq!(tree(&data), before, "{sql}");
        // The forged names are no unfinished files, but they look like some.
        let names: Vec<_> = before.keys().cloned().collect();
        let sql = format!("COPY (SELECT value % 3 AS part, * FROM ({ENDLESS})) TO {target}");
        let mut run = embedsql(["-c", &sql]).folder(&folder);
        let child = run.start();
        for _ in 0..1000 {
            if files_below(&data).iter().any(|file| !names.contains(file)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_ne!(tree(&data), before, "{sql}: nothing was written");
        // What somebody else begins meanwhile is not this statement's.
        fs::write(data.join("note#1"), "new").expect("writable");
        assert_eq!(interrupt(child).code, Some(130));
        fs::remove_file(data.join("note#1")).expect("it is there");
        assert_eq!(tree(&data), before, "{sql}");
    }
}

#[test]
fn files_that_were_completed_before_a_failure_go() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "mine", "mine");
    let sql = format!(
        "SET datafusion.execution.minimum_parallel_output_files = 1; \
         SET datafusion.execution.soft_max_rows_per_output_file = 10000; COPY ({FAILING}) TO './' STORED AS PARQUET"
    );
    let before = files(&folder);
    assert_eq!(embedsql(["-c", &sql]).folder(&folder).error(1), "Divide by zero error");
    assert_eq!(files(&folder), before);
}

/// Kills a run that writes, and gives what it has left.
fn killed(folder: &TempDir, sql: &str, target: &str) -> PathBuf {
    let mut run = embedsql(["-c", sql]).folder(folder);
    let mut child = run.start();
    let staged = wait_for_staged(folder.path(), target);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    staged
}

/// The parts of a staged file's name: host, machine, process, start.
fn parts(staged: &Path) -> (String, String, u32, u64) {
    let name = staged.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    let mark = name.rsplit_once(".embedsql-").expect("a staged file").1;
    let parts: Vec<_> = mark.rsplitn(6, '-').collect();
    (parts[5].to_owned(), parts[4].to_owned(), parts[3].parse().expect("a number"), parts[2].parse().expect("a number"))
}

#[cfg(target_os = "linux")]
#[test]
fn only_what_a_killed_run_has_left_is_removed() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "v.parquet", "old");
    let copy = format!("COPY ({ENDLESS}) TO 'v.parquet'");
    let dead = killed(&folder, &copy, "v.parquet");
    assert_eq!(fs::read_to_string(folder.path().join("v.parquet")).expect("readable"), "old");
    assert_eq!(files(&folder).len(), 2);

    let (host, machine, process, start) = parts(&dead);
    let name = |target: &str, host: &str, machine: &str, process, start| {
        folder.path().join(staged_name(target, host, machine, process, start))
    };
    assert_eq!(name("v.parquet", &host, &machine, process, start), dead);
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let my_start = stat.rsplit_once(')').expect("a name").1.split_whitespace().nth(19).expect("a field");
    let (me, my_start): (_, u64) = (std::process::id(), my_start.parse().expect("a number"));
    let reused = name("v.parquet", &host, &machine, me, my_start - 1);
    let elsewhere = name("v.parquet", "elsewhere", "0123456789abcdef", process, start);
    let locked = name("v.parquet", &host, &machine, process, start + 1);
    let link = name("v.parquet", &host, &machine, process, start + 2);
    let below = name("v.parquet", &host, &machine, process, start + 3);
    let mut forged = dead.clone().into_os_string().into_string().expect("UTF-8");
    forged =
        forged.replace(".part", "").chars().rev().skip(1).collect::<Vec<_>>().into_iter().rev().collect::<String>();
    let forged = PathBuf::from(format!("{forged}_.part"));
    let stay = [
        name("v.parquet", &host, &machine, me, my_start),
        name("w.parquet", &host, &machine, process, start),
        name("rT4zKXUd3Jq0Sg1b_0.parquet", &host, &machine, process, start),
        elsewhere.clone(),
        locked.clone(),
        forged,
    ];
    for file in stay.iter().chain([&reused]) {
        fs::write(file, "rows").expect("writable");
    }
    symlink(&stay[0], &link).expect("a link");
    fs::create_dir(&below).expect("writable");
    let lock = File::open(&locked).expect("readable");
    lock.lock().expect("a lock");

    let before = tree(folder.path());
    embedsql(["-c", "EXPLAIN COPY (SELECT 1 AS a) TO 'v.parquet'"]).folder(&folder).stdout();
    assert_eq!(tree(folder.path()), before);
    for _ in 0..2 {
        let ended = embedsql(["-q", "-c", "COPY (SELECT 1 AS a) TO 'v.parquet'"]).folder(&folder).end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let name = elsewhere.file_name().expect("a name").to_str().expect("UTF-8");
        let expected = format!(
            "warning: unfinished file {name:?} stays: process {process} on host \"elsewhere\" is not known to have ended; \
             remove it by hand if nobody writes it\n"
        );
        assert_eq!(ended.stderr, expected);
        let after = tree(folder.path());
        let gone: Vec<_> = before.keys().filter(|file| !after.contains_key(*file)).collect();
        let mut expected = [&dead, &reused];
        expected.sort();
        assert_eq!(gone, expected);
        let changed: Vec<_> = after.iter().filter(|(file, what)| before.get(*file) != Some(what)).collect();
        assert!(changed.len() == 1 && changed[0].0.ends_with("v.parquet"), "{changed:?}");
    }
    drop(lock);
    embedsql(["-q", "-c", "COPY (SELECT 1 AS a) TO 'v.parquet'"]).folder(&folder).end();
    assert!(!locked.exists() && link.is_symlink() && below.is_dir());
}

/// Rows without end while `n.csv` is long, and 100 000 when it is short: the text of the statement is the same.
const BY_FILE: &str = "SELECT g.value, md5(g.value::text) AS t FROM 'n.csv' n, generate_series(1, 100000) g";

fn write_long(folder: &TempDir, is_long: bool) {
    write(folder, "n.csv", &format!("n\n{}", "1\n".repeat(if is_long { 100_000 } else { 1 })));
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_run_leaves_nothing_for_long_in_a_folder() {
    let table = "CREATE EXTERNAL TABLE t (value BIGINT, t VARCHAR) STORED AS PARQUET LOCATION 'out/'; INSERT INTO t";
    let long = format!("{}.parquet", "é".repeat(100));
    let kinds = [
        (format!("COPY ({BY_FILE}) TO 'out/' STORED AS PARQUET"), "embedsql-"),
        (format!("{table} {BY_FILE}"), "embedsql-"),
        (format!("COPY ({BY_FILE}) TO 'out/{long}'"), "é"),
    ];
    for (sql, target) in kinds {
        let folder = TempDir::new().expect("a folder");
        let out = folder.path().join("out");
        fs::create_dir(&out).expect("writable");
        write_long(&folder, true);
        killed(&folder, &sql, target);
        let left = files_below(&out);
        let staged = left.iter().find(|file| file.extension().is_some_and(|end| end == "part")).expect("a staged file");
        // Of a dead run of another statement.
        let (host, machine, process, start) = parts(staged);
        let other = out.join(staged_name("w.parquet", &host, &machine, process, start));
        fs::write(&other, "rows").expect("writable");
        write_long(&folder, false);
        embedsql(["-q", "-c", &sql]).folder(&folder).stdout();
        let now = files_below(&out);
        assert!(left.iter().all(|file| !now.contains(file)) && now.contains(&other), "{now:?}");
        let lists = now.iter().filter(|file| file.extension().is_some_and(|end| end == "run" || end == "part"));
        assert_eq!(lists.count(), 1, "{now:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_overwrite_that_is_killed_keeps_the_old_rows_until_it_is_run_again() {
    let folder = TempDir::new().expect("a folder");
    let rows = || embedsql(["--format", "csv", "-c", "SELECT count(*) AS n FROM 'out/'"]).folder(&folder).stdout();
    let copy = "COPY (SELECT value, 'old' AS t FROM generate_series(1, 10)) TO 'out/' STORED AS PARQUET";
    embedsql(["-c", copy]).folder(&folder).stdout();
    write_long(&folder, true);
    let overwrite = format!("COPY ({BY_FILE}) TO 'out/' STORED AS PARQUET OPTIONS ('mode' 'overwrite')");
    killed(&folder, &overwrite, "embedsql-");
    assert_eq!(rows(), "n\n10\n");
    // Another statement leaves it alone and says so.
    let append = copy.replace("'old'", "'new'").replace("PARQUET", "PARQUET OPTIONS ('mode' 'append')");
    let ended = embedsql(["-q", "-c", &append]).folder(&folder).end();
    assert!(ended.stderr.starts_with("warning: unfinished export \"out/embedsql-"), "{ended:?}");
    assert_eq!(rows(), "n\n20\n");
    write_long(&folder, false);
    embedsql(["-q", "-c", &overwrite]).folder(&folder).stdout();
    assert_eq!(rows(), "n\n100000\n");
    let left = files_below(&folder.path().join("out"));
    assert!(left.iter().all(|file| file.extension().is_none_or(|end| end == "parquet")), "{left:?}");
}

#[test]
fn two_processes_write_into_one_folder() {
    let folder = TempDir::new().expect("a folder");
    for (target, rows) in [("out/", "'out/' STORED AS PARQUET"), ("out/v.parquet", "'out/v.parquet'")] {
        let mut first = embedsql(["-c", &format!("COPY ({ENDLESS}) TO {rows}")]).folder(&folder);
        let child = first.start();
        wait_for_staged(&folder.path().join("out"), "");
        let begun = files_below(&folder.path().join("out"));
        let copy = format!("COPY (SELECT value FROM generate_series(1, 10)) TO {rows}");
        assert_eq!(embedsql(["--format", "csv", "-c", &copy]).folder(&folder).stdout(), "count\n10\n");
        let now = files_below(&folder.path().join("out"));
        assert!(begun.iter().all(|file| now.contains(file)) && now.len() > begun.len(), "{begun:?}: {now:?}");
        assert_eq!(interrupt(child).code, Some(130));
        let now = files_below(&folder.path().join("out"));
        // A folder has its mark too.
        assert_eq!(now.len(), if target.ends_with('/') { 2 } else { 1 }, "{now:?}");
        let count = format!("SELECT count(*) AS n FROM '{target}'");
        assert_eq!(embedsql(["--format", "csv", "-c", &count]).folder(&folder).stdout(), "n\n10\n");
        fs::remove_dir_all(folder.path().join("out")).expect("removable");
    }
}

#[test]
fn writers_of_one_target_all_finish() {
    let folder = TempDir::new().expect("a folder");
    for target in ["'out/' STORED AS PARQUET OPTIONS ('mode' 'append')", "'v.parquet'"] {
        let rows = "SELECT value, md5(value::text) AS t FROM generate_series(1, 300000)";
        let mut runs: Vec<_> =
            (0..3).map(|_| embedsql(["-c", &format!("COPY ({rows}) TO {target}")]).folder(&folder)).collect();
        let children: Vec<_> = runs.iter_mut().map(|run| run.start()).collect();
        for child in children {
            let ended = child.wait_with_output().expect("it ends");
            assert!(ended.status.success() && ended.stderr.starts_with(b"COPY 300000 rows to "), "{ended:?}");
        }
    }
    let sql = "SELECT count(*) AS n FROM 'out/'; SELECT count(*) AS n FROM 'v.parquet'";
    assert_eq!(embedsql(["--format", "csv", "-c", sql]).folder(&folder).stdout(), "n\n900000\nn\n300000\n");
    assert_eq!(files(&folder), ["out", "v.parquet"]);
}

#[test]
fn a_link_stays_and_its_target_is_written() {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("real")).expect("writable");
    for (to, name) in [
        ("real/x.csv", "link.csv"),
        ("link.csv", "chain.csv"),
        ("real", "folder"),
        ("real/absent.csv", "dangling.csv"),
        ("no/such/x.csv", "astray.csv"),
        ("pool.csv", "loop.csv"),
        ("loop.csv", "pool.csv"),
    ] {
        symlink(to, at(name)).expect("a link");
    }
    write(&folder, "real/x.csv", "old");
    fs::set_permissions(at("real/x.csv"), fs::Permissions::from_mode(0o600)).expect("ours");
    let links = || files(&folder).into_iter().filter(|name| at(name).is_symlink()).count();
    for (number, name) in ["link.csv", "chain.csv", "folder/x.csv"].into_iter().enumerate() {
        let copy = format!("COPY (SELECT {number} AS a) TO '{name}'");
        embedsql(["-c", &copy]).folder(&folder).stdout();
        assert_eq!(fs::read_to_string(at("real/x.csv")).expect("readable"), format!("a\n{number}\n"), "{name}");
        embedsql(["--format", "csv", "--output", name, "-c", &format!("SELECT {number} AS b")])
            .folder(&folder)
            .stdout();
        assert_eq!(fs::read_to_string(at("real/x.csv")).expect("readable"), format!("b\n{number}\n"), "{name}");
        assert_eq!(fs::metadata(at("real/x.csv")).expect("there").permissions().mode() & 0o777, 0o600, "{name}");
    }
    embedsql(["-c", "COPY (SELECT 1 AS a) TO 'dangling.csv'"]).folder(&folder).stdout();
    assert_eq!(fs::read_to_string(at("real/absent.csv")).expect("readable"), "a\n1\n");
    embedsql(["-c", "COPY (SELECT 1 AS a) TO 'folder/' STORED AS CSV OPTIONS ('mode' 'append')"])
        .folder(&folder)
        .stdout();
    assert_eq!(files_below(&at("real")).len(), 4);
    let before = tree(folder.path());
    for (name, what) in [("astray.csv", "is a link into "), ("loop.csv", "its symbolic links lead nowhere")] {
        let message = embedsql(["-c", &format!("COPY (SELECT 1 AS a) TO '{name}'")]).folder(&folder).error(1);
        assert!(message.starts_with(&format!("COPY to {name:?}: {what}")), "{message}");
        let message = embedsql(["--output", name, "-c", "SELECT 1"]).folder(&folder).error(2);
        assert!(message.starts_with(&format!("--output {name:?}: {what}")), "{message}");
    }
    assert_eq!(tree(folder.path()), before);
    assert_eq!(links(), 7);
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let folder = TempDir::new().expect("a folder");
    let pipe = folder.path().join("pipe.csv");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    symlink("/dev/null", folder.path().join("null.csv")).expect("a link");
    let before = tree(folder.path());
    for target in ["pipe.csv", "null.csv", "/dev/null", "/dev/stdout"] {
        let copy = format!("COPY (SELECT 1 AS a) TO '{target}' STORED AS CSV");
        let message = embedsql(["-c", &copy]).folder(&folder).error(1);
        let expected =
            format!("COPY to {target:?}: is a device, a pipe or an open descriptor, which no file can replace");
        assert!(message.starts_with(&expected), "{message}");
        embedsql(["-c", &format!("EXPLAIN {copy}")]).folder(&folder).stdout();
        assert_eq!(tree(folder.path()), before, "{target}");
    }
    // A file that is open already is no pipe, but a rename would take it from whoever has it open.
    let out = folder.path().join("out");
    fs::write(&out, "first\n").expect("writable");
    let run = |args: &[&str]| {
        let open = File::options().append(true).open(&out).expect("writable");
        let mut run = Command::new(env!("CARGO_BIN_EXE_embedsql"));
        run.args(args).stdin(Stdio::null()).stdout(open).status().expect("it runs").code()
    };
    assert_eq!(run(&["-c", "COPY (SELECT 1 AS a) TO '/dev/stdout' STORED AS CSV"]), Some(1));
    assert_eq!(run(&["--output", "/dev/stdout", "--format", "csv", "-c", "SELECT 1 AS a"]), Some(0));
    assert_eq!(fs::read_to_string(&out).expect("readable"), "first\na\n1\n");
    let written = embedsql(["--output", "/dev/stdout", "--format", "csv", "-c", "SELECT 1 AS a"]).stdout();
    assert_eq!(written, "a\n1\n");
}

#[test]
fn what_is_in_the_way_is_named_before_anything_runs() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "file", "text");
    symlink("nowhere", folder.path().join("link")).expect("a link");
    let before = tree(folder.path());
    // Rows that would never end.
    let copy = format!("COPY ({ENDLESS}) TO");
    for (target, what) in [
        ("'file' STORED AS CSV", "COPY to \"file\": folder \"file\": is no folder"),
        ("'file/' STORED AS CSV", "COPY to \"file/\": "),
        ("'file/v.csv'", "COPY to \"file/v.csv\": "),
        ("'link/v.csv'", "COPY to \"link/v.csv\": folder \"link\": is no folder"),
        ("'link/' STORED AS CSV", "COPY to \"link/\": folder \"link\": is no folder"),
        ("'link/a/b/' STORED AS CSV", "COPY to \"link/a/b/\": folder \"link\": is no folder"),
    ] {
        let message = embedsql(["-c", &format!("{copy} {target}")]).folder(&folder).error(1);
        assert!(message.starts_with(what), "{target}: {message}");
    }
    assert_eq!(tree(folder.path()), before);
}

/// A file in the place of a folder is not seen before the rows are there.
#[test]
fn what_went_wrong_with_a_file_is_said() {
    let folder = TempDir::new().expect("a folder");
    fs::create_dir(folder.path().join("out")).expect("writable");
    write(&folder, "out/part=1", "text");
    let sql = "COPY (SELECT 2 AS a, 1 AS part) TO 'out/' STORED AS PARQUET PARTITIONED BY (part)";
    let message = embedsql(["-c", sql]).folder(&folder).error(1);
    assert!(message.contains("part=1") && message.contains("Not a directory"), "{message}");
    assert_eq!(fs::read_to_string(folder.path().join("out/part=1")).expect("readable"), "text");
}

#[test]
fn a_file_that_may_not_be_written_stays() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "v.csv", "old");
    fs::set_permissions(folder.path().join("v.csv"), fs::Permissions::from_mode(0o444)).expect("ours");
    // Root may write everything.
    if File::options().write(true).open(folder.path().join("v.csv")).is_err() {
        let message = embedsql(["-c", "COPY (SELECT 1 AS a) TO 'v.csv'"]).folder(&folder).error(1);
        assert!(message.starts_with("COPY to \"v.csv\": "), "{message}");
        embedsql(["--output", "v.csv", "-c", "SELECT 1"]).folder(&folder).error(2);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).expect("ours");
        for target in ["w.csv", "a/w.csv"] {
            let message = embedsql(["-c", &format!("COPY (SELECT 1 AS a) TO '{target}'")]).folder(&folder).error(1);
            assert!(message.starts_with(&format!("COPY to {target:?}: folder \".\": ")), "{message}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        assert_eq!(fs::read_to_string(folder.path().join("v.csv")).expect("readable"), "old");
    }
}

#[test]
fn folders_are_made_and_go_again_when_they_stay_empty() {
    let folder = TempDir::new().expect("a folder");
    fs::create_dir(folder.path().join("mine")).expect("writable");
    for target in ["a/b/v.csv", "mine/a/b/v.csv", "mine/v.csv"] {
        let sql = format!("COPY ({FAILING}) TO '{target}'");
        embedsql(["-c", &sql]).folder(&folder).error(1);
        assert_eq!(tree(folder.path()).len(), 1, "{target}");
        let sql = format!("COPY ({ENDLESS}) TO '{target}'");
        let mut run = embedsql(["-c", &sql]).folder(&folder);
        let child = run.start();
        wait_for_staged(folder.path(), "v.csv");
        assert_eq!(interrupt(child).code, Some(130));
        assert_eq!(tree(folder.path()).len(), 1, "{target}");
    }
    embedsql(["-c", "COPY (SELECT 1 AS a) TO 'a/b/v.csv'"]).folder(&folder).stdout();
    assert_eq!(fs::read_to_string(folder.path().join("a/b/v.csv")).expect("readable"), "a\n1\n");
}

#[test]
fn an_output_file_is_staged_like_that_of_a_copy() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "o.csv", "old");
    write(&folder, "o.csv#1", "mine");
    let begin = || {
        let mut run = embedsql(["--output", "o.csv", "-c", COUNT_WITHOUT_END]).folder(&folder);
        let child = run.start();
        let staged = wait_for_staged(folder.path(), "o.csv");
        (child, staged)
    };
    let (mut child, dead) = begin();
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(files(&folder).len(), 3);
    if cfg!(target_os = "linux") {
        embedsql(["--output", "o.csv", "--format", "csv", "-c", "SELECT 1 AS a"]).folder(&folder).stdout();
        assert!(!dead.exists());
    } else {
        fs::remove_file(&dead).expect("removable");
    }
    let (child, alive) = begin();
    embedsql(["--output", "o.csv", "--format", "csv", "-c", "SELECT 2 AS a"]).folder(&folder).stdout();
    assert!(alive.exists());
    let ended = signal(child, "-TERM");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(143), ""));
    assert_eq!(files(&folder), ["o.csv", "o.csv#1"]);
    assert_eq!(fs::read_to_string(folder.path().join("o.csv")).expect("readable"), "a\n2\n");
    // A folder is refused, and so is what lies below a file.
    let message = one_error(&embedsql(["--output", "o.csv/x", "-c", "SELECT 1"]).folder(&folder).end().stderr);
    assert!(message.starts_with("--output \"o.csv/x\": "), "{message}");
}

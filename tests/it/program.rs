//! The program through real pipes: exit codes, formats, errors, files, signals.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A query that takes minutes before its only row, in several partitions or in one.
pub(crate) const COUNT_WITHOUT_END: &str = "SELECT count(*) \
    FROM generate_series(1, 1000000) a(x), generate_series(1, 1000000) b(y) WHERE x % 7 = y % 11";

/// One run of the program, set up step by step.
pub(crate) struct Run {
    pub(crate) command: Command,
    input: Vec<u8>,
}

/// What a run left behind, with text for easy comparison.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn embedsql<const N: usize>(args: [&str; N]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embedsql"));
    // The error line must be the same for those who set this.
    command.args(args).env("RUST_BACKTRACE", "1");
    // Nor may they have flags of their own: there is no config file here.
    command.env("XDG_CONFIG_HOME", concat!(env!("CARGO_MANIFEST_DIR"), "/tests"));
    Run { command, input: Vec::new() }
}

impl Run {
    pub(crate) fn input(mut self, input: &str) -> Self {
        self.input = input.into();
        self
    }

    pub(crate) fn folder(mut self, folder: &TempDir) -> Self {
        self.command.current_dir(folder.path());
        self
    }

    pub(crate) fn start(&mut self) -> Child {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("piped");
        // A program that ends early closes the pipe; that is its right.
        let _ = stdin.write_all(&self.input);
        child
    }

    pub(crate) fn end(mut self) -> Ended {
        self.start().wait_with_output().expect("the program ends").into()
    }

    /// Expects success and silence on standard error, but for what a COPY says at its end.
    #[track_caller]
    pub(crate) fn stdout(self) -> String {
        let ended = self.end();
        let is_silent = ended.stderr.lines().all(|line| line.starts_with("COPY "));
        assert!(ended.code == Some(0) && is_silent, "{ended:?}");
        ended.stdout
    }

    /// Expects this exit code, one error line and nothing on standard output.
    #[track_caller]
    pub(crate) fn error(self, code: i32) -> String {
        let ended = self.end();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!(ended.stdout, "");
        one_error(&ended.stderr)
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

#[track_caller]
pub(crate) fn one_error(stderr: &str) -> String {
    let message = stderr.strip_prefix("error: ").and_then(|text| text.strip_suffix('\n'));
    let message = message.unwrap_or_else(|| panic!("not an error line: {stderr:?}"));
    let mut lines = message.split('\n');
    let message = lines.next().unwrap_or_default();
    // The line of the statement, and the mark below it.
    let rest: Vec<&str> = lines.collect();
    let is_pointed = matches!(rest[..], [line, mark] if line.starts_with("LINE ") && mark.trim_start() == "^");
    assert!(rest.is_empty() || is_pointed, "more than one line: {stderr}");
    message.to_owned()
}

pub(crate) fn write(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).expect("writable");
}

pub(crate) fn files(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).expect("readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn tables_look_like_those_of_psql() {
    let sql = "SELECT * FROM (VALUES (1, 'paris'), (22, NULL)) t(id, city)";
    assert_eq!(embedsql(["-c", sql]).stdout(), " id | city\n----+-------\n  1 | paris\n 22 | NULL\n(2 rows)\n");
    assert_eq!(embedsql(["-q", "-c", "SELECT 1 AS one"]).stdout(), " one\n-----\n   1\n");
    assert_eq!(embedsql(["-c", "SELECT 1 AS one"]).stdout(), " one\n-----\n   1\n(1 row)\n");
    // A row is a line, whatever is in it.
    let text = embedsql(["-c", "SELECT concat('a', chr(10), 'b', chr(27)) AS t"]).stdout();
    assert_eq!(text.lines().nth(2), Some(" a\\nb\\u{1b}"));
}

#[test]
fn a_long_cell_does_not_widen_its_column() {
    let sql =
        "SELECT value, CASE WHEN value = 7 THEN repeat('x', 1000000) ELSE 'y' END AS t FROM generate_series(1, 5000)";
    let text = embedsql(["-q", "-c", sql]).stdout();
    assert_eq!(text.lines().count(), 5_002);
    assert!(text.len() < 1_200_000, "{} bytes", text.len());
}

#[test]
fn rows_are_shown_before_the_last_one_is_there() {
    // Some rows at once, then a wait without end: only the first UNION branch ends.
    let sql = format!("SELECT 1 AS n UNION ALL SELECT * FROM ({COUNT_WITHOUT_END})");
    let mut child = embedsql(["-c", &sql]).start();
    let (sender, lines) = std::sync::mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    for expected in [" n", "---", " 1"] {
        let line = lines.recv_timeout(Duration::from_secs(20)).expect("a line while the query runs");
        assert_eq!(line, expected);
    }
    assert!(child.try_wait().expect("a child").is_none(), "the query was to be endless");
    assert_eq!(interrupt(child).code, Some(130));
}

#[test]
fn no_row_is_left_out() {
    let sql = "SELECT value FROM generate_series(1, 25000)";
    let text = embedsql(["-c", sql]).stdout();
    assert_eq!(text.lines().count(), 25_003);
    assert!(text.ends_with("(25000 rows)\n"));
    assert_eq!(embedsql(["--format", "ndjson", "-c", sql]).stdout().lines().count(), 25_000);
}

#[test]
fn vectors_are_short_in_tables_and_whole_elsewhere() {
    let sql = "SELECT 7 AS id, embed('a cat') AS v";
    let table = embedsql(["-c", sql]).stdout();
    let row = table.lines().nth(2).expect("a row");
    assert!(row.starts_with("  7 | [") && row.ends_with(", … 384]"), "{row}");

    let csv = embedsql(["--format", "csv", "-c", sql]).stdout();
    let field = csv.strip_prefix("id,v\n7,\"").and_then(|rest| rest.strip_suffix("\"\n")).expect("one quoted field");
    let from_csv: Vec<f32> = serde_json::from_str(field).expect("a JSON array");
    let tsv = embedsql(["--format", "tsv", "-c", sql]).stdout();
    assert_eq!(tsv.lines().next(), Some("id\tv"));

    let json = embedsql(["--format", "json", "-c", sql]).stdout();
    let rows: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let from_json: Vec<f32> = serde_json::from_value(rows[0]["v"].clone()).expect("numbers");
    assert_eq!(from_json.len(), 384);
    assert_eq!(from_json, from_csv);
}

#[test]
fn json_formats_can_be_parsed() {
    let sql = "SELECT * FROM (VALUES (1, 'a\"b'), (2, NULL)) t(id, s) ORDER BY id";
    let json = embedsql(["--format", "json", "-c", sql]).stdout();
    assert_eq!(json, "[{\"id\":1,\"s\":\"a\\\"b\"},\n{\"id\":2,\"s\":null}]\n");
    let ndjson = embedsql(["--format", "ndjson", "-c", sql]).stdout();
    assert_eq!(ndjson, "{\"id\":1,\"s\":\"a\\\"b\"}\n{\"id\":2,\"s\":null}\n");
    assert_eq!(embedsql(["--format", "json", "-c", "SELECT 1 AS a WHERE false"]).stdout(), "[]\n");
}

#[test]
fn csv_quotes_and_flattens() {
    let sql = "SELECT 'x,\"y\"' AS s, [1, 2] AS l, named_struct('k', 'v') AS o, NULL AS n";
    let expected = "s,l,o,n\n\"x,\"\"y\"\"\",\"[1,2]\",\"{\"\"k\"\":\"\"v\"\"}\",\n";
    assert_eq!(embedsql(["--format", "csv", "-c", sql]).stdout(), expected);
    assert_eq!(embedsql(["--format", "csv", "-c", "SELECT 1 AS a WHERE false"]).stdout(), "a\n");
    // NULL is nothing, and the empty text is not.
    let sql = "SELECT NULL AS a, '' AS b, 1.5 AS c, true AS d, DATE '2024-02-29' AS e";
    assert_eq!(embedsql(["--format", "csv", "-c", sql]).stdout(), "a,b,c,d,e\n,\"\",1.5,true,2024-02-29\n");
    assert_eq!(embedsql(["--format", "tsv", "-c", sql]).stdout(), "a\tb\tc\td\te\n\t\t1.5\ttrue\t2024-02-29\n");
}

#[test]
fn plans_keep_their_lines() {
    let text = embedsql(["-c", "EXPLAIN FORMAT INDENT SELECT 1 + 1"]).stdout();
    assert!(text.starts_with("-- logical_plan\nProjection: Int64(2)"), "{text}");
    assert!(!text.contains("\\n"));
}

#[test]
fn commands_and_files_run_in_the_order_given() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "a.sql", "\u{feff}SELECT 2 AS n;\nSELECT 3 AS n");
    let run = embedsql(["--format", "ndjson", "-c", "SELECT 1 AS n;", "-f", "a.sql", "-f", "-", "-c", "SELECT 5 AS n"]);
    let expected = "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}\n{\"n\":5}\n";
    assert_eq!(run.input("SELECT 4 AS n").folder(&folder).stdout(), expected);
}

#[test]
fn a_command_may_begin_with_a_comment() {
    assert_eq!(embedsql(["--format", "csv", "-c", "-- why\nSELECT 1 AS a"]).stdout(), "a\n1\n");
}

#[test]
fn standard_input_is_run_and_may_be_empty() {
    let sql = "-- a comment; no end\nSELECT ';' AS a;\n\n;;SELECT $$;$$ AS b -- end";
    assert_eq!(embedsql(["--format", "ndjson"]).input(sql).stdout(), "{\"a\":\";\"}\n{\"b\":\";\"}\n");
    assert_eq!(embedsql([]).input("").stdout(), "");
    assert_eq!(embedsql([]).input("-- nothing\n;").stdout(), "");
}

#[test]
fn statements_of_every_kind_run() {
    let sql = "CREATE TABLE t AS VALUES (1), (2); INSERT INTO t VALUES (3); SET datafusion.execution.batch_size = 64; \
        PREPARE p(BIGINT) AS SELECT column1 FROM t WHERE column1 > $1; EXECUTE p(2); \
        SHOW datafusion.execution.batch_size; DROP TABLE t";
    let expected = "{\"count\":1}\n{\"column1\":3}\n{\"name\":\"datafusion.execution.batch_size\",\"value\":\"64\"}\n";
    assert_eq!(embedsql(["--format", "ndjson", "-c", sql]).stdout(), expected);
}

#[test]
fn other_dialects_read_the_text_as_typed() {
    let sql = "SET datafusion.sql_parser.dialect = 'postgres'; SELECT 'a''b' AS \"Q\"";
    assert_eq!(embedsql(["--format", "ndjson", "-c", sql]).stdout(), "{\"Q\":\"a'b\"}\n");
}

#[test]
fn the_first_failure_ends_the_run() {
    let ended = embedsql(["--format", "ndjson", "-c", "SELECT 1 AS a; SELECT nothing; SELECT 2 AS a"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), "{\"a\":1}\n"));
    assert!(one_error(&ended.stderr).contains("nothing"), "{}", ended.stderr);
    // A syntax error does not reach back.
    let ended = embedsql(["--format", "ndjson", "-c", "SELECT 1 AS a; SELECT 'no end; SELECT 2"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), "{\"a\":1}\n"));
    assert!(one_error(&ended.stderr).starts_with("syntax error: Unterminated string literal"), "{}", ended.stderr);
}

#[test]
fn flags_of_every_day_stand_in_a_config_file() {
    let folder = TempDir::new().expect("a folder");
    let config =
        "format = \"csv\"\nquiet = true\nset = { \"datafusion.sql_parser.default_null_ordering\" = \"nulls_last\" }\n";
    fs::create_dir(folder.path().join("embedsql")).expect("writable");
    write(&folder, "embedsql/config.toml", config);
    let run = |arguments: &[&str]| {
        let mut run = embedsql([]);
        run.command.args(arguments).env("XDG_CONFIG_HOME", folder.path());
        run
    };
    let sql = "SELECT a FROM (VALUES (1), (NULL), (2)) t(a) ORDER BY a DESC";
    assert_eq!(run(&["-c", sql]).stdout(), "a\n2\n1\n\n");
    // What is typed is stronger.
    assert_eq!(run(&["--format", "tsv", "-c", "SELECT 1 AS a, 2 AS b"]).stdout(), "a\tb\n1\t2\n");
    assert_eq!(run(&["--no-config", "-c", sql]).stdout(), "    a\n------\n NULL\n    2\n    1\n(3 rows)\n");
    write(&folder, "embedsql/config.toml", "modle = \"x\"\n");
    let message = run(&["-c", "SELECT 1"]).error(2);
    assert!(message.starts_with("config file ") && message.contains("\"modle\" is not one of "), "{message}");
}

#[test]
fn a_failed_script_leaves_no_file_of_results() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "q.sql", "\\o out.txt\nSELECT 1 AS a;\nSELECT nothing;\n");
    embedsql(["-f", "q.sql"]).folder(&folder).error(1);
    write(&folder, "g.sql", "SELECT nothing \\g out.txt\n");
    embedsql(["-f", "g.sql"]).folder(&folder).error(1);
    assert_eq!(files(&folder), ["g.sql", "q.sql"]);
}

#[test]
fn errors_say_what_and_where() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "q.sql", "SELECT 1 AS a;\n\n-- why\nSELECT\n  FRUM t;");
    let ended = embedsql(["-q", "-f", "q.sql"]).folder(&folder).end();
    assert_eq!(ended.code, Some(1));
    let message = one_error(&ended.stderr);
    // FRUM is read as the name of the column FRUM, and t as its new name.
    assert_eq!(message, "q.sql:5:3: no column \"frum\": no table is read here (a text stands in single quotes)");
    let message = embedsql([]).input("\nSELEC 1").error(1);
    assert!(message.starts_with("<stdin>:2:1: syntax error: ") && message.ends_with("found: SELEC"), "{message}");
    let message = embedsql(["-c", "SELECT 1 / (value - value) FROM generate_series(1, 3)"]).error(1);
    assert_eq!(message, "Divide by zero error");
    let message = embedsql(["-c", "SELECT * FROM 'no/such.parquet'"]).error(1);
    assert_eq!(message, "file \"no/such.parquet\" not found");
    let message = embedsql(["-c", "SELECT embed(*) FROM (VALUES ('a'))"]).error(1);
    assert_eq!(message, "* is no argument of this function: name a column (only count takes *)");
    let message = embedsql([]).input("SELECT 1;\n\n\\nosuch").end().stderr;
    assert_eq!(message, "error: <stdin>:3: unknown command \\nosuch; \\? lists them\n");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = TempDir::new().expect("a folder");
    fs::create_dir(folder.path().join("data")).expect("writable");
    write(&folder, "empty.parquet", "");
    write(&folder, "text.parquet", "hello, this is no Parquet file");
    write(&folder, "notes.md", "hello");
    let create = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION";
    let cases = [
        ("SELECT * FROM 'empty.parquet'", "file \"empty.parquet\" is empty"),
        (&format!("{create} 'empty.parquet'"), "file \"empty.parquet\" is empty"),
        ("SELECT * FROM 'text.parquet'", "file \"text.parquet\": Invalid Parquet file. Corrupt footer"),
        (&format!("{create} 'text.parquet'"), "file \"text.parquet\": Invalid Parquet file. Corrupt footer"),
        ("COPY 'text.parquet' TO 'x.csv'", "file \"text.parquet\": Invalid Parquet file. Corrupt footer"),
        ("SELECT * FROM 'notes.md'", "file \"notes.md\" is of no known type (known: "),
        ("SELECT * FROM 'data/'", "directory \"data/\" holds no files of a known type (known: "),
        (
            "SELECT * FROM data",
            "table \"data\" not found, and directory \"data\" holds no files of a known type (known: ",
        ),
        ("SELECT * FROM 'ftp://b/x.parquet'", "\"ftp://b/x.parquet\": ftp:// is not known (known: s3, "),
        ("COPY (SELECT 1) TO 'ftp://b/x.parquet'", "ftp://b: ftp:// is not known (known: s3, "),
        (&format!("{create} 'ftp://b/x.parquet'"), "ftp://b: ftp:// is not known (known: s3, "),
        ("COPY (SELECT 1) TO 'x.docx'", "COPY: \"docx\" is no known file format (known: parquet, csv, arrow, and json"),
        ("COPY (SELECT 1) TO 'x'", "COPY: the name of the file has no extension that says its format (known: "),
    ];
    for (sql, start) in cases {
        let message = embedsql(["-c", sql]).folder(&folder).error(1);
        assert!(message.starts_with(start), "{sql}: {message}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_is_no_unknown_type() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().expect("a folder");
    write(&folder, "secret.parquet", "text");
    let path = folder.path().join("secret.parquet");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("ours");
    // Root may read everything.
    if fs::File::open(&path).is_err() {
        let message = embedsql(["-c", "SELECT * FROM 'secret.parquet'"]).folder(&folder).error(1);
        assert_eq!(message, "file \"secret.parquet\": permission denied");
    }
}

#[test]
fn damaged_pages_are_those_of_a_named_file() {
    let folder = TempDir::new().expect("a folder");
    let copy = "COPY (SELECT md5(value::text) AS t FROM generate_series(1, 5000)) TO 'd.parquet'";
    embedsql(["-c", copy]).folder(&folder).stdout();
    let path = folder.path().join("d.parquet");
    let mut bytes = fs::read(&path).expect("readable");
    bytes[200..20_000].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(&path, bytes).expect("writable");
    let external = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'd.parquet'; SELECT sum(length(t)) FROM t";
    for sql in ["SELECT sum(length(t)) FROM 'd.parquet'", external, "COPY (SELECT t FROM 'd.parquet') TO 'x.parquet'"] {
        let message = embedsql(["-c", sql]).folder(&folder).error(1);
        assert!(message.starts_with("file \"d.parquet\": "), "{sql}: {message}");
    }
}

#[test]
fn a_wrong_set_is_a_failed_statement() {
    for sql in
        ["SET embed.precision = 'foo'", "SET embed.nothing = 1", "SET datafusion.nothing = 1", "SET nothing.x = 1"]
    {
        let message = embedsql(["-c", sql]).error(1);
        assert!(message.contains("foo") || message.contains("nothing"), "{message}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let cases: &[(&[&str], &str)] = &[
        (&["--set", "embed.precision=foo"], "--set embed.precision=foo: "),
        (&["--set", "embed.nothing=1"], "--set embed.nothing=1: "),
        (&["--set", "datafusion.nothing=1"], "--set datafusion.nothing=1: "),
        (&["--set", "datafusion.runtime.memory_limit=x"], "--set datafusion.runtime.memory_limit=x: "),
        (&["--set", "nothing"], "invalid value 'nothing'"),
        (&["--set", "other.key=1"], "invalid value 'other.key=1'"),
        (&["--model", ""], "--model \"\": "),
        (&["--precision", "f17"], "--precision \"f17\": "),
        (&["--format", "xml"], "invalid value 'xml'"),
        (&["--memory-limit", "much"], "invalid value 'much'"),
        (&["--threads", "0"], "invalid value '0' for '--threads <N>': 0 is not in 1..=1024"),
        (&["--threads", "100000"], "invalid value '100000' for '--threads <N>': 100000 is not in 1..=1024"),
        (&["--nothing"], "unexpected argument '--nothing'"),
        (&["-f", "no/such.sql"], "file \"no/such.sql\": "),
        (&["--output", "no/such/folder/x.csv"], "--output \"no/such/folder/x.csv\": "),
        (&["--output", "/"], "--output \"/\": is a directory"),
    ];
    for (args, start) in cases {
        let mut run = embedsql(["-c", "SELECT 1"]);
        run.command.args(*args);
        let message = run.error(2);
        assert!(message.starts_with(start), "{args:?}: {message}");
    }
}

#[test]
fn flags_are_settings() {
    let run = embedsql([
        "--format",
        "ndjson",
        "--threads",
        "1",
        "--memory-limit",
        "64M",
        "--set",
        "datafusion.runtime.max_temp_directory_size=1G",
    ]);
    let mut run = run.input("SHOW datafusion.execution.target_partitions; SHOW embed.model; SELECT count(*) AS n FROM generate_series(1, 10)");
    run.command.args(["--model", "some/model", "--set", "embed.batch_size=7"]);
    let text = run.stdout();
    assert!(
        text.contains("\"value\":\"1\"") && text.contains("\"value\":\"some/model\"") && text.contains("\"n\":10"),
        "{text}"
    );
}

#[test]
fn version_and_help() {
    let text = embedsql(["--version"]).stdout();
    assert!(text.starts_with("embedsql ") && text.contains("\ndevices: cpu") && text.contains("\nkernels: "), "{text}");
    let text = embedsql(["--help"]).stdout();
    assert!(text.contains("Examples:") && text.contains("--memory-limit"), "{text}");
}

#[test]
fn a_kernel_path_is_asked_for_by_its_name() {
    fn on<const N: usize>(path: &str, args: [&str; N]) -> Run {
        let mut run = embedsql(args);
        run.command.env("DATAFUSION_EMBED_KERNELS", path);
        run
    }
    assert!(on("portable", ["--version"]).stdout().contains("\nkernels: portable\n"));
    let used = ["--format", "csv", "-c", "SELECT embed('a') = embed('b')", "-c", "SELECT kernels FROM embed_models()"];
    assert!(on("portable", used).stdout().ends_with("\nportable\n"));
    let error = on("avx3", ["-c", "SELECT embed('a')"]).error(1);
    assert!(error.contains("\"avx3\" is no path of this machine") && error.contains("portable"), "{error}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    for format in ["table", "csv", "json", "ndjson"] {
        let mut run = embedsql(["--format", format, "-c", "SELECT value FROM generate_series(1, 20000000)"]);
        let mut child = run.start();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("a line");
        drop(stdout);
        let status = child.wait().expect("the program ends");
        let mut stderr = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{format}");
    }
}

#[test]
fn vectors_survive_a_parquet_file() {
    let folder = TempDir::new().expect("a folder");
    let sql =
        "COPY (SELECT value AS id, embed(concat('text ', value)) AS vector FROM generate_series(1, 50)) TO 'v.parquet';
        SELECT count(*) AS n, min(array_length(vector)) AS dim FROM 'v.parquet';
        SELECT arrow_typeof(vector) LIKE 'FixedSizeList(%' AS fixed FROM 'v.parquet' LIMIT 1";
    let text = embedsql(["--format", "ndjson", "-c", sql]).folder(&folder).stdout();
    assert_eq!(text, "{\"count\":50}\n{\"n\":50,\"dim\":384}\n{\"fixed\":true}\n");
    assert_eq!(files(&folder), ["v.parquet"]);
    assert!(!encodings(&folder.path().join("v.parquet"), 1).contains("DICTIONARY"));
    // Whoever asks for a dictionary gets it.
    let sql = "COPY (SELECT embed('a') AS v) TO 'd.parquet' OPTIONS ('format.dictionary_enabled' 'true')";
    embedsql(["-c", sql]).folder(&folder).stdout();
    assert!(encodings(&folder.path().join("d.parquet"), 0).contains("DICTIONARY"));
}

#[test]
fn vectors_of_any_name_are_stored_without_a_dictionary() {
    let folder = TempDir::new().expect("a folder");
    let sql = "COPY (SELECT t.text, [t.text] AS list, embed(t.text), embed(t.text) AS v, named_struct('f', t.text) AS s \
        FROM (SELECT concat('text ', value % 3) AS text FROM generate_series(1, 50)) t) TO 'v.parquet'";
    embedsql(["-c", sql]).folder(&folder).stdout();
    let of = |column| encodings(&folder.path().join("v.parquet"), column).contains("DICTIONARY");
    assert_eq!([0, 1, 2, 3, 4].map(of), [true, true, false, false, true]);
    let sql =
        "COPY (SELECT 'a' AS t, embed('a') AS \"x.y\") TO 'd.parquet' OPTIONS ('format.dictionary_enabled' 'true')";
    embedsql(["-c", sql]).folder(&folder).stdout();
    assert!(encodings(&folder.path().join("d.parquet"), 1).contains("DICTIONARY"));
}

/// The encodings of a column, as the file's metadata lists them.
fn encodings(file: &Path, column: usize) -> String {
    use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
    let reader = SerializedFileReader::new(fs::File::open(file).expect("a file")).expect("a Parquet file");
    let column = reader.metadata().row_group(0).column(column);
    column.encodings().map(|encoding| format!("{encoding} ")).collect()
}

#[test]
fn row_groups_are_small_enough_for_vectors() {
    let folder = TempDir::new().expect("a folder");
    embedsql(["-c", "COPY (SELECT value FROM generate_series(1, 50000)) TO 'n.parquet'"]).folder(&folder).stdout();
    use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
    let file = fs::File::open(folder.path().join("n.parquet")).expect("a file");
    let reader = SerializedFileReader::new(file).expect("a Parquet file");
    assert_eq!(reader.metadata().num_row_groups(), 3);
}

#[test]
fn a_vector_is_refused_for_csv_before_anything_runs() {
    let folder = TempDir::new().expect("a folder");
    let copy = "COPY (SELECT 1 AS id, embed('a') AS vector) TO";
    for target in ["'v.csv'", "'folder/' STORED AS CSV"] {
        let message = embedsql(["-c", &format!("{copy} {target}")]).folder(&folder).error(1);
        let expected = "COPY: column \"vector\" is a vector, which a CSV file cannot hold: write parquet, arrow or json, \
            or select array_to_string(vector, ' ')";
        assert_eq!(message, expected);
    }
    assert_eq!(files(&folder), [] as [&str; 0]);
    let sql = "COPY (SELECT 1 AS id, array_to_string(embed('a'), ' ') AS vector) TO 'v.csv'";
    embedsql(["-c", sql]).folder(&folder).stdout();
    assert_eq!(files(&folder), ["v.csv"]);
}

#[test]
fn a_failed_copy_leaves_the_old_file() {
    let folder = TempDir::new().expect("a folder");
    for target in ["f.parquet", "f.csv", "f.json", "f.arrow"] {
        write(&folder, target, "old");
        // Fails late, when much is written.
        let sql = format!(
            "COPY (SELECT value, repeat(md5(value::text), 50) AS text, 1 / (value - 60000) AS x \
             FROM generate_series(1, 60000)) TO '{target}'"
        );
        let message = embedsql(["-c", &sql]).folder(&folder).error(1);
        assert_eq!(message, "Divide by zero error", "{target}");
        assert_eq!(fs::read_to_string(folder.path().join(target)).expect("readable"), "old");
        assert_eq!(files(&folder), [target]);
        fs::remove_file(folder.path().join(target)).expect("removable");
    }
}

#[test]
fn a_failed_copy_leaves_nothing_in_a_folder() {
    let folder = TempDir::new().expect("a folder");
    let sql = "COPY (SELECT value % 3 AS part, md5(value::text) AS text, 1 / (value - 300000) AS x \
        FROM generate_series(1, 300000)) TO 'out/' STORED AS PARQUET";
    for sql in [sql.to_owned(), format!("{sql} PARTITIONED BY (part)")] {
        assert_eq!(embedsql(["-c", &sql]).folder(&folder).error(1), "Divide by zero error");
        assert_eq!(files_below(&folder.path().join("out")), [] as [&Path; 0]);
    }
    embedsql(["-c", &sql.replace("1 / (value - 300000)", "1")]).folder(&folder).stdout();
    assert_ne!(files_below(&folder.path().join("out")), [] as [&Path; 0]);
}

pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn an_output_file_is_whole_or_absent() {
    let folder = TempDir::new().expect("a folder");
    let args = ["--format", "csv", "--output", "o.csv", "-c"];
    let mut run = embedsql(args).folder(&folder);
    run.command.arg("SELECT 1 AS a; SELECT 2 AS b");
    assert_eq!(run.stdout(), "");
    assert_eq!(fs::read_to_string(folder.path().join("o.csv")).expect("readable"), "a\n1\nb\n2\n");
    let mut run = embedsql(args).folder(&folder);
    run.command.arg("SELECT 3 AS a; SELECT nothing");
    run.error(1);
    assert_eq!(fs::read_to_string(folder.path().join("o.csv")).expect("readable"), "a\n1\nb\n2\n");
    assert_eq!(files(&folder), ["o.csv"]);
    assert_eq!(embedsql(["--output", "/dev/null", "-c", "SELECT 1"]).stdout(), "");
}

/// `/dev/full` is a disk without room.
#[cfg(target_os = "linux")]
#[test]
fn results_that_find_no_room_are_an_error() {
    let message = embedsql(["--output", "/dev/full", "-c", "SELECT 1"]).error(1);
    assert_eq!(message, "output: No space left on device (os error 28)");
}

/// Sends SIGINT to a running program and waits for its end, which must come within a second.
pub(crate) fn interrupt(child: Child) -> Ended {
    signal(child, "-INT")
}

pub(crate) fn signal(mut child: Child, name: &str) -> Ended {
    let sent = Instant::now();
    let kill = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill runs");
    assert!(kill.success());
    while child.try_wait().expect("a child").is_none() {
        assert!(sent.elapsed() < Duration::from_secs(10), "still running");
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = sent.elapsed();
    // The promise is a second; a busy test machine gets another.
    assert!(took < Duration::from_secs(2), "took {took:?}");
    child.wait_with_output().expect("ended").into()
}

#[test]
fn ctrl_c_is_exit_code_130() {
    let folder = TempDir::new().expect("a folder");
    for threads in ["1", "4"] {
        let mut run = embedsql(["--threads", threads, "--output", "o.csv", "-c", COUNT_WITHOUT_END]).folder(&folder);
        let child = run.start();
        std::thread::sleep(Duration::from_millis(700));
        let ended = interrupt(child);
        assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(130), "", ""));
        assert_eq!(files(&folder), [] as [&str; 0]);
    }
}

/// Waits until a run has begun to write this file (`""`: any file), and gives what it writes.
pub(crate) fn wait_for_staged(folder: &Path, name: &str) -> PathBuf {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let is_staged = |file: &PathBuf| {
            let staged = file.file_name().unwrap_or_default().to_string_lossy();
            staged.starts_with(&format!(".{name}")) && staged.contains(".embedsql-") && staged.ends_with(".part")
        };
        if let Some(file) = files_below(folder).into_iter().find(is_staged) {
            return file;
        }
        assert!(Instant::now() < deadline, "no {name}: {:?}", files_below(folder));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn other_signals_clean_up_too() {
    let copy = "COPY (SELECT value, md5(value::text) AS t FROM generate_series(1, 1000000000)) TO 'v.parquet'";
    // Under nohup SIGHUP is ignored, and the program inherits that.
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask").trim();
    let nohup = u64::from_str_radix(ignored, 16).expect("a number") & 1 == 1;
    let signals: &[(&str, i32)] = if nohup { &[("-TERM", 143)] } else { &[("-TERM", 143), ("-HUP", 129)] };
    for &(name, code) in signals {
        let folder = TempDir::new().expect("a folder");
        let mut run = embedsql(["--output", "o.csv", "-c", copy]).folder(&folder);
        let child = run.start();
        wait_for_staged(folder.path(), "v.parquet");
        let ended = signal(child, name);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""));
        assert_eq!(files(&folder), [] as [&str; 0]);
    }
}

#[test]
fn ctrl_c_cleans_up_behind_every_statement_that_writes() {
    let rows = "SELECT value, md5(value::text) AS t FROM generate_series(1, 1000000000)";
    let explain = format!("EXPLAIN ANALYZE COPY ({rows}) TO 'data/v.parquet'");
    let insert = format!(
        "CREATE EXTERNAL TABLE x (value BIGINT, t VARCHAR) STORED AS PARQUET LOCATION 'data/'; INSERT INTO x {rows}"
    );
    for sql in [explain, insert] {
        let folder = TempDir::new().expect("a folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("writable");
        let mut run = embedsql(["-c", &sql]).folder(&folder);
        let child = run.start();
        wait_for_staged(&data, "");
        assert_eq!(interrupt(child).code, Some(130));
        assert_eq!(files_below(&data), [] as [&Path; 0], "{sql}");
    }
}

#[test]
fn ctrl_c_during_copy_leaves_the_old_file() {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "v.parquet", "old");
    let copy = "COPY (SELECT value, md5(value::text) AS t FROM generate_series(1, 1000000000)) TO 'v.parquet'";
    let mut run = embedsql(["-c", copy]).folder(&folder);
    let child = run.start();
    wait_for_staged(folder.path(), "v.parquet");
    assert_eq!(interrupt(child).code, Some(130));
    assert_eq!(files(&folder), ["v.parquet"]);
    assert_eq!(fs::read_to_string(folder.path().join("v.parquet")).expect("readable"), "old");
}

#[test]
fn ctrl_c_while_the_model_runs() {
    let sql = "SELECT count(embed(repeat('many words ', 200 + CAST(value AS INT)))) FROM generate_series(1, 1000000)";
    let mut run = embedsql(["-c", sql]);
    let child = run.start();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(interrupt(child).code, Some(130));
}

#[test]
fn models_are_listed_and_checked_in_any_format() {
    let listed = embedsql(["models", "--format", "csv"]).stdout();
    assert!(listed.starts_with("model,source,revision,size,loaded\n"), "{listed}");
    if cfg!(feature = "bundled-model") {
        assert!(listed.contains("sentence-transformers/all-MiniLM-L6-v2,bundled,sha256:"), "{listed}");
    }
    let checked = embedsql(["models", "check", "tests/fixtures/architectures/t5"]).stdout();
    for part in
        ["architecture | t5", "modules      | Dense 48 -> 48 Identity, Normalize", "bf16 ", "int8 ", "cosine_mean"]
    {
        assert!(checked.contains(part), "{part} not in {checked}");
    }
    let message = embedsql(["models", "check", "no/such/model"]).error(1);
    assert!(message.starts_with("model \"no/such/model\" not found"), "{message}");
    let message = embedsql(["models", "fetch"]).error(2);
    assert!(message.contains("fetch"), "{message}");
}

#[test]
fn a_folder_of_vectors_is_looked_after() {
    let folder = TempDir::new().expect("a folder");
    let cache = folder.path().join("vectors").display().to_string();
    let texts =
        "SELECT i, embed(concat('text ', i), 'tests/fixtures/tiny-bert') AS v FROM generate_series(1, 50) AS t(i)";
    let sql = format!("SELECT count(v) FROM ({texts})");
    let counts = "SELECT sum(rows_embedded), sum(rows_cached) FROM embed_models()";
    let run = || embedsql(["-q", "--format", "csv", "--cache", &cache, "-c", &sql, "-c", counts]).stdout();
    assert!(run().ends_with("\n50,0\n") && run().ends_with("\n0,50\n"));
    let stats = embedsql(["cache", "stats", &cache, "--format", "csv"]).stdout();
    assert!(stats.lines().count() == 2 && stats.contains(",f32,\"\",32,50,"), "{stats}");
    assert_eq!(embedsql(["cache", "verify", &cache, "--format", "csv"]).stdout(), "right,damaged\n50,0\n");
    assert_eq!(embedsql(["cache", "prune", &cache, "--to", "1G", "--format", "csv"]).stdout().lines().count(), 2);
    assert_eq!(embedsql(["cache", "clear", &cache]).stdout(), "");
    assert!(run().ends_with("\n50,0\n"));
    let message = embedsql(["cache", "stats", "no/such/folder"]).error(1);
    assert!(message.contains("no/such/folder") && message.contains("no folder of embed.cache"), "{message}");
}

#[test]
fn scripts_have_commands_too() {
    let folder = TempDir::new().expect("a folder");
    let script = "\\set name 'o''ne'\n\\format csv\nCREATE TABLE t AS VALUES (1);\n\\d t\n\\echo between\nSELECT :'name' AS a;\n\
        SELECT 2 AS b \\g two.csv\n\\q\nSELECT nothing;\n";
    fs::write(folder.path().join("s.sql"), script).expect("writable");
    let shown = embedsql(["-f", "s.sql", "-c", "SELECT 3 AS c"]).folder(&folder).stdout();
    let expected = "column_name,data_type,is_nullable\ncolumn1,Int64,NO\nbetween\na\no'ne\n";
    assert_eq!(shown, expected, "a \\q ends the whole run");
    assert_eq!(fs::read_to_string(folder.path().join("two.csv")).expect("written"), "b\n2\n");
    let ended =
        embedsql(["-c", "\\o out.csv\nSELECT 1 AS a;\nSELECT nothing;", "--format", "csv"]).folder(&folder).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(!folder.path().join("out.csv").exists(), "what failed leaves no file");
    embedsql(["-c", "\\o out.csv\nSELECT 1 AS a;", "--format", "csv"]).folder(&folder).stdout();
    assert_eq!(fs::read_to_string(folder.path().join("out.csv")).expect("written"), "a\n1\n");
}

#[test]
fn what_is_meant_without_flags() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("s.sql"), "SELECT 'a ' || 'script' AS t").expect("writable");
    fs::write(folder.path().join("d.csv"), "id,Body\n1,one\n2,two\n").expect("writable");
    assert!(embedsql(["SELECT 'a statement' AS t"]).stdout().contains("a statement"));
    assert!(embedsql(["s.sql"]).folder(&folder).stdout().contains("a script"));
    let shown = embedsql(["d.csv"]).folder(&folder).stdout();
    for part in ["Int64", "   2\n", "two", "-- next: SELECT *, embed(\"Body\") AS vector FROM 'd.csv' LIMIT 3;"] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(embedsql(["nosuch"]).error(2).starts_with("\"nosuch\" is no command, no file and no SQL"));
    assert_eq!(embedsql(["nosuch.csv"]).folder(&folder).error(1), "file \"nosuch.csv\" not found");
}

#[test]
fn a_copy_says_what_it_did() {
    let folder = TempDir::new().expect("a folder");
    let copy = "COPY (SELECT embed(column1) AS v FROM (VALUES ('a'), ('b'), ('a'), (NULL))) TO 'v.parquet'";
    let ended = embedsql(["-c", copy, "--cache", "kept"]).folder(&folder).end();
    assert!(ended.stderr.starts_with("COPY 4 rows to \"v.parquet\" ("), "{}", ended.stderr);
    assert!(ended.stderr.contains("): 2 embedded, 1 equal to others, 1 NULL; "), "{}", ended.stderr);
    assert!(ended.stdout.contains("4"), "{}", ended.stdout);
    let ended = embedsql(["-c", copy, "--cache", "kept"]).folder(&folder).end();
    assert!(ended.stderr.ends_with("): 2 from the cache, 1 equal to others, 1 NULL\n"), "{}", ended.stderr);
    let ended = embedsql(["-q", "-c", copy]).folder(&folder).end();
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    // Rows before the first text count too.
    let copy = copy.replace("('a'), ('b'), ('a'), (NULL)", "(NULL), (NULL), ('a'), (NULL)");
    let ended = embedsql(["-c", &copy]).folder(&folder).end();
    assert!(ended.stderr.contains("): 1 embedded, 3 NULL; "), "{}", ended.stderr);
    // A name is no address, whose query would be nobody's affair.
    let ended = embedsql(["-c", "COPY (SELECT 1 AS x) TO 'what?[1].csv'"]).folder(&folder).end();
    assert!(ended.stderr.starts_with("COPY 1 row to \"what?[1].csv\" ("), "{}", ended.stderr);
}

#[test]
fn markdown() {
    let shown = embedsql([
        "--format",
        "markdown",
        "-c",
        "SELECT 1 AS n, 'a|b\nc' AS t, [1, 2] AS l UNION ALL SELECT 2, NULL, NULL",
    ]);
    let expected = "| n | t | l |\n|--:|---|---|\n| 1 | a\\|b<br>c | [1,2] |\n| 2 | NULL | NULL |\n";
    let shown = shown.stdout();
    let mut lines: Vec<_> = shown.lines().collect();
    lines[2..].sort_unstable();
    assert_eq!(lines.join("\n") + "\n", expected);
}

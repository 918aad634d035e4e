//! The prompt on a pseudo-terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rexpect::process::wait::WaitStatus;
use rexpect::reader::Options;
use rexpect::session::{PtySession, spawn_with_options};
use tempfile::TempDir;
use unicode_width::UnicodeWidthStr;

use crate::program::COUNT_WITHOUT_END;

/// A prompt with its state in a folder of its own.
struct Terminal {
    session: PtySession,
    home: TempDir,
    /// Whether what is typed is shown: by an editor, which a dumb terminal has none of.
    echoes: bool,
}

impl Terminal {
    fn open() -> Self {
        Self::with([])
    }

    /// With these environment variables.
    fn with<'a>(variables: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        Self::start(Command::new(env!("CARGO_BIN_EXE_embedsql")), variables)
    }

    /// In a window of so many columns, and 24 lines.
    fn wide(columns: usize, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("stty cols {columns} rows 24; exec \"$0\""), env!("CARGO_BIN_EXE_embedsql")]);
        Self::start(command, variables.iter().map(|(name, value)| (*name, (*value).to_owned())))
    }

    fn start<'a>(mut command: Command, variables: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let home = TempDir::new().expect("a folder");
        command.env("HOME", home.path()).env("XDG_STATE_HOME", home.path().join("state")).env("TERM", "xterm");
        command.envs(variables).current_dir(home.path());
        let options = Options::new().timeout_ms(Some(30_000)).strip_ansi_escape_codes(true);
        let session = spawn_with_options(command, options).expect("the program starts");
        let mut terminal = Self { session, home, echoes: true };
        terminal.expect("embedsql> ");
        terminal
    }

    /// Waits for a text and gives what came before it.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        // A closure would hide the caller.
        match self.session.exp_string(text) {
            Ok(before) => before,
            Err(error) => panic!("no {text:?}: {error}"),
        }
    }

    #[track_caller]
    fn send(&mut self, line: &str) {
        self.session.send_line(line).expect("writable");
    }

    /// Types a line and gives all that is shown up to the next prompt.
    #[track_caller]
    fn answer(&mut self, line: &str) -> String {
        self.send(line);
        // The editor echoes the line, redrawing the prompt as it goes; the answer follows the last line break.
        let mut shown = String::new();
        loop {
            shown.push_str(&self.expect("embedsql> "));
            if shown.contains('\n') || !self.echoes {
                // The library makes a character of each byte.
                let bytes = shown.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?'));
                return String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
            }
        }
    }

    /// The same for SQL in a file: what is typed would be broken by a narrow window.
    #[track_caller]
    fn answer_to_file(&mut self, sql: &str) -> String {
        fs::write(self.home.path().join("s"), sql).expect("writable");
        self.answer("\\i s")
    }

    #[track_caller]
    fn end(&mut self) -> WaitStatus {
        self.session.process().wait().expect("the program ends")
    }

    fn end_with_ctrl_d(&mut self) {
        self.session.send_control('d').expect("writable");
        match self.end() {
            WaitStatus::Exited(_, code) => assert_eq!(code, 0),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn statements_may_take_several_lines() {
    let mut terminal = Terminal::open();
    terminal.send("SELECT 40");
    terminal.expect("...> ");
    let shown = terminal.answer("+ 2 AS answer;");
    assert!(shown.contains("(1 row)") && shown.contains("42"), "{shown}");
    terminal.end_with_ctrl_d();
}

#[test]
fn an_error_keeps_the_prompt() {
    let mut terminal = Terminal::open();
    let shown = terminal.answer("SELECT nothing;");
    assert!(shown.contains("error: "), "{shown}");
    let shown = terminal.answer("\\nothing");
    assert!(shown.contains("error: unknown command \\nothing"), "{shown}");
    let shown = terminal.answer("SELECT 'still ' || 'here' AS t;");
    assert!(shown.contains("still here"), "{shown}");
    terminal.send("exit");
    assert!(matches!(terminal.end(), WaitStatus::Exited(_, 0)));
}

#[test]
fn commands() {
    let mut terminal = Terminal::open();
    fs::write(terminal.home.path().join("s.sql"), "SELECT 'from a ' || 'file' AS t;").expect("writable");
    fs::write(terminal.home.path().join("d.csv"), "first,second\n1,2\n").expect("writable");
    terminal.answer("CREATE TABLE news AS VALUES (1);");
    let shown = terminal.answer("\\d");
    assert!(shown.contains("public | news") && !shown.contains("information_schema"), "{shown}");
    let shown = terminal.answer("\\d news");
    assert!(shown.contains("column1") && shown.contains("Int64"), "{shown}");
    let shown = terminal.answer("\\d d.csv");
    assert!(shown.contains("second"), "{shown}");
    let shown = terminal.answer("\\df embed*");
    assert!(shown.contains("embed_query") && !shown.contains("array_length"), "{shown}");
    let shown = terminal.answer("\\timing on");
    assert!(shown.contains("Timing is on."), "{shown}");
    let shown = terminal.answer("SELECT 1;");
    assert!(shown.contains("Time: ") && shown.contains(" ms"), "{shown}");
    terminal.answer("\\timing");
    terminal.answer("\\format ndjson");
    let shown = terminal.answer("\\i s.sql");
    assert!(shown.contains("{\"t\":\"from a file\"}") && !shown.contains("Time: "), "{shown}");
    let shown = terminal.answer("\\?");
    assert!(shown.contains("\\timing"), "{shown}");
    terminal.send("\\q");
    assert!(matches!(terminal.end(), WaitStatus::Exited(_, 0)));
}

#[test]
fn ctrl_c_at_the_prompt_drops_the_input() {
    let mut terminal = Terminal::open();
    terminal.send("SELECT");
    terminal.expect("...> ");
    terminal.session.send_control('c').expect("writable");
    terminal.expect("embedsql> ");
    let shown = terminal.answer("SELECT 'fresh ' || 'start' AS t;");
    assert!(shown.contains("fresh start"), "{shown}");
    terminal.end_with_ctrl_d();
}

/// Runs a long statement, stops it, and expects an answer within a second and a prompt that works.
fn cancel(statement: &str) {
    let mut terminal = Terminal::open();
    terminal.send(statement);
    std::thread::sleep(Duration::from_millis(1500));
    let sent = Instant::now();
    terminal.session.send_control('c').expect("writable");
    terminal.expect("error: cancelled");
    terminal.expect("embedsql> ");
    let took = sent.elapsed();
    // The promise is a second; a busy test machine gets another.
    assert!(took < Duration::from_secs(2), "took {took:?}");
    let shown = terminal.answer("SELECT 'still ' || 'here' AS t;");
    assert!(shown.contains("still here"), "{shown}");
    terminal.end_with_ctrl_d();
}

#[test]
fn ctrl_c_stops_a_query_and_stays() {
    cancel(&format!("{COUNT_WITHOUT_END};"));
}

#[test]
fn ctrl_c_stops_the_model_and_stays() {
    cancel("SELECT count(embed(repeat('many words ', 200 + CAST(value AS INT)))) FROM generate_series(1, 1000000);");
}

#[test]
fn history_is_in_the_state_directory_and_private() {
    let mut terminal = Terminal::open();
    terminal.answer("SELECT 'remember ' || 'me' AS t;");
    terminal.end_with_ctrl_d();
    let file = terminal.home.path().join("state/embedsql/history");
    let history = fs::read_to_string(&file).expect("a history");
    assert!(history.contains("remember"), "{history}");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let in_work_folder: Vec<_> = fs::read_dir(terminal.home.path()).expect("readable").flatten().collect();
    assert_eq!(in_work_folder.len(), 1, "only the state directory: {in_work_folder:?}");
}

#[cfg(feature = "stores")]
#[test]
fn a_server_in_trouble_is_shown_while_it_lasts() {
    use crate::servers::faults::Fault;
    use crate::servers::gcs::Gcs;
    let gcs = Gcs::start();
    gcs.make_bucket("busy");
    let mut terminal = Terminal::with(Gcs::variables(&gcs.server.url()));
    for sql in ["COPY (SELECT 1 AS a) TO 'gs://busy/x.csv';", "SELECT a FROM 'gs://busy/x.csv';"] {
        gcs.server.add_fault(Fault::status(503).lasting(Duration::from_secs(5)));
        terminal.send(sql);
        terminal.expect("gs://busy: 503 for ");
        terminal.expect("trying again");
        terminal.expect("embedsql> ");
    }
}

#[test]
fn the_history_has_no_keys_of_stores() {
    let mut terminal = Terminal::open();
    terminal.answer("SELECT 1 FROM 'http://127.0.0.1:9/x.csv?sig=hush';");
    terminal.answer("COPY (SELECT 1) TO 's3://b/x.csv' OPTIONS ('aws.access_key_id' 'hush', 'aws.no' 'x');");
    terminal.end_with_ctrl_d();
    let history = fs::read_to_string(terminal.home.path().join("state/embedsql/history")).expect("a history");
    assert!(history.contains("x.csv?***") && history.contains("'aws.access_key_id' '***'"), "{history}");
    assert!(!history.contains("hush"), "{history}");
}

#[test]
fn what_another_prompt_has_written_stays_in_the_history() {
    let mut terminal = Terminal::open();
    let file = terminal.home.path().join("state/embedsql/history");
    // More than one prompt would hold.
    let others: String = (0..12_000).map(|n| format!("SELECT {n};\n")).collect();
    fs::write(&file, format!("#V2\n{others}")).expect("writable");
    terminal.answer("SELECT 'mine' AS t;");
    terminal.end_with_ctrl_d();
    let history = fs::read_to_string(&file).expect("a history");
    assert_eq!(history, format!("#V2\n{others}SELECT 'mine' AS t;\n"));
}

#[test]
fn completion() {
    let mut terminal = Terminal::open();
    terminal.session.send("SHOW embed.mod\t").expect("writable");
    terminal.session.flush().expect("writable");
    terminal.expect("embed.model");
    terminal.send(";");
    terminal.expect("(1 row)");
    terminal.end_with_ctrl_d();
}

/// A query of more than a second shows how far it is, with the rows that a LIMIT leaves of the file, and clears the line.
#[test]
fn a_long_query_shows_how_far_it_is() {
    let mut terminal = Terminal::open();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/docs.parquet");
    terminal.send("SET embed.concurrency = 1;");
    terminal.expect("embedsql> ");
    // 16 texts of all 320 bodies each: some seconds on any machine.
    let texts = format!("SELECT string_agg(body, ' ') AS body FROM '{}' GROUP BY id % 16", file.display());
    terminal.send(&format!(
        "SELECT count(embed(concat(body, i))) FROM ({texts}) CROSS JOIN generate_series(1, 10) AS g(i);"
    ));
    terminal.expect("embed ");
    terminal.expect(" rows, ");
    terminal.expect("tokens/s");
    terminal.expect("160");
    terminal.expect("warning: 160 texts were longer than the model reads");
    terminal.expect("embedsql> ");
    terminal.send("\\q");
    terminal.end();
}

fn docs() -> String {
    format!("'{}'", std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/docs.parquet").display())
}

#[test]
fn results_fit_the_window() {
    for (columns, term) in [(50, "xterm"), (80, "xterm"), (200, "xterm"), (80, "dumb")] {
        let mut terminal = Terminal::wide(columns, &[("TERM", term), ("PAGER", "")]);
        for sql in ["SELECT * FROM DOCS LIMIT 3;", "SELECT title, body, embed('a') AS v FROM DOCS LIMIT 2;"] {
            let shown = terminal.answer_to_file(&sql.replace("DOCS", &docs()));
            let start = [" id", " title", "-[ RECORD"].iter().find_map(|begin| shown.find(begin));
            let start = start.unwrap_or_else(|| panic!("{columns} {term}: {shown:?}"));
            let lines: Vec<_> = shown[start..].lines().collect();
            assert!(lines.iter().all(|line| line.trim_end().width() <= columns), "{columns}: {shown}");
        }
        terminal.end_with_ctrl_d();
    }
}

#[test]
fn each_value_on_a_line_of_its_own() {
    let mut terminal = Terminal::wide(50, &[("PAGER", "")]);
    assert!(terminal.answer("\\x").contains("Expanded display is on."));
    let shown = terminal.answer_to_file("SELECT 1 AS id, repeat('word ', 15) AS text, [1, 2, 3, 4, 5] AS list;");
    for part in ["-[ RECORD 1 ]-", "id   | 1", "text | word word", "     | word", "list | [1, 2, 3, … 5]"] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(terminal.answer("\\x off").contains("Expanded display is off."));
    let many = (0..30).map(|n| format!("{n} AS column_{n}")).collect::<Vec<_>>().join(", ");
    let shown = terminal.answer_to_file(&format!("SELECT {many};"));
    assert!(shown.contains(" | … | ") && shown.contains("30 columns, "), "{shown}");
    assert!(terminal.answer("\\x auto").contains("where a row does not fit"));
    assert!(terminal.answer_to_file(&format!("SELECT {many};")).contains("column_17 | 17"));
    assert!(terminal.answer_to_file("SELECT 7 AS seven \\gx").contains("seven | 7"));
    terminal.end_with_ctrl_d();
}

#[test]
fn not_more_rows_than_somebody_reads() {
    let mut terminal = Terminal::wide(80, &[("PAGER", "")]);
    let shown = terminal.answer("SELECT value FROM generate_series(1, 5000);");
    assert!(shown.contains("(5000 rows, 100 shown; \\maxrows 0 shows all)"), "{shown}");
    assert!(terminal.answer("\\maxrows 3").contains("At most 3 rows"));
    assert!(terminal.answer("SELECT value FROM generate_series(1, 5);").contains("(5 rows, 3 shown;"));
    assert!(terminal.answer("SELECT value FROM generate_series(1, 3);").contains("(3 rows)"));
    terminal.answer("\\maxrows 0");
    assert!(terminal.answer("SELECT value FROM generate_series(1, 500);").contains("(500 rows)"));
    terminal.end_with_ctrl_d();
}

#[test]
fn long_results_go_to_the_pager() {
    let mut terminal = Terminal::wide(80, &[("PAGER", "cat > paged")]);
    let paged = terminal.home.path().join("paged");
    terminal.answer("SELECT value FROM generate_series(1, 10);");
    assert!(!paged.exists(), "what fits the screen is just shown");
    let shown = terminal.answer("SELECT value FROM generate_series(1, 50);");
    assert!(!shown.contains("(50 rows)"), "{shown}");
    let text = fs::read_to_string(&paged).expect("paged");
    assert!(text.starts_with(" value\n") && text.ends_with("(50 rows)\n"), "{text}");
    assert!(terminal.answer("\\pager off").contains("Pager is off."));
    assert!(terminal.answer("SELECT value FROM generate_series(1, 50);").contains("(50 rows)"));
    terminal.end_with_ctrl_d();
    let mut terminal = Terminal::wide(80, &[("PAGER", "no-such-pager -x")]);
    assert!(terminal.answer("SELECT value FROM generate_series(1, 50);").contains("(50 rows)"));
    terminal.end_with_ctrl_d();
}

/// N1: an editor that reads ahead must give back what it has read.
#[test]
fn nothing_that_is_typed_ahead_is_lost() {
    for term in ["xterm", "dumb"] {
        let mut terminal = Terminal::wide(80, &[("TERM", term)]);
        let typed = "SELECT count(*) AS n FROM generate_series(1, 30000000);\nSELECT 'a' || 'a';\n\\echo b-b\nSELECT\n'c' || 'c';\n";
        terminal.session.send(typed).expect("writable");
        terminal.session.flush().expect("writable");
        for text in ["30000000", "aa", "b-b", "cc"] {
            terminal.expect(text);
        }
        terminal.expect("(1 row)");
        terminal.expect("embedsql> ");
        terminal.end_with_ctrl_d();
    }
}

#[test]
fn a_paste_in_brackets_may_have_commands() {
    let mut terminal = Terminal::open();
    terminal.session.send("\x1b[200~SELECT 'a' || 'a';\n\\echo b-b\nSELECT 'c' || 'c';\x1b[201~\n").expect("writable");
    terminal.session.flush().expect("writable");
    for text in ["aa", "b-b\r\n", "cc", "(1 row)", "embedsql> "] {
        terminal.expect(text);
    }
    terminal.end_with_ctrl_d();
}

#[test]
fn the_prompt_shows_what_is_open_and_the_way_out() {
    let mut terminal = Terminal::open();
    terminal.send("SELECT 'open");
    terminal.expect("'..> ");
    terminal.send("\\q");
    terminal.expect("' ends it, Ctrl-C throws away");
    terminal.expect("'..> ");
    terminal.send("' AS t,");
    terminal.expect("...> ");
    terminal.send("/* not yet");
    terminal.expect("*..> ");
    terminal.send("*/ 1");
    terminal.expect("...> ");
    terminal.send("\\p");
    terminal.expect("not yet");
    terminal.expect("...> ");
    terminal.send("\\r");
    terminal.expect("embedsql> ");
    assert!(terminal.answer("help").contains("\\timing"));
    assert!(terminal.answer(".help").contains("\\timing"));
    terminal.send("SELECT");
    terminal.expect("...> ");
    terminal.send("\\q");
    assert!(matches!(terminal.end(), WaitStatus::Exited(_, 0)));
}

#[test]
fn commands_of_psql() {
    let mut terminal = Terminal::wide(100, &[("PAGER", ""), ("VISUAL", ""), ("EDITOR", "sed -i s/wrong/right/")]);
    terminal.answer("CREATE TABLE t AS VALUES (1);");
    terminal.answer("CREATE VIEW v AS SELECT 1 AS one;");
    let shown = terminal.answer("\\dt");
    assert!(shown.contains("BASE TABLE") && !shown.contains("VIEW"), "{shown}");
    let shown = terminal.answer("\\dv");
    assert!(shown.contains(" v ") && !shown.contains("BASE TABLE"), "{shown}");
    assert!(terminal.answer("\\l").contains("datafusion"));
    assert!(terminal.answer("\\df+ embed_query").contains("description"));
    assert!(terminal.answer("\\df embed_models").contains("embed_models()"));
    assert!(terminal.answer("\\h embed").contains("embed(text"));
    assert!(terminal.answer("\\h nosuch").contains("no function \"nosuch\""));
    assert!(terminal.answer("\\d embed_models").contains("rows_embedded"));
    assert!(terminal.answer("\\d nosuch.csv").contains("file \"nosuch.csv\" not found"));
    assert!(terminal.answer("\\d no/such/*.parquet").contains("no/such"));
    assert!(terminal.answer("\\copy t TO 'x'").contains("COPY itself"));
    assert!(terminal.answer("\\! echo from the $((1 + 1))nd shell").contains("from the 2nd shell"));
    terminal.answer("SELECT 'wrong' AS t;");
    assert!(terminal.answer("\\e").contains("right"));
    terminal.answer("\\set n 41");
    assert!(terminal.answer("SELECT :n + 1 AS t;").contains("42"));
    assert!(terminal.answer("\\set").contains("n = '41'"));
    terminal.answer("\\unset n");
    assert!(terminal.answer("\\unset n").contains("no variable \"n\""));
    terminal.answer("\\o out.txt");
    terminal.answer("SELECT 'into ' || 'a file' AS t;");
    terminal.answer("\\o");
    let text = fs::read_to_string(terminal.home.path().join("out.txt")).expect("written");
    assert_eq!(text, " t\n-------------\n into a file\n(1 row)\n");
    terminal.send("SELECT 'again and ' || 'again' AS t \\watch 0.1");
    for _ in 0..3 {
        terminal.expect("again and again");
    }
    terminal.session.send_control('c').expect("writable");
    terminal.expect("embedsql> ");
    terminal.end_with_ctrl_d();
}

/// What is typed, and a part of what is shown.
const ANSWERS: [(&str, &str); 38] = [
    ("CREATE TABLE t AS VALUES (1);", ""),
    ("CREATE VIEW v AS SELECT 1 AS one;", ""),
    ("\\d", "public"),
    ("\\d t", "column1"),
    ("\\dt", "BASE TABLE"),
    ("\\dv", "VIEW"),
    ("\\l", "datafusion"),
    ("\\df embed*", "embed_query"),
    ("\\df+ embed_query", "description"),
    ("\\dm", "bundled"),
    ("\\h embed_tokens", "embed_tokens("),
    ("\\look d.csv", "-- next: SELECT *, embed(b)"),
    ("\\i s.sql", "from a file"),
    ("SELECT 'wro' || 'ng' AS t;", "wrong"),
    ("\\p", "SELECT 'wro'"),
    ("\\e", "right"),
    ("SELECT 4 AS t \\g g.csv", ""),
    ("SELECT 7 AS seven \\gx", "seven | 7"),
    ("\\o o.txt", ""),
    ("SELECT 1 AS t;", ""),
    ("\\o", ""),
    ("\\format markdown", ""),
    ("SELECT 8 AS t;", "| 8 |"),
    ("\\format", "markdown"),
    ("\\format table", ""),
    ("\\maxrows 5", "At most 5 rows"),
    ("\\x on", "Expanded display is on."),
    ("\\x auto", "where a row does not fit"),
    ("\\pager off", "Pager is off."),
    ("\\timing on", "Timing is on."),
    ("\\timing off", "Timing is off."),
    ("\\set n 41", ""),
    ("\\set", "n = '41'"),
    ("\\unset n", ""),
    ("\\echo from here", "from here"),
    ("\\! echo the $((1 + 1))nd", "the 2nd"),
    ("\\r", ""),
    ("\\?", "\\timing"),
];

#[test]
fn every_command_fits_every_window() {
    let variables = [("PAGER", ""), ("VISUAL", ""), ("EDITOR", "sed -i s/wro/rig/\\;s/ng/ht/")];
    for (columns, term) in [(50, "xterm"), (80, "xterm"), (200, "xterm"), (80, "dumb")] {
        let mut terminal = Terminal::wide(columns, &[&variables[..], &[("TERM", term)]].concat());
        terminal.echoes = term != "dumb";
        fs::write(terminal.home.path().join("s.sql"), "SELECT 'from a ' || 'file' AS t;").expect("writable");
        fs::write(terminal.home.path().join("d.csv"), "a,b\n1,some text\n").expect("writable");
        let mut shown = String::new();
        for (typed, part) in ANSWERS {
            shown = terminal.answer(typed);
            // What is typed comes back first.
            let typed_line = if terminal.echoes { shown.split_once('\n') } else { Some(("", shown.as_str())) };
            let answer = typed_line.map_or("", |(_, answer)| answer);
            assert!(answer.contains(part), "{columns} {term}: {typed}: {shown}");
            let too_wide = answer.lines().find(|line| line.trim_end().width() > columns && !line.contains("SELECT"));
            assert_eq!(too_wide, None, "{columns} {term}: {typed}: {shown}");
        }
        terminal.send("SELECT 'ag' || 'ain' AS t \\watch 0.1");
        for _ in 0..2 {
            terminal.expect("again");
        }
        terminal.session.send_control('c').expect("writable");
        terminal.expect("embedsql> ");
        terminal.send("\\q");
        assert!(matches!(terminal.end(), WaitStatus::Exited(_, 0)));
        // Nobody adds a command without adding it here.
        let typed: Vec<&str> =
            ANSWERS.iter().filter_map(|(typed, _)| typed.split_once('\\')?.1.split(' ').next()).collect();
        let listed = shown.lines().filter_map(|line| line.strip_prefix("  \\")?.split([' ', '\r']).next());
        let missing: Vec<&str> =
            listed.filter(|name| !typed.contains(name) && !["q", "watch"].contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let file = |name: &str| fs::read_to_string(terminal.home.path().join(name)).expect("written");
        assert_eq!(
            (file("g.csv"), file("o.txt")),
            (" t\n---\n 4\n(1 row)\n".to_owned(), " t\n---\n 1\n(1 row)\n".to_owned())
        );
    }
}

#[test]
fn a_file_of_results_that_is_not_complete_goes_with_the_prompt() {
    let mut terminal = Terminal::wide(80, &[("PAGER", "")]);
    terminal.answer("\\o out.txt");
    terminal.answer("SELECT 1 AS t;");
    terminal.session.process_mut().signal(rexpect::process::signal::Signal::SIGTERM).expect("sent");
    assert!(matches!(terminal.end(), WaitStatus::Exited(_, 143)));
    let left: Vec<_> = fs::read_dir(terminal.home.path()).expect("readable").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["state"], "{left:?}");
}

#[test]
fn errors_point_and_suggest() {
    let mut terminal = Terminal::wide(100, &[]);
    terminal.answer("CREATE TABLE emails AS VALUES (1);");
    assert!(terminal.answer("SELECT * FROM email;").contains("did you mean \"emails\"?"));
    fs::write(terminal.home.path().join("docs.csv"), "a\n1\n").expect("writable");
    assert!(
        terminal.answer("SELECT * FROM 'doc.csv';").contains("file \"doc.csv\" not found; did you mean \"docs.csv\"?")
    );
    assert!(terminal.answer("SELECT * FROM docs.csv;").contains("stands in quotes: 'docs.csv'"));
    let shown = terminal.answer("COPY emails TO 'x' (FORMAT csv);");
    assert!(
        shown.contains("STORED AS")
            && shown.contains("LINE 1: COPY emails TO 'x' (FORMAT csv);\r\n                           ^"),
        "{shown}"
    );
    terminal.end_with_ctrl_d();
}

//! The prompt on a pseudo-terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rexpect::process::wait::WaitStatus;
use rexpect::reader::Options;
use rexpect::session::{PtySession, spawn_with_options};
use tempfile::TempDir;

use crate::program::COUNT_WITHOUT_END;

/// A prompt with its state in a folder of its own.
struct Terminal {
    session: PtySession,
    home: TempDir,
}

impl Terminal {
    fn open() -> Self {
        Self::with([])
    }

    /// With these environment variables.
    fn with<'a>(variables: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let home = TempDir::new().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_embedsql"));
        command.envs(variables);
        command.env("HOME", home.path()).env("XDG_STATE_HOME", home.path().join("state")).env("TERM", "xterm");
        command.current_dir(home.path());
        let options = Options::new().timeout_ms(Some(30_000)).strip_ansi_escape_codes(true);
        let session = spawn_with_options(command, options).expect("the program starts");
        let mut terminal = Self { session, home };
        terminal.expect("embedsql> ");
        terminal
    }

    /// Waits for a text and gives what came before it.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        self.session.exp_string(text).unwrap_or_else(|e| panic!("no {text:?}: {e}"))
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
            if shown.contains('\n') {
                return shown;
            }
        }
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

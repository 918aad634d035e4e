//! Single files of web servers, which refuse, redirect, stall and break off.

use std::time::Duration;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use std::sync::Arc;

use super::run;
use crate::servers::faults::{Fault, Harm};
use crate::servers::http::Http;
use crate::servers::message::Response;
use crate::servers::nginx;

const NO: [(&str, String); 0] = [];

/// A Parquet file of several row groups.
fn parquet() -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("body", DataType::Utf8, false),
    ]));
    let ids: Vec<i64> = (0..5000).collect();
    let texts: StringArray = ids.iter().map(|id| Some(format!("text {}", id * 7919 % 5000))).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(ids)), Arc::new(texts)])
        .expect("a batch");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(1000)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).expect("a writer");
    writer.write(&batch).expect("written");
    writer.into_inner().expect("whole")
}

fn server() -> Http {
    let server = Http::start();
    server.put("/d/x y.parquet", parquet());
    server.put("/d/x.csv", "a,b\n1,one\n2,\"two\nlines\"\n");
    server
}

const PARQUET: &str = "SELECT count(*) AS n, sum(id) AS s, count(DISTINCT body) AS d FROM 'SERVER/d/x%20y.parquet'";
const ALL: &str = "n,s,d\n5000,12497500,5000\n";

fn sql(server: &Http, sql: &str) -> String {
    run(NO, &sql.replace("SERVER", &server.server.url())).stdout()
}

fn error(server: &Http, sql: &str) -> String {
    run(NO, &sql.replace("SERVER", &server.server.url())).error(1)
}

#[test]
fn files_are_read_whatever_a_server_refuses() {
    let server = server();
    let faults: [&[Fault]; 14] = [
        &[],
        &[Fault::new(Harm::NoLength)],
        &[Fault::new(Harm::NoLength), Fault::new(Harm::WholeFiles), Fault::status(405).on("HEAD")],
        &[Fault::new(Harm::Answer(Response::new(200, ""))).on("HEAD")],
        &[Fault::new(Harm::Header("content-range", "bytes 0-0/*"))],
        &[Fault::new(Harm::WholeFiles)],
        &[Fault::status(405).on("HEAD")],
        &[Fault::status(501).on("HEAD")],
        &[Fault::status(403).on("HEAD"), Fault::new(Harm::WholeFiles)],
        &[Fault::status(503).every(2)],
        &[Fault::new(Harm::Cut(1000)).on("GET").nth(2)],
        &[Fault::new(Harm::Refuse).every(3)],
        &[Fault::new(Harm::Close)],
        &[
            Fault::new(Harm::Delay(Duration::from_millis(100))),
            Fault::new(Harm::Trickle(20_000, Duration::from_millis(5))),
        ],
    ];
    for faults in faults {
        server.server.clear_faults();
        faults.iter().for_each(|fault| server.server.add_fault(fault.clone()));
        assert_eq!(sql(&server, PARQUET), ALL, "{faults:?}");
        assert_eq!(sql(&server, "SELECT count(*) AS n FROM 'SERVER/d/x.csv'"), "n\n2\n", "{faults:?}");
    }
}

#[test]
fn nginx_gives_what_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("x y.parquet"), parquet()).expect("written");
    let zipped = format!("COPY (SELECT 1 AS a, 'one' AS b) TO '{}'", folder.path().join("z.csv.gz").display());
    run(NO, &zipped).stdout();
    std::fs::rename(folder.path().join("z.csv.gz"), folder.path().join("z.csv")).expect("renamed");
    let Some(nginx) = nginx::start(folder.path()) else { return };
    let at = |path: &str| PARQUET.replace("SERVER/d/", &format!("{}{path}", nginx.url()));
    for path in ["/", "/whole/", "/moved/"] {
        assert_eq!(run(NO, &at(path)).stdout(), ALL, "{path}");
    }
    let sql = format!("SELECT a, b FROM '{}/zipped/z.csv'", nginx.url());
    assert_eq!(run(NO, &sql).stdout(), "a,b\n1,one\n");
    let message = run(NO, &at("/mine/")).error(1);
    assert!(message.contains("401"), "{message}");
    let table = format!(
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/mine/x%20y.parquet' OPTIONS ('http.authorization' 'Bearer hush-hush')",
        nginx.url()
    );
    assert_eq!(run(NO, &format!("{table}; SELECT count(*) AS n FROM t")).stdout(), "n\n5000\n");
    let message = run(NO, &format!("SELECT * FROM '{}/no.csv'", nginx.url())).error(1);
    assert!(message.contains("/no.csv: there is no such file"), "{message}");
}

#[test]
fn what_comes_encoded_is_decoded() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.csv.gz");
    let copy = format!("COPY (SELECT 1 AS a, 'one' AS b UNION ALL SELECT 2, 'two' ORDER BY a) TO '{}'", file.display());
    run(NO, &copy).stdout();
    let bytes = std::fs::read(&file).expect("written");
    for path in ["/e/x.csv", "/e/x.csv.gz"] {
        server.put(path, bytes.clone());
    }
    let rows = |path: &str| sql(&server, &format!("SELECT a, b FROM 'SERVER{path}' ORDER BY a"));
    server.server.add_fault(Fault::new(Harm::Header("content-encoding", "gzip")));
    assert_eq!(rows("/e/x.csv"), "a,b\n1,one\n2,two\n");
    assert_eq!(rows("/e/x.csv.gz"), "a,b\n1,one\n2,two\n", "which is compressed itself");
    server.server.clear_faults();
    server.server.add_fault(Fault::new(Harm::Header("content-encoding", "br")));
    let message = error(&server, "SELECT * FROM 'SERVER/e/x.csv'");
    assert!(message.contains("/e/x.csv: it comes encoded as \"br\""), "{message}");
}

#[test]
fn an_address_is_asked_for_as_it_is_written() {
    let server = server();
    ["/r/a/b.csv", "/r//a/b.csv"].iter().for_each(|path| server.put(path, "a\n1\n"));
    for path in ["/r/a%2Fb.csv", "/r//a/b.csv", "/r/%61/b.csv", "/r/a/b.csv?"] {
        assert_eq!(sql(&server, &format!("SELECT a FROM 'SERVER{path}'")), "a\n1\n", "{path}");
        assert!(server.server.take_requests().iter().all(|request| request.target == path), "{path}");
    }
    let message =
        error(&server, "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'SERVER/r/a%2Fb.csv'; INSERT INTO t VALUES (1)");
    assert!(message.contains("/r/a/b.csv: a web server is read from only"), "{message}");
}

#[test]
fn redirects_are_followed_to_their_end() {
    let (server, other) = (server(), server());
    let away = format!("{}/d/x%20y.parquet", other.server.url());
    server.server.add_fault(Fault::redirect(302, &away).at("/moved.parquet"));
    server.server.add_fault(Fault::redirect(307, "/moved.parquet").at("/again.parquet"));
    server.server.add_fault(Fault::redirect(302, "/round.parquet").at("/round.parquet"));
    for name in ["moved", "again"] {
        assert_eq!(sql(&server, &PARQUET.replace("d/x%20y", name)), ALL);
    }
    let message = error(&server, &PARQUET.replace("d/x%20y", "round"));
    assert!(message.contains("/round.parquet"), "{message}");
}

#[test]
fn a_query_belongs_to_the_address() {
    let server = server();
    server.server.add_fault(Fault::status(403).unless("x-none", "x").at("sig=wrong"));
    assert_eq!(sql(&server, &PARQUET.replace(".parquet", ".parquet?sig=right%2F")), ALL);
    assert!(server.server.requests().iter().all(|request| request.target.ends_with("x%20y.parquet?sig=right%2F")));
    let message = error(&server, &PARQUET.replace(".parquet", ".parquet?sig=wrong"));
    assert!(message.contains("403") && !message.contains("sig=") && message.contains("/d/x y.parquet"), "{message}");
}

#[test]
fn what_a_web_server_cannot_do_is_one_clear_error() {
    let server = server();
    let cases = [
        ("SELECT * FROM 'SERVER/d/no.csv'", "/d/no.csv: there is no such file"),
        ("SELECT * FROM 'SERVER/d/'", "lists no files: name one"),
        ("SELECT * FROM 'SERVER/'", "lists no files: name one"),
        ("SELECT * FROM 'SERVER/d/*.csv'", "there is no such file"),
        ("COPY (SELECT 1 AS a) TO 'SERVER/d/y.csv'", "read from only"),
        ("COPY (SELECT 1 AS a) TO 'SERVER/d/' STORED AS CSV", "read from only"),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'SERVER/d/x.csv'; INSERT INTO t VALUES (1, 'x')",
            "read from only",
        ),
        ("SELECT * FROM 'http://ada:hush@127.0.0.1:9/x.csv'", "with a user or a password in it"),
    ];
    for (sql, part) in cases {
        let message = error(&server, sql);
        assert!(message.contains(part) && !message.contains("hush"), "{sql}: {message}");
    }
    server.server.add_fault(Fault::status(500));
    let message = error(
        &server,
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'SERVER/d/x.csv' OPTIONS ('http.max_retries' '1')",
    );
    assert!(message.contains("/d/x.csv") && message.contains("500"), "{message}");
}

#[test]
fn a_header_of_authorization_is_sent_where_it_was_asked_for() {
    let server = server();
    server.server.add_fault(Fault::status(401).unless("authorization", "Bearer me"));
    let create =
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'SERVER/d/x.csv' OPTIONS ('http.authorization' 'Bearer me');";
    assert_eq!(sql(&server, &format!("{create} SELECT count(*) AS n FROM t")), "n\n2\n");
    let message = error(&server, "SELECT * FROM 'SERVER/d/x.csv'");
    assert!(message.contains("401"), "{message}");
}

//! Servers that fail, stall and die: what is there is whole, and nothing else is left.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{folder, run};
use crate::program::Ended;
use crate::servers::faults::{Fault, Gate, Harm};
use crate::servers::gcs::Gcs;
use crate::servers::proxy;
use crate::servers::s3::{Moto, moto};

/// 60 MB that nothing makes smaller.
const LARGE: &str = "SELECT x AS id, random() AS a, random() AS b, random() AS c FROM generate_series(1, 2500000) t(x)";

#[test]
fn what_fails_in_between_is_tried_again_and_every_row_is_there_once() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("retried");
    let proxy = proxy::start(moto.address);
    proxy.add_fault(Fault::status(503).every(7));
    proxy.add_fault(Fault::new(Harm::Refuse).every(11));
    proxy.add_fault(Fault::new(Harm::Lose).on("GET").every(5));
    proxy.add_fault(Fault::new(Harm::Cut(100)).on("GET").every(9));
    let variables = Moto::variables(&proxy.url());
    let rows = "SELECT x AS id, x % 20 AS k FROM generate_series(1, 4000) t(x)";
    run(variables.clone(), &format!("COPY ({rows}) TO 's3://retried/out/' STORED AS PARQUET PARTITIONED BY (k)"))
        .stdout();
    let found = run(variables, "SELECT count(*) AS n, count(DISTINCT id) AS d FROM 's3://retried/out/'").stdout();
    assert_eq!(found, "n,d\n4000,4000\n");
    assert!(proxy.requests().len() > 50);
    assert_eq!(moto.uploads("retried"), [""; 0]);
}

#[test]
fn a_statement_that_fails_leaves_nothing() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("failed");
    let variables = Moto::variables(&moto.url());
    let rows = format!(
        "SELECT id, a, CASE WHEN id = 2400000 THEN arrow_cast('x' || id, 'Int64') ELSE 1 END AS b FROM ({LARGE})"
    );
    for target in ["one.parquet", "many/"] {
        let sql = format!("COPY ({rows}) TO 's3://failed/{target}' STORED AS PARQUET");
        run(variables.clone(), &sql).error(1);
        assert_eq!((moto.keys("failed"), moto.uploads("failed")), (vec![], vec![]), "{target}");
    }
}

#[test]
fn a_statement_that_is_stopped_leaves_nothing() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("stopped");
    let proxy = proxy::start(moto.address);
    // A part is on its way, and stays there.
    let gate = Gate::default();
    proxy.add_fault(Fault::new(Harm::Hold(gate.clone())).on("PUT").at("partNumber=3"));
    let sql = format!("COPY ({LARGE}) TO 's3://stopped/one.parquet'");
    let mut run = run(Moto::variables(&proxy.url()), &sql);
    let child = run.start();
    let begun = Instant::now();
    while !proxy.requests().iter().any(|request| request.target.contains("partNumber=2")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no part came");
        thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it runs");
    let ended: Ended = child.wait_with_output().expect("it ends").into();
    gate.open();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert_eq!((moto.keys("stopped"), moto.uploads("stopped")), (vec![], vec![]));
}

#[test]
fn a_server_that_dies_in_the_middle_is_one_error() {
    let gcs = Gcs::start();
    gcs.make_bucket("dead");
    let sql = format!("COPY ({LARGE}) TO 'gs://dead/one.parquet' OPTIONS ('google.max_retries' '2')");
    let mut run = run(Gcs::variables(&gcs.server.url()), &sql);
    let child = run.start();
    let begun = Instant::now();
    while !gcs.server.requests().iter().any(|request| request.target.contains("partNumber=2")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no part came");
        thread::sleep(Duration::from_millis(20));
    }
    gcs.server.kill();
    let ended: Ended = child.wait_with_output().expect("it ends").into();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let message = crate::program::one_error(&ended.stderr);
    assert!(message.contains("gs://dead/one.parquet") && message.contains("no answer"), "{message}");
}

#[test]
fn what_was_computed_before_a_server_failed_is_not_computed_again() {
    let (gcs, cache) = (Gcs::start(), folder());
    gcs.make_bucket("kept");
    let sql = format!(
        "SET embed.model = 'tests/fixtures/tiny-bert'; SET embed.cache = '{}';
         COPY (SELECT x, embed('text ' || x) AS v FROM generate_series(1, 200) t(x)) TO 'gs://kept/x.parquet' OPTIONS ('google.max_retries' '1');
         SELECT rows_embedded, rows_cached FROM embed_models()",
        cache.path().display()
    );
    gcs.server.add_fault(Fault::status(500).on("PUT"));
    gcs.server.add_fault(Fault::status(500).on("POST"));
    let message = run(Gcs::variables(&gcs.server.url()), &sql).error(1);
    assert!(message.contains("gs://kept/x.parquet") && message.contains("500"), "{message}");
    gcs.server.clear_faults();
    let said = run(Gcs::variables(&gcs.server.url()), &sql).stdout();
    assert_eq!(said, "count\n200\nrows_embedded,rows_cached\n0,200\n");
}

#[test]
fn the_last_of_two_writers_that_completes_wins() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("writers");
    let variables = Moto::variables(&moto.url());
    let write = |number: usize| {
        let sql =
            format!("COPY (SELECT x, {number} AS who FROM generate_series(1, 1000) t(x)) TO 's3://writers/x.parquet'");
        let mut run = run(variables.clone(), &sql);
        run.start()
    };
    for child in [write(1), write(2), write(3)] {
        let ended: Ended = child.wait_with_output().expect("it ends").into();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let found =
        run(variables.clone(), "SELECT count(*) AS n, count(DISTINCT who) AS w FROM 's3://writers/x.parquet'").stdout();
    assert_eq!(found, "n,w\n1000,1\n");
}

/// Requests and bytes for 128 rows of a file of row groups of 10 000 rows, and its size.
fn few_rows_of(rows: usize) -> (usize, usize, usize) {
    let (gcs, folder) = (Gcs::start(), folder());
    gcs.make_bucket("large");
    let wide: Vec<_> = (0..12).map(|column| format!("random() AS c{column}")).collect();
    let query =
        format!("SELECT x AS id, 'text ' || x AS body, {} FROM generate_series(1, {rows}) t(x)", wide.join(", "));
    let file = folder.path().join("x.parquet");
    run([], &format!("COPY ({query}) TO '{}' OPTIONS ('max_row_group_size' '10000')", file.display())).stdout();
    let bytes = fs::read(file).expect("written");
    let size = bytes.len();
    gcs.put("large", "x.parquet", bytes);
    let sql = "SELECT id, embed(body) AS v FROM 'gs://large/x.parquet' LIMIT 128";
    assert_eq!(run(Gcs::variables(&gcs.server.url()), sql).stdout().lines().count(), 129);
    let requests = gcs.server.take_requests();
    (requests.len(), requests.iter().map(|request| request.sent).sum(), size)
}

#[test]
fn few_rows_of_a_large_file_need_few_requests() {
    let (requests, sent, size) = few_rows_of(400_000);
    assert!(requests <= 12 && sent * 100 <= size * 3, "{requests} requests, {sent} of {size} bytes");
}

#[test]
#[ignore = "a gigabyte"]
#[expect(clippy::print_stderr, reason = "what was measured")]
fn few_rows_of_a_gigabyte() {
    let (requests, sent, size) = few_rows_of(10_000_000);
    eprintln!("{requests} requests, {sent} of {size} bytes: {:.2} %", sent as f64 / size as f64 * 100.0);
}

/// Minutes: `.ci/long` runs it.
#[test]
#[ignore = "a soak"]
#[expect(clippy::print_stderr, reason = "what was seen")]
fn soak() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("soak");
    let proxy = proxy::start(moto.address);
    // One request in twenty, before, in and after its answer.
    proxy.add_fault(Fault::new(Harm::Refuse).every(80));
    proxy.add_fault(Fault::status(503).every(81));
    proxy.add_fault(Fault::new(Harm::Lose).every(82));
    proxy.add_fault(Fault::new(Harm::Cut(1)).every(83));
    let variables = Moto::variables(&proxy.url());
    let rows = "SELECT x AS id, x % 2500 AS k, embed('text ' || x, 'tests/fixtures/architectures/static') AS v FROM generate_series(1, 50000) t(x)";
    run(variables.clone(), &format!("COPY ({rows}) TO 's3://soak/out/' STORED AS PARQUET PARTITIONED BY (k)")).stdout();
    let written = proxy.take_requests();
    let failed = written.iter().filter(|request| request.status.is_none_or(|status| status >= 500)).count();
    assert!(written.len() >= 2000 && failed * 40 >= written.len(), "{failed} of {} requests failed", written.len());
    let check = "SELECT count(*) AS n, count(DISTINCT id) AS d, min(id) AS a, max(id) AS z FROM 's3://soak/out/'";
    assert_eq!(run(variables.clone(), check).stdout(), "n,d,a,z\n50000,50000,1,50000\n");
    let same = "SELECT count(*) AS n FROM 's3://soak/out/' WHERE v = embed('text ' || id, 'tests/fixtures/architectures/static')";
    assert_eq!(run(variables, same).stdout(), "n\n50000\n");
    assert_eq!(moto.uploads("soak"), [""; 0]);
    eprintln!("{} requests to write, {failed} of them failed; {} to read", written.len(), proxy.requests().len());
}

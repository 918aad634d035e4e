//! What is written to a store is read from it, by its own rules for names.

use super::run;
#[cfg(feature = "hub")]
use crate::servers::azure::{Azurite, azurite};
use crate::servers::gcs::Gcs;
use crate::servers::s3::{Moto, moto};

/// A store with a place of its own for a test.
struct Cloud {
    /// `s3://bucket`.
    store: String,
    variables: Vec<(&'static str, String)>,
    keys: Box<dyn Fn() -> Vec<String>>,
    uploads: Box<dyn Fn() -> Vec<String>>,
}

impl Cloud {
    fn sql(&self, sql: &str) -> String {
        run(self.variables.clone(), &sql.replace("STORE/", &format!("{}/", self.store))).stdout()
    }

    fn error(&self, sql: &str) -> String {
        run(self.variables.clone(), &sql.replace("STORE/", &format!("{}/", self.store))).error(1)
    }
}

/// All stores that are here.
fn clouds(name: &'static str) -> Vec<Cloud> {
    let mut clouds = Vec::new();
    if let Some(moto) = moto() {
        moto.make_bucket(name);
        clouds.push(Cloud {
            store: format!("s3://{name}"),
            variables: Moto::variables(&moto.url()).into(),
            keys: Box::new(move || moto.keys(name)),
            uploads: Box::new(move || moto.uploads(name)),
        });
    }
    #[cfg(feature = "hub")]
    if let Some(azurite) = azurite() {
        azurite.make_container(name);
        clouds.push(Cloud {
            store: format!("az://{name}"),
            variables: Azurite::variables(&azurite.url()).into(),
            keys: Box::new(move || azurite.keys(name)),
            uploads: Box::new(move || azurite.uploads(name)),
        });
    }
    let gcs = Gcs::start();
    gcs.make_bucket(name);
    let variables = Gcs::variables(&gcs.server.url()).into();
    let gcs = std::rc::Rc::new(gcs);
    let (listed, begun) = (std::rc::Rc::clone(&gcs), gcs);
    clouds.push(Cloud {
        store: format!("gs://{name}"),
        variables,
        keys: Box::new(move || listed.keys(name)),
        uploads: Box::new(move || begun.uploads(name)),
    });
    clouds
}

#[test]
fn a_file_has_the_name_that_was_asked_for_and_is_read_by_it() {
    for cloud in clouds("names") {
        let names =
            ["plain.parquet", "a b/x #1.parquet", "d/100%25.parquet", "d/[v]{1}?.parquet", "d/日本.csv", "e/x.ndjson"];
        for name in names {
            cloud.sql(&format!("COPY (VALUES (1, 'one'), (2, 'two')) TO 'STORE/{name}'"));
            assert_eq!(cloud.sql(&format!("SELECT count(*) AS n FROM 'STORE/{name}'")), "n\n2\n", "{name}");
        }
        let mut expected = names.map(str::to_owned);
        expected.sort();
        assert_eq!((cloud.keys)(), expected, "{}", cloud.store);
        assert_eq!((cloud.uploads)(), [""; 0]);
    }
}

#[test]
fn folders_and_patterns_are_all_their_files() {
    for cloud in clouds("folders") {
        for name in ["a/1.parquet", "a/b/2.parquet", "c/3.parquet", "a/_x.parquet", "top.parquet"] {
            cloud.sql(&format!("COPY (SELECT '{name}' AS name) TO 'STORE/{name}'"));
        }
        let found = |place: &str| cloud.sql(&format!("SELECT count(*) AS n FROM 'STORE{place}'"));
        let places = [
            ("/a/", 2),
            ("/a", 2),
            ("/a/*.parquet", 1),
            ("/**/*.parquet", 4),
            ("/{a,c}/*.parquet", 2),
            ("/*.parquet", 1),
        ];
        for (place, count) in places {
            assert_eq!(found(place), format!("n\n{count}\n"), "{}{place}", cloud.store);
        }
        let message = cloud.error("SELECT * FROM 'STORE/no/such.parquet'");
        assert!(message.contains("/no/such.parquet\" not found"), "{message}");
        let message = cloud.error("SELECT * FROM 'STORE/no*.parquet'");
        assert!(message.contains("/no*.parquet\" not found"), "{message}");
    }
}

#[test]
fn a_folder_export_is_complete_with_its_mark_and_is_not_doubled() {
    for cloud in clouds("exports") {
        let rows = "SELECT x AS id, x % 3 AS k FROM generate_series(1, 30) t(x)";
        cloud.sql(&format!("COPY ({rows}) TO 'STORE/out/' STORED AS PARQUET"));
        let count = || cloud.sql("SELECT count(*) AS n, count(DISTINCT id) AS d FROM 'STORE/out/'");
        assert_eq!(count(), "n,d\n30,30\n");
        assert!((cloud.keys)().contains(&"out/_SUCCESS".to_owned()), "{:?}", (cloud.keys)());
        let message = cloud.error(&format!("COPY ({rows}) TO 'STORE/out/' STORED AS PARQUET"));
        assert!(message.contains("'mode' 'append'") && message.contains(&format!("{}/out", cloud.store)), "{message}");
        cloud.sql(&format!("COPY ({rows}) TO 'STORE/out/' STORED AS PARQUET OPTIONS ('mode' 'append')"));
        assert_eq!(count(), "n,d\n60,30\n");
        cloud.sql(&format!("COPY ({rows}) TO 'STORE/out/' STORED AS PARQUET OPTIONS ('mode' 'overwrite')"));
        assert_eq!(count(), "n,d\n30,30\n");
        cloud.sql(
            "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'STORE/out/'; INSERT INTO t VALUES (31, 1), (32, 2)",
        );
        assert_eq!(count(), "n,d\n32,32\n");
        cloud.sql(&format!("COPY ({rows}) TO 'STORE/parts/' STORED AS CSV PARTITIONED BY (k)"));
        let parts = cloud.sql("SELECT k, count(*) AS n FROM 'STORE/parts/' GROUP BY k ORDER BY k");
        assert_eq!(parts, "k,n\n0,10\n1,10\n2,10\n");
        let left: Vec<_> = (cloud.keys)().into_iter().filter(|key| key.ends_with(".run")).collect();
        assert_eq!(left, [""; 0]);
    }
}

#[test]
fn vectors_go_to_a_store_and_come_back_to_the_bit() {
    for cloud in clouds("vectors") {
        cloud.sql(
            "COPY (SELECT x AS id, embed('text ' || x) AS v FROM generate_series(1, 40) t(x)) TO 'STORE/v.parquet'",
        );
        let same = "SELECT count(*) AS n FROM 'STORE/v.parquet' WHERE v = embed('text ' || id)";
        assert_eq!(cloud.sql(same), "n\n40\n", "{}", cloud.store);
    }
}

#[test]
fn texts_of_documents_are_read_and_files_are_named_by_their_addresses() {
    for cloud in clouds("documents") {
        cloud.sql("COPY (VALUES ('one')) TO 'STORE/d/a.csv'; COPY (VALUES ('two')) TO 'STORE/d/b.csv'");
        let paths = cloud.sql("SELECT path FROM read_text('STORE/d/*.csv') ORDER BY path");
        assert_eq!(paths, format!("path\n{0}/d/a.csv\n{0}/d/b.csv\n", cloud.store));
        let sql = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'STORE/d/' OPTIONS ('filename' 'true');
                   SELECT filename FROM t ORDER BY filename";
        assert_eq!(cloud.sql(sql), format!("filename\n{0}/d/a.csv\n{0}/d/b.csv\n", cloud.store));
    }
}

#[test]
fn an_object_that_is_replaced_within_a_second_is_read_anew() {
    for cloud in clouds("replaced") {
        let sql = "COPY (VALUES (1, 'a')) TO 'STORE/x.parquet'; SELECT max(column1) AS m FROM 'STORE/x.parquet';
                   COPY (VALUES (3, 'c')) TO 'STORE/x.parquet'; SELECT max(column1) AS m FROM 'STORE/x.parquet'";
        assert_eq!(cloud.sql(sql), "count\n1\nm\n1\ncount\n1\nm\n3\n", "{}", cloud.store);
    }
}

#[test]
fn what_consoles_leave_for_a_folder_is_no_file() {
    let gcs = Gcs::start();
    gcs.make_bucket("consoles");
    gcs.put("consoles", "f/", "");
    gcs.put("consoles", "f/sub/", "");
    gcs.put("consoles", "f/x.csv", "a\n1\n");
    gcs.put("consoles", "f/sub/y.csv", "a\n2\n");
    for place in ["f", "f/"] {
        let count =
            |from: &str| run(Gcs::variables(&gcs.server.url()), &format!("SELECT count(*) AS n FROM {from}")).stdout();
        assert_eq!(count(&format!("'gs://consoles/{place}'")), "n\n2\n");
        assert_eq!(count(&format!("read_text('gs://consoles/{place}')")), "n\n2\n");
    }
}

#[test]
fn a_name_that_cannot_be_read_is_named_and_keeps_nobody_from_its_neighbours() {
    let gcs = Gcs::start();
    gcs.make_bucket("odd");
    for key in ["d/good/x.csv", "d//x.csv", "d/../x.csv"] {
        gcs.put("odd", key, "a\n1\n");
    }
    let run = |sql: &str| run(Gcs::variables(&gcs.server.url()), sql);
    let message = run("SELECT a FROM 'gs://odd/d/'").error(1);
    assert!(message.contains("gs://odd/d: an object there has a name that cannot be read here"), "{message}");
    assert!(message.contains("\"d/"), "{message}");
    for name in ["gs://odd/d/good/", "gs://odd/d/good/x.csv", "gs://odd/d/good/*.csv"] {
        assert_eq!(run(&format!("SELECT a FROM '{name}'")).stdout(), "a\n1\n", "{name}");
    }
}

#[test]
fn a_text_may_end_without_a_line_break() {
    let gcs = Gcs::start();
    gcs.make_bucket("ends");
    gcs.put("ends", "x.csv", "id,s\n1,a\n2,b");
    gcs.put("ends", "x.json", "{\"id\": 1, \"s\": \"a\"}\n{\"id\": 2, \"s\": \"b\"}");
    for name in ["x.csv", "x.json"] {
        let sql = format!("SELECT id, s FROM 'gs://ends/{name}' ORDER BY id");
        assert_eq!(run(Gcs::variables(&gcs.server.url()), &sql).stdout(), "id,s\n1,a\n2,b\n", "{name}");
    }
}

#[test]
fn a_listing_has_more_than_one_page() {
    let gcs = Gcs::start();
    gcs.make_bucket("pages");
    gcs.set_page(7);
    let variables = Gcs::variables(&gcs.server.url());
    let rows = "SELECT x, x AS k FROM generate_series(1, 50) t(x)";
    run(variables.clone(), &format!("COPY ({rows}) TO 'gs://pages/p/' STORED AS CSV PARTITIONED BY (k)")).stdout();
    assert_eq!(run(variables.clone(), "SELECT count(*) AS n FROM 'gs://pages/p/'").stdout(), "n\n50\n");
    assert_eq!(run(variables, "SELECT count(*) AS n FROM 'gs://pages/p/*/*.csv'").stdout(), "n\n50\n");
}

/// What a folder of 10 000 files costs: `cargo test --release --test it -- --ignored --nocapture stores::clouds::many`
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "what was measured")]
fn many_files_are_listed_and_found_by_a_pattern() {
    let gcs = Gcs::start();
    gcs.make_bucket("many");
    let variables = Gcs::variables(&gcs.server.url());
    run(variables.clone(), "COPY (SELECT 1 AS a, 'text' AS b) TO 'gs://many/one.parquet'").stdout();
    let bytes = gcs.object("many", "one.parquet").expect("written");
    (0..10_000).for_each(|n| gcs.put("many", &format!("d/{}/part-{n}.parquet", n % 10), bytes.clone()));
    for (sql, expected) in [
        ("SELECT count(*) AS n FROM read_text('gs://many/d/')", "n\n10000\n"),
        ("SELECT count(*) AS n FROM read_text('gs://many/d/*/part-*7.parquet')", "n\n1000\n"),
        ("SELECT a FROM 'gs://many/d/' LIMIT 1", "a\n1\n"),
        ("SELECT count(*) AS n FROM 'gs://many/d/'", "n\n10000\n"),
    ] {
        gcs.server.take_requests();
        let begun = std::time::Instant::now();
        assert_eq!(run(variables.clone(), sql).stdout(), expected);
        eprintln!("{:>6.2} s, {:>6} requests: {sql}", begun.elapsed().as_secs_f64(), gcs.server.take_requests().len());
    }
}

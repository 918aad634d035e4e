//! What a name in a statement stands for, and how files as people have them are read.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use datafusion::arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use datafusion_embed::SessionOptions;
use tempfile::TempDir;

use crate::support::{count, rows_as_text, run};

fn session() -> SessionContext {
    datafusion_embed::session(SessionOptions::default()).expect("a session")
}

/// A folder of files with a session that reads them.
struct Place {
    folder: TempDir,
    ctx: SessionContext,
}

impl Place {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder"), ctx: session() }
    }

    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.folder.path().display())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    /// Writes so many rows `id` into a Parquet file.
    async fn parquet(&self, name: &str, rows: usize) {
        let plain = self.at("plain.parquet");
        run(&self.ctx, &format!("COPY (SELECT value AS id FROM generate_series(1, {rows})) TO '{plain}'")).await;
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::rename(plain, path).expect("renamed");
    }

    /// The SQL with each `$` as the folder.
    fn sql(&self, sql: &str) -> String {
        sql.replace('$', &self.folder.path().display().to_string())
    }

    async fn count(&self, sql: &str) -> i64 {
        count(&self.ctx, &self.sql(sql)).await
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.ctx, &self.sql(sql)).await
    }

    async fn error(&self, sql: &str) -> String {
        let sql = self.sql(sql);
        let planned = match self.ctx.sql(&sql).await {
            Ok(frame) => frame.collect().await.map(|_| ()),
            Err(error) => Err(error),
        };
        let error = planned.err().unwrap_or_else(|| panic!("{sql}: no error"));
        error.find_root().to_string()
    }

    #[track_caller]
    fn says(&self, error: &str, parts: &[&str]) {
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert!(error.len() < 800, "{} characters: {error}", error.len());
    }
}

async fn rows(ctx: &SessionContext, sql: &str) -> Vec<String> {
    let batches = run(ctx, sql).await;
    rows_as_text(&batches, |array, row| match array.is_null(row) {
        true => "NULL".to_owned(),
        false => array_value_to_string(array, row).expect("a text"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_exists_is_meant_literally() {
    let place = Place::new();
    let names = [
        "a?b",
        "a#b",
        "a+b",
        "a*b",
        "[x]",
        "Report [v2]",
        "50% off",
        "a&b=c",
        "a b",
        "ü 東京",
        "{a,b}",
        "a%20b",
        "x;y",
        "*",
    ];
    for (rows, name) in names.iter().enumerate() {
        place.parquet(&format!("{name}.parquet"), rows + 1).await;
    }
    for (rows, name) in names.iter().enumerate() {
        let sql = format!("SELECT count(*) FROM '$/{name}.parquet'");
        assert_eq!(place.count(&sql).await, rows as i64 + 1, "{name}");
        let table = format!("CREATE OR REPLACE EXTERNAL TABLE t STORED AS PARQUET LOCATION '$/{name}.parquet'");
        run(&place.ctx, &place.sql(&table)).await;
        assert_eq!(place.count("SELECT count(*) FROM t").await, rows as i64 + 1, "{name}");
    }
    place.parquet("d [1]/x1.parquet", 3).await;
    place.parquet("d [1]/x2.parquet", 4).await;
    assert_eq!(place.count("SELECT count(*) FROM '$/d [1]'").await, 7);
    assert_eq!(place.count("SELECT count(*) FROM '$/d [1]/x[12].parquet'").await, 7);
    assert_eq!(place.count("SELECT count(*) FROM '$/./d [1]/../d [1]/x?.parquet'").await, 7);
    assert_eq!(place.count("SELECT count(*) FROM '$/[ab]?b.parquet'").await, 1 + 2 + 3 + 4 + 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_reach_into_folders() {
    let place = Place::new();
    for (name, rows) in [("train/a/1", 1), ("train/2", 2), ("test/3", 4), ("0", 8), ("test/b/c/5", 16)] {
        place.parquet(&format!("tree/{name}.parquet"), rows).await;
    }
    for (pattern, rows) in [
        ("tree/**/*.parquet", 31),
        ("tree/*/*.parquet", 6),
        ("tree/*.parquet", 8),
        ("tree/{train,test}/*.parquet", 6),
        ("tree/t*/**", 23),
        ("tree/**/[15].parquet", 17),
        ("tree", 31),
        ("tree/", 31),
        ("tree/test/", 20),
        ("t*/*/{a,b/c}/*.parquet", 17),
    ] {
        assert_eq!(place.count(&format!("SELECT count(*) FROM '$/{pattern}'")).await, rows, "{pattern}");
        let table = format!("CREATE OR REPLACE EXTERNAL TABLE t STORED AS PARQUET LOCATION '$/{pattern}'");
        run(&place.ctx, &place.sql(&table)).await;
        assert_eq!(place.count("SELECT count(*) FROM t").await, rows, "{pattern}");
    }
    place.says(&place.error("SELECT * FROM '$/tree/x*/*.parquet'").await, &["not found"]);
    place.says(&place.error("SELECT * FROM '$/tree/[.parquet'").await, &["pattern \"[.parquet\""]);
    run(&place.ctx, "SET datafusion.execution.listing_table_ignore_subdirectory = true").await;
    assert_eq!(place.count("SELECT count(*) FROM '$/tree'").await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_meanwhile_is_seen() {
    let place = Place::new();
    place.parquet("out/1.parquet", 8).await;
    run(&place.ctx, &place.sql("CREATE VIEW v AS SELECT * FROM '$/out/*.parquet'")).await;
    run(&place.ctx, &place.sql("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '$/out'")).await;
    let all = async |expected| {
        for from in ["'$/out/'", "'$/out/*'", "v", "t"] {
            assert_eq!(place.count(&format!("SELECT count(*) FROM {from}")).await, expected, "{from}");
        }
    };
    all(8).await;
    place.parquet("out/2.parquet", 8).await;
    all(16).await;
    run(&place.ctx, &place.sql("COPY (SELECT 1::BIGINT AS id) TO '$/out/3.parquet'")).await;
    all(17).await;
    run(&place.ctx, "INSERT INTO t VALUES (7), (8)").await;
    all(19).await;
    place.parquet("out/1.parquet", 9).await;
    all(20).await;
    fs::remove_file(place.at("out/2.parquet")).expect("removed");
    all(12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_files_are_passed_over_in_folders() {
    let place = Place::new();
    place.parquet("hid/part-0.parquet", 8).await;
    for name in ["_tmp-part-1", "_k=v", ".x", "_temporary/0/part-1", ".spark/x", "a/_b"] {
        place.parquet(&format!("hid/{name}.parquet"), 8).await;
    }
    place.write("hid/._part-0.parquet", "resource fork");
    place.write("hid/_SUCCESS", "");
    place.write("hid/README.md", "# text");
    for from in ["hid", "hid/*.parquet", "hid/**", "hid/**/*.parquet"] {
        assert_eq!(place.count(&format!("SELECT count(*) FROM '$/{from}'")).await, 8, "{from}");
    }
    for from in
        ["hid/_tmp-part-1.parquet", "hid/_t*.parquet", "hid/_k=v.parquet", "hid/_temporary", "hid/.[!_]*.parquet"]
    {
        assert_eq!(place.count(&format!("SELECT count(*) FROM '$/{from}'")).await, 8, "{from}");
    }
    run(&place.ctx, &place.sql("CREATE EXTERNAL TABLE t (id BIGINT) STORED AS PARQUET LOCATION '$/hid/'")).await;
    assert_eq!(place.count("SELECT count(*) FROM t").await, 8);
    place.write("bad/ok.parquet", fs::read(place.at("hid/part-0.parquet")).expect("readable"));
    place.write("bad/cut.parquet", "no parquet at all");
    place.says(&place.error("SELECT count(*) FROM '$/bad'").await, &["cut.parquet\": "]);
}

/// Rows with a line break in each second text, and some of the things that make it hard.
fn broken(rows: usize) -> String {
    let mut text = "id,body\r\n".to_owned();
    for id in 0..rows {
        let body = if id % 2 == 0 {
            format!("two {id}\nlines, \"\"quoted\"\"\r\n{}", "word ".repeat(10))
        } else {
            "one".into()
        };
        text += &format!("{id},\"{body}\"\r\n");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_csv_file_may_have_line_breaks() {
    let place = Place::new();
    let ctx = &place.ctx;
    run(ctx, "SET datafusion.execution.target_partitions = 4").await;
    for rows in [1, 100, 400, 3000, 250_000] {
        place.write("nl.csv", broken(rows));
        let sql = "SELECT count(*) FROM '$/nl.csv' WHERE id % 2 = 1 OR body LIKE E'two %\\nlines, \"quoted\"%'";
        assert_eq!(place.count(sql).await, rows as i64, "{rows} rows");
        run(ctx, &place.sql("CREATE OR REPLACE EXTERNAL TABLE t STORED AS CSV LOCATION '$/nl.csv'")).await;
        assert_eq!(place.count("SELECT count(DISTINCT id) FROM t").await, rows as i64);
        let columns = "CREATE OR REPLACE EXTERNAL TABLE t (id BIGINT, body VARCHAR) STORED AS CSV LOCATION '$/nl.csv'";
        run(ctx, &place.sql(columns)).await;
        assert_eq!(place.count("SELECT count(DISTINCT id) FROM t").await, rows as i64);
    }
    // Line breaks from the middle on, in one column without delimiters: 14 MB.
    let mut late = "body\n".to_owned();
    for id in 0..60_000 {
        let rest = "word ".repeat(40);
        late += &if id < 30_000 { format!("para {id} {rest}\n") } else { format!("\"para {id}\nline {rest}\"\n") };
    }
    place.write("late.csv", late);
    assert_eq!(place.count("SELECT count(*) FROM '$/late.csv'").await, 60_000);
    // Our own exports.
    let copy = "COPY (SELECT value AS id, concat('a', chr(10), repeat('word ', 20)) AS body FROM generate_series(1, 200000)) \
                TO '$/rt.csv'";
    run(ctx, &place.sql(copy)).await;
    assert_eq!(place.count("SELECT count(*) FROM '$/rt.csv' WHERE body LIKE E'a\\nword%'").await, 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csv_file_without_line_breaks_in_its_texts_is_read_in_parts() {
    let place = Place::new();
    run(&place.ctx, "SET datafusion.execution.target_partitions = 4").await;
    let row = format!("7,\"{}\"\n", "a word, ".repeat(20));
    place.write("plain.csv", format!("id,body\n{}", row.repeat(80_000)));
    let plan = |rows: Vec<String>| rows.join("\n").matches("plain.csv:").count();
    assert_eq!(plan(place.rows("EXPLAIN FORMAT INDENT SELECT * FROM '$/plain.csv' WHERE id = 8").await), 4);
    assert_eq!(place.count("SELECT count(*) FROM '$/plain.csv'").await, 80_000);
    place.write("plain.csv", format!("id,body\n{}8,\"a\nb\"\n", row.repeat(80_000)));
    assert_eq!(plan(place.rows("EXPLAIN FORMAT INDENT SELECT * FROM '$/plain.csv' WHERE id = 8").await), 0);
    assert_eq!(place.count("SELECT count(*) FROM '$/plain.csv'").await, 80_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_folder_may_differ_in_width() {
    let place = Place::new();
    let copies = [
        ("a", "1::INT AS id, arrow_cast('a', 'Utf8') AS body, 1.5::REAL AS x, 1::SMALLINT AS n"),
        ("b", "2::BIGINT AS id, arrow_cast('b', 'LargeUtf8') AS body, 2.5::DOUBLE AS x, 40000::INT AS n"),
        (
            "c",
            "x * 2 AS x, id, body, 3 AS late FROM (SELECT 3::BIGINT AS id, arrow_cast('c', 'Utf8View') AS body, 2 AS x)",
        ),
    ];
    for (name, columns) in copies {
        run(&place.ctx, &place.sql(&format!("COPY (SELECT {columns}) TO '$/mix/{name}.parquet'"))).await;
    }
    let rows = place.rows("SELECT id, body, x, n, late FROM '$/mix' ORDER BY id").await;
    assert_eq!(rows, ["1|a|1.5|1|NULL", "2|b|2.5|40000|NULL", "3|c|4.0|NULL|3"]);
    assert_eq!(place.rows("SELECT arrow_typeof(id), arrow_typeof(x) FROM '$/mix' LIMIT 1").await, ["Int64|Float64"]);
    assert_eq!(place.count("SELECT count(*) FROM '$/mix' WHERE id > 1 AND body > 'a'").await, 2);
    run(&place.ctx, &place.sql("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '$/mix/'")).await;
    assert_eq!(place.count("SELECT sum(id) FROM t").await, 6);

    run(&place.ctx, &place.sql("COPY (SELECT true AS id) TO '$/mix/d.parquet'")).await;
    let error = place.error("SELECT * FROM '$/mix'").await;
    place.says(&error, &["column \"id\"", "/mix/b.parquet\"", "Boolean in ", "/mix/d.parquet\"", "CAST"]);

    // Texts, whose types are guessed.
    place.write("csv/1.csv", "id,code\n1,7\n");
    place.write("csv/2.csv", "id,code\n2.5,AB-7\n");
    assert_eq!(place.rows("SELECT * FROM '$/csv' ORDER BY id").await, ["1.0|7", "2.5|AB-7"]);
    place.write("csv/3.csv", "code,id\nx,3\n");
    place.says(
        &place.error("SELECT * FROM '$/csv'").await,
        &["1.csv\" are id, code", "3.csv\" are code, id", "UNION ALL"],
    );
    place.write("json/1.json", "{\"id\":1,\"b\":\"x\"}\n");
    place.write("json/2.jsonl", "{\"id\":2.5,\"a\":[1]}\n");
    assert_eq!(place.rows("SELECT id, a, b FROM '$/json' ORDER BY id").await, ["1.0|NULL|x", "2.5|[1]|NULL"]);
    for (name, kind) in [("a", "INT"), ("b", "BIGINT")] {
        run(&place.ctx, &place.sql(&format!("COPY (SELECT 1::{kind} AS id) TO '$/arrow/{name}.arrow'"))).await;
    }
    assert_eq!(place.rows("SELECT id, arrow_typeof(id) FROM '$/arrow'").await, ["1|Int64", "1|Int64"]);
    place.write("two/a.csv", "id\n1\n");
    place.parquet("two/b.parquet", 1).await;
    place.says(&place.error("SELECT * FROM '$/two'").await, &["two kinds", "a.csv\"", "b.parquet\""]);
    assert_eq!(place.count("SELECT count(*) FROM '$/two/*.csv'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn arrow_files_of_one_folder_may_differ_in_width() {
    let place = Place::new();
    let vector = |kind: &str| format!("arrow_cast([1.0, 2.0], 'FixedSizeList(2 x {kind})') AS vector");
    let copies = [
        ("k=1/a", format!("1::INT AS id, arrow_cast('a', 'Utf8') AS body, {}", vector("Float32"))),
        ("k=1/b", format!("{}, 2::BIGINT AS id, arrow_cast('b', 'LargeUtf8') AS body", vector("Float16"))),
        ("k=2/c", "arrow_cast('c', 'Dictionary(Int32, Utf8)') AS body, 3 AS late, 3::SMALLINT AS id".to_owned()),
        ("k=2/d", "4::INT AS id".to_owned()),
    ];
    for (name, columns) in copies {
        let file = place.folder.path().join(format!("mix/{name}.arrow"));
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        run(&place.ctx, &place.sql(&format!("COPY (SELECT {columns}) TO '$/mix/{name}.arrow'"))).await;
    }
    for partitions in [1, 4] {
        run(&place.ctx, &format!("SET datafusion.execution.target_partitions = {partitions}")).await;
        assert_eq!(
            place.rows("SELECT id, body, late, vector, k FROM '$/mix' ORDER BY id").await,
            ["1|a|NULL|[1.0, 2.0]|1", "2|b|NULL|[1.0, 2.0]|1", "3|c|3|NULL|2", "4|NULL|NULL|NULL|2"]
        );
        assert_eq!(
            place.rows("SELECT k + id, upper(body) FROM '$/mix' WHERE body > 'a' ORDER BY 1").await,
            ["3|B", "5|C"]
        );
        assert_eq!(place.rows("SELECT count(*), count(late), max(k) FROM '$/mix'").await, ["4|1|2"]);
    }
    let types = "SELECT arrow_typeof(id), arrow_typeof(body), arrow_typeof(vector) FROM '$/mix' LIMIT 1";
    assert_eq!(place.rows(types).await, ["Int64|LargeUtf8|FixedSizeList(2 x Float32)"]);
    // A table of its own columns.
    let table = "CREATE EXTERNAL TABLE t (body VARCHAR, id DOUBLE) STORED AS ARROW LOCATION '$/mix/k=1'";
    run(&place.ctx, &place.sql(table)).await;
    assert_eq!(place.rows("SELECT * FROM t ORDER BY id").await, ["a|1.0", "b|2.0"]);
    run(&place.ctx, &place.sql("COPY (SELECT true AS id) TO '$/mix/k=1/e.arrow'")).await;
    place.says(
        &place.error("SELECT * FROM '$/mix'").await,
        &["column \"id\"", "/mix/k=1/b.arrow\"", "Boolean in ", "/mix/k=1/e.arrow\"", "CAST"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_text_of_a_csv_file_is_no_null() {
    let place = Place::new();
    let text = "id,body,n\n1,\"\",\"\"\n2,,\n3,\"a \"\"\"\" b\",3\n";
    place.write("e.csv", text);
    let expected = ["1||NULL", "2|NULL|NULL", "3|a \"\" b|3"];
    assert_eq!(place.rows("SELECT * FROM '$/e.csv'").await, expected);
    assert_eq!(place.rows("SELECT n, length(body) FROM '$/e.csv'").await, ["NULL|0", "NULL|NULL", "3|6"]);
    for (filter, rows) in [("body = ''", 1), ("body IS NULL", 1), ("body IS NOT NULL", 2), ("n IS NULL", 2)] {
        assert_eq!(place.count(&format!("SELECT count(*) FROM '$/e.csv' WHERE {filter}")).await, rows, "{filter}");
    }
    let utf16: Vec<u8> = std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    place.write("16.csv", utf16);
    place.write(
        "latin.csv",
        text.replace('a', "\u{1}").bytes().map(|b| if b == 1 { 0xe4 } else { b }).collect::<Vec<_>>(),
    );
    place.write("bare.csv", "\u{feff}\"\",1\n,2\n");
    place.write("other.csv", "id;body\r\n1;''\r\n2;\r\n3;'\"\"'");
    let table = async |name: &str, rest: &str| {
        let sql = format!("CREATE OR REPLACE EXTERNAL TABLE t {rest}")
            .replace("@", &format!("STORED AS CSV LOCATION '$/{name}.csv'"));
        run(&place.ctx, &place.sql(&sql)).await;
        place.rows("SELECT * FROM t").await
    };
    assert_eq!(place.rows("SELECT * FROM '$/16.csv'").await, expected);
    assert_eq!(
        table("latin", "@ OPTIONS ('format.encoding' 'latin1')").await,
        ["1||NULL", "2|NULL|NULL", "3|ä \"\" b|3"]
    );
    assert_eq!(table("bare", "(body VARCHAR, id INT) @ OPTIONS ('format.has_header' 'false')").await, ["|1", "NULL|2"]);
    let other = "@ OPTIONS ('format.delimiter' ';', 'format.quote' '''')";
    assert_eq!(table("other", other).await, ["1|", "2|NULL", "3|\"\""]);
    // What the user says is NULL is, and nothing else.
    assert_eq!(
        table("e", "@ OPTIONS ('format.null_regex' '^\\z')").await,
        ["1|NULL|NULL", "2|NULL|NULL", "3|a \"\" b|3"]
    );
    place.write("na.csv", "id,body,n\n1,NA,NA\n2,,2\n");
    assert_eq!(table("na", "@ OPTIONS ('format.null_regex' '^NA')").await, ["1|NULL|NULL", "2||2"]);
    // A column that has no NULL may have empty texts.
    place.write("full.csv", "id,body\n1,\"\"\n2,b\n");
    assert_eq!(table("full", "(id INT NOT NULL, body VARCHAR NOT NULL) @").await, ["1|", "2|b"]);
    place.write("full.csv", "id,body\n1,\"\"\n2,\n");
    place.says(&place.error("SELECT * FROM t").await, &["full.csv\": ", "'body'", "non-nullable"]);
}

/// Texts with whatever makes CSV hard, and NULLs; the same for the same seed.
fn hard_texts(seed: u64, count: usize, pieces: &[&str]) -> Vec<Option<String>> {
    let mut state = seed;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let text = |_| {
        let length = [0, 0, 1, 2, 5][random(5)];
        let text: String = (0..length).map(|_| pieces[random(pieces.len())]).collect();
        (random(4) > 0).then_some(text)
    };
    (0..count).map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_come_back_from_csv_files_as_they_were() {
    use crate::support::register_texts;
    const PIECES: [&str; 22] = [
        "\"\"",
        "\"",
        ",",
        "''",
        "'",
        ";",
        "\t",
        " ",
        "a",
        "NULL",
        "é",
        "日本",
        "👩‍👧",
        "\u{feff}",
        "#",
        "\\",
        "\u{2028}",
        "\u{85}",
        "\n",
        "\r\n",
        "\r",
        ",\"\",",
    ];
    let place = Place::new();
    run(&place.ctx, "SET datafusion.execution.target_partitions = 4").await;
    run(&place.ctx, "SET datafusion.optimizer.repartition_file_min_size = 0").await;
    // The first ones have no line breaks: their files are read in parts.
    for (seed, pieces) in [(1, &PIECES[..18]), (2, &PIECES[..]), (3, &PIECES[..18]), (4, &PIECES[..])] {
        for rows in [1, 40, 9000] {
            let texts = hard_texts(seed, rows, pieces);
            let _ = place.ctx.deregister_table("texts").expect("a schema");
            register_texts(&place.ctx, &texts, 1000);
            for (name, options) in [
                ("a.csv", "'format.has_header' 'true'"),
                ("b.tsv", "'format.has_header' 'true'"),
                ("c.csv.gz", "'format.has_header' 'true'"),
                ("d.csv", "'format.delimiter' ';', 'format.quote' '''', 'format.has_header' 'false'"),
            ] {
                let statement = format!(
                    "COPY (SELECT id, body, arrow_cast(body, 'Utf8View') AS same FROM texts) TO '$/{name}' OPTIONS ({options})"
                );
                run(&place.ctx, &place.sql(&statement)).await;
                let table = format!(
                    "CREATE OR REPLACE EXTERNAL TABLE back (id BIGINT, body VARCHAR, same VARCHAR) STORED AS CSV \
                     LOCATION '$/{name}' OPTIONS ({options})"
                );
                run(&place.ctx, &place.sql(&table)).await;
                let other = "SELECT count(*) FROM texts t FULL JOIN back b ON t.id = b.id \
                             WHERE (t.body IS DISTINCT FROM b.body) OR (t.body IS DISTINCT FROM b.same) OR t.id IS NULL OR b.id IS NULL";
                assert_eq!(place.count(other).await, 0, "{name}, seed {seed}, {rows} rows");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_key_that_comes_late_is_not_lost_in_silence() {
    let place = Place::new();
    let good = "{\"id\": 1, \"meta\": {\"tags\": [{\"a\": 1}]}}\n";
    let late = |object: &str| format!("{}{object}\n", good.repeat(1200));
    place.write("top.json", late("{\"id\": 2, \"late\": 7}"));
    place.write("deep.json", late("{\"id\": 2, \"meta\": {\"tags\": [{\"a\": 1, \"late\": 7}]}}"));
    let array = late("{\"id\": 2, \"late\": 7}").trim_end().replace('\n', ",\n");
    place.write("array.json", format!("[{array}]"));
    for (name, parts) in [
        ("top", ["line 1201: the key \"late\"", "CREATE EXTERNAL TABLE"]),
        ("deep", ["line 1201: the key \"meta.tags.late\"", "schema_infer_max_rec"]),
        ("array", ["object 1201: the key \"late\"", "SELECT of some"]),
    ] {
        let table = |columns: &str, most: usize| {
            place.sql(&format!(
                "CREATE OR REPLACE EXTERNAL TABLE t {columns} STORED AS JSON LOCATION '$/{name}.json' \
                 OPTIONS ('format.schema_infer_max_rec' '{most}')"
            ))
        };
        run(&place.ctx, &table("", 10)).await;
        place.says(&place.error("SELECT * FROM t").await, &[&format!("{name}.json\": {}", parts[0]), parts[1]]);
        // Whoever names columns has them.
        assert_eq!(place.count("SELECT sum(id) FROM t").await, 1202);
        assert_eq!(place.count("SELECT count(*) FROM t").await, 1201);
        assert_eq!(place.count("SELECT count(*) FROM (SELECT * FROM t) WHERE id = 2").await, 1);
        run(&place.ctx, &table("(id BIGINT)", 10)).await;
        assert_eq!(place.rows("SELECT * FROM t WHERE id = 2").await, ["2"]);
        run(&place.ctx, &table("", 2000)).await;
        assert_eq!(place.rows("SELECT * FROM t").await.len(), 1201);
        assert_eq!(place.rows(&format!("SELECT * FROM '$/{name}.json'")).await.len(), 1201);
    }
    // What the folders say too is no key that nobody knows.
    place.write("p/year=2024/x.json", "{\"id\": 1, \"year\": \"2024\"}\n");
    place.write("p/year=2025/x.json", "{\"id\": 2, \"year\": \"2025\", \"more\": 1}\n");
    assert_eq!(place.rows("SELECT id, more, year FROM '$/p' ORDER BY id").await, ["1|NULL|2024", "2|1|2025"]);
    // Behind all that is looked at.
    let text = "word ".repeat(200);
    place.write(
        "big.json",
        format!("{}{{\"id\": 2, \"late\": 7}}\n", format!("{{\"id\": 1, \"x\": \"{text}\"}}\n").repeat(17_000)),
    );
    let error = place.error("SELECT * FROM '$/big.json'").await;
    place.says(&error, &["big.json\": line 17001"]);
    assert_eq!(place.count("SELECT count(*) FROM '$/big.json' WHERE id = 2").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_array_that_is_cut_is_an_error() {
    let place = Place::new();
    place.write("a.json", format!("[{}", "{\"id\": 1},\n".repeat(2000)));
    let table = "CREATE EXTERNAL TABLE t (id INT) STORED AS JSON LOCATION '$/a.json'";
    run(&place.ctx, &place.sql(table)).await;
    place.says(&place.error("SELECT * FROM t").await, &["a.json\": ", "EOF"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_written_in_two_ways_is_read() {
    let place = Place::new();
    let table =
        "CREATE EXTERNAL TABLE store (id BIGINT, text VARCHAR, vector FLOAT[3]) STORED AS PARQUET LOCATION '$/store/'";
    fs::create_dir(place.at("store")).expect("made");
    run(&place.ctx, &place.sql(table)).await;
    run(&place.ctx, "INSERT INTO store SELECT 1, 'a', arrow_cast([1.0, 2.0, 3.0], 'FixedSizeList(3 x Float32)')").await;
    place.write("new.csv", "id,text\n2,b\n");
    let copy = "COPY (SELECT id, text, arrow_cast([1.0, 2.0, 3.0], 'FixedSizeList(3 x Float32)') AS vector FROM '$/new.csv') \
                TO '$/store/2.parquet'";
    run(&place.ctx, &place.sql(copy)).await;
    for from in ["store", "'$/store'"] {
        assert_eq!(place.rows(&format!("SELECT id, text FROM {from} ORDER BY id")).await, ["1|a", "2|b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_partitions_have_nulls_and_numbers() {
    let place = Place::new();
    let folders = ["year=2024/topic=a", "year=2025/topic=", "year=__HIVE_DEFAULT_PARTITION__/topic=50%25%20ü"];
    for (rows, folder) in folders.iter().enumerate() {
        place.parquet(&format!("p/{folder}/x.parquet"), rows + 1).await;
    }
    place.parquet("p/year=2024/topic=__HIVE_DEFAULT_PARTITION__/x.parquet", 4).await;
    let all = place.rows("SELECT year, topic, count(*) FROM '$/p' GROUP BY year, topic ORDER BY year, topic").await;
    assert_eq!(all, ["2024|a|1", "2024|NULL|4", "2025||2", "NULL|50% ü|3"]);
    for (filter, rows) in [
        ("year = 2024", 5),
        ("year IS NULL", 3),
        ("year IS NOT NULL", 7),
        ("topic = ''", 2),
        ("topic IS NULL", 4),
        ("topic IS NOT NULL", 6),
        ("NOT (topic = 'a')", 5),
        ("coalesce(topic, 'none') = 'none'", 4),
        ("topic IN ('a', '')", 3),
        ("year > 2024 AND id > 1", 1),
        ("year IS NULL OR id = 4", 4),
    ] {
        assert_eq!(place.count(&format!("SELECT count(*) FROM '$/p' WHERE {filter}")).await, rows, "{filter}");
    }
    assert_eq!(place.count("SELECT count(topic) FROM '$/p'").await, 6);
    assert_eq!(place.count("SELECT count(year) FROM '$/p'").await, 7);
    assert_eq!(place.count("SELECT max(year) FROM '$/p'").await, 2025);
    assert_eq!(place.count("SELECT count(*) FROM '$/p/year=2024'").await, 5);
    assert_eq!(place.count("SELECT count(*) FROM '$/p/*/topic=a/*.parquet'").await, 1);
    run(
        &place.ctx,
        &place.sql("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '$/p/' PARTITIONED BY (year, topic)"),
    )
    .await;
    assert_eq!(place.count("SELECT count(*) FROM t WHERE year = 2024 AND topic IS NULL").await, 4);
    let declared = "CREATE EXTERNAL TABLE d (id BIGINT, year INT, topic VARCHAR) STORED AS PARQUET LOCATION '$/p/' \
                    PARTITIONED BY (year, topic)";
    run(&place.ctx, &place.sql(declared)).await;
    assert_eq!(place.count("SELECT count(*) FROM d WHERE year IS NULL").await, 3);
    run(&place.ctx, "INSERT INTO d VALUES (77, 2026, 'new')").await;
    assert_eq!(place.count("SELECT count(*) FROM '$/p' WHERE topic = 'new' AND year = 2026").await, 1);
    // Numbers that are no numbers.
    place.parquet("zero/code=007/x.parquet", 1).await;
    place.parquet("zero/code=8/x.parquet", 1).await;
    assert_eq!(place.rows("SELECT code FROM '$/zero' ORDER BY code").await, ["007", "8"]);
    place.parquet("zero/x.parquet", 1).await;
    place.says(&place.error("SELECT * FROM '$/zero'").await, &["different columns", "/zero/x.parquet\"", "code"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn endings_say_what_a_file_is() {
    let place = Place::new();
    place.write("x.tsv", "id\tbody\n1\ta, b\n");
    place.write("X.TSV", "id\tbody\n1\ta, b\n");
    place.write("x.jsonl", "{\"id\":1,\"body\":\"a, b\"}\n");
    place.write("x.ndjson", "{\"id\":1,\"body\":\"a, b\"}\n");
    place.write("x.csv", "id,body\n1,\"a, b\"\n");
    run(&place.ctx, &place.sql("COPY (SELECT 1 AS id, 'a, b' AS body) TO '$/x.parquet'")).await;
    fs::copy(place.at("x.parquet"), place.at("x.pq")).expect("copied");
    run(&place.ctx, &place.sql("COPY (SELECT 1 AS id, 'a, b' AS body) TO '$/x.arrow'")).await;
    for ending in ["tsv", "jsonl", "ndjson", "csv", "pq", "parquet", "arrow"] {
        assert_eq!(place.rows(&format!("SELECT id, body FROM '$/x.{ending}'")).await, ["1|a, b"], "{ending}");
    }
    assert_eq!(place.rows("SELECT id, body FROM '$/X.TSV'").await, ["1|a, b"]);
    for (name, format) in [("gz", "gzip"), ("zst", "zstd"), ("bz2", "bzip2"), ("xz", "xz")] {
        for (ending, delimiter) in [("csv", ","), ("tsv", "\t")] {
            let copy = format!(
                "COPY (SELECT 1 AS id, 'a, b' AS body) TO '$/c.{ending}.{name}' STORED AS CSV \
                 OPTIONS ('format.compression' '{format}', 'format.delimiter' '{delimiter}')"
            );
            run(&place.ctx, &place.sql(&copy)).await;
            assert_eq!(
                place.rows(&format!("SELECT * FROM '$/c.{ending}.{name}'")).await,
                ["1|a, b"],
                "{ending}.{name}"
            );
        }
        let copy = format!(
            "COPY (SELECT 1 AS id, 'a, b' AS body) TO '$/c.jsonl.{name}' STORED AS JSON OPTIONS ('format.compression' '{format}')"
        );
        run(&place.ctx, &place.sql(&copy)).await;
        assert_eq!(place.rows(&format!("SELECT id, body FROM '$/c.jsonl.{name}'")).await, ["1|a, b"], "{name}");
    }
    // What the name says need not be said again.
    run(&place.ctx, &place.sql("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '$/c.tsv.gz'")).await;
    assert_eq!(place.rows("SELECT * FROM t").await, ["1|a, b"]);
    assert_eq!(count(&place.ctx, "SELECT count(*) FROM 'sql/docs.jsonl'").await, 320);
    // No file is left out in silence.
    place.write("both/a.csv", "id\n1\n");
    fs::copy(place.at("c.csv.gz"), place.at("both/b.csv.gz")).expect("copied");
    for sql in ["SELECT * FROM '$/both'", "CREATE EXTERNAL TABLE b STORED AS CSV LOCATION '$/both'"] {
        place.says(&place.error(sql).await, &["two kinds", "a.csv\"", "b.csv.gz\""]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_read_as_an_array_too() {
    let place = Place::new();
    let objects: Vec<_> =
        (0..20_000).map(|id| format!("{{\"id\": {id}, \"body\": \"{}\"}}", "some text ".repeat(60))).collect();
    place.write("arr.json", format!(" \n[{}]", objects.join(",\n")));
    run(&place.ctx, "SET datafusion.execution.target_partitions = 4").await;
    assert_eq!(place.count("SELECT count(DISTINCT id) FROM '$/arr.json'").await, 20_000);
    place.write("both/1.json", "[{\"id\": 1}, {\"id\": 2}]");
    place.write("both/2.json", "[{\"id\": 3}]");
    assert_eq!(place.count("SELECT sum(id) FROM '$/both'").await, 6);
    run(&place.ctx, &place.sql("CREATE EXTERNAL TABLE t STORED AS JSON LOCATION '$/both'")).await;
    assert_eq!(place.count("SELECT sum(id) FROM t").await, 6);
    place.write("both/3.json", "{\"id\": 4}\n");
    place.says(&place.error("SELECT * FROM '$/both'").await, &["1.json", "3.json", "a JSON array"]);
    // A key that comes late.
    let late = format!("{}{{\"id\": 5, \"late\": 7}}\n", "{\"id\": 1}\n".repeat(3000));
    place.write("late.json", late);
    assert_eq!(place.count("SELECT sum(late) FROM '$/late.json'").await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_with_file_and_line() {
    let place = Place::new();
    let good = "{\"id\": 1, \"body\": \"a\"}\n";
    place.write("lone.json", format!("{}{{\"id\": 51, \"body\": \"\\ud83d\"}}\n", good.repeat(50)));
    place.says(&place.error("SELECT * FROM '$/lone.json'").await, &["lone.json\": line 51", "hex escape"]);
    place.write("cut.json", format!("{}{{\"id\": 1, \"bo", good.repeat(50)));
    place.says(&place.error("SELECT * FROM '$/cut.json'").await, &["cut.json\": line 51", "EOF"]);
    place.write("arr.json", format!("[{}{{\"id\": x}}]", "{\"id\": 1},\n".repeat(50)));
    place.says(&place.error("SELECT * FROM '$/arr.json'").await, &["arr.json\": line 51"]);
    // Beyond what the columns were inferred from.
    let table = "CREATE OR REPLACE EXTERNAL TABLE t STORED AS JSON LOCATION '$/x.json' OPTIONS ('format.schema_infer_max_rec' '10')";
    place.write("x.json", format!("{}{{\"id\": \"AB-7\", \"body\": \"a\"}}\n", good.repeat(1200)));
    run(&place.ctx, &place.sql(table)).await;
    place.says(&place.error("SELECT * FROM t").await, &["x.json\": line 1201", "AB-7", "schema_infer_max_rec"]);
    place.write("x.json", format!("{}{{\"id\": 1, \"bo", good.repeat(1200)));
    place.says(&place.error("SELECT * FROM t").await, &["x.json\": line 1201"]);

    let table = "CREATE OR REPLACE EXTERNAL TABLE t STORED AS CSV LOCATION '$/x.csv' OPTIONS ('format.schema_infer_max_rec' '10')";
    place.write("x.csv", format!("id,code\n{}7,AB-7\n", "1,\"2\"\n".repeat(1200)));
    run(&place.ctx, &place.sql(table)).await;
    let error = place.error("SELECT * FROM t").await;
    place.says(&error, &["x.csv\": line 1202, column \"code\": \"AB-7\" is no Int64", "schema_infer_max_rec"]);
    // All of a small file is looked at.
    assert_eq!(place.count("SELECT count(*) FROM '$/x.csv' WHERE code = 'AB-7'").await, 1);
    place.write("x.csv", format!("id,code\n{}7,8,9\n", "1,\"a\nb\"\n".repeat(1200)));
    place.says(&place.error("SELECT * FROM '$/x.csv'").await, &["x.csv\": line 2402: 3 cells", "header has 2"]);
    place.says(&place.error("SELECT * FROM t").await, &["x.csv\": line"]);
    let table =
        "CREATE OR REPLACE EXTERNAL TABLE t STORED AS CSV LOCATION '$/x.csv' OPTIONS ('format.truncated_rows' 'true')";
    run(&place.ctx, &place.sql(table)).await;
    place.says(&place.error("SELECT * FROM t").await, &["x.csv\": line 2402: 3 cells", "header has 2"]);
    place.write("x.csv", [b"id,code\n1,2\n3,4\n5,M\xfcnchen\n".as_slice()].concat());
    place.says(
        &place.error("SELECT * FROM '$/x.csv'").await,
        &["x.csv\": line 4, column \"code\"", "'format.encoding' 'latin1'"],
    );
    // A column that is empty for long is no column of NULLs.
    place.write("late.csv", format!("id,note\n{}2,at last\n", "1,\n".repeat(3_000_000)));
    assert_eq!(place.count("SELECT count(note) FROM '$/late.csv'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_encodings_are_read() {
    let place = Place::new();
    let text = "id,body\n1,\"Münch\nen\"\n2,€ 5\n";
    let utf16 = |big: bool| {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect::<Vec<u8>>()
    };
    place.write("le.csv", utf16(false));
    place.write("be.csv", utf16(true));
    place.write("bom.csv", format!("\u{feff}{text}"));
    for name in ["le", "be", "bom"] {
        assert_eq!(
            place.rows(&format!("SELECT id, body FROM '$/{name}.csv'")).await,
            ["1|Münch\nen", "2|€ 5"],
            "{name}"
        );
    }
    place.write("latin.csv", b"id,body\n1,M\xfcnchen\n2,\x80 5\n");
    for label in ["latin1", "ISO-8859-1", "windows-1252"] {
        let table = format!(
            "CREATE OR REPLACE EXTERNAL TABLE t STORED AS CSV LOCATION '$/latin.csv' OPTIONS ('format.encoding' '{label}')"
        );
        run(&place.ctx, &place.sql(&table)).await;
        assert_eq!(place.rows("SELECT * FROM t").await, ["1|München", "2|€ 5"], "{label}");
    }
    let unknown = "CREATE EXTERNAL TABLE u STORED AS CSV LOCATION '$/latin.csv' OPTIONS ('format.encoding' 'klingon')";
    place.says(&place.error(unknown).await, &["\"klingon\" is no known encoding", "latin1"]);
    place.write("latin.jsonl", b"{\"body\": \"M\xfcnchen\"}\n");
    let table = "CREATE OR REPLACE EXTERNAL TABLE t STORED AS JSON LOCATION '$/latin.jsonl' OPTIONS ('format.encoding' 'latin1')";
    run(&place.ctx, &place.sql(table)).await;
    assert_eq!(place.rows("SELECT * FROM t").await, ["München"]);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_no_empty_table() {
    let place = Place::new();
    let pipe = place.at("p.csv");
    nix_mkfifo(&pipe);
    place.says(
        &place.error("SELECT count(*) FROM '$/p.csv'").await,
        &["p.csv\" is a pipe or a device", "to a file first"],
    );
    let table = "CREATE EXTERNAL TABLE t (id INT) STORED AS CSV LOCATION '$/p.csv'";
    place.says(&place.error(table).await, &["p.csv\" is a pipe or a device"]);
}

#[cfg(unix)]
fn nix_mkfifo(path: &str) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(made.success());
}

#[cfg(all(feature = "cli", unix))]
#[test]
fn standard_input_is_no_empty_table() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_embedsql"))
        .args(["-c", "SELECT count(*) FROM '/dev/stdin'"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that ends early closes the pipe; that is its right.
    let _ = child.stdin.take().expect("piped").write_all(b"id\n1\n");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("\"/dev/stdin\" is a pipe or a device"));
}

#[cfg(all(feature = "cli", unix))]
#[test]
fn a_leading_tilde_is_the_home_folder() {
    let home = TempDir::new().expect("a folder");
    let here = TempDir::new().expect("a folder");
    fs::write(home.path().join("x.csv"), "id\n1\n").expect("written");
    let embedsql = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embedsql"));
        let ended = command.args(args).env("HOME", home.path()).current_dir(here.path()).output().expect("it runs");
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).expect("UTF-8")
    };
    let sql = "SELECT * FROM '~/x.csv'; SELECT * FROM '~/*.csv'; COPY (SELECT 2 AS id) TO '~/y.csv'; \
               CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '~/y.csv'; SELECT * FROM t; SET embed.cache = '~/vectors'; \
               SELECT count(embed('a')) AS n";
    assert_eq!(
        embedsql(&["--format", "ndjson", "-c", sql]),
        "{\"id\":1}\n{\"id\":1}\n{\"count\":1}\n{\"id\":2}\n{\"n\":1}\n"
    );
    embedsql(&[
        "--cache",
        "~/other",
        "--output",
        "~/out.csv",
        "--format",
        "csv",
        "-c",
        "SELECT count(embed('b')) AS n",
    ]);
    let names = |folder: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).expect("readable").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(here.path()), [] as [&str; 0]);
    assert_eq!(names(home.path()), ["other", "out.csv", "vectors", "x.csv", "y.csv"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_plain_text_are_rows() {
    let place = Place::new();
    place.write("docs/a.md", "# A\nüber\n");
    place.write("docs/deep/b.md", "");
    place.write("docs/deep/c.md", "\u{feff}C\r\nsecond\r\n\r\nlast");
    place.write("docs/.hidden.md", "x");
    place.write("docs/d.txt", "x");
    let rows = place.rows("SELECT replace(path, '$/', ''), text FROM read_text('$/docs/**/*.md') ORDER BY path").await;
    assert_eq!(rows, ["docs/a.md|# A\nüber\n", "docs/deep/b.md|", "docs/deep/c.md|C\r\nsecond\r\n\r\nlast"]);
    assert_eq!(place.count("SELECT count(*) FROM read_text('$/docs')").await, 4);
    assert_eq!(place.count("SELECT count(embed(text)) FROM read_text('$/docs/a.md')").await, 1);
    let lines = place.rows("SELECT line, text FROM read_lines('$/docs/deep/*.md') ORDER BY line").await;
    assert_eq!(lines, ["1|C", "2|second", "3|", "4|last"]);
    place.says(
        &place.error("SELECT * FROM read_text('$/docs/*', 4)").await,
        &["a.md\": 10 bytes, more than 4", "read_text("],
    );
    assert_eq!(place.count("SELECT count(path) FROM read_text('$/docs/*', '4')").await, 2);
    place.says(&place.error("SELECT * FROM read_text('$/none/*.md')").await, &["no files found at", "/none/*.md\""]);
    place.says(&place.error("SELECT * FROM read_text(7, 8, 9)").await, &["read_text takes the name of files"]);
    place.write("bin/x.md", b"ab\xff");
    place.says(&place.error("SELECT * FROM read_text('$/bin')").await, &["x.md\": byte 2: no UTF-8"]);
    place.says(&place.error("SELECT * FROM read_lines('$/bin')").await, &["x.md\": line 1: no UTF-8"]);
    let many: String = (1..=30_000).map(|line| format!("line {line}\n")).collect();
    place.write("many.txt", many);
    assert_eq!(
        place.count("SELECT count(*) FROM read_lines('$/many.txt') WHERE text = concat('line ', line)").await,
        30_000
    );
    assert_eq!(place.rows("SELECT text FROM read_lines('$/many.txt') LIMIT 1").await, ["line 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn flatten_has_no_values_for_a_null() {
    let ctx = session();
    let vectors = "SELECT g, CASE WHEN g <> 2 THEN arrow_cast([g, 10.0], 'FixedSizeList(2 x Float32)') END AS v \
                   FROM (VALUES (1.0), (2.0), (3.0)) t(g)";
    let sql = format!("SELECT flatten(array_agg(v ORDER BY g)) FROM ({vectors})");
    assert_eq!(rows(&ctx, &sql).await, ["[1.0, 10.0, 3.0, 10.0]"]);
    let sql = format!("SELECT flatten([v, v]) FROM ({vectors}) ORDER BY g");
    assert_eq!(rows(&ctx, &sql).await, ["[1.0, 10.0, 1.0, 10.0]", "[]", "[3.0, 10.0, 3.0, 10.0]"]);
    assert_eq!(
        rows(&ctx, "SELECT flatten([[1], NULL, [2, 3]]), flatten([[1, 2], [3]])").await,
        ["[1, 2, 3]|[1, 2, 3]"]
    );
    assert_eq!(rows(&ctx, "SELECT flatten(NULL::INT[][])").await, ["NULL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_name_the_file_of_each_row() {
    let place = Place::new();
    place.parquet("n/g=1/a.parquet", 2).await;
    place.parquet("n/g=2/b.parquet", 3).await;
    run(&place.ctx, &place.sql("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '$/n' OPTIONS ('filename' 'true')"))
        .await;
    let rows =
        place.rows("SELECT g, replace(filename, '$', ''), count(*) FROM t GROUP BY g, filename ORDER BY g").await;
    assert_eq!(rows, ["1|/n/g=1/a.parquet|2", "2|/n/g=2/b.parquet|3"]);
    assert_eq!(place.count("SELECT count(*) FROM t WHERE filename LIKE '%b.parquet'").await, 3);
    let wrong = "CREATE EXTERNAL TABLE u STORED AS PARQUET LOCATION '$/n' OPTIONS ('filename' 'maybe')";
    place.says(&place.error(wrong).await, &["'maybe' is not true or false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_stores_are_read_alike() {
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::object_store::memory::InMemory;
    use std::sync::Arc;
    let ctx = session();
    let url = ObjectStoreUrl::parse("mem://bucket").expect("a URL");
    ctx.register_object_store(url.as_ref(), Arc::new(InMemory::new()));
    for (name, rows) in [("a/x.csv", 1), ("a/b/y.csv", 2), ("a/_z.csv", 4)] {
        let copy = format!(
            "COPY (SELECT value AS id, E'a\\nb' AS t FROM generate_series(1, {rows})) TO 'mem://bucket/{name}'"
        );
        run(&ctx, &copy).await;
    }
    for (name, rows) in [("a/x.csv", 1), ("a/", 3), ("a", 3), ("a/b/", 2), ("a/_z.csv", 4)] {
        assert_eq!(count(&ctx, &format!("SELECT count(*) FROM 'mem://bucket/{name}'")).await, rows, "{name}");
    }
}

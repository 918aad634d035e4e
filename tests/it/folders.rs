//! What a session writes, seen in the files: folders and their marks, names, endings, values, and how vectors are stored.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::ObjectStore;
use datafusion::object_store::memory::InMemory;
use datafusion::parquet::basic::{Compression, Encoding};
use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
use datafusion::prelude::SessionContext;
use datafusion_embed::SessionOptions;
use datafusion_embed::files::{Doubtful, Whole, Writes};
use futures::TryStreamExt;
use tempfile::TempDir;

use crate::support::{count, run};

struct Place {
    folder: TempDir,
    ctx: SessionContext,
    writes: Writes,
}

impl Place {
    fn new() -> Self {
        let options = SessionOptions::default();
        let writes = options.writes.clone();
        let ctx = datafusion_embed::session(options).expect("a session");
        Self { folder: TempDir::new().expect("a folder"), ctx, writes }
    }

    /// A session that knows nothing of what another has done.
    fn fresh(&self) -> SessionContext {
        datafusion_embed::session(SessionOptions::default()).expect("a session")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    async fn copy(&self, select: &str, target: &str, rest: &str) {
        run(&self.ctx, &format!("COPY ({select}) TO '{}' {rest}", self.at(target))).await;
    }

    async fn refused(&self, sql: &str) -> String {
        let result = match self.ctx.sql(sql).await {
            Ok(frame) => frame.collect().await.map(drop),
            Err(error) => Err(error),
        };
        result.expect_err(sql).to_string()
    }

    async fn rows(&self, target: &str) -> i64 {
        count(&self.fresh(), &format!("SELECT count(*) FROM '{}'", self.at(target))).await
    }

    fn names(&self, folder: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut folders = vec![self.path(folder)];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).expect("readable").map(|entry| entry.expect("readable").path()) {
                match entry.is_dir() {
                    true => folders.push(entry),
                    false => {
                        let name = entry.strip_prefix(self.path(folder)).expect("below");
                        names.insert(name.display().to_string());
                    }
                }
            }
        }
        names
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().expect("a folder")).expect("writable");
        fs::write(self.path(name), text).expect("writable");
    }
}

const PARQUET: &str = "STORED AS PARQUET";
const APPEND: &str = "STORED AS PARQUET OPTIONS ('mode' 'append')";
const OVERWRITE: &str = "STORED AS PARQUET OPTIONS ('mode' 'overwrite')";

/// The runs and the files of a folder's mark.
fn mark(folder: &Path) -> (usize, BTreeSet<String>) {
    let text = fs::read_to_string(folder.join("_SUCCESS")).expect("a mark");
    let mark: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let files = mark["files"].as_array().expect("files").iter().map(|file| file.as_str().expect("a name").to_owned());
    (mark["runs"].as_array().expect("runs").len(), files.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_run_again_doubles_nothing() {
    let place = Place::new();
    place.copy("SELECT 1 AS a", "out/", PARQUET).await;
    let first = place.names("out");
    let copy = format!("COPY (SELECT 1 AS a) TO '{}' STORED AS PARQUET", place.at("out/"));
    let message = place.refused(&copy).await;
    for part in ["out/", "a data file", "OPTIONS ('mode' 'append')", "OPTIONS ('mode' 'overwrite')"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(place.names("out"), first);
    // Only planned.
    run(&place.ctx, &format!("EXPLAIN {copy}")).await;
    place.copy("SELECT 2 AS a", "out/", APPEND).await;
    assert_eq!(place.rows("out/").await, 2);
    assert_eq!(mark(&place.path("out")).0, 2);
    place.copy("SELECT 3 AS a", "out", OVERWRITE).await;
    assert_eq!(place.rows("out/").await, 1);
    let (runs, files) = mark(&place.path("out"));
    assert_eq!((runs, files.len(), place.names("out").len()), (1, 1, 2));
    assert!(files.iter().all(|name| name.starts_with("embedsql-")), "{files:?}");
    let message = place.refused(&copy.replace("PARQUET", "PARQUET OPTIONS ('mode' 'merge')")).await;
    assert!(message.contains("\"merge\" is not known (known: append, overwrite)"), "{message}");
    let file = copy.replace("out/", "x.parquet").replace("PARQUET", "PARQUET OPTIONS ('mode' 'append')");
    let message = place.refused(&file).await;
    assert!(message.contains("is for folders"), "{message}");
    run(&place.ctx, &file.replace("append", "overwrite")).await;
    assert_eq!(place.rows("x.parquet").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_data_of_the_format_is_refused_and_goes() {
    let place = Place::new();
    let others = ["out/notes.csv", "out/README.md", "out/_x.parquet", "out/.y.parquet", "out/_SUCCESS"];
    for name in others {
        place.write(name, "precious");
    }
    place.copy("SELECT 1 AS a", "out/", PARQUET).await;
    fs::copy(
        place.path("out").join(mark(&place.path("out")).1.first().expect("a file")),
        place.path("out/pandas.PARQUET"),
    )
    .expect("copied");
    place.copy("SELECT 2 AS a UNION ALL SELECT 3", "out/", OVERWRITE).await;
    let names = place.names("out");
    assert!(!names.contains("pandas.PARQUET"), "{names:?}");
    for name in &others[..4] {
        assert_eq!(fs::read_to_string(place.path(name)).expect("there"), "precious", "{name}");
    }
    let data = |names: BTreeSet<String>| names.iter().filter(|name| name.starts_with("embedsql-")).count();
    assert_eq!(mark(&place.path("out")).1.len(), data(names));
    // Of another format, in the same folder.
    let refused = format!("COPY (SELECT 1 AS a) TO '{}' STORED AS CSV", place.at("out/"));
    assert!(place.refused(&refused).await.contains("notes.csv"));
    // A folder is read with its subfolders.
    place.write("below/deep/z.parquet", "precious");
    let refused = format!("COPY (SELECT 1 AS a) TO '{}' STORED AS PARQUET", place.at("below/"));
    assert!(place.refused(&refused).await.contains("deep/z.parquet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_of_one_export() {
    let place = Place::new();
    let rows = "SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, 'a')) t(id, topic)";
    let by = |rest: &str| format!("STORED AS PARQUET PARTITIONED BY (topic) {rest}");
    place.copy(rows, "p/", &by("")).await;
    let refused = format!("COPY ({rows}) TO '{}' {}", place.at("p/"), by(""));
    assert!(place.refused(&refused).await.contains("2 data files"));
    place.copy(rows, "p/", &by("OPTIONS ('mode' 'append')")).await;
    assert_eq!(place.rows("p/").await, 6);
    place.copy(&format!("{rows} WHERE topic = 'b'"), "p/", &by("OPTIONS ('mode' 'overwrite')")).await;
    assert_eq!(place.rows("p/").await, 1);
    let (runs, files) = mark(&place.path("p"));
    assert_eq!((runs, files.len()), (1, 1));
    assert!(files.first().expect("a file").starts_with("topic=b/embedsql-"), "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_appends_and_an_insert_overwrite_replaces() {
    let place = Place::new();
    fs::create_dir(place.path("t")).expect("writable");
    let create = format!("CREATE EXTERNAL TABLE t (a BIGINT) STORED AS PARQUET LOCATION '{}'", place.at("t/"));
    run(&place.ctx, &create).await;
    for _ in 0..2 {
        run(&place.ctx, "INSERT INTO t VALUES (1), (2)").await;
    }
    assert_eq!(place.rows("t/").await, 4);
    assert_eq!(mark(&place.path("t")).0, 2);
    // It reads what it replaces.
    run(&place.ctx, "INSERT OVERWRITE t SELECT max(a) FROM t").await;
    assert_eq!(place.rows("t/").await, 1);
    assert_eq!(mark(&place.path("t")).1.len(), place.names("t").len() - 1);
    run(&place.ctx, "PREPARE p AS INSERT INTO t VALUES (1)").await;
    run(&place.ctx, "EXECUTE p").await;
    assert_eq!(place.rows("t/").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_any_store_have_marks() {
    let place = Place::new();
    let (objects, url) = (Arc::new(InMemory::new()), ObjectStoreUrl::parse("mem://bucket").expect("a URL"));
    place.ctx.register_object_store(url.as_ref(), Arc::new(Whole::over(objects.clone(), &url, &place.writes)));
    let names = async || {
        let found: Vec<_> = objects.list(None).try_collect().await.expect("a list");
        let names: BTreeSet<String> = found.iter().map(|object| object.location.to_string()).collect();
        names
    };
    let copy = "COPY (SELECT 1 AS a) TO 'mem://bucket/a/out/' STORED AS PARQUET";
    run(&place.ctx, copy).await;
    let first = names().await;
    assert!(first.len() == 2 && first.contains("a/out/_SUCCESS"), "{first:?}");
    let message = place.refused(copy).await;
    assert!(message.contains("\"mem://bucket/a/out/embedsql-"), "{message}");
    let failing = "COPY (SELECT 1 / (value - 300000) AS x, md5(value::text) AS t FROM generate_series(1, 300000)) \
        TO 'mem://bucket/a/out/' STORED AS PARQUET OPTIONS ('mode' 'overwrite')";
    assert!(place.refused(failing).await.contains("Divide by zero"));
    place.writes.settle().await;
    assert_eq!(names().await, first);
    run(&place.ctx, &copy.replace("1 AS a", "2 AS a").replace("PARQUET", "PARQUET OPTIONS ('mode' 'overwrite')")).await;
    assert_eq!(count(&place.ctx, "SELECT sum(a) FROM 'mem://bucket/a/out/'").await, 2);
    assert_eq!(names().await.intersection(&first).collect::<Vec<_>>(), ["a/out/_SUCCESS"]);
}

/// A list says that its run is not complete.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_run_without_its_mark_are_no_data() {
    let place = Place::new();
    place.copy("SELECT 1 AS a", "out/", PARQUET).await;
    let whole = mark(&place.path("out")).1.first().expect("a file").clone();
    fs::copy(place.path("out").join(&whole), place.path("out/embedsql-0123456789abcdef_0.parquet")).expect("copied");
    assert_eq!(place.rows("out/").await, 2);
    place.write("out/_embedsql-0123456789abcdef.run", "of another version");
    assert_eq!(place.rows("out/").await, 1);
    assert_eq!(place.rows("out/*.parquet").await, 1);
    // The mark names the run that is complete, whatever lists there are.
    place.write(&format!("out/_{}.run", &whole[..25]), "of another version");
    assert_eq!(place.rows("out/").await, 1);
    place.copy("SELECT 1 AS a", "out/", APPEND).await;
    let warning = Doubtful::warning(&place.writes.take_doubtful()).expect("a warning");
    assert!(warning.contains("cannot be read") && warning.contains("remove it by hand"), "{warning}");
    assert_eq!(place.rows("out/").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_writes_the_name_that_was_asked_for() {
    let place = Place::new();
    let names = [
        "Report [v2].csv",
        "what?.parquet",
        "run-*.json",
        "a#b%20+&=;{}.csv",
        "x[1]/y.csv",
        "10:30.csv",
        "ü ß/日本.csv",
    ];
    for name in names {
        place.copy("SELECT 7 AS a", name, "").await;
        assert!(place.path(name).is_file(), "{name}: {:?}", place.names(""));
    }
    place.copy("SELECT 7 AS a", "dir [v2]/", "STORED AS CSV").await;
    place.copy("SELECT 7 AS a", "dir*", "STORED AS CSV").await;
    assert!(place.path("dir [v2]/_SUCCESS").is_file() && place.path("dir*/_SUCCESS").is_file());
    let expected = names.len() + 4;
    assert_eq!(place.names("").len(), expected, "{:?}", place.names(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_columns_of_one_name_are_refused() {
    let place = Place::new();
    let joined = "SELECT a.x, b.x FROM (SELECT 1 AS x) a CROSS JOIN (SELECT 2 AS x) b";
    for ending in ["parquet", "csv", "json", "arrow"] {
        let message = place.refused(&format!("COPY ({joined}) TO '{}'", place.at(&format!("v.{ending}")))).await;
        for part in ["\"x\"", "a.x and b.x", "AS"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let nested = "SELECT named_struct('f', 1, 'f', 2) AS s";
    let message = place.refused(&format!("COPY ({nested}) TO '{}'", place.at("v.parquet"))).await;
    assert!(message.contains("two fields of \"s\" are named \"f\""), "{message}");
    place.copy("SELECT 1 AS x, 2 AS \"X\"", "v.parquet", "").await;
    assert_eq!(place.names("").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn null_and_empty_partitions_differ() {
    let place = Place::new();
    let rows = "SELECT * FROM (VALUES (1, NULL, NULL), (2, '', 0), (3, 'a/b', 7)) t(id, topic, n)";
    place.copy(rows, "p/", "STORED AS PARQUET PARTITIONED BY (topic)").await;
    let folders: BTreeSet<String> = fs::read_dir(place.path("p"))
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
        .collect();
    let expected = ["_SUCCESS", "topic=", "topic=__HIVE_DEFAULT_PARTITION__", "topic=a%2Fb"];
    assert_eq!(folders.into_iter().collect::<Vec<_>>(), expected);
    place.copy(rows, "q/", "STORED AS PARQUET PARTITIONED BY (n)").await;
    for value in ["__HIVE_DEFAULT_PARTITION__", "0", "7"] {
        assert!(place.path(&format!("q/n={value}")).is_dir(), "{value}");
    }
    let keeps = "STORED AS PARQUET PARTITIONED BY (n) OPTIONS ('execution.keep_partition_by_columns' 'true')";
    let message = place.refused(&format!("COPY ({rows}) TO '{}' {keeps}", place.at("r/"))).await;
    assert!(message.contains("partition column \"n\" has a NULL"), "{message}");
    place.copy(&format!("{rows} WHERE n IS NOT NULL"), "r/", keeps).await;
    assert!(place.path("r/n=0").is_dir() && place.path("r/n=7").is_dir());
    fs::create_dir(place.path("s")).expect("writable");
    let create = "CREATE EXTERNAL TABLE s (a BIGINT, n BIGINT) STORED AS PARQUET PARTITIONED BY (n) LOCATION";
    run(&place.ctx, &format!("{create} '{}'", place.at("s/"))).await;
    run(&place.ctx, "INSERT INTO s VALUES (1, NULL), (2, 5)").await;
    assert!(place.path("s/n=__HIVE_DEFAULT_PARTITION__").is_dir() && place.path("s/n=5").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_text_and_a_null_differ_in_csv() {
    let place = Place::new();
    let text = |name: &str| fs::read_to_string(place.path(name)).expect("readable");
    let rows = "SELECT * FROM (VALUES (1, 'a', ''), (2, '', NULL), (NULL, NULL, 'b,\"c\"\n')) t(id, t, u)";
    place.copy(rows, "x.csv", "").await;
    assert_eq!(text("x.csv"), "id,t,u\n1,a,\"\"\n2,\"\",\n,,\"b,\"\"c\"\"\n\"\n");
    place.copy(rows, "x.tsv", "").await;
    assert_eq!(text("x.tsv"), "id\tt\tu\n1\ta\t\"\"\n2\t\"\"\t\n\t\t\"b,\"\"c\"\"\n\"\n");
    place.copy("SELECT t FROM (VALUES ('a'), (''), (NULL)) t(t)", "one.csv", "").await;
    assert_eq!(text("one.csv"), "t\na\n\"\"\n\"\"\n");
    place.copy(rows, "null.csv", "OPTIONS ('null_value' 'NA', 'has_header' 'false')").await;
    assert_eq!(text("null.csv"), "1,a,\n2,,NA\nNA,NA,\"b,\"\"c\"\"\n\"\n");
    // What is in the names of folders is not in the files.
    let alone = "SELECT CAST(NULL AS INT) AS a, 1 AS p, 2 AS q";
    place.copy(alone, "alone/", "STORED AS CSV PARTITIONED BY (p, q)").await;
    let file = place.names("alone").into_iter().find(|name| name.ends_with(".csv")).expect("a file");
    assert_eq!(text(&format!("alone/{file}")), "a\n\"\"\n");
    place.copy("SELECT CAST(NULL AS INT) AS a, '' AS b", "d/", "STORED AS CSV").await;
    let file = place.names("d").into_iter().find(|name| name.ends_with(".csv")).expect("a file");
    assert_eq!(text(&format!("d/{file}")), "a,b\n,\"\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_knows_the_endings_that_people_use() {
    let place = Place::new();
    let rows = "SELECT 1 AS a, 'x' AS t";
    let bytes = |name: &str| fs::read(place.path(name)).expect("readable");
    for (name, start) in [
        ("x.tsv", "a\tt\n1\tx\n".as_bytes()),
        ("x.TSV", b"a\tt\n"),
        ("x.jsonl", b"{\"a\":1,"),
        ("x.ndjson", b"{\"a\":1,"),
        ("x.pq", b"PAR1"),
        ("x.csv.gz", &[0x1f, 0x8b]),
        ("x.tsv.gz", &[0x1f, 0x8b]),
        ("x.jsonl.zst", &[0x28, 0xb5, 0x2f, 0xfd]),
        ("x.json.bz2", b"BZh"),
        ("x.csv.xz", &[0xfd, b'7', b'z', b'X', b'Z']),
    ] {
        place.copy(rows, name, "").await;
        assert!(bytes(name).starts_with(start), "{name}: {:?}", &bytes(name)[..8.min(bytes(name).len())]);
    }
    place.copy(rows, "said.csv.gz", "STORED AS CSV").await;
    assert!(bytes("said.csv.gz").starts_with(&[0x1f, 0x8b]));
    for (format, ending) in [("TSV", ".tsv"), ("NDJSON", ".ndjson"), ("PQ", ".pq")] {
        let folder = format!("{format}/");
        place.copy(rows, &folder, &format!("STORED AS {format}")).await;
        assert!(place.names(&folder).iter().any(|name| name.ends_with(ending)), "{:?}", place.names(&folder));
        let again = format!("COPY ({rows}) TO '{}' STORED AS {format}", place.at(&folder));
        assert!(place.refused(&again).await.contains("a data file"));
    }
    let message = place.refused(&format!("COPY ({rows}) TO '{}'", place.at("x.gz"))).await;
    assert!(message.contains("write x.csv.gz"), "{message}");
    place.refused(&format!("COPY ({rows}) TO '{}'", place.at("x.parquet.gz"))).await;
}

/// Compression, encodings and whether there are statistics of a column of the first row group.
fn stored(file: &Path, column: usize) -> (Compression, BTreeSet<Encoding>, bool) {
    let reader = SerializedFileReader::new(File::open(file).expect("readable")).expect("Parquet");
    let chunk = reader.metadata().row_group(0).column(column);
    (chunk.compression(), chunk.encodings().collect(), chunk.statistics().is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_stored_as_asked_for() {
    let place = Place::new();
    let rows = "SELECT value AS id, CASE WHEN value % 3 = 0 THEN NULL ELSE \
        arrow_cast([value / 7.0, 0.25, 1e-3], 'FixedSizeList(3, Float32)') END AS \"v.w\", md5(value::text) AS t \
        FROM generate_series(1, 1000)";
    for (name, rows) in [("dot", rows.to_owned()), ("plain", rows.replace("v.w", "vw"))] {
        for (number, (options, compression, encoding)) in [
            ("", Compression::UNCOMPRESSED, Encoding::PLAIN),
            (
                "'vector_encoding' 'byte_stream_split'",
                Compression::ZSTD(Default::default()),
                Encoding::BYTE_STREAM_SPLIT,
            ),
            ("'vector_storage' 'float16'", Compression::UNCOMPRESSED, Encoding::PLAIN),
            ("'vector_compression' 'snappy'", Compression::SNAPPY, Encoding::PLAIN),
            ("'compression' 'zstd(5)'", Compression::ZSTD(Default::default()), Encoding::PLAIN),
        ]
        .into_iter()
        .enumerate()
        {
            let file = format!("{name}{number}.parquet");
            let options = if options.is_empty() { String::new() } else { format!("OPTIONS ({options})") };
            place.copy(&rows, &file, &options).await;
            let (found, encodings, has_statistics) = stored(&place.path(&file), 1);
            let kind = |compression: Compression| std::mem::discriminant(&compression);
            assert_eq!(kind(found), kind(compression), "{name} {options}");
            assert!(encodings.contains(&encoding) && !has_statistics, "{name} {options}: {encodings:?}");
            let (text, encodings, has_statistics) = stored(&place.path(&file), 2);
            assert!(matches!(text, Compression::ZSTD(_)) && has_statistics, "{name} {options}: {text:?} {encodings:?}");
            let same = format!(
                "SELECT count(*) FROM ({rows}) a JOIN '{}' b USING (id) WHERE a.t = b.t AND \
                 a.\"v.w\" IS NOT DISTINCT FROM arrow_cast(b.\"v.w\", 'FixedSizeList(3, Float32)')",
                place.at(&file)
            );
            let same = if name == "plain" { same.replace("v.w", "vw") } else { same };
            let expected = if options.contains("float16") { 333..1000 } else { 1000..1001 };
            assert!(expected.contains(&count(&place.fresh(), &same).await), "{name} {options}");
        }
    }
    let table = place.fresh().sql(&format!("SELECT vw FROM '{}'", place.at("plain2.parquet"))).await.expect("read");
    let DataType::FixedSizeList(item, 3) = table.schema().field(0).data_type() else { panic!("{table:?}") };
    assert_eq!(item.data_type(), &DataType::Float16);
    for (options, expected) in [
        ("'vector_encoding' 'delta'", "\"delta\" is not known (known: plain, byte_stream_split)"),
        ("'vector_storage' 'int8'", "\"int8\" is not known (known: float32, float16)"),
    ] {
        let sql = format!("COPY ({rows}) TO '{}' OPTIONS ({options})", place.at("v.parquet"));
        let message = place.refused(&sql).await;
        assert!(message.contains(expected), "{message}");
    }
    let sql = format!("COPY (SELECT 1 AS a) TO '{}' OPTIONS ('vector_encoding' 'plain')", place.at("v.json"));
    assert!(place.refused(&sql).await.contains("for parquet files only"));
}

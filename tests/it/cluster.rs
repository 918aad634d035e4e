//! The same statements on a cluster of processes: a scheduler and executors on this machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use datafusion_embed::cluster::{Cluster, Protection};
use datafusion_embed::{SessionOptions, session};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::late::{EXACT, written};
use crate::program::embedsql;
use crate::support::{copy_folder, rows_of, run, skipped, sorted_rows};

/// A process of the program that listens, and ends when this one does.
struct Process {
    child: Child,
    address: String,
    /// What it leaves when it is killed goes too.
    _temporary: TempDir,
}

impl Process {
    fn start(line: &[&str]) -> Self {
        Self::start_with(line, |_| {})
    }

    fn start_with(line: &[&str], more: impl Fn(&mut Command)) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_embedsql")), line, more)
    }

    fn start_program(program: &Path, line: &[&str], more: impl Fn(&mut Command)) -> Self {
        let mut command = Command::new(program);
        more(&mut command);
        let temporary = TempDir::new().expect("a folder");
        command.env("TMPDIR", temporary.path());
        command.args(line).arg("--until-stdin-ends").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut said).expect("a line");
        let address = said.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}: {said}"));
        Self { address: address.to_owned(), child, _temporary: temporary }
    }

    fn scheduler() -> Self {
        Self::start(&["scheduler", "--bind", "127.0.0.1:0"])
    }

    fn executor(scheduler: &Self, more: &[&str]) -> Self {
        let line = [&["executor", "--scheduler", &scheduler.address, "--tasks", "1"], more].concat();
        Self::start(&line)
    }

    /// With a variable of its environment.
    fn executor_with(scheduler: &Self, [name, value]: [&str; 2]) -> Self {
        let line = ["executor", "--scheduler", &scheduler.address, "--tasks", "1"];
        Self::start_with(&line, |command| {
            command.env(name, value);
        })
    }

    /// The exit code of a process that ends by itself.
    async fn ended(&mut self) -> Option<i32> {
        loop {
            // To wait for it would close its standard input, with which it ends.
            if let Some(status) = self.child.try_wait().expect("a process of this one") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn kill(&mut self) {
        // One that has ended needs no end.
        let _ = self.child.kill();
        self.child.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster of two executors for all tests that change nothing of it.
static SHARED: LazyLock<(Process, [Process; 2])> = LazyLock::new(|| {
    let scheduler = Process::scheduler();
    let executors = [(); 2].map(|()| Process::executor(&scheduler, &[]));
    (scheduler, executors)
});

const MODEL: &str = "tests/fixtures/tiny-bert";

fn on(scheduler: &Process) -> SessionContext {
    let cluster = Cluster::new(&scheduler.address).expect("an address");
    with_model(SessionOptions::default().on_cluster(cluster))
}

fn with_model(mut options: SessionOptions) -> SessionContext {
    options.config.options_mut().set("embed.model", MODEL).expect("a setting");
    session(options).expect("a session")
}

/// A session on the shared cluster, and one of this process.
fn both() -> (SessionContext, SessionContext) {
    (on(&SHARED.0), with_model(SessionOptions::default()))
}

/// Tables in files of several row groups: `docs(id, body, title, grp)` in three files, `notes(id, note)` in one.
async fn tables() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let here = with_model(SessionOptions::default());
    for part in 0..3 {
        let sql = format!(
            "COPY (SELECT value AS id, CASE WHEN value % 7 = 0 THEN NULL ELSE 'text ' || (value % 40) END AS body, \
             'title ' || value AS title, value % 5 AS grp FROM generate_series({}, {})) TO '{}/docs/{part}.parquet' \
             OPTIONS ('format.max_row_group_size' '50')",
            part * 100,
            part * 100 + 99,
            folder.path().display()
        );
        run(&here, &sql).await;
    }
    let notes = "COPY (SELECT value * 3 AS id, 'text ' || value AS note FROM generate_series(0, 39))";
    run(&here, &format!("{notes} TO '{}/notes.csv'", folder.path().display())).await;
    folder
}

async fn with_tables(ctx: &SessionContext, folder: &Path) {
    let folder = folder.display();
    run(ctx, &format!("CREATE EXTERNAL TABLE docs STORED AS PARQUET LOCATION '{folder}/docs/'")).await;
    run(ctx, &format!("CREATE EXTERNAL TABLE notes STORED AS CSV LOCATION '{folder}/notes.csv'")).await;
}

/// Of a query that ends with ORDER BY in their order, of others sorted.
fn rows(sql: &str, batches: &[RecordBatch]) -> Vec<String> {
    let end = sql.rsplit(')').next().unwrap_or_default();
    if end.contains("ORDER BY") { rows_of(batches) } else { sorted_rows(batches) }
}

/// A session on the shared cluster, with the model of the program.
pub(crate) fn session_there() -> SessionContext {
    let cluster = Cluster::new(&SHARED.0.address).expect("an address");
    session(SessionOptions::default().on_cluster(cluster)).expect("a session")
}

const QUERIES: &[&str] = &[
    "SELECT count(*) FROM docs",
    "SELECT id, embed(body) FROM docs",
    "SELECT id, embed(body) FROM docs WHERE id % 3 = 1 ORDER BY id LIMIT 20 OFFSET 7",
    "SELECT id, cosine_similarity(embed(body), embed('text 3')) AS s FROM docs ORDER BY s DESC, id LIMIT 5",
    "SELECT grp, count(embed(body)), first_value(embed(body) ORDER BY id) FROM docs GROUP BY grp",
    "SELECT d.id, n.note, embed(n.note) FROM docs d JOIN notes n ON d.id = n.id",
    "SELECT d.id, embed(n.note) FROM docs d LEFT JOIN notes n ON d.id = n.id",
    "SELECT n.id, d.title FROM notes n FULL JOIN docs d ON d.id = n.id AND cosine_similarity(embed(d.body), embed(n.note)) > 0.9",
    "SELECT DISTINCT embed(body) FROM docs",
    "SELECT id, embed(body) FROM docs UNION ALL SELECT id, embed(note) FROM notes",
    "SELECT id, row_number() OVER (PARTITION BY grp ORDER BY id) AS n, embed(title) FROM docs QUALIFY n < 4",
    "SELECT id FROM docs WHERE id NOT IN (SELECT id FROM notes) AND embed(body) IS NOT NULL",
    "SELECT id FROM docs WHERE cosine_similarity(embed(body), embed('text 1')) > (SELECT min(cosine_similarity(embed(note), embed('text 1'))) FROM notes)",
    "SELECT id, embed_query(body), embed_tokens(body) FROM docs WHERE grp = 2",
    "WITH w AS (SELECT id, embed(body) AS v FROM docs) SELECT x.id, x.v, y.v FROM w x JOIN w y ON x.id = y.id + 1",
    "SELECT d.id, n.id FROM docs d LEFT JOIN notes n ON d.id > n.id * 2",
    "SELECT n.id, d.id FROM notes n LEFT JOIN docs d ON n.id > d.id * 2",
    "SELECT n.id, d.id FROM notes n FULL JOIN docs d ON n.id = d.id AND n.id < d.grp",
    "SELECT n.id FROM notes n WHERE NOT EXISTS (SELECT 1 FROM docs d WHERE n.id > d.id * 2)",
    "SELECT n.id FROM notes n WHERE n.id = 3 OR EXISTS (SELECT 1 FROM docs d WHERE n.id > d.id * 2)",
    "SELECT count(*) FROM (SELECT * FROM docs WHERE id % 20 = 1) b LEFT JOIN docs a ON a.id < b.id - 250",
    "SELECT count(*), count(a.id) FROM docs a RIGHT JOIN (SELECT * FROM docs WHERE id % 20 = 1) b ON a.id < b.id - 250",
    "SELECT count(*), count(a.id), count(b.id) FROM docs a FULL JOIN (SELECT * FROM docs WHERE id % 20 = 1) b ON a.id < b.id - 250",
    "SELECT count(*) FROM (SELECT * FROM docs WHERE id % 20 = 1) b WHERE NOT EXISTS (SELECT 1 FROM docs a WHERE a.id < b.id - 250)",
    "SELECT count(*) FROM docs b WHERE b.grp = 1 OR EXISTS (SELECT 1 FROM docs a WHERE a.id < b.id - 250)",
    "SELECT count(*) FROM (SELECT id FROM docs UNION ALL SELECT 1)",
    "SELECT id FROM notes UNION ALL SELECT 1",
    "SELECT 'docs' AS t, count(*) AS n FROM docs WHERE grp > 1 UNION ALL SELECT 'notes', count(*) FROM notes UNION ALL SELECT 'none', 0",
    "SELECT id, embed(body) FROM docs UNION ALL SELECT 9999, embed('text 1')",
    "SELECT d.id FROM docs d JOIN (SELECT id FROM notes UNION SELECT 7) u ON d.id = u.id",
    "SELECT id FROM docs WHERE grp = 9 UNION ALL SELECT id FROM notes WHERE false UNION ALL SELECT 5",
    "SELECT a.id, b.id FROM (SELECT id FROM docs LIMIT 3) a CROSS JOIN (SELECT id FROM notes ORDER BY id LIMIT 2) b WHERE a.id >= 0",
];

#[tokio::test(flavor = "multi_thread")]
async fn queries_give_the_same_rows_to_the_bit() {
    let folder = tables().await;
    let (there, here) = both();
    for ctx in [&there, &here] {
        with_tables(ctx, folder.path()).await;
    }
    for sql in QUERIES {
        if sql.contains("LIMIT 3) a") {
            // Which rows they are nobody says.
            assert_eq!(run(&there, sql).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 6, "{sql}");
            continue;
        }
        let (found, expected) = (rows(sql, &run(&there, sql).await), rows(sql, &run(&here, sql).await));
        assert_eq!(found.len(), expected.len(), "{sql}");
        assert!(found == expected, "{sql}");
    }
}

/// Rows, order and bits are those of one process; what is embedded more than once is so because tasks do not know each other.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_late_evaluation_gives_the_same_rows() {
    let folder = TempDir::new().expect("a folder");
    let (there, here) = both();
    written(folder.path(), "parquet").await;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let few = "SELECT i * 7 AS id FROM generate_series(0, 99) AS t(i)";
    run(&here, &format!("COPY ({few}) TO '{}'", at("few.parquet"))).await;
    for ctx in [&there, &here] {
        for name in ["docs", "few"] {
            let file = at(&format!("{name}.parquet"));
            run(ctx, &format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{file}'")).await;
        }
        run(ctx, "CREATE VIEW vectors AS SELECT id, embed(body) AS e FROM docs").await;
    }
    for (sql, _) in EXACT.iter().filter(|(sql, _)| !sql.starts_with("EXPLAIN")) {
        let (found, expected) = (run(&there, sql).await, run(&here, sql).await);
        let count = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        assert_eq!(count(&found), count(&expected), "{sql}");
        // Which rows they are that a LIMIT takes nobody says without an ORDER BY.
        if !sql.contains("random()") && (sql.contains("ORDER BY") || !sql.contains("LIMIT")) {
            assert!(rows(sql, &found) == rows(sql, &expected), "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_text_are_read_there_as_here() {
    let folder = TempDir::new().expect("a folder");
    let (there, here) = both();
    let at = |name: &str| format!("{}/{name}", folder.path().display());
    fs::write(at("a.csv"), "id,t\n1,\"\"\n2,\n3,\"two\nlines\"\n").expect("written");
    fs::write(at("latin.csv"), b"id,t\n1,\xe9t\xe9\n").expect("written");
    fs::write(at("array.json"), "[{\"id\": 1, \"t\": \"x\"},\n{\"id\": 2, \"t\": null}]").expect("written");
    fs::write(at("lines.jsonl"), "{\"id\": 1, \"t\": \"x\"}\n{\"id\": 2}\n").expect("written");
    run(&here, &format!("COPY (SELECT 1 AS id, 'x' AS t UNION ALL SELECT 2, NULL) TO '{}'", at("b.csv.gz"))).await;
    for name in ["a.csv", "array.json", "lines.jsonl", "b.csv.gz"] {
        let sql = format!("SELECT id, t, t IS NULL, embed(t) FROM '{}'", at(name));
        let (found, expected) = (sorted_rows(&run(&there, &sql).await), sorted_rows(&run(&here, &sql).await));
        assert!(found == expected && found.len() > 1, "{name}: {found:?}");
    }
    for ctx in [&there, &here] {
        let table = "CREATE EXTERNAL TABLE latin STORED AS CSV LOCATION";
        run(
            ctx,
            &format!("{table} '{}' OPTIONS ('format.encoding' 'latin1', 'format.null_regex' '^1$')", at("latin.csv")),
        )
        .await;
        assert_eq!(rows_of(&run(ctx, "SELECT id, t FROM latin").await), ["NULL|été"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_the_same_rows_in_files_of_the_tasks() {
    let folder = tables().await;
    let (there, here) = both();
    for ctx in [&there, &here] {
        with_tables(ctx, folder.path()).await;
    }
    let at = |name: &str| format!("{}/{name}", folder.path().display());
    let read = async |name: &str| sorted_rows(&run(&here, &format!("SELECT id, v, g FROM '{}'", at(name))).await);
    let select = "SELECT id, embed(body) AS v, grp AS g FROM docs";
    run(&here, &format!("COPY ({select}) TO '{}'", at("here.parquet"))).await;
    let expected = read("here.parquet").await;
    assert_eq!(expected.len(), 300);
    for (name, options, files) in [
        ("plain/", "STORED AS PARQUET", 3..=32),
        ("parts/", "STORED AS PARQUET PARTITIONED BY (g)", 5..=160),
        ("arrow/", "STORED AS ARROW", 1..=32),
        ("one.parquet", "", 0..=0),
    ] {
        let counted = run(&there, &format!("COPY ({select}) TO '{}' {options}", at(name))).await;
        assert_eq!(rows_of(&counted), ["300"], "{name}");
        let found = read(name).await;
        assert_eq!(found.len(), 300, "{name}");
        assert!(name == "parts/" || found == expected, "{name}");
        if name.ends_with('/') {
            let mark = fs::read_to_string(at(&format!("{name}_SUCCESS"))).expect("a mark");
            let parts = mark.matches("embedsql-").count() - 1;
            assert!(files.contains(&parts), "{name} has {parts} files");
            let lists = fs::read_dir(at(name)).expect("a folder").flatten();
            assert!(
                !lists
                    .map(|file| file.file_name().into_string())
                    .any(|name| name.is_ok_and(|name| name.ends_with(".run")))
            );
        }
    }
    // A second one is refused, added or put in the place of the first, as everywhere.
    let again = |mode: &str| format!("COPY ({select}) TO '{}' STORED AS PARQUET {mode}", at("plain/"));
    let refused = there.sql(&again("")).await.expect("planned").collect().await.expect_err("there is data");
    assert!(refused.to_string().contains("'mode' 'append'"), "{refused}");
    run(&there, &again("OPTIONS ('mode' 'append')")).await;
    assert_eq!(read("plain/").await.len(), 600);
    run(&there, &again("OPTIONS ('mode' 'overwrite')")).await;
    assert!(read("plain/").await == expected);
    run(
        &there,
        &format!("COPY (SELECT id, body AS v, grp AS g FROM docs WHERE id < 0) TO '{}' STORED AS CSV", at("none/")),
    )
    .await;
    assert_eq!(fs::read_to_string(at("none/_SUCCESS")).expect("a mark").matches(".csv").count(), 0);
    run(&there, &format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", at("plain/"))).await;
    run(&there, &format!("INSERT INTO t {select} WHERE id < 50")).await;
    assert_eq!(read("plain/").await.len(), 350);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_there_is_said_and_what_cannot_is_an_error() {
    let folder = tables().await;
    let (there, _) = both();
    with_tables(&there, folder.path()).await;
    let text = |batches: &[RecordBatch]| rows_of(batches).join("\n");
    let plan = text(&run(&there, "EXPLAIN SELECT id, embed(body) FROM docs").await);
    assert!(plan.contains("ClusterExec: scheduler=127.0.0.1:") && plan.contains("EmbedExec: "), "{plan}");
    let analyzed = text(&run(&there, "EXPLAIN ANALYZE SELECT count(embed(body)) FROM docs WHERE grp = 1").await);
    let line = analyzed.lines().find(|line| line.contains("ClusterExec")).expect("what runs there");
    // 300 rows in three files: 20 of each have grp = 1, a seventh of those no text.
    for part in ["rows_null=", "rows_embedded=", "tokens=", "encode_time="] {
        assert!(line.contains(part) && !line.contains(&format!("{part}0,")), "{part}: {line}");
    }
    let verbose = text(&run(&there, "EXPLAIN ANALYZE VERBOSE SELECT count(embed(body)) FROM docs WHERE grp = 1").await);
    assert!(verbose.contains("tokens{stage=1, executor=127.0.0.1:"), "{verbose}");
    // What reads no file runs here, without a scheduler even.
    run(&there, "CREATE TABLE mine AS SELECT 1 AS id").await;
    for sql in ["SELECT count(*) FROM mine", "SELECT embed('x')", "SELECT * FROM embed_models()", "SHOW TABLES"] {
        let plan = text(&run(&there, &format!("EXPLAIN {sql}")).await);
        assert!(!plan.contains("ClusterExec"), "{sql}: {plan}");
        run(&there, sql).await;
    }
    for (sql, part) in [
        ("SELECT * FROM docs JOIN mine ON docs.id = mine.id", "table \"mine\" is of this session alone, and \"docs\""),
        ("SELECT id, (SELECT count(*) FROM embed_models()) FROM docs", "is of this session alone"),
        (
            "WITH RECURSIVE r AS (SELECT min(id) AS id FROM docs UNION ALL SELECT id + 1 FROM r WHERE id < 5) SELECT * FROM r",
            "WITH RECURSIVE",
        ),
        ("SELECT count(*) FILTER (WHERE id < 32) OVER (PARTITION BY grp) FROM docs", "CASE WHEN"),
    ] {
        let error = match there.sql(sql).await {
            Ok(frame) => frame.collect().await.expect_err(sql),
            Err(error) => error,
        };
        assert!(error.to_string().contains(part), "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_is_work_for_all_executors() {
    let folder = TempDir::new().expect("a folder");
    let (there, here) = both();
    let at = |name: &str| format!("{}/{name}", folder.path().display());
    let rows = "SELECT value AS id, repeat(md5(CAST(value AS VARCHAR)), 4) AS t FROM generate_series(0, 19999)";
    run(&here, &format!("COPY ({rows}) TO '{}' OPTIONS ('format.max_row_group_size' '500')", at("x.parquet"))).await;
    run(&here, &format!("COPY ({rows}) TO '{}' OPTIONS ('format.max_row_group_size' '20000')", at("group.parquet")))
        .await;
    run(&here, &format!("COPY ({rows}) TO '{}'", at("x.csv"))).await;
    for name in ["x.parquet", "group.parquet", "x.csv"] {
        let sql = format!("SELECT id, embed(left(t, 20)) AS v FROM '{}'", at(name));
        let out = format!("{name}.out/");
        run(&there, &format!("COPY ({sql}) TO '{}' STORED AS PARQUET", at(&out))).await;
        let mark = fs::read_to_string(at(&format!("{out}_SUCCESS"))).expect("a mark");
        let parts = mark.matches("embedsql-").count() - 1;
        assert!((4..=32).contains(&parts), "{name}: {parts} parts");
        let found = sorted_rows(&run(&here, &format!("SELECT id, v FROM '{}'", at(&out))).await);
        assert!(found == sorted_rows(&run(&here, &sql).await), "{name}");
        let ordered = format!("{sql} WHERE id % 7 = 0 ORDER BY id LIMIT 50");
        assert!(rows_of(&run(&there, &ordered).await) == rows_of(&run(&here, &ordered).await), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_task_is_one_line_with_its_executor() {
    let folder = tables().await;
    let (there, _) = both();
    with_tables(&there, folder.path()).await;
    let out = folder.path().join("out");
    for sql in [
        "SELECT id / (id - 150), embed(body) FROM docs".to_owned(),
        format!(
            "COPY (SELECT id / (id - 150) AS x, embed(body) AS v FROM docs) TO '{}/' STORED AS PARQUET",
            out.display()
        ),
    ] {
        let error =
            there.sql(&sql).await.expect("planned").collect().await.expect_err("a division by zero").strip_backtrace();
        assert!(error.contains("executor 127.0.0.1:") && error.contains("Divide by zero"), "{sql}: {error}");
        assert!(
            !error.contains("External") && !error.contains("DataFusionError") && !error.contains('\n'),
            "{sql}: {error}"
        );
    }
    // What there is of the export counts for nothing.
    assert!(!out.join("_SUCCESS").exists());
    let none = there.sql(&format!("SELECT * FROM '{}/'", out.display())).await;
    assert!(none.is_err() || none.expect("a table").count().await.expect("counted") == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_executors_do_not_have_are_an_error_before_a_text_is_embedded() {
    let folder = tables().await;
    let (there, _) = both();
    with_tables(&there, folder.path()).await;
    let frame = there.sql("SELECT id, embed(body) FROM docs").await.expect("planned");
    let plan = frame.create_physical_plan().await.expect("planned");
    fs::rename(folder.path().join("docs/1.parquet"), folder.path().join("docs/_1.parquet")).expect("renamed");
    let error = datafusion::physical_plan::collect(plan, there.task_ctx()).await.expect_err("it is gone").to_string();
    assert!(error.contains("executor 127.0.0.1:") && error.contains("docs/1.parquet"), "{error}");
    assert!(error.contains("have to have the same files"), "{error}");
}

/// Stores are each executor's own, and a scheduler looks into none.
#[cfg(feature = "stores")]
#[test]
fn stores_are_read_and_written_there() {
    use crate::servers::s3::{Moto, moto};
    let Some(moto) = moto() else { return };
    moto.make_bucket("cluster");
    let sql = |cluster: &[&str], sql: &str| {
        let mut run = embedsql(["--format", "csv", "--model", MODEL, "-q", "-c", sql]);
        run.command.args(cluster).envs(Moto::variables(&moto.url()));
        run.end()
    };
    let written =
        "COPY (SELECT value AS id, 'text ' || value AS t FROM generate_series(0, 99)) TO 's3://cluster/x.parquet'";
    assert_eq!(sql(&[], written).code, Some(0));
    let cluster = ["--cluster", "local:2"];
    let export =
        "COPY (SELECT id, embed(t) AS v FROM 's3://cluster/x.parquet') TO 's3://cluster/out/' STORED AS PARQUET";
    let ended = sql(&cluster, export);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
    assert_eq!(moto.uploads("cluster"), [""; 0]);
    let count = "SELECT count(v) AS n, count(DISTINCT id) AS d FROM 's3://cluster/out/'";
    for cluster in [&cluster[..], &[]] {
        let ended = sql(cluster, count);
        assert_eq!(ended.stdout, "n,d\n100,100\n", "{}", ended.stderr);
    }
    let keys = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://cluster/' OPTIONS ('aws.region' 'us-east-1'); SELECT * FROM t";
    let ended = sql(&cluster, keys);
    assert!(ended.code == Some(1) && ended.stderr.contains("OPTIONS about s3://cluster"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_under_the_same_name_is_an_error_before_a_text_is_embedded() {
    let folder = tables().await;
    let elsewhere = TempDir::new().expect("a folder");
    let model = elsewhere.path().join(MODEL);
    copy_folder(Path::new(MODEL), &model);
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("readable");
    *bytes.last_mut().expect("weights") ^= 1;
    fs::write(&weights, bytes).expect("written");
    let none = TempDir::new().expect("a folder");
    for (place, part) in [(&elsewhere, "fingerprint"), (&none, "tiny-bert")] {
        let scheduler = Process::scheduler();
        let line = ["executor", "--scheduler", &scheduler.address, "--tasks", "1"];
        let _executor = Process::start_with(&line, |command| {
            command.current_dir(place.path());
        });
        let there = on(&scheduler);
        with_tables(&there, folder.path()).await;
        let frame = there.sql("SELECT id, embed(body) FROM docs").await.expect("planned");
        let error = frame.collect().await.expect_err("another model").strip_backtrace();
        assert!(error.contains("executor 127.0.0.1:") && error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_executor_costs_time_and_no_row() {
    let scheduler = Process::scheduler();
    let mut first = Process::executor(&scheduler, &[]);
    let folder = tables().await;
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    let out = folder.path().join("out");
    // Long texts, so that there is a middle in which it can be killed.
    let sql = format!(
        "COPY (SELECT d.id * 1000000 + n.id * 1000 + m.id AS id, embed(repeat(d.title || n.note || m.note, 40)) AS v \
         FROM docs d CROSS JOIN notes n CROSS JOIN notes m WHERE m.id < 6) TO '{}/' STORED AS PARQUET",
        out.display()
    );
    let export = tokio::spawn(async move { run(&there, &sql).await });
    let files = || {
        fs::read_dir(&out).map_or(0, |folder| {
            folder.flatten().filter(|f| !f.file_name().to_string_lossy().starts_with(['_', '.'])).count()
        })
    };
    let began = Instant::now();
    while files() == 0 {
        assert!(began.elapsed() < Duration::from_secs(60) && !export.is_finished(), "a file comes first");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _second = Process::executor(&scheduler, &[]);
    first.kill();
    let counted = export.await.expect("no panic");
    assert_eq!(rows_of(&counted), ["24000"]);
    let here = with_model(SessionOptions::default());
    let found = run(&here, &format!("SELECT count(*), count(DISTINCT id) FROM '{}/'", out.display())).await;
    assert_eq!(rows_of(&found), ["24000|24000"]);
}

/// A query that takes minutes.
const LONG: &str = "SELECT sum(length(repeat(a.title, 100))) FROM docs a CROSS JOIN docs b CROSS JOIN docs c";

/// A job that runs.
async fn long_job(ctx: &SessionContext) -> JoinHandle<Result<Vec<RecordBatch>>> {
    let query = ctx.sql(LONG).await.expect("planned");
    let running = tokio::spawn(async move { query.collect().await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!running.is_finished());
    running
}

/// A stage is begun again when an executor is lost whose results it reads. Ballista then forgets that the others work on it.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_read_results_of_a_killed_executor_gets_tasks_again() {
    let scheduler = Process::scheduler();
    let mut killed = Process::executor(&scheduler, &[]);
    let _stays = Process::executor(&scheduler, &[]);
    let folder = tables().await;
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    let sql = "SELECT sum(length(repeat(a.title, 100))) FROM (SELECT DISTINCT title, id % 2 AS half FROM docs) a \
               JOIN (SELECT DISTINCT title, id % 2 AS half FROM docs) b ON a.half = b.half CROSS JOIN docs c CROSS JOIN docs d";
    let query = there.sql(sql).await.expect("planned");
    let running = tokio::spawn(async move { query.collect().await });
    tokio::time::sleep(Duration::from_secs(4)).await;
    killed.kill();
    // It is missed, and the other one has begun again.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!running.is_finished(), "it takes minutes: {:?}", running.await);
    running.abort();
    let next = tokio::time::timeout(Duration::from_secs(60), run(&there, "SELECT count(*) FROM docs"));
    assert_eq!(rows_of(&next.await.expect("somebody runs it")), ["300"]);
}

/// Stages that read results of stages of a killed executor, which read results of stages of it: each row comes once.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_executor_of_three_stages_gives_no_row_twice() {
    let scheduler = Process::scheduler();
    let mut killed = Process::executor(&scheduler, &[]);
    let _others = [(); 2].map(|()| Process::executor(&scheduler, &[]));
    let folder = TempDir::new().expect("a folder");
    let here = with_model(SessionOptions::default());
    let rows = "SELECT value AS id, 'title ' || value AS title, value % 40 AS grp FROM generate_series(1, 60000)";
    run(&here, &format!("COPY ({rows}) TO '{}/rows/0.parquet'", folder.path().display())).await;
    let there = on(&scheduler);
    for ctx in [&here, &there] {
        let table =
            format!("CREATE EXTERNAL TABLE rows STORED AS PARQUET LOCATION '{}/rows/'", folder.path().display());
        run(ctx, &table).await;
        run(ctx, "SET datafusion.execution.target_partitions = 6").await;
    }
    let sql = "SELECT x.grp, count(*), count(DISTINCT y.id), sum(x.id) FROM rows x \
               JOIN (SELECT id, title, embed(repeat(title, 8)) AS v FROM rows) y ON x.title = y.title \
               WHERE array_length(y.v) > 0 GROUP BY x.grp ORDER BY x.grp";
    let cluster = there.state().config().get_extension::<Cluster>().expect("its cluster");
    // Both stages below the last one have given something; as that one is soon done, it may take more than one try to catch it.
    let mut tries = 0..5;
    let running = loop {
        assert!(tries.next().is_some(), "it is killed in the middle");
        let before = cluster.work().tasks;
        let query = there.sql(sql).await.expect("planned");
        let running = tokio::spawn(async move { query.collect().await });
        while cluster.work().tasks < before + 14 && !running.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if !running.is_finished() {
            break running;
        }
    };
    killed.kill();
    let rows = running.await.expect("no panic").expect("the others run it");
    assert_eq!(rows_of(&rows), rows_of(&run(&here, &sql.replace("embed(repeat(title, 8))", "[1]")).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_goes_or_is_not_there_is_an_error_in_seconds() {
    let mut scheduler = Process::scheduler();
    let _executor = Process::executor(&scheduler, &[]);
    let folder = tables().await;
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    let running = long_job(&there).await;
    scheduler.kill();
    let began = Instant::now();
    let error = running.await.expect("no panic").expect_err("the scheduler is gone").to_string();
    assert!(error.contains(&format!("scheduler {}: is gone", scheduler.address)), "{error}");
    let error = there.sql(LONG).await.expect("planned").collect().await.expect_err("nobody is there").to_string();
    assert!(error.contains(&format!("scheduler {}: cannot be reached", scheduler.address)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_waits_for_is_cancelled() {
    let scheduler = Process::scheduler();
    let _executor = Process::executor(&scheduler, &[]);
    let folder = tables().await;
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    long_job(&there).await.abort();
    // Its only executor has time for others soon.
    let began = Instant::now();
    assert_eq!(rows_of(&run(&there, "SELECT count(*) FROM docs").await), ["300"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_client_goes_before_it_has_a_place_is_cancelled() {
    let folder = tables().await;
    let log = folder.path().join("log");
    let scheduler = Process::start_with(&["scheduler", "--bind", "127.0.0.1:0"], |command| {
        command.env("EMBEDSQL_LOG", "info").stderr(fs::File::create(&log).expect("a file"));
    });
    let _executor = Process::executor(&scheduler, &[]);
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    let cancelled = || fs::read_to_string(&log).expect("a log").matches("its client is gone").count();
    let first = long_job(&there).await;
    long_job(&there).await.abort();
    while cancelled() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!first.is_finished(), "nobody else's job is cancelled");
    first.abort();
    assert_eq!(rows_of(&run(&there, "SELECT count(*) FROM docs").await), ["300"]);
    assert!(cancelled() >= 2, "{}", cancelled());
}

/// Seconds of a core that a process has used.
#[cfg(target_os = "linux")]
fn core_seconds(process: &Process) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.child.id())).expect("it runs");
    let ticks = stat.split_whitespace().skip(13).take(2).map(|ticks| ticks.parse::<f64>().expect("a number"));
    ticks.sum::<f64>() / 100.0
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_computes_nothing_more() {
    let scheduler = Process::scheduler();
    let executor = Process::executor(&scheduler, &[]);
    let folder = tables().await;
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    for from in [
        "docs a CROSS JOIN docs b CROSS JOIN docs c CROSS JOIN docs d",
        "docs a JOIN docs b ON a.id + b.id >= 0 JOIN docs c ON b.id + c.id >= 0 JOIN docs d ON a.id + d.id >= 0",
        "docs a JOIN docs b ON a.grp = b.grp JOIN docs c ON b.grp = c.grp JOIN docs d ON c.grp = d.grp",
        "docs a JOIN (SELECT b.grp, b.id FROM docs b JOIN docs c ON b.grp = c.grp JOIN docs d ON c.grp = d.grp \
         JOIN docs e ON d.grp = e.grp) x ON a.grp = x.grp AND a.id + x.id < 0",
    ] {
        let sql = format!("SELECT sum(length(repeat(a.title, 100))) FROM {from}");
        let query = there.sql(&sql).await.expect("planned");
        let running = tokio::spawn(async move { query.collect().await });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!running.is_finished(), "it takes minutes: {sql}");
        running.abort();
        let stops = async {
            let mut used = f64::NAN;
            while used.is_nan() || core_seconds(&executor) - used > 0.1 {
                used = core_seconds(&executor);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), stops).await.expect(&sql);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_compute_differently_share_no_statement_unless_they_may() {
    let scheduler = Process::scheduler();
    let folder = tables().await;
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    let (portable, sql) = (["DATAFUSION_EMBED_KERNELS", "portable"], "SELECT id, embed(body) FROM docs");
    let error = async |ctx: &SessionContext, sql: &str| {
        ctx.sql(sql).await.expect("planned").collect().await.expect_err(sql).strip_backtrace()
    };
    let _first = Process::executor_with(&scheduler, portable);
    // All executors compute alike, and this process computes nothing of it.
    assert_eq!(run(&there, sql).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 300);
    let own = "SELECT id, cosine_similarity(embed(body), embed('text 1')) FROM docs";
    if datafusion_embed::kernel_path().expect("a path").starts_with("portable") {
        return;
    }
    let refused = error(&there, own).await;
    assert!(refused.contains("compute differently") && refused.contains("cpu-portable"), "{refused}");
    let _second = Process::executor(&scheduler, &[]);
    let refused = error(&there, sql).await;
    assert!(refused.contains("embed.mixed_arithmetic = true"), "{refused}");
    assert_eq!(rows_of(&run(&there, "SELECT count(*) FROM docs").await), ["300"], "without vectors nothing differs");
    run(&there, "SET embed.mixed_arithmetic = true").await;
    let plan = rows_of(&run(&there, &format!("EXPLAIN {sql}")).await).join("\n");
    assert!(plan.contains("mixed arithmetic"), "{plan}");
    for sql in [sql, own] {
        assert_eq!(run(&there, sql).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 300, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_knows_what_was_done_for_it() {
    let folder = tables().await;
    let cluster = Cluster::new(&SHARED.0.address).expect("an address");
    let there = with_model(SessionOptions::default().on_cluster(cluster.clone()));
    with_tables(&there, folder.path()).await;
    run(&there, "SELECT count(embed(body)) FROM docs").await;
    let work = cluster.work();
    assert_eq!((work.rows, work.executors), (300, 2), "{work:?}");
    assert!(work.tasks >= 2 && work.tokens > work.rows, "{work:?}");
    assert_eq!(work.tasks, work.all_tasks, "{work:?}");
    // By executor; the client itself embeds literals only.
    run(&there, "SELECT cosine_similarity(embed(body), embed('text 1')) FROM docs WHERE grp = 1").await;
    let used =
        "SELECT executor IS NULL, sum(rows_embedded) >= 1, min(dim), min(precision) FROM embed_models() GROUP BY 1";
    assert_eq!(sorted_rows(&run(&there, used).await), ["false|true|32|f32", "true|true|32|f32"]);
    let sums = "SELECT sum(rows_embedded), sum(tokens) > 0 FROM embed_models() WHERE executor IS NULL";
    assert_eq!(rows_of(&run(&there, sums).await), ["1|true"]);
    let rows = "SELECT sum(rows_embedded + rows_duplicate + rows_cached) FROM embed_models() WHERE executor LIKE '127.0.0.1:%'";
    assert_eq!(rows_of(&run(&there, rows).await), ["309"], "257 and 52");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_or_certificate_gets_nothing() {
    let folder = tables().await;
    let token = "a token of a test";
    let (certificates, others) = ("tests/fixtures/tls", "tests/fixtures/tls/other");
    let with_token = || Protection::default().with_token(token).expect("a token");
    let with_both = |folder: &str| with_token().with_certificates(Path::new(folder)).expect("certificates");
    let wrong = Protection::default().with_token("another token of a test").expect("a token");
    for (line, right, wrong) in [
        (vec![], with_token(), vec![Protection::default(), wrong]),
        (
            vec!["--certificates", certificates],
            with_both(certificates),
            vec![
                with_token(),
                with_both(others),
                Protection::default().with_certificates(Path::new(certificates)).expect("certificates"),
            ],
        ),
    ] {
        let start = |arguments: &[&str]| {
            Process::start_with(&[arguments, &line].concat(), |command| {
                command.env("EMBEDSQL_TOKEN", token);
            })
        };
        let scheduler = start(&["scheduler", "--bind", "127.0.0.1:0"]);
        let _executors = [(); 2].map(|()| start(&["executor", "--scheduler", &scheduler.address, "--tasks", "1"]));
        let at = |protection: Protection, address: &str| {
            let cluster = Cluster::new(address).expect("an address").protected_by(protection);
            with_model(SessionOptions::default().on_cluster(cluster))
        };
        let (there, here) = (at(right.clone(), &scheduler.address), with_model(SessionOptions::default()));
        for ctx in [&there, &here] {
            with_tables(ctx, folder.path()).await;
        }
        // With results that executors fetch from each other, and we from them.
        let sql = "SELECT grp, count(embed(body)), first_value(embed(body) ORDER BY id) FROM docs GROUP BY grp";
        assert_eq!(sorted_rows(&run(&there, sql).await), sorted_rows(&run(&here, sql).await));
        for wrong in wrong {
            let there = at(wrong.clone(), &scheduler.address);
            with_tables(&there, folder.path()).await;
            let error = there.sql("SELECT id FROM docs").await.expect("planned").collect().await.expect_err("no token");
            assert!(error.to_string().contains(&format!("scheduler {}", scheduler.address)), "{wrong:?}: {error}");
        }
        // An executor that does not know the token ends at once.
        let line = ["executor", "--scheduler", &scheduler.address];
        let message = embedsql(line).error(2);
        assert!(message.contains(&format!("scheduler {}", scheduler.address)), "{message}");
    }
    let message = embedsql(["scheduler", "--token-file", "/nowhere"]).error(2);
    assert!(message.contains("--token-file \"/nowhere\""), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_cannot_be_embedded_is_named_with_its_executor_and_file() {
    let folder = tables().await;
    let (there, here) = both();
    let long = "word ".repeat(200);
    let sql = format!("COPY (SELECT 1 AS id, 'first {long}' AS t) TO '{}/long.parquet'", folder.path().display());
    run(&here, &sql).await;
    for ctx in [&there, &here] {
        run(ctx, "SET embed.truncate = false").await;
    }
    let sql = format!("SELECT id, embed(t) FROM '{}/long.parquet'", folder.path().display());
    let error = there.sql(&sql).await.expect("planned").collect().await.expect_err("too long").strip_backtrace();
    for part in ["executor 127.0.0.1:", "first word word", "tokens", "long.parquet"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_logs_what_it_is_asked_to_and_no_secret() {
    let token = "a-token-that-nobody-reads";
    let folder = tables().await;
    let log = folder.path().join("log");
    let scheduler = Process::start_with(&["scheduler", "--bind", "127.0.0.1:0"], |command| {
        command.env("EMBEDSQL_LOG", "info").env("EMBEDSQL_TOKEN", token);
        command.stderr(fs::File::create(&log).expect("a file"));
    });
    let protection = Protection::default().with_token(token).expect("a token");
    let _executor = Process::executor_with(&scheduler, ["EMBEDSQL_TOKEN", token]);
    let cluster = Cluster::new(&scheduler.address).expect("an address").protected_by(protection.clone());
    let there = with_model(SessionOptions::default().on_cluster(cluster));
    with_tables(&there, folder.path()).await;
    assert_eq!(rows_of(&run(&there, "SELECT count(embed(note)) FROM notes").await), ["40"]);
    let said = fs::read_to_string(&log).expect("a log");
    assert!(said.contains("Received register executor request") && said.contains("Job finished"), "{said}");
    assert!(!said.contains(token), "{said}");
    let mut wrong = Command::new(env!("CARGO_BIN_EXE_embedsql"));
    let wrong = wrong.args(["scheduler", "--bind", "127.0.0.1:0"]).env("EMBEDSQL_LOG", "debug").output();
    let wrong = wrong.expect("the program runs");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("EMBEDSQL_LOG=debug: it is off, error, warn or info"));
}

/// One that comes when a statement runs gets no task of it that it would compute differently.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_executor_that_computes_differently_ends_the_statement() {
    if datafusion_embed::kernel_path().expect("a path").starts_with("portable") {
        return;
    }
    let scheduler = Process::scheduler();
    let folder = tables().await;
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    let _first = Process::executor_with(&scheduler, ["DATAFUSION_EMBED_KERNELS", "portable"]);
    let sql = "SELECT count(embed(a.title || b.title)) FROM docs a CROSS JOIN docs b";
    let query = there.sql(sql).await.expect("planned");
    let running = tokio::spawn(async move { query.collect().await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _late = Process::executor(&scheduler, &[]);
    let error = running.await.expect("no panic").expect_err("it computes differently").strip_backtrace();
    assert!(error.contains("this machine computes with") && error.contains("cpu-portable"), "{error}");
}

/// A folder of so few KiB, in a name space of its own, and a program below it; `None` where that is not allowed.
fn in_small_folder(kib: usize, folder: &Path, line: &[&str]) -> Option<Process> {
    let allowed = Command::new("unshare").args(["--mount", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        skipped("unshare --mount", "or this user may not use it");
        return None;
    }
    let mount = format!("mount -t tmpfs -o size={kib}k none '{}' && exec \"$@\"", folder.display());
    let program = env!("CARGO_BIN_EXE_embedsql");
    let work = folder.display().to_string();
    let line = [&["--mount", "sh", "-c", &mount, "sh", program][..], line, &["--work-folder", &work]].concat();
    Some(Process::start_program(Path::new("unshare"), &line, |_| {}))
}

/// Its tasks run elsewhere; where there is nobody else the error says what is full.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_whose_folder_is_full_leaves() {
    let folder = tables().await;
    let small = TempDir::new().expect("a folder");
    let scheduler = Process::scheduler();
    let line = ["executor", "--scheduler", &scheduler.address, "--tasks", "1"];
    let Some(mut full) = in_small_folder(128, small.path(), &line) else { return };
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    let sql = "SELECT d.id, embed(d.title || n.note) AS v FROM docs d CROSS JOIN notes n ORDER BY d.id, n.id";
    let error = there.sql(sql).await.expect("planned").collect().await.expect_err("full").strip_backtrace();
    assert!(error.contains("executor 127.0.0.1:") && error.to_lowercase().contains("no space left"), "{error}");
    assert_eq!(full.ended().await, Some(2));
    let _full = in_small_folder(128, small.path(), &line);
    let _other = Process::executor(&scheduler, &[]);
    let counted = run(&there, sql).await.iter().map(RecordBatch::num_rows).sum::<usize>();
    assert_eq!(counted, 12_000);
}

/// What an executor has kept is not computed again, by itself or by another one with the same folder.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_that_were_kept_outlive_an_executor() {
    let folder = tables().await;
    let cache = TempDir::new().expect("a folder");
    let cache = cache.path().display().to_string();
    let scheduler = Process::scheduler();
    let there = on(&scheduler);
    with_tables(&there, folder.path()).await;
    let sql = "SELECT id, embed(title) FROM docs";
    let counts = "SELECT sum(rows_embedded), sum(rows_cached) FROM embed_models()";
    let mut first = Process::executor(&scheduler, &["--cache", &cache]);
    run(&there, sql).await;
    assert_eq!(rows_of(&run(&there, counts).await), ["300|0"]);
    first.kill();
    let _second = Process::executor(&scheduler, &["--cache", &cache]);
    let here = with_model(SessionOptions::default());
    with_tables(&here, folder.path()).await;
    assert_eq!(sorted_rows(&run(&there, sql).await), sorted_rows(&run(&here, sql).await));
    assert_eq!(rows_of(&run(&there, counts).await), ["300|300"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_starts_a_cluster_for_itself() {
    let folder = tables().await;
    let docs = folder.path().join("docs");
    let sql = format!("SELECT count(*) AS n, count(embed(body)) AS v FROM '{}'", docs.display());
    let line = ["--cluster", "local:2", "--model", MODEL, "--format", "csv", "-c", &sql];
    assert_eq!(embedsql(line).stdout(), "n,v\n300,257\n");
    let line = ["--cluster", &SHARED.0.address, "--cache", "vectors", "--model", MODEL, "--format", "csv", "-c", &sql];
    let ended = embedsql(line).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "n,v\n300,257\n"));
    assert_eq!(ended.stderr, "warning: --cache has no effect on the executors of the cluster: start them with it\n");
    let sets =
        "SET embed.cache = 'vectors'; SET embed.cache = 'vectors2'; SET embed.batch_size = 9; SET embed.max_tokens = 9";
    let ended = embedsql(["--cluster", &SHARED.0.address, "-c", sets]).end();
    let lines: Vec<_> = ended.stderr.lines().map(|line| line.split(" has ").next().unwrap_or_default()).collect();
    assert_eq!(lines, ["warning: embed.cache", "warning: embed.batch_size"], "{}", ended.stderr);
    let message = embedsql(["--cluster", "local:0", "-c", &sql]).error(2);
    assert!(message.contains("local:N"), "{message}");
    let message = embedsql(["--cluster", "127.0.0.1:1", "-c", &sql]).error(1);
    assert!(message.contains("scheduler 127.0.0.1:1: cannot be reached"), "{message}");
}

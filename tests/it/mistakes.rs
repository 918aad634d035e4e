//! What people type wrong, and what the program says: in its own words, with the place in the text.

use tempfile::TempDir;

use crate::program::{embedsql, one_error, write};

/// What there is when a mistake is made.
const TABLES: &str = "CREATE TABLE t (id BIGINT, name VARCHAR, v DOUBLE[]) AS VALUES (1, 'a', [1.0]), (2, 'b', [2.0]);\n\
                      CREATE TABLE u (id BIGINT, \"Body\" VARCHAR) AS VALUES (1, 'a');\n\
                      CREATE VIEW names AS SELECT name FROM t;\n";

/// A statement, what is said, and what the mark stands below; nothing where the engine does not know the place.
type Mistake = (&'static str, &'static str, &'static str);

/// The most frequent ones. DataFusion's own texts are in `messages.rs`.
const MISTAKES: [Mistake; 64] = [
    // Names.
    ("SELECT nam FROM t", "no column \"nam\"; did you mean \"name\"? (columns: id, name, v)", "nam FROM"),
    ("SELECT zzz FROM t", "no column \"zzz\" (columns: id, name, v)", "zzz FROM"),
    ("SELECT x.name FROM t", "no column \"x.name\"; did you mean \"t.name\"? (columns: id, name, v)", "x.name"),
    (
        "SELECT body FROM u",
        "no column \"body\"; did you mean \"Body\", in double quotes? without them a name is read in lower case (columns: id, \"Body\")",
        "body FROM",
    ),
    (
        "SELECT id FROM t WHERE name = \"a\"",
        "no column \"a\" (columns: id, name, v); a text stands in single quotes: 'a'",
        "\"a\"",
    ),
    (
        "SELECT \"Name\" FROM t",
        "no column \"Name\"; did you mean name, without double quotes? (columns: id, name, v)",
        "\"Name\"",
    ),
    (
        "SELECT row_number() FROM t",
        "row_number is a window function: row_number(...) OVER (ORDER BY ...)",
        "row_number",
    ),
    ("SELECT a", "no column \"a\": no table is read here (a text stands in single quotes)", "a"),
    ("SELECT id FROM t, u", "column \"id\" is in more than one table: put the name of its table before it", "id FROM"),
    (
        "SELECT 1 FROM t AS x JOIN t AS x ON true",
        "column \"id\" of x is there twice: give one table another name with AS",
        "",
    ),
    ("SELECT embd(name) FROM t", "no function \"embd\"; did you mean \"embed\"?", "embd"),
    ("SELECT frobnicate(name) FROM t", "no function \"frobnicate\"; SHOW FUNCTIONS lists them", "frobnicate"),
    ("SELECT * FROM embed_model()", "no table function \"embed_model\"; did you mean \"embed_models\"?", ""),
    ("SELECT * FROM nams", "table \"nams\" not found; did you mean \"names\"?", "nams"),
    (
        "SELECT * FROM here.csv",
        "table 'datafusion.here.csv' not found; the name of a file stands in quotes: 'here.csv'",
        "here.csv",
    ),
    ("SELECT * FROM 'hare.csv'", "file \"hare.csv\" not found; did you mean \"here.csv\"?", "'hare.csv'"),
    ("DROP TABLE zz", "table \"zz\" not found", ""),
    ("DROP VIEW name", "view \"name\" not found; did you mean \"names\"?", ""),
    (
        "CREATE TABLE t AS SELECT 1",
        "table \"t\" is there already: CREATE OR REPLACE, CREATE ... IF NOT EXISTS, or DROP it first",
        "",
    ),
    // Functions and types.
    ("SELECT upper() FROM t", "no function upper(); there is upper(String)", ""),
    ("SELECT substr(name) FROM t", "substr takes a text, a start from 1 and perhaps a length", ""),
    ("SELECT 1::nosuch", "no type \"nosuch\"", ""),
    (
        "SELECT int8_ranges([1.0]) OVER (ORDER BY id ROWS 1 PRECEDING) FROM t",
        "this aggregate function cannot take rows off again: begin the window with UNBOUNDED PRECEDING",
        "",
    ),
    ("SELECT '[1]'::vector", "no type \"vector\": vector('[1,2]') makes a vector of a text", ""),
    ("SELECT CAST('abc' AS BIGINT)", "'abc' is no Int64 (TRY_CAST gives NULL where a text is none)", ""),
    ("SELECT CAST(name AS INT) FROM t", "'a' is no Int32 (TRY_CAST gives NULL where a text is none)", ""),
    ("SELECT id FROM t WHERE id = 'abc'", "'abc' is no Int64 (TRY_CAST gives NULL where a text is none)", ""),
    ("SELECT DATE '2024-13-01'", "'2024-13-01' is no Date32 (TRY_CAST gives NULL where a text is none)", ""),
    ("SELECT CAST('a' AS BOOLEAN)", "'a' is no Boolean (TRY_CAST gives NULL where a text is none)", ""),
    ("SELECT CAST(300 AS TINYINT)", "300 is beyond what Int8 can be", ""),
    (
        "SELECT CAST(embed('a') AS VARCHAR)",
        "there is no cast from FixedSizeList(384 x Float32) to Utf8View: array_to_string(list, ', ') makes one",
        "",
    ),
    ("SELECT name + 1 FROM t", "there is no Utf8View + Int64 (CAST(... AS ...) changes a type)", "name + 1"),
    (
        "SELECT id FROM t WHERE v = 1",
        "List(Float64) = Int64: these types cannot be compared (CAST(... AS ...) changes a type)",
        "",
    ),
    ("SELECT id FROM t WHERE name", "a condition is true or false, and t.name is Utf8View", ""),
    ("SELECT 1 / 0", "Divide by zero error", ""),
    // Groups.
    (
        "SELECT name, count(*) FROM t",
        "\"t.name\" is neither in GROUP BY nor in an aggregate function, such as first_value(t.name)",
        "name, count",
    ),
    (
        "SELECT name FROM t GROUP BY name HAVING id > 1",
        "\"t.id\" is neither in GROUP BY nor in an aggregate function, such as first_value(t.id)",
        "id > 1",
    ),
    (
        "SELECT name FROM t HAVING name = 'a'",
        "HAVING is for groups: t.name = Utf8(\"a\") has a column without GROUP BY (WHERE filters rows)",
        "",
    ),
    (
        "SELECT id FROM t WHERE row_number() OVER () = 1",
        "a window function cannot stand here: filter its values with QUALIFY, or in an outer query",
        "",
    ),
    ("SELECT 1 FROM t GROUP BY sum(id)", "an aggregate function cannot stand here: compute it in an inner query", ""),
    (
        "SELECT id FROM t WHERE count(*) > 1",
        "Aggregate functions are not allowed in the WHERE clause. Consider using HAVING instead",
        "",
    ),
    // Shapes of queries.
    ("SELECT id, id FROM t", "two columns of the result are \"t.id\": give one another name with AS", ""),
    ("SELECT 1 UNION SELECT 1, 2", "the queries of a UNION differ in how many columns they have", "SELECT 1 UNION"),
    ("SELECT id FROM t ORDER BY 7", "ORDER BY 7: the result has 1 columns", ""),
    (
        "SELECT (SELECT id FROM t)",
        "a query in the place of a value gave more than one row: LIMIT 1, or an aggregate such as max(...)",
        "",
    ),
    (
        "SELECT (SELECT id, name FROM t)",
        "a query in the place of a value has one column, and this one has t.id, t.name",
        "",
    ),
    ("INSERT INTO t VALUES (1, 'a')", "VALUES: row 1 has 2 values, and 3 are expected", ""),
    ("INSERT INTO u SELECT 1", "INSERT: the query and the table differ in how many columns they have", ""),
    (
        "CREATE EXTERNAL TABLE z STORED AS FOO LOCATION 'x'",
        "STORED AS FOO is not known (known: PARQUET, CSV, ARROW, JSON)",
        "",
    ),
    ("SELECT $1", "$1 has no value: PREPARE a statement, and EXECUTE it with values", ""),
    ("ALTER TABLE t ADD COLUMN x INT", "ALTER TABLE is no statement here", ""),
    ("BEGIN", "BEGIN is no statement here", ""),
    ("SELECT * FROM t PIVOT (sum(id) FOR name IN ('a'))", "PIVOT is not known here", ""),
    // Settings and models.
    (
        "SET datafusion.execution.batch_sise = 1",
        "no setting \"batch_sise\"; SHOW ALL lists them; did you mean \"datafusion.execution.batch_size\"?",
        "",
    ),
    ("SHOW embed.modl", "no setting \"embed.modl\"; SHOW ALL lists them; did you mean \"embed.model\"?", ""),
    ("SET nosuch.thing = 1", "no setting \"nosuch\"; SHOW ALL lists them", ""),
    // Grammar.
    ("SELEC 1", "syntax error: Expected: an SQL statement, found: SELEC", "SELEC"),
    ("SELECT id FORM t", "syntax error: Expected: end of statement, found: t", "t"),
    ("SELECT id FROM", "syntax error: Expected: identifier, found: EOF", ";"),
    ("SELECT , id FROM t", "syntax error: Expected: an expression, found: ,", ", id"),
    ("SELECT (1", "syntax error: Expected: ), found: EOF", ";"),
    ("SELECT id FROM t WHERE id == = 1", "syntax error: Expected: an expression, found: =", "= 1"),
    (
        "COPY t TO 'x.parquet' (FORMAT parquet)",
        "syntax error: Expected: end of statement or ;, found: (; options are written so: COPY ... TO 'file.parquet' STORED AS PARQUET \
         OPTIONS ('key' 'value')",
        "(FORMAT",
    ),
    (
        "COPY t FROM 'x.csv'",
        "syntax error: Expected: end of statement or ;, found: FROM; a file is read so: INSERT INTO table SELECT * FROM 'file.csv'",
        "FROM",
    ),
];

fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    write(&folder, "here.csv", "a,b\n1,2\n");
    folder
}

/// What the mark of an error stands below.
fn pointed(stderr: &str) -> Option<&str> {
    let mut lines = stderr.lines().skip(1);
    let (line, mark) = (lines.next()?, lines.next()?);
    line.get(mark.len() - 1..)
}

#[test]
fn each_is_said_in_words_of_ours() {
    let folder = folder();
    let mut wrong = Vec::new();
    for (sql, said, place) in MISTAKES {
        let ended = embedsql(["-q", "-c", &format!("{TABLES}{sql};")]).folder(&folder).end();
        assert_eq!(ended.code, Some(1), "{sql}");
        let (message, at) = (one_error(&ended.stderr), pointed(&ended.stderr).unwrap_or_default());
        if message != said || !at.starts_with(place) || place.is_empty() != at.is_empty() {
            wrong.push(format!("{sql}\n  {message}\n  at {at:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_mistake_is_called_a_bug() {
    // More of those that DataFusion calls internal errors.
    let more = [
        "SELECT stddev(v) FROM t",
        "SELECT median(v) FROM t",
        "SELECT sum(name) FROM t",
        "SELECT round(name) FROM t",
        "SELECT v['a'] FROM t",
        "SELECT name[1] FROM t",
        "SELECT array_length(name) FROM t",
        "SELECT name || v FROM t",
        "SELECT lag(name, 'a') OVER () FROM t",
        "SELECT regexp_like(name, '(') FROM t",
        "SELECT * FROM generate_series('a')",
        "SELECT extract(foo FROM now())",
        "SELECT id FROM t LIMIT -1",
        "TRUNCATE TABLE t",
        "EXECUTE nosuch",
    ];
    let folder = folder();
    for sql in MISTAKES.iter().map(|(sql, ..)| *sql).chain(more) {
        let ended = embedsql(["-q", "-c", &format!("{TABLES}{sql};")]).folder(&folder).end();
        assert_eq!(ended.code, Some(1), "{sql}");
        let message = one_error(&ended.stderr).to_lowercase();
        let is_clean =
            !["internal", "bug", "span(", "signature {", "datafusion error"].iter().any(|word| message.contains(word));
        assert!(is_clean && message.len() < 400, "{sql}: {message}");
    }
}

#[test]
fn files_have_lines_and_columns() {
    let folder = folder();
    let error = |name: &str, text: &str| {
        write(&folder, name, text);
        embedsql(["-q", "-f", name]).folder(&folder).end().stderr
    };
    let shown = error("a.sql", "SELECT 1 AS a;\n\n-- why\nSELECT a,\n\t  é.b FROM (SELECT 1 AS a);");
    assert_eq!(
        shown,
        "error: a.sql:5:4: no column \"é.b\" (columns: a)\nLINE 5: \\t  é.b FROM (SELECT 1 AS a);\n            ^\n"
    );
    // The end of a statement is where something is missing.
    let shown = error("b.sql", "SELECT 1 AS a;\nSELECT a FROM -- what?\n;");
    assert_eq!(
        shown,
        "error: b.sql:2:14: syntax error: Expected: identifier, found: EOF\nLINE 2: SELECT a FROM -- what?\n                     ^\n"
    );
    let shown = error("c.sql", "\\echo a\nSELECT 'a\nb;\n");
    assert_eq!(shown, "error: c.sql:2:8: syntax error: Unterminated string literal\n");
    let shown = error("d.sql", "SELECT 1 / 0;");
    assert_eq!(shown, "error: d.sql:1: Divide by zero error\n");
    // A dialect reads the text again; its places are those of the file too.
    let shown = error("e.sql", "SET datafusion.sql_parser.dialect = 'postgres'; SELECT 1\n  FROM t WHERE == 1;");
    assert!(shown.starts_with("error: e.sql:2:16: syntax error: ") && pointed(&shown) == Some("== 1;"), "{shown}");
    let shown = error("f.sql", "SET datafusion.sql_parser.dialect = 'postgres'; SELECT nosuch FROM 'here.csv';");
    assert!(shown.starts_with("error: f.sql:1:56: no column \"nosuch\" (columns: a, b)\n"), "{shown}");
    // \i names both.
    write(&folder, "g.sql", "SELECT 1;\n\\i a.sql\n");
    let shown = embedsql(["-q", "-f", "g.sql"]).folder(&folder).end().stderr;
    assert!(shown.starts_with("error: g.sql:2: a.sql:5:4: no column"), "{shown}");
}

#[test]
fn no_line_of_a_text_with_a_secret_is_shown() {
    let folder = folder();
    let key = "'aws.secret_access_key'";
    for sql in [
        format!("CREATE EXTERNAL TABLE s STORED AS CSV LOCATION 's3://b/x.csv' OPTIONS ({key} 'hush-hush') FORM;"),
        format!("COPY (SELECT nosuch) TO 'x.csv' OPTIONS ({key} 'A''hush')"),
        format!("SELECT nosuch; COPY (SELECT 1) TO 's3://b/x.csv' OPTIONS ({key} 'hush')"),
        format!("COPY (SELECT nosuch) TO 'x.csv' OPTIONS ({key} 'hu\nsh' bad)"),
        format!("\\set k 'A''hush'\nCOPY (SELECT nosuch) TO 'x.csv' OPTIONS ({key} :'k')"),
        "SELECT nosuch FROM 's3://name:hush@b/x.csv'".to_owned(),
    ] {
        write(&folder, "s.sql", &sql);
        let shown = embedsql(["-f", "s.sql"]).folder(&folder).end().stderr;
        let is_silent = !["hush", "hu\n", "sh'"].iter().any(|part| shown.contains(part)) && !shown.contains("LINE");
        assert!(shown.starts_with("error: s.sql:") && is_silent, "{sql}: {shown}");
    }
}

#[test]
fn files_that_run_each_other_come_to_an_end() {
    let folder = folder();
    write(&folder, "a.sql", "SELECT 1;\n\\i a.sql\n");
    let shown = embedsql(["-q", "-f", "a.sql"]).folder(&folder).end();
    assert_eq!(shown.code, Some(1));
    assert!(shown.stderr.ends_with("a.sql:2: \\i: 32 files within each other, at \"a.sql\"\n"), "{}", shown.stderr);
    let error = |text: &str| {
        write(&folder, "b.sql", text);
        embedsql(["-q", "-f", "b.sql"]).folder(&folder).error(1)
    };
    assert!(error("\\i nosuch.sql").starts_with("b.sql:1: file \"nosuch.sql\": No such file"));
    assert!(error("\\o no/such.csv").starts_with("b.sql:1: \\o \"no/such.csv\": No such file"));
    assert!(error("SELECT 1 \\g no/such.csv").starts_with("\\g \"no/such.csv\": No such file"));
}

#[test]
fn statements_may_be_long() {
    let chain = (0..8000).map(|n| format!("id = {n}")).collect::<Vec<_>>().join(" OR ");
    let sql = format!("SELECT count(*) AS n FROM (VALUES (1), (2), (9000)) t(id) WHERE {chain}");
    assert_eq!(embedsql(["-q", "--format", "csv"]).input(&sql).stdout(), "n\n2\n");
}

#[test]
fn a_model_that_cannot_be_is_refused_when_it_is_set() {
    let missing = "model \"nosuch\" not found (not a bundled name, not a directory, not a hub id owner/name[@revision]); bundled is ";
    let message = embedsql(["-c", "SET embed.model = 'nosuch'"]).error(1);
    assert!(message.starts_with(&format!("embed.model: {missing}")), "{message}");
    let message = embedsql(["--model", "nosuch", "-c", "SELECT 1"]).error(2);
    assert!(message.starts_with(&format!("--model \"nosuch\": {missing}")), "{message}");
    let message = embedsql(["-c", "SET embed.model = 'all-MiniLM-L6-v3'"]).error(1);
    assert!(message.ends_with("; did you mean \"all-MiniLM-L6-v2\"?"), "{message}");
    // What may be on the hub is asked for when it is used.
    embedsql(["-q", "-c", "SET embed.model = 'acme/tiny'; RESET embed.model; SET embed.model = 'all-MiniLM-L6-v2'"])
        .stdout();
    let reset = "SET embed.precision = 'int8'; RESET embed.precision; SHOW embed.precision";
    assert!(embedsql(["--format", "ndjson", "-c", reset]).stdout().contains("\"f32\""));
    assert!(
        embedsql(["-c", "RESET embed.colour"]).error(1).starts_with("setting \"embed.colour\" not found (known: model")
    );
}

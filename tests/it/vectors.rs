//! Functions of vectors against their formulas, on random values and every kind of list.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListBuilder, Float32Builder, Int64Array, RecordBatch,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use datafusion_embed::{SessionOptions, create_logical_plan};
use proptest::prelude::*;

use crate::support::{run, session};

/// A vector of each row, in f64.
fn vectors(batches: &[RecordBatch], column: usize) -> Vec<Option<Vec<f64>>> {
    let mut vectors = Vec::new();
    for batch in batches {
        let list = DataType::new_list(DataType::Float64, true);
        let lists = cast(batch.column(column), &list).expect("a list");
        let lists = lists.as_list::<i32>();
        vectors.extend(
            (0..lists.len()).map(|row| {
                lists.is_valid(row).then(|| lists.value(row).as_primitive::<Float64Type>().values().to_vec())
            }),
        );
    }
    vectors
}

/// Rows `id`, `g`, `v` in some batches and partitions, and the vectors by row.
fn table(rows: &[Option<Vec<f32>>], width: usize, batch: usize, partitions: usize) -> MemTable {
    let mut batches = vec![Vec::new(); partitions];
    for (number, rows) in rows.chunks(batch).enumerate() {
        let mut list = FixedSizeListBuilder::new(Float32Builder::new(), width as i32);
        for row in rows {
            match row {
                Some(vector) => list.values().append_slice(vector),
                None => list.values().append_nulls(width),
            }
            list.append(row.is_some());
        }
        let first = (number * batch) as i64;
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + rows.len() as i64));
        let groups: ArrayRef =
            Arc::new(Int64Array::from_iter_values((first..first + rows.len() as i64).map(|id| id % 3)));
        let columns = [("id", ids, false), ("g", groups, false), ("v", Arc::new(list.finish()) as ArrayRef, true)];
        batches[number % partitions].push(RecordBatch::try_from_iter_with_nullable(columns).expect("a batch"));
    }
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let schema = datafusion::arrow::datatypes::Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("g", DataType::Int64, false),
        Field::new("v", DataType::FixedSizeList(item, width as i32), true),
    ]);
    MemTable::try_new(Arc::new(schema), batches).expect("a table")
}

/// Whether a result is what it should be, for one that was added up of numbers whose sizes have this sum.
fn close(a: f64, b: f64, sizes: f64) -> bool {
    (a - b).abs() <= 1e-5 * sizes.max(1.0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn as_their_formulas_say(
        (width, rows) in (1usize..40).prop_flat_map(|width| {
            let vector = prop::collection::vec(-9.0f32..9.0, width);
            (Just(width), prop::collection::vec(prop::option::weighted(0.8, vector), 1..30))
        }),
        batch in 1usize..12,
        partitions in 1usize..4,
    ) {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        runtime.block_on(check(width, &rows, batch, partitions));
    }
}

async fn check(width: usize, rows: &[Option<Vec<f32>>], batch: usize, partitions: usize) {
    let ctx = session(partitions, batch);
    ctx.register_table("t", Arc::new(table(rows, width, batch, partitions))).expect("registered");
    let wide: Vec<Option<Vec<f64>>> =
        rows.iter().map(|row| Some(row.as_ref()?.iter().map(|&x| x.into()).collect())).collect();
    let next = |row: usize| wide[(row + 1) % wide.len()].as_ref();
    run(
        &ctx,
        &format!(
            "CREATE TABLE pairs AS SELECT a.id, a.v AS a, b.v AS b FROM t a JOIN t b ON b.id = (a.id + 1) % {}",
            rows.len()
        ),
    )
    .await;
    for lists in ["FixedSizeList({}, Float32)", "List(Float32)", "LargeList(Float64)"] {
        let kind = lists.replace("{}", &width.to_string());
        let sql = format!(
            "SELECT vector_add(a, b), vector_sub(a, b), vector_mul(a, b), vector_scale(a, -1.5), vector_normalize(a), \
             [l1_distance(a, b)], [l2_distance(a, b)], [negative_inner_product(a, b)], [vector_norm(a)] \
             FROM (SELECT id, arrow_cast(a, '{kind}') AS a, b FROM pairs) ORDER BY id"
        );
        let result = run(&ctx, &sql).await;
        for (column, formula) in FORMULAS.iter().enumerate() {
            for (row, given) in vectors(&result, column).into_iter().enumerate() {
                let takes_two = ![3, 4, 8].contains(&column);
                let expected = match (&wide[row], next(row)) {
                    (Some(a), Some(b)) => Some(formula(a, b)),
                    (Some(a), None) if !takes_two => Some(formula(a, a)),
                    _ => None,
                };
                // A number that is NULL stands in a list.
                let given = given.filter(|_| expected.is_some() || column < 5);
                let is_close = match (&given, &expected) {
                    (Some(given), Some(expected)) => {
                        // Products of both signs leave little of what they are rounded by.
                        let sizes = if column == 7 { products(wide[row].as_ref(), next(row)) } else { 0.0 };
                        let close = |(a, b): (&f64, &f64)| close(*a, *b, sizes.max(b.abs()));
                        given.len() == expected.len() && given.iter().zip(expected).all(close)
                    }
                    (given, expected) => given.is_none() && expected.is_none(),
                };
                assert!(is_close, "{kind} column {column} row {row}: {given:?}, not {expected:?}");
            }
        }
    }
    check_totals(&ctx, &wide).await;
}

/// The sizes of the products of two vectors.
fn products(a: Option<&Vec<f64>>, b: Option<&Vec<f64>>) -> f64 {
    a.into_iter().flatten().zip(b.into_iter().flatten()).map(|(x, y)| (x * y).abs()).sum()
}

type Formula = fn(&[f64], &[f64]) -> Vec<f64>;

const FORMULAS: [Formula; 9] = [
    |a, b| a.iter().zip(b).map(|(x, y)| x + y).collect(),
    |a, b| a.iter().zip(b).map(|(x, y)| x - y).collect(),
    |a, b| a.iter().zip(b).map(|(x, y)| x * y).collect(),
    |a, _| a.iter().map(|x| x * -1.5).collect(),
    |a, _| {
        let length = a.iter().map(|x| x * x).sum::<f64>().sqrt();
        a.iter().map(|x| if length == 0.0 { 0.0 } else { x / length }).collect()
    },
    |a, b| vec![a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum()],
    |a, b| vec![a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()],
    |a, b| vec![-a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>()],
    |a, _| vec![a.iter().map(|x| x * x).sum::<f64>().sqrt()],
];

/// Sums and averages by group, and over windows that rows leave again.
async fn check_totals(ctx: &SessionContext, wide: &[Option<Vec<f64>>]) {
    let total = |rows: &mut dyn Iterator<Item = &Option<Vec<f64>>>| {
        let there: Vec<&Vec<f64>> = rows.flatten().collect();
        let mut sum = vec![0.0; there.first()?.len()];
        there.iter().for_each(|vector| sum.iter_mut().zip(*vector).for_each(|(sum, x)| *sum += x));
        Some((sum.clone(), sum.into_iter().map(|x| x / there.len() as f64).collect::<Vec<_>>()))
    };
    let is_close = |given: &Option<Vec<f64>>, expected: Option<&Vec<f64>>| match (given, expected) {
        (Some(given), Some(expected)) => given.iter().zip(expected).all(|(a, b)| close(*a, *b, b.abs())),
        (given, expected) => given.is_none() && expected.is_none(),
    };
    let result = run(ctx, "SELECT vector_sum(v), vector_avg(v) FROM t GROUP BY g ORDER BY g").await;
    let groups: BTreeMap<usize, _> =
        (0..wide.len().min(3)).map(|group| (group, total(&mut wide.iter().skip(group).step_by(3)))).collect();
    for (group, (sum, average)) in vectors(&result, 0).iter().zip(vectors(&result, 1)).enumerate() {
        let expected = groups[&group].as_ref();
        assert!(is_close(sum, expected.map(|(sum, _)| sum)), "sum of {group}: {sum:?}, not {expected:?}");
        assert!(
            is_close(&average, expected.map(|(_, average)| average)),
            "average of {group}: {average:?}, not {expected:?}"
        );
    }
    let frame = "ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW";
    let result =
        run(ctx, &format!("SELECT vector_sum(v) OVER ({frame}), vector_avg(v) OVER ({frame}) FROM t ORDER BY id"))
            .await;
    for (row, (sum, average)) in vectors(&result, 0).iter().zip(vectors(&result, 1)).enumerate() {
        let expected = total(&mut wide[row.saturating_sub(2)..=row].iter());
        let expected = expected.as_ref();
        assert!(is_close(sum, expected.map(|(sum, _)| sum)), "sum at {row}: {sum:?}, not {expected:?}");
        assert!(
            is_close(&average, expected.map(|(_, average)| average)),
            "average at {row}: {average:?}, not {expected:?}"
        );
    }
}

/// The bits of vectors survive as text.
#[tokio::test(flavor = "multi_thread")]
async fn texts_are_read_back_to_the_same_bits() {
    let ctx = session(1, 8192);
    let sql = "SELECT count(*) FROM (SELECT embed(body) AS v FROM 'sql/docs.parquet' WHERE id < 30) WHERE vector(vector_text(v)) <> v";
    assert_eq!(crate::support::count(&ctx, sql).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn avg_and_sum_take_vectors_in_sessions_of_ours_only() {
    let ctx = datafusion_embed::session(SessionOptions::default()).expect("a session");
    run(&ctx, "CREATE TABLE t AS VALUES (1, [1.0, 2.0], 1.5), (1, [3.0, 4.0], 2.5), (2, [5.0, 6.0], NULL)").await;
    let sql = "SELECT column1, avg(column2), sum(column2), avg(column3), sum(column1) FROM t GROUP BY column1 ORDER BY column1";
    let result = run(&ctx, sql).await;
    assert_eq!(vectors(&result, 1), [Some(vec![2.0, 3.0]), Some(vec![5.0, 6.0])]);
    assert_eq!(vectors(&result, 2), [Some(vec![4.0, 6.0]), Some(vec![5.0, 6.0])]);
    let shown = datafusion::arrow::util::pretty::pretty_format_batches(&result).expect("a table").to_string();
    assert!(shown.contains("| 2.0 ") && shown.contains("| 2  "), "{shown}");
    // What they are of numbers is as before: decimals, windows, DISTINCT, statistics.
    let plain = SessionContext::new();
    for sql in [
        "SELECT avg(x), sum(x), avg(DISTINCT x), sum(DISTINCT x), mean(x) FROM (VALUES (1.10), (2.25), (2.25)) AS t(x)",
        "SELECT sum(x) OVER (ORDER BY x ROWS 1 PRECEDING), avg(x) OVER (ORDER BY x) FROM (VALUES (1), (2), (7)) AS t(x)",
        "SELECT sum(CAST(x AS DECIMAL(10, 2))), avg(CAST(x AS DECIMAL(10, 2))) FROM (VALUES (1), (2), (7)) AS t(x)",
        "SELECT sum(x + 1), avg(x * 2) FILTER (WHERE x > 1) FROM (VALUES (1), (2), (7)) AS t(x)",
        "SELECT sum(x), avg(x) FROM (SELECT 1 AS x) WHERE false",
    ] {
        assert_eq!(run(&ctx, sql).await, run(&plain, sql).await, "{sql}");
        let schemas = (ctx.sql(sql).await.expect(sql), plain.sql(sql).await.expect(sql));
        assert_eq!(schemas.0.schema().as_arrow(), schemas.1.schema().as_arrow(), "{sql}");
    }
    let error = plain.sql("SELECT avg([1.0])").await.expect_err("not taken").to_string();
    assert!(error.contains("avg"), "{error}");
}

/// What `tests/fixtures/make_quantized.py` has written down.
#[derive(serde::Deserialize)]
struct Quantized {
    vectors: Vec<Vec<f32>>,
    ranges: [Vec<f32>; 2],
    int8: Vec<Vec<f64>>,
    ubinary: Vec<Vec<f64>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_those_of_sentence_transformers() {
    let text = std::fs::read_to_string("tests/fixtures/quantized.json").expect("a fixture");
    let Quantized { vectors: rows, ranges, int8, ubinary } = serde_json::from_str(&text).expect("its shape");
    let (width, rows): (_, Vec<_>) = (rows[0].len(), rows.into_iter().map(Some).collect());
    let ctx = session(3, 16);
    ctx.register_table("t", Arc::new(table(&rows, width, 16, 3))).expect("registered");
    let own = "(SELECT int8_ranges(v) FROM t)".to_owned();
    for (ranges, numbers) in [(format!("{ranges:?}"), "Float32"), (own.clone(), "Float32"), (own, "Float16")] {
        let sql = format!(
            "SELECT quantize_int8(v, {ranges}), quantize_binary(arrow_cast(v, 'List({numbers})')) FROM t ORDER BY id"
        );
        let result = run(&ctx, &sql).await;
        for (column, expected) in [&int8, &ubinary].into_iter().enumerate() {
            let given: Vec<_> = vectors(&result, column).into_iter().flatten().collect();
            assert_eq!(&given, expected, "{sql}");
        }
    }
}

/// What SHOW FUNCTIONS has as an example runs, and gives what stands behind it.
#[tokio::test(flavor = "multi_thread")]
async fn examples_give_what_they_say() {
    let ctx = session(1, 8192);
    let state = ctx.state();
    let scalars = state.scalar_functions().values().map(|f| (f.name().to_owned(), f.documentation().cloned()));
    let aggregates = state.aggregate_functions().values().map(|f| (f.name().to_owned(), f.documentation().cloned()));
    let mut tried = 0;
    for (name, documentation) in scalars.chain(aggregates) {
        let ours = ["Embedding Functions", "Vector Functions"];
        let Some(documentation) = documentation.filter(|known| ours.contains(&known.doc_section.label)) else {
            continue;
        };
        let example = documentation.sql_example.unwrap_or_else(|| panic!("{name} has no example"));
        let example = example.trim_matches('`').trim_start_matches("sql").trim();
        let example = example.trim_start_matches("> ").replace("'docs.parquet'", "'sql/docs.parquet'");
        let (sql, said) = example.split_once("; -- ").unwrap_or((&example, ""));
        let given = run(&ctx, sql).await;
        if !said.is_empty() {
            let given =
                datafusion::arrow::util::display::array_value_to_string(given[0].column(0), 0).expect("a value");
            assert_eq!(given, said.trim(), "{name}: {sql}");
        }
        tried += 1;
    }
    assert_eq!(tried, 25);
}

/// pgvector's operators, as the program, the Python package and other programs read them.
#[tokio::test(flavor = "multi_thread")]
async fn operators_of_pgvector() {
    let ctx = datafusion_embed::session(SessionOptions::default()).expect("a session");
    let number = async |sql: &str| {
        let plan = create_logical_plan(&ctx.state(), sql).await?;
        let batches = ctx.execute_logical_plan(plan).await?.collect().await?;
        datafusion::arrow::util::display::array_value_to_string(batches[0].column(0), 0).map_err(Into::into)
    };
    let pair = "(SELECT vector('[1,2]') AS a, vector('[3,5]') AS b, vector('[0,0]') AS z, 1 AS n)";
    for (sql, expected) in [
        ("a <-> vector('[4,6]')", "5.0"),
        ("a<->vector('[4,6]')", "5.0"),
        ("a <+> b", "5.0"),
        ("a <#> b", "-13.0"),
        ("round(a <=> vector('[-1,-2]'), 3)", "2.0"),
        ("round(a <=> a, 3)", "0.0"),
        ("quantize_binary(a) <~> quantize_binary(z)", "2.0"),
        ("quantize_binary(a) <%> quantize_binary(a)", "0.0"),
        // How they bind.
        ("a <-> b < 4", "true"),
        ("4 > a <-> b", "true"),
        ("a <+> b BETWEEN 4 AND 6", "true"),
        ("a <-> b IS NULL", "false"),
        // Zeros, NULL, NaN.
        ("a <=> z", "1.0"),
        ("a <-> NULL IS NULL", "true"),
        ("a <+> vector('[nan,0]')", "NaN"),
        // A literal beside a vector is one.
        ("a <-> '[4,6]'", "5.0"),
        ("'[4,6]' <+> a", "7.0"),
        ("a <=> '[0,0]'", "1.0"),
        // Everything else is as before.
        ("n<-1", "false"),
        ("n<+2", "true"),
        ("n <=> NULL", "false"),
        ("NULL <=> NULL", "true"),
        ("'a' <=> 'a'", "true"),
    ] {
        let given = number(&format!("SELECT {sql} FROM {pair}")).await;
        assert_eq!(
            given.map_err(|error: datafusion::error::DataFusionError| error.to_string()).as_deref(),
            Ok(expected),
            "{sql}"
        );
    }
    for (sql, part) in [
        ("a <-> vector('[1]')", "l2_distance: vectors of 2 and of 1 values cannot be compared"),
        ("n <-> n", "l2_distance: argument 1 is Int64, not a list of numbers"),
        ("a <-> '1,2'", "vector: '1,2' is no vector"),
        (
            "'a' <-> '1,2'",
            "l2_distance: argument 1 is Utf8, not a list of numbers; vector('[1,2]') makes one of a text",
        ),
        ("l2_distance(a, '1,2')", "argument 2 is Utf8, not a list of numbers; vector('[1,2]') makes one of a text"),
        ("a <~> b", "not a binary vector"),
        ("quantize_binary(a) <~> '[1]'", "argument 2 is Utf8, not a binary vector"),
    ] {
        let error = number(&format!("SELECT {sql} FROM {pair}")).await.expect_err(sql).to_string();
        assert!(error.contains(part), "{sql}: {error}");
    }
    // A parameter may be a text or a vector.
    let prepared =
        create_logical_plan(&ctx.state(), "PREPARE near AS SELECT vector('[1,2]') <-> $1").await.expect("a plan");
    ctx.execute_logical_plan(prepared).await.expect("prepared");
    for parameter in ["'[4,6]'", "vector('[4,6]')", "[4.0, 6.0]"] {
        assert_eq!(number(&format!("EXECUTE near({parameter})")).await.expect(parameter), "5.0");
    }
    // A host reads them as far as its dialect does.
    let host = session(1, 8192);
    run(&host, "SET datafusion.sql_parser.dialect = 'postgresql'").await;
    assert_eq!(crate::support::count(&host, "SELECT CAST(vector('[0,0]') <-> vector('[3,4]') AS BIGINT)").await, 5);
    assert_eq!(crate::support::count(&host, "SELECT CAST(vector('[1,0]') <=> vector('[-3,0]') AS BIGINT)").await, 2);
    let error = ctx.sql("SELECT vector('[0]') <-> vector('[1]')").await.expect_err("not generic").to_string();
    assert!(error.contains("Expected"), "{error}");
}

/// The first column of some rows as text, in a session of ours.
async fn shown(ctx: &SessionContext, sql: &str) -> Vec<String> {
    let batches = ctx.sql(sql).await.expect(sql).collect().await.expect(sql);
    let options = FormatOptions::default().with_null("NULL");
    let rows = batches.iter().flat_map(|batch| {
        let column = ArrayFormatter::try_new(batch.column(0), &options).expect("a column");
        (0..batch.num_rows()).map(|row| column.value(row).to_string()).collect::<Vec<_>>()
    });
    rows.collect()
}

/// Arrow's own cast takes the first values of a column for those of a row behind an OFFSET.
#[tokio::test]
async fn casts_to_a_fixed_length_have_the_values_of_their_rows() {
    let mut options = SessionOptions::default();
    options.config = options.config.with_target_partitions(1);
    let ctx = datafusion_embed::session(options).expect("a session");
    run(&ctx, "CREATE TABLE pairs AS SELECT value AS i, [value, -value] AS v FROM generate_series(1, 100)").await;
    let page = "(SELECT *, arrow_cast(v, 'LargeList(Int64)') AS w, {'a': v} AS s FROM pairs LIMIT 3 OFFSET 40)";
    let of_page = ["[41, -41]", "[42, -42]", "[43, -43]"];
    for (cast, expected) in [
        ("arrow_cast(v, 'FixedSizeList(2, Int8)')", of_page.map(str::to_owned)),
        ("arrow_try_cast(v, 'FixedSizeList(2, Int8)')", of_page.map(str::to_owned)),
        ("arrow_cast(w, 'FixedSizeList(2, Int8)')", of_page.map(str::to_owned)),
        ("arrow_cast(v, 'FixedSizeList(2, Float32)')[1]::INT::TEXT", ["41", "42", "43"].map(str::to_owned)),
        ("arrow_cast([v, v], 'List(FixedSizeList(2, Int8))')", of_page.map(|row| format!("[{row}, {row}]"))),
        (
            "arrow_cast(CASE WHEN i <> 42 THEN v END, 'FixedSizeList(2, Int8)')",
            ["[41, -41]", "NULL", "[43, -43]"].map(str::to_owned),
        ),
    ] {
        assert_eq!(shown(&ctx, &format!("SELECT {cast} FROM {page}")).await, expected, "{cast}");
        let twice = format!("SELECT {cast} FROM {page} WHERE {cast} IS NOT DISTINCT FROM {cast}");
        assert_eq!(shown(&ctx, &twice).await, expected, "{twice}");
    }
    let one = "SELECT arrow_cast(arrow_cast(NULL, 'List(Int64)'), 'FixedSizeList(2, Float32)')";
    assert_eq!(shown(&ctx, one).await, ["NULL"]);
    let rows = run(&ctx, &format!("SELECT arrow_cast(v, 'FixedSizeList(2, Int8)') FROM {page}")).await;
    assert_eq!(rows[0].schema().field(0).name(), "arrow_cast(pairs.v,Utf8(\"FixedSizeList(2, Int8)\"))");
    let wrong = ctx.sql(&format!("SELECT arrow_cast(v, 'FixedSizeList(3, Int8)') FROM {page}")).await.expect("a plan");
    let error = wrong.collect().await.expect_err("two are not three").to_string();
    assert!(error.contains("Cannot cast to FixedSizeList(3): value at index 0 has length 2"), "{error}");
}

/// What is probed in a join is dealt out to all partitions; a host's own session does it as before, and both have the same rows.
#[tokio::test]
async fn a_join_of_a_small_table_uses_all_partitions() {
    let mut options = SessionOptions::default();
    options.config = options.config.with_target_partitions(4);
    let ours = datafusion_embed::session(options).expect("a session");
    let theirs = session(4, 8192);
    let table = "CREATE TABLE t AS SELECT value AS id, [value % 97, value % 89] AS v FROM generate_series(1, 3000)";
    for ctx in [&ours, &theirs] {
        run(ctx, table).await;
    }
    let near = "SELECT a.id, b.id AS other FROM t AS a JOIN t AS b ON a.id < b.id AND l1_distance(a.v, b.v) < 1";
    let plan = shown_all(&ours, &format!("EXPLAIN {near}")).await;
    assert!(plan.contains("partitions=4, partition_sizes=[1, 1, 1, 1]"), "{plan}");
    let plan = shown_all(&theirs, &format!("EXPLAIN {near}")).await;
    assert!(!plan.contains("partition_sizes=[1, 1, 1, 1]"), "{plan}");
    for join in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT SEMI JOIN", "RIGHT ANTI JOIN"] {
        let columns = if join.contains("SEMI") {
            "a.id"
        } else if join.contains("ANTI") {
            "b.id"
        } else {
            "a.id, b.id"
        };
        for on in ["a.id + 1000 < b.id AND a.v <-> b.v < 2", "a.id = b.id + 7", "a.id = b.id * 2 AND a.v[1] < b.v[2]"] {
            let on = on.replace("a.v <-> b.v", "l2_distance(a.v, b.v)");
            let sql = format!(
                "SELECT {columns} FROM t AS a {join} (SELECT id, v FROM t WHERE id % 3 > 0) AS b ON {on} ORDER BY 1, 2"
            );
            let sql = if columns.contains(',') { sql } else { sql.replace(" ORDER BY 1, 2", " ORDER BY 1") };
            assert_eq!(shown_all(&ours, &sql).await, shown_all(&theirs, &sql).await, "{sql}");
        }
    }
    // Rows of a table of a few are in their order, wherever they go.
    run(&ours, "CREATE TABLE few AS SELECT * FROM t LIMIT 500").await;
    let plan = shown_all(&ours, "EXPLAIN SELECT b.id FROM few AS a JOIN few AS b ON a.v[1] < b.v[1]").await;
    assert!(!plan.contains("partitions=4"), "{plan}");
}

async fn shown_all(ctx: &SessionContext, sql: &str) -> String {
    pretty_format_batches(&ctx.sql(sql).await.expect(sql).collect().await.expect(sql)).expect("a table").to_string()
}

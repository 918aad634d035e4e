//! Every type in which a text or a vector can arrive, the types that come out, and the oracle's vectors through SQL.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int64Array, LargeStringArray, ListArray, NullArray, PrimitiveArray,
    RecordBatch, StringArray, StringViewArray, new_empty_array, new_null_array,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    ArrowDictionaryKeyType, ArrowNativeType, DataType, Field, Float32Type, Float64Type, Int8Type, Int32Type, Int64Type,
    Schema, UInt16Type, UInt64Type,
};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use safetensors::SafeTensors;

use crate::support::{register_texts, run, session, vectors_by_id};

/// 32 dimensions, normalised, with prompts.
const TINY: &str = "tests/fixtures/tiny-bert";
/// 48 dimensions, neither.
const CLS: &str = "tests/fixtures/tiny-bert-cls";

/// A duplicate, an empty text, and two NULLs: a dictionary makes one by a NULL key and one by a NULL value.
const TEXTS: [Option<&str>; 7] =
    [Some("a red rose"), None, Some(""), Some("a red rose"), Some("ein Garten"), None, Some("\u{301}")];

/// Registers a table `name(id, body)` of one record batch.
fn register(ctx: &SessionContext, name: &str, body: ArrayRef) {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..body.len() as i64));
    let schema =
        Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("body", body.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![ids, body]).expect("a batch");
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("a table");
    ctx.register_table(name, Arc::new(table)).expect("a new name");
}

/// [`TEXTS`] as a dictionary with unused and repeated values.
fn dictionary<K: ArrowDictionaryKeyType>(values: &DataType) -> ArrayRef {
    let texts =
        [Some("unused"), Some("a red rose"), Some(""), None, Some("ein Garten"), Some("a red rose"), Some("\u{301}")];
    let values = cast(&StringArray::from(texts.to_vec()), values).expect("text to text");
    let keys = [Some(1), None, Some(2), Some(5), Some(4), Some(3), Some(6)].map(|key| key.map(K::Native::usize_as));
    let keys: PrimitiveArray<K> = keys.into_iter().collect();
    Arc::new(DictionaryArray::try_new(keys, values).expect("keys inside the values"))
}

/// [`TEXTS`] in every type that `embed` takes.
fn columns() -> Vec<ArrayRef> {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(TEXTS.to_vec())),
        Arc::new(LargeStringArray::from(TEXTS.to_vec())),
        Arc::new(StringViewArray::from(TEXTS.to_vec())),
    ];
    for values in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
        columns.push(dictionary::<Int8Type>(&values));
        columns.push(dictionary::<Int32Type>(&values));
        columns.push(dictionary::<UInt16Type>(&values));
        columns.push(dictionary::<UInt64Type>(&values));
    }
    columns
}

/// The columns of a query that gives an id, vectors and a number, as bits and by id.
async fn all_functions(ctx: &SessionContext, table: &str) -> Vec<BTreeMap<i64, Option<Vec<u32>>>> {
    let mut found = Vec::new();
    for function in ["embed", "embed_query", "embed_document"] {
        found.push(vectors_by_id(ctx, &format!("SELECT id, {function}(body, '{TINY}') FROM {table}")).await);
    }
    let mut tokens = BTreeMap::new();
    for batch in run(ctx, &format!("SELECT id, embed_tokens(body, '{TINY}') FROM {table}")).await {
        let (ids, counts) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
        tokens.extend(ids.values().iter().zip(counts).map(|(&id, count)| (id, count.map(|count| vec![count as u32]))));
    }
    found.push(tokens);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_has_the_same_vector_in_every_type() {
    let ctx = session(2, 8192);
    let columns = columns();
    register(&ctx, "expected", Arc::clone(&columns[0]));
    let expected = all_functions(&ctx, "expected").await;
    for values in &expected {
        for (id, text) in TEXTS.iter().enumerate() {
            assert_eq!(values[&(id as i64)].is_some(), text.is_some(), "NULL for NULL and for nothing else");
        }
        assert_eq!(values[&0], values[&3], "equal texts");
    }
    for (number, column) in columns.into_iter().enumerate() {
        let data_type = column.data_type().clone();
        register(&ctx, &format!("t{number}"), column);
        assert!(all_functions(&ctx, &format!("t{number}")).await == expected, "{data_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_of_a_column_is_read_from_its_own_start() {
    let ctx = session(2, 8192);
    let columns = columns();
    register(&ctx, "expected", columns[0].slice(2, 4));
    let expected = all_functions(&ctx, "expected").await;
    for (number, column) in columns.into_iter().enumerate() {
        register(&ctx, &format!("t{number}"), column.slice(2, 4));
        assert!(all_functions(&ctx, &format!("t{number}")).await == expected, "{}", column.data_type());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_literal_has_the_vector_of_a_row() {
    let ctx = session(2, 8192);
    register(&ctx, "texts", Arc::new(StringArray::from(vec![Some("a red rose"), None])));
    for function in ["embed", "embed_query", "embed_document"] {
        let expected = vectors_by_id(&ctx, &format!("SELECT id, {function}(body, '{TINY}') FROM texts")).await;
        for column in columns() {
            let data_type = column.data_type().to_string();
            let text = format!("arrow_cast('a red rose', '{data_type}')");
            let null = format!("arrow_cast(NULL, '{data_type}')");
            let query =
                format!("SELECT 0, {function}({text}, '{TINY}') UNION ALL SELECT 1, {function}({null}, '{TINY}')");
            assert!(vectors_by_id(&ctx, &query).await == expected, "{function} of {data_type}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_without_a_text_run_no_model() {
    let ctx = session(2, 8192);
    for (number, column) in columns().into_iter().enumerate() {
        let data_type = column.data_type();
        register(&ctx, &format!("empty{number}"), new_empty_array(data_type));
        register(&ctx, &format!("null{number}"), new_null_array(data_type, 5));
        assert!(all_functions(&ctx, &format!("empty{number}")).await.iter().all(BTreeMap::is_empty), "{data_type}");
        for values in all_functions(&ctx, &format!("null{number}")).await {
            assert!(values.len() == 5 && values.values().all(Option::is_none), "{data_type}");
        }
    }
    // A dictionary without values, its keys all NULL, and a column without a type.
    let keys: PrimitiveArray<Int32Type> = [None, None].into_iter().collect();
    let no_values = DictionaryArray::try_new(keys, new_empty_array(&DataType::Utf8)).expect("no key is out of range");
    register(&ctx, "no_values", Arc::new(no_values));
    register(&ctx, "untyped", Arc::new(NullArray::new(2)));
    for table in ["no_values", "untyped"] {
        for values in all_functions(&ctx, table).await {
            assert!(values.len() == 2 && values.values().all(Option::is_none), "{table}");
        }
    }
    assert_eq!(run(&ctx, "SELECT * FROM embed_models()").await.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
}

/// The type of a vector of so many values.
fn vector_type(dim: i32) -> DataType {
    DataType::FixedSizeList(Arc::new(Field::new_list_field(DataType::Float32, true)), dim)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dimension_of_each_model_is_known_at_plan_time() {
    let ctx = session(2, 8192);
    register(&ctx, "texts", Arc::new(StringArray::from(TEXTS.to_vec())));
    let calls =
        |text: &str| format!("embed({text}, '{TINY}') AS a, embed_query({text}, '{CLS}') AS b, embed({text}) AS c");
    for query in [
        format!("SELECT {} FROM texts", calls("body")),
        format!("SELECT {}", calls("NULL")),
        format!("SELECT {}", calls("'x'")),
    ] {
        let frame = ctx.sql(&query).await.expect(&query);
        let types: Vec<_> = frame.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(types, [vector_type(32), vector_type(48), vector_type(384)], "{query}");
        for batch in frame.collect().await.expect(&query) {
            let types: Vec<_> = batch.columns().iter().map(|column| column.data_type().clone()).collect();
            assert_eq!(types, [vector_type(32), vector_type(48), vector_type(384)], "{query}");
        }
    }
    let typeof_both =
        format!("SELECT arrow_typeof(embed(body, '{TINY}')), arrow_typeof(embed(body)) FROM texts LIMIT 1");
    let batches = run(&ctx, &typeof_both).await;
    let name = |column: usize| batches[0].column(column).as_string::<i32>().value(0).to_owned();
    assert_eq!([name(0), name(1)], [vector_type(32).to_string(), vector_type(384).to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vector_column_says_where_it_comes_from() {
    let ctx = session(2, 8192);
    register(&ctx, "texts", Arc::new(StringArray::from(TEXTS.to_vec())));
    for (call, model, role) in [
        ("embed(body)".to_owned(), "sentence-transformers/all-MiniLM-L6-v2", "plain"),
        (format!("embed_query(body, '{TINY}')"), TINY, "query"),
        (format!("embed_document(body, '{CLS}')"), CLS, "document"),
    ] {
        let frame = ctx.sql(&format!("SELECT {call} AS vector FROM texts")).await.expect(&call);
        let planned = frame.schema().field(0).metadata().clone();
        let made = frame.collect().await.expect(&call)[0].schema().field(0).metadata().clone();
        assert_eq!(planned, made, "{call}");
        assert_eq!((planned["embed.model"].as_str(), planned["embed.role"].as_str()), (model, role));
        assert_eq!(planned["embed.precision"], "f32");
        // A directory has no revision, the bundled model has the hash of its weights.
        assert_eq!(planned["embed.revision"].is_empty(), model == TINY || model == CLS, "{planned:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn set_changes_the_dimension_of_what_is_planned_next() {
    let ctx = session(2, 8192);
    register(&ctx, "texts", Arc::new(StringArray::from(TEXTS.to_vec())));
    let before = ctx.sql("SELECT embed(body) FROM texts").await.expect("planned");
    run(&ctx, &format!("SET embed.model = '{TINY}'")).await;
    let after = ctx.sql("SELECT embed(body) FROM texts").await.expect("planned");
    for (frame, dim) in [(before, 384), (after, 32)] {
        assert_eq!(*frame.schema().field(0).data_type(), vector_type(dim));
        for batch in frame.collect().await.expect("run") {
            assert_eq!(*batch.column(0).data_type(), vector_type(dim));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dimensions_keeps_the_first_values() {
    let ctx = session(2, 8192);
    register(&ctx, "texts", Arc::new(StringArray::from(TEXTS.to_vec())));
    for (model, normalised) in [(TINY, true), (CLS, false)] {
        let query = format!("SELECT id, embed(body, '{model}') FROM texts");
        let whole = floats(vectors_by_id(&ctx, &query).await);
        run(&ctx, "SET embed.dimensions = 10").await;
        let frame = ctx.sql(&query).await.expect("planned");
        assert_eq!(*frame.schema().field(1).data_type(), vector_type(10));
        let short = floats(vectors_by_id(&ctx, &query).await);
        run(&ctx, "SET embed.dimensions = 0").await;
        for (id, whole) in whole {
            let whole = whole.map(|vector| vector[..10].to_vec());
            let length = whole.as_ref().map_or(1.0, |vector| vector.iter().map(|x| x * x).sum::<f32>().sqrt());
            let scale = if normalised { length } else { 1.0 };
            let expected = whole.map(|vector| vector.into_iter().map(|x| x / scale).collect::<Vec<_>>());
            assert_close(&format!("{model}, row {id}"), &short[&id], &expected, 1e-6);
        }
    }
}

/// Vectors as numbers.
fn floats(vectors: BTreeMap<i64, Option<Vec<u32>>>) -> BTreeMap<i64, Option<Vec<f32>>> {
    let float = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
    vectors.into_iter().map(|(id, vector)| (id, vector.map(float))).collect()
}

#[track_caller]
fn assert_close(what: &str, found: &Option<Vec<f32>>, expected: &Option<Vec<f32>>, tolerance: f32) {
    let (Some(found), Some(expected)) = (found, expected) else {
        assert_eq!(found, expected, "{what}");
        return;
    };
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= tolerance, "{what} differs by {difference}, allowed {tolerance}");
}

// ---- The oracle, see tests/fixtures/README.md ----

fn fixture_texts() -> Vec<Option<String>> {
    let json = fs::read_to_string("tests/fixtures/texts.json").expect("fixture");
    let texts: Vec<String> = serde_json::from_str(&json).expect("a list of texts");
    texts.into_iter().map(Some).collect()
}

/// A tensor of `expected.safetensors`: rows of four-byte values.
fn expected(name: &str) -> Vec<Vec<[u8; 4]>> {
    let bytes = fs::read("tests/fixtures/expected.safetensors").expect("fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor(name).expect(name);
    let width = tensor.shape().get(1).copied().unwrap_or(1);
    tensor.data().as_chunks::<4>().0.chunks(width).map(<[_]>::to_vec).collect()
}

fn expected_vectors(name: &str) -> Vec<Vec<f32>> {
    expected(name).into_iter().map(|row| row.into_iter().map(f32::from_le_bytes).collect()).collect()
}

/// Where the texts of the oracle come from.
async fn register_oracle_texts(ctx: &SessionContext, directory: &tempfile::TempDir) -> [String; 2] {
    register_texts(ctx, &fixture_texts(), 50);
    let file = directory.path().join("texts.parquet").display().to_string();
    run(ctx, &format!("COPY texts TO '{file}'")).await;
    ["texts".to_owned(), format!("'{file}'")]
}

async fn assert_oracle(ctx: &SessionContext, query: &str, name: &str, tolerance: f32) {
    let found = floats(vectors_by_id(ctx, query).await);
    let expected = expected_vectors(name);
    assert_eq!(found.len(), expected.len(), "{query}");
    for (id, expected) in expected.into_iter().enumerate() {
        assert_close(&format!("{query}: text {id}"), &found[&(id as i64)], &Some(expected), tolerance);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_models_give_the_vectors_of_sentence_transformers() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let ctx = session(2, 8192);
    for table in register_oracle_texts(&ctx, &directory).await {
        for (function, model, name) in [
            ("embed", TINY, "tiny-bert.plain"),
            ("embed_query", TINY, "tiny-bert.query"),
            ("embed_document", TINY, "tiny-bert.document"),
            ("embed", CLS, "tiny-bert-cls.plain"),
        ] {
            let query = format!("SELECT id, {function}(body, '{model}') FROM {table}");
            assert_oracle(&ctx, &query, name, 1e-5).await;
        }
    }
}

#[cfg(feature = "bundled-model")]
#[tokio::test(flavor = "multi_thread")]
async fn the_bundled_model_gives_the_vectors_of_sentence_transformers() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let ctx = session(2, 8192);
    let [_, parquet] = register_oracle_texts(&ctx, &directory).await;
    assert_oracle(&ctx, &format!("SELECT id, embed(body) FROM {parquet}"), "minilm.plain", 5e-4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn literals_give_the_vectors_of_sentence_transformers() {
    let ctx = session(2, 8192);
    let expected = expected_vectors("tiny-bert.query");
    for (id, (text, expected)) in fixture_texts().into_iter().flatten().zip(expected).enumerate() {
        let literal = text.replace('\'', "''");
        let query = format!("SELECT {id}, embed_query('{literal}', '{TINY}')");
        let found = floats(vectors_by_id(&ctx, &query).await);
        assert_close(&format!("text {id}"), &found[&(id as i64)], &Some(expected), 1e-5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_counts_are_those_of_sentence_transformers() {
    let ctx = session(2, 8192);
    register_texts(&ctx, &fixture_texts(), 50);
    for (call, name) in [
        (format!("embed_tokens(body, '{TINY}')"), "tiny-bert.tokens"),
        #[cfg(feature = "bundled-model")]
        ("embed_tokens(body)".to_owned(), "minilm.tokens"),
    ] {
        let expected: Vec<_> = expected(name).into_iter().map(|row| i64::from(i32::from_le_bytes(row[0]))).collect();
        let mut found = Vec::new();
        for batch in run(&ctx, &format!("SELECT {call} FROM texts ORDER BY id")).await {
            found.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        }
        assert_eq!(found, expected, "{call}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vector_column_survives_files() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let ctx = session(2, 8192);
    register_texts(&ctx, &fixture_texts(), 50);
    let query = format!("SELECT id, embed(body, '{TINY}') AS vector FROM texts");
    let written = vectors_by_id(&ctx, &query).await;
    run(&ctx, "SET datafusion.execution.parquet.skip_metadata = false").await;
    for kind in ["parquet", "arrow"] {
        let file = directory.path().join(format!("x.{kind}")).display().to_string();
        run(&ctx, &format!("COPY ({query}) TO '{file}'")).await;
        let read = format!("SELECT id, vector FROM '{file}'");
        assert!(vectors_by_id(&ctx, &read).await == written, "{kind}");
        let frame = ctx.sql(&read).await.expect("planned");
        let field = frame.schema().field(1);
        assert_eq!(*field.data_type(), vector_type(32), "{kind}");
        assert_eq!(field.metadata().get("embed.model").map(String::as_str), Some(TINY), "{kind}");
    }
}

// ---- cosine_similarity ----

/// A zero vector, a NULL, and numbers that every type holds.
const VECTORS: [Option<[f64; 3]>; 5] =
    [Some([1.0, 2.0, 2.0]), Some([0.0, 0.0, 0.0]), None, Some([-1.0, 0.0, 3.0]), Some([2.0, 4.0, 4.0])];

/// [`VECTORS`] in every type that `cosine_similarity` takes.
fn vector_columns() -> Vec<ArrayRef> {
    let rows = VECTORS.map(|row| row.map(|row| row.map(Some)));
    let list = ListArray::from_iter_primitive::<Float64Type, _, _>(rows);
    let mut columns = Vec::new();
    for number in [DataType::Float32, DataType::Float64, DataType::Int64] {
        let item = Arc::new(Field::new_list_field(number, true));
        for data_type in [
            DataType::FixedSizeList(Arc::clone(&item), 3),
            DataType::List(Arc::clone(&item)),
            DataType::LargeList(item),
        ] {
            columns.push(cast(&list, &data_type).expect("a list to a list"));
        }
    }
    columns
}

/// The formula, in f64.
fn twin(a: Option<[f64; 3]>, b: Option<[f64; 3]>) -> Option<f32> {
    let product = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (a, b) = (a?, b?);
    let lengths = product(a, a).sqrt() * product(b, b).sqrt();
    Some(if lengths == 0.0 { 0.0 } else { (product(a, b) / lengths) as f32 })
}

async fn scores(ctx: &SessionContext, query: &str) -> Vec<Option<f32>> {
    let batches = run(ctx, query).await;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Float32Type>().iter().collect::<Vec<_>>()).collect()
}

#[track_caller]
fn assert_scores(what: &str, found: &[Option<f32>], expected: &[Option<f32>]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let found = found.map(|score| vec![score]);
        assert_close(what, &found, &expected.map(|score| vec![score]), 1e-6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cosine_similarity_takes_every_pair_of_list_types() {
    let ctx = session(1, 8192);
    let columns = vector_columns();
    for (number, column) in columns.iter().enumerate() {
        register(&ctx, &format!("t{number}"), Arc::clone(column));
        // From the second row on: a slice whose values do not begin at 0.
        register(&ctx, &format!("s{number}"), column.slice(1, VECTORS.len() - 1));
    }
    for (a, a_column) in columns.iter().enumerate() {
        let what = a_column.data_type().to_string();
        let constant: Vec<_> = VECTORS.map(|row| twin(row, Some([3.0, 0.0, 1.0]))).into();
        let query = |table: String| format!("SELECT cosine_similarity(body, [3, 0, 1]) FROM {table} ORDER BY id");
        assert_scores(&what, &scores(&ctx, &query(format!("t{a}"))).await, &constant);
        assert_scores(&what, &scores(&ctx, &query(format!("s{a}"))).await, &constant[1..]);
        let query = format!("SELECT cosine_similarity([3.0, 0.0, 1.0], body) FROM t{a} ORDER BY id");
        assert_scores(&what, &scores(&ctx, &query).await, &constant);
        for (b, b_column) in columns.iter().enumerate() {
            let query = format!(
                "SELECT cosine_similarity(a.body, b.body) FROM t{a} a JOIN t{b} b ON b.id = (a.id + 3) % 5 ORDER BY a.id"
            );
            let expected: Vec<_> = (0..5).map(|row| twin(VECTORS[row], VECTORS[(row + 3) % 5])).collect();
            assert_scores(&format!("{what}, {}", b_column.data_type()), &scores(&ctx, &query).await, &expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cosine_similarity_of_literals() {
    let ctx = session(1, 8192);
    for (call, expected) in [
        ("cosine_similarity([1, 2, 2], [2.0, 4.0, 4.0])", Some(1.0)),
        ("cosine_similarity([1, 0], [-1, 0])", Some(-1.0)),
        ("cosine_similarity([0, 0], [1, 2])", Some(0.0)),
        ("cosine_similarity([], [])", Some(0.0)),
        ("cosine_similarity(NULL, [1])", None),
        ("cosine_similarity([1], NULL)", None),
        ("cosine_similarity(NULL, NULL)", None),
    ] {
        assert_scores(call, &scores(&ctx, &format!("SELECT {call}")).await, &[expected]);
    }
    let query = format!("SELECT cosine_similarity(embed('a rose', '{TINY}'), embed('a rose', '{TINY}'))");
    assert_scores(&query, &scores(&ctx, &query).await, &[Some(1.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cosine_similarity_refuses_what_cannot_be_compared() {
    let ctx = session(1, 8192);
    register(&ctx, "texts", Arc::new(StringArray::from(TEXTS.to_vec())));
    // The length is in the type: known before a row is embedded.
    let query = format!("SELECT cosine_similarity(embed(body, '{TINY}'), embed(body, '{CLS}')) FROM texts");
    let error = ctx.sql(&query).await.expect_err("no vector of 32 is comparable to one of 48").to_string();
    assert!(error.contains("vectors of 32 and of 48 values cannot be compared"), "{error}");
    // It is not in the type of a List: known when the rows are there.
    let lists =
        ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(1.0)]), Some(vec![Some(1.0), None])]);
    register(&ctx, "lists", Arc::new(lists));
    for (query, part) in [
        ("SELECT cosine_similarity(body, [1.0]) FROM lists WHERE id = 1", "vector has a NULL among its values"),
        ("SELECT cosine_similarity(body, [1.0, 2.0]) FROM lists WHERE id = 0", "vectors of 1 and of 2 values"),
        ("SELECT cosine_similarity([1], [1, 2])", "vectors of 1 and of 2 values"),
    ] {
        let error = ctx.sql(query).await.expect("planned").collect().await.expect_err(query).to_string();
        assert!(error.contains(part), "{query}: {error}");
    }
}

//! Plans as bytes: what they say in another session, what they keep to themselves, and what is refused.

use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::SessionContext;
use datafusion_embed::{Access, EmbedCodec, EmbedOptions, register_as, register_with};
use datafusion_proto::physical_plan::{
    DefaultPhysicalProtoConverter, PhysicalExtensionCodec, PhysicalProtoConverterExtension,
};
use proptest::prelude::*;
use tempfile::tempdir;

use crate::identity::{Model, WEIGHTS, Way, change, set_cache};
use crate::plan::with_own_planner;
use crate::support::{
    bytes_of, copy_folder, embedded, layout, physical, plan_from, rows_as_text, run, run_elsewhere, tiny_session,
};

/// Every function.
const CALLS: &str = "SELECT embed(concat('text ', value)) AS e, embed_tokens(concat('text ', value)) AS tokens, \
    cosine_similarity(embed_query(concat('text ', value)), embed('q')) AS near FROM generate_series(1, 50)";

/// Sessions in which calls become operators, and in which they stay functions.
fn planners() -> [(SessionContext, bool); 2] {
    [(tiny_session(2, 100), true), (with_own_planner(false, 2, 100), false)]
}

fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

fn bits(batches: &[RecordBatch]) -> Vec<String> {
    rows_as_text(batches, |column, row| format!("{:?}", column.slice(row, 1)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_from_bytes_is_the_plan_and_runs_where_it_is_read() {
    for (here, is_lifted) in planners() {
        let (there, bare) = (tiny_session(2, 100), SessionContext::new());
        let plan = physical(&here, CALLS).await;
        let bytes = bytes_of(Arc::clone(&plan)).expect("written");
        let read = plan_from(&bytes, &there).expect("read");
        assert_eq!(shown(&read), shown(&plan));
        assert_eq!(shown(&read).contains("EmbedExec"), is_lifted);
        // DataFusion writes down no metadata of a function's column.
        assert!(!is_lifted || read.schema() == plan.schema(), "with the metadata of its columns");
        // A cluster's scheduler reads a plan and writes its parts.
        let again = bytes_of(Arc::clone(&read)).expect("written again");
        assert_eq!(shown(&plan_from(&again, &bare).expect("read again")), shown(&plan));
        let rows = collect(read, there.task_ctx()).await.expect("rows");
        // A planner that is not ours folds the literal, so that it is a part of the plan.
        let folded = i64::from(!is_lifted);
        assert_eq!((embedded(&here).await, embedded(&there).await), (folded, 101 - folded));
        // Also where nothing was ever registered.
        let anywhere = collect(plan_from(&bytes, &bare).expect("read"), bare.task_ctx()).await.expect("rows");
        assert_eq!(bits(&anywhere), bits(&rows));
        assert_eq!(bits(&collect(plan, here.task_ctx()).await.expect("rows")), bits(&rows));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_decides_the_vectors_and_the_machine_how_they_come() {
    for sql in [
        "SELECT embed(concat('a text of some length ', value)) AS e FROM generate_series(1, 20)",
        "SELECT embed_query(concat('a text of some length ', value)) AS e FROM generate_series(1, 20)",
        "SELECT first_value(embed_document(concat('a text of some length ', value)) ORDER BY value) FROM generate_series(1, 20)",
    ] {
        let decisive = EmbedOptions::default().model("tests/fixtures/tiny-bert").max_tokens(5).dimensions(3);
        let here = SessionContext::new_with_config(layout(2, 7));
        register_with(&here, decisive).expect("registered");
        let there = tiny_session(1, 100);
        run(&there, "SET embed.max_tokens = 4").await;
        run(&there, "SET embed.dimensions = 2").await;
        run(&there, "SET embed.batch_size = 1").await;
        let kept = tempdir().expect("a folder");
        set_cache(&there, &kept).await;
        let rows = run_elsewhere(&here, &there, sql).await.expect("rows");
        let mut expected = bits(&run(&here, sql).await);
        let mut found = bits(&rows);
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(rows[0].column(0).as_fixed_size_list().value_length(), 3);
        assert!(
            fs::read_dir(kept.path()).expect("a folder").count() > 0,
            "kept in the folder of the machine that ran it"
        );
    }
}

/// What makes a model another one, and what is said of it.
#[derive(Debug, Clone, Copy)]
enum Other {
    Dimensions,
    Configuration,
    Weights,
}

impl Other {
    /// Changes the model's files; gives what the error says.
    fn make(self, model: &Model) -> &'static str {
        match self {
            Self::Dimensions => {
                copy_other(model);
                "values here, and"
            }
            Self::Configuration => {
                fs::write(model.file("sentence_bert_config.json"), "{\"max_seq_length\": 16}").expect("written");
                "its files say something else than where the query was planned"
            }
            Self::Weights => {
                change(&model.file(WEIGHTS), Way::Renamed);
                "where the query was planned; use the same model in both places, or plan the query again"
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_under_the_name_is_an_error_before_the_first_row() {
    for other in [Other::Dimensions, Other::Configuration, Other::Weights] {
        for (here, is_lifted) in planners() {
            let (model, there, kept) = (Model::new(), tiny_session(1, 100), tempdir().expect("a folder"));
            let name = model.0.path().display();
            let sql = format!("SELECT embed(concat('text ', value), '{name}') FROM generate_series(1, 5)");
            // What is kept needs the fingerprint, which is known from then on.
            set_cache(&here, &kept).await;
            model.vector(&here, "a text").await;
            let bytes = bytes_of(physical(&here, &sql).await).expect("written");
            collect(plan_from(&bytes, &there).expect("read"), there.task_ctx()).await.expect("the same model");
            let says = other.make(&model);
            let there = tiny_session(1, 100);
            let error = collect(plan_from(&bytes, &there).expect("read"), there.task_ctx()).await.expect_err(&sql);
            assert!(error.to_string().contains(says), "{other:?}, lifted {is_lifted}: {error}");
            assert_eq!(embedded(&there).await, 0);
        }
    }
}

/// Makes a model another one with vectors of another length.
fn copy_other(model: &Model) {
    copy_folder(Path::new("tests/fixtures/architectures/electra"), model.0.path());
}

/// A plan gives nobody more than the session has that runs it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_forbids_no_plan_from_elsewhere_may() {
    for (here, _) in planners() {
        let there = SessionContext::new();
        let access = Access::default().with_directories(false);
        register_as(&there, EmbedOptions::default(), access).expect("registered");
        let error = run_elsewhere(&here, &there, CALLS).await.expect_err("not allowed").to_string();
        assert!(
            error.contains("tests/fixtures/tiny-bert") && error.contains("this host does not allow model directories"),
            "{error}"
        );
    }
}

/// Nothing of a session is in the bytes but what decides a vector.
#[tokio::test(flavor = "multi_thread")]
async fn no_folder_and_no_device_is_written() {
    let kept = tempdir().expect("a folder");
    for (here, _) in planners() {
        set_cache(&here, &kept).await;
        let bytes = bytes_of(physical(&here, CALLS).await).expect("written");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("tests/fixtures/tiny-bert"));
        assert!(!text.contains(&kept.path().display().to_string()) && !text.contains("cpu"), "{text}");
    }
}

/// A codec of somebody else, which says what it was asked for.
#[derive(Debug)]
struct Others;

impl PhysicalExtensionCodec for Others {
    fn try_decode(
        &self,
        _: &[u8],
        _: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        exec_err!("asked to decode")
    }

    fn try_encode(
        &self,
        _: Arc<dyn ExecutionPlan>,
        _: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        exec_err!("asked to encode")
    }

    fn try_encode_udf(&self, function: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        buf.extend(function.name().bytes().rev());
        Ok(())
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        exec_err!("asked for {name}: {}", String::from_utf8_lossy(buf))
    }
}

#[test]
fn what_is_not_ours_goes_to_the_other_codec() {
    let codec = EmbedCodec::over(Arc::new(Others));
    let upper = datafusion::functions::string::upper();
    let mut bytes = Vec::new();
    codec.try_encode_udf(&upper, &mut bytes).expect("written");
    assert_eq!(bytes, b"reppu");
    let error = codec.try_decode_udf("upper", &bytes).expect_err("the other's").to_string();
    assert!(error.contains("asked for upper: reppu"), "{error}");
    let ctx = SessionContext::new().task_ctx();
    let error = codec.try_decode(b"embedsql", &[], &ctx, &CONVERTER).expect_err("the other's").to_string();
    assert!(error.contains("asked to decode"), "{error}");
}

#[test]
fn bytes_of_another_version_are_refused_by_name() {
    let codec = EmbedCodec::default();
    let error =
        codec.try_decode_udf("embed", b"datafusion-embed 0\nwhatever").expect_err("another version").to_string();
    assert!(
        error.contains("another version of datafusion-embed than 0.") && error.contains("the same version"),
        "{error}"
    );
}

/// The operator of a plan.
fn operator(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    if plan.name() == "EmbedExec" {
        return Some(Arc::clone(plan));
    }
    plan.children().into_iter().find_map(operator)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    /// Whatever stands in our part of the bytes: a plan or an error.
    #[test]
    fn broken_bytes_are_no_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static WHOLE: LazyLock<Whole> = LazyLock::new(Whole::default);
        let codec = EmbedCodec::default();
        let broken = |whole: &[u8]| {
            let mut bytes = whole.to_vec();
            for (place, value) in &changes {
                let place = place.index(bytes.len());
                bytes[place] = *value;
            }
            bytes.truncate(cut.map_or(usize::MAX, |cut| cut.index(bytes.len())));
            bytes
        };
        let _ = codec.try_decode_udf("embed", &broken(&WHOLE.function));
        let _ = codec.try_decode(&broken(&WHOLE.operator), &[Arc::clone(&WHOLE.input)], &WHOLE.context, &CONVERTER);
    }
}

const CONVERTER: DefaultPhysicalProtoConverter = DefaultPhysicalProtoConverter {};

/// Bytes of an operator and of a function.
struct Whole {
    operator: Vec<u8>,
    input: Arc<dyn ExecutionPlan>,
    function: Vec<u8>,
    context: Arc<TaskContext>,
}

impl Default for Whole {
    fn default() -> Self {
        let (ctx, codec) = (tiny_session(1, 100), EmbedCodec::default());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let exec = operator(&runtime.block_on(physical(&ctx, CALLS))).expect("an operator");
        let (input, context) = (Arc::clone(exec.children()[0]), ctx.task_ctx());
        let (mut operator, mut function) = (Vec::new(), Vec::new());
        codec.try_encode(exec, &mut operator, &CONVERTER).expect("written");
        codec.try_encode_udf(&context.scalar_functions()["embed"], &mut function).expect("written");
        Self { operator, input, function, context }
    }
}

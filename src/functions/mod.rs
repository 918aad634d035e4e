//! The SQL functions: one file each, a face and not a body.
//!
//! | file | function |
//! |---|---|
//! | `embed.rs` | `embed`, `embed_query`, `embed_document`: one function in three roles |
//! | `embed_tokens.rs` | `embed_tokens` |
//! | `cosine_similarity.rs` | `cosine_similarity` |
//! | `vector/` | `vector_add` and its sisters, distances, `vector_avg` |
//! | `embed_models.rs` | `embed_models()` |
//! | `embed_cache.rs` | `embed_cache()` |
//! | `flatten.rs` | `flatten`: DataFusion's, mended |
//! | `read_text.rs` | `read_text()`, `read_lines()`: only where files are read by their names |
//! | `written.rs` | a function out of this session's plan as data, and back in another session |
//! | `literals.rs` | vectors of literals, which are there when a query runs |
//! | `settings.rs` | what a function was planned under, and the session that it runs in |
//! | `state_table.rs` | what the two tables have in common |
//! | `text.rs` | how a text column and a model name are read |

mod cosine_similarity;
mod embed;
mod embed_cache;
mod embed_models;
mod embed_tokens;
mod flatten;
mod literals;
mod read_text;
mod settings;
mod state_table;
mod text;
mod vector;
#[cfg(feature = "cluster")]
mod written;

use std::any::Any;
use std::sync::Arc;

use datafusion::catalog::TableFunctionImpl;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
#[cfg(feature = "cluster")]
use datafusion::functions_aggregate::{average::avg_udaf, sum::sum_udaf};
#[cfg(feature = "cluster")]
use datafusion::logical_expr::AggregateUDF;
use datafusion::logical_expr::ScalarUDF;

use crate::model::Role;
use cosine_similarity::CosineSimilarity;
pub(crate) use embed::{Embed, vector, vectors};
use embed_tokens::EmbedTokens;
pub(crate) use flatten::Flatten;
pub(crate) use literals::Literals;
pub(crate) use read_text::ReadText;
pub(crate) use settings::Settings;
use state_table::StateTable;
pub(crate) use text::{TextColumn, literal_text};
use vector::{VectorFunction, VectorOperators, VectorTotal, WithVectors};
pub(crate) use vector::{WITH_OPERATORS, with_operators};
#[cfg(feature = "cluster")]
pub(crate) use written::{WrittenCall, WrittenFunction};

/// Puts every function into a session's state, and gives the names of the host's own functions that were in their place.
pub(crate) fn register(state: &mut SessionState, settings: &Settings) -> Result<Vec<String>> {
    let mut functions: Vec<ScalarUDF> = Role::ALL.map(|role| Embed::new(role, settings.clone()).into()).into();
    functions.push(EmbedTokens::new(settings.clone()).into());
    functions.push(CosineSimilarity::new().into());
    functions.extend(VectorFunction::all().map(ScalarUDF::from));
    let mut replaced = Vec::new();
    for function in functions {
        let former = state.register_udf(Arc::new(function))?;
        replaced.extend(former.filter(|former| !is_ours(former)).map(|former| former.name().to_owned()));
    }
    for function in [VectorTotal::average(), VectorTotal::sum()] {
        let former = state.register_udaf(Arc::new(function.into()))?;
        let others = former.filter(|former| !former.inner().is::<VectorTotal>());
        replaced.extend(others.map(|former| former.name().to_owned()));
    }
    let operators = VectorOperators::new(|name| state.udf(name))?;
    state.register_expr_planner(Arc::new(operators))?;
    for table in [embed_cache::table(), embed_models::table()] {
        let former = state.table_functions().get(table.name);
        if former.is_some_and(|former| !is_our_table(former.function())) {
            replaced.push(table.name.to_owned());
        }
        state.register_udtf(table.name, Arc::new(table));
    }
    Ok(replaced)
}

/// Lets `avg` and `sum` of a session take vectors.
pub(crate) fn average_vectors(state: &mut SessionState) -> Result<()> {
    for name in ["avg", "sum"] {
        let usual = state.udaf(name)?;
        if let Some(function) = WithVectors::of(usual) {
            state.register_udaf(Arc::new(function.into()))?;
        }
    }
    Ok(())
}

/// Whether a function is one of those.
#[cfg(feature = "cluster")]
pub(crate) fn takes_vectors_too(function: &AggregateUDF) -> bool {
    function.inner().is::<WithVectors>()
}

/// The one of a name.
#[cfg(feature = "cluster")]
pub(crate) fn average_vectors_as(name: &str) -> Option<AggregateUDF> {
    let usual = match name {
        "avg" => avg_udaf(),
        "sum" => sum_udaf(),
        _ => return None,
    };
    WithVectors::of(usual).map(AggregateUDF::from)
}

/// A function of vectors by its name.
#[cfg(feature = "cluster")]
pub(crate) fn vector_function_named(name: &str) -> Option<ScalarUDF> {
    VectorFunction::all().map(ScalarUDF::from).find(|function| function.name() == name)
}

/// One that makes a vector of many.
#[cfg(feature = "cluster")]
pub(crate) fn aggregate_named(name: &str) -> Option<AggregateUDF> {
    [VectorTotal::average(), VectorTotal::sum()]
        .map(AggregateUDF::from)
        .into_iter()
        .find(|function| function.name() == name)
}

fn is_ours(function: &ScalarUDF) -> bool {
    let inner = function.inner();
    inner.is::<Embed>() || inner.is::<EmbedTokens>() || inner.is::<CosineSimilarity>() || inner.is::<VectorFunction>()
}

fn is_our_table(function: &Arc<dyn TableFunctionImpl>) -> bool {
    (function.as_ref() as &dyn Any).is::<StateTable>()
}

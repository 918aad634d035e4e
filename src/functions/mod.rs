//! The SQL functions: one file each, a face and not a body.
//!
//! | file | function |
//! |---|---|
//! | `embed.rs` | `embed`, `embed_query`, `embed_document`: one function in three roles |
//! | `embed_tokens.rs` | `embed_tokens` |
//! | `embed_chunks.rs` | `embed_chunks` |
//! | `vector/` | `vector_add` and its sisters, `cosine_similarity` and distances, `quantize_int8`, `vector_avg` |
//! | `embed_models.rs` | `embed_models()` |
//! | `embed_cache.rs` | `embed_cache()` |
//! | `fixed_lists.rs` | casts to lists of a fixed length: Arrow's, mended |
//! | `flatten.rs` | `flatten`: DataFusion's, mended |
//! | `read_text.rs` | `read_text()`, `read_lines()`: only where files are read by their names |
//! | `written.rs` | a function out of this session's plan as data, and back in another session |
//! | `literals.rs` | vectors of literals, which are there when a query runs |
//! | `settings.rs` | what a function was planned under, and the session that it runs in |
//! | `state_table.rs` | what the two tables have in common |
//! | `text.rs` | how a text column and a model name are read |

mod embed;
mod embed_cache;
mod embed_chunks;
mod embed_models;
mod embed_tokens;
mod fixed_lists;
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
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

use crate::model::Role;
pub(crate) use embed::{Embed, vector, vectors};
use embed_chunks::EmbedChunks;
use embed_tokens::EmbedTokens;
pub(crate) use fixed_lists::FixedLists;
use fixed_lists::FromFirst;
use flatten::Flatten;
pub(crate) use literals::Literals;
pub(crate) use read_text::ReadText;
pub(crate) use settings::Settings;
use state_table::StateTable;
pub(crate) use text::{TextColumn, literal_text};
use vector::{Int8Ranges, VectorFunction, VectorOperators, VectorTotal, WithVectors};
pub(crate) use vector::{WITH_OPERATORS, with_operators};
#[cfg(feature = "cluster")]
pub(crate) use written::{WrittenCall, WrittenFunction};

/// Puts every function into a session's state, and gives the names of the host's own functions that were in their place.
pub(crate) fn register(state: &mut SessionState, settings: &Settings) -> Result<Vec<String>> {
    let mut functions: Vec<ScalarUDF> = Role::ALL.map(|role| Embed::new(role, settings.clone()).into()).into();
    functions.push(EmbedTokens { settings: settings.clone() }.into());
    functions.push(EmbedChunks { settings: settings.clone() }.into());
    functions.extend(VectorFunction::all().map(ScalarUDF::from));
    let mut replaced = Vec::new();
    for function in functions {
        let former = state.register_udf(Arc::new(function))?;
        replaced.extend(former.filter(|former| !is_ours(former)).map(|former| former.name().to_owned()));
    }
    for function in aggregates() {
        let former = state.register_udaf(Arc::new(function))?;
        let others = former.filter(|former| !former.inner().is::<VectorTotal>() && !former.inner().is::<Int8Ranges>());
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

/// What sessions of ours have mended of DataFusion and Arrow.
pub(crate) fn mended() -> [Arc<ScalarUDF>; 2] {
    [ScalarUDF::from(Flatten::new()), FromFirst::new().into()].map(Arc::new)
}

/// Those that make one value of many vectors.
fn aggregates() -> [AggregateUDF; 3] {
    [VectorTotal::average().into(), VectorTotal::sum().into(), Int8Ranges::new().into()]
}

/// Lets `avg` and `sum` of a session take vectors.
pub(crate) fn average_vectors(state: &mut SessionState) -> Result<()> {
    WithVectors::all().into_iter().try_for_each(|function| state.register_udaf(Arc::new(function.into())).map(|_| ()))
}

/// Whether a function is one of those.
#[cfg(feature = "cluster")]
pub(crate) fn takes_vectors_too(function: &AggregateUDF) -> bool {
    function.inner().is::<WithVectors>()
}

/// The one of a name.
#[cfg(feature = "cluster")]
pub(crate) fn average_vectors_as(name: &str) -> Option<AggregateUDF> {
    WithVectors::all().map(AggregateUDF::from).into_iter().find(|function| function.name() == name)
}

/// A function of vectors by its name.
#[cfg(feature = "cluster")]
pub(crate) fn vector_function_named(name: &str) -> Option<ScalarUDF> {
    VectorFunction::all().map(ScalarUDF::from).find(|function| function.name() == name)
}

/// One that makes one value of many.
#[cfg(feature = "cluster")]
pub(crate) fn aggregate_named(name: &str) -> Option<AggregateUDF> {
    aggregates().into_iter().find(|function| function.name() == name)
}

fn is_ours(function: &ScalarUDF) -> bool {
    let inner = function.inner();
    inner.is::<Embed>() || inner.is::<EmbedTokens>() || inner.is::<EmbedChunks>() || inner.is::<VectorFunction>()
}

fn is_our_table(function: &Arc<dyn TableFunctionImpl>) -> bool {
    (function.as_ref() as &dyn Any).is::<StateTable>()
}

//! Calls of the functions as expressions, for programs that build plans with DataFrames.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use datafusion::prelude::*;
//! use datafusion_embed::expr_fn::{cosine_similarity, embed};
//!
//! let ctx = SessionContext::new();
//! datafusion_embed::register(&ctx)?;
//! # #[cfg(feature = "bundled-model")] {
//! let texts = ctx.sql("SELECT column1 AS text FROM (VALUES ('a bicycle'), ('a garden'))").await?;
//! let score = cosine_similarity(&ctx, embed(&ctx, col("text"))?, embed(&ctx, lit("flowers"))?)?;
//! let nearest = texts.sort(vec![score.sort(false, false)])?.limit(0, Some(1))?;
//! assert!(nearest.to_string().await?.contains("a garden"));
//! # }
//! # datafusion::error::Result::<()>::Ok(())
//! # }).unwrap();
//! ```
//!
//! Every function takes the context whose settings it is planned under. An error says that nothing was registered there.

use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{SessionContext, lit};

/// `embed(text)`: the vector of a text.
pub fn embed(ctx: &SessionContext, text: Expr) -> Result<Expr> {
    call(ctx, "embed", vec![text])
}

/// `embed(text, model)`: the vector that another model gives a text.
pub fn embed_with(ctx: &SessionContext, text: Expr, model: &str) -> Result<Expr> {
    call(ctx, "embed", vec![text, lit(model)])
}

/// `embed_query(text)`: the vector of a text with the model's query prompt before it.
pub fn embed_query(ctx: &SessionContext, text: Expr) -> Result<Expr> {
    call(ctx, "embed_query", vec![text])
}

/// `embed_document(text)`: the vector of a text with the model's document prompt before it.
pub fn embed_document(ctx: &SessionContext, text: Expr) -> Result<Expr> {
    call(ctx, "embed_document", vec![text])
}

/// `embed_tokens(text)`: number of tokens of a text before truncation.
pub fn embed_tokens(ctx: &SessionContext, text: Expr) -> Result<Expr> {
    call(ctx, "embed_tokens", vec![text])
}

/// `embed_chunks(text, max_tokens, overlap)`: the parts of a text that the model reads whole; a `max_tokens` of 0 is as many as it
/// reads.
pub fn embed_chunks(ctx: &SessionContext, text: Expr, max_tokens: u64, overlap: u64) -> Result<Expr> {
    call(ctx, "embed_chunks", vec![text, lit(max_tokens), lit(overlap)])
}

/// `cosine_similarity(a, b)` of two vectors.
pub fn cosine_similarity(ctx: &SessionContext, a: Expr, b: Expr) -> Result<Expr> {
    call(ctx, "cosine_similarity", vec![a, b])
}

fn call(ctx: &SessionContext, function: &str, args: Vec<Expr>) -> Result<Expr> {
    Ok(ctx.udf(function)?.call(args))
}

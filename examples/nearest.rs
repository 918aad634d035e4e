//! Loads a table, embeds it, and prints the rows nearest to a question:
//! `cargo run --release --example nearest -- "cheap flights"`.

use datafusion::common::ScalarValue;
use datafusion::prelude::{ParquetReadOptions, SessionContext};

#[tokio::main]
async fn main() -> datafusion::error::Result<()> {
    let question = std::env::args().nth(1).unwrap_or_else(|| "cheap flights".to_owned());
    let ctx = SessionContext::new();
    datafusion_embed::register(&ctx)?;
    ctx.register_parquet("docs", "sql/docs.parquet", ParquetReadOptions::default()).await?;
    let nearest = ctx
        .sql("SELECT title, cosine_similarity(embed(body), embed($1)) AS score FROM docs ORDER BY score DESC NULLS LAST LIMIT 5")
        .await?
        .with_param_values(vec![ScalarValue::from(question)])?;
    nearest.show().await
}

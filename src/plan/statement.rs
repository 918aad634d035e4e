//! A statement's text to its plan, as sessions of ours read it.

use datafusion::common::config::Dialect;
use datafusion::config::{ConfigExtension, ExtensionOptions};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, SetVariable, Statement as PlannedStatement};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;

use crate::functions::{WITH_OPERATORS, with_operators};
use crate::options::EmbedOptions;

/// A plan for one statement, with the operators for vectors where the session reads the generic dialect, and with `RESET` of settings
/// that are not DataFusion's: what `SessionState::create_logical_plan` is for sessions of others.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> datafusion::error::Result<()> {
/// let ctx = datafusion_embed::session(datafusion_embed::SessionOptions::default())?;
/// let plan = datafusion_embed::create_logical_plan(&ctx.state(), "SELECT vector('[0,0]') <-> vector('[3,4]')").await?;
/// let rows = ctx.execute_logical_plan(plan).await?.collect().await?;
/// # assert_eq!(rows[0].num_rows(), 1);
/// # Ok(())
/// # }
/// ```
pub async fn create_logical_plan(state: &SessionState, sql: &str) -> Result<LogicalPlan> {
    Ok(reset_settings(state.statement_to_plan(sql_to_statement(state, sql)?).await?))
}

/// The statement of a text, as [`create_logical_plan`] reads it: what `SessionState::sql_to_statement` is for sessions of others.
pub fn sql_to_statement(state: &SessionState, sql: &str) -> Result<Statement> {
    let options = &state.config_options().sql_parser;
    let other = || state.sql_to_statement(sql, &options.dialect);
    // What is no text of tokens has an error, which DataFusion says.
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let Some(tokens) = tokens.ok().filter(|_| options.dialect == Dialect::Generic) else { return other() };
    let parser = DFParserBuilder::new(with_operators(tokens)).with_dialect(&WITH_OPERATORS);
    let mut statements = parser.with_recursion_limit(options.recursion_limit.get()).build()?.parse_statements()?;
    match statements.pop_front().filter(|_| statements.is_empty()) {
        Some(statement) => Ok(statement),
        None => other(),
    }
}

/// A `RESET` of a setting of [`EmbedOptions`] as the `SET` to its default that it means, because DataFusion 55 resets only settings of
/// its own. Any other plan is what it was.
///
/// ```
/// # use datafusion_embed::{SessionOptions, reset_settings, session};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> datafusion::error::Result<()> {
/// let ctx = session(SessionOptions::default())?;
/// let plan = ctx.state().create_logical_plan("RESET embed.precision").await?;
/// ctx.execute_logical_plan(reset_settings(plan)).await?;
/// # Ok(())
/// # }
/// ```
pub fn reset_settings(plan: LogicalPlan) -> LogicalPlan {
    let LogicalPlan::Statement(PlannedStatement::ResetVariable(reset)) = &plan else { return plan };
    let variable = reset.variable.clone();
    if variable.split_once('.').is_none_or(|(prefix, _)| prefix != EmbedOptions::PREFIX) {
        return plan;
    }
    let entries = EmbedOptions::default().entries();
    let default = entries.into_iter().find(|entry| entry.key == variable).and_then(|entry| entry.value);
    // A setting that there is not is not found by SET, which says so.
    LogicalPlan::Statement(PlannedStatement::SetVariable(SetVariable { variable, value: default.unwrap_or_default() }))
}

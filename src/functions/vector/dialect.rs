//! How pgvector's operators are read: the generic dialect, and tokens put together.
//!
//! `a <-> b` is no operator of the generic dialect. Its tokenizer makes `<` and `->` of it, which mean nothing beside each other: so
//! operators are put together of tokens that touch, and nothing else reads differently. What they mean is decided where the types
//! are known, by `operators.rs`. Other dialects read what they read.

use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

/// The operators that are more than one token, and their tokens.
const OPERATORS: [(&str, &[Token]); 5] = [
    ("<->", &[Token::Lt, Token::Arrow]),
    ("<#>", &[Token::Lt, Token::HashArrow]),
    ("<+>", &[Token::Lt, Token::Plus, Token::Gt]),
    ("<~>", &[Token::Lt, Token::Tilde, Token::Gt]),
    ("<%>", &[Token::Lt, Token::Mod, Token::Gt]),
];

/// Tokens of the generic dialect, with the operators for vectors.
pub(crate) fn with_operators(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !tokens.iter().any(|token| token.token == Token::Lt) {
        return tokens;
    }
    let mut joined = Vec::with_capacity(tokens.len());
    let mut rest = tokens.as_slice();
    while let [first, behind @ ..] = rest {
        let found = OPERATORS.iter().find(|(_, parts)| begins_with(rest, parts));
        let Some((name, parts)) = found else {
            joined.push(first.clone());
            rest = behind;
            continue;
        };
        let (operator, behind) = rest.split_at(parts.len());
        let span = Span { start: first.span.start, end: operator[parts.len() - 1].span.end };
        joined.push(TokenWithSpan { token: Token::CustomBinaryOperator((*name).to_owned()), span });
        rest = behind;
    }
    joined
}

/// Whether the tokens begin with these, with nothing between them.
fn begins_with(tokens: &[TokenWithSpan], parts: &[Token]) -> bool {
    tokens.len() >= parts.len()
        && tokens.iter().zip(parts).all(|(token, part)| token.token == *part)
        && tokens[..parts.len()].windows(2).all(|pair| pair[0].span.end == pair[1].span.start)
}

/// The generic dialect, in which these operators bind as in PostgreSQL: more than comparisons, and less than `+`.
pub(crate) const WITH_OPERATORS: WithOperators = WithOperators(GenericDialect {});

/// See [`WITH_OPERATORS`].
#[derive(Debug)]
pub(crate) struct WithOperators(GenericDialect);

/// What the generic dialect says of itself; all else it has from the trait, as this one does.
macro_rules! as_generic {
    ($($method:ident),+ $(,)?) => {
        $(fn $method(&self) -> bool {
            self.0.$method()
        })+
    };
}

impl Dialect for WithOperators {
    fn dialect(&self) -> std::any::TypeId {
        self.0.dialect()
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        let is_operator = matches!(parser.peek_token_ref().token, Token::CustomBinaryOperator(_));
        is_operator.then(|| Ok(self.prec_value(Precedence::Pipe)))
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.0.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.0.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.0.is_identifier_part(ch)
    }

    #[rustfmt::skip]
    as_generic! {
        supports_unicode_string_literal, supports_partition_by_after_order_by, supports_array_join_syntax,
        supports_group_by_expr, supports_group_by_with_modifier, supports_left_associative_joins_without_parens,
        supports_connect_by, supports_match_recognize, supports_pipe_operator, supports_start_transaction_modifier,
        supports_window_function_null_treatment_arg, supports_dictionary_syntax,
        supports_window_clause_named_window_reference, supports_parenthesized_set_variables,
        supports_select_wildcard_except, support_map_literal_syntax, allow_extract_custom,
        allow_extract_single_quotes, supports_extract_comma_syntax, supports_create_view_comment_syntax,
        supports_parens_around_table_factor, supports_values_as_table_factor, supports_create_index_with_clause,
        supports_explain_with_utility_options, supports_limit_comma, supports_update_order_by,
        supports_from_first_select, supports_projection_trailing_commas, supports_asc_desc_in_column_definition,
        supports_try_convert, supports_bitwise_shift_operators, supports_comment_on, supports_load_extension,
        supports_named_fn_args_with_assignment_operator, supports_struct_literal, supports_empty_projections,
        supports_nested_comments, supports_multiline_comment_hints, supports_user_host_grantee,
        supports_string_escape_constant, supports_array_typedef_with_brackets, supports_match_against,
        supports_set_names, supports_comma_separated_set_assignments, supports_filter_during_aggregation,
        supports_select_wildcard_exclude, supports_data_type_signed_suffix, supports_interval_options,
        supports_quote_delimited_string, supports_select_wildcard_replace, supports_select_wildcard_ilike,
        supports_select_wildcard_rename, supports_optimize_table, supports_install, supports_detach,
        supports_prewhere, supports_with_fill, supports_limit_by, supports_interpolate, supports_settings,
        supports_select_format, supports_comment_optimizer_hint, supports_constraint_keyword_without_name,
        supports_key_column_option, supports_comma_separated_trim, supports_cte_without_as,
        supports_select_item_multi_column_alias, supports_xml_expressions
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParserBuilder;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn read(sql: &str) -> String {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().expect("tokens");
        let parser = DFParserBuilder::new(with_operators(tokens)).with_dialect(&WITH_OPERATORS);
        parser
            .build()
            .and_then(|mut parser| parser.parse_statement())
            .map_or_else(|error| error.to_string(), |s| s.to_string())
    }

    #[test]
    fn operators_are_tokens_that_touch() {
        for (operator, _) in OPERATORS {
            let sql = format!("SELECT a {operator} b");
            assert_eq!(read(&sql), sql);
            assert_eq!(read(&format!("SELECT a{operator}b")), sql);
            // Parentheses show how they bind.
            assert_eq!(
                read(&format!("SELECT a {operator} b + c < d AND e")),
                format!("SELECT a {operator} b + c < d AND e")
            );
        }
    }

    #[test]
    fn they_bind_less_than_sums_and_more_than_comparisons() {
        use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
        let expr = |text: &str| {
            let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().expect("tokens");
            let parser = DFParserBuilder::new(with_operators(tokens)).with_dialect(&WITH_OPERATORS);
            parser.build().and_then(|mut parser| parser.parse_expr()).expect("an expression").expr
        };
        let top = |text: &str| match expr(text) {
            Expr::BinaryOp { op, .. } => op,
            other => panic!("{other}"),
        };
        assert_eq!(top("0.5 > a <-> b"), BinaryOperator::Gt);
        assert_eq!(top("a <-> b < 0.5"), BinaryOperator::Lt);
        assert_eq!(top("a <-> b + c"), BinaryOperator::Custom("<->".to_owned()));
        assert_eq!(top("a - b <+> c"), BinaryOperator::Custom("<+>".to_owned()));
        assert!(matches!(expr("a <-> b IS NULL"), Expr::IsNull(_)));
        assert!(matches!(expr("a <-> b BETWEEN 0 AND 1"), Expr::Between { .. }));
    }

    #[test]
    fn everything_else_reads_as_before() {
        for sql in [
            "SELECT a<-1, a<+1, a < - 1, a <- b, a <=> b, a < -b, '<->', \"<->\", a<b->'c', a -> 'b', a #> 'b', a < ~b, a % b > c, a <> b",
            "SELECT a < (-b) /* <-> */ FROM t -- <->",
            "SELECT $$<->$$",
        ] {
            let plain = DFParserBuilder::new(sql).build().and_then(|mut parser| parser.parse_statement());
            assert_eq!(read(sql), plain.map_or_else(|error| error.to_string(), |statement| statement.to_string()));
        }
        // Not an operator, because something is between.
        assert!(read("SELECT a < -> b").contains("Expected"), "{}", read("SELECT a < -> b"));
    }
}

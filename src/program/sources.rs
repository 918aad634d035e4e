//! What a statement reads, as far as it is typed: for TAB, which knows columns by it.

use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::split::offset;

/// A table, file, or query with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// What stands behind a FROM and means it.
    pub(super) from: String,
    /// What columns may be prefixed with.
    pub(super) name: Option<String>,
}

/// What stands behind FROM, JOIN and their commas, in a text that may not be at its end.
pub(super) fn sources(text: &str) -> Vec<Source> {
    let mut tokens = Vec::new();
    // Up to what cannot be read.
    let _ = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location_into_buf(&mut tokens);
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    let queries = queries(text, &tokens);
    let mut sources = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at += 1;
        if !matches!(keyword(&tokens[at - 1]), Keyword::FROM | Keyword::JOIN) {
            continue;
        }
        while let Some((mut source, after)) = source(text, &tokens, at) {
            if let Some(query) = queries.iter().find(|query| query.name.as_ref() == Some(&source.from)) {
                source.from.clone_from(&query.from);
            }
            sources.push(source);
            at = after;
            if tokens.get(at).is_none_or(|token| token.token != Token::Comma) {
                break;
            }
            at += 1;
        }
    }
    sources
}

/// One of them, and what follows.
fn source(text: &str, tokens: &[TokenWithSpan], start: usize) -> Option<(Source, usize)> {
    let mut at = start;
    let (from, mut name) = match &tokens.get(at)?.token {
        Token::SingleQuotedString(file) => (format!("'{}'", file.replace('\'', "''")), None),
        Token::LParen => {
            let end = closing(tokens, at)?;
            let query = between(text, &tokens[at], &tokens[end]);
            at = end;
            (query.to_owned(), None)
        }
        Token::Word(word) if keyword(&tokens[at]) == Keyword::NoKeyword || word.quote_style.is_some() => {
            let mut last = word.value.clone();
            while let (Some(Token::Period), Some(Token::Word(word))) =
                (tokens.get(at + 1).map(|token| &token.token), tokens.get(at + 2).map(|token| &token.token))
            {
                last.clone_from(&word.value);
                at += 2;
            }
            (between(text, &tokens[start], &tokens[at]).to_owned(), Some(last))
        }
        _ => return None,
    };
    at += 1;
    if tokens.get(at).is_some_and(|token| keyword(token) == Keyword::AS) {
        at += 1;
    }
    if let Some(Token::Word(alias)) = tokens.get(at).map(|token| &token.token)
        && keyword(&tokens[at]) == Keyword::NoKeyword
    {
        name = Some(alias.value.clone());
        at += 1;
    }
    Some((Source { from, name }, at))
}

/// The queries of a WITH, with their parentheses.
fn queries(text: &str, tokens: &[TokenWithSpan]) -> Vec<Source> {
    let begin = |window: &[TokenWithSpan]| match window {
        [TokenWithSpan { token: Token::Word(name), .. }, is, TokenWithSpan { token: Token::LParen, .. }]
            if keyword(is) == Keyword::AS =>
        {
            Some(name.value.clone())
        }
        _ => None,
    };
    let named = tokens.windows(3).enumerate().filter_map(|(at, window)| Some((at + 2, begin(window)?)));
    let query = |(open, name): (usize, String)| {
        let end = closing(tokens, open)?;
        Some(Source { from: between(text, &tokens[open], &tokens[end]).to_owned(), name: Some(name) })
    };
    named.filter_map(query).collect()
}

fn keyword(token: &TokenWithSpan) -> Keyword {
    match &token.token {
        Token::Word(word) => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

/// Where a parenthesis ends that begins here.
fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0;
    tokens.iter().enumerate().skip(open).find_map(|(at, token)| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })
}

fn between<'a>(text: &'a str, first: &TokenWithSpan, last: &TokenWithSpan) -> &'a str {
    text.get(offset(text, first.span.start)..offset(text, last.span.end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(String, Option<String>)> {
        sources(text).into_iter().map(|source| (source.from, source.name)).collect()
    }

    #[test]
    fn tables_files_and_queries_with_their_names() {
        let name = |from: &str, name: &str| (from.to_owned(), Some(name.to_owned()));
        assert_eq!(found("SELECT bo FROM 'a.parquet' WHERE"), [("'a.parquet'".to_owned(), None)]);
        assert_eq!(
            found("SELECT d.bo FROM 'a.parquet' AS d, t JOIN s.u x ON "),
            [name("'a.parquet'", "d"), name("t", "t"), name("s.u", "x"),]
        );
        assert_eq!(found("WITH c AS (SELECT 1 AS one) SELECT o FROM c"), [name("(SELECT 1 AS one)", "c")]);
        assert_eq!(found("SELECT o FROM (SELECT 1 AS one) AS q"), [name("(SELECT 1 AS one)", "q")]);
        for none in ["SELECT 1", "SELECT a FROM", "SELECT 'from a", "FROM ("] {
            assert_eq!(found(none), [], "{none}");
        }
    }
}

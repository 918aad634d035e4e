//! No text that anybody sees has a secret: statements are kept and shown, and errors say more than they know.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use regex::{Captures, Regex};

use super::settings::is_secret;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// Shorter ones stand in many words, and keep nothing from anybody.
const SHORTEST: usize = 6;

/// The secrets that a session has come across; clones are one and the same.
#[derive(Clone, Default)]
pub(super) struct Secrets(Arc<Mutex<BTreeSet<String>>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Secrets {
    pub(super) fn add(&self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.0.lock().insert(secret.to_owned());
        }
    }

    /// The same without any of them.
    pub(super) fn masked(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // One may begin like another.
        let mut secrets: Vec<_> = self.0.lock().iter().cloned().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            if text.contains(secret.as_str()) {
                text = text.replace(secret, MASK);
            }
        }
        text
    }

    /// Remembers the secrets that stand in a statement.
    pub(super) fn add_of_statement(&self, sql: &str) {
        for found in OPTION.captures_iter(sql).filter(|found| is_secret(&found["name"])) {
            self.add(&found["value"].replace("''", "'"));
        }
        for found in QUERY.captures_iter(sql) {
            self.add(&found["query"]);
        }
    }
}

/// `'aws.secret_access_key' 'value'`, as in OPTIONS.
static OPTION: LazyLock<Regex> = LazyLock::new(|| {
    let text = r"(?i)(?<before>'?(?<name>(?:format\.)?(?:aws|s3|google|gcp|gs|azure|az|abfs|http)[._]\w+)'?\s*[,=]?\s*')(?<value>(?:[^']|'')*)(?<after>'|$)";
    Regex::new(text).expect("a pattern")
});

/// What stands after the path in an address, and a user before the host.
static QUERY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"(?i)(?<before>\bhttps?://[^\s'"?#]*\?)(?<query>[^\s'"]+)"#).expect("a pattern"));
static USER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?i)(?<before>\b(?:s3a?|gs|az|azure|https?)://)(?<user>[^\s'"/@]+)@"#).expect("a pattern")
});

/// A statement as it may be kept and shown: without the keys in its OPTIONS, and the queries of its addresses.
///
/// ```
/// let sql = "COPY t TO 's3://b/x' OPTIONS ('aws.secret_access_key' 'hush', 'aws.region' 'r')";
/// let shown = datafusion_embed::files::masked_statement(sql);
/// assert_eq!(shown, "COPY t TO 's3://b/x' OPTIONS ('aws.secret_access_key' '***', 'aws.region' 'r')");
/// ```
pub fn masked_statement(sql: &str) -> String {
    let text = OPTION.replace_all(sql, |found: &Captures<'_>| match is_secret(&found["name"]) {
        true => format!("{}{MASK}{}", &found["before"], &found["after"]),
        false => found[0].to_owned(),
    });
    let text = QUERY.replace_all(&text, format!("${{before}}{MASK}"));
    USER.replace_all(&text, format!("${{before}}{MASK}@")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_keeps_all_but_its_secrets() {
        let unchanged = [
            "SELECT id, embed(body) FROM 's3://b/a.parquet' WHERE key = 'secret'",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x?.csv' OPTIONS ('format.delimiter' ';', 'aws.region' 'eu')",
            "SELECT 'http://x/y' AS \"aws_key\"",
            "COPY t TO 'abfss://c@acme.dfs.core.windows.net/x'",
        ];
        for sql in unchanged {
            assert_eq!(masked_statement(sql), sql);
        }
        let masked = [
            ("OPTIONS ('aws.secret_access_key' 'it''s', 'x' 'y')", "OPTIONS ('aws.secret_access_key' '***', 'x' 'y')"),
            (
                "OPTIONS (aws.session_token 'a', s3.sse_customer_key_base64 'b')",
                "OPTIONS (aws.session_token '***', s3.sse_customer_key_base64 '***')",
            ),
            ("OPTIONS('AZURE_STORAGE_SAS_KEY' '?sig=x", "OPTIONS('AZURE_STORAGE_SAS_KEY' '***"),
            ("FROM 'https://h/a?X-Amz-Signature=1&b=2' x", "FROM 'https://h/a?***' x"),
            ("FROM 'https://ada:pw@h/a'", "FROM 'https://***@h/a'"),
        ];
        for (sql, shown) in masked {
            assert_eq!(masked_statement(sql), shown);
            assert_eq!(masked_statement(shown), shown);
        }
    }

    #[test]
    fn what_was_a_secret_once_is_masked_everywhere() {
        let secrets = Secrets::default();
        secrets.add_of_statement("OPTIONS ('aws.secret_access_key' 'it''s me', 'google.service_account_key' 'abc')");
        secrets.add_of_statement("FROM 'https://h/a?sig=12345'");
        secrets.add("it's me too");
        secrets.add("");
        assert_eq!(secrets.masked("a it's me too, it's me, abc, sig=12345"), "a ***, ***, abc, ***");
    }
}

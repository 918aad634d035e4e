//! What nobody gets to see: the keys that a run has used are in nothing that it says, keeps or writes.

use super::run;
use crate::servers::faults::Fault;
use crate::servers::http::Http;
use crate::servers::proxy;
use crate::servers::s3::{Moto, moto};

const SECRETS: [&str; 5] =
    ["KEYOFOPTIONS", "hush-hush-hush", "TOKENOFENVIRONMENT", "sig=0123456789abcdef", "0123456789abcdef"];

#[test]
fn no_secret_is_said_kept_or_written() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("secrets");
    let (proxy, web) = (proxy::start(moto.address), Http::start());
    web.put("/x.csv", "a\n1\n");
    let signed = format!("{}?{}", web.url("/x.csv"), SECRETS[3]);
    let options = format!(
        "'aws.access_key_id' '{}', 'aws.secret_access_key' '{}', 'aws.endpoint' '{}', 'aws.allow_http' 'true', 'aws.max_retries' '1'",
        SECRETS[0],
        SECRETS[1],
        proxy.url()
    );
    let create = format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://secrets/out/' OPTIONS ({options})");
    let copy =
        format!("COPY (SELECT 1 AS a) TO 's3://secrets/out/' STORED AS CSV OPTIONS ({options}, 'mode' 'append')");
    let statements = [
        copy.clone(),
        format!("EXPLAIN {copy}"),
        format!("EXPLAIN VERBOSE {copy}"),
        format!("{create}; SHOW CREATE TABLE t; SELECT * FROM t; EXPLAIN ANALYZE SELECT * FROM t"),
        format!("{create}; SELECT no_such_column FROM t"),
        format!("{create}; SELECT * FROM information_schema.tables; SHOW ALL"),
        format!("SELECT * FROM '{signed}'"),
        format!("EXPLAIN VERBOSE SELECT * FROM '{signed}'"),
        format!("EXPLAIN ANALYZE SELECT * FROM '{signed}'"),
        format!("SELECT no_such_column FROM '{signed}'"),
        format!("SELECT * FROM '{signed}' WHERE"),
        format!(
            "CREATE VIEW v AS SELECT * FROM '{signed}'; SHOW CREATE TABLE v; SELECT * FROM information_schema.views"
        ),
        format!("COPY (SELECT 1 AS a) TO '{signed}'"),
        format!("SET embed.model = '{signed}'"),
        format!("SELECT embed('x', '{signed}')"),
        format!(
            "COPY (SELECT 1 AS a) TO 's3://secrets/out/' STORED AS CSV OPTIONS (\"aws.secret_access_key\" E'{}')",
            SECRETS[1]
        ),
        format!(
            "COPY (SELECT 1 AS a) TO 's3://secrets/out/' STORED AS CSV OPTIONS ('aws.secret_access_key' $$ {} $$",
            SECRETS[1]
        ),
        format!("SELECT * FROM '{}?{}'", web.url("/no.csv"), SECRETS[3]),
        format!(
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://secrets/out/' OPTIONS ({options} 'hush-hush-hush')"
        ),
        format!("COPY (SELECT 1 AS a) TO 's3://secrets/out/' OPTIONS ({options}, 'format.no' '{}')", SECRETS[1]),
    ];
    let says = |statement: &String| {
        let variables = Moto::variables(&proxy.url()).into_iter().chain([("AWS_SESSION_TOKEN", SECRETS[2].to_owned())]);
        let mut run = run(variables, statement);
        run.command.env("RUST_LOG", "trace");
        let ended = run.end();
        format!("{statement}\n---\n{}{}", ended.stdout, ended.stderr)
    };
    let check = |said: String| {
        let (statement, said) = said.split_once("\n---\n").expect("both");
        for secret in SECRETS {
            assert!(!said.contains(secret), "{statement}\nsays {secret}:\n{said}");
        }
    };
    for statement in &statements {
        check(says(statement));
    }
    proxy.add_fault(Fault::status(403));
    web.server.add_fault(Fault::status(403));
    statements.iter().for_each(|statement| check(says(statement)));
    proxy.clear_faults();
    proxy.add_fault(Fault::status(500));
    check(says(&copy));
    for key in moto.keys("secrets") {
        let text = moto.object("secrets", &key);
        for secret in SECRETS {
            assert!(!String::from_utf8_lossy(&text).contains(secret), "{key} has {secret}");
        }
    }
}

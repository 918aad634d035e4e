//! Who we are at a store, and what is said where we are nobody.

use std::fs;
use std::time::{Duration, Instant};

use super::{folder, run};
use crate::servers::faults::{Fault, Harm};
use crate::servers::gcs::Gcs;
use crate::servers::message::Response;
use crate::servers::proxy;
use crate::servers::s3::{Moto, moto};
use crate::servers::server::Server;

/// Without keys.
fn nobody(url: &str) -> Vec<(&'static str, String)> {
    Moto::variables(url).into_iter().filter(|(name, _)| !name.contains("KEY")).collect()
}

#[test]
fn without_credentials_what_is_public_is_read_and_the_rest_says_what_was_looked_for() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("public");
    run(Moto::variables(&moto.url()), "COPY (SELECT 1 AS a) TO 's3://public/x.parquet'").stdout();
    let started = Instant::now();
    let message = run(nobody(&moto.url()), "SELECT * FROM 's3://public/x.parquet'").error(1);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    for part in
        ["s3://public", "403", "AWS_ACCESS_KEY_ID", "~/.aws/credentials", "metadata service", "export AWS_PROFILE"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
    let proxy = proxy::start(moto.address);
    proxy.add_fault(Fault::status(403).on("PUT"));
    let message = run(nobody(&proxy.url()), "COPY (SELECT 1 AS a) TO 's3://public/y.parquet'").error(1);
    assert!(message.contains("no credentials were found"), "{message}");
    moto.allow_reading("public");
    assert_eq!(run(nobody(&moto.url()), "SELECT * FROM 's3://public/x.parquet'").stdout(), "a\n1\n");
    let asked =
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://public/' OPTIONS ('aws.skip_signature' 'true');
                 SELECT * FROM t";
    assert_eq!(run(Moto::variables(&moto.url()), asked).stdout(), "a\n1\n");
}

#[test]
fn options_go_before_the_environment_and_the_environment_before_profiles() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("order");
    let proxy = proxy::start(moto.address);
    let home = folder();
    fs::create_dir(home.path().join(".aws")).expect("made");
    let credentials = "[default]\naws_access_key_id = OFHOME\naws_secret_access_key = x\n[work]\naws_access_key_id = OFWORK\n\
                       aws_secret_access_key = x\n";
    fs::write(home.path().join(".aws/credentials"), credentials).expect("written");
    let who = |variables: Vec<(&'static str, String)>, options: &str| {
        proxy.take_requests();
        let sql = format!("COPY (SELECT 1 AS a) TO 's3://order/x.parquet' OPTIONS ('compression' 'zstd(3)'{options})");
        let mut run = run(variables, &sql);
        run.command.env("HOME", home.path());
        run.stdout();
        let requests = proxy.take_requests();
        let signed =
            requests.iter().filter_map(|request| request.authorization.as_deref()).next().expect("signed").to_owned();
        signed.split("Credential=").nth(1).and_then(|rest| rest.split('/').next()).expect("a key").to_owned()
    };
    let url = proxy.url();
    let with = |name: &'static str, value: &str| [nobody(&url), vec![(name, value.to_owned())]].concat();
    assert_eq!(who(nobody(&url), ""), "OFHOME");
    assert_eq!(who(with("AWS_PROFILE", "work"), ""), "OFWORK");
    assert_eq!(who(Moto::variables(&url).into(), ""), "test");
    assert_eq!(
        who(Moto::variables(&url).into(), ", 'aws.access_key_id' 'OFOPTIONS', 's3.secret_access_key' 'x'"),
        "OFOPTIONS"
    );
    assert_eq!(who(Moto::variables(&url).into(), ", 'aws.profile' 'work'"), "OFWORK");
    let mut run = run(with("AWS_PROFILE", "play"), "SELECT * FROM 's3://order/x.parquet'");
    run.command.env("HOME", home.path());
    let message = run.error(1);
    assert!(message.contains("AWS profile \"play\" is not in"), "{message}");
}

/// The services that give machines of Amazon's cloud their keys, each another one.
fn services() -> Server {
    let keys = |id: &str| {
        format!(
            "{{\"AccessKeyId\": \"{id}\", \"SecretAccessKey\": \"x\", \"Token\": \"t\", \"Expiration\": \"2100-01-01T00:00:00Z\"}}"
        )
    };
    Server::start(move |request| match (request.method.as_str(), request.path()) {
        ("PUT", "/latest/api/token") => Response::new(200, "session"),
        ("GET", "/latest/meta-data/iam/security-credentials/") => Response::new(200, "role"),
        ("GET", "/latest/meta-data/iam/security-credentials/role") => Response::new(200, keys("OFMACHINE")),
        ("GET", "/container") => match request.headers.get("authorization") {
            Some("of the file") => Response::new(200, keys("OFCONTAINER")),
            _ => Response::new(401, ""),
        },
        _ => Response::new(404, ""),
    })
}

#[test]
fn machines_of_the_cloud_have_what_they_are_given() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("machines");
    let (proxy, services, home) = (proxy::start(moto.address), services(), folder());
    let token = home.path().join("token");
    fs::write(&token, "of the file").expect("written");
    let token = token.display().to_string();
    let at = |path: &str| format!("{}{path}", services.url());
    let cases: [(&str, Vec<(&'static str, String)>); 2] = [
        ("OFMACHINE", vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", services.url())]),
        (
            "OFCONTAINER",
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", at("/container")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.clone()),
            ],
        ),
    ];
    for (who, variables) in cases {
        proxy.take_requests();
        let mut run = run(nobody(&proxy.url()), "COPY (SELECT 1 AS a) TO 's3://machines/x.parquet'");
        run.command.env("HOME", home.path()).envs(variables);
        run.stdout();
        let signed = proxy.take_requests().into_iter().filter_map(|request| request.authorization);
        let signed: Vec<String> = signed.collect();
        assert!(
            !signed.is_empty() && signed.iter().all(|by| by.contains(&format!("Credential={who}/"))),
            "{who}: {signed:?}"
        );
    }
    // The service that knows roles is asked over TLS only.
    let mut run = run(nobody(&proxy.url()), "COPY (SELECT 1 AS a) TO 's3://machines/x.parquet'");
    run.command.env("HOME", home.path()).env("AWS_WEB_IDENTITY_TOKEN_FILE", token);
    run.command.env("AWS_ROLE_ARN", "arn:aws:iam::1:role/x").env("AWS_ENDPOINT_URL_STS", services.url());
    let message = run.error(1);
    assert!(message.contains("URL scheme is not allowed"), "{message}");
}

#[test]
fn a_refusal_says_why_and_a_wrong_region_names_the_right_one() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("refused");
    let proxy = proxy::start(moto.address);
    let error = |fault: Fault, sql: &str| {
        proxy.clear_faults();
        proxy.add_fault(fault);
        run(Moto::variables(&proxy.url()), sql).error(1)
    };
    let xml = |code: &str| {
        format!(
            "<Error><Code>{code}</Code><Message>Said by the store.</Message><AWSAccessKeyId>test</AWSAccessKeyId></Error>"
        )
    };
    let list = "SELECT * FROM 's3://refused/x/'";
    let wrong_key = Fault::new(Harm::Answer(Response::new(403, xml("InvalidAccessKeyId"))));
    let message = error(wrong_key, list);
    assert!(
        message.contains("403 InvalidAccessKeyId (Said by the store)") && message.contains("AWS_ACCESS_KEY_ID"),
        "{message}"
    );
    let elsewhere = Response::new(301, xml("PermanentRedirect")).with_header("x-amz-bucket-region", "eu-west-1");
    let message = error(Fault::new(Harm::Answer(elsewhere)), list);
    assert!(message.contains("in the region eu-west-1") && message.contains("AWS_REGION=eu-west-1"), "{message}");
    let message = run(Moto::variables(&moto.url()), "SELECT * FROM 's3://no-such-bucket/x/'").error(1);
    assert!(message.contains("s3://no-such-bucket") && message.contains("no such bucket"), "{message}");
    let message = run(Moto::variables(&moto.url()), "COPY (SELECT 1) TO 's3://no-such-bucket/x.parquet'").error(1);
    assert!(message.contains("s3://no-such-bucket") && message.contains("no such bucket"), "{message}");
}

#[test]
fn what_cannot_be_meant_is_one_clear_error() {
    let no = [("AWS_REGION", "us-east-1".to_owned())];
    let cases = [
        ("SELECT * FROM 's3://'", "names no bucket"),
        ("SELECT * FROM 's3://key:hush@bucket/x.csv'", "with a user or a password in it is not read"),
        ("SELECT * FROM 'ftp://host/x.csv'", "ftp:// is not known"),
        (
            "COPY (SELECT 1 AS a) TO 'x.csv' OPTIONS ('aws.region' 'eu')",
            "option 'aws.region' is about S3, and this is a local file",
        ),
        ("COPY (SELECT 1 AS a) TO 's3://bucket/x.csv' OPTIONS ('aws.regoin' 'eu')", "option 'aws.regoin' is not known"),
        (
            "COPY (SELECT 1 AS a) TO 's3://bucket/x.csv' OPTIONS ('aws.endpoint' 'http://127.0.0.1:1')",
            "is not encrypted",
        ),
        ("COPY (SELECT 1 AS a) TO 's3://bucket/x.csv' OPTIONS ('aws.access_key_id' 'A')", "lack the secret_access_key"),
        ("COPY (SELECT 1 AS a) TO 'az://container/x.csv'", "az://container: of which account?"),
        ("SET embed.cache = 's3://bucket/cache'", "embed.cache"),
        ("COPY (SELECT 1 AS a) TO 's3://bucket/x.csv' OPTIONS ('aws.bucket' 'other')", "the address says it"),
        (
            "COPY (SELECT 1 AS a) TO 's3://bucket/x.csv' OPTIONS ('aws.endpoint' 'https://u:hush@h')",
            "the endpoint is no address",
        ),
        ("COPY (SELECT 1 AS a) TO 's3://bucket/x.csv' OPTIONS ('aws.region' 'us east')", "is no region"),
        ("SELECT embed('x', 'az://container/m')", "az://container: of which account?"),
        ("SELECT embed('x', 's3://bucket/a//b')", "s3://bucket/a//b"),
    ];
    for (sql, part) in cases {
        let message = run(no.clone(), sql).error(1);
        assert!(message.contains(part) && !message.contains("hush"), "{sql}: {message}");
    }
}

#[test]
fn a_server_that_is_not_there_is_given_up_soon() {
    let variables = Moto::variables("http://127.0.0.1:9");
    let started = Instant::now();
    let message = run(variables, "SELECT * FROM 's3://bucket/x.parquet'").error(1);
    assert!(message.contains("s3://bucket") && message.contains("refused"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let gcs = Gcs::start();
    let variables = Gcs::variables(&gcs.server.url());
    gcs.server.kill();
    let message = run(variables, "SELECT * FROM 'gs://bucket/x.parquet'").error(1);
    assert!(message.contains("gs://bucket") && message.contains("no answer"), "{message}");
}

#[test]
fn the_environment_names_no_other_bucket() {
    let Some(moto) = moto() else { return };
    moto.make_bucket("meant");
    moto.make_bucket("other");
    let variables = Moto::variables(&moto.url()).into_iter().chain([("AWS_BUCKET", "other".to_owned())]);
    run(variables, "COPY (SELECT 1 AS a) TO 's3://meant/x.csv'").stdout();
    assert_eq!((moto.keys("meant").len(), moto.keys("other").len()), (1, 0));
}

#[test]
fn each_format_says_why_it_could_not_be_written() {
    let Some(moto) = moto() else { return };
    for ending in ["csv", "json", "arrow", "parquet"] {
        let sql = format!("COPY (SELECT 1 AS a) TO 's3://no-such-bucket/x.{ending}'");
        let message = run(Moto::variables(&moto.url()), &sql).error(1);
        assert!(message.contains("no such bucket"), "{ending}: {message}");
    }
}

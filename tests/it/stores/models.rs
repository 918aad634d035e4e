//! Models at addresses: kept here as long as the store has the same.

use std::fs;
use std::path::Path;

use super::{folder, run};
use crate::program::Run;
use crate::servers::faults::{Fault, Harm};
use crate::servers::gcs::Gcs;
use crate::servers::http::Http;
use crate::servers::server::Entry;

const TINY: &str = "tests/fixtures/tiny-bert";

/// The files of a model, by their paths in it.
fn files(folder: &Path, below: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let file = |entry: fs::DirEntry| {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => files(&entry.path(), &format!("{name}/")),
            false => vec![(name, fs::read(entry.path()).expect("readable"))],
        }
    };
    entries.flat_map(file).collect()
}

fn vectors(mut run: Run, cache: &Path) -> Run {
    run.command.env("XDG_CACHE_HOME", cache);
    run
}

fn sql(model: &str) -> String {
    format!("SELECT embed(x, '{model}') AS v FROM (VALUES ('one'), ('two words')) t(x)")
}

fn brings(requests: &[Entry], name: &str) -> usize {
    let target = |request: &Entry| request.target.replace("%2E", ".").replace("%2F", "/").replace("%5F", "_");
    requests.iter().filter(|request| request.method == "GET" && target(request).contains(name)).count()
}

#[test]
fn a_model_in_a_store_gives_the_same_vectors_and_is_fetched_once() {
    let (gcs, cache) = (Gcs::start(), folder());
    gcs.make_bucket("models");
    let put = |name: &str, bytes: Vec<u8>| gcs.put("models", &format!("m/tiny/{name}"), bytes);
    files(Path::new(TINY), "").into_iter().for_each(|(name, bytes)| put(&name, bytes));
    put("pytorch_model.bin", b"code".to_vec());
    let variables = Gcs::variables(&gcs.server.url());
    let of = |model: &str| vectors(run(variables.clone(), &sql(model)), cache.path());
    let expected = run([], &sql(TINY)).stdout();
    assert_eq!(of("gs://models/m/tiny").stdout(), expected);
    let requests = gcs.server.take_requests();
    assert_eq!((brings(&requests, "model.safetensors"), brings(&requests, ".bin")), (1, 0));
    assert_eq!(of("gs://models/m/tiny/").stdout(), expected);
    assert_eq!(gcs.server.take_requests().len(), 1, "the list");
    let mut pooling: serde_json::Value =
        serde_json::from_slice(&fs::read(format!("{TINY}/1_Pooling/config.json")).expect("there")).expect("JSON");
    pooling["pooling_mode"] = "cls".into();
    put("1_Pooling/config.json", pooling.to_string().into_bytes());
    assert_ne!(of("gs://models/m/tiny").stdout(), expected);
    let requests = gcs.server.take_requests();
    assert_eq!((brings(&requests, "model.safetensors"), brings(&requests, "Pooling")), (0, 1));
    let mut pull = of("gs://models/m/tiny");
    pull.command = std::process::Command::new(env!("CARGO_BIN_EXE_embedsql"));
    pull.command
        .args(["models", "pull", "gs://models/m/tiny"])
        .envs(variables.clone())
        .env("XDG_CACHE_HOME", cache.path());
    assert_eq!(pull.end().code, Some(0));
    let mut list = of("gs://models/m/tiny");
    list.command = std::process::Command::new(env!("CARGO_BIN_EXE_embedsql"));
    list.command.arg("models").env("XDG_CACHE_HOME", cache.path());
    let listed = list.end().stdout;
    assert!(listed.lines().any(|line| line.contains("gs://models/m/tiny") && line.contains("store")), "{listed}");
    gcs.server.kill();
    let offline = format!("SET embed.offline = true; {}", sql("gs://models/m/tiny"));
    vectors(run(variables.clone(), &offline), cache.path()).stdout();
    let message = vectors(run(variables, &offline.replace("m/tiny", "m/none")), cache.path()).error(1);
    assert!(message.contains("gs://models/m/none") && message.contains("embed.offline"), "{message}");
}

#[test]
fn a_web_server_is_asked_for_each_file_and_only_404_means_none() {
    let (web, cache) = (Http::start(), folder());
    files(Path::new(TINY), "").into_iter().for_each(|(name, bytes)| web.put(&format!("/m/tiny/{name}"), bytes));
    let of = |cache: &Path| vectors(run([], &sql(&web.url("/m/tiny"))), cache);
    let expected = run([], &sql(TINY)).stdout();
    assert_eq!(of(cache.path()).stdout(), expected);
    web.server.take_requests();
    assert_eq!(of(cache.path()).stdout(), expected);
    assert_eq!(brings(&web.server.take_requests(), "model.safetensors"), 0);
    let offline = format!("SET embed.offline = true; {}", sql(&web.url("/m/tiny")));
    assert_eq!(vectors(run([], &offline), cache.path()).stdout(), expected);
    for fault in [Fault::status(403), Fault::status(410), Fault::new(Harm::Refuse)] {
        web.server.clear_faults();
        web.server.add_fault(fault.at("1_Pooling/config.json"));
        let other = folder();
        let mut run = of(other.path());
        run.command.env("AWS_MAX_ATTEMPTS", "2");
        let message = run.error(1);
        assert!(message.contains("1_Pooling/config.json"), "{message}");
    }
}

#[test]
fn what_is_no_model_says_where_it_was_looked_for() {
    let (gcs, cache) = (Gcs::start(), folder());
    gcs.make_bucket("models");
    let variables = Gcs::variables(&gcs.server.url());
    for (model, part) in [
        ("gs://models/none", "there is nothing at this address"),
        ("gs://none/none", "gs://none"),
        ("gs://models/x?sig=hush", "gs://models/x?sig=hush"),
        ("https://h/x?sig=hush", "can have no query"),
        ("ftp://h/x", "no address of a store"),
    ] {
        let message = vectors(run(variables.clone(), &sql(model)), cache.path()).error(1);
        assert!(message.contains(part), "{model}: {message}");
    }
}

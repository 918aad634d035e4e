//! Compiles the bundled model in, where its folder is there and the feature asks for it.
//!
//! Writes `bundled.rs`: the model's files as `(path, SHA-256, bytes)` and the hash of its weights as its revision. Where there is
//! nothing to bundle (a published package leaves `models/` out) the list is empty and the same name resolves through the
//! hub.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

const MODEL: &str = "models/all-MiniLM-L6-v2";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join(MODEL);
    let wanted = env::var_os("CARGO_FEATURE_BUNDLED_MODEL").is_some();
    let (mut files, mut revision) = (String::new(), String::new());
    if wanted && root.is_dir() {
        println!("cargo::rerun-if-changed={MODEL}");
        // SHA256SUMS is both the list of files and where the revision comes from.
        let sums = fs::read_to_string(root.join("SHA256SUMS")).expect("models/all-MiniLM-L6-v2/SHA256SUMS is readable");
        for (sum, path) in sums.lines().filter_map(|line| line.split_once("  ")) {
            let path = path.trim_start_matches("./");
            if path == "model.safetensors" {
                revision = format!("sha256:{}", &sum[..16]);
            }
            // Told from where the crate lies when it is compiled: a target folder may be shared by several clones.
            let place = format!("/{MODEL}/{path}");
            let hash = bytes(sum);
            writeln!(
                files,
                "    ({path:?}, {hash:?}, include_bytes!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {place:?}))),"
            )
            .expect("a string takes it");
        }
    }
    let source = format!(
        "pub(super) static FILES: &[(&str, [u8; 32], &[u8])] = &[\n{files}];\npub(super) const REVISION: &str = {revision:?};\n"
    );
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("bundled.rs"), source).expect("OUT_DIR is writable");
}

/// The bytes of a hash in hexadecimal.
fn bytes(sum: &str) -> Vec<u8> {
    let digits = |at| sum.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..64).step_by(2).map(digits).collect();
    bytes.expect("models/all-MiniLM-L6-v2/SHA256SUMS has hashes of 64 digits")
}

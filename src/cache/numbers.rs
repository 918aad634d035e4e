//! Numbers of ours that a vector depends on, and what they stand for.
//!
//! A vector that was kept has to be the one that would be computed now. What comes from a model's files is in their
//! fingerprint; what comes from this crate is in these numbers. Each goes up with a change that gives other results, and
//! the tests below find such a change out: they compare with what is written here.

/// Goes up when the same weights and tokens give other bits: a change of the kernels, of an encoder, of pooling.
pub(crate) const ARITHMETIC: u32 = 1;

/// Goes up when the same tokenizer and text give other tokens: a change of `model/tokenizer.rs`, or of the crate below it.
pub(crate) const TOKENISING: u32 = 1;

/// Hashes of [`ARITHMETIC`] and of three models' vectors in every precision, on the portable kernels. Those add and multiply
/// in one order with one rounding each, everywhere; angles of places are f64 of the system's library, rounded to f32.
#[cfg(test)]
const VECTORS: &[(&str, &str)] = &[
    ("tiny-bert", "16f8a24c32b95e9f"),
    ("architectures/modernbert", "4fbc529afd8c60dc"),
    ("architectures/qwen3", "0af6f1b2ffac2620"),
];

/// Hashes of [`TOKENISING`] and of the tokens that each tokenizer of the tests gives for texts that are hard to take apart.
#[cfg(test)]
const TOKENS: &[(&str, &str)] = &[
    ("architectures/bert-full", "4e9979d511c4bfec"),
    ("architectures/bert-prefixed", "206767cbe4b8fa69"),
    ("architectures/camembert", "76ffd41fded6f231"),
    ("architectures/distilbert", "f0cd0721a6f38652"),
    ("architectures/electra", "3d3b539ba6bf9287"),
    ("architectures/eurobert", "5ab62e357d820bae"),
    ("architectures/gemma3", "4b75a341b41c2497"),
    ("architectures/gemma3-v5", "4b75a341b41c2497"),
    ("architectures/gte", "06a654e6c7045fd8"),
    ("architectures/jina-bert-v2", "a94dc8a540374a43"),
    ("architectures/jina-bert-v2-qk", "0d1d91df1d082762"),
    ("architectures/model2vec", "d76810d9d2e54b22"),
    ("architectures/model2vec-quantized", "d76810d9d2e54b22"),
    ("architectures/modernbert", "23f5d36bb3b1cc10"),
    ("architectures/modernbert-v5", "23f5d36bb3b1cc10"),
    ("architectures/mpnet", "662f233f490f47d7"),
    ("architectures/new", "a94dc8a540374a43"),
    ("architectures/new-multilingual", "06a654e6c7045fd8"),
    ("architectures/nomic-bert", "72250d8b91d1015d"),
    ("architectures/nomic-bert-remote", "a94dc8a540374a43"),
    ("architectures/qwen3", "6b322a11d060b08a"),
    ("architectures/roberta", "0d1d91df1d082762"),
    ("architectures/static", "2a35411da671d4c0"),
    ("architectures/t5", "2eb3c4ec331485af"),
    ("architectures/t5-gated", "26ab46c8970513fb"),
    ("architectures/xlm-roberta", "eda9f9b927a7ac1f"),
    ("sentence-transformers/all-MiniLM-L6-v2", "11d54a294e4bb849"),
    ("tiny-bert", "838f5e03e2bebc87"),
    ("tiny-bert-cls", "6be261f10318eb40"),
];

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::process::Command;
    use std::sync::Arc;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::access::Access;
    use crate::model::{self, Allowance, FlatBatch, Model, Pass, Place, Role, Scratch, is_bundled};
    use crate::options::{BUNDLED_NAME, Device, Precision};

    const FIXTURES: &str = "tests/fixtures";

    /// Texts at which tokenizers differ. Adding one changes every hash.
    const TEXTS: &[&str] = &[
        "",
        " ",
        "\t\r\n",
        "  two  spaces   and\tone tab\nand a line ",
        "MiXeD cAsE, SHOUTING and CamelCaseWords",
        "well-known, state-of-the-art, don't, we'll, O'Neill",
        "3.14159 2,718,281 1e-12 0xDEADBEEF 50% $19.99 +49-30-1234567",
        "?!?!,;:()[]{}<>/\\|@#$%^&*-_=+~`'\"",
        "\u{201c}curly\u{201d} \u{2014} dash \u{2013} and an ellipsis\u{2026}",
        "https://example.org/a/path?query=stars&page=2#top",
        "fn main() { println!(\"{}\", 1u32 << 4); } // a comment",
        "[CLS] [SEP] [MASK] [PAD] <s> </s> <unk> <pad> <mask> <bos> <eos> <|endoftext|>",
        "##ing ##s \u{2581}word \u{120}word [unused1]",
        "caf\u{e9} cafe\u{301} a\u{300}\u{301}\u{302} \u{301} \u{2f81a}",
        "\u{0}nul\u{0} bell\u{7} escape\u{1b} delete\u{7f} \u{85} \u{90}",
        "zero\u{200b}width\u{200c}join\u{200d}er \u{feff}mark soft\u{ad}hyphen \u{202e}turned\u{202c}",
        "no\u{a0}break \u{3000}ideographic\u{3000} thin\u{2009} line\u{2028}paragraph\u{2029}",
        "\u{fb01}ne \u{2167} \u{bd} \u{338f} \u{ff26}\u{ff35}\u{ff2c}\u{ff2c} \u{1d578}\u{1d586}\u{1d599}\u{1d58d}",
        "\u{4e2d}\u{6587}\u{5206}\u{8bcd} \u{65e5}\u{672c}\u{8a9e}\u{306e}\u{30c6}\u{30ad}\u{30b9}\u{30c8} \u{d55c}\u{ad6d}\u{c5b4}",
        "\u{645}\u{631}\u{62d}\u{628}\u{627} \u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947} \u{e2a}\u{e27}\u{e31}\u{e2a}",
        "\u{1f600} \u{1f44b}\u{1f3fd} \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1f1e9}\u{1f1ea} 1\u{fe0f}\u{20e3}",
        "\u{fffd} \u{e000} \u{10fffd} \u{10ffff}",
        "\u{130}stanbul \u{131} \u{df} \u{1e9e} \u{3c3}\u{3c2}\u{3a3} \u{1c5}",
    ];

    /// All texts, with long ones that every model cuts.
    fn texts() -> Vec<String> {
        let long = ["x".repeat(600), "word ".repeat(600), "\u{4e2d}".repeat(600), "a, b! ".repeat(600)];
        TEXTS.iter().map(|text| (*text).to_owned()).chain(long).collect()
    }

    fn load(name: &str, precision: Precision) -> Arc<Model> {
        let (access, place) = (Access::local(), Place { device: Device::Cpu, precision });
        let folder = format!("{FIXTURES}/{name}");
        let folder = if name == BUNDLED_NAME { name } else { &folder };
        let model = model::find(folder, &access).and_then(|found| found.load(&access, place, usize::MAX));
        model.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Every model of the tests by its folder in `tests/fixtures`, and the bundled one where it is there.
    fn models() -> Vec<String> {
        let folders = fs::read_dir(format!("{FIXTURES}/architectures")).expect("fixtures").flatten();
        let folders = folders.filter(|folder| folder.path().is_dir()).map(|folder| folder.file_name());
        let folders = folders.map(|name| format!("architectures/{}", name.display()));
        let tiny = ["tiny-bert", "tiny-bert-cls"].map(str::to_owned);
        let bundled = is_bundled(BUNDLED_NAME).then(|| BUNDLED_NAME.to_owned());
        let mut models: Vec<_> = folders.chain(tiny).chain(bundled).collect();
        models.sort();
        models
    }

    /// The first digits of a hash.
    fn shown(hash: Sha256) -> String {
        format!("{:016x}", u64::from_be_bytes(*hash.finalize().first_chunk().expect("8 of 32 bytes")))
    }

    fn hash_tokens(name: &str) -> String {
        let model = load(name, Precision::F32);
        let mut hash = Sha256::new().chain_update(TOKENISING.to_le_bytes());
        for prompt in ["", model.description.prompt(Role::Query)] {
            for text in texts() {
                let limit = model.description.max_tokens.min(64);
                match model.tokenize(prompt, &text, limit, &Allowance::FREE) {
                    Ok(tokens) => {
                        hash.update([u8::from(tokens.full_length > limit)]);
                        hash.update((tokens.ids.len() as u64).to_le_bytes());
                        tokens.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
                    }
                    Err(_) => hash.update("no tokens"),
                }
            }
        }
        shown(hash)
    }

    fn hash_vectors(name: &str) -> String {
        let mut hash = Sha256::new().chain_update(ARITHMETIC.to_le_bytes());
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let model = load(name, precision);
            let mut batch = FlatBatch::new();
            for text in texts() {
                let limit = model.description.max_tokens.min(64);
                batch.push(&model.tokenize("", &text, limit, &Allowance::FREE).expect("tokens").ids);
            }
            let pass = Pass { unpooled: 0, dimensions: model.description.dim, go_on: &|| true };
            let vectors = model.encode(&batch, &pass, &mut Scratch::default());
            vectors.expect("vectors").iter().for_each(|x| hash.update(x.to_bits().to_le_bytes()));
        }
        shown(hash)
    }

    /// Compares with what is written above; where that differs it says what to do.
    fn compare(number: &str, table: &str, written: &[(&str, &str)], found: &[(String, String)]) {
        let is_written = |(name, hash): &(String, String)| written.contains(&(name.as_str(), hash.as_str()));
        let other: Vec<_> = found.iter().filter(|row| !is_written(row)).map(|(name, _)| name.as_str()).collect();
        let rows: String = found.iter().map(|(name, hash)| format!("    (\"{name}\", \"{hash}\"),\n")).collect();
        assert!(
            other.is_empty(),
            "other results than {table} in src/cache/numbers.rs has for {other:?}. If these fixtures are as they were, \
             raise {number} there by one, so that no cache gives the old vectors back, and run this again. Then write into \
             {table}:\n{rows}"
        );
    }

    #[test]
    fn other_tokens_come_with_another_number() {
        let hashes = models().into_iter().map(|name| hash_tokens(&name));
        let found: Vec<_> = models().into_iter().zip(hashes).collect();
        compare("TOKENISING", "TOKENS", TOKENS, &found);
    }

    #[test]
    fn other_bits_come_with_another_number() {
        const VARIABLE: &str = "DATAFUSION_EMBED_KERNELS";
        if env::var(VARIABLE).is_ok_and(|path| path == "portable") {
            let names = ["tiny-bert", "architectures/modernbert", "architectures/qwen3"];
            let found = names.map(|name| (name.to_owned(), hash_vectors(name)));
            return compare("ARITHMETIC", "VECTORS", VECTORS, &found);
        }
        // The path is chosen once per process, so this test runs again in another one.
        let mut again = Command::new(env::current_exe().expect("this program"));
        let name = "cache::numbers::tests::other_bits_come_with_another_number";
        let output = again.args(["--exact", name]).env(VARIABLE, "portable").output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

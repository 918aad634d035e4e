//! Pieces against the naive twin, which reads the whole text at once.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{PreTokenizedString, PreTokenizer as _, TruncationDirection};

use super::*;
use crate::access::Access;
use crate::model::description::Description;
use crate::model::snapshot::Snapshot;
use crate::model::tokenizer::TextTokenizer;
use crate::options::BUNDLED_NAME;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(in crate::model) fn load(model: &str) -> TextTokenizer {
    let access = Access::local();
    let snapshot = Snapshot::find(model, &access).expect("a model");
    let files = snapshot.files(&access);
    TextTokenizer::load(files, &Description::read(files).expect("its description")).expect("its tokenizer")
}

fn fixture(name: &str) -> TextTokenizer {
    load(&fixtures().join(name).display().to_string())
}

/// A fixture's tokenizer with some of its parts replaced.
fn changed(name: &str, changes: &[(&str, Value)]) -> TextTokenizer {
    let path = fixtures().join(name).join("tokenizer.json");
    let mut parts: Value = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        parts.pointer_mut(parent).expect(pointer)[key] = value.clone();
    }
    fixture(name).with(&parts.to_string())
}

const BYTES: &str = "architectures/roberta";
const MERGES: &str = "architectures/gemma3";
const UNIGRAM: &str = "architectures/xlm-roberta";
const WORDS: &str = "tiny-bert";

/// Every tokenizer of the fixtures, and the kinds that they lack.
pub(in crate::model) fn kinds() -> Vec<(String, TextTokenizer)> {
    let folders = std::fs::read_dir(fixtures().join("architectures")).expect("fixtures");
    let folders =
        folders.map(|entry| entry.expect("an entry").path()).filter(|path| path.join("modules.json").exists());
    let names = folders.map(|path| format!("architectures/{}", path.file_name().expect("a name").display()));
    let names = names.chain(["tiny-bert", "tiny-bert-cls"].map(str::to_owned));
    let mut kinds: Vec<_> = names.map(|name| (name.clone(), fixture(&name))).collect();
    kinds.push((BUNDLED_NAME.to_owned(), load(BUNDLED_NAME)));
    let mut add = |name: &str, changes: &[(&str, Value)]| {
        let shown: Vec<String> = changes.iter().map(|(key, value)| format!("{key}={value:.300}")).collect();
        kinds.push((format!("{name} {}", shown.join(" ")), changed(name, changes)));
    };
    for step in pre_tokenizers() {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let both: Vec<_> = [step.clone(), bytes].into_iter().filter(|step| !step.is_null()).collect();
        add(BYTES, &[("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": both}))]);
        add(WORDS, &[("/pre_tokenizer", step.clone())]);
        add(UNIGRAM, &[("/pre_tokenizer", step.clone())]);
        add(MERGES, &[("/pre_tokenizer", step)]);
    }
    for step in normalizers() {
        add(BYTES, &[("/normalizer", step.clone())]);
        add(WORDS, &[("/normalizer", step.clone())]);
        add(UNIGRAM, &[("/normalizer", step.clone())]);
        add(MERGES, &[("/normalizer", step)]);
    }
    for name in [BYTES, WORDS, MERGES, UNIGRAM, "architectures/modernbert"] {
        for (lstrip, rstrip, single_word, normalized) in [
            (false, false, false, false),
            (true, false, false, true),
            (false, true, false, false),
            (false, true, false, true),
            (false, false, true, false),
            (true, true, true, true),
        ] {
            let token = |id: usize, content: &str| {
                json!({"id": id, "content": content, "lstrip": lstrip, "rstrip": rstrip, "single_word": single_word,
                       "normalized": normalized, "special": false})
            };
            let contents = ["the", "<x>", "a b", "  ", "dog", "Z", "e\n", " t", ", "];
            let tokens: Vec<Value> = contents.iter().enumerate().map(|(i, content)| token(7 + i, content)).collect();
            add(name, &[("/added_tokens", tokens.into())]);
        }
    }
    add(MERGES, &[("/model/ignore_merges", true.into())]);
    add(MERGES, &[("/model/byte_fallback", false.into())]);
    add(WORDS, &[("/model/max_input_chars_per_word", 6.into())]);
    kinds
}

fn pre_tokenizers() -> Vec<Value> {
    let gpt4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let mut steps = vec![
        Value::Null,
        json!({"type": "BertPreTokenizer"}),
        json!({"type": "Whitespace"}),
        json!({"type": "WhitespaceSplit"}),
        json!({"type": "CharDelimiterSplit", "delimiter": " "}),
        json!({"type": "CharDelimiterSplit", "delimiter": "e"}),
        json!({"type": "UnicodeScripts"}),
        json!({"type": "FixedLength", "length": 5}),
        json!({"type": "Digits", "individual_digits": true}),
        json!({"type": "Digits", "individual_digits": false}),
        json!({"type": "Split", "pattern": {"Regex": gpt4}, "behavior": "Isolated", "invert": false}),
        json!({"type": "Split", "pattern": {"Regex": gpt4}, "behavior": "Removed", "invert": true}),
        json!({"type": "Split", "pattern": {"Regex": "[a-z] [a-z]|."}, "behavior": "Isolated", "invert": false}),
    ];
    for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
        steps.push(json!({"type": "Punctuation", "behavior": behavior}));
        for pattern in [" ", "e", "the d", "."] {
            let pattern = json!({"String": pattern});
            steps.push(json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false}));
        }
    }
    for scheme in ["first", "always", "never"] {
        for split in [true, false] {
            steps.push(json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}));
        }
    }
    for (prefix, regex) in [(true, true), (false, true), (true, false), (false, false)] {
        steps.push(json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex}));
    }
    let both = |behavior: &str, step: &Value| json!({"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": behavior}, step]});
    let more: Vec<Value> =
        steps.iter().skip(1).flat_map(|step| ["MergedWithNext", "Isolated"].map(|b| both(b, step))).collect();
    steps.extend(more.into_iter().step_by(5));
    steps
}

fn normalizers() -> Vec<Value> {
    let mut steps = vec![Value::Null];
    for kind in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"] {
        steps.push(json!({"type": kind}));
    }
    for (left, right) in [(true, true), (true, false), (false, true)] {
        steps.push(json!({"type": "Strip", "strip_left": left, "strip_right": right}));
    }
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    steps.push(replace(json!({"Regex": " {2,}"}), "▁"));
    steps.push(replace(json!({"Regex": "e ."}), "x"));
    steps.push(replace(json!({"String": "e t"}), "x y"));
    steps.push(replace(json!({"String": "e"}), " "));
    steps.push(replace(json!({"String": "``"}), "\""));
    steps.push(json!({"type": "Prepend", "prepend": "▁"}));
    for (clean, chinese, accents, lower) in
        [(false, true, true, true), (true, false, false, false), (true, true, true, false)]
    {
        steps.push(json!({"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese,
                          "strip_accents": accents, "lowercase": lower}));
    }
    let sequence = |of: &[&Value]| json!({"type": "Sequence", "normalizers": of});
    let replaces = [replace(json!({"String": "e"}), " "), replace(json!({"Regex": " {2,}"}), "▁")];
    let llama = [json!({"type": "Prepend", "prepend": "▁"}), replace(json!({"String": " "}), "▁")];
    let lower = [json!({"type": "Lowercase"}), steps[steps.len() - 1].clone()];
    steps.extend([replaces, llama, lower].map(|[a, b]| sequence(&[&a, &b])));
    steps
}

/// Fragments that texts are made of: words, runs, all scripts, and what tokenizers take apart or join.
pub(in crate::model) fn fragment() -> impl Strategy<Value = String> {
    let words = [
        "the",
        "dog",
        "a b",
        "Lazy",
        "isn't",
        "we'll",
        "2024",
        "x",
        "straße",
        "слово",
        "ещё",
        "כלב",
        "كلب",
        "कुत्ता",
        "ค่ะ",
    ];
    let others = [
        "狗",
        "漢字",
        "개",
        "ひらがな",
        "ガ",
        "e\u{301}",
        "\u{301}",
        "\u{328}\u{301}",
        "👩‍👩‍👧",
        "🇩🇪",
        "\u{200d}",
        "\u{0}",
        "\u{ad}",
        "ﬁ",
        "Å",
        "ẞ",
        "İ",
        "Σ",
        "\u{1100}\u{1161}",
        "\u{600}",
        "\u{ff9e}",
        "▁",
        "Ġ",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
    ];
    let signs = [
        " ",
        " ",
        " ",
        " ",
        "  ",
        "    ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        ".",
        ", ",
        "--",
        "''",
        "``",
        "_",
        "/",
        "{\"a\":1}",
    ];
    let added = ["<s>", "</s>", "<mask>", "[MASK]", "[PAD]", "<|endoftext|>", "<x>", "<table>", "Z", "<unk>NOTUSED"];
    prop_oneof![
        6 => prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        3 => prop::sample::select(others.to_vec()).prop_map(str::to_owned),
        6 => prop::sample::select(signs.to_vec()).prop_map(str::to_owned),
        1 => prop::sample::select(added.to_vec()).prop_map(str::to_owned),
        1 => (prop::sample::select(vec!["a", "-", "\n", " ", "狗", "ab "]), 5..200usize).prop_map(|(of, n)| of.repeat(n)),
        1 => any::<char>().prop_map(String::from),
        1 => "[a-zA-Z0-9 ]{1,12}",
    ]
}

/// Compares the pieces of a text with the whole.
fn compare(name: &str, tokenizer: &mut TextTokenizer, prompt: &str, text: &str) {
    let ids = |tokens: Result<crate::model::Tokens>, limit| {
        tokens.ok().map(|tokens| (tokens.full_length > limit, tokens.ids))
    };
    tokenizer.piece = usize::MAX / 2;
    let count = tokenizer.count(prompt, text, &Allowance::FREE).ok();
    let ends = tokenizer.ends(text, &Allowance::FREE).ok();
    for piece in [1, 7, 40] {
        tokenizer.piece = piece;
        assert_eq!(tokenizer.ends(text, &Allowance::FREE).ok(), ends, "{name} by {piece}: {text:?}");
        assert_eq!(tokenizer.count(prompt, text, &Allowance::FREE).ok(), count, "{name} by {piece}: {text:?}");
    }
    for direction in [TruncationDirection::Right, TruncationDirection::Left] {
        tokenizer.direction = direction;
        for limit in [4, 30, 1 << 20] {
            tokenizer.piece = usize::MAX / 2;
            let whole = ids(tokenizer.tokenize(prompt, text, limit, &Allowance::FREE), limit);
            for piece in [1, 7, 40] {
                tokenizer.piece = piece;
                let pieces = ids(tokenizer.tokenize(prompt, text, limit, &Allowance::FREE), limit);
                assert_eq!(pieces, whole, "{name}, {limit} tokens by {piece}: {text:?}");
            }
        }
    }
}

#[test]
fn pieces_have_the_tokens_of_the_whole() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(4));
    for (name, tokenizer) in kinds() {
        let tokenizer = std::cell::RefCell::new(tokenizer);
        let checked = runner.run(&vec(fragment(), 1..60), |fragments| {
            let text = fragments.concat();
            let prompt = if text.len().is_multiple_of(3) { "query: " } else { "" };
            compare(&name, &mut tokenizer.borrow_mut(), prompt, &text);
            Ok(())
        });
        checked.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn texts_of_words_are_cut_by_every_tokenizer_of_the_fixtures() {
    let russian = "съешь ещё этих мягких французских булок ";
    for (name, tokenizer) in kinds().into_iter().filter(|(name, _)| !name.contains(' ')) {
        for text in ["the quick brown fox jumps over the lazy dog ", russian] {
            if text == russian && name.starts_with(MERGES) {
                // The small vocabularies of these lack the letters, and unknown ones are joined.
                continue;
            }
            let text = text.repeat(20_000);
            let before = tokenizer.read.load(Ordering::Relaxed);
            tokenizer.tokenize("", &text, 64, &Allowance::FREE).expect("tokens");
            let read = tokenizer.read.load(Ordering::Relaxed) - before;
            assert!(read < 100_000, "{name}: {read} bytes of {}", text.len());
        }
    }
}

#[test]
fn the_default_tokenizer_reads_little_of_most_long_texts() {
    let tokenizer = load(BUNDLED_NAME);
    for of in ["lorem ipsum ", "a", "-", "狗", "YWJjZGVmZ2hp", "a,", "1234567890\n", "слово. ", "\n", "\r\n"] {
        let text = of.repeat(2_000_000 / of.len());
        let before = tokenizer.read.load(Ordering::Relaxed);
        tokenizer.tokenize("", &text, 256, &Allowance { memory: 0, go_on: &|| true }).expect("tokens");
        let read = tokenizer.read.load(Ordering::Relaxed) - before;
        assert!(read < 50_000, "{of:?}: {read} bytes");
    }
}

#[test]
fn what_cannot_be_cut_counts_against_the_memory() {
    let tokenizer = fixture(BYTES);
    let text = "\u{301}".repeat(30_000);
    let small = Allowance { memory: 1 << 20, go_on: &|| true };
    for error in [
        tokenizer.tokenize("", &text, 64, &small).expect_err("too long").to_string(),
        tokenizer.count("", &text, &small).expect_err("too long").to_string(),
    ] {
        for part in ["60000 bytes", "embed.memory (1048576)", "SET embed.memory = '14M'"] {
            assert!(error.contains(part), "{error}");
        }
    }
    let enough = Allowance { memory: 14 << 20, go_on: &|| true };
    assert_eq!(tokenizer.tokenize("", &text, 64, &enough).expect("tokens").ids.len(), 64);
    let short = "\u{301}".repeat(10_000);
    tokenizer.tokenize("", &short, 64, &Allowance { memory: 0, go_on: &|| true }).expect("a short text");
}

#[test]
fn a_cancelled_text_is_read_no_further() {
    let tokenizer = load(BUNDLED_NAME);
    let text = "lorem ipsum ".repeat(200_000);
    let asked = Cell::new(0);
    let go_on = || asked.replace(asked.get() + 1) < 3;
    let allowance = Allowance { memory: usize::MAX, go_on: &go_on };
    assert_eq!(tokenizer.count("", &text, &allowance).expect_err("cancelled"), Error::Cancelled);
    assert!(tokenizer.read.load(Ordering::Relaxed) < 100_000);
    // A search for a place takes time too.
    asked.set(0);
    let text = "\u{1f600}".repeat(500_000);
    assert_eq!(tokenizer.count("", &text, &allowance).expect_err("cancelled"), Error::Cancelled);
}

#[test]
fn the_letters_are_letters_and_stable() {
    let letters: String = LETTERS.iter().flat_map(|&(first, last)| first..=last).collect();
    let split = Split::new(SplitPattern::Regex(r"\p{L}".to_owned()), Behavior::Removed, false).expect("a pattern");
    let mut text = PreTokenizedString::from(letters.as_str());
    split.pre_tokenize(&mut text).expect("letters");
    let left = text.get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::Byte);
    assert!(left.is_empty(), "{:?}", left.iter().map(|(text, ..)| text).collect::<Vec<_>>());
    let mut text = NormalizedString::from(letters.as_str());
    assert_eq!(text.nfc().get(), letters);
}

#[test]
fn patterns_fall_into_their_alternatives() {
    assert_eq!(alternatives(r"a|(b|c)|[d|e]\||f"), ["a", "(b|c)", r"[d|e]\|", "f"]);
}

//! Bytes as the tokenizer of a model. Begin with the fixtures': `cp tests/fixtures/*/*/tokenizer.json` into
//! `fuzz/corpus/tokenizer/`, under names of their own.

#![no_main]

mod model;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| model::with_file("tokenizer.json", bytes));

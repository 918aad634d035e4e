//! Bytes as the weights of a model. Begin with the fixture's: `cp tests/fixtures/tiny-bert/model.safetensors` into
//! `fuzz/corpus/weights/`.

#![no_main]

mod model;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| model::with_file("model.safetensors", bytes));

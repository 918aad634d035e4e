//! A model directory -> a ready [`Model`].
//!
//! | file | what |
//! |---|---|
//! | `origin.rs` | what a model's name stands for |
//! | `sources/` | where files come from: what every source can say; compiled in, a directory |
//! | `hub/` | the hub as a source, and the cache folder that its tools share |
//! | `snapshot.rs` | a model's files at one moment, the only way to what is made of them |
//! | `model_file.rs` | one of them, opened |
//! | `fingerprint.rs` | what tells a model's vectors from those of any other |
//! | `description.rs` | what the small files say: modules, pooling, prompts, limits |
//! | `config.rs` | reading `config.json` |
//! | `architecture.rs` | what an encoder is made of, as data |
//! | `families.rs` | `config.json` -> that data, by `model_type` |
//! | `names.rs` | what the tensors of a checkpoint are called |
//! | `rope.rs` | rotary positions as a configuration describes them |
//! | `settings.rs` | what stands beside `config.json`: prompts, limits, the tokenizer's settings |
//! | `tokenizer.rs` | text -> tokens |
//! | `words.rs` | the same for tokenizers of BERT's kind, without what nobody asks for |
//! | `tokenizer_file.rs` | what a `tokenizer.json` may not say |
//! | `pieces/` | where a long text can be cut before that |
//! | `chunks.rs` | a long text in parts that the model reads whole |
//! | `weights.rs` | safetensors -> f32 |
//! | `parts.rs` | an encoder's parts, read from its weights |
//! | `batch.rs` | the tokens of some texts: what one forward pass takes |
//! | `backend.rs` | what a device has to do: a model batch in, finished vectors out |
//! | `encoder.rs` | tokens -> one row per token, on this crate's kernels |
//! | `candle.rs` | the same on other devices, by candle |
//! | `scratch.rs` | what a worker keeps between model batches |
//! | `head.rs` | one row per token -> the vectors: `pooling.rs`, then `steps.rs` |
//! | `pooling.rs` | one row per token -> one row per text |
//! | `steps.rs` | one row per text -> the vector: Dense, LayerNorm, Normalize |
//! | `device.rs` | which device a setting means, and which instructions the CPU has |
//! | `ready.rs` | a model that is ready: text -> tokens, model batch -> vectors |
//! | `place.rs` | where a model runs |
//! | `catalog.rs` | each model loaded once per process |

mod architecture;
mod backend;
mod batch;
#[cfg(feature = "candle")]
mod candle;
mod catalog;
mod chunks;
mod config;
mod description;
mod device;
mod encoder;
mod families;
mod fingerprint;
mod head;
#[cfg(feature = "hub")]
mod hub;
mod model_file;
mod names;
mod origin;
mod parts;
mod pieces;
mod place;
mod pooling;
mod ready;
mod rope;
mod scratch;
mod settings;
mod snapshot;
mod sources;
mod steps;
mod tokenizer;
mod tokenizer_file;
mod weights;
mod words;

pub(crate) use crate::kernels::Team;
pub(crate) use backend::{BatchShape, Pass};
pub(crate) use batch::FlatBatch;
pub(crate) use catalog::{Found, find, loaded};
pub(crate) use chunks::{Chunk, ChunkSize};
pub(crate) use description::{Description, Role};
pub(crate) use device::{kernel_path, resolved};
pub(crate) use fingerprint::Fingerprint;
pub(crate) use origin::{check_name, stored};
pub(crate) use pieces::Allowance;
pub(crate) use place::Place;
pub(crate) use ready::Model;
pub(crate) use scratch::Scratch;
pub(crate) use sources::{Stored, is_bundled};
pub(crate) use tokenizer::Tokens;

#[cfg(test)]
mod tests;

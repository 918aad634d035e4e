//! A model directory -> a ready [`Model`].
//!
//! | file | what |
//! |---|---|
//! | `files.rs` | where a model's files come from: compiled in, a directory, the hub |
//! | `hub.rs` | the hub's cache folder and downloads |
//! | `description.rs` | what the small files say: architecture, pooling, prompts, limits |
//! | `tokenizer.rs` | text -> tokens |
//! | `weights.rs` | safetensors -> f32 |
//! | `encoder.rs` | tokens -> one row per token, on this crate's kernels |
//! | `candle.rs` | the same on other devices, by candle |
//! | `pooling.rs` | one row per token -> one vector |
//! | `catalog.rs` | each model loaded once per process |

#[cfg(any(test, feature = "cuda", feature = "metal"))]
mod candle;
mod catalog;
mod description;
mod encoder;
mod files;
#[cfg(feature = "hub")]
mod hub;
mod pooling;
mod tokenizer;
mod weights;

pub(crate) use catalog::{Place, describe, load};
pub(crate) use description::{Description, Role};
pub(crate) use encoder::Room;
pub(crate) use files::{BUNDLED_NAME, is_bundled};
#[cfg(feature = "hub")]
pub use hub::{Download, observe_downloads};
pub(crate) use tokenizer::Tokens;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::options::{Device, Precision};
use description::Normalize;
use encoder::BertEncoder;
use files::ModelFiles;
use tokenizer::TextTokenizer;
use weights::Weights;

/// A loaded model: shared by every session and partition of the process.
#[derive(Debug)]
pub(crate) struct Model {
    /// What its files say.
    pub(crate) description: Arc<Description>,
    tokenizer: TextTokenizer,
    encoder: Encoder,
}

/// The part of a model that does the arithmetic.
#[derive(Debug)]
enum Encoder {
    /// This crate's kernels.
    Cpu(BertEncoder),
    /// Another device, through candle.
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    Candle(candle::CandleEncoder),
}

impl Model {
    /// Loads tokenizer and weights. The device is a real one, never `auto`.
    fn load(files: &ModelFiles, description: Arc<Description>, place: Place, offline: bool) -> Result<Self> {
        let tokenizer = TextTokenizer::load(files, &description)?;
        let weights = Weights::open(files, &description.folder, offline)?;
        let Place { device, precision } = place;
        if device != Device::Cpu && precision != Precision::F32 {
            return Err(Error::Setting(format!(
                "embed.precision: {precision} runs on the cpu only, device is {device}"
            )));
        }
        let encoder = match device {
            Device::Cpu | Device::Auto => Encoder::Cpu(BertEncoder::load(&description.bert, &weights, precision)?),
            #[cfg(any(feature = "cuda", feature = "metal"))]
            Device::Cuda(_) | Device::Metal => {
                Encoder::Candle(candle::CandleEncoder::load(&description, &weights, &candle::open_device(device)?)?)
            }
            #[cfg(not(any(feature = "cuda", feature = "metal")))]
            Device::Cuda(_) | Device::Metal => {
                device.require_built_in()?;
                return Err(Error::Device(format!("device {device} is not built in")));
            }
        };
        Ok(Self { description, tokenizer, encoder })
    }

    /// Tokens of `prompt + text`, cut to `max_tokens`.
    pub(crate) fn tokenize(&self, prompt: &str, text: &str, max_tokens: usize) -> Result<Tokens> {
        self.tokenizer.tokenize(prompt, text, max_tokens)
    }

    /// Tokens that every text has beside its own.
    pub(crate) fn special_tokens(&self) -> usize {
        self.tokenizer.special
    }

    /// Number of tokens of a text before truncation, special tokens counted.
    pub(crate) fn count_tokens(&self, text: &str) -> Result<usize> {
        self.tokenizer.count(text)
    }

    /// Runs one model batch: `ids` end to end, text `i` being `ids[starts[i]..starts[i + 1]]`, gives
    /// `[texts, dimensions]`. `go_on` is asked between layers; when it says no the result is [`Error::Cancelled`].
    pub(crate) fn encode(
        &self,
        ids: &[u32],
        starts: &[usize],
        dimensions: usize,
        room: &mut Room,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<f32>> {
        let states = match &self.encoder {
            Encoder::Cpu(encoder) => encoder.forward(ids, starts, room, go_on)?,
            #[cfg(any(test, feature = "cuda", feature = "metal"))]
            Encoder::Candle(encoder) => {
                if !go_on() {
                    return Err(Error::Cancelled);
                }
                encoder.forward(ids, starts, room)?
            }
        };
        let (hidden, dim) = (self.description.bert.hidden_size, self.description.dim);
        let mut vectors = vec![0.0; (starts.len() - 1) * dimensions];
        let mut pooled = vec![0.0; dim];
        for (text, vector) in starts.windows(2).zip(vectors.chunks_exact_mut(dimensions)) {
            let rows = &states[text[0] * hidden..text[1] * hidden];
            self.description.pooling.apply(rows, hidden, &mut pooled);
            vector.copy_from_slice(&pooled[..dimensions]);
            if self.description.normalize == Normalize::L2 {
                pooling::normalize(vector);
            }
        }
        if vectors.iter().any(|x| !x.is_finite()) {
            return Err(Error::Model(format!(
                "model \"{}\": a vector came out as NaN or infinite; its weights are damaged or too large for f32",
                self.description.name
            )));
        }
        Ok(vectors)
    }
}

/// The best device that is built in and found, looked for once.
pub(crate) fn best_device() -> Device {
    #[cfg(any(feature = "cuda", feature = "metal"))]
    {
        static BEST: std::sync::LazyLock<Device> = std::sync::LazyLock::new(|| {
            let found = |device: &Device| candle::open_device(*device).is_ok();
            [Device::Cuda(0), Device::Metal].into_iter().find(found).unwrap_or(Device::Cpu)
        });
        *BEST
    }
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    Device::Cpu
}

#[cfg(test)]
mod tests;

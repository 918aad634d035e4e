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
//! | `tokenizer_file.rs` | what a `tokenizer.json` may not say |
//! | `pieces/` | where a long text can be cut before that |
//! | `weights.rs` | safetensors -> f32 |
//! | `parts.rs` | an encoder's parts, read from its weights |
//! | `encoder.rs` | tokens -> one row per token, on this crate's kernels |
//! | `candle.rs` | the same on other devices, by candle |
//! | `pooling.rs` | one row per token -> one row per text |
//! | `steps.rs` | one row per text -> the vector: Dense, LayerNorm, Normalize |
//! | `catalog.rs` | each model loaded once per process |

mod architecture;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
mod candle;
mod catalog;
mod config;
mod description;
mod encoder;
mod families;
mod fingerprint;
#[cfg(feature = "hub")]
mod hub;
mod model_file;
mod names;
mod origin;
mod parts;
mod pieces;
mod pooling;
mod rope;
mod settings;
mod snapshot;
mod sources;
mod steps;
mod tokenizer;
mod tokenizer_file;
mod weights;

pub(crate) use catalog::{Found, Place, find, loaded};
pub(crate) use description::{Description, Role};
pub(crate) use encoder::Room;
pub(crate) use fingerprint::Fingerprint;
pub(crate) use origin::stored;
pub(crate) use pieces::Allowance;
pub(crate) use sources::{BUNDLED_NAME, Stored, is_bundled};
pub(crate) use tokenizer::Tokens;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::access::Access;
use crate::error::{Error, Result};
use crate::options::{Device, Precision};
use encoder::CpuEncoder;
use snapshot::{Files, Snapshot};
use steps::Step;
use tokenizer::TextTokenizer;
use weights::Weights;

/// A loaded model: shared by every session and partition of the process.
#[derive(Debug)]
pub(crate) struct Model {
    /// What its files say.
    pub(crate) description: Arc<Description>,
    tokenizer: TextTokenizer,
    encoder: Encoder,
    steps: Vec<Step>,
}

/// The part of a model that does the arithmetic.
#[derive(Debug)]
enum Encoder {
    /// This crate's kernels.
    Cpu(CpuEncoder),
    /// Another device, through candle.
    #[cfg(any(test, feature = "cuda", feature = "metal"))]
    Candle(candle::CandleEncoder),
}

impl Model {
    /// Loads tokenizer and weights. The device is a real one, never `auto`.
    fn load(files: Files<'_>, description: Arc<Description>, place: Place) -> Result<Self> {
        let tokenizer = guarded(&description.name, || TextTokenizer::load(files, &description))?;
        let weights = Weights::open(files, &description.folder)?;
        let Place { device, precision } = place;
        if device != Device::Cpu && precision != Precision::F32 {
            return Err(Error::Setting(format!(
                "embed.precision: {precision} runs on the cpu only, device is {device}"
            )));
        }
        let encoder = match device {
            Device::Cpu | Device::Auto => {
                Encoder::Cpu(CpuEncoder::load(&description.architecture, &weights, precision)?)
            }
            // In tests too, so that it is compiled where no such device is.
            #[cfg(any(test, feature = "cuda", feature = "metal"))]
            Device::Cuda(_) | Device::Metal => {
                device.require_built_in()?;
                let device = candle::open_device(device)?;
                Encoder::Candle(candle::CandleEncoder::load(&description.architecture, &weights, &device)?)
            }
            #[cfg(not(any(test, feature = "cuda", feature = "metal")))]
            Device::Cuda(_) | Device::Metal => {
                device.require_built_in()?;
                return Err(Error::Device(format!("device {device} is not built in")));
            }
        };
        let steps = description.steps.iter().map(|step| step.load(files)).collect::<Result<_>>()?;
        files.require_current()?;
        Ok(Self { description, tokenizer, encoder, steps })
    }

    /// Loads a directory as it is now, whatever was read of it before.
    pub(crate) fn load_directory(directory: &str) -> Result<Self> {
        let access = Access::local();
        let snapshot = Snapshot::find(directory, &access)?;
        let files = snapshot.files(&access);
        let description = Arc::new(Description::read(files)?);
        Self::load(files, description, Place { device: Device::Cpu, precision: Precision::F32 })
    }

    /// First tokens of a text that are not pooled, because they are a role's prompt and this model leaves it out.
    pub(crate) fn unpooled(&self, role: Role, max_tokens: usize) -> Result<usize> {
        let prompt = self.description.prompt(role);
        if self.description.include_prompt || prompt.is_empty() {
            return Ok(0);
        }
        self.tokenizer.prompt_tokens(prompt, max_tokens)
    }

    /// Bytes of its weights in memory.
    pub(crate) fn size(&self) -> usize {
        let encoder = match &self.encoder {
            Encoder::Cpu(encoder) => encoder.size(),
            // A device's memory is not this machine's.
            #[cfg(any(test, feature = "cuda", feature = "metal"))]
            Encoder::Candle(_) => 0,
        };
        encoder + self.steps.iter().map(Step::size).sum::<usize>()
    }

    /// Tokens of `prompt + text`, cut to `max_tokens`.
    pub(crate) fn tokenize(
        &self,
        prompt: &str,
        text: &str,
        max_tokens: usize,
        allowance: &Allowance<'_>,
    ) -> Result<Tokens> {
        guarded(&self.description.name, || self.tokenizer.tokenize(prompt, text, max_tokens, allowance))
    }

    /// Tokens that every text has beside its own.
    pub(crate) fn special_tokens(&self) -> usize {
        self.tokenizer.special
    }

    /// Number of tokens of `prompt + text` before truncation, special tokens counted.
    pub(crate) fn count_tokens(&self, prompt: &str, text: &str, allowance: &Allowance<'_>) -> Result<usize> {
        guarded(&self.description.name, || self.tokenizer.count(prompt, text, allowance))
    }

    /// Runs one model batch: `ids` end to end, text `i` being `ids[starts[i]..starts[i + 1]]`, gives
    /// `[texts, dimensions]`. The first `unpooled` tokens of each text are read and not pooled. `go_on` is asked between
    /// layers; when it says no the result is [`Error::Cancelled`].
    pub(crate) fn encode(
        &self,
        ids: &[u32],
        starts: &[usize],
        unpooled: usize,
        dimensions: usize,
        room: &mut Room,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<f32>> {
        self.check_batch(ids, starts)?;
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
        let (hidden, pooling) = (self.description.architecture.hidden, &self.description.pooling);
        let mut vectors = vec![0.0; (starts.len() - 1) * dimensions];
        let (mut row, mut scratch) = (Vec::new(), Vec::new());
        for (text, vector) in starts.windows(2).zip(vectors.chunks_exact_mut(dimensions)) {
            row.resize(pooling.0.len() * hidden, 0.0);
            pooling.apply(&states[text[0] * hidden..text[1] * hidden], unpooled, hidden, &mut row);
            self.steps.iter().for_each(|step| step.apply(&mut row, &mut scratch));
            vector.copy_from_slice(&row[..dimensions]);
            // A cut vector has length 1 again where the model's vectors have.
            if dimensions < self.description.dim && self.description.normalizes() {
                steps::normalize(vector);
            }
        }
        room.shrink(ids.len());
        if vectors.iter().any(|x| !x.is_finite()) {
            return Err(Error::Model(format!(
                "model \"{}\": a vector came out as NaN or infinite; its weights are damaged or too large for f32",
                self.description.name
            )));
        }
        Ok(vectors)
    }

    /// What the tables have rows for. `tokenizer_file.rs` refuses a file that can give other ids; this is for what nobody
    /// thought of, once per batch.
    fn check_batch(&self, ids: &[u32], starts: &[usize]) -> Result<()> {
        let Description { name, architecture, .. } = &*self.description;
        let wrong = |reason| Error::Model(format!("model \"{name}\": {reason}; its tokenizer.json is damaged"));
        let largest = ids.iter().max().map_or(0, |&id| id as usize);
        if largest >= architecture.vocabulary {
            return Err(wrong(tokenizer_file::outside(largest, architecture.vocabulary)));
        }
        let longest = starts.windows(2).map(|text| text[1] - text[0]).max().unwrap_or(0);
        if longest > architecture.places {
            return Err(wrong(format!("a text of {longest} tokens is longer than the {} places", architecture.places)));
        }
        Ok(())
    }
}

/// A `tokenizer.json` can say what its library stops on, a damaged table of characters for instance: an error of that model.
fn guarded<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let reason = "its library stopped in the middle of it, so the file is damaged; fetch it again";
        Err(Error::Model(format!("model \"{name}\": tokenizer.json: {reason}")))
    })
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

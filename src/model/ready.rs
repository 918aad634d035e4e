//! A model that is ready: text in, tokens out; a model batch in, vectors out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::backend::{Backend, BatchShape, Pass};
use super::batch::FlatBatch;
use super::chunks::{Chunk, ChunkSize, Chunker};
use super::description::{Description, Role};
use super::encoder::Cpu;
use super::head::Head;
use super::pieces::Allowance;
use super::place::Place;
use super::scratch::Scratch;
use super::snapshot::Files;
use super::tokenizer::{TextTokenizer, Tokens};
use super::tokenizer_file;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::options::{Device, Precision};

/// A loaded model: shared by every session and partition of the process.
#[derive(Debug)]
pub(crate) struct Model {
    /// What its files say.
    pub(crate) description: Arc<Description>,
    tokenizer: TextTokenizer,
    pub(super) backend: Box<dyn Backend>,
}

impl Model {
    /// Loads tokenizer and weights. The device is a real one, never `auto`.
    pub(super) fn load(files: Files<'_>, description: Arc<Description>, place: Place) -> Result<Self> {
        let tokenizer = guarded(&description.name, || TextTokenizer::load(files, &description))?;
        let weights = Weights::open(files, &description.folder)?;
        let steps = description.steps.iter().map(|step| step.load(files)).collect::<Result<_>>()?;
        let backend = load_backend(&description, &weights, place, Head::new(&description, steps))?;
        files.require_current()?;
        Ok(Self { description, tokenizer, backend })
    }

    /// Loads a directory as it is now, whatever was read of it before.
    #[cfg(feature = "stages")]
    pub(crate) fn load_directory(directory: &str) -> Result<Self> {
        let access = crate::access::Access::local();
        let snapshot = super::snapshot::Snapshot::find(directory, &access)?;
        let files = snapshot.files(&access);
        let description = Arc::new(Description::read(files)?);
        Self::load(files, description, Place { device: Device::Cpu, precision: Precision::F32 })
    }

    /// First tokens of a text that are not pooled, because they are a prompt and this model leaves it out.
    pub(crate) fn unpooled(&self, prompt: &str, max_tokens: usize) -> Result<usize> {
        if self.description.include_prompt || prompt.is_empty() {
            return Ok(0);
        }
        self.tokenizer.prompt_tokens(prompt, max_tokens)
    }

    /// Bytes of its weights in memory.
    pub(crate) fn size(&self) -> usize {
        self.backend.size()
    }

    /// The batches that it runs best.
    pub(crate) fn shape(&self) -> BatchShape {
        self.backend.shape()
    }

    /// Tokens of a batch that it runs best.
    pub(crate) fn batch_tokens(&self) -> usize {
        self.backend.batch_tokens()
    }

    /// Whether a lone text is done sooner where threads help that have nothing else to do.
    pub(crate) fn gains_by_help(&self) -> bool {
        self.backend.gains_by_help()
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

    /// Some texts in one model batch, each cut to the model's limit.
    pub(crate) fn batch_of(&self, role: Role, texts: &[impl AsRef<str>]) -> Result<FlatBatch> {
        let (prompt, limit) = (self.description.prompt(role), self.description.max_tokens);
        let mut batch = FlatBatch::new();
        for text in texts {
            batch.push(&self.tokenize(prompt, text.as_ref(), limit, &Allowance::FREE)?.ids);
        }
        Ok(batch)
    }

    /// Tokens that every text has beside its own.
    pub(crate) fn special_tokens(&self) -> usize {
        self.tokenizer.special
    }

    /// Number of tokens of `prompt + text` before truncation, special tokens counted.
    pub(crate) fn count_tokens(&self, prompt: &str, text: &str, allowance: &Allowance<'_>) -> Result<usize> {
        guarded(&self.description.name, || self.tokenizer.count(prompt, text, allowance))
    }

    /// The chunks of a text, none of which is cut when it is tokenised after `prompt`.
    pub(crate) fn chunks(
        &self,
        prompt: &str,
        text: &str,
        size: ChunkSize,
        allowance: &Allowance<'_>,
    ) -> Result<Vec<Chunk>> {
        let size = ChunkSize { max_tokens: size.max_tokens.min(self.tokenizer.longest), ..size };
        guarded(&self.description.name, || Chunker::new(&self.tokenizer, prompt, text, size, allowance)?.chunks())
    }

    /// Runs one model batch and gives `[texts, dimensions]`.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] where `pass.go_on` says no, what the device says, and vectors that are no numbers.
    pub(crate) fn encode(&self, batch: &FlatBatch, pass: &Pass<'_>, scratch: &mut Scratch) -> Result<Vec<f32>> {
        self.check_batch(batch)?;
        let vectors = self.backend.vectors(batch, pass, scratch)?;
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
    fn check_batch(&self, batch: &FlatBatch) -> Result<()> {
        let Description { name, architecture, .. } = &*self.description;
        let wrong = |reason| Error::Model(format!("model \"{name}\": {reason}; its tokenizer.json is damaged"));
        let largest = batch.ids().iter().max().map_or(0, |&id| id as usize);
        if largest >= architecture.vocabulary {
            return Err(wrong(tokenizer_file::outside(largest, architecture.vocabulary)));
        }
        let longest = batch.longest();
        if longest > architecture.positions {
            return Err(wrong(format!(
                "a text of {longest} tokens is longer than the {} positions",
                architecture.positions
            )));
        }
        Ok(())
    }
}

/// Puts a model's weights where it shall run.
pub(super) fn load_backend(
    Description { architecture, .. }: &Description,
    weights: &Weights,
    Place { device, precision }: Place,
    head: Head,
) -> Result<Box<dyn Backend>> {
    device.require_built_in()?;
    match device {
        Device::Cpu | Device::Auto => Ok(Box::new(Cpu::load(architecture, weights, precision, head)?)),
        _ if precision == Precision::Int8 => {
            Err(Error::Setting(format!("embed.precision: {precision} runs on the cpu only, device is {device}")))
        }
        #[cfg(feature = "candle")]
        _ => {
            let device = super::candle::open_device(device)?;
            Ok(Box::new(super::candle::CandleEncoder::load(architecture, weights, &device, precision, head)?))
        }
        #[cfg(not(feature = "candle"))]
        _ => Err(Error::Device(format!("device {device} is not built in"))),
    }
}

/// A `tokenizer.json` can say what its library stops on, a damaged table of characters for instance: an error of that model.
fn guarded<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let reason = "its library stopped in the middle of it, so the file is damaged; fetch it again";
        Err(Error::Model(format!("model \"{name}\": tokenizer.json: {reason}")))
    })
}

//! What a vector depends on beside its text: one space for each.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::numbers::{ARITHMETIC, TOKENISING};
use super::segment::Shape;
#[cfg(feature = "cluster")]
use crate::error::Result;
use crate::model::{Fingerprint, Place};
#[cfg(feature = "cluster")]
use crate::model::{kernel_path, resolved};
#[cfg(feature = "cluster")]
use crate::options::Device;

/// The file that says what a space is for.
pub(super) const DESCRIPTION: &str = "space.json";

/// Everything a vector depends on but its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpaceKey {
    /// For people; the fingerprint is what counts.
    pub(super) model: String,
    pub(super) fingerprint: String,
    pub(super) precision: String,
    pub(super) device: String,
    /// Instructions of the kernels: other ones add up in another order.
    pub(super) kernels: String,
    pub(super) prompt: String,
    pub(super) max_tokens: usize,
    pub(super) dimensions: usize,
    /// Whether longer texts were cut; where they are an error none is here.
    pub(super) truncate: bool,
    /// [`ARITHMETIC`].
    pub(super) arithmetic: u32,
    /// [`TOKENISING`].
    pub(super) tokenising: u32,
}

/// What computes vectors on a device of this process: two processes that say the same give the same bits.
#[cfg(feature = "cluster")]
pub(crate) fn arithmetic(device: Device) -> Result<String> {
    let computes = match resolved(device) {
        Device::Cpu | Device::Auto => format!("cpu-{}", kernel_path()?),
        Device::Cuda(_) => "cuda".to_owned(),
        Device::Metal => "metal".to_owned(),
        Device::Candle => "candle".to_owned(),
    };
    Ok(format!("{computes}-{ARITHMETIC}.{TOKENISING}"))
}

/// How much of a text is read, and how much of its vector is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VectorLimits {
    pub(crate) max_tokens: usize,
    pub(crate) dimensions: usize,
    /// Whether longer texts are cut, and no error.
    pub(crate) truncate: bool,
}

impl SpaceKey {
    /// Of the vectors that the model with this name and fingerprint gives, in this place and by these kernels, for texts behind
    /// this prompt. What a vector depends on in this crate itself is added here.
    pub(crate) fn new(
        model: &str,
        fingerprint: &Fingerprint,
        place: Place,
        kernels: &str,
        prompt: &str,
        limits: VectorLimits,
    ) -> Self {
        Self {
            model: model.to_owned(),
            fingerprint: fingerprint.to_string(),
            precision: place.precision.to_string(),
            device: place.device.to_string(),
            kernels: kernels.to_owned(),
            prompt: prompt.to_owned(),
            max_tokens: limits.max_tokens,
            dimensions: limits.dimensions,
            truncate: limits.truncate,
            arithmetic: ARITHMETIC,
            tokenising: TOKENISING,
        }
    }

    /// A hash of all the rest but the model's name.
    fn hash(&self) -> [u8; 16] {
        let Self { fingerprint, precision, device, kernels, prompt, .. } = self;
        let Self { max_tokens, dimensions, truncate, arithmetic, tokenising, .. } = self;
        let texts = format!("{fingerprint}\0{precision}\0{device}\0{kernels}\0{prompt}");
        let numbers = format!("{max_tokens}\0{dimensions}\0{truncate}\0{arithmetic}\0{tokenising}");
        *Sha256::digest(format!("{texts}\0{numbers}")).first_chunk().expect("16 of 32 bytes")
    }

    /// The folder's name.
    pub(super) fn folder(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.hash()))
    }

    pub(super) fn shape(&self) -> Shape {
        Shape { values: self.dimensions, space: self.hash() }
    }
}

//! Every setting: its unit, its default and why.
//!
//! The same keys are reachable by `SET embed.x = ...`, by `SHOW embed.x` and as the fields of
//! [`EmbedOptions`]. A value is checked when it is set, so that a wrong one is reported where it was written and not in
//! the middle of a query.

use std::any::Any;
use std::fmt;
use std::str::FromStr;

use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::Result as DataFusionResult;

use crate::error::{Error, Result};
use crate::model::BUNDLED_NAME;

/// Settings of `embed` and its sisters, one set per session.
///
/// ```
/// use datafusion_embed::EmbedOptions;
///
/// let options = EmbedOptions { max_tokens: 128, ..EmbedOptions::default() };
/// assert_eq!(options.model, "sentence-transformers/all-MiniLM-L6-v2");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbedOptions {
    /// `embed.model`: bundled name, local directory, or hub id `owner/name[@revision]`, looked for in this order.
    pub model: String,
    /// `embed.device`: where the model runs. `auto` is the best device that is built in and found.
    pub device: Device,
    /// `embed.precision`: arithmetic of the encoder. `f32` gives the vectors of sentence-transformers.
    pub precision: Precision,
    /// `embed.concurrency`: model batches in flight. 0 is `datafusion.execution.target_partitions`. On the CPU never more
    /// than there are cores, because each batch already keeps one core busy.
    pub concurrency: usize,
    /// `embed.batch_tokens`: token budget of one model batch, at least 1; a longer text is a batch of its own. The
    /// default keeps the activations of a small model inside a core's second-level cache; speed is flat from 256 to 2048.
    pub batch_tokens: usize,
    /// `embed.batch_size`: most texts in one model batch. 0 is by tokens alone.
    pub batch_size: usize,
    /// `embed.memory`: most bytes of vectors that one query remembers, so that equal texts go through the model once;
    /// a size as [`parse_size`] reads it. Beyond it the oldest is forgotten. The default holds 80 000 vectors of 384 numbers.
    pub memory: usize,
    /// `embed.model_memory`: bytes of weights that the process keeps, a size. Models that no query uses are freed, those first that
    /// were not asked for the longest, until the rest fits; what is in use stays. The default holds a model of a billion
    /// weights in f32, or dozens of small ones.
    pub model_memory: usize,
    /// `embed.max_tokens`: truncation length in tokens, special tokens counted. 0 is the model's own.
    pub max_tokens: usize,
    /// `embed.truncate`: `false` makes a longer text an error that names its length and the limit.
    pub truncate: bool,
    /// `embed.dimensions`: keep the first so many values of a vector (Matryoshka), re-normalised where the model
    /// normalises. 0 is all.
    pub dimensions: usize,
    /// `embed.cache`: folder where vectors are kept, so that what was computed once is never computed again, by any query and
    /// any process that uses the folder. Empty is none.
    pub cache: String,
    /// `embed.cache_size`: bytes that the folder may hold, a size. Beyond it the oldest vectors are removed, a sixteenth of
    /// that at once. 0 is any number.
    pub cache_size: usize,
    /// `embed.offline`: never touch the network (also `HF_HUB_OFFLINE=1`).
    pub offline: bool,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self {
            model: BUNDLED_NAME.to_owned(),
            device: Device::Auto,
            precision: Precision::F32,
            concurrency: 0,
            batch_tokens: 512,
            batch_size: 0,
            memory: 128 << 20,
            model_memory: 4 << 30,
            max_tokens: 0,
            truncate: true,
            dimensions: 0,
            cache: String::new(),
            cache_size: 0,
            offline: false,
        }
    }
}

/// Key and one-line description of each setting, in the order of [`EmbedOptions`]' fields.
const SETTINGS: [(&str, &str); 14] = [
    ("model", "Model of embed(): bundled name, local directory, or hub id owner/name[@revision]"),
    ("device", "Where the model runs: auto, cpu, cuda, cuda:N or metal (mps)"),
    ("precision", "Arithmetic of the encoder: f32, bf16 or int8"),
    ("concurrency", "Model batches in flight; 0 is target_partitions, at most the cores on the CPU"),
    ("batch_tokens", "Token budget of one model batch"),
    ("batch_size", "Most texts in one model batch; 0 is by tokens alone"),
    ("memory", "Most bytes of vectors that one query remembers for equal texts; sizes like 512M, 2GB"),
    (
        "model_memory",
        "Bytes of weights that the process keeps; models that no query uses are freed first; sizes like 512M, 2GB",
    ),
    ("max_tokens", "Truncation length in tokens; 0 is the model's own"),
    ("truncate", "Whether a longer text is truncated (true) or an error (false)"),
    ("dimensions", "Keep the first so many values of a vector (Matryoshka); 0 is all"),
    ("cache", "Folder where vectors are kept for later queries; empty is none"),
    (
        "cache_size",
        "Bytes that the folder may hold, the oldest vectors go first; 0 is any number; sizes like 512M, 2GB",
    ),
    ("offline", "Never touch the network (also HF_HUB_OFFLINE=1)"),
];

impl EmbedOptions {
    /// Sets one setting from its text, `key` without the `embed.` prefix.
    fn set_text(&mut self, key: &str, value: &str) -> Result<()> {
        let value = value.trim();
        match key {
            "model" if value.is_empty() => {
                return Err(Error::Setting("embed.model: empty; give a name, a directory or a hub id".into()));
            }
            "model" => self.model = value.to_owned(),
            "device" => self.device = value.parse()?,
            "precision" => self.precision = value.parse()?,
            "concurrency" => self.concurrency = parse_count(key, value, 0)?,
            "batch_tokens" => self.batch_tokens = parse_count(key, value, 1)?,
            "batch_size" => self.batch_size = parse_count(key, value, 0)?,
            "memory" => self.memory = parse_bytes(key, value)?,
            "model_memory" => self.model_memory = parse_bytes(key, value)?,
            "max_tokens" => self.max_tokens = parse_count(key, value, 0)?,
            "truncate" => self.truncate = parse_bool(key, value)?,
            "dimensions" => self.dimensions = parse_count(key, value, 0)?,
            "cache" => self.cache = value.to_owned(),
            "cache_size" => self.cache_size = parse_bytes(key, value)?,
            "offline" => self.offline = parse_bool(key, value)?,
            _ => {
                let known: Vec<_> = SETTINGS.iter().map(|(key, _)| *key).collect();
                return Err(Error::Setting(format!("setting \"embed.{key}\" not found (known: {})", known.join(", "))));
            }
        }
        Ok(())
    }

    /// The text of one setting; what [`Self::set_text`] reads back to the same value.
    fn text(&self, key: &str) -> String {
        match key {
            "model" => self.model.clone(),
            "device" => self.device.to_string(),
            "precision" => self.precision.to_string(),
            "concurrency" => self.concurrency.to_string(),
            "batch_tokens" => self.batch_tokens.to_string(),
            "batch_size" => self.batch_size.to_string(),
            "memory" => self.memory.to_string(),
            "model_memory" => self.model_memory.to_string(),
            "max_tokens" => self.max_tokens.to_string(),
            "truncate" => self.truncate.to_string(),
            "dimensions" => self.dimensions.to_string(),
            "cache" => self.cache.clone(),
            "cache_size" => self.cache_size.to_string(),
            "offline" => self.offline.to_string(),
            _ => unreachable!("a key of SETTINGS"),
        }
    }
}

/// Most that a counting setting takes: far beyond any use, and small enough that no product of two overflows.
const MAX_COUNT: usize = 1 << 31;

fn parse_count(key: &str, value: &str, least: usize) -> Result<usize> {
    match value.parse::<usize>() {
        Ok(count) if (least..=MAX_COUNT).contains(&count) => Ok(count),
        _ => {
            Err(Error::Setting(format!("embed.{key}: '{value}' is not a whole number between {least} and {MAX_COUNT}")))
        }
    }
}

fn parse_bytes(key: &str, value: &str) -> Result<usize> {
    parse_size(value).map_err(|error| Error::Setting(format!("embed.{key}: {error}")))
}

/// Bytes of a size as people write it, `1048576`, `512K`, `1.5G`, `2GB` or `64 MiB`: the one reader of every size, of settings
/// and of the program's flags. `K`, `M`, `G` and `T` are powers of 1024, as PostgreSQL and DataFusion have them.
///
/// ```
/// assert_eq!(datafusion_embed::parse_size("1.5k")?, 1536);
/// assert_eq!(datafusion_embed::parse_size("2GB")?, 2 << 30);
/// # Ok::<(), datafusion_embed::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Setting`] where it is no size, or more bytes than there are addresses.
pub fn parse_size(text: &str) -> Result<usize> {
    let bytes = || {
        let lower = text.trim().to_ascii_lowercase();
        let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &lower[number.len()..] {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return None,
        };
        scaled(number.trim_end(), shift)
    };
    bytes().ok_or_else(|| {
        Error::Setting(format!("'{text}' is not a size (bytes, or a number with K, M, G or T, such as 512M or 2GB)"))
    })
}

/// `digits * 2^shift` of a decimal number, what lies below one byte left out.
fn scaled(digits: &str, shift: u32) -> Option<usize> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let bytes = whole.parse::<usize>().ok()?.checked_mul(1usize.checked_shl(shift)?)?;
    let part = format!("0.{fraction}").parse::<f64>().ok()? * (1u64 << shift) as f64;
    bytes.checked_add(part as usize)
}

fn parse_bool(key: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => Err(Error::Setting(format!("embed.{key}: '{value}' is not true or false"))),
    }
}

impl ConfigExtension for EmbedOptions {
    const PREFIX: &'static str = "embed";
}

impl ExtensionOptions for EmbedOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> DataFusionResult<()> {
        Ok(self.set_text(key, value)?)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |&(key, description): &(&str, &'static str)| ConfigEntry {
            key: format!("{}.{key}", Self::PREFIX),
            value: Some(self.text(key)),
            description,
        };
        SETTINGS.iter().map(entry).collect()
    }
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The best device that is built in and found: CUDA, then Metal, then the CPU.
    Auto,
    /// The CPU, on this crate's own kernels.
    Cpu,
    /// The CUDA device with this ordinal (feature `cuda`).
    Cuda(usize),
    /// The Apple GPU (feature `metal`).
    Metal,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let device = match lower.as_str() {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "cuda" => Self::Cuda(0),
            "metal" | "mps" => Self::Metal,
            _ => match lower.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Self::Cuda(ordinal),
                _ => {
                    return Err(Error::Setting(format!(
                        "embed.device: '{text}' is not a device (auto, cpu, cuda, cuda:N, metal)"
                    )));
                }
            },
        };
        device.require_built_in()?;
        Ok(device)
    }
}

impl Device {
    /// The device itself, `auto` replaced by the best one that is built in and found.
    pub(crate) fn resolve(self) -> Self {
        match self {
            Self::Auto => crate::model::best_device(),
            device => device,
        }
    }

    /// An error that says how to get the device, when this build does not have it.
    pub(crate) fn require_built_in(self) -> Result<()> {
        let feature = match self {
            Self::Cuda(_) if !cfg!(feature = "cuda") => "cuda",
            Self::Metal if !cfg!(feature = "metal") => "metal",
            _ => return Ok(()),
        };
        Err(Error::Device(format!(
            "embed.device: '{self}' is not built in; build with `cargo build --release --features {feature}`, or use cpu"
        )))
    }
}

/// Arithmetic of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floating point: the vectors of sentence-transformers.
    F32,
    /// Products of 16-bit brain floats added up in f32: cosine to f32 at least 0.9999.
    Bf16,
    /// Products of 8-bit integers with a scale per token and per output, attention in bf16: cosine to f32 at least 0.998
    /// on package descriptions, 0.99 on texts of one or two tokens.
    Int8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Int8 => f.write_str("int8"),
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => {
                Err(Error::Setting(format!("embed.precision: '{text}' is not supported (supported: f32, bf16, int8)")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_survives_a_round_trip() {
        let changed = EmbedOptions {
            model: "models/x".into(),
            device: Device::Cpu,
            precision: Precision::F32,
            concurrency: 3,
            batch_tokens: 7,
            batch_size: 9,
            model_memory: 3 << 20,
            memory: 10,
            max_tokens: 11,
            truncate: false,
            dimensions: 13,
            cache: "vectors".into(),
            cache_size: 14,
            offline: true,
        };
        let mut read = EmbedOptions::default();
        for entry in changed.entries() {
            let key = entry.key.strip_prefix("embed.").expect("prefix");
            read.set(key, &entry.value.expect("every setting has a value")).expect("its own text");
        }
        assert_eq!(read, changed);
    }

    #[test]
    fn wrong_values_name_the_key_and_the_value() {
        let wrong = [
            ("model", " "),
            ("device", "tpu"),
            ("device", "cuda:x"),
            ("precision", "f64"),
            ("concurrency", "-1"),
            ("batch_tokens", "0"),
            ("batch_size", "many"),
            ("memory", "-1"),
            ("memory", "4 apples"),
            ("memory", "99999999999G"),
            ("max_tokens", "1e3"),
            ("truncate", "maybe"),
            ("dimensions", "99999999999999999999"),
            ("offline", "2"),
            ("colour", "red"),
        ];
        for (key, value) in wrong {
            let message = EmbedOptions::default().set_text(key, value).expect_err(value).to_string();
            assert!(message.contains(&format!("embed.{key}")), "{message}");
            assert!(message.contains(value.trim()) || key == "colour", "{message}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let right = [
            ("0", 0),
            ("4096", 4096),
            ("18014398509481985", 18_014_398_509_481_985),
            (" 2g ", 2 << 30),
            ("2GB", 2 << 30),
            ("512MiB", 512 << 20),
            ("1.5k", 1536),
            ("64 kB", 64 << 10),
            ("3T", 3 << 40),
            ("0.5b", 0),
        ];
        for (text, bytes) in right {
            assert_eq!(parse_size(text).ok(), Some(bytes), "{text:?}");
        }
        let wrong =
            ["", "G", "2X", "-1G", "+1", "inf", "NaN", "1e3", "1.", ".5G", "1.2.3", "2 G G", "é", "2Gé", "99999999T"];
        for text in wrong {
            let message = parse_size(text).expect_err(text).to_string();
            assert!(message.contains(&format!("'{text}' is not a size")), "{message}");
        }
    }

    #[test]
    fn a_device_that_is_not_built_in_says_how_to_get_it() {
        if !cfg!(feature = "cuda") {
            let message = "cuda:1".parse::<Device>().expect_err("no cuda").to_string();
            assert!(message.contains("--features cuda"), "{message}");
        }
        if !cfg!(feature = "metal") {
            let message = "mps".parse::<Device>().expect_err("no metal").to_string();
            assert!(message.contains("--features metal"), "{message}");
        }
    }
}

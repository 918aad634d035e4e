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
use crate::files::expand_home;

/// The model that `embed` uses when nothing else is said. Compiled in by the feature `bundled-model`.
pub(crate) const BUNDLED_NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// Makes [`EmbedOptions`] of one row per setting: what it is, its field and default, how its text is read, its line in `SHOW`.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $key:ident: $type:ident = $default:expr, $read:expr, $help:literal;)+) => {
        /// Settings of `embed` and its sisters, one set per session.
        ///
        /// ```
        /// use datafusion_embed::EmbedOptions;
        ///
        /// let options = EmbedOptions::default().max_tokens(128);
        /// assert_eq!(options.model, "sentence-transformers/all-MiniLM-L6-v2");
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub struct EmbedOptions {
            $($(#[doc = $doc])+ pub $key: $type,)+
        }

        impl Default for EmbedOptions {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl EmbedOptions {
            $(setter!($key: $type);)+
        }

        /// Every setting, in the order of the fields.
        const SETTINGS: &[Setting] = &[$(Setting {
            key: stringify!($key),
            help: $help,
            set: |options, text| {
                options.$key = $read(concat!("embed.", stringify!($key)), text)?;
                Ok(())
            },
            show: |options| options.$key.to_string(),
        },)+];
    };
}

/// The setting of one field in a chain; text of any type is taken.
macro_rules! setter {
    ($key:ident: String) => {
        setter!($key: String, impl Into<String>);
    };
    ($key:ident: $type:ident) => {
        setter!($key: $type, $type);
    };
    ($key:ident: $type:ident, $argument:ty) => {
        #[doc = concat!("The options with this `embed.", stringify!($key), "`.")]
        #[must_use]
        pub fn $key(mut self, value: $argument) -> Self {
            self.$key = value.into();
            self
        }
    };
}

/// How one setting is set and shown as text.
struct Setting {
    /// Without the `embed.` prefix.
    key: &'static str,
    help: &'static str,
    set: fn(&mut EmbedOptions, &str) -> Result<()>,
    /// What `set` reads back to the same value.
    show: fn(&EmbedOptions) -> String,
}

settings! {
    /// `embed.model`: bundled name, local directory, or hub id `owner/name[@revision]`, looked for in this order.
    model: String = BUNDLED_NAME.to_owned(), read_name,
        "Model of embed(): bundled name, local directory, or hub id owner/name[@revision]";
    /// `embed.device`: where the model runs. `auto` is the best device that is built in and found.
    device: Device = Device::Auto, read_as,
        "Where the model runs: auto, cpu, cuda, cuda:N or metal (mps)";
    /// `embed.precision`: arithmetic of the encoder. `f32` gives the vectors of sentence-transformers.
    precision: Precision = Precision::F32, read_as,
        "Arithmetic of the encoder: f32, bf16 or int8";
    /// `embed.concurrency`: model batches in flight. 0 is `datafusion.execution.target_partitions`. On the CPU never more
    /// than there are cores, because each batch already keeps one core busy.
    concurrency: usize = 0, read_count,
        "Model batches in flight; 0 is target_partitions, at most the cores on the CPU";
    /// `embed.batch_tokens`: token budget of one model batch; a longer text is a batch of its own. 0 is the device's own: 512 on
    /// the CPU, which keeps the activations of a small model inside a core's second-level cache (speed is flat from 256 to
    /// 2048), and 8192 on a GPU.
    batch_tokens: usize = 0, read_count,
        "Token budget of one model batch; 0 is the device's own (CPU 512)";
    /// `embed.batch_size`: most texts in one model batch. 0 is by tokens alone.
    batch_size: usize = 0, read_count,
        "Most texts in one model batch; 0 is by tokens alone";
    /// `embed.memory`: most bytes of vectors that one query remembers, so that equal texts go through the model once;
    /// a size as [`parse_size`] reads it. Beyond it the oldest is forgotten. The default holds 80 000 vectors of 384 numbers.
    memory: usize = 128 << 20, read_size,
        "Most bytes of vectors that one query remembers for equal texts; sizes like 512M, 2GB";
    /// `embed.model_memory`: bytes of weights that the process keeps, a size. Models that no query uses are freed, those first
    /// that were not asked for the longest, until the rest fits; what is in use stays. The default holds a model of a billion
    /// weights in f32, or dozens of small ones.
    model_memory: usize = 4 << 30, read_size,
        "Bytes of weights that the process keeps; models that no query uses are freed first; sizes like 512M, 2GB";
    /// `embed.max_tokens`: truncation length in tokens, special tokens counted. 0 is the model's own.
    max_tokens: usize = 0, read_count,
        "Truncation length in tokens; 0 is the model's own";
    /// `embed.truncate`: `false` makes a longer text an error that names its length and the limit.
    truncate: bool = true, read_bool,
        "Whether a longer text is truncated (true) or an error (false)";
    /// `embed.dimensions`: keep the first so many values of a vector (Matryoshka), re-normalised where the model
    /// normalises. 0 is all.
    dimensions: usize = 0, read_count,
        "Keep the first so many values of a vector (Matryoshka); 0 is all";
    /// `embed.cache`: folder where vectors are kept, so that what was computed once is never computed again, by any query and
    /// any process that uses the folder. Empty is none.
    cache: String = String::new(), read_folder,
        "Folder where vectors are kept for later queries; empty is none";
    /// `embed.cache_size`: bytes that the folder may hold, a size. Beyond it the oldest vectors are removed, a sixteenth of
    /// that at once. 0 is any number.
    cache_size: usize = 0, read_size,
        "Bytes that the folder may hold, the oldest vectors go first; 0 is any number; sizes like 512M, 2GB";
    /// `embed.mixed_arithmetic`: whether the machines of a cluster may compute one statement with different instructions or devices.
    /// `false` refuses such a statement; with `true` equal texts may get vectors that differ in their last bits (in f32 by less than
    /// 0.00001 in their cosine).
    mixed_arithmetic: bool = false, read_bool,
        "Whether machines of a cluster that compute differently may share a statement, whose vectors then differ in last bits";
    /// `embed.offline`: never touch the network (also `HF_HUB_OFFLINE=1`).
    offline: bool = false, read_bool,
        "Never touch the network (also HF_HUB_OFFLINE=1)";
}

/// Most that a counting setting takes: far beyond any use, and small enough that no product of two overflows.
const MAX_COUNT: usize = 1 << 31;

fn read_count(key: &str, text: &str) -> Result<usize> {
    match text.parse::<usize>() {
        Ok(count) if count <= MAX_COUNT => Ok(count),
        _ => Err(Error::Setting(format!("{key}: '{text}' is not a whole number between 0 and {MAX_COUNT}"))),
    }
}

fn read_size(key: &str, text: &str) -> Result<usize> {
    parse_size(text).map_err(|error| Error::Setting(format!("{key}: {error}")))
}

fn read_bool(key: &str, text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => Err(Error::Setting(format!("{key}: '{text}' is not true or false"))),
    }
}

fn read_folder(key: &str, text: &str) -> Result<String> {
    // What was computed is kept under locks and by renames, and a store has neither.
    if text.contains("://") {
        let scheme = text.split("://").next().unwrap_or_default();
        return Err(Error::Setting(format!(
            "{key} is an address ({scheme}://...), and has to be a folder of this machine: vectors in a store are an export (COPY)"
        )));
    }
    Ok(expand_home(text).into_owned())
}

fn read_name(key: &str, text: &str) -> Result<String> {
    match text {
        "" => Err(Error::Setting(format!("{key}: empty; give a name, a directory or a hub id"))),
        // SHOW would show what may be a signature.
        name if name.contains("://") && name.contains('?') => {
            Err(Error::Setting(format!("{key}: the address of a model can have no query")))
        }
        name => Ok(name.to_owned()),
    }
}

/// A value whose own error names the key.
fn read_as<T: FromStr<Err = Error>>(_key: &str, text: &str) -> Result<T> {
    text.parse()
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
    bytes_of(text).ok_or_else(|| {
        Error::Setting(format!("'{text}' is not a size (bytes, or a number with K, M, G or T, such as 512M or 2GB)"))
    })
}

fn bytes_of(text: &str) -> Option<usize> {
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
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let known: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
            let known = known.join(", ");
            return Err(Error::Setting(format!("setting \"embed.{key}\" not found (known: {known})")).into());
        };
        Ok((setting.set)(self, value.trim())?)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        SETTINGS.iter().map(|setting| setting.entry(self)).collect()
    }
}

impl Setting {
    fn entry(&self, options: &EmbedOptions) -> ConfigEntry {
        ConfigEntry {
            key: format!("{}.{}", EmbedOptions::PREFIX, self.key),
            value: Some((self.show)(options)),
            description: self.help,
        }
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
    /// The path of the GPUs on candle's CPU device (feature `candle`): it tests that path, and is of no other use.
    #[doc(hidden)]
    Candle,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
            Self::Candle => f.write_str("candle"),
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
            "candle" => Self::Candle,
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
    /// An error that says how to get the device, when this build does not have it.
    pub(crate) fn require_built_in(self) -> Result<()> {
        let feature = match self {
            Self::Cuda(_) if !cfg!(feature = "cuda") => "cuda",
            Self::Metal if !cfg!(feature = "metal") => "metal",
            Self::Candle if !cfg!(feature = "candle") => "candle",
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
        let changed = EmbedOptions::default()
            .model("models/x")
            .device(Device::Cpu)
            .precision(Precision::Int8)
            .concurrency(3)
            .batch_tokens(7)
            .batch_size(9)
            .memory(10)
            .model_memory(3 << 20)
            .max_tokens(11)
            .truncate(false)
            .dimensions(13)
            .cache("vectors")
            .cache_size(14)
            .mixed_arithmetic(true)
            .offline(true);
        let default = EmbedOptions::default().entries().into_iter();
        for (entry, default) in changed.entries().into_iter().zip(default) {
            assert_ne!(entry.value, default.value, "{} is not tried here", entry.key);
        }
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
            ("batch_tokens", "-1"),
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
            let message = EmbedOptions::default().set(key, value).expect_err(value).to_string();
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

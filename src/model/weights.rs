//! Safetensors -> f32. Tensors are read one at a time, so a model's file is never in memory as a whole, and a file that
//! is cut off while it is read is an error and not a signal.

use std::collections::{BTreeSet, HashMap};

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;

use super::config::MAX_WIDTH;
use super::model_file::ModelFile;
use super::snapshot::Files;
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// A header larger than this is a damaged file, not a model.
const MAX_HEADER: u64 = 100 << 20;
/// Most values that a `mapping` may make of a smaller table: a damaged file must not become a huge allocation.
const MAX_MAPPED: usize = 1 << 29;

/// The weight files of a model, opened and checked, nothing read but their headers.
#[derive(Debug)]
pub(crate) struct Weights {
    /// How an error names the model.
    label: String,
    shards: Vec<Shard>,
    /// Tensor name -> shard and place.
    tensors: HashMap<String, (usize, TensorInfo)>,
}

/// One file of weights.
#[derive(Debug)]
struct Shard {
    path: String,
    /// First byte after the header.
    data_start: u64,
    bytes: ModelFile,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in `folder`.
    pub(crate) fn open(files: Files<'_>, folder: &str) -> Result<Self> {
        let mut weights = Self { label: files.label(), shards: Vec::new(), tensors: HashMap::new() };
        for path in weight_files(files, folder)? {
            let shard = files.open(&path)?.ok_or_else(|| files.missing(&path))?;
            weights.add_shard(files, path, shard)?;
        }
        Ok(weights)
    }

    /// Reads the header of a file and notes where its tensors are.
    fn add_shard(&mut self, files: Files<'_>, path: String, bytes: ModelFile) -> Result<()> {
        let damaged = |reason: String| Error::Model(format!("{}: {path}: {reason}", self.label));
        let length = bytes.len();
        let header_length =
            bytes.read(0, 8).map_err(|_| damaged(format!("only {length} bytes, not a safetensors file")))?;
        let header_length = u64::from_le_bytes(header_length.try_into().expect("8 bytes were asked for"));
        if header_length > MAX_HEADER.min(length - 8) {
            return Err(damaged(format!(
                "header of {header_length} bytes in a file of {length}; not a safetensors file, or cut off"
            )));
        }
        let header = bytes.read(8, header_length as usize).map_err(|error| damaged(error.to_string()))?;
        files.note_beginning(&path, &header)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| damaged(format!("safetensors header: {error}")))?;
        let data_start = 8 + header_length;
        let mut last = data_start;
        for (name, info) in metadata.tensors() {
            let end = data_start.saturating_add(info.data_offsets.1 as u64);
            if end > length {
                return Err(damaged(format!(
                    "tensor {name} ends at byte {end} but the file has {length}; it is cut off, fetch it again"
                )));
            }
            last = last.max(end);
            if let Some((other, _)) = self.tensors.insert(name.clone(), (self.shards.len(), info.clone())) {
                let other = self.shards.get(other).map_or(path.as_str(), |shard| shard.path.as_str());
                return Err(damaged(format!("tensor {name} is in {other} too; one of them is from another model")));
            }
        }
        // The format allows no byte after the last tensor: a download that was joined wrongly shows here.
        if last != length {
            return Err(damaged(format!(
                "the tensors end at byte {last} but the file has {length}; it is damaged, fetch it again"
            )));
        }
        self.shards.push(Shard { path, data_start, bytes });
        Ok(())
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// What comes before `name` in the shortest tensor name that ends with it.
    pub(crate) fn prefix_of(&self, name: &str) -> Option<String> {
        let prefixes = self.tensors.keys().filter_map(|full| full.strip_suffix(name));
        let whole = prefixes.filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        whole.min_by_key(|prefix| (prefix.len(), *prefix)).map(str::to_owned)
    }

    /// A tensor of exactly this shape, widened to f32. Every value is a number: the kernels could lose one that is not, and a
    /// damaged model would give vectors.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (values, finite) = self.widened(name, shape)?;
        if finite {
            return Ok(values);
        }
        let (at, value) = values.iter().enumerate().find(|(_, x)| !x.is_finite()).unwrap_or((0, &f32::NAN));
        let row = at / shape.last().map_or(1, |&width| width.max(1));
        Err(self.wrong(name, &format!("has the value {value} in row {row}, no finite f32; the file is damaged")))
    }

    /// A table of rows that are looked up. Those that no text uses may hold anything, as where a vocabulary was made longer;
    /// one that is used shows in the vector.
    pub(crate) fn table(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.widened(name, shape)?.0)
    }

    /// A tensor of exactly this shape in f32, and whether all of it is finite.
    fn widened(&self, name: &str, shape: &[usize]) -> Result<(Vec<f32>, bool)> {
        let (info, bytes) = self.read(name, shape)?;
        match info.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 => Ok(widen(info.dtype, &bytes)),
            other => Err(self.wrong(name, &format!("has type {other:?}; supported: F32, F16, BF16, F64"))),
        }
    }

    /// Rows and width of the table of a static model: StaticEmbedding's `embedding.weight`, or model2vec's `embeddings`, of
    /// which a `mapping` may give each token its row.
    pub(crate) fn static_shape(&self) -> Result<(usize, usize)> {
        let table = self.static_table();
        let shape = |name| self.find(name).map(|(_, info)| info.shape.as_slice());
        match (shape(table), shape("mapping")) {
            (Some(&[0, _] | &[_, 0]), _) => Err(self.wrong(table, "has no rows or no columns")),
            (Some(&[_, width]), _) if width > MAX_WIDTH => {
                Err(self.wrong(table, &format!("has {width} columns; at most {MAX_WIDTH}")))
            }
            (Some(&[rows, width]), None) => Ok((rows, width)),
            // Each token gets a row of its own in memory.
            (Some(&[_, width]), Some(&[tokens])) if tokens > MAX_MAPPED / width => {
                Err(self.wrong("mapping", &format!("has {tokens} tokens for rows of {width} values; too many")))
            }
            (Some(&[_, width]), Some(&[tokens])) => Ok((tokens, width)),
            (Some(other), None) => {
                Err(self.wrong(table, &format!("has shape {other:?}, a table has rows and columns")))
            }
            (Some(_), Some(other)) => Err(self.wrong("mapping", &format!("has shape {other:?}, it should be a list"))),
            (None, _) => Err(self.missing("embedding.weight")),
        }
    }

    fn static_table(&self) -> &'static str {
        if self.has("embedding.weight") { "embedding.weight" } else { "embeddings" }
    }

    /// The table of a static model, `[rows, width]` of [`Weights::static_shape`], times the tokens' own `weights` if it has
    /// some.
    pub(crate) fn static_words(&self) -> Result<Vec<f32>> {
        let (tokens, width) = self.static_shape()?;
        let table = self.static_table();
        let rows = self.find(table).map_or(0, |(_, info)| info.shape[0]);
        let mut words = self.table(table, &[rows, width])?;
        if self.has("mapping") {
            let mut mapped = Vec::new();
            for index in self.whole_numbers("mapping", tokens)? {
                let row = usize::try_from(index).ok().filter(|&row| row < rows);
                let row = row.ok_or_else(|| self.wrong("mapping", &format!("names row {index} of {rows}")))?;
                mapped.extend_from_slice(&words[row * width..][..width]);
            }
            words = mapped;
        }
        if self.has("weights") {
            let weights = self.tensor("weights", &[tokens])?;
            for (row, weight) in words.chunks_exact_mut(width).zip(weights) {
                row.iter_mut().for_each(|x| *x *= weight);
            }
        }
        Ok(words)
    }

    fn whole_numbers(&self, name: &str, count: usize) -> Result<Vec<i64>> {
        let (info, bytes) = self.read(name, &[count])?;
        match info.dtype {
            Dtype::I64 => Ok(bytes.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            Dtype::I32 => Ok(bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect()),
            other => Err(self.wrong(name, &format!("has type {other:?}; supported: I64, I32"))),
        }
    }

    /// The bytes of a tensor of exactly this shape.
    fn read(&self, name: &str, shape: &[usize]) -> Result<(&TensorInfo, Vec<u8>)> {
        let (shard, info) = self.find(name).ok_or_else(|| self.missing(name))?;
        if info.shape != shape {
            return Err(self.wrong(name, &format!("has shape {:?}, config.json asks for {shape:?}", info.shape)));
        }
        let (start, end) = info.data_offsets;
        let bits = shape.iter().try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size));
        let Some(length) = bits.map(|bits| bits / 8).filter(|&length| end.checked_sub(start) == Some(length)) else {
            return Err(
                self.wrong(name, &format!("has {start}..{end} as its bytes, which is not what its shape needs"))
            );
        };
        let bytes = shard.bytes.read(shard.data_start + start as u64, length);
        Ok((info, bytes.map_err(|error| self.wrong(name, &format!("cannot be read: {error}")))?))
    }

    /// Where a tensor is, also under the name that it had before PyTorch.
    fn find(&self, name: &str) -> Option<(&Shard, &TensorInfo)> {
        let (shard, info) = self.tensors.get(name).or_else(|| self.tensors.get(&old_name(name)))?;
        Some((&self.shards[*shard], info))
    }

    fn missing(&self, name: &str) -> Error {
        let first = self.shards.first().map_or(SINGLE, |shard| shard.path.as_str());
        Error::Model(format!("{}: tensor {name} not found in {first}", self.label))
    }

    fn wrong(&self, name: &str, reason: &str) -> Error {
        let path = self.find(name).map_or(SINGLE, |(shard, _)| shard.path.as_str());
        Error::Model(format!("{}: {path}: tensor {name} {reason}", self.label))
    }
}

/// What checkpoints from before PyTorch call the parts of a layer normalisation.
fn old_name(name: &str) -> String {
    name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
}

/// The weight files of a model, relative to its root.
pub(super) fn weight_files(files: Files<'_>, folder: &str) -> Result<Vec<String>> {
    let single = format!("{folder}{SINGLE}");
    if files.has(&single)? {
        return Ok(vec![single]);
    }
    let index = format!("{folder}{INDEX}");
    if files.has(&index)?
        && let Some(ShardIndex { weight_map }) = files.json(&index)?
    {
        let shards: BTreeSet<_> = weight_map.into_values().map(|file| format!("{folder}{file}")).collect();
        if shards.iter().any(|file| file.contains("..") || file.starts_with('/')) {
            return Err(Error::Model(format!("{}: {index} names a file outside the model", files.label())));
        }
        return Ok(shards.into_iter().collect());
    }
    if files.has(&format!("{folder}pytorch_model.bin"))? {
        return Err(Error::Model(format!(
            "{}: only pytorch_model.bin found, which is never read because it can run code; convert it with \
             `SentenceTransformer(name).save(directory, safe_serialization=True)`",
            files.label()
        )));
    }
    Err(files.missing(&single))
}

/// Little-endian bytes of a float type -> f32, and whether all of it is finite.
fn widen(dtype: Dtype, bytes: &[u8]) -> (Vec<f32>, bool) {
    /// Values that are looked at while they are in the first cache still, so that looking costs next to nothing.
    const BLOCK: usize = 2048;
    let size = dtype.bitsize() / 8;
    let mut values = Vec::with_capacity(bytes.len() / size);
    let mut finite = true;
    for block in bytes.chunks(BLOCK * size) {
        let start = values.len();
        match dtype {
            Dtype::F32 => values.extend(block.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
            Dtype::F64 => values.extend(block.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
            _ => {
                let mut bits = [0u16; BLOCK];
                let bits = &mut bits[..block.len() / size];
                bits.iter_mut().zip(block.as_chunks::<2>().0).for_each(|(bits, &b)| *bits = u16::from_le_bytes(b));
                values.resize(start + bits.len(), 0.0);
                match dtype {
                    Dtype::F16 => bits.reinterpret_cast::<f16>().convert_to_f32_slice(&mut values[start..]),
                    _ => bits.reinterpret_cast::<bf16>().convert_to_f32_slice(&mut values[start..]),
                }
            }
        }
        finite &= all_finite(&values[start..]);
    }
    (values, finite)
}

/// Whether no value is NaN or infinite: without a branch, so that the compiler vectorises it.
fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !values.iter().fold(false, |wrong, x| wrong | (x.to_bits() & EXPONENT == EXPONENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_is_widened_and_what_is_not_finite_is_seen_anywhere() {
        let numbers: Vec<f32> = (0..5000).map(|i| (i % 301) as f32 / 8.0 - 17.0).collect();
        let written = |dtype, numbers: &[f32]| -> Vec<u8> {
            let one = |&x: &f32| match dtype {
                Dtype::F32 => x.to_le_bytes().to_vec(),
                Dtype::F64 => f64::from(x).to_le_bytes().to_vec(),
                Dtype::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
                _ => bf16::from_f32(x).to_le_bytes().to_vec(),
            };
            numbers.iter().flat_map(one).collect()
        };
        for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16] {
            let (values, finite) = widen(dtype, &written(dtype, &numbers));
            let twin = |&x: &f32| if dtype == Dtype::BF16 { bf16::from_f32(x).to_f32() } else { x };
            assert!(finite && values.iter().copied().eq(numbers.iter().map(twin)), "{dtype:?}");
            for (at, wrong) in [(0, f32::NAN), (2047, f32::INFINITY), (2048, f32::NEG_INFINITY), (4999, -f32::NAN)] {
                let mut numbers = numbers.clone();
                numbers[at] = wrong;
                let (values, finite) = widen(dtype, &written(dtype, &numbers));
                assert!(!finite && !values[at].is_finite(), "{dtype:?} {at}");
            }
            assert_eq!(widen(dtype, &[]), (Vec::new(), true));
        }
        // What f32 cannot hold.
        assert!(!widen(Dtype::F64, &1e300f64.to_le_bytes()).1);
        assert!(all_finite(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE / 2.0, -0.0]));
    }
}

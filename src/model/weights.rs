//! Safetensors -> f32. Tensors are read one at a time, so a model's file is never in memory as a whole, and a file that
//! is cut off while it is read is an error and not a signal.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;

use super::files::{Bytes, ModelFiles};
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// A header larger than this is a damaged file, not a model.
const MAX_HEADER: u64 = 100 << 20;

/// The weight files of a model, opened and checked, nothing read but their headers.
#[derive(Debug)]
pub(crate) struct Weights {
    /// How an error names the model.
    label: String,
    shards: Vec<Shard>,
    /// Tensor name -> shard and place.
    tensors: HashMap<String, (usize, TensorInfo)>,
    /// Prefix before every tensor name (`bert.` in checkpoints that had a task head).
    prefix: &'static str,
}

/// One file of weights.
#[derive(Debug)]
struct Shard {
    path: String,
    /// First byte after the header.
    data_start: u64,
    bytes: ShardBytes,
}

#[derive(Debug)]
enum ShardBytes {
    Static(&'static [u8]),
    /// Locked because reading moves the file's position.
    File(Mutex<File>),
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in `folder`.
    pub(crate) fn open(files: &ModelFiles, folder: &str, offline: bool) -> Result<Self> {
        let mut weights = Self { label: files.label(), shards: Vec::new(), tensors: HashMap::new(), prefix: "" };
        for path in weight_files(files, folder, offline)? {
            let shard = match files.find_file(&path, offline)?.ok_or_else(|| files.missing(&path))? {
                Bytes::Static(bytes) => ShardBytes::Static(bytes),
                Bytes::File(file) => {
                    let file = File::open(file).map_err(|error| files.unreadable(&path, &error))?;
                    ShardBytes::File(Mutex::new(file))
                }
            };
            weights.add_shard(path, shard)?;
        }
        if weights.tensors.keys().any(|name| name.starts_with("bert.embeddings.")) {
            weights.prefix = "bert.";
        }
        Ok(weights)
    }

    /// Reads the header of a file and notes where its tensors are.
    fn add_shard(&mut self, path: String, bytes: ShardBytes) -> Result<()> {
        let damaged = |reason: String| Error::Model(format!("{}: {path}: {reason}", self.label));
        let length = bytes.len().map_err(|error| damaged(error.to_string()))?;
        let header_length =
            bytes.read(0, 8).map_err(|_| damaged(format!("only {length} bytes, not a safetensors file")))?;
        let header_length = u64::from_le_bytes(header_length.try_into().expect("8 bytes were asked for"));
        if header_length > MAX_HEADER.min(length - 8) {
            return Err(damaged(format!(
                "header of {header_length} bytes in a file of {length}; not a safetensors file, or cut off"
            )));
        }
        let header = bytes.read(8, header_length as usize).map_err(|error| damaged(error.to_string()))?;
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
            self.tensors.insert(name, (self.shards.len(), info.clone()));
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

    /// A tensor of exactly this shape, widened to f32.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let full = format!("{}{name}", self.prefix);
        let found = self.tensors.get(&full).or_else(|| self.tensors.get(&old_name(&full)));
        let Some((shard, info)) = found else {
            let first = self.shards.first().map_or(SINGLE, |shard| shard.path.as_str());
            return Err(Error::Model(format!("{}: tensor {full} not found in {first}", self.label)));
        };
        let shard = &self.shards[*shard];
        let wrong = |reason: String| Error::Model(format!("{}: {}: tensor {full} {reason}", self.label, shard.path));
        if info.shape != shape {
            return Err(wrong(format!("has shape {:?}, config.json asks for {shape:?}", info.shape)));
        }
        let (start, end) = info.data_offsets;
        let count: usize = shape.iter().product();
        let size = match info.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => return Err(wrong(format!("has type {other:?}; supported: F32, F16, BF16"))),
        };
        if end.checked_sub(start) != Some(count * size) {
            return Err(wrong(format!("has {start}..{end} as its bytes, its shape needs {}", count * size)));
        }
        let bytes = shard.bytes.read(shard.data_start + start as u64, count * size);
        Ok(widen(info.dtype, &bytes.map_err(|error| wrong(format!("cannot be read: {error}")))?))
    }
}

impl ShardBytes {
    fn len(&self) -> io::Result<u64> {
        match self {
            Self::Static(bytes) => Ok(bytes.len() as u64),
            Self::File(file) => Ok(file.lock().unwrap_or_else(PoisonError::into_inner).metadata()?.len()),
        }
    }

    fn read(&self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Static(bytes) => {
                let start = start as usize;
                let part = start.checked_add(length).and_then(|end| bytes.get(start..end));
                part.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Self::File(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = vec![0; length];
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(&mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

/// What checkpoints from before PyTorch call the parts of a layer normalisation.
fn old_name(name: &str) -> String {
    name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
}

/// The weight files of a model, relative to its root.
fn weight_files(files: &ModelFiles, folder: &str, offline: bool) -> Result<Vec<String>> {
    let single = format!("{folder}{SINGLE}");
    if files.find_file(&single, offline)?.is_some() {
        return Ok(vec![single]);
    }
    let index = format!("{folder}{INDEX}");
    if files.find_file(&index, offline)?.is_some()
        && let Some(ShardIndex { weight_map }) = files.json(&index)?
    {
        let shards: BTreeSet<_> = weight_map.into_values().map(|file| format!("{folder}{file}")).collect();
        if shards.iter().any(|file| file.contains("..") || file.starts_with('/')) {
            return Err(Error::Model(format!("{}: {index} names a file outside the model", files.label())));
        }
        return Ok(shards.into_iter().collect());
    }
    if files.find_file(&format!("{folder}pytorch_model.bin"), offline)?.is_some() {
        return Err(Error::Model(format!(
            "{}: only pytorch_model.bin found, which is never read because it can run code; convert it with \
             `SentenceTransformer(name).save(directory, safe_serialization=True)`",
            files.label()
        )));
    }
    Err(files.missing(&single))
}

/// Little-endian bytes of a float type -> f32.
fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    if dtype == Dtype::F32 {
        return bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    }
    let bits: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
    let mut wide = vec![0.0; bits.len()];
    match dtype {
        Dtype::F16 => bits.reinterpret_cast::<f16>().convert_to_f32_slice(&mut wide),
        _ => bits.reinterpret_cast::<bf16>().convert_to_f32_slice(&mut wide),
    }
    wide
}

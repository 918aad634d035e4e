//! The encoder on other devices than this crate's CPU kernels, by candle.
//!
//! Devices want rectangles: a model batch is padded to its longest text and masked. The vectors agree with the CPU path
//! within the precision, not to the bit.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct, PositionEmbeddingType};

use super::Room;
use super::description::{BertConfig, Description};
use super::weights::Weights;
use crate::error::{Error, Result};

/// A BERT on a candle device.
pub(crate) struct CandleEncoder {
    model: BertModel,
    device: Device,
    hidden: usize,
}

impl std::fmt::Debug for CandleEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CandleEncoder").field("device", &self.device.location()).finish_non_exhaustive()
    }
}

/// Opens the device that a setting asks for.
pub(crate) fn open_device(device: crate::options::Device) -> Result<Device> {
    match device {
        crate::options::Device::Cuda(ordinal) => Device::new_cuda(ordinal),
        crate::options::Device::Metal => Device::new_metal(0),
        _ => Ok(Device::Cpu),
    }
    .map_err(|error| Error::Device(format!("embed.device: {device} cannot be used: {error}")))
}

impl CandleEncoder {
    /// Puts the weights on the device.
    pub(crate) fn load(description: &Description, weights: &Weights, device: &Device) -> Result<Self> {
        let config = &description.bert;
        let mut tensors = HashMap::new();
        for (name, shape) in tensor_shapes(config) {
            let values = weights.tensor(&name, &shape)?;
            let tensor = Tensor::from_vec(values, shape, device).map_err(failed)?;
            tensors.insert(name, tensor);
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, device);
        let model = BertModel::load(weights, &candle_config(config)?).map_err(failed)?;
        Ok(Self { model, device: device.clone(), hidden: config.hidden_size })
    }

    /// Runs one model batch and gives the last rows, `[tokens, hidden]`, without the padding.
    pub(crate) fn forward<'r>(&self, ids: &[u32], starts: &[usize], room: &'r mut Room) -> Result<&'r [f32]> {
        let texts = starts.len() - 1;
        let longest = starts.windows(2).map(|text| text[1] - text[0]).max().unwrap_or(0);
        let mut padded = vec![0u32; texts * longest];
        let mut mask = vec![0.0f32; texts * longest];
        for (i, text) in starts.windows(2).enumerate() {
            let length = text[1] - text[0];
            padded[i * longest..][..length].copy_from_slice(&ids[text[0]..text[1]]);
            mask[i * longest..][..length].fill(1.0);
        }
        let rows = self.run(padded, mask, (texts, longest)).map_err(failed)?;
        room.states.clear();
        for (i, text) in starts.windows(2).enumerate() {
            let length = text[1] - text[0];
            room.states.extend_from_slice(&rows[i * longest * self.hidden..][..length * self.hidden]);
        }
        Ok(&room.states)
    }

    fn run(&self, ids: Vec<u32>, mask: Vec<f32>, shape: (usize, usize)) -> candle_core::Result<Vec<f32>> {
        let ids = Tensor::from_vec(ids, shape, &self.device)?;
        let types = ids.zeros_like()?;
        let mask = Tensor::from_vec(mask, shape, &self.device)?;
        self.model.forward(&ids, &types, Some(&mask))?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }
}

fn failed(error: candle_core::Error) -> Error {
    Error::Device(format!("device: {error}"))
}

/// Every tensor that the encoder needs, with its shape.
fn tensor_shapes(config: &BertConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![config.vocab_size, hidden]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![config.max_position_embeddings, hidden]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![config.type_vocab_size, hidden]),
    ];
    let mut pair = |name: String, shape: Vec<usize>| {
        shapes.push((format!("{name}.bias"), vec![shape[0]]));
        shapes.push((format!("{name}.weight"), shape));
    };
    pair("embeddings.LayerNorm".to_owned(), vec![hidden]);
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            pair(name(part), vec![hidden, hidden]);
        }
        pair(name("attention.output.LayerNorm"), vec![hidden]);
        pair(name("intermediate.dense"), vec![wide, hidden]);
        pair(name("output.dense"), vec![hidden, wide]);
        pair(name("output.LayerNorm"), vec![hidden]);
    }
    shapes
}

fn candle_config(config: &BertConfig) -> Result<Config> {
    let hidden_act = match config.hidden_act.as_str() {
        "gelu" => HiddenAct::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => HiddenAct::GeluApproximate,
        "relu" => HiddenAct::Relu,
        other => return Err(Error::Device(format!("config.json: hidden_act \"{other}\" runs on the cpu only"))),
    };
    Ok(Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        intermediate_size: config.intermediate_size,
        hidden_act,
        hidden_dropout_prob: 0.0,
        max_position_embeddings: config.max_position_embeddings,
        type_vocab_size: config.type_vocab_size,
        layer_norm_eps: config.layer_norm_eps,
        position_embedding_type: PositionEmbeddingType::Absolute,
        ..Config::default()
    })
}

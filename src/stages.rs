//! Each stage of the pipeline alone, for this repository's benches, tests and fuzz targets. Not part of the public interface.

use std::sync::Arc;

use crate::access::Access;
use crate::error::{Error, Result};
use crate::kernels::{Arithmetic, Converted, Epilogue, PackedMatrix, Path};
use crate::model::{self, FlatBatch, Model, Pass, Place, Role, Scratch};
use crate::options::{Device, EmbedOptions, Precision};

/// A loaded model and one worker's scratch.
#[derive(Debug)]
pub struct Stages {
    model: Arc<Model>,
    scratch: Scratch,
}

/// A model batch.
#[derive(Debug, Clone)]
pub struct ModelBatch(FlatBatch);

impl ModelBatch {
    /// Made-up texts of so many tokens each.
    pub fn made_up(texts: usize, tokens: usize) -> Self {
        let ids: Vec<u32> = (0..texts * tokens).map(|i| (1000 + i * 7919 % 20_000) as u32).collect();
        Self(ids.chunks(tokens).collect())
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.0.tokens()
    }
}

impl Stages {
    /// Loads the bundled model on the CPU.
    pub fn load(precision: Precision) -> std::result::Result<Self, Error> {
        let (access, place) = (Access::local(), Place { device: Device::Cpu, precision });
        let model = model::find(&EmbedOptions::default().model, &access)?.load(&access, place, usize::MAX)?;
        Ok(Self { model, scratch: Scratch::default() })
    }

    /// texts -> tokens, joined to one model batch.
    pub fn tokenize(&self, texts: &[&str]) -> Result<ModelBatch> {
        Ok(ModelBatch(self.model.batch_of(Role::Plain, texts)?))
    }

    /// model batch -> vectors, `[texts, dim]`.
    pub fn encode(&mut self, batch: &ModelBatch) -> Result<Vec<f32>> {
        let pass = Pass { unpooled: 0, dimensions: self.model.description.dim, go_on: &|| true };
        self.model.encode(&batch.0, &pass, &mut self.scratch)
    }
}

/// One matrix product of the f32 kernel, `[rows, inputs] x [inputs, outputs]`.
#[derive(Debug)]
pub struct Product {
    matrix: PackedMatrix,
    inputs: Vec<f32>,
    outputs: Vec<f32>,
}

impl Product {
    /// Packs a matrix of made-up numbers.
    pub fn new(rows: usize, inputs: usize, outputs: usize) -> Result<Self> {
        let numbers = |n: usize| (0..n).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect::<Vec<_>>();
        let (weight, bias) = (numbers(outputs * inputs), vec![0.0; outputs]);
        Ok(Self {
            matrix: PackedMatrix::pack(Path::chosen()?, Arithmetic::F32, &weight, &bias, None),
            inputs: numbers(rows * inputs),
            outputs: vec![0.0; rows * outputs],
        })
    }

    /// Runs it.
    pub fn run(&mut self) {
        self.matrix.multiply(&self.inputs, &mut Converted::default(), Epilogue::Bias, &mut self.outputs, None);
    }
}

/// A lifting rule that fails is an error of the query from now on, not a query that is only slow.
pub fn fail_on_broken_rule() {
    crate::plan::fail_on_broken_rule();
}

/// Reads the model of a directory as it is now, remembers nothing of it, and gives the vector of a text: what the fuzz
/// targets do with damaged files.
pub fn try_directory(directory: &str, text: &str) -> Result<Vec<f32>> {
    let model = Model::load_directory(directory)?;
    let pass = Pass { unpooled: 0, dimensions: model.description.dim, go_on: &|| true };
    model.encode(&model.batch_of(Role::Plain, &[text])?, &pass, &mut Scratch::default())
}

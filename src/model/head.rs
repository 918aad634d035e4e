//! One row per token -> the vector of each text: pooling and the steps after it.

use super::backend::Pass;
use super::description::Description;
use super::pooling::Pooling;
use super::steps::{self, Step};

/// What comes after an encoder.
#[derive(Debug)]
pub(crate) struct Head {
    /// Width of a token's row.
    hidden: usize,
    pub(super) pooling: Pooling,
    pub(super) steps: Vec<Step>,
    /// Length of a whole vector.
    dim: usize,
    /// Whether vectors have length 1, and one that was cut has it again.
    normalizes: bool,
}

impl Head {
    pub(super) fn new(description: &Description, steps: Vec<Step>) -> Self {
        Self {
            hidden: description.architecture.hidden,
            pooling: description.pooling.clone(),
            steps,
            dim: description.dim,
            normalizes: description.normalizes(),
        }
    }

    /// Bytes of the weights of the steps.
    pub(super) fn size(&self) -> usize {
        self.steps.iter().map(Step::size).sum()
    }

    /// Rows of tokens, `[tokens, hidden]`, to vectors, `[texts, dimensions]`.
    pub(super) fn vectors(&self, states: &[f32], starts: &[usize], pass: &Pass<'_>) -> Vec<f32> {
        self.finish(starts.len() - 1, pass.dimensions, |text, row| {
            let rows = &states[starts[text] * self.hidden..starts[text + 1] * self.hidden];
            self.pooling.apply(rows, pass.unpooled, self.hidden, row);
        })
    }

    /// Vectors of texts whose rows `pool` writes, each `[modes * hidden]`.
    pub(super) fn finish(&self, texts: usize, dimensions: usize, pool: impl Fn(usize, &mut [f32])) -> Vec<f32> {
        let mut vectors = vec![0.0; texts * dimensions];
        let (mut row, mut scratch) = (Vec::new(), Vec::new());
        for (text, vector) in vectors.chunks_exact_mut(dimensions).enumerate() {
            row.resize(self.pooling.0.len() * self.hidden, 0.0);
            pool(text, &mut row);
            self.steps.iter().for_each(|step| step.apply(&mut row, &mut scratch));
            vector.copy_from_slice(&row[..dimensions]);
            if dimensions < self.dim && self.normalizes {
                steps::normalize(vector);
            }
        }
        vectors
    }
}

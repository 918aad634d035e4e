//! One row per text -> the vector: the modules that follow Pooling in `modules.json`, one after the other.

use std::fmt;

use super::config::Config;
use super::files::ModelFiles;
use super::weights::Weights;
use crate::error::Result;

/// A module after Pooling, as its folder describes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StepShape {
    /// `activation(x W^T + b)`, and `x` added where the module is residual.
    Dense { folder: String, inputs: usize, outputs: usize, bias: bool, residual: bool, activation: DenseActivation },
    /// Layer normalisation with PyTorch's epsilon.
    LayerNorm { folder: String, width: usize },
    /// Length 1.
    Normalize,
}

/// A module after Pooling with its weights.
#[derive(Debug)]
pub(super) enum Step {
    Dense {
        /// `[outputs, inputs]`
        weight: Vec<f32>,
        /// `[outputs]`
        bias: Vec<f32>,
        /// What is added: the input itself, or a product with `[outputs, inputs]`.
        residual: Residual,
        activation: DenseActivation,
    },
    LayerNorm {
        weight: Vec<f32>,
        bias: Vec<f32>,
    },
    Normalize,
}

/// What a Dense module adds to what it gives.
#[derive(Debug)]
pub(super) enum Residual {
    None,
    Input,
    Product(Vec<f32>),
}

/// The activation function of a Dense module: PyTorch's modules with their own defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DenseActivation {
    Celu,
    Elu,
    Gelu,
    HardShrink,
    HardSigmoid,
    HardSwish,
    HardTanh,
    Identity,
    LeakyRelu,
    LogSigmoid,
    Mish,
    Relu,
    Relu6,
    Selu,
    Sigmoid,
    Silu,
    SoftPlus,
    SoftShrink,
    SoftSign,
    Tanh,
    TanhShrink,
}

impl DenseActivation {
    /// Every function with the name of its PyTorch class.
    const ALL: [(Self, &'static str); 21] = [
        (Self::Celu, "CELU"),
        (Self::Elu, "ELU"),
        (Self::Gelu, "GELU"),
        (Self::HardShrink, "Hardshrink"),
        (Self::HardSigmoid, "Hardsigmoid"),
        (Self::HardSwish, "Hardswish"),
        (Self::HardTanh, "Hardtanh"),
        (Self::Identity, "Identity"),
        (Self::LeakyRelu, "LeakyReLU"),
        (Self::LogSigmoid, "LogSigmoid"),
        (Self::Mish, "Mish"),
        (Self::Relu, "ReLU"),
        (Self::Relu6, "ReLU6"),
        (Self::Selu, "SELU"),
        (Self::Sigmoid, "Sigmoid"),
        (Self::Silu, "SiLU"),
        (Self::SoftPlus, "Softplus"),
        (Self::SoftShrink, "Softshrink"),
        (Self::SoftSign, "Softsign"),
        (Self::Tanh, "Tanh"),
        (Self::TanhShrink, "Tanhshrink"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// In f64: a vector has a thousand values or so, and nobody waits for them.
    fn apply(self, x: f32) -> f32 {
        let x = f64::from(x);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let soft_plus = |x: f64| if x > 20.0 { x } else { x.exp().ln_1p() };
        let elu = |x: f64| if x > 0.0 { x } else { x.exp_m1() };
        let y = match self {
            // With their defaults the two are the same.
            Self::Celu | Self::Elu => elu(x),
            Self::Gelu => x * 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Self::HardShrink => {
                if x.abs() <= 0.5 {
                    0.0
                } else {
                    x
                }
            }
            Self::HardSigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::HardTanh => x.clamp(-1.0, 1.0),
            Self::Identity => x,
            Self::LeakyRelu => {
                if x < 0.0 {
                    0.01 * x
                } else {
                    x
                }
            }
            Self::LogSigmoid => -soft_plus(-x),
            Self::Mish => x * soft_plus(x).tanh(),
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Selu => 1.050_700_987_355_480_5 * if x > 0.0 { x } else { 1.673_263_242_354_377_2 * x.exp_m1() },
            Self::Sigmoid => sigmoid(x),
            Self::Silu => x * sigmoid(x),
            Self::SoftPlus => soft_plus(x),
            Self::SoftShrink => {
                if x.abs() <= 0.5 {
                    0.0
                } else {
                    x - 0.5 * x.signum()
                }
            }
            Self::SoftSign => x / (1.0 + x.abs()),
            Self::Tanh => x.tanh(),
            Self::TanhShrink => x - x.tanh(),
        };
        y as f32
    }
}

/// The error function: its series near 0, its continued fraction farther out.
fn erf(x: f64) -> f64 {
    if x.abs() > 3.0 {
        let mut fraction = 0.0;
        for n in (1..=60).rev() {
            fraction = f64::from(n) / 2.0 / (x.abs() + fraction);
        }
        let rest = (-x * x).exp() / (x.abs() + fraction) / std::f64::consts::PI.sqrt();
        return x.signum() * (1.0 - rest);
    }
    let (mut term, mut total) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        total += term / f64::from(2 * n + 1);
    }
    total * std::f64::consts::FRAC_2_SQRT_PI
}

/// `Dense 768 -> 3072 Tanh`
impl fmt::Display for StepShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense { inputs, outputs, activation, .. } => {
                write!(f, "Dense {inputs} -> {outputs} {}", activation.name())
            }
            Self::LayerNorm { .. } => f.write_str("LayerNorm"),
            Self::Normalize => f.write_str("Normalize"),
        }
    }
}

impl StepShape {
    /// Reads a Dense module's configuration; `width` is that of the rows that come in.
    pub(super) fn dense(files: &ModelFiles, folder: &str, width: usize) -> Result<Self> {
        let config = Config::read(files, &format!("{folder}config.json"))?;
        for key in ["module_input_name", "module_output_name"] {
            config.expect(key, &"sentence_embedding".into())?;
        }
        let inputs = config.size(&["in_features"], width)?;
        if inputs != width {
            let known = format!("{width}, the width of what comes in");
            return Err(config.unsupported("in_features", &inputs.to_string(), &known));
        }
        let activation = match config.text("activation_function")? {
            None => DenseActivation::Tanh,
            Some(path) => {
                // Code of any other module is never run.
                let name = path.strip_prefix("torch.").and_then(|path| path.rsplit('.').next());
                let found = DenseActivation::ALL.iter().find(|(_, known)| Some(*known) == name);
                let known = || format!("torch.nn's {}", DenseActivation::ALL.map(|(_, name)| name).join(", "));
                found
                    .map(|(found, _)| *found)
                    .ok_or_else(|| config.unsupported("activation_function", path, &known()))?
            }
        };
        Ok(Self::Dense {
            folder: folder.to_owned(),
            inputs,
            outputs: config.size(&["out_features"], width)?,
            bias: config.flag("bias", true)?,
            residual: config.flag("use_residual", false)?,
            activation,
        })
    }

    /// Reads a LayerNorm module's configuration.
    pub(super) fn layer_norm(files: &ModelFiles, folder: &str, width: usize) -> Result<Self> {
        let config = Config::read(files, &format!("{folder}config.json"))?;
        let said = config.size(&["dimension"], width)?;
        if said != width {
            let known = format!("{width}, the width of what comes in");
            return Err(config.unsupported("dimension", &said.to_string(), &known));
        }
        Ok(Self::LayerNorm { folder: folder.to_owned(), width })
    }

    /// Folder of the module's files, if it has some.
    pub(super) fn folder(&self) -> Option<&str> {
        match self {
            Self::Dense { folder, .. } | Self::LayerNorm { folder, .. } => Some(folder),
            Self::Normalize => None,
        }
    }

    /// Width of what comes out.
    pub(super) fn width(&self, input: usize) -> usize {
        match self {
            Self::Dense { outputs, .. } => *outputs,
            Self::LayerNorm { .. } | Self::Normalize => input,
        }
    }

    /// Reads the module's weights.
    pub(super) fn load(&self, files: &ModelFiles, offline: bool) -> Result<Step> {
        match self {
            Self::Dense { folder, inputs, outputs, bias, residual, activation } => {
                let weights = Weights::open(files, folder, offline)?;
                let residual = match residual {
                    false => Residual::None,
                    true if inputs == outputs => Residual::Input,
                    true => Residual::Product(weights.tensor("residual.weight", &[*outputs, *inputs])?),
                };
                Ok(Step::Dense {
                    weight: weights.tensor("linear.weight", &[*outputs, *inputs])?,
                    bias: if *bias { weights.tensor("linear.bias", &[*outputs])? } else { vec![0.0; *outputs] },
                    residual,
                    activation: *activation,
                })
            }
            Self::LayerNorm { folder, width } => {
                let weights = Weights::open(files, folder, offline)?;
                let tensor = |part| weights.tensor(part, &[*width]);
                Ok(Step::LayerNorm { weight: tensor("norm.weight")?, bias: tensor("norm.bias")? })
            }
            Self::Normalize => Ok(Step::Normalize),
        }
    }
}

impl Step {
    /// Runs the module on one row; `room` keeps its memory for the next one.
    pub(super) fn apply(&self, row: &mut Vec<f32>, room: &mut Vec<f32>) {
        match self {
            Self::Dense { weight, bias, residual, activation } => {
                room.clear();
                room.extend(sums(weight, row).zip(bias).map(|(sum, b)| activation.apply(sum + b)));
                match residual {
                    Residual::None => {}
                    Residual::Input => room.iter_mut().zip(&*row).for_each(|(y, x)| *y += x),
                    Residual::Product(weight) => room.iter_mut().zip(sums(weight, row)).for_each(|(y, x)| *y += x),
                }
                std::mem::swap(row, room);
            }
            Self::LayerNorm { weight, bias } => {
                let width = row.len() as f64;
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width;
                let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width;
                for ((x, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
                    *x = ((f64::from(*x) - mean) / (variance + 1e-5).sqrt()) as f32 * w + b;
                }
            }
            Self::Normalize => normalize(row),
        }
    }

    /// Bytes of the weights in memory.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Dense { weight, .. } => size_of_val(weight.as_slice()),
            Self::LayerNorm { .. } | Self::Normalize => 0,
        }
    }
}

/// `W x`, each sum in lanes of its own, so that the compiler vectorises it.
fn sums<'a>(weight: &'a [f32], x: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    const LANES: usize = 16;
    weight.chunks_exact(x.len()).map(|row| {
        let mut sums = [0.0f32; LANES];
        let (rows, values) = (row.chunks_exact(LANES), x.chunks_exact(LANES));
        let rest: f32 = rows.remainder().iter().zip(values.remainder()).map(|(w, x)| w * x).sum();
        for (row, x) in rows.zip(values) {
            sums.iter_mut().zip(row.iter().zip(x)).for_each(|(sum, (w, x))| *sum += w * x);
        }
        sums.iter().sum::<f32>() + rest
    })
}

/// Divides a vector by its length; one that is zero stays zero (PyTorch's `normalize` with its floor of 1e-12).
pub(super) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_exact_on_both_sides_of_its_seam() {
        for (x, y) in
            [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (2.9, 0.999_958_902_121_900_5), (3.1, 0.999_988_351_342_632_8)]
        {
            assert!((erf(x) - y).abs() < 1e-12 && (erf(-x) + y).abs() < 1e-12, "{x}: {}", erf(x));
        }
    }
}

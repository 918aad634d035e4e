//! One row per text -> the vector: the modules that follow Pooling in `modules.json`, one after the other.

use std::fmt;

use super::config::Config;
use super::snapshot::Files;
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
        /// The parameter of PReLU.
        slope: f32,
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
    LogSoftmax,
    Mish,
    PRelu,
    Relu,
    Relu6,
    Selu,
    Sigmoid,
    Silu,
    Softmax,
    Softmin,
    SoftPlus,
    SoftShrink,
    SoftSign,
    Tanh,
    TanhShrink,
}

impl DenseActivation {
    /// Every function with the name of its PyTorch class.
    const ALL: [(Self, &'static str); 25] = [
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
        (Self::LogSoftmax, "LogSoftmax"),
        (Self::Mish, "Mish"),
        (Self::PRelu, "PReLU"),
        (Self::Relu, "ReLU"),
        (Self::Relu6, "ReLU6"),
        (Self::Selu, "SELU"),
        (Self::Sigmoid, "Sigmoid"),
        (Self::Silu, "SiLU"),
        (Self::Softmax, "Softmax"),
        (Self::Softmin, "Softmin"),
        (Self::SoftPlus, "Softplus"),
        (Self::SoftShrink, "Softshrink"),
        (Self::SoftSign, "Softsign"),
        (Self::Tanh, "Tanh"),
        (Self::TanhShrink, "Tanhshrink"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// One row. In f64: a vector has a thousand values or so, and nobody waits for them. `slope` is the parameter of
    /// PReLU.
    fn apply(self, row: &mut [f32], slope: f32) {
        let sign = if self == Self::Softmin { -1.0 } else { 1.0 };
        match self {
            Self::Softmax | Self::Softmin | Self::LogSoftmax => {
                let most = row.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(sign * f64::from(x)));
                let total: f64 = row.iter().map(|&x| (sign * f64::from(x) - most).exp()).sum();
                for x in row {
                    let log = sign * f64::from(*x) - most - total.ln();
                    *x = if self == Self::LogSoftmax { log } else { log.exp() } as f32;
                }
            }
            _ => row.iter_mut().for_each(|x| *x = self.of(*x, slope)),
        }
    }

    /// One value, for the functions that look at one at a time.
    fn of(self, x: f32, slope: f32) -> f32 {
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
            Self::PRelu if x < 0.0 => f64::from(slope) * x,
            Self::Identity | Self::PRelu | Self::LogSoftmax | Self::Softmax | Self::Softmin => x,
            Self::LeakyRelu => {
                if x < 0.0 {
                    0.01 * x
                } else {
                    x
                }
            }
            Self::LogSigmoid => -soft_plus(-x),
            Self::Mish => x * soft_plus(x).tanh(),
            Self::Relu => rectified(x),
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
    pub(super) fn dense(files: Files<'_>, folder: &str, width: usize) -> Result<Self> {
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
            outputs: config.width(&["out_features"], width)?,
            bias: config.flag("bias", true)?,
            residual: config.flag("use_residual", false)?,
            activation,
        })
    }

    /// Reads a LayerNorm module's configuration.
    pub(super) fn layer_norm(files: Files<'_>, folder: &str, width: usize) -> Result<Self> {
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
    pub(super) fn load(&self, files: Files<'_>) -> Result<Step> {
        match self {
            Self::Dense { folder, inputs, outputs, bias, residual, activation } => {
                let weights = Weights::open(files, folder)?;
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
                    slope: match activation {
                        DenseActivation::PRelu => weights.tensor("activation_function.weight", &[1])?[0],
                        _ => 0.0,
                    },
                })
            }
            Self::LayerNorm { folder, width } => {
                let weights = Weights::open(files, folder)?;
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
            Self::Dense { weight, bias, residual, activation, slope } => {
                room.clear();
                room.extend(sums(weight, row).zip(bias).map(|(sum, b)| sum + b));
                activation.apply(room, *slope);
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

/// NaN stays NaN: a damaged model must be noticed.
fn rectified(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// Divides a vector by its length; one that is zero stays zero (PyTorch's `normalize` with its floor of 1e-12).
pub(super) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyTorch's modules give for these values, with their defaults.
    #[test]
    fn activations_are_those_of_pytorch() {
        const X: [f32; 8] = [-3.0, -0.7, -0.2, 0.1, 0.3, 0.9, 2.5, 7.0];
        let expected: [(&str, [f32; 8]); 25] = [
            ("CELU", [-0.950213, -0.5034147, -0.1812692, 0.1, 0.3, 0.9, 2.5, 7.0]),
            ("ELU", [-0.950213, -0.5034147, -0.1812692, 0.1, 0.3, 0.9, 2.5, 7.0]),
            ("GELU", [-0.004050225, -0.1693746, -0.08414806, 0.05398278, 0.1853734, 0.7343459, 2.484476, 7.0]),
            ("Hardshrink", [-3.0, -0.7, 0.0, 0.0, 0.0, 0.9, 2.5, 7.0]),
            ("Hardsigmoid", [0.0, 0.3833333, 0.4666667, 0.5166667, 0.55, 0.65, 0.9166667, 1.0]),
            ("Hardswish", [-0.0, -0.2683333, -0.09333333, 0.05166667, 0.165, 0.585, 2.291667, 7.0]),
            ("Hardtanh", [-1.0, -0.7, -0.2, 0.1, 0.3, 0.9, 1.0, 1.0]),
            ("Identity", [-3.0, -0.7, -0.2, 0.1, 0.3, 0.9, 2.5, 7.0]),
            ("LeakyReLU", [-0.03, -0.007, -0.002, 0.1, 0.3, 0.9, 2.5, 7.0]),
            (
                "LogSigmoid",
                [-3.048587, -1.103186, -0.7981389, -0.6443967, -0.5543552, -0.3411539, -0.07888974, -0.0009114665],
            ),
            ("LogSoftmax", [-10.0167, -7.716695, -7.216695, -6.916695, -6.716695, -6.116695, -4.516695, -0.01669519]),
            ("Mish", [-0.1456475, -0.2678702, -0.1071448, 0.06317942, 0.2080014, 0.7612059, 2.471392, 6.999989]),
            ("PReLU", [-0.75, -0.175, -0.05, 0.1, 0.3, 0.9, 2.5, 7.0]),
            ("ReLU", [0.0, 0.0, 0.0, 0.1, 0.3, 0.9, 2.5, 7.0]),
            ("ReLU6", [0.0, 0.0, 0.0, 0.1, 0.3, 0.9, 2.5, 6.0]),
            ("SELU", [-1.670569, -0.885053, -0.3186893, 0.1050701, 0.3152103, 0.9456309, 2.626753, 7.354907]),
            ("Sigmoid", [0.04742587, 0.3318122, 0.450166, 0.5249792, 0.5744425, 0.7109495, 0.9241418, 0.999089]),
            ("SiLU", [-0.1422776, -0.2322686, -0.0900332, 0.05249792, 0.1723328, 0.6398545, 2.310354, 6.993623]),
            (
                "Softmax",
                [4.464826e-05, 0.00044533, 0.000734225, 0.0009910997, 0.001210532, 0.002205733, 0.01092507, 0.9834434],
            ),
            (
                "Softmin",
                [0.7890323, 0.07910747, 0.04798111, 0.03554528, 0.02910201, 0.01597152, 0.003224595, 3.582201e-05],
            ),
            ("Softplus", [0.04858735, 0.4031861, 0.5981389, 0.7443967, 0.8543553, 1.241154, 2.57889, 7.000912]),
            ("Softshrink", [-2.5, -0.2, -0.0, 0.0, 0.0, 0.4, 2.0, 6.5]),
            ("Softsign", [-0.75, -0.4117647, -0.1666667, 0.09090909, 0.2307692, 0.4736842, 0.7142857, 0.875]),
            ("Tanh", [-0.9950548, -0.6043678, -0.1973753, 0.099668, 0.2913126, 0.7162979, 0.9866143, 0.9999983]),
            (
                "Tanhshrink",
                [-2.004945, -0.0956322, -0.002624676, 0.0003320053, 0.008687377, 0.1837021, 1.513386, 6.000002],
            ),
        ];
        assert_eq!(expected.map(|(name, _)| name), DenseActivation::ALL.map(|(_, name)| name));
        for ((activation, name), (_, expected)) in DenseActivation::ALL.into_iter().zip(expected) {
            let mut row = X;
            activation.apply(&mut row, 0.25);
            for (y, expected) in row.into_iter().zip(expected) {
                assert!((y - expected).abs() < 2e-6 * expected.abs().max(1.0), "{name}: {y}, not {expected}");
            }
        }
    }

    #[test]
    fn the_error_function_is_exact_on_both_sides_of_its_seam() {
        for (x, y) in
            [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (2.9, 0.999_958_902_121_900_5), (3.1, 0.999_988_351_342_632_8)]
        {
            assert!((erf(x) - y).abs() < 1e-12 && (erf(-x) + y).abs() < 1e-12, "{x}: {}", erf(x));
        }
    }
}

//! Arithmetic along rows: layer normalisation and the elementwise functions, written so that the compiler vectorises it.

use super::path::{Path, fused, per_path};

/// Values that one vector register of the widest path holds. Sums are kept in this many lanes on every path, so that the
/// order of additions does not depend on the compiler's choice.
pub(super) const LANES: usize = 16;

/// The activation function of a model's feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x * (1 + erf(x / sqrt 2)) / 2`
    Gelu,
    /// The same to 5 digits, for the low precisions.
    RoughGelu,
    /// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x / (1 + exp(-x))`
    Silu,
}

/// `y = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias`, row by row.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    /// Scale, `[width]`.
    pub(crate) weight: Vec<f32>,
    /// Shift, `[width]`.
    pub(crate) bias: Vec<f32>,
    /// Added to the variance.
    pub(crate) epsilon: f32,
}

impl LayerNorm {
    /// Normalises every row of `rows`, `[n, width]`, in place.
    pub(crate) fn apply(&self, path: Path, rows: &mut [f32]) {
        layer_norm(path, rows, &self.weight, &self.bias, self.epsilon);
    }
}

per_path! {
    fn layer_norm(rows: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) = layer_norm_body;
}

#[inline(always)]
fn layer_norm_body<const FMA: bool>(rows: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let width = weight.len();
    for row in rows.chunks_exact_mut(width) {
        let mean = sum::<FMA>(row, |x| x) / width as f32;
        let variance = sum::<FMA>(row, |x| (x - mean) * (x - mean)) / width as f32;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for ((x, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
            *x = fused::<FMA>((*x - mean) * scale, w, b);
        }
    }
}

/// Sum of `f(x)` over a row in [`LANES`] lanes.
#[inline(always)]
fn sum<const FMA: bool>(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    add_up(lanes)
}

/// Adds the lanes pairwise.
#[inline(always)]
pub(super) fn add_up(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Splits `e^x` into `2^n * e^r` with n = round(x / ln 2) and |r| <= ln 2 / 2, and gives `(e^r, n)`.
#[inline(always)]
fn split_exp<const FMA: bool>(x: f32) -> (f32, i32) {
    // ln 2 in two parts, so that r is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = fused::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fused::<FMA>(n, -LN2_HIGH, x);
    let r = fused::<FMA>(n, -LN2_LOW, r);
    // The Taylor series of e^r up to r^7 / 7!: its remainder is below 2^-26 for |r| <= 0.347.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = fused::<FMA>(p, r, c);
    }
    (p, (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
}

/// `e^x` to a few units in the last place for x in [-87, 88]; below it 0, above it infinity; NaN stays NaN.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x > 88.8 { 88.8 } else { x };
    let clamped = if clamped < -87.4 { -87.4 } else { clamped };
    let (p, n) = split_exp::<FMA>(clamped);
    // 2^n in two factors: n reaches 128, whose power alone would overflow the exponent.
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = p * power(half) * power(n - half);
    if x < -87.4 { 0.0 } else { y }
}

/// `e^x` for x <= 0, as softmax needs it: fewer steps than [`exp`], nothing can overflow. Relative error below 4e-7.
#[inline(always)]
pub(super) fn exp_negative<const FMA: bool>(x: f32) -> f32 {
    // e^-87 is the last value that is not a denormal.
    let clamped = if x < -87.0 { -87.0 } else { x };
    let (p, n) = split_exp::<FMA>(clamped);
    // Adding n to the exponent multiplies by 2^n; p is near 1, so the exponent stays in range.
    let y = f32::from_bits(p.to_bits().wrapping_add((n as u32) << 23));
    if x < -87.0 { 0.0 } else { y }
}

/// The error function, absolute error below 2e-7: formula 7.1.26 of Abramowitz and Stegun's handbook.
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / fused::<FMA>(0.327_591_1, a, 1.0);
    let mut p = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = fused::<FMA>(p, t, c);
    }
    let y = 1.0 - p * t * exp::<FMA>(-a * a);
    y.copysign(x)
}

/// The error function, absolute error below 1e-5, in half the time: for inputs that were rounded to bf16 or int8 before.
///
/// `erf(x) = x * p(x^2)` with a polynomial fitted by least squares at Chebyshev nodes on |x| <= 3.925, past which erf is 1 to
/// f32's last place. It is written in `t`, x^2 moved to [-1, 1], where its coefficients are small and nothing cancels.
#[inline(always)]
fn rough_erf<const FMA: bool>(x: f32) -> f32 {
    const END: f32 = 3.925;
    const COEFFICIENTS: [f32; 11] = [
        0.030_169_109,
        -0.016_280_197,
        0.009_957_044,
        -0.043_146_1,
        0.068_713_79,
        -0.075_103_246,
        0.088_327_44,
        -0.108_841_31,
        0.134_108_74,
        -0.179_897_56,
        0.360_275_78,
    ];
    let clamped = if x > END { END } else { x };
    let clamped = if clamped < -END { -END } else { clamped };
    let t = fused::<FMA>(clamped * clamped, 2.0 / (END * END), -1.0);
    let mut p = -0.013_507_864;
    for c in COEFFICIENTS {
        p = fused::<FMA>(p, t, c);
    }
    if x.abs() >= END { 1.0f32.copysign(x) } else { p * clamped }
}

/// One value of an activation function.
#[inline(always)]
pub(super) fn activate<const FMA: bool>(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Gelu => {
            let half = 0.5 * x;
            fused::<FMA>(half, erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2), half)
        }
        Activation::RoughGelu => {
            let half = 0.5 * x;
            fused::<FMA>(half, rough_erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2), half)
        }
        Activation::GeluTanh => {
            // (1 + tanh z) / 2 = 1 / (1 + e^-2z)
            let z = 0.797_884_6 * fused::<FMA>(0.044_715 * x * x, x, x);
            x / (1.0 + exp::<FMA>(-2.0 * z))
        }
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + exp::<FMA>(-x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Taylor series in f64: the naive twin.
    fn erf_twin(x: f64) -> f64 {
        let (mut term, mut total) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            total += term / f64::from(2 * n + 1);
        }
        total * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn exp_is_exact_to_a_few_units() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let twin = f64::from(x).exp();
            for y in [exp::<true>(x), exp::<false>(x)] {
                assert!((f64::from(y) - twin).abs() <= twin * 4e-7, "exp({x}) = {y}, not {twin}");
            }
        }
        for i in 0..=8700 {
            let x = -i as f32 / 100.0;
            let twin = f64::from(x).exp();
            for y in [exp_negative::<true>(x), exp_negative::<false>(x)] {
                assert!((f64::from(y) - twin).abs() <= twin * 4e-7, "exp({x}) = {y}, not {twin}");
            }
        }
        assert_eq!(exp_negative::<true>(f32::NEG_INFINITY), 0.0);
        assert!(exp_negative::<true>(f32::NAN).is_nan());
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(-1e30), 0.0);
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn activations_match_their_formulas() {
        for i in -500..=500 {
            let x = f64::from(i) / 100.0;
            let twins = [
                (Activation::Gelu, x * (1.0 + erf_twin(x / std::f64::consts::SQRT_2)) / 2.0),
                (Activation::GeluTanh, x * (1.0 + (0.797_884_560_8 * (x + 0.044_715 * x * x * x)).tanh()) / 2.0),
                (Activation::Relu, x.max(0.0)),
                (Activation::Silu, x / (1.0 + (-x).exp())),
            ];
            let rough = activate::<true>(Activation::RoughGelu, x as f32);
            assert!((f64::from(rough) - twins[0].1).abs() < 2e-5, "rough gelu({x}) = {rough}, not {}", twins[0].1);
            for (activation, twin) in twins {
                let y = activate::<true>(activation, x as f32);
                assert!((f64::from(y) - twin).abs() < 1e-6, "{activation:?}({x}) = {y}, not {twin}");
            }
        }
    }

    #[test]
    fn layer_norm_matches_its_formula_on_every_path() {
        for width in [1, 3, 15, 16, 17, 48, 384] {
            let row = |seed: usize| (0..width).map(move |i| ((i * 37 + seed * 11) % 23) as f32 / 7.0 - 1.5);
            let norm = LayerNorm { weight: row(1).collect(), bias: row(2).collect(), epsilon: 1e-5 };
            let rows: Vec<f32> = (3..6).flat_map(row).collect();
            for path in Path::available() {
                let mut out = rows.clone();
                norm.apply(path, &mut out);
                for (x, y) in rows.chunks(width).zip(out.chunks(width)) {
                    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
                    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / width as f64;
                    for i in 0..width {
                        let twin = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(norm.weight[i])
                            + f64::from(norm.bias[i]);
                        assert!((f64::from(y[i]) - twin).abs() < 1e-5, "{path:?} width {width}: {} not {twin}", y[i]);
                    }
                }
            }
        }
    }
}

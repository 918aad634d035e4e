//! Arithmetic along rows: normalisation and the elementwise functions, written so that the compiler vectorises it.

use std::ops::Range;

use super::path::{Path, fused, per_path};

/// Values that one vector register of the widest path holds. Sums are kept in this many lanes on every path, so that the
/// order of additions does not depend on the compiler's choice.
pub(super) const LANES: usize = 16;

/// The activation function of a model's feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x * (1 + erf(x / sqrt 2)) / 2`
    Gelu,
    /// The same to 4 digits, for the low precisions.
    RoughGelu,
    /// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x / (1 + exp(-x))`
    Silu,
    /// `x / (1 + exp(-1.702 x))`
    QuickGelu,
    /// `tanh(x)`
    Tanh,
}

/// `y = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias`, row by row; a root mean square norm takes no mean off.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    /// Whether the mean is taken off first: layer normalisation.
    pub(crate) centred: bool,
    /// Scale, `[width]`.
    pub(crate) weight: Vec<f32>,
    /// Shift, `[width]`.
    pub(crate) bias: Vec<f32>,
    /// Added to the variance, or to the mean square.
    pub(crate) epsilon: f32,
}

impl Norm {
    /// Normalises every row of `rows`, `[n, width]`, in place.
    pub(crate) fn apply(&self, path: Path, rows: &mut [f32]) {
        self.apply_within(path, rows, self.weight.len(), 0..self.weight.len());
    }

    /// Normalises some columns of rows of `stride` values in place: every `width` of them are a row of their own.
    pub(crate) fn apply_within(&self, path: Path, rows: &mut [f32], stride: usize, columns: Range<usize>) {
        normalise(path, rows, stride, columns, self);
    }
}

per_path! {
    fn normalise(rows: &mut [f32], stride: usize, columns: Range<usize>, norm: &Norm) = normalise_body;
}

#[inline(always)]
fn normalise_body<const FMA: bool>(rows: &mut [f32], stride: usize, columns: Range<usize>, norm: &Norm) {
    let width = norm.weight.len();
    for row in rows.chunks_exact_mut(stride).flat_map(|row| row[columns.clone()].chunks_exact_mut(width)) {
        let mean = if norm.centred { sum::<FMA>(row, |x| x) / width as f32 } else { 0.0 };
        let variance = sum::<FMA>(row, |x| (x - mean) * (x - mean)) / width as f32;
        scale_row::<FMA>(row, mean, variance, norm);
    }
}

#[inline(always)]
fn scale_row<const FMA: bool>(row: &mut [f32], mean: f32, variance: f32, norm: &Norm) {
    let scale = 1.0 / (variance + norm.epsilon).sqrt();
    for ((x, &w), &b) in row.iter_mut().zip(&norm.weight).zip(&norm.bias) {
        *x = fused::<FMA>((*x - mean) * scale, w, b);
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
pub(super) fn add_up(lanes: [f32; LANES]) -> f32 {
    fold(lanes, |a, b| a + b)
}

/// The largest lane; NaN is passed over.
#[inline(always)]
pub(super) fn largest(lanes: [f32; LANES]) -> f32 {
    fold(lanes, |a, b| if b > a { b } else { a })
}

/// Joins the lanes pairwise, halves at once, which are registers again.
#[inline(always)]
fn fold(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| join(lanes[i], lanes[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| join(eight[i], eight[i + 4]));
    let two = [join(four[0], four[2]), join(four[1], four[3])];
    join(two[0], two[1])
}

/// Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// `e^x` to a few units in the last place for x in [-87, 88]; below it 0, above it infinity; NaN stays NaN.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    // ln 2 in two parts, so that r is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > 88.8 { 88.8 } else { x };
    let clamped = if clamped < -87.4 { -87.4 } else { clamped };
    // e^x = 2^n * e^r with n = round(x / ln 2) and |r| <= ln 2 / 2.
    let shifted = fused::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fused::<FMA>(n, -LN2_HIGH, clamped);
    let r = fused::<FMA>(n, -LN2_LOW, r);
    // The Taylor series of e^r up to r^7 / 7!: its remainder is below 2^-26 for |r| <= 0.347.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = fused::<FMA>(p, r, c);
    }
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    // 2^n in two factors: n reaches 128, whose power alone would overflow the exponent.
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = p * power(half) * power(n - half);
    if x < -87.4 { 0.0 } else { y }
}

/// `2^x` for x <= 0, as softmax needs it: nothing can overflow, and below 2^-126 it stays there, which no sum of weights
/// notices. Relative error below 3e-7; NaN stays NaN.
#[inline(always)]
pub(super) fn exp2_negative<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x < -126.0 { -126.0 } else { x };
    let shifted = clamped + ROUND;
    let f = clamped - (shifted - ROUND);
    // Fitted to 2^f on |f| <= 1/2 with the least largest relative error.
    let mut p = 0.001_327_646_4;
    for c in [0.009_675_542, 0.055_507_135, 0.240_221_2, 0.693_146_94, 1.000_000_1] {
        p = fused::<FMA>(p, f, c);
    }
    // Adding n to the exponent multiplies by 2^n; p is near 1, so the exponent stays in range.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    f32::from_bits(p.to_bits().wrapping_add(n << 23))
}

/// A polynomial for [`gelu`] and where it ends.
struct GeluFit<const N: usize> {
    end: f32,
    /// Highest first.
    coefficients: [f32; N],
}

/// Absolute error of [`gelu`] below 1e-6.
const GELU: GeluFit<17> = GeluFit {
    end: 5.5,
    coefficients: [
        8.885_669_4e-5,
        -2.684_756_5e-4,
        2.911_539_6e-4,
        -4.159_885_3e-4,
        0.001_248_449_3,
        -0.002_577_580_7,
        0.004_196_073,
        -0.006_706_878_5,
        0.010_417_198,
        -0.015_041_835,
        0.020_319,
        -0.026_040_025,
        0.032_075_62,
        -0.038_793_48,
        0.047_737_39,
        -0.064_172_32,
        0.128_551_93,
    ],
};

/// Absolute error of [`gelu`] below 3e-5 for |x| < 12: for inputs that were rounded to bf16 or int8 before.
const ROUGH_GELU: GeluFit<9> = GeluFit {
    end: 4.4,
    coefficients: [
        0.002_754_161_6,
        -0.007_884_173,
        0.010_987_848,
        -0.015_977,
        0.026_802_186,
        -0.040_089_23,
        0.055_250_52,
        -0.078_612_31,
        0.160_404_41,
    ],
};

/// `x * (1 + erf(x / sqrt 2)) / 2 = x * (1/2 + c * p(c^2))`, c being x clamped to where GELU is 0 or x, with a polynomial
/// fitted for the least largest error. The factor x is clamped too where GELU is 0, or it would blow the last error up. It is written in `t`, c^2 moved to [-1, 1], where its coefficients are small and
/// nothing cancels.
#[inline(always)]
fn gelu<const FMA: bool, const N: usize>(x: f32, fit: &GeluFit<N>) -> f32 {
    let x = if x < -fit.end { -fit.end } else { x };
    let c = if x > fit.end { fit.end } else { x };
    let t = fused::<FMA>(c * c, 2.0 / (fit.end * fit.end), -1.0);
    let mut p = fit.coefficients[0];
    for &coefficient in &fit.coefficients[1..] {
        p = fused::<FMA>(p, t, coefficient);
    }
    x * fused::<FMA>(c, p, 0.5)
}

/// One value of an activation function.
#[inline(always)]
pub(super) fn activate<const FMA: bool>(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Gelu => gelu::<FMA, _>(x, &GELU),
        Activation::RoughGelu => gelu::<FMA, _>(x, &ROUGH_GELU),
        Activation::GeluTanh => {
            // (1 + tanh z) / 2 = 1 / (1 + e^-2z)
            let z = 0.797_884_6 * fused::<FMA>(0.044_715 * x * x, x, x);
            x / (1.0 + exp::<FMA>(-2.0 * z))
        }
        // NaN stays NaN: a damaged model must be noticed.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Silu => x / (1.0 + exp::<FMA>(-x)),
        Activation::QuickGelu => x / (1.0 + exp::<FMA>(-1.702 * x)),
        Activation::Tanh => 2.0 / (1.0 + exp::<FMA>(-2.0 * x)) - 1.0,
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
        for i in 0..=12_600 {
            let x = -i as f32 / 100.0;
            let twin = f64::from(x).exp2();
            for y in [exp2_negative::<true>(x), exp2_negative::<false>(x)] {
                assert!((f64::from(y) - twin).abs() <= twin * 3e-7, "2^{x} = {y}, not {twin}");
            }
        }
        assert!(exp2_negative::<true>(f32::NEG_INFINITY) < 2e-38);
        assert!(exp2_negative::<true>(f32::NAN).is_nan());
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(-1e30), 0.0);
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn activations_match_their_formulas() {
        let far = [-1e30, -1e3, -20.0, 20.0, 1e3, 1e30];
        for x in (-700..=700).map(|i| f64::from(i) / 100.0).chain(far) {
            // The series is for small numbers; past them erf is 1 to the last bit.
            let erf = if x.abs() < 7.0 { erf_twin(x / std::f64::consts::SQRT_2) } else { x.signum() };
            let twins = [
                (Activation::Gelu, x * (1.0 + erf) / 2.0, 1e-6),
                (Activation::RoughGelu, x * (1.0 + erf) / 2.0, 3e-5),
                (Activation::GeluTanh, x * (1.0 + (0.797_884_560_8 * (x + 0.044_715 * x * x * x)).tanh()) / 2.0, 1e-6),
                (Activation::Relu, if x < 0.0 { 0.0 } else { x }, 1e-6),
                (Activation::Silu, x / (1.0 + (-x).exp()), 1e-6),
                (Activation::QuickGelu, x / (1.0 + (-1.702 * x).exp()), 1e-6),
                (Activation::Tanh, x.tanh(), 1e-6),
            ];
            for (activation, twin, error) in twins {
                for y in [activate::<true>(activation, x as f32), activate::<false>(activation, x as f32)] {
                    let wrong = (f64::from(y) - twin).abs();
                    assert!(wrong < error * twin.abs().max(1.0), "{activation:?}({x}) = {y}, not {twin}");
                }
            }
        }
        use Activation::{Gelu, GeluTanh, QuickGelu, Relu, RoughGelu, Silu, Tanh};
        for activation in [Gelu, RoughGelu, GeluTanh, Relu, Silu, QuickGelu, Tanh] {
            assert!(activate::<true>(activation, f32::NAN).is_nan(), "{activation:?}");
        }
    }

    #[test]
    fn norms_match_their_formulas_on_every_path() {
        for (width, centred) in
            [1, 3, 15, 16, 17, 48, 384].into_iter().flat_map(|width| [(width, true), (width, false)])
        {
            let row = |seed: usize| (0..width).map(move |i| ((i * 37 + seed * 11) % 23) as f32 / 7.0 - 1.5);
            let norm = Norm { centred, weight: row(1).collect(), bias: row(2).collect(), epsilon: 1e-5 };
            let rows: Vec<f32> = (3..7).flat_map(row).collect();
            for path in Path::available() {
                let mut out = rows.clone();
                norm.apply(path, &mut out);
                for (x, y) in rows.chunks(width).zip(out.chunks(width)) {
                    check(&norm, x, y);
                }
                // The first of every two rows, as the columns of one.
                let mut part = rows.clone();
                norm.apply_within(path, &mut part, 2 * width, 0..width);
                for ((x, all), y) in rows.chunks(2 * width).zip(out.chunks(2 * width)).zip(part.chunks(2 * width)) {
                    assert!(y[..width] == all[..width] && y[width..] == x[width..], "{path:?} width {width}");
                }
            }
        }
    }

    fn check(norm: &Norm, x: &[f32], y: &[f32]) {
        let width = x.len() as f64;
        let mean = if norm.centred { x.iter().map(|&v| f64::from(v)).sum::<f64>() / width } else { 0.0 };
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / width;
        for i in 0..x.len() {
            let twin = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(norm.weight[i])
                + f64::from(norm.bias[i]);
            assert!((f64::from(y[i]) - twin).abs() < 1e-5, "width {width}: {} not {twin}", y[i]);
        }
    }
}

//! One row per token -> one row per text, as sentence-transformers' Pooling module does it.

use std::fmt;

/// One way to make a vector of the rows of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolingMode {
    /// The first token's row.
    Cls,
    /// The largest value of each column.
    Max,
    /// The average row.
    Mean,
    /// The sum of the rows over the square root of their number.
    MeanSqrtLen,
    /// The average row, weighted by position (1, 2, 3, ...).
    WeightedMean,
    /// The last token's row.
    LastToken,
}

impl PoolingMode {
    /// Every mode with its `pooling_mode` name and its key in the old file format, in the order in which
    /// sentence-transformers joins them.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::Cls, "cls", "pooling_mode_cls_token"),
        (Self::Max, "max", "pooling_mode_max_tokens"),
        (Self::Mean, "mean", "pooling_mode_mean_tokens"),
        (Self::MeanSqrtLen, "mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
        (Self::WeightedMean, "weightedmean", "pooling_mode_weightedmean_tokens"),
        (Self::LastToken, "lasttoken", "pooling_mode_lasttoken"),
    ];

    /// What each of `tokens` rows counts in the sum that this mode is, for devices that multiply: [`PoolingMode::apply`] says it
    /// in another way. Of [`PoolingMode::Max`] those that count have a weight at all.
    #[cfg(feature = "candle")]
    pub(super) fn weigh(self, tokens: usize, skipped: usize, weights: &mut [f32]) {
        let left = tokens.saturating_sub(skipped);
        let pooled = &mut weights[tokens - left..tokens];
        match self {
            _ if tokens == 0 => {}
            // The first row of all, where the others were skipped.
            Self::Cls => weights[if left > 0 { skipped } else { 0 }] = 1.0,
            _ if left == 0 => {}
            Self::LastToken => pooled[left - 1] = 1.0,
            Self::Max => pooled.fill(1.0),
            Self::Mean => pooled.fill(1.0 / left as f32),
            Self::MeanSqrtLen => pooled.fill(1.0 / (left as f32).sqrt()),
            Self::WeightedMean => {
                let total = (skipped + 1 + tokens) as f64 * left as f64 / 2.0;
                let position = (skipped + 1..).map(|position| (position as f64 / total) as f32);
                pooled.iter_mut().zip(position).for_each(|(weight, position)| *weight = position);
            }
        }
    }

    /// Pools `rows`, `[tokens, hidden]` without the first `skipped`, into `out`, `[hidden]`. Where nothing is left, the
    /// result is what sentence-transformers makes of it: zeros, or the first row of all.
    fn apply(self, rows: &[f32], skipped: usize, out: &mut [f32]) {
        let hidden = out.len();
        let left = &rows[(skipped * hidden).min(rows.len())..];
        let tokens = left.len() / hidden;
        out.fill(0.0);
        match self {
            Self::Cls => {
                let first = left.chunks_exact(hidden).next().or_else(|| rows.chunks_exact(hidden).next());
                first.into_iter().for_each(|row| out.copy_from_slice(row));
            }
            Self::LastToken => {
                left.chunks_exact(hidden).next_back().into_iter().for_each(|row| out.copy_from_slice(row));
            }
            Self::Max => {
                out.fill(f32::NEG_INFINITY);
                for row in left.chunks_exact(hidden) {
                    // NaN wins: a damaged model must be noticed.
                    let larger = |max: f32, x: f32| if x > max || x.is_nan() { x } else { max };
                    out.iter_mut().zip(row).for_each(|(max, &x)| *max = larger(*max, x));
                }
            }
            _ if tokens == 0 => {}
            Self::Mean => weighted_sum(left, |_| 1.0, 1.0 / tokens as f64, out),
            Self::MeanSqrtLen => weighted_sum(left, |_| 1.0, 1.0 / (tokens as f64).sqrt(), out),
            Self::WeightedMean => {
                // A skipped prompt leaves the other tokens their places.
                let weight = |token: usize| (skipped + token + 1) as f32;
                let total: f64 = (0..tokens).map(|token| f64::from(weight(token))).sum();
                weighted_sum(left, weight, 1.0 / total, out);
            }
        }
    }
}

/// `out = scale * sum over tokens of weight(token) * row`, summed in f64: thousands of tokens would cost an f32 its last
/// digits. A few columns at a time, so that their sums stay in registers.
fn weighted_sum(rows: &[f32], weight: impl Fn(usize) -> f32, scale: f64, out: &mut [f32]) {
    const COLUMNS: usize = 16;
    let hidden = out.len();
    for (first, out) in out.chunks_mut(COLUMNS).enumerate() {
        let mut sums = [0.0f64; COLUMNS];
        for (token, row) in rows.chunks_exact(hidden).enumerate() {
            let (weight, row) = (f64::from(weight(token)), &row[first * COLUMNS..]);
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += weight * f64::from(x));
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (sum * scale) as f32);
    }
}

/// The modes of a model, their vectors joined end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pooling(pub(crate) Vec<PoolingMode>);

/// The names of the modes, joined with ` + `.
impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mode) in self.0.iter().enumerate() {
            let name = PoolingMode::ALL.iter().find(|(known, _, _)| known == mode).map_or("", |(_, name, _)| name);
            write!(f, "{}{name}", if i == 0 { "" } else { " + " })?;
        }
        Ok(())
    }
}

impl Pooling {
    /// Pools `rows`, `[tokens, hidden]` without the first `skipped`, into `out`, `[modes * hidden]`.
    pub(crate) fn apply(&self, rows: &[f32], skipped: usize, hidden: usize, out: &mut [f32]) {
        for (mode, out) in self.0.iter().zip(out.chunks_exact_mut(hidden)) {
            mode.apply(rows, skipped, out);
        }
    }
}

//! One row per token -> one row per text, as sentence-transformers' Pooling module does it.

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
            Self::Mean => weighted_sum(left, |_| 1.0, 1.0 / tokens as f32, out),
            Self::MeanSqrtLen => weighted_sum(left, |_| 1.0, 1.0 / (tokens as f32).sqrt(), out),
            Self::WeightedMean => {
                // A skipped prompt leaves the other tokens their places.
                let weight = |token: usize| (skipped + token + 1) as f32;
                let total: f32 = (0..tokens).map(weight).sum();
                weighted_sum(left, weight, 1.0 / total, out);
            }
        }
    }
}

/// `out = scale * sum over tokens of weight(token) * row`, `out` being zero.
fn weighted_sum(rows: &[f32], weight: impl Fn(usize) -> f32, scale: f32, out: &mut [f32]) {
    for (position, row) in rows.chunks_exact(out.len()).enumerate() {
        let weight = weight(position);
        out.iter_mut().zip(row).for_each(|(sum, &x)| *sum += weight * x);
    }
    out.iter_mut().for_each(|sum| *sum *= scale);
}

/// The modes of a model, their vectors joined end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pooling(pub(crate) Vec<PoolingMode>);

impl Pooling {
    /// Pools `rows`, `[tokens, hidden]` without the first `skipped`, into `out`, `[modes * hidden]`.
    pub(crate) fn apply(&self, rows: &[f32], skipped: usize, hidden: usize, out: &mut [f32]) {
        for (mode, out) in self.0.iter().zip(out.chunks_exact_mut(hidden)) {
            mode.apply(rows, skipped, out);
        }
    }
}

//! One row per token -> one vector, as sentence-transformers' Pooling and Normalize modules do it.

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

    /// Pools `rows`, `[tokens, hidden]` with at least one token, into `out`, `[hidden]`.
    fn apply(self, rows: &[f32], hidden: usize, out: &mut [f32]) {
        let tokens = rows.len() / hidden;
        match self {
            Self::Cls => out.copy_from_slice(&rows[..hidden]),
            Self::LastToken => out.copy_from_slice(&rows[rows.len() - hidden..]),
            Self::Max => {
                out.copy_from_slice(&rows[..hidden]);
                for row in rows.chunks_exact(hidden) {
                    // NaN wins: a damaged model must be noticed.
                    let larger = |max: f32, x: f32| if x > max || x.is_nan() { x } else { max };
                    out.iter_mut().zip(row).for_each(|(max, &x)| *max = larger(*max, x));
                }
            }
            Self::Mean => weighted_sum(rows, |_| 1.0, 1.0 / tokens as f32, out),
            Self::MeanSqrtLen => weighted_sum(rows, |_| 1.0, 1.0 / (tokens as f32).sqrt(), out),
            Self::WeightedMean => {
                let total = (tokens * (tokens + 1) / 2) as f32;
                weighted_sum(rows, |position| (position + 1) as f32, 1.0 / total, out);
            }
        }
    }
}

/// `out = scale * sum over tokens of weight(token) * row`.
fn weighted_sum(rows: &[f32], weight: impl Fn(usize) -> f32, scale: f32, out: &mut [f32]) {
    out.fill(0.0);
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
    /// Pools `rows`, `[tokens, hidden]`, into `out`, `[modes * hidden]`.
    pub(crate) fn apply(&self, rows: &[f32], hidden: usize, out: &mut [f32]) {
        for (mode, out) in self.0.iter().zip(out.chunks_exact_mut(hidden)) {
            mode.apply(rows, hidden, out);
        }
    }
}

/// Divides a vector by its length; one that is zero stays zero (PyTorch's `normalize` with its floor of 1e-12).
pub(crate) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}

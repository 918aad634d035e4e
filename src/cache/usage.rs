//! What a folder holds, and what it did for this process.

/// What a folder holds for one model under one set of settings, and what it did for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheUse {
    /// Name of the model.
    pub model: String,
    /// SHA-256 over its configuration, tokenizer and weights.
    pub fingerprint: String,
    /// Arithmetic of the vectors.
    pub precision: String,
    /// Device that computed them.
    pub device: String,
    /// The prompt before every text.
    pub prompt: String,
    /// Length of a vector.
    pub dim: usize,
    /// Truncation length.
    pub max_tokens: usize,
    /// Vectors.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Vectors that queries of this process found.
    pub hits: u64,
    /// Vectors that they did not find.
    pub misses: u64,
    /// Vectors that were there and not right; they count as misses too.
    pub damaged: u64,
}

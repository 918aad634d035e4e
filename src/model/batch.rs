//! A model batch: what one forward pass takes.

/// The tokens of some texts end to end, and where each text starts. Nothing is padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlatBatch {
    ids: Vec<u32>,
    /// Text `i` is `ids[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
}

impl FlatBatch {
    /// A batch without texts.
    pub(crate) fn new() -> Self {
        Self { ids: Vec::new(), starts: vec![0] }
    }

    /// Adds the tokens of a text.
    pub(crate) fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.starts.push(self.ids.len());
    }

    /// Adds the texts of another batch.
    pub(crate) fn append(&mut self, other: &Self) {
        other.each().for_each(|ids| self.push(ids));
    }

    /// Number of texts.
    pub(crate) fn texts(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The tokens of every text, end to end.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where each text starts, and where the last one ends.
    pub(crate) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The tokens of each text.
    pub(crate) fn each(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.starts.windows(2).map(|text| &self.ids[text[0]..text[1]])
    }

    /// Tokens of the longest text.
    pub(crate) fn longest(&self) -> usize {
        self.each().map(<[u32]>::len).max().unwrap_or(0)
    }
}

impl<'a> FromIterator<&'a [u32]> for FlatBatch {
    fn from_iter<T: IntoIterator<Item = &'a [u32]>>(texts: T) -> Self {
        let mut batch = Self::new();
        texts.into_iter().for_each(|ids| batch.push(ids));
        batch
    }
}

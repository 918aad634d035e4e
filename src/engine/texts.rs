//! Rows -> distinct texts, and vectors back to rows.

use std::collections::HashMap;

/// The row of a NULL.
const NULL: usize = usize::MAX;

/// The texts of a column, each distinct one once, in the order of their first row.
#[derive(Debug)]
pub(super) struct Texts<'a> {
    /// Each distinct text.
    pub(super) distinct: Vec<&'a str>,
    /// For each row the number of its text in `distinct`, or [`NULL`].
    rows: Vec<usize>,
}

impl<'a> Texts<'a> {
    /// Finds the distinct texts of a column.
    pub(super) fn new(rows: &[Option<&'a str>]) -> Self {
        let mut distinct = Vec::new();
        let mut numbers: HashMap<&str, usize> = HashMap::with_capacity(rows.len());
        let mut number = |text: &'a str| {
            *numbers.entry(text).or_insert_with(|| {
                distinct.push(text);
                distinct.len() - 1
            })
        };
        let rows = rows.iter().map(|row| row.map_or(NULL, &mut number)).collect();
        Self { distinct, rows }
    }

    /// Rows whose text another row had before.
    pub(super) fn duplicates(&self) -> usize {
        self.rows.iter().filter(|&&number| number != NULL).count() - self.distinct.len()
    }

    /// Spreads the vectors of the distinct texts over the rows; the row of a NULL is zero.
    pub(super) fn into_rows(self, vectors: Vec<f32>, dimensions: usize) -> Vec<f32> {
        if self.rows.len() == self.distinct.len() {
            return vectors;
        }
        let mut rows = vec![0.0; self.rows.len() * dimensions];
        for (row, &number) in rows.chunks_exact_mut(dimensions).zip(&self.rows) {
            if number != NULL {
                row.copy_from_slice(&vectors[number * dimensions..][..dimensions]);
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// I2: row i out belongs to row i in. The naive twin computes each row's vector from its own text.
        #[test]
        fn every_row_gets_the_vector_of_its_text(rows in prop::collection::vec(prop::option::of("[ab]{0,2}"), 0..40)) {
            let vector = |text: &str| [text.len() as f32, text.bytes().map(f32::from).sum()];
            let borrowed: Vec<_> = rows.iter().map(Option::as_deref).collect();
            let texts = Texts::new(&borrowed);
            let vectors = texts.distinct.iter().flat_map(|text| vector(text)).collect();
            let twin: Vec<f32> = borrowed.iter().flat_map(|row| row.map_or([0.0; 2], vector)).collect();
            let nulls = rows.iter().filter(|row| row.is_none()).count();
            prop_assert_eq!(texts.duplicates() + texts.distinct.len() + nulls, rows.len());
            prop_assert_eq!(texts.into_rows(vectors, 2), twin);
        }
    }
}

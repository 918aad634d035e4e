//! Rotary positions: a head's values are turned in pairs, by an angle that grows with the token's position in its text.

use super::path::{Path, fused, per_path};

/// The cosines and sines of a kind of layer, for every position a token can have.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    /// `[positions, pairs]`
    cos: Vec<f32>,
    /// `[positions, pairs]`
    sin: Vec<f32>,
    /// Pairs of a head: value `i` is turned with value `i + pairs`. What a head has beyond them is left alone.
    pairs: usize,
}

impl Rotary {
    /// A table for `positions` tokens. `frequencies`, `[pairs]` and never none, are radians per token; `scale` is what lengthened
    /// contexts multiply the turned values with, 1 elsewhere.
    pub(crate) fn new(frequencies: &[f32], scale: f32, positions: usize) -> Self {
        assert!(!frequencies.is_empty(), "a pair to turn");
        // The angle is rounded to f32 as PyTorch does it: at position 8000 that is more than an f32's error of the cosine.
        let angles =
            || (0..positions).flat_map(|position| frequencies.iter().map(move |f| f64::from(position as f32 * f)));
        let scale = f64::from(scale);
        Self {
            cos: angles().map(|angle| (angle.cos() * scale) as f32).collect(),
            sin: angles().map(|angle| (angle.sin() * scale) as f32).collect(),
            pairs: frequencies.len(),
        }
    }

    /// Places of the table.
    pub(crate) fn positions(&self) -> usize {
        self.cos.len() / self.pairs
    }

    /// The table itself: cosines and sines, `[positions, pairs]` each.
    pub(crate) fn table(&self) -> (&[f32], &[f32], usize) {
        (&self.cos, &self.sin, self.pairs)
    }

    /// Turns the first `heads` heads, `head` values each, of the rows of one text, `stride` values each, in place.
    pub(crate) fn apply(&self, path: Path, rows: &mut [f32], stride: usize, heads: usize, head: usize) {
        assert!(rows.len() <= stride * self.positions() && 2 * self.pairs <= head, "a position for every token");
        rotate(path, self, rows, stride, heads, head);
    }
}

per_path! {
    fn rotate(rotary: &Rotary, rows: &mut [f32], stride: usize, heads: usize, head: usize) = rotate_body;
}

#[inline(always)]
fn rotate_body<const FMA: bool>(rotary: &Rotary, rows: &mut [f32], stride: usize, heads: usize, head: usize) {
    let pairs = rotary.pairs;
    let positions = rotary.cos.chunks_exact(pairs).zip(rotary.sin.chunks_exact(pairs));
    for (row, (cos, sin)) in rows.chunks_exact_mut(stride).zip(positions) {
        for head in row.chunks_exact_mut(head).take(heads) {
            let (low, high) = head[..2 * pairs].split_at_mut(pairs);
            for (((x, y), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*x, *y) = (fused::<FMA>(*x, cos, -*y * sin), fused::<FMA>(*y, cos, *x * sin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_turned_by_their_angle_and_the_rest_is_left_alone() {
        let (heads, head, stride) = (2, 11, 30);
        let frequencies = [1.0, 0.1, 0.01, 0.001];
        let rotary = Rotary::new(&frequencies, 1.5, 40);
        let rows: Vec<f32> = (0..40 * stride).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        for path in Path::available() {
            let mut out = rows.clone();
            rotary.apply(path, &mut out, stride, heads, head);
            for (i, &y) in out.iter().enumerate() {
                let (position, column) = (i / stride, i % stride);
                let (h, j) = (column / head, column % head);
                let at = |k: usize| f64::from(rows[position * stride + h * head + k]);
                let twin = if h >= heads || j >= 8 {
                    f64::from(rows[i])
                } else {
                    let (sin, cos) = (position as f64 * f64::from(frequencies[j % 4])).sin_cos();
                    1.5 * if j < 4 { at(j) * cos - at(j + 4) * sin } else { at(j) * cos + at(j - 4) * sin }
                };
                assert!(
                    (f64::from(y) - twin).abs() < 1e-5,
                    "{path}: position {position}, column {column}: {y} not {twin}"
                );
            }
        }
    }
}

//! What of a result fits a terminal: all of its columns, some of them narrower, some of them only, or one value a line.

use std::ops::Range;

/// Between two columns.
const BETWEEN: usize = " | ".len();

/// What a text may be cut to, at least.
const LEAST: usize = 8;

/// A column that wants a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// Its widest cell, its name among them.
    pub(super) width: usize,
    /// What it cannot do without: of a number all digits.
    pub(super) least: usize,
}

impl Wish {
    /// Of a text, which may be cut.
    pub(super) fn text(width: usize) -> Self {
        Self { width, least: width.min(LEAST) }
    }
}

/// The columns that are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) widths: Vec<usize>,
    /// Columns in the middle that are left out.
    pub(super) left_out: Range<usize>,
}

/// All columns, where they fit a screen of so many cells when texts are cut.
pub(super) fn fit(wishes: &[Wish], screen: usize) -> Option<Places> {
    let needed = |level: usize| row(wishes.iter().map(|wish| wish.width.min(level.max(wish.least))));
    if needed(0) > screen {
        return None;
    }
    // The widest are cut first, all to the same width.
    let most = wishes.iter().map(|wish| wish.width).max().unwrap_or(0);
    let level = (0..=most).rev().find(|&level| needed(level) <= screen)?;
    let mut widths: Vec<_> = wishes.iter().map(|wish| wish.width.min(level.max(wish.least))).collect();
    let mut rest = screen - row(widths.iter().copied());
    for (width, wish) in widths.iter_mut().zip(wishes) {
        let more = (wish.width - *width).min(rest).min(1);
        (*width, rest) = (*width + more, rest - more);
    }
    Some(Places { widths, left_out: 0..0 })
}

/// The first and the last columns, as many as fit a screen beside a mark for those between them; one at least.
pub(super) fn fit_some(wishes: &[Wish], screen: usize) -> Places {
    let least: Vec<_> = wishes.iter().map(|wish| wish.least.max(1)).collect();
    let (mut front, mut back) = (1.min(least.len()), least.len());
    let room =
        |front: usize, back: usize| row(least[..front].iter().chain([&1]).chain(&least[back..]).copied()) <= screen;
    loop {
        let before = (front, back);
        if front < back && room(front + 1, back) {
            front += 1;
        }
        if front < back && room(front, back - 1) {
            back -= 1;
        }
        if before == (front, back) {
            break;
        }
    }
    let shown: Vec<_> = wishes[..front].iter().chain(&wishes[back..]).copied().collect();
    let mut widths = fit(&shown, screen.saturating_sub(1 + BETWEEN)).map_or_else(Vec::new, |places| places.widths);
    // One column that has more digits than the screen pushes itself out.
    widths.resize(shown.len(), LEAST);
    widths.splice(front..front, std::iter::repeat_n(0, back - front));
    Places { widths, left_out: front..back }
}

/// The cells of a row, and of the rule below the names, which has one more.
fn row(widths: impl Iterator<Item = usize>) -> usize {
    widths.map(|width| width + BETWEEN).sum::<usize>().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All columns as wide as they want to be.
    fn whole(wishes: &[Wish]) -> Places {
        Places { widths: wishes.iter().map(|wish| wish.width).collect(), left_out: 0..0 }
    }

    fn number(width: usize) -> Wish {
        Wish { width, least: width }
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let wishes = [number(3), Wish::text(10)];
        assert_eq!(fit(&wishes, 18), Some(whole(&wishes)));
        assert_eq!(fit(&[], 17), Some(whole(&[])));
    }

    #[test]
    fn the_widest_texts_are_cut_and_no_number() {
        let wishes = [number(12), Wish::text(10), Wish::text(100), Wish::text(60)];
        for screen in 47..200 {
            let places = fit(&wishes, screen).expect("texts can be cut");
            let used = row(places.widths.iter().copied());
            assert!(used <= screen && (used == screen || places == whole(&wishes)), "{places:?}");
            assert_eq!(places.widths[0], 12);
            assert!(places.widths[2].abs_diff(places.widths[3]) <= 1 || places.widths[3] == 60, "{places:?}");
        }
        assert_eq!(fit(&wishes, 46), None);
    }

    #[test]
    fn the_middle_is_left_out() {
        let wishes = [number(5); 30];
        let places = fit_some(&wishes, 50);
        // Five columns and the mark.
        assert_eq!(places.left_out, 3..28);
        assert_eq!(fit_some(&wishes, 1).left_out, 1..30);
        assert_eq!(fit_some(&wishes, 10_000).left_out.len(), 0);
    }
}

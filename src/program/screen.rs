//! The terminal that results are shown on, and how.

use std::io::IsTerminal;

use clap::ValueEnum;
use console::Term;

/// What a user can say about results on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Rows of a result that are shown; 0 is all.
    pub(crate) max_rows: usize,
    pub(crate) expanded: Expanded,
}

/// Whether each value of a row has a line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Expanded {
    On,
    Off,
    /// Where the columns of a row do not fit even when they are cut.
    Auto,
}

/// Rows that somebody looks at, and not many more.
pub(crate) const MAX_ROWS: usize = 100;

impl Default for View {
    fn default() -> Self {
        Self { max_rows: MAX_ROWS, expanded: Expanded::Auto }
    }
}

/// The terminal of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Cells of a line.
    pub(crate) width: usize,
    /// Lines, 1 at least.
    pub(crate) height: usize,
    pub(crate) view: View,
}

impl Screen {
    /// As it is now, for a window changes its size; `None` where standard output is no terminal, or nobody knows its width.
    pub(crate) fn of(view: View) -> Option<Self> {
        let is_terminal = std::io::stdout().is_terminal();
        let size = is_terminal.then(|| Term::stdout().size_checked()).flatten();
        let size = size.filter(|(height, width)| *height > 0 && *width > 0);
        size.map(|(height, width)| Self { width: width.into(), height: height.into(), view })
    }
}

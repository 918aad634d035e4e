//! The \\ commands: what there is, and how they are read.

use textwrap::fill;

/// A command: its name, what follows it, and what it does.
type Row = (&'static str, &'static str, &'static str);

/// All of them, as help lists them and TAB completes them.
pub(super) const COMMANDS: [Row; 28] = [
    ("d", "[NAME]", "tables, or the columns of a table or file"),
    ("dt", "", "tables"),
    ("dv", "", "views"),
    ("l", "", "catalogs and schemas"),
    ("df", "[PATTERN]", "functions, such as \\df embed*"),
    ("df+", "[PATTERN]", "functions with what they do"),
    ("dm", "", "models: bundled, fetched, loaded"),
    ("h", "[FUNCTION]", "what a function does"),
    ("look", "FILE", "a first look at a file of data: columns, rows, what to type next"),
    ("i", "FILE", "run the statements of a file"),
    ("e", "[FILE]", "edit the last input or a file in $EDITOR, and run it"),
    ("g", "[FILE]", "behind a statement: end it, and write its result to a file"),
    ("gx", "", "behind a statement: end it, each value of its result on a line of its own"),
    ("watch", "[SECONDS]", "behind a statement: run it again and again, until Ctrl-C"),
    ("o", "[FILE]", "results go to a file, or to the terminal again"),
    ("format", "[NAME]", "table, csv, tsv, json, ndjson or markdown"),
    ("maxrows", "[N]", "rows of a result that are shown; 0 is all"),
    ("x", "[on|off|auto]", "each value on a line of its own; auto: where a row does not fit"),
    ("pager", "[on|off]", "long results page by page, by $PAGER or less"),
    ("timing", "[on|off]", "show how long statements take"),
    ("set", "[NAME [VALUE]]", "a variable, for :NAME, :'NAME' and :\"NAME\" in statements"),
    ("unset", "NAME", "take a variable away"),
    ("echo", "[TEXT]", "write a text"),
    ("!", "COMMAND", "run a command of the system"),
    ("p", "", "show what is typed so far"),
    ("r", "", "throw away what is typed so far (also Ctrl-C)"),
    ("?", "", "this help"),
    ("q", "", "end (also exit, quit, Ctrl-D)"),
];

/// A command that was typed, without its backslash.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command<'a> {
    pub(super) name: &'a str,
    /// What follows, without the semicolon that people put there by habit.
    pub(super) argument: &'a str,
}

impl<'a> Command<'a> {
    pub(super) fn read(text: &'a str) -> Self {
        let text = text.trim().trim_end_matches(';').trim_end();
        // `\!ls` is written without a blank.
        let end = if text.starts_with('!') { 1 } else { text.find(char::is_whitespace).unwrap_or(text.len()) };
        let (name, argument) = text.split_at(end);
        Self { name, argument: argument.trim() }
    }
}

/// The columns of help that commands take; on a narrow screen they have a line of their own.
const LEFT: usize = 25;

/// What `\\?` says, in lines of a width.
pub(super) fn help(width: usize) -> String {
    let first =
        "Statements end with ; and may take several lines. Ctrl-C stops a statement or throws away what is typed.";
    let mut text = format!("{}\n\n", fill(first, width));
    for (name, argument, what) in COMMANDS {
        let head = format!("  \\{name} {argument}");
        let (head, indent) = match width {
            _ if width >= 3 * LEFT => (format!("{head:<LEFT$}"), LEFT),
            _ => (format!("{head}\n      "), 6),
        };
        let what = fill(what, width.saturating_sub(indent)).replace('\n', &format!("\n{}", " ".repeat(indent)));
        text.push_str(&format!("{head}{what}\n"));
    }
    text.push_str(
        "\n  SELECT title FROM 'docs.parquet' LIMIT 3;\n  SHOW ALL;   all settings\n  SET embed.model = '...';   changes one\n",
    );
    text
}

/// `on`, `off`, or the other one than now; `None` for anything else.
pub(super) fn switch(argument: &str, now: bool) -> Option<bool> {
    match argument {
        "" => Some(!now),
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// Without the quotes around it.
pub(super) fn unquoted(text: &str) -> &str {
    let inner = |quote| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arguments() {
        let read = |text| (Command::read(text).name, Command::read(text).argument);
        assert_eq!(read("d docs.parquet ;"), ("d", "docs.parquet"));
        assert_eq!(read("q;"), ("q", ""));
        assert_eq!(read("!ls -l"), ("!", "ls -l"));
        assert_eq!(read("set a  'b c'"), ("set", "a  'b c'"));
    }

    #[test]
    fn help_has_all_of_them() {
        for width in [50, 80, 200] {
            let help = help(width);
            assert!(COMMANDS.iter().all(|(name, ..)| help.contains(&format!("  \\{name} "))), "{help}");
            assert!(help.lines().all(|line| line.len() <= width), "{help}");
        }
    }
}

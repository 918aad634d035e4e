//! A text as a script of the program: its statements lie in it one after the other, and cutting one again changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/program/split.rs"]
mod split;

use split::Broken;

/// What the splitter has of the program.
mod messages {
    pub(crate) fn tidy(message: &str) -> String {
        message.to_owned()
    }
}

fuzz_target!(|text: &str| {
    let script = split::split(text);
    let mut rest = text;
    for statement in &script.statements {
        let own = statement.text();
        let at = rest.find(own).expect("a statement is a part of its text");
        rest = &rest[at + own.len()..];
        assert!(statement.line >= 1 && !statement.tokens.is_empty());
        assert_eq!(split::split(own).statements.len(), 1, "{own:?}");
    }
    if let Some(broken) = &script.broken {
        let Broken { line, message, unterminated } = broken;
        assert!(!message.is_empty() && *line >= 1 && !script.complete, "{message}, unterminated: {unterminated}");
    }
});

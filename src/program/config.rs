//! The config file: flags that somebody does not want to type every time.
//!
//! `~/.config/embedsql/config.toml` has them by their long names, `model = "BAAI/bge-small-en-v1.5"`, and they come before those of the
//! command line, which are stronger.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use toml::{Table, Value};

use super::failure::Failure;

/// What runs something, or leaves this file out, is no habit.
const NOT_HERE: [&str; 6] = ["command", "file", "output", "version", "no-config", "help"];

/// The flags of the file, if there is one.
pub(super) fn flags(command: impl FnOnce() -> Command) -> Result<Vec<OsString>, Failure> {
    match dirs::config_dir() {
        Some(folder) => read(&folder.join("embedsql/config.toml"), command),
        None => Ok(Vec::new()),
    }
}

fn read(file: &Path, command: impl FnOnce() -> Command) -> Result<Vec<OsString>, Failure> {
    let wrong = |message: &str| Failure::Usage(format!("config file {file:?}: {message} (--no-config leaves it out)"));
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(&error.to_string())),
    };
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.message()))?;
    let command = command();
    let mut known: Vec<_> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    known.retain(|name| !NOT_HERE.contains(name));
    known.sort_unstable();
    let mut flags = Vec::new();
    for (key, value) in &table {
        if !known.contains(&key.as_str()) {
            return Err(wrong(&format!("{key:?} is not one of {}", known.join(", "))));
        }
        let values = flag_values(value).ok_or_else(|| wrong(&format!("{key} cannot be {value}")))?;
        flags.extend(values.into_iter().map(|value| match value {
            Some(value) => format!("--{key}={value}").into(),
            None => format!("--{key}").into(),
        }));
    }
    Ok(flags)
}

/// The values of the flags that a value means: none of `false`, a flag without a value of `true`, one of each line of a table.
fn flag_values(value: &Value) -> Option<Vec<Option<String>>> {
    match value {
        Value::Boolean(true) => Some(vec![None]),
        Value::Boolean(false) => Some(Vec::new()),
        Value::String(text) => Some(vec![Some(text.clone())]),
        Value::Integer(number) => Some(vec![Some(number.to_string())]),
        Value::Table(table) => {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some(table.iter().map(|(key, value)| Some(format!("{key}={}", plain(value)))).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn flags_of(text: &str) -> Result<Vec<OsString>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.toml");
        fs::write(&file, text).expect("written");
        let command = Command::new("x")
            .args(["model", "quiet", "threads", "set", "command"].map(|name| Arg::new(name).long(name)));
        read(&file, || command).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn keys_are_flags() {
        let text = "model = 'a b'\nquiet = true\nthreads = 2\n[set]\n'embed.truncate' = false\n";
        assert_eq!(
            flags_of(text).expect("flags"),
            ["--model=a b", "--quiet", "--set=embed.truncate=false", "--threads=2"]
        );
        assert_eq!(flags_of("quiet = false").expect("flags"), [""; 0]);
        for (text, part) in [
            ("modle = 'a'", "\"modle\\\" is not one of model"),
            ("command = 'a'", "is not one of"),
            ("model = [1]", "model cannot be"),
            ("model = ", "no-config"),
        ] {
            let message = flags_of(text).expect_err("wrong");
            assert!(message.contains(part.trim_start_matches('"')), "{message}");
        }
        assert!(read(Path::new("/nowhere/config.toml"), || Command::new("x")).expect("none").is_empty());
    }
}

//! `~` at the start of a path: the home folder, as every shell has it. Inside quotes no shell has seen it.

use std::borrow::Cow;
use std::path::Path;
#[cfg(any(feature = "hub", feature = "stores"))]
use std::path::PathBuf;

/// The path with its leading `~` or `~/` as the home folder; any other path, and every one where no home is known, as it is.
pub fn expand_home(path: &str) -> Cow<'_, str> {
    expanded(path, std::env::home_dir().as_deref())
}

/// The folder of what programs keep for the user and can make again: `XDG_CACHE_HOME`, or `~/.cache`.
#[cfg(any(feature = "hub", feature = "stores"))]
pub(crate) fn cache_home() -> PathBuf {
    let stated = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    stated.unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache"))
}

fn expanded<'a>(path: &'a str, home: Option<&Path>) -> Cow<'a, str> {
    let rest = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (rest, home.and_then(Path::to_str).filter(|home| !home.is_empty())) {
        (Some(rest), Some(home)) => Cow::Owned(format!("{}{rest}", home.trim_end_matches('/'))),
        _ => Cow::Borrowed(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leading_tilde_is_the_home_folder() {
        let home = |path| expanded(path, Some(Path::new("/home/ada/")));
        assert_eq!(home("~"), "/home/ada");
        assert_eq!(home("~/a b.csv"), "/home/ada/a b.csv");
        for other in ["~ada/x", "x/~", "./~", "~x", ""] {
            assert_eq!(home(other), other);
        }
        assert_eq!(expanded("~/x", None), "~/x");
    }
}

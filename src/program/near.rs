//! Names that are like one that is not there.

use datafusion::common::utils::datafusion_strsim::normalized_levenshtein;

/// How like it a name must be, from 0 to 1.
const NEAR: f64 = 0.6;

/// The name that is most like another, if one is like it at all.
pub(super) fn nearest(name: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let likeness = |other: &String| normalized_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    let near = names.into_iter().map(|other| (likeness(&other), other)).filter(|(likeness, _)| *likeness >= NEAR);
    near.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, name)| name)
}

pub(super) fn did_you_mean(name: &str) -> String {
    format!("did you mean {name:?}?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near() {
        let names = || ["emails", "orders"].map(str::to_owned);
        assert_eq!(nearest("email", names()).as_deref(), Some("emails"));
        assert_eq!(nearest("Emials", names()).as_deref(), Some("emails"));
        assert_eq!(nearest("x", names()), None);
    }
}

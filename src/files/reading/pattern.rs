//! Globs: `*` and `?` within a name, `[ab]` and `[!ab]`, `{a,b}`, and `**` for any number of folders.

use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use glob::{MatchOptions, Pattern as Glob};

use crate::error::{Error, Result};

/// As shells have it: no `*` or `?` stands for a `/`.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// More alternatives than anybody means.
const MOST_ALTERNATIVES: usize = 1000;

/// Which files below a folder are meant.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// One for each way through the braces.
    alternatives: Vec<Alternative>,
}

#[derive(Debug, Clone)]
struct Alternative {
    whole: Glob,
    /// For each folder on the way, and the file.
    segments: Vec<Segment>,
    /// Whether names that begin like this are asked for.
    hidden: Vec<char>,
}

#[derive(Debug, Clone)]
enum Segment {
    Name(Glob),
    AnyFolders,
}

/// Whether a name has characters that make it a pattern.
pub(super) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '[', '{'])
}

/// Whether readers pass over a file or a folder of this name: those that tools keep beside the data. A folder `_column=value` is a
/// partition all the same.
pub(in crate::files) fn is_hidden(name: &str, is_folder: bool) -> bool {
    name.starts_with('.') || name.starts_with('_') && !(is_folder && name.contains('='))
}

impl Pattern {
    /// A pattern for paths below a folder.
    pub(super) fn new(text: &str) -> Result<Self> {
        let mut texts = vec![text.to_owned()];
        while let Some(place) = texts.iter().position(|text| braces(text).is_some()) {
            let text = texts.swap_remove(place);
            texts.extend(braces(&text).unwrap_or_default());
            if texts.len() > MOST_ALTERNATIVES {
                return Err(Error::Read(format!("{text:?} stands for more than {MOST_ALTERNATIVES} patterns")));
            }
        }
        let alternatives = texts.iter().map(|text| Alternative::new(text)).collect::<Result<_>>()?;
        Ok(Self { alternatives })
    }

    /// The files below a folder that match, those that are hidden only where the pattern asks for them; one may come twice. No
    /// folder is looked into that cannot have one.
    pub(super) async fn files(
        &self,
        store: &dyn ObjectStore,
        root: &Path,
    ) -> datafusion::object_store::Result<Vec<ObjectMeta>> {
        let mut files = Vec::new();
        for alternative in &self.alternatives {
            alternative.walk(store, root, root.clone(), &alternative.segments, &mut files).await?;
        }
        Ok(files)
    }
}

impl Alternative {
    fn new(text: &str) -> Result<Self> {
        let glob =
            |text: &str| Glob::new(text).map_err(|error| Error::Read(format!("pattern {text:?}: {}", error.msg)));
        // A folder is all that is in it.
        let text = if text.ends_with('/') { format!("{text}**") } else { text.to_owned() };
        let text = if text.ends_with("**") { format!("{text}/*") } else { text };
        let segment = |name: &str| if name == "**" { Ok(Segment::AnyFolders) } else { glob(name).map(Segment::Name) };
        Ok(Self {
            whole: glob(&text)?,
            segments: text.split('/').filter(|name| !name.is_empty()).map(segment).collect::<Result<_>>()?,
            hidden: text.split('/').filter_map(|name| name.chars().next()).filter(|c| "._".contains(*c)).collect(),
        })
    }

    fn is_left_out(&self, name: &str, is_folder: bool) -> bool {
        is_hidden(name, is_folder) && !name.starts_with(self.hidden.as_slice())
    }

    /// Looks into the folders on the way, one name of the pattern after the other; below `**` into all.
    fn walk<'a>(
        &'a self,
        store: &'a dyn ObjectStore,
        root: &'a Path,
        folder: Path,
        segments: &'a [Segment],
        files: &'a mut Vec<ObjectMeta>,
    ) -> BoxFuture<'a, datafusion::object_store::Result<()>> {
        async move {
            let Some((Segment::Name(name), rest)) = segments.split_first() else {
                let below: Vec<ObjectMeta> = store.list(Some(&folder)).try_collect().await?;
                files.extend(below.into_iter().filter(|file| self.matches(root, &file.location)));
                return Ok(());
            };
            let found = store.list_with_delimiter(Some(&folder)).await?;
            let is_folder = !rest.is_empty();
            let is_meant = |path: &Path| path.filename().is_some_and(|file| self.is_meant(name, file, is_folder));
            if rest.is_empty() {
                files.extend(found.objects.into_iter().filter(|file| is_meant(&file.location)));
                return Ok(());
            }
            for folder in found.common_prefixes.into_iter().filter(is_meant) {
                self.walk(store, root, folder, rest, files).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn is_meant(&self, pattern: &Glob, name: &str, is_folder: bool) -> bool {
        pattern.matches_with(name, OPTIONS) && !self.is_left_out(name, is_folder)
    }

    fn matches(&self, root: &Path, file: &Path) -> bool {
        let Some(names) = file.prefix_match(root) else { return false };
        let names: Vec<_> = names.map(|name| name.as_ref().to_owned()).collect();
        let folders = names.len().saturating_sub(1);
        let mut all = names.iter().enumerate();
        !all.any(|(place, name)| self.is_left_out(name, place < folders))
            && self.whole.matches_with(&names.join("/"), OPTIONS)
    }
}

/// The texts that the first innermost braces of a text stand for; `None` where it has none.
fn braces(text: &str) -> Option<Vec<String>> {
    let close = text.find('}')?;
    let open = text[..close].rfind('{')?;
    let (before, inside, after) = (&text[..open], &text[open + 1..close], &text[close + 1..]);
    Some(inside.split(',').map(|choice| format!("{before}{choice}{after}")).collect())
}

#[cfg(test)]
mod tests {
    use datafusion::object_store::ObjectStoreExt;
    use datafusion::object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn patterns_find_what_shells_find() {
        let store = InMemory::new();
        let names = [
            "0.x", "a/1.x", "a/2.y", "a/b/3.x", "b/4.x", "_c/5.x", "a/_6.x", ".d/7.x", "k=_v/8.x", "_k=v/9.x", "_k=v.x",
        ];
        for name in names {
            store.put(&Path::from(format!("r/{name}")), "text".into()).await.expect("an object");
        }
        let found = async |pattern: &str| {
            let pattern = Pattern::new(pattern).expect("a pattern");
            let files = pattern.files(&store, &Path::from("r")).await.expect("a list");
            let mut files: Vec<_> = files.iter().map(|file| file.location.as_ref()[2..].to_owned()).collect();
            files.sort();
            files.dedup();
            files.join(" ")
        };
        assert_eq!(found("*.x").await, "0.x");
        assert_eq!(found("*/*.x").await, "_k=v/9.x a/1.x b/4.x k=_v/8.x");
        assert_eq!(found("**/*.x").await, "0.x _k=v/9.x a/1.x a/b/3.x b/4.x k=_v/8.x");
        assert_eq!(found("a/**").await, "a/1.x a/2.y a/b/3.x");
        assert_eq!(found("a/**/3.x").await, "a/b/3.x");
        assert_eq!(found("**/b/*").await, "a/b/3.x b/4.x");
        assert_eq!(found("{a,b}/[14].x").await, "a/1.x b/4.x");
        assert_eq!(found("{a/{1,b/3},b/4}.x").await, "a/1.x a/b/3.x b/4.x");
        assert_eq!(found("a/?.[!x]").await, "a/2.y");
        assert_eq!(found("a/").await, "a/1.x a/2.y a/b/3.x");
        assert_eq!(found("*/_*.x").await, "a/_6.x");
        assert_eq!(found("_c/*").await, "_c/5.x");
        assert_eq!(found("x*").await, "");
    }

    #[test]
    fn what_is_no_pattern_is_an_error() {
        for text in ["a[", "a/***", "{1,2,3,4,5,6,7,8,9,0}".repeat(4).as_str()] {
            Pattern::new(text).expect_err(text);
        }
    }
}

//! The hub's name for the content of a file: the hash of what it announced, to compare with what came.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// The hub's name for the content of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Etag {
    /// The blob's name in the cache.
    pub(super) name: String,
    /// Whether the name is a hash of the content; a mirror may have other ideas.
    pub(super) is_hash: bool,
}

impl Etag {
    pub(super) fn new(header: &str) -> Option<Self> {
        let text = header.trim_start_matches("W/").trim_matches('"');
        // It becomes a file name, so nothing in it may lead anywhere.
        let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let hex = name.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        let is_hash = hex && matches!(name.len(), 40 | 64) && !header.starts_with("W/");
        (!name.is_empty()).then_some(Self { name, is_hash })
    }

    /// The hash of a file's content where it is not the etag.
    pub(super) fn mismatch(&self, path: &Path) -> io::Result<Option<String>> {
        if !self.is_hash {
            return Ok(None);
        }
        let file = File::open(path)?;
        let mut hashes = Hashes::new(self.name.len(), file.metadata()?.len());
        io::copy(&mut BufReader::with_capacity(1 << 16, file), &mut hashes)?;
        let got = hashes.finish();
        Ok(if got.contains(&self.name) { None } else { got.into_iter().next() })
    }
}

/// The hashes that an etag may be, computed side by side.
struct Hashes(Vec<Context>);

impl Hashes {
    fn new(digits: usize, length: u64) -> Self {
        if digits == 64 {
            return Self(vec![Context::new(&SHA256)]);
        }
        // Small files are named as git names them; mirrors exist that give the plain hash.
        let mut git = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        git.update(format!("blob {length}\0").as_bytes());
        Self(vec![git, Context::new(&SHA1_FOR_LEGACY_USE_ONLY)])
    }

    fn finish(self) -> Vec<String> {
        let hex = |context: Context| context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.into_iter().map(hex).collect()
    }
}

impl Write for Hashes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.iter_mut().for_each(|hash| hash.update(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_etag_that_is_a_hash_is_checked() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("file");
        fs::write(&path, "hello\n").expect("written");
        // By `git hash-object`, sha256sum and sha1sum.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let sha1 = "f572d396fae9206628714fb2ce00f72e94f2258f";
        let mismatch = |etag: &str| Etag::new(etag).expect("an etag").mismatch(&path).expect("readable");
        for right in [git, sha256, sha1] {
            assert_eq!(mismatch(&format!("\"{right}\"")), None);
        }
        assert_eq!(mismatch(&"0".repeat(40)).as_deref(), Some(git));
        assert_eq!(mismatch(&"0".repeat(64)).as_deref(), Some(sha256));
        for opaque in [&format!("W/\"{}\"", "0".repeat(40)), "\"0123-4\"", &"0".repeat(32), &"g".repeat(40)] {
            assert_eq!(mismatch(opaque), None, "{opaque}");
        }
    }

    #[test]
    fn an_etag_is_a_plain_file_name() {
        assert_eq!(Etag::new("\"../../evil\"").expect("an etag").name, "------evil");
        assert_eq!(Etag::new("W/\"a.b\"").expect("an etag").name, "a-b");
        assert_eq!(Etag::new("\"\""), None);
    }
}

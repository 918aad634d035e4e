//! A store whose files and objects get their names when they are whole, and only as long as their statement runs.

use std::fmt::{self, Display, Formatter};
use std::future::ready;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};

use super::below::Below;
use super::local;
use super::marks::counts_as_data;
use super::staged::is_staged;
use super::stores::shown_store;
use super::upload::Object;
use super::writes::Writes;

/// A store, the local file system or any other, in which what is begun is completed or leaves nothing.
///
/// What was begun before [`Writes::stop`] cannot be completed after it. Nothing can be deleted, copied or renamed here.
/// Unfinished files are not listed, nor what unfinished exports have written ([`counts_as_data`]).
#[derive(Debug, Clone)]
pub struct Whole {
    below: Below,
    writes: Writes,
}

impl Whole {
    /// The local file system.
    pub fn local(writes: &Writes) -> Self {
        Self::new(Below::Local(LocalFileSystem::new()), ObjectStoreUrl::local_filesystem().as_str(), writes)
    }

    /// Any store but the local file system, registered at `url`.
    pub fn over(store: Arc<dyn ObjectStore>, url: &ObjectStoreUrl, writes: &Writes) -> Self {
        Self::new(Below::Other(store, format!("{}/", shown_store(url.as_ref()))), url.as_str(), writes)
    }

    fn new(below: Below, url: &str, writes: &Writes) -> Self {
        writes.add_store(url, &below);
        Self { below, writes: writes.clone() }
    }

    fn store(&self) -> &dyn ObjectStore {
        self.below.store()
    }

    fn object<'a>(&self, store: &'a Arc<dyn ObjectStore>, location: &'a Path) -> Object<'a> {
        Object { store, location, name: self.below.name(location) }
    }
}

impl Display for Whole {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self.store(), f)
    }
}

#[async_trait]
impl ObjectStore for Whole {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match &self.below {
            // It refuses these.
            Below::Local(local) if matches!(options.mode, PutMode::Update(_)) || !options.attributes.is_empty() => {
                local.put_opts(location, payload, options).await
            }
            Below::Local(local) => {
                local::put(&self.writes, local.path_to_filesystem(location)?, payload, options.mode).await
            }
            Below::Other(store, _) => self.object(store, location).put(&self.writes, payload, options).await,
        }
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        match &self.below {
            // It refuses these.
            Below::Local(local) if !options.attributes.is_empty() => local.put_multipart_opts(to, options).await,
            Below::Local(local) => local::begin(&self.writes, local.path_to_filesystem(to)?).await,
            Below::Other(store, _) => self.object(store, to).begin(&self.writes, options).await,
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.store().get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store().get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|location| location.and_then(|_| Err(refused("delete")))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let files = store.store().list(prefix.as_ref()).try_filter(|file| ready(is_whole(file))).try_collect();
            let files = counts_as_data(store.store(), prefix.as_ref(), files.await?).await?;
            Ok::<_, Error>(stream::iter(files.into_iter().map(Ok)))
        };
        stream::once(listed).try_flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix).try_filter(move |file| ready(file.location > offset)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.store().list_with_delimiter(prefix).await?;
        found.objects.retain(is_whole);
        found.objects = counts_as_data(self.store(), prefix, found.objects).await?;
        Ok(found)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(refused("copy"))
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(refused("rename"))
    }
}

/// No statement deletes, copies or renames files. One that did would have to say which files are its own.
fn refused(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "Whole".to_owned() }
}

fn is_whole(file: &ObjectMeta) -> bool {
    !file.location.filename().is_some_and(is_staged)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path as FilePath;

    use datafusion::object_store::ObjectStoreExt;
    use tempfile::TempDir;

    use super::*;

    /// The local file system and what is written there.
    fn local() -> (Whole, Writes) {
        let writes = Writes::default();
        (Whole::local(&writes), writes)
    }

    fn at(folder: &TempDir, name: &str) -> Path {
        Path::from_absolute_path(folder.path().join(name)).expect("a path")
    }

    fn names(folder: &FilePath) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// An upload with a part.
    async fn begun(store: &Whole, path: &Path) -> Box<dyn MultipartUpload> {
        let mut upload = store.put_multipart(path).await.expect("an upload");
        upload.put_part("some rows".into()).await.expect("a part");
        upload
    }

    #[tokio::test]
    async fn what_was_begun_before_a_stop_gets_no_name_after_it() {
        let folder = TempDir::new().expect("a folder");
        let (store, writes) = local();
        writes.begin();
        begun(&store, &at(&folder, "whole")).await.complete().await.expect("whole");
        let mut first = begun(&store, &at(&folder, "first")).await;
        let mut second = begun(&store, &at(&folder, "second")).await;
        writes.stop();
        first.complete().await.expect_err("stopped");
        store.put(&at(&folder, "small"), "rows".into()).await.expect_err("stopped");
        store.put_multipart(&at(&folder, "large")).await.expect_err("stopped");
        writes.begin();
        second.complete().await.expect_err("of a statement before");
        begun(&store, &at(&folder, "next")).await.complete().await.expect("whole");
        store.put(&at(&folder, "small"), "rows".into()).await.expect("whole");
        assert_eq!(names(folder.path()), ["next", "small", "whole"]);
    }

    #[tokio::test]
    async fn what_is_unfinished_is_removed_by_its_path() {
        let folder = TempDir::new().expect("a folder");
        let (store, writes) = local();
        writes.begin();
        let dropped = begun(&store, &at(&folder, "dropped")).await;
        begun(&store, &at(&folder, "aborted")).await.abort().await.expect("aborted");
        let _kept = begun(&store, &at(&folder, "a/b/kept")).await;
        let beside = begun(&local().0, &at(&folder, "a/b/kept")).await;
        assert_eq!(names(folder.path()).len(), 2);
        drop(dropped);
        assert_eq!(names(folder.path()), ["a"]);
        writes.discard();
        // Another program's stays, and so does the folder.
        assert_eq!(names(&folder.path().join("a/b")).len(), 1);
        drop(beside);
        writes.begin();
        writes.next_statement(None);
        let _deep = begun(&store, &at(&folder, "a/c/d/deep")).await;
        writes.discard();
        assert_eq!(names(&folder.path().join("a")), ["b"]);
    }

    #[tokio::test]
    async fn parts_are_where_they_belong_and_unfinished_files_are_not_listed() {
        let folder = TempDir::new().expect("a folder");
        let (store, writes) = local();
        let mut upload = store.put_multipart(&at(&folder, "x")).await.expect("an upload");
        let (first, second) = (upload.put_part("one ".into()), upload.put_part("two".into()));
        second.await.expect("written");
        first.await.expect("written");
        let listed = async || {
            let folder = at(&folder, "");
            let all: Vec<_> = store.list(Some(&folder)).try_collect().await.expect("a list");
            let level = store.list_with_delimiter(Some(&folder)).await.expect("a list").objects;
            let after = store.list_with_offset(Some(&folder), &folder).try_collect::<Vec<_>>().await.expect("a list");
            [all.len(), level.len(), after.len()]
        };
        assert_eq!(listed().await, [0; 3]);
        upload.complete().await.expect("whole");
        upload.complete().await.expect_err("twice");
        upload.put_part("three".into()).await.expect_err("too late");
        assert_eq!(listed().await, [1; 3]);
        assert_eq!(fs::read_to_string(folder.path().join("x")).expect("readable"), "one two");
        assert_eq!(writes.completed(), [folder.path().join("x").display().to_string()]);
    }

    #[tokio::test]
    async fn modes_are_those_of_the_local_file_system() {
        let folder = TempDir::new().expect("a folder");
        let (store, _) = local();
        let path = at(&folder, "x");
        let put = async |text: &'static str, mode: PutMode| store.put_opts(&path, text.into(), mode.into()).await;
        put("new", PutMode::Create).await.expect("nothing there");
        assert!(matches!(put("second", PutMode::Create).await, Err(Error::AlreadyExists { .. })));
        let version = datafusion::object_store::UpdateVersion { e_tag: None, version: None };
        assert!(matches!(put("third", PutMode::Update(version)).await, Err(Error::NotImplemented { .. })));
        assert_eq!(fs::read_to_string(folder.path().join("x")).expect("readable"), "new");
        put("fourth", PutMode::Overwrite).await.expect("replaced");
        store.delete(&path).await.expect_err("nothing is deleted");
        store.rename(&path, &at(&folder, "y")).await.expect_err("nothing is renamed");
        store.copy(&path, &at(&folder, "y")).await.expect_err("nothing is copied");
        assert_eq!(names(folder.path()), ["x"]);
        assert_eq!(fs::read_to_string(folder.path().join("x")).expect("readable"), "fourth");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_keeps_its_rights_and_a_link_stays() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = TempDir::new().expect("a folder");
        let (store, writes) = local();
        let file = folder.path().join("file");
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
        symlink("file", folder.path().join("link")).expect("a link");
        store.put(&at(&folder, "link"), "new".into()).await.expect("written");
        assert!(folder.path().join("link").is_symlink());
        assert_eq!(fs::read_to_string(&file).expect("readable"), "new");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        fs::create_dir(folder.path().join("folder")).expect("made");
        store.put(&at(&folder, "folder"), "new".into()).await.expect_err("a folder");
        assert!(writes.trouble().is_some_and(|trouble| trouble.ends_with("folder\": is a folder")));
        assert_eq!(names(folder.path()), ["file", "folder", "link"]);
    }
}

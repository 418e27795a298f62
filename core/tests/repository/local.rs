//! `file://`, and stores that are not what they seem.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path as FsPath;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use keepsake_core::error::Kind;
use keepsake_core::repository::Repository;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result as StoreResult,
};

use super::*;

/// A store that ignores "only if there is none", as some S3 servers do.
#[derive(Debug)]
struct Overwriting(InMemory);

impl fmt::Display for Overwriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overwriting")
    }
}

#[async_trait]
impl ObjectStore for Overwriting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut opts: PutOptions) -> StoreResult<PutResult> {
        opts.mode = PutMode::Overwrite;
        self.0.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> StoreResult<()> {
        self.0.rename_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let store = store_over(Arc::new(Overwriting(InMemory::new())));
    let error = Repository::init(store.clone(), &Keys::new().init()).await.map(|_| ()).expect_err("it overwrites");
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.chain().contains("overwrites"), "{}", error.chain());
    assert!(store.find("keepsake.json").await.unwrap().is_none(), "something was made all the same");
}

fn walk(folder: &FsPath, seen: &mut Vec<(std::path::PathBuf, u32)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        seen.push((path.clone(), mode));
        if path.is_dir() {
            walk(&path, seen);
        }
    }
}

#[tokio::test]
async fn files_are_their_owners_alone_and_leftovers_of_killed_writers_are_no_objects() {
    // As both programs do first of all.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", folder.path().display())).unwrap();
    let keys = Keys::new();
    let (repository, probe) = Repository::init(store.clone(), &keys.init()).await.unwrap();
    assert_eq!(probe.left, None);
    let record = make_set(&repository, &store, &keys, 1).await.unwrap();
    let mut seen = Vec::new();
    walk(folder.path(), &mut seen);
    assert!(seen.len() > 10);
    for (path, mode) in seen {
        let want = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, want, "{} has mode {mode:o}", path.display());
    }

    // What LocalFileSystem leaves when it is killed between writing and renaming.
    let set = folder.path().join(format!("sets/prod/{}", record.set));
    std::fs::write(set.join("record.json#1"), "half").unwrap();
    let segment = record.artifacts().next().unwrap().1.segments[0].key.clone();
    std::fs::write(folder.path().join(format!("{segment}#1")), "half").unwrap();
    assert!(store.names(&format!("sets/prod/{}", record.set)).await.unwrap().iter().all(|n| !n.contains('#')));
    assert_whole(&repository, &record, &keys).await;
    assert_eq!(repository.verify(&record, |_| {}).await.unwrap().strays, Vec::<String>::new());

    // A second `init` changes nothing.
    let before = std::fs::read(folder.path().join("keepsake.json")).unwrap();
    assert_eq!(Repository::init(store, &Keys::new().init()).await.map(|_| ()).unwrap_err().kind(), Kind::Exists);
    assert_eq!(std::fs::read(folder.path().join("keepsake.json")).unwrap(), before);
}

#[test]
fn urls_that_are_not_served_are_told() {
    for (url, kind) in [
        ("gs://bucket/prefix", Kind::Invalid),
        ("/backups", Kind::Invalid),
        ("file://relative", Kind::Invalid),
        ("file:///does/not/exist/here", Kind::NotFound),
    ] {
        let error = Store::open(url).expect_err(url);
        assert_eq!(error.kind(), kind, "{}", error.chain());
    }
}

//! The store beneath a repository: create, read, list. Nothing here can overwrite.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::s3::S3Settings;
use crate::error::{Error, Kind, MAKE_ROOM, Result, is_no_room};
use crate::retry::Retry;

/// How long one request may take before its outcome is called unknown.
const DEADLINE: Duration = Duration::from_mins(1);

/// The largest document that is read whole: a record has about 250 bytes a segment, so this is enough for some terabytes.
const DOCUMENT_BYTES: u64 = 256 << 20;

/// Where a repository's objects are.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    url: String,
    retry: Retry,
    deadline: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the folder of a `file:///path` URL, which must exist, or the bucket of `s3://bucket/prefix`, with the credentials that the
    /// environment names.
    ///
    /// # Errors
    /// `Invalid` for something that is not such a URL or an S3 URL without credentials, `NotFound` when there is no such folder.
    pub fn open(url: &str) -> Result<Self> {
        Self::open_with(url, &S3Settings::default())
    }

    /// As [`Store::open`]; the settings count for an `s3://` URL.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(url: &str, s3: &S3Settings) -> Result<Self> {
        if url.starts_with("s3://") {
            return Ok(Self::over(s3.open(url)?, url));
        }
        let Some(path) = url.strip_prefix("file://") else {
            return Err(Error::new(
                Kind::Invalid,
                format!("the repository {url:?} is not a URL of the form file:///path or s3://bucket/prefix"),
            ));
        };
        if !path.starts_with('/') {
            return Err(Error::new(
                Kind::Invalid,
                format!("{url:?}: a file URL names an absolute path, as in file:///backups"),
            ));
        }
        let objects = LocalFileSystem::new_with_prefix(path)
            .map_err(|e| failed(&format!("open the folder {path}; it must exist: make it with mkdir -m 700"), e))?
            .with_fsync(true)
            // The folder of a probe goes with the probe.
            .with_automatic_cleanup(true);
        Ok(Self::over(Arc::new(objects), url))
    }

    /// A repository over any store; for decorators and tests. The URL is for messages.
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { objects, url: url.to_owned(), retry: Retry::default(), deadline: DEADLINE }
    }

    /// Other patience than the default; for tests.
    #[must_use]
    pub fn with_patience(mut self, retry: Retry, deadline: Duration) -> Self {
        self.retry = retry;
        self.deadline = deadline;
        self
    }

    /// The URL it was opened with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often and how slowly requests are repeated.
    pub fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Creates an object, once, without repeating.
    ///
    /// # Errors
    /// `Exists` when there is one already, with whatever bytes; `Timeout` when the outcome is not known in time.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        let path = path(key)?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.objects.put_opts(&path, PutPayload::from_bytes(bytes), options);
        match tokio::time::timeout(self.deadline, put).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(failed(&format!("create {key}"), e)),
            Err(e) => Err(Error::caused(Kind::Timeout, format!("create {key}: no answer in {:?}", self.deadline), e)),
        }
    }

    /// Makes sure that the object exists with exactly these bytes; repeats until it is known.
    ///
    /// # Errors
    /// `Conflict` when it exists with other bytes.
    pub async fn ensure(&self, key: &str, bytes: &Bytes) -> Result<()> {
        self.retry
            .run(|| async {
                match self.create(key, bytes.clone()).await {
                    Err(e) if e.kind() == Kind::Exists => {
                        match self.read_once(key, DOCUMENT_BYTES.max(bytes.len() as u64)).await {
                            Ok(found) if found == *bytes => return Ok(()),
                            // A create that met another one is answered before either is there.
                            Err(e) if e.kind() == Kind::NotFound => {
                                return Err(Error::caused(
                                    Kind::Unavailable,
                                    format!("create {key}: it is neither there nor free"),
                                    e,
                                ));
                            }
                            Err(e) => return Err(e),
                            Ok(_) => {}
                        }
                        Err(Error::new(Kind::Conflict, format!("{key} exists already with other bytes")))
                    }
                    done => done,
                }
            })
            .await
    }

    /// A whole document. Repeats what may work later.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn read(&self, key: &str) -> Result<Bytes> {
        self.read_at_most(key, DOCUMENT_BYTES).await
    }

    /// As [`Store::read`], an object that should have no more than so many bytes: whoever can write to the store must not be able to
    /// fill the memory of whoever reads it.
    ///
    /// # Errors
    /// `Corrupt` when it has more.
    pub(super) async fn read_at_most(&self, key: &str, most: u64) -> Result<Bytes> {
        self.retry.run(|| self.read_once(key, most)).await
    }

    /// A whole object, or `None` when there is none.
    ///
    /// # Errors
    /// As [`Store::read`], but for `NotFound`.
    pub async fn find(&self, key: &str) -> Result<Option<Bytes>> {
        match self.read(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn read_once(&self, key: &str, most: u64) -> Result<Bytes> {
        let path = path(key)?;
        let read = async {
            let answer = self.objects.get(&path).await.map_err(|e| failed(&format!("read {key}"), e))?;
            let size = answer.meta.size;
            if size > most {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("{key} has {size} bytes where at most {most} are expected"),
                ));
            }
            let bytes = answer.bytes().await.map_err(|e| failed(&format!("read {key}"), e))?;
            if bytes.len() as u64 != size {
                let told = format!("read {key}: {} of {size} bytes came, the connection was cut", bytes.len());
                return Err(Error::new(Kind::Unavailable, told));
            }
            Ok(bytes)
        };
        match tokio::time::timeout(self.deadline, read).await {
            Ok(done) => done,
            Err(e) => Err(Error::caused(Kind::Timeout, format!("read {key}: no answer in {:?}", self.deadline), e)),
        }
    }

    /// Names of the folders directly below a folder, sorted.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.children(folder).await?.0)
    }

    /// Names of the objects directly in a folder, sorted; leftovers of killed writers are not among them.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn names(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.children(folder).await?.1)
    }

    async fn children(&self, folder: &str) -> Result<(Vec<String>, Vec<String>)> {
        let prefix = path(folder)?;
        let listed = self
            .retry
            .run(|| async {
                let list = self.objects.list_with_delimiter(Some(&prefix));
                match tokio::time::timeout(self.deadline, list).await {
                    Ok(done) => done.map_err(|e| failed(&format!("list {folder}"), e)),
                    Err(e) => {
                        Err(Error::caused(Kind::Timeout, format!("list {folder}: no answer in {:?}", self.deadline), e))
                    }
                }
            })
            .await?;
        let name = |p: &Path| p.filename().map(str::to_owned);
        let mut folders: Vec<_> = listed.common_prefixes.iter().filter_map(name).collect();
        let mut objects: Vec<_> = listed.objects.iter().filter_map(|o| name(&o.location)).collect();
        folders.sort_unstable();
        objects.sort_unstable();
        Ok((folders, objects))
    }

    /// Keys and lengths (bytes) of all objects anywhere below a folder.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn tree(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let prefix = path(folder)?;
        self.retry
            .run(|| async {
                let what = || format!("list {folder}");
                let mut found = Vec::new();
                let mut list = self.objects.list(Some(&prefix));
                // The deadline is for each page: a long list is no reason to give up, a store that says nothing is.
                loop {
                    match tokio::time::timeout(self.deadline, list.try_next()).await {
                        Ok(Ok(Some(object))) => found.push((object.location.to_string(), object.size)),
                        Ok(Ok(None)) => return Ok(found),
                        Ok(Err(e)) => return Err(failed(&what(), e)),
                        Err(e) => {
                            let told = format!("{}: no answer in {:?}", what(), self.deadline);
                            return Err(Error::caused(Kind::Timeout, told, e));
                        }
                    }
                }
            })
            .await
    }

    /// Removes what a probe made. Only for probes: nothing of a backup is ever removed by this.
    pub(super) async fn remove_probe(&self, key: &str) -> Result<()> {
        let path = path(key)?;
        match tokio::time::timeout(self.deadline, self.objects.delete(&path)).await {
            Ok(done) => done.map_err(|e| failed(&format!("remove {key}"), e)),
            Err(e) => Err(Error::caused(Kind::Timeout, format!("remove {key}: no answer in {:?}", self.deadline), e)),
        }
    }
}

fn path(key: &str) -> Result<Path> {
    Path::parse(key).map_err(|e| Error::caused(Kind::Invalid, format!("{key:?} is not an object's key"), e))
}

/// An error of the store with the meaning that callers branch on.
fn failed(what: &str, error: object_store::Error) -> Error {
    use object_store::Error as E;
    let kind = match &error {
        E::NotFound { .. } => Kind::NotFound,
        // Some servers answer a create that met another one with 409 or 412.
        E::AlreadyExists { .. } | E::Precondition { .. } => Kind::Exists,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Kind::Denied,
        E::NotSupported { .. } | E::NotImplemented { .. } => Kind::Unsupported,
        E::InvalidPath { .. } => Kind::Invalid,
        // `Generic` holds the operating system's or the network's answer somewhere below.
        _ => io_cause(&error).map_or(Kind::Unavailable, |io| {
            match Error::io("", std::io::Error::from(io.kind())).kind() {
                // An answer that ends early says something of the connection, nothing of what is stored.
                Kind::Internal | Kind::Corrupt => Kind::Unavailable,
                kind => kind,
            }
        }),
    };
    let what = if io_cause(&error).is_some_and(is_no_room) { format!("{what}{MAKE_ROOM}") } else { what.to_owned() };
    Error::caused(kind, what, error)
}

fn io_cause(error: &object_store::Error) -> Option<&std::io::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        next = cause.source();
    }
    None
}

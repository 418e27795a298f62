//! A store that fails on purpose.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::store::Store;
use crate::retry::Retry;

/// What goes wrong with one put or get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect.
    Fail,
    /// It has its effect, and the answer is lost.
    LoseAnswer,
    /// It has its effect, and no answer ever comes.
    Stall,
    /// It is not allowed.
    Deny,
    /// A get gives half of the bytes.
    Cut,
    /// A get gives bytes of which one is another.
    Flip,
}

/// A store in front of another, failing as told.
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    puts: u64,
    gets: u64,
    put_faults: VecDeque<(u64, Fault)>,
    get_faults: VecDeque<(u64, Fault)>,
    every_put: Option<Fault>,
}

/// Tells a [`FaultyStore`] what to do.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

impl Faults {
    /// The n-th put from now (0 is the next) goes wrong.
    pub fn put(&self, n: u64, fault: Fault) {
        let mut state = self.lock();
        let at = state.puts + n;
        state.put_faults.push_back((at, fault));
    }

    /// The n-th get from now goes wrong.
    pub fn get(&self, n: u64, fault: Fault) {
        let mut state = self.lock();
        let at = state.gets + n;
        state.get_faults.push_back((at, fault));
    }

    /// Every put goes wrong, until told otherwise.
    pub fn every_put(&self, fault: Option<Fault>) {
        self.lock().every_put = fault;
    }

    /// Forgets every fault that did not happen yet.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.put_faults.clear();
        state.get_faults.clear();
        state.every_put = None;
    }

    /// Puts so far.
    pub fn puts(&self) -> u64 {
        self.lock().puts
    }

    /// Faults that did not happen yet.
    pub fn pending(&self) -> usize {
        let state = self.lock();
        state.put_faults.len() + state.get_faults.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_put(&self) -> Option<Fault> {
        let mut state = self.lock();
        let n = state.puts;
        state.puts += 1;
        take(&mut state.put_faults, n).or(state.every_put)
    }

    fn next_get(&self) -> Option<Fault> {
        let mut state = self.lock();
        let n = state.gets;
        state.gets += 1;
        take(&mut state.get_faults, n)
    }
}

fn take(faults: &mut VecDeque<(u64, Fault)>, n: u64) -> Option<Fault> {
    let at = faults.iter().position(|(when, _)| *when == n)?;
    faults.remove(at).map(|(_, fault)| fault)
}

/// A repository's store in memory that fails as told, with hardly any patience.
pub fn faulty_memory() -> (Store, Faults) {
    faulty(Arc::new(InMemory::new()))
}

/// A store that fails as told in front of another, with hardly any patience.
pub fn faulty(inner: Arc<dyn ObjectStore>) -> (Store, Faults) {
    let faults = Faults::default();
    let store = FaultyStore { inner, state: faults.state.clone() };
    let retry = Retry { tries: 4, first_pause: Duration::from_millis(1), longest_pause: Duration::from_millis(4) };
    (Store::over(Arc::new(store), "memory:").with_patience(retry, Duration::from_millis(500)), faults)
}

impl FaultyStore {
    fn faults(&self) -> Faults {
        Faults { state: self.state.clone() }
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

fn broken(text: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: text.into() }
}

async fn never<T>() -> Result<T> {
    std::future::pending().await
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match self.faults().next_put() {
            Some(Fault::Fail) => Err(broken("the put failed (on purpose)")),
            Some(Fault::Deny) => Err(object_store::Error::PermissionDenied {
                path: location.to_string(),
                source: "denied (on purpose)".into(),
            }),
            Some(Fault::LoseAnswer | Fault::Cut | Fault::Flip) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(broken("the answer was lost (on purpose)"))
            }
            Some(Fault::Stall) => {
                self.inner.put_opts(location, payload, opts).await?;
                never().await
            }
            None => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(broken("Keepsake makes no multipart uploads"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.faults().next_get();
        match fault {
            Some(Fault::Fail | Fault::LoseAnswer) => return Err(broken("the get failed (on purpose)")),
            Some(Fault::Deny) => {
                return Err(object_store::Error::PermissionDenied {
                    path: location.to_string(),
                    source: "denied (on purpose)".into(),
                });
            }
            Some(Fault::Stall) => return never().await,
            Some(Fault::Cut | Fault::Flip) | None => {}
        }
        let result = self.inner.get_opts(location, options).await?;
        let Some(fault) = fault else { return Ok(result) };
        let (meta, attributes) = (result.meta.clone(), result.attributes.clone());
        let mut bytes = result.bytes().await?.to_vec();
        if fault == Fault::Cut {
            bytes.truncate(bytes.len() / 2);
        } else if let Some(middle) = bytes.len().checked_div(2).and_then(|n| bytes.get_mut(n)) {
            *middle ^= 0x20;
        }
        let length = bytes.len() as u64;
        let stream = futures_util::stream::once(async move { Ok(bytes::Bytes::from(bytes)) });
        Ok(GetResult {
            payload: object_store::GetResultPayload::Stream(Box::pin(stream)),
            meta,
            range: 0..length,
            attributes,
            extensions: object_store::Extensions::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(broken("Keepsake copies nothing"))
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: object_store::RenameOptions) -> Result<()> {
        Err(broken("Keepsake renames nothing"))
    }
}

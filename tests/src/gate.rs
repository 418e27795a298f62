//! A sink and a source that stop at a byte of the test's choice and wait, so that something can be done to the rest of the world there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_agent::engine::{ArtifactSink, ArtifactSource, Sink, Source};
use keepsake_core::error::Result;
use keepsake_core::id::ArtifactName;
use keepsake_core::record::DumpReport;
use tokio::sync::watch;

use crate::memory::{MemorySink, MemorySource};

/// Where everything stops until it is opened.
#[derive(Debug, Clone)]
pub struct Gate {
    at: u64,
    reached: Arc<watch::Sender<bool>>,
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// Before the byte of this number is passed on, counted over all artifacts and openings.
    pub fn at(byte: u64) -> Self {
        Self { at: byte, reached: Arc::new(watch::Sender::new(false)), open: Arc::new(watch::Sender::new(false)) }
    }

    /// Waits until somebody stands there; false when nobody came in time, because all was over before.
    pub async fn reached(&self) -> bool {
        let mut reached = self.reached.subscribe();
        tokio::time::timeout(Duration::from_secs(30), reached.wait_for(|r| *r)).await.is_ok()
    }

    /// Lets everything on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    async fn pass(&self, before: u64, after: u64) {
        if (before..after.max(before + 1)).contains(&self.at) {
            self.reached.send_replace(true);
            // The gate itself holds a sender: this ends only when it is opened.
            let mut open = self.open.subscribe();
            let _opened = open.wait_for(|open| *open).await;
        }
    }
}

/// A sink with a gate.
#[derive(Debug, Clone)]
pub struct GatedSink {
    /// What takes the bytes.
    pub inner: MemorySink,
    /// The gate.
    pub gate: Gate,
}

struct GatedArtifact {
    inner: Box<dyn ArtifactSink>,
    gate: Gate,
    passed: u64,
}

#[async_trait]
impl Sink for GatedSink {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        Ok(Box::new(GatedArtifact { inner: self.inner.artifact(name).await?, gate: self.gate.clone(), passed: 0 }))
    }
}

#[async_trait]
impl ArtifactSink for GatedArtifact {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let after = self.passed + chunk.len() as u64;
        self.gate.pass(self.passed, after).await;
        self.passed = after;
        self.inner.write(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        self.inner.finish().await
    }
}

/// A source with a gate.
#[derive(Debug)]
pub struct GatedSource {
    inner: Arc<MemorySource>,
    gate: Gate,
    passed: Arc<std::sync::atomic::AtomicU64>,
    /// What is read behind the gate is an error.
    fails: bool,
}

impl GatedSource {
    /// Waits at the gate and goes on.
    pub fn waiting(inner: Arc<MemorySource>, gate: Gate) -> Self {
        Self { inner, gate, passed: Arc::default(), fails: false }
    }

    /// Has nothing but errors behind the gate, which is open.
    pub fn failing(inner: Arc<MemorySource>, at: u64) -> Self {
        let gate = Gate::at(at);
        gate.open();
        Self { inner, gate, passed: Arc::default(), fails: true }
    }
}

struct GatedReader {
    inner: Box<dyn ArtifactSource>,
    gate: Gate,
    passed: Arc<std::sync::atomic::AtomicU64>,
    fails: bool,
}

#[async_trait]
impl Source for GatedSource {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        self.inner.artifacts()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        self.inner.recorded()
    }

    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        let inner = self.inner.open(name).await?;
        Ok(Box::new(GatedReader { inner, gate: self.gate.clone(), passed: self.passed.clone(), fails: self.fails }))
    }
}

#[async_trait]
impl ArtifactSource for GatedReader {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        use keepsake_core::error::{Error, Kind};
        use std::sync::atomic::Ordering;
        let next = self.inner.read().await?;
        let Some(chunk) = &next else { return Ok(None) };
        let before = self.passed.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        let after = before + chunk.len() as u64;
        self.gate.pass(before, after).await;
        if self.fails && after > self.gate.at {
            return Err(Error::new(Kind::Unavailable, "the repository is gone (on purpose)"));
        }
        Ok(next)
    }
}

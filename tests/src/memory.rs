//! A sink and a source in memory, for driving an engine without an agent around it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_agent::engine::{ArtifactSink, ArtifactSource, Sink, Source};
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::ArtifactName;
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::DumpReport;

/// Finished artifacts by name.
type Artifacts = BTreeMap<ArtifactName, Vec<u8>>;

/// Takes a dump into memory.
#[derive(Debug, Default, Clone)]
pub struct MemorySink {
    finished: Arc<Mutex<Artifacts>>,
    /// Fails every write after this many bytes of an artifact.
    pub fail_after: Option<u64>,
}

impl MemorySink {
    /// Fails once an artifact is longer than so many bytes.
    pub fn failing_after(bytes: u64) -> Self {
        Self { fail_after: Some(bytes), ..Self::default() }
    }

    /// What was finished; an artifact that was dropped half way is not in it.
    pub fn finished(&self) -> Artifacts {
        self.finished.lock().expect("artifacts").clone()
    }
}

struct MemoryArtifact {
    name: ArtifactName,
    bytes: Vec<u8>,
    sink: MemorySink,
}

#[async_trait]
impl Sink for MemorySink {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        Ok(Box::new(MemoryArtifact { name: name.clone(), bytes: Vec::new(), sink: self.clone() }))
    }
}

#[async_trait]
impl ArtifactSink for MemoryArtifact {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&chunk);
        if self.sink.fail_after.is_some_and(|limit| self.bytes.len() as u64 > limit) {
            return Err(Error::new(Kind::Unavailable, "the store is gone (on purpose)"));
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        let length = self.bytes.len() as u64;
        self.sink.finished.lock().expect("artifacts").insert(self.name, self.bytes);
        Ok(length)
    }
}

/// Gives out artifacts from memory.
#[derive(Debug, Default, Clone)]
pub struct MemorySource {
    /// The artifacts.
    pub artifacts: Artifacts,
    /// What the record says.
    pub recorded: Option<DumpReport>,
}

/// What is to be loaded over the live data instead of beside it.
#[derive(Debug, Clone)]
pub struct InPlace(pub Arc<MemorySource>);

#[async_trait]
impl Source for InPlace {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        self.0.artifacts()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        self.0.recorded()
    }

    fn in_place(&self) -> bool {
        true
    }

    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        self.0.open(name).await
    }
}

struct MemoryReader(Bytes);

#[async_trait]
impl Source for MemorySource {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        self.artifacts.iter().map(|(n, b)| (n.clone(), b.len() as u64)).collect()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        self.recorded.as_ref()
    }

    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        let bytes = self
            .artifacts
            .get(name)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no artifact {name}")))?;
        Ok(Box::new(MemoryReader(Bytes::from(bytes.clone()))))
    }
}

#[async_trait]
impl ArtifactSource for MemoryReader {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let n = self.0.len().min(64 * 1024);
        Ok(Some(self.0.split_to(n)))
    }
}

/// A source that is asked for with a policy for queues.
#[derive(Debug)]
pub struct WithQueues {
    /// Where the data comes from.
    pub source: Arc<MemorySource>,
    /// What is to be done with queues.
    pub queues: QueuePolicy,
}

#[async_trait]
impl Source for WithQueues {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        self.source.artifacts()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        self.source.recorded()
    }

    fn queues(&self) -> QueuePolicy {
        self.queues
    }

    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        self.source.open(name).await
    }
}

//! The files engine on real trees.

mod changing;
mod evil;
mod fixture;
mod killed;
mod load;
pub(crate) mod mounts;
mod over;
mod round_trip;
mod two_runs;
mod unprivileged;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_agent::engine::files::Settings;
use keepsake_agent::engine::registry::Settings as _;
use keepsake_agent::engine::{ArtifactSink, ArtifactSource, Context, Engine, Sink, Source};
use keepsake_core::error::Result;
use keepsake_core::id::{ArtifactName, Epoch, Installation, RunId, RunKey};
use keepsake_core::record::DumpReport;
use keepsake_tests::child::{is_root, run as run_command, tool_command};
use keepsake_tests::manifest::Manifest;
use keepsake_tests::memory::{MemorySink, MemorySource};
use keepsake_tests::scratch::Scratch;
use tokio_util::sync::CancellationToken;

/// A volume with an engine on it.
struct Volume {
    scratch: Scratch,
    root: PathBuf,
    engine: Arc<dyn Engine>,
}

impl Volume {
    /// An empty one. Owners are kept when the test may give files away.
    fn new() -> Self {
        let scratch = Scratch::new();
        let root = scratch.folder("volume", 0o755);
        let engine = open(&root, is_root(), scratch.path());
        Self { scratch, root, engine }
    }

    async fn dump(&self) -> (DumpReport, MemorySource) {
        let sink = MemorySink::default();
        let report = self.engine.dump(None, &sink, &context()).await.expect("dump");
        (report.clone(), MemorySource { artifacts: sink.finished(), recorded: Some(report) })
    }

    async fn load(&self, source: MemorySource) -> keepsake_agent::engine::CommitReport {
        let key = run();
        let recorded = source.recorded.clone().expect("a record");
        let staged = self.engine.stage(&key, Arc::new(source), &context()).await.expect("stage");
        assert_eq!(staged.counts, recorded.counts);
        let committed = self.engine.commit(&key, &context()).await.expect("commit");
        assert_eq!(committed.counts, recorded.counts);
        self.engine.finalize(&key, &context()).await.expect("finalize");
        committed
    }

    fn manifest(&self) -> Manifest {
        Manifest::of(&self.root)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        write(&self.root.join(path), content);
    }

    /// Names at the top that a load has left behind.
    fn leftovers(&self) -> Vec<String> {
        names(&self.root).into_iter().filter(|n| n.starts_with(".keepsake-")).collect()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if !is_root() {
            // What is in a folder that is read-only could not be removed.
            let _best_effort = run_command(tool_command("chmod").args(["-R", "u+rwX"]).arg(self.scratch.path()));
        }
    }
}

fn open(root: &Path, owner: bool, scratch: &Path) -> Arc<dyn Engine> {
    let settings = Settings { files_root: root.to_owned(), files_preserve_owner: owner };
    settings.open(scratch.to_owned()).expect("open the engine")
}

fn run() -> RunKey {
    RunKey { run: RunId::generate(), installation: Installation::new("test").unwrap(), epoch: Epoch(1) }
}

fn context() -> Context {
    Context::new(CancellationToken::new()).0
}

fn artifact() -> ArtifactName {
    ArtifactName::new("files.tar").unwrap()
}

/// A source of these bytes, without a record.
fn source(bytes: Vec<u8>) -> MemorySource {
    MemorySource { artifacts: [(artifact(), bytes)].into(), recorded: None }
}

/// Writes a file, making its folder.
fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).expect("make a folder");
    std::fs::write(path, content).expect("write a file");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("list a folder")
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits at a place until it is opened; whoever waits for it is told that it was reached.
#[derive(Debug, Default)]
struct Gate {
    reached: tokio::sync::Notify,
    open: tokio::sync::Notify,
}

/// A sink that stops after its first chunk.
struct GatedSink {
    inner: MemorySink,
    gate: Arc<Gate>,
}

struct GatedArtifact {
    inner: Box<dyn ArtifactSink>,
    gate: Option<Arc<Gate>>,
}

#[async_trait]
impl Sink for GatedSink {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        let inner = self.inner.artifact(name).await?;
        Ok(Box::new(GatedArtifact { inner, gate: Some(self.gate.clone()) }))
    }
}

#[async_trait]
impl ArtifactSink for GatedArtifact {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        if let Some(gate) = self.gate.take() {
            gate.reached.notify_one();
            gate.open.notified().await;
        }
        self.inner.write(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        self.inner.finish().await
    }
}

/// A source that stops half way.
#[derive(Debug)]
struct GatedSource {
    inner: MemorySource,
    gate: Arc<Gate>,
    in_place: bool,
    /// At which opening it stops.
    stops: u64,
    opened: std::sync::atomic::AtomicU64,
}

struct GatedReader {
    inner: Box<dyn ArtifactSource>,
    chunks: u64,
    gate: Option<Arc<Gate>>,
}

#[async_trait]
impl Source for GatedSource {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        self.inner.artifacts()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        self.inner.recorded()
    }

    fn in_place(&self) -> bool {
        self.in_place
    }

    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        let this_one = self.opened.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == self.stops;
        let gate = this_one.then(|| self.gate.clone());
        Ok(Box::new(GatedReader { inner: self.inner.open(name).await?, chunks: 0, gate }))
    }
}

#[async_trait]
impl ArtifactSource for GatedReader {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        self.chunks += 1;
        if self.chunks == 8
            && let Some(gate) = self.gate.take()
        {
            gate.reached.notify_one();
            gate.open.notified().await;
        }
        self.inner.read().await
    }
}

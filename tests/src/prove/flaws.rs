//! Engines that are wrong on purpose, around real ones: the conformance cases must see each.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_agent::engine::{
    ArtifactSink, CommitReport, Context, Description, Engine, Hold, Prepared, Sink, Source, StageReport, Staged,
};
use keepsake_core::error::Result;
use keepsake_core::id::{ArtifactName, RunKey};
use keepsake_core::record::DumpReport;
use tokio_util::sync::CancellationToken;

use crate::stand::{Contents, Stand};

/// What is wrong with an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// What it stores lacks the last bytes, and it says nothing.
    LosesTheTail,
    /// A commit does nothing and calls that a success.
    CommitsNothing,
    /// A dump that failed, as when its tool was killed, is called a success with the report of the one before.
    CallsFailureSuccess,
    /// Takes whatever it is given.
    StagesUnchecked,
    /// A rollback does nothing and calls that a success.
    RollsNothingBack,
    /// This file is not there for it.
    Overlooks(PathBuf),
}

impl Flaw {
    /// An engine with this flaw, around one without.
    pub fn of(self, inner: Arc<dyn Engine>) -> Arc<dyn Engine> {
        Arc::new(FlawedEngine { inner, flaw: self, last: Arc::default() })
    }
}

/// A datastore whose engine is flawed.
#[derive(Debug)]
pub struct Flawed<S> {
    /// The datastore.
    pub inner: S,
    flaw: Flaw,
    last: Arc<Mutex<Option<DumpReport>>>,
}

impl<S> Flawed<S> {
    /// With this flaw.
    pub fn new(inner: S, flaw: Flaw) -> Self {
        Self { inner, flaw, last: Arc::default() }
    }
}

struct FlawedEngine {
    inner: Arc<dyn Engine>,
    flaw: Flaw,
    last: Arc<Mutex<Option<DumpReport>>>,
}

#[async_trait]
impl Engine for FlawedEngine {
    async fn describe(&self) -> Result<Description> {
        self.inner.describe().await
    }

    async fn ready_to_hold(&self) -> Result<Option<String>> {
        self.inner.ready_to_hold().await
    }

    async fn prepare_hold(&self) -> Result<Box<dyn Hold>> {
        self.inner.prepare_hold().await
    }

    async fn dump(&self, held: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        let done = match &self.flaw {
            Flaw::LosesTheTail => self.inner.dump(held, &Tailless(out), cx).await,
            Flaw::Overlooks(file) => {
                // Beside the volume, in the same file system.
                let away = file.parent().and_then(|root| root.parent()).expect("a volume").join("overlooked");
                let there = file.try_exists().expect("look for a file");
                if there {
                    std::fs::rename(file, &away).expect("hide a file");
                }
                let done = self.inner.dump(held, out, cx).await;
                if there {
                    std::fs::rename(&away, file).expect("bring the file back");
                }
                done
            }
            Flaw::CommitsNothing | Flaw::CallsFailureSuccess | Flaw::StagesUnchecked | Flaw::RollsNothingBack => {
                self.inner.dump(held, out, cx).await
            }
        };
        let mut last = self.last.lock().expect("the last report");
        match (done, &*last) {
            (Err(_), Some(before)) if self.flaw == Flaw::CallsFailureSuccess => Ok(before.clone()),
            (done, _) => {
                *last = done.as_ref().ok().cloned();
                done
            }
        }
    }

    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport> {
        let done = self.inner.stage(key, from, cx).await;
        if self.flaw == Flaw::StagesUnchecked { Ok(done.unwrap_or_default()) } else { done }
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        self.inner.staged(key).await
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        if self.flaw == Flaw::CommitsNothing { Ok(CommitReport::default()) } else { self.inner.commit(key, cx).await }
    }

    async fn rollback(&self, key: &RunKey, cx: &Context) -> Result<()> {
        if self.flaw == Flaw::RollsNothingBack { Ok(()) } else { self.inner.rollback(key, cx).await }
    }

    async fn finalize(&self, key: &RunKey, cx: &Context) -> Result<()> {
        self.inner.finalize(key, cx).await
    }
}

/// A sink that keeps the last bytes of each artifact to itself and lies about the length.
struct Tailless<'a>(&'a dyn Sink);

struct TaillessArtifact {
    inner: Box<dyn ArtifactSink>,
    kept: Bytes,
}

/// So many bytes are lost.
const LOST: usize = 20;

#[async_trait]
impl Sink for Tailless<'_> {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        Ok(Box::new(TaillessArtifact { inner: self.0.artifact(name).await?, kept: Bytes::new() }))
    }
}

#[async_trait]
impl ArtifactSink for TaillessArtifact {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let all: Bytes = [self.kept.clone(), chunk].concat().into();
        let (now, kept) = (all.slice(..all.len().saturating_sub(LOST)), all.slice(all.len().saturating_sub(LOST)..));
        self.kept = kept;
        if now.is_empty() { Ok(()) } else { self.inner.write(now).await }
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        let kept = self.kept.len() as u64;
        Ok(self.inner.finish().await? + kept)
    }
}

#[async_trait(?Send)]
impl<S: Stand> Stand for Flawed<S> {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(FlawedEngine { inner: self.inner.engine(), flaw: self.flaw.clone(), last: self.last.clone() })
    }

    fn artifact(&self) -> &'static str {
        self.inner.artifact()
    }

    fn tools(&self) -> &'static [&'static str] {
        self.inner.tools()
    }

    fn keeps_old_data(&self) -> bool {
        self.inner.keeps_old_data()
    }

    async fn fill(&self) {
        self.inner.fill().await;
    }

    async fn change(&self) {
        self.inner.change().await;
    }

    async fn contents(&self) -> Contents {
        self.inner.contents().await
    }

    async fn write_pairs(&self, stop: CancellationToken) {
        self.inner.write_pairs(stop).await;
    }

    async fn pair(&self) -> (u64, u64) {
        self.inner.pair().await
    }

    fn vanish(&mut self) {
        self.inner.vanish();
    }

    async fn come_back(&mut self) {
        self.inner.come_back().await;
    }

    fn leftovers(&self) -> Vec<String> {
        self.inner.leftovers()
    }
}

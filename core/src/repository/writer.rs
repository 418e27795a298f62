//! Writing artifacts: cut into segments, compressed as they come, sealed and stored in parallel under one byte budget.
//!
//! What is promised: an [`ArtifactRecord`] is given out only when every segment was acknowledged by the store. The first
//! error is kept and ends the artifact; a writer that is dropped stops its segments and leaves strays, never an artifact. When the outcome
//! of a put is unknown the segment is stored again under another key, because sealing is randomised and nothing is ever
//! overwritten or read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::budget::{Budget, Share};
use super::layout;
use super::seal::Sealer;
use super::segment::{Filled, Filling, SEGMENT_BYTES, Sealed};
use super::store::Store;
use crate::error::{Context, Error, Kind, Result, ResultExt};
use crate::id::{ArtifactName, Attempt, Component, Installation, SetId};
use crate::record::{ArtifactRecord, Failure, SegmentRecord};

/// Whose artifacts are written.
#[derive(Debug, Clone)]
pub struct Place {
    /// The installation.
    pub installation: Installation,
    /// The set.
    pub set: SetId,
    /// The component.
    pub component: Component,
}

/// Writes the artifacts of one component into one set.
#[derive(Debug, Clone)]
pub struct SetWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    budget: Budget,
    sealer: Sealer,
    place: Place,
}

impl SetWriter {
    /// A writer; nothing is stored yet.
    pub fn new(store: Store, budget: Budget, sealer: Sealer, place: Place) -> Self {
        Self { shared: Arc::new(Shared { store, budget, sealer, place }) }
    }

    /// Begins an artifact under a new attempt.
    pub fn artifact(&self, name: &ArtifactName) -> ArtifactWriter {
        ArtifactWriter {
            shared: self.shared.clone(),
            name: name.clone(),
            attempt: Attempt::generate(),
            filling: None,
            next: 0,
            length: 0,
            storing: JoinSet::new(),
            stored: BTreeMap::new(),
            failure: None,
        }
    }
}

/// One artifact being written.
pub struct ArtifactWriter {
    shared: Arc<Shared>,
    name: ArtifactName,
    attempt: Attempt,
    filling: Option<(Filling, Share)>,
    next: u64,
    length: u64,
    storing: JoinSet<Result<(u64, SegmentRecord)>>,
    stored: BTreeMap<u64, SegmentRecord>,
    failure: Option<Failure>,
}

impl std::fmt::Debug for ArtifactWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactWriter").field("name", &self.name).field("length", &self.length).finish_non_exhaustive()
    }
}

impl ArtifactWriter {
    /// Takes the next bytes; waits while the budget is used up.
    ///
    /// # Errors
    /// The first failure of any segment, from then on always.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.latched()?;
        let done = self.take(chunk).await;
        self.latch(done)
    }

    /// Stores the rest and waits for everything.
    ///
    /// # Errors
    /// The first failure of any segment.
    pub async fn finish(mut self) -> Result<ArtifactRecord> {
        self.latched()?;
        // An empty artifact has one empty segment, so that something stands for it in the store.
        if self.filling.is_none() && self.next == 0 {
            self.begin().await?;
        }
        self.launch()?;
        while let Some(done) = self.storing.join_next().await {
            self.keep(done)?;
        }
        let segments: Vec<_> = self.stored.into_values().collect();
        if segments.len() as u64 != self.next {
            return Err(Error::new(
                Kind::Internal,
                format!("{} of {} segments were stored", segments.len(), self.next),
            ));
        }
        Ok(ArtifactRecord { artifact: self.name, attempt: self.attempt, length: self.length, segments })
    }

    async fn take(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            if self.filling.is_none() {
                self.begin().await?;
            }
            let Some((filling, _)) = &mut self.filling else { continue };
            let before = chunk.len();
            let full = filling.take(&mut chunk)?;
            self.length += (before - chunk.len()) as u64;
            if full {
                self.launch()?;
            }
        }
        while let Some(done) = self.storing.try_join_next() {
            self.keep(done)?;
        }
        Ok(())
    }

    /// Waits for room for one more segment, noticing failures meanwhile.
    async fn begin(&mut self) -> Result<()> {
        let budget = self.shared.budget.clone();
        let share = budget.share(SEGMENT_BYTES);
        tokio::pin!(share);
        let share = loop {
            tokio::select! {
                share = &mut share => break share?,
                Some(done) = self.storing.join_next() => self.keep(done)?,
            }
        };
        self.filling = Some((Filling::new()?, share));
        Ok(())
    }

    /// Hands the segment over to be sealed and stored.
    fn launch(&mut self) -> Result<()> {
        let Some((filling, share)) = self.filling.take() else { return Ok(()) };
        let filled = filling.finish()?;
        let index = self.next;
        self.next += 1;
        let job = Job { shared: self.shared.clone(), name: self.name.clone(), attempt: self.attempt.clone(), index };
        self.storing.spawn(async move {
            let record = job
                .run(filled)
                .await
                .with_context(|| format!("store segment {index} of {}/{}", job.shared.place.component, job.name))?;
            drop(share);
            Ok((index, record))
        });
        Ok(())
    }

    fn keep(&mut self, done: Result<Result<(u64, SegmentRecord)>, tokio::task::JoinError>) -> Result<()> {
        let (index, record) = done.or_kind(Kind::Internal, "a segment's task ended early")??;
        self.stored.insert(index, record);
        Ok(())
    }

    fn latch(&mut self, done: Result<()>) -> Result<()> {
        if let Err(e) = &done {
            self.failure = Some(Failure::from(e));
            self.filling = None;
            self.storing.abort_all();
        }
        done
    }

    fn latched(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), |f| Err(Error::from(f).context("the artifact failed before")))
    }
}

/// One segment on its way into the store.
struct Job {
    shared: Arc<Shared>,
    name: ArtifactName,
    attempt: Attempt,
    index: u64,
}

impl Job {
    async fn run(&self, filled: Filled) -> Result<SegmentRecord> {
        let length = filled.length;
        let turn = self.shared.budget.sealing().await?;
        let sealer = self.shared.sealer.clone();
        let sealed =
            tokio::task::spawn_blocking(move || filled.seal(&sealer)).await.or_kind(Kind::Internal, "seal")??;
        drop(turn);
        let key = self.put(&sealed).await?;
        Ok(SegmentRecord { key, length, stored: sealed.bytes.len() as u64, sha256: sealed.sha256 })
    }

    /// Stores under the first key whose creation is known to have worked.
    async fn put(&self, sealed: &Sealed) -> Result<String> {
        let retry = self.shared.store.retry();
        let mut again = 0;
        loop {
            let key = self.key(again);
            match self.shared.store.create(&key, sealed.bytes.clone()).await {
                Ok(()) => return Ok(key),
                // "Exists" means that an answer was lost: nobody else writes under this attempt.
                Err(e) if (e.kind().retry() || e.kind() == Kind::Exists) && again + 1 < retry.tries => {
                    again += 1;
                    tracing::warn!("{}; the segment is stored again as {}", e.chain(), self.key(again));
                    retry.pause(again).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn key(&self, again: u32) -> String {
        let place = &self.shared.place;
        layout::segment(&place.installation, place.set, &place.component, &self.name, &self.attempt, self.index, again)
    }
}

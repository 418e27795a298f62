//! The repository as an engine's sink and source.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::ArtifactName;
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::{ArtifactRecord, DumpReport};
use keepsake_core::repository::reader::ArtifactReader;
use keepsake_core::repository::seal::{Sealer, Unsealer};
use keepsake_core::repository::writer::{ArtifactWriter, Place, SetWriter};
use keepsake_core::repository::{Budget, Store};

use crate::engine::{ArtifactSink, ArtifactSource, Sink, Source};

/// Takes a dump into a set.
#[derive(Debug)]
pub(crate) struct RepositorySink {
    writer: SetWriter,
    finished: std::sync::Arc<Mutex<Vec<ArtifactRecord>>>,
}

impl RepositorySink {
    pub(crate) fn new(store: Store, budget: Budget, sealer: Sealer, place: Place) -> Self {
        Self { writer: SetWriter::new(store, budget, sealer, place), finished: std::sync::Arc::default() }
    }

    /// The artifacts that were finished, in that order.
    pub(crate) fn records(&self) -> Vec<ArtifactRecord> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Sink for RepositorySink {
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSink>> {
        Ok(Box::new(Writing { writer: self.writer.artifact(name), finished: self.finished.clone() }))
    }
}

struct Writing {
    writer: ArtifactWriter,
    finished: std::sync::Arc<Mutex<Vec<ArtifactRecord>>>,
}

#[async_trait]
impl ArtifactSink for Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.writer.write(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        let record = self.writer.finish().await?;
        let length = record.length;
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        Ok(length)
    }
}

/// Gives out a component of a set.
#[derive(Debug)]
pub(crate) struct RepositorySource {
    store: Store,
    budget: Budget,
    unsealer: Unsealer,
    place: Place,
    report: DumpReport,
    artifacts: Vec<ArtifactRecord>,
    queues: QueuePolicy,
    in_place: bool,
}

impl RepositorySource {
    pub(crate) fn new(
        store: Store,
        budget: Budget,
        unsealer: Unsealer,
        place: Place,
        report: DumpReport,
        artifacts: Vec<ArtifactRecord>,
    ) -> Self {
        Self { store, budget, unsealer, place, report, artifacts, queues: QueuePolicy::Restore, in_place: false }
    }

    /// With another policy for queues.
    pub(crate) fn with_queues(self, queues: QueuePolicy) -> Self {
        Self { queues, ..self }
    }

    /// Over the live data instead of beside it.
    pub(crate) fn in_place(self, in_place: bool) -> Self {
        Self { in_place, ..self }
    }
}

#[async_trait]
impl Source for RepositorySource {
    fn artifacts(&self) -> Vec<(ArtifactName, u64)> {
        self.artifacts.iter().map(|a| (a.artifact.clone(), a.length)).collect()
    }

    fn recorded(&self) -> Option<&DumpReport> {
        Some(&self.report)
    }

    fn queues(&self) -> QueuePolicy {
        self.queues
    }

    fn in_place(&self) -> bool {
        self.in_place
    }

    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>> {
        let artifact = self.artifacts.iter().find(|a| &a.artifact == name).ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("the set has no artifact {name} for {}", self.place.component))
        })?;
        Ok(Box::new(Reading(ArtifactReader::new(
            self.store.clone(),
            self.budget.clone(),
            self.unsealer.clone(),
            self.place.component.clone(),
            artifact.clone(),
        ))))
    }
}

struct Reading(ArtifactReader);

#[async_trait]
impl ArtifactSource for Reading {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        self.0.read().await
    }
}

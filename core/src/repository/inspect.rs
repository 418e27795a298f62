//! The second depth of trust: every artifact unsealed, decompressed, and read to the end of its own format.

use super::open::Repository;
use super::reader::ArtifactReader;
use super::seal::Unsealer;
use crate::error::{Context, Result};
use crate::format::background::Checking;
use crate::format::{read_to_end, same_counts};
use crate::id::{ArtifactName, Component, EngineName};
use crate::record::{DumpReport, Failure, Record};

/// What was found of one artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Whose it is.
    pub component: Component,
    /// Its name.
    pub artifact: ArtifactName,
    /// Its length, bytes.
    pub bytes: u64,
    /// What is wrong with it; `None` when nothing is.
    pub failure: Option<Failure>,
}

impl Repository {
    /// Inspects a set. What is wrong with an artifact is a finding, not an error; so is a store that does not give it out.
    pub async fn inspect(&self, record: &Record, unsealer: &Unsealer, progress: impl Fn(u64)) -> Vec<Inspected> {
        let mut found = Vec::new();
        for entry in &record.components {
            let Some(dump) = &entry.dump else { continue };
            for artifact in &dump.artifacts {
                let reader = ArtifactReader::new(
                    self.store.clone(),
                    self.budget.clone(),
                    unsealer.clone(),
                    entry.component.clone(),
                    artifact.clone(),
                );
                let read = read(&entry.engine, &dump.report, reader, &progress)
                    .await
                    .with_context(|| format!("{}/{}", entry.component, artifact.artifact));
                found.push(Inspected {
                    component: entry.component.clone(),
                    artifact: artifact.artifact.clone(),
                    bytes: artifact.length,
                    failure: read.err().map(|e| Failure::from(&e)),
                });
            }
        }
        found
    }
}

async fn read(
    engine: &EngineName,
    report: &DumpReport,
    mut reader: ArtifactReader,
    progress: &impl Fn(u64),
) -> Result<()> {
    let engine = engine.clone();
    let mut checking = Checking::start(move |bytes| read_to_end(&engine, bytes));
    while let Some(chunk) = reader.read().await? {
        progress(chunk.len() as u64);
        checking.feed(chunk).await?;
    }
    let counts = checking.finish().await?;
    same_counts(report, &counts)
}

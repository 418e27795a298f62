//! The second depth of trust: every artifact unsealed, decompressed, and read to the end of its own format.

use super::open::Repository;
use super::reader::ArtifactReader;
use super::seal::Unsealer;
use crate::error::{Context, Result};
use crate::format::background::Checking;
use crate::format::{read_to_end, same_counts};
use crate::id::{ArtifactName, Component, EngineName};
use crate::record::{Counts, Failure, Record};

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
            let mut all = Counts::new();
            let mut inspected: Vec<Inspected> = Vec::new();
            for artifact in &dump.artifacts {
                let reader = ArtifactReader::new(
                    self.store.clone(),
                    self.budget.clone(),
                    unsealer.clone(),
                    entry.component.clone(),
                    artifact.clone(),
                );
                let read = read(&entry.engine, reader, &progress)
                    .await
                    .with_context(|| format!("{}/{}", entry.component, artifact.artifact));
                let failure = match read {
                    Ok(counts) => {
                        for (name, n) in counts {
                            *all.entry(name).or_default() += n;
                        }
                        None
                    }
                    Err(e) => Some(Failure::from(&e)),
                };
                inspected.push(Inspected {
                    component: entry.component.clone(),
                    artifact: artifact.artifact.clone(),
                    bytes: artifact.length,
                    failure,
                });
            }
            // A dump may be several artifacts: what they hold together is what was recorded. Where one cannot be read, that says it all.
            if inspected.iter().all(|i| i.failure.is_none())
                && let Some(last) = inspected.last_mut()
                && let Err(e) = same_counts(&dump.report, &all)
            {
                let e = e.context(format!("{}/{}", last.component, last.artifact));
                last.failure = Some(Failure::from(&e));
            }
            found.extend(inspected);
        }
        found
    }
}

async fn read(engine: &EngineName, mut reader: ArtifactReader, progress: &impl Fn(u64)) -> Result<Counts> {
    let engine = engine.clone();
    let mut checking = Checking::start(move |bytes| read_to_end(&engine, bytes));
    while let Some(chunk) = reader.read().await? {
        progress(chunk.len() as u64);
        checking.feed(chunk).await?;
    }
    checking.finish().await
}

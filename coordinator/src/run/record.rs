//! From what a run found to the record of its set.

use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::record::{ComponentRecord, FORMAT, Facts, Record, Sealing, Status};

use super::Runner;
use super::event::Output;
use crate::plan::Action;
use crate::plan::restore::preflight::{RELEASE, SCHEMA};

impl Runner<'_> {
    pub(super) async fn record(&self, sealing: Sealing) -> Result<Record> {
        let rows_without_file = self.rows_without_file().await;
        let status = self.status.lock().await;
        let results = &status.results;
        let mut components = Vec::new();
        for step in self.plan().steps() {
            let Action::Dump { component, engine } = &step.action else { continue };
            let (dump, failure) = match results.get(&step.id) {
                Some(Ok(Output::Dumped { dump })) => (Some((**dump).clone()), None),
                Some(Err(failure)) => (None, Some(failure.clone())),
                Some(Ok(_)) | None => {
                    return Err(Error::new(
                        Kind::Internal,
                        format!("component {component} has neither a dump nor a failure"),
                    ));
                }
            };
            components.push(ComponentRecord { component: component.clone(), engine: engine.clone(), dump, failure });
        }
        let (cut, no_cut) = results
            .values()
            .find_map(|output| match output {
                Ok(Output::Cut { made, why_not }) => Some((made.as_ref().map(|m| m.cut.clone()), why_not.clone())),
                Ok(_) | Err(_) => None,
            })
            .unwrap_or_default();
        let (set, purpose, left_out) =
            self.plan().made_set().ok_or_else(|| Error::new(Kind::Internal, "the plan makes no set"))?;
        let complete = left_out.is_empty() && components.iter().all(|c| c.dump.is_some());
        let release: Facts = components
            .iter()
            .filter_map(|c| Some(&c.dump.as_ref()?.report.facts))
            .flatten()
            .filter(|(name, _)| *name == SCHEMA || name.starts_with(RELEASE))
            .map(|(name, value)| (name.strip_prefix(RELEASE).unwrap_or(name).to_owned(), value.clone()))
            .collect();
        Ok(Record {
            format: FORMAT,
            reads_from: FORMAT,
            repository: self.world.repository.config().repository,
            installation: self.plan().installation.clone(),
            set,
            // The run's first, whichever of its epochs wrote the record.
            epoch: self.root.epoch,
            plan_sha256: self.plan_sha256()?,
            purpose,
            status: if complete { Status::Complete } else { Status::Partial },
            started: self.root.started,
            finished: clock::now(),
            keepsake_version: env!("CARGO_PKG_VERSION").to_owned(),
            sealing,
            cut,
            no_cut,
            release,
            left_out: left_out.to_vec(),
            rows_without_file,
            files_elsewhere: self.plan().files_elsewhere.clone(),
            components,
        })
    }
}

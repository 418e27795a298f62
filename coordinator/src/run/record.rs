//! From what a run found to the record of its set.

use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::record::{ComponentRecord, FORMAT, Facts, Purpose, Record, Sealing, Status};

use super::Runner;
use super::event::Output;
use crate::plan::Action;

/// A fact that the system database's engine gives: the newest migration, which tells the 3scale release.
const SCHEMA: &str = "schema_migrations";

impl Runner<'_> {
    pub(super) async fn record(&self, sealing: Sealing) -> Result<Record> {
        let rows_without_file = self.rows_without_file().await;
        let outputs = self.outputs.lock().await;
        let mut components = Vec::new();
        for step in self.plan.steps() {
            let Action::Dump { component, engine } = &step.action else { continue };
            let (dump, failure) = match outputs.get(&step.id) {
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
        let (cut, no_cut) = outputs
            .values()
            .find_map(|output| match output {
                Ok(Output::Cut { made, why_not }) => Some((made.as_ref().map(|m| m.cut.clone()), why_not.clone())),
                Ok(_) | Err(_) => None,
            })
            .unwrap_or_default();
        let left_out = self.left_out();
        let complete = left_out.is_empty() && components.iter().all(|c| c.dump.is_some());
        let release: Facts = components
            .iter()
            .filter_map(|c| c.dump.as_ref()?.report.facts.get(SCHEMA))
            .map(|newest| (SCHEMA.to_owned(), newest.clone()))
            .collect();
        Ok(Record {
            format: FORMAT,
            reads_from: FORMAT,
            repository: self.world.repository.config().repository,
            installation: self.plan.installation.clone(),
            set: self.plan.set,
            epoch: self.key.epoch,
            plan_sha256: self.plan_sha256.to_owned(),
            purpose: Purpose::Backup,
            status: if complete { Status::Complete } else { Status::Partial },
            started: self.started,
            finished: clock::now(),
            keepsake_version: env!("CARGO_PKG_VERSION").to_owned(),
            sealing,
            cut,
            no_cut,
            release,
            left_out,
            rows_without_file,
            components,
        })
    }
}

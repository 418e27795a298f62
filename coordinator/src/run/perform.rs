//! Action → effect: the one match over everything that a run can do.

use bytes::Bytes;
use data_encoding::BASE64;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::record::{ComponentRecord, Record, Sealing};
use keepsake_core::repository::sets::sign_record;

use super::Runner;
use super::cut::{self, Made};
use super::event::{Event, Output};
use crate::fleet::{DumpOrder, LoadOrder, LoadReport, OnProgress, OpKey, Opening, Progress};
use crate::plan::{Action, CutLimits, Step};

impl From<LoadReport> for Output {
    fn from(report: LoadReport) -> Self {
        Self::Loaded { counts: report.counts, warnings: report.warnings }
    }
}

impl Runner<'_> {
    pub(super) async fn perform(&self, step: &Step) -> Result<Output> {
        let fleet = self.world.fleet;
        let key = OpKey { run: self.key.clone(), step: step.id.clone() };
        let report = |progress: Progress| self.reporter.progress(self.plan, step, progress);
        match &step.action {
            Action::BeginSet => {
                let set = self.world.repository.begin_set(&self.plan.installation, self.plan.set).await?;
                Ok(Output::Set { sealing: set.sealing })
            }
            Action::Cut { groups, required, limits } => {
                let sealing = self.sealing().await?;
                self.cut(groups, *required, *limits, &sealing, &report).await
            }
            Action::Dump { component, .. } => {
                let sealing = self.sealing().await?;
                let cut = self.made_cut().await;
                if let Some(failure) = cut.as_ref().and_then(|made| made.failed.get(component)) {
                    return Err(Error::from(failure.clone()));
                }
                let hold = cut.as_ref().and_then(|made| made.holds.get(component)).map(String::as_str);
                let key = match (&cut, hold) {
                    (Some(made), Some(_)) => OpKey { step: cut::dump_step(&step.id, made.cut.attempt)?, ..key },
                    _ => key,
                };
                let order = DumpOrder { component, key, set: self.plan.set, sealing: &sealing, hold };
                let dump = self.unless_cancelled(component, fleet.dump(&order, &report)).await?;
                Ok(Output::Dumped { dump: Box::new(dump) })
            }
            Action::CommitSet => self.commit_set().await,
            Action::Stage { component, queues } => {
                let (entry, opening) = self.source(component)?;
                let order = LoadOrder { key, set: self.plan.set, entry, opening, queues: *queues, in_place: false };
                self.unless_cancelled(component, fleet.stage(&order, &report)).await.map(Output::from)
            }
            // A load over live data is not cut short by a cancel: half of it is worse than either whole.
            Action::Commit { component } => fleet.commit(component, &key, &report).await.map(Output::from),
            Action::Rollback { component } => fleet.rollback(component, &key, &report).await.map(|()| Output::Nothing),
            Action::Finalize { component } => fleet.finalize(component, &key, &report).await.map(|()| Output::Nothing),
        }
        .with_context(|| step.action.to_string())
    }

    async fn cut(
        &self,
        groups: &[Vec<Component>],
        required: bool,
        limits: CutLimits,
        sealing: &Sealing,
        progress: OnProgress<'_>,
    ) -> Result<Output> {
        let (fleet, run) = (self.world.fleet, &self.key);
        let order = cut::Order { fleet, run, set: self.plan.set, sealing, groups, limits, progress };
        let made = tokio::select! {
            biased;
            made = cut::make(order) => made,
            // The holds end with their streams, right here; the dumps that were begun are told.
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "the run was asked to stop")),
        };
        match made {
            Ok(made) => Ok(Output::Cut { made: Some(Box::new(made)), why_not: None }),
            Err(e) if required || e.kind() == Kind::Cancelled => {
                for component in groups.iter().flatten() {
                    if let Err(e) = fleet.cancel_run(component, run).await {
                        tracing::debug!("ask {component} to stop: {}", e.chain());
                    }
                }
                Err(e)
            }
            Err(e) => Ok(Output::Cut { made: None, why_not: Some(e.chain()) }),
        }
    }

    /// The cut that this run has made.
    pub(super) async fn made_cut(&self) -> Option<Made> {
        self.outputs.lock().await.values().find_map(|output| match output {
            Ok(Output::Cut { made, .. }) => made.as_deref().cloned(),
            Ok(_) | Err(_) => None,
        })
    }

    /// Waits for an operation; when the run is cancelled, asks the agent to stop it and waits for that end.
    async fn unless_cancelled<T>(&self, component: &Component, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.cancel.cancelled() => {}
        }
        // An agent that does not hear it cancels by itself when nobody asks for the run any more.
        if let Err(e) = self.world.fleet.cancel_run(component, &self.key).await {
            tracing::warn!("ask {component} to stop: {}", e.chain());
            return Err(Error::caused(Kind::Cancelled, "the run was asked to stop", e));
        }
        match work.await {
            Ok(_) => Err(Error::new(Kind::Cancelled, "the run was asked to stop")),
            Err(e) if e.kind() == Kind::Cancelled => Err(e),
            Err(e) => Err(Error::caused(Kind::Cancelled, "the run was asked to stop", e)),
        }
    }

    async fn sealing(&self) -> Result<Sealing> {
        let outputs = self.outputs.lock().await;
        outputs
            .values()
            .find_map(|o| match o {
                Ok(Output::Set { sealing }) => Some(sealing.clone()),
                Ok(_) | Err(_) => None,
            })
            .ok_or_else(|| Error::new(Kind::Internal, "the set was not begun"))
    }

    fn source(&self, component: &Component) -> Result<(&ComponentRecord, &Opening)> {
        let (record, opening): (&Record, &Opening) =
            self.world.source.ok_or_else(|| Error::new(Kind::Internal, "the run has no set to restore from"))?;
        let entry = record
            .component(component)
            .ok_or_else(|| Error::new(Kind::Internal, format!("the set does not have component {component}")))?;
        Ok((entry, opening))
    }

    async fn commit_set(&self) -> Result<Output> {
        let signing = self.world.signing.ok_or_else(|| {
            Error::new(Kind::Invalid, "the topology names no `repository.signing_key`, so no record can be signed")
        })?;
        let record = self.record(self.sealing().await?).await?;
        let (bytes, signature): (Bytes, Bytes) = sign_record(signing, &record)?;
        self.append(Event::RecordPrepared {
            record_base64: BASE64.encode(&bytes),
            signature_base64: BASE64.encode(&signature),
        })
        .await?;
        self.world.repository.commit_record(&record, &bytes, &signature).await?;
        Ok(Output::Recorded { status: record.status })
    }
}

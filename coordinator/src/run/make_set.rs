//! The steps that make a set: of a backup, and the safety set of a restore.

use bytes::Bytes;
use data_encoding::BASE64;
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::id::{Component, SetId};
use keepsake_core::record::{Record, Sealing};
use keepsake_core::repository::sets::sign_record;

use super::Runner;
use super::cut;
use super::event::{Event, Output};
use crate::fleet::{DumpOrder, OnProgress, OpKey};
use crate::plan::{CutLimits, Step};

impl Runner<'_> {
    /// Stores the set's key: the one that was prepared before, if there is one.
    pub(super) async fn begin_set(&self) -> Result<Output> {
        let prepared = self.status.lock().await.sealing.clone();
        let sealing = if let Some(sealing) = prepared {
            sealing
        } else {
            let sealing = self.world.repository.make_set_key()?;
            self.append(Event::SetPrepared { sealing: sealing.clone() }).await?;
            sealing
        };
        self.world.repository.store_set_key(&self.plan().installation, self.made_set()?, &sealing).await?;
        Ok(Output::Set { sealing })
    }

    /// The set that this run makes.
    pub(super) fn made_set(&self) -> Result<SetId> {
        let made = self.plan().made_set().map(|(set, _, _)| set);
        made.ok_or_else(|| Error::new(Kind::Internal, "the plan makes no set"))
    }

    pub(super) async fn cut(
        &self,
        groups: &[Vec<Component>],
        required: bool,
        limits: CutLimits,
        progress: OnProgress<'_>,
    ) -> Result<Output> {
        let (fleet, run, sealing) = (self.world.fleet, &self.key, self.sealing().await?);
        let order = cut::Order { fleet, run, set: self.made_set()?, sealing: &sealing, groups, limits, progress };
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

    pub(super) async fn dump(
        &self,
        step: &Step,
        component: &Component,
        key: OpKey,
        progress: OnProgress<'_>,
    ) -> Result<Output> {
        let sealing = self.sealing().await?;
        let cut = self.status.lock().await.made_cut().cloned();
        if let Some(failure) = cut.as_ref().and_then(|made| made.failed.get(component)) {
            return Err(Error::from(failure.clone()));
        }
        let hold = cut.as_ref().and_then(|made| made.holds.get(component)).map(String::as_str);
        let key = match (&cut, hold) {
            (Some(made), Some(_)) => OpKey { step: cut::dump_step(&step.id, made.cut.attempt)?, ..key },
            _ => key,
        };
        let order = DumpOrder { component, key, set: self.made_set()?, sealing: &sealing, hold };
        let dump = {
            let dump = self.once_it_is_free(step, || self.world.fleet.dump(&order, progress));
            self.unless_cancelled(component, dump).await?
        };
        // Before anything says that it is there.
        self.world.repository.look_for_dump(component, &dump).await?;
        Ok(Output::Dumped { dump: Box::new(dump) })
    }

    async fn sealing(&self) -> Result<Sealing> {
        let status = self.status.lock().await;
        status.sealing.clone().ok_or_else(|| Error::new(Kind::Internal, "the set was not begun"))
    }

    /// Writes the record: the one that was prepared before, if there is one.
    pub(super) async fn commit_set(&self) -> Result<Output> {
        let prepared = self.status.lock().await.record.clone();
        let (record, bytes, signature) = if let Some((record, signature)) = prepared {
            let bytes = |text: &str| {
                let bytes = BASE64.decode(text.as_bytes());
                bytes.map(Bytes::from).or_kind(Kind::Corrupt, "what the journal says of the record is not base64")
            };
            let (bytes, signature) = (bytes(&record)?, bytes(&signature)?);
            (Record::parse(&bytes)?, bytes, signature)
        } else {
            let signing = self.world.signing.ok_or_else(|| {
                Error::new(Kind::Invalid, "the topology names no `repository.signing_key`, so no record can be signed")
            })?;
            let record = self.record(self.sealing().await?).await?;
            let (bytes, signature) = sign_record(signing, &record)?;
            self.append(Event::RecordPrepared {
                record_base64: BASE64.encode(&bytes),
                signature_base64: BASE64.encode(&signature),
            })
            .await?;
            (record, bytes, signature)
        };
        self.world.repository.commit_record(&record, &bytes, &signature).await?;
        Ok(Output::Recorded { status: record.status })
    }
}

//! Core types to the wire and back, totally: what cannot be understood is an error that names the field.

mod config;
mod config_kind;
mod report;

pub use config::{counters_from_wire, counters_to_wire, difference_from_wire, difference_to_wire};
pub use config_kind::{
    alert_levels_from_wire, alert_levels_to_wire, config_end_from_wire, config_end_to_wire, config_entries_from_wire,
    config_entry_to_wire,
};

pub use report::{
    artifact_from_parts, artifact_to_wire, batches, dump_report_from_wire, dump_report_to_wire, timestamp_from_wire,
    timestamp_to_wire,
};

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::{Epoch, RunKey, StepId};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::{Failure, Sealing};
use keepsake_core::repository::seal::{Sealer, Unsealer};
use keepsake_core::secret::Secret;

use crate::v1;

/// A field that must be there.
///
/// # Errors
/// `Invalid`, naming it.
pub fn required<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| Error::new(Kind::Invalid, format!("the field `{name}` is missing")))
}

/// Run and step.
pub fn key_to_wire(run: &RunKey, step: &StepId) -> v1::OperationKey {
    v1::OperationKey {
        run: run.run.to_string(),
        installation: run.installation.to_string(),
        epoch: run.epoch.0,
        step: step.to_string(),
    }
}

/// Run and step.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn key_from_wire(key: Option<v1::OperationKey>) -> Result<(RunKey, StepId)> {
    let key = required(key, "key")?;
    if key.epoch == 0 {
        return Err(Error::new(Kind::Invalid, "the field `key.epoch` is 0; runs are numbered from 1"));
    }
    let run = RunKey {
        run: key.run.parse().context("field `key.run`")?,
        installation: key.installation.parse().context("field `key.installation`")?,
        epoch: Epoch(key.epoch),
    };
    Ok((run, key.step.parse().context("field `key.step`")?))
}

/// How a set is sealed; the wire carries no more than an agent needs.
pub fn sealing_to_wire(sealing: &Sealing) -> v1::Sealing {
    let how = match sealing {
        Sealing::Age { recipient, .. } => v1::sealing::How::AgeRecipient(recipient.clone()),
        Sealing::None => v1::sealing::How::None(v1::Unsealed {}),
    };
    v1::Sealing { how: Some(how) }
}

/// What an agent seals with. Nothing said is an error, never "in the clear".
///
/// # Errors
/// `Invalid` when it is missing or no recipient.
pub fn sealer_from_wire(sealing: Option<v1::Sealing>) -> Result<Sealer> {
    match required(required(sealing, "sealing")?.how, "sealing.how")? {
        v1::sealing::How::AgeRecipient(recipient) => Sealer::age(&recipient).context("field `sealing.age_recipient`"),
        v1::sealing::How::None(v1::Unsealed {}) => Ok(Sealer::none()),
    }
}

/// How a set is opened: with the set's identity, or not sealed.
pub fn unsealing_to_wire(identity: Option<&Secret>) -> v1::Unsealing {
    let how = match identity {
        Some(identity) => v1::unsealing::How::AgeIdentity(identity.expose().to_owned()),
        None => v1::unsealing::How::None(v1::Unsealed {}),
    };
    v1::Unsealing { how: Some(how) }
}

/// What an agent opens with.
///
/// # Errors
/// `Invalid` when it is missing or no identity; the identity is not told.
pub fn unsealer_from_wire(unsealing: Option<v1::Unsealing>) -> Result<Unsealer> {
    match required(required(unsealing, "unsealing")?.how, "unsealing.how")? {
        v1::unsealing::How::AgeIdentity(identity) => {
            Unsealer::age(&Secret::new(identity)).context("field `unsealing.age_identity`")
        }
        v1::unsealing::How::None(v1::Unsealed {}) => Ok(Unsealer::none()),
    }
}

/// What is done with queues.
pub fn queues_to_wire(policy: QueuePolicy) -> i32 {
    match policy {
        QueuePolicy::Restore => v1::QueuePolicy::Restore,
        QueuePolicy::Keep => v1::QueuePolicy::Keep,
        QueuePolicy::Drop => v1::QueuePolicy::Drop,
    }
    .into()
}

/// What is done with queues; an older peer says nothing and means that they come back.
///
/// # Errors
/// `Unsupported` for a word from a newer peer: to restore what somebody wanted to be rid of would be the wrong guess.
pub fn queues_from_wire(policy: i32) -> Result<QueuePolicy> {
    match v1::QueuePolicy::try_from(policy) {
        Ok(v1::QueuePolicy::Unspecified | v1::QueuePolicy::Restore) => Ok(QueuePolicy::Restore),
        Ok(v1::QueuePolicy::Keep) => Ok(QueuePolicy::Keep),
        Ok(v1::QueuePolicy::Drop) => Ok(QueuePolicy::Drop),
        Err(_) => Err(Error::new(
            Kind::Unsupported,
            format!("the field `queues` has the value {policy}, which a newer Keepsake knows: update the agent"),
        )),
    }
}

/// A failure.
pub fn failure_to_wire(failure: &Failure) -> v1::Failure {
    v1::Failure { kind: failure.kind.as_str().to_owned(), text: failure.text.clone() }
}

/// A failure; a kind that is not known is internal.
pub fn failure_from_wire(failure: v1::Failure) -> Failure {
    Failure { kind: Kind::from_name(&failure.kind), text: failure.text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_policies_come_back_and_nothing_said_means_restore() {
        for policy in [QueuePolicy::Restore, QueuePolicy::Keep, QueuePolicy::Drop] {
            assert_eq!(queues_from_wire(queues_to_wire(policy)).unwrap(), policy);
        }
        assert_eq!(queues_from_wire(v1::StartLoadRequest::default().queues).unwrap(), QueuePolicy::Restore);
        assert_eq!(queues_from_wire(4).unwrap_err().kind(), Kind::Unsupported);
    }
}

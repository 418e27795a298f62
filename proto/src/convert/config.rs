//! Backend's Config: how it differs, and what the counters are.

use bytes::Bytes;
use keepsake_core::config::{Change, Counters, Difference, Wrong};
use keepsake_core::error::{Error, Kind, Result};

use super::config_kind::{kind_from_wire, kind_to_wire};
use super::required;
use crate::v1::{self, config_difference};

/// A difference.
pub fn difference_to_wire(difference: Difference) -> v1::ConfigDifference {
    let change = match difference.change {
        Change::Delete => config_difference::Change::Delete(v1::Nothing {}),
        Change::Set { value, found } => config_difference::Change::Set(v1::ConfigSet { value, found }),
        Change::Add(member) => config_difference::Change::Add(member),
        Change::Remove(member) => config_difference::Change::Remove(member),
        Change::SetField { name, value } => config_difference::Change::SetField(v1::ConfigField { name, value }),
        Change::RemoveField(name) => config_difference::Change::RemoveField(name),
        Change::Persist => config_difference::Change::Persist(v1::Nothing {}),
    };
    let wrong = match difference.wrong {
        Wrong::Missing => v1::ConfigWrong::Missing,
        Wrong::Different => v1::ConfigWrong::Different,
        Wrong::Surplus => v1::ConfigWrong::Surplus,
    };
    v1::ConfigDifference {
        kind: kind_to_wire(difference.kind),
        service: difference.service,
        key: difference.key,
        wrong: wrong.into(),
        change: Some(change),
    }
}

/// A difference.
///
/// # Errors
/// `Invalid` when something is missing, `Unsupported` for a word of a newer peer: half understood it could be the wrong change.
pub fn difference_from_wire(difference: v1::ConfigDifference) -> Result<Difference> {
    let wrong = match difference.wrong() {
        v1::ConfigWrong::Missing => Wrong::Missing,
        v1::ConfigWrong::Different => Wrong::Different,
        v1::ConfigWrong::Surplus => Wrong::Surplus,
        v1::ConfigWrong::Unspecified => {
            return Err(Error::new(
                Kind::Unsupported,
                "the field `wrong` has no value that is known here: update Keepsake",
            ));
        }
    };
    let change = match required(difference.change, "change")? {
        config_difference::Change::Delete(v1::Nothing {}) => Change::Delete,
        config_difference::Change::Set(v1::ConfigSet { value, found }) => Change::Set { value, found },
        config_difference::Change::Add(member) => Change::Add(member),
        config_difference::Change::Remove(member) => Change::Remove(member),
        config_difference::Change::SetField(v1::ConfigField { name, value }) => Change::SetField { name, value },
        config_difference::Change::RemoveField(name) => Change::RemoveField(name),
        config_difference::Change::Persist(v1::Nothing {}) => Change::Persist,
    };
    if difference.key.is_empty() {
        return Err(Error::new(Kind::Invalid, "the field `key` is empty"));
    }
    let (service, key): (String, Bytes) = (difference.service, difference.key);
    Ok(Difference { kind: kind_from_wire(difference.kind)?, service, key, wrong, change })
}

/// Counters.
pub fn counters_to_wire(counters: Counters) -> v1::ConfigCounters {
    v1::ConfigCounters { events: counters.events, alerts: counters.alerts }
}

/// Counters.
///
/// # Errors
/// `Invalid` when they are missing.
pub fn counters_from_wire(counters: Option<v1::ConfigCounters>, field: &str) -> Result<Counters> {
    let v1::ConfigCounters { events, alerts } = required(counters, field)?;
    Ok(Counters { events, alerts })
}

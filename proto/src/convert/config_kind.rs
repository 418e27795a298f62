//! Backend's Config: what is expected.

use keepsake_core::config::{AlertLevels, ConfigEnd, ConfigEntry, ConfigKind, Counters, Must};
use keepsake_core::error::{Context as _, Error, Kind, Result};

use super::required;
use crate::v1::{self, config_entry};

const KINDS: [(ConfigKind, v1::ConfigKind); 11] = [
    (ConfigKind::Service, v1::ConfigKind::Service),
    (ConfigKind::ProviderKey, v1::ConfigKind::ProviderKey),
    (ConfigKind::Global, v1::ConfigKind::Global),
    (ConfigKind::Application, v1::ConfigKind::Application),
    (ConfigKind::UserKey, v1::ConfigKind::UserKey),
    (ConfigKind::ApplicationKeys, v1::ConfigKind::ApplicationKeys),
    (ConfigKind::ReferrerFilters, v1::ConfigKind::ReferrerFilters),
    (ConfigKind::Metric, v1::ConfigKind::Metric),
    (ConfigKind::UsageLimit, v1::ConfigKind::UsageLimit),
    (ConfigKind::ServiceToken, v1::ConfigKind::ServiceToken),
    (ConfigKind::AlertLevels, v1::ConfigKind::AlertLevels),
];

/// A kind.
pub(super) fn kind_to_wire(kind: ConfigKind) -> i32 {
    let found = KINDS.iter().find(|(k, _)| *k == kind).map(|(_, wire)| *wire);
    found.unwrap_or(v1::ConfigKind::Unspecified).into()
}

/// A kind.
pub(super) fn kind_from_wire(kind: i32) -> Result<ConfigKind> {
    let found = v1::ConfigKind::try_from(kind).ok().and_then(|wire| KINDS.iter().find(|(_, w)| *w == wire));
    found.map(|(kind, _)| *kind).ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            format!("the field `kind` has the value {kind}, which is not known here: agents and coordinator must be of one version"),
        )
    })
}

/// An entry.
pub fn config_entry_to_wire(entry: ConfigEntry) -> v1::ConfigEntry {
    let must = match entry.must {
        Must::Text { any_of, or_absent } => config_entry::Must::Text(v1::ConfigString { any_of, or_absent }),
        Must::Member(member) => config_entry::Must::Member(member),
        Must::Field { name, value } => config_entry::Must::Field(v1::ConfigField { name, value }),
    };
    v1::ConfigEntry { kind: kind_to_wire(entry.kind), service: entry.service, key: entry.key, must: Some(must) }
}

/// Entries.
///
/// # Errors
/// `Invalid` when something is missing, `Unsupported` for a kind of a newer peer.
pub fn config_entries_from_wire(batch: v1::ConfigBatch) -> Result<Vec<ConfigEntry>> {
    let entry = |entry: v1::ConfigEntry| {
        let must = match required(entry.must, "must")? {
            config_entry::Must::Text(v1::ConfigString { any_of, or_absent }) => Must::Text { any_of, or_absent },
            config_entry::Must::Member(member) => Must::Member(member),
            config_entry::Must::Field(v1::ConfigField { name, value }) => Must::Field { name, value },
        };
        Ok(ConfigEntry { kind: kind_from_wire(entry.kind)?, service: entry.service, key: entry.key, must })
    };
    batch.entries.into_iter().map(entry).collect::<Result<_>>().context("an expected entry")
}

/// The end of entries.
pub fn config_end_to_wire(end: &ConfigEnd) -> v1::ConfigEnd {
    v1::ConfigEnd {
        entries: end.entries,
        digest: end.digest.clone(),
        events_id_at_least: end.at_least.events,
        alerts_id_at_least: end.at_least.alerts,
        kinds: end.kinds.iter().map(|kind| kind_to_wire(*kind)).collect(),
    }
}

/// The end of entries.
///
/// # Errors
/// `Unsupported` for a kind of a newer peer.
pub fn config_end_from_wire(end: v1::ConfigEnd) -> Result<ConfigEnd> {
    Ok(ConfigEnd {
        entries: end.entries,
        kinds: end.kinds.iter().map(|kind| kind_from_wire(*kind)).collect::<Result<_>>()?,
        at_least: Counters { events: end.events_id_at_least, alerts: end.alerts_id_at_least },
        digest: end.digest,
    })
}

/// Whether alert levels are compared.
pub fn alert_levels_to_wire(levels: AlertLevels) -> i32 {
    match levels {
        AlertLevels::LeftAlone => v1::AlertLevels::LeftAlone,
        AlertLevels::Expected => v1::AlertLevels::Expected,
    }
    .into()
}

/// Whether alert levels are compared; not said, they are left alone.
///
/// # Errors
/// `Unsupported` for a word of a newer peer.
pub fn alert_levels_from_wire(levels: i32) -> Result<AlertLevels> {
    match v1::AlertLevels::try_from(levels) {
        Ok(v1::AlertLevels::Unspecified | v1::AlertLevels::LeftAlone) => Ok(AlertLevels::LeftAlone),
        Ok(v1::AlertLevels::Expected) => Ok(AlertLevels::Expected),
        Err(_) => Err(Error::new(
            Kind::Unsupported,
            format!("the field `alert_levels` has the value {levels}, which is not known here"),
        )),
    }
}

//! Backend's Config: what must stand in backend-redis, as System's database says it.

pub mod difference;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::difference::{Change, Counters, Difference, Tally, Wrong, Wrongs};

/// Counter of events.
pub const EVENTS_ID: &[u8] = b"events/id";
/// Counter of alerts.
pub const ALERTS_CURRENT_ID: &[u8] = b"alerts/current_id";

/// Kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigKind {
    /// Attributes of a service.
    Service,
    /// Everything else.
    Application,
}

impl ConfigKind {
    /// All.
    pub const ALL: [Self; 2] = [Self::Service, Self::Application];
}

impl fmt::Display for ConfigKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("x")
    }
}

/// Entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Kind.
    pub kind: ConfigKind,
    /// Service.
    pub service: String,
    /// Key.
    pub key: Bytes,
    /// Must.
    pub must: Must,
}

/// Must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Must {
    /// Text.
    Text {
        /// Any.
        any_of: Vec<Bytes>,
        /// Or.
        or_absent: bool,
    },
    /// Member.
    Member(Bytes),
    /// Field.
    Field {
        /// Name.
        name: Bytes,
        /// Value.
        value: Bytes,
    },
}

/// Classify.
pub fn classify(key: &[u8]) -> Option<(ConfigKind, String)> {
    key.starts_with(b"service/").then(|| (ConfigKind::Service, String::new()))
}

//! Backend's Config: what must stand in backend-redis, as System's database says it.

pub mod difference;
pub mod digest;
pub mod keys;
pub mod levels;
mod merge;
pub mod rules;
pub mod template;

use bytes::Bytes;

pub use self::difference::{Change, Counters, Difference, Tally, Wrong, Wrongs};
pub use self::digest::Digest;
pub use self::keys::{ALERTS_CURRENT_ID, ConfigKind, EVENTS_ID, classify, masked};
pub use self::merge::Merging;

/// What one key must hold, or one of several things that it must hold. Entries of one key come one after another.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// What the key is.
    pub kind: ConfigKind,
    /// The service that it belongs to; empty for none.
    pub service: String,
    /// Its name as it stands in Redis.
    pub key: Bytes,
    /// What it must hold.
    pub must: Must,
}

/// What a key must hold.
#[derive(Clone, PartialEq, Eq)]
pub enum Must {
    /// One of these texts.
    Text {
        /// The first is the one that is written.
        any_of: Vec<Bytes>,
        /// Or the key is not there.
        or_absent: bool,
    },
    /// A set, with this member.
    Member(Bytes),
    /// A hash, with this field.
    Field {
        /// The field.
        name: Bytes,
        /// Its value.
        value: Bytes,
    },
}

/// Names and values are secrets.
impl std::fmt::Debug for ConfigEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConfigEntry({} of service {:?})", self.kind, self.service)
    }
}

/// As above.
impl std::fmt::Debug for Must {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text { .. } => "Text(..)",
            Self::Member(_) => "Member(..)",
            Self::Field { .. } => "Field(..)",
        })
    }
}

/// The end of all entries: what proves that all came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEnd {
    /// How many entries there are.
    pub entries: u64,
    /// SHA-256 over them.
    pub digest: Bytes,
    /// Kinds of which everything is named.
    pub kinds: Vec<ConfigKind>,
    /// What the counters must have reached.
    pub at_least: Counters,
}

/// Whether the levels at which alerts are made are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertLevels {
    /// They are left alone.
    #[default]
    LeftAlone,
    /// They are expected.
    Expected,
}

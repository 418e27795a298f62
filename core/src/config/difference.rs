//! How the Config that is there differs from what is expected, and what makes it equal.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ConfigKind;

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// It should be there and is not.
    Missing,
    /// It is there and is not what it should be.
    Different,
    /// It is there and should not be.
    Surplus,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Surplus => "surplus",
        })
    }
}

/// One change to one key. All that are told of a key, made in order, make it equal; each may be made again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Difference {
    /// What the key is.
    pub kind: ConfigKind,
    /// The service that it belongs to; empty for none.
    pub service: String,
    /// Its name as it stands in the datastore.
    pub key: Bytes,
    /// What is wrong with it.
    pub wrong: Wrong,
    /// What is to be done about it.
    pub change: Change,
}

/// What is to be done about a key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// It goes.
    Delete,
    /// It becomes this text. `found` is what it was; none when it was not there.
    Set {
        /// What it becomes.
        value: Bytes,
        /// What it was.
        found: Option<Bytes>,
    },
    /// This member is added to the set.
    Add(Bytes),
    /// This member is taken from the set.
    Remove(Bytes),
    /// This field of the hash becomes this.
    SetField {
        /// The field.
        name: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// This field goes from the hash.
    RemoveField(Bytes),
    /// It does not expire any more.
    Persist,
}

/// Values, members and many names are secrets: keys of applications, tokens.
impl std::fmt::Debug for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} of service {:?}: {:?}", self.wrong, self.kind, self.service, self.change)
    }
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Delete => "delete",
            Self::Set { .. } => "set",
            Self::Add(_) => "add a member",
            Self::Remove(_) => "remove a member",
            Self::SetField { .. } => "set a field",
            Self::RemoveField(_) => "remove a field",
            Self::Persist => "persist",
        })
    }
}

/// Counters that must never go back (3scale-facts, section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// `events/id`: at least the greatest id of `backend_events`.
    pub events: i64,
    /// `alerts/current_id`: at least the greatest `alerts.alert_id`.
    pub alerts: i64,
}

impl Counters {
    /// Whether each has reached the other's.
    pub fn reach(self, other: Self) -> bool {
        self.events >= other.events && self.alerts >= other.alerts
    }
}

/// How many keys of one kind and service are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wrongs {
    /// Keys that are missing.
    pub missing: u64,
    /// Keys that are there and not as they should be; a set with wrong members is one.
    pub different: u64,
    /// Keys that should not be there.
    pub surplus: u64,
}

impl Wrongs {
    /// All together.
    pub fn total(self) -> u64 {
        self.missing + self.different + self.surplus
    }

    fn count(&mut self, wrong: Wrong) {
        match wrong {
            Wrong::Missing => self.missing += 1,
            Wrong::Different => self.different += 1,
            Wrong::Surplus => self.surplus += 1,
        }
    }
}

/// Counts wrong keys, each once however much is wrong with it. Of each key it keeps 8 bytes.
#[derive(Debug, Default)]
pub struct Tally {
    seen: HashSet<u64>,
    hasher: RandomState,
    /// By kind and service.
    pub wrongs: BTreeMap<(ConfigKind, String), Wrongs>,
}

impl Tally {
    /// Takes a difference; gives whether it is the first of its key.
    pub fn take(&mut self, difference: &Difference) -> bool {
        let first = self.seen.insert(self.hasher.hash_one(&difference.key[..]));
        if first {
            self.wrongs.entry((difference.kind, difference.service.clone())).or_default().count(difference.wrong);
        }
        first
    }

    /// All kinds and services together.
    pub fn total(&self) -> Wrongs {
        let mut total = Wrongs::default();
        for wrongs in self.wrongs.values() {
            total.missing += wrongs.missing;
            total.different += wrongs.different;
            total.surplus += wrongs.surplus;
        }
        total
    }
}

//! What a look at the Config found, for people and machines. It holds no secret.

use std::collections::BTreeMap;

use keepsake_core::config::{ConfigKind, Counters, Difference, Tally, Wrong, Wrongs, masked};
use serde::{Deserialize, Serialize, Serializer};

use crate::fleet::config::ConfigCompared;

/// Examples of each kind and each way to be wrong, at most.
const EXAMPLES: usize = 3;

/// The report.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Expected keys.
    pub keys: u64,
    /// Keys of the database that were looked at in search of surplus ones.
    pub scanned: u64,
    /// Keys that are wrong, each once.
    #[serde(flatten)]
    total: Wrongs,
    /// By kind and service.
    #[serde(serialize_with = "rows")]
    tally: Tally,
    /// The first of each kind.
    pub examples: Vec<Example>,
    #[serde(skip)]
    shown: BTreeMap<(ConfigKind, Wrong), usize>,
    /// The counters as they were found.
    pub counters: Counters,
    /// What they must have reached.
    pub counters_at_least: Counters,
}

/// A key that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// What it is.
    pub kind: ConfigKind,
    /// What is wrong with it.
    pub wrong: Wrong,
    /// Its name; what is a secret in it is not shown.
    pub key: String,
}

#[derive(Serialize)]
struct Row<'a> {
    kind: ConfigKind,
    service: &'a str,
    #[serde(flatten)]
    wrongs: Wrongs,
}

fn rows<S: Serializer>(tally: &Tally, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(tally.wrongs.iter().map(|((kind, service), wrongs)| Row {
        kind: *kind,
        service,
        wrongs: *wrongs,
    }))
}

impl Report {
    /// Counts a difference.
    pub(super) fn count(&mut self, difference: &Difference) {
        if !self.tally.take(difference) {
            return;
        }
        let shown = self.shown.entry((difference.kind, difference.wrong)).or_default();
        if *shown < EXAMPLES {
            *shown += 1;
            let (kind, wrong) = (difference.kind, difference.wrong);
            self.examples.push(Example { kind, wrong, key: masked(kind, &difference.key) });
        }
    }

    /// What the comparison said at its end.
    pub(super) fn compared(&mut self, compared: ConfigCompared) {
        self.keys = compared.keys;
        self.scanned = compared.scanned;
        self.counters = compared.found;
        self.counters_at_least = compared.at_least;
        self.total = self.tally.total();
    }

    /// Wrong keys by kind and service.
    pub fn rows(&self) -> impl Iterator<Item = (ConfigKind, &str, Wrongs)> {
        self.tally.wrongs.iter().map(|((kind, service), wrongs)| (*kind, service.as_str(), *wrongs))
    }

    /// All wrong keys.
    pub fn total(&self) -> Wrongs {
        self.total
    }

    /// Whether no key is wrong.
    pub fn is_equal(&self) -> bool {
        self.total.total() == 0
    }

    /// Whether the counters have reached what they must.
    pub fn counters_are_right(&self) -> bool {
        self.counters.reach(self.counters_at_least)
    }

    /// In one line.
    pub fn in_words(&self) -> String {
        let Wrongs { missing, different, surplus } = self.total;
        let mut told = format!("{missing} keys are missing, {different} different, {surplus} surplus");
        let Counters { events, alerts } = self.counters;
        for (name, there, wanted) in [
            ("events/id", events, self.counters_at_least.events),
            ("alerts/current_id", alerts, self.counters_at_least.alerts),
        ] {
            if there < wanted {
                told.push_str(&format!("; {name} is {there}, below {wanted}"));
            }
        }
        told
    }
}

//! How far a load has come, as it is written down.

use std::path::Path;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::id::RunId;
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::{Counts, DumpReport, Facts};
use serde::{Deserialize, Serialize};

use super::super::settings::LoadMethod;

/// The state of one load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct State {
    /// Whose load it is.
    pub(in super::super) run: RunId,
    /// How far it is.
    pub(in super::super) phase: Phase,
    /// What becomes of queues.
    pub(in super::super) queues: QueuePolicy,
    /// The set's artifact, by which a stage that is asked for again is known.
    pub(in super::super) set: Held,
    /// What is in the staged RDB.
    pub(in super::super) staged: Held,
    /// What is to be told whenever the stage is reported.
    pub(in super::super) said: Vec<String>,
    /// What a commit has made ready; from [`Phase::Loading`] on.
    pub(in super::super) going: Option<Going>,
}

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum Phase {
    /// Staged and checked. The live data is untouched, and may change: a safety RDB that is there is taken again.
    Staged,
    /// The live data may have been changed. The safety RDB is what was live, and is written never again.
    Loading,
    /// What was staged is live.
    Committed,
    /// The safety RDB is being loaded.
    Undoing,
}

/// What is needed to go on, forward or back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Going {
    /// How it is loaded.
    pub(in super::super) method: LoadMethod,
    /// What is in the safety RDB.
    pub(in super::super) safety: Held,
    /// What is in the RDB that is loaded.
    pub(in super::super) loaded: Held,
}

/// What is in an RDB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Held {
    /// Its length, bytes.
    pub(in super::super) length: u64,
    /// As in a record.
    pub(in super::super) counts: Counts,
    /// Bytes of memory that the server took for it which was dumped, if that is known.
    pub(in super::super) used_memory: Option<String>,
}

/// The fact that a preflight asks for.
const USED_MEMORY: &str = "used_memory";

impl Held {
    /// Of a dump that is known by its report.
    pub(in super::super) fn of(length: u64, counts: Counts, report: Option<&DumpReport>) -> Self {
        Self { length, counts, used_memory: report.and_then(|r| r.facts.get(USED_MEMORY)).cloned() }
    }

    /// As the record of a dump would say it.
    pub(in super::super) fn report(&self) -> DumpReport {
        let facts: Facts = self.used_memory.iter().map(|n| (USED_MEMORY.to_owned(), n.clone())).collect();
        DumpReport { counts: self.counts.clone(), facts, ..DumpReport::default() }
    }
}

impl State {
    /// From its file.
    pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Self> {
        let what = || {
            format!(
                "{} cannot be read, and nobody knows how far its load has come: see what the server holds; {} beside it is what was live before",
                path.display(),
                super::SAFETY
            )
        };
        let state: Self = serde_json::from_slice(bytes).or_kind(Kind::Corrupt, what())?;
        if (state.phase == Phase::Staged) == state.going.is_some() {
            return Err(Error::new(Kind::Corrupt, what()));
        }
        Ok(state)
    }

    /// For its file.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).or_kind(Kind::Internal, "write down how far a load has come")
    }
}

#[cfg(test)]
impl State {
    pub(super) fn sample(run: RunId, phase: Phase) -> Self {
        let held = Held::default();
        let going = Going { method: LoadMethod::Reload, safety: held.clone(), loaded: held.clone() };
        Self {
            run,
            phase,
            queues: QueuePolicy::Keep,
            set: held.clone(),
            staged: held,
            said: Vec::new(),
            going: (phase != Phase::Staged).then_some(going),
        }
    }
}

//! What happens in a run, one object each in the journal. Words are never given another meaning; new ones may come.

use keepsake_core::config::{Counters, Wrongs};
use keepsake_core::id::{Epoch, StepId};
use keepsake_core::record::{Counts, DumpRecord, Failure, Sealing, Status};
use serde::{Deserialize, Serialize};

use super::cut::Made;
use crate::plan::Plan;
use crate::platform::{Looked, Stopped};

/// An entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// A step's effect may happen from here on; durable before it does.
    Started {
        /// Which.
        step: StepId,
    },
    /// A step is done.
    Succeeded {
        /// Which.
        step: StepId,
        /// What later steps, or a later run, need of it.
        output: Output,
    },
    /// A step failed; it may have done half of its work.
    Failed {
        /// Which.
        step: StepId,
        /// Why.
        failure: Failure,
    },
    /// The undo of a step begins.
    UndoStarted {
        /// Which.
        step: StepId,
    },
    /// A step is undone.
    Undone {
        /// Which.
        step: StepId,
    },
    /// A step could not be undone.
    UndoFailed {
        /// Which.
        step: StepId,
        /// Why.
        failure: Failure,
    },
    /// The sealed key that is about to be stored for the set that is made, so that whoever goes on stores the same.
    SetPrepared {
        /// How the set is sealed: its public half, and the private one sealed to the recipients.
        sealing: Sealing,
    },
    /// The exact bytes that are about to become the record and its signature, so that whoever goes on writes the same.
    RecordPrepared {
        /// `record.json`, base64.
        record_base64: String,
        /// `record.sig`, base64.
        signature_base64: String,
    },
    /// From here on the run goes back: what was begun is undone, latest first, by whoever goes on.
    Unwinding {
        /// Why: the failure that turned it, or that somebody asked for it.
        failure: Failure,
        /// Past the point of no return, too: somebody said that what the applications wrote since may be lost.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        discard_writes: bool,
    },
    /// Its coordinator stops here, and the run is not over: a person has to mend something and resume it.
    Halted {
        /// `halted` where it can only go forward, `stuck` where something could not be undone.
        outcome: Outcome,
        /// In words.
        note: String,
    },
    /// Another epoch of the same run goes on from here: whoever wrote to this one is fenced.
    TakenOver {
        /// Which.
        by: Epoch,
    },
    /// The first plan of the run is done, and this is its second: what comes after is about this one.
    Planned {
        /// What will be done.
        plan: Box<Plan>,
        /// SHA-256 of the plan's JSON, hex.
        plan_sha256: String,
    },
    /// The coordinator is still there.
    Alive,
    /// Nothing more will be done in the name of this run.
    Ended {
        /// How.
        outcome: Outcome,
        /// In words.
        note: String,
    },
    /// A word from a newer version.
    #[serde(other)]
    Unknown,
}

/// What a step leaves for later ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "output", rename_all = "kebab-case")]
pub enum Output {
    /// Nothing.
    Nothing,
    /// The set's key was made: its public half.
    Set {
        /// How the set is sealed.
        sealing: Sealing,
    },
    /// A cut was made, or, where it was only preferred, why not.
    Cut {
        /// What the dumps go on from.
        made: Option<Box<Made>>,
        /// Why there is none.
        why_not: Option<String>,
    },
    /// A component was dumped.
    Dumped {
        /// What the record will say.
        dump: Box<DumpRecord>,
    },
    /// The record was written.
    Recorded {
        /// Whether the set is complete.
        status: Status,
    },
    /// A dump was staged or loaded.
    Loaded {
        /// What was counted.
        counts: Counts,
        /// What an operator should know.
        warnings: Vec<String>,
    },
    /// The applications were stopped.
    Stopped {
        /// What each had.
        workloads: Vec<Stopped>,
    },
    /// The Routes were closed.
    RoutesClosed {
        /// So many there are.
        routes: usize,
    },
    /// The queues were waited for.
    Drained {
        /// Jobs that are left; none when nobody could tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<u64>,
        /// What was found, in words.
        told: String,
    },
    /// Something was made anew.
    Resynced {
        /// What was done, in words.
        told: String,
    },
    /// The applications were looked at.
    Looked {
        /// What was found.
        looks: Vec<Looked>,
    },
    /// The Config was looked at, or made equal.
    Config {
        /// Expected keys.
        keys: u64,
        /// Keys that differed.
        wrong: Wrongs,
        /// Changes that were made; none when it was only looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changes: Option<u64>,
        /// The counters as they are now.
        counters: Counters,
        /// What an operator should know.
        warnings: Vec<String>,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All was done.
    Completed,
    /// A backup: a set was made that lacks a component.
    Partial,
    /// It failed, and nothing of it remains.
    Failed,
    /// It failed, and something could not be undone.
    Stuck,
    /// It stopped where it can only go forward, and is to be resumed.
    Halted,
    /// Somebody asked it to stop, and nothing of it remains.
    Cancelled,
    /// Its coordinator is gone; a later run or `cancel` wrote this.
    Abandoned,
    /// It did nothing, because another run had the floor.
    Refused,
    /// A word from a newer version.
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// The word in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Stuck => "stuck",
            Self::Halted => "halted",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// How a run that was taken over is described.
pub fn abandoned_by(epoch: Epoch) -> Event {
    Event::Ended { outcome: Outcome::Abandoned, note: format!("its coordinator was gone; run {epoch} took over") }
}

//! Exit statuses: a contract with scripts, also in `docs/runbook.md`.

use keepsake_core::{Error, Kind};

use crate::run::event::Outcome;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for was done.
    Done,
    /// It failed, and nothing was changed or everything was put back.
    Failed,
    /// The command line or the topology is wrong.
    Usage,
    /// A restore stopped where it can only go forward, or lost its journal, and is to be resumed.
    Halted,
    /// An undo failed or is impossible, or a set is only partial.
    StuckOrPartial,
    /// `verify`, `inspect`, `doctor` or `check` ran to the end and found something.
    Found,
    /// Somebody asked it to stop, and it did.
    Cancelled,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Halted => 3,
            Self::StuckOrPartial => 4,
            Self::Found => 5,
            Self::Cancelled => 130,
        }
    }

    /// The status of this number, if there is one.
    pub fn of_code(code: i32) -> Option<Self> {
        let all =
            [Self::Done, Self::Failed, Self::Usage, Self::Halted, Self::StuckOrPartial, Self::Found, Self::Cancelled];
        all.into_iter().find(|exit| i32::from(exit.code()) == code)
    }

    /// The status of a command that ended with an error.
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::Cancelled => Self::Cancelled,
            Kind::Invalid => Self::Usage,
            Kind::NotFound
            | Kind::Exists
            | Kind::Conflict
            | Kind::Busy
            | Kind::Unavailable
            | Kind::Timeout
            | Kind::Denied
            | Kind::Corrupt
            | Kind::Unsupported
            | Kind::Internal => Self::Failed,
        }
    }

    /// The status of a run that ended so.
    pub fn of_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Done,
            Outcome::Failed | Outcome::Refused | Outcome::Abandoned => Self::Failed,
            Outcome::Halted => Self::Halted,
            Outcome::Partial | Outcome::Stuck | Outcome::Unknown => Self::StuckOrPartial,
            Outcome::Cancelled => Self::Cancelled,
        }
    }

    /// The status of a command that gave a run up, by how the run ended then; `None` when it lost its journal. That it went back is what was asked for.
    pub fn of_given_up(outcome: Option<Outcome>) -> Self {
        match outcome {
            Some(Outcome::Cancelled | Outcome::Failed) => Self::Done,
            Some(other) => Self::of_outcome(other),
            None => Self::Halted,
        }
    }

    /// The status of a run whose journal was lost; `begun` says whether anything of it is there that waits for `resume` or `cancel`. Then it is never
    /// the status that says that nothing was changed, whatever the error is.
    pub fn of_lost_run(error: &Error, begun: bool) -> Self {
        if begun { Self::Halted } else { Self::of(error) }
    }

    /// The status of several runs together: the worst.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        let rank = |e: Self| match e {
            Self::Done => 0,
            Self::Found => 1,
            Self::Cancelled => 2,
            Self::Usage => 3,
            Self::Failed => 4,
            Self::Halted => 5,
            Self::StuckOrPartial => 6,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

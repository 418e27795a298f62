//! What will be done: data made before anything is done.
//!
//! A plan has stages in order; the steps of a stage go together. Every choice (ids, order, what is left out) is made here, so that a
//! printed plan is the whole truth and a run only carries it out. Nothing here is async, asks the world, or knows the wire.

mod action;
mod after;
mod applications;
pub mod backup;
pub mod config;
pub(crate) mod files;
mod limits;
mod make_set;
pub mod objects;
mod print;
pub mod rebuild;
pub mod restore;
pub mod resync;
pub mod take_back;

use std::collections::BTreeSet;

use keepsake_core::id::{Component, Epoch, Installation, RunId, SetId, StepId};
use keepsake_core::record::{FORMAT, Purpose};
use keepsake_core::repository::runs::TWO_PLANS;
use serde::{Deserialize, Serialize};

use crate::platform::Extent;

pub use self::action::{Action, CheckAt, Undo, WORKER};
pub use self::config::{ConfigMust, ConfigPair, LiveLook};
pub use self::limits::CutLimits;
use self::restore::Wishes;

/// What will be done, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What for.
    pub goal: Goal,
    /// The installation.
    pub installation: Installation,
    /// The set that is made or restored; none when it is about no set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetId>,
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// What an operator should know before.
    pub notes: Vec<String>,
    /// Where System's files are, if the set that is made does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_elsewhere: Option<String>,
    /// Where in all clusters it has its effects, as the platform told when it was begun: whoever goes on with it must be there, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// What a plan is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "goal", rename_all = "kebab-case")]
pub enum Goal {
    /// To make a set.
    Backup {
        /// Components of the installation that were not asked for.
        left_out: Vec<Component>,
    },
    /// To bring a set back.
    Restore {
        /// The epoch of the set, for people.
        epoch: Epoch,
        /// The set that is made of the present state before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        safety: Option<Safety>,
        /// The old data stays beside the new until `finalize` or `rollback`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_old: bool,
    },
    /// To drop the old data that a completed restore has kept.
    Finalize {
        /// The restore, for people.
        restore: Epoch,
        /// Its run, by which agents know what it has kept.
        run: RunId,
    },
    /// To put the old data back that a completed restore has kept.
    Rollback {
        /// The restore, for people.
        restore: Epoch,
        /// Its run, by which agents know what it has kept.
        run: RunId,
    },
    /// To build an installation anew, of a set's objects, in an empty namespace.
    Rebuild {
        /// The epoch of the set, for people.
        epoch: Epoch,
        /// The data of the same set comes back by a second plan of the same run, made of what the installation is by then, and of these wishes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Wishes>>,
    },
    /// To make Backend's Config equal to System's.
    Resync,
}

/// The set that a restore makes before it changes anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Safety {
    /// Its id.
    pub set: SetId,
    /// Components of the installation that are not restored, and so not in it.
    pub left_out: Vec<Component>,
}

/// Steps that go together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// For people.
    pub title: String,
    /// What is done.
    pub steps: Vec<Step>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name in the journal and at the agent.
    pub id: StepId,
    /// What is done.
    pub action: Action,
    /// How it is undone.
    pub undo: Undo,
}

impl Plan {
    /// All steps in order.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.stages.iter().flat_map(|s| &s.steps)
    }

    /// Every component that a step of it is about, the cluster's objects among them.
    pub fn components(&self) -> Vec<Component> {
        let all: BTreeSet<_> = self.steps().flat_map(|s| s.action.components()).cloned().collect();
        all.into_iter().collect()
    }

    /// The set in words.
    pub fn set_in_words(&self) -> String {
        self.set.map_or_else(|| "no set".to_owned(), |set| format!("set {set}"))
    }

    /// The step of that id.
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps().find(|s| &s.id == id)
    }

    /// Whether a step comes after the point of no return.
    pub fn is_behind_the_point(&self, id: &StepId) -> bool {
        self.steps().skip_while(|s| s.action != Action::PointOfNoReturn).skip(1).any(|s| &s.id == id)
    }

    /// Whether a step that failed lets the run go on. A backup goes on without a component. A store that is too broken to be dumped must not keep
    /// its own restore from happening, as long as what is there now stays beside what is loaded.
    pub fn tolerates(&self, step: &Step) -> bool {
        let Action::Dump { component, .. } = &step.action else { return false };
        let is_lost = |s: &Step| {
            matches!(&s.action, Action::Commit { component: c } if c == component)
                && matches!(s.undo, Undo::Impossible { .. })
        };
        self.is_backup() || !self.steps().any(is_lost)
    }

    /// The set that this plan makes, why, and what of the installation is not in it.
    pub fn made_set(&self) -> Option<(SetId, Purpose, &[Component])> {
        match &self.goal {
            Goal::Backup { left_out } => self.set.map(|set| (set, Purpose::Backup, left_out.as_slice())),
            Goal::Restore { safety: Some(safety), .. } => Some((safety.set, Purpose::Safety, &safety.left_out)),
            Goal::Restore { safety: None, .. }
            | Goal::Rebuild { .. }
            | Goal::Finalize { .. }
            | Goal::Rollback { .. }
            | Goal::Resync => None,
        }
    }

    /// The run that agents know loads by: that of the restore whose loads are worked on, or else the plan's own.
    pub fn run_of_loads(&self, own: RunId) -> RunId {
        match &self.goal {
            Goal::Finalize { run, .. } | Goal::Rollback { run, .. } => *run,
            Goal::Backup { .. } | Goal::Restore { .. } | Goal::Rebuild { .. } | Goal::Resync => own,
        }
    }

    /// What is stopped when data is put in the place of other data; none when nothing is, as far as this plan goes.
    pub fn stopped(&self) -> Option<Extent> {
        // The last of several stops all that is to be stopped.
        let keeps = self.steps().rev().find_map(|s| match &s.action {
            Action::Quiesce { keeps, .. } => Some(keeps.clone()),
            _ => None,
        })?;
        let routes = self.steps().any(|s| matches!(s.action, Action::CloseRoutes { .. }));
        Some(Extent { keeps, routes })
    }

    /// Whether any of it takes what runs the applications.
    pub fn needs_platform(&self) -> bool {
        self.steps().any(|s| s.action.needs_platform())
    }

    /// Whether more is done with the applications than to stop and start them.
    pub fn follows(&self) -> bool {
        self.steps().any(|s| s.action.follows())
    }

    /// What is wished for of the second plan of the run, if this is the first of two.
    pub fn then(&self) -> Option<&Wishes> {
        match &self.goal {
            Goal::Rebuild { then, .. } => then.as_deref(),
            Goal::Backup { .. }
            | Goal::Restore { .. }
            | Goal::Finalize { .. }
            | Goal::Rollback { .. }
            | Goal::Resync => None,
        }
    }

    /// The format of a run that begins with this plan.
    pub fn format(&self) -> u32 {
        if self.then().is_some() { TWO_PLANS } else { FORMAT }
    }

    /// Whether it changes something of what a platform runs, so that it matters where that is.
    pub fn is_of_a_place(&self) -> bool {
        let objects = |s: &Step| {
            s.action.component().is_some_and(|c| c.as_str() == keepsake_core::format::objects::COMPONENT)
                && matches!(s.action, Action::Stage { .. } | Action::Rollback { .. } | Action::Finalize { .. })
        };
        self.needs_platform() || self.steps().any(objects)
    }

    /// Whether this is a backup.
    pub fn is_backup(&self) -> bool {
        matches!(self.goal, Goal::Backup { .. })
    }

    /// Whether it can be taken back past its point of no return. What is built of a rebuild would go with its objects.
    pub fn may_be_taken_back(&self) -> bool {
        matches!(self.goal, Goal::Restore { .. })
    }

    /// Whether this brings something of a set back.
    pub fn is_restore(&self) -> bool {
        matches!(self.goal, Goal::Restore { .. } | Goal::Rebuild { .. })
    }

    /// Whether nothing that it does has to be undone or brought to an end, so that it is in nobody's way when its coordinator is gone.
    pub fn may_be_abandoned(&self) -> bool {
        matches!(self.goal, Goal::Backup { .. } | Goal::Resync)
    }

    /// `backup`, `restore`, `finalize`, `rollback` or `resync`.
    pub fn word(&self) -> &'static str {
        match self.goal {
            Goal::Backup { .. } => "backup",
            Goal::Restore { .. } => "restore",
            Goal::Rebuild { .. } => "rebuild",
            Goal::Finalize { .. } => "finalize",
            Goal::Rollback { .. } => "rollback",
            Goal::Resync => "resync",
        }
    }
}

//! What will be done: data made before anything is done.
//!
//! A plan has stages in order; the steps of a stage go together. Every choice (ids, order, what is left out) is made here, so that a
//! printed plan is the whole truth and a run only carries it out. Nothing here is async, asks the world, or knows the wire.

pub mod backup;
mod print;
pub mod restore;

use std::time::Duration;

use keepsake_core::error::Result;
use keepsake_core::id::{Component, EngineName, Epoch, Installation, SetId, StepId};
use keepsake_core::queues::QueuePolicy;
use serde::{Deserialize, Serialize};

/// What will be done, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What for.
    pub goal: Goal,
    /// The installation.
    pub installation: Installation,
    /// The set that is made or restored.
    pub set: SetId,
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// What an operator should know before.
    pub notes: Vec<String>,
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
    },
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

/// Everything that a run can do. Closed: a new action must be described, performed and undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Makes the set's own key.
    BeginSet,
    /// Opens the snapshots of all these components at one instant at which nothing is written to any of them; their dumps go on from there.
    Cut {
        /// In this order they are held; those of a group together.
        groups: Vec<Vec<Component>>,
        /// Without a cut there is no set.
        required: bool,
        /// How long writers may wait.
        limits: CutLimits,
    },
    /// Dumps a component into the set.
    Dump {
        /// Which.
        component: Component,
        /// Its engine.
        engine: EngineName,
    },
    /// Signs and writes the record: from then on the set is a backup.
    CommitSet,
    /// Brings a component's dump beside the live data and checks all of it.
    Stage {
        /// Which.
        component: Component,
        /// What becomes of its queues.
        #[serde(default, skip_serializing_if = "QueuePolicy::is_restore")]
        queues: QueuePolicy,
    },
    /// Puts the staged dump in the place of the live data, and counts it.
    Commit {
        /// Which.
        component: Component,
    },
    /// Undoes a stage or a commit.
    Rollback {
        /// Which.
        component: Component,
    },
    /// Drops what a rollback would need.
    Finalize {
        /// Which.
        component: Component,
    },
}

/// How long writers may wait for a cut, and how often it is tried. Durations in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CutLimits {
    /// Each hold is had within so long, or the attempt is void.
    pub budget_ms: u32,
    /// A hold that nobody asks for ends by itself after so long.
    pub lease_ms: u32,
    /// Attempts.
    pub attempts: u32,
    /// When the writers have waited so long in all attempts together, there is no further one.
    pub pauses_ms: u32,
    /// Before an attempt, so long is waited for everything that would be in its way; nothing is held meanwhile.
    pub ready_within_ms: u32,
}

impl Default for CutLimits {
    fn default() -> Self {
        Self { budget_ms: 200, lease_ms: 2_000, attempts: 5, pauses_ms: 500, ready_within_ms: 60_000 }
    }
}

impl CutLimits {
    /// What is wrong with them, if something is.
    pub fn unsound(&self) -> Option<String> {
        if self.lease_ms < 500 || self.lease_ms > 10_000 {
            return Some(format!("lease_ms is {}: 500 to 10000 are sound", self.lease_ms));
        }
        if self.budget_ms == 0 || self.budget_ms > self.lease_ms / 2 {
            return Some(format!("budget_ms is {}: 1 to half the lease are sound", self.budget_ms));
        }
        (self.attempts == 0 || self.attempts > 20).then(|| format!("attempts is {}: 1 to 20 are sound", self.attempts))
    }

    /// See there.
    pub fn budget(&self) -> Duration {
        Duration::from_millis(self.budget_ms.into())
    }

    /// See there.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }

    /// See there.
    pub fn pauses(&self) -> Duration {
        Duration::from_millis(self.pauses_ms.into())
    }

    /// See there.
    pub fn ready_within(&self) -> Duration {
        Duration::from_millis(self.ready_within_ms.into())
    }
}

/// How a step is undone when a later one fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub enum Undo {
    /// There is nothing to undo: what it leaves is harmless.
    Nothing,
    /// By this action.
    By {
        /// What undoes it.
        action: Box<Action>,
    },
    /// It cannot be undone.
    Impossible {
        /// Why.
        why: String,
    },
}

impl Action {
    /// The component it works on.
    pub fn component(&self) -> Option<&Component> {
        match self {
            Self::BeginSet | Self::Cut { .. } | Self::CommitSet => None,
            Self::Dump { component, .. }
            | Self::Stage { component, .. }
            | Self::Commit { component }
            | Self::Rollback { component }
            | Self::Finalize { component } => Some(component),
        }
    }

    /// Its word in steps and listings.
    pub fn word(&self) -> &'static str {
        match self {
            Self::BeginSet => "begin-set",
            Self::Cut { .. } => "cut",
            Self::Dump { .. } => "dump",
            Self::CommitSet => "commit-set",
            Self::Stage { .. } => "stage",
            Self::Commit { .. } => "commit",
            Self::Rollback { .. } => "rollback",
            Self::Finalize { .. } => "finalize",
        }
    }

    /// The id of the step that does this.
    ///
    /// # Errors
    /// The component's name is too long for a step's.
    pub fn step_id(&self) -> Result<StepId> {
        match self.component() {
            None => StepId::new(self.word()),
            Some(component) => StepId::new(format!("{}-{component}", self.word())),
        }
    }

    /// The id of the step that dumps a component.
    ///
    /// # Errors
    /// As [`Action::step_id`].
    pub fn dump_step_id(component: &Component) -> Result<StepId> {
        StepId::new(format!("dump-{component}"))
    }

    fn step(self, undo: Undo) -> Result<Step> {
        Ok(Step { id: self.step_id()?, action: self, undo })
    }
}

impl Plan {
    /// All steps in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|s| &s.steps)
    }

    /// The step of that id.
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps().find(|s| &s.id == id)
    }

    /// The stages up to the last one that loads, and those after it, when everything is loaded and nothing goes back any more. A plan that
    /// loads nothing can go back to its end.
    pub fn at_the_point_of_no_return(&self) -> (&[Stage], &[Stage]) {
        let loads = |stage: &Stage| stage.steps.iter().any(|s| matches!(s.action, Action::Commit { .. }));
        let last = self.stages.iter().rposition(loads).map_or(self.stages.len(), |at| at + 1);
        self.stages.split_at(last)
    }

    /// Whether this is a restore.
    pub fn is_restore(&self) -> bool {
        matches!(self.goal, Goal::Restore { .. })
    }

    /// `backup` or `restore`.
    pub fn word(&self) -> &'static str {
        if self.is_restore() { "restore" } else { "backup" }
    }
}

//! What will be done: data made before anything is done.
//!
//! A plan has stages in order; the steps of a stage go together. Every choice (ids, order, what is left out) is made here, so that a
//! printed plan is the whole truth and a run only carries it out. Nothing here is async, asks the world, or knows the wire.

mod applications;
pub mod backup;
pub mod config;
pub(crate) mod files;
mod limits;
mod make_set;
pub mod objects;
mod print;
pub mod restore;
pub mod resync;
pub mod take_back;

use keepsake_core::error::Result;
use keepsake_core::id::{Component, EngineName, Epoch, Installation, RunId, SetId, StepId};
use keepsake_core::queues::QueuePolicy;
use keepsake_core::record::Purpose;
use serde::{Deserialize, Serialize};

pub use self::config::{ConfigMust, ConfigPair, LiveLook};
pub use self::limits::CutLimits;
use self::objects::ObjectPolicy;

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

/// Everything that a run can do. Closed: a new action must be described, performed and undone. Every one may be repeated.
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
    /// Stops everything that writes to the stores.
    Quiesce {
        /// For people: what is run is what the topology says then.
        commands: Vec<Vec<String>>,
        /// For people: the namespace whose workloads are scaled to 0, in the place of commands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
    /// Starts again what was stopped.
    ResumeWorkloads {
        /// For people: what is run is what the topology says then.
        commands: Vec<Vec<String>>,
        /// For people: the namespace whose workloads are scaled back, in the place of commands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
    /// Brings a component's dump beside the live data and checks all of it.
    Stage {
        /// Which.
        component: Component,
        /// What becomes of its queues.
        #[serde(default, skip_serializing_if = "QueuePolicy::is_restore")]
        queues: QueuePolicy,
        /// Over the live data instead of beside it: only checked now, and loaded by the commit.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_place: bool,
        /// What becomes of the cluster's objects, if it is those.
        #[serde(default, skip_serializing_if = "ObjectPolicy::is_missing")]
        objects: ObjectPolicy,
    },
    /// Puts the staged dump in the place of the live data, and counts it.
    Commit {
        /// Which.
        component: Component,
    },
    /// Looks whether a component is as it should be.
    Check {
        /// Which.
        component: Component,
        /// At which moment, which says what is looked at.
        at: CheckAt,
    },
    /// Makes the keys of the Config in Backend's storage what System's database says, and raises its counters.
    ResyncConfig {
        /// Between which components.
        pair: ConfigPair,
        /// How it is looked at while the applications write; none when they are stopped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        live: Option<LiveLook>,
    },
    /// Looks whether they are.
    CheckConfig {
        /// Between which components.
        pair: ConfigPair,
        /// What must be found.
        must: ConfigMust,
    },
    /// Nothing but the word, durable, that from here on System's database may become another: if it is put back after the Config was made equal to it, the
    /// Config is made equal once more.
    RememberConfig {
        /// Between which components.
        pair: ConfigPair,
    },
    /// Nothing but the word, durable, that from here on the applications may write, so that nothing goes back any more.
    PointOfNoReturn,
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

/// When a component is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckAt {
    /// The set's data is live and no application writes yet: the store answers, and has the old data still.
    Loaded,
    /// The applications write again, or may: the store answers.
    Live,
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
            Self::BeginSet
            | Self::Cut { .. }
            | Self::CommitSet
            | Self::Quiesce { .. }
            | Self::ResumeWorkloads { .. }
            | Self::PointOfNoReturn => None,
            Self::Dump { component, .. }
            | Self::Stage { component, .. }
            | Self::Commit { component }
            | Self::Check { component, .. }
            | Self::Rollback { component }
            | Self::Finalize { component } => Some(component),
            Self::ResyncConfig { pair, .. } | Self::CheckConfig { pair, .. } | Self::RememberConfig { pair } => {
                Some(&pair.backend)
            }
        }
    }

    /// Its word in steps and listings.
    pub fn word(&self) -> &'static str {
        match self {
            Self::BeginSet => "begin-set",
            Self::Cut { .. } => "cut",
            Self::Dump { .. } => "dump",
            Self::CommitSet => "commit-set",
            Self::Quiesce { .. } => "quiesce",
            Self::ResumeWorkloads { .. } => "resume-workloads",
            Self::Stage { .. } => "stage",
            Self::Commit { .. } => "commit",
            Self::Check { at: CheckAt::Loaded, .. } => "check",
            Self::Check { at: CheckAt::Live, .. } => "check-live",
            Self::ResyncConfig { .. } => "resync-config",
            Self::CheckConfig { must: ConfigMust::BeEqual, .. } => "check-config",
            Self::CheckConfig { must: ConfigMust::BeComparable, .. } => "look-at-config",
            Self::RememberConfig { .. } => "remember-config",
            Self::PointOfNoReturn => "point-of-no-return",
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

impl Undo {
    /// By this action.
    pub(crate) fn by(action: Action) -> Self {
        Self::By { action: Box::new(action) }
    }
}

impl Plan {
    /// All steps in order.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.stages.iter().flat_map(|s| &s.steps)
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
            Goal::Restore { safety: None, .. } | Goal::Finalize { .. } | Goal::Rollback { .. } | Goal::Resync => None,
        }
    }

    /// The run that agents know loads by: that of the restore whose loads are worked on, or else the plan's own.
    pub fn run_of_loads(&self, own: RunId) -> RunId {
        match &self.goal {
            Goal::Finalize { run, .. } | Goal::Rollback { run, .. } => *run,
            Goal::Backup { .. } | Goal::Restore { .. } | Goal::Resync => own,
        }
    }

    /// Whether this is a backup.
    pub fn is_backup(&self) -> bool {
        matches!(self.goal, Goal::Backup { .. })
    }

    /// Whether this is a restore.
    pub fn is_restore(&self) -> bool {
        matches!(self.goal, Goal::Restore { .. })
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
            Goal::Finalize { .. } => "finalize",
            Goal::Rollback { .. } => "rollback",
            Goal::Resync => "resync",
        }
    }
}

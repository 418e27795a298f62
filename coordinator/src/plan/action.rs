//! Everything that a run can do, and how each of it is undone.

use keepsake_core::error::Result;
use keepsake_core::id::{Component, EngineName, StepId};
use keepsake_core::queues::QueuePolicy;
use serde::{Deserialize, Serialize};

use super::objects::ObjectPolicy;
use super::{ConfigMust, ConfigPair, CutLimits, LiveLook, Step};
use crate::topology::kubernetes::{ResyncTask, Undrained};

/// The workload that works off Backend's queues.
pub const WORKER: &str = "backend-worker";

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
        /// Workloads that keep running.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keeps: Vec<String>,
    },
    /// Waits until backend-worker, which still runs, has worked off what waits for it.
    Drain {
        /// Where the queues are.
        component: Component,
        /// It is waited for at most so many seconds.
        deadline: u32,
        /// What becomes of the run when jobs are left then.
        otherwise: Undrained,
    },
    /// Closes the Routes of the applications: callers from outside the cluster are answered by 503.
    CloseRoutes {
        /// Where they are.
        namespace: String,
    },
    /// Gives them back what they had.
    OpenRoutes {
        /// Where they are.
        namespace: String,
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
    /// Has the pods of applications made anew that nobody has stopped: what they remember is of before.
    RollOut {
        /// Where they are.
        namespace: String,
        /// Those of these that there are.
        workloads: Vec<String>,
    },
    /// Has System make something anew from its database, by a Job, once the applications run.
    Resync {
        /// Where.
        namespace: String,
        /// What.
        task: ResyncTask,
    },
    /// Waits until an installation that is built anew is whole.
    AwaitInstallation {
        /// Where.
        namespace: String,
    },
    /// Waits until the agents of an installation that is built anew answer, and their stores answer them.
    AwaitAgents {
        /// Whose.
        components: Vec<Component>,
        /// For so many seconds.
        deadline: u32,
    },
    /// Looks whether the applications are as they were.
    CheckApplications {
        /// Where they are.
        namespace: String,
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
        /// Whether it was done at all is told by the store itself: an agent's word that there is nothing to undo is true, whichever agent says it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        told: bool,
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
            | Self::CloseRoutes { .. }
            | Self::OpenRoutes { .. }
            | Self::ResumeWorkloads { .. }
            | Self::RollOut { .. }
            | Self::Resync { .. }
            | Self::AwaitInstallation { .. }
            | Self::AwaitAgents { .. }
            | Self::CheckApplications { .. }
            | Self::PointOfNoReturn => None,
            Self::Dump { component, .. }
            | Self::Drain { component, .. }
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

    /// Whether it makes something follow the data, once that is where it stays.
    pub fn follows(&self) -> bool {
        matches!(self, Self::RollOut { .. } | Self::Resync { .. } | Self::CheckApplications { .. })
    }

    /// All components that it is about.
    pub fn components(&self) -> impl Iterator<Item = &Component> {
        let other = match self {
            Self::ResyncConfig { pair, .. } | Self::CheckConfig { pair, .. } | Self::RememberConfig { pair } => {
                Some(&pair.system)
            }
            _ => None,
        };
        self.component().into_iter().chain(other)
    }

    /// Its word in steps and listings.
    pub fn word(&self) -> &'static str {
        match self {
            Self::BeginSet => "begin-set",
            Self::Cut { .. } => "cut",
            Self::Dump { .. } => "dump",
            Self::CommitSet => "commit-set",
            Self::Quiesce { keeps, .. } if keeps.iter().any(|k| k == WORKER) => "quiesce-but-worker",
            Self::Quiesce { .. } => "quiesce",
            Self::Drain { .. } => "drain",
            Self::CloseRoutes { .. } => "close-routes",
            Self::OpenRoutes { .. } => "open-routes",
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
            Self::RollOut { .. } => "roll-out",
            Self::Resync { task: ResyncTask::ZyncDomains, .. } => "resync-zync-domains",
            Self::Resync { task: ResyncTask::SearchIndex, .. } => "resync-search-index",
            Self::Resync { task: ResyncTask::CacheFlush, .. } => "resync-cache-flush",
            Self::Resync { task: ResyncTask::BackendRewrite, .. } => "resync-backend-rewrite",
            Self::AwaitInstallation { .. } => "await-installation",
            Self::AwaitAgents { .. } => "await-agents",
            Self::CheckApplications { .. } => "check-applications",
            Self::Rollback { .. } => "rollback",
            Self::Finalize { .. } => "finalize",
        }
    }

    /// Whether it takes what runs the applications.
    pub fn needs_platform(&self) -> bool {
        matches!(
            self,
            Self::Quiesce { .. }
                | Self::CloseRoutes { .. }
                | Self::OpenRoutes { .. }
                | Self::ResumeWorkloads { .. }
                | Self::RollOut { .. }
                | Self::Resync { .. }
                | Self::CheckApplications { .. }
        )
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

    pub(super) fn step(self, undo: Undo) -> Result<Step> {
        Ok(Step { id: self.step_id()?, action: self, undo })
    }
}

impl Undo {
    /// By this action.
    pub(crate) fn by(action: Action) -> Self {
        Self::By { action: Box::new(action) }
    }
}

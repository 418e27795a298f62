//! What the fleet is now, asked once before a plan is made.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use keepsake_core::error::{Error, Kind};
use keepsake_core::id::{Component, EngineName, RunId};
use keepsake_core::record::{Facts, Failure};

use crate::fleet::Fleet;
use crate::topology::InstallationSettings;

/// How far the load of a run has come at the datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// Begun and not finished; the live data is untouched.
    Partial,
    /// Staged and checked; the live data is untouched.
    Staged,
    /// A commit or a rollback was begun and not finished: asking for either again brings it to its end.
    Committing,
    /// In the place of the live data; what was there before is kept.
    Committed,
    /// A word of a newer agent.
    Unknown,
}

/// What an agent says of its component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The engine it serves.
    pub engine: EngineName,
    /// Name and version of the server.
    pub server: String,
    /// The agent's version.
    pub agent_version: String,
    /// About how many bytes a dump would have; 0 if unknown.
    pub size: u64,
    /// What a restore must compare, as in the record.
    pub facts: Facts,
    /// What would stop a dump or a load now.
    pub problems: Vec<String>,
    /// Why a commit cannot be rolled back, if so.
    pub cannot_undo: Option<String>,
    /// Why we may not ask for a load now, nor for what ends one, if so.
    pub cannot_load: Option<String>,
    /// A load over the live data is one transaction: all of it, or nothing.
    pub in_place_is_whole: bool,
    /// Whether a load over the live data was made is told by the store itself, to any agent that asks.
    pub in_place_is_told: bool,
    /// Why writes cannot be held, if so.
    pub cannot_hold: Option<String>,
    /// Free bytes where a load would be staged; `None` when the agent cannot see them.
    pub staging_free: Option<u64>,
    /// Runs whose loads have left something at the datastore, and how far they came.
    pub loads: Vec<(RunId, Staged)>,
}

impl Found {
    /// An agent whose store does not answer it knows nothing of what is there: that it names no loads does not mean that there are none.
    ///
    /// # Errors
    /// `Unavailable`, with what is wrong.
    pub fn must_answer(&self, component: &Component) -> Result<(), Error> {
        if self.server.is_empty() {
            let text = format!("the store of {component} does not answer its agent: {}", self.problems.join("; "));
            return Err(Error::new(Kind::Unavailable, text));
        }
        Ok(())
    }

    /// Whether loads may be asked of its agent, and taken back.
    ///
    /// # Errors
    /// `Denied`, with what is missing.
    pub fn may_load(&self, component: &Component) -> Result<(), Error> {
        let Some(why) = &self.cannot_load else { return Ok(()) };
        let text = format!(
            "{component} cannot be loaded now: {why}. (Where agents are deployed by the manifests: `components/restore-from-s3` or `restore-from-claim`, \
             step 1 of Restore in manifests/README.md)"
        );
        Err(Error::new(Kind::Denied, text))
    }

    /// Whether the load of this run was staged, or is further.
    pub fn has_staged(&self, run: RunId) -> bool {
        let is_there = |state: &Staged| match state {
            Staged::Staged | Staged::Committing | Staged::Committed => true,
            Staged::Partial | Staged::Unknown => false,
        };
        self.loads.iter().any(|(of, state)| *of == run && is_there(state))
    }
}

/// Every component's answer, or why there is none.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    components: BTreeMap<Component, Result<Found, Failure>>,
}

impl Inventory {
    /// Asks all components of an installation at the same time.
    pub async fn ask(installation: &InstallationSettings, fleet: &dyn Fleet) -> Self {
        let answers = join_all(installation.components.iter().map(|c| async {
            let answer = fleet.describe(&c.name).await;
            (c.name.clone(), answer.map_err(|e| Failure::from(&e)))
        }));
        Self { components: answers.await.into_iter().collect() }
    }

    /// From answers; for tests.
    pub fn from_answers(answers: impl IntoIterator<Item = (Component, Result<Found, Failure>)>) -> Self {
        Self { components: answers.into_iter().collect() }
    }

    /// Every answer that is one.
    pub fn answers(&self) -> impl Iterator<Item = &Found> {
        self.components.values().filter_map(|answer| answer.as_ref().ok())
    }

    /// A component's answer; `None` if it was not asked.
    pub fn of(&self, component: &Component) -> Option<&Result<Found, Failure>> {
        self.components.get(component)
    }
}

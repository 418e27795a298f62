//! Events → status: a pure function, so that any coordinator reads the same story from the same journal.

use std::collections::BTreeMap;

use keepsake_core::id::StepId;
use keepsake_core::record::Failure;
use keepsake_core::repository::runs::StoredRun;

use super::event::{Event, Outcome};
use crate::plan::Plan;

/// A run of ours as read from the repository.
pub type Run = StoredRun<Plan, Event>;

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepStatus {
    /// Nothing has been done.
    Waiting,
    /// Its effect may have happened.
    Started,
    /// It is done.
    Succeeded,
    /// It failed.
    Failed(Failure),
    /// It was undone.
    Undone,
    /// Its undo failed.
    UndoFailed(Failure),
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStatus {
    /// Every step of the plan.
    pub steps: BTreeMap<StepId, StepStatus>,
    /// How it ended, if it did.
    pub ended: Option<(Outcome, String)>,
    /// The first failure: the cause for ever.
    pub cause: Option<(StepId, Failure)>,
}

impl RunStatus {
    /// Replays events over a plan. Total: an event that makes no sense changes nothing but what it says.
    pub fn of<'a>(plan: &Plan, events: impl IntoIterator<Item = &'a Event>) -> Self {
        let steps = plan.steps().map(|s| (s.id.clone(), StepStatus::Waiting)).collect();
        let mut status = Self { steps, ended: None, cause: None };
        for event in events {
            status.apply(event);
        }
        status
    }

    /// The status of a stored run.
    pub fn of_run(run: &Run) -> Self {
        Self::of(&run.head.plan, run.events.iter().map(|e| &e.event))
    }

    fn apply(&mut self, event: &Event) {
        let (step, to) = match event {
            Event::Started { step } | Event::UndoStarted { step } => (step, StepStatus::Started),
            Event::Succeeded { step, .. } => (step, StepStatus::Succeeded),
            Event::Failed { step, failure } => {
                if self.cause.is_none() {
                    self.cause = Some((step.clone(), failure.clone()));
                }
                (step, StepStatus::Failed(failure.clone()))
            }
            Event::Undone { step } => (step, StepStatus::Undone),
            Event::UndoFailed { step, failure } => (step, StepStatus::UndoFailed(failure.clone())),
            Event::Ended { outcome, note } => {
                if self.ended.is_none() {
                    self.ended = Some((*outcome, note.clone()));
                }
                return;
            }
            Event::RecordPrepared { .. } | Event::Alive | Event::Unknown => return,
        };
        if let Some(status) = self.steps.get_mut(step) {
            *status = to;
        }
    }

    /// The word in listings.
    pub fn word(&self) -> &'static str {
        self.ended.as_ref().map_or("unfinished", |(outcome, _)| outcome.as_str())
    }
}

//! Events → status: a pure function, so that any coordinator reads the same story from the same journal and goes on in the same way.

mod next;

use std::collections::{BTreeMap, BTreeSet};

use keepsake_core::Kind;
use keepsake_core::id::{Component, StepId};
use keepsake_core::record::{Failure, Sealing};
use keepsake_core::repository::runs::StoredRun;

pub use self::next::Next;
use super::cut::Made;
use super::event::{Event, Outcome, Output};
use crate::plan::{Action, CheckAt, Plan, Step, Undo};
use crate::platform::{Looked, Stopped};

/// One epoch of a run of ours as read from the repository.
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
    /// Its undo was begun.
    Undoing,
    /// It was undone.
    Undone,
    /// Its undo failed.
    UndoFailed(Failure),
}

/// Why a run does not end as it was meant to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The step that failed; none when somebody asked for it.
    pub step: Option<StepId>,
    /// How.
    pub failure: Failure,
}

/// What turned a run around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    /// Why.
    pub failure: Failure,
    /// Also past the point of no return.
    pub discard_writes: bool,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct RunStatus {
    /// Every step of the plan.
    pub steps: BTreeMap<StepId, StepStatus>,
    /// How each step ended when it was last done; kept while it is undone. None of a step whose end nobody knows.
    pub results: BTreeMap<StepId, Result<Output, Failure>>,
    /// The key of the set that is made, which may be stored.
    pub sealing: Option<Sealing>,
    /// The record and its signature in base64, which may be stored.
    pub record: Option<(String, String)>,
    /// The first failure: the cause for ever.
    pub cause: Option<Cause>,
    /// Past the point of no return.
    pub passed: bool,
    /// The run's first plan has built the installation, and this is about its second.
    pub rebuilt: bool,
    /// Steps were begun that are of no plan that is known: the entry with the run's second plan is lost from its journal.
    pub lacks_second: bool,
    /// It goes back.
    pub back: Option<Back>,
    /// It waits for a person: how, and why.
    pub rests: Option<(Outcome, String)>,
    /// How it ended, if it did.
    pub ended: Option<(Outcome, String)>,
    /// Steps in the order in which they failed.
    failed: Vec<StepId>,
    /// Steps that were begun again without an end in between.
    pub(super) unheard: BTreeSet<StepId>,
}

impl RunStatus {
    /// Replays events over a plan. Total: an event that makes no sense changes nothing but what it says.
    pub fn of<'a>(plan: &Plan, events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut status = Self::beginning(plan);
        for event in events {
            status.apply(plan, event);
        }
        status
    }

    fn beginning(plan: &Plan) -> Self {
        Self {
            steps: plan.steps().map(|s| (s.id.clone(), StepStatus::Waiting)).collect(),
            results: BTreeMap::new(),
            sealing: None,
            record: None,
            cause: None,
            passed: false,
            rebuilt: false,
            lacks_second: false,
            back: None,
            rests: None,
            ended: None,
            failed: Vec::new(),
            unheard: BTreeSet::new(),
        }
    }

    /// Of the second plan of a run, whose entry was just written. The first has stopped the applications already, and in runs of before closed the Routes: whoever goes back has to start
    /// and open them.
    pub fn of_second(plan: &Plan) -> Self {
        let mut status = Self { rebuilt: true, ..Self::beginning(plan) };
        for step in plan.steps().filter(|s| matches!(s.action, Action::Quiesce { .. } | Action::CloseRoutes { .. })) {
            status.set(&step.id, StepStatus::Started);
        }
        status
    }

    /// The status of one epoch of a run by its first plan, as if no other epoch had been before it: whether it has ended is told of any.
    pub fn of_run(run: &Run) -> Self {
        Self::of(&run.head.plan, run.events.iter().map(|e| &e.event))
    }

    /// Takes the next event.
    pub fn apply(&mut self, plan: &Plan, event: &Event) {
        match event {
            Event::Started { step } => {
                self.results.remove(step);
                // Begun again without an end in between: nobody has heard how that one ended.
                if self.steps.get(step) == Some(&StepStatus::Started) {
                    self.unheard.insert(step.clone());
                }
                self.failed.retain(|s| s != step);
                self.set(step, StepStatus::Started);
                // It is begun only behind the point; an entry that is lost may not take that back.
                self.passed |= self.back.is_none() && plan.is_behind_the_point(step);
                self.lacks_second |= plan.then().is_some() && plan.step(step).is_none();
            }
            Event::Succeeded { step, output } => {
                self.results.insert(step.clone(), Ok(output.clone()));
                self.set(step, StepStatus::Succeeded);
                self.passed |= plan.step(step).is_some_and(|s| s.action == Action::PointOfNoReturn);
            }
            Event::Failed { step, failure } => {
                self.results.insert(step.clone(), Err(failure.clone()));
                self.set(step, StepStatus::Failed(failure.clone()));
                self.failed.push(step.clone());
                if plan.is_backup() || !self.is_tolerated(plan, step) {
                    self.caused_by(Some(step.clone()), failure);
                }
            }
            Event::UndoStarted { step } => self.goes_back(step, StepStatus::Undoing),
            Event::Undone { step } => self.goes_back(step, StepStatus::Undone),
            Event::UndoFailed { step, failure } => self.goes_back(step, StepStatus::UndoFailed(failure.clone())),
            Event::SetPrepared { sealing } => self.sealing = Some(sealing.clone()),
            Event::RecordPrepared { record_base64, signature_base64 } => {
                self.record = Some((record_base64.clone(), signature_base64.clone()));
            }
            Event::Unwinding { failure, discard_writes } => {
                self.caused_by(None, failure);
                self.back = Some(Back { failure: failure.clone(), discard_writes: *discard_writes });
            }
            Event::Halted { outcome, note } => self.rests = Some((*outcome, note.clone())),
            Event::TakenOver { .. } => self.taken_over(plan),
            Event::Ended { outcome, note } => {
                if self.ended.is_none() {
                    self.ended = Some((*outcome, note.clone()));
                }
            }
            // A second plan begins another status: `story` and the runner see to that.
            Event::Planned { .. } | Event::Alive | Event::Unknown => {}
        }
    }

    /// Nothing is undone but by a run that goes back, also when the entry that says so is lost.
    fn goes_back(&mut self, step: &StepId, to: StepStatus) {
        if self.back.is_none() {
            let lost = || Failure {
                kind: Kind::Cancelled,
                text: "the run went back; why is lost from its journal".to_owned(),
            };
            let failure = self.cause.as_ref().map_or_else(lost, |c| c.failure.clone());
            self.back = Some(Back { failure, discard_writes: self.passed });
        }
        self.set(step, to);
    }

    /// The first one stays.
    fn caused_by(&mut self, step: Option<StepId>, failure: &Failure) {
        if self.cause.is_none() {
            self.cause = Some(Cause { step, failure: failure.clone() });
        }
    }

    /// Somebody goes on: what failed where it could only go forward, or could not be undone, is tried again.
    fn taken_over(&mut self, plan: &Plan) {
        self.rests = None;
        for step in plan.steps() {
            let again = match self.steps.get(&step.id) {
                // Not as if it had never been begun: who takes the run back has to undo it.
                Some(StepStatus::Failed(_)) if self.passed && self.back.is_none() => StepStatus::Started,
                Some(StepStatus::UndoFailed(_)) => StepStatus::Undoing,
                _ => continue,
            };
            self.set(&step.id, again);
        }
        self.cut_again(plan);
    }

    /// Holds and snapshots are gone with whoever had them, so dumps of one instant that are not all done are made anew, with a cut of their own.
    fn cut_again(&mut self, plan: &Plan) {
        let made = plan.steps().any(|s| matches!(self.results.get(&s.id), Some(Ok(Output::Cut { made: Some(_), .. }))));
        let is_dump = |action: &Action| matches!(action, Action::Dump { .. });
        let open = |s: &StepStatus| matches!(s, StepStatus::Waiting | StepStatus::Started);
        let unfinished = plan.steps().any(|s| is_dump(&s.action) && self.steps.get(&s.id).is_some_and(open));
        if !(made && unfinished) {
            return;
        }
        for step in plan.steps().filter(|s| is_dump(&s.action) || matches!(s.action, Action::Cut { .. })) {
            self.again(&step.id);
        }
    }

    /// A step that was done is to be done again, or to be undone if the run turns before that.
    pub fn again(&mut self, step: &StepId) {
        self.results.remove(step);
        self.failed.retain(|s| s != step);
        self.set(step, StepStatus::Started);
    }

    fn set(&mut self, step: &StepId, to: StepStatus) {
        if let Some(status) = self.steps.get_mut(step) {
            *status = to;
        }
    }

    fn is_tolerated(&self, plan: &Plan, step: &StepId) -> bool {
        self.back.is_none() && plan.step(step).is_some_and(|s| plan.tolerates(s))
    }

    /// The cut that was made.
    pub fn made_cut(&self) -> Option<&Made> {
        self.results.values().find_map(|result| match result {
            Ok(Output::Cut { made, .. }) => made.as_deref(),
            Ok(_) | Err(_) => None,
        })
    }

    /// A component whose load over its live data was begun, and cannot be undone.
    pub fn is_loaded_for_good(&self, plan: &Plan) -> Option<Component> {
        let is_begun = |step: &&Step| {
            matches!(step.undo, Undo::Impossible { .. })
                && matches!(self.steps.get(&step.id), Some(StepStatus::Started | StepStatus::Succeeded))
        };
        plan.steps().find(is_begun)?.action.component().cloned()
    }

    /// What the applications had that were stopped; nothing where nobody knows.
    pub fn had(&self, plan: &Plan) -> Vec<Stopped> {
        // Of two steps that stop them the later one knows all.
        let stopped = plan.steps().rev().find_map(|step| match self.results.get(&step.id) {
            Some(Ok(Output::Stopped { workloads })) => Some(workloads.clone()),
            Some(Ok(_) | Err(_)) | None => None,
        });
        stopped.unwrap_or_default()
    }

    /// What was found when the applications ran again, of a plan that looks at them: the agents, and the applications themselves.
    pub fn looks(&self, plan: &Plan) -> Vec<Looked> {
        if !plan.steps().any(|s| matches!(s.action, Action::CheckApplications { .. })) {
            return Vec::new();
        }
        let of_a_step = |step: &Step| match (&step.action, self.results.get(&step.id)) {
            (Action::Check { component, at: CheckAt::Live }, Some(Ok(Output::Loaded { warnings, .. }))) => {
                let found = if warnings.is_empty() { "answers".to_owned() } else { warnings.join("; ") };
                let has_agent = component.as_str() != keepsake_core::format::objects::COMPONENT;
                let check = if has_agent { format!("agent of {component}") } else { component.to_string() };
                vec![Looked { check, found, warning: !warnings.is_empty() }]
            }
            (Action::CheckApplications { .. }, Some(Ok(Output::Looked { looks }))) => looks.clone(),
            (Action::Drain { component, .. }, Some(Ok(Output::Drained { left, told }))) => {
                let check = format!("queues in {component}");
                vec![Looked { check, found: told.clone(), warning: *left != Some(0) }]
            }
            _ => Vec::new(),
        };
        plan.steps().flat_map(of_a_step).collect()
    }

    /// The components of the stages whose commit is not done, with the step that stages each.
    pub fn not_loaded<'p>(&self, plan: &'p Plan) -> Vec<&'p Step> {
        let is_loaded = |component| {
            plan.steps().any(|s| {
                matches!(&s.action, Action::Commit { component: c } if c == component)
                    && self.steps.get(&s.id) == Some(&StepStatus::Succeeded)
            })
        };
        let stages = plan.steps().filter(|s| matches!(s.action, Action::Stage { .. }));
        stages.filter(|s| s.action.component().is_some_and(|c| !is_loaded(c))).collect()
    }

    /// Whether the record of the set that is made may be written, and nobody knows.
    pub fn may_have_recorded(&self, plan: &Plan) -> bool {
        let mut commits = plan.steps().filter(|s| s.action == Action::CommitSet);
        self.record.is_some() && commits.any(|s| self.steps.get(&s.id) == Some(&StepStatus::Started))
    }

    /// Whether the first of two plans has built the installation, and only what leads over to the data is left of it: that may be given up, and what is built
    /// stays.
    pub fn leads_over(&self, plan: &Plan) -> bool {
        let mut drops = plan.steps().filter(|s| matches!(s.action, Action::Finalize { .. }));
        plan.then().is_some()
            && !self.lacks_second
            && drops.all(|s| self.steps.get(&s.id) == Some(&StepStatus::Succeeded))
    }

    /// Whether it may be given up, nothing of it that the applications wrote being lost.
    pub fn may_turn(&self, plan: &Plan) -> bool {
        !self.passed || self.leads_over(plan)
    }

    /// Whether old data may be dropped already: then nothing brings it back.
    pub fn drops_old_data(&self, plan: &Plan) -> bool {
        let mut drops = plan.steps().filter(|s| matches!(s.action, Action::Finalize { .. }));
        drops.any(|s| self.steps.get(&s.id) != Some(&StepStatus::Waiting))
    }

    /// The word in listings.
    pub fn word(&self) -> &'static str {
        match (&self.ended, &self.rests) {
            (Some((outcome, _)), _) | (None, Some((outcome, _))) => outcome.as_str(),
            (None, None) => "unfinished",
        }
    }
}

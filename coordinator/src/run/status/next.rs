//! What comes next: decided from plan and status alone, so that a run that is resumed does what the one before would have done.

use keepsake_core::Kind;
use keepsake_core::record::Failure;

use super::{Back, RunStatus, StepStatus};
use crate::plan::restore::Wishes;
use crate::plan::{Action, Goal, Plan, Stage, Step, Undo};
use crate::run::event::Outcome;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<'p> {
    /// These steps, together.
    Do(Vec<&'p Step>),
    /// The second plan is to be made, by these wishes.
    Plan(&'p Wishes),
    /// The run turns around, for this reason.
    Turn(Failure),
    /// The undo of this step.
    Undo(&'p Step),
    /// Nothing, until a person has mended something.
    Rest(Outcome, String),
    /// Nothing more.
    End(Outcome, String),
}

impl RunStatus {
    /// What comes next. Total.
    pub fn next<'p>(&self, plan: &'p Plan) -> Next<'p> {
        // A record that may be written already is written, whatever else is wanted: only then is it known whether there is a set.
        if let Some(step) = plan.steps().find(|s| s.action == Action::CommitSet) {
            if self.may_have_recorded(plan) {
                return Next::Do(vec![step]);
            }
            if plan.is_backup() && self.steps.get(&step.id) == Some(&StepStatus::Succeeded) {
                return self.next_do(plan);
            }
        }
        if self.lacks_second {
            let text = format!(
                "the entry with the second plan of this run is lost from its journal, and stores may be loaded by it: bring that object back from a copy or an \
                 older version of the repository, then resume. If it is lost for good, look at the stores and end the run by `keepsake cancel --leave-as-it-is \
                 --installation {}`",
                plan.installation
            );
            return Next::Rest(Outcome::Halted, text);
        }
        match &self.back {
            Some(back) => self.next_undo(plan, back),
            None => self.next_do(plan),
        }
    }

    fn next_do<'p>(&self, plan: &'p Plan) -> Next<'p> {
        for stage in &plan.stages {
            let open = |s: &&Step| {
                matches!(self.steps.get(&s.id), Some(StepStatus::Waiting | StepStatus::Started))
                    && !self.is_the_only_copy(plan, &s.action)
            };
            // What failed is looked at first: of a stage that was half done when its coordinator died, the rest is not begun any more.
            if let Some(failure) = self.failure_of(plan, stage) {
                if !self.passed {
                    return Next::Turn(failure);
                }
                if !stage.steps.iter().any(|s| open(&s)) {
                    return Next::Rest(Outcome::Halted, failure.text);
                }
            }
            let steps: Vec<_> = stage.steps.iter().filter(open).collect();
            if !steps.is_empty() {
                return Next::Do(steps);
            }
        }
        if let Some(wishes) = plan.then() {
            return Next::Plan(wishes);
        }
        let failed = self.failed.iter().filter_map(|id| plan.step(id)?.action.component());
        let failed = failed.map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match (failed.is_empty(), plan.is_backup()) {
            (true, _) => Next::End(Outcome::Completed, String::new()),
            (false, true) => Next::End(Outcome::Partial, format!("without {failed}")),
            (false, false) => Next::End(
                Outcome::Completed,
                format!(
                    "the safety set is without {failed}, so the old data there is kept: look at what was restored, then drop it with `keepsake \
                     finalize --installation {}`",
                    plan.installation
                ),
            ),
        }
    }

    /// Whether this would drop old data that is not in the safety set either.
    fn is_the_only_copy(&self, plan: &Plan, action: &Action) -> bool {
        let Action::Finalize { component } = action else { return false };
        let failed = |id: &keepsake_core::id::StepId| {
            plan.step(id).is_some_and(|s| matches!(&s.action, Action::Dump { component: c, .. } if c == component))
        };
        plan.is_restore() && self.failed.iter().any(failed)
    }

    /// The failure of a stage that lets the run not go on, the first of it.
    fn failure_of(&self, plan: &Plan, stage: &Stage) -> Option<Failure> {
        let of_stage = |id: &&keepsake_core::id::StepId| stage.steps.iter().any(|s| &s.id == *id);
        let failed: Vec<_> = self.failed.iter().filter(of_stage).collect();
        let text = |id: &keepsake_core::id::StepId| self.results.get(id).and_then(|r| r.as_ref().err()).cloned();
        if let Some(fatal) = failed.iter().find(|id| !self.is_tolerated(plan, id)) {
            return text(fatal);
        }
        // A backup of nothing is none, nor is a safety set.
        let all = !failed.is_empty() && failed.len() == stage.steps.len();
        failed.first().filter(|_| all).and_then(|id| text(id))
    }

    fn next_undo<'p>(&self, plan: &'p Plan, back: &Back) -> Next<'p> {
        let mut remains: Vec<(&Step, &Failure)> = Vec::new();
        let mut stopped = false;
        // What is built is not taken away again: of a rebuild past its point only what leads over to the data goes back.
        let stays =
            |s: &&Step| self.passed && matches!(plan.goal, Goal::Rebuild { .. }) && s.action == Action::PointOfNoReturn;
        for step in plan.steps().rev().take_while(|s| !stays(s)).filter(|s| s.undo != Undo::Nothing) {
            match self.steps.get(&step.id) {
                None | Some(StepStatus::Waiting | StepStatus::Undone) => {}
                Some(StepStatus::UndoFailed(failure)) => {
                    remains.push((step, failure));
                    // The applications could not be stopped: nothing is taken away below them.
                    if matches!(step.action, Action::ResumeWorkloads { .. } | Action::OpenRoutes { .. }) {
                        return Next::Rest(Outcome::Stuck, not_undone(back, &remains, false));
                    }
                }
                Some(StepStatus::Started | StepStatus::Succeeded | StepStatus::Failed(_) | StepStatus::Undoing) => {
                    match &step.action {
                        // No application starts on stores of which some are of before and some are not.
                        // That nobody is let in yet is no reason not to start them.
                        Action::Quiesce { .. }
                            if !remains.iter().all(|(s, _)| matches!(s.action, Action::CloseRoutes { .. })) =>
                        {
                            stopped = true;
                        }
                        // Nor is anybody let in to them, nor the Config made equal to a database that is still to go.
                        Action::CloseRoutes { .. } | Action::RememberConfig { .. } if !remains.is_empty() => {}
                        // The agent has said already that it does not go back.
                        Action::Stage { component, .. }
                            if remains.iter().any(|(s, _)| s.action.component() == Some(component)) => {}
                        _ => return Next::Undo(step),
                    }
                }
            }
        }
        if remains.is_empty()
            && let Some(next) = self.next_to_follow(plan, back)
        {
            return next;
        }
        if remains.is_empty() {
            let outcome = if back.failure.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
            let is_built = self.rebuilt || self.leads_over(plan);
            let built = if is_built { told_of_what_is_built(plan) } else { String::new() };
            return Next::End(outcome, format!("{}{built}", back.failure.text));
        }
        let note = not_undone(back, &remains, stopped);
        // What can never be undone is told, and is the end: asking again would not help. Anything else is tried again by `resume`.
        if remains.iter().all(|(_, failure)| failure.kind == Kind::Unsupported) {
            return Next::End(Outcome::Stuck, note);
        }
        Next::Rest(Outcome::Stuck, note)
    }

    /// What follows from the data, once all of it is back and the applications run, in the plan's order: made anew of that. Nothing does before the point of no
    /// return; and behind it, as long as nobody has started the applications, pods, search index and domains are those of before.
    fn next_to_follow<'p>(&self, plan: &'p Plan, back: &Back) -> Option<Next<'p>> {
        let was_started = |s: &Step| self.steps.get(&s.id) != Some(&StepStatus::Waiting);
        let mut starts = plan.steps().filter(|s| matches!(s.action, Action::ResumeWorkloads { .. })).peekable();
        // Where we start nobody, somebody else may have.
        let ran = starts.peek().is_none() || starts.any(was_started);
        if !(self.passed && back.discard_writes && ran) {
            return None;
        }
        for step in plan.steps().filter(|s| s.action.follows()) {
            match self.steps.get(&step.id) {
                Some(StepStatus::Undone) => {}
                Some(StepStatus::UndoFailed(failure)) => {
                    let told = format!(
                        "{}; the data is that of before, and the applications run. Not made anew of it yet: {} ({})",
                        back.failure.text, step.action, failure.text
                    );
                    return Some(Next::Rest(Outcome::Stuck, told));
                }
                _ => return Some(Next::Undo(step)),
            }
        }
        None
    }
}

fn told_of_what_is_built(plan: &Plan) -> String {
    format!(
        "; the installation that was built stays, without the set's data: `keepsake restore --installation {}` brings it back",
        plan.installation
    )
}

fn not_undone(back: &Back, remains: &[(&Step, &Failure)], stopped: bool) -> String {
    let remains: Vec<_> = remains.iter().map(|(step, failure)| format!("{} ({})", step.action, failure.text)).collect();
    let stopped = if stopped { "; the applications are still stopped" } else { "" };
    format!("{}; not undone: {}{stopped}", back.failure.text, remains.join(", "))
}

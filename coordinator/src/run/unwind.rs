//! Going back: what was begun is undone, latest first.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::record::Failure;

use super::Runner;
use super::event::{Event, Outcome};
use crate::fleet::OpKey;
use crate::plan::{Action, Step, Undo};

impl Runner<'_> {
    /// Undoes the steps that were begun. `cause` is why, and stays the cause whatever happens here.
    pub(super) async fn unwind(&self, begun: &[&Step], cause: &Failure) -> Result<(Outcome, String)> {
        let mut remains = Vec::new();
        for step in begun.iter().rev() {
            if step.undo == Undo::Nothing || !self.outputs.lock().await.contains_key(&step.id) {
                continue;
            }
            self.append(Event::UndoStarted { step: step.id.clone() }).await?;
            match self.undo(step).await {
                Ok(()) => self.append(Event::Undone { step: step.id.clone() }).await?,
                Err(e) => {
                    remains.push(step.action.to_string());
                    self.append(Event::UndoFailed { step: step.id.clone(), failure: Failure::from(&e) }).await?;
                }
            }
        }
        if !remains.is_empty() {
            return Ok((Outcome::Stuck, format!("{}; not undone: {}", cause.text, remains.join(", "))));
        }
        let outcome = if cause.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
        Ok((outcome, cause.text.clone()))
    }

    async fn undo(&self, step: &Step) -> Result<()> {
        let result = self.outputs.lock().await.get(&step.id).cloned();
        let done = result.as_ref().is_some_and(Result::is_ok);
        let action = match &step.undo {
            Undo::Nothing => return Ok(()),
            Undo::By { action } => (**action).clone(),
            Undo::Impossible { why } if done => return Err(Error::new(Kind::Unsupported, why.clone())),
            // It failed, perhaps before it touched anything: the agent knows, and refuses if it did.
            Undo::Impossible { .. } => match step.action.component() {
                Some(component) => Action::Rollback { component: component.clone() },
                None => return Ok(()),
            },
        };
        let Some(component) = action.component() else { return Ok(()) };
        let key = OpKey { run: self.key.clone(), step: keepsake_core::id::StepId::new(format!("undo-{}", step.id))? };
        self.world.fleet.cancel_run(component, &self.key).await?;
        let report = |progress| self.reporter.progress(self.plan, step, progress);
        match &action {
            Action::Rollback { component } => self.world.fleet.rollback(component, &key, &report).await?,
            Action::BeginSet
            | Action::Cut { .. }
            | Action::Dump { .. }
            | Action::CommitSet
            | Action::Stage { .. }
            | Action::Commit { .. }
            | Action::Finalize { .. } => return Err(Error::new(Kind::Internal, format!("{action} undoes nothing"))),
        }
        match (&step.action, result) {
            // Whoever does not know how a load ended may be asking an agent that was started again since: that it finds nothing to roll back
            // says nothing of the live data.
            (Action::Commit { component }, Some(Err(failure))) if !agent_told_the_end(failure.kind) => Err(Error::new(
                Kind::Conflict,
                format!(
                    "how far the load of {component} came is not known ({}), so no rollback proves anything: its live data may be the old, the new, \
                     or a part of each; look at it, or restore again",
                    failure.text
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Whether a load that failed so was seen to fail by the agent that ran it. The others are also what is heard of an agent that is out of
/// reach, or that was started again and knows nothing of the run.
fn agent_told_the_end(kind: Kind) -> bool {
    match kind {
        Kind::NotFound | Kind::Unavailable | Kind::Timeout => false,
        Kind::Invalid
        | Kind::Exists
        | Kind::Conflict
        | Kind::Busy
        | Kind::Cancelled
        | Kind::Denied
        | Kind::Corrupt
        | Kind::Unsupported
        | Kind::Internal => true,
    }
}

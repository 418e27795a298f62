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
        let done = self.outputs.lock().await.get(&step.id).is_some_and(Result::is_ok);
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
            Action::Rollback { component } => self.world.fleet.rollback(component, &key, &report).await,
            Action::BeginSet
            | Action::Cut { .. }
            | Action::Dump { .. }
            | Action::CommitSet
            | Action::Stage { .. }
            | Action::Commit { .. }
            | Action::Finalize { .. } => Err(Error::new(Kind::Internal, format!("{action} undoes nothing"))),
        }
    }
}

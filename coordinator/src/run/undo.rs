//! Going back: one step that was begun is undone.

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::{Component, RunKey, StepId};
use keepsake_core::record::Failure;

use super::Runner;
use super::event::Event;
use crate::fleet::OpKey;
use crate::plan::{Action, Step, Undo};

impl Runner<'_> {
    /// Undoes a step, whatever is known of it, and journals how that went.
    pub(super) async fn undo_step(&self, step: &Step) -> Result<()> {
        self.append(Event::UndoStarted { step: step.id.clone() }).await?;
        let event = match self.undo(step).await {
            Ok(()) => Event::Undone { step: step.id.clone() },
            Err(e) => Event::UndoFailed { step: step.id.clone(), failure: Failure::from(&e) },
        };
        self.append(event).await
    }

    async fn undo(&self, step: &Step) -> Result<()> {
        if step.action.follows() {
            return self.follow_again(step).await.with_context(|| step.action.to_string());
        }
        let (result, was_unheard) = {
            let status = self.status.lock().await;
            (status.results.get(&step.id).cloned(), status.unheard.contains(&step.id))
        };
        let action = match &step.undo {
            Undo::Nothing => return Ok(()),
            Undo::By { action } => (**action).clone(),
            Undo::Impossible { why, .. } if matches!(result, Some(Ok(_))) => {
                return Err(Error::new(Kind::Unsupported, why.clone()));
            }
            // It failed, perhaps before it touched anything: the agent knows, and refuses if it did.
            Undo::Impossible { .. } => match step.action.component() {
                Some(component) => Action::Rollback { component: component.clone() },
                None => return Ok(()),
            },
        };
        match &action {
            Action::Rollback { component } => {
                let key = OpKey { run: self.key.clone(), step: StepId::new(format!("undo-{}", step.id))? };
                let report = |progress| self.reporter.progress(self.plan(), step, progress);
                self.end_tasks().await?;
                self.world.fleet.cancel_run(component, &self.key).await.with_context(|| action.to_string())?;
                self.once_it_is_free(step, || self.world.fleet.rollback(component, &key, &report))
                    .await
                    .with_context(|| action.to_string())?;
            }
            // System's database is again what it was.
            Action::ResyncConfig { pair, live } => {
                if self.is_resynced().await {
                    let key = OpKey { run: self.key.clone(), step: StepId::new(format!("undo-{}", step.id))? };
                    let again = Box::pin(self.resync_config(step, &key, pair, *live));
                    again.await.with_context(|| action.to_string())?;
                }
            }
            Action::Quiesce { keeps, .. } => drop(self.platform()?.quiesce_but(&self.key, keeps).await?),
            Action::CloseRoutes { .. } => drop(self.platform()?.close_routes(&self.key).await?),
            Action::OpenRoutes { .. } => self.platform()?.open_routes(&self.key).await?,
            Action::ResumeWorkloads { .. } => self.platform()?.resume(&self.key).await?,
            Action::BeginSet
            | Action::Cut { .. }
            | Action::Dump { .. }
            | Action::CommitSet
            | Action::Drain { .. }
            | Action::Stage { .. }
            | Action::Commit { .. }
            | Action::Check { .. }
            | Action::CheckConfig { .. }
            | Action::RememberConfig { .. }
            | Action::PointOfNoReturn
            | Action::RollOut { .. }
            | Action::Resync { .. }
            | Action::AwaitInstallation { .. }
            | Action::AwaitAgents { .. }
            | Action::CheckApplications { .. }
            | Action::Finalize { .. } => return Err(Error::new(Kind::Internal, format!("{action} undoes nothing"))),
        }
        match (&step.action, &step.undo) {
            // Whoever does not know how a load over live data ended may be asking an agent that was started again since: that it finds nothing to roll
            // back says nothing of the live data.
            (Action::Commit { component }, Undo::Impossible { told, .. }) => match result {
                Some(Err(failure)) if agent_told_the_end(failure.kind) && !was_unheard => Ok(()),
                // Unless it is the store itself that says so: as the plan was promised, and still.
                _ if *told && self.is_told_by_its_store(component).await? => Ok(()),
                unheard => {
                    let told = match unheard {
                        Some(Err(failure)) => failure.text,
                        Some(Ok(_)) | None => "the coordinator was gone before it ended".to_owned(),
                    };
                    Err(Error::new(
                        Kind::Unsupported,
                        format!(
                            "how far the load of {component} came is not known ({told}), so no rollback proves anything: its live data may be the old, the \
                             new, or a part of each; look at it, or restore again"
                        ),
                    ))
                }
            },
            _ => Ok(()),
        }
    }

    /// Whether the agent still answers from what the store itself knows of loads.
    async fn is_told_by_its_store(&self, component: &Component) -> Result<bool> {
        let found = self.world.fleet.describe(component).await?;
        found.must_answer(component)?;
        Ok(found.in_place_is_told)
    }

    /// What the run has had made of the data that is gone, of that which is back. Under another id: what was made under the run's own counts as done.
    async fn follow_again(&self, step: &Step) -> Result<()> {
        let key = RunKey { run: self.root.run.when_taken_back(), ..self.key.clone() };
        let platform = self.platform()?;
        match &step.action {
            Action::RollOut { workloads, .. } => platform.roll_out(&key, workloads).await,
            Action::Resync { task, .. } => platform.resync(&key, *task).await.map(drop),
            Action::CheckApplications { .. } => {
                let had = self.status.lock().await.had(self.plan());
                // It makes nothing: the data is back, and a run that could not end for what is seen here would keep backups from being made.
                match platform.check(&key, &had).await {
                    Ok(looks) => looks.into_iter().filter(|look| look.warning).for_each(|look| {
                        self.reporter.say(self.plan(), &format!("{}: {}", look.check, look.found));
                    }),
                    Err(e) => self.reporter.say(self.plan(), &format!("{}: {}", step.action, e.chain())),
                }
                Ok(())
            }
            other => Err(Error::new(Kind::Internal, format!("{other} makes nothing follow the data"))),
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

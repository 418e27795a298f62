//! Action → effect: the one match over everything that a run can do.

use std::time::Duration;

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::{Component, RunKey};
use keepsake_core::record::{ComponentRecord, Record};

use super::Runner;
use super::event::Output;
use super::status::StepStatus;
use crate::fleet::{LoadOrder, LoadReport, OpKey, Opening, Progress};
use crate::inventory::Staged;
use crate::plan::{Action, CheckAt, Step, Undo};
use crate::platform::{Platform, Stopped};

/// How often an agent that is busy with what an earlier epoch has begun is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl From<LoadReport> for Output {
    fn from(report: LoadReport) -> Self {
        Self::Loaded { counts: report.counts, warnings: report.warnings }
    }
}

impl From<Vec<Stopped>> for Output {
    fn from(workloads: Vec<Stopped>) -> Self {
        if workloads.is_empty() { Self::Nothing } else { Self::Stopped { workloads } }
    }
}

impl Runner<'_> {
    pub(super) async fn perform(&self, step: &Step) -> Result<Output> {
        let fleet = self.world.fleet;
        let key = OpKey { run: self.key.clone(), step: step.id.clone() };
        let report = |progress: Progress| self.reporter.progress(self.plan(), step, progress);
        match &step.action {
            Action::BeginSet => self.begin_set().await,
            Action::Cut { groups, required, limits } => self.cut(groups, *required, *limits, &report).await,
            Action::Dump { component, .. } => self.dump(step, component, key, &report).await,
            Action::CommitSet => self.commit_set().await,
            Action::Quiesce { keeps, .. } => self.platform()?.quiesce_but(&self.key, keeps).await.map(Output::from),
            Action::Drain { component, deadline, otherwise } => {
                self.drain(step, component, Duration::from_secs((*deadline).into()), *otherwise).await
            }
            Action::CloseRoutes { .. } => {
                self.platform()?.close_routes(&self.key).await.map(|routes| Output::RoutesClosed { routes })
            }
            Action::OpenRoutes { .. } => self.platform()?.open_routes(&self.key).await.map(|()| Output::Nothing),
            Action::ResumeWorkloads { .. } => self.platform()?.resume(&self.key).await.map(|()| Output::Nothing),
            Action::RollOut { workloads, .. } => {
                self.platform()?.roll_out(&self.own_key(), workloads).await.map(|()| Output::Nothing)
            }
            Action::Resync { task, .. } => {
                self.platform()?.resync(&self.own_key(), *task).await.map(|told| Output::Resynced { told })
            }
            Action::AwaitInstallation { .. } => self.platform()?.until_built(&self.key).await.map(|()| Output::Nothing),
            Action::AwaitAgents { components, deadline } => {
                let limit = Duration::from_secs((*deadline).into());
                self.await_agents(components, limit, &report).await.map(|()| Output::Nothing)
            }
            Action::CheckApplications { .. } => self.check_applications().await,
            Action::Stage { component, queues, in_place, objects } => {
                let (entry, opening) = self.source(component)?;
                let (queues, in_place, objects) = (*queues, *in_place, *objects);
                let set = self.plan().set.ok_or_else(|| Error::new(Kind::Internal, "the plan names no set"))?;
                let order = LoadOrder { key, set, entry, opening, queues, in_place, objects };
                let stage = self.once_it_is_free(step, || fleet.stage(&order, &report));
                self.unless_cancelled(component, stage).await.map(Output::from)
            }
            // A load over live data is not cut short by a cancel: half of it is worse than either whole.
            Action::Commit { component } => {
                self.is_still_quiet().await?;
                let commit = || fleet.commit(component, &key, &report);
                self.once_it_is_free(step, commit).await.map(Output::from)
            }
            Action::Check { component, at } => self.check(component, *at).await,
            Action::PointOfNoReturn => {
                self.is_still_quiet().await?;
                self.is_still_kept().await.map(|()| Output::Nothing)
            }
            // Its own entries in the journal are all of it.
            Action::RememberConfig { .. } => Ok(Output::Nothing),
            Action::ResyncConfig { pair, live } => Box::pin(self.resync_config(step, &key, pair, *live)).await,
            Action::CheckConfig { pair, must } => Box::pin(self.check_config(step, &key, pair, *must)).await,
            Action::Rollback { component } => {
                self.end_tasks().await?;
                self.is_still_quiet().await?;
                let rollback = || fleet.rollback(component, &key, &report);
                self.once_it_is_free(step, rollback).await.map(|()| Output::Nothing)
            }
            Action::Finalize { component } => {
                let finalize = || fleet.finalize(component, &key, &report);
                self.once_it_is_free(step, finalize).await.map(|()| Output::Nothing)
            }
        }
        .with_context(|| step.action.to_string())
    }

    /// Does it; while the agent is busy with what an earlier epoch of the run, or the step that is undone, has begun, waits for that, however long
    /// it takes: a load that was given up half way because somebody was impatient would be neither. For anything else it waits a moment.
    pub(super) async fn once_it_is_free<T, F>(&self, step: &Step, work: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let began = tokio::time::Instant::now();
        loop {
            match work().await {
                Err(e)
                    if e.kind() == Kind::Busy
                        && (began.elapsed() < self.patience || self.is_at_work_for_us(step).await) =>
                {
                    let phase = format!("waiting: {}", e.chain());
                    self.reporter.progress(self.plan(), step, Progress { phase, ..Progress::default() });
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                done => return done,
            }
        }
    }

    async fn is_at_work_for_us(&self, step: &Step) -> bool {
        let Some(component) = step.action.component() else { return false };
        match self.world.fleet.at_work(component, &self.key).await {
            Ok(what) => what.is_some(),
            Err(e) => {
                tracing::debug!("ask {component} what it does: {}", e.chain());
                false
            }
        }
    }

    async fn check(&self, component: &Component, at: CheckAt) -> Result<Output> {
        let found = self.world.fleet.describe(component).await?;
        found.must_answer(component)?;
        let can_go_back = self.plan().steps().any(|s| {
            matches!(&s.action, Action::Commit { component: c } if c == component) && matches!(s.undo, Undo::By { .. })
        });
        let is_kept = found.loads.iter().any(|(run, state)| *run == self.key.run && *state == Staged::Committed);
        if at == CheckAt::Loaded && can_go_back && !is_kept {
            return Err(Error::new(
                Kind::Conflict,
                format!("the agent of {component} does not say that the new data is live and the old kept"),
            ));
        }
        Ok(Output::Loaded { counts: keepsake_core::record::Counts::new(), warnings: found.problems })
    }

    async fn check_applications(&self) -> Result<Output> {
        let had = self.status.lock().await.had(self.plan());
        let looks = self.platform()?.check(&self.key, &had).await?;
        Ok(Output::Looked { looks })
    }

    /// The key of this very run, also where agents know its loads by another: what that one has had made anew is not new any more.
    fn own_key(&self) -> RunKey {
        RunKey { run: self.root.run, ..self.key.clone() }
    }

    /// What the run has had System do must not write any more when data is put back, whoever stops the applications.
    pub(super) async fn end_tasks(&self) -> Result<()> {
        match self.world.platform {
            Some(platform) if self.plan().steps().any(|s| matches!(s.action, Action::Resync { .. })) => {
                platform.end_tasks(&self.key).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Somebody or something may have started applications since the run stopped them.
    async fn is_still_quiet(&self) -> Result<()> {
        let plan = self.plan();
        let stops = {
            let status = self.status.lock().await;
            let is_begun = |step: &Step| status.steps.get(&step.id) != Some(&StepStatus::Waiting);
            plan.steps().any(|step| matches!(step.action, Action::Quiesce { .. }) && is_begun(step))
        };
        match plan.stopped().filter(|_| stops) {
            Some(extent) => self.platform()?.is_still_quiet(&self.key, &extent).await,
            None => Ok(()),
        }
    }

    /// What is to be put back must be there: since the plan was made, somebody else may have dropped it.
    async fn is_still_kept(&self) -> Result<()> {
        for step in self.plan().steps() {
            let Action::Rollback { component } = &step.action else { continue };
            let found = self.world.fleet.describe(component).await?;
            found.must_answer(component)?;
            let keeps = |state: &Staged| matches!(state, Staged::Committed | Staged::Committing);
            if !found.loads.iter().any(|(run, state)| *run == self.key.run && keeps(state)) {
                return Err(Error::new(Kind::Conflict, format!("the old data of {component} is not kept any more")));
            }
        }
        Ok(())
    }

    pub(super) fn platform(&self) -> Result<&dyn Platform> {
        self.world.platform.ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                "the plan does something with the applications, and the topology of this installation does not say how: write `hooks`, or `kubernetes`, into it as it was",
            )
        })
    }

    /// Waits for an operation; when the run is cancelled, asks the agent to stop it and waits for that end.
    pub(super) async fn unless_cancelled<T>(
        &self,
        component: &Component,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.cancel.cancelled() => {}
        }
        // An agent that does not hear it cancels by itself when nobody asks for the run any more.
        if let Err(e) = self.world.fleet.cancel_run(component, &self.key).await {
            tracing::warn!("ask {component} to stop: {}", e.chain());
            return Err(Error::caused(Kind::Cancelled, "the run was asked to stop", e));
        }
        match work.await {
            Ok(_) => Err(Error::new(Kind::Cancelled, "the run was asked to stop")),
            Err(e) if e.kind() == Kind::Cancelled => Err(e),
            Err(e) => Err(Error::caused(Kind::Cancelled, "the run was asked to stop", e)),
        }
    }

    fn source(&self, component: &Component) -> Result<(&ComponentRecord, &Opening)> {
        let (record, opening): (&Record, &Opening) = self.world.source.ok_or_else(|| {
            Error::new(Kind::Denied, "the set has to be read once more: give an identity file (--identity)")
        })?;
        let entry = record
            .component(component)
            .ok_or_else(|| Error::new(Kind::Internal, format!("the set does not have component {component}")))?;
        Ok((entry, opening))
    }
}

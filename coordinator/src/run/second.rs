//! The second plan of a run: made when the first is done, of what the installation is by then, and carried out under the same run and the same fencing.
//!
//! It is an entry of the journal. Before that entry nothing of it has happened, so whoever goes on from there plans again; after it nobody does.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Component;
use keepsake_core::repository::runs::plan_sha256;
use tokio::time::Instant;

use super::Runner;
use super::event::{Event, Outcome};
use crate::fleet::{OnProgress, Progress};
use crate::plan::Plan;
use crate::plan::restore::Wishes;

/// Agents of an installation that is built anew are asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Who makes the second plan of a run.
#[async_trait]
pub trait Planner: Send + Sync {
    /// The plan by these wishes, of what the installation is now; also whether it could be carried out, as far as that can be told.
    ///
    /// # Errors
    /// What stands against it, with what to do. It is asked again when the run is resumed.
    async fn plan(&self, wishes: &Wishes) -> Result<Plan>;
}

impl Runner<'_> {
    /// The plan that is carried out: the second once it is made.
    pub fn plan(&self) -> &Plan {
        self.second.get().unwrap_or(self.first)
    }

    /// SHA-256 of that plan's JSON, hex.
    pub(super) fn plan_sha256(&self) -> Result<String> {
        self.second.get().map_or_else(|| Ok(self.root.plan_sha256.clone()), plan_sha256)
    }

    /// Makes the second plan durable, or rests: how, and why.
    pub(super) async fn plan_what_follows(&self, wishes: &Wishes) -> Result<Option<(Outcome, String)>> {
        let planned = match self.world.planner {
            Some(planner) => planner.plan(wishes).await,
            None => Err(Error::new(Kind::Internal, "there is nobody to plan the data")),
        };
        let planned = planned.and_then(|plan| Ok((plan_sha256(&plan)?, plan)));
        let event = match planned {
            Ok((plan_sha256, plan)) => Event::Planned { plan: Box::new(plan), plan_sha256 },
            Err(e) => {
                let note = format!(
                    "the installation is built, and its data cannot be planned: {}. Mend that, and `keepsake resume` plans again; to bring the data back in \
                     another way, `keepsake cancel` starts what is built and ends this run, then `keepsake restore`",
                    e.chain()
                );
                self.append(Event::Halted { outcome: Outcome::Halted, note: note.clone() }).await?;
                return Ok(Some((Outcome::Halted, note)));
            }
        };
        self.append(event).await.map(|()| None)
    }

    /// Waits until these agents answer, and their stores answer them.
    pub(super) async fn await_agents(
        &self,
        components: &[Component],
        limit: Duration,
        progress: OnProgress<'_>,
    ) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let asked = components.iter().map(|component| async move {
                let found = self.world.fleet.describe(component).await;
                let silent = found.and_then(|found| found.must_answer(component)).err();
                silent.map(|e| format!("{component} ({})", e.chain()))
            });
            let silent: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
            if silent.is_empty() {
                return Ok(());
            }
            let silent = silent.join("; ");
            if Instant::now() >= until {
                let text = format!(
                    "after {} s these do not answer: {silent}. Deploy what is missing, or look at the log of what is there, then `keepsake resume`",
                    limit.as_secs()
                );
                return Err(Error::new(Kind::Timeout, text));
            }
            progress(Progress { phase: format!("waiting for {silent}"), ..Progress::default() });
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "the run was asked to stop")),
                () = tokio::time::sleep_until(until.min(Instant::now() + ASK_AGAIN)) => {}
            }
        }
    }
}

//! One execution of a plan: every effect stands between two durable entries of the journal.
//!
//! The steps of a stage go together. A backup goes on without a component that failed, and its set is then partial. A restore that
//! fails is unwound step by step, latest first; what cannot be undone is said, and the run is stuck.

mod attachments;
pub mod claim;
pub mod cut;
pub mod event;
mod perform;
mod record;
pub mod status;
mod unwind;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{RunKey, StepId};
use keepsake_core::record::{Failure, Record};
use keepsake_core::repository::Repository;
use keepsake_core::repository::runs::RunLog;
use keepsake_core::repository::sign::SigningKey;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::event::{Event, Outcome, Output};
use crate::fleet::{Fleet, Opening, Progress};
use crate::plan::{Action, Goal, Plan, Stage, Step};

/// Where events become durable.
#[async_trait]
pub trait Journal: Send {
    /// Appends an event; when it returns the event is durable.
    async fn append(&mut self, event: &Event) -> Result<()>;
    /// Whether somebody asked this run to stop.
    async fn cancel_asked(&self) -> Result<bool>;
}

#[async_trait]
impl Journal for RunLog {
    async fn append(&mut self, event: &Event) -> Result<()> {
        Self::append(self, event).await
    }

    async fn cancel_asked(&self) -> Result<bool> {
        Self::cancel_asked(self).await
    }
}

/// Who is told what happens, as it happens.
pub trait Reporter: Send + Sync {
    /// An event that is durable now.
    fn event(&self, plan: &Plan, event: &Event);
    /// How far a step is.
    fn progress(&self, plan: &Plan, step: &Step, progress: Progress);
}

/// What effects are made on.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The agents.
    pub fleet: &'a dyn Fleet,
    /// The repository.
    pub repository: &'a Repository,
    /// The signing key; needed by a backup.
    pub signing: Option<&'a SigningKey>,
    /// The set and how it is opened; needed by a restore.
    pub source: Option<(&'a Record, &'a Opening)>,
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// Executes one plan once.
pub struct Runner<'a> {
    plan: &'a Plan,
    plan_sha256: &'a str,
    started: jiff::Timestamp,
    key: RunKey,
    world: World<'a>,
    journal: Mutex<Box<dyn Journal + 'a>>,
    reporter: &'a dyn Reporter,
    cancel: CancellationToken,
    outputs: Mutex<BTreeMap<StepId, Result<Output, Failure>>>,
    /// Whether an agent may have been asked to load over live data.
    load_begun: AtomicBool,
}

impl std::fmt::Debug for Runner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The coordinator says that it is alive this often; a run without a word for [`claim::GONE_AFTER`] counts as abandoned.
const ALIVE_EVERY: Duration = Duration::from_mins(2);
/// How often the run looks whether somebody asked it to stop.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl<'a> Runner<'a> {
    /// A runner for a run whose head is durable.
    pub fn new(
        head: &'a keepsake_core::repository::runs::RunHead<Plan>,
        world: World<'a>,
        journal: Box<dyn Journal + 'a>,
        reporter: &'a dyn Reporter,
        cancel: CancellationToken,
    ) -> Self {
        let key = RunKey { run: head.run, installation: head.installation.clone(), epoch: head.epoch };
        Self {
            plan: &head.plan,
            plan_sha256: &head.plan_sha256,
            started: head.started,
            key,
            world,
            journal: Mutex::new(journal),
            reporter,
            cancel,
            outputs: Mutex::new(BTreeMap::new()),
            load_begun: AtomicBool::new(false),
        }
    }

    /// Runs to the end and journals how it ended.
    ///
    /// # Errors
    /// Only when the journal cannot be written: then nothing more was begun in the name of this run. What was begun may go on at the
    /// agents: see [`Runner::load_was_begun`].
    pub async fn execute(&self) -> Result<(Outcome, String)> {
        self.to_the_end().await.map_err(|e| self.lost(e))
    }

    async fn to_the_end(&self) -> Result<(Outcome, String)> {
        let (outcome, note) = tokio::select! {
            biased;
            ended = self.forward() => ended?,
            gone = self.stay_alive() => return Err(gone),
        };
        self.append(Event::Ended { outcome, note: note.clone() }).await?;
        Ok((outcome, note))
    }

    /// Whether a load over live data was begun. It is not cut short when this coordinator goes.
    pub fn load_was_begun(&self) -> bool {
        self.load_begun.load(Ordering::SeqCst)
    }

    /// What is said when the journal is lost.
    fn lost(&self, error: Error) -> Error {
        if !self.load_was_begun() {
            return error;
        }
        let (epoch, installation) = (self.key.epoch, &self.key.installation);
        let told = if error.kind() == Kind::Conflict {
            format!(
                "restore {epoch} of {installation} was ended by somebody else after it had begun to load over live data, and agents may still be \
                 loading: see `keepsake runs --installation {installation}`, then restore again"
            )
        } else {
            format!(
                "restore {epoch} of {installation} lost its journal after it had begun to load over live data: it is unfinished, and agents may \
                 still be loading. See `keepsake runs --installation {installation}`, end it with `keepsake cancel --installation {installation} \
                 --coordinator-is-gone`, then restore again"
            )
        };
        error.context(told)
    }

    async fn forward(&self) -> Result<(Outcome, String)> {
        let mut begun: Vec<&Step> = Vec::new();
        let (with_way_back, without) = self.plan.at_the_point_of_no_return();
        for stage in with_way_back {
            if self.cancel.is_cancelled() {
                let failure = Failure { kind: Kind::Cancelled, text: "somebody asked the run to stop".to_owned() };
                return self.unwind(&begun, &failure).await;
            }
            begun.extend(&stage.steps);
            if let Some(failure) = self.stage(stage).await? {
                return self.unwind(&begun, &failure).await;
            }
        }
        // Neither a failure nor a wish to stop undoes what is whole: what is left to do is done, and what cannot be done is told.
        for stage in without {
            self.stage(stage).await?;
        }
        let failed = self.failed_components().await;
        if failed.is_empty() {
            return Ok((Outcome::Completed, String::new()));
        }
        if self.plan.is_restore() {
            let note = format!(
                "everything was restored and counted; only what a rollback would have needed could not be dropped at {}: `keepsake runs {}` says why",
                failed.join(", "),
                self.key.epoch
            );
            return Ok((Outcome::Partial, note));
        }
        Ok((Outcome::Partial, format!("without {}", failed.join(", "))))
    }

    /// Runs the steps of a stage together; gives the failure that ends the run, if one does.
    async fn stage(&self, stage: &Stage) -> Result<Option<Failure>> {
        let ended: Vec<Result<Option<Failure>>> = join_all(stage.steps.iter().map(|step| self.step(step))).await;
        let mut first = None;
        let mut succeeded = 0;
        for failure in ended {
            match failure? {
                Some(failure) => first = first.or(Some(failure)),
                None => succeeded += 1,
            }
        }
        let Some(failure) = first else { return Ok(None) };
        let tolerated = stage.steps.iter().all(|s| matches!(s.action, Action::Dump { .. }));
        if tolerated && succeeded > 0 && !self.cancel.is_cancelled() {
            return Ok(None);
        }
        Ok(Some(failure))
    }

    async fn step(&self, step: &Step) -> Result<Option<Failure>> {
        self.append(Event::Started { step: step.id.clone() }).await?;
        if matches!(step.action, Action::Commit { .. }) {
            self.load_begun.store(true, Ordering::SeqCst);
        }
        let done = self.perform(step).await;
        let (event, result) = match done {
            Ok(output) => (Event::Succeeded { step: step.id.clone(), output: output.clone() }, Ok(output)),
            Err(e) => {
                let failure = Failure::from(&e);
                (Event::Failed { step: step.id.clone(), failure: failure.clone() }, Err(failure))
            }
        };
        self.append(event).await?;
        let failure = result.as_ref().err().cloned();
        self.outputs.lock().await.insert(step.id.clone(), result);
        Ok(failure)
    }

    async fn failed_components(&self) -> Vec<String> {
        let outputs = self.outputs.lock().await;
        let failed = |step: &&Step| outputs.get(&step.id).is_some_and(Result::is_err);
        self.plan.steps().filter(failed).filter_map(|s| s.action.component().map(ToString::to_string)).collect()
    }

    async fn append(&self, event: Event) -> Result<()> {
        self.journal.lock().await.append(&event).await?;
        self.reporter.event(self.plan, &event);
        Ok(())
    }

    /// Says now and then that the coordinator is there and looks whether it should stop. Returns only with the reason to stop at once,
    /// which is that somebody else ended the run. That a word cannot be written for a while is no such reason: whoever takes over in that
    /// time writes where the next word would go, and so is noticed; and a step that ends cannot be written either, and says so.
    async fn stay_alive(&self) -> Error {
        let mut last = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if last.elapsed() >= ALIVE_EVERY {
                match self.append(Event::Alive).await {
                    Ok(()) => last = tokio::time::Instant::now(),
                    Err(e) if e.kind() == Kind::Conflict => return e,
                    Err(e) => tracing::warn!("say that the coordinator is there, and try again: {}", e.chain()),
                }
            }
            let asked = self.journal.lock().await.cancel_asked().await;
            match asked {
                Ok(true) => self.cancel.cancel(),
                Ok(false) => {}
                Err(e) => tracing::debug!("look whether the run should stop: {}", e.chain()),
            }
        }
    }

    /// Whether this is a backup of the whole installation.
    fn left_out(&self) -> Vec<keepsake_core::id::Component> {
        match &self.plan.goal {
            Goal::Backup { left_out } => left_out.clone(),
            Goal::Restore { .. } => Vec::new(),
        }
    }
}

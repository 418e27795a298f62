//! One execution of a plan: every effect stands between two durable entries of the journal.
//!
//! The steps of a stage go together. What comes next is decided by `status` from the plan and the journal alone, so that whoever resumes a run goes on as the
//! one before would have. A backup goes on without a component that failed, and its set is then partial. A restore that fails before its point of no return is
//! unwound step by step, latest first; after it, it halts, and goes forward when it is resumed.

mod attachments;
pub mod claim;
pub mod config;
pub mod cut;
mod drain;
pub mod event;
pub mod follow;
pub mod in_time;
mod make_set;
mod perform;
mod record;
mod second;
pub mod status;
pub mod story;
pub mod take_over;
mod undo;

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use keepsake_core::record::{Failure, Record};
use keepsake_core::repository::Repository;
use keepsake_core::repository::runs::{RunHead, RunLog};
use keepsake_core::repository::sign::SigningKey;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::event::{Event, Outcome};
pub use self::second::Planner;
use self::status::{Next, RunStatus, StepStatus};
use self::story::Story;
use crate::fleet::{Fleet, Opening, Progress};
use crate::plan::{Plan, Step};
use crate::platform::{Looked, Platform};

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
    /// A word to the person who watches.
    fn say(&self, plan: &Plan, text: &str);
}

/// What effects are made on.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The agents.
    pub fleet: &'a dyn Fleet,
    /// What runs the applications; none when a person stops and starts them.
    pub platform: Option<&'a dyn Platform>,
    /// The repository.
    pub repository: &'a Repository,
    /// The signing key; needed to make a set.
    pub signing: Option<&'a SigningKey>,
    /// The set and how it is opened; needed while a restore has to stage.
    pub source: Option<(&'a Record, &'a Opening)>,
    /// Who makes the second plan; needed by a run that has two.
    pub planner: Option<&'a dyn Planner>,
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// Executes one plan, from its beginning or from where an earlier epoch of the run left it.
pub struct Runner<'a> {
    first: &'a Plan,
    /// The second plan of the run, once it is made.
    second: OnceLock<Plan>,
    /// The first epoch of the run.
    root: &'a RunHead<Plan>,
    /// Under which agents are asked: this epoch, and the run that owns the loads.
    key: RunKey,
    world: World<'a>,
    journal: Mutex<Box<dyn Journal + 'a>>,
    reporter: &'a dyn Reporter,
    cancel: CancellationToken,
    status: Mutex<RunStatus>,
    /// So long an agent may be busy with what an earlier epoch has begun.
    patience: Duration,
    resumed: bool,
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
/// An agent that has not ended within so long what was begun before will not do so soon.
const PATIENCE: Duration = Duration::from_mins(2);

/// Why a run goes back that nothing has failed.
const ASKED: &str = "somebody asked the run to stop";

impl<'a> Runner<'a> {
    /// A runner for a run that begins, and whose head is durable.
    pub fn new(
        head: &'a RunHead<Plan>,
        world: World<'a>,
        journal: Box<dyn Journal + 'a>,
        reporter: &'a dyn Reporter,
        cancel: CancellationToken,
    ) -> Self {
        let run = head.plan.run_of_loads(head.run);
        Self {
            first: &head.plan,
            second: OnceLock::new(),
            root: head,
            key: RunKey { run, installation: head.installation.clone(), epoch: head.epoch },
            world,
            journal: Mutex::new(journal),
            reporter,
            cancel,
            status: Mutex::new(RunStatus::of(&head.plan, [])),
            patience: PATIENCE,
            resumed: false,
        }
    }

    /// A runner that goes on under `head` with a run that was taken over.
    pub fn resumed(
        head: &'a RunHead<Plan>,
        story: &'a Story,
        world: World<'a>,
        journal: Box<dyn Journal + 'a>,
        reporter: &'a dyn Reporter,
        cancel: CancellationToken,
    ) -> Self {
        let status = Mutex::new(story.status());
        let root = story.root();
        let second = story.second().cloned().map_or_else(OnceLock::new, OnceLock::from);
        Self { root, second, status, resumed: true, ..Self::new(head, world, journal, reporter, cancel) }
    }

    /// With another patience for agents that are busy.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Turns the run around before anything else is done, if it goes forward still. With `discard_writes` also past the point of no return.
    ///
    /// # Errors
    /// `Conflict` when it is past the point of no return and that is not what was asked for, or when old data may be dropped already; the journal cannot be
    /// written.
    pub async fn turn(&self, why: &str, discard_writes: bool) -> Result<()> {
        {
            let status = self.status.lock().await;
            if status.back.as_ref().is_some_and(|b| b.discard_writes || !discard_writes) {
                return Ok(());
            }
            let plan = self.plan();
            let may_discard = discard_writes && plan.may_be_taken_back();
            if !(status.may_turn(plan) || may_discard) {
                let text = format!(
                    "{} {} has passed its point of no return meanwhile",
                    self.root.plan.word(),
                    self.root.epoch
                );
                return Err(Error::new(Kind::Conflict, format!("{text}: go on with it by `keepsake resume`")));
            }
            if status.drops_old_data(plan) && !status.leads_over(plan) {
                return Err(Error::new(Kind::Conflict, "the old data may be dropped already, so nothing goes back"));
            }
        }
        let failure = Failure { kind: Kind::Cancelled, text: why.to_owned() };
        self.append(Event::Unwinding { failure, discard_writes }).await
    }

    /// Says in the journal, as far as that can be written, that this coordinator does nothing more and the run is to be resumed.
    pub async fn halt(&self, why: &Error) {
        if let Err(e) = self.append(Event::Halted { outcome: Outcome::Halted, note: why.chain() }).await {
            tracing::warn!("say in the journal that the run waits: {}", e.chain());
        }
    }

    /// Runs to the end and journals how it ended: over, or, with [`Outcome::Halted`] and [`Outcome::Stuck`], as far as it comes for now.
    ///
    /// # Errors
    /// Only when the journal cannot be written: then nothing more was begun in the name of this run. What was begun may go on at the
    /// agents: see [`Runner::has_begun`].
    pub async fn execute(&self) -> Result<(Outcome, String)> {
        let done = tokio::select! {
            biased;
            ended = self.to_the_end() => ended,
            gone = self.stay_alive() => Err(gone),
            never = self.say_what_cannot_be_cancelled() => match never {},
        };
        match done {
            Ok(ended) => Ok(ended),
            Err(e) => Err(self.lost(e).await),
        }
    }

    async fn to_the_end(&self) -> Result<(Outcome, String)> {
        if self.resumed {
            self.stage_again_what_is_lost().await;
        }
        loop {
            let (next, may_turn) = {
                let status = self.status.lock().await;
                (
                    status.next(self.plan()),
                    status.may_turn(self.plan())
                        && status.back.is_none()
                        && !status.may_have_recorded(self.plan())
                        // A wish is no reason to leave stores that do not belong together.
                        && status.is_loaded_for_good(self.plan()).is_none(),
                )
            };
            match next {
                Next::Do(_) | Next::Plan(_) if may_turn && self.cancel.is_cancelled() => {
                    self.turn(ASKED, false).await?;
                }
                Next::Do(steps) => {
                    let ended: Vec<Result<()>> = join_all(steps.into_iter().map(|step| self.step(step))).await;
                    ended.into_iter().collect::<Result<()>>()?;
                }
                Next::Plan(wishes) => {
                    if let Some(rests) = self.plan_what_follows(wishes).await? {
                        return Ok(rests);
                    }
                }
                Next::Turn(failure) => self.append(Event::Unwinding { failure, discard_writes: false }).await?,
                Next::Undo(step) => self.undo_step(step).await?,
                Next::Rest(outcome, note) => {
                    self.append(Event::Halted { outcome, note: note.clone() }).await?;
                    return Ok((outcome, note));
                }
                Next::End(outcome, note) => {
                    self.append(Event::Ended { outcome, note: note.clone() }).await?;
                    return Ok((outcome, note));
                }
            }
        }
    }

    async fn step(&self, step: &Step) -> Result<()> {
        self.append(Event::Started { step: step.id.clone() }).await?;
        let event = match self.perform(step).await {
            Ok(output) => Event::Succeeded { step: step.id.clone(), output },
            Err(e) => {
                // First the wish and then what came of it: whoever goes on from between the two must not take a dump that was stopped for one that failed.
                let may_turn = self.status.lock().await.may_turn(self.plan());
                if e.kind() == Kind::Cancelled && self.cancel.is_cancelled() && may_turn {
                    self.turn(ASKED, false).await?;
                }
                Event::Failed { step: step.id.clone(), failure: Failure::from(&e) }
            }
        };
        self.append(event).await
    }

    /// What was staged and not loaded may be gone with the agent that had it: whoever does not say that it is there stages again. An agent that cannot be
    /// asked fails its commit, and that is told.
    async fn stage_again_what_is_lost(&self) {
        let status = self.status.lock().await.clone();
        if status.passed || status.back.is_some() {
            return;
        }
        for step in status.not_loaded(self.plan()) {
            let Some(component) = step.action.component() else { continue };
            if status.steps.get(&step.id) != Some(&StepStatus::Succeeded) {
                continue;
            }
            match self.world.fleet.describe(component).await {
                Ok(found) if found.has_staged(self.key.run) => {}
                Ok(found) if found.server.is_empty() => {
                    tracing::warn!("the store of {component} does not answer its agent");
                }
                Ok(_) => self.status.lock().await.again(&step.id),
                Err(e) => tracing::warn!("ask {component} what it has staged: {}", e.chain()),
            }
        }
    }

    /// What was found when the applications ran again.
    pub async fn looks(&self) -> Vec<Looked> {
        self.status.lock().await.looks(self.plan())
    }

    /// Whether anything of a run that is no backup may have been begun: what is there then waits for `resume` or `cancel`.
    pub async fn has_begun(&self) -> bool {
        !self.plan().may_be_abandoned() && self.status.lock().await.steps.values().any(|s| *s != StepStatus::Waiting)
    }

    /// What is said when the journal is lost.
    async fn lost(&self, error: Error) -> Error {
        if !self.has_begun().await {
            return error;
        }
        let (epoch, installation, word) = (self.root.epoch, &self.key.installation, self.root.plan.word());
        let told = if error.kind() == Kind::Conflict {
            format!(
                "{word} {epoch} of {installation} was taken over by another coordinator, which goes on with it: see `keepsake runs {epoch} \
                 --installation {installation}`"
            )
        } else {
            format!(
                "{word} {epoch} of {installation} lost its journal: it is unfinished, and agents may still be at work. See `keepsake runs {epoch} \
                 --installation {installation}`, then go on with `keepsake resume --installation {installation} --coordinator-is-gone`, or give it up \
                 with `keepsake cancel --installation {installation} --coordinator-is-gone`"
            )
        };
        error.context(told)
    }

    async fn append(&self, event: Event) -> Result<()> {
        self.journal.lock().await.append(&event).await?;
        {
            let mut status = self.status.lock().await;
            if let Event::Planned { plan, .. } = &event {
                let plan = self.second.get_or_init(|| (**plan).clone());
                *status = RunStatus::of_second(plan);
            } else {
                status.apply(self.plan(), &event);
            }
        }
        self.reporter.event(self.plan(), &event);
        Ok(())
    }

    /// Whoever asks it to stop when it can only go on is told so.
    async fn say_what_cannot_be_cancelled(&self) -> std::convert::Infallible {
        self.cancel.cancelled().await;
        let may_turn = self.status.lock().await.may_turn(self.plan());
        if !may_turn {
            let text = if self.plan().then().is_some() {
                "what was begun is built to its end; then it stops, before the data"
            } else {
                "it is past the point of no return, and goes on: it cannot be stopped any more"
            };
            self.reporter.say(self.plan(), text);
        }
        std::future::pending().await
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
}

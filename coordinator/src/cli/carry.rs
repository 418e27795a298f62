//! What commands share that carry a run on: the means to do it, and what is printed of it.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::format::objects;
use keepsake_core::id::{Component, RunId};
use keepsake_core::record::Record;
use keepsake_core::repository::Repository;
use keepsake_core::repository::runs::{RunHead, Runs};
use keepsake_core::repository::seal::Identities;
use keepsake_core::repository::sign::SigningKey;
use keepsake_core::secret::Secret;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::args::Args;
use super::output;
use super::report::{Terminal, with_looks};
use super::restore::staged;
use crate::app::App;
use crate::exit::Exit;
use crate::fleet::Opening;
use crate::fleet::whole::WholeFleet;
use crate::inventory::Inventory;
use crate::plan::restore::Wishes;
use crate::plan::{self, Action, Plan, Step};
use crate::platform::{self, Intent, Looked, Platform};
use crate::run::event::Outcome;
use crate::run::in_time::InTime;
use crate::run::story::Story;
use crate::run::take_over::take_over;
use crate::run::{Planner, Runner, World, claim};
use crate::topology::InstallationSettings;

/// All that a run of one installation needs to have an effect.
pub(super) struct Means<'a> {
    pub(super) installation: &'a InstallationSettings,
    pub(super) repository: Repository,
    pub(super) fleet: WholeFleet,
    platform: Option<Box<dyn Platform + 'a>>,
    /// Needed to make a set.
    pub(super) signing: Option<SigningKey>,
    /// Needed to stage.
    pub(super) source: Option<(Record, Opening)>,
}

/// A repository that cannot be reached for so long ends a run that is under way: the applications may be stopped meanwhile.
const JOURNAL: Duration = Duration::from_mins(5);

/// The wish that a run goes back.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    /// Its words in the journal.
    pub(super) why: &'a str,
    /// Also past the point of no return.
    pub(super) discard_writes: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    installation: String,
    epoch: u64,
    run: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    safety: Option<String>,
    outcome: Outcome,
    note: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Looked>,
}

impl<'a> Means<'a> {
    /// Without a signing key and a set to read from.
    ///
    /// # Errors
    /// The repository is not what is trusted, or the agents cannot be dialled.
    pub(super) async fn new(app: &App, installation: &'a InstallationSettings) -> Result<Self> {
        let repository = app.repository().await?;
        let fleet = app.fleet(installation)?;
        let platform = platform::of(installation);
        Ok(Self { installation, repository, fleet, platform, signing: None, source: None })
    }

    /// Opens the set, so that agents can read it: by the set's own identity, if somebody else has opened it, else by one of those that open its key.
    ///
    /// # Errors
    /// `Denied` when no identity opens it.
    pub(super) async fn open(
        &mut self,
        record: Record,
        identities: Option<&Identities>,
        set_identity: Option<&Path>,
    ) -> Result<()> {
        let key = match set_identity {
            Some(file) => Repository::set_key_of(&record, &Secret::whole_file(file)?)?,
            None => self.repository.unsealer(&record, identities).await?.1,
        };
        let opening = key.as_ref().map_or(Opening::None, |k| Opening::Age(Secret::new(k.identity().expose())));
        self.source = Some((record, opening));
        Ok(())
    }

    /// Whether what the plan does with the applications could be done now; `rebuilt`: the same run has just built them.
    ///
    /// # Errors
    /// The platform's word on why not.
    pub(super) async fn preflight(&self, plan: &Plan, rebuilt: bool) -> Result<()> {
        if let Some(platform) = self.platform.as_deref().filter(|_| plan.needs_platform()) {
            platform.preflight(Intent { follows: plan.follows(), rebuilt }).await?;
        }
        let is_of_objects = |s: &Step| {
            let component = s.action.component().map(Component::as_str);
            matches!(s.action, Action::Stage { .. } | Action::Rollback { .. } | Action::Finalize { .. })
                && component == Some(objects::COMPONENT)
        };
        if plan.steps().any(is_of_objects) { self.fleet.may_write_objects().await } else { Ok(()) }
    }

    /// Whether there is nothing yet where an installation is to be built.
    ///
    /// # Errors
    /// The platform's word on what there is.
    pub(super) async fn ensure_none(&self, follows: bool) -> Result<()> {
        match self.platform.as_deref() {
            Some(platform) => platform.ensure_none(follows).await,
            None => Ok(()),
        }
    }

    /// Where a plan has its effects, if that matters and can be told.
    async fn place(&self, plan: &Plan) -> Result<Option<String>> {
        match self.platform.as_deref().filter(|_| plan.is_of_a_place()) {
            Some(platform) => platform.place().await.context("find out in which cluster it is begun"),
            None => Ok(None),
        }
    }

    /// Whether this is where a run was begun: by the wrong kubeconfig it would find nothing of its own and build, or write, into somebody else's.
    ///
    /// # Errors
    /// `Conflict`, with the ways out.
    pub(super) async fn ensure_place(&self, root: &RunHead<Plan>) -> Result<()> {
        let Some(begun) = &root.plan.place else { return Ok(()) };
        let now = match self.platform.as_deref() {
            Some(platform) => match platform.place().await {
                Err(e) if e.kind() == Kind::NotFound => None,
                told => told.context("find out whether this is the cluster in which the run was begun")?,
            },
            None => None,
        };
        if now.as_ref() == Some(begun) {
            return Ok(());
        }
        let now = now.map_or_else(|| "there is none".to_owned(), |now| format!("it has the uid {now}"));
        Err(Error::new(
            Kind::Conflict,
            format!(
                "{} {} of {} was begun in a namespace with the uid {begun}, and where the topology leads now {now}: it is another cluster or namespace, or it was \
                 made anew. Nothing was taken over. Name the right `kubeconfig`, `context` and `namespace` in the topology; if the namespace is gone, `keepsake \
                 cancel --leave-as-it-is` ends the run as it stands",
                root.plan.word(),
                root.epoch,
                root.installation
            ),
        ))
    }

    fn world(&self) -> World<'_> {
        World {
            fleet: &self.fleet,
            platform: self.platform.as_deref(),
            repository: &self.repository,
            signing: self.signing.as_ref(),
            source: self.source.as_ref().map(|(record, opening)| (record, opening)),
            planner: Some(self),
        }
    }
}

#[async_trait]
impl Planner for Means<'_> {
    async fn plan(&self, wishes: &Wishes) -> Result<Plan> {
        let Some((record, _)) = &self.source else {
            let text = "the set has to be read for its data: resume with an identity file (--identity)";
            return Err(Error::new(Kind::Denied, text));
        };
        if wishes.safety.is_some() && self.signing.is_none() {
            return Err(Error::new(Kind::Denied, "the safety set takes the signing key"));
        }
        let inventory = Inventory::ask(self.installation, &self.fleet).await;
        let plan = plan::restore::plan(self.installation, &inventory, record, wishes)?;
        self.repository.look_for_segments(record, &staged(&plan)).await?;
        self.preflight(&plan, wishes.rebuilt).await?;
        Ok(plan)
    }
}

/// The signing key, which must be one that is believed here.
///
/// # Errors
/// `Denied` when it is not a signer of the repository.
pub(super) fn signer(app: &App, repository: &Repository) -> Result<SigningKey> {
    let signing = app.signing_key()?;
    if repository.keys().signers.contains(&signing.public()) {
        return Ok(signing);
    }
    let print = signing.public().fingerprint();
    let text = format!("the signing key {print} is not a signer of the repository: nobody would believe the set");
    Err(Error::new(Kind::Denied, text))
}

/// Begins a run of this plan, if it is not too late, and carries it out; prints how it ended and gives the exit status.
///
/// # Errors
/// Another run has the floor, or the result cannot be printed.
pub(super) async fn begin(args: &Args, means: &Means<'_>, runs: &Runs, plan: &Plan, in_time: &InTime) -> Result<Exit> {
    begin_as(args, means, runs, plan, None, in_time, super::cancel_on_signal()).await
}

/// The same under the id that whoever follows the run has given it, unless it was asked to stop already.
///
/// # Errors
/// As [`begin`]; `Cancelled`.
pub(super) async fn begin_as(
    args: &Args,
    means: &Means<'_>,
    runs: &Runs,
    plan: &Plan,
    run: Option<RunId>,
    in_time: &InTime,
    cancel: CancellationToken,
) -> Result<Exit> {
    if cancel.is_cancelled() {
        return Err(Error::new(Kind::Cancelled, "asked to stop before anything was begun"));
    }
    let terminal = Terminal::new();
    let plan = &Plan { place: means.place(plan).await?, ..plan.clone() };
    let (head, log) = claim::begin_as(runs, &means.installation.name, plan, run, in_time).await?;
    let runner = Runner::new(&head, means.world(), Box::new(log.patient(JOURNAL)), &terminal, cancel);
    let ended = Box::pin(execute(args, &runner, plan.word(), head.epoch.0)).await?;
    Ok(ended.map_or_else(|lost| lost, Exit::of_outcome))
}

/// Takes a run over, if it is not too late, and goes on with it, or, with `turn`, back; prints how it ended. `None` when the journal was lost.
///
/// # Errors
/// It cannot be taken over, or the result cannot be printed.
pub(super) async fn go_on(
    args: &Args,
    means: &Means<'_>,
    runs: &Runs,
    story: Story,
    is_gone: bool,
    turn: Option<Turn<'_>>,
    in_time: &InTime,
) -> Result<Option<Outcome>> {
    let cancel = super::cancel_on_signal();
    let terminal = Terminal::new();
    // Nothing is taken over, and so nothing called undone, that is somewhere else.
    means.ensure_place(story.root()).await?;
    if let Some(platform) = means.platform.as_deref() {
        platform.ensure_same(&story.had()).await?;
    }
    in_time.ensure(&means.installation.name)?;
    let taken = take_over(runs, story, is_gone).await?;
    let root = taken.story.root();
    output::say(&format!(
        "{} {} of {} goes on as run {}",
        root.plan.word(),
        root.epoch,
        root.installation,
        taken.head.epoch
    ));
    let runner = Runner::resumed(
        &taken.head,
        &taken.story,
        means.world(),
        Box::new(taken.log.patient(JOURNAL)),
        &terminal,
        cancel,
    );
    if let Some(turn) = turn
        && let Err(e) = runner.turn(turn.why, turn.discard_writes).await
    {
        // It is in this coordinator's hands by now, and must not look as if it were at work.
        runner.halt(&e).await;
        output::error(args, &e);
        return Ok(None);
    }
    let ended = Box::pin(execute(args, &runner, root.plan.word(), root.epoch.0)).await?;
    Ok(ended.ok())
}

/// Executes and prints. The error is the status of a run that lost its journal.
async fn execute(args: &Args, runner: &Runner<'_>, word: &'static str, epoch: u64) -> Result<Result<Outcome, Exit>> {
    let (outcome, note) = match Box::pin(runner.execute()).await {
        Ok(ended) => ended,
        Err(lost) => {
            output::error(args, &lost);
            return Ok(Err(Exit::of_lost_run(&lost, runner.has_begun().await)));
        }
    };
    print(args, (word, runner.plan()), epoch, outcome, note, runner.looks().await)?;
    Ok(Ok(outcome))
}

/// Prints how a run ended: what it was begun as, and what the plan that it has now has made.
///
/// # Errors
/// It cannot be written as JSON.
pub(super) fn print(
    args: &Args,
    (word, plan): (&'static str, &Plan),
    epoch: u64,
    outcome: Outcome,
    note: String,
    checks: Vec<Looked>,
) -> Result<()> {
    let safety = plan.is_restore().then(|| plan.made_set()).flatten().map(|(set, _, _)| set.to_string());
    let done = Done {
        installation: plan.installation.to_string(),
        epoch,
        run: word,
        set: plan.set.map(|set| set.to_string()),
        safety,
        outcome,
        note,
        checks,
    };
    output::result(args, &done, || {
        let note = if done.note.is_empty() { String::new() } else { format!(": {}", done.note) };
        let (word, name, outcome) = (done.run, &done.installation, outcome.as_str());
        let from = done.set.as_ref().map(|set| format!(" from set {set}")).unwrap_or_default();
        let mut told = format!("{word} {epoch} of {name}{from}: {outcome}{note}");
        if let Some(safety) = done.safety.as_ref().filter(|_| outcome == "completed") {
            told.push_str(&format!("; what was there before is safety set {safety}"));
        }
        with_looks(told, &done.checks) + "\n"
    })
}

//! What commands share that carry a run on: the means to do it, and what is printed of it.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::format::objects;
use keepsake_core::id::Component;
use keepsake_core::record::Record;
use keepsake_core::repository::Repository;
use keepsake_core::repository::runs::Runs;
use keepsake_core::repository::seal::Identities;
use keepsake_core::repository::sign::SigningKey;
use keepsake_core::secret::Secret;
use serde::Serialize;

use super::args::Args;
use super::output;
use super::report::{Terminal, with_looks};
use crate::app::App;
use crate::exit::Exit;
use crate::fleet::Opening;
use crate::fleet::whole::WholeFleet;
use crate::plan::{Action, Plan, Step};
use crate::platform::{self, Looked, Platform};
use crate::run::event::Outcome;
use crate::run::story::Story;
use crate::run::take_over::take_over;
use crate::run::{Runner, World, claim};
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

    /// Opens the set, so that agents can read it.
    ///
    /// # Errors
    /// `Denied` when no identity opens it.
    pub(super) async fn open(&mut self, record: Record, identities: Option<&Identities>) -> Result<()> {
        let (_, key) = self.repository.unsealer(&record, identities).await?;
        let opening = key.as_ref().map_or(Opening::None, |k| Opening::Age(Secret::new(k.identity().expose())));
        self.source = Some((record, opening));
        Ok(())
    }

    /// Whether what the plan does with the applications could be done now.
    ///
    /// # Errors
    /// The platform's word on why not.
    pub(super) async fn preflight(&self, plan: &Plan) -> Result<()> {
        if let Some(platform) = self.platform.as_deref().filter(|_| plan.needs_platform()) {
            platform.preflight(plan.follows()).await?;
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
    pub(super) async fn ensure_none(&self) -> Result<()> {
        match self.platform.as_deref() {
            Some(platform) => platform.ensure_none().await,
            None => Ok(()),
        }
    }

    fn world(&self) -> World<'_> {
        World {
            fleet: &self.fleet,
            platform: self.platform.as_deref(),
            repository: &self.repository,
            signing: self.signing.as_ref(),
            source: self.source.as_ref().map(|(record, opening)| (record, opening)),
        }
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

/// Begins a run of this plan and carries it out; prints how it ended and gives the exit status.
///
/// # Errors
/// Another run has the floor, or the result cannot be printed.
pub(super) async fn begin(args: &Args, means: &Means<'_>, runs: &Runs, plan: &Plan) -> Result<Exit> {
    let cancel = super::cancel_on_signal();
    let terminal = Terminal::new();
    let (head, log) = claim::begin(runs, &means.installation.name, plan).await?;
    let runner = Runner::new(&head, means.world(), Box::new(log.patient(JOURNAL)), &terminal, cancel);
    let ended = Box::pin(execute(args, &runner, plan, head.epoch.0)).await?;
    Ok(ended.map_or_else(|lost| lost, Exit::of_outcome))
}

/// Takes a run over and goes on with it, or, with `turn`, back; prints how it ended. `None` when the journal was lost.
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
) -> Result<Option<Outcome>> {
    let cancel = super::cancel_on_signal();
    let terminal = Terminal::new();
    // Nothing is taken over, and so nothing called undone, that is somewhere else.
    if let Some(platform) = means.platform.as_deref() {
        platform.ensure_same(&story.status().had(story.plan())).await?;
    }
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
    let ended = Box::pin(execute(args, &runner, &root.plan, root.epoch.0)).await?;
    Ok(ended.ok())
}

/// Executes and prints. The error is the status of a run that lost its journal.
async fn execute(args: &Args, runner: &Runner<'_>, plan: &Plan, epoch: u64) -> Result<Result<Outcome, Exit>> {
    let (outcome, note) = match Box::pin(runner.execute()).await {
        Ok(ended) => ended,
        Err(lost) => {
            output::error(args, &lost);
            return Ok(Err(Exit::of_lost_run(&lost, runner.has_begun().await)));
        }
    };
    let safety = plan.is_restore().then(|| plan.made_set()).flatten().map(|(set, _, _)| set.to_string());
    let done = Done {
        installation: plan.installation.to_string(),
        epoch,
        run: plan.word(),
        set: plan.set.map(|set| set.to_string()),
        safety,
        outcome,
        note,
        checks: runner.looks().await,
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
    })?;
    Ok(Ok(outcome))
}

//! `backup`: of one installation or of all.

use futures_util::stream::{self, StreamExt};
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::SetId;
use keepsake_core::record::Failure;
use keepsake_core::repository::runs::RunHead;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::args::{Args, Backup, Which};
use super::output;
use super::report::Terminal;
use crate::app::App;
use crate::exit::Exit;
use crate::inventory::Inventory;
use crate::plan::{self, Plan};
use crate::platform::kubernetes::agents::Expect;
use crate::run::event::Outcome;
use crate::run::{Runner, World, claim};
use crate::topology::{InstallationSettings, Topology};

/// What came of one installation.
#[derive(Debug, Serialize)]
pub(super) struct BackedUp {
    installation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<String>,
    outcome: Outcome,
    note: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    #[serde(skip)]
    exit: Exit,
}

/// The installations that a command is about.
pub(super) fn installations<'a>(topology: &'a Topology, which: &Which) -> Result<Vec<&'a InstallationSettings>> {
    if which.all {
        return Ok(topology.installations.iter().collect());
    }
    topology.installation(which.installation.as_ref()).map(|i| vec![i])
}

/// The installations that a command only looks at: all, unless one is named.
pub(super) fn looked_at<'a>(topology: &'a Topology, which: &Which) -> Result<Vec<&'a InstallationSettings>> {
    if which.installation.is_some() {
        installations(topology, which)
    } else {
        Ok(topology.installations.iter().collect())
    }
}

/// Runs the command.
pub(super) async fn run(args: &Args, app: &App, command: &Backup) -> Result<Exit> {
    let chosen = installations(&app.topology, &command.which)?;
    if chosen.len() > 1 && !command.components.is_empty() {
        return Err(Error::new(Kind::Invalid, "--component goes with one installation, not with --all"));
    }
    if command.dry_run {
        return dry_run(args, app, &chosen, command).await;
    }
    let cancel = super::cancel_on_signal();
    let terminal = Terminal::new();
    let done: Vec<BackedUp> = stream::iter(chosen)
        .map(|installation| one(app, installation, command, &terminal, cancel.child_token()))
        .buffered(usize::from(command.max_parallel))
        .collect()
        .await;
    print(args, &done)?;
    Ok(done.iter().fold(Exit::Done, |worst, d| worst.worst(d.exit)))
}

impl BackedUp {
    /// By how a run ended.
    pub(super) fn of(head: &RunHead<Plan>, outcome: Outcome, note: String) -> Self {
        let made = matches!(outcome, Outcome::Completed | Outcome::Partial);
        Self {
            installation: head.installation.to_string(),
            epoch: Some(head.epoch.0),
            set: head.plan.set.filter(|_| made).map(|set| set.to_string()),
            outcome,
            note,
            error: None,
            exit: Exit::of_outcome(outcome),
        }
    }
}

/// Prints what came of it.
///
/// # Errors
/// It cannot be written as JSON.
pub(super) fn print(args: &Args, done: &[BackedUp]) -> Result<()> {
    output::result(args, &done, || {
        let rows: Vec<_> = done
            .iter()
            .map(|d| {
                let dash = || "-".to_owned();
                vec![
                    d.installation.clone(),
                    d.epoch.map_or_else(dash, |e| e.to_string()),
                    d.set.clone().unwrap_or_else(dash),
                    d.outcome.as_str().to_owned(),
                    d.note.clone(),
                ]
            })
            .collect();
        output::table(&["INSTALLATION", "EPOCH", "SET", "OUTCOME", "NOTE"], &rows)
    })
}

async fn dry_run(args: &Args, app: &App, chosen: &[&InstallationSettings], command: &Backup) -> Result<Exit> {
    let mut plans = Vec::new();
    for installation in chosen {
        let installation = app.reached(installation, Expect::All).await?;
        plans.push(plan_one(app, &installation, command).await?);
    }
    output::result(args, &plans, || plans.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::Done)
}

async fn plan_one(app: &App, installation: &InstallationSettings, command: &Backup) -> Result<Plan> {
    let fleet = app.fleet(installation)?;
    let inventory = Inventory::ask(installation, &fleet).await;
    plan::backup::plan(installation, &inventory, &command.components, SetId::generate())
}

async fn one(
    app: &App,
    installation: &InstallationSettings,
    command: &Backup,
    terminal: &Terminal,
    cancel: CancellationToken,
) -> BackedUp {
    // Boxed: the future of a whole run is large, and several are polled together.
    match Box::pin(back_up(app, installation, command, terminal, cancel)).await {
        Ok(done) => done,
        Err(e) => {
            output::say(&format!("{}: {}", installation.name, e.chain()));
            BackedUp {
                installation: installation.name.to_string(),
                epoch: None,
                set: None,
                outcome: Outcome::Failed,
                note: e.chain(),
                exit: Exit::of(&e),
                error: Some(Failure::from(&e)),
            }
        }
    }
}

async fn back_up(
    app: &App,
    installation: &InstallationSettings,
    command: &Backup,
    terminal: &Terminal,
    cancel: CancellationToken,
) -> Result<BackedUp> {
    let repository = app.repository().await?;
    let in_time = command.in_time.of("backup");
    claim::ensure_in_time(&app.runs()?, &installation.name, command.run_id, &in_time).await?;
    let signing = super::carry::signer(app, &repository)?;
    let installation = &app.reached(installation, Expect::All).await?;
    let plan = plan_one(app, installation, command).await?;
    let fleet = app.fleet(installation)?;
    let (head, log) = claim::begin_as(&app.runs()?, &installation.name, &plan, command.run_id, &in_time).await?;
    let (fleet, repository) = (&fleet, &repository);
    let world = World { fleet, platform: None, repository, signing: Some(&signing), source: None, planner: None };
    let runner = Runner::new(&head, world, Box::new(log), terminal, cancel);
    let (outcome, note) = runner.execute().await?;
    Ok(BackedUp::of(&head, outcome, note))
}

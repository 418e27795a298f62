//! `restore`: one installation from one set.

use std::io::{BufRead, IsTerminal};

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::record::Record;
use keepsake_core::secret::Secret;
use serde::Serialize;

use super::args::{Args, Restore};
use super::output;
use super::report::Terminal;
use crate::app::{App, identities};
use crate::catalog;
use crate::exit::Exit;
use crate::fleet::Opening;
use crate::inventory::Inventory;
use crate::plan::{self, Plan};
use crate::run::event::Outcome;
use crate::run::{Runner, World, claim};
use crate::topology::InstallationSettings;

#[derive(Debug, Serialize)]
struct Restored {
    installation: String,
    epoch: u64,
    set: String,
    outcome: Outcome,
    note: String,
}

/// Runs the command.
pub(super) async fn run(args: &Args, app: &App, command: &Restore) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let repository = app.repository().await?;
    let record = catalog::find(&repository, &installation.name, &command.set).await?;
    let fleet = app.fleet(installation)?;
    let inventory = Inventory::ask(installation, &fleet).await;
    let plan = plan::restore::plan(installation, &inventory, &record, &command.components, &command.queues)?;
    if command.dry_run {
        output::result(args, &plan, || plan.to_string())?;
        return Ok(Exit::Done);
    }
    // Opened before anything else is done: without the identity there is no restore.
    let (_, key) = repository.unsealer(&record, identities(&command.identities)?.as_ref()).await?;
    let opening = key.as_ref().map_or(Opening::None, |k| Opening::Age(Secret::new(k.identity().expose())));
    confirm(command, installation, &plan, &record)?;

    let cancel = super::cancel_on_signal();
    let terminal = Terminal::new();
    let (head, log) = claim::begin(&app.runs()?, &installation.name, &plan).await?;
    let world = World { fleet: &fleet, repository: &repository, signing: None, source: Some((&record, &opening)) };
    let runner = Runner::new(&head, world, Box::new(log), &terminal, cancel);
    let (outcome, note) = match Box::pin(runner.execute()).await {
        Ok(ended) => ended,
        Err(lost) => {
            output::error(args, &lost);
            return Ok(Exit::of_lost_run(&lost, runner.load_was_begun()));
        }
    };
    let done = Restored {
        installation: installation.name.to_string(),
        epoch: head.epoch.0,
        set: record.set.to_string(),
        outcome,
        note,
    };
    output::result(args, &done, || {
        let note = if done.note.is_empty() { String::new() } else { format!(": {}", done.note) };
        format!(
            "restore {} of {} from set {}: {}{note}\n",
            done.epoch,
            done.installation,
            done.set,
            done.outcome.as_str()
        )
    })?;
    Ok(Exit::of_outcome(outcome))
}

/// A person, or the flag, must name the installation whose live data goes.
fn confirm(command: &Restore, installation: &InstallationSettings, plan: &Plan, record: &Record) -> Result<()> {
    let name = installation.name.as_str();
    if let Some(yes) = &command.yes {
        if yes.as_str() == name {
            return Ok(());
        }
        return Err(Error::new(
            Kind::Invalid,
            format!("--yes says {yes}, but the installation is {name}: nothing was done"),
        ));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(
            Kind::Invalid,
            format!("a restore overwrites the live data of {name}: say --yes {name}"),
        ));
    }
    output::say(&plan.to_string());
    output::say(&format!(
        "The live data of {name} is overwritten with that of {}. Type the installation's name to go on:",
        record.finished
    ));
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| Error::io("read the answer", e))
        .context("ask for the name")?;
    if line.trim() != name {
        return Err(Error::new(Kind::Cancelled, "another name was typed: nothing was done"));
    }
    Ok(())
}

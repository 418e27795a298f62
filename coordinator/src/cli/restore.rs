//! `restore`: one installation from one set.

use std::io::{BufRead, IsTerminal};

use keepsake_core::error::{Context, Error, Kind, Result};
use keepsake_core::id::{Component, Installation};

use super::args::{Args, Restore};
use super::carry::{self, Means};
use super::output;
use crate::app::{App, identities};
use crate::catalog;
use crate::exit::Exit;
use crate::inventory::Inventory;
use crate::plan::objects::ObjectPolicy;
use crate::plan::restore::Wishes;
use crate::plan::{self, Action, Plan, Undo};
use crate::platform::kubernetes::agents::Expect;
use crate::run::claim;
use crate::run::story::unfinished;
use crate::topology::InstallationSettings;

/// Runs the command.
pub(super) async fn run(args: &Args, app: &App, command: &Restore) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    // Whoever follows it may stop it at any time. A person is asked by then, and Ctrl-C ends the command.
    let early = command.run_id.map(|_| super::cancel_on_signal());
    let in_time = command.in_time.of("restore");
    claim::ensure_in_time(&app.runs()?, &installation.name, command.run_id, &in_time).await?;
    let installation = &app.reached(installation, Expect::All).await?;
    let mut means = Means::new(app, installation).await?;
    let record = catalog::find(&means.repository, &installation.name, &command.set).await?;
    let inventory = Inventory::ask(installation, &means.fleet).await;
    let wishes = Wishes { only: command.components.clone(), objects: objects(command)?, ..command.data.wishes() };
    let plan = match plan::restore::plan(installation, &inventory, &record, &wishes) {
        Ok(plan) => plan,
        Err(refused) => {
            // What a restore that is not over has left is in the way, and its own remedy is another.
            if let Some(other) = unfinished(&app.runs()?, &installation.name, None).await? {
                claim::judge(&other)?;
            }
            // Where nothing is, another command is meant.
            return Err(match &installation.kubernetes {
                Some(settings) if means.ensure_none(false).await.is_ok() => refused.context(format!(
                    "there is no 3scale in namespace {}: `keepsake rebuild --installation {}` builds it anew and brings the data back",
                    settings.namespace, installation.name
                )),
                Some(_) | None => refused,
            });
        }
    };
    // The rest of what can be found out before anything begins: whether the set is there, can be opened, the applications can be stopped, and the present
    // state can be kept.
    means.repository.look_for_segments(&record, &staged(&plan)).await?;
    means.preflight(&plan, false).await?;
    if !command.data.no_safety {
        let signing = carry::signer(app, &means.repository);
        means.signing = Some(signing.context("make the safety set (or restore with --no-safety)")?);
    }
    if command.dry_run {
        output::result(args, &plan, || plan.to_string())?;
        return Ok(Exit::Done);
    }
    let finished = record.finished;
    means.open(record, identities(&command.identities)?.as_ref(), command.set_identity.as_deref()).await?;
    let what = format!("The live data of {} is replaced with that of {finished}.", installation.name);
    confirm(command.yes.as_ref(), installation, &[&plan], &what)?;
    let cancel = early.unwrap_or_else(super::cancel_on_signal);
    carry::begin_as(args, &means, &app.runs()?, &plan, command.run_id, &in_time, cancel).await
}

/// What becomes of the cluster's objects.
pub(super) fn objects(command: &Restore) -> Result<ObjectPolicy> {
    match (command.objects.parse()?, command.replace_endpoints) {
        (ObjectPolicy::Replace { .. }, endpoints) => Ok(ObjectPolicy::Replace { endpoints }),
        (policy, false) => Ok(policy),
        (_, true) => Err(Error::new(Kind::Invalid, "--replace-endpoints goes with --objects replace")),
    }
}

/// The components that a plan stages.
pub(super) fn staged(plan: &Plan) -> Vec<Component> {
    let stages = plan.steps().filter(|s| matches!(s.action, Action::Stage { .. }));
    stages.filter_map(|s| s.action.component().cloned()).collect()
}

/// A person, or the flag, must name the installation whose live data goes. The plan is told, where it is known.
///
/// # Errors
/// `Invalid` when the flag names another one or there is nobody to ask; `Cancelled` when another name is typed.
pub(super) fn confirm(
    yes: Option<&Installation>,
    installation: &InstallationSettings,
    plans: &[&Plan],
    what: &str,
) -> Result<()> {
    let name = installation.name.as_str();
    if let Some(yes) = yes {
        if yes.as_str() == name {
            return Ok(());
        }
        return Err(Error::new(
            Kind::Invalid,
            format!("--yes says {yes}, but the installation is {name}: nothing was done"),
        ));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Invalid, format!("a restore replaces the live data of {name}: say --yes {name}")));
    }
    for plan in plans {
        output::say(&plan.to_string());
    }
    output::say(what);
    for step in plans.iter().flat_map(|plan| plan.steps()) {
        if let Undo::Impossible { why, .. } = &step.undo {
            output::say(&format!("WITHOUT A WAY BACK: {}: {why}.", step.action));
        }
    }
    output::say("Type the installation's name to go on:");
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

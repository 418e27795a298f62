//! `finalize` and `rollback`: what becomes of the data that was there before a restore.

use std::collections::BTreeSet;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunId;
use keepsake_core::repository::runs::Runs;

use super::args::{Args, Finalize, Rollback};
use super::carry::{self, Means, Turn};
use super::reach::reached_again;
use super::resume::interrupted;
use super::{output, restore};
use crate::app::App;
use crate::exit::Exit;
use crate::inventory::{Inventory, Staged};
use crate::plan::Plan;
use crate::plan::objects::are_objects;
use crate::plan::take_back::{self, Restored};
use crate::platform::kubernetes::agents::Expect;
use crate::run::claim;
use crate::run::in_time::InTime;
use crate::run::story::{Story, unfinished};

/// Why such a run goes back, for ever in its journal.
const WHY: &str = "taken back by `keepsake rollback`";

/// Drops what a completed restore has kept.
pub(super) async fn finalize(args: &Args, app: &App, command: &Finalize) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let in_time = command.in_time.of("finalize");
    in_time.ensure(&installation.name)?;
    let installation = &app.reached(installation, Expect::All).await?;
    let (runs, means) = (app.runs()?, Means::new(app, installation).await?);
    if let Some(other) = unfinished(&runs, &installation.name, None).await? {
        claim::judge(&other)?;
    }
    let inventory = Inventory::ask(installation, &means.fleet).await;
    let restored = kept_by(&runs, &means, &inventory, false).await?;
    let plan = take_back::finalize(installation, &inventory, &restored)?;
    carry_out(args, &means, &runs, &plan, command.dry_run, &in_time).await
}

/// Puts back what was there before a restore that is completed, or that does not come to its end.
pub(super) async fn rollback(args: &Args, app: &App, command: &Rollback) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let in_time = command.in_time.of("rollback");
    in_time.ensure(&installation.name)?;
    let runs = app.runs()?;
    if let Some(other) = unfinished(&runs, &installation.name, None).await?
        && other.plan().is_restore()
    {
        let installation = &reached_again(app, installation, other.plan()).await?;
        let means = Means::new(app, installation).await?;
        let story = interrupted(&runs, installation, command.coordinator_is_gone).await?;
        return back(args, &means, &runs, story, command, &in_time).await;
    }
    let installation = &app.reached(installation, Expect::All).await?;
    let means = Means::new(app, installation).await?;
    let inventory = Inventory::ask(installation, &means.fleet).await;
    let restored = kept_by(&runs, &means, &inventory, true).await?;
    let plan = take_back::rollback(installation, &inventory, &restored)?;
    if !command.dry_run {
        may_discard(command, restored.epoch.0)?;
    }
    carry_out(args, &means, &runs, &plan, command.dry_run, &in_time).await
}

async fn carry_out(
    args: &Args,
    means: &Means<'_>,
    runs: &Runs,
    plan: &Plan,
    dry_run: bool,
    in_time: &InTime,
) -> Result<Exit> {
    // Where a rebuild found no Routes to close there may still be none.
    means.preflight(plan, true).await?;
    if dry_run {
        output::result(args, plan, || plan.to_string())?;
        return Ok(Exit::Done);
    }
    carry::begin(args, means, runs, plan, in_time).await
}

/// Takes back a restore that is not over.
async fn back(
    args: &Args,
    means: &Means<'_>,
    runs: &Runs,
    story: Story,
    command: &Rollback,
    in_time: &InTime,
) -> Result<Exit> {
    let (epoch, status) = (story.root().epoch, story.status());
    // Only what leads over from a rebuild to its data: nothing is lost by that.
    let leads_over = status.leads_over(story.plan());
    let discard_writes = status.passed && !leads_over;
    if discard_writes && !story.plan().may_be_taken_back() {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "rebuild {epoch} has made its objects, and an operator builds from them: taken away, all that it has built would go with them. Go on with \
                 `keepsake resume`; if you want none of it, say `keepsake cancel --leave-as-it-is` and delete the namespace"
            ),
        ));
    }
    if status.drops_old_data(story.plan()) && !leads_over {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "restore {epoch} has begun to drop the old data, so it cannot be taken back: go on with `keepsake resume`"
            ),
        ));
    }
    if command.dry_run {
        output::result(args, story.plan(), || {
            let first = if leads_over { "that of the agents: what is built stays" } else { "the first" };
            let then = if discard_writes && story.plan().follows() {
                "; then what follows from the data is made anew"
            } else {
                ""
            };
            format!("{}\nwould be taken back, from the last step that was begun to {first}{then}\n", story.plan())
        })?;
        return Ok(Exit::Done);
    }
    if discard_writes {
        if let Some(component) = status.is_loaded_for_good(story.plan()) {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "restore {epoch} has loaded {component} over its live data, which does not come back: the others alone would make a mixture. Go on with \
                     `keepsake resume`; the state of before is in the safety set, which can be restored then"
                ),
            ));
        }
        may_discard(command, epoch.0)?;
    }
    let turn = Turn { why: WHY, discard_writes };
    let done = carry::go_on(args, means, runs, story, command.coordinator_is_gone, Some(turn), in_time).await?;
    Ok(Exit::of_given_up(done))
}

fn may_discard(command: &Rollback, epoch: u64) -> Result<()> {
    if command.discard_writes {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!(
            "the applications have written since restore {epoch}, and all of that would be lost: the stores would be again what they were before it. If \
             that is what you want, say --discard-writes"
        ),
    ))
}

/// The restore whose old data agents keep; the newest, if there are several.
async fn kept_by(runs: &Runs, means: &Means<'_>, inventory: &Inventory, puts_back: bool) -> Result<Restored> {
    let name = &means.installation.name;
    let keeps = |state: &Staged| matches!(state, Staged::Committed | Staged::Committing);
    let loads = inventory.answers().flat_map(|found| &found.loads).filter(|(_, state)| keeps(state));
    let kept: BTreeSet<RunId> = loads.map(|(run, _)| *run).collect();
    let silent = means.installation.components.iter().filter_map(|c| match inventory.of(&c.name) {
        Some(Err(failure)) => Some(format!("{} ({})", c.name, failure.text)),
        Some(Ok(found)) => found.must_answer(&c.name).err().map(|e| e.chain()),
        None => None,
    });
    let Some(run) = kept.last() else {
        let silent: Vec<_> = silent.collect();
        let asked = if silent.is_empty() { String::new() } else { format!("; not asked: {}", silent.join(", ")) };
        return Err(Error::new(Kind::NotFound, format!("no component of {name} keeps old data of a restore{asked}")));
    };
    let Some(story) = Story::of(runs, name, *run).await? else {
        return Err(Error::new(
            Kind::NotFound,
            format!(
                "agents of {name} keep the old data of run {run}, and no journal here tells of that run: is this the repository it was restored from?"
            ),
        ));
    };
    // Databases outside of a namespace that was made anew still keep what is old, and it must be possible to drop it.
    let objects = means.installation.components.iter().find(|c| are_objects(&c.engine)).map(|c| &c.name);
    let keeps_objects = objects
        .and_then(|c| inventory.of(c)?.as_ref().ok())
        .is_some_and(|found| found.loads.iter().any(|(of, state)| of == run && keeps(state)));
    if puts_back || keeps_objects {
        means.ensure_place(story.root()).await?;
    }
    let set = story.plan().set.ok_or_else(|| Error::new(Kind::Internal, "the restore names no set"))?;
    Ok(Restored { run: *run, epoch: story.root().epoch, set, components: restore::staged(story.plan()) })
}

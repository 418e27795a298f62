//! `cancel`: a living coordinator stops by itself; in the place of one that is gone, this one puts everything back.

use std::time::Duration;

use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use keepsake_core::repository::runs::Runs;

use super::args::{Args, Cancel};
use super::carry::{self, Means, Turn};
use super::{output, runs};
use crate::app::App;
use crate::catalog;
use crate::exit::Exit;
use crate::fleet::Fleet;
use crate::run::claim;
use crate::run::event::Outcome;
use crate::run::status::Run;
use crate::run::story::{Story, unfinished};
use crate::topology::InstallationSettings;

/// Why such a run goes back, for ever in its journal.
const WHY: &str = "given up by `keepsake cancel`";

/// Runs the command.
pub(super) async fn run(args: &Args, app: &App, command: &Cancel) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let runs = app.runs()?;
    let Some(story) = unfinished(&runs, &installation.name, None).await? else {
        return Err(Error::new(Kind::NotFound, format!("no run of {} is unfinished", installation.name)));
    };
    can_be_cancelled(&story)?;
    runs.ask_to_cancel(&installation.name, story.tail().head.epoch).await?;
    if claim::is_fresh(story.tail(), clock::now()) && !command.coordinator_is_gone {
        return wait(args, &runs, story, Duration::from_secs(command.wait)).await;
    }
    if story.plan().is_backup() {
        return abandon(args, app, installation, &runs, &story).await;
    }
    let means = Means::new(app, installation).await?;
    let turn = Turn { why: WHY, discard_writes: false };
    let done = carry::go_on(args, &means, &runs, story, command.coordinator_is_gone, Some(turn)).await?;
    Ok(match done {
        // What was asked for is done, whatever had failed before.
        Some(Outcome::Cancelled | Outcome::Failed) => Exit::Done,
        Some(other) => Exit::of_outcome(other),
        None => Exit::Halted,
    })
}

/// Past the point of no return a run only goes on.
fn can_be_cancelled(story: &Story) -> Result<()> {
    if !story.status().passed {
        return Ok(());
    }
    let root = story.root();
    let discard = if root.plan.is_restore() {
        format!(
            ", or take it back with `keepsake rollback --installation {} --discard-writes`, which loses what the applications wrote since",
            root.installation
        )
    } else {
        String::new()
    };
    Err(Error::new(
        Kind::Conflict,
        format!(
            "{} {} of {} is past its point of no return and can only go on: let it, or, if it is not running, go on with it by `keepsake resume \
             --installation {}`{discard}",
            root.plan.word(),
            root.epoch,
            root.installation,
            root.installation
        ),
    ))
}

/// Waits for a living coordinator to stop by itself.
async fn wait(args: &Args, runs: &Runs, story: Story, limit: Duration) -> Result<Exit> {
    let (name, epoch) = (story.root().installation.clone(), story.tail().head.epoch);
    let end = tokio::time::Instant::now() + limit;
    loop {
        let now = Story::with(runs, &name, epoch).await?;
        let status = now.status();
        if status.ended.is_some() || status.rests.is_some() {
            output::result(args, &runs::line(&now), || format!("run {} ended: {}\n", now.root().epoch, status.word()))?;
            // It may have been done before it heard.
            let stuck = matches!(status.rests, Some((Outcome::Stuck, _)));
            return Ok(if stuck { Exit::StuckOrPartial } else { Exit::Done });
        }
        can_be_cancelled(&now)?;
        if tokio::time::Instant::now() >= end {
            return Err(Error::new(
                Kind::Busy,
                format!(
                    "run {} was asked to stop and has not ended in {} s. A load is finished first. If you know that its coordinator ({}) is gone, say \
                     --coordinator-is-gone",
                    now.root().epoch,
                    limit.as_secs(),
                    now.tail().head.by
                ),
            ));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Ends a backup whose coordinator is gone.
async fn abandon(
    args: &Args,
    app: &App,
    installation: &InstallationSettings,
    runs: &Runs,
    story: &Story,
) -> Result<Exit> {
    let run: Run = runs.read(&installation.name, story.tail().head.epoch).await?;
    claim::end_abandoned(runs, &run, "its coordinator was gone; ended by `keepsake cancel`").await?;
    stop_agents(app, installation, &run).await;
    let what = catalog::left_by(app.repository().await.as_ref(), &run.head.plan).await;
    output::result(
        args,
        &serde_json::json!({ "epoch": run.head.epoch, "outcome": "abandoned", "note": what }),
        || format!("run {} is ended. {what}.\n", run.head.epoch),
    )?;
    Ok(Exit::Done)
}

/// Agents that still work for the run are told to stop; one that does not answer stops by itself after ten minutes.
async fn stop_agents(app: &App, installation: &InstallationSettings, run: &Run) {
    let key = RunKey { run: run.head.run, installation: run.head.installation.clone(), epoch: run.head.epoch };
    let fleet = match app.fleet(installation) {
        Ok(fleet) => fleet,
        Err(e) => {
            output::say(&format!("the agents could not be told: {}", e.chain()));
            return;
        }
    };
    for component in &installation.components {
        if let Err(e) = fleet.cancel_run(&component.name, &key).await {
            output::say(&format!("{} could not be told: {}", component.name, e.chain()));
        }
    }
}

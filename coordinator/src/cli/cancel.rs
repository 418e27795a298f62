//! `cancel`: a living coordinator stops by itself; in the place of one that is gone, this one puts everything back.

use std::time::Duration;

use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use keepsake_core::repository::runs::Runs;

use super::args::{Args, Cancel};
use super::carry::{self, Means, Turn};
use super::reach::reached_again;
use super::{output, runs};
use crate::app::App;
use crate::catalog;
use crate::exit::Exit;
use crate::fleet::Fleet;
use crate::run::claim;
use crate::run::event::{Event, Outcome};
use crate::run::in_time::InTime;
use crate::run::status::{Run, StepStatus};
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
    // A run that is going on by now may be one that whoever asked has never heard of. The wish is all that is begun here, and it is begun next.
    command.in_time.of("cancel").ensure(&installation.name)?;
    if command.leave_as_it_is {
        return leave(args, &runs, &story, command.coordinator_is_gone).await;
    }
    can_be_cancelled(&story)?;
    runs.ask_to_cancel(&installation.name, story.tail().head.epoch).await?;
    if claim::is_fresh(story.tail(), clock::now()) && !command.coordinator_is_gone {
        return wait(args, &runs, story, Duration::from_secs(command.wait)).await;
    }
    if story.plan().is_backup() {
        return abandon(args, app, installation, &runs, &story).await;
    }
    let installation = &reached_again(app, installation, story.plan()).await?;
    let means = Means::new(app, installation).await?;
    let turn = Turn { why: WHY, discard_writes: false };
    let done =
        carry::go_on(args, &means, &runs, story, command.coordinator_is_gone, Some(turn), &InTime::default()).await?;
    Ok(Exit::of_given_up(done))
}

/// Ends a run without doing anything, for one that will never come to its end: whoever says so knows what the stores hold. Agents keep what they keep,
/// and say so when the next restore is planned.
async fn leave(args: &Args, runs: &Runs, story: &Story, is_gone: bool) -> Result<Exit> {
    if claim::is_fresh(story.tail(), clock::now()) && !is_gone {
        return Err(claim::busy(story));
    }
    let (root, status) = (story.root(), story.status());
    let open = story.plan().steps().filter(|s| {
        !matches!(status.steps.get(&s.id), Some(StepStatus::Succeeded | StepStatus::Undone | StepStatus::Waiting))
    });
    let open: Vec<_> = open.map(|s| s.id.to_string()).collect();
    let open = if open.is_empty() { "none".to_owned() } else { open.join(", ") };
    let note =
        format!("left as it is by `keepsake cancel --leave-as-it-is`; steps that were begun and are not over: {open}");
    let event = Event::Ended { outcome: Outcome::Stuck, note: note.clone() };
    runs.continue_log(story.tail()).append(&event).await?;
    output::result(args, &serde_json::json!({ "epoch": root.epoch, "outcome": Outcome::Stuck, "note": note }), || {
        format!(
            "{} {} of {} is ended and nothing was done: {note}. What the stores hold is for you to judge; old data that is still kept goes by \
                 `keepsake finalize` or comes back by `keepsake rollback`.\n",
            root.plan.word(),
            root.epoch,
            root.installation
        )
    })?;
    Ok(Exit::StuckOrPartial)
}

/// Past the point of no return a run only goes on.
fn can_be_cancelled(story: &Story) -> Result<()> {
    if story.status().may_turn(story.plan()) {
        return Ok(());
    }
    let root = story.root();
    let discard = if story.plan().may_be_taken_back() {
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
             --installation {}`{discard}. A run that can never come to its end is ended as it is by `keepsake cancel --leave-as-it-is`",
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
            // It may have been done before it heard, or have stopped half way.
            return Ok(Exit::of_given_up(status.ended.or(status.rests).map(|(outcome, _)| outcome)));
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
    let reached = reached_again(app, installation, &run.head.plan).await;
    let reached = reached.and_then(|installation| Ok((app.fleet(&installation)?, installation)));
    let (fleet, installation) = match reached {
        Ok(reached) => reached,
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

//! `runs` and `cancel`.

use std::time::Duration;

use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Epoch, RunKey};
use keepsake_core::repository::runs::Runs as Journal;
use serde::Serialize;

use super::args::{Args, Cancel, Runs};
use super::backup::looked_at;
use super::output;
use crate::app::App;
use crate::catalog;
use crate::exit::Exit;
use crate::fleet::Fleet;
use crate::run::claim;
use crate::run::event::Event;
use crate::run::status::{Run, RunStatus, StepStatus};
use crate::topology::InstallationSettings;

#[derive(Debug, Serialize)]
struct Line {
    installation: String,
    epoch: u64,
    kind: &'static str,
    started: jiff::Timestamp,
    status: &'static str,
    set: String,
    by: String,
    note: String,
}

/// Lists runs or tells the story of one.
pub(super) async fn list(args: &Args, app: &App, command: &Runs) -> Result<Exit> {
    let runs = app.runs()?;
    if let Some(epoch) = command.epoch {
        let installation = app.topology.installation(command.which.installation.as_ref())?;
        let run: Run = runs.read(&installation.name, Epoch(epoch)).await?;
        let events: Vec<_> =
            run.events.iter().map(|e| serde_json::json!({ "n": e.n, "at": e.at, "event": e.event })).collect();
        let story = serde_json::json!({ "head": run.head, "events": events, "cancel_asked": run.cancel_asked });
        output::result(args, &story, || told(&run))?;
        return Ok(Exit::Done);
    }
    let mut lines = Vec::new();
    for installation in looked_at(&app.topology, &command.which)? {
        let mut epochs = runs.epochs(&installation.name).await?;
        let keep = epochs.len().saturating_sub(command.limit);
        for epoch in epochs.split_off(keep) {
            match runs.read(&installation.name, epoch).await {
                Ok(run) => lines.push(line(&run)),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    output::result(args, &lines, || {
        let rows: Vec<_> = lines
            .iter()
            .map(|l| {
                vec![
                    l.installation.clone(),
                    l.epoch.to_string(),
                    l.kind.to_owned(),
                    l.started.to_string(),
                    l.status.to_owned(),
                    l.set.clone(),
                    l.note.clone(),
                ]
            })
            .collect();
        output::table(&["INSTALLATION", "EPOCH", "KIND", "STARTED", "STATUS", "SET", "NOTE"], &rows)
    })?;
    Ok(Exit::Done)
}

fn line(run: &Run) -> Line {
    let status = RunStatus::of_run(run);
    let note = match (&status.ended, claim::is_fresh(run, clock::now())) {
        (Some((_, note)), _) => note.clone(),
        (None, true) => "going on".to_owned(),
        (None, false) => "its coordinator is gone".to_owned(),
    };
    Line {
        installation: run.head.installation.to_string(),
        epoch: run.head.epoch.0,
        kind: run.head.plan.word(),
        started: run.head.started,
        status: status.word(),
        set: run.head.plan.set.to_string(),
        by: run.head.by.clone(),
        note,
    }
}

fn told(run: &Run) -> String {
    let status = RunStatus::of_run(run);
    let mut out = format!("{}\nby {} since {}\n\n", run.head.plan, run.head.by, run.head.started);
    for event in &run.events {
        let text = match &event.event {
            Event::Started { step } => format!("{step} started"),
            Event::Succeeded { step, .. } => format!("{step} done"),
            Event::Failed { step, failure } => format!("{step} FAILED: {}", failure.text),
            Event::UndoStarted { step } => format!("{step} is being undone"),
            Event::Undone { step } => format!("{step} undone"),
            Event::UndoFailed { step, failure } => format!("{step} could NOT be undone: {}", failure.text),
            Event::RecordPrepared { .. } => "the record is signed".to_owned(),
            Event::Alive => continue,
            Event::Ended { outcome, note } => format!("ended: {} {note}", outcome.as_str()),
            Event::Unknown => "something that a newer Keepsake did".to_owned(),
        };
        out.push_str(&format!("{}  {text}\n", event.at));
    }
    let open: Vec<_> =
        status.steps.iter().filter(|(_, s)| **s == StepStatus::Started).map(|(id, _)| id.to_string()).collect();
    if status.ended.is_none() && !open.is_empty() {
        out.push_str(&format!("not known to be done: {}\n", open.join(", ")));
    }
    out
}

/// Stops a run, or ends one whose coordinator is gone.
pub(super) async fn cancel(args: &Args, app: &App, command: &Cancel) -> Result<Exit> {
    let installation = app.topology.installation(command.installation.as_ref())?;
    let runs = app.runs()?;
    let Some(run) = claim::unfinished(&runs, &installation.name, None).await? else {
        return Err(Error::new(Kind::NotFound, format!("no run of {} is unfinished", installation.name)));
    };
    runs.ask_to_cancel(&installation.name, run.head.epoch).await?;
    if claim::is_fresh(&run, clock::now()) && !command.coordinator_is_gone {
        if let Some(ended) = wait_for_end(&runs, &run, Duration::from_secs(command.wait)).await? {
            output::result(args, &line(&ended), || {
                format!("run {} ended: {}\n", run.head.epoch, RunStatus::of_run(&ended).word())
            })?;
            return Ok(Exit::Done);
        }
        return Err(Error::new(
            Kind::Busy,
            format!(
                "run {} was asked to stop and has not ended in {} s. A load over live data is finished first. If you know that its coordinator ({}) \
                 is gone, say --coordinator-is-gone",
                run.head.epoch, command.wait, run.head.by
            ),
        ));
    }
    let run: Run = runs.read(&installation.name, run.head.epoch).await?;
    claim::end_abandoned(&runs, &run, "its coordinator was gone; ended by `keepsake cancel`").await?;
    stop_agents(app, installation, &run).await;
    let what = if run.head.plan.is_restore() {
        "Look at the datastores before the applications start: a component may hold the old data, the new, or a part"
            .to_owned()
    } else {
        catalog::left_by(app.repository().await.as_ref(), &run.head.plan).await
    };
    output::result(
        args,
        &serde_json::json!({ "epoch": run.head.epoch, "outcome": "abandoned", "note": what }),
        || format!("run {} is ended. {what}.\n", run.head.epoch),
    )?;
    Ok(Exit::Done)
}

async fn wait_for_end(runs: &Journal, run: &Run, limit: Duration) -> Result<Option<Run>> {
    let end = tokio::time::Instant::now() + limit;
    loop {
        let now: Run = runs.read(&run.head.installation, run.head.epoch).await?;
        if RunStatus::of_run(&now).ended.is_some() {
            return Ok(Some(now));
        }
        if tokio::time::Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
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

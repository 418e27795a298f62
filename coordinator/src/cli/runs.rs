//! `runs`: the list, and the story of one.

use keepsake_core::clock;
use keepsake_core::error::{Kind, Result};
use keepsake_core::id::Epoch;
use serde::Serialize;

use super::args::{Args, Runs};
use super::backup::looked_at;
use super::{output, report};
use crate::app::App;
use crate::exit::Exit;
use crate::plan::Plan;
use crate::run::claim;
use crate::run::event::Event;
use crate::run::status::{Run, StepStatus};
use crate::run::story::{Story, is_part_of_its_run, taken_over_by};

#[derive(Debug, Serialize)]
pub(super) struct Line {
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
        let story = Story::with(&runs, &installation.name, Epoch(epoch)).await?;
        let told_of = |run: &Run| {
            let events: Vec<_> =
                run.events.iter().map(|e| serde_json::json!({ "n": e.n, "at": e.at, "event": e.event })).collect();
            serde_json::json!({ "head": run.head, "events": events, "cancel_asked": run.cancel_asked })
        };
        // The run as it began, and beside it under which epochs others went on with it.
        let mut links = story.links().map(told_of);
        let mut json = links.next().unwrap_or_default();
        if let Some(fields) = json.as_object_mut() {
            fields.insert("status".to_owned(), story.status().word().into());
            fields.insert("resumed".to_owned(), links.collect());
        }
        output::result(args, &json, || told(&story))?;
        return Ok(Exit::Done);
    }
    let mut lines = Vec::new();
    for installation in looked_at(&app.topology, &command.which)? {
        let mut epochs = runs.epochs(&installation.name).await?;
        let keep = epochs.len().saturating_sub(command.limit);
        for epoch in epochs.split_off(keep) {
            match runs.read(&installation.name, epoch).await {
                Ok(run) => lines.push(line_of(&runs, run).await?),
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

/// One epoch: the last of a run tells how the run is.
pub(super) fn line(story: &Story) -> Line {
    let (run, status) = (story.tail(), story.status());
    let note = match (&status.ended, &status.rests, claim::is_fresh(run, clock::now())) {
        (Some((_, note)), _, _) | (None, Some((_, note)), _) => note.clone(),
        (None, None, true) => "going on".to_owned(),
        (None, None, false) => "its coordinator is gone".to_owned(),
    };
    let built = if story.second().is_some() && status.ended.is_none() { "built, the data now; " } else { "" };
    let from =
        if run.head.resumes.is_some() { format!("goes on with {}; ", story.root().epoch) } else { String::new() };
    Line {
        installation: run.head.installation.to_string(),
        epoch: run.head.epoch.0,
        kind: run.head.plan.word(),
        started: run.head.started,
        status: status.word(),
        set: run.head.plan.set.map_or_else(|| "-".to_owned(), |set| set.to_string()),
        by: run.head.by.clone(),
        note: format!("{from}{built}{note}"),
    }
}

async fn line_of(runs: &keepsake_core::repository::runs::Runs, run: Run) -> Result<Line> {
    if !is_part_of_its_run(runs, &run).await? {
        let line = line(&Story::ending_with(runs, run).await?);
        return Ok(Line {
            status: "refused",
            note: "it did nothing: another one goes on with the run".to_owned(),
            ..line
        });
    }
    match taken_over_by(&run) {
        None => Ok(line(&Story::ending_with(runs, run).await?)),
        Some(by) => {
            let line = line(&Story::ending_with(runs, run).await?);
            Ok(Line { status: "resumed", note: format!("run {by} goes on with it"), ..line })
        }
    }
}

fn told(story: &Story) -> String {
    let (root, status) = (story.root(), story.status());
    let mut out = format!("{}\nby {} since {}\n\n", root.plan, root.by, root.started);
    for run in story.links() {
        if run.head.resumes.is_some() {
            out.push_str(&format!("{}  run {} goes on, by {}\n", run.head.started, run.head.epoch, run.head.by));
        }
        for event in &run.events {
            if let Some(text) = said(story.plan(), &event.event) {
                out.push_str(&format!("{}  {text}\n", event.at));
            }
        }
    }
    let open: Vec<_> =
        status.steps.iter().filter(|(_, s)| **s == StepStatus::Started).map(|(id, _)| id.to_string()).collect();
    if status.ended.is_none() && !open.is_empty() {
        out.push_str(&format!("not known to be done: {}\n", open.join(", ")));
    }
    if let (Some(cause), true) = (&status.cause, story.tail().head.plan.is_restore()) {
        let step = cause.step.as_ref().map_or_else(|| "somebody".to_owned(), ToString::to_string);
        out.push_str(&format!("cause: {step}: {}\n", cause.failure.text));
    }
    if status.ended.is_none() {
        let what = match (&status.back, status.passed) {
            (Some(_), _) => "it goes back",
            (None, _) if status.leads_over(story.plan()) => {
                "the installation is built and stays; its data is still to be planned, and may be given up"
            }
            (None, true) => "it is past the point of no return and only goes forward",
            (None, false) => "it goes forward, and can be taken back",
        };
        out.push_str(&format!("{what}\n"));
    }
    out
}

fn said(plan: &Plan, event: &Event) -> Option<String> {
    Some(match event {
        Event::Started { step } => format!("{step} started"),
        Event::Succeeded { step, output } => format!("{step} done{}", report::said(output)),
        Event::Failed { step, failure } => format!("{step} FAILED: {}", failure.text),
        Event::UndoStarted { step } | Event::Undone { step } | Event::UndoFailed { step, .. } => {
            report::undoing(plan, step, event)
        }
        Event::SetPrepared { .. } => "the set has a key".to_owned(),
        Event::RecordPrepared { .. } => "the record is signed".to_owned(),
        Event::Unwinding { failure, discard_writes: false } => format!("going back: {}", failure.text),
        Event::Unwinding { failure, discard_writes: true } => {
            format!("going back, and what applications wrote is lost: {}", failure.text)
        }
        Event::Halted { outcome, note } => format!("{}: {note}", outcome.as_str()),
        Event::TakenOver { by } => format!("its coordinator is gone; run {by} takes over"),
        Event::Planned { plan, .. } => format!("the installation is built; its second plan is\n\n{plan}"),
        Event::Alive => return None,
        Event::Ended { outcome, note } => format!("ended: {} {note}", outcome.as_str()),
        Event::Unknown => "something that a newer Keepsake did".to_owned(),
    })
}

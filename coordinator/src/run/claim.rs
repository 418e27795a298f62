//! Who may run: beginning a run beside others, and ending one whose coordinator is gone.
//!
//! There is no lock. An unfinished backup blocks nobody for longer than its coordinator is alive; anything else that is unfinished blocks
//! everybody until a person has resumed or cancelled it.

use std::time::Duration;

use jiff::Timestamp;
use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Installation, RunId};
use keepsake_core::repository::runs::{RunHead, RunLog, Runs};

use super::event::{Event, Outcome, abandoned_by};
use super::in_time::InTime;
use super::status::Run;
use super::story::{Story, unfinished};
use crate::plan::Plan;

/// A coordinator that has not written for so long counts as gone.
pub const GONE_AFTER: Duration = Duration::from_mins(10);

/// So many epochs are looked at for a run that was begun already.
const RECENT: usize = 20;

/// Whether the run's coordinator wrote something lately. One that has said that it stops is not there any more.
pub fn is_fresh(run: &Run, now: Timestamp) -> bool {
    if matches!(run.events.last().map(|e| &e.event), Some(Event::Halted { .. })) {
        return false;
    }
    let last = run.events.last().map_or(run.head.started, |e| e.at);
    // A time from the future is somebody's wrong clock; it proves that the coordinator was there, so it counts as fresh.
    now.duration_since(last).unsigned_abs() < GONE_AFTER || last > now
}

/// Takes the next epoch for a plan, ending an abandoned backup before it.
///
/// # Errors
/// `Busy` when another run is going on, `Conflict` when one is unfinished that is no backup; both name it and what to do.
pub async fn begin(runs: &Runs, installation: &Installation, plan: &Plan) -> Result<(RunHead<Plan>, RunLog)> {
    begin_as(runs, installation, plan, None, &InTime::default()).await
}

/// The same, under the id that whoever follows the run has given it. Such a run is begun once: a pod that is made again begins nothing. Nor does one that
/// comes too late.
///
/// # Errors
/// As [`begin`]; `Exists` when a run of that id was begun already; `Conflict` when it is too late.
pub async fn begin_as(
    runs: &Runs,
    installation: &Installation,
    plan: &Plan,
    run: Option<RunId>,
    in_time: &InTime,
) -> Result<(RunHead<Plan>, RunLog)> {
    // Looked at before, so that a refused command leaves no trace …
    if let Some(other) = unfinished(runs, installation, None).await? {
        judge(&other)?;
    }
    if let Some(run) = run {
        is_new(runs, installation, run).await?;
    }
    let run = run.unwrap_or_else(RunId::generate);
    in_time.ensure(installation)?;
    let (head, mut log) = runs.begin_as(plan.format(), installation, &by(), plan, run).await?;
    // … and again once the epoch is taken, because another coordinator may have begun in between.
    keep_or_refuse(runs, installation, &head, &mut log).await?;
    Ok((head, log))
}

/// Looks whether an epoch that was taken may run. Whatever goes wrong here, it is not left open: it would look like a run that has begun.
///
/// # Errors
/// As [`begin`].
pub async fn keep_or_refuse(
    runs: &Runs,
    installation: &Installation,
    head: &RunHead<Plan>,
    log: &mut RunLog,
) -> Result<()> {
    match has_the_floor(runs, installation, head).await {
        Ok(()) => Ok(()),
        Err(e) => Err(refuse(log, e).await),
    }
}

/// Whether it is not too late already, before anything is looked at that takes long.
///
/// # Errors
/// `Conflict` when it is; `Exists` when the run was begun: whoever is made again long after that is one too many, and should not say that nothing was done.
pub async fn ensure_in_time(
    runs: &Runs,
    installation: &Installation,
    run: Option<RunId>,
    in_time: &InTime,
) -> Result<()> {
    let Err(late) = in_time.ensure(installation) else { return Ok(()) };
    if let Some(run) = run {
        is_new(runs, installation, run).await?;
    }
    Err(late)
}

/// Whoever is made again comes soon after the first, so only the newest epochs are looked at.
async fn is_new(runs: &Runs, installation: &Installation, run: RunId) -> Result<()> {
    for epoch in runs.epochs(installation).await?.into_iter().rev().take(RECENT) {
        let head: Option<RunHead<Plan>> = runs.head(installation, epoch).await?;
        if head.is_some_and(|head| head.run == run) {
            let text = format!(
                "run {run} of {installation} was begun already, as {epoch}: this coordinator is one too many and does nothing. If that one is gone, go on \
                 with `keepsake resume --installation {installation}`"
            );
            return Err(Error::new(Kind::Exists, text));
        }
    }
    Ok(())
}

async fn has_the_floor(runs: &Runs, installation: &Installation, head: &RunHead<Plan>) -> Result<()> {
    let Some(other) = unfinished(runs, installation, Some(head)).await? else { return Ok(()) };
    judge(&other)?;
    match runs.continue_log(other.tail()).append(&abandoned_by(head.epoch)).await {
        Err(e) if e.kind() == Kind::Conflict => Err(busy(&other)),
        done => done,
    }
}

/// Ends an epoch that was taken in vain, and gives the reason.
pub(super) async fn refuse(log: &mut RunLog, refused: Error) -> Error {
    match log.append(&Event::Ended { outcome: Outcome::Refused, note: refused.chain() }).await {
        Ok(()) => refused,
        Err(e) => e,
    }
}

/// Whether another run may begin beside an unfinished one.
///
/// # Errors
/// `Busy` or `Conflict`, with the remedy.
pub fn judge(other: &Story) -> Result<()> {
    if is_fresh(other.tail(), clock::now()) {
        return Err(busy(other));
    }
    if other.plan().may_be_abandoned() {
        return Ok(());
    }
    let (root, installation) = (other.root(), &other.root().installation);
    let (word, status) = (root.plan.word(), other.status());
    let why = match &status.rests {
        Some((outcome, note)) => format!("is {}: {note}", outcome.as_str()),
        None => format!("is unfinished and its coordinator is gone ({})", other.tail().head.by),
    };
    Err(Error::new(
        Kind::Conflict,
        format!(
            "{word} {} of {installation} {why}. Nothing else is begun until it is over: see `keepsake runs {}`, then go on with `keepsake resume \
             --installation {installation}`{}",
            root.epoch,
            root.epoch,
            way_out(other, !status.may_turn(other.plan())),
        ),
    ))
}

/// How a run is given up, if it can be.
fn way_out(other: &Story, passed: bool) -> String {
    let installation = &other.root().installation;
    match (passed, other.plan().may_be_taken_back()) {
        (false, _) => format!(", or give it up with `keepsake cancel --installation {installation}`"),
        (true, true) => {
            format!(", or take it back with `keepsake rollback --installation {installation} --discard-writes`")
        }
        (true, false) => String::new(),
    }
}

/// What is told whoever meets a run that is going on.
pub fn busy(other: &Story) -> Error {
    let root = other.root();
    Error::new(
        Kind::Busy,
        format!(
            "{} {} of {} is going on ({}): wait for it, or stop it with `keepsake cancel --installation {}`",
            root.plan.word(),
            root.epoch,
            root.installation,
            other.tail().head.by,
            root.installation
        ),
    )
}

/// Ends a run whose coordinator is gone.
///
/// # Errors
/// `Conflict` when its coordinator wrote something in between.
pub async fn end_abandoned(runs: &Runs, run: &Run, note: &str) -> Result<()> {
    let event = Event::Ended { outcome: Outcome::Abandoned, note: note.to_owned() };
    runs.continue_log(run).append(&event).await
}

/// Who this is: host and process, for people.
pub(crate) fn by() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown host".to_owned(), |h| h.trim().to_owned());
    format!("{host} pid {}", std::process::id())
}

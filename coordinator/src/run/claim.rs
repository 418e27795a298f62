//! Who may run: beginning a run beside others, and ending one whose coordinator is gone.
//!
//! There is no lock. An unfinished backup blocks nobody for longer than its coordinator is alive; an unfinished restore blocks
//! everybody until a person has looked at it.

use std::time::Duration;

use jiff::Timestamp;
use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::Installation;
use keepsake_core::repository::runs::{RunHead, RunLog, Runs};

use super::event::{Event, Outcome, abandoned_by};
use super::status::{Run, RunStatus};
use crate::plan::Plan;

/// A coordinator that has not written for so long counts as gone.
pub const GONE_AFTER: Duration = Duration::from_mins(10);

/// Whether the run's coordinator wrote something lately.
pub fn is_fresh(run: &Run, now: Timestamp) -> bool {
    let last = run.events.last().map_or(run.head.started, |e| e.at);
    // A time from the future is somebody's wrong clock; it proves that the coordinator was there, so it counts as fresh.
    now.duration_since(last).unsigned_abs() < GONE_AFTER || last > now
}

/// Takes the next epoch for a plan, ending an abandoned backup before it.
///
/// # Errors
/// `Busy` when another run is going on, `Conflict` when a restore is unfinished; both name it and what to do.
pub async fn begin(runs: &Runs, installation: &Installation, plan: &Plan) -> Result<(RunHead<Plan>, RunLog)> {
    // Looked at before, so that a refused command leaves no trace …
    if let Some(other) = unfinished(runs, installation, None).await? {
        judge(&other)?;
    }
    let by = format!("{} pid {}", hostname(), std::process::id());
    let (head, mut log) = runs.begin(installation, &by, plan).await?;
    // … and again once the epoch is taken, because another coordinator may have begun in between.
    if let Some(other) = unfinished(runs, installation, Some(&head)).await? {
        if let Err(refused) = judge(&other) {
            log.append(&Event::Ended { outcome: Outcome::Refused, note: refused.chain() }).await?;
            return Err(refused);
        }
        match runs.continue_log(&other).append(&abandoned_by(head.epoch)).await {
            Ok(()) => {}
            Err(e) if e.kind() == Kind::Conflict => {
                let refused = busy(&other);
                log.append(&Event::Ended { outcome: Outcome::Refused, note: refused.chain() }).await?;
                return Err(refused);
            }
            Err(e) => return Err(e),
        }
    }
    Ok((head, log))
}

/// The newest unfinished run before `head`'s (before any, without it). Runs that were refused do not hide older ones.
///
/// # Errors
/// The runs cannot be read.
pub async fn unfinished(runs: &Runs, installation: &Installation, head: Option<&RunHead<Plan>>) -> Result<Option<Run>> {
    for epoch in runs.epochs(installation).await?.into_iter().rev() {
        if head.is_some_and(|h| epoch >= h.epoch) {
            continue;
        }
        let run: Run = match runs.read(installation, epoch).await {
            Ok(run) => run,
            // A folder without its plan: a writer was killed before the epoch was taken.
            Err(e) if e.kind() == Kind::NotFound => continue,
            Err(e) => return Err(e),
        };
        match RunStatus::of_run(&run).ended {
            None => return Ok(Some(run)),
            Some((Outcome::Refused, _)) => {}
            Some(_) => return Ok(None),
        }
    }
    Ok(None)
}

fn judge(other: &Run) -> Result<()> {
    if is_fresh(other, clock::now()) {
        return Err(busy(other));
    }
    if other.head.plan.is_restore() {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "restore {} of {} ({}) is unfinished and its coordinator is gone: see `keepsake runs`, look at the datastores, then end it with \
                 `keepsake cancel --installation {}`",
                other.head.epoch, other.head.installation, other.head.by, other.head.installation
            ),
        ));
    }
    Ok(())
}

fn busy(other: &Run) -> Error {
    Error::new(
        Kind::Busy,
        format!(
            "{} {} of {} is going on ({}): wait for it, or stop it with `keepsake cancel --installation {}`",
            other.head.plan.word(),
            other.head.epoch,
            other.head.installation,
            other.head.by,
            other.head.installation
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

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown host".to_owned(), |h| h.trim().to_owned())
}

//! Going on with a run whose coordinator is gone, under a new epoch.

use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::repository::runs::{RunHead, RunLog, Runs};

use super::claim::{busy, by, is_fresh, refuse};
use super::event::{Event, Outcome};
use super::status::{Run, RunStatus};
use super::story::{Story, taken_over_by};
use crate::plan::Plan;

/// A run that was taken over: this coordinator may go on with it, and nobody else can.
#[derive(Debug)]
pub struct TakenOver {
    /// The new epoch.
    pub head: RunHead<Plan>,
    /// Its journal.
    pub log: RunLog,
    /// All that happened before.
    pub story: Story,
}

/// Takes a run over: takes the next epoch, and makes it the one that goes on by the last entry of the journal so far. From then on the coordinator
/// before can write nothing more, and so begins nothing more; agents refuse it from the first call under the new epoch on.
///
/// # Errors
/// `Corrupt` when one of its plans is not what was begun; `Busy` when its coordinator is alive, unless `is_gone` says that it is not, or when somebody else took the run over at the same moment; `Conflict` when
/// it ended in between.
pub async fn take_over(runs: &Runs, story: Story, is_gone: bool) -> Result<TakenOver> {
    if !is_gone && is_fresh(story.tail(), clock::now()) {
        return Err(busy(&story));
    }
    story.check_second()?;
    let (head, mut log) = runs.resume(&story.tail().head, &by()).await?;
    let mut story = story;
    loop {
        let fenced = runs.continue_log(story.tail()).append(&Event::TakenOver { by: head.epoch }).await;
        let lost = match fenced {
            Ok(()) => None,
            Err(e) if e.kind() == Kind::Conflict => Some(e),
            Err(e) => return Err(e),
        };
        // Read again in either case: what is before that entry is the whole truth now.
        let tail: Run = match runs.read(&head.installation, story.tail().head.epoch).await {
            Ok(tail) => tail,
            Err(e) => return Err(refuse_or_halt(&mut log, lost.is_none(), e).await),
        };
        let (by, ended) = (taken_over_by(&tail), RunStatus::of_run(&tail).ended);
        story = match Story::ending_with(runs, tail).await {
            Ok(story) => story,
            Err(e) => return Err(refuse_or_halt(&mut log, lost.is_none(), e).await),
        };
        let Some(lost) = lost else { return Ok(TakenOver { head, log, story }) };
        let refused = match (by, ended) {
            (Some(by), _) => Error::new(
                Kind::Busy,
                format!(
                    "run {} of {} was taken over by run {by} at the same moment",
                    story.root().epoch,
                    head.installation
                ),
            ),
            (None, Some(_)) => Error::caused(
                Kind::Conflict,
                format!(
                    "run {} of {} has ended in between: see `keepsake runs`",
                    story.root().epoch,
                    head.installation
                ),
                lost,
            ),
            // It wrote something in between: it is alive, whatever was believed.
            (None, None) if !is_gone => busy(&story),
            (None, None) => continue,
        };
        return Err(refuse(&mut log, refused).await);
    }
}

/// An epoch is not left open when its coordinator goes away: it would count as at work. `ours` says that the run goes on under it.
async fn refuse_or_halt(log: &mut RunLog, ours: bool, why: Error) -> Error {
    if !ours {
        return refuse(log, why).await;
    }
    let halted = Event::Halted { outcome: Outcome::Halted, note: why.chain() };
    if let Err(e) = log.append(&halted).await {
        tracing::warn!("say in the journal that the run waits: {}", e.chain());
    }
    why
}

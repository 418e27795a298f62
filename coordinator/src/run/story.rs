//! A run in full: the epochs under which it was carried out, one after another, and all that happened in them.
//!
//! Who resumes a run takes a new epoch and then writes into the one before that it is taken over. That entry, and not the epoch, decides: of two
//! who resume at once one writes it, and the other's epoch is no part of the run.

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Epoch, Installation, RunId};
use keepsake_core::repository::runs::{RunHead, Runs, plan_sha256};

use super::event::{Event, Outcome};
use super::status::{Run, RunStatus};
use crate::plan::Plan;
use crate::platform::Stopped;

/// A run in full. Never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    first: Run,
    later: Vec<Run>,
    /// The second plan and its checksum.
    second: Option<(Plan, String)>,
}

impl Story {
    /// The head of the first epoch: what the run is called after.
    pub fn root(&self) -> &RunHead<Plan> {
        &self.first.head
    }

    /// The last epoch.
    pub fn tail(&self) -> &Run {
        self.later.last().unwrap_or(&self.first)
    }

    /// The plan that is carried out: the second, once there is one.
    pub fn plan(&self) -> &Plan {
        self.second().unwrap_or(&self.first.head.plan)
    }

    /// The second plan, if the run has got that far.
    pub fn second(&self) -> Option<&Plan> {
        self.second.as_ref().map(|(plan, _)| plan)
    }

    /// Whether the second plan is, to the last word, the one that was made. The first is looked at by whoever takes an epoch.
    ///
    /// # Errors
    /// `Corrupt` when it is not.
    pub fn check_second(&self) -> Result<()> {
        match &self.second {
            Some((plan, sha256)) if plan_sha256(plan)? != *sha256 => {
                let root = self.root();
                let text = format!(
                    "the second plan of run {} of {} is not the one that was made: it was changed, or it is of another version of Keepsake; go on with the \
                     version that made it",
                    root.epoch, root.installation
                );
                Err(Error::new(Kind::Corrupt, text))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// All epochs in order.
    pub fn links(&self) -> impl Iterator<Item = &Run> {
        std::iter::once(&self.first).chain(&self.later)
    }

    /// All that happened, in order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.links().flat_map(|run| run.events.iter().map(|e| &e.event))
    }

    /// How far it is with the plan that is carried out.
    pub fn status(&self) -> RunStatus {
        let Some(plan) = self.second() else { return RunStatus::of(self.plan(), self.events()) };
        let mut status = RunStatus::of_second(plan);
        for event in self.events().skip_while(|e| !matches!(e, Event::Planned { .. })).skip(1) {
            status.apply(plan, event);
        }
        status
    }

    /// What the applications had that were stopped, by whichever plan.
    pub fn had(&self) -> Vec<Stopped> {
        let had = self.status().had(self.plan());
        let first = &self.first.head.plan;
        if had.is_empty() { RunStatus::of(first, self.events()).had(first) } else { had }
    }

    /// The story that ends with this epoch.
    ///
    /// # Errors
    /// `Corrupt` when an epoch that it goes on from is missing or is of another run.
    pub async fn ending_with(runs: &Runs, tail: Run) -> Result<Self> {
        let mut later = Vec::new();
        let mut first = tail;
        while let Some(before) = first.head.resumes {
            let earlier: Run = runs.read(&first.head.installation, before).await.map_err(|e| {
                let epoch = first.head.epoch;
                Error::caused(Kind::Corrupt, format!("run {epoch} goes on from run {before}, which cannot be read"), e)
            })?;
            if earlier.head.run != first.head.run || before >= first.head.epoch {
                let text =
                    format!("run {} says that it goes on from run {before}, which is another run", first.head.epoch);
                return Err(Error::new(Kind::Corrupt, text));
            }
            later.push(std::mem::replace(&mut first, earlier));
        }
        later.reverse();
        let events = std::iter::once(&first).chain(&later).flat_map(|run| &run.events);
        let second = events.map(|e| &e.event).find_map(|event| match event {
            Event::Planned { plan, plan_sha256 } => Some(((**plan).clone(), plan_sha256.clone())),
            _ => None,
        });
        Ok(Self { first, later, second })
    }

    /// The whole story that this epoch belongs to, to its newest epoch.
    ///
    /// # Errors
    /// `NotFound` when there is no such epoch; the runs cannot be read.
    pub async fn with(runs: &Runs, installation: &Installation, epoch: Epoch) -> Result<Self> {
        let mut tail: Run = runs.read(installation, epoch).await?;
        while let Some(by) = taken_over_by(&tail) {
            tail = runs.read(installation, by).await?;
        }
        Self::ending_with(runs, tail).await
    }

    /// The story of a run's id, if it is told here.
    ///
    /// # Errors
    /// The runs cannot be read.
    pub async fn of(runs: &Runs, installation: &Installation, run: RunId) -> Result<Option<Self>> {
        for epoch in runs.epochs(installation).await?.into_iter().rev() {
            match runs.read::<Plan, Event>(installation, epoch).await {
                Ok(found) if found.head.run == run && found.head.resumes.is_none() => {
                    return Self::with(runs, installation, epoch).await.map(Some);
                }
                Ok(_) => {}
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}

/// The epoch that goes on from this one.
pub fn taken_over_by(run: &Run) -> Option<Epoch> {
    run.events.iter().find_map(|e| match e.event {
        Event::TakenOver { by } => Some(by),
        _ => None,
    })
}

/// The newest unfinished run before `head`'s (before any, without it); one that is no backup before any backup. Runs that were refused do not hide older
/// ones, nor do backups that were given up: two coordinators that began at the same moment may have left both.
///
/// # Errors
/// The runs cannot be read.
pub async fn unfinished(
    runs: &Runs,
    installation: &Installation,
    head: Option<&RunHead<Plan>>,
) -> Result<Option<Story>> {
    let mut backup = None;
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
        if !is_part_of_its_run(runs, &run).await? {
            continue;
        }
        if let Some(by) = taken_over_by(&run) {
            // Whoever goes on from it was looked at already, unless it came after `head`.
            if head.is_some_and(|h| by >= h.epoch) {
                let story = Story::with(runs, installation, epoch).await?;
                return Ok(if story.status().ended.is_none() { Some(story) } else { backup });
            }
            continue;
        }
        match RunStatus::of_run(&run).ended {
            None if run.head.plan.is_backup() && backup.is_none() => {
                backup = Some(Story::ending_with(runs, run).await?);
            }
            None if run.head.plan.is_backup() => {}
            None => return Story::ending_with(runs, run).await.map(Some),
            Some((Outcome::Refused | Outcome::Abandoned, _)) => {}
            Some(_) => return Ok(backup),
        }
    }
    Ok(backup)
}

/// An epoch that names one to go on from is part of that run when that one says so, too. Whoever took it may have been killed in between, or have lost to
/// somebody else.
///
/// # Errors
/// The runs cannot be read.
pub async fn is_part_of_its_run(runs: &Runs, run: &Run) -> Result<bool> {
    let Some(before) = run.head.resumes else { return Ok(true) };
    let before: Run = runs.read(&run.head.installation, before).await?;
    Ok(taken_over_by(&before) == Some(run.head.epoch))
}

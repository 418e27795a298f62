//! Following a run that another coordinator carries out, by what it writes into its journal.

use std::collections::BTreeSet;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Epoch, Installation, RunId};
use keepsake_core::repository::runs::{RunHead, Runs, StoredRun};

use super::event::Event;
use super::status::Run;
use super::story::{Story, taken_over_by};
use crate::plan::Plan;

/// Follows one run from the moment on at which it was made. What was written before is not told again.
#[derive(Debug)]
pub struct Follower {
    runs: Runs,
    installation: Installation,
    run: RunId,
    /// Epochs that are of no interest: they were there before, or are of other runs.
    others: BTreeSet<Epoch>,
    /// The epoch in which the run goes on.
    tail: Option<Run>,
    /// So many of its events were told.
    told: usize,
}

impl Follower {
    /// Of a run that is about to be begun, or to be gone on with, under a new epoch.
    ///
    /// # Errors
    /// The runs cannot be read.
    pub async fn new(runs: Runs, installation: &Installation, run: RunId) -> Result<Self> {
        let mut others: BTreeSet<_> = runs.epochs(installation).await?.into_iter().collect();
        // A folder alone is not taken yet: it may become the epoch that is waited for.
        for epoch in others.clone().into_iter().rev() {
            let head: Option<RunHead<Plan>> = runs.head(installation, epoch).await?;
            if head.is_some() {
                break;
            }
            others.remove(&epoch);
        }
        Ok(Self { runs, installation: installation.clone(), run, others, tail: None, told: 0 })
    }

    /// Its plan, once it is begun.
    pub fn plan(&self) -> Option<&Plan> {
        self.tail.as_ref().map(|run| &run.head.plan)
    }

    /// The epoch in which it goes on, once it does.
    pub fn epoch(&self) -> Option<Epoch> {
        self.tail.as_ref().map(|run| run.head.epoch)
    }

    /// What was written since it was asked for last.
    ///
    /// # Errors
    /// The runs cannot be read now, or not at all. Nothing is lost by that: asked again, it goes on from there.
    pub async fn read_on(&mut self) -> Result<Vec<Event>> {
        if self.tail.is_none() {
            self.tail = self.look_for_it().await?;
        }
        let mut events = Vec::new();
        while let Some(run) = &mut self.tail {
            let read = self.runs.read_on(run).await;
            events.extend(run.events.iter().skip(self.told).map(|e| e.event.clone()));
            self.told = run.events.len();
            match read {
                // What was read is told first; it is asked again soon.
                Err(_) if !events.is_empty() => break,
                Err(e) => return Err(e),
                Ok(_) => {}
            }
            let Some(by) = taken_over_by(run) else { break };
            let head = match self.runs.head(&self.installation, by).await {
                Ok(Some(head)) => head,
                Ok(None) | Err(_) if !events.is_empty() => break,
                Ok(None) => {
                    let text = format!("run {by} of {} has taken over and is not there", self.installation);
                    return Err(Error::new(Kind::Corrupt, text));
                }
                Err(e) => return Err(e),
            };
            (self.tail, self.told) = (Some(StoredRun { head, events: Vec::new(), cancel_asked: false }), 0);
        }
        Ok(events)
    }

    async fn look_for_it(&mut self) -> Result<Option<Run>> {
        for epoch in self.runs.epochs(&self.installation).await? {
            if self.others.contains(&epoch) {
                continue;
            }
            let Some(head) = self.runs.head(&self.installation, epoch).await? else { continue };
            if head.run == self.run {
                return Ok(Some(StoredRun { head, events: Vec::new(), cancel_asked: false }));
            }
            self.others.insert(epoch);
        }
        Ok(None)
    }

    /// The whole story, once it is begun.
    ///
    /// # Errors
    /// The runs cannot be read.
    pub async fn story(&self) -> Result<Option<Story>> {
        match self.epoch() {
            Some(epoch) => Story::with(&self.runs, &self.installation, epoch).await.map(Some),
            None => Ok(None),
        }
    }
}

//! Reading a run on while somebody else writes it: what is known is not read again.

use serde::de::DeserializeOwned;

use super::{RunEvent, RunHead, Runs, StoredRun};
use crate::error::{Context, Kind, Result};
use crate::id::{Epoch, Installation};
use crate::repository::layout;

impl Runs {
    /// Object 0 of an epoch, alone; none when the epoch is not taken.
    ///
    /// # Errors
    /// `Corrupt` when it cannot be read; the store cannot be reached.
    pub async fn head<P: DeserializeOwned>(
        &self,
        installation: &Installation,
        epoch: Epoch,
    ) -> Result<Option<RunHead<P>>> {
        match self.parse(&layout::run_entry(installation, epoch, 0)).await {
            Ok(head) => Ok(Some(head)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e.context(format!("read run {epoch} of {installation}"))),
        }
    }

    /// Reads the events that were written since; gives how many. A hole ends it as the end does: who reads the whole run sees the difference.
    ///
    /// # Errors
    /// `Corrupt` when one cannot be read; the store cannot be reached. What was read before that is kept.
    pub async fn read_on<P, E: DeserializeOwned>(&self, run: &mut StoredRun<P, E>) -> Result<usize> {
        let known = run.events.len();
        loop {
            let next = u32::try_from(run.events.len()).unwrap_or(u32::MAX - 1) + 1;
            let key = layout::run_entry(&run.head.installation, run.head.epoch, next);
            match self.parse::<RunEvent<E>>(&key).await {
                Ok(event) => run.events.push(event),
                Err(e) if e.kind() == Kind::NotFound => return Ok(run.events.len() - known),
                Err(e) => return Err(e).with_context(|| format!("read on in run {}", run.head.epoch)),
            }
        }
    }
}

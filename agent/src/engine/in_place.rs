//! Loads without a shadow: staging reads and checks the whole dump, commit loads it over the live data.
//!
//! Such a commit cannot be undone, and says so wherever it can be read: in the description, in the plan, in the answer to
//! rollback. What was staged is remembered in memory only, because nothing of it is in the datastore; an agent that was
//! restarted in between answers that nothing is staged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;

use super::{Source, Staged};

/// Why a committed load in place cannot be rolled back.
pub const CANNOT_BE_UNDONE: &str =
    "the load was made over the live data, which is gone: restore another set to go back";

/// What was staged by which run.
#[derive(Default)]
pub struct InPlace {
    runs: Mutex<HashMap<RunKey, Entry>>,
}

struct Entry {
    source: Arc<dyn Source>,
    state: Staged,
    /// The live data may have been changed: from here on nothing brings it back.
    touched: bool,
}

impl std::fmt::Debug for InPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InPlace").finish_non_exhaustive()
    }
}

impl InPlace {
    /// Remembers a source that is being checked. Forgets stages of other runs: an older epoch will not come back.
    pub fn begin(&self, key: &RunKey, source: Arc<dyn Source>) {
        let mut runs = self.lock();
        runs.retain(|other, _| other == key);
        runs.insert(key.clone(), Entry { source, state: Staged::Partial, touched: false });
    }

    /// The whole source was read and found good.
    pub fn staged(&self, key: &RunKey) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.state = Staged::Staged;
        }
    }

    /// How far the run has come.
    pub fn state(&self, key: &RunKey) -> Staged {
        self.lock().get(key).map_or(Staged::Absent, |e| e.state)
    }

    /// The source to commit; `None` when it was committed already, which is success.
    ///
    /// # Errors
    /// `Conflict` when nothing was staged, or not to the end.
    pub fn to_commit(&self, key: &RunKey) -> Result<Option<Arc<dyn Source>>> {
        let runs = self.lock();
        match runs.get(key) {
            Some(entry) if entry.state == Staged::Staged => Ok(Some(entry.source.clone())),
            Some(entry) if entry.state == Staged::Committed => Ok(None),
            Some(_) => Err(Error::new(Kind::Conflict, format!("the stage of run {key} has not finished"))),
            None => Err(Error::new(
                Kind::Conflict,
                format!("nothing is staged for run {key}: the agent was restarted since, stage again"),
            )),
        }
    }

    /// To be called right before the first change to the live data.
    pub fn touching(&self, key: &RunKey) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.touched = true;
        }
    }

    /// The live data is now that of the source.
    pub fn committed(&self, key: &RunKey) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.state = Staged::Committed;
        }
    }

    /// Forgets a stage; a commit cannot be undone.
    ///
    /// # Errors
    /// `Unsupported` once a commit has touched the live data, whether it finished or not.
    pub fn rollback(&self, key: &RunKey) -> Result<()> {
        let mut runs = self.lock();
        if runs.get(key).is_some_and(|e| e.touched) {
            return Err(Error::new(Kind::Unsupported, CANNOT_BE_UNDONE));
        }
        runs.remove(key);
        Ok(())
    }

    /// Forgets the run; there is nothing to drop.
    pub fn finalize(&self, key: &RunKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunKey, Entry>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Loads without a shadow: staging reads and checks the whole dump, commit loads it over the live data.
//!
//! Such a commit cannot be undone, and says so wherever it can be read: in the description, in the plan, in the answer to
//! rollback. What was staged is remembered in memory only, because nothing of it is in the datastore; an agent that was
//! restarted in between answers that nothing is staged. Which run has touched the live data is in a file beside the agent, made before the first
//! change: an agent that was killed in the middle of a load and started again must not call that undone. Where the datastore itself tells whether a load
//! was made (PostgreSQL, by its owner) nothing is written there, and nothing of this has to be believed.

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{RunId, RunKey};

use super::{Source, Staged};

/// Why a committed load in place cannot be rolled back.
pub const CANNOT_BE_UNDONE: &str =
    "the load was made over the live data, which is gone: restore another set to go back";

/// The file that names the runs which have touched the live data and are not finished.
const TOUCHED: &str = "touched-by-runs";

/// What was staged by which run.
#[derive(Default)]
pub struct InPlace {
    runs: Mutex<HashMap<RunId, Entry>>,
    /// Where the durable part is; without a folder there is none.
    touched: Option<PathBuf>,
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
    /// With its durable part in the agent's own folder.
    pub fn new(scratch: &Path) -> Self {
        Self { runs: Mutex::default(), touched: Some(scratch.join(TOUCHED)) }
    }

    /// Remembers a source that is being checked. Forgets stages of other runs: an older epoch will not come back. What a run has touched stays
    /// touched.
    pub fn begin(&self, key: &RunKey, source: Arc<dyn Source>) {
        let mut runs = self.lock();
        let touched = runs.get(&key.run).is_some_and(|e| e.touched);
        runs.retain(|other, _| *other == key.run);
        runs.insert(key.run, Entry { source, state: Staged::Partial, touched });
    }

    /// A commit has put back everything that it had changed: the run is staged, and has touched nothing.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn taken_back(&self, key: &RunKey) -> Result<()> {
        if let Some(entry) = self.lock().get_mut(&key.run) {
            (entry.state, entry.touched) = (Staged::Staged, false);
        }
        self.write_down(|runs| {
            runs.remove(&line(key));
            runs.remove(&whole(&line(key)));
        })
    }

    /// The whole source was read and found good.
    pub fn staged(&self, key: &RunKey) {
        if let Some(entry) = self.lock().get_mut(&key.run) {
            entry.state = Staged::Staged;
        }
    }

    /// How far the run has come.
    pub fn state(&self, key: &RunKey) -> Staged {
        self.lock().get(&key.run).map_or(Staged::Absent, |e| e.state)
    }

    /// The source to commit; `None` when it was committed already, which is success.
    ///
    /// # Errors
    /// `Conflict` when nothing was staged, or not to the end.
    pub fn to_commit(&self, key: &RunKey) -> Result<Option<Arc<dyn Source>>> {
        let runs = self.lock();
        match runs.get(&key.run) {
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
    ///
    /// # Errors
    /// It cannot be written down: then nothing may be changed.
    pub fn touching(&self, key: &RunKey) -> Result<()> {
        self.write_down(|runs| {
            // Perhaps once more: then it is not whole any longer.
            runs.remove(&whole(&line(key)));
            runs.insert(line(key));
        })?;
        if let Some(entry) = self.lock().get_mut(&key.run) {
            entry.touched = true;
        }
        Ok(())
    }

    /// The live data is that of the source, and the datastore itself says so. Remembered all the same, as long as this agent lives: nothing is written down,
    /// which would have to be taken back.
    pub fn done(&self, key: &RunKey) {
        if let Some(entry) = self.lock().get_mut(&key.run) {
            entry.touched = true;
        }
    }

    /// The live data is now that of the source.
    ///
    /// # Errors
    /// That cannot be written down. A commit that is asked for again answers that it was made.
    pub fn committed(&self, key: &RunKey) -> Result<()> {
        if let Some(entry) = self.lock().get_mut(&key.run) {
            entry.state = Staged::Committed;
        }
        self.write_down(|runs| {
            if runs.contains(&line(key)) {
                runs.insert(whole(&line(key)));
            }
        })
    }

    /// Refuses while the live data may be that of no dump: a load has touched it, and it is not known to have come to its end.
    ///
    /// # Errors
    /// `Conflict`, naming the run.
    pub fn none_half_made(&self) -> Result<()> {
        let runs = self.lock();
        let written = self.written_down()?;
        let is_whole = |run: &String| {
            written.contains(&whole(run))
                || runs.iter().any(|(known, e)| known.to_string() == *run && e.state == Staged::Committed)
        };
        match written.iter().find(|line| !line.ends_with(WHOLE) && !is_whole(line)) {
            None => Ok(()),
            Some(run) => Err(Error::new(
                Kind::Conflict,
                format!(
                    "run {run} has begun to load over the live data, and is not known to have come to its end: restore again, or `keepsake finalize` \
                     when you know that it has"
                ),
            )),
        }
    }

    /// Forgets a stage; a commit cannot be undone.
    ///
    /// # Errors
    /// `Unsupported` once a commit has touched the live data, whether it finished or not, and whether this agent or one before it did.
    pub fn rollback(&self, key: &RunKey) -> Result<()> {
        let mut runs = self.lock();
        if runs.get(&key.run).is_some_and(|e| e.touched) || self.written_down()?.contains(&line(key)) {
            return Err(Error::new(Kind::Unsupported, CANNOT_BE_UNDONE));
        }
        runs.remove(&key.run);
        Ok(())
    }

    /// Forgets the run. If it has committed, then with it what runs before it have touched: its data is in the place of theirs. There is nothing to drop.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn finalize(&self, key: &RunKey) -> Result<()> {
        self.lock().remove(&key.run);
        self.write_down(|runs| {
            if runs.contains(&whole(&line(key))) {
                runs.clear();
            }
            runs.remove(&line(key));
        })
    }

    /// The datastore says that a load of another run is whole: what runs before it have touched is no more.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn replaced(&self) -> Result<()> {
        self.write_down(BTreeSet::clear)
    }

    /// Forgets a source that nobody will ask for again, whatever became of it.
    pub fn forget(&self, key: &RunKey) {
        self.lock().remove(&key.run);
    }

    fn written_down(&self) -> Result<BTreeSet<String>> {
        let Some(path) = &self.touched else { return Ok(BTreeSet::new()) };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(e) => Err(Error::io(format!("read {} (--scratch)", path.display()), e)),
        }
    }

    fn write_down(&self, change: impl FnOnce(&mut BTreeSet<String>)) -> Result<()> {
        let Some(path) = &self.touched else { return Ok(()) };
        let what = || format!("write {} (--scratch)", path.display());
        let before = self.written_down()?;
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        if after.is_empty() {
            std::fs::remove_file(path).map_err(|e| Error::io(what(), e))?;
        } else {
            let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| Error::io(what(), e))?;
            let text = after.into_iter().collect::<Vec<_>>().join("\n");
            file.write_all(text.as_bytes()).map_err(|e| Error::io(what(), e))?;
            file.as_file().sync_all().map_err(|e| Error::io(what(), e))?;
            file.persist(path).map_err(|e| Error::io(what(), e.error))?;
        }
        // A name in a folder lasts when the folder is on the disk.
        std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io(what(), e))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Entry>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is written behind a run whose load has come to its end.
const WHOLE: &str = " whole";

fn whole(run: &str) -> String {
    format!("{run}{WHOLE}")
}

/// A run as it is written down: a load belongs to its run, whichever of its epochs asks.
fn line(key: &RunKey) -> String {
    key.run.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepsake_core::id::Epoch;

    fn run(epoch: u64) -> RunKey {
        RunKey { run: RunId::generate(), installation: "prod".parse().unwrap(), epoch: Epoch(epoch) }
    }

    #[test]
    fn what_a_killed_agent_has_touched_is_not_called_undone_by_the_next() {
        let scratch = tempfile::tempdir().unwrap();
        let (torn, other) = (run(1), run(2));
        InPlace::new(scratch.path()).touching(&torn).unwrap();
        let next = InPlace::new(scratch.path());
        assert_eq!(next.rollback(&torn).unwrap_err().kind(), Kind::Unsupported);
        let resumed = RunKey { epoch: Epoch(9), ..torn.clone() };
        assert_eq!(next.rollback(&resumed).unwrap_err().kind(), Kind::Unsupported, "under a later epoch");
        next.rollback(&other).unwrap();
        // A later restore puts its own data in the place of what was torn.
        next.touching(&other).unwrap();
        next.committed(&other).unwrap();
        // Also when an agent after that one ends it.
        InPlace::new(scratch.path()).finalize(&other).unwrap();
        InPlace::new(scratch.path()).rollback(&torn).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left");
    }

    #[test]
    fn a_run_that_has_not_committed_ends_nothing_but_itself() {
        let scratch = tempfile::tempdir().unwrap();
        let (torn, other, third) = (run(1), run(2), run(3));
        let state = InPlace::new(scratch.path());
        state.touching(&torn).unwrap();
        state.finalize(&other).unwrap();
        state.touching(&third).unwrap();
        state.finalize(&third).unwrap();
        state.rollback(&third).unwrap();
        assert_eq!(state.rollback(&torn).unwrap_err().kind(), Kind::Unsupported, "another run has ended it");
        assert_eq!(state.none_half_made().unwrap_err().kind(), Kind::Conflict);
        state.touching(&other).unwrap();
        state.committed(&other).unwrap();
        assert_eq!(InPlace::new(scratch.path()).none_half_made().unwrap_err().kind(), Kind::Conflict);
        state.finalize(&other).unwrap();
        state.none_half_made().unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left");
    }

    #[test]
    fn what_was_taken_back_can_be_rolled_back() {
        let scratch = tempfile::tempdir().unwrap();
        let (state, key) = (InPlace::new(scratch.path()), run(1));
        state.touching(&key).unwrap();
        state.taken_back(&key).unwrap();
        state.rollback(&key).unwrap();
    }
}

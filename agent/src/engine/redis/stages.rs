//! What loads keep beside the live data: a folder for each run, with the staged RDB, the safety RDB and how far the load has come.
//!
//! It lies in the server's data folder or, without one, in the agent's scratch folder. What is in it counts only as far as its state file says, which is
//! replaced as a whole; a folder without one is a stage that was not finished. A folder goes by a rename first, so that no load is ever half gone.

mod state;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunId;

use super::file::{Part, free, sync_folder};
use super::settings::Settings;
use crate::engine::{Context, Staged};

pub(super) use self::state::{Going, Held, Phase, State};

/// What a run's folder begins with; a run's id follows.
const PREFIX: &str = ".keepsake-";
/// What the folder of a load that is over begins with, until it is gone.
const GONE: &str = ".keepsake-gone-";
/// How far the load has come.
const STATE: &str = "state.json";
/// What is to be loaded; with the policy `keep`, without the live queues.
pub(super) const STAGED: &str = "staged.rdb";
/// What was live before.
pub(super) const SAFETY: &str = "safety.rdb";
/// Room that is kept for going back, on a disk that is full by then: for what is written down meanwhile.
const RESERVE: &str = "reserve";
/// Its length, bytes: a few files of some blocks each.
const RESERVED: usize = 1 << 20;
/// With the policy `keep`: what was staged and the live queues.
pub(super) const JOINED: &str = "joined.rdb";

/// The folders of all loads.
#[derive(Debug)]
pub(super) struct Stages {
    /// New ones are made in the first; flags may have been others when an old one was made.
    homes: Vec<PathBuf>,
}

impl Stages {
    pub(super) fn new(settings: &Settings, scratch: &Path) -> Self {
        let mut homes: Vec<PathBuf> = settings.redis_data_dir.clone().into_iter().collect();
        homes.push(scratch.to_owned());
        homes.dedup();
        Self { homes }
    }

    /// Where new ones are made.
    pub(super) fn home(&self) -> &Path {
        self.homes.first().map_or(Path::new("."), PathBuf::as_path)
    }

    /// Bytes free there; `None` when it cannot be seen.
    pub(super) fn free(&self) -> Option<u64> {
        free(self.home()).ok()
    }

    /// Why no load can be staged there, in words; `None` when one can.
    pub(super) fn refusal(&self) -> Option<String> {
        let may = rustix::fs::access(self.home(), rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
        may.err().map(|e| {
            format!(
                "{}, where the data is to be staged, cannot be written by this agent ({e}): mount it writable, for the server's user, or leave \
                 --redis-data-dir out",
                self.home().display()
            )
        })
    }

    /// The folder of this run.
    pub(super) fn find(&self, run: RunId) -> Result<Option<Run>> {
        Ok(self.all()?.into_iter().find(|known| known.id == run))
    }

    /// The folders of all runs.
    pub(super) fn all(&self) -> Result<Vec<Run>> {
        let mut found = Vec::new();
        for path in self.entries()? {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            // The folder of a load's settings begins in the same way.
            if let Some(id) = name.strip_prefix(PREFIX).and_then(|id| id.parse().ok()) {
                found.push(Run { id, folder: path });
            }
        }
        Ok(found)
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for home in &self.homes {
            let what = || format!("look for staged loads in {}", home.display());
            let entries = match std::fs::read_dir(home) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.map_err(|e| Error::io(what(), e))?,
            };
            for entry in entries {
                let entry = entry.map_err(|e| Error::io(what(), e))?;
                if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                    found.push(entry.path());
                }
            }
        }
        Ok(found)
    }

    /// Removes what loads that are over have left.
    pub(super) fn sweep(&self) -> Result<()> {
        for path in self.entries()? {
            if path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(GONE.as_bytes())) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Drops what other runs have staged and not committed.
    ///
    /// # Errors
    /// `Conflict` when one has committed, or begun to.
    pub(super) async fn make_way_for(&self, run: RunId, cx: &Context) -> Result<()> {
        let others: Vec<Run> = self.all()?.into_iter().filter(|other| other.id != run).collect();
        for other in &others {
            let why = match other.staged()? {
                Staged::Absent | Staged::Partial | Staged::Staged => continue,
                Staged::Committing => "is half made",
                Staged::Committed => "is in place, and what was there before is still kept",
            };
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "the load of run {} {why}: bring it to its end first, by `keepsake finalize` or by `keepsake rollback`",
                    other.id
                ),
            ));
        }
        for other in others {
            tracing::info!(run = %other.id, "what another run has staged and not committed is dropped");
            self.discard(other, cx).await?;
        }
        Ok(())
    }

    /// A run of which the server may hold a part only.
    ///
    /// # Errors
    /// A state file that cannot be read: nobody knows.
    pub(super) fn half_made(&self) -> Result<Option<RunId>> {
        for run in self.all()? {
            if run.staged()? == Staged::Committing {
                return Ok(Some(run.id));
            }
        }
        Ok(None)
    }

    /// Makes the folder of a run.
    pub(super) fn begin(&self, id: RunId) -> Result<Run> {
        let folder = self.home().join(format!("{PREFIX}{id}"));
        // It holds what the set holds, in the clear.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|e| Error::io(format!("make {}", folder.display()), e))?;
        sync_folder(self.home())?;
        Ok(Run { id, folder })
    }

    /// Drops a run's folder: all of it, or nothing.
    pub(super) async fn discard(&self, run: Run, cx: &Context) -> Result<()> {
        self.sweep()?;
        let home = run.folder.parent().unwrap_or(Path::new("."));
        let gone = home.join(format!("{GONE}{}", run.id));
        std::fs::rename(&run.folder, &gone).map_err(|e| Error::io(format!("drop {}", run.folder.display()), e))?;
        sync_folder(home)?;
        step(cx, "dropping files").await;
        remove(&gone)?;
        sync_folder(home)?;
        step(cx, "dropped").await;
        Ok(())
    }
}

/// The end of a sub-step: what was done so far is on the disk, and this is told. Others get their turn, and whoever is killed here has done so much.
pub(super) async fn step(cx: &Context, phase: &str) {
    cx.phase(phase, 0);
    tokio::task::yield_now().await;
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format!("remove {}", path.display()), e)),
        _ => Ok(()),
    }
}

/// The folder of one load.
#[derive(Debug)]
pub(super) struct Run {
    /// Whose it is.
    pub(super) id: RunId,
    folder: PathBuf,
}

impl Run {
    /// Where its files are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How far it has come; `None` when its stage was not finished.
    ///
    /// # Errors
    /// `Corrupt` when its file cannot be read.
    pub(super) fn state(&self) -> Result<Option<State>> {
        let path = self.folder.join(STATE);
        match std::fs::read(&path) {
            Ok(bytes) => State::read(&bytes, &path).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
        }
    }

    /// Keeps room for a rollback, which must not fail for want of a few blocks.
    pub(super) fn reserve(&self) -> Result<()> {
        let path = self.folder.join(RESERVE);
        let what = || format!("write {}", path.display());
        let mut file = std::fs::File::create(&path).map_err(|e| Error::io(what(), e))?;
        // Written: a hole takes no room.
        std::io::Write::write_all(&mut file, &vec![0x2e; RESERVED]).map_err(|e| Error::io(what(), e))?;
        file.sync_all().map_err(|e| Error::io(what(), e))
    }

    /// Gives that room free.
    pub(super) fn free_reserve(&self) -> Result<()> {
        let path = self.folder.join(RESERVE);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// Writes down how far it has come.
    pub(super) fn write(&self, state: &State) -> Result<()> {
        let part = Part::create(&self.folder, STATE)?;
        std::io::Write::write_all(&mut part.file()?, &state.bytes()?)
            .map_err(|e| Error::io(format!("write {}", self.folder.join(STATE).display()), e))?;
        part.keep().map(drop)
    }

    /// As an engine tells it.
    pub(super) fn staged(&self) -> Result<Staged> {
        Ok(match self.state()?.map(|s| s.phase) {
            None => Staged::Partial,
            Some(Phase::Staged) => Staged::Staged,
            Some(Phase::Loading | Phase::Undoing) => Staged::Committing,
            Some(Phase::Committed) => Staged::Committed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    fn at(scratch: &Path) -> Stages {
        Stages::new(&Settings::default(), scratch)
    }

    #[tokio::test]
    async fn only_what_is_not_committed_makes_way() {
        let (cx, _) = Context::new(CancellationToken::new());
        for phase in [None, Some(Phase::Staged), Some(Phase::Loading), Some(Phase::Undoing), Some(Phase::Committed)] {
            let scratch = tempfile::tempdir().unwrap();
            let stages = at(scratch.path());
            // Not a run's.
            std::fs::create_dir(scratch.path().join(".keepsake-load")).unwrap();
            let (old, new) = (RunId::generate(), RunId::generate());
            let run = stages.begin(old).unwrap();
            if let Some(phase) = phase {
                run.write(&State::sample(old, phase)).unwrap();
            }
            let done = stages.make_way_for(new, &cx).await;
            if matches!(phase, None | Some(Phase::Staged)) {
                done.unwrap();
                assert!(stages.all().unwrap().is_empty(), "{phase:?}");
                assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "{phase:?}");
            } else {
                let error = done.unwrap_err();
                assert_eq!(error.kind(), Kind::Conflict);
                for word in [&old.to_string(), "keepsake finalize", "keepsake rollback"] {
                    assert!(error.chain().contains(word), "{}", error.chain());
                }
                stages.make_way_for(old, &cx).await.unwrap();
                assert_eq!(stages.all().unwrap().len(), 1);
            }
        }
    }

    #[test]
    fn a_state_that_cannot_be_read_is_not_taken_for_none() {
        let scratch = tempfile::tempdir().unwrap();
        let stages = at(scratch.path());
        let run = stages.begin(RunId::generate()).unwrap();
        assert_eq!(run.staged().unwrap(), Staged::Partial);
        let state = State::sample(run.id, Phase::Undoing);
        run.write(&state).unwrap();
        assert_eq!(run.state().unwrap(), Some(state));
        std::fs::write(run.folder().join(STATE), "{}").unwrap();
        assert_eq!(run.staged().unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(stages.half_made().unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn what_is_over_is_swept_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let stages = at(scratch.path());
        let run = stages.begin(RunId::generate()).unwrap();
        let gone = scratch.path().join(format!("{GONE}{}", RunId::generate()));
        std::fs::create_dir(&gone).unwrap();
        std::fs::write(gone.join(SAFETY), "data").unwrap();
        assert_eq!(stages.all().unwrap().len(), 1);
        stages.sweep().unwrap();
        assert!(!gone.try_exists().unwrap());
        assert!(stages.find(run.id).unwrap().is_some());
    }
}

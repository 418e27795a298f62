//! A load for other tooling, from its stage to its end: it is in place as a whole, or nothing of it is.
//!
//! Its run has no journal: nobody but this agent knows its id. So the id is written down before anything is staged, and an agent that finds one ends that
//! load, as it would have been ended, before it lets another begin.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt as _};
use keepsake_core::id::{Epoch, Installation, RunId, RunKey};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::engine::{CommitReport, Context, Engine, Source};

/// The file in the scratch folder.
const FILE: &str = "streamed-load.json";
/// Between two attempts to end what an agent before this one has left, when the datastore cannot be reached.
const AGAIN: Duration = Duration::from_secs(2);

/// What is written down of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    run: RunId,
    /// Its commit has succeeded: what is left to do is to drop what was there before.
    committed: bool,
}

/// The load that is under way, as it is written down.
#[derive(Debug)]
pub(super) struct Streamed {
    path: PathBuf,
    installation: Installation,
}

impl Streamed {
    pub(super) fn new(scratch: &Path, installation: &Installation) -> Self {
        Self { path: scratch.join(FILE), installation: installation.clone() }
    }

    /// Stages, commits and finalizes. Whatever fails is rolled back; that, and dropping what was there before, is not cut short by `stop`.
    pub(super) async fn load(
        &self,
        engine: &dyn Engine,
        source: Arc<dyn Source>,
        stop: CancellationToken,
    ) -> Result<CommitReport> {
        self.settle(engine).await?;
        let (cx, _progress) = Context::new(stop);
        let written = Written { run: RunId::generate(), committed: false };
        let run = self.key(written.run);
        self.write(written)?;
        let what = "check what came; nothing was touched";
        let loaded = match engine.stage(&run, source, &cx).await.context(what) {
            Ok(_) => engine.commit(&run, &cx).await,
            Err(e) => Err(e),
        };
        if loaded.is_ok() {
            self.write(Written { committed: true, ..written })?;
        }
        match (loaded, self.settle(engine).await) {
            (Ok(report), ended) => {
                ended.context("what was loaded is in place, but what was there before could not be dropped")?;
                Ok(report)
            }
            (Err(e), Ok(())) => Err(e),
            (Err(e), Err(left)) => {
                tracing::warn!("a load that failed: {}", left.chain());
                Err(e)
            }
        }
    }

    /// Brings to its end what is written down: a commit that has succeeded is finalized, everything else is rolled back. Nothing is ever finalized that
    /// was not told to have succeeded: what was there before is kept for a later attempt.
    ///
    /// # Errors
    /// It cannot be ended now.
    pub(super) async fn settle(&self, engine: &dyn Engine) -> Result<()> {
        let Some(written) = self.written()? else { return Ok(()) };
        let run = self.key(written.run);
        // Of its own: an agent that is asked to end, and is given some time, ends this.
        let (cx, _progress) = Context::new(CancellationToken::new());
        let ended = if written.committed { engine.finalize(&run, &cx).await } else { engine.rollback(&run, &cx).await };
        match ended {
            Ok(()) => {}
            // It will never be possible. Where it stands in the way of another load the engine says so, and names the run.
            Err(e) if e.kind() == Kind::Unsupported => {
                tracing::warn!("the load of run {} for other tooling cannot be undone: {}", written.run, e.chain());
            }
            Err(e) => {
                let what = "end a load for other tooling, which comes before anything else is loaded";
                return Err(e.context(format!("{what} (run {})", written.run)));
            }
        }
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {} (--scratch)", self.path.display()), e))
            }
            _ => self.sync(),
        }
    }

    fn key(&self, run: RunId) -> RunKey {
        RunKey { run, installation: self.installation.clone(), epoch: Epoch(0) }
    }

    fn written(&self) -> Result<Option<Written>> {
        let what = || format!("read {} (--scratch)", self.path.display());
        match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).or_kind(Kind::Corrupt, what()).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(what(), e)),
        }
    }

    fn write(&self, written: Written) -> Result<()> {
        let what = || format!("write {} (--scratch)", self.path.display());
        let bytes = serde_json::to_vec(&written).or_kind(Kind::Internal, what())?;
        let mut file = tempfile::NamedTempFile::new_in(self.folder()).map_err(|e| Error::io(what(), e))?;
        file.write_all(&bytes).map_err(|e| Error::io(what(), e))?;
        file.as_file().sync_all().map_err(|e| Error::io(what(), e))?;
        file.persist(&self.path).map_err(|e| Error::io(what(), e.error))?;
        self.sync()
    }

    /// A name in a folder lasts when the folder is on the disk.
    fn sync(&self) -> Result<()> {
        let folder = self.folder();
        std::fs::File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(|e| Error::io(format!("write the folder {} to disk", folder.display()), e))
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

impl Inner {
    pub(super) fn streamed(&self) -> Streamed {
        Streamed::new(&self.scratch, &self.installation)
    }

    /// Ends, when the agent is started, what one before it has left; the datastore may take its time to be there.
    pub(crate) async fn end_leftover_load(self: Arc<Self>) {
        let streamed = self.streamed();
        loop {
            match streamed.written() {
                Ok(None) => return,
                Ok(Some(_)) => {}
                Err(e) => return tracing::error!("{}", e.chain()),
            }
            match self.table.turn(None).await {
                Ok(_turn) => match streamed.settle(self.engine.as_ref()).await {
                    Ok(()) => return,
                    Err(e) if e.kind().retry() => tracing::warn!("{}", e.chain()),
                    // The next load tries again, and tells its caller.
                    Err(e) => return tracing::error!("{}", e.chain()),
                },
                Err(e) => tracing::debug!("{}", e.chain()),
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

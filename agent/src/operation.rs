//! What an agent is doing: operations keyed by run and step.
//!
//! Starting one twice attaches to it, so a lost answer or a lost connection is not a second dump. An agent does one thing at a time. A run with a
//! higher number fences every lower one; an operation that nobody asks about for ten minutes cancels itself.

mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keepsake_core::id::{RunKey, StepId};
use keepsake_core::record::{ArtifactRecord, DumpReport, Failure};
use keepsake_core::repository::writer::Place;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use table::{Limits, Table, Turn};

use crate::engine::paths::Kept;
use crate::engine::{CommitReport, Progress, StageReport};

/// What came of an operation that succeeded.
#[derive(Debug)]
pub enum Done {
    /// A dump is in the repository.
    Dumped {
        /// Where.
        place: Place,
        /// What the engine says.
        report: Box<DumpReport>,
        /// Where the bytes are.
        artifacts: Vec<ArtifactRecord>,
        /// Paths that it tells besides, or why they are not known.
        paths: Result<Option<Kept>, Failure>,
    },
    /// A dump is staged.
    Staged(StageReport),
    /// A staged dump is live.
    Committed(CommitReport),
    /// A stage or commit is undone.
    RolledBack,
    /// What a rollback would need is gone.
    Finalized,
}

/// How an operation ended.
pub type Outcome = Arc<Result<Done, Failure>>;

/// One operation.
#[derive(Debug)]
pub struct Operation {
    /// Its run.
    pub run: RunKey,
    /// Its step.
    pub step: StepId,
    /// What it does, with everything that tells it from another request under the same key.
    pub what: String,
    /// How far it is.
    pub progress: watch::Receiver<Progress>,
    /// How it ended; `None` while it runs.
    pub outcome: watch::Receiver<Option<Outcome>>,
    cancel: CancellationToken,
    watchers: AtomicUsize,
    heard: std::sync::Mutex<Instant>,
}

impl Operation {
    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.outcome.borrow().is_none()
    }

    /// Whether it changes live data: half of that is worse than either whole, so only somebody who asks for just that cuts it short.
    pub fn changes_live_data(&self) -> bool {
        matches!(self.what.as_str(), "commit" | "rollback" | "finalize")
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Asks it to stop.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Somebody asked about it.
    pub fn hear(&self) {
        *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    fn heard(&self) -> Instant {
        if self.watchers.load(Ordering::Relaxed) > 0 {
            return Instant::now();
        }
        *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for the end.
    pub async fn ended(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        loop {
            if let Some(outcome) = outcome.borrow_and_update().clone() {
                return outcome;
            }
            if outcome.changed().await.is_err() {
                // The task is gone without a word: only a runtime that shuts down does that.
                let failure = Failure {
                    kind: keepsake_core::Kind::Internal,
                    text: "the operation ended without a result".to_owned(),
                };
                return Arc::new(Err(failure));
            }
        }
    }
}

/// Somebody watches an operation; while one does, it is heard of.
#[derive(Debug)]
pub struct Watcher(Arc<Operation>);

impl Watcher {
    /// Begins to watch.
    pub fn new(operation: Arc<Operation>) -> Self {
        operation.watchers.fetch_add(1, Ordering::Relaxed);
        Self(operation)
    }

    /// What is watched.
    pub fn operation(&self) -> &Operation {
        &self.0
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.hear();
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

//! The operations of an agent: starting, attaching, fencing, forgetting.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Epoch, RunId, RunKey, StepId};
use keepsake_core::record::Failure;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Done, Operation};
use crate::engine::Context;

/// Patience.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// An operation that nobody asked about for so long cancels itself.
    pub unheard: Duration,
    /// How long a new run waits for the operation of a fenced one to end.
    pub fenced: Duration,
    /// Operations that are remembered after their end.
    pub kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { unheard: Duration::from_mins(10), fenced: Duration::from_secs(10), kept: 64 }
    }
}

/// All operations of an agent.
#[derive(Debug)]
pub struct Table {
    state: Mutex<State>,
    turn: Arc<Semaphore>,
    tracker: TaskTracker,
    stop: CancellationToken,
    limits: Limits,
}

#[derive(Debug, Default)]
struct State {
    /// The newest last.
    operations: VecDeque<Arc<Operation>>,
    newest: Option<(Epoch, RunId)>,
}

impl State {
    /// Remembers the highest run and refuses lower ones.
    fn fence(&mut self, run: &RunKey) -> Result<()> {
        match self.newest {
            Some((epoch, _)) if run.epoch < epoch => Err(Error::new(
                Kind::Conflict,
                format!(
                    "run {run} is fenced: run {epoch} came after it. (If the repository was made anew and its runs are counted from 1 again, restart the agent.)"
                ),
            )),
            Some((epoch, id)) if run.epoch == epoch && run.run != id => Err(Error::new(
                Kind::Conflict,
                format!("another run has the number {epoch}: two repositories are in use for this installation"),
            )),
            _ => {
                if self.newest.is_some_and(|(epoch, _)| run.epoch > epoch) {
                    // Nobody may ask for them any more, and what they reported names every segment.
                    self.operations.retain(|o| o.is_running());
                }
                self.newest = Some((run.epoch, run.run));
                Ok(())
            }
        }
    }
}

/// Attaches to an operation, which must be the one that is asked for.
fn attach(known: &Operation, what: &str) -> Result<bool> {
    known.hear();
    if known.what == what {
        return Ok(true);
    }
    Err(Error::new(
        Kind::Conflict,
        format!(
            "step {} of run {} was started as {:?}, now it is asked for as {what:?}",
            known.step, known.run, known.what
        ),
    ))
}

/// The right to use the datastore; one at a time.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Table {
    /// An empty table. What it starts runs on `tracker` and ends when `stop` is cancelled.
    pub fn new(tracker: TaskTracker, stop: CancellationToken, limits: Limits) -> Arc<Self> {
        let table =
            Arc::new(Self { state: Mutex::default(), turn: Arc::new(Semaphore::new(1)), tracker, stop, limits });
        table.tracker.spawn(Self::sweep(table.clone()));
        table
    }

    /// Begins an operation, or attaches to the one of this run and step. Says whether it attached.
    ///
    /// # Errors
    /// `Conflict` for a run that is fenced, or another request under the same key; `Busy` while something else is going on.
    pub async fn start<F>(&self, key: (RunKey, StepId), what: String, work: impl FnOnce(Context) -> F) -> Result<bool>
    where
        F: Future<Output = Result<Done>> + Send + 'static,
    {
        let (run, step) = key;
        self.lock().fence(&run)?;
        if let Some(known) = self.find(&run, &step) {
            return attach(&known, &what);
        }
        let turn = self.turn(Some(&run)).await?;
        let mut state = self.lock();
        // While this one waited, a higher run may have come, or another call for the same step.
        state.fence(&run)?;
        if let Some(known) = state.operations.iter().find(|o| o.run == run && o.step == step) {
            return attach(known, &what);
        }
        let (operation, task) = self.operation(run, step, what, turn, work);
        state.operations.push_back(operation);
        while state.operations.len() > self.limits.kept {
            let Some(oldest) = state.operations.iter().position(|o| !o.is_running()) else { break };
            state.operations.remove(oldest);
        }
        drop(state);
        self.tracker.spawn(task);
        Ok(false)
    }

    /// Lets a run in that is about to begin something: no higher one has been here, and nothing else is going on.
    ///
    /// # Errors
    /// `Conflict` for a run that is fenced, `Busy` while something else is going on.
    pub async fn admit(&self, run: &RunKey) -> Result<()> {
        self.lock().fence(run)?;
        self.turn(Some(run)).await.map(drop)
    }

    /// As [`Table::admit`], and keeps everybody else out until it is dropped.
    ///
    /// # Errors
    /// As there.
    pub async fn take_turn(&self, run: &RunKey) -> Result<Turn> {
        self.lock().fence(run)?;
        let turn = self.turn(Some(run)).await?;
        // While this one waited, a higher run may have come.
        self.lock().fence(run)?;
        Ok(turn)
    }

    /// Whether a run may still go on.
    ///
    /// # Errors
    /// `Conflict` when a higher one has come.
    pub fn is_not_fenced(&self, run: &RunKey) -> Result<()> {
        self.lock().fence(run)
    }

    fn operation<F>(
        &self,
        run: RunKey,
        step: StepId,
        what: String,
        turn: Turn,
        work: impl FnOnce(Context) -> F,
    ) -> (Arc<Operation>, impl Future<Output = ()> + Send + 'static)
    where
        F: Future<Output = Result<Done>> + Send + 'static,
    {
        let cancel = self.stop.child_token();
        let (context, progress) = Context::new(cancel.clone());
        let (told, outcome) = watch::channel(None);
        let work = AssertUnwindSafe(work(context)).catch_unwind();
        let name = format!("{what} of {run}/{step}");
        let operation = Arc::new(Operation {
            run,
            step,
            what,
            progress,
            outcome,
            cancel,
            watchers: AtomicUsize::new(0),
            heard: Mutex::new(Instant::now()),
        });
        let task = async move {
            let done = match work.await {
                Ok(done) => done.map_err(|e| Failure::from(&e)),
                Err(_) => {
                    Err(Failure { kind: Kind::Internal, text: format!("{name} panicked; the agent's log has where") })
                }
            };
            if let Err(failure) = &done {
                tracing::warn!("{name} failed: {}", failure.text);
            }
            // Before the outcome is told, so that whoever hears it can begin the next.
            drop(turn);
            told.send_replace(Some(Arc::new(done)));
        };
        (operation, task)
    }

    /// Waits for the datastore to be free: a moment for an operation that was cancelled or fenced, otherwise not at all.
    ///
    /// # Errors
    /// `Busy`, naming what is going on.
    pub async fn turn(&self, run: Option<&RunKey>) -> Result<Turn> {
        let fenced = run.is_some_and(|run| self.cancel_fenced(run.epoch));
        // One that was asked to stop is about to.
        let ending = self.running().iter().any(|o| o.is_cancelled());
        let wait = if fenced || ending { self.limits.fenced } else { Duration::ZERO };
        match tokio::time::timeout(wait, self.turn.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn { _permit: permit }),
            Ok(Err(e)) => Err(Error::caused(Kind::Internal, "the agent is stopping", e)),
            Err(_) => {
                let running = self.running();
                let what = running.first().map_or_else(
                    || "a change of the Config, or a stream for other tooling".to_owned(),
                    |o| format!("{} of run {}, step {}", o.what, o.run, o.step),
                );
                Err(Error::new(Kind::Busy, format!("the agent does one thing at a time and is busy with {what}")))
            }
        }
    }

    /// Cancels what lower runs have going, unless it changes live data; says whether there is something to wait for.
    fn cancel_fenced(&self, epoch: Epoch) -> bool {
        let fenced: Vec<_> = self.running().into_iter().filter(|o| o.run.epoch < epoch).collect();
        for operation in fenced.iter().filter(|o| !o.changes_live_data()) {
            tracing::warn!("run {epoch} fences {} of run {}", operation.what, operation.run);
            operation.cancel();
        }
        !fenced.is_empty()
    }

    /// The operation of a run and step.
    pub fn find(&self, run: &RunKey, step: &StepId) -> Option<Arc<Operation>> {
        self.lock().operations.iter().find(|o| &o.run == run && &o.step == step).cloned()
    }

    /// Operations that run now.
    pub fn running(&self) -> Vec<Arc<Operation>> {
        self.lock().operations.iter().filter(|o| o.is_running()).cloned().collect()
    }

    /// The highest run's number seen; 0 if none.
    pub fn epoch(&self) -> Epoch {
        self.lock().newest.map_or(Epoch(0), |(epoch, _)| epoch)
    }

    async fn sweep(table: Arc<Self>) {
        let every = table.limits.unheard / 10;
        loop {
            tokio::select! {
                () = table.stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            for operation in table.running() {
                if operation.heard().elapsed() >= table.limits.unheard && !operation.changes_live_data() {
                    tracing::warn!(
                        "nobody has asked about {} of run {} for {:?}: cancelled",
                        operation.what,
                        operation.run,
                        table.limits.unheard
                    );
                    operation.cancel();
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

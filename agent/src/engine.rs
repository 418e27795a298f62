//! The seam between Keepsake and a datastore.
//!
//! An engine knows one kind of datastore: how to dump it into a [`Sink`] and how to load it from a [`Source`] in stages.
//! It never learns where the bytes go or come from, nor who asked. A new datastore is one file or folder beside this one,
//! one line in [`registry`], and one fixture in the tests.

pub mod config_source;
pub mod config_target;
pub mod files;
pub mod in_place;
pub mod mysql;
pub mod paths;
pub mod postgres;
pub mod redis;
pub mod registry;
mod system_config;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{ArtifactName, RunId, RunKey};
use keepsake_core::queues::{QueuePolicy, Waiting};
use keepsake_core::record::{Counts, DumpReport, Facts};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What one kind of datastore can do. Every method may be called again after a failure.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Asks the datastore and the tools what they are, changing nothing.
    async fn describe(&self) -> Result<Description>;

    /// What would be in the way of a hold now; asked without locking anything. `None` when it would be had at once.
    async fn ready_to_hold(&self) -> Result<Option<String>>;

    /// Does everything slow that a hold and the dump under it need. Nothing is held yet.
    async fn prepare_hold(&self) -> Result<Box<dyn Hold>>;

    /// Dumps everything into `out`. Success means: every tool exited with 0, its end marker was seen, every byte was
    /// taken by the sink, and the counts are of what was written.
    ///
    /// With `held`, writes are held now: the snapshot is opened at once, or the dump fails without waiting for anything.
    async fn dump(&self, held: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport>;

    /// Brings a dump beside the live data, which it does not touch, and checks all of it against the record.
    ///
    /// A load belongs to a run (`key.run`), not to its epoch: a resumed run has a higher epoch and finds what it staged before. Staged already,
    /// it is checked again and reported; begun and not finished, it is begun anew. What another run staged and did not commit is dropped;
    /// what another run committed, or half committed, and did not finalize is refused with `Conflict`.
    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport>;

    /// How far the load of this run has come, from the datastore itself.
    async fn staged(&self, key: &RunKey) -> Result<Staged>;

    /// Puts the staged dump in the place of the live data, and proves it by counting. Made of sub-steps each of which may be repeated: begun and
    /// not finished, by this agent or one before it, it goes on from what it finds; finished, it counts again and reports.
    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport>;

    /// Undoes a stage or a commit, however far either has come; success when nothing of the run is there.
    ///
    /// # Errors
    /// `Unsupported` when the live data has been changed and cannot be brought back.
    async fn rollback(&self, key: &RunKey, cx: &Context) -> Result<()>;

    /// Drops what rollback would need; success when nothing of the run is there.
    async fn finalize(&self, key: &RunKey, cx: &Context) -> Result<()>;

    /// How many jobs wait in Backend's queues, of an engine that may keep them. Changes nothing.
    ///
    /// # Errors
    /// `Unsupported` for an engine without queues.
    async fn waiting_jobs(&self) -> Result<Waiting> {
        Err(Error::new(Kind::Unsupported, "this component has no queues"))
    }

    /// How it is told what Backend's Config must be, by an engine that may serve System's database.
    fn config_source(&self) -> Option<&dyn config_source::ConfigSource> {
        None
    }

    /// How Backend's Config is compared and changed, by an engine that may keep it.
    fn config_target(&self) -> Option<&dyn config_target::ConfigTarget> {
        None
    }
}

/// A hold on writes: made ready, taken, renewed, released. Whatever becomes of the agent, the datastore frees its writers when the lease is over.
#[async_trait]
pub trait Hold: Send {
    /// Holds writes from now on for at most `lease`; got within `budget` or not at all.
    ///
    /// # Errors
    /// `Busy` or `Timeout` when it could not be had; then nothing is held and nobody is left waiting.
    async fn take(&mut self, budget: Duration, lease: Duration) -> Result<Prepared>;

    /// Proves that no write was made since it was taken, and begins the lease anew.
    ///
    /// # Errors
    /// There is no such proof: the hold counts as broken.
    async fn renew(&mut self) -> Result<()>;

    /// Ends it. May be called again.
    ///
    /// # Errors
    /// The datastore could not be told; it ends the hold by itself when the lease is over.
    async fn release(&mut self) -> Result<()>;
}

/// What an engine made ready for the dump under its hold; only that engine knows what is in it.
pub type Prepared = Box<dyn std::any::Any + Send>;

/// What the engine itself made ready.
///
/// # Errors
/// `Internal` for something of another engine.
pub(crate) fn prepared<T: 'static>(held: Prepared) -> Result<Box<T>> {
    held.downcast().map_err(|_| Error::new(Kind::Internal, "the hold was prepared by another engine"))
}

/// Where a dump goes: named artifacts, several at once if the engine likes.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Begins an artifact. One that is dropped without [`ArtifactSink::finish`] never counts.
    async fn artifact(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSink>>;
}

/// One artifact being written.
#[async_trait]
pub trait ArtifactSink: Send {
    /// Takes the next bytes; waits while the sink is full. After an error every further call fails.
    async fn write(&mut self, chunk: Bytes) -> Result<()>;
    /// Stores the rest; returns the length in bytes. Fails if anything failed before.
    async fn finish(self: Box<Self>) -> Result<u64>;
}

/// Where a load comes from: one component of one set, already found to be genuine.
#[async_trait]
pub trait Source: Send + Sync {
    /// The artifacts with their lengths in bytes.
    fn artifacts(&self) -> Vec<(ArtifactName, u64)>;
    /// What the record says of the dump; `None` when it came over the wire from other tooling, without a record.
    fn recorded(&self) -> Option<&DumpReport>;
    /// What is to be done with queues. An engine that knows none refuses all but `restore` ([`no_queues`]).
    fn queues(&self) -> QueuePolicy {
        QueuePolicy::Restore
    }
    /// Whether it is to be loaded over the live data instead of beside it, for want of space; then a commit cannot be undone.
    fn in_place(&self) -> bool {
        false
    }
    /// Reads an artifact from its beginning. May be called again.
    async fn open(&self, name: &ArtifactName) -> Result<Box<dyn ArtifactSource>>;
}

/// The name and length of a source's only artifact, for engines whose dumps are one.
///
/// # Errors
/// `Corrupt` when there are others, or it has another name.
pub(crate) fn only_artifact(source: &dyn Source, expected: &str) -> Result<(ArtifactName, u64)> {
    match source.artifacts().as_slice() {
        [(name, length)] if name.as_str() == expected => Ok((name.clone(), *length)),
        other => {
            let names: Vec<_> = other.iter().map(|(n, _)| n.as_str()).collect();
            Err(Error::new(Kind::Corrupt, format!("such a dump is one artifact {expected}; this one has {names:?}")))
        }
    }
}

/// For engines without queues: a policy that could not be followed is refused, not forgotten.
///
/// # Errors
/// `Unsupported` for any policy but `restore`.
pub(crate) fn no_queues(source: &dyn Source) -> Result<()> {
    match source.queues() {
        QueuePolicy::Restore => Ok(()),
        other => Err(Error::new(
            Kind::Unsupported,
            format!(
                "this component has no queues that could be told apart: the policy `{other}` is for redis only, leave it out"
            ),
        )),
    }
}

/// What came of an operation; a tool's failure is told as the server's when the server can no longer be reached. Tools do not tell the two apart.
pub(crate) async fn unless_gone<T, S>(done: Result<T>, reach: impl Future<Output = Result<S>>) -> Result<T> {
    match done {
        Err(e) if e.kind() == Kind::Internal => match reach.await {
            Err(gone) if gone.kind().retry() => {
                Err(Error::caused(gone.kind(), format!("the server went away meanwhile ({})", gone.chain()), e))
            }
            Ok(_) | Err(_) => Err(e),
        },
        done => done,
    }
}

/// One artifact being read.
#[async_trait]
pub trait ArtifactSource: Send {
    /// The next bytes; `None` at an end that was checked. Each segment is checked before any byte of it is given out.
    async fn read(&mut self) -> Result<Option<Bytes>>;
}

/// What an operation may use besides its arguments.
#[derive(Debug, Clone)]
pub struct Context {
    /// Ends the operation. What is left behind when it wins is said at each place that waits on it.
    pub cancel: CancellationToken,
    /// Takes paths of files that a dump tells besides its artifacts.
    pub paths: paths::Paths,
    progress: Arc<watch::Sender<Progress>>,
    /// The artifact that this part of the operation is about.
    artifact: Option<ArtifactName>,
    /// Cancelled when no hold is in force (any more) under which this dump was begun.
    released: CancellationToken,
}

/// How far an operation is. Sent as it changes; a slow reader sees only the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for people: `dumping`, `checking`, `loading`.
    pub phase: String,
    /// Plaintext bytes so far in this phase.
    pub bytes: u64,
    /// Plaintext bytes expected, or 0 if unknown.
    pub expected: u64,
    /// Whether the snapshot that the dump reads has been opened.
    pub snapshot_open: bool,
    /// Of these bytes those of each artifact, where several are written at once.
    pub artifacts: BTreeMap<ArtifactName, u64>,
}

impl Context {
    /// A context and the receiver of its progress.
    pub fn new(cancel: CancellationToken) -> (Self, watch::Receiver<Progress>) {
        let (progress, receiver) = watch::channel(Progress::default());
        let paths = paths::Paths::default();
        let released = CancellationToken::new();
        released.cancel();
        (Self { cancel, paths, progress: Arc::new(progress), artifact: None, released }, receiver)
    }

    /// The same for a dump that is begun under a hold, which is over when this is cancelled.
    #[must_use]
    pub fn under_hold(self, released: CancellationToken) -> Self {
        Self { released, ..self }
    }

    /// Waits until writers go on. Whatever is not needed to open the snapshot would keep them waiting: they and it have the same processors.
    pub async fn until_released(&self) {
        self.released.cancelled().await;
    }

    /// The same for a part of the operation that is about one of several artifacts.
    #[must_use]
    pub fn of_artifact(&self, name: &ArtifactName) -> Self {
        Self { artifact: Some(name.clone()), ..self.clone() }
    }

    /// The same, but paths that a dump tells are kept in this folder.
    #[must_use]
    pub fn keeping_paths(self, folder: &std::path::Path) -> Self {
        Self { paths: paths::Paths::kept_in(folder), ..self }
    }

    /// Begins a phase; `expected` bytes are 0 if unknown.
    pub fn phase(&self, phase: &str, expected: u64) {
        self.progress.send_modify(|p| {
            phase.clone_into(&mut p.phase);
            p.bytes = 0;
            p.expected = expected;
            p.artifacts.clear();
        });
    }

    /// Adds to the bytes of the phase.
    pub fn advance(&self, bytes: u64) {
        self.progress.send_modify(|p| {
            p.bytes = p.bytes.saturating_add(bytes);
            if let Some(artifact) = &self.artifact {
                let of_it = p.artifacts.entry(artifact.clone()).or_default();
                *of_it = of_it.saturating_add(bytes);
            }
        });
    }

    /// Says that the snapshot is open: from here on, writes no longer change what is dumped.
    pub fn snapshot_open(&self) {
        self.progress.send_modify(|p| p.snapshot_open = true);
    }

    /// Fails if the operation was cancelled.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        Ok(())
    }

    /// Runs `work` unless the operation is cancelled first; `work` is then dropped where it stands.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(cancelled()),
            done = work => done,
        }
    }
}

fn cancelled() -> Error {
    Error::new(Kind::Cancelled, "the operation was cancelled")
}

/// What a datastore is, as asked just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Name and version of the server, for example `Redis 7.0.15`.
    pub server: String,
    /// Name and version line of each tool that a dump or load would run.
    pub tools: Vec<(String, String)>,
    /// About how many bytes a dump would have, or 0 if unknown.
    pub size: u64,
    /// Where the datastore stands now, comparable text.
    pub position: Option<String>,
    /// What a restore must compare: as in the record.
    pub facts: Facts,
    /// Whether [`Engine::hold`] works here; if not, why.
    pub hold: std::result::Result<(), String>,
    /// Whether [`Engine::rollback`] can undo a commit; if not, why. The plan prints it.
    pub undo: std::result::Result<(), String>,
    /// A load over the live data is one transaction: all of it, or nothing. Asked for only where `undo` is none.
    pub in_place_is_whole: bool,
    /// Whether a load over the live data was made is told by the datastore itself, to any agent that asks.
    pub in_place_is_told: bool,
    /// What would stop a dump or load now, in the operator's words with the remedy.
    pub problems: Vec<String>,
    /// Free bytes where a load would be staged; `None` when that cannot be seen from here.
    pub staging_free: Option<u64>,
    /// Loads that have left something: what [`Engine::staged`] says of their runs.
    pub loads: Vec<(RunId, Staged)>,
}

/// What staging found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageReport {
    /// Plaintext bytes read and checked.
    pub bytes: u64,
    /// What was counted in the artifacts; equal to the record's or it would be an error.
    pub counts: Counts,
    /// What an operator should know, in words.
    pub warnings: Vec<String>,
}

/// What a commit proved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// What was counted in the live datastore afterwards.
    pub counts: Counts,
    /// What an operator should know, in words.
    pub warnings: Vec<String>,
}

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// Nothing of this run is there.
    Absent,
    /// A stage was begun and not finished.
    Partial,
    /// Staged and checked.
    Staged,
    /// A commit or its rollback was begun and not finished: either brings it to its end.
    Committing,
    /// In the place of the live data; what was there before is kept until it is finalized.
    Committed,
}

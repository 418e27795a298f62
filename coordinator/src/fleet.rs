//! The agents as the coordinator sees them: questions and operations, each keyed by run and step.

pub mod config;
pub mod grpc;
pub mod whole;

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::{Component, RunKey, SetId, StepId};
use keepsake_core::queues::{QueuePolicy, Waiting};
use keepsake_core::record::{ComponentRecord, Counts, DumpRecord, Sealing};
use keepsake_core::secret::Secret;

use self::config::{ConfigChanges, ConfigCompared, ConfigOrder, Differences};
use crate::inventory::Found;
use crate::plan::objects::ObjectPolicy;

/// How far an operation is, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// What is being done.
    pub phase: String,
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes expected; 0 if unknown.
    pub expected: u64,
    /// Of these bytes those of each artifact, where several are written at once.
    pub artifacts: Vec<(String, u64)>,
}

/// A dump as it is asked for: where to, and under which hold its snapshot is opened.
#[derive(Debug, Clone)]
pub struct DumpOrder<'a> {
    /// Whose.
    pub component: &'a Component,
    /// Which run and step.
    pub key: OpKey,
    /// Into which set.
    pub set: SetId,
    /// How it is sealed.
    pub sealing: &'a Sealing,
    /// The name of the hold; none for a dump at a moment of its own.
    pub hold: Option<&'a str>,
}

/// A load as it is asked for.
#[derive(Debug, Clone)]
pub struct LoadOrder<'a> {
    /// Which run and step.
    pub key: OpKey,
    /// From which set.
    pub set: SetId,
    /// What the set's record says of the component.
    pub entry: &'a ComponentRecord,
    /// How its segments are opened.
    pub opening: &'a Opening,
    /// What becomes of queues. With another policy than `restore` it succeeds only if the agent said that it follows it.
    pub queues: QueuePolicy,
    /// Over the live data instead of beside it.
    pub in_place: bool,
    /// What becomes of the cluster's objects, if it is those.
    pub objects: ObjectPolicy,
}

/// A hold of a component's writes. Dropped, it ends.
#[async_trait]
pub trait Hold: Send {
    /// Holds for at most `lease`, within `budget` or not at all; gives the hold's name.
    async fn take(&mut self, budget: Duration, lease: Duration) -> Result<String>;
    /// Proves that it was unbroken so far, and begins the lease anew.
    async fn renew(&mut self) -> Result<()>;
    /// Ends it; gives for how long writes were held.
    async fn release(&mut self) -> Result<Duration>;
}

/// Takes progress as it comes.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Which run and step an operation belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpKey {
    /// The run.
    pub run: RunKey,
    /// The step.
    pub step: StepId,
}

/// What an agent checked or loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadReport {
    /// What was counted.
    pub counts: Counts,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// How a set's segments are opened: given to a restoring agent, never journalled.
#[derive(Debug, Clone)]
pub enum Opening {
    /// With the set's own identity.
    Age(Secret),
    /// They are not sealed.
    None,
}

/// A path that a dump tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    /// Below the volume's root; empty when where a row's file is cannot be told.
    pub path: Vec<u8>,
    /// The row that names it; empty for a file that the dump has.
    pub row: String,
}

/// Paths as they come, batch by batch.
#[async_trait]
pub trait Paths: Send {
    /// The next ones; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<NamedPath>>>;
}

/// The agents of one installation. Every operation may be called again under the same key: it attaches.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// What the component is now.
    async fn describe(&self, component: &Component) -> Result<Found>;
    /// What would be in the way of a hold of the component's writes now; `None` when it would be had at once.
    async fn ready_to_hold(&self, component: &Component) -> Result<Option<String>>;
    /// Makes a hold of the component's writes ready; nothing is held yet.
    async fn prepare_hold(&self, component: &Component, run: &RunKey) -> Result<Box<dyn Hold>>;
    /// Begins a dump and waits until its snapshot is open; the dump goes on, and [`Fleet::dump`] of the same order attaches to it.
    async fn open_snapshot(&self, order: &DumpOrder<'_>) -> Result<()>;
    /// Dumps a component into a set.
    async fn dump(&self, order: &DumpOrder<'_>, progress: OnProgress<'_>) -> Result<DumpRecord>;
    /// Brings a component's dump beside its live data and checks all of it.
    async fn stage(&self, order: &LoadOrder<'_>, progress: OnProgress<'_>) -> Result<LoadReport>;
    /// Puts what was staged in the place of the live data.
    async fn commit(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<LoadReport>;
    /// Undoes a stage or a commit.
    async fn rollback(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<()>;
    /// Drops what a rollback would need.
    async fn finalize(&self, component: &Component, key: &OpKey, progress: OnProgress<'_>) -> Result<()>;
    /// The paths that a finished dump tells besides its artifacts: files that it has, or that its rows name.
    async fn paths(&self, component: &Component, key: &OpKey) -> Result<Box<dyn Paths>> {
        Err(Error::new(Kind::Unsupported, format!("{component} tells no paths of the dump {}", key.step)))
    }
    /// Compares Backend's Config with what System's database says; `found` takes the differences as they come. Without success nothing that `found` has
    /// taken is known to be the whole.
    async fn compare_config(&self, order: &ConfigOrder<'_>, _: &mut dyn Differences) -> Result<ConfigCompared> {
        Err(no_config(order))
    }
    /// Begins to change Backend's Config. With `durable`, what is done at the end survives a crash of its server.
    async fn change_config(&self, order: &ConfigOrder<'_>, _durable: bool) -> Result<Box<dyn ConfigChanges>> {
        Err(no_config(order))
    }
    /// How many jobs wait in Backend's queues, which this component keeps.
    ///
    /// # Errors
    /// `Unsupported` when its agent cannot tell.
    async fn waiting_jobs(&self, component: &Component) -> Result<Waiting> {
        Err(Error::new(Kind::Unsupported, format!("{component} has no queues")))
    }
    /// Asks every operation of a run on this component to stop, under whatever epoch it was begun; returns how many were running.
    async fn cancel_run(&self, component: &Component, run: &RunKey) -> Result<usize>;
    /// What the component's agent does now for a run, under whatever epoch it was begun; in words. `None` when it does nothing for it.
    async fn at_work(&self, component: &Component, run: &RunKey) -> Result<Option<String>>;
}

fn no_config(order: &ConfigOrder<'_>) -> Error {
    Error::new(Kind::Unsupported, format!("{} and {} know nothing of a Config", order.system, order.backend))
}

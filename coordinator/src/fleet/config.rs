//! Backend's Config as the coordinator asks for it: compared by two agents at once, changed by one.

use async_trait::async_trait;
use keepsake_core::config::{AlertLevels, Counters, Difference};
use keepsake_core::error::Result;
use keepsake_core::id::Component;

use super::OpKey;

/// What is compared, or changed.
#[derive(Debug, Clone)]
pub struct ConfigOrder<'a> {
    /// Which run and step.
    pub key: OpKey,
    /// The run has taken its number: agents refuse a lower one than they have seen. Whoever only looks has none.
    pub of_a_run: bool,
    /// The component with System's database.
    pub system: &'a Component,
    /// The component with Backend's storage.
    pub backend: &'a Component,
    /// Whether alert levels are expected or left alone.
    pub alert_levels: AlertLevels,
    /// At most so many keys a second; 0 is as fast as it goes.
    pub keys_per_second: u32,
}

/// What a comparison found besides the differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigCompared {
    /// Expected keys, without those that may be absent and are.
    pub keys: u64,
    /// Keys of the database that were looked at in search of surplus ones.
    pub scanned: u64,
    /// The counters as they were found.
    pub found: Counters,
    /// What they must have reached.
    pub at_least: Counters,
}

/// What changes did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigChanged {
    /// Changes that were made.
    pub made: u64,
    /// Changes that were not made, because somebody else had changed the key since.
    pub overtaken: u64,
    /// The counters before.
    pub before: Counters,
    /// The counters after.
    pub after: Counters,
}

/// Takes differences as they are found.
#[async_trait]
pub trait Differences: Send {
    /// Takes the next ones.
    async fn take(&mut self, some: Vec<Difference>) -> Result<()>;
}

/// Changes on their way to the agent. Dropped before its end, nothing more is changed.
#[async_trait]
pub trait ConfigChanges: Send {
    /// Makes these.
    async fn make(&mut self, some: Vec<Difference>) -> Result<()>;
    /// That was all: waits until it is done, and the counters are at least these.
    async fn finish(self: Box<Self>, at_least: Counters) -> Result<ConfigChanged>;
}

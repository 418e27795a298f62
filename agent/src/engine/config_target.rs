//! What an engine can do that keeps Backend's Config: compare it with what is expected of it, and change it.
//!
//! The engine knows neither where the expected entries come from nor where the differences go. Nothing is called surplus before every expected entry has
//! come and that was proved.

use async_trait::async_trait;
use keepsake_core::config::{ConfigEntry, ConfigKind, Counters, Difference};
use keepsake_core::error::Result;

use super::Context;

/// Expected entries as they come, those of one key one after another.
#[async_trait]
pub trait Expected: Send {
    /// The next ones; `None` at an end that was proved: every entry came, and none was changed on the way.
    async fn next(&mut self) -> Result<Option<Vec<ConfigEntry>>>;
    /// What the end said; only after it came.
    ///
    /// # Errors
    /// `Internal` before that.
    fn end(&self) -> Result<&ExpectedEnd>;
}

/// What the end of the expected entries says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedEnd {
    /// Only of these kinds everything is named, so only keys of these can be surplus.
    pub kinds: Vec<ConfigKind>,
    /// What the counters must have reached.
    pub at_least: Counters,
}

/// Takes differences as they are found.
#[async_trait]
pub trait Differences: Send {
    /// Takes the next one; waits while nobody reads.
    async fn tell(&mut self, difference: Difference) -> Result<()>;
}

/// Changes as they come.
#[async_trait]
pub trait Changes: Send {
    /// The next ones; `None` at an end that was proved.
    async fn next(&mut self) -> Result<Option<Vec<Difference>>>;
    /// What the counters are to be raised to; only after the end came.
    ///
    /// # Errors
    /// `Internal` before that.
    fn at_least(&self) -> Result<Counters>;
}

/// What a comparison found besides the differences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Expected keys, without those that may be absent and are.
    pub keys: u64,
    /// Keys of the database that were looked at in search of surplus ones.
    pub scanned: u64,
    /// Differences that were told.
    pub differences: u64,
    /// The counters as they were found; 0 when absent.
    pub found: Counters,
}

/// What an application of changes did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Changes that were made, or were there already.
    pub made: u64,
    /// Changes that were not made, because the key had been changed by somebody else since it was compared.
    pub overtaken: u64,
    /// The counters before.
    pub before: Counters,
    /// The counters after.
    pub after: Counters,
}

/// An engine that keeps Backend's Config.
#[async_trait]
pub trait ConfigTarget: Send + Sync {
    /// Compares what is there with what is expected, at most `keys_per_second` keys a second (0: as fast as it goes). Changes nothing.
    ///
    /// # Errors
    /// `Corrupt` or whatever `expected` says when not all of it came; `Conflict` while the data is half loaded.
    async fn compare(
        &self,
        expected: &mut dyn Expected,
        out: &mut dyn Differences,
        keys_per_second: u32,
        cx: &Context,
    ) -> Result<Compared>;

    /// Makes the changes, raises the counters, and with `durable` waits until a crash of the server would not lose it. Every change may be made again.
    ///
    /// # Errors
    /// `Invalid` for a key that is none of the Config; nothing is done to it.
    async fn apply(
        &self,
        changes: &mut dyn Changes,
        keys_per_second: u32,
        durable: bool,
        cx: &Context,
    ) -> Result<Applied>;
}

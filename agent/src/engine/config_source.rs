//! What an engine can do that may serve System's database: tell what Backend's Config must be.
//!
//! Whoever hears it deletes what is not in it. So an expectation that is not whole is an error and never a smaller one: the end is given only when every
//! question was answered to its last row, all from one snapshot.

use async_trait::async_trait;
use keepsake_core::config::{AlertLevels, ConfigEntry};
use keepsake_core::error::Result;

use super::Context;
use super::config_target::ExpectedEnd;

/// Takes expected entries, those of one key one after another.
#[async_trait]
pub trait Entries: Send {
    /// Takes the next ones; waits while nobody reads.
    async fn tell(&mut self, entries: Vec<ConfigEntry>) -> Result<()>;
}

/// An engine that may serve System's database.
#[async_trait]
pub trait ConfigSource: Send + Sync {
    /// Tells what is expected, as the database says it in one snapshot, and in bounded memory. Changes nothing.
    ///
    /// # Errors
    /// `Corrupt` when the database is none of System's, or expects nothing at all; `Conflict` while its data is half loaded; `Unsupported` for a server
    /// that cannot show one instant of it.
    async fn expected(&self, levels: AlertLevels, out: &mut dyn Entries, cx: &Context) -> Result<ExpectedEnd>;
}

//! What every engine is tried on: a real datastore that can be filled, changed, written to, taken away and looked at.
//!
//! A new engine is one more implementation; the conformance cases are the same for all.

mod files;
mod mysql;
mod postgres;
mod redis;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use keepsake_agent::engine::Engine;
use tokio_util::sync::CancellationToken;

pub use files::Files;
pub use mysql::Mysql;
pub use postgres::Postgres;
pub use redis::Redis;

use crate::threescale::Size;

/// Some megabytes, so that there is a middle where things can go wrong.
const SIZE: Size = Size { applications: 1_000, counters: 20_000, files: 30 };

/// Everything a datastore holds, comparable and printable.
pub type Contents = BTreeMap<String, String>;

/// A datastore of its own, empty at first.
#[async_trait(?Send)]
pub trait Stand {
    /// An engine on it as it is now; a server that came back may have another address.
    fn engine(&self) -> Arc<dyn Engine>;
    /// The artifact's name.
    fn artifact(&self) -> &'static str;
    /// Programs that the engine starts; none may outlive an operation.
    fn tools(&self) -> &'static [&'static str];
    /// Whether a commit that fails leaves the old data; otherwise it says that it cannot be undone.
    fn keeps_old_data(&self) -> bool;
    /// Fills it with a 3scale's data, odd values and all.
    async fn fill(&self);
    /// Changes and destroys some of it.
    async fn change(&self);
    /// What it holds.
    async fn contents(&self) -> Contents;
    /// Writes 1, 2, 3 … until stopped, each number to two places in one transaction, or to the first place and then to the second.
    async fn write_pairs(&self, stop: CancellationToken);
    /// The two numbers.
    async fn pair(&self) -> (u64, u64);
    /// Takes it away as a crash would.
    fn vanish(&mut self);
    /// Brings it back.
    async fn come_back(&mut self);
    /// Files that an operation left behind.
    fn leftovers(&self) -> Vec<String>;
}

/// Names in a folder that satisfy a condition.
fn names(folder: &std::path::Path, which: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("list a folder");
    let names = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|n| which(n)).collect()
}

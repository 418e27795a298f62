//! How one datastore is dumped and loaded: the agent that stands beside it.

pub mod engine;
pub mod process;

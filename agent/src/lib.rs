//! How one datastore is dumped and loaded: the agent that stands beside it.
//!
//! `app` wires, `ending` hears when it is to end, `service` answers calls, `operation` keeps what is going on, `hold` who holds the writes, `storage` and `stream` are the two places where bytes go and come from,
//! `engine` is the seam to the datastores, `process` runs their tools.

mod admin;
pub mod allocator;
pub mod app;
mod audit;
pub mod config;
pub mod ending;
pub mod engine;
pub mod hold;
pub mod operation;
pub mod patience;
pub mod process;
mod service;
mod storage;
mod stream;

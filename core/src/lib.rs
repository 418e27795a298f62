//! What a backup *is*: names, error kinds, and the repository with its format.
//!
//! Nothing here knows gRPC, Kubernetes or a datastore. Agent and coordinator both build on this crate, so a rule about
//! what counts as a backup is written once. The format itself is described for people in `docs/format.md`.

pub mod attachments;
pub mod clock;
pub mod config;
pub mod error;
pub mod format;
pub mod id;
pub mod queues;
pub mod record;
pub mod repository;
pub mod retry;
pub mod secret;
pub mod telemetry;

pub use error::{Error, Kind, Result, ResultExt};

//! The repository: where backups are, readable without Keepsake.
//!
//! Everything is created once and never overwritten, so object lock and append-only credentials work. What the objects
//! hold is described in `docs/format.md`; how to get everything back by hand in `RESTORE-1.md` at the repository's root.
//!
//! An agent uses [`writer`] with a [`Store`] and reads nothing. The coordinator opens a [`Repository`], whose keys are checked
//! against what the administrator trusts, before it writes a set or believes a record.

mod budget;
pub mod inspect;
pub mod keys;
pub mod layout;
mod open;
mod probe;
pub mod reader;
pub mod runs;
mod s3;
pub mod seal;
mod segment;
pub mod sets;
pub mod sign;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trust;
pub mod verify;
pub mod writer;

pub use budget::Budget;
pub use open::{Encryption, Init, Repository};
pub use probe::{Probe, probe_create_only, probe_put};
pub use s3::{S3Settings, WebIdentity};
pub use store::Store;

//! The list of engines: one line each.

use std::path::PathBuf;
use std::sync::Arc;

use keepsake_core::error::{Error, Kind, Result};

use super::{Engine, files, mysql, postgres, redis};

/// Every engine that this agent knows.
pub const ENGINES: &[Registration] = &[
    registration::<files::Settings>("files", "a mounted volume, for example system-storage"),
    registration::<mysql::Settings>("mysql", "MySQL or MariaDB, for example system-mysql"),
    registration::<postgres::Settings>("postgres", "PostgreSQL, for example zync-database"),
    registration::<redis::Settings>("redis", "Redis or Valkey, for example backend-redis and system-redis"),
];

/// How an engine is configured and opened.
pub trait Settings: clap::Args {
    /// Checks the settings; connects to nothing yet.
    ///
    /// # Errors
    /// `Invalid`, naming the flag and what to do.
    fn open(self, scratch: PathBuf) -> Result<Arc<dyn Engine>>;
}

/// One line of the list.
#[derive(Debug, Clone, Copy)]
pub struct Registration {
    /// The engine's name in topologies and records, and the agent's subcommand.
    pub name: &'static str,
    /// For the agent's help.
    pub about: &'static str,
    /// Adds the engine's flags to a command.
    pub augment: fn(clap::Command) -> clap::Command,
    /// Opens the engine from parsed flags; the folder is for files that live no longer than an operation.
    pub open: fn(&clap::ArgMatches, PathBuf) -> Result<Arc<dyn Engine>>,
}

const fn registration<S: Settings>(name: &'static str, about: &'static str) -> Registration {
    Registration { name, about, augment: S::augment_args, open: open::<S> }
}

fn open<S: Settings>(matches: &clap::ArgMatches, scratch: PathBuf) -> Result<Arc<dyn Engine>> {
    S::from_arg_matches(matches)
        .map_err(|e| Error::caused(Kind::Invalid, "read the engine's settings", e))?
        .open(scratch)
}

//! The mysql engine.

pub mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use keepsake_core::error::{Error, Kind, Result};

use super::Engine;

/// The engine's flags.
#[derive(Debug, clap::Args)]
pub struct Settings {}

impl super::registry::Settings for Settings {
    fn open(self, _scratch: PathBuf) -> Result<Arc<dyn Engine>> {
        Err(Error::new(Kind::Unsupported, "not written yet"))
    }
}

//! How a server that an agent made its replica is known again.

use std::path::{Path, PathBuf};

use keepsake_core::error::{Error, Result};

/// What our replication id begins with ("keepsake" in hex), so that a server left behind by a killed agent is known.
pub(super) const REPLID_PREFIX: &str = "6b65657073616b65";
/// The id: the prefix, filled up to 40 digits.
pub(super) const REPLID: &str = "6b65657073616b650000000000000000000000ff";
/// A file in the scratch folder that says which address the server was told to follow, until it follows nobody again: an agent that was killed
/// in between finds it when it is started, and frees the server.
#[derive(Debug)]
pub(super) struct Marker(PathBuf);

impl Marker {
    pub(super) fn new(scratch: &Path) -> Self {
        Self(scratch.join("redis-follows-agent"))
    }

    /// To be called before the server is told.
    pub(super) fn set(&self, master: &str) -> Result<()> {
        std::fs::write(&self.0, master).map_err(|e| Error::io(format!("write {} (--scratch)", self.0.display()), e))
    }

    /// Whether it names this master.
    pub(super) fn names(&self, master: &str) -> Result<bool> {
        match std::fs::read_to_string(&self.0) {
            Ok(known) => Ok(known == master),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(format!("read {}", self.0.display()), e)),
        }
    }

    /// Whether the server may follow an agent.
    pub(super) fn is_set(&self) -> Result<bool> {
        self.0.try_exists().map_err(|e| Error::io(format!("look for {} (--scratch)", self.0.display()), e))
    }

    /// The server follows nobody.
    pub(super) fn clear(&self) -> Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", self.0.display()), e))
            }
            _ => Ok(()),
        }
    }
}

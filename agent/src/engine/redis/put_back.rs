//! Settings that a load changes for a while, and the files it lays aside, so that an agent that is killed in between leaves no server
//! without persistence.
//!
//! What stood before is written down first. Whoever finds it, this agent at the end of its load or the next one when it is started, puts the settings
//! back and makes what the server holds now durable; only then what was laid aside goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt};

use super::connection::Server;
use super::load::durable::{self, Held};
use super::settings::Settings;

/// The folder, in the server's data folder or, without one, in the agent's scratch folder.
const FOLDER: &str = ".keepsake-load";
/// What was written down, in that folder.
const BEFORE: &str = "before.json";

/// The folder of a load.
#[derive(Debug)]
pub(super) struct PutBack(PathBuf);

impl PutBack {
    pub(super) fn new(settings: &Settings, scratch: &Path) -> Self {
        Self(settings.redis_data_dir.as_deref().unwrap_or(scratch).join(FOLDER))
    }

    /// Files of the load go here.
    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// Writes down what these settings are now. Settings that the server does not have are left out.
    pub(super) async fn note(&self, server: &Server, names: &[&str]) -> Result<BTreeMap<String, String>> {
        let mut before = BTreeMap::new();
        for name in names {
            if let Some(value) = server.config(name).await? {
                before.insert((*name).to_owned(), value);
            }
        }
        let what = || format!("write {}", self.0.join(BEFORE).display());
        std::fs::create_dir_all(&self.0).map_err(|e| Error::io(what(), e))?;
        let bytes = serde_json::to_vec(&before).or_kind(Kind::Internal, what())?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0).map_err(|e| Error::io(what(), e))?;
        std::io::Write::write_all(&mut file, &bytes).map_err(|e| Error::io(what(), e))?;
        file.as_file().sync_all().map_err(|e| Error::io(what(), e))?;
        file.persist(self.0.join(BEFORE)).map_err(|e| Error::io(what(), e.error))?;
        Ok(before)
    }

    /// Whether something is to be put back.
    pub(super) fn is_owed(&self) -> Result<bool> {
        let path = self.0.join(BEFORE);
        path.try_exists().map_err(|e| Error::io(format!("look for {}", path.display()), e))
    }

    /// Puts everything back, if anything was noted, and removes the folder.
    pub(super) async fn settle(&self, server: &Server, held: Held) -> Result<()> {
        let path = self.0.join(BEFORE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let before: BTreeMap<String, String> = serde_json::from_slice(&bytes)
                    .or_kind(Kind::Corrupt, format!("{} cannot be read", path.display()))?;
                self.put_back(server, &before, held).await?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        }
        self.clear()
    }

    /// Removes the folder, when nothing is to be put back.
    pub(super) fn clear(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", self.0.display()), e))
            }
            _ => Ok(()),
        }
    }

    async fn put_back(&self, server: &Server, before: &BTreeMap<String, String>, mut held: Held) -> Result<()> {
        for (name, value) in before {
            if server.config(name).await?.as_ref() != Some(value) {
                let what = || format!("put the server's setting {name} back to {value:?}; do it by hand (CONFIG SET)");
                server.set_config(name, value).await.with_context(what)?;
                if name == "appendonly" {
                    // An AOF that is begun now holds nothing yet.
                    held = Held::Unknown;
                }
            }
        }
        durable::ensure(server, held).await.context("make durable what the server holds after a load")
    }
}

//! Redis and Valkey: dumped by BGSAVE from the data folder, loaded by serving the RDB to the server as its master.
//!
//! Other ways to dump (PSYNC) and to load (reload, restart) come later and are refused with the reason.

mod connection;
mod dump;
mod load;
mod master;
mod preflight;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use keepsake_core::record::DumpReport;
use tokio::sync::Mutex;

use self::connection::Server;
use super::in_place::{CANNOT_BE_UNDONE, InPlace};
use super::{CommitReport, Context, Description, Engine, Held, Sink, Source, StageReport, Staged};

/// The artifact's name.
const ARTIFACT: &str = "dump.rdb";
/// Why writes cannot be held.
const CANNOT_HOLD: &str = "holding writes comes with the consistent cut";

/// The engine's flags.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The server: `redis://host:port`. A password stands in a file, never here.
    #[arg(long, env = "KEEPSAKE_REDIS_URL", default_value = "redis://127.0.0.1:6379")]
    pub redis_url: String,
    /// The ACL user, if not the default one.
    #[arg(long, env = "KEEPSAKE_REDIS_USERNAME")]
    pub redis_username: Option<String>,
    /// A file with the password; read again whenever it is used.
    #[arg(long, env = "KEEPSAKE_REDIS_PASSWORD_FILE")]
    pub redis_password_file: Option<PathBuf>,
    /// The server's data folder, as this agent sees it; needed to dump.
    #[arg(long, env = "KEEPSAKE_REDIS_DATA_DIR")]
    pub redis_data_dir: Option<PathBuf>,
    /// How dumps are loaded.
    #[arg(long, env = "KEEPSAKE_REDIS_LOAD_METHOD", value_enum, default_value = "replication")]
    pub redis_load_method: LoadMethod,
    /// The address under which the server reaches this agent while it loads.
    #[arg(long, env = "KEEPSAKE_REDIS_REPLICATION_HOST", default_value = "127.0.0.1")]
    pub redis_replication_host: IpAddr,
}

/// How dumps are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LoadMethod {
    /// The agent serves the RDB as a master would; the server must know REPLICAOF.
    Replication,
    /// DEBUG RELOAD; not served yet.
    Reload,
    /// Files laid out and the server restarted; not served yet.
    Restart,
}

/// The engine.
#[derive(Debug)]
pub struct Redis {
    settings: Settings,
    marker: master::Marker,
    in_place: InPlace,
    /// Held while the server is made a replica of this agent, so that nobody mistakes that for a leftover.
    loading: Mutex<()>,
}

impl super::registry::Settings for Settings {
    fn open(self, scratch: PathBuf) -> Result<Arc<dyn Engine>> {
        Server::check_url(&self.redis_url)?;
        if self.redis_load_method != LoadMethod::Replication {
            return Err(Error::new(
                Kind::Unsupported,
                "--redis-load-method: only `replication` is served yet; `reload` and `restart` are not",
            ));
        }
        let marker = master::Marker::new(&scratch);
        Ok(Arc::new(Redis { settings: self, marker, in_place: InPlace::default(), loading: Mutex::new(()) }))
    }
}

#[async_trait]
impl Engine for Redis {
    async fn describe(&self) -> Result<Description> {
        let server = Server::connect(&self.settings).await?;
        self.end_leftover(&server).await?;
        let info = server.info().await?;
        let mut problems = preflight::dump_problems(&info, &self.settings);
        problems.extend(preflight::load_problems(&server, &info).await?);
        Ok(Description {
            server: info.name(),
            tools: Vec::new(),
            size: info.number("used_memory"),
            position: info.get("master_repl_offset").map(str::to_owned),
            facts: preflight::facts(&server, &info).await?,
            hold: Err(CANNOT_HOLD.to_owned()),
            undo: Err(CANNOT_BE_UNDONE.to_owned()),
            problems,
        })
    }

    async fn hold(&self, _budget: Duration, _lease: Duration) -> Result<Box<dyn Held>> {
        Err(Error::new(Kind::Unsupported, CANNOT_HOLD))
    }

    async fn dump(&self, _cut: Option<&dyn Held>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        let server = Server::connect(&self.settings).await?;
        self.end_leftover(&server).await?;
        dump::dump(&server, &self.settings, out, cx).await
    }

    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport> {
        self.in_place.begin(key, from.clone());
        let server = Server::connect(&self.settings).await?;
        self.end_leftover(&server).await?;
        let report = load::stage(&server, from.as_ref(), cx).await?;
        self.in_place.staged(key);
        Ok(report)
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        Ok(self.in_place.state(key))
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        let server = Server::connect(&self.settings).await?;
        let Some(source) = self.in_place.to_commit(key)? else { return load::live_counts(&server).await };
        let _loading = self.loading.lock().await;
        let touching = || self.in_place.touching(key);
        let report = load::commit(&server, &self.settings, &self.marker, source.as_ref(), cx, touching).await?;
        self.in_place.committed(key);
        Ok(report)
    }

    async fn rollback(&self, key: &RunKey, _cx: &Context) -> Result<()> {
        self.in_place.rollback(key)
    }

    async fn finalize(&self, key: &RunKey, _cx: &Context) -> Result<()> {
        self.in_place.finalize(key);
        Ok(())
    }
}

impl Redis {
    /// A server that an agent made its replica, and then died, is made a master again: it would refuse all writes otherwise.
    async fn end_leftover(&self, server: &Server) -> Result<()> {
        let Ok(_not_loading) = self.loading.try_lock() else { return Ok(()) };
        let info = server.info().await?;
        if !info.is("role", "slave") {
            return self.marker.clear();
        }
        let ours = info.get("master_replid").is_some_and(|id| id.starts_with(master::REPLID_PREFIX));
        let master = [info.get("master_host"), info.get("master_port")].map(Option::unwrap_or_default).join(" ");
        if ours || self.marker.names(&master)? {
            tracing::warn!("the server is a replica of an agent that is gone; it is made a master again");
            server.replica_of_nobody().await?;
            self.marker.clear()?;
        }
        Ok(())
    }
}

//! The engine's flags.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use keepsake_core::error::{Error, Kind, Result};

use super::Redis;
use super::connection::Server;
use crate::engine::Engine;

/// The engine's flags.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The server: `redis://host:port`, or `rediss://host:port` for TLS. A password stands in a file, never here.
    #[arg(long, env = "KEEPSAKE_REDIS_URL", default_value = "redis://127.0.0.1:6379")]
    pub redis_url: String,
    /// The ACL user, if not the default one.
    #[arg(long, env = "KEEPSAKE_REDIS_USERNAME")]
    pub redis_username: Option<String>,
    /// A file with the password; read again whenever it is used.
    #[arg(long, env = "KEEPSAKE_REDIS_PASSWORD_FILE")]
    pub redis_password_file: Option<PathBuf>,
    /// Who may have signed the server's certificate (PEM); needed with rediss://.
    #[arg(long, env = "KEEPSAKE_REDIS_CA")]
    pub redis_ca: Option<PathBuf>,
    /// This agent's own certificate chain (PEM), if the server asks for one.
    #[arg(long, env = "KEEPSAKE_REDIS_CERT", requires = "redis_key")]
    pub redis_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, env = "KEEPSAKE_REDIS_KEY", requires = "redis_cert")]
    pub redis_key: Option<PathBuf>,
    /// The server's data folder, as this agent sees it; loads are staged in it. Without it dumps come over the network (PSYNC), only `replication` loads, and
    /// loads are staged in `--scratch`.
    #[arg(long, env = "KEEPSAKE_REDIS_DATA_DIR")]
    pub redis_data_dir: Option<PathBuf>,
    /// How dumps are loaded; by default the first way that this server allows.
    #[arg(long, env = "KEEPSAKE_REDIS_LOAD_METHOD", value_enum)]
    pub redis_load_method: Option<LoadMethod>,
    /// The address under which the server reaches this agent while it loads by `replication`.
    #[arg(long, env = "KEEPSAKE_REDIS_REPLICATION_HOST", default_value = "127.0.0.1")]
    pub redis_replication_host: IpAddr,
    /// Who starts the server again when it has shut down; without it a load never shuts it down.
    #[arg(long, env = "KEEPSAKE_REDIS_RESTARTED_BY", value_enum)]
    pub redis_restarted_by: Option<RestartedBy>,
    /// The program that starts the server, run without arguments once it has shut down (`--redis-restarted-by command`).
    #[arg(long, env = "KEEPSAKE_REDIS_RESTART_COMMAND")]
    pub redis_restart_command: Option<PathBuf>,
    /// The number of the database that Backend keeps its Config in, as at the end of `REDIS_STORAGE_URL`; only of backend-redis. Without it, 0, unless
    /// another one has a Config, too.
    #[arg(long, env = "KEEPSAKE_REDIS_STORAGE_DATABASE")]
    pub redis_storage_database: Option<u64>,
}

/// How dumps are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadMethod {
    /// The agent serves the RDB as a master would; the server must know REPLICAOF.
    Replication,
    /// DEBUG RELOAD of an RDB laid into the data folder; the server must allow DEBUG and have no replica.
    Reload,
    /// Files laid into the data folder and the server restarted; somebody must start it again.
    Restart,
}

/// Who starts the server again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RestartedBy {
    /// The kubelet, because it runs in a pod.
    Kubelet,
    /// A supervisor such as systemd.
    Supervisor,
    /// The agent, by `--redis-restart-command`.
    Command,
}

impl Default for Settings {
    /// As on a command line without flags.
    fn default() -> Self {
        Self {
            redis_url: "redis://127.0.0.1:6379".to_owned(),
            redis_username: None,
            redis_password_file: None,
            redis_ca: None,
            redis_cert: None,
            redis_key: None,
            redis_data_dir: None,
            redis_load_method: None,
            redis_replication_host: IpAddr::from([127, 0, 0, 1]),
            redis_restarted_by: None,
            redis_restart_command: None,
            redis_storage_database: None,
        }
    }
}

impl crate::engine::registry::Settings for Settings {
    fn open(self, scratch: PathBuf) -> Result<Arc<dyn Engine>> {
        let invalid = |what: &str| Err(Error::new(Kind::Invalid, what));
        Server::check(&self)?;
        if (self.redis_restarted_by == Some(RestartedBy::Command)) != self.redis_restart_command.is_some() {
            return invalid("--redis-restart-command and --redis-restarted-by command go together");
        }
        let needs_folder = matches!(self.redis_load_method, Some(LoadMethod::Reload | LoadMethod::Restart));
        if needs_folder && self.redis_data_dir.is_none() {
            return invalid("--redis-load-method reload and restart need --redis-data-dir");
        }
        if self.redis_load_method == Some(LoadMethod::Restart) && self.redis_restarted_by.is_none() {
            return invalid(
                "--redis-load-method restart needs --redis-restarted-by: nobody would start the server again",
            );
        }
        Ok(Arc::new(Redis::new(self, &scratch)))
    }
}

//! PostgreSQL: dumped by pg_dump from an exported snapshot, loaded into a database beside the live one, which then takes its name.
//!
//! A server on another machine is reached over TLS, its certificate verified by agent and tools alike; passwords reach a tool by its environment only.

mod archive;
mod config;
mod connections;
mod databases;
mod described;
mod dump;
mod hold;
mod load;
mod marked;
mod psql;
mod session;
mod shadow;
mod surroundings;
mod swap;
mod tls;
mod tools;
mod versions;
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use keepsake_core::record::DumpReport;

use self::databases::Marker;
use self::session::Session;
use super::in_place::{CANNOT_BE_UNDONE, InPlace};
use super::{
    CommitReport, Context, Description, Engine, Hold, Prepared, Sink, Source, StageReport, Staged, prepared,
    unless_gone,
};
use crate::process::Toolbox;

/// The artifact's name.
const ARTIFACT: &str = "dump.pgc";

/// The engine's flags.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The server: a host, or the folder of its socket.
    #[arg(long, env = "KEEPSAKE_POSTGRES_HOST", default_value = "127.0.0.1")]
    pub postgres_host: String,
    /// Its port.
    #[arg(long, env = "KEEPSAKE_POSTGRES_PORT", default_value_t = 5432)]
    pub postgres_port: u16,
    /// The role: a superuser or the database's owner.
    #[arg(long, env = "KEEPSAKE_POSTGRES_USER", default_value = "postgres")]
    pub postgres_user: String,
    /// A file with the password; read again whenever it is used.
    #[arg(long, env = "KEEPSAKE_POSTGRES_PASSWORD_FILE")]
    pub postgres_password_file: Option<PathBuf>,
    /// The database.
    #[arg(long, env = "KEEPSAKE_POSTGRES_DATABASE", default_value = "zync_production")]
    pub postgres_database: String,
    /// A database to connect to while the one that is served gets another name
    #[arg(long, env = "KEEPSAKE_POSTGRES_MAINTENANCE_DATABASE", default_value = "postgres")]
    pub postgres_maintenance_database: String,
    /// Where pg_dump, pg_restore and psql are; by default the newest of /usr/lib/postgresql, else --tool-dir and the PATH.
    #[arg(long, env = "KEEPSAKE_POSTGRES_BIN_DIR")]
    pub postgres_bin_dir: Option<PathBuf>,
    /// CA certificates (PEM): connect with TLS and verify the server
    #[arg(long, env = "KEEPSAKE_POSTGRES_CA_FILE")]
    pub postgres_ca_file: Option<PathBuf>,
    /// Allow a server on another machine without --postgres-ca-file: passwords and data may then be read on the way
    #[arg(long, env = "KEEPSAKE_POSTGRES_INSECURE")]
    pub postgres_insecure: bool,
    /// Where the tools are.
    #[command(flatten)]
    pub toolbox: Toolbox,
}

impl Default for Settings {
    /// As when no flag is given.
    fn default() -> Self {
        Self {
            postgres_host: "127.0.0.1".to_owned(),
            postgres_port: 5432,
            postgres_user: "postgres".to_owned(),
            postgres_password_file: None,
            postgres_database: "zync_production".to_owned(),
            postgres_maintenance_database: "postgres".to_owned(),
            postgres_bin_dir: None,
            postgres_ca_file: None,
            postgres_insecure: false,
            toolbox: Toolbox::default(),
        }
    }
}

impl Settings {
    /// Whether the server is reached by its socket: a folder, in which there is no TLS.
    fn is_socket(&self) -> bool {
        self.postgres_host.starts_with('/')
    }

    /// The certificates that the server's must come from, where there is TLS.
    fn verified_by(&self) -> Option<&Path> {
        self.postgres_ca_file.as_deref().filter(|_| !self.is_socket())
    }

    fn is_this_machine(&self) -> bool {
        let host = self.postgres_host.as_str();
        self.is_socket() || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// The engine.
#[derive(Debug)]
pub struct Postgres {
    settings: Settings,
    in_place: InPlace,
}

impl Postgres {
    /// What the run's load over the live data has written there, whatever this agent remembers; none when there is none, or when it has staged beside.
    async fn loaded_over(&self, key: &RunKey, patience: Duration) -> Result<Option<Marker>> {
        match swap::staged(&self.settings, key).await? {
            Staged::Absent => marked::of(&self.settings, key.run, patience).await,
            _ => Ok(None),
        }
    }
}

impl super::registry::Settings for Settings {
    fn open(self, scratch: PathBuf) -> Result<Arc<dyn Engine>> {
        self.toolbox.check()?;
        if !self.is_this_machine() && self.postgres_ca_file.is_none() && !self.postgres_insecure {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "--postgres-host {} is another machine: give --postgres-ca-file, or --postgres-insecure if the way there is safe",
                    self.postgres_host
                ),
            ));
        }
        if self.postgres_maintenance_database == self.postgres_database {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "--postgres-maintenance-database {}: that is the one which is loaded, and nobody may be connected to it then; name another",
                    self.postgres_database
                ),
            ));
        }
        Ok(Arc::new(Postgres { settings: self, in_place: InPlace::new(&scratch) }))
    }
}

#[async_trait]
impl Engine for Postgres {
    async fn describe(&self) -> Result<Description> {
        described::describe(&self.settings).await
    }

    async fn ready_to_hold(&self) -> Result<Option<String>> {
        hold::in_the_way(&Session::connect(&self.settings).await?).await
    }

    async fn prepare_hold(&self) -> Result<Box<dyn Hold>> {
        Ok(Box::new(hold::PostgresHold::prepare(&self.settings).await?))
    }

    async fn dump(&self, held: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        let ready = held.map(prepared).transpose()?.map(|ready| *ready);
        unless_gone(dump::dump(&self.settings, ready, out, cx).await, Session::connect(&self.settings)).await
    }

    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport> {
        super::no_queues(from.as_ref())?;
        let reach = || Session::connect(&self.settings);
        if !from.in_place() {
            self.in_place.forget(key);
            return unless_gone(shadow::stage(&self.settings, key, from.as_ref(), cx).await, reach()).await;
        }
        // What is staged or kept beside the live database would be of no use afterwards, or of a database that is no more.
        let live = &self.settings.postgres_database;
        let session = Session::connect(&self.settings).await?;
        databases::make_way(&session, live, key.run, cx).await?;
        match databases::load(&session, live, key.run).await?.state() {
            Staged::Absent => {}
            _ => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("run {} has staged beside {live} already: roll that back, then load in place", key.run),
                ));
            }
        }
        drop(session);
        self.in_place.begin(key, from.clone());
        let report = unless_gone(load::stage(&self.settings, from.as_ref(), cx).await, reach()).await?;
        self.in_place.staged(key);
        Ok(report)
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        match swap::staged(&self.settings, key).await? {
            Staged::Absent => {}
            beside => return Ok(beside),
        }
        Ok(match marked::of(&self.settings, key.run, marked::IN_PASSING).await? {
            Some(_) => Staged::Committed,
            None => self.in_place.state(key),
        })
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        let reach = || Session::beside(&self.settings);
        if let Some(marker) = cx.unless_cancelled(self.loaded_over(key, marked::TO_ITS_END)).await? {
            let report = unless_gone(load::prove(&self.settings, &marker).await, reach()).await?;
            self.in_place.committed(key)?;
            return Ok(report);
        }
        if self.in_place.state(key) == Staged::Absent {
            return unless_gone(swap::commit(&self.settings, key, cx).await, reach()).await;
        }
        let Some(source) = self.in_place.to_commit(key)? else {
            let counts = Session::connect(&self.settings).await?.counts().await?;
            return Ok(CommitReport { counts, warnings: Vec::new() });
        };
        let over = load::Over {
            settings: &self.settings,
            source: source.as_ref(),
            run: key.run,
            touching: || self.in_place.touching(key),
            taken_back: || self.in_place.taken_back(key),
            done: || self.in_place.done(key),
        };
        let report = unless_gone(Box::pin(over.commit(cx)).await, reach()).await?;
        self.in_place.committed(key)?;
        Ok(report)
    }

    async fn rollback(&self, key: &RunKey, cx: &Context) -> Result<()> {
        if cx.unless_cancelled(self.loaded_over(key, marked::IN_PASSING)).await?.is_some() {
            return Err(Error::new(Kind::Unsupported, CANNOT_BE_UNDONE));
        }
        self.in_place.rollback(key)?;
        unless_gone(swap::rollback(&self.settings, key, cx).await, Session::beside(&self.settings)).await
    }

    async fn finalize(&self, key: &RunKey, cx: &Context) -> Result<()> {
        if cx.unless_cancelled(self.loaded_over(key, marked::IN_PASSING)).await?.is_some() {
            self.in_place.replaced()?;
            marked::take_away(&self.settings, key.run).await?;
        }
        unless_gone(swap::finalize(&self.settings, key, cx).await, Session::beside(&self.settings)).await?;
        self.in_place.finalize(key)
    }

    fn config_source(&self) -> Option<&dyn super::config_source::ConfigSource> {
        Some(self)
    }
}

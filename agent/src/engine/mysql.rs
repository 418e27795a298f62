//! MySQL and MariaDB: one database, dumped by the server family's own tool and loaded by its client.
//!
//! Promises: a dump is complete (routines, triggers, events, four-byte characters, binary texts) and of one instant, or it
//! fails; it was read to its end marker by our own lexer, which counted the rows. A load is made beside the live tables, checked whole and
//! counted before they are touched; a swap puts it in their place, and another one takes it back (`stage`, `commit`, `rollback`; over the live
//! data only when that is asked for, `in_place`). What a load knows is in the server (`shadow`). Passwords reach a tool by its environment only, and nothing that
//! a failing load prints can carry a row.

mod attachments;
mod broken;
mod busy;
mod check;
mod commit;
mod config;
mod definers;
mod dump;
mod facts;
mod feed;
mod fill;
mod fingerprint;
mod groups;
mod hold;
mod in_place;
mod memory;
mod parts;
mod preflight;
mod privileges;
mod rollback;
mod room;
mod saved;
mod server;
mod shadow;
mod stage;
mod stderr;
mod swap;
mod tools;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::RunKey;
use keepsake_core::record::DumpReport;

use super::in_place::InPlace;
use super::{
    CommitReport, Context, Description, Engine, Hold, Prepared, Sink, Source, StageReport, Staged, prepared,
    unless_gone,
};
use server::{Address, Server};
use shadow::Shadow;

use crate::process::Toolbox;

/// How long all questions of one description may take: some wait for locks.
const DESCRIBE: Duration = Duration::from_secs(30);

/// How many dump tools run at once by default: what a container of 64 MiB has room for.
const DUMP_PROCESSES: u8 = 2;

/// The engine's flags.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// The server's name or address
    #[arg(long, env = "KEEPSAKE_MYSQL_HOST", default_value = "127.0.0.1")]
    pub mysql_host: String,
    /// The server's TCP port
    #[arg(long, env = "KEEPSAKE_MYSQL_PORT", default_value_t = 3306)]
    pub mysql_port: u16,
    /// The server's unix socket, instead of host and port
    #[arg(long, env = "KEEPSAKE_MYSQL_SOCKET")]
    pub mysql_socket: Option<PathBuf>,
    /// The account that dumps and loads
    #[arg(long, env = "KEEPSAKE_MYSQL_USER", default_value = "root")]
    pub mysql_user: String,
    /// File with the account's password, read at each use
    #[arg(long, env = "KEEPSAKE_MYSQL_PASSWORD_FILE")]
    pub mysql_password_file: Option<PathBuf>,
    /// The database that is dumped, and replaced by a load
    #[arg(long, env = "KEEPSAKE_MYSQL_DATABASE", default_value = "system")]
    pub mysql_database: String,
    /// CA certificates (PEM): connect with TLS and verify the server
    #[arg(long, env = "KEEPSAKE_MYSQL_CA_FILE")]
    pub mysql_ca_file: Option<PathBuf>,
    /// Allow a server on another machine without --mysql-ca-file: passwords and data may then be read on the way
    #[arg(long, env = "KEEPSAKE_MYSQL_INSECURE")]
    pub mysql_insecure: bool,
    /// The dump tool; by default mariadb-dump or mysqldump, whichever is of the server's family
    #[arg(long, env = "KEEPSAKE_MYSQL_DUMP_PROGRAM")]
    pub mysql_dump_program: Option<String>,
    /// The client; by default mariadb or mysql, whichever is of the server's family
    #[arg(long, env = "KEEPSAKE_MYSQL_PROGRAM")]
    pub mysql_program: Option<String>,
    /// Load a dump of MySQL into MariaDB or the other way round, which may fail half way
    #[arg(long, env = "KEEPSAKE_MYSQL_ALLOW_CROSS_FAMILY")]
    pub mysql_allow_cross_family: bool,
    /// How many dump tools, and clients of a load, run at once; 1 = everything in one stream
    ///
    /// Several only for a consistent cut, when writes are held and all read the same instant, never more than tables, and never more than there is
    /// memory for. Each takes about 10 MiB and three times the largest row, beside the agent's own.
    #[arg(long, env = "KEEPSAKE_MYSQL_DUMP_PROCESSES", default_value_t = DUMP_PROCESSES, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub mysql_dump_processes: u8,
    /// Memory that the agent and its tools may take together, MiB; by default the container's limit, if it has one
    ///
    /// Fewer dump tools are run than asked for when the largest row would not fit so often.
    #[arg(long, env = "KEEPSAKE_MYSQL_MEMORY_LIMIT", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub mysql_memory_limit: Option<u64>,
    /// Where the tools are.
    #[command(flatten)]
    pub toolbox: Toolbox,
}

impl Default for Settings {
    /// As when no flag is given.
    fn default() -> Self {
        Self {
            mysql_host: "127.0.0.1".to_owned(),
            mysql_port: 3306,
            mysql_socket: None,
            mysql_user: "root".to_owned(),
            mysql_password_file: None,
            mysql_database: "system".to_owned(),
            mysql_ca_file: None,
            mysql_insecure: false,
            mysql_dump_program: None,
            mysql_program: None,
            mysql_allow_cross_family: false,
            mysql_dump_processes: DUMP_PROCESSES,
            mysql_memory_limit: None,
            toolbox: Toolbox::default(),
        }
    }
}

impl super::registry::Settings for Settings {
    fn open(self, scratch: PathBuf) -> Result<Arc<dyn Engine>> {
        if self.mysql_database.is_empty() || self.mysql_database.chars().count() > 64 {
            return Err(Error::new(Kind::Invalid, "--mysql-database must be a name of 1 to 64 characters"));
        }
        if ["mysql", "information_schema", "performance_schema", "sys"]
            .iter()
            .any(|own| self.mysql_database.eq_ignore_ascii_case(own))
        {
            return Err(Error::new(
                Kind::Invalid,
                format!("--mysql-database {}: that is the server's own, name the application's", self.mysql_database),
            ));
        }
        self.toolbox.check()?;
        let address = Address {
            host: self.mysql_host,
            port: self.mysql_port,
            socket: self.mysql_socket,
            user: self.mysql_user,
            password_file: self.mysql_password_file,
            database: self.mysql_database,
            ca_file: self.mysql_ca_file,
        };
        if !address.is_here() && address.ca_file.is_none() && !self.mysql_insecure {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "--mysql-host {} is another machine: give --mysql-ca-file, or --mysql-insecure if the way there is safe",
                    address.host
                ),
            ));
        }
        Ok(Arc::new(Mysql {
            address,
            programs: tools::Programs {
                dump: self.mysql_dump_program,
                client: self.mysql_program,
                toolbox: self.toolbox,
            },
            allow_cross_family: self.mysql_allow_cross_family,
            dump_processes: usize::from(self.mysql_dump_processes).max(1),
            memory: self.mysql_memory_limit.map(|mib| mib << 20).or_else(memory::limit_of_container),
            loads: InPlace::new(&scratch),
            clients: busy::Clients::default(),
        }))
    }
}

/// One database of one server.
#[derive(Debug)]
struct Mysql {
    address: Address,
    programs: tools::Programs,
    allow_cross_family: bool,
    dump_processes: usize,
    /// What the agent and its tools may take together, bytes.
    memory: Option<u64>,
    loads: InPlace,
    /// The clients of its loads.
    clients: busy::Clients,
}

impl Mysql {
    async fn ask(&self) -> Result<Description> {
        let mut server = Server::connect(&self.address).await?;
        let database = &self.address.database;
        let mut problems = Vec::new();
        let mut found = Vec::new();
        for tool in
            [tools::dump_tool(&self.programs, server.family).await, tools::client(&self.programs, server.family).await]
        {
            match tool {
                Ok(tool) => found.push((tool.program, tool.version)),
                Err(e) => problems.push(e.chain()),
            }
        }
        if let Ok(client) = tools::client(&self.programs, server.family).await
            && let Err(e) = tools::gets_in(&client, &self.address, self.address.password()?.as_ref()).await
        {
            problems.push(e.chain());
        }
        let mut size = 0;
        if facts::defaults(&mut server, database).await?.is_some() {
            size = facts::size(&mut server, database).await?;
            let tables = facts::not_transactional(&mut server, database).await?;
            problems.extend(dump::not_transactional_warning(&tables));
        } else {
            problems.push(facts::no_database(database).chain());
        }
        let privileges = privileges::ask(&mut server, database).await?;
        problems.extend(privileges.missing_for_dump());
        problems.extend(privileges.missing_for_load());
        Ok(Description {
            server: server.name(),
            tools: found,
            size,
            position: facts::position(&mut server).await,
            facts: facts::facts(&mut server, database).await?,
            hold: hold::possible(&mut server).await?,
            undo: stage::possible(&mut server, database).await?,
            in_place_is_whole: false,
            in_place_is_told: false,
            problems,
            staging_free: room::free(&mut server, &self.address).await?,
            loads: shadow::all(&mut server, database).await?.iter().map(|(s, phase)| (s.run, phase.told())).collect(),
        })
    }
}

#[async_trait]
impl Engine for Mysql {
    async fn describe(&self) -> Result<Description> {
        tokio::time::timeout(DESCRIBE, Box::pin(self.ask())).await.map_err(|_| {
            Error::new(
                Kind::Timeout,
                format!(
                    "the server at {} did not answer within {DESCRIBE:?}: is a table locked?",
                    self.address.place()
                ),
            )
        })?
    }

    async fn ready_to_hold(&self) -> Result<Option<String>> {
        hold::in_the_way(&mut Server::connect(&self.address).await?, &self.address.database).await
    }

    async fn prepare_hold(&self) -> Result<Box<dyn Hold>> {
        Ok(Box::new(hold::MysqlHold::prepare(self).await?))
    }

    async fn dump(&self, held: Option<Prepared>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
        let ready = held.map(prepared).transpose()?.map(|ready| *ready);
        // Cancelled, the tool is killed with its handle and the artifact stays unfinished.
        let done = cx.unless_cancelled(Box::pin(dump::run(self, ready, out, cx))).await;
        unless_gone(done, Server::connect(&self.address)).await
    }

    async fn stage(&self, key: &RunKey, from: Arc<dyn Source>, cx: &Context) -> Result<StageReport> {
        super::no_queues(from.as_ref())?;
        if from.in_place() {
            stage::not_committed_beside(self, key).await?;
            self.loads.begin(key, from.clone());
            // Cancelled, nothing is left: the live database is only read.
            let done = cx.unless_cancelled(Box::pin(stage::in_place(self, key, from.as_ref(), cx))).await;
            let report = unless_gone(done, Server::connect(&self.address)).await?;
            self.loads.staged(key);
            return Ok(report);
        }
        self.loads.forget(key);
        // Cancelled, the clients are killed; what they had loaded is beside the live data, and is dropped by the next stage or a rollback.
        let done = cx.unless_cancelled(Box::pin(stage::run(self, key, from.as_ref(), cx))).await;
        unless_gone(done, Server::connect(&self.address)).await
    }

    async fn staged(&self, key: &RunKey) -> Result<Staged> {
        match self.loads.state(key) {
            Staged::Absent => {}
            in_place => return Ok(in_place),
        }
        let mut server = Server::connect(&self.address).await?;
        let phase = Shadow::of(&self.address.database, key.run).phase(&mut server).await?;
        Ok(phase.map_or(Staged::Absent, shadow::Phase::told))
    }

    async fn commit(&self, key: &RunKey, cx: &Context) -> Result<CommitReport> {
        if self.loads.state(key) == Staged::Absent {
            // Cancelled, it stops between two statements: commit again, or roll back.
            let done = cx.unless_cancelled(Box::pin(commit::run(self, key, cx))).await;
            return unless_gone(done, Server::connect(&self.address)).await;
        }
        let Some(source) = self.loads.to_commit(key)? else {
            return in_place::repeated(self).await;
        };
        // Cancelled by an operator, the client is killed and the database holds what it had read: commit again, or restore another set.
        let done = cx.unless_cancelled(Box::pin(in_place::run(self, key, source.as_ref(), cx))).await;
        let report = unless_gone(done, Server::connect(&self.address)).await?;
        self.loads.committed(key)?;
        Ok(report)
    }

    async fn rollback(&self, key: &RunKey, cx: &Context) -> Result<()> {
        self.loads.rollback(key)?;
        let done = cx.unless_cancelled(Box::pin(rollback::run(self, key, cx))).await;
        unless_gone(done, Server::connect(&self.address)).await
    }

    async fn finalize(&self, key: &RunKey, cx: &Context) -> Result<()> {
        let done = cx.unless_cancelled(Box::pin(rollback::finalize(self, key))).await;
        unless_gone(done, Server::connect(&self.address)).await?;
        self.loads.finalize(key)
    }

    fn config_source(&self) -> Option<&dyn super::config_source::ConfigSource> {
        Some(self)
    }
}

//! Whole installations: five real servers' worth of data each, a real agent beside every store, one repository, one coordinator.

mod agents;
mod hooks;
mod leftovers;
mod state;

use std::path::{Path, PathBuf};
use std::process::Output;

pub use self::agents::Agent;
pub use self::hooks::Hooks;
pub use self::state::State;
use keepsake_core::config::{AlertLevels, classify};

use crate::child::{run, tool_command};
use crate::scratch::Scratch;
use crate::servers::mysql::MysqlServer;
use crate::servers::postgres::PostgresServer;
use crate::servers::redis::RedisServer;
use crate::threescale::{Size, backend, storage, system, system_redis, zync};
use crate::{config_source, config_target};

/// The name in the coordinator's certificate.
pub const COORDINATOR: &str = "coordinator.keepsake";
/// The components of every installation, in the order of the topology.
pub const COMPONENTS: [&str; 5] = ["system-mysql", "backend-redis", "system-redis", "zync-database", "system-storage"];

/// One 3scale on real servers.
#[derive(Debug)]
pub struct Installation {
    /// Its name.
    pub name: String,
    /// system-mysql, database `system`.
    pub mysql: MysqlServer,
    /// backend-redis.
    pub backend: RedisServer,
    /// system-redis.
    pub system_redis: RedisServer,
    /// zync-database, database `zync_production` of the role `zync`.
    pub zync: PostgresServer,
    /// system-storage.
    pub storage: PathBuf,
    /// The agents by component.
    pub agents: Vec<Agent>,
}

/// Where a house keeps its backups.
#[derive(Debug, Clone)]
pub struct RepositoryAt {
    /// Its URL.
    pub url: String,
    /// What the topology says of it beside the URL: lines below `repository:`.
    pub topology: String,
    /// What every agent is told beside the URL.
    pub agents: Vec<String>,
}

/// Everything.
#[derive(Debug)]
pub struct House {
    /// Where backups are.
    pub at: RepositoryAt,
    /// What the topology says of every installation's consistency: lines below its name.
    pub consistency: String,
    /// The installations.
    pub installations: Vec<Installation>,
    /// Where everything is.
    pub scratch: Scratch,
}

/// The folder of the programs under test: `KEEPSAKE_BIN_DIR`, else where the test itself was built.
pub fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("KEEPSAKE_BIN_DIR") {
        return PathBuf::from(folder);
    }
    let exe = std::env::current_exe().expect("the test's own path");
    let folder = exe
        .ancestors()
        .find(|p| p.ends_with("debug") || p.ends_with("release"))
        .expect("a target folder")
        .to_path_buf();
    assert!(
        folder.join("keepsake").is_file() && folder.join("keepsake-agent").is_file(),
        "the programs are not in {}: build them with `cargo build --bins` (make test does)",
        folder.display()
    );
    folder
}

impl House {
    /// Starts and fills installations of these names, with agents, certificates, keys and a repository in a folder.
    pub async fn new(names: &[&str], size: Size) -> Self {
        let scratch = Scratch::new();
        let url = format!("file://{}", scratch.folder("repository", 0o700).display());
        Self::with(names, size, scratch, RepositoryAt { url, topology: String::new(), agents: Vec::new() }).await
    }

    /// As [`House::new`], with a repository anywhere.
    pub async fn with(names: &[&str], size: Size, scratch: Scratch, at: RepositoryAt) -> Self {
        let mut house = Self { at, consistency: String::new(), installations: Vec::new(), scratch };
        house.must(&["pki", "ca", "--out", &house.path("ca")]);
        house.must(&[
            "pki",
            "issue",
            "--ca",
            &house.path("ca"),
            "--name",
            COORDINATOR,
            "--out",
            &house.path("coordinator"),
        ]);
        let generate = |n: u32| {
            vec![
                "keys".to_owned(),
                "generate".to_owned(),
                "--identity".to_owned(),
                house.path(&format!("identity-{n}")),
            ]
        };
        let first = house.must_json(&generate(1));
        let second = house.must_json(&generate(2));
        house.must(&["keys", "generate", "--signing-key", &house.path("signing.pem")]);
        for (n, name) in names.iter().enumerate() {
            let installation = Installation::start(&house, name, n as u64 + 1, size).await;
            house.installations.push(installation);
        }
        house.write_topology();
        let recipient = |made: &serde_json::Value| made["recipient"].as_str().expect("a recipient").to_owned();
        house.must(&["init", "--recipient", &recipient(&first), "--recipient", &recipient(&second)]);
        house
    }

    /// A path below the scratch folder, as text.
    pub fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    /// The repository's folder.
    pub fn repository(&self) -> PathBuf {
        self.scratch.path().join("repository")
    }

    /// Writes the topology for the agents that run now.
    pub fn write_topology(&self) {
        let mut yaml = format!(
            "repository:\n  url: {}\n  signing_key: signing.pem\n{}tls: {{ ca: coordinator/ca.crt, cert: coordinator/tls.crt, key: coordinator/tls.key }}\n\
             installations:\n",
            self.at.url, self.at.topology
        );
        for installation in &self.installations {
            yaml.push_str(&format!("  - name: {}\n{}    components:\n", installation.name, self.consistency));
            for agent in &installation.agents {
                yaml.push_str(&format!(
                    "      - {{ name: {}, engine: {}, agent: 'https://{}' }}\n",
                    agent.component,
                    agent.engine,
                    agent.address()
                ));
            }
        }
        std::fs::write(self.scratch.path().join("keepsake.yaml"), yaml).expect("write the topology");
    }

    /// The coordinator's command, ready for arguments. It dies with the test.
    pub fn command(&self) -> std::process::Command {
        let mut command = tool_command(programs().join("keepsake"));
        command.arg("--topology").arg(self.scratch.path().join("keepsake.yaml"));
        command
    }

    /// Runs `keepsake`.
    pub fn keepsake<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Output {
        run(self.command().args(args))
    }

    /// Runs `keepsake`, which must succeed; gives what it printed on stdout.
    pub fn must<S: AsRef<std::ffi::OsStr> + std::fmt::Debug>(&self, args: &[S]) -> String {
        let done = self.keepsake(args);
        assert!(
            done.status.success(),
            "keepsake {args:?} ended with {}:\n{}\n{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// As [`House::must`], with JSON.
    pub fn must_json<S: AsRef<str> + std::fmt::Debug>(&self, args: &[S]) -> serde_json::Value {
        let args: Vec<&str> = ["--output", "json"].into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
        serde_json::from_str(&self.must(&args)).expect("JSON")
    }
}

impl Installation {
    async fn start(house: &House, name: &str, seed: u64, size: Size) -> Self {
        let (mysql, backend, system_redis, zync) = tokio::join!(
            MysqlServer::start(),
            RedisServer::start(&["--appendonly", "yes"]),
            RedisServer::start(&["--appendonly", "yes"]),
            PostgresServer::start()
        );
        let storage = house.scratch.folder(&format!("{name}/storage"), 0o755);
        let mut installation =
            Self { name: name.to_owned(), mysql, backend, system_redis, zync, storage, agents: Vec::new() };
        installation.create_databases().await;
        installation.fill(seed, size).await;
        installation.agents = COMPONENTS.iter().map(|c| Agent::start(house, &installation, c)).collect();
        installation
    }

    async fn create_databases(&self) {
        // What porta's database.yml creates.
        self.mysql.run(&["CREATE DATABASE `system` CHARACTER SET utf8mb3 COLLATE utf8mb3_bin"]).await;
        self.zync.create_owner_and_database("zync", "zync_production").await;
    }

    /// Fills the stores, whose databases are there and empty.
    pub async fn fill(&self, seed: u64, size: Size) {
        self.mysql_statements(&system::statements(seed, size)).await;
        backend::fill(&self.backend.client(), seed, size).await.expect("fill backend-redis");
        self.make_config_equal().await;
        system_redis::fill(&self.system_redis.client(), seed, size).await.expect("fill system-redis");
        self.zync.run_as("zync", "zync_production", &zync::statements(seed, size)).await;
        storage::fill(&self.storage, seed, size);
    }

    /// Backend's Config is what System's database says, as in every 3scale that is well.
    async fn make_config_equal(&self) {
        let (entries, _) =
            config_source::expected(&self.mysql.engine(), AlertLevels::Expected).await.expect("the Config");
        let mut connection = self.backend.client().get_multiplexed_async_connection().await.expect("connect");
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("KEYS");
        for key in keys.iter().filter(|key| classify(key).is_some()) {
            redis::cmd("DEL").arg(&key[..]).query_async::<()>(&mut connection).await.expect("DEL");
        }
        config_target::write(&self.backend, &entries).await;
    }

    async fn mysql_statements(&self, statements: &[String]) {
        let mut all = vec!["USE `system`"];
        all.extend(statements.iter().map(String::as_str));
        self.mysql.run(&all).await;
    }

    /// Destroys and changes something in every store.
    pub async fn wreck(&self) {
        self.mysql_statements(&system::wreck()).await;
        backend::wreck(&self.backend.client()).await.expect("wreck backend-redis");
        system_redis::wreck(&self.system_redis.client()).await.expect("wreck system-redis");
        self.zync.run_as("zync", "zync_production", &zync::wreck()).await;
        storage::wreck(&self.storage);
    }

    /// The agent of a component.
    pub fn agent(&mut self, component: &str) -> &mut Agent {
        self.agents.iter_mut().find(|a| a.component == component).expect("an agent")
    }
}

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut pending = vec![folder.to_path_buf()];
    let mut files = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).expect("list a folder") {
            let entry = entry.expect("an entry");
            let kind = entry.file_type().expect("its type");
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

//! A real PostgreSQL server in a folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use crate::child::{Process, give_to_servers, run};
use crate::poll::wait_for;
use crate::root::Root;
use crate::scratch::{Scratch, free_port};

/// The password of the superuser of every test server.
pub const PASSWORD: &str = "canary-postgres-password";

/// A server that runs.
#[derive(Debug)]
pub struct PostgresServer {
    process: Option<Process>,
    root: Root,
    port: u16,
    data: PathBuf,
    password_file: PathBuf,
    scratch: Scratch,
    settings: Vec<String>,
}

/// The newest version's programs of this machine.
pub fn programs() -> PathBuf {
    programs_of(&Root::host())
}

/// The newest version's programs of a root, as Debian lays them out and as they are called inside.
pub fn programs_of(root: &Root) -> PathBuf {
    let versions = std::fs::read_dir(root.outside("/usr/lib/postgresql"))
        .expect("PostgreSQL is installed (make test installs it)");
    let newest = versions
        .filter_map(|v| v.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a version of PostgreSQL");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

/// A connection of the superuser to the test server on this port.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn connect(port: u16, database: &str) -> Result<Client, tokio_postgres::Error> {
    let config = format!("host=127.0.0.1 port={port} user=postgres password={PASSWORD} dbname={database}");
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
    // Ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// A background writer that cannot write tries again for ever, and does not see that its server is gone.
impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl PostgresServer {
    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_with_children();
        }
    }

    /// The process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    /// Starts one with an empty cluster.
    pub async fn start() -> Self {
        Self::start_in(&Root::host()).await
    }

    /// Starts one of a root.
    pub async fn start_in(root: &Root) -> Self {
        Self::start_with(root, &[]).await
    }

    /// Starts one of a root with settings of its own, `name=value`.
    pub async fn start_with(root: &Root, settings: &[String]) -> Self {
        let scratch = Scratch::new();
        let password_file = scratch.path().join("password");
        std::fs::write(&password_file, PASSWORD).expect("write the password file");
        let data = scratch.path().join("data");
        let programs = programs_of(root);
        // Another release of the root makes another cluster.
        let version = root.version(&programs.join("initdb")).major;
        crate::template::copy(&format!("postgres-{}-{version}", root.name()), &data, |template| {
            give_to_servers(template);
            let mut initdb = root.server_command(programs.join("initdb"));
            initdb
                .args([
                    "--username=postgres",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                ])
                .arg(format!("--pwfile={}", password_file.display()))
                .arg("-D")
                .arg(template);
            let made = run(&mut initdb);
            assert!(made.status.success(), "initdb: {made:?}");
        });
        let sockets = scratch.folder("sockets", 0o755);
        give_to_servers(&sockets);
        let mut server = Self {
            process: None,
            root: root.clone(),
            port: 0,
            data,
            password_file,
            scratch,
            settings: settings.to_vec(),
        };
        server.restart().await;
        server
    }

    /// One that somebody else runs, and that is reached at this port of 127.0.0.1. The superuser has the password of all.
    pub fn elsewhere(port: u16) -> Self {
        let (root, scratch) = (Root::host(), Scratch::new());
        let password_file = scratch.path().join("password");
        Self {
            process: None,
            root,
            port,
            data: scratch.path().join("data"),
            password_file,
            scratch,
            settings: Vec::new(),
        }
    }

    /// Starts it again on the data it has.
    pub async fn restart(&mut self) {
        self.stop();
        for _ in 0..5 {
            self.port = free_port();
            let mut command = self.root.server_command(programs_of(&self.root).join("postgres"));
            command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
            command.arg("-k").arg(self.scratch.path().join("sockets"));
            for setting in
                ["fsync=off", "shared_buffers=16MB", "max_connections=40", "autovacuum=off", "log_min_messages=fatal"]
            {
                command.args(["-c", setting]);
            }
            for setting in &self.settings {
                command.args(["-c", setting]);
            }
            let mut process = Process::start("postgres", command);
            let started = wait_for("postgres to answer", Duration::from_secs(60), async || {
                if process.ended().is_some() {
                    return Ok(false);
                }
                connect(self.port, "postgres").await.map(|_| true).map_err(|e| e.to_string())
            })
            .await;
            if started {
                self.process = Some(process);
                return;
            }
        }
        panic!("postgres did not start five times");
    }

    /// A connection of the superuser.
    pub async fn client(&self, database: &str) -> Client {
        connect(self.port, database).await.unwrap_or_else(|e| panic!("connect to {database}: {e:?}"))
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its socket.
    pub fn sockets(&self) -> PathBuf {
        self.scratch.path().join("sockets")
    }

    /// The file with the superuser's password.
    pub fn password_file(&self) -> &Path {
        &self.password_file
    }

    /// Makes a role that may log in with the same password, and a database that it owns.
    pub async fn create_owner_and_database(&self, role: &str, database: &str) {
        let client = self.client("postgres").await;
        client.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await.expect("make the role");
        client.batch_execute(&format!("CREATE DATABASE {database} OWNER {role}")).await.expect("make the database");
    }

    /// Runs statements as a role.
    pub async fn run_as(&self, role: &str, database: &str, statements: &[String]) {
        let client = self.client(database).await;
        client.batch_execute(&format!("SET ROLE {role}")).await.expect("take the role");
        for statement in statements {
            client.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        }
    }

    /// A digest of every table's rows, and the value of every sequence.
    pub async fn digests(&self, database: &str) -> BTreeMap<String, String> {
        let client = self.client(database).await;
        let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
        let mut all = BTreeMap::new();
        for row in client.query(tables, &[]).await.expect("list tables") {
            let name: String = row.get(0);
            let sql = format!(
                "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")), '') FROM {name} t"
            );
            all.insert(
                name.clone(),
                client.query_one(&sql, &[]).await.unwrap_or_else(|e| panic!("{name}: {e:?}")).get(0),
            );
        }
        let sequences =
            "SELECT format('%I.%I', schemaname, sequencename), coalesce(last_value, -1)::text FROM pg_sequences";
        for row in client.query(sequences, &[]).await.expect("list sequences") {
            all.insert(row.get(0), row.get(1));
        }
        all
    }

    /// The schema as pg_dump writes it, without what differs from one dump to the next.
    pub fn schema(&self, database: &str) -> String {
        let mut dump = self.root.tool_command(programs_of(&self.root).join("pg_dump"));
        dump.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "--schema-only", database])
            .env("PGPASSWORD", PASSWORD);
        let done = run(&mut dump);
        assert!(done.status.success(), "pg_dump: {done:?}");
        let text = String::from_utf8(done.stdout).expect("UTF-8");
        text.lines()
            .filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Runs a file of SQL as the superuser.
    pub fn run_file(&self, database: &str, path: &Path) {
        let mut psql = self.root.tool_command(programs_of(&self.root).join("psql"));
        psql.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            database,
            "-f",
        ])
        .arg(path)
        .env("PGPASSWORD", PASSWORD);
        let done = run(&mut psql);
        assert!(done.status.success(), "psql: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Kills it and all its children at once.
    pub fn kill9(&mut self) {
        self.stop();
    }

    /// A folder of the test's own.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

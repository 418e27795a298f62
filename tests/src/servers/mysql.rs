//! A MariaDB or MySQL server of a test's own.

pub mod line;
pub mod odd;
pub mod replica;
mod template;
pub mod torn;
pub mod trials;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keepsake_agent::engine::Engine;
use keepsake_agent::engine::mysql::Settings;
use keepsake_agent::engine::registry::Settings as _;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Pool, Row, Value};

use crate::child::{Process, give_to_servers, run, tool_command};
use crate::poll::wait_for;
use crate::root::Root;
use crate::scratch::{Scratch, free_port};

/// The password of root on every such server. A canary: it may appear nowhere.
pub const PASSWORD: &str = r#"canary-pw '"\ #;=% geheim"#;

/// Settings that make a server small and fast; nothing of it outlives a test, so it need not be durable.
const SERVER: &[&str] = &[
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-doublewrite=0",
    "--performance-schema=OFF",
    "--default-time-zone=+00:00",
    "--character-set-server=utf8mb4",
    "--max-allowed-packet=64M",
    "--max-connections=60",
    // MySQL's second protocol has a port of its own, the same for all.
    "--loose-mysqlx=OFF",
];
/// How large the files of an empty server are; the same whenever it starts. MySQL 9 has a redo log of another kind.
const FILES: &[&str] = &[
    "--loose-innodb-log-file-size=8M",
    "--loose-innodb-redo-log-capacity=8M",
    "--innodb-data-file-path=ibdata1:8M:autoextend",
];

/// A server that runs.
#[derive(Debug)]
pub struct MysqlServer {
    // Before the folder, so that it has ended when its files go. None of a server that somebody else runs.
    process: Option<Process>,
    scratch: Scratch,
    root: Root,
    port: u16,
    extra: Vec<String>,
}

impl MysqlServer {
    /// A new, empty one.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A new, empty one with further options.
    pub async fn with(extra: &[&str]) -> Self {
        Self::start_in(&Root::host(), extra).await
    }

    /// The server of a root; MySQL's where there is no MariaDB.
    pub fn program(root: &Root) -> PathBuf {
        root.program(&["mariadbd", "mysqld"]).expect("mariadbd is installed (make test installs it)")
    }

    /// A new, empty one of a root.
    pub async fn start_in(root: &Root, extra: &[&str]) -> Self {
        let scratch = Scratch::new();
        template::copy(root, &scratch.path().join("data"));
        // MySQL's name for this very server: two with the same do not replicate.
        let _not_of_mariadb = std::fs::remove_file(scratch.path().join("data/auto.cnf"));
        let tmp = scratch.folder("tmp", 0o777);
        give_to_servers(&tmp);
        let run = scratch.folder("run", 0o777);
        give_to_servers(&run);
        std::fs::write(scratch.path().join("password"), format!("{PASSWORD}\n")).expect("write the password file");
        let extra: Vec<String> = extra.iter().map(|s| (*s).to_owned()).collect();
        let port = free_port();
        let process = Some(start(root, &scratch, port, &extra));
        let mut server = Self { process, scratch, root: root.clone(), port, extra };
        for _ in 0..4 {
            if server.wait_until_ready().await {
                return server;
            }
            // Somebody took the port in between.
            server.port = free_port();
            server.process = Some(start(&server.root, &server.scratch, server.port, &server.extra));
        }
        panic!("the server does not start: {:#?}", server.process.as_ref().map(Process::output))
    }

    /// One that somebody else runs, and that is reached at this port of 127.0.0.1. Root has the password of all.
    pub fn elsewhere(port: u16) -> Self {
        let scratch = Scratch::new();
        std::fs::write(scratch.path().join("password"), format!("{PASSWORD}\n")).expect("write the password file");
        Self { process: None, scratch, root: Root::host(), port, extra: Vec::new() }
    }

    /// Whether it answers; false when it ended instead.
    async fn wait_until_ready(&mut self) -> bool {
        let opts = self.opts(None);
        let process = &mut self.process;
        wait_for("the database server", Duration::from_secs(60), async || {
            if let Some(status) = process.as_mut().and_then(Process::ended) {
                return Ok(Err(status));
            }
            match Conn::new(opts.clone()).await {
                Ok(conn) => {
                    conn.disconnect().await.map_err(|e| e.to_string())?;
                    Ok(Ok(()))
                }
                Err(e) => Err(e.to_string()),
            }
        })
        .await
        .is_ok()
    }

    /// Kills it as a power cut would.
    pub fn kill9(&mut self) {
        self.process.as_mut().expect("a server of the test's own").kill();
    }

    /// Starts it again on its data and port.
    pub async fn restart(&mut self) {
        self.kill9();
        self.process = Some(start(&self.root, &self.scratch, self.port, &self.extra));
        assert!(self.wait_until_ready().await, "the server does not start again");
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("run/mysql.sock")
    }

    /// The file with root's password.
    pub fn password_file(&self) -> PathBuf {
        self.scratch.path().join("password")
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// How an engine reaches it.
    pub fn settings(&self) -> Settings {
        Settings { mysql_port: self.port, mysql_password_file: Some(self.password_file()), ..Settings::default() }
    }

    /// An engine on its database `system`.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.settings().open(self.scratch.path().to_owned()).expect("open the mysql engine")
    }

    fn opts(&self, database: Option<&str>) -> OptsBuilder {
        opts(self.port).db_name(database)
    }

    /// A connection, in no database.
    pub async fn conn(&self) -> Conn {
        Conn::new(self.opts(None)).await.expect("connect to the test's server")
    }

    /// Connections to a database.
    pub fn pool(&self, database: &str) -> Pool {
        Pool::new(self.opts(Some(database)))
    }

    /// Runs statements one by one.
    pub async fn run(&self, statements: &[&str]) {
        let mut conn = self.conn().await;
        for sql in statements {
            conn.query_drop(*sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        conn.disconnect().await.expect("disconnect");
    }

    /// The one value of a query, as text.
    pub async fn value(&self, sql: &str) -> Option<String> {
        texts(&self.rows(sql).await).into_iter().next().and_then(|row| row.into_iter().next().flatten())
    }

    async fn rows(&self, sql: &str) -> Vec<Row> {
        let mut conn = self.conn().await;
        let rows = ask(&mut conn, sql).await;
        conn.disconnect().await.expect("disconnect");
        rows
    }

    /// Loads an SQL script into a database by the client; one that ends in `.zst` is unpacked.
    pub fn run_script(&self, database: &str, path: &Path) {
        let unpack = if path.extension().is_some_and(|e| e == "zst") { "zstd -dc" } else { "cat" };
        let client = if in_path("mariadb") { "mariadb" } else { "mysql" };
        let done = run(tool_command("bash")
            .env("MYSQL_PWD", PASSWORD)
            .arg("-c")
            .arg(format!(
                "set -o pipefail; {unpack} \"$0\" | {client} --no-defaults --default-character-set=utf8mb4 -uroot --socket=\"$1\" \"$2\""
            ))
            .arg(path)
            .arg(self.socket())
            .arg(database));
        assert!(done.status.success(), "load {}: {done:?}", path.display());
    }

    /// The names of a database's tables, without views.
    pub async fn tables(&self, database: &str) -> Vec<String> {
        let sql = format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}' \
             AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY 1"
        );
        texts(&self.rows(&sql).await).into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
    }

    /// CHECKSUM TABLE of every table.
    pub async fn checksums(&self, database: &str) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let (tables, mut conn) = (self.tables(database).await, self.conn().await);
        for table in tables {
            let sum = texts(&ask(&mut conn, &format!("CHECKSUM TABLE {}.{}", quoted(database), quoted(&table))).await);
            all.insert(table, sum[0][1].clone().expect("a checksum"));
        }
        all
    }

    /// The definition of everything in a database, as the server tells it.
    pub async fn schema_digest(&self, database: &str) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let (db, mut conn) = (quoted(database), self.conn().await);
        let defaults = texts(&ask(&mut conn, &format!("SHOW CREATE DATABASE {db}")).await);
        all.insert("database".to_owned(), format!("{defaults:?}"));
        for (kind, list) in [
            ("TABLE", "SELECT table_name FROM information_schema.tables WHERE table_schema"),
            ("TRIGGER", "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema"),
            (
                "PROCEDURE",
                "SELECT routine_name FROM information_schema.routines WHERE routine_type = 'PROCEDURE' AND routine_schema",
            ),
            (
                "FUNCTION",
                "SELECT routine_name FROM information_schema.routines WHERE routine_type = 'FUNCTION' AND routine_schema",
            ),
            ("EVENT", "SELECT event_name FROM information_schema.events WHERE event_schema"),
        ] {
            for row in texts(&ask(&mut conn, &format!("{list} = '{database}'")).await) {
                let name = row[0].clone().expect("a name");
                let ddl = texts(&ask(&mut conn, &format!("SHOW CREATE {kind} {db}.{}", quoted(&name))).await);
                let mut columns = ddl.into_iter().next().expect("a definition");
                if kind == "TRIGGER" {
                    // When it was made.
                    columns.truncate(6);
                }
                if kind == "TABLE" {
                    columns = columns.into_iter().map(|c| c.map(|ddl| without_said_twice(&ddl))).collect();
                }
                all.insert(format!("{kind} {name}"), format!("{columns:?}"));
            }
        }
        all
    }
}

async fn ask(conn: &mut Conn, sql: &str) -> Vec<Row> {
    conn.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// MySQL notes whether a column's character set was given or comes from its table, and tells it before a collation only when it was given. Its own
/// dumps give every collation: afterwards the set is told too, which is the beginning of the collation's name and no more.
fn without_said_twice(ddl: &str) -> String {
    let mut parts = ddl.split(" CHARACTER SET ");
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let twice = part
            .split_once(" COLLATE ")
            .is_some_and(|(set, rest)| rest.strip_prefix(set).is_some_and(|collation| collation.starts_with('_')));
        if twice {
            told.push_str(&part[part.find(" COLLATE ").expect("it was found")..]);
        } else {
            told.push_str(" CHARACTER SET ");
            told.push_str(part);
        }
    }
    told
}

#[test]
fn only_a_set_that_its_collation_names_is_left_out() {
    let said = |ddl: &str| without_said_twice(ddl);
    assert_eq!(
        said("`a` text CHARACTER SET utf8mb3 COLLATE utf8mb3_bin, `b` text"),
        "`a` text COLLATE utf8mb3_bin, `b` text"
    );
    for kept in [
        "`a` text CHARACTER SET latin1 COLLATE utf8mb3_bin",
        "`a` text CHARACTER SET latin1, `b` text COLLATE latin1_bin",
        "`a` int",
    ] {
        assert_eq!(said(kept), kept);
    }
}

/// A name in a statement.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn texts(rows: &[Row]) -> Vec<Vec<Option<String>>> {
    let text = |value: Value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    };
    rows.iter().map(|row| row.clone().unwrap().into_iter().map(text).collect()).collect()
}

/// Root's connection to the test server on this port.
pub fn opts(port: u16) -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some("root"))
        .pass(Some(PASSWORD))
        .prefer_socket(false)
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|d| d.join(program).is_file())
}

fn start(root: &Root, scratch: &Scratch, port: u16, extra: &[String]) -> Process {
    let program = MysqlServer::program(root);
    let mut command = root.server_command(&program);
    command
        .env("PATH", path_with_sbin())
        .arg("--no-defaults")
        .arg(format!("--datadir={}", scratch.path().join("data").display()))
        .arg(format!("--tmpdir={}", scratch.path().join("tmp").display()))
        .arg(format!("--socket={}", scratch.path().join("run/mysql.sock").display()))
        .arg(format!("--pid-file={}", scratch.path().join("run/mysql.pid").display()))
        .arg(format!("--port={port}"))
        .args(SERVER)
        .args(FILES);
    if program.ends_with("mysqld") {
        // Else MySQL wants a folder that its packages make.
        command.arg("--secure-file-priv=NULL");
    }
    command.args(extra);
    Process::start("mysql server", command)
}

/// `mariadbd` is in a folder that an ordinary user's PATH may lack.
fn path_with_sbin() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

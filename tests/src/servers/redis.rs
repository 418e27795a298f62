//! A real redis-server or valkey-server in a folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::{Process, give_to_servers};
use crate::poll::wait_for;
use crate::root::{Root, Version};
use crate::scratch::{Scratch, free_port};

/// The password of every test server.
pub const PASSWORD: &str = "canary-redis-password";

/// A server that runs.
#[derive(Debug)]
pub struct RedisServer {
    process: Option<Process>,
    root: Root,
    program: PathBuf,
    port: u16,
    options: Vec<String>,
    data: PathBuf,
    password_file: PathBuf,
    has_password: bool,
    scratch: Scratch,
}

impl RedisServer {
    /// Starts one, with options as on redis-server's command line (`--appendonly`, `yes`).
    pub async fn start(options: &[&str]) -> Self {
        Self::start_with_rdb(options, None).await
    }

    /// Starts one on an RDB.
    pub async fn start_with_rdb(options: &[&str], rdb: Option<&Path>) -> Self {
        Self::start_in(&Root::host(), options, rdb).await
    }

    /// The server of a root; Valkey's where there is no other.
    pub fn program(root: &Root) -> PathBuf {
        root.program(&["redis-server", "valkey-server"]).expect("redis-server is installed (make test installs it)")
    }

    /// Starts one of a root.
    pub async fn start_in(root: &Root, options: &[&str], rdb: Option<&Path>) -> Self {
        let scratch = Scratch::new();
        let data = scratch.folder("data", 0o755);
        if let Some(rdb) = rdb {
            std::fs::copy(rdb, data.join("dump.rdb")).expect("copy the RDB");
        }
        give_to_servers(&data);
        let password_file = scratch.path().join("password");
        std::fs::write(&password_file, PASSWORD).expect("write the password file");
        // The password goes through a file, as it does for people.
        let config = scratch.path().join("redis.conf");
        let program = Self::program(root);
        // Before 7.0 DEBUG is open to everybody, and the setting unknown.
        let debug = root.version(&program) >= Version { major: 7, minor: 0 };
        let debug = if debug { "enable-debug-command local\n" } else { "" };
        std::fs::write(&config, format!("requirepass {PASSWORD}\n{debug}")).expect("write redis.conf");
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        let mut server = Self {
            process: None,
            root: root.clone(),
            program,
            port: 0,
            options,
            data,
            password_file,
            has_password: true,
            scratch,
        };
        server.restart().await;
        server
    }

    /// One that somebody else runs, without a password as 3scale's own, and that is reached at this port of 127.0.0.1.
    pub fn elsewhere(port: u16) -> Self {
        let (root, scratch) = (Root::host(), Scratch::new());
        let (program, data) = (Self::program(&root), scratch.folder("data", 0o755));
        let password_file = scratch.path().join("password");
        Self {
            process: None,
            root,
            program,
            port,
            options: Vec::new(),
            data,
            password_file,
            has_password: false,
            scratch,
        }
    }

    /// Starts it again with other options.
    pub async fn restart_with(&mut self, options: &[&str]) {
        self.options = options.iter().map(|o| (*o).to_owned()).collect();
        self.restart().await;
    }

    /// Starts it again on the data it has, at the same address, as whoever supervises it would.
    pub async fn start_again(&mut self) {
        drop(self.process.take());
        assert!(self.start_on(self.port).await, "redis-server did not start again on its port {}", self.port);
    }

    /// Starts it again on the data it has; on another port.
    pub async fn restart(&mut self) {
        drop(self.process.take());
        for _ in 0..5 {
            if self.start_on(free_port()).await {
                return;
            }
        }
        panic!("redis-server did not start five times");
    }

    async fn start_on(&mut self, port: u16) -> bool {
        self.port = port;
        // Its own from now on: whoever no longer waits for its answer does not end it.
        self.process = Some(Process::start("redis-server", self.command()));
        self.answers().await
    }

    fn command(&self) -> std::process::Command {
        let mut command = self.root.server_command(&self.program);
        command
            .arg(self.scratch.path().join("redis.conf"))
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(&self.data)
            .args(["--repl-diskless-sync-delay", "0", "--save", ""])
            .args(&self.options);
        command
    }

    /// The command that starts it at this address, for a shell.
    pub fn command_line(&self) -> String {
        let command = self.command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|w| format!("'{}'", w.to_str().expect("a word"))).collect::<Vec<_>>().join(" ")
    }

    async fn answers(&mut self) -> bool {
        let client = self.client();
        let process = self.process();
        wait_for("redis-server to answer", Duration::from_secs(60), async || {
            if process.ended().is_some() {
                return Ok(false);
            }
            let mut connection = client.get_multiplexed_async_connection().await.map_err(|e| e.to_string())?;
            // Not answered while it still loads its data.
            redis::cmd("PING").query_async::<String>(&mut connection).await.map_err(|e| e.to_string())?;
            let info: redis::RedisResult<String> = redis::cmd("INFO").arg("server").query_async(&mut connection).await;
            let ours = format!("process_id:{}\r\n", process.pid().as_raw_nonzero());
            // Another test's server may have taken the port, and would answer as well; ours then ends.
            if info.map_err(|e| e.to_string())?.contains(&ours) { Ok(true) } else { Err("another's server".to_owned()) }
        })
        .await
    }

    /// A client with the password.
    pub fn client(&self) -> redis::Client {
        let password = if self.has_password { format!(":{PASSWORD}@") } else { String::new() };
        redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port)).expect("a client")
    }

    /// The URL without credentials.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The file with the password.
    pub fn password_file(&self) -> &Path {
        &self.password_file
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder of the test's own beside the data.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the server runs")
    }

    /// Whether it was started and has not ended.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.ended().is_none())
    }

    /// Kills it at once, as a power cut would.
    pub fn kill9(&mut self) {
        drop(self.process.take());
    }

    /// A connection that waits for slow answers: a digest of everything takes seconds.
    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
        self.client().get_multiplexed_async_connection_with_config(&config).await.expect("connect")
    }

    /// One command.
    pub async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connection().await;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// DEBUG DIGEST: of all data, values and times to live.
    pub async fn digest(&self) -> String {
        self.ask(&["DEBUG", "DIGEST"]).await
    }

    /// DEBUG DIGEST-VALUE of every key of a database, without those named.
    pub async fn digests(&self, db: u32, without: &[&str]) -> BTreeMap<Vec<u8>, String> {
        let mut connection = self.connection().await;
        redis::cmd("SELECT").arg(db).query_async::<()>(&mut connection).await.expect("SELECT");
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("KEYS");
        let mut all = BTreeMap::new();
        for batch in keys.chunks(5_000) {
            let digests: Vec<String> = redis::cmd("DEBUG")
                .arg("DIGEST-VALUE")
                .arg(batch)
                .query_async(&mut connection)
                .await
                .expect("DIGEST-VALUE");
            all.extend(batch.iter().cloned().zip(digests));
        }
        all.retain(|key, _| !without.iter().any(|w| w.as_bytes() == key.as_slice()));
        all
    }
}

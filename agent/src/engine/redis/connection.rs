//! Asking a server. The one file that knows the crate `redis`.

mod batch;

use std::collections::HashMap;
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::secret::Secret;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo};

pub(super) use self::batch::{Batch, Reply};
use super::settings::Settings;
use super::tls;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a question may take to be answered: a server that forks or loads is slow.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to the server.
#[derive(Clone)]
pub(super) struct Server {
    connection: MultiplexedConnection,
}

/// What INFO says, by name.
#[derive(Debug, Clone)]
pub(super) struct Info(HashMap<String, String>);

impl Server {
    /// Checks the address and the files of TLS without connecting.
    pub(super) fn check(settings: &Settings) -> Result<()> {
        Self::client(settings).map(|_| ())
    }

    /// Where it is; its own machine when it is reached by a socket.
    pub(super) fn host_and_port(settings: &Settings) -> Result<(String, u16)> {
        Ok(match Self::client(settings)?.get_connection_info().addr() {
            redis::ConnectionAddr::Tcp(host, port) | redis::ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), *port)
            }
            _ => ("localhost".to_owned(), 0),
        })
    }

    fn client(settings: &Settings) -> Result<Client> {
        let url = &settings.redis_url;
        // A password in the URL would be in the argument list, where everybody on the machine can read it; it is not repeated here.
        if url.split_once("://").is_some_and(|(_, rest)| rest.contains('@')) {
            return Err(Error::new(
                Kind::Invalid,
                "--redis-url carries credentials: put the password into a file (--redis-password-file)",
            ));
        }
        let mut info = url.as_str().into_connection_info().map_err(|e| {
            Error::caused(Kind::Invalid, format!("--redis-url {url:?} is not of the form redis://host:port"), e)
        })?;
        let mut redis = info.redis_settings().clone();
        if let Some(user) = &settings.redis_username {
            redis = redis.set_username(user);
        }
        if let Some(path) = &settings.redis_password_file {
            redis = redis.set_password(Secret::from_file(path)?.expose());
        }
        info = info.set_redis_settings(redis);
        match tls::certificates(settings)? {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates),
        }
        .or_kind(Kind::Invalid, "--redis-url, --redis-ca, --redis-cert and --redis-key do not make a connection")
    }

    /// Connects; password and certificate files are read now.
    pub(super) async fn connect(settings: &Settings) -> Result<Self> {
        Self::connect_patiently(settings, ANSWER).await
    }

    /// As [`Server::connect`], for a question that may take so long to be answered.
    pub(super) async fn connect_patiently(settings: &Settings, answer: Duration) -> Result<Self> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(answer));
        let connection = Self::client(settings)?
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| failed(&format!("connect to {}", settings.redis_url), e))?;
        Ok(Self { connection })
    }

    /// One command.
    pub(super) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let mut command = redis::cmd(words.first().copied().unwrap_or_default());
        for word in words.iter().skip(1) {
            command.arg(*word);
        }
        // Only the command's name: an argument may be a secret.
        let name = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        command.query_async(&mut self.connection.clone()).await.map_err(|e| failed(&name, e))
    }

    /// One command in another database, on a connection state of its own: pipelined with SELECT both ways.
    pub(super) async fn in_database<T: FromRedisValue>(&self, db: u64, words: &[&str]) -> Result<T> {
        let mut command = redis::cmd(words.first().copied().unwrap_or_default());
        for word in words.iter().skip(1) {
            command.arg(*word);
        }
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(db).ignore().add_command(command).cmd("SELECT").arg(0).ignore();
        let (answer,): (T,) = pipe
            .query_async(&mut self.connection.clone())
            .await
            .map_err(|e| failed(&format!("{} in database {db}", words.first().copied().unwrap_or_default()), e))?;
        Ok(answer)
    }

    /// Several commands at once, between which nothing else happens on the server.
    pub(super) async fn at_once<T: FromRedisValue>(&self, what: &str, commands: &[&[&str]]) -> Result<T> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        self.several(what, pipe, commands).await
    }

    /// Several commands one after the other, in one message.
    pub(super) async fn in_a_row<T: FromRedisValue>(&self, what: &str, commands: &[&[&str]]) -> Result<T> {
        self.several(what, redis::pipe(), commands).await
    }

    async fn several<T: FromRedisValue>(
        &self,
        what: &str,
        mut pipe: redis::Pipeline,
        commands: &[&[&str]],
    ) -> Result<T> {
        for words in commands {
            pipe.cmd(words.first().copied().unwrap_or_default());
            for word in words.iter().skip(1) {
                pipe.arg(*word);
            }
        }
        pipe.query_async(&mut self.connection.clone()).await.map_err(|e| failed(what, e))
    }

    /// INFO, all sections.
    pub(super) async fn info(&self) -> Result<Info> {
        let text: String = self.ask(&["INFO"]).await?;
        Ok(Info::read(&text))
    }

    /// One setting; `None` when this server does not have it.
    pub(super) async fn config(&self, name: &str) -> Result<Option<String>> {
        let pairs: Vec<String> = self.ask(&["CONFIG", "GET", name]).await?;
        Ok(pairs.get(1).cloned())
    }

    /// Whether the server has a command under that name.
    pub(super) async fn has_command(&self, name: &str) -> Result<bool> {
        let found: Vec<Option<redis::Value>> = self.ask(&["COMMAND", "INFO", name]).await?;
        Ok(found.first().is_some_and(|f| !matches!(f, None | Some(redis::Value::Nil))))
    }

    /// Changes a setting of the running server.
    pub(super) async fn set_config(&self, name: &str, value: &str) -> Result<()> {
        self.ask::<()>(&["CONFIG", "SET", name, value]).await
    }

    /// The command that makes a server follow another one: REPLICAOF since 5.0, SLAVEOF before; `None` when both were renamed away.
    pub(super) async fn follow_command(&self) -> Result<Option<&'static str>> {
        for name in ["REPLICAOF", "SLAVEOF"] {
            if self.has_command(name).await? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Makes the server a master; tried for a while, because a server left as a replica refuses writes.
    pub(super) async fn follow_nobody(&self) -> Result<()> {
        let retry = keepsake_core::retry::Retry {
            tries: 20,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(1),
        };
        retry
            .run(|| async {
                let Some(command) = self.follow_command().await? else { return Ok(()) };
                self.ask::<()>(&[command, "NO", "ONE"]).await
            })
            .await
    }
}

impl Info {
    /// From the answer to INFO.
    pub(super) fn read(text: &str) -> Self {
        let pairs = text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned()));
        Self(pairs.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A number; 0 when it is absent.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.get(name).and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }

    pub(super) fn is_valkey(&self) -> bool {
        self.is("server_name", "valkey")
    }

    pub(super) fn version(&self) -> &str {
        let name = if self.is_valkey() { "valkey_version" } else { "redis_version" };
        self.get(name).unwrap_or("of unknown version")
    }

    /// Major and minor number.
    pub(super) fn major_minor(&self) -> (u32, u32) {
        let mut parts = self.version().split('.').map(|p| p.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// The Redis version whose commands and files it has: Valkey tells it beside its own, from 7.2 on.
    pub(super) fn speaks_as(&self) -> (u32, u32) {
        let mut parts = self.get("redis_version").unwrap_or_default().split('.').map(|p| p.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// Name and version for people.
    pub(super) fn name(&self) -> String {
        format!("{} {}", if self.is_valkey() { "Valkey" } else { "Redis" }, self.version())
    }

    /// Number of keys, and of those with a time to live, by database.
    pub(super) fn keyspace(&self) -> Vec<(u64, u64, u64)> {
        let mut all: Vec<_> = self
            .0
            .iter()
            .filter_map(|(name, value)| {
                let db = name.strip_prefix("db")?.parse().ok()?;
                let field = |wanted: &str| {
                    value
                        .split(',')
                        .filter_map(|p| p.split_once('='))
                        .find(|(k, _)| *k == wanted)
                        .and_then(|(_, v)| v.parse().ok())
                };
                Some((db, field("keys")?, field("expires")?))
            })
            .collect();
        all.sort_unstable();
        all
    }
}

/// The kind follows from what the server said; its text never holds the password.
fn failed(what: &str, error: redis::RedisError) -> Error {
    let kind = if error.is_timeout() {
        Kind::Timeout
    } else if error.is_connection_refusal() || error.is_connection_dropped() || error.is_io_error() {
        Kind::Unavailable
    } else {
        match error.code() {
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Kind::Denied,
            Some("LOADING" | "BUSY" | "MASTERDOWN") => Kind::Busy,
            _ if error.kind() == redis::ErrorKind::AuthenticationFailed => Kind::Denied,
            _ => Kind::Internal,
        }
    };
    let hint = if kind == Kind::Denied { " (look at --redis-username and --redis-password-file)" } else { "" };
    Error::caused(kind, format!("{what}{hint}"), error)
}

//! The connection that asks and controls; the data itself goes through the tools.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::secret::Secret;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts, Value};

use crate::engine::system_config::{Columns, Rows};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Where the server is and who asks.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// Name or address; unused with a socket.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
    /// Unix socket, instead of host and port.
    pub(super) socket: Option<PathBuf>,
    /// The account.
    pub(super) user: String,
    /// The file with its password; none means no password.
    pub(super) password_file: Option<PathBuf>,
    /// The database that is dumped and loaded.
    pub(super) database: String,
    /// Certificates that the server's must come from; none means no check.
    pub(super) ca_file: Option<PathBuf>,
}

impl Address {
    /// The password as it is in the file now.
    pub(super) fn password(&self) -> Result<Option<Secret>> {
        self.password_file.as_deref().map(Secret::from_file).transpose()
    }

    /// Whether the server is on this machine.
    pub(super) fn is_here(&self) -> bool {
        self.socket.is_some() || is_this_machine(&self.host)
    }

    /// For people.
    pub(super) fn place(&self) -> String {
        match &self.socket {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.host, self.port),
        }
    }

    fn opts(&self) -> Result<Opts> {
        let password = self.password()?;
        let mut opts = OptsBuilder::default()
            .user(Some(self.user.as_str()))
            .pass(password.as_ref().map(Secret::expose))
            // Accounts may differ between the socket and TCP: what was asked for is used.
            .prefer_socket(false)
            .tcp_nodelay(true)
            // Our own texts are quoted by the rules of the empty mode.
            .setup(vec!["SET SESSION sql_mode = ''"]);
        opts = match &self.socket {
            Some(socket) => opts.socket(Some(utf8(socket)?)),
            None => opts.ip_or_hostname(self.host.as_str()).tcp_port(self.port),
        };
        if let (Some(ca), None) = (&self.ca_file, &self.socket) {
            let roots = SslOpts::default().with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true);
            opts = opts.ssl_opts(roots);
        }
        Ok(opts.into())
    }
}

/// Whether a host is this machine.
fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::new(Kind::Invalid, format!("{} is not UTF-8", path.display())))
}

/// Which of the two grew from the same root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// MySQL and its builds by others.
    Mysql,
    /// MariaDB.
    Mariadb,
}

impl Family {
    /// The word in records.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
        }
    }

    /// The family that a version line speaks of.
    pub(super) fn of(text: &str) -> Self {
        if text.to_ascii_lowercase().contains("mariadb") { Self::Mariadb } else { Self::Mysql }
    }
}

/// A connection, closed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    conn: Conn,
    place: String,
    /// The server's family.
    pub(super) family: Family,
    /// Its version, three numbers.
    pub(super) version: (u32, u32, u32),
    /// Its version as it says it.
    pub(super) version_text: String,
}

impl Server {
    /// Connects with the password of this moment.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout` or `Denied`, without the password.
    pub(super) async fn connect(address: &Address) -> Result<Self> {
        let place = address.place();
        let what = || format!("connect to the MySQL or MariaDB server at {place} as {}", address.user);
        let opts = address.opts()?;
        let mut conn = tokio::time::timeout(CONNECT, Conn::new(opts))
            .await
            .map_err(|_| Error::new(Kind::Timeout, format!("{}: no answer within {CONNECT:?}", what())))?
            .map_err(|e| wrap(&what(), e))?;
        let rows: Vec<mysql_async::Row> = conn
            .query("SELECT VERSION(), @@version_comment")
            .await
            .map_err(|e| wrap("ask for the server's version", e))?;
        let texts = rows.into_iter().next().map(texts).unwrap_or_default();
        let version_text = texts.first().cloned().flatten().unwrap_or_default();
        let comment = texts.get(1).cloned().flatten().unwrap_or_default();
        let family = Family::of(&format!("{version_text} {comment}"));
        Ok(Self { conn, place, family, version: numbers(&version_text), version_text })
    }

    /// Name and version, for example `MariaDB 10.11.19`.
    pub(super) fn name(&self) -> String {
        let name = match self.family {
            Family::Mysql => "MySQL",
            Family::Mariadb => "MariaDB",
        };
        let (major, minor, patch) = self.version;
        format!("{name} {major}.{minor}.{patch}")
    }

    /// Runs a query; `doing` says what for.
    pub(super) async fn rows(&mut self, doing: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let rows: Vec<mysql_async::Row> = self.conn.query(sql).await.map_err(|e| self.failed(doing, e))?;
        Ok(rows.into_iter().map(texts).collect())
    }

    /// Runs a query and sees its rows one by one; none may be waited for longer than `silent`.
    pub(super) async fn each(
        &mut self,
        doing: &str,
        sql: &str,
        silent: Duration,
        mut see: impl FnMut(Vec<Option<String>>),
    ) -> Result<()> {
        let place = self.place.clone();
        let failed = |e| wrap(&format!("{doing} on the server at {place}"), e);
        let late = |_| Error::new(Kind::Timeout, format!("{doing}: the server was silent for {silent:?}"));
        let mut rows = tokio::time::timeout(silent, self.conn.query_iter(sql)).await.map_err(late)?.map_err(failed)?;
        while let Some(row) = tokio::time::timeout(silent, rows.next()).await.map_err(late)?.map_err(failed)? {
            see(texts(row));
        }
        Ok(())
    }

    /// Runs a query for rows of the Config; while these wait, so does the server.
    pub(super) async fn each_of_config(
        &mut self,
        doing: &str,
        sql: &str,
        silent: Duration,
        to: &mut Rows<'_>,
    ) -> Result<()> {
        let place = self.place.clone();
        let failed = |e| wrap(&format!("{doing} on the server at {place}"), e);
        let late = |_| Error::new(Kind::Timeout, format!("{doing}: the server was silent for {silent:?}"));
        let mut rows = tokio::time::timeout(silent, self.conn.query_iter(sql)).await.map_err(late)?.map_err(failed)?;
        while let Some(row) = tokio::time::timeout(silent, rows.next()).await.map_err(late)?.map_err(failed)? {
            to.take(Columns(bytes(row))).await?;
        }
        Ok(())
    }

    /// The first column of every row; no NULL among them.
    pub(super) async fn column(&mut self, doing: &str, sql: &str) -> Result<Vec<String>> {
        Ok(self.rows(doing, sql).await?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// The one value of a query; `None` for NULL or no row.
    pub(super) async fn value(&mut self, doing: &str, sql: &str) -> Result<Option<String>> {
        Ok(self.rows(doing, sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// The one number of a query; 0 for NULL or no row.
    pub(super) async fn number(&mut self, doing: &str, sql: &str) -> Result<u64> {
        match self.value(doing, sql).await? {
            None => Ok(0),
            Some(text) => {
                text.parse().map_err(|e| Error::caused(Kind::Internal, format!("{doing}: not a whole number"), e))
            }
        }
    }

    /// A variable of the server; `None` when it has none of that name.
    pub(super) async fn variable(&mut self, name: &str) -> Result<Option<String>> {
        let sql = format!("SHOW GLOBAL VARIABLES WHERE Variable_name = {}", text(name));
        let rows = self.rows(&format!("ask for the variable {name}"), &sql).await?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten()))
    }

    /// Runs a query for values that may be in any character set.
    pub(super) async fn raw_rows(&mut self, doing: &str, sql: &str) -> Result<Vec<Vec<Option<Vec<u8>>>>> {
        let rows: Vec<mysql_async::Row> = self.conn.query(sql).await.map_err(|e| self.failed(doing, e))?;
        Ok(rows.into_iter().map(bytes).collect())
    }

    /// Runs a statement that somebody else wrote, in any character set. What the server has against it is an answer: its number and its words.
    pub(super) async fn try_statement(&mut self, doing: &str, sql: &[u8]) -> Result<Option<(u16, String)>> {
        match self.conn.query_drop(sql).await {
            Ok(()) => Ok(None),
            // Those that have nothing to do with what the statement says.
            Err(mysql_async::Error::Server(e)) if !matches!(e.code, 1040 | 1053 | 1205 | 1213 | 1317) => {
                Ok(Some((e.code, e.message)))
            }
            Err(e) => Err(self.failed(doing, e)),
        }
    }

    /// Runs a statement.
    pub(super) async fn run(&mut self, doing: &str, sql: &str) -> Result<()> {
        self.conn.query_drop(sql).await.map_err(|e| self.failed(doing, e))
    }

    fn failed(&self, doing: &str, error: mysql_async::Error) -> Error {
        wrap(&format!("{doing} on the server at {}", self.place), error)
    }
}

/// The kind that an error of the server or of the way to it has.
fn wrap(what: &str, error: mysql_async::Error) -> Error {
    let kind = match &error {
        mysql_async::Error::Server(e) => match e.code {
            1044 | 1045 | 1095 | 1142 | 1227 | 1370 | 1698 | 3118 => Kind::Denied,
            1040 | 1205 | 1213 => Kind::Busy,
            1115 | 1273 => Kind::Unsupported,
            1053 | 1317 => Kind::Unavailable,
            // No such database, connection, table.
            1049 | 1094 | 1146 => Kind::NotFound,
            _ => Kind::Internal,
        },
        mysql_async::Error::Io(_) | mysql_async::Error::Driver(mysql_async::DriverError::ConnectionClosed) => {
            Kind::Unavailable
        }
        _ => Kind::Internal,
    };
    let hint =
        if kind == Kind::Denied { " (check --mysql-user, --mysql-password-file and its privileges)" } else { "" };
    Error::caused(kind, format!("{what}{hint}"), error)
}

fn bytes(row: mysql_async::Row) -> Vec<Option<Vec<u8>>> {
    let value = |value: Option<Value>| match value {
        Some(Value::Bytes(bytes)) => Some(bytes),
        Some(Value::NULL) | None => None,
        Some(other) => Some(other.as_sql(true).into_bytes()),
    };
    row.unwrap_raw().into_iter().map(value).collect()
}

fn texts(row: mysql_async::Row) -> Vec<Option<String>> {
    row.unwrap_raw()
        .into_iter()
        .map(|value| match value? {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Value::Int(n) => Some(n.to_string()),
            Value::UInt(n) => Some(n.to_string()),
            other => Some(other.as_sql(true)),
        })
        .collect()
}

fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// A text in an SQL statement of ours.
pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name in an SQL statement of ours.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_families() {
        assert_eq!(numbers("10.11.19-MariaDB-0+deb12u1"), (10, 11, 19));
        assert_eq!(numbers("8.0.36"), (8, 0, 36));
        assert_eq!(numbers("strange"), (0, 0, 0));
        assert_eq!(Family::of("10.11.19-MariaDB"), Family::Mariadb);
        assert_eq!(Family::of("8.0.36 MySQL Community Server"), Family::Mysql);
    }

    #[test]
    fn quoting() {
        assert_eq!(text(r"a'b\c"), r"'a''b\\c'");
        assert_eq!(name("a`b"), "`a``b`");
    }
}

//! Asking a server. The one file that knows the crate `tokio-postgres`.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result, ResultExt};
use keepsake_core::record::{Counts, Facts};
use keepsake_core::secret::Secret;
use tokio::io::{AsyncRead, AsyncWrite};
pub(super) use tokio_postgres::Row;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Connection, NoTls, SimpleQueryMessage, Socket};
use tokio_util::task::AbortOnDropHandle;

use super::hold::Snapshot;
use super::{Settings, marked, surroundings, tls};
use crate::engine::system_config::{Columns, Rows};

/// A question is answered within so long, also one that counts a large table.
const ANSWER: Duration = Duration::from_mins(15);
/// Whatever else the server is told is done within so long.
const DONE: Duration = Duration::from_hours(2);

/// Tables that are dumped with their rows: not the system's, not those that an extension brings along.
const TABLES: &str = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%' \
     AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2";

/// Limits that a database or role may set for its applications, and the version that has them. A dump counts for long, and its snapshot is
/// held by a session that does nothing meanwhile.
const LIMITS: &[(u32, &str)] = &[
    (0, "statement_timeout"),
    (90_600, "idle_in_transaction_session_timeout"),
    (140_000, "idle_session_timeout"),
    (170_000, "transaction_timeout"),
];

/// The database that every server has.
const TEMPLATE: &str = "template1";

/// Objects beside tables, one number each.
const OBJECTS: &[(&str, &str)] =
    &[("sequences", "c.relkind = 'S'"), ("indexes", "c.relkind = 'i'"), ("views", "c.relkind IN ('v', 'm')")];

/// What is told of a standby.
const STANDBY: &str = "this server is a standby: point the agent at the primary (--postgres-host)";

/// A connection, with its transaction if it has one.
pub(super) struct Session {
    client: Client,
    _driver: AbortOnDropHandle<()>,
    version: u32,
    version_text: String,
    recovering: bool,
}

impl Session {
    /// Connects to the database that is served; the password file is read now.
    pub(super) async fn connect(settings: &Settings) -> Result<Self> {
        Self::connect_to(settings, &settings.postgres_database).await
    }

    /// Connects to another database, from which the one that is served can be renamed.
    pub(super) async fn beside(settings: &Settings) -> Result<Self> {
        let database = settings.postgres_maintenance_database.as_str();
        let session = match Self::connect_to(settings, database).await {
            // There is always this one; nobody can make a database by its pattern meanwhile.
            Err(e) if e.kind() == Kind::NotFound && database != TEMPLATE => {
                Self::connect_to(settings, TEMPLATE).await?
            }
            connected => connected?,
        };
        // What is written on a database decides what is done with it: it must not be lost in a crash. And who waits for a lock for long is told so.
        session.run("SET synchronous_commit = on; SET lock_timeout = '20s'").await?;
        Ok(session)
    }

    /// Connects to where it can be seen what databases there are, and no more.
    pub(super) async fn anywhere(settings: &Settings) -> Result<Self> {
        match Self::beside(settings).await {
            Err(e) if e.kind() == Kind::Denied => Self::connect(settings).await,
            connected => connected,
        }
    }

    /// Connects to this database.
    pub(super) async fn connect_to(settings: &Settings, database: &str) -> Result<Self> {
        let mut config = Config::new();
        config
            .host(&settings.postgres_host)
            .port(settings.postgres_port)
            .user(&settings.postgres_user)
            .dbname(database)
            .application_name("keepsake-agent")
            .connect_timeout(Duration::from_secs(10))
            // A machine that is gone says nothing.
            .keepalives_idle(Duration::from_secs(30))
            .tcp_user_timeout(Duration::from_mins(2));
        if let Some(path) = &settings.postgres_password_file {
            config.password(Secret::from_file(path)?.expose());
        }
        let what = format!(
            "connect to the database {database} of {} port {} as {}",
            settings.postgres_host, settings.postgres_port, settings.postgres_user
        );
        let (client, driver) = match settings.verified_by() {
            Some(ca_file) => {
                config.ssl_mode(SslMode::Require);
                let connected = config.connect(tls::connector(ca_file)?).await;
                driven(connected.map_err(|e| failed(&what, e))?)
            }
            None => driven(config.connect(NoTls).await.map_err(|e| failed(&what, e))?),
        };
        let mut session = Self { client, _driver: driver, version: 0, version_text: String::new(), recovering: false };
        let row = session
            .row("SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery()", &[])
            .await?;
        session.version = u32::try_from(row.get::<_, i32>(0)).unwrap_or(0);
        session.version_text = row.get(1);
        session.recovering = row.get(2);
        for limit in LIMITS.iter().filter(|(since, _)| session.version >= *since) {
            session.run(&format!("SET {} = 0", limit.1)).await?;
        }
        Ok(session)
    }

    pub(super) async fn rows(&self, sql: &str, values: &[&str]) -> Result<Vec<Row>> {
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
        within(ANSWER, sql, self.client.query(sql, &values)).await?.map_err(|e| failed("ask the server", e))
    }

    pub(super) async fn row(&self, sql: &str, values: &[&str]) -> Result<Row> {
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
        within(ANSWER, sql, self.client.query_one(sql, &values)).await?.map_err(|e| failed("ask the server", e))
    }

    /// Runs a query for rows of the Config; while these wait, so does the server.
    ///
    /// # Errors
    /// The server fails, or counts other rows than came.
    pub(super) async fn each_of_config(&self, doing: &str, sql: &str, to: &mut Rows<'_>) -> Result<()> {
        let failed = |e| failed(doing, e);
        let mut messages = std::pin::pin!(self.client.simple_query_raw(sql).await.map_err(failed)?);
        let (mut seen, mut told) = (0, None);
        while let Some(message) = messages.try_next().await.map_err(failed)? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    seen += 1;
                    let columns = (0..row.len()).map(|n| row.get(n).map(|text| text.as_bytes().to_vec()));
                    to.take(Columns(columns.collect())).await?;
                }
                SimpleQueryMessage::CommandComplete(rows) => told = Some(rows),
                _ => {}
            }
        }
        if told == Some(seen) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Unavailable,
            format!("{doing}: {seen} rows came, and the server did not say that these were all"),
        ))
    }

    pub(super) async fn run(&self, sql: &str) -> Result<()> {
        within(DONE, sql, self.client.batch_execute(sql)).await?.map_err(|e| failed("tell the server", e))
    }

    /// The major version.
    pub(super) fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// Name and version for people.
    pub(super) fn name(&self) -> String {
        format!("PostgreSQL {}", self.version_text)
    }

    /// About how many bytes a dump has: the database's size on disk.
    pub(super) async fn size(&self) -> Result<u64> {
        let bytes: i64 = self.row("SELECT pg_database_size(current_database())", &[]).await?.get(0);
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// The position in the write-ahead log.
    pub(super) async fn position(&self) -> Result<Option<String>> {
        Ok(self.row(self.position_query(), &[]).await?.get(0))
    }

    /// Begins a transaction and exports its snapshot.
    pub(super) async fn open_snapshot(&self) -> Result<Snapshot> {
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let sql = format!("SELECT pg_export_snapshot(), ({})", self.position_query());
        let row = self.row(&sql, &[]).await?;
        Ok(Snapshot { name: row.get(0), position: row.get(1), opened: clock::now() })
    }

    fn position_query(&self) -> &'static str {
        if self.recovering { "SELECT pg_last_wal_replay_lsn()::text" } else { "SELECT pg_current_wal_lsn()::text" }
    }

    /// What a restore compares.
    pub(super) async fn facts(&self) -> Result<Facts> {
        let row = self
            .row(
                "SELECT pg_encoding_to_char(encoding), datcollate, datctype, pg_get_userbyid(datdba), \
                 coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = current_database()",
                &[],
            )
            .await?;
        let mut facts = Facts::from([
            ("version".to_owned(), self.version_text.clone()),
            ("server_version_num".to_owned(), self.version.to_string()),
        ]);
        for (n, name) in ["encoding", "collate", "ctype", "owner", "comment"].into_iter().enumerate() {
            facts.insert(name.to_owned(), row.get(n));
        }
        facts.entry("comment".to_owned()).and_modify(|text| *text = marked::own_comment(text));
        // Since 15 a database may sort by ICU instead of its collate; since 17 by the server itself, and the column has another name.
        if self.major() >= 15 {
            let column = if self.major() >= 17 { "datlocale" } else { "daticulocale" };
            let sql = format!(
                "SELECT datlocprovider::text, coalesce({column}::text, '') FROM pg_database WHERE datname = current_database()"
            );
            let row = self.row(&sql, &[]).await?;
            facts.insert("locale_provider".to_owned(), row.get(0));
            facts.insert("locale".to_owned(), row.get(1));
        }
        if self.major() >= 16 {
            let sql = "SELECT coalesce(daticurules, '') FROM pg_database WHERE datname = current_database()";
            let rules: String = self.row(sql, &[]).await?.get(0);
            if !rules.is_empty() {
                facts.insert("icu_rules".to_owned(), rules);
            }
        }
        surroundings::record(self, &mut facts).await?;
        Ok(facts)
    }

    /// What would stop a dump or a load now.
    pub(super) async fn problems(&self) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        if self.recovering {
            problems.push(STANDBY.to_owned());
        }
        for (schema, table) in self.tables().await? {
            let readable: bool = self
                .row("SELECT has_table_privilege(format('%I.%I', $1::text, $2::text), 'SELECT')", &[&schema, &table])
                .await?
                .get(0);
            if !readable {
                problems.push(format!(
                    "the role may not read the table {schema}.{table}: use the owner or a superuser (--postgres-user)"
                ));
            }
        }
        Ok(problems)
    }

    /// Whether its writes can be held; if not, why.
    pub(super) fn may_hold(&self) -> std::result::Result<(), String> {
        if self.recovering { Err("this server is a standby: nothing is written to it here".to_owned()) } else { Ok(()) }
    }

    /// Whether it can be dumped and loaded.
    ///
    /// # Errors
    /// `Unsupported` for a standby.
    pub(super) fn must_be_primary(&self) -> Result<()> {
        if self.recovering { Err(Error::new(Kind::Unsupported, STANDBY)) } else { Ok(()) }
    }

    /// Schema and name of every table with rows of its own.
    pub(super) async fn tables(&self) -> Result<Vec<(String, String)>> {
        Ok(self.rows(TABLES, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Rows of every table, and how many objects of each kind there are. The lockers of que are not counted: they name live processes
    /// and are not dumped.
    pub(super) async fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::new();
        let mut tables = 0;
        for (schema, table) in self.tables().await? {
            tables += 1;
            if table == super::dump::WITHOUT_ROWS {
                continue;
            }
            let sql: String = self
                .row("SELECT format('SELECT count(*) FROM ONLY %I.%I', $1::text, $2::text)", &[&schema, &table])
                .await?
                .get(0);
            let rows: i64 = self.row(&sql, &[]).await?.get(0);
            counts.insert(format!("rows:{schema}.{table}"), u64::try_from(rows).unwrap_or(0));
        }
        counts.insert("tables".to_owned(), tables);
        let own = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'";
        for (name, which) in OBJECTS {
            let sql = format!(
                "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {which} AND {own}"
            );
            counts.insert((*name).to_owned(), self.number(&sql).await?);
        }
        let functions = format!(
            "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {own} \
             AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')"
        );
        counts.insert("functions".to_owned(), self.number(&functions).await?);
        counts.insert(
            "triggers".to_owned(),
            self.number("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").await?,
        );
        counts.insert("large_objects".to_owned(), self.number("SELECT count(*) FROM pg_largeobject_metadata").await?);
        Ok(counts)
    }

    async fn number(&self, sql: &str) -> Result<u64> {
        let n: i64 = self.row(sql, &[]).await?.get(0);
        u64::try_from(n).or_kind(Kind::Internal, "count")
    }
}

/// A client with the task that moves its bytes.
fn driven<S>((client, connection): (Client, Connection<Socket, S>)) -> (Client, AbortOnDropHandle<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let driver = tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!("the connection to the server ended: {e}");
        }
    });
    (client, AbortOnDropHandle::new(driver))
}

/// The kind follows from the SQLSTATE; details, which may hold a row, are left out.
/// What came within this time.
///
/// # Errors
/// `Timeout`, with the beginning of what the server was told; it may still be at it.
async fn within<T>(patience: Duration, sql: &str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(patience, work).await.map_err(|_| {
        let head: String = sql.chars().take(80).collect();
        Error::new(Kind::Timeout, format!("the server has not answered for {patience:?}; it was told: {head}"))
    })
}

fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        let kind = if error.is_closed()
            || std::error::Error::source(&error).is_some_and(<dyn std::error::Error + 'static>::is::<std::io::Error>)
        {
            Kind::Unavailable
        } else {
            Kind::Internal
        };
        return Error::caused(kind, what, error);
    };
    let (kind, hint) = match db.code().code() {
        // Before 14 it says `SSL off`.
        "28000" if ["no encryption", "SSL off"].iter().any(|end| db.message().ends_with(end)) => {
            (Kind::Denied, " (give --postgres-ca-file, if the server takes only TLS)")
        }
        "28P01" | "28000" => (Kind::Denied, " (look at --postgres-user and --postgres-password-file)"),
        "42501" => (Kind::Denied, " (use the database's owner or a superuser)"),
        "3D000" => (Kind::NotFound, " (look at --postgres-database)"),
        // What a load does for the moment in which it puts one database in the place of another.
        "55000" if db.message().ends_with("not currently accepting connections") => {
            (Kind::Conflict, " (a restore that was begun and not finished has closed it: `keepsake runs`)")
        }
        "53100" => (Kind::Busy, " (there is no room on the server: make room there, then try again)"),
        "53300" | "55P03" | "55006" | "40P01" => (Kind::Busy, ""),
        // A locale, an encoding or a way to sort that this server does not have.
        "0A000" | "22023" | "42809" => (Kind::Unsupported, ""),
        "57014" => (Kind::Timeout, ""),
        "57P03" | "57P01" | "57P02" => (Kind::Unavailable, ""),
        _ => (Kind::Internal, ""),
    };
    Error::new(kind, format!("{what}: {}{hint}", db.message()))
}

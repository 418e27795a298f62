//! Holding writes: SHARE locks on every table that is dumped with its rows, in a transaction of their own.
//!
//! The snapshot is exported by another connection while the locks are held, and lives on when they are let go: one transaction cannot do both. The
//! server ends the transaction by itself when nothing was heard from this agent for the lease.

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::record::Facts;

use super::dump::{WITHOUT_ROWS, quoted};
use super::session::Session;
use super::{Settings, databases, versions};
use crate::engine::{Hold, Prepared};

/// A transaction that has written and goes on for so long is in the way: the locks wait for its end.
const LONG: &str = "1 second";
/// Between two looks at a transaction whose age is not to be seen.
const A_MOMENT: Duration = Duration::from_millis(300);

/// What would be in the way of a hold now: transactions that have written and are still open, and whatever locks tables against reading or writing.
pub(super) async fn in_the_way(session: &Session) -> Result<Option<String>> {
    let mut found = lockers(session).await?;
    if found.iter().any(|l| l.long.is_none()) {
        // How old another role's transaction is, only a superuser sees; whether it is still the same one a moment later, everybody does.
        tokio::time::sleep(A_MOMENT).await;
        let later = lockers(session).await?;
        found.retain(|l| l.long.unwrap_or_else(|| later.iter().any(|other| other.transaction == l.transaction)));
    }
    let mut names: Vec<_> = found.into_iter().filter(|l| l.long != Some(false)).map(|l| l.name).collect();
    names.dedup();
    Ok((!names.is_empty())
        .then(|| format!("tables are locked or written to by transactions that stay open: {}", names.join(", "))))
}

struct Locker {
    name: String,
    transaction: String,
    /// Whether it has been open for long; `None` when this role may not see that.
    long: Option<bool>,
}

async fn lockers(session: &Session) -> Result<Vec<Locker>> {
    let sql = format!(
        "SELECT DISTINCT format('process %s of %s', a.pid, coalesce(a.usename, a.backend_type, 'the server')), l.virtualtransaction, \
         coalesce(a.xact_start, a.query_start) < now() - interval '{LONG}' \
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_class c ON c.oid = l.relation \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE l.granted AND l.locktype = 'relation' AND a.pid <> pg_backend_pid() AND c.relkind IN ('r', 'p') \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' \
         AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
         ORDER BY 1 LIMIT 20"
    );
    let rows = session.rows(&sql, &[]).await?;
    Ok(rows.iter().map(|row| Locker { name: row.get(0), transaction: row.get(1), long: row.get(2) }).collect())
}

/// What the dump under a hold needs.
pub(super) struct Ready {
    /// The connection that exports the snapshot; its transaction has not begun.
    pub(super) session: Session,
    /// pg_dump's version line.
    pub(super) version: String,
    /// What a restore compares.
    pub(super) facts: Facts,
    /// The tables that are locked: a table made since then is none of them.
    pub(super) tables: Vec<(String, String)>,
    /// The snapshot, once it is open.
    pub(super) snapshot: Option<Snapshot>,
}

/// An exported snapshot; it lives as long as the transaction of the session that exported it.
pub(super) struct Snapshot {
    pub(super) name: String,
    /// The position in the write-ahead log.
    pub(super) position: Option<String>,
    pub(super) opened: jiff::Timestamp,
}

/// A hold of one database.
pub(super) struct PostgresHold {
    locker: Session,
    ready: Option<Ready>,
    lock: String,
    /// The locker's detector of deadlocks may be made quick, so that autovacuum gives way at once.
    quick: bool,
    held: bool,
}

impl PostgresHold {
    /// Connects twice and looks at everything that a dump needs.
    pub(super) async fn prepare(settings: &Settings) -> Result<Self> {
        let (locker, session) = tokio::try_join!(Session::connect(settings), Session::connect(settings))?;
        databases::none_half_made(&session, settings).await?;
        let version = versions::pg_dump_for(settings, &session).await?;
        let facts = session.facts().await?;
        let tables = session.tables().await?;
        let locked = tables.iter().filter(|(_, table)| table != WITHOUT_ROWS);
        let names: Vec<String> =
            locked.map(|(schema, table)| format!("{}.{}", quoted(schema), quoted(table))).collect();
        let lock =
            if names.is_empty() { String::new() } else { format!("LOCK TABLE {} IN SHARE MODE;", names.join(", ")) };
        let quick = session.row("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[]).await?.get(0);
        Ok(Self {
            locker,
            ready: Some(Ready { session, version, facts, tables, snapshot: None }),
            lock,
            quick,
            held: false,
        })
    }
}

#[async_trait]
impl Hold for PostgresHold {
    async fn take(&mut self, budget: Duration, lease: Duration) -> Result<Prepared> {
        let mut ready = self.ready.take().ok_or_else(|| Error::new(Kind::Conflict, "the hold was taken before"))?;
        let (budget_ms, lease_ms) = (budget.as_millis(), lease.as_millis());
        // An autovacuum in the way is ended by the detector of deadlocks.
        let quick = if self.quick { "SET LOCAL deadlock_timeout = '10ms';" } else { "" };
        let sql = format!(
            "BEGIN; SET LOCAL idle_in_transaction_session_timeout = {lease_ms}; SET LOCAL lock_timeout = {budget_ms}; \
             SET LOCAL statement_timeout = {budget_ms}; {quick} {} SET LOCAL statement_timeout = {lease_ms};",
            self.lock
        );
        self.held = true;
        // The server gives up by itself; waiting longer is only for a server that does not answer at all.
        tokio::time::timeout(budget * 2, self.locker.run(&sql))
            .await
            .map_err(|_| {
                Error::new(Kind::Timeout, format!("the server did not lock its tables within {:?}", budget * 2))
            })?
            .context("lock the tables against writing")?;
        // At once: the hold is in force, and whoever asks for the dump later need not wait for it.
        ready.snapshot = Some(ready.session.open_snapshot().await?);
        Ok(Box::new(ready))
    }

    async fn renew(&mut self) -> Result<()> {
        if !self.held {
            return Err(Error::new(Kind::Conflict, "no tables are locked"));
        }
        // On the very connection that locks: an answer inside its transaction means that the locks never went.
        self.locker.run("SELECT 1").await.context("ask on the connection that locks")
    }

    async fn release(&mut self) -> Result<()> {
        if std::mem::take(&mut self.held) {
            return self.locker.run("ROLLBACK").await.context("unlock the tables");
        }
        Ok(())
    }
}

//! Holding writes: a read lock on a connection that is kept.
//!
//! MariaDB from 10.4 on takes FLUSH TABLES WITH READ LOCK; everything else LOCK TABLES … READ. On MySQL the former, beside a long query, leaves even readers
//! waiting until that query ends, and ending the connection that asked does not undo it. A second connection stands by to end the first when the lock is
//! not had in time, and the server ends it by itself when nothing was heard for the lease (`wait_timeout`).

use std::time::Duration;

use async_trait::async_trait;
use keepsake_core::error::{Context as _, Error, Kind, Result};

use super::dump::{Ready, made_ready};
use super::server::{Address, Family, Server, name, text};
use super::{Mysql, facts, privileges};
use crate::engine::{Hold, Prepared};

/// A transaction that has changed rows and goes on for so long is in the way: the lock waits for its end. Seconds.
const LONG: u32 = 1;
/// After so long the list of transactions is made anew.
const FRESH: Duration = Duration::from_millis(150);

/// Whether this server's writes can be held; if not, why.
pub(super) async fn possible(server: &mut Server) -> Result<std::result::Result<(), String>> {
    let on = |value: Option<String>| value.is_some_and(|v| v == "ON" || v == "1");
    if on(server.variable("wsrep_on").await?) {
        return Ok(Err("it is a node of a Galera cluster: a lock here holds no writes of other nodes".to_owned()));
    }
    if server.variable("group_replication_single_primary_mode").await?.is_some_and(|v| v == "OFF")
        && server.variable("group_replication_group_name").await?.is_some_and(|v| !v.is_empty())
    {
        return Ok(Err("its group has several primaries: a lock here holds no writes of others".to_owned()));
    }
    if on(server.variable("read_only").await?) {
        return Ok(Err(
            "it is read only, as replicas are: writes are made elsewhere, point the agent at the primary".to_owned()
        ));
    }
    Ok(Ok(()))
}

/// What would be in the way of a hold now: transactions that changed rows and are still open, and definitions being changed.
pub(super) async fn in_the_way(server: &mut Server, database: &str) -> Result<Option<String>> {
    if look(server, database).await?.is_none() {
        return Ok(None);
    }
    // The list of transactions comes from a cache, which is not refreshed while it is asked for more often than every 100 ms.
    tokio::time::sleep(FRESH).await;
    look(server, database).await
}

async fn look(server: &mut Server, database: &str) -> Result<Option<String>> {
    let queries = [
        format!(
            "SELECT CONCAT('a transaction of connection ', trx_mysql_thread_id, ' that has changed rows is open for longer than {LONG} s') \
             FROM information_schema.innodb_trx WHERE trx_rows_modified > 0 AND trx_mysql_thread_id <> CONNECTION_ID() \
             AND trx_started < NOW() - INTERVAL {LONG} SECOND LIMIT 3"
        ),
        format!(
            "SELECT CONCAT('connection ', id, ' of ', user, ' changes a definition since ', time, ' s') FROM information_schema.processlist \
             WHERE db = {} AND id <> CONNECTION_ID() AND command = 'Query' AND time >= {LONG} \
             AND UPPER(LTRIM(info)) REGEXP '^(ALTER|CREATE|DROP|TRUNCATE|RENAME|OPTIMIZE|REPAIR)' LIMIT 3",
            text(database)
        ),
    ];
    let mut found = Vec::new();
    for sql in queries {
        match server.column("ask what is in the way of a hold", &sql).await {
            Ok(rows) => found.extend(rows),
            // Without PROCESS it is not to be seen: the hold's budget tells.
            Err(e) if e.kind() == Kind::Denied => tracing::debug!("{}", e.chain()),
            Err(e) => return Err(e),
        }
    }
    Ok((!found.is_empty()).then(|| found.join("; ")))
}

/// A hold of one server, or of one database's tables.
pub(super) struct MysqlHold {
    /// The connection that locks; gone once it was ended.
    locker: Option<Server>,
    /// The one that stands by.
    other: Server,
    id: u64,
    address: Address,
    lock: String,
    ready: Option<Ready>,
}

impl MysqlHold {
    /// Connects twice and looks at everything that a dump needs.
    pub(super) async fn prepare(engine: &Mysql) -> Result<Self> {
        let address = &engine.address;
        let (mut locker, mut other) = tokio::try_join!(Server::connect(address), Server::connect(address))?;
        possible(&mut other).await?.map_err(|why| Error::new(Kind::Unsupported, why))?;
        let ready = made_ready(engine, &mut other).await?;
        let may = privileges::ask(&mut other, &address.database).await?;
        let id = locker.number("ask for the connection's number", "SELECT CONNECTION_ID()").await?;
        let lock = if other.family == Family::Mariadb && other.version >= (10, 4, 0) && may.may_flush() {
            "FLUSH TABLES WITH READ LOCK".to_owned()
        } else if let Some(missing) = may.missing_for_hold() {
            return Err(Error::new(Kind::Denied, missing));
        } else {
            let tables = ready.tables.iter().map(|t| format!("{}.{} READ", name(&address.database), name(t)));
            format!("LOCK TABLES {}", tables.collect::<Vec<_>>().join(", "))
        };
        Ok(Self { locker: Some(locker), other, id, address: address.clone(), lock, ready: Some(ready) })
    }

    /// Ends the connection that locks, and with it whatever it waits for or holds.
    async fn end(&mut self) -> Result<()> {
        if self.locker.take().is_none() {
            return Ok(());
        }
        let sql = format!("KILL {}", self.id);
        match self.other.run("end the connection that locks", &sql).await {
            // It was gone already.
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            done => done,
        }
    }
}

#[async_trait]
impl Hold for MysqlHold {
    async fn take(&mut self, budget: Duration, lease: Duration) -> Result<Prepared> {
        let taken = || Error::new(Kind::Conflict, "the hold was taken before");
        let (mut ready, locker) = (self.ready.take().ok_or_else(taken)?, self.locker.as_mut().ok_or_else(taken)?);
        let seconds = |d: Duration| d.as_millis().div_ceil(1000).max(1);
        let session =
            format!("SET SESSION wait_timeout = {}, SESSION lock_wait_timeout = {}", seconds(lease), seconds(budget));
        locker.run("bound the hold", &session).await?;
        if !self.lock.ends_with("TABLES ") {
            let locked = tokio::time::timeout(budget, locker.run("lock against writing", &self.lock)).await;
            match locked {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    self.end().await?;
                    return Err(e);
                }
                Err(_) => {
                    self.end().await?;
                    return Err(Error::new(
                        Kind::Busy,
                        format!(
                            "the lock against writing was not had within {budget:?}: a long query or transaction is in the way"
                        ),
                    ));
                }
            }
        }
        let (started, position) = tokio::join!(ready.start(&self.address), facts::position(&mut self.other));
        started?;
        ready.position = position;
        Ok(Box::new(ready))
    }

    async fn renew(&mut self) -> Result<()> {
        let Some(locker) = &mut self.locker else {
            return Err(Error::new(Kind::Conflict, "nothing is locked"));
        };
        // On the very connection that locks: an answer means that it never went, and the lock neither.
        locker.run("ask on the connection that locks", "DO 1").await
    }

    async fn release(&mut self) -> Result<()> {
        let Some(mut locker) = self.locker.take() else { return Ok(()) };
        match locker.run("unlock", "UNLOCK TABLES").await {
            Ok(()) => Ok(()),
            Err(e) => {
                self.locker = Some(locker);
                self.end().await.with_context(|| format!("after {}", e.chain()))
            }
        }
    }
}

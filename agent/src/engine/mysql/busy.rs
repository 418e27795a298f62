//! Other clients in the way: waited for a little, then named.

use keepsake_core::error::{Error, Kind, Result};

use super::server::{Server, name, text};
use super::{facts, shadow};

/// How long other clients may keep a table from being changed, seconds.
const LOCK_WAIT: u32 = 5;
/// How long an earlier statement of a load whose agent has died may go on, seconds.
const OWN_WAIT: u32 = 30;

/// Makes a connection ready to change the database: no wait for a lock is long, and no other load works on it.
///
/// # Errors
/// `Busy` while another agent, or the server for one that has died, is at work.
pub(super) async fn alone(server: &mut Server, database: &str) -> Result<()> {
    // A load may take longer than an idle connection lives.
    let sql = format!("SET SESSION lock_wait_timeout = {LOCK_WAIT}, SESSION wait_timeout = 86400");
    server.run("bound the wait for locks", &sql).await?;
    // Kept by the server until it has noticed that the connection is gone, which is after its last statement.
    let sql = format!("SELECT GET_LOCK({}, {OWN_WAIT})", text(&shadow::prefix(database)));
    if server.number("wait for other loads", &sql).await? == 1 {
        return Ok(());
    }
    Err(Error::new(Kind::Busy, format!("another load is at work on the database {database}: wait until it has ended")))
}

/// Refuses while another client uses a table: the change would wait for it half way.
///
/// # Errors
/// `Busy`, naming who.
pub(super) async fn nobody_holds(server: &mut Server, database: &str) -> Result<()> {
    let tables = facts::tables(server, database).await?;
    if tables.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = tables.iter().map(|t| format!("{}.{} WRITE", name(database), name(t))).collect();
    match server.run("lock all tables for a moment", &format!("LOCK TABLES {}", list.join(", "))).await {
        Ok(()) => server.run("unlock the tables", "UNLOCK TABLES").await,
        Err(e) if e.kind() == Kind::Busy => named(server, database, Err(e)).await,
        Err(e) => {
            // A table too broken to be locked must not stand in the way of a restore: the change itself will tell.
            tracing::debug!("cannot lock all tables: {}", e.chain());
            Ok(())
        }
    }
}

/// Says who is in the way, when somebody is.
pub(super) async fn named<T>(server: &mut Server, database: &str, done: Result<T>) -> Result<T> {
    let e = match done {
        Err(e) if e.kind() == Kind::Busy => e,
        done => return done,
    };
    let sql = format!(
        "SELECT CONCAT('connection ', id, ' of ', user, '@', host) FROM information_schema.processlist \
         WHERE db = {} AND id <> CONNECTION_ID() ORDER BY time DESC LIMIT 5",
        text(database)
    );
    let who = server.column("ask who uses the database", &sql).await?;
    let who = if who.is_empty() { "not to be seen".to_owned() } else { who.join(", ") };
    Err(Error::caused(
        Kind::Busy,
        format!(
            "a client holds tables of the database {database}, whose data was not changed; stop the applications, or KILL the \
             connection (in question: {who})"
        ),
        e,
    ))
}

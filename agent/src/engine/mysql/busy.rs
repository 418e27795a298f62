//! Other clients in the way: waited for a little, then named.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use tokio::time::Instant;

use super::server::{Server, name, text};
use super::{facts, shadow};

/// How long other clients may keep a table from being changed, seconds.
const LOCK_WAIT: u32 = 5;
/// How long an earlier statement of a load whose agent has died may go on, seconds.
const OWN_WAIT: u32 = 30;
/// Between two looks.
const A_MOMENT: Duration = Duration::from_millis(50);
/// So many clients run at most (`--mysql-dump-processes`).
const CLIENTS: u8 = 16;

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
    if server.number("wait for other loads", &sql).await? != 1 {
        let text = format!("another load is at work on the database {database}: wait until it has ended");
        return Err(Error::new(Kind::Busy, text));
    }
    no_client_is_left(server, database).await
}

/// Waits for the last statements of clients whose agent was killed, or whose load was cancelled: they may still change what is being loaded.
async fn no_client_is_left(server: &mut Server, database: &str) -> Result<()> {
    let used = (0..CLIENTS).map(|n| format!("IS_USED_LOCK({})", text(&lock_of(database, n)))).collect::<Vec<_>>();
    let sql = format!("SELECT COALESCE({}, 0)", used.join(", "));
    let until = Instant::now() + Duration::from_secs(OWN_WAIT.into());
    loop {
        let connection = server.number("look for clients of earlier loads", &sql).await?;
        if connection == 0 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Error::new(
                Kind::Busy,
                format!(
                    "the server is still at work for a client of an earlier load of {database}, connection {connection}: wait until its statement has \
                     ended, or KILL {connection}"
                ),
            ));
        }
        tokio::time::sleep(A_MOMENT).await;
    }
}

/// The numbers of the clients that run, each of which holds a lock of its number.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients(Arc<Mutex<BTreeSet<u8>>>);

/// A client's number, its own as long as this is there.
#[derive(Debug)]
pub(super) struct Slot {
    number: u8,
    all: Clients,
}

impl Clients {
    /// The lowest number that no client has.
    pub(super) fn take(&self) -> Slot {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (0..CLIENTS).find(|n| !taken.contains(n)).unwrap_or(CLIENTS - 1);
        taken.insert(number);
        Slot { number, all: self.clone() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// The lock that this client holds.
pub(super) fn client_lock(database: &str, slot: &Slot) -> String {
    lock_of(database, slot.number)
}

fn lock_of(database: &str, number: u8) -> String {
    format!("{}client_{number}", shadow::prefix(database))
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

//! Committing: the live database is dropped, made anew and filled by the client; then everything is counted.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{StreamExt, TryStreamExt};
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::id::RunKey;
use keepsake_core::record::Counts;
use tokio::io::AsyncWriteExt;

use super::parts::{self, Part, Role};
use super::server::{Server, name, text};
use super::{Mysql, facts, preflight, stage, tools};
use crate::engine::{ArtifactSource, CommitReport, Context, Source};
use crate::process::Running;
use keepsake_core::format::sql::{Reader, SANDBOX, Summary};

/// How long other clients may keep a table from being dropped, seconds.
const LOCK_WAIT: u32 = 5;

/// Loads the staged dump over the live database.
pub(super) async fn run(engine: &Mysql, key: &RunKey, source: &dyn Source, cx: &Context) -> Result<CommitReport> {
    let database = &engine.address.database;
    let mut server = Server::connect(&engine.address).await?;
    let client = tools::client(engine.program.as_deref(), server.family).await?;
    let (charset, collation) = new_defaults(&mut server, database, source).await?;
    let sql = format!("SET SESSION lock_wait_timeout = {LOCK_WAIT}");
    server.run("bound the wait for locks", &sql).await?;
    nobody_holds(&mut server, database).await?;
    // Opened before the drop, so that a source that has gone costs nothing.
    let mut artifacts = Vec::new();
    for part in parts::of(source)? {
        let artifact = source.open(&part.name).await?;
        artifacts.push((part, artifact));
    }

    engine.loads.touching(key)?;
    let made = make_anew(&mut server, database, &charset, &collation).await;
    made.with_context(|| format!("replace the database {database}"))?;

    cx.phase("loading", artifacts.iter().map(|(part, _)| part.length).sum());
    let loading = Loading { engine, client: &client, cx };
    let summary = loading.all(artifacts).await.with_context(|| {
        format!("load the database {database}, which is incomplete now: commit again, or restore another set")
    })?;
    stage::as_recorded(source, &summary)?;

    cx.phase("counting", 0);
    let mut server = Server::connect(&engine.address).await?;
    let counts = count(&mut server, database).await?;
    stage::same(&summary.counts(), &counts, "the dump", "the database").context("prove the load by counting")?;
    Ok(CommitReport { counts, warnings: preflight::notes(&mut server, &summary).await? })
}

/// Answers a commit that was made before.
pub(super) async fn repeated(engine: &Mysql) -> Result<CommitReport> {
    let mut server = Server::connect(&engine.address).await?;
    Ok(CommitReport { counts: count(&mut server, &engine.address.database).await?, warnings: Vec::new() })
}

/// The defaults that the database had when it was dumped; without a record those that it has.
async fn new_defaults(server: &mut Server, database: &str, source: &dyn Source) -> Result<(String, String)> {
    let fact = |key: &str| source.recorded().and_then(|r| r.facts.get(key)).cloned();
    let found = match (fact("database_character_set"), fact("database_collation")) {
        (Some(charset), Some(collation)) => (charset, collation),
        _ => facts::defaults(server, database).await?.ok_or_else(|| facts::no_database(database))?,
    };
    let good = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if good(&found.0) && good(&found.1) {
        return Ok(found);
    }
    Err(Error::new(Kind::Corrupt, "the record's character set or collation is not a name"))
}

/// Refuses while another client uses a table: the drop would wait for it half way.
async fn nobody_holds(server: &mut Server, database: &str) -> Result<()> {
    let tables = facts::tables(server, database).await?;
    if tables.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = tables.iter().map(|t| format!("{}.{} WRITE", name(database), name(t))).collect();
    let locked = server.run("lock all tables for a moment", &format!("LOCK TABLES {}", list.join(", "))).await;
    match locked {
        Ok(()) => server.run("unlock the tables", "UNLOCK TABLES").await,
        Err(e) if e.kind() == Kind::Busy => {
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
                    "a client holds tables of the database {database}, which therefore was not touched; stop the applications, \
                     or KILL the connection (in question: {who})"
                ),
                e,
            ))
        }
        Err(e) => {
            // A table too broken to be locked must not stand in the way of a restore: the drop will tell.
            tracing::debug!("cannot lock all tables: {}", e.chain());
            Ok(())
        }
    }
}

async fn make_anew(server: &mut Server, database: &str, charset: &str, collation: &str) -> Result<()> {
    // Whatever is left of an earlier attempt goes too.
    server.run("drop the database", &format!("DROP DATABASE IF EXISTS {}", name(database))).await?;
    let sql = format!("CREATE DATABASE {} CHARACTER SET {charset} COLLATE {collation}", name(database));
    server.run("create the database", &sql).await
}

/// Loads artifacts, each by a client of its own.
struct Loading<'a> {
    engine: &'a Mysql,
    client: &'a tools::Found,
    cx: &'a Context,
}

impl Loading<'_> {
    /// All of them in their order, groups of tables at once. The first failure drops the others, and with each its client.
    async fn all(&self, artifacts: Vec<(Part, Box<dyn ArtifactSource>)>) -> Result<Summary> {
        let (tables, after): (Vec<_>, Vec<_>) =
            artifacts.into_iter().partition(|(part, _)| matches!(part.role, Role::Whole | Role::Data));
        let mut at_once: Vec<BoxFuture<'_, Result<Summary>>> = Vec::new();
        for (part, artifact) in tables {
            at_once.push(Box::pin(self.one(part, artifact)));
        }
        let mut whole = Summary::default();
        let most = self.engine.dump_processes.max(1);
        let mut done = futures_util::stream::iter(at_once).buffer_unordered(most);
        while let Some(summary) = done.try_next().await? {
            whole.absorb(summary)?;
        }
        drop(done);
        // These stand on the tables, and triggers may not fire for rows that are loaded.
        for (part, artifact) in after {
            whole.absorb(Box::pin(self.one(part, artifact)).await?)?;
        }
        Ok(whole)
    }

    async fn one(&self, part: Part, mut artifact: Box<dyn ArtifactSource>) -> Result<Summary> {
        let address = &self.engine.address;
        let password = address.password()?;
        let running = tools::load(self.client, address, password.as_ref()).start()?;
        feed(running, artifact.as_mut(), self.cx).await.with_context(|| format!("load {}", part.name))
    }
}

/// Moves the artifact into the client. Success is exit status 0 after everything was taken and read to its end marker.
async fn feed(mut running: Running, artifact: &mut dyn ArtifactSource, cx: &Context) -> Result<Summary> {
    let Some(mut stdin) = running.stdin.take() else {
        return Err(Error::new(Kind::Internal, "the client was started without a pipe"));
    };
    let mut reader = Reader::new();
    let mut head = Head::default();
    while let Some(chunk) = artifact.read().await? {
        let read = chunk.len() as u64;
        reader.feed(&chunk).context("read the dump")?;
        if let Some(bytes) = head.pass(chunk)
            && let Err(e) = stdin.write_all(&bytes).await
        {
            drop(stdin);
            // It stopped reading because it failed: its own words tell more than the pipe.
            running.finish().await?;
            return Err(Error::io("the client stopped reading, but says that all went well", e));
        }
        cx.advance(read);
    }
    // Before the client learns that this was all.
    let summary = reader.finish().context("read the dump")?;
    if let Err(e) = stdin.shutdown().await {
        drop(stdin);
        running.finish().await?;
        return Err(Error::io("the client stopped reading, but says that all went well", e));
    }
    drop(stdin);
    running.finish().await?;
    Ok(summary)
}

/// Takes the sandbox announcement out of the first line, which only MariaDB's newer clients understand. The line itself
/// stays, so that line numbers in errors are those of the dump.
#[derive(Debug, Default)]
struct Head {
    begun: BytesMut,
    state: HeadState,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum HeadState {
    #[default]
    Undecided,
    Skipping,
    Passed,
}

impl Head {
    /// What goes to the client of the next bytes.
    fn pass(&mut self, chunk: Bytes) -> Option<Bytes> {
        let mut chunk = chunk;
        if self.state == HeadState::Undecided {
            self.begun.extend_from_slice(&chunk);
            if self.begun.len() < SANDBOX.len() && SANDBOX.starts_with(&self.begun) {
                return None;
            }
            self.state = if self.begun.starts_with(SANDBOX) { HeadState::Skipping } else { HeadState::Passed };
            chunk = self.begun.split().freeze();
        }
        if self.state == HeadState::Skipping {
            let end = chunk.iter().position(|b| *b == b'\n')?;
            chunk.advance(end);
            self.state = HeadState::Passed;
        }
        Some(chunk)
    }
}

/// Counts everything in the live database: rows by COUNT(*), objects by the server's lists.
async fn count(server: &mut Server, database: &str) -> Result<Counts> {
    let mut counts = facts::objects(server, database).await?;
    for table in facts::tables(server, database).await? {
        let sql = format!("SELECT COUNT(*) FROM {}.{}", name(database), name(&table));
        let rows = server.number(&format!("count the rows of {table}"), &sql).await?;
        counts.insert(format!("rows:{table}"), rows);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut head = Head::default();
        pieces.iter().filter_map(|p| head.pass(Bytes::copy_from_slice(p))).flatten().collect()
    }

    #[test]
    fn the_sandbox_goes_and_its_line_stays() {
        let dump: &[u8] = b"/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump\nSET a=1;\n";
        for size in [1, 5, 11, 12, 13, 1000] {
            let pieces: Vec<&[u8]> = dump.chunks(size).collect();
            assert_eq!(passed(&pieces), b"\n-- MariaDB dump\nSET a=1;\n", "chunks of {size}");
            let other: &[u8] = b"/*M!100616 SET a=1 */;\n";
            let pieces: Vec<&[u8]> = other.chunks(size).collect();
            assert_eq!(passed(&pieces), other, "chunks of {size}");
        }
    }
}

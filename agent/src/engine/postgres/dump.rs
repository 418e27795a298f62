//! The dump: one exported snapshot, in which the rows are counted and which pg_dump reads. The archive is read to its end as it passes.

use std::time::Duration;

use bytes::BytesMut;
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::Checking;
use keepsake_core::format::pgc;
use keepsake_core::id::ArtifactName;
use keepsake_core::record::{Counts, DumpReport, ToolRecord};
use tokio::io::AsyncReadExt;

use super::hold::{Ready, Snapshot};
use super::session::Session;
use super::{ARTIFACT, Settings, databases, tools, versions};
use crate::engine::{Context, Sink};

/// A table of locks of live processes: its definition is kept, its rows are not.
pub(super) const WITHOUT_ROWS: &str = "que_lockers";
/// What a custom-format archive begins with.
pub(super) const MAGIC: &[u8] = b"PGDMP";
/// A table that cannot be read for so long fails the dump.
const LOCK_WAIT: Duration = Duration::from_mins(1);
/// Bytes read at a time.
const CHUNK: usize = 128 << 10;

/// With what a hold made ready, the snapshot is opened at once.
pub(super) async fn dump(settings: &Settings, held: Option<Ready>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
    cx.unless_cancelled(run(settings, held, out, cx)).await
}

async fn made_ready(settings: &Settings) -> Result<Ready> {
    let session = Session::connect(settings).await?;
    session.must_be_primary()?;
    databases::none_half_made(&session, settings).await?;
    let version = versions::pg_dump_for(settings, &session).await?;
    let (facts, tables) = (session.facts().await?, session.tables().await?);
    Ok(Ready { session, version, facts, tables, snapshot: None })
}

async fn run(settings: &Settings, held: Option<Ready>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
    let is_held = held.is_some();
    let Ready { session, version, facts, tables, snapshot } = match held {
        Some(ready) => ready,
        None => made_ready(settings).await?,
    };
    // The transaction lives until pg_dump has ended: its snapshot is what pg_dump reads.
    let Snapshot { name: snapshot, position, opened } = match snapshot {
        Some(open) => open,
        None => session.open_snapshot().await?,
    };
    cx.snapshot_open();
    cx.until_released().await;
    let now = session.tables().await?;
    if is_held {
        // Whoever makes a table could write to it while all others were held. Asked now, when nobody waits for the answer, and outside of the snapshot.
        let live = Session::connect(settings).await?.tables().await?;
        if now != tables || live != tables {
            return Err(Error::new(
                Kind::Busy,
                "a table was made or dropped while writes were held: the dump is of no one instant",
            ));
        }
    }
    let lockers = now.into_iter().filter(|(_, table)| table == WITHOUT_ROWS);

    cx.phase("dumping", 0);
    let mut tool = tools::tool(settings, "pg_dump")?
        .args(["--format=custom", "--compress=0", "--no-password"])
        // A table that somebody locks against reading is told, not waited for all night.
        .arg(format!("--lock-wait-timeout={}", LOCK_WAIT.as_millis()))
        .arg(format!("--snapshot={snapshot}"))
        .read_stdout();
    for (schema, table) in lockers {
        tool = tool.arg(format!("--exclude-table-data={}.{}", quoted(&schema), quoted(&table)));
    }
    let mut running = tool.start()?;
    let mut artifact = out.artifact(&ArtifactName::new(ARTIFACT)?).await?;
    let mut stdout = running.stdout.take().ok_or_else(|| Error::new(Kind::Internal, "pg_dump has no stdout"))?;
    let mut checking = Checking::start(pgc::walk);
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        // A pipe gives little at a time: fill the chunk, so that the sink is not called for every page.
        while buffer.len() < CHUNK {
            if stdout.read_buf(&mut buffer).await.map_err(|e| Error::io("read from pg_dump", e))? == 0 {
                break;
            }
        }
        if buffer.is_empty() {
            break;
        }
        cx.advance(buffer.len() as u64);
        let chunk = buffer.freeze();
        checking.feed(chunk.clone()).await.context("read what pg_dump writes")?;
        artifact.write(chunk).await?;
    }
    drop(stdout);
    running.finish().await?;
    let archive = checking.finish().await.context("read what pg_dump wrote")?;
    // Counted while the snapshot still is what pg_dump read.
    let counts = session.counts().await?;
    session.run("COMMIT").await?;
    same_rows("the snapshot", &counts, &archive)?;
    artifact.finish().await?;
    let tool = ToolRecord {
        tool: "pg_dump".to_owned(),
        version,
        exit_status: 0,
        end_marker: "the archive was read to its end, with the rows of every table".to_owned(),
    };
    Ok(DumpReport {
        server: session.name(),
        tools: vec![tool],
        position,
        snapshot_opened: Some(opened),
        facts,
        counts,
        warnings: Vec::new(),
    })
}

/// Whether the archive has the rows that its snapshot or its record has. A table of an extension has its rows in the archive when they are the user's,
/// and is not counted.
pub(super) fn same_rows(whose: &str, counts: &Counts, archive: &pgc::Walked) -> Result<()> {
    let found = archive.counts();
    for (name, rows) in counts.iter().filter(|(name, _)| name.starts_with("rows:")) {
        let in_archive = found.get(name);
        if in_archive != Some(rows) {
            let told = in_archive.map_or_else(|| "does not have it".to_owned(), |n| format!("has {n}"));
            return Err(Error::new(
                Kind::Corrupt,
                format!("{whose} has {rows} {name}, what pg_dump wrote {told}: this dump is not whole"),
            ));
        }
    }
    Ok(())
}

/// A name quoted: in SQL, and as a pattern of pg_dump that matches only itself.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

//! The dump: one exported snapshot, in which the rows are counted and which pg_dump reads.

use bytes::BytesMut;
use keepsake_core::clock;
use keepsake_core::error::{Error, Kind, Result};
use keepsake_core::id::ArtifactName;
use keepsake_core::record::{DumpReport, ToolRecord};
use tokio::io::AsyncReadExt;

use super::session::Session;
use super::{ARTIFACT, Settings, tools};
use crate::engine::{Context, Sink};

/// A table of locks of live processes: its definition is kept, its rows are not.
pub(super) const WITHOUT_ROWS: &str = "que_lockers";
/// What a custom-format archive begins with.
pub(super) const MAGIC: &[u8] = b"PGDMP";
/// Bytes read at a time.
const CHUNK: usize = 128 << 10;

pub(super) async fn dump(settings: &Settings, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
    cx.unless_cancelled(run(settings, out, cx)).await
}

async fn run(settings: &Settings, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
    let session = Session::connect(settings).await?;
    if session.is_standby() {
        return Err(Error::new(
            Kind::Unsupported,
            "this server is a standby: point the agent at the primary (--postgres-host)",
        ));
    }
    // The transaction lives until pg_dump has ended: its snapshot is what pg_dump reads.
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let snapshot: String = session.row("SELECT pg_export_snapshot()", &[]).await?.get(0);
    let opened = clock::now();
    cx.snapshot_open();
    let position = session.position().await?;
    let facts = session.facts().await?;
    let lockers = session.tables().await?.into_iter().filter(|(_, table)| table == WITHOUT_ROWS);

    cx.phase("dumping", 0);
    let mut tool = tools::tool(settings, "pg_dump")?
        .args(["--format=custom", "--compress=0", "--no-password"])
        .arg(format!("--snapshot={snapshot}"))
        .read_stdout();
    for (schema, table) in lockers {
        tool = tool.arg(format!("--exclude-table-data={}.{}", quoted(&schema), quoted(&table)));
    }
    let version = tools::version(settings, "pg_dump").await?;
    let mut running = tool.start()?;
    let mut artifact = out.artifact(&ArtifactName::new(ARTIFACT)?).await?;
    let mut stdout = running.stdout.take().ok_or_else(|| Error::new(Kind::Internal, "pg_dump has no stdout"))?;
    let mut head = Vec::new();
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
        if head.len() < MAGIC.len() {
            head.extend_from_slice(buffer.get(..MAGIC.len().min(buffer.len())).unwrap_or_default());
        }
        cx.advance(buffer.len() as u64);
        artifact.write(buffer.freeze()).await?;
    }
    drop(stdout);
    running.finish().await?;
    if head != MAGIC {
        return Err(Error::new(Kind::Internal, "pg_dump wrote something else than an archive"));
    }
    // Counted while the snapshot still is what pg_dump read.
    let counts = session.counts().await?;
    session.run("COMMIT").await?;
    artifact.finish().await?;
    let tool = ToolRecord {
        tool: "pg_dump".to_owned(),
        version,
        exit_status: 0,
        end_marker: "exit status; the archive is read to its end when it is staged".to_owned(),
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

/// A name as a pattern that matches only itself.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

//! Dumping: the tool's output goes through the lexer into an artifact; under a hold several tools write several.

use std::time::Duration;

use bytes::BytesMut;
use keepsake_core::attachments::ATTACHMENTS;
use keepsake_core::clock;
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::record::{Counts, DumpReport, Facts, ToolRecord};
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;

use super::attachments::Rows;
use super::preflight::PACKET_ROOM;
use super::server::{Address, Server};
use super::{Mysql, facts, fingerprint, groups, memory, parts, privileges, shadow, tools};
use crate::engine::{ArtifactSink, Context, Sink};
use crate::process::Running;
use keepsake_core::format::sql::{Reader, Summary};
use keepsake_core::id::ArtifactName;

/// What is handed to the sink at once, bytes.
const CHUNK: usize = 128 * 1024;
/// A tool that writes nothing for so long waits for something that may never come: the server's own limit for locks is a day.
const SILENT: Duration = Duration::from_mins(3);
/// What the tool's output must end with, for the record.
const END_MARKER: &str = "the line `-- Dump completed`";

/// Everything slow that comes before the snapshot.
pub(super) struct Ready {
    tool: tools::Found,
    facts: Facts,
    size: u64,
    objects: Counts,
    warnings: Vec<String>,
    before: fingerprint::Fingerprint,
    /// Where the server stood; with a hold, where it stands while it is held.
    pub(super) position: Option<String>,
    /// The tables with rows, for whoever locks them.
    pub(super) tables: Vec<String>,
    /// What it is divided by under a hold.
    parts: facts::Parts,
    /// How many tools there is room for.
    tools: usize,
    /// What will tell which files rows name; none where the database is another, or that could not be asked.
    rows: Option<Rows>,
    /// What was started under a hold.
    started: Option<Started>,
}

/// What opens the dump's snapshots, at work.
struct Started {
    groups: Option<groups::Groups>,
    /// A tool of each group, or the only one.
    tools: Vec<Running>,
    /// Its snapshot is open, or why not.
    rows: Option<Result<Rows>>,
}

impl Ready {
    /// Starts everything that opens a snapshot: writes are held. It goes on by itself while the hold's other stores are waited for.
    pub(super) async fn start(&mut self, address: &Address) -> Result<()> {
        // Only while writes are held are the snapshots of several tools the same.
        let groups = groups::Groups::balanced(std::mem::take(&mut self.parts), self.tools);
        let tools = match &groups {
            Some(groups) => groups.start(address, &self.tool)?,
            None => vec![whole(address, &self.tool)?],
        };
        self.started = Some(Started { groups, tools, rows: opened(self.rows.take()).await });
        Ok(())
    }
}

/// The tool that dumps everything, started.
fn whole(address: &Address, tool: &tools::Found) -> Result<Running> {
    tools::dump(tool, address, address.password()?.as_ref(), tools::What::Whole).start()
}

/// Looks at everything that a dump needs to know beforehand.
pub(super) async fn made_ready(engine: &Mysql, server: &mut Server) -> Result<Ready> {
    let database = &engine.address.database;
    if facts::defaults(server, database).await?.is_none() {
        return Err(facts::no_database(database));
    }
    if let Some(missing) = privileges::ask(server, database).await?.missing_for_dump() {
        return Err(Error::new(Kind::Denied, missing));
    }
    shadow::ensure_whole(server, database).await?;
    let tool = tools::dump_tool(&engine.programs, server.family).await?;
    let known = facts::facts(server, database).await?;
    let size = facts::size(server, database).await?;
    let objects = facts::objects(server, database).await?;
    let mut warnings: Vec<String> =
        not_transactional_warning(&facts::not_transactional(server, database).await?).into_iter().collect();
    let versioned = facts::versioned(server, database).await?;
    if !versioned.is_empty() {
        warnings.push(format!("only the present rows of system-versioned tables are dumped: {}", versioned.join(", ")));
    }
    let tables = facts::tables(server, database).await?;
    let parts = facts::parts(server, database).await?;
    let tools = match engine.memory {
        None => engine.dump_processes,
        Some(limit) => {
            let largest = memory::largest_row(server, database).await?;
            memory::tools_that_fit(limit, largest, engine.dump_processes)?
        }
    };
    let rows = match Rows::find(engine, server).await {
        Ok(rows) => rows,
        Err(e) => {
            warnings.push(format!("which files rows name was not asked: {}", e.chain()));
            None
        }
    };
    let position = facts::position(server).await;
    let before = fingerprint::take(server, database).await?;
    Ok(Ready {
        tool,
        facts: known,
        size,
        objects,
        warnings,
        before,
        position,
        tables,
        parts,
        tools,
        rows,
        started: None,
    })
}

/// Dumps the database. With what a hold made ready, the tool is started at once.
pub(super) async fn run(engine: &Mysql, held: Option<Ready>, out: &dyn Sink, cx: &Context) -> Result<DumpReport> {
    let database = &engine.address.database;
    let is_held = held.is_some();
    let ready = match held {
        Some(ready) => ready,
        None => made_ready(engine, &mut Server::connect(&engine.address).await?).await?,
    };
    let Ready { tool, facts: mut known, size, objects, mut warnings, before, position, rows, started, .. } = ready;

    cx.phase("dumping", size);
    let Started { groups, tools: running, rows } = match started {
        Some(started) => started,
        None => Started { groups: None, tools: vec![whole(&engine.address, &tool)?], rows: opened(rows).await },
    };
    if rows.is_some() {
        cx.paths.begin();
    }
    let dumping = async {
        if let Some(groups) = &groups {
            Ok::<_, Error>((Box::pin(groups::run(engine, &tool, groups, running, out, cx)).await?, None))
        } else {
            let (streamed, artifact) = Box::pin(in_one_stream(running, out, cx)).await?;
            Ok((streamed, Some(artifact)))
        }
    };
    // As soon as writers go on, so that its snapshot is not kept open for long.
    let telling = async {
        cx.until_released().await;
        told(rows, cx).await
    };
    let (dumped, named) = tokio::join!(dumping, telling);
    let (Streamed { summary, snapshot_opened }, unfinished) = dumped?;
    known.extend(named.map(|rows| (ATTACHMENTS.to_owned(), rows.to_string())));

    // A dump may take longer than the server lets an idle connection live.
    let mut server =
        Server::connect(&engine.address).await.context("ask whether definitions changed while the dump ran")?;
    before.unchanged(&fingerprint::take(&mut server, database).await?)?;
    same_objects(&objects, &summary.counts())?;
    let stood = facts::position(&mut server).await;

    warnings.extend(packet_warning(&summary, known.get("max_allowed_packet").map(String::as_str)));
    known.insert("longest_statement".to_owned(), summary.longest_statement.to_string());
    known.insert("definers".to_owned(), joined(&summary.definers));
    known.insert("altered_schemas".to_owned(), joined(&summary.altered_schemas));
    if let Some(artifact) = unfinished {
        let length = artifact.finish().await?;
        if length != summary.bytes {
            return Err(Error::new(
                Kind::Internal,
                format!("the sink took {length} bytes of a dump of {} bytes", summary.bytes),
            ));
        }
    }
    let record =
        ToolRecord { tool: tool.program, version: tool.version, exit_status: 0, end_marker: END_MARKER.to_owned() };
    Ok(DumpReport {
        server: server.name(),
        tools: vec![record; groups.map_or(1, |groups| groups.artifacts())],
        // Without a hold it is known only when nothing was written meanwhile: the tool opens its snapshot somewhere between the two.
        position: position.filter(|p| is_held || Some(p) == stood.as_ref()),
        snapshot_opened: Some(snapshot_opened),
        facts: known,
        counts: summary.counts(),
        warnings,
    })
}

/// Opens the snapshot of what will tell the files that rows name.
async fn opened(rows: Option<Rows>) -> Option<Result<Rows>> {
    let mut rows = rows?;
    Some(rows.open().await.map(|()| rows))
}

/// Tells the files that rows name; returns how many rows do. That it fails is told whoever asks for them.
async fn told(rows: Option<Result<Rows>>, cx: &Context) -> Option<u64> {
    let named = match rows? {
        Ok(rows) => rows.tell(&cx.paths).await,
        Err(e) => Err(e),
    };
    match named {
        Ok(named) => Some(named),
        Err(e) => {
            cx.paths.fail(e);
            Some(0)
        }
    }
}

/// Everything by one tool. The artifact is to be finished when all is known to be well.
async fn in_one_stream(tools: Vec<Running>, out: &dyn Sink, cx: &Context) -> Result<(Streamed, Box<dyn ArtifactSink>)> {
    let running = tools.into_iter().next().ok_or_else(|| Error::new(Kind::Internal, "no dump tool was started"))?;
    let mut artifact = out.artifact(&ArtifactName::new(parts::WHOLE)?).await?;
    let streamed = Box::pin(stream(running, artifact.as_mut(), &|| cx.snapshot_open(), cx)).await?;
    Ok((streamed, artifact))
}

/// What came of one tool.
pub(super) struct Streamed {
    pub(super) summary: Summary,
    pub(super) snapshot_opened: jiff::Timestamp,
}

/// Moves the tool's output into the artifact; `is_open` is called once, when its snapshot is. Success is exit status 0, the end marker, and every
/// byte taken.
pub(super) async fn stream(
    mut running: Running,
    artifact: &mut dyn ArtifactSink,
    is_open: &(dyn Fn() + Sync),
    cx: &Context,
) -> Result<Streamed> {
    let Some(mut stdout) = running.stdout.take() else {
        return Err(Error::new(Kind::Internal, "the dump tool was started without a pipe"));
    };
    let mut reader = Reader::new();
    let mut opened = None;
    let mut chunk = BytesMut::with_capacity(2 * CHUNK);
    let mut ended = false;
    while !ended {
        ended = !fill(&mut stdout, &mut chunk, &mut reader).await?;
        if opened.is_none() && reader.past_header() {
            opened = Some(clock::now());
            is_open();
        }
        if chunk.len() >= CHUNK || (ended && !chunk.is_empty()) {
            let full = chunk.split().freeze();
            chunk.reserve(2 * CHUNK);
            cx.advance(full.len() as u64);
            artifact.write(full).await?;
        }
    }
    drop(stdout);
    // Its own words first: a tool that failed has of course not written its end marker.
    running.finish().await.context("dump the database")?;
    let summary = reader.finish()?;
    if opened.is_none() {
        // An empty database: all there was to see was seen.
        is_open();
    }
    Ok(Streamed { summary, snapshot_opened: opened.unwrap_or_else(clock::now) })
}

/// Reads what there is, and lets the lexer see it; false at the end.
async fn fill(stdout: &mut ChildStdout, chunk: &mut BytesMut, reader: &mut Reader) -> Result<bool> {
    let known = chunk.len();
    let read = tokio::time::timeout(SILENT, stdout.read_buf(chunk)).await.map_err(|_| {
        Error::new(
            Kind::Busy,
            format!("the dump tool has written nothing for {SILENT:?}: does somebody lock a table against reading?"),
        )
    })?;
    let n = read.map_err(|e| Error::io("read from the dump tool", e))?;
    reader.feed(chunk.get(known..).unwrap_or_default()).context("read what the dump tool writes")?;
    Ok(n > 0)
}

/// Compares what the server says it has with what was dumped: a missing trigger has no other trace.
fn same_objects(expected: &Counts, dumped: &Counts) -> Result<()> {
    for (key, there) in expected {
        let got = dumped.get(key).copied().unwrap_or_default();
        if got != *there {
            return Err(Error::new(
                Kind::Internal,
                format!(
                    "the server has {there} {key} and the dump has {got}: it is not whole (see the account's privileges)"
                ),
            ));
        }
    }
    Ok(())
}

/// What must be known of tables without a snapshot.
pub(super) fn not_transactional_warning(tables: &[String]) -> Option<String> {
    (!tables.is_empty()).then(|| {
        format!(
            "not transactional, so their rows are not of the dump's instant if something writes to them: {} \
             (ALTER TABLE … ENGINE=InnoDB)",
            tables.join(", ")
        )
    })
}

fn packet_warning(summary: &Summary, limit: Option<&str>) -> Option<String> {
    let limit: u64 = limit?.parse().ok()?;
    (summary.longest_statement.saturating_add(PACKET_ROOM) > limit).then(|| {
        format!(
            "the longest statement has {} bytes, which does not fit into this server's max_allowed_packet of {limit}: \
             raise it before a restore",
            summary.longest_statement
        )
    })
}

fn joined(names: &std::collections::BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

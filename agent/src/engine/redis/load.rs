//! The load: the agent serves the RDB as a master, the server takes it as a replica and is made a master again.
//!
//! One file, one command, no restart. Success is told only when a kill right after it would lose nothing: the AOF is rewritten, or an RDB is saved.

use std::io::Read;
use std::time::Duration;

use bytes::{Buf, Bytes};
use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt};
use keepsake_core::record::{Counts, DumpReport};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Server;
use super::{ARTIFACT, Settings, master, preflight};
use crate::engine::{CommitReport, Context, Source, StageReport, only_artifact};
use keepsake_core::format::rdb::{NOISE, Walked, walk};

/// The server must begin to fetch within so long.
const FETCH: Duration = Duration::from_secs(30);
/// Without any progress for so long the load has failed.
const STALLED: Duration = Duration::from_mins(2);

/// Reads and checks the whole dump.
pub(super) async fn stage(server: &Server, source: &dyn Source, cx: &Context) -> Result<StageReport> {
    let walked = check(source, cx).await?;
    let warnings = preflight::check_load(server, &walked, source.recorded()).await?;
    Ok(StageReport { bytes: walked.length, counts: walked.counts(), warnings })
}

/// Walks the artifact and compares its counts with the record's.
async fn check(source: &dyn Source, cx: &Context) -> Result<Walked> {
    let (name, length) = only_artifact(source, ARTIFACT)?;
    cx.phase("checking", length);
    let mut reader = source.open(&name).await?;
    let (sender, chunks) = mpsc::channel(1);
    let walking = tokio::task::spawn_blocking(move || walk(Chunks { chunks, now: Bytes::new() }));
    while let Some(chunk) = cx.unless_cancelled(reader.read()).await? {
        cx.advance(chunk.len() as u64);
        if sender.send(chunk).await.is_err() {
            // The walker has found something and says what.
            break;
        }
    }
    drop(sender);
    let walked = walking.await.or_kind(Kind::Internal, "walk the RDB")?.with_context(|| format!("artifact {name}"))?;
    if let Some(recorded) = source.recorded() {
        compare(&walked.counts(), recorded)?;
    }
    Ok(walked)
}

fn compare(found: &Counts, recorded: &DumpReport) -> Result<()> {
    if *found == recorded.counts {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!("the RDB does not hold what the record says: {:?} instead of {:?}", found, recorded.counts),
    ))
}

/// Replaces the server's data.
pub(super) async fn commit(
    server: &Server,
    settings: &Settings,
    marker: &master::Marker,
    source: &dyn Source,
    cx: &Context,
    touching: impl Fn(),
) -> Result<CommitReport> {
    // Once more, because the server may be another one than when it was staged.
    let walked = check(source, cx).await?;
    let warnings = preflight::check_load(server, &walked, source.recorded()).await?;
    let (name, length) = only_artifact(source, ARTIFACT)?;

    let listener = TcpListener::bind((settings.redis_replication_host, 0)).await.map_err(|e| {
        Error::io(format!("listen on {} (--redis-replication-host)", settings.redis_replication_host), e)
    })?;
    let port = listener.local_addr().map_err(|e| Error::io("ask for the port", e))?.port();
    let reader = source.open(&name).await?;
    cx.check()?;
    cx.phase("loading", length);
    let serving = {
        let cx = cx.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let accepted = tokio::time::timeout(FETCH, listener.accept()).await;
            let (stream, _) = accepted
                .or_kind(Kind::Timeout, format!("the server did not come to fetch the data within {FETCH:?}"))?
                .map_err(|e| Error::io("accept the server's connection", e))?;
            master::serve(stream, reader, length, &cx).await
        }))
    };

    let host = settings.redis_replication_host.to_string();
    marker.set(&format!("{host} {port}"))?;
    touching();
    let loaded = async {
        server.ask::<()>(&["REPLICAOF", &host, &port.to_string()]).await?;
        wait_for_link(server, serving).await
    };
    let loaded = loaded.await;
    // Whatever came of it: a server that stays a replica of this agent refuses all writes.
    let freed = server.replica_of_nobody().await.context("make the server a master again (REPLICAOF NO ONE)");
    if freed.is_ok() {
        marker.clear()?;
    }
    loaded.context("the server took the data as a replica")?;
    freed?;
    make_durable(server, cx).await?;
    verify(server, &walked, warnings).await
}

/// Waits until the server has taken everything.
async fn wait_for_link(server: &Server, mut serving: AbortOnDropHandle<Result<()>>) -> Result<()> {
    let mut progress = (Instant::now(), String::new());
    loop {
        match server.info().await {
            Ok(info) => {
                if info.is("role", "slave") && info.is("master_link_status", "up") && info.is("loading", "0") {
                    return Ok(());
                }
                let now = ["master_sync_read_bytes", "master_sync_left_bytes", "loading_loaded_bytes", "loading"]
                    .map(|n| info.get(n).unwrap_or(""))
                    .join(" ");
                if now != progress.1 {
                    progress = (Instant::now(), now);
                }
            }
            // While it loads it may answer nothing else.
            Err(e) if e.kind().retry() => tracing::debug!("{}", e.chain()),
            Err(e) => return Err(e),
        }
        if progress.0.elapsed() >= STALLED {
            return Err(Error::new(
                Kind::Timeout,
                format!(
                    "the load has not moved for {STALLED:?} (bytes read, left, loaded; loading: {}): see the server's log",
                    progress.1
                ),
            ));
        }
        tokio::select! {
            ended = &mut serving => {
                // Serving ends by itself only when it failed or the server hung up.
                ended.or_kind(Kind::Internal, "serve the data")??;
                return Err(Error::new(Kind::Unavailable, "the server hung up before it had loaded the data: see its log"));
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// Waits until what was loaded would survive a kill.
async fn make_durable(server: &Server, cx: &Context) -> Result<()> {
    cx.phase("making durable", 0);
    let mut asked = false;
    loop {
        let info = server.info().await?;
        let working = ["aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress"]
            .iter()
            .any(|n| info.is(n, "1"));
        if working {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let (command, status) = if info.is("aof_enabled", "1") {
            ("BGREWRITEAOF", "aof_last_bgrewrite_status")
        } else {
            ("BGSAVE", "rdb_last_bgsave_status")
        };
        if asked {
            if info.is(status, "ok") {
                return Ok(());
            }
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the data is loaded, but {status} is {:?}: a crash now would lose it. Make room on the server's disk and run {command}",
                    info.get(status)
                ),
            ));
        }
        // Asked for on purpose, though a server with an AOF rewrites it by itself after such a load: its status may be that of an older one.
        match server.ask::<String>(&[command]).await {
            Ok(_) => asked = true,
            Err(e) if e.chain().contains("in progress") => {}
            Err(e) => return Err(e),
        }
    }
}

async fn verify(server: &Server, walked: &Walked, warnings: Vec<String>) -> Result<CommitReport> {
    let mut report = live_counts(server).await?;
    report.warnings = warnings;
    for (name, expected) in walked.counts() {
        let found = report.counts.get(&name).copied().unwrap_or(0);
        // Keys with a time to live may have gone since; the others may not.
        let good = if name.starts_with("expiring:") { found <= expected } else { found == expected };
        if !good {
            return Err(Error::new(
                Kind::Corrupt,
                format!("after the load the server has {name} = {found}, the dump has {expected}"),
            ));
        }
    }
    let surplus = report.counts.iter().find(|(name, n)| **n > 0 && !walked.counts().contains_key(*name));
    if let Some((name, n)) = surplus {
        return Err(Error::new(
            Kind::Corrupt,
            format!("after the load the server has {name} = {n}, the dump has none"),
        ));
    }
    Ok(report)
}

/// What the server holds now, counted as a dump's walk would.
pub(super) async fn live_counts(server: &Server) -> Result<CommitReport> {
    let info = server.info().await?;
    let mut counts = Counts::new();
    let noise = std::str::from_utf8(NOISE).unwrap_or_default();
    for (db, keys, expires) in info.keyspace() {
        let probe: u64 = server.in_database(db, &["EXISTS", noise]).await?;
        counts.insert(format!("keys:db{db}"), keys.saturating_sub(expires).saturating_sub(probe));
        counts.insert(format!("expiring:db{db}"), expires);
    }
    Ok(CommitReport { counts, warnings: Vec::new() })
}

/// Chunks from a channel as a reader.
struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    now: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.now.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.now = chunk,
                None => return Ok(0),
            }
        }
        let n = self.now.len().min(out.len());
        self.now.copy_to_slice(out.get_mut(..n).unwrap_or_default());
        Ok(n)
    }
}

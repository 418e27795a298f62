//! The load by replication: the agent serves the RDB as a master, the server takes it as a replica and is made a master again.
//!
//! One command, no restart, and no file in the server's folder.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use keepsake_core::error::{Context as _, Error, Kind, Result, ResultExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::super::ARTIFACT;
use super::super::connection::Server;
use super::super::file::free;
use super::super::settings::{LoadMethod, Settings};
use super::super::stages::step;
use super::{Load, master};
use crate::engine::only_artifact;

/// The server must begin to fetch within so long.
const FETCH: Duration = Duration::from_secs(30);
/// Without any progress for so long the load has failed.
const STALLED: Duration = Duration::from_mins(2);

/// Why it cannot be loaded so.
pub(super) async fn refusal(server: &Server, settings: &Settings) -> Result<Option<String>> {
    if server.follow_command().await?.is_none() {
        return Ok(Some("REPLICAOF was renamed away on this server, as 3scale does from 2.15 on".to_owned()));
    }
    if is_over_tls(server).await? && !settings.redis_replication_host.is_loopback() {
        let why = "the server replicates over TLS (tls-replication), and the agent is not on its loopback: the data would cross the network in the clear";
        return Ok(Some(why.to_owned()));
    }
    Ok(None)
}

async fn is_over_tls(server: &Server) -> Result<bool> {
    Ok(server.config("tls-replication").await?.as_deref() == Some("yes"))
}

/// Loads.
pub(super) async fn load(server: &Server, load: &Load<'_>) -> Result<()> {
    let Load { settings, marker, cx, .. } = *load;
    let (name, length) = only_artifact(load.source, ARTIFACT)?;
    let listener = TcpListener::bind((settings.redis_replication_host, 0)).await.map_err(|e| {
        Error::io(format!("listen on {} (--redis-replication-host)", settings.redis_replication_host), e)
    })?;
    let port = listener.local_addr().map_err(|e| Error::io("ask for the port", e))?.port();
    let reader = load.source.open(&name).await?;
    let Some(follow) = server.follow_command().await? else {
        return Err(Error::new(Kind::Internal, "a load by replication was let pass without REPLICAOF"));
    };
    // Written down even when nothing is changed: an agent that finds it makes durable what the server took.
    let over_tls = is_over_tls(server).await?;
    load.put_back.note(server, if over_tls { &["tls-replication"] } else { &[] }).await?;
    step(cx, "changing settings").await;
    if over_tls {
        server.set_config("tls-replication", "no").await?;
    }
    cx.check()?;
    cx.phase("loading", length);
    let asked_for = Arc::new(AtomicBool::new(false));
    let serving = {
        let (cx, asked_for) = (cx.clone(), asked_for.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let accepted = tokio::time::timeout(FETCH, listener.accept()).await;
            let (stream, _) = accepted
                .or_kind(Kind::Timeout, format!("the server did not come to fetch the data within {FETCH:?}"))?
                .map_err(|e| Error::io("accept the server's connection", e))?;
            master::serve(stream, reader, length, &asked_for, &cx).await
        }))
    };

    let host = settings.redis_replication_host.to_string();
    marker.set(&format!("{host} {port}"))?;
    (load.touching)(LoadMethod::Replication)?;
    step(cx, "about to touch").await;
    cx.phase("loading", length);
    let loaded = async {
        server.ask::<()>(&[follow, &host, &port.to_string()]).await?;
        wait_for_link(server, serving).await
    };
    let loaded = loaded.await.map_err(|e| no_room(settings, length, e));
    step(cx, "making it a master again").await;
    // Whatever came of it: a server that stays a replica of this agent refuses all writes.
    let freed = server.follow_nobody().await.context("make the server a master again (REPLICAOF NO ONE)");
    if freed.is_ok() {
        marker.clear()?;
        // It dropped nothing of its own before it was promised something else. While the other end of it lives, nobody knows.
        let promised = Arc::into_inner(asked_for).is_none_or(AtomicBool::into_inner);
        if loaded.is_err() && !promised {
            (load.untouched)()?;
        }
    }
    step(cx, "making durable").await;
    let settled = load.put_back.settle(server).await;
    loaded.context("the server took the data as a replica")?;
    freed?;
    settled
}

/// The server writes what it takes to its disk first, and hangs up when it cannot; why it did stands in its log only.
fn no_room(settings: &Settings, length: u64, e: Error) -> Error {
    let Some(folder) = &settings.redis_data_dir else { return e };
    match free(folder) {
        Ok(free) if free < length => {
            let text = format!(
                "{} has {free} bytes free, and the server needs {length} there while it takes the data: make room, then commit again or roll back",
                folder.display()
            );
            Error::caused(Kind::Busy, text, e)
        }
        // Of the two failures the first is the one to tell.
        Ok(_) | Err(_) => e,
    }
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
                return Err(Error::new(
                    Kind::Unavailable,
                    "the server hung up before it had loaded the data: see its log (without room on its disk for them it cannot take them)",
                ));
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

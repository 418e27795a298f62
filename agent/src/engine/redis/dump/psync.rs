//! A dump over the network: the agent asks for the data as a replica would, and is one no longer than that takes.
//!
//! `REPLCONF capa eof` is not announced: a server that streams without a file waits `repl-diskless-sync-delay` first, and so sends no length.

use std::time::Duration;

use bytes::BytesMut;
use keepsake_core::clock;
use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::background::Checking;
use keepsake_core::id::ArtifactName;

use super::super::ARTIFACT;
use super::super::connection::Server;
use super::super::raw::Raw;
use super::super::settings::Settings;
use super::{TRIES, Taken, count, wait_for_no_child};
use crate::engine::{Context, Sink};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

pub(super) async fn dump(
    server: &Server,
    settings: &Settings,
    patience: Duration,
    out: &dyn Sink,
    cx: &Context,
) -> Result<Taken> {
    cx.unless_cancelled(run(server, settings, patience, out, cx)).await
}

async fn run(server: &Server, settings: &Settings, patience: Duration, out: &dyn Sink, cx: &Context) -> Result<Taken> {
    // Under a hold there is one try: another would be of another instant.
    let tries = if patience.is_zero() { 1 } else { TRIES };
    for _ in 0..tries {
        wait_for_no_child(server, patience).await?;
        let before = server.info().await?.number("master_repl_offset");
        let mut raw = Raw::connect(settings).await?;
        let answer = raw.ask(&["PSYNC", "?", "-1"]).await.context("ask for the data as a replica (PSYNC)")?;
        let offset = answer.strip_prefix("FULLRESYNC ").and_then(|rest| rest.split(' ').nth(1)?.parse::<u64>().ok());
        let Some(offset) = offset else {
            return Err(Error::new(Kind::Unsupported, format!("PSYNC was answered by {answer:?}, not by a full copy")));
        };
        // Another replica's save, begun before: an older instant than this dump stands for.
        if offset < before {
            continue;
        }
        let opened = clock::now();
        cx.snapshot_open();
        cx.phase("saving", 0);
        let head = raw.line().await.context("wait for the server's save")?;
        let Some(length) = head.strip_prefix('$').and_then(|n| n.parse::<u64>().ok()) else {
            return Err(Error::new(
                Kind::Unsupported,
                format!("the server announced its data by {head:?}, not by a length"),
            ));
        };
        cx.phase("dumping", length);
        let mut checking = Checking::start(count);
        let mut artifact = out.artifact(&ArtifactName::new(ARTIFACT)?).await?;
        let mut left = length;
        while left > 0 {
            let mut buffer = BytesMut::zeroed(usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK)));
            let mut filled = 0;
            // The network gives little at a time: fill the chunk, so that the sink is not called for every packet.
            while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
                filled += raw.read(room).await?;
            }
            left -= buffer.len() as u64;
            cx.advance(buffer.len() as u64);
            let chunk = buffer.freeze();
            checking.feed(chunk.clone()).await.context("the RDB that the server sends")?;
            artifact.write(chunk).await?;
        }
        let counted = checking.finish().await.context("the RDB that the server sent")?;
        artifact.finish().await?;
        return Ok(Taken {
            counted,
            position: Some(offset.to_string()),
            opened,
            tool: "PSYNC",
            end_marker: "length announced, end mark and checksum of the RDB",
        });
    }
    Err(Error::new(
        Kind::Busy,
        format!(
            "{tries} times the server gave a copy that another replica had asked for before: try again when replicas are in step"
        ),
    ))
}

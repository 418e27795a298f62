//! The load by a restart: files laid out as the server reads them when it starts, then SHUTDOWN NOSAVE.
//!
//! The one way on a server without REPLICAOF and DEBUG, as 3scale's own since 2.15. Nothing is shut down unless somebody has said who starts it again.

use std::time::Duration;

use keepsake_core::error::{Context as _, Error, Kind, Result};
use keepsake_core::format::rdb::Walked;
use tokio::time::Instant;

use super::super::connection::{Info, Server};
use super::super::dump::{OTHER_CHILD, wait_for_no_child};
use super::super::settings::{LoadMethod, RestartedBy, Settings};
use super::super::stages::step;
use super::durable::Held;
use super::{Load, lay_out};
use crate::process::Tool;

/// The server must answer again within so long; while it loads, as long as that moves.
const BACK: Duration = Duration::from_mins(5);

/// Why it cannot be loaded so.
pub(super) fn refusal(settings: &Settings, info: &Info) -> Option<String> {
    if settings.redis_data_dir.is_none() {
        Some("it needs the server's data folder (--redis-data-dir)".to_owned())
    } else if settings.redis_restarted_by.is_none() {
        Some("nobody has said who starts the server again after it was shut down (--redis-restarted-by)".to_owned())
    } else if info.speaks_as().0 < 4 {
        Some(format!("{} does not read an RDB at the beginning of its AOF", info.name()))
    } else {
        lay_out::cannot_hand_over(settings)
    }
}

/// Loads.
pub(super) async fn load(server: &Server, load: &Load<'_>, walked: &Walked) -> Result<()> {
    let info = server.info().await?;
    let data = lay_out::data_folder(load.settings)?;
    let places = lay_out::Places::of(server, load.settings, &info).await?;
    let new = lay_out::bring(load, walked.length).await?;
    let aof = places.make_aof(&new, data)?;
    step(load.cx, "the RDB is brought").await;
    load.put_back.note(server, &["appendonly", "save"]).await?;
    step(load.cx, "changing settings").await;
    let aside = load.put_back.folder().join("aside");
    let prepared = async {
        // From here on the server writes none of the files that are about to be replaced.
        server.set_config("save", "").await?;
        server.set_config("appendonly", "no").await?;
        load.cx.unless_cancelled(wait_for_no_child(server, OTHER_CHILD)).await?;
        load.cx.check()?;
        (load.touching)(LoadMethod::Restart)?;
        step(load.cx, "about to touch").await;
        places.replace_all(&new, &aof, &aside, load.cx).await
    };
    if let Err(e) = prepared.await {
        // It still holds the old data, and makes it durable again.
        load.put_back.settle(server, Held::Unknown).await.context("after a load that failed")?;
        return Err(e);
    }
    step(load.cx, "restarting").await;
    let before = info.get("run_id").unwrap_or_default().to_owned();
    // It hangs up instead of answering; whether it went is seen by who answers afterwards.
    let asked = server.ask::<()>(&["SHUTDOWN", "NOSAVE"]).await;
    if let (Err(e), true) = (&asked, still_there(load.settings, &before).await) {
        load.put_back.settle(server, Held::Unknown).await.context("after a load that failed")?;
        return Err(Error::new(Kind::Unavailable, format!("the server did not shut down: {}", e.chain())));
    }
    step(load.cx, "waiting until the server is back").await;
    let server = bring_back(load.settings, &before)
        .await
        .with_context(|| format!("start it by hand; what it held before is in {}", aside.display()))?;
    step(load.cx, "making durable").await;
    load.put_back.settle(&server, Held::WhatItsFilesHold).await
}

/// Starts the server, if that is the agent's part, and waits until another run of it than `before` has loaded its data. The command may take its time, or
/// be the server itself: it has failed when it says so, or when the server is not back.
pub(super) async fn bring_back(settings: &Settings, before: &str) -> Result<Server> {
    let command = match (settings.redis_restarted_by, &settings.redis_restart_command) {
        (Some(RestartedBy::Command), Some(program)) => {
            Some(Tool::starting_a_server(&program.display().to_string()).start().context("start the server")?)
        }
        _ => None,
    };
    let failed = async {
        match command {
            Some(command) => match command.finish().await {
                Ok(()) => std::future::pending().await,
                Err(e) => e.context("start the server (--redis-restart-command)"),
            },
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        e = failed => Err(e),
        back = wait_until_back(settings, before) => back,
    }
}

async fn still_there(settings: &Settings, run_id: &str) -> bool {
    match Server::connect(settings).await {
        Ok(server) => server.info().await.is_ok_and(|info| info.is("run_id", run_id)),
        Err(_) => false,
    }
}

/// Waits until another run of the server has loaded its data.
pub(super) async fn wait_until_back(settings: &Settings, before: &str) -> Result<Server> {
    let mut since = Instant::now();
    let mut moved = String::new();
    loop {
        let status = match Server::connect(settings).await {
            Ok(server) => match server.info().await {
                Ok(info) if info.is("run_id", before) => "it has not shut down yet".to_owned(),
                Ok(info) if info.is("loading", "0") => return Ok(server),
                Ok(info) => {
                    let now = info.get("loading_loaded_bytes").unwrap_or_default().to_owned();
                    if now != moved {
                        since = Instant::now();
                        moved.clone_from(&now);
                    }
                    format!("it is loading, {now} bytes so far")
                }
                Err(e) => e.chain(),
            },
            Err(e) => e.chain(),
        };
        if since.elapsed() > BACK {
            return Err(Error::new(
                Kind::Timeout,
                format!("the server was shut down to load its data and is not back after {BACK:?}: {status}"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

//! What was loaded must survive a kill: the AOF is rewritten, or an RDB is saved.

use std::time::Duration;

use keepsake_core::error::{Error, Kind, Result};
use tokio::time::Instant;

use super::super::connection::Server;

/// A server begins what it has put off within a tenth of a second of its last child's end, unless it does not want to: from Redis 7.0 on it waits minutes,
/// later an hour, after three rewrites that failed.
const PUT_OFF: Duration = Duration::from_secs(3);

/// No save takes so long; one that stands still must not be waited for without end.
const LONGEST: Duration = Duration::from_hours(1);
/// How an AOF is written anew.
const REWRITE: &str = "BGREWRITEAOF";
/// What is told when it did.
const STATUS: [&str; 5] = [
    "rdb_bgsave_in_progress",
    "rdb_current_bgsave_time_sec",
    "aof_rewrite_in_progress",
    "aof_current_rewrite_time_sec",
    "aof_rewrite_scheduled",
];

/// Since when the server holds what is to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Held {
    /// Nobody knows: a rewrite that is going on may write what was there before.
    Unknown,
    /// It has just synchronized with a master. Before that it ended its rewrite (`stopAppendOnly` in Redis' `replication.c`, from 5.0 on), and when it had loaded
    /// it began one: that one counts.
    JustSynchronized,
    /// It has just started on files that hold it, the RDB and the AOF.
    WhatItsFilesHold,
}

/// Waits until what the server holds would survive a kill right now.
///
/// # Errors
/// `Unavailable` when the server cannot write it.
pub(in super::super) async fn ensure(server: &Server, held: Held) -> Result<()> {
    let begin = Instant::now();
    let mut asked = None;
    match held {
        Held::Unknown => {}
        Held::WhatItsFilesHold => return Ok(()),
        Held::JustSynchronized => {
            let info = server.info().await?;
            let rewrites = info.is("aof_enabled", "1") && info.is("aof_rewrite_in_progress", "1");
            asked = rewrites.then_some(Asked { command: REWRITE, begun: true, at: begin });
        }
    }
    loop {
        let info = server.info().await?;
        let runs = |name: &str| info.is(name, "1");
        if begin.elapsed() >= LONGEST {
            let status: Vec<String> =
                STATUS.iter().map(|name| format!("{name} {}", info.get(name).unwrap_or("not told"))).collect();
            let why = format!("not done after {LONGEST:?}: {}", status.join(", "));
            return Err(Error::new(Kind::Timeout, would_be_lost("BGSAVE or BGREWRITEAOF", &why)));
        }
        if runs("aof_rewrite_in_progress") || runs("rdb_bgsave_in_progress") {
            if let Some(Asked { begun, .. }) = &mut asked {
                *begun |= runs("aof_rewrite_in_progress");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let (command, status) = if info.is("aof_enabled", "1") {
            (REWRITE, "aof_last_bgrewrite_status")
        } else {
            ("BGSAVE", "rdb_last_bgsave_status")
        };
        // Of the other command nothing is known: somebody has switched the AOF on or off meanwhile.
        let Some(Asked { begun, at, .. }) = asked.as_ref().filter(|asked| asked.command == command) else {
            // Asked for on purpose, though a server with an AOF rewrites it by itself after such a load: its status may be that of an older one, and one that it
            // has scheduled may be put off for long. Asked by a person it does it at once.
            match server.ask::<String>(&[command]).await {
                Ok(answer) => asked = Some(Asked { command, begun: answer.contains("started"), at: Instant::now() }),
                Err(e) if e.chain().contains("in progress") => {}
                // It could not even begin; what stopped it stands in its log.
                Err(e) if e.kind() == Kind::Internal => {
                    return Err(Error::caused(Kind::Unavailable, would_be_lost(command, "it does not begin"), e));
                }
                Err(e) => return Err(e),
            }
            continue;
        };
        let scheduled = command == REWRITE && runs("aof_rewrite_scheduled");
        match (info.is(status, "ok"), scheduled) {
            (true, false) => return Ok(()),
            // After one that failed it schedules another by itself: what counts is the one that was asked for.
            (false, _) if *begun || !scheduled || at.elapsed() >= PUT_OFF => {
                let why = format!("{status} is {:?}", info.get(status));
                return Err(Error::new(Kind::Unavailable, would_be_lost(command, &why)));
            }
            (true | false, _) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn would_be_lost(command: &str, why: &str) -> String {
    format!(
        "the data is loaded, but a crash now would lose it ({command}: {why}): make room on the server's disk and run {command}"
    )
}

/// The save or rewrite that counts: the one that was asked for.
struct Asked {
    command: &'static str,
    /// Whether it has certainly begun, and was not put off behind another child.
    begun: bool,
    at: Instant,
}
